//! Who is there, whether what is published really arrives, and what a node says of its own health.

use std::sync::Arc;
use std::time::Duration;

use emitter_core::metrics::Prometheus;
use emitter_core::metrics::table::{self, Metric};
use emitter_core::retry::Backoff;
use emitter_core::topic::{ModelTopic, Topics};
use emitter_core::transport::mqtt::{ClientId, MqttConfig, MqttTransport, MqttVersion, Overflow};
use emitter_core::transport::{Delivery, Transport};
use emitter_core::{Builder, Emits, Emitter, Event, HealthStatus};
use emitter_tests::alerts::{firing, scrape};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::Mosquitto;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "user", create)]
struct User {
    id: i64,
}

fn config(broker: &Mosquitto) -> MqttConfig {
    let quick = Duration::from_millis(50);
    let reconnect = Backoff { base: quick, cap: quick, jitter: Duration::ZERO };
    let config = MqttConfig::new(&broker.url()).and_then(|config| config.reconnect(reconnect));
    config.and_then(|config| config.canary(Some(Duration::from_millis(200)))).expect("valid")
}

fn builder(node: &str, config: MqttConfig) -> Builder {
    Emitter::builder().service("shop").node(node).select_listeners(|_| false).mqtt(config)
}

async fn start(node: &str, config: MqttConfig) -> Emitter {
    let emitter = builder(node, config).start().await.expect("it starts");
    emitter.connected(LONG).await.expect("it connects");
    emitter
}

fn hear(emitter: &Emitter) {
    let _ = emitter.on::<UserCreated>().remote_only().run(|_: Event<UserCreated>| std::future::ready(()));
}

/// Whoever looks at the nodes.
fn observer(broker: &Mosquitto, name: &str) -> MqttTransport {
    let transport = MqttTransport::start(config(broker), ClientId::new(name).expect("valid"));
    transport.subscribe(Topics::default().model_filter(&ModelTopic::new("_nodes").expect("valid")));
    transport
}

async fn next(observer: &MqttTransport) -> (String, Value) {
    let next = timeout(LONG, observer.next()).await.expect("in time");
    let Delivery { topic, payload, ack, .. } = next.expect("it is open");
    ack.done();
    (topic, serde_json::from_slice(&payload).expect("it is JSON"))
}

async fn check_presence(version: MqttVersion) {
    let broker = Mosquitto::start();
    let early = observer(&broker, "early");
    eventually(|| early.status().subscriptions == 1).await;
    let node = start("a", config(&broker).protocol(version)).await;
    let (topic, said) = next(&early).await;
    assert_eq!(topic, "prisma/events/_nodes/shop.a");
    assert_eq!(
        (&said["service"], &said["node"], &said["status"]),
        (&"shop".into(), &"a".into(), &"online".into())
    );
    assert!(said["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{said}");

    // Who comes later is told, too.
    let late = observer(&broker, "late");
    assert_eq!(next(&late).await.1, said);

    // It goes with a word, comes again, and goes without one.
    assert!(node.shutdown(Duration::from_secs(5)).await.is_clean());
    assert_eq!(next(&early).await.1["status"], "offline");
    let node = start("a", config(&broker).protocol(version)).await;
    let (_, again) = next(&early).await;
    assert_eq!(again["status"], "online");
    assert_ne!(again["incarnation"], said["incarnation"]);
    drop(node);
    let (_, gone) = next(&early).await;
    assert_eq!((&gone["status"], &gone["incarnation"]), (&"offline".into(), &again["incarnation"]));
    for observer in [early, late] {
        let _ = observer.close(Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_can_be_seen() {
    check_presence(MqttVersion::V5).await;
    check_presence(MqttVersion::V311).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_its_listeners_and_when_they_change() {
    let broker = Mosquitto::start();
    let observer = observer(&broker, "observer");
    eventually(|| observer.status().subscriptions == 1).await;
    let node = start("a", config(&broker)).await;
    assert_eq!(next(&observer).await.1["listeners"], serde_json::json!([]));
    let first = node.on::<UserCreated>().remote_only().name("first");
    let first = first.run(|_: Event<UserCreated>| std::future::ready(()));
    let _ = node
        .on::<UserCreated>()
        .name("second")
        .group("till")
        .run(|_: Event<UserCreated>| std::future::ready(()));
    let named = |name: &str, hears: &str| serde_json::json!({ "name": name, "model": "user", "operation": "create", "hears": hears });
    let mut second = named("second", "everything");
    second["group"] = "till".into();
    // Both at once.
    assert_eq!(next(&observer).await.1["listeners"], serde_json::json!([named("first", "remote"), second]));
    first.unsubscribe();
    assert_eq!(next(&observer).await.1["listeners"], serde_json::json!([second]));
    // Of very many some are told, and how many there are beside.
    for number in 0..1_000 {
        let name = format!("{number:04}{}", "x".repeat(60));
        let _ = node.on::<UserCreated>().name(name).run(|_: Event<UserCreated>| std::future::ready(()));
    }
    let many = loop {
        let (_, said) = next(&observer).await;
        let told = said["listeners"].as_array().unwrap().len() as u64;
        assert!(said.to_string().len() < 20_000, "{told}");
        if told + said["more"].as_u64().unwrap_or(0) == 1_001 {
            break said;
        }
    };
    assert!(many["more"].as_u64() > Some(500), "{many}");
    // And who comes back says it at once.
    assert!(node.shutdown(Duration::from_secs(5)).await.is_clean());
    let (_, gone) = next(&observer).await;
    assert_eq!((&gone["status"], gone.get("listeners")), (&"offline".into(), None));
    let _ = observer.close(Duration::from_secs(1)).await;
}

async fn check_watching(version: MqttVersion) {
    let broker = Mosquitto::builder().line("log_type all").start();
    let early = start("early", config(&broker).protocol(version)).await;
    hear(&early);
    let watching = start("watching", config(&broker).protocol(version)).await;
    let others = |watching: &Emitter| {
        let mut others = watching.nodes();
        others.retain(|said| said.node != "watching");
        others
    };
    assert_eq!(others(&watching), []);
    watching.watch_nodes();
    watching.watch_nodes();
    watching.connected(LONG).await.expect("it is subscribed");
    // It was there before; who comes later is told, too, and what changes.
    eventually(|| {
        others(&watching).iter().any(|said| said.listeners.as_ref().is_some_and(|all| all.len() == 1))
    })
    .await;
    let late = start("late", config(&broker).protocol(version)).await;
    eventually(|| others(&watching).len() == 2).await;
    assert!(watching.nodes().iter().all(|said| said.service == "shop" && said.is_online()));
    let heard = &others(&watching)[0].listeners.clone().unwrap()[0];
    assert_eq!(
        (&*heard.model, heard.operation.as_deref(), &*heard.hears),
        ("user", Some("create"), "remote")
    );
    let gone = |watching: &Emitter, node: &str| {
        others(watching).iter().any(|said| said.node == node && !said.is_online())
    };
    assert!(late.shutdown(Duration::from_secs(5)).await.is_clean());
    eventually(|| gone(&watching, "late")).await;
    drop(early);
    eventually(|| gone(&watching, "early")).await;
    assert_eq!(watching.health().reasons, [""; 0]);
    assert!(watching.shutdown(Duration::from_secs(5)).await.is_clean());

    // A session is subscribed still, in a life that asks for nothing: it gives that back.
    let again = start("watching", config(&broker).protocol(version)).await;
    hear(&again);
    again.connected(LONG).await.expect("it hears");
    let third = start("third", config(&broker).protocol(version)).await;
    let before = again.stats().received;
    third.publish(UserCreated::new(User { id: 1 }));
    eventually(|| again.stats().received > before).await;
    let stats = again.stats();
    assert_eq!((again.nodes().len(), stats.bad_messages, stats.dead_letters), (0, 0, 0));
    let gave_back = |log: String| {
        let mut unsubscribed = log.split("Received UNSUBSCRIBE from ").skip(1);
        unsubscribed.any(|said| said.lines().take(3).any(|line| line.contains("prisma/events/_nodes/+")))
    };
    eventually(|| gave_back(broker.log())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_can_watch_the_others() {
    check_watching(MqttVersion::V5).await;
    check_watching(MqttVersion::V311).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_may_not_watch_the_others_hears_events() {
    let broker = Mosquitto::builder().forbid("prisma/events/_nodes/+").start();
    let node = start("a", config(&broker).announce(false)).await;
    hear(&node);
    node.watch_nodes();
    node.connected(LONG).await.expect("that nobody lets it look counts for nothing");
    let refused = |node: &Emitter| {
        let reasons = node.health().reasons;
        reasons.iter().any(|why| why.contains("refuses the subscription to prisma/events/_nodes/+"))
    };
    eventually(|| refused(&node)).await;
    let other = start("b", config(&broker).announce(false)).await;
    other.publish(UserCreated::new(User { id: 1 }));
    eventually(|| node.stats().received == 1).await;
    assert_eq!(node.nodes(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_to_be_seen_says_nothing() {
    let broker = Mosquitto::start();
    let observer = observer(&broker, "observer");
    eventually(|| observer.status().subscriptions == 1).await;
    let silent = start("silent", config(&broker).announce(false)).await;
    drop(silent);
    let _seen = start("seen", config(&broker)).await;
    assert_eq!(next(&observer).await.0, "prisma/events/_nodes/shop.seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_tells_how_long_a_message_takes() {
    let (broker, prometheus) = (Mosquitto::start(), Prometheus::new());
    let builder = builder("a", config(&broker).window(30).expect("valid")).with(prometheus.clone());
    let node = builder.start().await.expect("it starts");
    hear(&node);
    eventually(|| node.health().round_trip.is_some()).await;
    let health = node.health();
    assert_eq!((health.status, health.reasons), (HealthStatus::Healthy, vec![]));
    let status = node.transport_status().expect("there is one");
    assert_eq!(status.subscriptions, 1, "its own is not counted");
    assert_eq!(node.stats().received, 0, "it goes no further than the transport");
    let text = prometheus.text();
    let told = |metric: Metric, state: Option<&str>| {
        let labels = state.map(|state| ("state".to_owned(), state.to_owned()));
        scrape(&text)[&(metric.name.to_owned(), labels.into_iter().collect())]
    };
    let round_trip = told(table::CANARY_SECONDS, None);
    assert!((0.000_01..10.0).contains(&round_trip), "{round_trip}");
    assert_eq!(told(table::CANARY_MISSED, None), 0.0);
    // Mosquitto takes 20 at a time.
    assert_eq!((told(table::WINDOW, Some("used")), told(table::WINDOW, Some("free"))), (0.0, 20.0));
    assert!(node.shutdown(Duration::from_secs(5)).await.is_clean());
    assert_eq!(node.health().status, HealthStatus::Unhealthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_leads_nowhere_is_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let list = folder.path().join("acl");
    // Subscribing is allowed, publishing is not; MQTT 3.1.1 confirms it all the same.
    std::fs::write(&list, "topic read prisma/events/#\n").expect("the list");
    let acl = format!("acl_file {}", list.display());
    let broker = Mosquitto::builder().max_queued_messages(1_000).line(acl).start();
    let prometheus = Prometheus::new();
    let builder = builder("a", config(&broker).protocol(MqttVersion::V311)).with(prometheus.clone());
    let node = builder.start().await.expect("it starts");
    hear(&node);
    node.publish(UserCreated::new(User { id: 1 }));
    eventually(|| node.stats().published == 1).await;
    eventually(|| node.health().status == HealthStatus::Degraded).await;
    let reasons = node.health().reasons;
    assert!(reasons.len() == 1 && reasons[0].contains("did not come back"), "{reasons:?}");
    let text = prometheus.text();
    assert!(firing(&text, &text).contains("EmitterCanaryMissing"), "{text}");
}

/// Mosquitto 2.0.11 with `max_queued_messages 0` closes the connection at a publish that its list forbids.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_cannot_bear_announcements_gets_events_all_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let list = folder.path().join("acl");
    std::fs::write(&list, "topic readwrite prisma/events/user/#\n").expect("the list");
    for version in [MqttVersion::V5, MqttVersion::V311] {
        let broker = Mosquitto::builder().line(format!("acl_file {}", list.display())).start();
        let node = builder("a", config(&broker).protocol(version)).start().await.expect("it starts");
        hear(&node);
        for id in 0..50 {
            node.publish(UserCreated::new(User { id }));
        }
        eventually(|| node.stats().published == 50).await;
        assert_eq!(node.stats().publish_failed, 0);
        eventually(|| node.transport_status().is_some_and(|status| status.silenced)).await;
        eventually(|| node.health().reasons.iter().any(|reason| reason.contains("announces itself"))).await;
        let connections = || node.transport_status().map(|status| status.publisher.connections);
        // It comes back once more, in silence.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = connections();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(connections(), before, "it has calmed down");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_what_is_wrong() {
    let mut broker = Mosquitto::start();
    let node = start("a", config(&broker)).await;
    hear(&node);
    eventually(|| node.transport_status().is_some_and(|status| status.subscriptions == 1)).await;
    broker.stop();
    eventually(|| node.health().reasons.len() == 2).await;
    node.publish(UserCreated::new(User { id: 1 }));
    eventually(|| node.health().reasons[0].contains("1 messages wait")).await;
    broker.restart();
    eventually(|| node.health().status == HealthStatus::Healthy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_can_make_the_emitter_wait() {
    let mut broker = Mosquitto::builder().persistence(true).start();
    let reader = start("reader", config(&broker)).await;
    let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = Arc::clone(&heard);
    let _ = reader.on::<UserCreated>().remote_only().run(move |event: Event<UserCreated>| {
        noted.lock().expect("nobody panics").push(event.row.id);
        std::future::ready(())
    });
    eventually(|| reader.transport_status().is_some_and(|status| status.subscriptions == 1)).await;
    broker.stop();
    let bounded = config(&broker).queue_messages(10).expect("valid").overflow(Overflow::Wait);
    let writer = builder("writer", bounded).publish_queue(90).start().await.expect("it starts");
    for id in 0..300 {
        writer.publish(UserCreated::new(User { id }));
        // One after the other, so that what can go on is gone on.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let status = writer.transport_status().expect("there is one");
    let refused = writer.stats().publish_refused;
    assert_eq!(status.unconfirmed, 10, "the others wait before it");
    assert!((195..=200).contains(&refused), "both queues have a bound: {refused}");
    broker.restart();
    let kept = 300 - i64::try_from(refused).expect("it is small");
    eventually(|| heard.lock().expect("nobody panics").len() as i64 == kept).await;
    assert!(heard.lock().expect("nobody panics").iter().copied().eq(0..kept));
    assert!(writer.shutdown(Duration::from_secs(5)).await.is_clean());
}
