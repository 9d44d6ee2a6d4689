//! Events of a model that travel in one message: each keeps its place, its id and its fate.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::envelope::Format;
use emitter_core::receipt::Way;
use emitter_core::signature::{Signatures, SigningKey};
use emitter_core::topic::{Layout, TopicFilter};
use emitter_core::transport::memory::{Faults, MemoryBroker, MemoryTransport, Published};
use emitter_core::transport::mqtt::{MqttConfig, Overflow};
use emitter_core::transport::{
    Confirmation, Delivery, Message, PublishError, Settler, Transport, TransportStatus, Unconfirmed,
};
use emitter_core::{Batches, Builder, EmitOptions, Emits, Emitter, Event, QoS, Receipt, StartError};
use emitter_tests::eventually::eventually;
use serde::{Deserialize, Serialize};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "reading", create, delete)]
struct Reading {
    id: i64,
    value: String,
}

fn reading(id: i64) -> ReadingCreated {
    ReadingCreated::new(Reading { id, value: "warm".to_owned() })
}

fn builder(node: &str) -> Builder {
    Emitter::builder().node(node).select_listeners(|_| false)
}

/// Everything that is there when the node has worked through its queue travels together.
fn at_once() -> Batches {
    Batches { max_delay: Duration::ZERO, ..Batches::default() }
}

/// What a node heard: each event's id, operation and row.
type Heard = Arc<Mutex<Vec<(emitter_core::EventId, String, i64)>>>;

async fn hearing(builder: Builder) -> (Emitter, Heard) {
    let emitter = builder.start().await.unwrap();
    let heard = Heard::default();
    let noted = Arc::clone(&heard);
    let _ = emitter.on::<ReadingEvent>().remote_only().run(move |event: Event<ReadingEvent>| {
        let id = match &*event {
            ReadingEvent::Created(body) => body.row.id,
            ReadingEvent::Deleted(body) => body.row.id,
        };
        noted.lock().unwrap().push((event.id(), event.meta().operation.to_string(), id));
        std::future::ready(())
    });
    eventually(|| emitter.transport_status().unwrap().subscriptions == 1).await;
    (emitter, heard)
}

/// How many events each message had, in order.
fn sizes(published: &[Published]) -> Vec<usize> {
    let events = |message: &Published| match serde_json::from_slice(&message.payload).unwrap() {
        serde_json::Value::Array(events) => events.len(),
        _ => 1,
    };
    published.iter().map(events).collect()
}

#[tokio::test]
async fn events_travel_together_and_arrive_one_by_one_in_order() {
    for format in [Format::Specification, Format::CloudEvents, Format::Tracker] {
        for layout in ["{prefix}/{model}/{operation}", "{prefix}/{model}/{past_tense}/v1"] {
            let broker = MemoryBroker::new();
            let (hearer, heard) =
                hearing(builder("b").topic_layout(layout).transport(broker.connect("b"))).await;
            let writer = builder("a").format(format).topic_layout(layout).batches(at_once());
            let writer = writer.transport(broker.connect("a")).start().await.unwrap();
            let receipt = Receipt::new();
            let mut sent = Vec::new();
            for id in 0..250 {
                let options = EmitOptions::default().receipt(&receipt);
                let event = if id % 10 == 9 {
                    let row = Reading { id, value: String::new() };
                    writer.publish_with(ReadingDeleted::new(row), options).id
                } else {
                    writer.publish_with(reading(id), options).id
                };
                sent.push(event);
            }
            assert!(receipt.settled().await.iter().all(|fate| fate.remote == Way::Taken));
            eventually(|| heard.lock().unwrap().len() == 250).await;
            let heard = heard.lock().unwrap().clone();
            assert_eq!(heard.iter().map(|(event, ..)| *event).collect::<Vec<_>>(), sent);
            assert_eq!(heard.iter().map(|(.., id)| *id).collect::<Vec<_>>(), (0..250).collect::<Vec<_>>());
            assert_eq!((&*heard[8].1, &*heard[9].1), ("create", "delete"));
            let published = broker.published();
            let sizes = sizes(&published);
            assert_eq!(sizes.iter().sum::<usize>(), 250);
            assert!(
                sizes.len() < 50 && sizes.iter().all(|size| *size <= 100),
                "{format:?} {layout}: {sizes:?}"
            );
            let expected = match format {
                Format::CloudEvents => "application/cloudevents-batch+json",
                _ => "application/vnd.model-events.batch+json",
            };
            assert_eq!(published[0].properties.content_type.as_deref(), Some(expected));
            assert_eq!((writer.stats().published, hearer.stats().bad_messages), (250, 0));
            eventually(|| broker.unacknowledged("b") == 0).await;
            let _ = (writer.shutdown(SECOND).await, hearer.shutdown(SECOND).await);
        }
    }
}

#[tokio::test]
async fn one_that_is_alone_travels_as_always() {
    let broker = MemoryBroker::new();
    let writer = builder("a").batches(at_once()).transport(broker.connect("a")).start().await.unwrap();
    writer.publish(reading(1));
    eventually(|| broker.published().len() == 1).await;
    let message = &broker.published()[0];
    assert_eq!(message.topic, "prisma/events/reading/create");
    assert_eq!(message.properties.content_type.as_deref(), Some("application/json"));
    let _ = writer.shutdown(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn one_waits_for_others_as_long_as_it_may() {
    let broker = MemoryBroker::new();
    let delay = Duration::from_secs(3);
    let batches = Batches { max_delay: delay, ..Batches::default() };
    let writer = builder("a").batches(batches).transport(broker.connect("a")).start().await.unwrap();
    let begun = tokio::time::Instant::now();
    writer.publish(reading(1));
    tokio::time::sleep(SECOND).await;
    writer.publish(reading(2));
    tokio::time::sleep(SECOND).await;
    assert_eq!(broker.published(), []);
    eventually(|| broker.published().len() == 1).await;
    let waited = begun.elapsed();
    assert!(delay <= waited && waited < delay + SECOND / 2, "{waited:?}");
    assert_eq!(sizes(&broker.published()), [2]);
    // What waits goes out before the node ends.
    writer.publish(reading(3));
    writer.publish(reading(4));
    assert!(writer.shutdown(SECOND).await.is_clean());
    assert_eq!(sizes(&broker.published()), [2, 2]);
}

#[tokio::test]
async fn bounds_are_kept_and_so_is_the_order() {
    let broker = MemoryBroker::new();
    let (hearer, heard) = hearing(builder("b").transport(broker.connect("b"))).await;
    let batches = Batches { max_events: 4, max_bytes: 2_000, max_delay: Duration::ZERO };
    let writer = builder("a").batches(batches).transport(broker.connect("a")).start().await.unwrap();
    for id in 0..9 {
        match id {
            // Larger than a batch may be.
            3 => writer.publish(ReadingCreated::new(Reading { id, value: "x".repeat(2_500) })),
            6 => writer.publish_with(reading(id), EmitOptions::default().qos(QoS::AtMostOnce)),
            _ => writer.publish(reading(id)),
        };
    }
    eventually(|| heard.lock().unwrap().len() == 9).await;
    let order: Vec<i64> = heard.lock().unwrap().iter().map(|(.., id)| *id).collect();
    assert_eq!(order, (0..9).collect::<Vec<_>>());
    let published = broker.published();
    assert_eq!(sizes(&published), [3, 1, 2, 1, 2]);
    let batched = published.iter().filter(|message| message.topic.ends_with("/batch"));
    assert!(batched.clone().count() == 3 && batched.clone().all(|message| message.payload.len() <= 2_000));
    let _ = (writer.shutdown(SECOND).await, hearer.shutdown(SECOND).await);
}

#[tokio::test]
async fn a_bad_one_among_them_is_a_dead_letter_alone() {
    let broker = MemoryBroker::new();
    // One place: each event waits for the listeners of the one before.
    let (hearer, heard) = hearing(builder("b").remote_in_progress(1).transport(broker.connect("b"))).await;
    let event =
        |id: &str| format!(r#"{{"model":"reading","operation":"create","result":{{"id":{id},"value":""}}}}"#);
    let topic = "prisma/events/reading/batch";
    let several = [event("1"), event("\"no number\""), event("2"), "17".to_owned(), event("3")];
    broker.publish(topic, format!(" [{}]", several.join(" , ")));
    eventually(|| heard.lock().unwrap().len() == 3).await;
    eventually(|| broker.unacknowledged("b") == 0).await;
    let letters = hearer.dead_letters();
    let payloads: Vec<_> = letters.iter().map(|letter| letter.payload.clone()).collect();
    assert_eq!(payloads, [several[1].as_bytes(), several[3].as_bytes()]);
    assert_eq!(letters[0].original_topic, topic);
    // It is mended, and heard.
    let mut mended = (*letters[0]).clone();
    mended.payload = event("4").into();
    hearer.replay_letter(&mended).unwrap();
    eventually(|| heard.lock().unwrap().len() == 4).await;
    // What is no batch at all is one letter.
    for bad in ["[", "[]", "[{]"] {
        broker.publish(topic, bad);
    }
    eventually(|| hearer.stats().dead_letters == 5).await;
    eventually(|| broker.unacknowledged("b") == 0).await;
    let _ = hearer.shutdown(SECOND).await;
}

#[tokio::test]
async fn over_faulty_links_each_is_heard_once_and_in_order_of_its_key() {
    const EVENTS: i64 = 1_500;
    let faults = Faults { seed: 11, drop: 0.05, duplicate: 0.1, disconnect: 0.02, ..Faults::default() };
    let broker = MemoryBroker::with_faults(faults);
    let hearer = builder("b").transport(broker.connect("b")).start().await.unwrap();
    let heard: Arc<Mutex<HashMap<i64, Vec<i64>>>> = Arc::default();
    let noted = Arc::clone(&heard);
    let _ = hearer.on::<ReadingCreated>().remote_only().run(move |event: Event<ReadingCreated>| {
        let number = event.row.value.parse().unwrap();
        noted.lock().unwrap().entry(event.row.id).or_default().push(number);
        std::future::ready(())
    });
    eventually(|| hearer.transport_status().unwrap().subscriptions == 1).await;
    let batches = Batches { max_events: 7, ..at_once() };
    let writer = builder("a").batches(batches).transport(broker.connect("a")).start().await.unwrap();
    for number in 0..EVENTS {
        writer.publish(ReadingCreated::new(Reading { id: number % 20, value: number.to_string() }));
        if number % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    eventually(|| hearer.stats().handled as i64 >= EVENTS && writer.stats().published as i64 == EVENTS).await;
    for (id, numbers) in &*heard.lock().unwrap() {
        let expected: Vec<i64> = (*id..EVENTS).step_by(20).collect();
        assert_eq!(*numbers, expected, "key {id}, seed {}", faults.seed);
    }
    assert_eq!(heard.lock().unwrap().len(), 20);
    assert!((broker.published().len() as i64) < EVENTS && hearer.stats().duplicates > 0);
    let _ = (writer.shutdown(SECOND).await, hearer.shutdown(SECOND).await);
}

/// Each part of a batch has to be acknowledged, or none behind it is.
#[tokio::test]
async fn an_event_that_is_there_a_hundred_times_holds_nothing_up() {
    let broker = MemoryBroker::new();
    let emitter = builder("b").transport(broker.connect("b")).start().await.unwrap();
    let (go, gate) = tokio::sync::watch::channel(false);
    let _ = emitter.on::<ReadingCreated>().remote_only().run(move |_: Event<ReadingCreated>| {
        let mut gate = gate.clone();
        async move { gate.wait_for(|open| *open).await.map(drop).map_err(|error| error.to_string()) }
    });
    eventually(|| emitter.transport_status().unwrap().subscriptions == 1).await;
    let event = |id: i64| {
        format!(
            r#"{{"model":"reading","operation":"create","result":{{"id":{id},"value":""}},"eventId":"01935a00-0000-7000-8000-00000000000{id}"}}"#
        )
    };
    for _ in 0..3 {
        broker.publish("prisma/events/reading/batch", format!("[{}]", vec![event(1); 100].join(",")));
    }
    broker.publish("prisma/events/reading/create", event(2));
    eventually(|| emitter.stats().duplicates == 299 && emitter.stats().received == 4).await;
    // Its last copy would bring it again.
    assert_eq!(broker.unacknowledged("b"), 2);
    go.send_replace(true);
    eventually(|| broker.unacknowledged("b") == 0).await;
    assert_eq!(emitter.stats().handled, 2);
    let _ = emitter.shutdown(SECOND).await;
}

#[tokio::test]
async fn a_batch_of_rubbish_leaves_dead_letters_to_others() {
    let broker = MemoryBroker::new();
    let (hearer, _) = hearing(builder("b").transport(broker.connect("b"))).await;
    broker.publish("prisma/events/reading/batch", format!("[{}]", vec!["1"; 1_000].join(",")));
    broker.publish("prisma/events/reading/create", "no event");
    eventually(|| hearer.stats().bad_messages == 1_001).await;
    assert_eq!((hearer.stats().dead_letters, hearer.stats().dead_letters_lost), (11, 990));
    assert_eq!(&hearer.dead_letters().last().unwrap().payload[..], b"no event");
    let _ = hearer.shutdown(SECOND).await;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "glimpse", create, expires = "2s")]
struct Glimpse {
    id: i64,
}

#[tokio::test(start_paused = true)]
async fn none_waits_for_others_until_it_expires() {
    let broker = MemoryBroker::new();
    let batches = Batches { max_delay: 10 * SECOND, ..Batches::default() };
    let writer = builder("a").batches(batches).transport(broker.connect("a")).start().await.unwrap();
    for id in 0..10 {
        writer.publish(GlimpseCreated::new(Glimpse { id }));
    }
    eventually(|| writer.stats().published + writer.stats().publish_failed == 10).await;
    assert_eq!((writer.stats().published, sizes(&broker.published())), (10, vec![10]));
    let _ = writer.shutdown(SECOND).await;
}

/// The policy `wait` holds events back before the transport's queue, and loses none.
#[tokio::test]
async fn batches_wait_for_room_too() {
    let config = MqttConfig::new("mqtt://127.0.0.1:9").unwrap().overflow(Overflow::Wait);
    let config = config.queue_messages(10).unwrap();
    let batches = Batches { max_delay: Duration::from_millis(1), max_events: 50, ..Batches::default() };
    let writer = builder("a").mqtt(config).batches(batches).start().await.unwrap();
    for id in 0..5_000 {
        writer.publish(reading(id));
        writer.publish(GlimpseCreated::new(Glimpse { id }));
        if id % 7 == 0 {
            writer.publish_with(reading(id), EmitOptions::default().qos(QoS::AtMostOnce));
            tokio::task::yield_now().await;
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(writer.stats().publish_refused, 0);
    assert_eq!(writer.transport_status().unwrap().unconfirmed, 10);
    let report = writer.shutdown(Duration::from_millis(100)).await;
    assert!(report.unpublished > 1_000, "{report:?}");
    assert_eq!(writer.stats().publish_refused, 0);
}

/// Takes one message, and has room for no other.
struct Narrow(MemoryTransport, Arc<Mutex<Option<Settler>>>);

impl Transport for Narrow {
    fn publish(&self, _: Message) -> Result<Confirmation, PublishError> {
        let (settler, confirmation) = Confirmation::new();
        *self.1.lock().unwrap() = Some(settler);
        Ok(confirmation)
    }

    fn poll_room(&self, _: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        match &*self.1.lock().unwrap() {
            None => std::task::Poll::Ready(()),
            Some(_) => std::task::Poll::Pending,
        }
    }

    fn subscribe(&self, filter: TopicFilter) {
        self.0.subscribe(filter);
    }

    fn unsubscribe(&self, filter: &TopicFilter) {
        self.0.unsubscribe(filter);
    }

    fn next(&self) -> std::pin::Pin<Box<dyn Future<Output = Option<Delivery>> + Send + '_>> {
        self.0.next()
    }

    fn status(&self) -> TransportStatus {
        self.0.status()
    }

    fn close(&self, deadline: Duration) -> std::pin::Pin<Box<dyn Future<Output = Unconfirmed> + Send + '_>> {
        self.0.close(deadline)
    }
}

#[tokio::test]
async fn a_shutdown_counts_what_should_have_been_sent_again() {
    let (broker, taken) = (MemoryBroker::new(), Arc::new(Mutex::new(None)));
    let transport = Narrow(broker.connect("a"), Arc::clone(&taken));
    let writer = builder("a").batches(at_once()).transport(transport).start().await.unwrap();
    for id in 0..10 {
        writer.publish(reading(id));
    }
    eventually(|| taken.lock().unwrap().is_some()).await;
    // Refused, and there is no room.
    let (settler, _) = Confirmation::new();
    let refused = taken.lock().unwrap().replace(settler).unwrap();
    refused.settle(Err(PublishError::Refused { reason: "QuotaExceeded".to_owned() }));
    let report = writer.shutdown(Duration::from_millis(200)).await;
    assert_eq!(report.unpublished, 10);
}

/// Refuses every message in which there is poison.
struct Squeamish(MemoryTransport);

impl Transport for Squeamish {
    fn publish(&self, message: Message) -> Result<Confirmation, PublishError> {
        if String::from_utf8_lossy(&message.payload).contains("poison")
            && !message.topic.as_str().contains("/dlq/")
        {
            let (settler, confirmation) = Confirmation::new();
            settler.settle(Err(PublishError::Refused { reason: "PayloadFormatInvalid".to_owned() }));
            return Ok(confirmation);
        }
        self.0.publish(message)
    }

    fn subscribe(&self, filter: TopicFilter) {
        self.0.subscribe(filter);
    }

    fn unsubscribe(&self, filter: &TopicFilter) {
        self.0.unsubscribe(filter);
    }

    fn next(&self) -> std::pin::Pin<Box<dyn Future<Output = Option<Delivery>> + Send + '_>> {
        self.0.next()
    }

    fn status(&self) -> TransportStatus {
        self.0.status()
    }

    fn close(&self, deadline: Duration) -> std::pin::Pin<Box<dyn Future<Output = Unconfirmed> + Send + '_>> {
        self.0.close(deadline)
    }
}

#[tokio::test]
async fn what_the_broker_refuses_of_a_batch_is_refused_alone() {
    let key = SigningKey::hmac_sha256("k", &[1; 32]).unwrap();
    for signatures in [None, Some(Signatures::new(key))] {
        let broker = MemoryBroker::new();
        let signed = |builder: Builder| match &signatures {
            Some(signatures) => builder.signatures(signatures.clone()),
            None => builder,
        };
        let (hearer, heard) = hearing(signed(builder("b")).transport(broker.connect("b"))).await;
        let writer = signed(builder("a")).batches(at_once()).transport(Squeamish(broker.connect("a")));
        let writer = writer.start().await.unwrap();
        let receipt = Receipt::new();
        for id in 0..10 {
            let value = if id == 4 { "poison" } else { "" }.to_owned();
            let event = ReadingCreated::new(Reading { id, value });
            writer.publish_with(event, EmitOptions::default().receipt(&receipt));
        }
        let fates = receipt.settled().await;
        let lost: Vec<usize> = (0..10).filter(|at| fates[*at].remote != Way::Taken).collect();
        assert_eq!(lost, [4]);
        eventually(|| heard.lock().unwrap().len() == 9).await;
        let letters = writer.dead_letters();
        assert!(letters.len() == 1 && letters[0].event == Some(fates[4].id), "{letters:?}");
        assert!(writer.shutdown(SECOND).await.is_clean());
        assert_eq!((writer.stats().published, writer.stats().publish_failed), (9, 1));
        let _ = hearer.shutdown(SECOND).await;
    }
}

#[tokio::test]
async fn settings_that_cannot_be_meant_are_refused_at_start() {
    let refused = async |batches: Batches, format: Format, expected: &str| {
        let error = builder("a").batches(batches).format(format).start().await.unwrap_err();
        assert!(matches!(error, StartError::Setting { setting: "batches", .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    let default = Batches::default();
    refused(Batches { max_events: 1, ..default }, Format::Specification, "2 to 1000").await;
    refused(Batches { max_events: 1_001, ..default }, Format::Specification, "2 to 1000").await;
    refused(Batches { max_bytes: 0, ..default }, Format::Specification, "max_bytes").await;
    refused(Batches { max_bytes: 300 * 1024, ..default }, Format::Specification, "max_payload").await;
    refused(Batches { max_delay: 61 * SECOND, ..default }, Format::Specification, "max_delay").await;
    refused(default, Format::CloudEventsBinary, "Format::CloudEvents").await;
    // Programs with the npm package would be sent what they do not bear.
    let npm = builder("a").batches(default).topic_layout(Layout::npm()).start().await.unwrap_err();
    assert!(npm.to_string().contains("npm package"), "{npm}");
}
