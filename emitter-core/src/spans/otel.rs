//! Spans of `tracing` as those of OpenTelemetry.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::trace::{Trace, Traced};

/// Where a span stands in its trace; `None` where nobody takes it for OpenTelemetry.
pub(super) fn place(span: &Span) -> Option<Traced> {
    if span.is_disabled() { None } else { traced(&span.context()) }
}

/// Where this thread stands: in a span of `tracing`, or of OpenTelemetry itself.
pub(super) fn around() -> Option<Traced> {
    place(&Span::current()).or_else(|| Context::map_current(traced))
}

/// A span goes on from a place in a trace. It has not been entered.
pub(super) fn parent(span: &Span, trace: Trace, state: Option<&str>) {
    let context = Context::new().with_remote_span_context(remote(trace, state));
    // It fails where nobody takes spans for OpenTelemetry.
    let _ = span.set_parent(context);
}

/// A span has to do with another one.
pub(super) fn link(span: &Span, trace: Trace, state: Option<&str>) {
    span.add_link(remote(trace, state));
}

fn traced(context: &Context) -> Option<Traced> {
    if !context.has_active_span() {
        return None;
    }
    let span = context.span();
    let place = span.span_context();
    let trace_id = u128::from_be_bytes(place.trace_id().to_bytes());
    let span_id = u64::from_be_bytes(place.span_id().to_bytes());
    let state = place.trace_state().header();
    Some(Traced {
        trace: Trace::new(trace_id, span_id, place.is_sampled())?,
        state: Trace::is_state(&state).then(|| state.into_boxed_str()),
    })
}

fn remote(trace: Trace, state: Option<&str>) -> SpanContext {
    let flags = if trace.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let (trace_id, span_id) = (TraceId::from(trace.trace_id()), SpanId::from(trace.span_id()));
    // What somebody wrote there may be none; then the trace goes on without it.
    let state = state.and_then(|state| state.parse().ok()).unwrap_or_default();
    SpanContext::new(trace_id, span_id, flags, true, state)
}
