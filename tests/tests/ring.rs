//! Buffered events that a broker loses, and nodes that notice it and are told them by who published them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use emitter_core::envelope::Format;
use emitter_core::gaps::RingLimits;
use emitter_core::metrics::Stats;
use emitter_core::signature::{Signatures, SigningKey};
use emitter_core::topic::TopicFilter;
use emitter_core::transport::memory::{MemoryBroker, MemoryTransport, Published};
use emitter_core::transport::{
    Confirmation, Confirmed, Delivery, Message, PublishError, Transport, TransportStatus, Unconfirmed,
};
use emitter_core::{Batches, Builder, EmitOptions, Emits, Emitter, Event, HealthStatus, Scope, Subscription};
use emitter_tests::eventually::eventually;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct Order {
    id: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(update)]
struct Stock {
    id: i64,
    left: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(event)]
struct Page {
    id: i64,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(event, expires = "100ms")]
struct Tick {
    id: i64,
}

/// A way to a broker that confirms some messages and forgets them.
struct Leaky {
    inner: MemoryTransport,
    loses: Box<dyn Fn(usize) -> bool + Send + Sync>,
    /// How large a message may be.
    largest: usize,
    /// How many events, or batches, went out, and which of them were lost.
    sent: AtomicUsize,
    lost: Arc<AtomicUsize>,
}

impl Transport for Leaky {
    fn publish(&self, message: Message) -> Result<Confirmation, PublishError> {
        let (size, limit) = (message.payload.len(), self.largest);
        if size > limit {
            return Err(PublishError::TooLarge { size, limit });
        }
        let is_event = !message.topic.as_str().contains("/_");
        if is_event && (self.loses)(self.sent.fetch_add(1, Ordering::Relaxed)) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            let (settler, confirmation) = Confirmation::new();
            settler.settle(Ok(Confirmed { had_subscribers: true }));
            return Ok(confirmation);
        }
        self.inner.publish(message)
    }

    fn subscribe(&self, filter: TopicFilter) {
        self.inner.subscribe(filter);
    }

    fn unsubscribe(&self, filter: &TopicFilter) {
        self.inner.unsubscribe(filter);
    }

    fn next(&self) -> BoxFuture<'_, Option<Delivery>> {
        self.inner.next()
    }

    fn status(&self) -> TransportStatus {
        self.inner.status()
    }

    fn close(&self, deadline: Duration) -> BoxFuture<'_, Unconfirmed> {
        self.inner.close(deadline)
    }
}

fn builder(name: &str) -> Builder {
    Emitter::builder().service("shop").node(name).select_listeners(|_| false)
}

/// A node whose events get lost where `loses` says so, counted from 0.
async fn writer(
    broker: &MemoryBroker,
    configure: impl FnOnce(Builder) -> Builder,
    loses: impl Fn(usize) -> bool + Send + Sync + 'static,
) -> (Emitter, Arc<AtomicUsize>) {
    narrow_writer(broker, usize::MAX, configure, loses).await
}

/// The same with a way on which messages may be no larger.
async fn narrow_writer(
    broker: &MemoryBroker,
    largest: usize,
    configure: impl FnOnce(Builder) -> Builder,
    loses: impl Fn(usize) -> bool + Send + Sync + 'static,
) -> (Emitter, Arc<AtomicUsize>) {
    let lost = Arc::new(AtomicUsize::new(0));
    let (inner, loses) = (broker.connect("writer"), Box::new(loses));
    let leaky = Leaky { inner, loses, largest, sent: AtomicUsize::new(0), lost: Arc::clone(&lost) };
    (configure(builder("writer")).transport(leaky).start().await.unwrap(), lost)
}

#[derive(Debug, Clone, Default)]
struct Ear(Arc<Mutex<Vec<i64>>>);

impl Ear {
    fn heard(&self) -> Vec<i64> {
        self.0.lock().unwrap().clone()
    }

    fn listen(&self, emitter: &Emitter) -> Subscription {
        let ear = self.clone();
        let listens = emitter.on::<OrderEvent>().allow_remote();
        listens.run(move |event: Event<OrderEvent>| {
            let id = match &*event {
                OrderEvent::Created(created) => created.row.id,
                OrderEvent::Updated(updated) => updated.after.id,
            };
            ear.0.lock().unwrap().push(id);
            std::future::ready(())
        })
    }
}

async fn hearer(broker: &MemoryBroker, configure: impl FnOnce(Builder) -> Builder) -> (Emitter, Ear) {
    let transport = broker.connect("hearer");
    let emitter = configure(builder("hearer")).transport(transport).start().await.unwrap();
    let ear = Ear::default();
    let _ = ear.listen(&emitter);
    emitter.connected(10 * SECOND).await.unwrap();
    (emitter, ear)
}

/// Creates and updates, whose topics differ.
fn write(emitter: &Emitter, ids: impl IntoIterator<Item = i64>) {
    for id in ids {
        match id % 2 {
            0 => emitter.publish(OrderCreated::new(Order { id })),
            _ => emitter.publish(OrderUpdated::new(None, Order { id }, None)),
        };
    }
}

async fn end(emitters: impl IntoIterator<Item = Emitter>) {
    for emitter in emitters {
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }
}

/// What nodes said to each other below a topic.
fn words(broker: &MemoryBroker, below: &str) -> Vec<Published> {
    broker.published().into_iter().filter(|message| message.topic.contains(below)).collect()
}

fn signatures(key: &str) -> Signatures {
    Signatures::new(SigningKey::hmac_sha256(key, key.repeat(32).as_bytes()).unwrap())
}

#[tokio::test]
async fn what_a_broker_lost_is_told_by_who_published_it() {
    let broker = MemoryBroker::new();
    let (hearer, ear) = hearer(&broker, |builder| builder).await;
    let (writer, lost) =
        writer(&broker, |builder| builder, |sent| sent % 7 == 3 || (50..90).contains(&sent)).await;
    for some in 0..10 {
        write(&writer, some * 50..(some + 1) * 50);
        eventually(|| ear.heard().len() as i64 >= some * 50 + 45).await;
    }
    eventually(|| ear.heard().len() == 500).await;
    assert_eq!(ear.heard(), (0..500).collect::<Vec<_>>(), "each once, and in order");
    let Stats { gaps, recovered, lost: gone, .. } = hearer.stats();
    let lost = lost.load(Ordering::Relaxed) as u64;
    assert!(gaps > 0 && lost > 100 && recovered == lost && gone == 0, "{lost}: {gaps} {recovered} {gone}");
    assert_eq!(hearer.health().status, HealthStatus::Healthy);
    // The writer asks nobody, and its own events are no gaps to it.
    assert_eq!(writer.stats().gaps, 0);
    end([writer, hearer]).await;
}

/// More than may wait without being acknowledged: then what is missing comes later.
#[tokio::test]
async fn a_torrent_is_not_held_up_by_what_is_missing() {
    let broker = MemoryBroker::new();
    let (hearer, ear) = hearer(&broker, |builder| builder).await;
    let (writer, _) = writer(&broker, |builder| builder, |sent| sent == 10).await;
    write(&writer, 0..5_000);
    eventually(|| ear.heard().len() == 5_000).await;
    let Stats { recovered, lost, duplicates, .. } = hearer.stats();
    assert_eq!((recovered, lost), (1, 0), "{duplicates} came twice");
    let heard: HashSet<i64> = ear.heard().into_iter().collect();
    assert_eq!(heard.len(), 5_000, "each once");
    end([writer, hearer]).await;
}

#[tokio::test]
async fn in_every_form_signed_or_not_alone_or_together() {
    let forms = [Format::Specification, Format::CloudEvents, Format::CloudEventsBinary, Format::Tracker];
    for (form, batches, signed) in forms.into_iter().flat_map(|form| {
        let kinds = [(false, false), (false, true), (true, false), (true, true)];
        kinds.map(|(batches, signed)| (form, batches, signed))
    }) {
        // Of those a batch would have to carry properties, which it cannot.
        if form == Format::CloudEventsBinary && batches {
            continue;
        }
        let broker = MemoryBroker::new();
        let configure = |builder: Builder| {
            let builder = builder.format(form);
            let builder = if batches {
                builder.batches(Batches { max_events: 3, ..Batches::default() })
            } else {
                builder
            };
            if signed { builder.signatures(signatures("a")) } else { builder }
        };
        let (hearer, ear) = hearer(&broker, configure).await;
        let (writer, lost) = writer(&broker, configure, |sent| sent % 2 == 1).await;
        write(&writer, 0..31);
        eventually(|| writer.stats().published == 31).await;
        // The last of them shows what is missing.
        write(&writer, [31]);
        tokio::time::sleep(Duration::from_millis(20)).await;
        write(&writer, [32]);
        eventually(|| ear.heard().len() == 33).await;
        assert_eq!(ear.heard(), (0..33).collect::<Vec<_>>(), "{form:?}, {batches}, {signed}");
        assert!(lost.load(Ordering::Relaxed) > 0 && hearer.stats().lost == 0);
        assert_eq!((hearer.stats().bad_messages, writer.stats().bad_messages), (0, 0));
        end([writer, hearer]).await;
    }
}

#[tokio::test]
async fn what_was_lost_last_is_told_too() {
    let broker = MemoryBroker::new();
    let (hearer, ear) = hearer(&broker, |builder| builder).await;
    let (writer, _) = writer(&broker, |builder| builder, |sent| sent >= 3).await;
    write(&writer, 0..5);
    let begun = Instant::now();
    while ear.heard().len() < 5 {
        assert!(begun.elapsed() < 30 * SECOND, "{:?}", ear.heard());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(ear.heard(), [0, 1, 2, 3, 4]);
    assert!(words(&broker, "_replay/heads").len() < 5, "heads are few");
    end([writer, hearer]).await;
}

#[tokio::test]
async fn what_a_ring_keeps_no_more_is_counted_as_lost() {
    let broker = MemoryBroker::new();
    let (hearer, ear) = hearer(&broker, |builder| builder).await;
    let small = RingLimits { events: 10, ..RingLimits::default() };
    let (writer, _) = writer(&broker, |builder| builder.ring(small), |sent| (1..40).contains(&sent)).await;
    write(&writer, 0..40);
    eventually(|| writer.stats().published == 40).await;
    write(&writer, [40]);
    eventually(|| ear.heard().contains(&40)).await;
    assert_eq!(ear.heard(), [0].into_iter().chain(31..=40).collect::<Vec<_>>());
    assert_eq!((hearer.stats().lost, hearer.stats().recovered), (30, 9));
    let health = hearer.health();
    assert_eq!(health.status, HealthStatus::Degraded);
    assert!(health.reasons.iter().any(|reason| reason.starts_with("30 events")), "{:?}", health.reasons);
    end([writer, hearer]).await;
}

#[tokio::test]
async fn a_dead_node_answers_nobody_and_what_it_had_is_counted_as_lost() {
    let broker = MemoryBroker::new();
    let (hearer, ear) = hearer(&broker, |builder| builder).await;
    let (writer, _) = writer(&broker, |builder| builder, |sent| (1..4).contains(&sent)).await;
    write(&writer, 0..4);
    eventually(|| writer.stats().published == 4).await;
    assert_eq!(ear.heard(), [0]);
    // It dies with its last word.
    write(&writer, 4..6);
    end([writer]).await;
    let begun = Instant::now();
    eventually(|| ear.heard() == [0, 4, 5]).await;
    assert!(begun.elapsed() > SECOND, "they waited");
    // Nobody else's events did.
    while hearer.stats().lost == 0 {
        assert!(begun.elapsed() < 60 * SECOND);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((hearer.stats().lost, hearer.stats().gaps), (3, 1));
    assert_eq!(hearer.health().status, HealthStatus::Degraded);
    let asked = words(&broker, "_replay/ask").len();
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(words(&broker, "_replay/ask").len(), asked, "it is not asked for again");
    end([hearer]).await;
}

/// Whenever waiting ends: after some seconds, or as soon as too much waits.
#[tokio::test]
async fn what_waited_in_vain_is_heard_before_what_comes_then() {
    for (pause, most) in [(10, 450), (0, 300)] {
        let broker = MemoryBroker::new();
        let (hearer, _) = hearer(&broker, |builder| builder).await;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = Arc::clone(&heard);
        let _ = hearer.on::<StockUpdated>().allow_remote().run(move |event: Event<StockUpdated>| {
            ear.lock().unwrap().push(event.after.left);
            std::future::ready(())
        });
        hearer.connected(10 * SECOND).await.unwrap();
        // Nobody answers.
        let off = RingLimits { events: 0, ..RingLimits::default() };
        let (writer, _) = writer(&broker, |builder| builder.ring(off), |sent| sent == 1).await;
        for left in 0..most {
            writer.publish(StockUpdated::new(None, Stock { id: 1, left }, None));
            if pause > 0 {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
        eventually(|| heard.lock().unwrap().len() as i64 == most - 1).await;
        let all: Vec<i64> = (0..most).filter(|left| *left != 1).collect();
        assert_eq!(*heard.lock().unwrap(), all);
        end([writer, hearer]).await;
    }
}

#[tokio::test]
async fn what_waits_is_not_acknowledged_and_comes_again_to_the_next_life() {
    let broker = MemoryBroker::new();
    let (first, ear) = hearer(&broker, |builder| builder).await;
    let off = RingLimits { events: 0, ..RingLimits::default() };
    let (writer, _) = writer(&broker, |builder| builder.ring(off), |sent| sent == 1).await;
    write(&writer, 0..3);
    eventually(|| first.stats().gaps == 1).await;
    assert_eq!((ear.heard(), broker.unacknowledged("hearer")), (vec![0], 1));
    // Without a ring it hears no questions.
    assert_eq!(broker.subscriptions("writer"), [""; 0]);
    let _ = first.shutdown(SECOND).await;
    let (second, ear) = hearer(&broker, |builder| builder).await;
    eventually(|| ear.heard() == [2]).await;
    end([second, writer]).await;
}

#[tokio::test]
async fn what_does_not_leave_makes_no_hole_and_neither_does_what_cannot() {
    let broker = MemoryBroker::new();
    let (hearer, ear) = hearer(&broker, |builder| builder).await;
    let (writer, _) = writer(&broker, |builder| builder.max_payload(2_000), |_| false).await;
    for id in 0..20 {
        write(&writer, [id]);
        writer.publish_with(OrderCreated::new(Order { id: 100 }), Scope::LOCAL);
        // Too large.
        let notes = (0..16).map(|note| format!("note{note}"));
        let options =
            notes.fold(EmitOptions::default(), |options, note| options.metadata(note, "x".repeat(256)));
        writer.publish_with(OrderCreated::new(Order { id: 200 }), options);
    }
    eventually(|| ear.heard().len() == 20).await;
    assert_eq!(writer.stats().publish_failed, 20);
    assert_eq!((hearer.stats().gaps, words(&broker, "_replay/ask").len()), (0, 0));
    end([writer, hearer]).await;
}

#[tokio::test]
async fn what_has_expired_is_not_told() {
    let broker = MemoryBroker::new();
    let (hearer, _) = hearer(&broker, |builder| builder).await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = Arc::clone(&heard);
    let _ = hearer.on::<Tick>().allow_remote().run(move |event: Event<Tick>| {
        ear.lock().unwrap().push(event.id);
        std::future::ready(())
    });
    hearer.connected(10 * SECOND).await.unwrap();
    let (writer, _) = writer(&broker, |builder| builder, |sent| sent == 1).await;
    for id in 0..2 {
        writer.publish(Tick { id });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    writer.publish(Tick { id: 2 });
    eventually(|| heard.lock().unwrap().len() == 2).await;
    assert_eq!(*heard.lock().unwrap(), [0, 2]);
    let Stats { gaps, recovered, lost, .. } = hearer.stats();
    assert_eq!((gaps, recovered, lost), (1, 0, 0));
    end([writer, hearer]).await;
}

/// The ids of the pages that a node hears.
fn pages(hearer: &Emitter) -> Arc<Mutex<Vec<i64>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = Arc::clone(&heard);
    let _ = hearer.on::<Page>().allow_remote().run(move |event: Event<Page>| {
        ear.lock().unwrap().push(event.id);
        std::future::ready(())
    });
    heard
}

fn page(id: i64, bytes: usize) -> Page {
    Page { id, text: "x".repeat(bytes) }
}

/// As with a limit that was raised at one end first.
#[tokio::test]
async fn what_is_too_large_to_be_read_hinders_nothing_behind_it() {
    let broker = MemoryBroker::new();
    let (hearer, _) = hearer(&broker, |builder| builder).await;
    let heard = pages(&hearer);
    hearer.connected(10 * SECOND).await.unwrap();
    let (writer, _) = writer(&broker, |builder| builder.max_payload(2_000_000), |sent| sent == 3).await;
    for (id, bytes) in [(0, 1), (1, 900_000), (2, 1), (3, 1), (4, 1)] {
        writer.publish(page(id, bytes));
    }
    eventually(|| *heard.lock().unwrap() == [0, 2, 3, 4]).await;
    // Once as it came, and once as it was told.
    let Stats { lost, recovered, bad_messages, .. } = hearer.stats();
    assert_eq!((lost, recovered, bad_messages, hearer.dead_letters().len()), (0, 1, 2, 2));
    assert_eq!(words(&broker, "_replay/to").len(), words(&broker, "_replay/ask").len());
    end([writer, hearer]).await;
}

#[tokio::test]
async fn what_does_not_fit_into_an_answer_is_told_as_lost() {
    let broker = MemoryBroker::new();
    let (hearer, _) = hearer(&broker, |builder| builder).await;
    let heard = pages(&hearer);
    hearer.connected(10 * SECOND).await.unwrap();
    let loses = |sent| matches!(sent, 2..7);
    let (writer, _) = narrow_writer(&broker, 20_000, |builder| builder, loses).await;
    for (id, bytes) in [(0, 0), (1, 100)] {
        writer.publish(page(id, bytes));
    }
    eventually(|| heard.lock().unwrap().len() == 2).await;
    let sizes: Vec<usize> = words(&broker, "page").iter().map(|event| event.payload.len()).collect();
    let (beside, each) = (sizes[0], (sizes[1] - sizes[0]) / 100);
    // The first one just fits, and what is around it in an answer does not. Those behind it do not fit together.
    for (id, bytes) in [(2, 20_000 - beside - 10), (3, 9_000), (4, 9_000), (5, 9_000), (6, 9_000)] {
        writer.publish(page(id, bytes / each));
    }
    eventually(|| writer.stats().published == 7).await;
    writer.publish(page(7, 1));
    eventually(|| *heard.lock().unwrap() == [0, 1, 3, 4, 5, 6, 7]).await;
    assert_eq!((hearer.stats().lost, hearer.stats().recovered), (1, 4));
    end([writer, hearer]).await;
}

#[tokio::test]
async fn words_that_cannot_be_read_are_no_dead_letters() {
    let broker = MemoryBroker::new();
    let (hearer, ear) = hearer(&broker, |builder| builder).await;
    let (writer, _) = writer(&broker, |builder| builder, |_| false).await;
    write(&writer, 0..1);
    eventually(|| ear.heard() == [0]).await;
    for topic in ["heads", "to/shop.hearer"] {
        broker.publish(&format!("prisma/events/_replay/{topic}"), "{}");
    }
    eventually(|| hearer.stats().bad_messages == 2).await;
    assert_eq!((hearer.dead_letters().len(), broker.unacknowledged("hearer")), (0, 0));
    end([writer, hearer]).await;
}

#[tokio::test]
async fn a_group_looks_for_no_gaps() {
    let broker = MemoryBroker::new();
    let member = builder("member").transport(broker.connect("member")).start().await.unwrap();
    let ear = Ear::default();
    let listening = ear.clone();
    let _ =
        member.on::<OrderCreated>().allow_remote().group("desk").run(move |event: Event<OrderCreated>| {
            listening.0.lock().unwrap().push(event.row.id);
            std::future::ready(())
        });
    member.connected(10 * SECOND).await.unwrap();
    let (writer, _) = writer(&broker, |builder| builder, |sent| sent == 1).await;
    for id in [0, 2, 4] {
        write(&writer, [id]);
    }
    eventually(|| ear.heard() == [0, 4]).await;
    assert_eq!((member.stats().gaps, words(&broker, "_replay/ask").len()), (0, 0));
    end([writer, member]).await;
}

#[tokio::test]
async fn what_came_while_no_listener_was_there_is_not_missing() {
    let broker = MemoryBroker::new();
    let hearer = builder("hearer").transport(broker.connect("hearer")).start().await.unwrap();
    let (writer, _) = writer(&broker, |builder| builder, |_| false).await;
    let ear = Ear::default();
    for round in 0..3 {
        let listening = ear.listen(&hearer);
        hearer.connected(10 * SECOND).await.unwrap();
        write(&writer, [round * 10]);
        eventually(|| ear.heard().contains(&(round * 10))).await;
        listening.unsubscribe();
        eventually(|| !broker.subscriptions("hearer").iter().any(|filter| filter.contains("order"))).await;
        write(&writer, round * 10 + 1..round * 10 + 9);
        eventually(|| writer.stats().published == (round as u64 + 1) * 9).await;
    }
    assert_eq!((ear.heard(), hearer.stats().gaps), (vec![0, 10, 20], 0));
    end([writer, hearer]).await;
}

#[tokio::test]
async fn questions_of_strangers_are_bounded() {
    let broker = MemoryBroker::new();
    let (hearer, ear) = hearer(&broker, |builder| builder).await;
    let (writer, _) = writer(&broker, |builder| builder, |_| false).await;
    write(&writer, 0..500);
    eventually(|| ear.heard().len() == 500).await;
    let life = format!("~{}", writer.origin().incarnation.simple());
    let ask = |from: &str, streams: serde_json::Value| {
        let ask = serde_json::json!({ "from": from, "streams": streams }).to_string();
        broker.publish("prisma/events/_replay/ask", ask);
    };
    let stream = |life: &str, model: &str, after: u64| serde_json::json!({ "stream": { "outbox": life, "lane": 0, "model": model }, "after": after });
    // Foreign streams, models that are none, numbers beyond all: nobody is told anything.
    let odd = [
        stream("~00000000000000000000000000000000", "order", 0),
        stream("box", "order", 0),
        stream(&life, "nothing", 0),
        stream(&life.to_uppercase(), "order", 0),
        serde_json::json!({ "stream": { "outbox": life, "lane": 1, "model": "order" }, "after": 0 }),
        serde_json::json!({ "stream": { "outbox": life, "lane": 0, "model": "order" }, "since": 0 }),
    ];
    for odd in odd {
        ask("stranger", serde_json::json!([odd]));
    }
    ask("stranger/../#", serde_json::json!([stream(&life, "order", 0)]));
    write(&writer, [500]);
    eventually(|| ear.heard().len() == 501).await;
    assert_eq!(words(&broker, "_replay/to").len(), 0);
    // A flood, of the same question in each place.
    let begun = Instant::now();
    let streams = serde_json::Value::from(vec![stream(&life, "order", 0); 400]);
    for round in 0..300 {
        ask(&format!("stranger{}", round % 3), streams.clone());
    }
    write(&writer, [501]);
    eventually(|| ear.heard().len() == 502).await;
    ask("friend", serde_json::json!([stream(&life, "order", u64::MAX)]));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    let answers = words(&broker, "_replay/to");
    assert!((1..=100 * seconds).contains(&answers.len()), "{} in {seconds} s", answers.len());
    assert!(answers.iter().all(|answer| answer.payload.len() < 128 * 1024));
    // One that floods has no more than half of it.
    for who in 0..3 {
        let to = answers.iter().filter(|answer| answer.topic.ends_with(&format!("stranger{who}"))).count();
        assert!(to <= 50 * seconds, "{to}");
    }
    end([writer, hearer]).await;
}

/// Where nobody signs, strangers may say that somebody else counts what a node publishes.
#[tokio::test]
async fn a_forged_head_makes_nobody_deaf() {
    let broker = MemoryBroker::new();
    let (hearer, ear) = hearer(&broker, |builder| builder).await;
    let off = RingLimits { events: 0, ..RingLimits::default() };
    let (writer, _) = writer(&broker, |builder| builder.ring(off), |sent| sent == 1).await;
    write(&writer, 0..10);
    eventually(|| broker.unacknowledged("hearer") == 8).await;
    let life = format!("~{}", writer.origin().incarnation.simple());
    let stream = serde_json::json!({ "outbox": life, "lane": 0, "model": "order" });
    for (epoch, last) in [(1, 0), (1, 9), (i64::MAX, i64::MAX)] {
        let head =
            serde_json::json!({ "heads": [{ "stream": stream, "epoch": epoch, "base": 0, "last": last }] });
        broker.publish("prisma/events/_replay/heads", head.to_string());
        let answer = serde_json::json!({
            "stream": stream, "epoch": epoch, "base": 0, "after": 1, "covered": 1, "last": last.max(1), "lost": 0, "events": [],
        });
        broker.publish("prisma/events/_replay/to/shop.hearer", answer.to_string());
    }
    eventually(|| hearer.stats().bad_messages == 6).await;
    eventually(|| ear.heard().len() == 9).await;
    assert_eq!(ear.heard(), [0, 2, 3, 4, 5, 6, 7, 8, 9]);
    eventually(|| broker.unacknowledged("hearer") == 0).await;
    end([writer, hearer]).await;
}

#[tokio::test]
async fn who_signs_is_asked_and_answers_by_signed_words_alone() {
    let broker = MemoryBroker::new();
    let (writer, _) = writer(&broker, |builder| builder.signatures(signatures("a")), |sent| sent == 1).await;
    let (hearer, ear) = hearer(&broker, |builder| builder.signatures(signatures("a"))).await;
    write(&writer, 0..1);
    eventually(|| ear.heard() == [0]).await;
    let life = format!("~{}", writer.origin().incarnation.simple());
    let stream = serde_json::json!({ "outbox": life, "lane": 0, "model": "order" });
    let ask = serde_json::json!({ "from": "stranger", "streams": [{ "stream": stream, "after": 0 }] });
    broker.publish("prisma/events/_replay/ask", ask.to_string());
    eventually(|| writer.stats().unauthentic == 1).await;
    // An answer and a head of somebody else, while something is missing.
    write(&writer, 1..2);
    eventually(|| writer.stats().published == 2).await;
    let head =
        serde_json::json!({ "heads": [{ "stream": stream, "epoch": 0, "base": 0, "last": 1_000_000 }] });
    broker.publish("prisma/events/_replay/heads", head.to_string());
    let answer = serde_json::json!({
        "stream": stream, "epoch": 0, "base": 0, "after": 1, "covered": 9, "last": 9, "lost": 1_000, "events": [],
    });
    broker.publish("prisma/events/_replay/to/shop.hearer", answer.to_string());
    write(&writer, 2..3);
    eventually(|| ear.heard() == [0, 1, 2]).await;
    assert_eq!((hearer.stats().unauthentic, hearer.stats().lost), (2, 0));
    let told: HashSet<String> = words(&broker, "_replay/to").into_iter().map(|word| word.topic).collect();
    assert_eq!(told, HashSet::from(["prisma/events/_replay/to/shop.hearer".to_owned()]));
    end([writer, hearer]).await;
}
