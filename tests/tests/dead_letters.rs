//! What cannot be read, handled or published becomes a dead letter, and is acknowledged only then.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::dead_letter::{DeadLetter, DeadLetterLimits, Reason};
use emitter_core::retry::{Backoff, Retry};
use emitter_core::testing::TestEmitter;
use emitter_core::topic::TopicFilter;
use emitter_core::transport::{
    Confirmation, Delivery, Message, PublishError, Transport, TransportStatus, Unconfirmed,
};
use emitter_core::{
    Builder, Context, Emits, Emitter, Event, ListenerOptions, RedriveError, ReplayError, Source, State,
    listener,
};
use emitter_tests::eventually::eventually;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "parcel", create)]
struct Parcel {
    id: i64,
    note: String,
}

fn parcel(id: i64) -> ParcelCreated {
    ParcelCreated::new(Parcel { id, note: "fragile".to_owned() })
}

/// Which parcels are not delivered, and how often it was tried.
#[derive(Default)]
struct Depot {
    closed: Mutex<bool>,
    calls: AtomicUsize,
}

#[listener(model = "parcel", allow_remote)]
async fn deliver(event: Event<ParcelCreated>, depot: State<Arc<Depot>>) -> Result<(), String> {
    depot.calls.fetch_add(1, Ordering::SeqCst);
    match *depot.closed.lock().unwrap() {
        true => Err(format!("no courier for {}", event.key())),
        false => Ok(()),
    }
}

#[listener(model = "parcel", allow_remote, dead_letter = false)]
async fn advertise(_: Event<ParcelCreated>, depot: State<Arc<Depot>>) -> Result<(), &'static str> {
    match *depot.closed.lock().unwrap() {
        true => Err("nobody reads it"),
        false => Ok(()),
    }
}

fn quick() -> Retry {
    let backoff =
        Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(1), jitter: Duration::ZERO };
    Retry { attempts: 3, backoff, budget: Duration::from_secs(5) }
}

async fn start(set_up: impl FnOnce(Builder) -> Builder) -> (TestEmitter, Arc<Depot>) {
    let depot = Arc::new(Depot::default());
    let state = Arc::clone(&depot);
    let node = TestEmitter::start(|builder| set_up(builder.state(state).listener_retry(quick()))).await;
    (node, depot)
}

/// What was published under the prefix for dead letters: topics and letters.
fn letters(node: &TestEmitter) -> Vec<(String, Value)> {
    let all = node.broker().published().into_iter();
    let dead = all.filter(|message| message.topic.starts_with("prisma/events/dlq/"));
    dead.map(|message| (message.topic.clone(), serde_json::from_slice(&message.payload).unwrap())).collect()
}

#[tokio::test]
async fn what_cannot_be_read_becomes_one() {
    let (node, _) = start(|builder| builder).await;
    let event = json!({ "model": "parcel", "operation": "create", "args": {}, "result": { "id": 4 } });
    node.receive_message("prisma/events/parcel/create", event.to_string()).await;
    node.receive_message("prisma/events/parcel/create", "{\"model\"").await;
    node.receive_message("prisma/events/parcel/create", &b"\xff\xfe"[..]).await;
    node.drain().await;
    eventually(|| letters(&node).len() == 3).await;
    let letters = letters(&node);
    for (topic, letter) in &letters {
        assert_eq!(topic, "prisma/events/dlq/prisma_events_parcel_create");
        assert_eq!(letter["original_topic"], "prisma/events/parcel/create");
        assert_eq!(letter["reason"], "undecodable");
        assert!(letter["failure_reason"].as_str().unwrap().starts_with("undecodable: "), "{letter}");
        assert!(letter["failure_timestamp"].as_str().unwrap().ends_with('Z'), "{letter}");
        assert_eq!(letter["node"]["node"], "test");
    }
    assert_eq!(letters[0].1["payload"], event);
    assert_eq!(letters[1].1["payload"], "{\"model\"");
    assert_eq!(
        (&letters[2].1["payload"], &letters[2].1["payload_encoding"]),
        (&json!("//4="), &json!("base64"))
    );
    assert_eq!(node.broker().unacknowledged("app.test"), 0);
    let stats = node.stats();
    assert_eq!((stats.bad_messages, stats.dead_letters, stats.dead_letters_lost), (3, 3, 0));
    assert_eq!(node.emitter().dead_letters().len(), 3);
}

#[tokio::test]
async fn what_a_listener_does_not_handle_becomes_one_and_can_be_replayed() {
    let (node, depot) = start(|builder| builder).await;
    *depot.closed.lock().unwrap() = true;
    let id = node.receive(parcel(7)).await;
    node.drain().await;
    let letters = letters(&node);
    let [(_, letter)] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((&letter["reason"], &letter["listener"]), (&json!("unhandled"), &json!("deliver")));
    assert_eq!((&letter["attempts"], &letter["error"]), (&json!(3), &json!("no courier for 7")));
    assert_eq!(letter["event_id"], id.to_string());
    assert_eq!(letter["payload"]["result"], json!({ "id": 7, "note": "fragile" }));
    assert_eq!(node.broker().unacknowledged("app.test"), 0);
    assert_eq!(node.stats().given_up, 2, "the other listener wants no dead letters");

    *depot.closed.lock().unwrap() = false;
    let before = depot.calls.load(Ordering::SeqCst);
    let kept = node.emitter().dead_letters();
    assert_eq!(node.emitter().replay_letter(&kept[0]), Ok(id));
    node.drain().await;
    assert_eq!(depot.calls.load(Ordering::SeqCst), before + 1);
}

#[tokio::test]
async fn what_this_node_wrote_becomes_one_too() {
    let (node, depot) = start(|builder| builder).await;
    *depot.closed.lock().unwrap() = true;
    let id = node.emitter().publish(parcel(7)).id;
    node.drain().await;
    eventually(|| letters(&node).len() == 1).await;
    let kept = node.emitter().dead_letters();
    assert_eq!((kept[0].event, &*kept[0].original_topic), (Some(id), "prisma/events/parcel/create"));
    assert_eq!(kept[0].reason, Reason::Unhandled);
    let sources = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&sources);
    let _ = node.emitter().on::<ParcelCreated>().allow_remote().run(move |event: Event<ParcelCreated>| {
        noted.lock().unwrap().push((event.source(), event.id()));
        std::future::ready(())
    });
    *depot.closed.lock().unwrap() = false;
    node.emitter().replay(&kept[0].payload).unwrap();
    node.drain().await;
    assert_eq!(*sources.lock().unwrap(), [(Source::Local, id)]);
}

/// Its row cannot be written, and its listener never handles it.
#[derive(Debug, Clone, PartialEq, Emits)]
#[emits(model = "cursed", create)]
struct Cursed {
    id: i64,
}

impl Serialize for Cursed {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("the user's own")
    }
}

impl<'de> Deserialize<'de> for Cursed {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        unreachable!("nobody can write one")
    }
}

#[tokio::test]
async fn what_may_not_leave_the_node_is_not_published_as_one() {
    let (node, depot) = start(|builder| builder).await;
    *depot.closed.lock().unwrap() = true;
    node.emitter().publish_with(parcel(7), emitter_core::Scope::LOCAL);
    node.drain().await;
    eventually(|| node.emitter().dead_letters().len() == 1).await;
    // One that may leave is there after it.
    node.emitter().publish(parcel(8));
    eventually(|| letters(&node).len() == 1).await;
    assert_eq!(letters(&node)[0].1["payload"]["result"]["id"], 8);
    assert_eq!(node.emitter().dead_letters().len(), 2);
}

#[tokio::test]
async fn a_row_that_cannot_be_written_ends_no_listener() {
    for attempts in [1, 3] {
        let retry = Retry { attempts, ..quick() };
        let (node, _) = start(|builder| builder.listener_retry(retry)).await;
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let _ = node.emitter().on::<CursedCreated>().run(move |_: Event<CursedCreated>| {
            counted.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Err::<(), _>("never"))
        });
        for _ in 0..3 {
            node.emitter().publish_with(CursedCreated::new(Cursed { id: 1 }), emitter_core::Scope::LOCAL);
        }
        eventually(|| node.stats().given_up == 3).await;
        assert_eq!(calls.load(Ordering::SeqCst), 3 * attempts as usize);
        eventually(|| node.emitter().dead_letters().len() == 3).await;
        assert_eq!(node.emitter().dead_letters()[0].payload.len(), 0);
    }
}

#[tokio::test]
async fn a_letter_of_another_program_is_replayed_by_its_topic() {
    let (node, depot) = start(|builder| builder).await;
    *depot.closed.lock().unwrap() = true;
    let event = json!({ "specversion": "1.0", "id": "1", "source": "/elsewhere", "type": "x", "data": { "id": 7, "note": "" } });
    node.receive_message("prisma/events/parcel/create", event.to_string()).await;
    node.drain().await;
    let kept = node.emitter().dead_letters();
    assert!(node.emitter().replay(&kept[0].payload).is_err(), "it does not name its model");
    *depot.closed.lock().unwrap() = false;
    let handled = node.stats().handled;
    assert!(node.emitter().replay_letter(&kept[0]).is_ok());
    node.drain().await;
    assert_eq!(node.stats().handled, handled + 2);
}

#[tokio::test]
async fn letters_of_the_last_moment_are_kept() {
    let kept: Arc<Mutex<Vec<Reason>>> = Arc::default();
    let keeping = Arc::clone(&kept);
    let builder = Emitter::builder().node("a").select_listeners(|_| false).keep_dead_letters(move |letter| {
        keeping.lock().unwrap().push(letter.reason);
        std::future::ready(Ok::<(), String>(()))
    });
    let emitter = builder.transport(Refusing::default()).start().await.unwrap();
    for id in 0..20 {
        emitter.publish(parcel(id));
    }
    assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
    assert_eq!(*kept.lock().unwrap(), [Reason::Unpublished; 20]);
}

#[tokio::test]
async fn a_flood_of_bad_messages_makes_none_of_letters() {
    let limits = DeadLetterLimits { per_second: 1, burst: 5, kept: 3, ..DeadLetterLimits::default() };
    let (node, _) = start(|builder| builder.dead_letters(limits)).await;
    for _ in 0..500 {
        node.receive_message("prisma/events/parcel/create", "no event").await;
    }
    node.drain().await;
    eventually(|| node.broker().unacknowledged("app.test") == 0).await;
    let stats = node.stats();
    assert_eq!(stats.bad_messages, 500);
    assert_eq!(stats.dead_letters + stats.dead_letters_lost, 500);
    assert!((5..=30).contains(&stats.dead_letters), "{stats:?}");
    assert_eq!(node.emitter().dead_letters().len(), 3);
}

#[tokio::test]
async fn a_dead_letter_never_becomes_one() {
    let (node, _) = start(|builder| builder).await;
    for topic in ["prisma/events/dlq/prisma_events_parcel_create", "prisma/events/_nodes/a", "elsewhere"] {
        assert!(node.broker().send("app.test", topic, "no event"));
    }
    node.drain().await;
    eventually(|| node.stats().bad_messages == 3).await;
    assert_eq!((node.stats().dead_letters, letters(&node).len()), (0, 0));
}

#[tokio::test]
async fn they_are_kept_where_the_application_says() {
    let kept: Arc<Mutex<Vec<Arc<DeadLetter>>>> = Arc::default();
    let keeping = Arc::clone(&kept);
    let (node, _) = start(|builder| {
        builder
            .dead_letters(DeadLetterLimits { publish: false, ..DeadLetterLimits::default() })
            .keep_dead_letters(move |letter| {
                let keeping = Arc::clone(&keeping);
                async move {
                    let mut kept = keeping.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    kept.push(letter);
                    assert!(kept.len() != 2, "the second one");
                    if kept.len() == 3 { Err("a full disk") } else { Ok(()) }
                }
            })
    })
    .await;
    for _ in 0..4 {
        node.receive_message("prisma/events/parcel/create", "no event").await;
        node.drain().await;
        let seen = || kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len();
        let before = seen();
        eventually(|| seen() >= before).await;
    }
    eventually(|| node.broker().unacknowledged("app.test") == 0).await;
    assert_eq!(letters(&node).len(), 0);
    assert_eq!((node.stats().dead_letters, node.stats().dead_letters_lost), (4, 2));
}

/// Refuses everything but dead letters.
#[derive(Clone, Default)]
struct Refusing(Arc<Mutex<Vec<Message>>>);

impl Transport for Refusing {
    fn publish(&self, message: Message) -> Result<Confirmation, PublishError> {
        let (settler, confirmation) = Confirmation::new();
        if message.topic.as_str().contains("/dlq/") {
            self.0.lock().unwrap().push(message);
            settler.settle(Ok(emitter_core::transport::Confirmed { had_subscribers: false }));
        } else {
            settler.settle(Err(PublishError::Refused { reason: "NotAuthorized".to_owned() }));
        }
        Ok(confirmation)
    }

    fn subscribe(&self, _: TopicFilter) {}

    fn unsubscribe(&self, _: &TopicFilter) {}

    fn next(&self) -> std::pin::Pin<Box<dyn Future<Output = Option<Delivery>> + Send + '_>> {
        Box::pin(std::future::pending())
    }

    fn status(&self) -> TransportStatus {
        TransportStatus::default()
    }

    fn close(&self, _: Duration) -> std::pin::Pin<Box<dyn Future<Output = Unconfirmed> + Send + '_>> {
        Box::pin(async { Unconfirmed::default() })
    }
}

#[tokio::test]
async fn what_the_broker_refuses_or_would_not_take_becomes_one() {
    let refusing = Refusing::default();
    let builder = Emitter::builder().node("a").select_listeners(|_| false).max_payload(2_000);
    let emitter = builder.transport(refusing.clone()).start().await.unwrap();
    emitter.publish(parcel(7));
    eventually(|| refusing.0.lock().unwrap().len() == 1).await;
    emitter.publish(ParcelCreated::new(Parcel { id: 8, note: "x".repeat(3_000) }));
    eventually(|| refusing.0.lock().unwrap().len() == 2).await;
    let _ = emitter.shutdown(Duration::from_secs(5)).await;

    let sent: Vec<Value> = refusing
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|message| serde_json::from_slice(&message.payload).unwrap())
        .collect();
    assert_eq!((&sent[0]["reason"], &sent[0]["attempts"]), (&json!("unpublished"), &json!(1)));
    assert!(emitter.dead_letters().iter().all(|letter| letter.model.as_deref() == Some("parcel")));
    assert!(sent[0]["error"].as_str().unwrap().contains("NotAuthorized"), "{}", sent[0]);
    assert_eq!(sent[0]["payload"]["result"]["id"], 7);
    // It fits into no message, the letter's included: this node keeps it whole.
    assert_eq!(sent[1]["payload"], Value::Null);
    assert!(sent[1]["payload_bytes"].as_u64().unwrap() > 3_000, "{}", sent[1]);
    let kept = emitter.dead_letters();
    assert!(kept[1].payload.len() > 3_000 && !format!("{:?}", kept[1]).contains("xxx"));
    assert_eq!(emitter.stats().dead_letters, 2);
}

#[tokio::test]
async fn a_redrive_hands_it_to_the_listener_that_missed_it_and_tells_how_it_ended() {
    let (node, depot) = start(|builder| builder).await;
    let others = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&others);
    let _ = node.emitter().on::<ParcelCreated>().allow_remote().run(move |_: Event<ParcelCreated>| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(())
    });
    *depot.closed.lock().unwrap() = true;
    node.receive(parcel(7)).await;
    node.drain().await;
    let emitter = node.emitter();
    let kept = emitter.dead_letters();
    let [letter] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!(
        (letter.model.as_deref(), letter.key.as_deref(), letter.is_ordered),
        (Some("parcel"), Some("7"), true)
    );

    // In vain: with all its attempts, and without a second letter.
    let before = depot.calls.load(Ordering::SeqCst);
    let Err(RedriveError::Unhandled(failures)) = emitter.redrive(letter).await else { panic!() };
    assert_eq!(depot.calls.load(Ordering::SeqCst), before + 3);
    assert_eq!((failures.len(), failures[0].attempts, &*failures[0].error), (1, 3, "no courier for 7"));
    assert_eq!((emitter.dead_letters().len(), node.stats().dead_letters, letters(&node).len()), (1, 1, 1));

    *depot.closed.lock().unwrap() = false;
    assert!(emitter.redrive(letter).await.is_ok());
    assert_eq!((depot.calls.load(Ordering::SeqCst), others.load(Ordering::SeqCst)), (before + 4, 1));

    let mut stranger = DeadLetter::clone(letter);
    stranger.listener = Some("nobody".to_owned());
    assert!(matches!(emitter.redrive(&stranger).await, Err(RedriveError::NoListener)));
    stranger.payload = "{".into();
    assert!(matches!(emitter.redrive(&stranger).await, Err(RedriveError::Replay(ReplayError::Decode(_)))));
    stranger.payload = Default::default();
    assert!(matches!(emitter.redrive(&stranger).await, Err(RedriveError::NoPayload)));
    stranger.listener = None;
    assert!(matches!(emitter.redrive(&stranger).await, Err(RedriveError::NoListener)));
    assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
    assert!(matches!(emitter.redrive(letter).await, Err(RedriveError::Replay(ReplayError::ShutDown))));
}

#[tokio::test]
async fn what_another_node_missed_is_handed_on_whoever_wrote_it() {
    let (node, depot) = start(|builder| builder).await;
    *depot.closed.lock().unwrap() = true;
    // This node wrote it, and a listener of another node that hears others alone did not handle it.
    node.emitter().publish(parcel(7));
    eventually(|| node.emitter().dead_letters().len() == 1).await;
    let mut letter = DeadLetter::clone(&node.emitter().dead_letters()[0]);
    let mut elsewhere = (*letter.node).clone();
    elsewhere.node = "elsewhere".into();
    letter.node = Arc::new(elsewhere);
    letter.listener = Some("replicate".to_owned());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let _ = node.emitter().on::<ParcelCreated>().remote_only().name("replicate").run(
        move |event: Event<ParcelCreated>| {
            noted.lock().unwrap().push((event.id(), event.source(), event.meta().again().is_some()));
            std::future::ready(())
        },
    );
    assert!(node.emitter().redrive(&letter).await.is_ok());
    assert_eq!(*seen.lock().unwrap(), [(letter.event.unwrap(), Source::Remote, true)]);
}

#[tokio::test]
async fn a_listener_that_went_has_not_handled_it() {
    let (node, depot) = start(|builder| builder).await;
    *depot.closed.lock().unwrap() = true;
    node.receive(parcel(7)).await;
    node.drain().await;
    let mut letter = DeadLetter::clone(&node.emitter().dead_letters()[0]);
    letter.listener = Some("slow".to_owned());
    let slow = node.emitter().on::<ParcelCreated>().allow_remote().name("slow");
    let options =
        ListenerOptions { attempts: Some(100), backoff: Some(Duration::from_secs(1)), ..Default::default() };
    let slow = slow.options(options).run(|_: Event<ParcelCreated>| std::future::ready(Err("not yet")));
    let first = node.emitter().redrive(&letter);
    let waiting = node.emitter().redrive(&letter);
    tokio::time::sleep(Duration::from_millis(20)).await;
    slow.unsubscribe();
    for outcome in [first.await, waiting.await] {
        assert!(matches!(outcome, Err(RedriveError::NoListener)), "{outcome:?}");
    }
}

/// Tells in its context what an event was.
#[listener(model = "parcel", allow_remote, dead_letter = false, where(note = "again"))]
async fn wonder(_: Event<ParcelCreated>, context: Context, depot: State<Arc<Depot>>) -> Result<(), String> {
    let is_closed = *depot.closed.lock().unwrap();
    if is_closed == context.again().is_some() { Err("not so".to_owned()) } else { Ok(()) }
}

#[tokio::test]
async fn a_context_tells_that_it_is_a_redrive() {
    let (node, depot) = start(|builder| builder).await;
    *depot.closed.lock().unwrap() = true;
    node.receive(ParcelCreated::new(Parcel { id: 7, note: "again".to_owned() })).await;
    node.drain().await;
    let mut letter = DeadLetter::clone(&node.emitter().dead_letters()[0]);
    letter.listener = Some("wonder".to_owned());
    assert!(
        matches!(node.emitter().redrive(&letter).await, Err(RedriveError::Unhandled(_))),
        "it was closed"
    );
    *depot.closed.lock().unwrap() = false;
    assert!(node.emitter().redrive(&letter).await.is_ok());
    // What its filter holds back now, it does not want.
    let mut changed = letter;
    changed.payload = String::from_utf8(changed.payload.to_vec()).unwrap().replace("again", "never").into();
    assert!(node.emitter().redrive(&changed).await.is_ok());
}
