//! Traces without OpenTelemetry: what an event carries on, and the spans that `tracing` is told of.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::dead_letter::{DeadLetter, Reason};
use emitter_core::testing::TestEmitter;
use emitter_core::transport::Properties;
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{Context, EmitOptions, Emits, Event, EventId, ListenerOptions, Trace, listener};
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

const TOPIC: &str = "prisma/events/order/create";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OTHER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Order {
    id: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Bill {
    id: i64,
}

/// What another program sends, with whatever else.
fn message(more: &str) -> String {
    format!(r#"{{"model":"order","operation":"create","args":{{}},"result":{{"id":7}}{more}}}"#)
}

fn beside(traceparent: &str) -> Properties {
    Properties::of_type("application/json").with("traceparent", traceparent).with("tracestate", "vendor=1")
}

type Heard = Arc<Mutex<Vec<(Option<Trace>, Option<String>)>>>;

/// A node that writes a bill of each order of others, and one that hears of bills: what they heard.
async fn two_nodes(broker: &MemoryBroker) -> ([TestEmitter; 2], [Heard; 2]) {
    let start = async |node: &'static str| TestEmitter::start_on(broker, |builder| builder.node(node)).await;
    let nodes = [start("billing").await, start("desk").await];
    let heard = [(); 2].map(|()| Heard::default());
    let [orders, bills] = heard.clone();
    let billing = nodes[0].emitter().downgrade();
    let _ = nodes[0].on::<OrderCreated>().remote_only().run(move |event: Event<OrderCreated>| {
        let meta = event.meta();
        orders.lock().unwrap().push((meta.trace(), meta.trace_state().map(str::to_owned)));
        billing.upgrade().unwrap().publish(BillCreated::new(Bill { id: event.row.id }));
        std::future::ready(())
    });
    let _ = nodes[1].on::<BillCreated>().remote_only().run(move |event: Event<BillCreated>| {
        let meta = event.meta();
        bills.lock().unwrap().push((meta.trace(), meta.trace_state().map(str::to_owned)));
        std::future::ready(())
    });
    for node in &nodes {
        node.connected(Duration::from_secs(10)).await.unwrap();
    }
    (nodes, heard)
}

/// What a message makes two nodes hear.
async fn check(payload: &str, properties: Properties, expected: Option<(&str, Option<&str>)>) {
    let broker = MemoryBroker::new();
    let (nodes, heard) = two_nodes(&broker).await;
    broker.publish_with(TOPIC, payload.to_owned(), properties);
    let expected = match expected {
        Some((trace, state)) => (Some(trace.parse().unwrap()), state.map(str::to_owned)),
        None => (None, None),
    };
    for (node, heard) in nodes.iter().zip(heard) {
        node.drain().await;
        assert_eq!(&*heard.lock().unwrap(), std::slice::from_ref(&expected), "{payload}");
    }
}

#[tokio::test]
async fn the_trace_of_a_foreign_client_comes_to_a_listener_and_to_what_that_writes() {
    let nothing = Properties::default;
    // In the envelope, as over MQTT 3.1.1; beside it; in both, where the envelope counts.
    let within = message(&format!(r#","traceparent":"{PARENT}","tracestate":"a=b""#));
    check(&within, nothing(), Some((PARENT, Some("a=b")))).await;
    check(&message(""), beside(PARENT), Some((PARENT, Some("vendor=1")))).await;
    check(&within, beside(OTHER), Some((PARENT, Some("a=b")))).await;
    // The tracker form names a trace, and what travels beside it the span.
    let tracker = |trace_id: &str| {
        format!(
            r#"{{"trace_id":"{trace_id}","ts":"2026-11-21T00:42:25.735Z","kind":"order_created","idempotency_key":"k","payload":{{"id":7}}}}"#
        )
    };
    check(&tracker("4bf92f35-77b3-4da6-a3ce-929d0e0e4736"), beside(PARENT), Some((PARENT, Some("vendor=1"))))
        .await;
    let own = "00-550e8400e29b41d4a716446655440000-a716446655440000-00";
    check(&tracker("550e8400-e29b-41d4-a716-446655440000"), beside(PARENT), Some((own, None))).await;
}

#[tokio::test]
async fn what_is_no_trace_is_dropped_and_the_event_heard() {
    let long = "0".repeat(10_000);
    let hostile = [
        "",
        "00",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473\u{e9}-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\0",
        &long,
    ];
    for text in hostile {
        check(&message(""), beside(text), None).await;
        let quoted = serde_json::to_string(text).unwrap();
        check(&message(&format!(r#","traceparent":{quoted}"#)), Properties::default(), None).await;
    }
    // A state that is none does not take the trace along.
    let properties =
        Properties::default().with("traceparent", PARENT).with("tracestate", "\u{e9}".repeat(600));
    check(&message(""), properties, Some((PARENT, None))).await;
}

/// What it is told of spans, in order.
#[derive(Default)]
struct Told {
    next: AtomicU64,
    spans: Mutex<BTreeMap<u64, BTreeMap<String, String>>>,
}

struct Texts<'f>(&'f mut BTreeMap<String, String>);

impl Visit for Texts<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl Subscriber for Told {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "emitter::spans"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.next.fetch_add(1, Ordering::SeqCst) + 1;
        let mut fields = BTreeMap::from([("span".to_owned(), span.metadata().name().to_owned())]);
        span.record(&mut Texts(&mut fields));
        self.spans.lock().unwrap().insert(id, fields);
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        if let Some(fields) = self.spans.lock().unwrap().get_mut(&span.into_u64()) {
            values.record(&mut Texts(fields));
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn tracing_is_told_of_each_span_with_its_attributes() {
    let told = Arc::new(Told::default());
    let _guard = tracing::subscriber::set_default(Arc::clone(&told));
    let node = TestEmitter::start(|builder| builder).await;
    let once = ListenerOptions { attempts: Some(1), ..ListenerOptions::default() };
    let _ = node.on::<OrderCreated>().name("charge").options(once).run(|_: Event<OrderCreated>| async {
        tokio::task::yield_now().await;
        Err("no money".to_owned())
    });
    let trace: Trace = PARENT.parse().unwrap();
    let options = EmitOptions::default().trace(trace);
    let id = node.publish_with(OrderCreated::new(Order { id: 7 }), options).id.to_string();
    node.drain().await;
    let spans: Vec<_> = told.spans.lock().unwrap().values().cloned().collect();
    let of = |name: &str| {
        spans.iter().find(|span| span["span"] == name).unwrap_or_else(|| panic!("{name}: {spans:#?}"))
    };
    for (name, operation, kind) in
        [("create", "create", "producer"), ("send", "send", "client"), ("process", "process", "consumer")]
    {
        let span = of(name);
        assert_eq!(span["otel.name"], format!("{name} {TOPIC}"));
        assert_eq!((&*span["otel.kind"], &*span["messaging.operation.type"]), (kind, operation));
        assert_eq!((&*span["messaging.system"], &*span["messaging.destination.name"]), ("mqtt", TOPIC));
        assert_eq!(span["messaging.message.id"], id);
        assert_eq!(span["emitter.trace_id"], "4bf92f35-77b3-4da6-a3ce-929d0e0e4736");
    }
    assert_eq!(of("process")["emitter.listener"], "charge");
    assert_eq!((&*of("process")["error.type"], &*of("process")["otel.status_code"]), ("failed", "ERROR"));
    assert_eq!(of("create")["emitter.kind"], "order_created");
    assert_eq!(spans.len(), 3, "{spans:#?}");
}

#[tokio::test]
async fn what_was_not_published_and_is_redriven_tells_its_trace_beside_it_again() {
    let broker = MemoryBroker::new();
    let (nodes, heard) = two_nodes(&broker).await;
    let payload = message(&format!(
        r#","eventId":"0193f4e1-8a3b-7c50-9d2e-5b1f0a6c4d3e","traceparent":"{PARENT}","tracestate":"a=b""#
    ));
    let origin = nodes[1].origin().clone();
    let letter = DeadLetter::kept(EventId::now(), Reason::Unpublished, TOPIC, payload, origin);
    nodes[1].redrive(&letter).await.unwrap();
    for (node, heard) in nodes.iter().zip(heard) {
        node.drain().await;
        assert_eq!(*heard.lock().unwrap(), [(Some(PARENT.parse().unwrap()), Some("a=b".to_owned()))]);
    }
    let published = broker.published();
    let sent = published.iter().find(|message| message.topic == TOPIC).unwrap();
    let beside = ["eventId", "traceparent", "tracestate"].map(|name| sent.properties.get(name));
    assert_eq!(beside, [Some("0193f4e1-8a3b-7c50-9d2e-5b1f0a6c4d3e"), Some(PARENT), Some("a=b")]);
}

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Shipment {
    id: i64,
}

/// By a thread that knows nothing of the call but what it is handed.
#[listener(model = "shipment")]
async fn bill(_: Event<ShipmentCreated>, call: Context) -> Result<(), String> {
    let emitter = call.emitter().ok_or("it is over")?;
    let writing = std::thread::spawn(move || {
        call.within(|| emitter.publish(BillCreated::new(Bill { id: 1 })));
        emitter.publish_with(BillCreated::new(Bill { id: 2 }), EmitOptions::default().caused_by(&call));
    });
    writing.join().map_err(|_| "it panicked".to_owned())
}

#[tokio::test]
async fn what_is_handed_to_another_thread_goes_on_in_the_trace() {
    let node = TestEmitter::start(|builder| builder).await;
    let trace: Trace = PARENT.parse().unwrap();
    node.publish_with(ShipmentCreated::new(Shipment { id: 7 }), EmitOptions::default().trace(trace));
    node.drain().await;
    let bills = node.captured().events::<BillCreated>();
    assert_eq!(bills.iter().map(|bill| bill.meta().trace()).collect::<Vec<_>>(), [Some(trace); 2]);
}
