//! Nodes in processes of their own, with a mosquitto between them.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::transport::mqtt::{MqttConfig, MqttVersion};
use emitter_core::{Emits, Emitter, Event, Source};
use emitter_tests::eventually::eventually;
use emitter_tests::node::{Account, Node, Report, Setup, Writing};
use emitter_tests::raw_publisher::RawPublisher;
use emitter_tests::servers::Mosquitto;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const NODE: &str = env!("CARGO_BIN_EXE_node");

fn full() -> bool {
    std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full")
}

/// What each node writes.
fn writing() -> Writing {
    Writing { users: if full() { 10_000 } else { 1_000 }, updates: 2, per_second: None }
}

/// What a node hears of one that wrote all this.
fn account(of: &str, life: &Report, remote: bool, writing: Writing) -> Account {
    Account {
        node: of.to_owned(),
        incarnation: life.incarnation.clone(),
        remote,
        creates: writing.users.into(),
        updates: u64::from(writing.users) * u64::from(writing.updates),
        out_of_order: 0,
        again: 0,
    }
}

fn start(setup: &Setup) -> Node {
    let mut node = Node::start(NODE, setup);
    node.until("it is connected", |report| report.connected);
    node
}

/// Starts the nodes and lets all of them write at once; their reports, in the order of the setups, when
/// each has heard all, its echoes have come and it was shut down.
fn all_write<const N: usize>(writing: Writing, setups: [Setup; N], listeners: &mut [Node]) -> [Report; N] {
    let mut nodes = setups.map(|setup| start(&setup));
    nodes.iter_mut().for_each(|node| node.write(writing));
    let (own, of_others) = (writing.events(), writing.events() * (N as u64 - 1));
    for node in &mut nodes {
        node.until("it has heard all", |report| {
            report.heard_locally() >= own
                && report.heard_remotely() >= of_others
                && report.counted.echoes >= own
                && report.counted.published >= own
        });
    }
    for listener in listeners {
        listener.until("it has heard all", |report| report.heard_remotely() >= own + of_others);
    }
    nodes.map(|node| {
        let report = node.shutdown();
        let counted = report.counted;
        println!("{}: {:?}\n{counted:?}", report.incarnation, report.heard);
        assert_eq!(report.left_undone, 0);
        assert_eq!((counted.emitted_local, counted.emitted_remote), (own, own));
        assert_eq!((counted.published, counted.published_to_nobody), (own, 0));
        // All of its own came back, and none of them went on to the listener.
        assert_eq!((counted.echoes, counted.duplicates, counted.received), (own, 0, 2 * own));
        assert_eq!((counted.handled, counted.unwell), (2 * own, 0));
        report
    })
}

/// Each hears all of the other's as remote and all of its own as local, once and in order per key.
fn each_hears_both(setup: impl Fn(&str) -> Setup) {
    // With a listener that waits, so that it is the lanes that keep the order.
    let setup = |name: &str| Setup { listener_takes_ms: 1, ..setup(name) };
    let [a, b] = all_write(writing(), [setup("a"), setup("b")], &mut []);
    assert_eq!(a.heard, [account("a", &a, false, writing()), account("b", &b, true, writing())]);
    assert_eq!(b.heard, [account("b", &b, false, writing()), account("a", &a, true, writing())]);
    assert_eq!((a.counted.namesakes, b.counted.namesakes), (0, 0));
}

#[test]
fn each_hears_all_of_both() {
    let broker = Mosquitto::start();
    each_hears_both(|name| Setup::new(name, &broker.url()));
}

#[test]
fn each_hears_all_of_both_over_mqtt_3() {
    let broker = Mosquitto::start();
    each_hears_both(|name| Setup { mqtt_3: true, ..Setup::new(name, &broker.url()) });
}

#[test]
fn mqtt_3_and_mqtt_5_hear_each_other() {
    let broker = Mosquitto::start();
    each_hears_both(|name| Setup { mqtt_3: name == "a", ..Setup::new(name, &broker.url()) });
}

#[test]
fn a_process_that_only_listens_hears_both() {
    let broker = Mosquitto::start();
    let setup = |name: &str| Setup::new(name, &broker.url());
    let mut listeners = [start(&Setup { remote_only: true, ..setup("listener") })];
    let [a, b] = all_write(writing(), [setup("a"), setup("b")], &mut listeners);
    let [listener] = listeners.map(Node::shutdown);
    let mut heard = listener.heard;
    heard.sort_by(|one, other| one.node.cmp(&other.node));
    assert_eq!(heard, [account("a", &a, true, writing()), account("b", &b, true, writing())]);
    assert_eq!((listener.counted.emitted_local, listener.counted.emitted_remote), (0, 0));
}

#[test]
fn nodes_of_the_same_name_lose_nothing_and_are_told_apart() {
    let broker = Mosquitto::start();
    let writing = Writing { users: 100, updates: 2, per_second: None };
    let twin =
        |id: &str| Setup { client_id: Some(format!("twin-{id}")), ..Setup::new("twin", &broker.url()) };
    let [one, other] = all_write(writing, [twin("1"), twin("2")], &mut []);
    for (node, its_twin) in [(&one, &other), (&other, &one)] {
        assert_eq!(
            node.heard,
            [account("twin", node, false, writing), account("twin", its_twin, true, writing)]
        );
        assert_eq!(node.counted.namesakes, writing.events());
    }
}

// The npm package's messages -------------------------------------------------------------------------

/// One message a line: the topic, a space, the payload.
const LINES: &str = include_str!("../wire/prisma-extension-emitter-2.1.14.txt");

fn lines() -> Vec<(&'static str, &'static str)> {
    LINES.lines().map(|line| line.split_once(' ').expect("a topic and a payload")).collect()
}

/// The user of these messages.
#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(model = "user", all)]
struct Customer {
    id: i64,
    email: String,
    name: Option<String>,
    status: String,
    n: i64,
}

/// What a typed listener heard, a line for each event.
type Transcript = Arc<Mutex<Vec<String>>>;

async fn typed_listener(broker: &Mosquitto, version: MqttVersion) -> (Emitter, Transcript) {
    let config = MqttConfig::new(&broker.url()).expect("a valid URL").protocol(version);
    let emitter = Emitter::builder().node("typed").mqtt(config).start().await.expect("it starts");
    let transcript = Transcript::default();
    let writes = Arc::clone(&transcript);
    let _ = emitter.on::<CustomerEvent>().remote_only().run(move |event| {
        writes.lock().expect("no panic").push(line(&event));
        std::future::ready(())
    });
    emitter.connected(Duration::from_secs(10)).await.expect("the broker is there");
    (emitter, transcript)
}

fn line(event: &Event<CustomerEvent>) -> String {
    assert_eq!((event.source(), event.origin()), (Source::Remote, None));
    let (operation, text) = (event.operation(), |part: &dyn Debug| format!("{part:?}"));
    let what = match &**event {
        CustomerEvent::Created(body) => text(&body.row),
        CustomerEvent::Updated(body) => text(&body.after),
        CustomerEvent::Upserted(body) => text(&body.row),
        CustomerEvent::Deleted(body) => text(&body.row),
        CustomerEvent::CreatedMany(body) => text(&body.count),
        CustomerEvent::UpdatedMany(body) => text(&body.count),
        CustomerEvent::DeletedMany(body) => text(&body.count),
    };
    format!("{operation} {}", what.trim_start_matches("Customer "))
}

const ALICE: &str =
    r#"create { id: 1, email: "alice@example.com", name: Some("Alice"), status: "NEW", n: 0 }"#;

async fn the_npm_packages_lines_are_heard(version: MqttVersion) {
    let broker = Mosquitto::start();
    let (emitter, transcript) = typed_listener(&broker, version).await;
    let mut publisher = RawPublisher::connect(broker.port());
    let about_users = lines().into_iter().filter(|(topic, _)| topic.ends_with("/user/all"));
    for (count, (topic, payload)) in (1..).zip(about_users) {
        publisher.publish(topic, payload);
        // One after the other, for a bulk change of unknown rows has no key.
        eventually(|| emitter.stats().handled + emitter.stats().bad_messages == count).await;
    }
    let expected = [
        ALICE,
        r#"update { id: 1, email: "alice@example.com", name: Some("Alice"), status: "ACTIVE", n: 0 }"#,
        "updateMany 1",
        r#"upsert { id: 2, email: "bob@example.com", name: Some("Bob"), status: "NEW", n: 0 }"#,
        r#"upsert { id: 2, email: "bob@example.com", name: Some("Bob2"), status: "NEW", n: 0 }"#,
        // Then one that selects its id alone, which is no user.
        r#"create { id: 5, email: "ro@example.com", name: None, status: "NEW", n: 0 }"#,
    ];
    assert_eq!(*transcript.lock().expect("no panic"), expected);
    assert_eq!(emitter.stats().bad_messages, 1);
    assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
}

#[tokio::test]
async fn the_npm_packages_lines_reach_typed_listeners() {
    the_npm_packages_lines_are_heard(MqttVersion::V5).await;
}

#[tokio::test]
async fn the_npm_packages_lines_reach_typed_listeners_over_mqtt_3() {
    the_npm_packages_lines_are_heard(MqttVersion::V311).await;
}

/// Messages that are no event of a user, with their topics.
fn no_events() -> Vec<(String, Vec<u8>)> {
    let (topic, payload) = lines()[0];
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value = serde_json::from_str(payload).expect("JSON");
        change(&mut value);
        value.to_string().into_bytes()
    };
    let mut list: Vec<(String, Vec<u8>)> = [
        Vec::new(),
        b"{}".to_vec(),
        b"null".to_vec(),
        b"\xff\xfe".to_vec(),
        b"[".repeat(100_000),
        with(&|value| value["operation"] = "drop table".into()),
        with(&|value| value["model"] = "ghost".into()),
        with(&|value| value["result"]["id"] = "one".into()),
        with(&|value| value["result"] = Value::Null),
        with(&|value| value["timestamp"] = "yesterday".into()),
        with(&|value| value["eventId"] = 7.into()),
        // Too deep, and too large.
        with(&|value| value["args"] = (0..40).fold(Value::Null, |inside, _| vec![inside].into())),
        with(&|value| value["result"]["name"] = "x".repeat(300 << 10).into()),
    ]
    .into_iter()
    .map(|payload| (topic.to_owned(), payload))
    .collect();
    list.extend(
        (1..payload.len()).step_by(40).map(|end| (topic.to_owned(), payload.as_bytes()[..end].to_vec())),
    );
    for wrong in ["user", "user/", "user/all/more", "user//all", "user/delete", "user/ALL"] {
        list.push((format!("prisma/events/{wrong}"), payload.as_bytes().to_vec()));
    }
    list
}

#[tokio::test]
async fn what_is_no_event_harms_nothing() {
    let broker = Mosquitto::start();
    let (emitter, transcript) = typed_listener(&broker, MqttVersion::V5).await;
    let mut publisher = RawPublisher::connect(broker.port());
    let (topic, payload) = lines()[0];
    let bad = no_events();
    for (topic, payload) in &bad {
        publisher.publish(topic, payload);
    }
    // Larger than the packets that the node takes: with MQTT 5 the broker keeps it back.
    publisher.publish(topic, vec![b'x'; 2 << 20]);
    // No subscription matches these.
    publisher.publish("prisma/events/ghost/all", payload);
    publisher.publish("elsewhere/events/user/all", payload);
    eventually(|| emitter.stats().received == bad.len() as u64).await;
    assert_eq!(*transcript.lock().expect("no panic"), [""; 0]);

    // One broken byte or more may still leave an event, if it is not in what counts.
    let mutations = if full() { 20_000 } else { 500 };
    let mut random = fastrand::Rng::with_seed(2);
    for _ in 0..mutations {
        let mut bytes = payload.as_bytes().to_vec();
        for _ in 0..random.usize(1..=3) {
            let place = random.usize(0..bytes.len());
            bytes[place] = random.u8(..);
        }
        publisher.publish(topic, bytes);
    }
    let all = bad.len() as u64 + mutations;
    let settled = || emitter.stats().handled + emitter.stats().bad_messages;
    eventually(|| settled() == all).await;
    let mutated = std::mem::take(&mut *transcript.lock().expect("no panic"));
    println!("{} of {mutations} mutations were still events", mutated.len());
    publisher.publish(topic, payload);
    eventually(|| settled() == all + 1).await;
    assert_eq!(*transcript.lock().expect("no panic"), [ALICE]);
    let stats = emitter.stats();
    assert_eq!((stats.received, stats.failed, stats.panicked), (all + 1, 0, 0), "{stats:?}");
    assert!(stats.bad_messages > bad.len() as u64 + mutations / 2, "{stats:?}");
    let status = emitter.transport_status().expect("it has a transport");
    assert_eq!((status.subscriber.connected, status.subscriber.connections), (true, 1), "{status:?}");
    assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
}
