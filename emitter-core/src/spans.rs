//! Spans of an event: it is made, it is sent, and listeners are called for it.
//!
//! They have the names and attributes of OpenTelemetry's
//! [conventions for messaging](https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/). Of an event's
//! rows and key they tell nothing. Where no subscriber wants them, they are disabled: nothing of them is formatted.
//!
//! What links them to each other, here and on other nodes, is the feature `otel`; without it, an event carries the trace
//! that its writer named, or that of the event whose listener wrote.

use std::sync::Arc;
use std::time::Duration;

use tracing::field::{Empty, display};
use tracing::{Span, info_span};

use crate::dispatcher::{End, Job, Listener};
use crate::emit::{Notes, QoS};
use crate::event::{Again, EventId, Meta};
use crate::model_info::ModelInfo;
use crate::plain;
use crate::properties::Properties;
use crate::topic::Topic;
use crate::trace::{Trace, Traced};
use crate::transport::PublishError;

#[cfg(feature = "otel")]
mod otel;
#[cfg(not(feature = "otel"))]
mod unlinked;

#[cfg(feature = "otel")]
use otel as links;
#[cfg(not(feature = "otel"))]
use unlinked as links;

/// What a subscriber's filter knows them by: `emitter::spans=off`.
const TARGET: &str = "emitter::spans";

/// The longest text of an error that a span tells, in bytes.
const MAX_ERROR_BYTES: usize = 2_048;

/// An event is made: the place in a trace from which it goes on, where OpenTelemetry knows one. `named` says that its
/// writer named the trace of the notes; else that is the trace of the event whose listener wrote.
pub(crate) fn create(info: &ModelInfo, meta: &Meta, topic: &Topic, named: bool) -> Option<Traced> {
    let span = info_span!(
        target: TARGET,
        "create",
        otel.name = %format_args!("create {topic}"),
        otel.kind = "producer",
        messaging.system = "mqtt",
        messaging.operation.name = "create",
        messaging.operation.type = "create",
        messaging.destination.name = topic.as_str(),
        messaging.message.id = %meta.id,
        emitter.kind = plain::kind(info, meta.operation),
        emitter.trace_id = Empty,
    );
    let around = links::around();
    if !span.is_disabled()
        && (named || around.is_none())
        && let Some(notes) = &meta.notes
    {
        continues(&span, notes.trace(), notes.trace_state());
    }
    // A trace that the writer named is left only for a span in it.
    let made = links::place(&span).or(around.filter(|_| !named));
    if !span.is_disabled() {
        let trace = made.as_ref().map(|made| made.trace).or(meta.trace());
        span.record("emitter.trace_id", display(Trace::id_of(trace, meta.id)));
    }
    made
}

/// An event is handed to the transport, until the broker has confirmed it. What travels beside it tells of which trace
/// it is: that was decided when it was made, maybe by another node.
pub(crate) fn send(event: EventId, topic: &Topic, qos: QoS, bytes: usize, properties: &Properties) -> Span {
    let span = info_span!(
        target: TARGET,
        parent: None,
        "send",
        otel.name = %format_args!("send {topic}"),
        otel.kind = "client",
        otel.status_code = Empty,
        otel.status_description = Empty,
        error.type = Empty,
        messaging.system = "mqtt",
        messaging.operation.name = "publish",
        messaging.operation.type = "send",
        messaging.destination.name = topic.as_str(),
        messaging.message.id = %event,
        messaging.message.body.size = bytes,
        emitter.qos = qos as u64,
        emitter.trace_id = %Trace::id_of(told(properties), event),
    );
    if !span.is_disabled()
        && let Some(trace) = told(properties)
    {
        continues(&span, Some(trace), properties.get("tracestate"));
        links::link(&span, trace, properties.get("tracestate"));
    }
    span
}

/// What came of sending.
pub(crate) fn sent<T>(span: &Span, outcome: &Result<T, PublishError>) {
    let Err(error) = outcome else { return };
    if span.is_disabled() {
        return;
    }
    let what = match error {
        PublishError::QueueFull { .. } => "queue_full",
        PublishError::Displaced => "displaced",
        PublishError::TooLarge { .. } => "too_large",
        PublishError::Expired => "expired",
        PublishError::Refused { .. } => "refused",
        PublishError::EndsConnections { .. } => "ends_connections",
        PublishError::Closed => "closed",
    };
    failed(span, what, &error.to_string());
}

/// The span of a listener's call. `None`, the common case, where no subscriber wants it: each poll of the call carries it.
pub(crate) type CallSpan = Option<Arc<Span>>;

/// A listener is called, the how-many-eth time for an event.
pub(crate) fn process(listener: &Listener, job: &Job, attempt: u32) -> CallSpan {
    let (event, topic) = (job.event(), || topic(listener, job));
    let meta = event.meta();
    let span = info_span!(
        target: TARGET,
        parent: None,
        "process",
        otel.name = %format_args!("process {}", topic()),
        otel.kind = "consumer",
        otel.status_code = Empty,
        otel.status_description = Empty,
        error.type = Empty,
        messaging.system = "mqtt",
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = topic(),
        messaging.message.id = %meta.id,
        messaging.message.body.size = job.original().map(|original| original.payload.len()),
        messaging.consumer.group.name = listener.info.group.as_deref(),
        emitter.listener = &*listener.info.name,
        emitter.attempt = attempt,
        emitter.source = %meta.source,
        emitter.again = meta.again.map(again),
        emitter.kind = plain::kind(event.model(), meta.operation),
        emitter.trace_id = %Trace::id_of(meta.trace(), meta.id),
    );
    if span.is_disabled() {
        return None;
    }
    continues(&span, meta.trace(), meta.trace_state());
    Some(Arc::new(span))
}

/// How a listener's call ended, which had so much time.
pub(crate) fn processed(span: &CallSpan, end: &End, limit: Duration) {
    let Some(span) = span else { return };
    let what = match end {
        End::Handled => return,
        End::Failed(_) => "failed",
        End::Panicked => "panicked",
        End::TimedOut => "timed_out",
        End::Unready(_) => "unready",
        End::Interrupted(_) => "interrupted",
    };
    failed(span, what, &end.reason(limit));
}

/// What an event carries that is made within a call: the place of its span, or the trace of the event it is called for.
pub(crate) fn onwards(span: &CallSpan, of: Option<&Notes>) -> Option<Traced> {
    span.as_deref().and_then(links::place).or_else(|| {
        let notes = of?;
        Some(Traced { trace: notes.trace()?, state: notes.trace_state().map(Box::from) })
    })
}

fn failed(span: &Span, what: &'static str, error: &str) {
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", &error[..error.floor_char_boundary(MAX_ERROR_BYTES)]);
    span.record("error.type", what);
}

fn continues(span: &Span, trace: Option<Trace>, state: Option<&str>) {
    if let Some(trace) = trace {
        links::parent(span, trace, state);
    }
}

/// The trace that travels beside an event.
fn told(properties: &Properties) -> Option<Trace> {
    properties.get("traceparent")?.parse().ok()
}

/// Where an event came from, or would go to.
fn topic<'j>(listener: &'j Listener, job: &'j Job) -> &'j str {
    match job.original() {
        Some(original) => &original.topic,
        None => listener.destinations[job.event().meta().operation.index()].as_str(),
    }
}

fn again(again: Again) -> &'static str {
    match again {
        Again::Replayed => "replayed",
        Again::Redriven => "redriven",
    }
}
