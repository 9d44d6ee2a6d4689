//! Events that are no rows: a failed login, a command, a metric, beside the changes of models.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::columns::Columns;
use emitter_core::envelope::Format;
use emitter_core::retry::{Backoff, Retry};
use emitter_core::testing::TestEmitter;
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::transport::{Properties, Transport};
use emitter_core::{
    Batches, Builder, Context, EmitConfig, EmitOptions, Emits, Emitter, Event, Key, Operation, Scope, Source,
    StartError, State, Trace, listener,
};
use emitter_tests::eventually::eventually;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(event, topic = "auth/login_failed", qos = 2)]
struct LoginFailed {
    username: String,
    attempts: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event, topic = "restart_service", expires = "30s")]
struct RestartService {
    service: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event, kind = "metric.performance", qos = 0, local)]
struct Performance {}

/// Events of one project are heard in order.
#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event, topic = "projects/status_changed", key(project_id))]
struct ProjectStatusChanged {
    project_id: i64,
    to: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(topic = "projects", create, update)]
struct Project {
    id: i64,
    status: String,
}

/// Its topics are the framework's own where the layout begins with the model.
#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Prisma {
    id: i64,
}

type Heard = Arc<Mutex<Vec<String>>>;

#[listener(model = "login_failed", allow_remote)]
async fn alarm(event: Event<LoginFailed>, heard: State<Heard>) {
    heard.lock().unwrap().push(format!("alarm {} {}", event.source(), event.username));
}

#[listener(model = LoginFailed, allow_remote, where(|login| login.attempts > 2), data(username = "root"))]
fn lock(event: Event<LoginFailed>, heard: State<Heard>) {
    heard.lock().unwrap().push(format!("lock {}", event.username));
}

/// The name of the type is that of the event.
#[listener(model = "performance")]
async fn measure(_: Event<Performance>, heard: State<Heard>) {
    heard.lock().unwrap().push("measured".to_owned());
}

/// A transition of a row is an event of its own.
#[listener(model = "project", data(status: "planning" -> "active"))]
async fn activated(event: Event<ProjectUpdated>, context: Context) {
    if let Some(emitter) = context.emitter() {
        let to = event.after.status.clone();
        emitter.publish(ProjectStatusChanged { project_id: event.after.id, to });
    }
}

fn failed(username: &str, attempts: u32) -> LoginFailed {
    LoginFailed { username: username.to_owned(), attempts }
}

fn builder(node: &str) -> Builder {
    Emitter::builder().node(node).select_listeners(|_| false)
}

async fn start(names: &'static [&'static str]) -> (TestEmitter, Heard) {
    let heard = Heard::default();
    let at_once = Backoff { base: Duration::ZERO, cap: Duration::ZERO, jitter: Duration::ZERO };
    let node = TestEmitter::start(|builder| {
        let builder = builder.state(Arc::clone(&heard)).select_listeners(|info| names.contains(&&*info.name));
        builder.listener_retry(Retry { attempts: 1, backoff: at_once, ..Retry::default() })
    })
    .await;
    (node, heard)
}

#[tokio::test]
async fn it_is_published_and_heard_as_it_is() {
    let (node, heard) = start(&["alarm", "lock", "measure"]).await;
    let published = node.publish(failed("alice", 1));
    assert_eq!(published.trace_id, *published.id.as_uuid(), "it begins a trace of its own");
    node.publish(failed("root", 1));
    node.publish(failed("root", 3));
    node.publish(Performance {});
    node.receive(failed("bob", 1)).await;
    node.drain().await;
    let mut heard = heard.lock().unwrap().clone();
    heard.sort();
    assert_eq!(
        heard,
        [
            "alarm local alice",
            "alarm local root",
            "alarm local root",
            "alarm remote bob",
            "lock root",
            "measured"
        ]
    );
    let event = node.assert_emitted::<LoginFailed>(|event| event.username == "alice");
    assert_eq!((event.id(), event.operation(), event.keys()), (published.id, Operation::Create, &[][..]));
    assert_eq!(node.assert_emitted::<Performance>(|_| true).scope, Scope::LOCAL);
    node.assert_listeners_succeeded();

    // For other programs it is a create of its name.
    let message = node.published().into_iter().next().unwrap();
    assert_eq!(message.topic, "prisma/events/auth/login_failed");
    let payload: Value = serde_json::from_slice(&message.payload).unwrap();
    let row = json!({ "username": "alice", "attempts": 1 });
    assert_eq!((&payload["model"], &payload["operation"]), (&json!("login_failed"), &json!("create")));
    assert_eq!((&payload["result"], &payload["args"]), (&row, &json!({ "data": row })));
}

#[tokio::test]
async fn it_carries_its_trace_and_what_was_noted() {
    for format in [Format::Specification, Format::CloudEvents, Format::CloudEventsBinary, Format::Tracker] {
        let broker = MemoryBroker::new();
        let hearer = builder("b").transport(broker.connect("b")).start().await.unwrap();
        let heard = Heard::default();
        let noted = Arc::clone(&heard);
        let _ = hearer.on::<LoginFailed>().remote_only().run(move |event: Event<LoginFailed>| {
            let trace = event.trace().map(|trace| trace.to_string());
            let meta = event.meta();
            let all: Vec<_> = meta.all_metadata().collect();
            assert_eq!((meta.metadata("source"), meta.metadata("version")), (Some("api"), None));
            noted.lock().unwrap().push(format!("{} {} {trace:?} {all:?}", event.id(), event.username));
            std::future::ready(())
        });
        hearer.connected(10 * SECOND).await.unwrap();
        let writer = builder("a").format(format).transport(broker.connect("a")).start().await.unwrap();
        let trace: Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
        let options = EmitOptions::default()
            .trace(trace)
            .metadata("actor", "u-7")
            .metadata("source", "api")
            .metadata("version", "v".repeat(257));
        let published = writer.publish_with(failed("alice", 1), options);
        assert_eq!(published.trace_id.as_u128(), trace.trace_id());
        eventually(|| !heard.lock().unwrap().is_empty()).await;
        let expected =
            format!(r#"{} alice Some("{trace}") [("actor", "u-7"), ("source", "api")]"#, published.id);
        assert_eq!(*heard.lock().unwrap(), [expected], "{format:?}");
        let _ = (writer.shutdown(SECOND).await, hearer.shutdown(SECOND).await);
    }
}

#[tokio::test]
async fn many_travel_together_on_the_topic_of_one() {
    let broker = MemoryBroker::new();
    let hearer = builder("b").transport(broker.connect("b")).start().await.unwrap();
    let heard = Heard::default();
    let noted = Arc::clone(&heard);
    let _ = hearer.on::<LoginFailed>().remote_only().run(move |event: Event<LoginFailed>| {
        noted.lock().unwrap().push(event.username.clone());
        std::future::ready(())
    });
    hearer.connected(10 * SECOND).await.unwrap();
    let together = Batches { max_delay: SECOND / 10, ..Batches::default() };
    let writer = builder("a").batches(together).transport(broker.connect("a")).start().await.unwrap();
    for attempt in 0..10 {
        writer.publish(failed("alice", attempt));
    }
    eventually(|| heard.lock().unwrap().len() == 10).await;
    let topics: Vec<String> = broker.published().into_iter().map(|message| message.topic).collect();
    assert_eq!(topics, ["prisma/events/auth/login_failed"]);
    let _ = (writer.shutdown(SECOND).await, hearer.shutdown(SECOND).await);
}

/// The topic and the kind of what is published so.
async fn sent<T: emitter_core::model::EventBody>(
    event: T,
    set_up: impl FnOnce(Builder) -> Builder,
) -> (String, Value) {
    let broker = MemoryBroker::new();
    let builder = set_up(builder("a").service("shop").format(Format::CloudEvents));
    let writer = builder.transport(broker.connect("a")).start().await.unwrap();
    writer.publish(event);
    let _ = writer.shutdown(SECOND).await;
    let message = broker.published().into_iter().next().unwrap();
    (message.topic, serde_json::from_slice(&message.payload).unwrap())
}

#[tokio::test]
async fn topic_and_kind_tell_no_operation() {
    let login = || failed("alice", 1);
    let (topic, event) = sent(login(), |builder| builder).await;
    assert_eq!((topic.as_str(), &event["type"]), ("prisma/events/auth/login_failed", &json!("login_failed")));
    assert_eq!(event.get("subject"), None);
    let (topic, event) = sent(login(), |builder| {
        builder.topic_layout("tracker/events/{model}/{past_tense}").format(Format::Tracker)
    })
    .await;
    assert_eq!(
        (topic.as_str(), &event["kind"]),
        ("tracker/events/auth/login_failed", &json!("login_failed"))
    );
    assert_eq!(event["payload"], json!({ "username": "alice", "attempts": 1 }));
    assert_eq!(event["trace_id"], event["change"]["eventId"]);
    let (topic, event) = sent(login(), |builder| {
        builder
            .topic_layout("{prefix}/{model_lower}/all")
            .event_kind("com.example.{service}.{model}.{past_tense}")
    })
    .await;
    assert_eq!(topic, "prisma/events/auth/login_failed/all");
    assert_eq!(event["type"], "com.example.shop.login_failed");
    let changed = ProjectStatusChanged { project_id: 7, to: "active".to_owned() };
    let (topic, event) = sent(changed, |builder| builder).await;
    assert_eq!((topic.as_str(), &event["subject"]), ("prisma/events/projects/status_changed", &json!("7")));
    let restart = RestartService { service: "mail".to_owned() };
    let (topic, _) =
        sent(restart, |builder| builder.topic_layout("tracker/commands/{model}/{operation}")).await;
    assert_eq!(topic, "tracker/commands/restart_service");
}

#[tokio::test]
async fn other_programs_send_it_in_forms_of_theirs() {
    let (node, heard) = start(&["alarm"]).await;
    let metadata = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&metadata);
    let _ = node.on::<LoginFailed>().remote_only().run(move |event: Event<LoginFailed>| {
        if let Some(actor) = event.meta().metadata("actor") {
            *noted.lock().unwrap() = Some(actor.to_owned());
        }
        std::future::ready(())
    });
    let topic = "prisma/events/auth/login_failed";
    let tracker = json!({
        "trace_id": "550e8400-e29b-41d4-a716-446655440000", "ts": "2025-01-15T10:30:00Z", "kind": "login_failed",
        "idempotency_key": "login_failed_1642247400_a1b2c3d4",
        "payload": { "username": "tracker", "attempts": 1, "metadata": { "actor": "u-7", "source": 7 } },
    });
    node.receive_message(topic, tracker.to_string()).await;
    let row = |name: &str| json!({ "username": name, "attempts": 1 });
    let cloud = json!({ "specversion": "1.0", "id": "1", "source": "/elsewhere", "type": "login_failed", "data": row("cloud") });
    node.receive_message(topic, cloud.to_string()).await;
    let binary = Properties::of_type("application/json")
        .with("specversion", "1.0")
        .with("id", "1")
        .with("source", "/elsewhere")
        .with("type", "security.login_failed");
    node.receive_with(topic, row("binary").to_string(), binary).await;
    let plain = json!({ "model": "Login_Failed", "operation": "create", "args": {}, "result": row("plain") });
    node.receive_message(topic, plain.to_string()).await;
    node.drain().await;
    let mut told = heard.lock().unwrap().clone();
    told.sort();
    assert_eq!(told, ["binary", "cloud", "plain", "tracker"].map(|form| format!("alarm remote {form}")));
    assert_eq!(metadata.lock().unwrap().as_deref(), Some("u-7"));
    node.assert_listeners_succeeded();

    // An event is created, and nothing else is ever done to it.
    let updated = json!({ "model": "login_failed", "operation": "update", "args": {}, "result": row("x") });
    node.receive_message(topic, updated.to_string()).await;
    node.drain().await;
    assert_eq!((node.stats().bad_messages, heard.lock().unwrap().len()), (1, 4));
}

#[tokio::test]
async fn an_event_below_a_model_is_heard_once() {
    let broker = MemoryBroker::new();
    let heard = Heard::default();
    let node = async |name: &str, rows: bool, events: bool| {
        let emitter = builder(name).transport(broker.connect(name)).start().await.unwrap();
        let (row, event) = (Arc::clone(&heard), Arc::clone(&heard));
        let (one, other) = (name.to_owned(), name.to_owned());
        if rows {
            let _ = emitter.on::<ProjectEvent>().remote_only().run(move |_| {
                row.lock().unwrap().push(format!("{one} row"));
                std::future::ready(())
            });
        }
        if events {
            let _ = emitter.on::<ProjectStatusChanged>().remote_only().run(move |_| {
                event.lock().unwrap().push(format!("{other} event"));
                std::future::ready(())
            });
        }
        emitter.connected(10 * SECOND).await.unwrap();
        emitter
    };
    let (both, rows, events) =
        (node("both", true, true).await, node("rows", true, false).await, node("events", false, true).await);
    // It knows the event, and hears none of other nodes.
    let _ = rows.on::<ProjectStatusChanged>().run(|_| std::future::ready(()));
    let ignorant = node("ignorant", true, false).await;
    let writer = node("writer", false, false).await;
    writer.publish(Project { id: 1, status: "planning".to_owned() }.created());
    writer.publish(ProjectStatusChanged { project_id: 1, to: "active".to_owned() });
    // Nobody here knows this one.
    broker.publish("prisma/events/projects/archived_for_good", json!({ "kind": "x" }).to_string());
    eventually(|| rows.stats().unheard + ignorant.stats().unheard == 4 && both.stats().unheard == 1).await;
    eventually(|| heard.lock().unwrap().len() == 5).await;
    let mut told = heard.lock().unwrap().clone();
    told.sort();
    assert_eq!(told, ["both event", "both row", "events event", "ignorant row", "rows row"]);
    for node in [both, rows, events, ignorant, writer] {
        assert_eq!(node.stats().bad_messages, 0, "{node:?}");
        assert!(node.shutdown(SECOND).await.is_clean());
    }
}

impl Project {
    fn created(self) -> ProjectCreated {
        ProjectCreated::new(self)
    }
}

#[tokio::test]
async fn what_an_earlier_life_subscribed_to_is_given_back() {
    let broker = MemoryBroker::new();
    let earlier = broker.connect("a");
    let topics = emitter_core::topic::Topics::default();
    let model = emitter_core::topic::ModelTopic::of_event("auth/login_failed").unwrap();
    earlier.subscribe(topics.model_filter(&model));
    eventually(|| broker.subscriptions("a").len() == 1).await;
    let node = builder("a").transport(broker.connect("a")).start().await.unwrap();
    let _ = node.on::<ProjectEvent>().allow_remote().run(|_| std::future::ready(()));
    node.connected(10 * SECOND).await.unwrap();
    broker.publish("prisma/events/auth/login_failed", "{}");
    eventually(|| broker.subscriptions("a") == ["prisma/events/projects/#"]).await;
    assert!(node.shutdown(SECOND).await.is_clean());
}

#[tokio::test]
async fn without_a_key_there_is_no_order_and_with_one_there_is() {
    let (node, _) = start(&[]).await;
    let (both, second) = (Arc::new(tokio::sync::Barrier::new(2)), Arc::new(Notify::new()));
    let meet = Arc::clone(&both);
    let _ = node.on::<LoginFailed>().run(move |_| {
        let meet = Arc::clone(&meet);
        async move {
            meet.wait().await;
        }
    });
    node.publish(failed("alice", 1));
    node.publish(failed("alice", 2));
    // Each waits until the other is there.
    node.drain().await;

    let heard = Heard::default();
    let (noted, gate) = (Arc::clone(&heard), Arc::clone(&second));
    let _ = node.on::<ProjectStatusChanged>().run(move |event: Event<ProjectStatusChanged>| {
        let (noted, gate) = (Arc::clone(&noted), Arc::clone(&gate));
        async move {
            assert_eq!(*event.key(), Key::Int(event.project_id));
            if event.to == "active" {
                gate.notified().await;
            }
            noted.lock().unwrap().push(format!("{} {}", event.key(), event.to));
        }
    });
    for (project_id, to) in [(1, "active"), (1, "done"), (2, "done")] {
        node.publish(ProjectStatusChanged { project_id, to: to.to_owned() });
    }
    eventually(|| *heard.lock().unwrap() == ["2 done"]).await;
    second.notify_one();
    node.drain().await;
    assert_eq!(*heard.lock().unwrap(), ["2 done", "1 active", "1 done"]);
    node.assert_listeners_succeeded();
}

#[tokio::test]
async fn a_transition_of_a_row_becomes_one_that_tells_its_cause() {
    let (node, _) = start(&["activated"]).await;
    let project = |status: &str| Project { id: 7, status: status.to_owned() };
    let moves = |from: &str, to: &str| {
        ProjectUpdated::new(Some(project(from)), project(to), Some(Columns::from_flags([false, true])))
    };
    node.publish(moves("active", "done"));
    let trace: Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let activation = node.publish_with(moves("planning", "active"), EmitOptions::default().trace(trace));
    node.drain().await;
    node.assert_emitted_count::<ProjectStatusChanged>(1);
    let changed = node.assert_emitted::<ProjectStatusChanged>(|event| event.to == "active");
    assert_eq!(*changed.key(), Key::Int(7));
    assert_eq!(changed.meta().cause(), Some(activation.id));
    assert_eq!((changed.meta().hops(), changed.trace()), (1, Some(trace)));
}

#[tokio::test]
async fn its_dead_letter_is_replayed() {
    let (node, _) = start(&[]).await;
    let open = Arc::new(Mutex::new(false));
    let gate = Arc::clone(&open);
    let _ = node.on::<LoginFailed>().allow_remote().run(move |event: Event<LoginFailed>| {
        let open = *gate.lock().unwrap();
        std::future::ready(if open { Ok(()) } else { Err(format!("{} is not noted", event.username)) })
    });
    node.publish(failed("alice", 1));
    let tracker = json!({
        "trace_id": "550e8400-e29b-41d4-a716-446655440000", "ts": "2025-01-15T10:30:00Z", "kind": "login_failed",
        "idempotency_key": "1", "payload": { "username": "bob", "attempts": 1 },
    });
    node.receive_message("prisma/events/auth/login_failed", tracker.to_string()).await;
    node.drain().await;
    let letters = node.dead_letters();
    assert_eq!(letters.len(), 2);
    *open.lock().unwrap() = true;
    let handled = node.stats().handled;
    for letter in letters {
        assert_eq!(letter.original_topic, "prisma/events/auth/login_failed");
        node.replay_letter(&letter).unwrap();
    }
    node.drain().await;
    assert_eq!(node.stats().handled, handled + 2);
}

#[tokio::test]
async fn what_the_application_emits_by_operation_says_nothing_of_it() {
    let node =
        TestEmitter::start(|builder| builder.select_listeners(|_| false).emit(EmitConfig::none())).await;
    node.publish(failed("alice", 1));
    node.publish(Project { id: 1, status: "planning".to_owned() }.created());
    node.drain().await;
    node.assert_emitted_count::<LoginFailed>(1);
    node.assert_none_emitted::<ProjectCreated>();
    assert_eq!(node.published().len(), 1);
    assert_eq!(node.stats().emitted_remote, 1);
}

#[tokio::test]
async fn topics_of_models_that_are_only_written_are_looked_at_when_a_node_starts() {
    let error = builder("a").topic_layout("{model}/{operation}").start().await.unwrap_err();
    assert!(matches!(error, StartError::OwnTopic("prisma")), "{error}");
    assert!(builder("a").start().await.is_ok());
}

#[tokio::test]
async fn an_event_hears_its_own_node_as_local_and_others_as_remote() {
    let broker = MemoryBroker::new();
    let start = async |name: &str| {
        let emitter = builder(name).transport(broker.connect(name)).start().await.unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&heard);
        let _ = emitter.on::<LoginFailed>().allow_remote().run(move |event: Event<LoginFailed>| {
            noted.lock().unwrap().push(event.source());
            std::future::ready(())
        });
        emitter.connected(10 * SECOND).await.unwrap();
        (emitter, heard)
    };
    let ((a, here), (b, there)) = (start("a").await, start("b").await);
    a.publish(failed("alice", 1));
    eventually(|| !there.lock().unwrap().is_empty() && a.stats().echoes == 1).await;
    assert_eq!(
        (&*here.lock().unwrap(), &*there.lock().unwrap()),
        (&vec![Source::Local], &vec![Source::Remote])
    );
    let _ = (a.shutdown(SECOND).await, b.shutdown(SECOND).await);
}
