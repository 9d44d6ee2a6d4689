//! An event for who is no node: a page in a browser, a log, a web hook.
//!
//! It is the [tracker form](crate::envelope::Format::Tracker), beside which stands what was done, and nothing of who
//! wrote and of what was noted:
//!
//! ```json
//! {"kind":"user_updated","model":"user","operation":"update","event_id":"0193…","trace_id":"0193…",
//!  "ts":"2026-11-21T00:42:25.735Z","keys":["42"],"payload":{"id":42,"name":"alicia"},
//!  "before":{"id":42,"name":"alice"},"changed":["name"]}
//! ```
//!
//! `payload` is the row; of a bulk operation `{"count":2}`, and `rows` has each with its `before` and `after`, where
//! they are known. `before` and `changed` are those of an update, where they are known, `inserted` that of an
//! upsert. Of an event that is no row `operation` is `create`.

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::envelope::{Content, EncodeError, RowBefore, RowImages};
use crate::event::{EventId, Operation, Timestamp};
use crate::model_info::{AnyEvent, ModelInfo};
use crate::trace::Trace;

#[derive(Serialize)]
struct Plain<'a> {
    kind: &'a str,
    model: &'a str,
    operation: Operation,
    event_id: EventId,
    trace_id: Uuid,
    ts: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    keys: Vec<String>,
    payload: Payload<'a>,
    #[serde(flatten)]
    before: Option<&'a RowBefore>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<&'a [RowImages]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inserted: Option<bool>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Payload<'a> {
    Row(&'a RawValue),
    Count { count: u64 },
}

/// The kind of a model's events: `user_updated`; of an event that is no row, its own.
pub(crate) fn kind(info: &ModelInfo, operation: Operation) -> String {
    match info.event {
        Some(kind) => kind.to_owned(),
        None => kind_of_rows(info.name, operation),
    }
}

/// The same of a model of which no more is known than its name.
pub(crate) fn kind_of_rows(model: &str, operation: Operation) -> String {
    format!("{model}_{}", operation.past_tense())
}

/// An event as JSON.
pub(crate) fn json(event: &dyn AnyEvent) -> Result<String, EncodeError> {
    let (info, meta) = (event.model(), event.meta());
    let content = event.content()?;
    let (payload, before, rows) = match &content {
        Content::Row { row, before } => (Payload::Row(row), before.as_ref(), None),
        Content::Rows { count, rows } => (Payload::Count { count: *count }, None, rows.as_deref()),
    };
    let changed = event.set().map(|set| {
        let columns = info.columns.iter().enumerate();
        columns.filter(|(place, _)| set.contains(*place)).map(|(_, column)| column.json).collect()
    });
    let plain = Plain {
        kind: &kind(info, meta.operation),
        model: info.name,
        operation: meta.operation,
        event_id: meta.id,
        trace_id: Trace::id_of(meta.trace(), meta.id),
        ts: meta.time,
        idempotency_key: meta.idempotency_key(),
        keys: meta.keys.iter().map(ToString::to_string).collect(),
        payload,
        before,
        rows,
        changed,
        inserted: event.inserted(),
    };
    serde_json::to_string(&plain).map_err(|_| EncodeError::Json)
}
