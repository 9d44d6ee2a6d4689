//! The specification's JSON, with further fields beside it that others ignore.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::args::{self, Args, Names};
use super::json::{from_object, malformed};
use super::{
    Content, DecodeError, EncodeError, Head, Incoming, IncomingRow, Outgoing, RowBefore, RowImages, content,
};
use crate::event::{EventId, Operation, Origin, Timestamp};
use crate::metadata::Metadata;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireOut<'a> {
    model: &'a str,
    operation: Operation,
    args: Args<'a>,
    result: WireResult<'a>,
    timestamp: Timestamp,
    event_id: EventId,
    #[serde(flatten)]
    before: Option<&'a RowBefore>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<&'a [RowImages]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inserted: Option<bool>,
    origin: &'a Origin,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caused_by: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hops: Option<u8>,
}

/// What the operation left: a row, or how many.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum WireResult<'a> {
    Row(&'a RawValue),
    Count { count: u64 },
}

impl<'a> WireResult<'a> {
    pub(super) fn of(content: &'a Content) -> Self {
        match content {
            Content::Row { row, .. } => Self::Row(row),
            Content::Rows { count, .. } => Self::Count { count: *count },
        }
    }
}

pub(super) fn encode(event: &Outgoing<'_>) -> Result<String, EncodeError> {
    let wire = WireOut {
        model: event.model,
        operation: event.operation,
        args: args::args(event),
        result: WireResult::of(event.content),
        timestamp: event.time,
        event_id: event.id,
        before: event.content.before(),
        rows: event.content.rows(),
        changed: event.changed(),
        inserted: event.inserted,
        origin: event.origin,
        seq: event.sequence,
        version: event.later_version(),
        traceparent: event.traceparent(),
        tracestate: event.trace_state,
        idempotency_key: event.idempotency_key,
        metadata: event.metadata,
        caused_by: event.cause,
        hops: event.hops(),
    };
    serde_json::to_string(&wire).map_err(|_| EncodeError::Json)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireIn<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow)]
    operation: Cow<'a, str>,
    #[serde(borrow, default)]
    args: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    timestamp: Option<Timestamp>,
    #[serde(borrow, default)]
    event_id: Option<Cow<'a, str>>,
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
    origin: Option<Origin>,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(borrow, default)]
    stream: Option<Cow<'a, str>>,
    #[serde(default)]
    version: Option<u32>,
    #[serde(borrow, default)]
    traceparent: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tracestate: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    idempotency_key: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    caused_by: Option<Cow<'a, str>>,
    #[serde(default)]
    hops: Option<u8>,
}

pub(super) fn decode(text: &str) -> Result<Incoming<'_>, DecodeError> {
    let wire: WireIn<'_> = from_object(text).map_err(|error| malformed(&error))?;
    let operation = Operation::from_name(&wire.operation).ok_or(DecodeError::UnknownOperation)?;
    let set = args::told(operation, wire.changed, wire.args, wire.origin.as_ref());
    let head = Head {
        id: wire.event_id,
        origin: wire.origin,
        sequence: wire.seq,
        stream: wire.stream,
        version: wire.version,
        traceparent: wire.traceparent,
        tracestate: wire.tracestate,
        idempotency_key: wire.idempotency_key,
        metadata: wire.metadata,
        cause: wire.caused_by,
        hops: wire.hops,
    };
    Ok(Incoming {
        model: Some(wire.model),
        operation,
        time: wire.timestamp,
        content: content(operation, wire.result, [wire.before, wire.was], wire.rows)?,
        set,
        inserted: wire.inserted,
        ..head.incoming(operation)
    })
}
