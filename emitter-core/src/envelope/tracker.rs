//! The form of the specification's MQTT architecture: `trace_id`, `ts`, `kind`, `idempotency_key`, `payload`.
//!
//! The payload is the row, or how many rows there were. What else a node of this framework knows stands
//! beside it in `change`, which others ignore.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::args::Names;
use super::format::operation_of;
use super::json::{Text, as_text, from_object, inner, is_object, lenient, malformed};
use super::specification::WireResult;
use super::{DecodeError, EncodeError, Head, Incoming, IncomingRow, Outgoing, RowBefore, RowImages, content};
use crate::event::{EventId, Operation, Origin, Timestamp};
use crate::metadata::Metadata;
use crate::trace::Trace;

#[derive(Serialize)]
struct WireOut<'a> {
    trace_id: Uuid,
    ts: Timestamp,
    kind: &'a str,
    idempotency_key: Cow<'a, str>,
    payload: WireResult<'a>,
    change: ChangeOut<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangeOut<'a> {
    model: &'a str,
    operation: Operation,
    event_id: EventId,
    origin: &'a Origin,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(flatten)]
    before: Option<&'a RowBefore>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<&'a [RowImages]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inserted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<&'a str>,
    /// The one that the writer gave; that of the form is made where none was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caused_by: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hops: Option<u8>,
}

pub(super) fn encode(event: &Outgoing<'_>) -> Result<String, EncodeError> {
    // An empty one is none to the form, and would be refused by whoever receives it.
    let given = event.idempotency_key.filter(|key| !key.is_empty());
    let wire = WireOut {
        trace_id: Trace::id_of(event.trace, event.id),
        ts: event.time,
        kind: event.kind,
        idempotency_key: given.map_or_else(|| made_up(event).into(), Cow::Borrowed),
        payload: WireResult::of(event.content),
        change: ChangeOut {
            model: event.model,
            operation: event.operation,
            event_id: event.id,
            origin: event.origin,
            seq: event.sequence,
            before: event.content.before(),
            rows: event.content.rows(),
            changed: event.changed(),
            inserted: event.inserted,
            version: event.later_version(),
            traceparent: event.traceparent(),
            tracestate: event.trace_state,
            idempotency_key: event.idempotency_key,
            metadata: event.metadata,
            caused_by: event.cause,
            hops: event.hops(),
        },
    };
    serde_json::to_string(&wire).map_err(|_| EncodeError::Json)
}

/// `{kind}_{ms}_{8 hex}`, the same whenever this event is encoded.
fn made_up(event: &Outgoing<'_>) -> String {
    let random = event.id.as_uuid().as_u128() & 0xffff_ffff;
    format!("{}_{}_{random:08x}", event.kind, event.time.as_millis())
}

#[derive(Deserialize)]
struct WireIn<'a> {
    #[serde(borrow, default)]
    trace_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    ts: Option<&'a RawValue>,
    #[serde(borrow, default)]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    idempotency_key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "lenient")]
    change: Option<ChangeIn<'a>>,
    #[serde(default, deserialize_with = "lenient")]
    seq: Option<u64>,
    #[serde(borrow, default, deserialize_with = "lenient")]
    stream: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChangeIn<'a> {
    #[serde(borrow)]
    model: Text<'a>,
    operation: Operation,
    #[serde(borrow)]
    event_id: Text<'a>,
    origin: Origin,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(borrow, default)]
    before: Option<&'a RawValue>,
    #[serde(borrow, default)]
    was: Option<&'a RawValue>,
    #[serde(borrow, default)]
    rows: Option<Vec<IncomingRow<'a>>>,
    #[serde(borrow, default)]
    changed: Option<Names<'a>>,
    #[serde(default)]
    inserted: Option<bool>,
    #[serde(default)]
    version: Option<u32>,
    #[serde(borrow, default)]
    traceparent: Option<Text<'a>>,
    #[serde(borrow, default)]
    tracestate: Option<Text<'a>>,
    #[serde(borrow, default)]
    idempotency_key: Option<Text<'a>>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    caused_by: Option<Text<'a>>,
    #[serde(default)]
    hops: Option<u8>,
}

/// What of the form a message shows: enough of it, and it is meant to be one.
#[derive(Deserialize)]
pub(super) struct Shape<'a> {
    #[serde(borrow, default)]
    trace_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    idempotency_key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) specversion: Option<&'a RawValue>,
}

impl Shape<'_> {
    pub(super) fn is_tracker(&self) -> bool {
        self.kind.is_some() || self.trace_id.is_some() || self.idempotency_key.is_some()
    }
}

/// Everything that is wrong with the fields is told at once.
pub(super) fn decode(text: &str, said: Option<Operation>) -> Result<Incoming<'_>, DecodeError> {
    let wire: WireIn<'_> = from_object(text).map_err(|error| malformed(&error))?;
    let mut errors = Vec::new();
    let mut field =
        |name: &str, value: Option<&RawValue>, what: &str, good: &dyn Fn(&RawValue) -> bool| match value {
            None => errors.push(format!("`{name}` is absent")),
            Some(value) if !good(value) => errors.push(format!("`{name}` is {what}")),
            Some(_) => {}
        };
    field("trace_id", wire.trace_id, "no UUID", &|value| trace_id(value).is_some());
    field("ts", wire.ts, "not ISO 8601", &|value| moment(value).is_some());
    let is_text = |value: &RawValue| as_text(value).is_some_and(|text| !text.is_empty());
    field("kind", wire.kind, "no text, or empty", &is_text);
    field("idempotency_key", wire.idempotency_key, "no text, or empty", &is_text);
    field("payload", wire.payload, "no object", &|value| is_object(value.get()));
    if !errors.is_empty() {
        return Err(DecodeError::Malformed(errors.join("; ")));
    }
    let time = wire.ts.and_then(moment);
    let Some(change) = wire.change else {
        let of_this_kind = wire.kind.and_then(as_text).and_then(|kind| operation_of(&kind));
        let operation = said.or(of_this_kind).ok_or(DecodeError::UnknownOperation)?;
        let trace = wire.trace_id.and_then(trace_id).and_then(of_trace);
        let head = Head {
            idempotency_key: wire.idempotency_key.and_then(as_text),
            metadata: wire.payload.and_then(metadata),
            ..Head::default()
        };
        let content = content(operation, wire.payload, [None; 2], None)?;
        return Ok(Incoming { time, trace, content, ..head.incoming(operation) });
    };
    let operation = change.operation;
    let head = Head {
        id: Some(change.event_id.0),
        origin: Some(change.origin),
        sequence: change.seq.or(wire.seq),
        stream: inner(wire.stream),
        version: change.version,
        traceparent: inner(change.traceparent),
        tracestate: inner(change.tracestate),
        idempotency_key: inner(change.idempotency_key),
        metadata: change.metadata,
        cause: inner(change.caused_by),
        hops: change.hops,
    };
    Ok(Incoming {
        model: Some(change.model.0),
        time,
        content: content(operation, wire.payload, [change.before, change.was], change.rows)?,
        set: change.changed,
        inserted: change.inserted,
        ..head.incoming(operation)
    })
}

/// What other programs note within the payload.
fn metadata(payload: &RawValue) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Payload<'a> {
        #[serde(borrow, default)]
        metadata: Option<&'a RawValue>,
    }
    serde_json::from_str::<Payload<'_>>(payload.get()).ok()?.metadata
}

fn trace_id(value: &RawValue) -> Option<Uuid> {
    Uuid::try_parse(&as_text(value)?).ok()
}

/// A moment without an offset is UTC, as the form has it.
fn moment(value: &RawValue) -> Option<Timestamp> {
    let text = as_text(value)?;
    Timestamp::parse(&text).or_else(|| Timestamp::parse(&format!("{text}Z")))
}

/// The form names the trace and no span of it, so the span's id is made of the trace's.
fn of_trace(id: Uuid) -> Option<Trace> {
    let (high, low) = id.as_u64_pair();
    Trace::new(id.as_u128(), if low == 0 { high } else { low }, false)
}
