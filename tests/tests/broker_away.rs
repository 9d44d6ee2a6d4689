//! The broker goes away and comes back: nothing is lost, and nothing is handed over twice.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use emitter_core::{Emits, Emitter, Event, ListenerOptions};
use emitter_tests::eventually::eventually;
use emitter_tests::node::{Account, Node, Report, Setup, Writing};
use emitter_tests::servers::Mosquitto;
use serde::{Deserialize, Serialize};

const NODE: &str = env!("CARGO_BIN_EXE_node");

fn full() -> bool {
    std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full")
}

/// A broker that keeps sessions and their messages when it is stopped.
fn broker() -> Mosquitto {
    Mosquitto::builder().persistence(true).start()
}

fn start_connected(setup: &Setup) -> Node {
    let mut node = Node::start(NODE, setup);
    node.until("it is connected", |report| report.connected);
    node
}

/// The only account of a node that hears one other.
#[track_caller]
fn of_the_other<'r>(report: &'r Report, writer: &Report) -> &'r Account {
    let mut remote = report.heard.iter().filter(|account| account.remote);
    let (Some(account), None) = (remote.next(), remote.next()) else {
        panic!("not one other: {:?}", report.heard);
    };
    assert_eq!(account.incarnation, writer.incarnation);
    account
}

fn loses_nothing(mqtt_3: bool) {
    let (per_second, outage) = if full() { (200, 5) } else { (500, 2) };
    let writing = Writing { users: 1_000, updates: 1, per_second: Some(per_second) };
    let events = writing.events();
    // More than its 20 deliveries at a time, so that a slow listener keeps up.
    let mut broker = Mosquitto::builder().persistence(true).line("max_inflight_messages 0").start();
    let setup = |name: &str| Setup { mqtt_3, ..Setup::new(name, &broker.url()) };
    let mut writer = start_connected(&setup("writer"));
    // So slow that there is always something that it has not acknowledged: this comes again after the
    // outage, and must not reach the listener then.
    let slow = Setup { remote_only: true, listener_takes_ms: 80, ..setup("receiver") };
    let mut receiver = start_connected(&slow);

    writer.write(writing);
    writer.until("a quarter is written", |report| report.written >= events / 4);
    broker.stop();
    thread::sleep(Duration::from_secs(outage));
    let away = writer.until("writing goes on, and local listeners hear of it", |report| {
        report.heard_locally() > events / 4 + 100
    });
    assert!(!away.connected && away.unconfirmed > 100 && away.written < events, "{away:?}");
    broker.restart();

    writer.until("all is published", |report| report.counted.published == events);
    receiver.until("it has heard all", |report| report.heard_remotely() >= events);
    let (wrote, received) = (writer.shutdown(), receiver.shutdown());
    println!("at the end of the outage: {} written, {} unconfirmed", away.written, away.unconfirmed);
    println!("{:?}\n{:?}\n{:?}", wrote.counted, received.heard, received.counted);
    assert_eq!((wrote.left_undone, received.left_undone), (0, 0));
    assert_eq!(wrote.heard_locally(), events);
    let lost = wrote.counted.publish_failed + wrote.counted.publish_refused;
    assert_eq!((lost, wrote.counted.published_to_nobody), (0, 0));

    let account = of_the_other(&received, &wrote);
    assert_eq!((account.creates, account.updates), (events / 2, events / 2));
    assert_eq!((account.out_of_order, account.again), (0, 0));
    assert!(received.counted.duplicates > 0, "nothing came twice, so this has shown less than it should");
    assert_eq!(received.counted.received, events + received.counted.duplicates);
}

#[test]
fn an_outage_loses_nothing() {
    loses_nothing(false);
}

#[test]
fn an_outage_loses_nothing_over_mqtt_3() {
    loses_nothing(true);
}

/// What was on the wire is lost with the broker, and all of it goes out again, in its old order.
#[test]
fn a_broker_that_dies_with_a_full_window_loses_nothing() {
    let mut broker = broker();
    let setup = |name: &str| Setup::new(name, &broker.url());
    let mut receiver = start_connected(&Setup { remote_only: true, ..setup("receiver") });
    let mut writer = start_connected(&setup("writer"));
    // An orderly end saves the receiver's session, which the power cut will not.
    broker.restart();
    for node in [&mut writer, &mut receiver] {
        node.until("it is connected again", |report| report.connected);
    }

    broker.freeze();
    let writing = Writing { users: 50, updates: 19, per_second: None };
    let events = writing.events();
    writer.write(writing);
    writer.until("it waits for all confirmations", |report| report.unconfirmed as u64 == events);
    broker.kill();
    broker.restart();

    receiver.until("it has heard all", |report| report.heard_remotely() >= events);
    writer.until("all is confirmed", |report| report.unconfirmed == 0);
    let (wrote, received) = (writer.shutdown(), receiver.shutdown());
    assert_eq!((wrote.counted.published, wrote.counted.published_to_nobody), (events, 0));
    let account = of_the_other(&received, &wrote);
    assert_eq!((account.creates, account.updates), (50, 950));
    assert_eq!((account.out_of_order, account.again), (0, 0));
}

#[test]
fn a_broker_that_is_away_at_the_start_misses_nothing() {
    let mut broker = broker();
    let setup = |name: &str| Setup::new(name, &broker.url());
    // The receiver's session is made in an earlier life.
    let earlier = start_connected(&setup("receiver")).shutdown();
    assert_eq!(earlier.heard, []);
    let (writer, receiver) = (setup("writer"), setup("receiver"));
    broker.stop();

    let (mut writer, mut receiver) = (Node::start(NODE, &writer), Node::start(NODE, &receiver));
    let writing = Writing { users: 200, updates: 2, per_second: None };
    let events = writing.events();
    writer.write(writing);
    let away = writer.until("it has heard itself and keeps all for the others", |report| {
        (report.heard_locally(), report.unconfirmed as u64) == (events, events)
    });
    assert!(!away.connected && away.counted.published == 0, "{away:?}");
    assert_eq!(receiver.report().counted.received, 0);

    broker.restart();
    receiver.until("it has heard all", |report| report.heard_remotely() >= events);
    writer.until("all is confirmed", |report| report.unconfirmed == 0);
    let (wrote, received) = (writer.shutdown(), receiver.shutdown());
    let account = of_the_other(&received, &wrote);
    assert_eq!((account.creates, account.updates), (200, 400));
    assert_eq!((account.out_of_order, account.again), (0, 0));
    assert_eq!((wrote.counted.published, wrote.counted.publish_failed), (events, 0));
}

/// Writes 200 changes of one user at a broker that is away with room for 50, then some more when it is
/// back; the last reports of the writer and of another node.
fn overfills(drop_oldest: bool) -> (Report, Report) {
    let mut broker = broker();
    let setup = |name: &str| Setup::new(name, &broker.url());
    let mut receiver = start_connected(&Setup { remote_only: true, ..setup("receiver") });
    let writer = Setup { queue_messages: Some(50), drop_oldest, ..setup("writer") };
    broker.stop();
    let mut writer = Node::start(NODE, &writer);
    writer.write(Writing { users: 1, updates: 199, per_second: None });
    writer.until("what is over the bound is counted", |report| {
        let beyond = report.counted.publish_refused + report.counted.publish_failed;
        (report.heard_locally(), beyond, report.unconfirmed) == (200, 150, 50)
    });

    broker.restart();
    writer.until("what is within the bound is published", |report| report.counted.published == 50);
    // Below the bound, for the writer is faster than the broker.
    writer.write(Writing { users: 10, updates: 3, per_second: None });
    writer.until("what comes later is published", |report| report.counted.published == 90);
    receiver.until("it has heard that", |report| report.heard_remotely() >= 90);
    let (wrote, received) = (writer.shutdown(), receiver.shutdown());
    assert_eq!(wrote.heard_locally(), 240);
    assert_eq!(wrote.heard[0].out_of_order, 0);
    assert_eq!((wrote.left_undone, wrote.counted.overflowed, wrote.counted.unwell), (0, 0, 0));
    (wrote, received)
}

#[test]
fn what_is_over_the_bound_is_refused_and_counted() {
    let (wrote, received) = overfills(false);
    assert_eq!((wrote.counted.publish_refused, wrote.counted.publish_failed), (150, 0));
    // The first 50 changes of the one user, and all of the ten.
    let account = of_the_other(&received, &wrote);
    assert_eq!((account.creates, account.updates), (1 + 10, 49 + 30));
    assert_eq!((account.out_of_order, account.again), (0, 0));
}

#[test]
fn what_is_over_the_bound_displaces_the_oldest_and_is_counted() {
    let (wrote, received) = overfills(true);
    assert_eq!((wrote.counted.publish_refused, wrote.counted.publish_failed), (0, 150));
    // The last 50 changes of the one user, the first of which does not follow what was heard before.
    let account = of_the_other(&received, &wrote);
    assert_eq!((account.creates, account.updates), (10, 50 + 30));
    assert_eq!((account.out_of_order, account.again), (1, 0));
}

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Order {
    id: i64,
}

/// A broker that keeps nothing on disk is killed with what it has confirmed and not handed on: who published it has it still.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_broker_had_confirmed_is_told_by_who_published_it() {
    let mut broker = Mosquitto::start();
    let node = |name: &str| Emitter::builder().service("shop").node(name).mqtt(broker.url().as_str());
    let writer = node("writer").start().await.unwrap();
    // It takes so few at a time, and each so slowly, that nearly all of them wait at the broker.
    let hearer = node("hearer").remote_in_progress(50).start().await.unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = Arc::clone(&heard);
    let one_by_one = ListenerOptions { concurrency: Some(1), ..ListenerOptions::default() };
    let _ = hearer.on::<OrderCreated>().allow_remote().options(one_by_one).run(
        move |event: Event<OrderCreated>| {
            ear.lock().unwrap().push(event.row.id);
            tokio::time::sleep(Duration::from_millis(10))
        },
    );
    for emitter in [&writer, &hearer] {
        emitter.connected(Duration::from_secs(10)).await.unwrap();
    }
    for id in 0..500 {
        writer.publish(OrderCreated::new(Order { id }));
    }
    eventually(|| writer.stats().published == 500).await;
    let before = hearer.stats().received;
    assert!(before < 400, "{before} came already, so that little is lost");
    tokio::task::block_in_place(|| {
        broker.kill();
        broker.restart();
    });
    writer.publish(OrderCreated::new(Order { id: 500 }));
    let begun = Instant::now();
    while heard.lock().unwrap().len() < 501 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", heard.lock().unwrap().len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(*heard.lock().unwrap(), (0..501).collect::<Vec<_>>(), "each once, in order");
    let stats = hearer.stats();
    assert!(stats.recovered >= 100 && stats.lost == 0, "{before} came before: {stats:?}");
    for emitter in [writer, hearer] {
        assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
    }
}
