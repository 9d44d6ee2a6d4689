//! In which form events travel, on which topics, and how far they cause each other.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::envelope::Format;
use emitter_core::testing::TestEmitter;
use emitter_core::topic::Layout;
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{
    Builder, Context, EmitOptions, Emits, Emitter, Event, QoS, Receipt, Source, State, Trace, listener,
};
use emitter_tests::eventually::eventually;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "Project", create, update, update_many, delete)]
struct Project {
    id: i64,
    status: String,
}

impl Project {
    fn new(id: i64, status: &str) -> Self {
        Self { id, status: status.to_owned() }
    }
}

const FORMATS: [Format; 4] =
    [Format::Specification, Format::CloudEvents, Format::CloudEventsBinary, Format::Tracker];

fn builder(node: &str) -> Builder {
    Emitter::builder().node(node).select_listeners(|_| false)
}

/// What a node heard of others, but for ids and times, which differ from run to run.
async fn hearing(builder: Builder) -> (Emitter, Arc<Mutex<Vec<String>>>) {
    let emitter = builder.start().await.unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&heard);
    let _ = emitter.on::<ProjectEvent>().remote_only().run(move |event: Event<ProjectEvent>| {
        assert_eq!(event.source(), Source::Remote);
        let rows = match &*event {
            ProjectEvent::Created(body) => json!({ "after": body.row }),
            ProjectEvent::Updated(body) => {
                let changed: Vec<_> = body.changed().columns().collect();
                json!({ "before": body.before, "after": body.after, "changed": changed })
            }
            ProjectEvent::UpdatedMany(body) => {
                json!({ "count": body.count, "rows": body.rows.as_ref().map(|rows| rows.iter().map(|row| json!([row.before, row.after])).collect::<Vec<_>>()) })
            }
            ProjectEvent::Deleted(body) => json!({ "before": body.row }),
        };
        let meta = event.meta();
        noted.lock().unwrap().push(format!(
            "{} {:?} {:?} {:?} {:?} {:?} {rows}",
            meta.operation,
            event.trace().map(|trace| trace.to_string()),
            meta.trace_state(),
            meta.idempotency_key(),
            meta.origin.as_ref().map(ToString::to_string),
            event.sequence(),
        ));
        std::future::ready(())
    });
    eventually(|| emitter.transport_status().unwrap().subscriptions == 1).await;
    (emitter, heard)
}

fn write(emitter: &Emitter) {
    let trace: Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let options = EmitOptions::default().trace(trace).trace_state("vendor=1").idempotency_key("key");
    emitter.publish_with(ProjectCreated::new(Project::new(1, "NEW")), options);
    let set = emitter_core::columns::Columns::from_flags([false, true]);
    emitter.publish(ProjectUpdated::new(Some(Project::new(1, "NEW")), Project::new(1, "ACTIVE"), Some(set)));
    let change =
        emitter_core::model::RowChange::new(Some(Project::new(1, "ACTIVE")), Project::new(1, "DONE"));
    emitter.publish(ProjectUpdatedMany::new(1, Some(vec![change]), Some(set)));
    emitter.publish(ProjectDeleted::new(Project::new(1, "DONE")));
}

#[tokio::test]
async fn a_node_understands_every_form_side_by_side() {
    let mut transcripts = Vec::new();
    for format in FORMATS {
        let broker = MemoryBroker::new();
        // The one that hears sends another form itself.
        let (hearer, heard) = hearing(builder("b").transport(broker.connect("b"))).await;
        let writer = builder("a").format(format).transport(broker.connect("a")).start().await.unwrap();
        write(&writer);
        eventually(|| heard.lock().unwrap().len() == 4).await;
        assert_eq!(hearer.stats().bad_messages, 0, "{format:?}");
        let transcript = heard.lock().unwrap().clone();
        transcripts.push(transcript);
        let _ = (writer.shutdown(SECOND).await, hearer.shutdown(SECOND).await);
    }
    for transcript in &transcripts[1..] {
        assert_eq!(transcript, &transcripts[0]);
    }
    assert!(transcripts[0][1].contains(r#""changed":["status"]"#), "{:?}", transcripts[0]);
}

/// Of which updates tell what differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(update, update_many, before = "changed")]
struct Plan {
    id: i64,
    title: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[tokio::test]
async fn what_differs_is_told_in_every_form_and_listeners_have_the_row() {
    let plan = |id: i64, title: &str, note: Option<&str>| {
        let [title, note] = [Some(title), note].map(|text| text.map(str::to_owned));
        Plan { id, title: title.unwrap(), note }
    };
    let (old, new) = (plan(1, "old", Some("same")), plan(2, "new", Some("same")));
    let without = plan(2, "new", None);
    for format in FORMATS {
        let broker = MemoryBroker::new();
        let hearer = builder("b").transport(broker.connect("b")).start().await.unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&heard);
        let _ = hearer.on::<PlanEvent>().remote_only().run(move |event: Event<PlanEvent>| {
            let rows = match &*event {
                PlanEvent::Updated(body) => vec![(body.before.clone(), body.after.clone())],
                PlanEvent::UpdatedMany(body) => {
                    let rows = body.rows.iter().flatten();
                    rows.map(|row| (row.before.clone(), row.after.clone())).collect()
                }
            };
            noted.lock().unwrap().extend(rows);
            std::future::ready(())
        });
        eventually(|| hearer.transport_status().unwrap().subscriptions == 1).await;
        let writer = builder("a").format(format).transport(broker.connect("a")).start().await.unwrap();
        writer.publish(PlanUpdated::new(Some(old.clone()), new.clone(), None));
        let change = |before: Option<&Plan>, after: &Plan| {
            emitter_core::model::RowChange::new(before.cloned(), after.clone())
        };
        // A column that is left out of one of them would be lost, and nothing is known of the last one.
        let changes = vec![change(Some(&old), &new), change(Some(&old), &without), change(None, &new)];
        writer.publish(PlanUpdatedMany::new(3, Some(changes), None));
        eventually(|| heard.lock().unwrap().len() == 4).await;
        let pairs = [(Some(&old), &new), (Some(&old), &new), (Some(&old), &without), (None, &new)];
        let pairs = pairs.map(|(before, after)| (before.cloned(), after.clone()));
        assert_eq!(*heard.lock().unwrap(), pairs, "{format:?}");
        let told = |place: usize| -> Value {
            let event: Value = serde_json::from_slice(&broker.published()[place].payload).unwrap();
            let within = ["data", "change"].into_iter().find_map(|name| event.get(name).cloned());
            within.unwrap_or(event)
        };
        let was = json!({ "id": 1, "title": "old" });
        let (one, many) = (told(0), told(1));
        assert_eq!((&one["was"], one.get("before")), (&was, None), "{format:?}");
        assert_eq!((&many["rows"][0]["was"], many["rows"][0].get("before")), (&was, None), "{format:?}");
        assert_eq!(
            (&many["rows"][1]["before"], many["rows"][1].get("was")),
            (&json!(old), None),
            "{format:?}"
        );
        let _ = (writer.shutdown(SECOND).await, hearer.shutdown(SECOND).await);
    }
}

#[tokio::test]
async fn forms_look_as_their_documents_say() {
    let sent = async |format: Format, layout: &str| {
        let broker = MemoryBroker::new();
        let builder =
            builder("a").service("shop").topic_prefix("tracker").topic_layout(layout).format(format);
        let writer = builder.transport(broker.connect("a")).start().await.unwrap();
        write(&writer);
        let _ = writer.shutdown(SECOND).await;
        let message = broker.published().into_iter().next().unwrap();
        let payload: Value = serde_json::from_slice(&message.payload).unwrap();
        (message.topic, message.properties, payload)
    };
    let row = json!({ "id": 1, "status": "NEW" });

    let (topic, beside, event) = sent(Format::Specification, "{prefix}/{model}/{operation}").await;
    assert_eq!((topic.as_str(), &event["result"]), ("tracker/Project/create", &row));
    assert_eq!(beside.content_type.as_deref(), Some("application/json"));
    assert_eq!(beside.get("traceparent"), Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
    assert_eq!(beside.get("tracestate"), Some("vendor=1"));
    assert_eq!(beside.get("eventId"), event["eventId"].as_str());

    let (_, beside, event) = sent(Format::CloudEvents, "{prefix}/{model}/{operation}").await;
    assert_eq!(beside.content_type.as_deref(), Some("application/cloudevents+json"));
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(
        (&event["source"], &event["type"], &event["subject"]),
        (&json!("/shop/a"), &json!("Project.create"), &json!("1"))
    );
    assert_eq!((&event["sequence"], &event["tracestate"]), (&json!("1"), &json!("vendor=1")));
    assert_eq!(event["data"]["result"], row);
    let names = event.as_object().unwrap().keys();
    // Names of attributes are lower-case letters and digits.
    assert!(
        names.clone().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())),
        "{names:?}"
    );

    let (_, beside, event) = sent(Format::CloudEventsBinary, "{prefix}/{model}/{operation}").await;
    assert_eq!(
        (beside.content_type.as_deref(), beside.get("type")),
        (Some("application/json"), Some("Project.create"))
    );
    assert_eq!(event["result"], row);

    let (topic, _, event) = sent(Format::Tracker, "tracker/events/{model_lower}/{past_tense}").await;
    assert_eq!(topic, "tracker/events/project/created");
    assert_eq!(
        (&event["kind"], &event["payload"], &event["idempotency_key"]),
        (&json!("Project_created"), &row, &json!("key"))
    );
    assert_eq!(event["trace_id"], "4bf92f35-77b3-4da6-a3ce-929d0e0e4736");

    let (topic, _, _) = sent(Format::Specification, &Layout::npm().to_string()).await;
    assert_eq!(topic, "tracker/project/all");
}

#[tokio::test]
async fn nodes_with_the_same_layout_hear_each_other() {
    for layout in [
        "{prefix}/{model}/{operation}",
        "tracker/events/{model}/{past_tense}",
        "{prefix}/{model_lower}/all",
        "{model}",
    ] {
        let broker = MemoryBroker::new();
        let with = |node: &str| builder(node).topic_layout(layout);
        let (hearer, heard) = hearing(with("b").transport(broker.connect("b"))).await;
        let writer = with("a").transport(broker.connect("a")).start().await.unwrap();
        write(&writer);
        eventually(|| heard.lock().unwrap().len() == 4).await;
        let _ = (writer.shutdown(SECOND).await, hearer.shutdown(SECOND).await);
    }
}

#[tokio::test]
async fn wrong_layouts_and_kinds_do_not_start() {
    let refused = async |builder: Builder, expected: &str| {
        let error = builder.start().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(builder("a").topic_layout("{prefix}/{operation}"), "`{model}` once").await;
    refused(builder("a").topic_layout("{prefix}/{table}"), "\"{table}\" means nothing").await;
    refused(builder("a").event_kind("{table}"), "event_kind").await;
    let old = emitter_core::transport::mqtt::MqttConfig::new("mqtt://localhost")
        .unwrap()
        .protocol(emitter_core::transport::mqtt::MqttVersion::V311);
    let binary = builder("a").format(Format::CloudEventsBinary).mqtt(old);
    refused(binary, "cannot carry CloudEvents in binary mode").await;
    refused(builder("a").max_hops(255), "254 or less").await;
    refused(builder("a").qos("created", QoS::ExactlyOnce), "last two levels").await;
}

#[tokio::test]
async fn the_last_two_levels_of_a_topic_choose_its_quality_of_service() {
    let broker = MemoryBroker::new();
    broker.pause();
    let builder =
        builder("a").qos("Project/create", QoS::AtMostOnce).topic_layout("deep/{model}/{operation}");
    let writer = builder.transport(broker.connect("a")).start().await.unwrap();
    let receipts = [Receipt::new(), Receipt::new()];
    writer.publish_with(
        ProjectCreated::new(Project::new(1, "NEW")),
        EmitOptions::default().receipt(&receipts[0]),
    );
    writer.publish_with(
        ProjectDeleted::new(Project::new(1, "NEW")),
        EmitOptions::default().receipt(&receipts[1]),
    );
    broker.resume();
    let _ = writer.shutdown(SECOND).await;
    let topics: Vec<String> = broker.published().into_iter().map(|message| message.topic).collect();
    assert_eq!(topics, ["deep/Project/create", "deep/Project/delete"]);
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "ball", update)]
struct Ball {
    id: i64,
    touched: i64,
}

/// What a listener of `Ball` saw: hops, cause and trace.
type Seen = Arc<Mutex<Vec<(u8, bool, Option<String>)>>>;

fn hit(ball: &Ball) -> BallUpdated {
    let set = emitter_core::columns::Columns::from_flags([false, true]);
    BallUpdated::new(Some(ball.clone()), Ball { touched: ball.touched + 1, ..ball.clone() }, Some(set))
}

/// Writes what makes it write.
#[listener(model = "ball", allow_remote)]
async fn hit_back(event: Event<BallUpdated>, context: Context, seen: State<Seen>) {
    let trace = event.trace().map(|trace| trace.to_string());
    seen.lock().unwrap().push((event.meta().hops(), event.meta().cause().is_some(), trace));
    // Behind a point where it waits, on whatever thread goes on.
    tokio::time::sleep(Duration::from_millis(1)).await;
    if let Some(emitter) = context.emitter() {
        emitter.publish(hit(&event.after));
    }
}

#[tokio::test]
async fn listeners_that_make_each_other_write_come_to_an_end() {
    let seen = Seen::default();
    let node = TestEmitter::start(|builder| {
        builder.state(Arc::clone(&seen)).select_listeners(|listener| listener.name == "hit_back")
    })
    .await;
    let trace: Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    node.emitter().publish_with(hit(&Ball { id: 1, touched: 0 }), EmitOptions::default().trace(trace));
    node.drain().await;
    let seen = seen.lock().unwrap().clone();
    let hops: Vec<u8> = seen.iter().map(|(hops, _, _)| *hops).collect();
    assert_eq!(hops, (0..=8).collect::<Vec<_>>());
    assert!(seen[1..].iter().all(|(_, caused, _)| *caused) && !seen[0].1);
    assert!(seen.iter().all(|(_, _, of)| of.as_deref() == Some(&*trace.to_string())), "{seen:?}");
    assert_eq!(node.stats().loops, 1);
}

#[tokio::test]
async fn a_circle_over_two_nodes_comes_to_an_end_too() {
    for format in FORMATS {
        let broker = MemoryBroker::new();
        let seen = Seen::default();
        let node = async |name: &str| {
            let builder = Emitter::builder().node(name).state(Arc::clone(&seen)).max_hops(3).format(format);
            let builder = builder.select_listeners(|listener| listener.name == "hit_back");
            let emitter = builder.transport(broker.connect(name)).start().await.unwrap();
            eventually(|| emitter.transport_status().unwrap().subscriptions == 1).await;
            emitter
        };
        let (a, b) = (node("a").await, node("b").await);
        a.publish(hit(&Ball { id: 1, touched: 0 }));
        // Each event is heard on both nodes, and each of these writes again: 2 + 4 + 8 + 16.
        eventually(|| a.stats().loops + b.stats().loops == 16).await;
        assert_eq!(seen.lock().unwrap().len(), 30);
        let _ = (a.shutdown(SECOND).await, b.shutdown(SECOND).await);
    }
}

/// The same from a plain function, which runs on a thread of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "echo", create)]
struct Echo {
    id: i64,
}

#[tokio::test]
async fn a_blocking_listener_tells_its_cause_and_a_task_can() {
    let node = TestEmitter::start(|builder| builder.select_listeners(|_| false)).await;
    let hops = Arc::new(Mutex::new(Vec::new()));
    let (emitter, noted) = (node.emitter().clone(), Arc::clone(&hops));
    let _ = node.emitter().on::<EchoCreated>().run_blocking(move |event: Event<EchoCreated>| {
        noted.lock().unwrap().push(event.meta().hops());
        if event.row.id < 3 {
            emitter.publish(EchoCreated::new(Echo { id: event.row.id + 1 }));
        }
    });
    node.emitter().publish(EchoCreated::new(Echo { id: 1 }));
    node.drain().await;
    assert_eq!(*hops.lock().unwrap(), [0, 1, 2]);
}
