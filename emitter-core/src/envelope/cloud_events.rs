//! CloudEvents 1.0: attributes beside the data.
//!
//! `id`, `source`, `type`, `subject`, `time` are the core's; `sequence`, `traceparent` and `tracestate` its documented
//! extensions. The data is what the specification's JSON says of the rows. Where a program sends a plain row as
//! its data, topic or type tell the operation.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::args::{self, Args, Names};
use super::format::operation_of;
use super::json::{Text, as_text, from_object, inner, is_object, lenient, malformed};
use super::specification::WireResult;
use super::{
    DecodeError, EncodeError, Head, Incoming, IncomingRow, JSON, Outgoing, RowBefore, RowImages, content,
};
use crate::event::{EventId, Operation, Origin, Timestamp};
use crate::metadata::Metadata;
use crate::properties::Properties;

/// The media type of an event in structured mode.
pub(super) const STRUCTURED: &str = "application/cloudevents+json";

const VERSION: &str = "1.0";

#[derive(Serialize)]
struct StructuredOut<'a> {
    specversion: &'static str,
    id: EventId,
    source: String,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    time: Timestamp,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<String>,
    incarnation: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotencykey: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rowversion: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    causedby: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hops: Option<u8>,
    data: DataOut<'a>,
}

#[derive(Serialize)]
struct DataOut<'a> {
    model: &'a str,
    operation: Operation,
    args: Args<'a>,
    result: WireResult<'a>,
    #[serde(flatten)]
    before: Option<&'a RowBefore>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<&'a [RowImages]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inserted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Metadata>,
}

impl<'a> DataOut<'a> {
    fn of(event: &Outgoing<'a>) -> Self {
        Self {
            model: event.model,
            operation: event.operation,
            args: args::args(event),
            result: WireResult::of(event.content),
            before: event.content.before(),
            rows: event.content.rows(),
            changed: event.changed(),
            inserted: event.inserted,
            metadata: event.metadata,
        }
    }
}

pub(super) fn encode(event: &Outgoing<'_>) -> Result<String, EncodeError> {
    let wire = StructuredOut {
        specversion: VERSION,
        id: event.id,
        source: source(event.origin),
        kind: event.kind,
        subject: subject(event),
        time: event.time,
        datacontenttype: JSON,
        sequence: event.sequence.map(|number| number.to_string()),
        incarnation: event.origin.incarnation,
        traceparent: event.traceparent(),
        tracestate: event.trace_state,
        idempotencykey: event.idempotency_key,
        rowversion: event.later_version(),
        causedby: event.cause,
        hops: event.hops(),
        data: DataOut::of(event),
    };
    serde_json::to_string(&wire).map_err(|_| EncodeError::Json)
}

pub(super) fn encode_binary(event: &Outgoing<'_>) -> Result<(String, Properties), EncodeError> {
    let data = serde_json::to_string(&DataOut::of(event)).map_err(|_| EncodeError::Json)?;
    let properties = Properties::of_type(JSON)
        .with("specversion", VERSION)
        .with("id", event.id.to_string())
        .with("source", source(event.origin))
        .with("type", event.kind)
        .with("time", event.time.to_string())
        .with("incarnation", event.origin.incarnation.to_string());
    let optional = [
        ("sequence", event.sequence.map(|number| number.to_string())),
        ("subject", subject(event)),
        ("traceparent", event.traceparent()),
        ("tracestate", event.trace_state.map(str::to_owned)),
        ("idempotencykey", event.idempotency_key.map(str::to_owned)),
        ("rowversion", event.later_version().map(|version| version.to_string())),
        ("causedby", event.cause.map(|cause| cause.to_string())),
        ("hops", event.hops().map(|hops| hops.to_string())),
    ];
    let properties = optional.into_iter().fold(properties, |properties, (name, value)| match value {
        Some(value) => properties.with(name, value),
        None => properties,
    });
    Ok((data, properties))
}

/// `/service/node`, a URI reference: names hold nothing that would have to be escaped.
fn source(origin: &Origin) -> String {
    format!("/{}/{}", origin.service, origin.node)
}

/// The key, of an event of one row.
fn subject(event: &Outgoing<'_>) -> Option<String> {
    match event.keys {
        [key] => Some(key.to_string()).filter(|subject| !subject.is_empty()),
        _ => None,
    }
}

#[derive(Deserialize)]
struct StructuredIn<'a> {
    #[serde(borrow)]
    specversion: Text<'a>,
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    source: Text<'a>,
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(default)]
    time: Option<Timestamp>,
    #[serde(borrow, default, deserialize_with = "lenient")]
    sequence: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "lenient")]
    stream: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "lenient")]
    incarnation: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "lenient")]
    traceparent: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "lenient")]
    tracestate: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "lenient")]
    idempotencykey: Option<Text<'a>>,
    #[serde(default, deserialize_with = "lenient")]
    rowversion: Option<u32>,
    #[serde(borrow, default, deserialize_with = "lenient")]
    causedby: Option<Text<'a>>,
    #[serde(default, deserialize_with = "lenient")]
    hops: Option<u8>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

/// The attributes, in whichever mode they came.
struct Attributes<'a> {
    version: Cow<'a, str>,
    id: Cow<'a, str>,
    source: Cow<'a, str>,
    kind: Cow<'a, str>,
    time: Option<Timestamp>,
    sequence: Option<Cow<'a, str>>,
    stream: Option<Cow<'a, str>>,
    incarnation: Option<Cow<'a, str>>,
    traceparent: Option<Cow<'a, str>>,
    tracestate: Option<Cow<'a, str>>,
    idempotency_key: Option<Cow<'a, str>>,
    row_version: Option<u32>,
    cause: Option<Cow<'a, str>>,
    hops: Option<u8>,
}

pub(super) fn decode(text: &str, said: Option<Operation>) -> Result<Incoming<'_>, DecodeError> {
    let wire: StructuredIn<'_> = from_object(text).map_err(|error| malformed(&error))?;
    let attributes = Attributes {
        version: wire.specversion.0,
        id: wire.id.0,
        source: wire.source.0,
        kind: wire.kind.0,
        time: wire.time,
        sequence: inner(wire.sequence),
        stream: inner(wire.stream),
        incarnation: inner(wire.incarnation),
        traceparent: inner(wire.traceparent),
        tracestate: inner(wire.tracestate),
        idempotency_key: inner(wire.idempotencykey),
        row_version: wire.rowversion,
        cause: inner(wire.causedby),
        hops: wire.hops,
    };
    let data = wire.data.ok_or_else(|| DecodeError::Malformed("`data` is absent".to_owned()))?;
    event(attributes, data, said)
}

/// Whether what travelled beside a payload says that it is an event in binary mode.
pub(super) fn is_binary(properties: &Properties) -> bool {
    properties.get("specversion").is_some()
}

pub(super) fn decode_binary<'a>(
    text: &'a str,
    properties: &'a Properties,
    said: Option<Operation>,
) -> Result<Incoming<'a>, DecodeError> {
    let attribute = |name: &str| properties.get(name).map(Cow::Borrowed);
    let needed = |name| {
        attribute(name).ok_or_else(|| DecodeError::Malformed(format!("the attribute `{name}` is absent")))
    };
    let time = match properties.get("time") {
        Some(time) => Some(Timestamp::parse(time).ok_or_else(|| {
            DecodeError::Malformed("the attribute `time` is not ISO 8601 with an offset".to_owned())
        })?),
        None => None,
    };
    let attributes = Attributes {
        version: needed("specversion")?,
        id: needed("id")?,
        source: needed("source")?,
        kind: needed("type")?,
        time,
        sequence: attribute("sequence"),
        stream: attribute("stream"),
        incarnation: attribute("incarnation"),
        traceparent: attribute("traceparent"),
        tracestate: attribute("tracestate"),
        idempotency_key: attribute("idempotencykey"),
        row_version: properties.get("rowversion").and_then(|version| version.parse().ok()),
        cause: attribute("causedby"),
        hops: properties.get("hops").and_then(|hops| hops.parse().ok()),
    };
    let data: &RawValue = serde_json::from_str(text).map_err(|error| malformed(&error))?;
    event(attributes, data, said)
}

#[derive(Deserialize)]
struct DataIn<'a> {
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    operation: Option<&'a RawValue>,
    #[serde(borrow, default)]
    args: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    before: Option<&'a RawValue>,
    #[serde(borrow, default)]
    was: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "lenient")]
    rows: Option<Vec<IncomingRow<'a>>>,
    #[serde(borrow, default, deserialize_with = "lenient")]
    changed: Option<Names<'a>>,
    #[serde(default, deserialize_with = "lenient")]
    inserted: Option<bool>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

fn event<'a>(
    attributes: Attributes<'a>,
    data: &'a RawValue,
    said: Option<Operation>,
) -> Result<Incoming<'a>, DecodeError> {
    if attributes.version != VERSION {
        return Err(DecodeError::Malformed("its `specversion` is not 1.0".to_owned()));
    }
    for (name, value) in [("id", &attributes.id), ("source", &attributes.source), ("type", &attributes.kind)]
    {
        if value.is_empty() {
            return Err(DecodeError::Malformed(format!("the attribute `{name}` is empty")));
        }
    }
    if !is_object(data.get()) {
        return Err(DecodeError::Malformed("its data is no object".to_owned()));
    }
    let parts: DataIn<'_> = serde_json::from_str(data.get()).map_err(|error| malformed(&error))?;
    let of_this_kind = operation_of(&attributes.kind);
    let origin = origin(&attributes);
    let head = Head {
        id: Some(attributes.id),
        origin,
        sequence: attributes.sequence.and_then(|number| number.parse().ok()),
        stream: attributes.stream,
        version: attributes.row_version,
        traceparent: attributes.traceparent,
        tracestate: attributes.tracestate,
        idempotency_key: attributes.idempotency_key,
        metadata: None,
        cause: attributes.cause,
        hops: attributes.hops,
    };
    let named = (parts.model.and_then(as_text), parts.operation.and_then(as_text));
    let ((Some(model), Some(operation)), true) = (named, parts.result.is_some()) else {
        // Another program's: the data is the row.
        let operation = said.or(of_this_kind).ok_or(DecodeError::UnknownOperation)?;
        let content = content(operation, Some(data), [None; 2], None)?;
        return Ok(Incoming { time: attributes.time, content, ..head.incoming(operation) });
    };
    let operation = Operation::from_name(&operation).ok_or(DecodeError::UnknownOperation)?;
    let set = args::told(operation, parts.changed, parts.args, head.origin.as_ref());
    Ok(Incoming {
        model: Some(model),
        time: attributes.time,
        content: content(operation, parts.result, [parts.before, parts.was], parts.rows)?,
        set,
        inserted: parts.inserted,
        ..Head { metadata: parts.metadata, ..head }.incoming(operation)
    })
}

/// Who sent it, if it was a node of this framework.
fn origin(attributes: &Attributes<'_>) -> Option<Origin> {
    let incarnation = Uuid::try_parse(attributes.incarnation.as_ref()?).ok()?;
    let (service, node) = attributes.source.strip_prefix('/')?.split_once('/')?;
    Some(Origin { service: service.into(), node: node.into(), incarnation })
}
