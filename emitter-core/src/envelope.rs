//! What travels: in one of three forms, of which every node understands all.
//!
//! The specification's JSON, with further fields beside it that others ignore:
//!
//! ```json
//! {"model":"user","operation":"update",
//!  "args":{"where":{"id":7},"data":{"status":"ACTIVE"}},
//!  "result":{"id":7,"status":"ACTIVE"},
//!  "timestamp":"2026-11-21T00:42:25.735Z","eventId":"01935a…",
//!  "before":{"id":7,"status":"NEW"},"changed":["status"],
//!  "origin":{"service":"shop","node":"server-1","incarnation":"01935a…"},"seq":42}
//! ```
//!
//! `changed` names the columns that the write set, also where they kept their value; it is absent
//! where that is not known, or goes without saying (inserts set all, deletes none). Of programs
//! that do not send it, `args` tells.
//!
//! `seq` counts the events of the origin and the model. Those that an outbox relays have it last, with the
//! `stream` that it counts instead.
//!
//! `version` is that of the rows' shape; 1 is left out. `traceparent`, `tracestate` and
//! `idempotencyKey` are there where the writer gave them; `causedBy` and `hops` where a listener of
//! another event wrote; `metadata` where the writer noted something.
//!
//! A bulk operation has `"result":{"count":2}` and its rows beside it:
//! `"rows":[{"before":{…},"after":{…}}, …]`.
//!
//! Where the model says so ([`Before::Changed`](crate::model::Before::Changed)), an update has in place of `before`
//! what was in the columns that differ, `"was":{"status":"NEW"}`: the row before is the row after with these put over it.
//! Where that would not tell it, for the two rows have not the same columns, `before` is there all the same.
//!
//! CloudEvents 1.0 have the head in attributes and the rest as their data:
//!
//! ```json
//! {"specversion":"1.0","id":"01935a…","source":"/shop/server-1","type":"user.update","subject":"7",
//!  "time":"2026-11-21T00:42:25.735Z","datacontenttype":"application/json",
//!  "sequence":"42","incarnation":"01935a…",
//!  "data":{"model":"user","operation":"update","args":{…},"result":{…},"before":{…},"changed":["status"]}}
//! ```
//!
//! And the tracker form has the row as its payload:
//!
//! ```json
//! {"trace_id":"01935a…","ts":"2026-11-21T00:42:25.735Z","kind":"user_updated",
//!  "idempotency_key":"user_updated_1795221745735_9c0ffee1","payload":{"id":7,"status":"ACTIVE"},
//!  "change":{"model":"user","operation":"update","eventId":"01935a…","origin":{…},"seq":42,"before":{…}}}
//! ```
//!
//! Which form a message has is told by its content type, else by its shape.
//!
//! Rows are encoded and decoded by the model ([`Model::Row`](crate::model::Model::Row)); this
//! module handles them as finished JSON, so it is compiled once and not once for each model.
//! It reads no clock and does no I/O. No error text repeats a part of the payload.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::columns::{Column, Columns};
use crate::emit::EmitOptions;
use crate::event::{EventId, Operation, Origin, Timestamp};
use crate::key::Key;
use crate::metadata::Metadata;
use crate::properties::Properties;
use crate::record::Number;
use crate::topic::Said;
use crate::trace::Trace;

mod args;
mod cloud_events;
mod differences;
mod format;
mod glimpse;
mod json;
mod specification;
mod tracker;

#[cfg(test)]
mod tests;

pub use args::Names;
pub(crate) use differences::row_before;
pub use format::{Format, Kind, NoKind};
pub(crate) use glimpse::{Glimpse, is_kept_by_value, key_of_row};
pub(crate) use json::text;
use json::{from_object, is_deeper_than, malformed, what_is_wrong};

/// Bounds on what is taken from the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireLimits {
    /// The largest payload in bytes, both ways. Default 256 KiB.
    pub max_bytes: usize,
    /// The deepest nesting of arrays and objects. Default 32.
    pub max_depth: usize,
}

impl Default for WireLimits {
    fn default() -> Self {
        Self { max_bytes: 256 * 1024, max_depth: 32 }
    }
}

/// An event to be encoded.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The names of its key columns, in the order of a composite key's parts.
    pub key_columns: &'a [&'a str],
    /// What was done.
    pub operation: Operation,
    /// The same in the words of the forms that have a kind.
    pub kind: &'a str,
    /// The keys of its rows.
    pub keys: &'a [Key],
    /// The rows.
    pub content: &'a Content,
    /// The model's columns.
    pub columns: &'static [Column],
    /// Those that the write set, where that is known and not obvious: of updates and upserts.
    pub set: Option<Columns>,
    /// Of an upsert, whether it inserted, where that is known.
    pub inserted: Option<bool>,
    /// When.
    pub time: Timestamp,
    /// Which event.
    pub id: EventId,
    /// Who.
    pub origin: &'a Origin,
    /// The how-many-eth of this origin and model; `None` where it is numbered later.
    pub sequence: Option<u64>,
    /// The version of the rows' shape.
    pub version: u32,
    /// The trace to which it belongs.
    pub trace: Option<Trace>,
    /// What vendors of tracing hand on beside it.
    pub trace_state: Option<&'a str>,
    /// What tells what was done from others of its kind.
    pub idempotency_key: Option<&'a str>,
    /// What the writer noted beside it.
    pub metadata: Option<&'a Metadata>,
    /// The event whose listener wrote.
    pub cause: Option<EventId>,
    /// How many events were caused by another, up to this one.
    pub hops: u8,
}

impl Outgoing<'_> {
    fn changed(&self) -> Option<Vec<&'static str>> {
        self.set.map(|set| args::named(self.columns, set).collect())
    }

    /// Unless it is the first one.
    fn later_version(&self) -> Option<u32> {
        Some(self.version).filter(|version| *version != FIRST_VERSION)
    }

    fn traceparent(&self) -> Option<String> {
        self.trace.map(|trace| trace.to_string())
    }

    fn hops(&self) -> Option<u8> {
        Some(self.hops).filter(|hops| *hops > 0)
    }
}

/// An event as it travels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The payload.
    pub payload: Vec<u8>,
    /// What travels beside it, where the transport can carry it.
    pub properties: Properties,
}

/// An event's rows as JSON.
#[derive(Debug, Clone)]
pub enum Content {
    /// Of a single-row operation.
    Row {
        /// The row after the operation; the row as it was for a delete.
        row: Box<RawValue>,
        /// The row before an update, where it is known.
        before: Option<RowBefore>,
    },
    /// Of a bulk operation.
    Rows {
        /// How many.
        count: u64,
        /// Each of them, where they are known.
        rows: Option<Vec<RowImages>>,
    },
}

impl Content {
    /// How many bytes its rows have.
    pub(crate) fn bytes(&self) -> usize {
        let of = |before: Option<&RowBefore>, after: Option<&RawValue>| {
            let rows = [before.map(RowBefore::json), after];
            rows.into_iter().flatten().map(|row| row.get().len()).sum::<usize>()
        };
        match self {
            Self::Row { row, before } => of(before.as_ref(), Some(row)),
            Self::Rows { rows, .. } => {
                let each = rows.iter().flatten();
                each.map(|RowImages { before, after }| of(before.as_ref(), after.as_deref())).sum()
            }
        }
    }

    /// Tells each row before by what was in the columns that differ, where that tells it.
    pub fn narrow(&mut self) {
        match self {
            Self::Row { row, before: Some(before) } => before.narrow(row),
            Self::Row { before: None, .. } => {}
            Self::Rows { rows, .. } => {
                for RowImages { before, after } in rows.iter_mut().flatten() {
                    if let (Some(before), Some(after)) = (before, after) {
                        before.narrow(after);
                    }
                }
            }
        }
    }

    /// The row before an update, where it is known.
    fn before(&self) -> Option<&RowBefore> {
        match self {
            Self::Row { before, .. } => before.as_ref(),
            Self::Rows { .. } => None,
        }
    }

    /// The rows of a bulk operation, where they are known.
    fn rows(&self) -> Option<&[RowImages]> {
        match self {
            Self::Row { .. } => None,
            Self::Rows { rows, .. } => rows.as_deref(),
        }
    }
}

/// A row before an update as JSON, in one of two ways, each with a name of its own.
#[derive(Debug, Clone, Serialize)]
pub enum RowBefore {
    /// The row: `before`.
    #[serde(rename = "before")]
    Whole(Box<RawValue>),
    /// What was in those of its columns that differ from the row after: `was`.
    #[serde(rename = "was")]
    Differing(Box<RawValue>),
}

impl RowBefore {
    fn json(&self) -> &RawValue {
        match self {
            Self::Whole(row) | Self::Differing(row) => row,
        }
    }

    fn narrow(&mut self, after: &RawValue) {
        if let Self::Whole(before) = self
            && let Some(was) = differences::narrowed(before, after)
        {
            *self = Self::Differing(was);
        }
    }
}

/// One row of a bulk operation as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct RowImages {
    /// Before; `None` for inserts and where it is not known.
    #[serde(flatten)]
    pub before: Option<RowBefore>,
    /// After; `None` for deletes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Box<RawValue>>,
}

/// Encodes an event.
///
/// # Errors
/// [`EncodeError::TooLarge`] and [`EncodeError::TooDeep`] beyond `limits`, which receivers have
/// too; [`EncodeError::Json`] should never be seen here, where all parts are JSON already.
pub fn encode(event: &Outgoing<'_>, format: Format, limits: &WireLimits) -> Result<Encoded, EncodeError> {
    let (text, properties) = match format {
        Format::Specification => (specification::encode(event)?, beside(event, content_type(format))),
        Format::CloudEvents => (cloud_events::encode(event)?, beside(event, content_type(format))),
        Format::CloudEventsBinary => cloud_events::encode_binary(event)?,
        Format::Tracker => (tracker::encode(event)?, beside(event, content_type(format))),
    };
    if text.len() > limits.max_bytes {
        return Err(EncodeError::TooLarge { bytes: text.len(), limit: limits.max_bytes });
    }
    if is_deeper_than(&text, limits.max_depth) {
        return Err(EncodeError::TooDeep { limit: limits.max_depth });
    }
    Ok(Encoded { payload: text.into_bytes(), properties })
}

const JSON: &str = "application/json";

/// Adds its number to an event that was encoded without one.
pub(crate) fn add_number(event: &mut Encoded, number: &Number) {
    let (stream, sequence) = (number.stream(), number.sequence);
    if cloud_events::is_binary(&event.properties) {
        let properties = std::mem::take(&mut event.properties);
        event.properties = properties.with("sequence", sequence.to_string()).with("stream", stream);
        return;
    }
    let is_structured = event.properties.content_type.as_deref() == Some(cloud_events::STRUCTURED);
    let members = match is_structured {
        true => format!(",\"sequence\":\"{sequence}\",\"stream\":\"{stream}\"}}"),
        false => format!(",\"seq\":{sequence},\"stream\":\"{stream}\"}}"),
    };
    // All of these forms are an object that is not empty.
    if event.payload.pop_if(|last| *last == b'}').is_some() {
        event.payload.extend_from_slice(members.as_bytes());
    }
}

/// The media type of an event in this form.
pub(crate) fn content_type(format: Format) -> &'static str {
    if format == Format::CloudEvents { cloud_events::STRUCTURED } else { JSON }
}

/// What programs on the way want to know without reading the payload.
fn beside(event: &Outgoing<'_>, content_type: &'static str) -> Properties {
    told_beside(Some(event.id), event.trace, event.trace_state, content_type)
}

fn told_beside(
    id: Option<EventId>,
    trace: Option<Trace>,
    trace_state: Option<&str>,
    content_type: &'static str,
) -> Properties {
    let told = [
        ("eventId", id.map(|id| id.to_string())),
        (TRACEPARENT, trace.map(|trace| trace.to_string())),
        (TRACESTATE, trace_state.map(str::to_owned)),
    ];
    let told = told.into_iter().filter_map(|(name, value)| Some((name, value?)));
    told.fold(Properties::of_type(content_type), |properties, (name, value)| properties.with(name, value))
}

/// The same of an event that is written already, in a form in which nothing beside it is a part of it.
pub(crate) fn found_beside(payload: &[u8], format: Format, limits: &WireLimits) -> Properties {
    let nothing = Properties::default();
    let incoming = decode(payload, &nothing, Said::Nothing, limits);
    let (id, trace, state) =
        incoming.map_or((None, None, None), |found| (found.id, found.trace, found.trace_state));
    told_beside(id, trace, state.as_deref(), content_type(format))
}

/// The user properties in which [W3C Trace Context](https://w3c.github.io/trace-context-mqtt/) travels.
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// An event as it came, checked as far as that is possible without its model.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The model's name as its sender writes it, if it does; `User` and `user` are one.
    pub model: Option<Cow<'a, str>>,
    /// What was done.
    pub operation: Operation,
    /// When, by the sender's clock; `None` when the sender does not say.
    pub time: Option<Timestamp>,
    /// The id, if it is a UUID. Ids of other programs are no identities.
    pub id: Option<EventId>,
    /// Who, if the sender says.
    pub origin: Option<Origin>,
    /// Its number at its origin, or in its stream.
    pub sequence: Option<u64>,
    /// What its number counts, where that is not its origin: see [`Number`].
    pub stream: Option<Cow<'a, str>>,
    /// The version of the rows' shape; `None` where the sender knows no versions.
    pub version: Option<u32>,
    /// The trace to which it belongs, if the sender tells and it is one.
    pub trace: Option<Trace>,
    /// What vendors of tracing hand on beside it.
    pub trace_state: Option<Cow<'a, str>>,
    /// What tells what was done from others of its kind, if the sender tells.
    pub idempotency_key: Option<Cow<'a, str>>,
    /// What the writer noted beside it.
    pub metadata: Metadata,
    /// The event whose listener wrote.
    pub cause: Option<EventId>,
    /// How many events were caused by another, up to this one.
    pub hops: u8,
    /// The rows.
    pub content: IncomingContent<'a>,
    /// The names of the columns that the write set, if the sender tells.
    pub set: Option<Names<'a>>,
    /// Of an upsert, whether it inserted, if the sender tells.
    pub inserted: Option<bool>,
}

/// The rows of an [`Incoming`] event as JSON of any shape.
#[derive(Debug)]
pub enum IncomingContent<'a> {
    /// Of a single-row operation.
    Row {
        /// Meant to be a row.
        row: &'a RawValue,
        /// Meant to be the row before.
        before: Option<&'a RawValue>,
        /// Meant to be those of its columns that differ.
        was: Option<&'a RawValue>,
    },
    /// Of a bulk operation.
    Rows {
        /// How many.
        count: u64,
        /// Each of them, if the sender tells.
        rows: Option<Vec<IncomingRow<'a>>>,
    },
}

/// One row of a bulk operation as JSON of any shape.
#[derive(Debug, Deserialize)]
pub struct IncomingRow<'a> {
    /// Before.
    #[serde(borrow, default)]
    pub before: Option<&'a RawValue>,
    /// Those of its columns that differ.
    #[serde(borrow, default)]
    pub was: Option<&'a RawValue>,
    /// After.
    #[serde(borrow, default)]
    pub after: Option<&'a RawValue>,
}

/// Decodes what came from the wire, of any origin and in any form. `said` is what its topic tells. A trace that travels
/// beside the event counts where the event itself tells of no other.
///
/// # Errors
/// [`DecodeError`] for everything that is not a whole event.
pub fn decode<'a>(
    payload: &'a [u8],
    properties: &'a Properties,
    said: Said<'_>,
    limits: &WireLimits,
) -> Result<Incoming<'a>, DecodeError> {
    let mut incoming = decode_form(payload, properties, said, limits)?;
    if let Some(beside) = properties.get(TRACEPARENT).and_then(|trace| trace.parse::<Trace>().ok())
        // Of the tracker form, which names a trace and no span.
        && incoming.trace.is_none_or(|trace| trace.trace_id() == beside.trace_id())
    {
        incoming.trace = Some(beside);
        if incoming.trace_state.is_none() {
            let state = properties.get(TRACESTATE).filter(|state| Trace::is_state(state));
            incoming.trace_state = state.map(Cow::Borrowed);
        }
    }
    Ok(incoming)
}

fn decode_form<'a>(
    payload: &'a [u8],
    properties: &'a Properties,
    said: Said<'_>,
    limits: &WireLimits,
) -> Result<Incoming<'a>, DecodeError> {
    let text = text(payload, limits)?;
    let said = match said {
        Said::This(operation) => Some(operation),
        Said::Nothing | Said::Other(_) => None,
    };
    let is_type = |wanted: &str| {
        // Parameters such as the character set may follow.
        let found = properties.content_type.as_deref().and_then(|found| found.split(';').next());
        found.is_some_and(|found| found.trim_end().eq_ignore_ascii_case(wanted))
    };
    if is_type(cloud_events::STRUCTURED) {
        return cloud_events::decode(text, said);
    }
    if cloud_events::is_binary(properties) {
        return cloud_events::decode_binary(text, properties, said);
    }
    specification::decode(text).or_else(|error| match from_object::<tracker::Shape<'_>>(text) {
        Ok(shape) if shape.specversion.is_some() => cloud_events::decode(text, said),
        Ok(shape) if shape.is_tracker() => tracker::decode(text, said),
        _ => Err(error),
    })
}

/// Whether what travels beside a payload is a part of the event, as of CloudEvents in binary mode.
pub(crate) fn has_attributes(properties: &Properties) -> bool {
    cloud_events::is_binary(properties)
}

/// What surrounds the rows, in whichever form it came.
#[derive(Default)]
struct Head<'a> {
    id: Option<Cow<'a, str>>,
    origin: Option<Origin>,
    sequence: Option<u64>,
    stream: Option<Cow<'a, str>>,
    version: Option<u32>,
    traceparent: Option<Cow<'a, str>>,
    tracestate: Option<Cow<'a, str>>,
    idempotency_key: Option<Cow<'a, str>>,
    metadata: Option<&'a RawValue>,
    cause: Option<Cow<'a, str>>,
    hops: Option<u8>,
}

impl<'a> Head<'a> {
    /// An event of which no more is known than this.
    fn incoming(self, operation: Operation) -> Incoming<'a> {
        let id = |text: Cow<'a, str>| Uuid::try_parse(&text).ok().map(EventId::from_uuid);
        Incoming {
            model: None,
            operation,
            time: None,
            trace: self.traceparent.and_then(|trace| trace.parse().ok()),
            trace_state: self.tracestate.filter(|state| Trace::is_state(state)),
            idempotency_key: self.idempotency_key.filter(|key| key.len() <= EmitOptions::MAX_IDEMPOTENCY_KEY),
            metadata: self.metadata.map(Metadata::read).unwrap_or_default(),
            // Nodes of this framework leave the first version out.
            version: self.version.or_else(|| self.origin.as_ref().map(|_| FIRST_VERSION)),
            id: self.id.and_then(id),
            origin: self.origin,
            sequence: self.sequence,
            stream: self.stream.filter(|stream| stream.len() <= Number::MAX_STREAM),
            content: IncomingContent::Rows { count: 0, rows: None },
            set: None,
            inserted: None,
            cause: self.cause.and_then(id),
            hops: self.hops.unwrap_or_default(),
        }
    }
}

/// Decodes one row of an [`Incoming`] event as its model's type.
///
/// # Errors
/// [`DecodeError::Row`] when it is something else.
pub fn decode_row<R: serde::de::DeserializeOwned>(row: &RawValue) -> Result<R, DecodeError> {
    // A `match`, for this is compiled for each model, and closures with it.
    match serde_json::from_str(row.get()) {
        Ok(row) => Ok(row),
        Err(error) => Err(DecodeError::Row(what_is_wrong(&error))),
    }
}

/// Encodes one row as JSON.
///
/// # Errors
/// [`EncodeError::Json`] when its type cannot be JSON, such as a map with keys that are no texts.
pub fn encode_row<R: Serialize>(row: &R) -> Result<Box<RawValue>, EncodeError> {
    match serde_json::value::to_raw_value(row) {
        Ok(row) => Ok(row),
        Err(_) => Err(EncodeError::Json),
    }
}

/// Why an event cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Larger than [`WireLimits::max_bytes`]. Skip large columns, or raise the limit everywhere.
    #[error("the event has {bytes} bytes, the limit is {limit}; skip large columns or raise `max_payload`")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Nested deeper than [`WireLimits::max_depth`]: no receiver would take it.
    #[error(
        "the event is nested deeper than {limit} levels; flatten or skip the column, or raise `max_depth`"
    )]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A row's `Serialize` failed. Its own words may quote the row, so they are not repeated.
    #[error(
        "a row cannot be written as JSON: its `Serialize` fails, or a map in it has keys that are no texts"
    )]
    Json,
}

/// Why a message is no event. None of the texts repeats a part of the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Larger than [`WireLimits::max_bytes`].
    #[error("the message has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// More user properties than [`Properties::MOST_BYTES`].
    #[error("the message's user properties have {bytes} bytes, the limit is {limit}")]
    Properties {
        /// Their size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Not UTF-8.
    #[error("the message is not UTF-8")]
    NotUtf8,
    /// Nested deeper than [`WireLimits::max_depth`].
    #[error("the message is nested deeper than {limit} levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// Not JSON, a field missing, or of the wrong type.
    #[error("the message is no event: {0}")]
    Malformed(String),
    /// An operation that the specification does not know.
    #[error("unknown operation")]
    UnknownOperation,
    /// An operation that this node's model does not emit.
    #[error("this node's model does not emit {0}; add it to its `#[emits(…)]`")]
    NotEmitted(Operation),
    /// The rows have a version of which this node does not know the shape.
    #[error(
        "the event has version {found} of its model, this node has {known}: deploy the nodes that listen before those \
         that write, and name the types of earlier versions with `#[emits(earlier(…))]`"
    )]
    Version {
        /// That of the event.
        found: u32,
        /// That of this node's model.
        known: u32,
    },
    /// A row is not what the model's type expects.
    #[error("a row does not fit the model: {0}")]
    Row(String),
    /// `count` and the number of `rows` differ, or a row lacks the image that its operation has.
    #[error("the rows do not fit the operation or their count")]
    Rows,
}

/// The version of a model that says nothing of versions.
const FIRST_VERSION: u32 = 1;

#[derive(Deserialize)]
struct Count {
    count: u64,
}

fn content<'a>(
    operation: Operation,
    result: Option<&'a RawValue>,
    [before, was]: [Option<&'a RawValue>; 2],
    rows: Option<Vec<IncomingRow<'a>>>,
) -> Result<IncomingContent<'a>, DecodeError> {
    let result = result.ok_or_else(|| DecodeError::Malformed("`result` is absent".to_owned()))?;
    match operation {
        Operation::Create | Operation::Update | Operation::Upsert | Operation::Delete => {
            Ok(IncomingContent::Row { row: result, before, was })
        }
        Operation::CreateMany | Operation::UpdateMany | Operation::DeleteMany => {
            let Count { count } = from_object(result.get()).map_err(|error| malformed(&error))?;
            if rows.as_ref().is_some_and(|rows| rows.len() as u64 != count) {
                return Err(DecodeError::Rows);
            }
            Ok(IncomingContent::Rows { count, rows })
        }
    }
}
