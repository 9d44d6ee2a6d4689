//! The MQTT transport against a real mosquitto, which the tests start and kill.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use emitter_core::event::Operation;
use emitter_core::retry::Backoff;
use emitter_core::topic::{ModelTopic, Topics};
use emitter_core::transport::mqtt::{ClientId, MqttConfig, MqttTransport, MqttVersion, Overflow};
use emitter_core::transport::{
    Ack, Confirmation, Delivery, Message, Properties, PublishError, QoS, Transport, TransportStatus,
};
use emitter_tests::servers::Mosquitto;
use tokio::time::{interval, sleep, timeout};

mod obstacles;

use obstacles::{BrittleWay, Do, LongWay, PAUSE, Packet, ScriptedBroker};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// A broker that has a port and does not run.
fn absent() -> Mosquitto {
    let mut broker = Mosquitto::start();
    broker.stop();
    broker
}

fn config_for(broker: &Mosquitto) -> MqttConfig {
    quick_config(broker.port())
}

fn connect(broker: &Mosquitto, client_id: &str) -> MqttTransport {
    start(config_for(broker), client_id)
}

/// Settings for a broker on this port, with quick attempts to reconnect.
fn quick_config(port: u16) -> MqttConfig {
    let reconnect = Backoff {
        base: Duration::from_millis(50),
        cap: Duration::from_millis(200),
        jitter: Duration::from_millis(50),
    };
    MqttConfig::new(&format!("mqtt://127.0.0.1:{port}"))
        .and_then(|config| config.reconnect(reconnect))
        .expect("valid settings")
}

fn start(config: MqttConfig, client_id: &str) -> MqttTransport {
    MqttTransport::start(config, ClientId::new(client_id).expect("a valid client id"))
}

fn model(name: &str) -> ModelTopic {
    ModelTopic::new(name).expect("a valid name")
}

/// A message of the model `name`, whose payload is the number.
fn message(name: &str, number: usize, qos: QoS) -> Message {
    let topic = Topics::default().topic(&model(name), Operation::Create);
    Message { qos, ..Message::new(topic, number.to_string()) }
}

fn publish(transport: &MqttTransport, number: usize) -> Confirmation {
    transport.publish(message("user", number, QoS::AtLeastOnce)).expect("there is room")
}

/// Subscribes to a model and waits until the broker has confirmed it.
async fn subscribe(transport: &MqttTransport, name: &str) {
    let wanted = transport.status().subscriptions + 1;
    transport.subscribe(Topics::default().model_filter(&model(name)));
    wait_until(transport, |status| status.subscriptions == wanted).await;
}

async fn wait_until(transport: &MqttTransport, condition: impl Fn(&TransportStatus) -> bool) {
    let begun = Instant::now();
    while !condition(&transport.status()) {
        assert!(begun.elapsed() < LONG, "it never came to that: {:?}", transport.status());
        sleep(Duration::from_millis(5)).await;
    }
}

/// The next delivery's number and its acknowledgement.
async fn receive(transport: &MqttTransport) -> (usize, Ack) {
    let delivery = timeout(LONG, transport.next()).await.expect("in time").expect("not closed");
    (number(&delivery), delivery.ack)
}

fn number(delivery: &Delivery) -> usize {
    let text = std::str::from_utf8(&delivery.payload).expect("it is one of ours");
    text.parse().expect("it is one of ours")
}

/// Receives and acknowledges until every number below `count` was there. Returns them in the order
/// of their first arrival, and how many came again.
async fn receive_all(transport: &MqttTransport, count: usize) -> (Vec<usize>, usize) {
    let mut seen = HashSet::new();
    let mut first_arrivals = Vec::new();
    let mut again = 0;
    while first_arrivals.len() < count {
        let (number, ack) = receive(transport).await;
        ack.done();
        if seen.insert(number) {
            first_arrivals.push(number);
        } else {
            again += 1;
        }
    }
    (first_arrivals, again)
}

async fn confirm_all(confirmations: Vec<Confirmation>) {
    for (number, confirmation) in confirmations.into_iter().enumerate() {
        let outcome = timeout(LONG, confirmation).await;
        let outcome = outcome.unwrap_or_else(|_| panic!("{number} was not confirmed in time"));
        outcome.unwrap_or_else(|error| panic!("{number} was not confirmed: {error}"));
    }
}

async fn close(transport: MqttTransport) {
    let left = transport.close(Duration::from_secs(5)).await;
    assert_eq!(left.messages, 0);
    assert!(transport.next().await.is_none());
}

async fn check_round_trip(version: MqttVersion, qos: QoS) {
    let broker = Mosquitto::start();
    let transport = start(config_for(&broker).protocol(version), "round-trip");
    subscribe(&transport, "user").await;
    for number in 0..10 {
        let accepted = transport.publish(message("user", number, qos)).expect("there is room");
        let confirmed = timeout(LONG, accepted).await.expect("in time").expect("confirmed");
        assert!(confirmed.had_subscribers);
        let delivery = timeout(LONG, transport.next()).await.expect("in time").expect("open");
        assert_eq!(delivery.topic, "prisma/events/user/create");
        assert_eq!(self::number(&delivery), number);
        delivery.ack.done();
    }
    close(transport).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn round_trip_mqtt_5() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        check_round_trip(MqttVersion::V5, qos).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn round_trip_mqtt_3_1_1() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        check_round_trip(MqttVersion::V311, qos).await;
    }
}

async fn check_many(version: MqttVersion) {
    const MESSAGES: usize = 10_000;
    let broker = Mosquitto::start();
    let transport = start(config_for(&broker).protocol(version), "many");
    subscribe(&transport, "user").await;
    let begun = Instant::now();
    let confirmations = (0..MESSAGES).map(|number| publish(&transport, number)).collect();
    let (received, ()) = tokio::join!(receive_all(&transport, MESSAGES), confirm_all(confirmations));
    println!("{version:?}: {MESSAGES} confirmed and received in {:?}", begun.elapsed());
    assert!(received.0.iter().copied().eq(0..MESSAGES), "in order");
    assert_eq!(received.1, 0, "duplicates without a disconnection");
    close(transport).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_are_confirmed_and_arrive_in_order() {
    check_many(MqttVersion::V5).await;
    check_many(MqttVersion::V311).await;
}

/// Two processes with one client id throw each other off, which the status says by its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_id_that_is_used_twice_is_named() {
    let broker = Mosquitto::start();
    let (one, other) = (connect(&broker, "twice"), connect(&broker, "twice"));
    let named = |transport: &MqttTransport| {
        transport.status().publisher.last_error.is_some_and(|error| error.contains("client id twice"))
    };
    let begun = Instant::now();
    while !named(&one) && !named(&other) {
        assert!(begun.elapsed() < LONG, "nobody said so: {:?}", one.status());
        sleep(Duration::from_millis(5)).await;
    }
}

/// A broker of MQTT 3.1.1 has no other way to refuse a publish than to hang up, which the status says, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_up_on_what_it_refuses_is_suspected() {
    let broker = ScriptedBroker::start(|packet| match packet.kind() {
        Packet::PUBLISH => vec![Do::HangUp],
        _ => vec![],
    });
    let transport = start(broker.config(), "suspicious");
    let _unconfirmed = publish(&transport, 0);
    wait_until(&transport, |status| {
        status.publisher.last_error.as_ref().is_some_and(|error| error.contains("what it refuses"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_subscribed_is_told_with_mqtt_5() {
    let broker = Mosquitto::start();
    let transport = connect(&broker, "lonely");
    let confirmed = timeout(LONG, publish(&transport, 0)).await.expect("in time");
    assert!(!confirmed.expect("confirmed").had_subscribers);
    assert_eq!(transport.status().subscriber.connections, 0, "it has nothing to connect for");
    close(transport).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_for_a_broker_that_comes_late() {
    let mut broker = absent();
    let transport = connect(&broker, "early");
    transport.subscribe(Topics::default().model_filter(&model("user")));
    sleep(Duration::from_millis(300)).await;
    let status = transport.status();
    assert!(!status.publisher.connected && status.publisher.last_error.is_some(), "{status:?}");

    broker.restart();
    wait_until(&transport, |status| status.subscriptions == 1).await;
    broker.kill();
    wait_until(&transport, |status| !status.publisher.connected).await;
    let confirmations: Vec<_> = (0..100).map(|number| publish(&transport, number)).collect();
    assert_eq!(transport.status().unconfirmed, 100);

    // The publisher may be back first, and this broker remembers no subscription.
    let other = connect(&broker, "other");
    broker.restart();
    confirm_all(confirmations).await;
    assert_eq!(transport.status().unconfirmed, 0);
    close(other).await;
    close(transport).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_messages_arrive_in_order_when_the_broker_comes() {
    let mut broker = absent();
    let receiver = connect(&broker, "receiver");
    receiver.subscribe(Topics::default().model_filter(&model("user")));
    let sender = connect(&broker, "sender");
    let confirmations = (0..500).map(|number| publish(&sender, number)).collect();
    sleep(Duration::from_millis(100)).await;
    // The subscriber must be there first, for the sender's connection is not held back for it.
    drop(sender);
    confirm_closed(confirmations).await;

    broker.restart();
    wait_until(&receiver, |status| status.subscriptions == 1).await;
    let sender = connect(&broker, "sender");
    let confirmations = (0..500).map(|number| publish(&sender, number)).collect();
    let ((received, _), ()) = tokio::join!(receive_all(&receiver, 500), confirm_all(confirmations));
    assert!(received.into_iter().eq(0..500));
    close(sender).await;
    close(receiver).await;
}

/// A transport that is dropped settles what it left.
async fn confirm_closed(confirmations: Vec<Confirmation>) {
    for confirmation in confirmations {
        let outcome = timeout(LONG, confirmation).await.expect("in time");
        assert_eq!(outcome, Err(PublishError::Closed));
    }
}

/// How the broker goes down in the middle of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restart {
    /// In good order: it keeps sessions and messages.
    Terminated,
    /// With `kill -9`: it forgets everything.
    Killed,
}

/// 2,000 messages at 400/s, and a restart of the broker after 2 s.
async fn check_restart(version: MqttVersion, restart: Restart) {
    const MESSAGES: usize = 2_000;
    let mut broker = Mosquitto::builder().persistence(restart == Restart::Terminated).start();
    let config = config_for(&broker).protocol(version);
    let receiver = start(config.clone(), "receiver");
    let sender = start(config, "sender");
    subscribe(&receiver, "user").await;

    let stream = async {
        let mut clock = interval(Duration::from_micros(2_500));
        let mut confirmations = Vec::new();
        for number in 0..MESSAGES {
            clock.tick().await;
            confirmations.push(publish(&sender, number));
        }
        confirmations
    };
    let restarting = async {
        sleep(Duration::from_secs(2)).await;
        match restart {
            Restart::Terminated => broker.stop(),
            Restart::Killed => broker.kill(),
        }
        sleep(Duration::from_millis(700)).await;
        broker.restart();
    };
    let ((received, again), confirmations, ()) =
        tokio::join!(receive_until_last(&receiver, MESSAGES), stream, restarting);
    confirm_all(confirmations).await;
    assert!(sender.status().publisher.connections >= 2);
    println!("{version:?} {restart:?}: {} of {MESSAGES} arrived, {again} twice", received.len());
    assert!(received.is_sorted(), "first arrivals are in order");
    if restart == Restart::Terminated {
        assert_eq!(received.len(), MESSAGES);
    }
    close(sender).await;
    close(receiver).await;
}

/// Receives until the last number was there. Returns the numbers in order of first arrival, and
/// how many came again.
async fn receive_until_last(transport: &MqttTransport, count: usize) -> (Vec<usize>, usize) {
    let mut seen = HashSet::new();
    let mut first_arrivals = Vec::new();
    let mut again = 0;
    while !seen.contains(&(count - 1)) {
        let (number, ack) = receive(transport).await;
        ack.done();
        if seen.insert(number) {
            first_arrivals.push(number);
        } else {
            again += 1;
        }
    }
    (first_arrivals, again)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_broker_costs_nothing_mqtt_5() {
    check_restart(MqttVersion::V5, Restart::Terminated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_broker_costs_nothing_mqtt_3_1_1() {
    check_restart(MqttVersion::V311, Restart::Terminated).await;
}

/// What the broker confirmed and forgot is lost here; to notice that is the work of gap detection.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_costs_no_confirmation_and_no_order() {
    tokio::join!(
        check_restart(MqttVersion::V5, Restart::Killed),
        check_restart(MqttVersion::V311, Restart::Killed),
    );
}

async fn check_brittle_way(version: MqttVersion, qos: QoS) {
    let broker = Mosquitto::start();
    check_way(&BrittleWay::to(broker.port()), version, qos, 3_000).await;
}

async fn check_way(way: &BrittleWay, version: MqttVersion, qos: QoS, messages: usize) {
    let config = way.config().protocol(version).window(20).expect("valid");
    let receiver = start(config.clone(), "receiver");
    let sender = start(config, "sender");
    receiver.subscribe(Topics::default().model_filter(&model("user")));
    wait_until(&receiver, |status| status.subscriptions == 1).await;
    let accept = |number| sender.publish(message("user", number, qos)).expect("there is room");
    let confirmations = (0..messages).map(accept).collect();
    let ((received, again), ()) = tokio::join!(receive_all(&receiver, messages), confirm_all(confirmations));
    let [sent, heard] = [sender.status().publisher, receiver.status().subscriber];
    println!(
        "{version:?} {qos:?}: {} and {} connections, {again} of {messages} came twice",
        sent.connections, heard.connections
    );
    assert!(sent.connections > 2 && heard.connections > 2);
    assert!(received.into_iter().eq(0..messages), "first arrivals are in order");
    close(sender).await;
    close(receiver).await;
}

/// No message may be taken for one that ends connections, however early these break.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_at_any_byte_cost_nothing() {
    let full = std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full");
    let breaks = if full { 200 } else { 30 };
    for version in [MqttVersion::V5, MqttVersion::V311] {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut dice = fastrand::Rng::with_seed(seed);
        let lengths: Vec<usize> = (0..breaks).map(|_| dice.usize(1..6_000)).collect();
        let broker = Mosquitto::start();
        let way = BrittleWay::with(broker.port(), lengths.into_iter());
        check_way(&way, version, QoS::AtLeastOnce, breaks * 60).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_in_the_middle_of_packets_cost_nothing() {
    tokio::join!(
        check_brittle_way(MqttVersion::V5, QoS::AtLeastOnce),
        check_brittle_way(MqttVersion::V311, QoS::AtLeastOnce),
        check_brittle_way(MqttVersion::V5, QoS::ExactlyOnce),
        check_brittle_way(MqttVersion::V311, QoS::ExactlyOnce),
    );
}

async fn check_frozen_broker(version: MqttVersion) {
    let broker = Mosquitto::start();
    let config = config_for(&broker).protocol(version).keep_alive(Duration::from_secs(5));
    let transport = start(config.expect("valid"), "patient");
    wait_until(&transport, |status| status.publisher.connected).await;
    broker.freeze();
    // More than fits into the sockets' buffers.
    let large = |number| Message {
        payload: Bytes::from(vec![b'1'; 500_000]),
        ..message("user", number, QoS::AtLeastOnce)
    };
    let confirmations = (0..50).map(|number| transport.publish(large(number)).expect("room")).collect();
    let begun = Instant::now();
    wait_until(&transport, |status| !status.publisher.connected).await;
    println!("{version:?}: a frozen broker was noticed after {:?}", begun.elapsed());
    broker.thaw();
    confirm_all(confirmations).await;
    close(transport).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_broker_is_noticed() {
    tokio::join!(check_frozen_broker(MqttVersion::V5), check_frozen_broker(MqttVersion::V311));
}

async fn check_thawed_broker(version: MqttVersion, frozen: Duration) {
    let broker = Mosquitto::start();
    let config = config_for(&broker).protocol(version).keep_alive(Duration::from_secs(5)).expect("valid");
    let receiver = start(config.clone(), "receiver");
    let sender = start(config, "sender");
    subscribe(&receiver, "user").await;
    wait_until(&sender, |status| status.publisher.connected).await;
    let mut confirmations = Vec::new();
    let mut ticks = interval(Duration::from_millis(5));
    let begun = Instant::now();
    while begun.elapsed() < frozen + Duration::from_secs(2) {
        match confirmations.len() {
            200 => broker.freeze(),
            _ if begun.elapsed() > frozen + Duration::from_secs(1) => broker.thaw(),
            _ => {}
        }
        confirmations.push(publish(&sender, confirmations.len()));
        ticks.tick().await;
    }
    let count = confirmations.len();
    let ((received, again), ()) = tokio::join!(receive_all(&receiver, count), confirm_all(confirmations));
    println!("{version:?}: frozen for {frozen:?}, {again} of {count} came twice");
    assert!(received.into_iter().eq(0..count), "first arrivals are in order");
    close(sender).await;
    close(receiver).await;
}

/// Who publishes and who hears both give their connections up, and new ones, until the broker answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_frozen_costs_nothing() {
    let full = std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full");
    let frozen = Duration::from_secs(if full { 60 } else { 15 });
    tokio::join!(
        check_thawed_broker(MqttVersion::V5, frozen),
        check_thawed_broker(MqttVersion::V311, frozen)
    );
}

/// Beside what a window of 100 could do at best, by the round trip of single messages in the same run.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_way_is_kept_full() {
    for version in [MqttVersion::V5, MqttVersion::V311] {
        // Mosquitto by itself takes 20 at a time from a client of MQTT 5.
        let broker = Mosquitto::builder().line("max_inflight_messages 100").start();
        let way = LongWay::to(broker.port(), Duration::from_micros(12_500));
        let transport = start(way.config().protocol(version), "far");
        wait_until(&transport, |status| status.publisher.connected).await;
        let mut round_trips = Vec::new();
        for number in 0..21 {
            let begun = Instant::now();
            publish(&transport, number).await.expect("confirmed");
            round_trips.push(begun.elapsed());
        }
        round_trips.sort_unstable();
        let round_trip = round_trips[10];
        assert!(round_trip >= Duration::from_millis(25), "{round_trip:?}");
        let begun = Instant::now();
        confirm_all((0..5_000).map(|number| publish(&transport, number)).collect()).await;
        let at_best = 50 * round_trip;
        let share = at_best.as_secs_f64() / begun.elapsed().as_secs_f64();
        println!("{version:?}: {share:.2} of what a window of 100 allows with {round_trip:?}");
        // A machine that does something else at the same time shall not fail for it; without a window it is 0.01.
        let full = std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full");
        assert!(
            share >= if full { 0.6 } else { 0.3 },
            "{share:.2} of what a window of 100 allows with {round_trip:?}"
        );
        close(transport).await;
    }
}

/// A member of the group, subscribed.
async fn member(transport: &MqttTransport) -> Arc<dyn Transport> {
    let member = transport.group("shop:billing", "billing").expect("MQTT has groups");
    member.subscribe(Topics::default().model_filter(&model("user")));
    let begun = Instant::now();
    while member.status().subscriptions == 0 {
        assert!(begun.elapsed() < LONG, "{:?}", member.status());
        sleep(Duration::from_millis(5)).await;
    }
    member
}

/// What a member is given within a while of quiet; acknowledged or not.
async fn share_of(member: &dyn Transport, acknowledge: bool) -> Vec<usize> {
    let mut share = Vec::new();
    while let Ok(Some(delivery)) = timeout(Duration::from_millis(500), member.next()).await {
        share.push(number(&delivery));
        if acknowledge {
            delivery.ack.done();
        }
    }
    share
}

async fn check_group(version: MqttVersion) {
    const MESSAGES: usize = 300;
    let broker = Mosquitto::start();
    let config = || config_for(&broker).protocol(version).receive_maximum(50).expect("valid");
    let [a, b] = ["a", "b"].map(|name| start(config(), name));
    let [one, other] = [member(&a).await, member(&b).await];
    subscribe(&a, "user").await;
    confirm_all((0..MESSAGES).map(|number| publish(&a, number)).collect()).await;
    let (share, rest, whole) =
        tokio::join!(share_of(&*one, true), share_of(&*other, true), receive_all(&a, MESSAGES));
    println!("{version:?}: {} and {} of {MESSAGES}", share.len(), rest.len());
    assert!(share.len() > 50 && rest.len() > 50, "both work");
    let mut all = [share, rest].concat();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..MESSAGES), "each message went to one of them");
    assert!(whole.0.into_iter().eq(0..MESSAGES), "and to who asked for all");

    // What a member had not acknowledged when it went waits for it, or goes to another.
    confirm_all((0..20).map(|number| publish(&a, number)).collect()).await;
    let unacknowledged = share_of(&*one, false).await;
    assert!(!unacknowledged.is_empty());
    one.close(Duration::from_secs(5)).await;
    let one = member(&a).await;
    let (share, rest) = tokio::join!(share_of(&*one, true), share_of(&*other, true));
    let mut all = [share, rest].concat();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..20), "{version:?}");
    assert_eq!(one.publish(message("user", 1, QoS::AtLeastOnce)).err(), Some(PublishError::Closed));
    one.close(Duration::from_secs(5)).await;
    other.close(Duration::from_secs(5)).await;
    close(a).await;
    close(b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_shares_messages_and_loses_none() {
    tokio::join!(check_group(MqttVersion::V5), check_group(MqttVersion::V311));
}

async fn check_expiry(version: MqttVersion, expected: &[usize]) {
    let broker = Mosquitto::start();
    let sender = start(config_for(&broker).protocol(version), "sender");
    let receiver = start(config_for(&broker).protocol(version), "receiver");
    subscribe(&receiver, "user").await;
    close(receiver).await;
    let soon = Some(tokio::time::Instant::now() + Duration::from_secs(1));
    let of_the_moment = Message { expires: soon, ..message("user", 0, QoS::AtLeastOnce) };
    confirm_all(vec![sender.publish(of_the_moment).expect("room"), publish(&sender, 1)]).await;
    sleep(Duration::from_millis(2_500)).await;
    let too_late = sender.publish(Message { expires: soon, ..message("user", 2, QoS::AtLeastOnce) });
    assert_eq!(too_late.expect("room").await, Err(PublishError::Expired));
    let receiver = start(config_for(&broker).protocol(version), "receiver");
    subscribe(&receiver, "user").await;
    assert_eq!(receive_all(&receiver, expected.len()).await.0, expected);
    close(sender).await;
    close(receiver).await;
}

/// The broker knows expiry from MQTT 5 on; before, a message that it has taken stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_neither_sent_nor_kept() {
    tokio::join!(check_expiry(MqttVersion::V5, &[1]), check_expiry(MqttVersion::V311, &[0, 1]));
}

async fn check_redelivery(version: MqttVersion) {
    let broker = Mosquitto::start();
    let config = config_for(&broker).protocol(version);
    let sender = connect(&broker, "sender");
    let receiver = start(config.clone(), "receiver");
    subscribe(&receiver, "user").await;
    confirm_all((0..10).map(|number| publish(&sender, number)).collect()).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(receive(&receiver).await);
    }
    // 0 to 3 are done, in any order; 4 is not, so 5 must wait for it.
    for number in [3, 5, 1, 0, 2] {
        let place = held.iter().position(|(n, _)| *n == number).expect("it came");
        held.remove(place).1.done();
    }
    receiver.close(Duration::from_secs(5)).await;

    let receiver = start(config, "receiver");
    receiver.subscribe(Topics::default().model_filter(&model("user")));
    let mut again = Vec::new();
    for _ in 4..10 {
        let (number, ack) = receive(&receiver).await;
        ack.done();
        again.push(number);
    }
    assert_eq!(again, [4, 5, 6, 7, 8, 9], "{version:?}");
    // Too late and from another connection: they acknowledge nothing.
    held.into_iter().for_each(|(_, ack)| ack.done());
    close(receiver).await;
    close(sender).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unacknowledged_deliveries_come_again() {
    check_redelivery(MqttVersion::V5).await;
    check_redelivery(MqttVersion::V311).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unsubscribing_ends_the_deliveries() {
    let broker = Mosquitto::start();
    let transport = connect(&broker, "fickle");
    subscribe(&transport, "user").await;
    subscribe(&transport, "order").await;
    transport.unsubscribe(&Topics::default().model_filter(&model("user")));
    wait_until(&transport, |status| status.subscriptions == 1).await;
    // The UNSUBSCRIBE is on its way on another connection than the PUBLISH.
    sleep(Duration::from_millis(200)).await;
    confirm_all(vec![publish(&transport, 1)]).await;
    let accepted = transport.publish(message("order", 2, QoS::AtLeastOnce)).expect("room");
    confirm_all(vec![accepted]).await;
    let (number, ack) = receive(&transport).await;
    assert_eq!(number, 2);
    ack.done();
    close(transport).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_filters_match_comes_once() {
    for version in [MqttVersion::V5, MqttVersion::V311] {
        let broker = Mosquitto::start();
        let transport = start(config_for(&broker).protocol(version), "twofold");
        let topics = Topics::default();
        let event = ModelTopic::of_event("projects/status_changed").expect("a valid name");
        let (narrow, wide) = (topics.model_filter(&event), topics.model_filter(&model("projects")));
        let change = |number: usize| {
            let topic = topics.topic(&event, Operation::Create);
            transport.publish(Message::new(topic, number.to_string())).expect("there is room")
        };
        transport.subscribe(narrow.clone());
        wait_until(&transport, |status| status.subscriptions == 1).await;
        for (number, (added, taken)) in [(&wide, &narrow), (&narrow, &wide)].into_iter().enumerate() {
            transport.subscribe(added.clone());
            wait_until(&transport, |status| status.subscriptions == 2 && status.unsubscribing == 0).await;
            confirm_all(vec![change(2 * number)]).await;
            transport.unsubscribe(taken);
            wait_until(&transport, |status| status.subscriptions == 1 && status.unsubscribing == 0).await;
            confirm_all(vec![change(2 * number + 1)]).await;
        }
        for expected in 0..4 {
            let (number, ack) = receive(&transport).await;
            assert_eq!(number, expected, "each once, in order");
            ack.done();
        }
        close(transport).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_subscription_shows_and_is_tried_again() {
    let mut refusals = 3;
    let broker = ScriptedBroker::start(move |packet| match packet.kind() {
        Packet::SUBSCRIBE if refusals > 0 => {
            refusals -= 1;
            vec![packet.subscribed(0x87)]
        }
        Packet::SUBSCRIBE => vec![packet.subscribed(0x01)],
        _ => vec![],
    });
    let transport = start(broker.config(), "refused");
    let filter = Topics::default().model_filter(&model("user"));
    transport.subscribe(filter.clone());
    wait_until(&transport, |status| !status.refused_subscriptions.is_empty()).await;
    let refused = [(filter.to_string(), "NotAuthorized".to_owned())];
    assert_eq!(transport.status().refused_subscriptions, refused);
    wait_until(&transport, |status| status.subscriptions == 1).await;
    assert_eq!(transport.status().refused_subscriptions, []);
    assert_eq!(transport.status().subscriber.connections, 1, "it stayed connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_out_of_order_settle_the_right_messages() {
    // Answers five publishes at a time, the newest first, and refuses those whose number ends in 3.
    let mut unanswered: Vec<Packet> = Vec::new();
    let broker = ScriptedBroker::start(move |packet| {
        if packet.kind() != Packet::PUBLISH {
            return vec![];
        }
        unanswered.push(packet);
        if unanswered.len() < 5 {
            return vec![];
        }
        let answer = |packet: Packet| packet.acknowledged(if packet.ends_in(b'3') { 0x87 } else { 0 });
        unanswered.drain(..).rev().map(answer).collect()
    });
    // Ids run in a circle of ten, so they collide all the time.
    let config = broker.config().window(5).expect("valid");
    let transport = start(config, "reversed");
    let confirmations: Vec<_> = (0..1_000).map(|number| publish(&transport, number)).collect();
    for (number, confirmation) in confirmations.into_iter().enumerate() {
        let outcome = timeout(LONG, confirmation).await.expect("in time");
        assert_eq!(outcome.is_err(), number % 10 == 3, "{number}: {outcome:?}");
    }
    close(transport).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_holds_up_but_mixes_up_nothing() {
    // The first one is answered a good while after the eighth, as "nobody is subscribed".
    let mut first = None;
    let mut count = 0;
    let broker = ScriptedBroker::start(move |packet| {
        if packet.kind() != Packet::PUBLISH {
            return vec![];
        }
        count += 1;
        let answer = packet.acknowledged(0);
        match count {
            1 => {
                first = Some(packet.acknowledged(0x10));
                vec![]
            }
            8 => [answer, Do::Pause].into_iter().chain(first.take()).collect(),
            _ => vec![answer],
        }
    });
    // With a circle of eight ids, the ninth has that of the first and must wait for it.
    let transport = start(broker.config().window(4).expect("valid"), "late");
    let confirmations: Vec<_> = (0..100).map(|number| publish(&transport, number)).collect();
    wait_until(&transport, |status| status.unconfirmed == 93).await;
    sleep(PAUSE / 3).await;
    assert_eq!(transport.status().unconfirmed, 93, "nothing was confirmed that was not answered");
    for (number, confirmation) in confirmations.into_iter().enumerate() {
        let outcome = timeout(LONG, confirmation).await.expect("in time").expect("confirmed");
        assert_eq!(outcome.had_subscribers, number != 0, "{number}");
    }
    assert_eq!(transport.status().publisher.connections, 1);
    close(transport).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_came_just_before_the_end_counts() {
    // Answers each tenth publish, and hangs up in the same breath; the others are never answered.
    let mut seen = 0;
    let broker = ScriptedBroker::start(move |packet| {
        if packet.kind() != Packet::PUBLISH {
            return vec![];
        }
        seen += 1;
        if seen % 10 == 0 { vec![packet.acknowledged(0), Do::HangUp] } else { vec![] }
    });
    let transport = start(broker.config().window(10).expect("valid"), "cut");
    let confirmations: Vec<_> = (0..12).map(|number| publish(&transport, number)).collect();
    wait_until(&transport, |status| status.unconfirmed < 12).await;
    let mut confirmations = confirmations.into_iter();
    let tenth = confirmations.nth(9).expect("there are 12");
    confirm_all(vec![tenth]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_publishes_harm_no_other() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let list = folder.path().join("acl");
    fs::write(&list, "topic readwrite prisma/events/order/#\n").expect("the list");
    let broker =
        Mosquitto::builder().max_queued_messages(1_000).line(format!("acl_file {}", list.display())).start();
    let transport = connect(&broker, "twice");
    let reason = "NotAuthorized".to_owned();
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        // At QoS 2 rumqttc loses a place in its window, 20 of them here, by each refusal.
        for number in 0..50 {
            let refused = transport.publish(message("user", number, qos)).expect("room");
            let refused = timeout(LONG, refused).await.expect("in time");
            assert_eq!(refused, Err(PublishError::Refused { reason: reason.clone() }), "{number}");
        }
        let allowed = transport.publish(message("order", 2, qos)).expect("room");
        confirm_all(vec![allowed]).await;
    }
    close(transport).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_ends_connections_is_given_up_alone() {
    // A broker that cannot bear the number 3, nor says so.
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let arrived = Arc::clone(&seen);
    let broker = ScriptedBroker::start(move |packet| {
        if packet.kind() != Packet::PUBLISH {
            return vec![];
        }
        if packet.ends_in(b'3') {
            return vec![Do::HangUp];
        }
        arrived.lock().expect("nobody panics").push(packet.last());
        vec![packet.acknowledged(0)]
    });
    let transport = start(broker.config().window(4).expect("valid"), "poisoned");
    let confirmations: Vec<_> = (0..8).map(|number| publish(&transport, number)).collect();
    for (number, confirmation) in confirmations.into_iter().enumerate() {
        let outcome = timeout(LONG, confirmation).await.expect("in time");
        match number {
            3 => assert_eq!(outcome, Err(PublishError::EndsConnections { times: 10 })),
            _ => assert!(outcome.is_ok(), "{number}: {outcome:?}"),
        }
    }
    let mut first_arrivals = Vec::new();
    for number in seen.lock().expect("nobody panics").drain(..) {
        if !first_arrivals.contains(&number) {
            first_arrivals.push(number);
        }
    }
    assert_eq!(first_arrivals, *b"0124567");
    close(transport).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_now_is_sent_again_and_nothing_before_it() {
    // 0x97 is "quota exceeded": the number 2 passes at its third attempt, the number 4 never.
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let arrived = Arc::clone(&seen);
    let broker = ScriptedBroker::start(move |packet| {
        if packet.kind() != Packet::PUBLISH {
            return vec![];
        }
        let mut arrived = arrived.lock().expect("nobody panics");
        arrived.push(packet.last());
        let times = arrived.iter().filter(|number| **number == packet.last()).count();
        let full = packet.ends_in(b'4') || packet.ends_in(b'2') && times < 3;
        vec![packet.acknowledged(if full { 0x97 } else { 0 })]
    });
    let transport = start(broker.config().window(1).expect("valid"), "quota");
    let confirmations: Vec<_> = (0..6).map(|number| publish(&transport, number)).collect();
    for (number, confirmation) in confirmations.into_iter().enumerate() {
        let outcome = timeout(LONG, confirmation).await.expect("in time");
        let refused = PublishError::Refused { reason: "QuotaExceeded".to_owned() };
        match number {
            4 => assert_eq!(outcome, Err(refused)),
            _ => assert!(outcome.is_ok(), "{number}: {outcome:?}"),
        }
    }
    assert_eq!(*seen.lock().expect("nobody panics"), *b"0122234445");
    assert_eq!(transport.status().publisher.connections, 1);
    close(transport).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_while_the_broker_is_away_makes_room() {
    let broker = absent();
    let transport = start(config_for(&broker).queue_messages(2).expect("valid"), "expiring");
    let soon = || Some(tokio::time::Instant::now() + Duration::from_millis(100));
    let expiring = || Message { expires: soon(), ..message("user", 0, QoS::AtLeastOnce) };
    let expired =
        [transport.publish(expiring()), transport.publish(expiring())].map(|taken| taken.expect("room"));
    assert!(transport.publish(message("user", 1, QoS::AtLeastOnce)).is_err(), "it is full");
    // It is told though nothing is published and there is no connection.
    for confirmation in expired {
        assert_eq!(timeout(LONG, confirmation).await.expect("in time"), Err(PublishError::Expired));
    }
    assert_eq!(transport.status().unconfirmed, 0);
    assert!(transport.publish(message("user", 2, QoS::AtLeastOnce)).is_ok());
    let _ = transport.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_attempt_to_connect_is_one_where_it_is_asked_for() {
    let broker = absent();
    let transport = start(config_for(&broker).max_retries(2).expect("valid"), "tired");
    let confirmation = publish(&transport, 0);
    assert_eq!(timeout(LONG, confirmation).await.expect("in time"), Err(PublishError::Closed));
    let refused = transport.publish(message("user", 1, QoS::AtLeastOnce));
    assert_eq!(refused.map(drop), Err(PublishError::Closed));
    assert!(transport.status().publisher.last_error.is_some());
    let _ = transport.close(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_or_displaces() {
    let broker = absent();
    let config = config_for(&broker).queue_messages(2).expect("valid");
    let transport = start(config.clone(), "full");
    let _held = [publish(&transport, 0), publish(&transport, 1)];
    let refused = transport.publish(message("user", 2, QoS::AtLeastOnce));
    assert!(matches!(refused, Err(PublishError::QueueFull { messages: 2, .. })), "{refused:?}");
    drop(transport);

    let transport = start(config.overflow(Overflow::DropOldest), "full");
    let oldest = publish(&transport, 0);
    let _held = [publish(&transport, 1), publish(&transport, 2)];
    assert_eq!(timeout(LONG, oldest).await.expect("in time"), Err(PublishError::Displaced));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_a_message_harms_no_other() {
    // The broker takes less than we would send.
    // With `max_queued_messages 0` mosquitto 2.0.11 hangs up after each publish that it refuses.
    let broker = Mosquitto::builder().line("max_packet_size 2000").start();
    let config = config_for(&broker).max_packet(10_000).expect("valid");
    let transport = start(config, "large");
    let sized =
        |bytes| Message { payload: Bytes::from(vec![b'1'; bytes]), ..message("user", 0, QoS::AtLeastOnce) };
    let refused = transport.publish(sized(10_000));
    assert!(matches!(refused, Err(PublishError::TooLarge { .. })), "{refused:?}");
    let small = transport.publish(sized(1_900)).expect("room");
    let large = transport.publish(sized(5_000)).expect("this side takes it");
    // What stands beside the payload counts, too: up to the limit a message passes, whatever it is.
    let expires = Some(tokio::time::Instant::now() + LONG);
    let properties = (0..40).fold(Properties::of_type("a/b"), |all, _| all.with("k", "v"));
    let full = Message { expires, properties, ..sized(0) };
    let payload = |size: usize| Bytes::from(vec![b'1'; size - full.size()]);
    let [full, over] = [1_982, 1_990].map(|size| Message { payload: payload(size), ..full.clone() });
    let [full, over] = [full, over].map(|message| transport.publish(message).expect("room"));
    let last = transport.publish(sized(1_900)).expect("room");
    confirm_all(vec![small, full, last]).await;
    let over = timeout(LONG, over).await.expect("in time");
    assert!(matches!(over, Err(PublishError::TooLarge { size: 1_990, .. })), "{over:?}");
    let large = timeout(LONG, large).await.expect("in time");
    assert!(matches!(large, Err(PublishError::TooLarge { limit: 1_982, .. })), "{large:?}");
    assert_eq!(transport.status().publisher.connections, 1);
    close(transport).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_while_the_broker_is_away_tells_what_is_unconfirmed() {
    let broker = absent();
    let transport = connect(&broker, "closing");
    let confirmations = (0..3).map(|number| publish(&transport, number)).collect();
    let begun = Instant::now();
    let left = transport.close(Duration::from_millis(300)).await;
    assert_eq!(left.messages, 3);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    confirm_closed(confirmations).await;
    let refused = transport.publish(message("user", 3, QoS::AtLeastOnce));
    assert!(matches!(refused, Err(PublishError::Closed)));
    assert!(transport.next().await.is_none());
    assert_eq!(transport.close(LONG).await.messages, 0, "closing twice is closing once");
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_sends_what_is_queued() {
    let broker = Mosquitto::start();
    let transport = connect(&broker, "closing");
    let confirmations = (0..1_000).map(|number| publish(&transport, number)).collect();
    assert_eq!(transport.close(LONG).await.messages, 0);
    confirm_all(confirmations).await;
}
