//! What travels: the specification's JSON, with further fields beside it that others ignore.
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
//! `version` is that of the rows' shape; 1 is left out. `traceparent` and `idempotencyKey` are there
//! where the writer gave them.
//!
//! A bulk operation has `"result":{"count":2}` and its rows beside it:
//! `"rows":[{"before":{…},"after":{…}}, …]`.
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
use crate::trace::Trace;

mod args;

pub use args::Names;
use args::{Args, args, named};

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
    /// The how-many-eth of this origin and model.
    pub sequence: u64,
    /// The version of the rows' shape.
    pub version: u32,
    /// The trace to which it belongs.
    pub trace: Option<Trace>,
    /// What tells what was done from others of its kind.
    pub idempotency_key: Option<&'a str>,
}

/// An event's rows as JSON.
#[derive(Debug, Clone)]
pub enum Content {
    /// Of a single-row operation.
    Row {
        /// The row after the operation; the row as it was for a delete.
        row: Box<RawValue>,
        /// The row before an update, where it is known.
        before: Option<Box<RawValue>>,
    },
    /// Of a bulk operation.
    Rows {
        /// How many.
        count: u64,
        /// Each of them, where they are known.
        rows: Option<Vec<RowImages>>,
    },
}

/// One row of a bulk operation as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct RowImages {
    /// Before; `None` for inserts and where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<RawValue>>,
    /// After; `None` for deletes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Box<RawValue>>,
}

/// Encodes an event.
///
/// # Errors
/// [`EncodeError::TooLarge`] and [`EncodeError::TooDeep`] beyond `limits`, which receivers have
/// too; [`EncodeError::Json`] should never be seen here, where all parts are JSON already.
pub fn encode(event: &Outgoing<'_>, limits: &WireLimits) -> Result<Vec<u8>, EncodeError> {
    let wire = WireOut {
        model: event.model,
        operation: event.operation,
        args: args(event),
        result: match event.content {
            Content::Row { row, .. } => WireResult::Row(row),
            Content::Rows { count, .. } => WireResult::Count { count: *count },
        },
        timestamp: event.time,
        event_id: event.id,
        before: match event.content {
            Content::Row { before, .. } => before.as_deref(),
            Content::Rows { .. } => None,
        },
        rows: match event.content {
            Content::Row { .. } => None,
            Content::Rows { rows, .. } => rows.as_deref(),
        },
        changed: event.set.map(|set| named(event.columns, set).collect()),
        inserted: event.inserted,
        origin: event.origin,
        seq: event.sequence,
        version: Some(event.version).filter(|version| *version != FIRST_VERSION),
        traceparent: event.trace.map(|trace| trace.to_string()),
        idempotency_key: event.idempotency_key,
    };
    let text = serde_json::to_string(&wire).map_err(|_| EncodeError::Json)?;
    if text.len() > limits.max_bytes {
        return Err(EncodeError::TooLarge { bytes: text.len(), limit: limits.max_bytes });
    }
    if is_deeper_than(&text, limits.max_depth) {
        return Err(EncodeError::TooDeep { limit: limits.max_depth });
    }
    Ok(text.into_bytes())
}

/// An event as it came, checked as far as that is possible without its model.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The model's name as its sender writes it; `User` and `user` are one.
    pub model: Cow<'a, str>,
    /// What was done.
    pub operation: Operation,
    /// When, by the sender's clock; `None` when the sender does not say.
    pub time: Option<Timestamp>,
    /// The id, if it is a UUID. Ids of other programs are no identities.
    pub id: Option<EventId>,
    /// Who, if the sender says.
    pub origin: Option<Origin>,
    /// Its number at its origin.
    pub sequence: Option<u64>,
    /// The version of the rows' shape; `None` where the sender knows no versions.
    pub version: Option<u32>,
    /// The trace to which it belongs, if the sender tells and it is one.
    pub trace: Option<Trace>,
    /// What tells what was done from others of its kind, if the sender tells.
    pub idempotency_key: Option<Cow<'a, str>>,
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
    /// After.
    #[serde(borrow, default)]
    pub after: Option<&'a RawValue>,
}

/// Decodes what came from the wire, of any origin.
///
/// # Errors
/// [`DecodeError`] for everything that is not a whole event.
pub fn decode<'a>(payload: &'a [u8], limits: &WireLimits) -> Result<Incoming<'a>, DecodeError> {
    if payload.len() > limits.max_bytes {
        return Err(DecodeError::TooLarge { bytes: payload.len(), limit: limits.max_bytes });
    }
    let text = std::str::from_utf8(payload).map_err(|_| DecodeError::NotUtf8)?;
    if is_deeper_than(text, limits.max_depth) {
        return Err(DecodeError::TooDeep { limit: limits.max_depth });
    }
    let wire: WireIn<'a> = from_object(text).map_err(|error| malformed(&error))?;
    let operation = Operation::from_name(&wire.operation).ok_or(DecodeError::UnknownOperation)?;
    Ok(Incoming {
        content: content(operation, &wire)?,
        model: wire.model,
        operation,
        time: wire.timestamp,
        trace: wire.traceparent.and_then(|trace| trace.parse().ok()),
        idempotency_key: wire.idempotency_key.filter(|key| key.len() <= EmitOptions::MAX_IDEMPOTENCY_KEY),
        // Nodes of this framework leave the first version out.
        version: wire.version.or_else(|| wire.origin.as_ref().map(|_| FIRST_VERSION)),
        id: wire.event_id.and_then(|id| Uuid::try_parse(&id).ok()).map(EventId::from_uuid),
        origin: wire.origin,
        sequence: wire.seq,
        set: wire.changed.or_else(|| args::set(operation, wire.args)),
        inserted: wire.inserted,
    })
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

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireOut<'a> {
    model: &'a str,
    operation: Operation,
    args: Args<'a>,
    result: WireResult<'a>,
    timestamp: Timestamp,
    event_id: EventId,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<&'a [RowImages]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inserted: Option<bool>,
    origin: &'a Origin,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireResult<'a> {
    Row(&'a RawValue),
    Count { count: u64 },
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
    rows: Option<Vec<IncomingRow<'a>>>,
    #[serde(borrow, default)]
    changed: Option<Names<'a>>,
    #[serde(default)]
    inserted: Option<bool>,
    #[serde(default)]
    origin: Option<Origin>,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(default)]
    version: Option<u32>,
    #[serde(borrow, default)]
    traceparent: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    idempotency_key: Option<Cow<'a, str>>,
}

/// The version of a model that says nothing of versions.
const FIRST_VERSION: u32 = 1;

#[derive(Deserialize)]
struct Count {
    count: u64,
}

fn content<'a>(operation: Operation, wire: &WireIn<'a>) -> Result<IncomingContent<'a>, DecodeError> {
    let result = wire.result.ok_or_else(|| DecodeError::Malformed("`result` is absent".to_owned()))?;
    match operation {
        Operation::Create | Operation::Update | Operation::Upsert | Operation::Delete => {
            Ok(IncomingContent::Row { row: result, before: wire.before })
        }
        Operation::CreateMany | Operation::UpdateMany | Operation::DeleteMany => {
            let Count { count } = from_object(result.get()).map_err(|error| malformed(&error))?;
            let rows = wire.rows.as_deref().map(|rows| {
                rows.iter()
                    .map(|row| IncomingRow { before: row.before, after: row.after })
                    .collect::<Vec<_>>()
            });
            if rows.as_ref().is_some_and(|rows| rows.len() as u64 != count) {
                return Err(DecodeError::Rows);
            }
            Ok(IncomingContent::Rows { count, rows })
        }
    }
}

/// Reads a struct. Serde alone would also take an array of its fields in their order.
fn from_object<'a, T: Deserialize<'a>>(text: &'a str) -> serde_json::Result<T> {
    if text.trim_start().starts_with('{') {
        serde_json::from_str(text)
    } else {
        Err(serde::de::Error::custom("not an object"))
    }
}

fn malformed(error: &serde_json::Error) -> DecodeError {
    DecodeError::Malformed(what_is_wrong(error))
}

/// The kind and place of a JSON error. Its own text may quote the payload, which may be secret.
fn what_is_wrong(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Io | serde_json::error::Category::Syntax => "not JSON",
        serde_json::error::Category::Data => "a field is missing or of the wrong type",
        serde_json::error::Category::Eof => "the JSON ends too early",
    };
    format!("{kind}, at line {} column {}", error.line(), error.column())
}

/// Whether arrays and objects are nested deeper than `limit`. Brackets within strings do not
/// count. On text that is not JSON the answer has no meaning and does no harm.
fn is_deeper_than(text: &str, limit: usize) -> bool {
    // Most messages do not have so many brackets in all, and counting them is a tenth of the work.
    let opening = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    opening > limit && nests_deeper_than(text, limit)
}

fn nests_deeper_than(text: &str, limit: usize) -> bool {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    /// Any JSON, not too deep.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            // Eighths: serde_json reads other floats within one unit in the last place only.
            any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
            any::<String>().prop_map(Value::from),
            "[\\[\\]{}\"\\\\]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[a-z\\[{\"]{0,4}", inner, 0..5)
                    .prop_map(|map| Value::from(map.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    fn row() -> impl Strategy<Value = Value> {
        prop::collection::btree_map("[abé\"]{1,2}", value(), 0..5)
            .prop_map(|map| Value::from(map.into_iter().collect::<Map<_, _>>()))
    }

    /// What is put in and must come out.
    #[derive(Debug, Clone)]
    struct Sent {
        operation: Operation,
        row: Value,
        before: Option<Value>,
        count: u64,
        rows: Option<Vec<(Option<Value>, Option<Value>)>>,
        millis: i64,
        id: u128,
        sequence: u64,
        key: Option<Key>,
        set: Option<[bool; 3]>,
    }

    /// Of the model; rows have others too.
    const COLUMNS: &[Column] = &[
        Column::new("a", "a", "String", None),
        Column::new("quote", "\"", "String", None),
        Column::new("e", "é", "String", None),
    ];

    fn sent() -> impl Strategy<Value = Sent> {
        let rows = prop::collection::vec((prop::option::of(row()), prop::option::of(row())), 0..4);
        let key = prop_oneof![
            any::<i64>().prop_map(Key::Int),
            "[a-z]{0,9}".prop_map(|text| Key::Text(text.into())),
            (any::<i64>(), "[a-z]{0,9}")
                .prop_map(|(a, b)| Key::composite([Key::Int(a), Key::Text(b.into())])),
        ];
        let set = prop::option::of(any::<[bool; 3]>());
        let surrounding = (0..4_102_444_800_000_i64, any::<u128>(), any::<u64>(), set);
        let operation = prop::sample::select(Operation::ALL.to_vec());
        let content = (row(), prop::option::of(row()), prop::option::of(rows), any::<u64>());
        (operation, content, surrounding, prop::option::of(key)).prop_map(
            |(operation, (row, before, rows, count), (millis, id, sequence, set), key)| {
                let count = rows.as_ref().map_or(count, |rows| rows.len() as u64);
                let set = set.filter(|_| {
                    matches!(operation, Operation::Update | Operation::UpdateMany | Operation::Upsert)
                });
                Sent { operation, row, before, count, rows, millis, id, sequence, key, set }
            },
        )
    }

    fn is_bulk(operation: Operation) -> bool {
        matches!(operation, Operation::CreateMany | Operation::UpdateMany | Operation::DeleteMany)
    }

    fn raw(value: &Value) -> Box<RawValue> {
        encode_row(value).unwrap()
    }

    fn origin() -> Origin {
        Origin { service: "shop".into(), node: "a".into(), incarnation: Uuid::from_u128(9) }
    }

    fn content_of(sent: &Sent) -> Content {
        if !is_bulk(sent.operation) {
            return Content::Row { row: raw(&sent.row), before: sent.before.as_ref().map(raw) };
        }
        let image = |(before, after): &(Option<Value>, Option<Value>)| RowImages {
            before: before.as_ref().map(raw),
            after: after.as_ref().map(raw),
        };
        Content::Rows {
            count: sent.count,
            rows: sent.rows.as_ref().map(|rows| rows.iter().map(image).collect()),
        }
    }

    fn version(sent: &Sent) -> u32 {
        if sent.sequence.is_multiple_of(2) { 1 } else { 3 }
    }

    fn inserted(sent: &Sent) -> Option<bool> {
        [None, Some(true), Some(false)][(sent.sequence % 3) as usize]
    }

    fn encoded(sent: &Sent, limits: &WireLimits) -> Result<Vec<u8>, EncodeError> {
        let columns: &[&str] = match &sent.key {
            Some(Key::Composite(_)) => &["a", "b"],
            _ => &["id"],
        };
        let outgoing = Outgoing {
            model: "user",
            key_columns: columns,
            operation: sent.operation,
            keys: sent.key.as_slice(),
            content: &content_of(sent),
            columns: COLUMNS,
            set: sent.set.map(Columns::from_flags),
            inserted: inserted(sent),
            time: Timestamp::from_millis(sent.millis),
            id: EventId::from_uuid(Uuid::from_u128(sent.id)),
            origin: &origin(),
            sequence: sent.sequence,
            version: version(sent),
            trace: Trace::new(sent.id, sent.sequence, true),
            idempotency_key: sent.row.as_str().filter(|text| text.len() <= 256),
        };
        encode(&outgoing, limits)
    }

    const WIDE: WireLimits = WireLimits { max_bytes: usize::MAX, max_depth: usize::MAX };

    /// The part of the row that was set; the whole row if all columns were.
    fn written(sent: &Sent) -> Value {
        let set = match sent.set {
            None => return json!({}),
            Some([true, true, true]) => return sent.row.clone(),
            Some(set) => set,
        };
        let is_set = |name: &str| COLUMNS.iter().zip(set).any(|(column, set)| set && column.json == name);
        let fields = sent.row.as_object().unwrap().iter().filter(|(name, _)| is_set(name));
        Value::from(fields.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>())
    }

    fn parsed(raw: &RawValue) -> Value {
        serde_json::from_str(raw.get()).unwrap()
    }

    /// Nesting as the recursive definition has it.
    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
            Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// Bytes that are nearly an event.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        let token = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\\",
            "\"model\"",
            "\"user\"",
            "\"operation\"",
            "\"create\"",
            "\"updateMany\"",
            "\"result\"",
            "{\"count\":1}",
            "{\"id\":1}",
            "\"rows\"",
            "\"origin\"",
            "null",
            "1",
            "-",
            "1e999",
            "true",
            "\"\\ud800\"",
            " ",
            "\u{0}",
            "\"eventId\"",
            "\"timestamp\"",
            "\"seq\"",
            "\"before\"",
        ]);
        let soup = prop::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat().into_bytes());
        let broken = (sent(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4))
            .prop_map(|(sent, changes)| {
                let mut bytes = encoded(&sent, &WIDE).unwrap();
                for (place, byte) in changes {
                    let place = place.index(bytes.len());
                    bytes[place] = byte;
                }
                bytes
            });
        prop_oneof![prop::collection::vec(any::<u8>(), 0..200), soup, broken]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_again(sent in sent()) {
            let bytes = encoded(&sent, &WIDE).unwrap();
            let incoming = decode(&bytes, &WIDE).unwrap();
            prop_assert_eq!(&*incoming.model, "user");
            prop_assert_eq!(incoming.operation, sent.operation);
            prop_assert_eq!(incoming.time, Some(Timestamp::from_millis(sent.millis)));
            prop_assert_eq!(incoming.id, Some(EventId::from_uuid(Uuid::from_u128(sent.id))));
            prop_assert_eq!(incoming.origin, Some(origin()));
            prop_assert_eq!(incoming.sequence, Some(sent.sequence));
            prop_assert_eq!(incoming.version, Some(version(&sent)));
            prop_assert_eq!(incoming.trace, Trace::new(sent.id, sent.sequence, true));
            prop_assert_eq!(incoming.idempotency_key.as_deref(), sent.row.as_str().filter(|text| text.len() <= 256));
            prop_assert_eq!(incoming.inserted, inserted(&sent));
            if let Some(set) = sent.set {
                let told = incoming.set.map(|names| names.columns(COLUMNS));
                prop_assert_eq!(told, Some(Columns::from_flags(set)));
            }
            match incoming.content {
                IncomingContent::Row { row, before } => {
                    prop_assert!(!is_bulk(sent.operation));
                    prop_assert_eq!(parsed(row), sent.row);
                    prop_assert_eq!(before.map(parsed), sent.before);
                }
                IncomingContent::Rows { count, rows } => {
                    prop_assert!(is_bulk(sent.operation));
                    prop_assert_eq!(count, sent.count);
                    let image = |row: IncomingRow<'_>| (row.before.map(parsed), row.after.map(parsed));
                    prop_assert_eq!(rows.map(|rows| rows.into_iter().map(image).collect::<Vec<_>>()), sent.rows);
                }
            }
        }

        /// What another program's `args` say about columns; whatever else they are does no harm.
        #[test]
        fn args_of_any_shape_are_no_error(args in value(), update in prop::sample::select(vec!["update", "updateMany", "upsert"])) {
            let event = json!({ "model": "user", "operation": update, "args": args, "result": { "count": 1 } });
            let bytes = serde_json::to_vec(&event).unwrap();
            let names = decode(&bytes, &WIDE).unwrap().set;
            let keys = |field: &str| args.get(field).and_then(Value::as_object).map(|fields| fields.keys().collect::<Vec<_>>());
            let wanted = match update {
                "upsert" => keys("create").zip(keys("update")).map(|(create, update)| [create, update].concat()),
                _ => keys("data"),
            };
            if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
                prop_assert!(wanted.iter().all(|name| names.as_ref().is_some_and(|names| names.contains(name))));
            }
        }

        /// What the npm package looks into is there, in the shape in which it writes it.
        #[test]
        fn the_specifications_fields_are_there(sent in sent()) {
            let event: Value = serde_json::from_slice(&encoded(&sent, &WIDE).unwrap()).unwrap();
            let result = if is_bulk(sent.operation) { json!({ "count": sent.count }) } else { sent.row.clone() };
            let selector = match &sent.key {
                None => json!({}),
                Some(Key::Composite(parts)) => json!({ "a": parts[0], "b": parts[1] }),
                Some(key) => json!({ "id": key }),
            };
            let row = &sent.row;
            let args = match sent.operation {
                Operation::Create => json!({ "data": row }),
                Operation::CreateMany => json!({ "data": [] }),
                Operation::Update => json!({ "where": selector, "data": written(&sent) }),
                Operation::UpdateMany => json!({ "where": {}, "data": {} }),
                Operation::Upsert => json!({ "where": selector, "create": row, "update": row }),
                Operation::Delete => json!({ "where": selector }),
                Operation::DeleteMany => json!({ "where": {} }),
            };
            prop_assert_eq!(&event["operation"], sent.operation.as_str());
            prop_assert_eq!(&event["result"], &result);
            prop_assert_eq!(&event["args"], &args);
        }

        #[test]
        fn a_limit_is_kept_both_ways(sent in sent(), less in 0..3_usize) {
            let bytes = encoded(&sent, &WIDE).unwrap();
            let limits = WireLimits { max_bytes: bytes.len() - less, ..WIDE };
            prop_assert_eq!(encoded(&sent, &limits).is_ok(), less == 0);
            prop_assert_eq!(decode(&bytes, &limits).is_ok(), less == 0);
            let deep = depth(&serde_json::from_slice(&bytes).unwrap());
            let limits = WireLimits { max_depth: deep - less.min(deep), ..WIDE };
            prop_assert_eq!(decode(&bytes, &limits).is_ok(), less == 0);
        }

        #[test]
        fn depth_is_what_recursion_says(value in value(), limit in 0..8_usize, pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            prop_assert_eq!(is_deeper_than(&text.unwrap(), limit), depth(&value) > limit);
        }

        #[test]
        fn bytes_are_rejected_or_a_whole_event(bytes in nearly(), max_bytes in 0..600_usize, max_depth in 1..9_usize) {
            let limits = WireLimits { max_bytes, max_depth };
            if let Ok(incoming) = decode(&bytes, &limits) {
                prop_assert!(bytes.len() <= max_bytes);
                let fields: Map<String, Value> = match serde_json::from_slice(&bytes) {
                    Ok(fields) => fields,
                    // What nobody looks at is not read: such a number or surrogate may stand there.
                    Err(error) if error.is_syntax() => return Ok(()),
                    Err(error) => return Err(TestCaseError::fail(error.to_string())),
                };
                prop_assert_eq!(&fields["operation"], incoming.operation.as_str());
                prop_assert_eq!(&fields["model"], &*incoming.model);
                prop_assert!(depth(&Value::from(fields)) <= max_depth);
            }
        }
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only its types matter")]
    struct User {
        id: i64,
        name: String,
        tags: Vec<bool>,
    }

    const CANARY: &str = "c4n4ry-of-a-secret";

    /// The message with this field at this place, by a pointer into it.
    fn with(pointer: &str, value: Value) -> Value {
        let mut event = json!({
            "model": "user", "operation": "updateMany", "args": {}, "result": { "count": 1 },
            "timestamp": "2026-11-21T00:42:25.735Z", "eventId": "", "before": {}, "seq": 1,
            "origin": { "service": "s", "node": "n", "incarnation": "01935a00-0000-7000-8000-000000000000" },
            "rows": [{ "before": { "id": 1, "name": "", "tags": [] }, "after": { "id": 1, "name": "", "tags": [] } }],
        });
        match pointer.rsplit_once('/') {
            Some((parent, field)) if event.pointer(pointer).is_none() => {
                event.pointer_mut(parent).unwrap()[field] = value;
            }
            _ => *event.pointer_mut(pointer).unwrap() = value,
        }
        event
    }

    /// What everything that is said about a message says.
    fn errors(payload: &[u8]) -> Vec<String> {
        let limits = WireLimits::default();
        let said = |error: DecodeError| format!("{error} {error:?}");
        match decode(payload, &limits) {
            Err(error) => vec![said(error)],
            Ok(Incoming { content: IncomingContent::Row { row, before }, .. }) => [Some(row), before]
                .into_iter()
                .flatten()
                .filter_map(|row| decode_row::<User>(row).err())
                .map(said)
                .collect(),
            Ok(Incoming { content: IncomingContent::Rows { rows, .. }, .. }) => rows
                .into_iter()
                .flatten()
                .flat_map(|row| [row.before, row.after])
                .flatten()
                .filter_map(|row| decode_row::<User>(row).err())
                .map(said)
                .collect(),
        }
    }

    #[test]
    fn no_error_repeats_the_payload() {
        let places = [
            "",
            "/model",
            "/operation",
            "/result",
            "/result/count",
            "/timestamp",
            "/eventId",
            "/seq",
            "/origin",
            "/origin/service",
            "/origin/incarnation",
            "/rows",
            "/rows/0",
            "/rows/0/before",
            "/rows/0/after",
            "/rows/0/after/id",
            "/rows/0/after/tags",
            "/rows/0/after/name",
            "/rows/0/after/new",
        ];
        let secrets = [
            json!(CANARY),
            json!([CANARY]),
            json!({ CANARY: CANARY }),
            json!({ "id": CANARY, "name": 1, "tags": CANARY }),
            json!({ "id": 1, "name": "", "tags": [CANARY] }),
        ];
        let mut said = Vec::new();
        for place in places {
            for secret in &secrets {
                let whole = with(place, secret.clone()).to_string();
                said.extend(errors(whole.as_bytes()));
                // Cut off within the secret, and with a wrong byte behind it.
                if let Some(at) = whole.rfind(CANARY) {
                    said.extend(errors(&whole.as_bytes()[..at + CANARY.len()]));
                    said.extend(errors(whole.replace(CANARY, &format!("{CANARY}\u{1}")).as_bytes()));
                    said.extend(errors(whole.replace(CANARY, &format!("{CANARY}\\q")).as_bytes()));
                }
            }
        }
        assert!(said.len() > 100, "{}", said.len());
        for text in said {
            assert!(!text.contains("c4n4ry"), "{text}");
        }
    }

    #[test]
    fn an_array_of_the_fields_is_no_event() {
        let array = json!(["user", "create", { "id": 1 }, null, null, null, null, null, null]).to_string();
        assert!(matches!(decode(array.as_bytes(), &WIDE), Err(DecodeError::Malformed(_))));
        let count = json!({ "model": "user", "operation": "updateMany", "result": [1] }).to_string();
        assert!(matches!(decode(count.as_bytes(), &WIDE), Err(DecodeError::Malformed(_))));
    }
}
