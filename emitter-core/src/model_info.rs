//! A model and its events without their types, so that one dispatcher serves all models.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::columns::{Column, Columns};
use crate::emit::QoS;
use crate::envelope::{
    Content, DecodeError, EncodeError, Incoming, IncomingContent, IncomingRow, RowImages, encode_row,
};
use crate::event::{EventId, Keys, Meta, Operation, Source, Stored, Timestamp};
use crate::model::{
    Body, BodyRef, Created, CreatedMany, Deleted, DeletedMany, Model, ModelEvent, RowChange, Updated,
    UpdatedMany, Upserted,
};

/// What is known of a model at run time.
pub(crate) struct ModelInfo {
    pub(crate) type_id: TypeId,
    pub(crate) name: &'static str,
    pub(crate) key_columns: &'static [&'static str],
    pub(crate) columns: &'static [Column],
    pub(crate) version: u32,
    /// The levels of its topics between prefix and operation.
    pub(crate) topic: &'static str,
    pub(crate) qos: fn(Operation) -> QoS,
    pub(crate) expires: Option<Duration>,
    pub(crate) decode: fn(Incoming<'_>, Received) -> Result<Arc<dyn AnyEvent>, DecodeError>,
}

impl ModelInfo {
    pub(crate) fn of<M: Model>() -> &'static Self {
        const {
            &Self {
                type_id: TypeId::of::<M>(),
                name: M::NAME,
                key_columns: M::KEY_COLUMNS,
                columns: M::COLUMNS,
                version: M::VERSION,
                topic: M::TOPIC,
                qos: M::qos,
                expires: M::EXPIRES,
                decode: decode::<M>,
            }
        }
    }
}

impl fmt::Debug for ModelInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelInfo({})", self.name)
    }
}

/// What the receiver adds to an event whose sender left it out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    pub(crate) id: EventId,
    pub(crate) time: Timestamp,
    pub(crate) source: Source,
}

/// An event of any model.
pub(crate) trait AnyEvent: Send + Sync {
    fn meta(&self) -> &Meta;

    fn model(&self) -> &'static ModelInfo;

    /// Its rows as JSON.
    fn content(&self) -> Result<Content, EncodeError>;

    /// The columns that its write set, where that is known and not obvious.
    fn set(&self) -> Option<Columns>;

    /// For downcasting to `Stored<M>`.
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<M: Model> AnyEvent for Stored<M> {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn model(&self) -> &'static ModelInfo {
        ModelInfo::of::<M>()
    }

    fn content(&self) -> Result<Content, EncodeError> {
        encode::<M>(&self.event.body())
    }

    fn set(&self) -> Option<Columns> {
        self.event.body().set()
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// The keys of a body's rows.
pub(crate) fn keys<M: Model>(body: &BodyRef<'_, M>) -> Keys {
    let one = |row| Keys::One([M::key(row)]);
    let many = |rows: &Option<Vec<M::Row>>| Keys::Many(rows.iter().flatten().map(M::key).collect());
    match body {
        BodyRef::Create(body) => one(&body.row),
        BodyRef::Update(body) => one(&body.after),
        BodyRef::Upsert(body) => one(&body.row),
        BodyRef::Delete(body) => one(&body.row),
        BodyRef::CreateMany(body) => many(&body.rows),
        BodyRef::DeleteMany(body) => many(&body.rows),
        BodyRef::UpdateMany(body) => {
            Keys::Many(body.rows.iter().flatten().map(|change| M::key(&change.after)).collect())
        }
    }
}

fn encode<M: Model>(body: &BodyRef<'_, M>) -> Result<Content, EncodeError> {
    let row = |row: &M::Row| Ok(Content::Row { row: encode_row(row)?, before: None });
    match body {
        BodyRef::Create(body) => row(&body.row),
        BodyRef::Upsert(body) => row(&body.row),
        BodyRef::Delete(body) => row(&body.row),
        BodyRef::Update(body) => {
            Ok(Content::Row { row: encode_row(&body.after)?, before: optional::<M>(body.before.as_ref())? })
        }
        BodyRef::CreateMany(body) => rows(body.count, body.rows.as_deref(), |row| {
            Ok(RowImages { before: None, after: Some(encode_row(row)?) })
        }),
        BodyRef::DeleteMany(body) => rows(body.count, body.rows.as_deref(), |row| {
            Ok(RowImages { before: Some(encode_row(row)?), after: None })
        }),
        BodyRef::UpdateMany(body) => rows(body.count, body.rows.as_deref(), |change| {
            Ok(RowImages {
                before: optional::<M>(change.before.as_ref())?,
                after: Some(encode_row(&change.after)?),
            })
        }),
    }
}

fn optional<M: Model>(row: Option<&M::Row>) -> Result<Option<Box<RawValue>>, EncodeError> {
    row.map(encode_row).transpose()
}

fn rows<R>(
    count: u64,
    rows: Option<&[R]>,
    images: impl Fn(&R) -> Result<RowImages, EncodeError>,
) -> Result<Content, EncodeError> {
    let rows = rows.map(|rows| rows.iter().map(images).collect()).transpose()?;
    Ok(Content::Rows { count, rows })
}

fn decode<M: Model>(incoming: Incoming<'_>, received: Received) -> Result<Arc<dyn AnyEvent>, DecodeError> {
    let operation = incoming.operation;
    let set = incoming.set.as_ref().map(|names| names.columns(M::COLUMNS));
    // Who knows no versions sends what is in the database now.
    let version = incoming.version.unwrap_or(M::VERSION);
    let body = body::<M>(operation, version, incoming.content, set)?;
    let keys = keys(&body.as_ref());
    let event = M::Event::from_body(body).ok_or(DecodeError::NotEmitted(operation))?;
    let meta = Meta {
        id: received.id,
        operation,
        source: received.source,
        origin: incoming.origin.map(Arc::new),
        time: received.time,
        sequence: incoming.sequence,
        keys,
    };
    Ok(Arc::new(Stored::<M> { meta, event }))
}

fn body<M: Model>(
    operation: Operation,
    version: u32,
    content: IncomingContent<'_>,
    set: Option<Columns>,
) -> Result<Body<M>, DecodeError> {
    let read = |row: &RawValue| M::read_row(version, row);
    let needed = |row: Option<&RawValue>| read(row.ok_or(DecodeError::Rows)?);
    match content {
        IncomingContent::Row { row, before } => {
            let row = read(row)?;
            Ok(match operation {
                Operation::Create => Created::new(row).into(),
                Operation::Upsert => Upserted::new(row, set).into(),
                Operation::Delete => Deleted::new(row).into(),
                Operation::Update => Updated::new(before.map(read).transpose()?, row, set).into(),
                Operation::CreateMany | Operation::UpdateMany | Operation::DeleteMany => {
                    return Err(DecodeError::Rows);
                }
            })
        }
        IncomingContent::Rows { count, rows } => Ok(match operation {
            Operation::CreateMany => CreatedMany::new(count, images(rows, |row| needed(row.after))?).into(),
            Operation::DeleteMany => DeletedMany::new(count, images(rows, |row| needed(row.before))?).into(),
            Operation::UpdateMany => UpdatedMany::new(
                count,
                images(rows, |row| {
                    let before = row.before.map(read).transpose()?;
                    Ok(RowChange::new(before, needed(row.after)?))
                })?,
                set,
            )
            .into(),
            Operation::Create | Operation::Update | Operation::Upsert | Operation::Delete => {
                return Err(DecodeError::Rows);
            }
        }),
    }
}

fn images<T>(
    rows: Option<Vec<IncomingRow<'_>>>,
    image: impl Fn(IncomingRow<'_>) -> Result<T, DecodeError>,
) -> Result<Option<Vec<T>>, DecodeError> {
    rows.map(|rows| rows.into_iter().map(image).collect()).transpose()
}
