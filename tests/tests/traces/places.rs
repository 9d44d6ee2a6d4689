//! From which place in a trace an event goes on, where OpenTelemetry knows one.

use emitter_core::model::Updated;
use emitter_core::testing::TestEmitter;
use emitter_core::{EmitOptions, Emits, Scope, Trace};
use opentelemetry::Context;
use opentelemetry::trace::{SpanId, TraceContextExt, TraceId, Tracer, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use serde::{Deserialize, Serialize};
use tracing::info_span;
use tracing::subscriber::DefaultGuard;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(update)]
struct Seat {
    id: i64,
    row: i64,
}

const NAMED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn moved(from: i64, to: i64) -> SeatUpdated {
    Updated::new(Some(Seat { id: 1, row: from }), Seat { id: 1, row: to }, None)
}

/// Takes the spans of this thread for OpenTelemetry, those of events if they are wanted.
fn traced(of_events: LevelFilter) -> (SdkTracerProvider, InMemorySpanExporter, DefaultGuard) {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("tests"));
    let filter = Targets::new().with_default(LevelFilter::INFO).with_target("emitter::spans", of_events);
    let guard = tracing_subscriber::registry().with(layer).with(filter).set_default();
    (provider, exporter, guard)
}

fn ids(trace: Trace) -> (TraceId, SpanId) {
    (trace.trace_id().into(), trace.span_id().into())
}

fn around(context: &Context) -> (TraceId, SpanId) {
    let span = context.span();
    (span.span_context().trace_id(), span.span_context().span_id())
}

/// The traces of what was emitted.
fn emitted(node: &TestEmitter) -> Vec<Trace> {
    node.captured().events::<SeatUpdated>().iter().map(|event| event.meta().trace().unwrap()).collect()
}

#[tokio::test]
async fn an_event_goes_on_from_its_create_span_within_the_span_around_or_the_trace_that_is_named() {
    let (provider, exporter, _guard) = traced(LevelFilter::INFO);
    let node = TestEmitter::start(|builder| builder).await;
    let span = info_span!("checkout");
    span.in_scope(|| node.publish(moved(1, 2)));
    let own = provider.tracer("tests").start("by OpenTelemetry itself");
    let own = Context::current_with_span(own);
    {
        let _attached = own.clone().attach();
        node.publish(moved(2, 3));
    }
    let named: Trace = NAMED.parse().unwrap();
    let published = span.in_scope(|| {
        node.publish_with(moved(3, 4), EmitOptions::default().trace(named).trace_state("vendor=1"))
    });
    assert_eq!(published.trace_id.as_u128(), named.trace_id());
    node.drain().await;
    let parents = [around(&span.context()), around(&own), ids(named)];
    let spans = exporter.get_finished_spans().unwrap();
    for (emitted, parent) in emitted(&node).into_iter().map(ids).zip(parents) {
        let created = spans.iter().find(|span| span.span_context.span_id() == emitted.1).unwrap();
        assert_eq!((emitted.0, created.parent_span_id), parent);
        assert_eq!(created.name, "create prisma/events/seat/update");
    }
    let last = node.captured().events::<SeatUpdated>().pop().unwrap();
    assert_eq!(last.meta().trace_state(), Some("vendor=1"));
}

#[tokio::test]
async fn without_spans_of_events_it_goes_on_from_the_span_around() {
    let (_provider, _exporter, _guard) = traced(LevelFilter::OFF);
    let node = TestEmitter::start(|builder| builder).await;
    let (span, named): (_, Trace) = (info_span!("checkout"), NAMED.parse().unwrap());
    span.in_scope(|| {
        node.publish(moved(1, 2));
        node.publish_with(moved(2, 3), EmitOptions::default().trace(named));
    });
    let emitted: Vec<_> = emitted(&node).into_iter().map(ids).collect();
    assert_eq!(emitted, [around(&span.context()), ids(named)]);
}

#[tokio::test]
async fn net_changes_become_one_event_though_each_had_a_span() {
    let (_provider, _exporter, _guard) = traced(LevelFilter::INFO);
    let node = TestEmitter::start(|builder| builder).await;
    let event = |from, to| node.event::<Seat>(SeatEvent::Updated(moved(from, to)), Scope::BOTH);
    let changes: Vec<_> = [event(1, 2), event(2, 3)].into_iter().flatten().collect();
    assert_eq!(changes.len(), 2);
    node.emit_net(changes);
    assert_eq!(emitted(&node).len(), 1);
}
