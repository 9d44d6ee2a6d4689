//! A model and its events without their types, so that one dispatcher serves all models.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::columns::{Column, Columns};
use crate::diff::Images;
use crate::emit::{Notes, QoS};
use crate::envelope::{
    Content, DecodeError, EncodeError, Incoming, IncomingContent, IncomingRow, RowBefore, RowImages,
    encode_row, row_before,
};
use crate::event::{EventId, Keys, Meta, Operation, Origin, Source, Stored, Timestamp};
use crate::key::Key;
use crate::model::{
    Before, Body, BodyRef, Created, CreatedMany, Deleted, DeletedMany, Model, ModelEvent, RowChange, Updated,
    UpdatedMany, Upserted,
};
use crate::net::{Net, NetRow, Place};
use crate::record::Number;
use crate::topic::{ModelTopic, TopicError};

/// What is known of a model at run time.
pub(crate) struct ModelInfo {
    pub(crate) type_id: TypeId,
    pub(crate) name: &'static str,
    pub(crate) key_columns: &'static [&'static str],
    pub(crate) columns: &'static [Column],
    pub(crate) version: u32,
    /// What kind of event it is, where it is no row.
    pub(crate) event: Option<&'static str>,
    /// The levels of its topics between prefix and operation.
    topic: &'static str,
    pub(crate) qos: fn(Operation) -> QoS,
    pub(crate) expires: Option<Duration>,
    pub(crate) park: bool,
    pub(crate) before: Before,
    pub(crate) operations: &'static [Operation],
    pub(crate) decode: fn(Incoming<'_>, Received) -> Result<Arc<dyn AnyEvent>, DecodeError>,
    pub(crate) merge: Merge,
    pub(crate) same: fn(NetRow, &[Arc<dyn AnyEvent>]) -> bool,
}

/// Makes one event of rows of several. `None` where no row changed in the end.
pub(crate) type Merge = fn(&Net, &[Arc<dyn AnyEvent>]) -> Option<Arc<dyn AnyEvent>>;

impl ModelInfo {
    pub(crate) fn of<M: Model>() -> &'static Self {
        const {
            &Self {
                type_id: TypeId::of::<M>(),
                name: M::NAME,
                key_columns: M::KEY_COLUMNS,
                columns: M::COLUMNS,
                version: M::VERSION,
                event: M::EVENT,
                topic: M::TOPIC,
                qos: M::qos,
                expires: M::EXPIRES,
                park: M::PARK,
                before: M::BEFORE,
                operations: M::OPERATIONS,
                decode: decode::<M>,
                merge: merge::<M>,
                same: same::<M>,
            }
        }
    }
}

impl ModelInfo {
    /// What stands for it in topics.
    pub(crate) fn topic(&self) -> Result<ModelTopic, TopicError> {
        ModelTopic::of(self.topic, self.event.is_some())
    }
}

impl fmt::Debug for ModelInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelInfo({})", self.name)
    }
}

/// Its rows as they are sent.
pub(crate) fn sent(event: &dyn AnyEvent) -> Result<Content, EncodeError> {
    let mut content = event.content()?;
    if event.model().before == Before::Changed {
        content.narrow();
    }
    Ok(content)
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

    /// Nobody else may have it yet.
    fn meta_mut(&mut self) -> &mut Meta;

    fn model(&self) -> &'static ModelInfo;

    /// Its rows as JSON.
    fn content(&self) -> Result<Content, EncodeError>;

    /// The columns that its write set, where that is known and not obvious.
    fn set(&self) -> Option<Columns>;

    /// Of an upsert, whether it inserted, where that is known.
    fn inserted(&self) -> Option<bool>;

    /// For downcasting to `Stored<M>`.
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<M: Model> AnyEvent for Stored<M> {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
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

    fn inserted(&self) -> Option<bool> {
        match self.event.body() {
            BodyRef::Upsert(body) => body.inserted,
            _ => None,
        }
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// The keys of a body's rows.
pub(crate) fn keys<M: Model>(body: &BodyRef<'_, M>) -> Keys {
    match body {
        _ if M::KEY_COLUMNS.is_empty() => Keys::Many(Box::default()),
        BodyRef::Create(body) => Keys::One([M::key(&body.row)]),
        BodyRef::Update(body) => Keys::One([M::key(&body.after)]),
        BodyRef::Upsert(body) => Keys::One([M::key(&body.row)]),
        BodyRef::Delete(body) => Keys::One([M::key(&body.row)]),
        BodyRef::CreateMany(_) | BodyRef::UpdateMany(_) | BodyRef::DeleteMany(_) => {
            all_keys(body.rows(), &|place| {
                let Images { before, after } = body.images(place);
                after.or(before).map(M::key)
            })
        }
    }
}

/// Whether one event of this operation is of several rows.
pub(crate) const fn bulk(operation: Operation) -> bool {
    matches!(operation, Operation::CreateMany | Operation::UpdateMany | Operation::DeleteMany)
}

// What follows is split so that little of it is compiled for each model, and most of it once.

fn all_keys(rows: Option<usize>, key: &dyn Fn(usize) -> Option<Key>) -> Keys {
    Keys::Many((0..rows.unwrap_or_default()).filter_map(key).collect())
}

fn encode<M: Model>(body: &BodyRef<'_, M>) -> Result<Content, EncodeError> {
    let images = |place| {
        let Images { before, after } = body.images(place);
        Ok((encoded::<M>(before)?, encoded::<M>(after)?))
    };
    let count = match body {
        BodyRef::CreateMany(body) => Some(body.count),
        BodyRef::UpdateMany(body) => Some(body.count),
        BodyRef::DeleteMany(body) => Some(body.count),
        BodyRef::Create(_) | BodyRef::Update(_) | BodyRef::Upsert(_) | BodyRef::Delete(_) => None,
    };
    content(count, body.rows(), &images)
}

fn encoded<M: Model>(row: Option<&M::Row>) -> Result<Option<Box<RawValue>>, EncodeError> {
    match row {
        Some(row) => encode_row(row).map(Some),
        None => Ok(None),
    }
}

/// A row before and after.
type Encoded = (Option<Box<RawValue>>, Option<Box<RawValue>>);

fn content(
    count: Option<u64>,
    rows: Option<usize>,
    images: &dyn Fn(usize) -> Result<Encoded, EncodeError>,
) -> Result<Content, EncodeError> {
    match count {
        Some(count) => {
            let images = |place| {
                images(place).map(|(before, after)| RowImages { before: before.map(RowBefore::Whole), after })
            };
            let rows = rows.map(|rows| (0..rows).map(images).collect()).transpose()?;
            Ok(Content::Rows { count, rows })
        }
        None => Ok(match images(0)? {
            (before, Some(row)) => Content::Row { row, before: before.map(RowBefore::Whole) },
            // A delete has its row before, and sends it as its result.
            (before, None) => Content::Row { row: before.ok_or(EncodeError::Json)?, before: None },
        }),
    }
}

fn decode<M: Model>(incoming: Incoming<'_>, received: Received) -> Result<Arc<dyn AnyEvent>, DecodeError> {
    let (content, surrounding) = opened(incoming, received, M::COLUMNS, M::VERSION);
    let body = body::<M>(content, &surrounding)?;
    let keys = keys(&body.as_ref());
    match M::Event::from_body(body) {
        Some(event) => Ok(Arc::new(Stored::<M> { meta: surrounding.meta(keys), event })),
        None => Err(DecodeError::NotEmitted(surrounding.operation)),
    }
}

// Plain loops: adaptors of iterators are compiled anew for each model.
fn merge<M: Model>(net: &Net, events: &[Arc<dyn AnyEvent>]) -> Option<Arc<dyn AnyEvent>> {
    let (mut rows, mut changes) = (Vec::new(), Vec::new());
    for row in &net.rows {
        if row.is_merged() && same::<M>(*row, events) {
            continue;
        }
        let (first, last) = (stored::<M>(events, row.first)?, stored::<M>(events, row.last)?);
        let (first, last) = (first.event.body(), last.event.body());
        let before = first.images(row.first.row).before;
        let last = last.images(row.last.row);
        match (last.after, net.operation) {
            (Some(after), Operation::Update | Operation::UpdateMany) => {
                changes.push(RowChange::new(before.cloned(), after.clone()));
            }
            (Some(after), _) => rows.push(after.clone()),
            // It is told as it was in the middle only where nothing earlier is known.
            (None, _) => rows.push(before.or(last.before)?.clone()),
        }
    }
    let count = rows.len().max(changes.len()) as u64;
    if count == 0 {
        return None;
    }
    let body = match net.operation {
        Operation::CreateMany => Body::CreateMany(CreatedMany::new(count, Some(rows))),
        Operation::DeleteMany => Body::DeleteMany(DeletedMany::new(count, Some(rows))),
        Operation::UpdateMany => Body::UpdateMany(UpdatedMany::new(count, Some(changes), net.set)),
        Operation::Create => Body::Create(Created::new(rows.pop()?)),
        Operation::Upsert => Body::Upsert(Upserted::new(rows.pop()?, net.set, net.inserted)),
        Operation::Delete => Body::Delete(Deleted::new(rows.pop()?)),
        Operation::Update => {
            let RowChange { before, after } = changes.pop()?;
            Body::Update(Updated::new(before, after, net.set))
        }
    };
    let meta = merged_meta(net, events, keys(&body.as_ref()));
    let event = M::Event::from_body(body)?;
    Some(Arc::new(Stored::<M> { meta, event }))
}

fn merged_meta(net: &Net, events: &[Arc<dyn AnyEvent>], keys: Keys) -> Meta {
    let template = events[net.of].meta();
    let times = net.rows.iter().map(|row| events[row.last.event].meta().time);
    let time = times.max().unwrap_or(template.time);
    Meta { id: EventId::at(time), operation: net.operation, time, keys, ..template.clone() }
}

/// Whether a row is as it was.
fn same<M: Model>(row: NetRow, events: &[Arc<dyn AnyEvent>]) -> bool {
    if !can_be_same(ModelInfo::of::<M>(), M::FIELDS) {
        return false;
    }
    let (Some(first), Some(last)) = (stored::<M>(events, row.first), stored::<M>(events, row.last)) else {
        return false;
    };
    let (first, last) = (first.event.body(), last.event.body());
    match (first.images(row.first.row).before, last.images(row.last.row).after) {
        (Some(before), Some(after)) => M::differing(before, after).is_empty(),
        _ => false,
    }
}

/// Whether it can be told of a model's rows that nothing of them has changed.
fn can_be_same(info: &ModelInfo, fields: usize) -> bool {
    // Hidden columns may have changed where listeners see no difference.
    let sees_all = fields == info.columns.len() && !info.columns.iter().any(Column::is_redacted);
    // A model without updates does not compare its rows: then they have to be keys and nothing else.
    let is_key = info.key_columns.len() == info.columns.len();
    let updates = [Operation::Update, Operation::UpdateMany];
    sees_all && (is_key || updates.iter().any(|update| info.operations.contains(update)))
}

/// The event of which a row is one. It is held as long as the row is looked at.
fn stored<M: Model>(events: &[Arc<dyn AnyEvent>], place: Place) -> Option<Arc<Stored<M>>> {
    Arc::clone(events.get(place.event)?).as_any().downcast().ok()
}

/// Everything of an event but its rows.
struct Surrounding {
    operation: Operation,
    version: u32,
    set: Option<Columns>,
    inserted: Option<bool>,
    origin: Option<Origin>,
    sequence: Option<u64>,
    number: Option<Arc<Number>>,
    notes: Option<Arc<Notes>>,
    received: Received,
}

fn opened<'m>(
    incoming: Incoming<'m>,
    received: Received,
    columns: &[Column],
    version: u32,
) -> (IncomingContent<'m>, Surrounding) {
    let Incoming { operation, origin, sequence, trace, metadata, cause, hops, .. } = incoming;
    let trace_state = incoming.trace_state.map(Box::from);
    let idempotency_key = incoming.idempotency_key.map(Box::from);
    let notes = Notes { trace, trace_state, made: None, idempotency_key, metadata, cause, hops };
    let notes = (notes != Notes::default()).then(|| Arc::new(notes));
    let number = incoming.stream.and_then(|stream| Number::of_stream(&stream, sequence?)).map(Arc::new);
    // Who knows no versions sends what is in the database now.
    let present = version;
    let version = incoming.version.unwrap_or(present);
    // Names of another version may be other columns now, and a set of none but foreign names says
    // nothing of ours. One of no names at all says that none of the columns that listeners see was set.
    let set = incoming.set.and_then(|names| {
        let set = names.columns(columns);
        let foreign = (set.is_empty() || version != present) && !names.all_of(columns);
        (!foreign).then_some(set)
    });
    (
        incoming.content,
        Surrounding {
            operation,
            version,
            set,
            inserted: incoming.inserted,
            origin,
            sequence,
            number,
            notes,
            received,
        },
    )
}

impl Surrounding {
    fn meta(self, keys: Keys) -> Meta {
        Meta {
            again: None,
            id: self.received.id,
            operation: self.operation,
            source: self.received.source,
            origin: self.origin.map(Arc::new),
            time: self.received.time,
            sequence: self.sequence,
            number: self.number,
            keys,
            notes: self.notes,
        }
    }
}

fn body<M: Model>(content: IncomingContent<'_>, event: &Surrounding) -> Result<Body<M>, DecodeError> {
    let Surrounding { operation, version, set, inserted, .. } = *event;
    let read = |row: &RawValue| M::read_row(version, row);
    let needed = |row: Option<&RawValue>| match row {
        Some(row) => read(row),
        None => Err(DecodeError::Rows),
    };
    let optional = |row: Option<&RawValue>| match row {
        Some(row) => read(row).map(Some),
        None => Ok(None),
    };
    Ok(match (operation, content) {
        (Operation::Create, IncomingContent::Row { row, .. }) => Body::Create(Created::new(read(row)?)),
        (Operation::Upsert, IncomingContent::Row { row, .. }) => {
            Body::Upsert(Upserted::new(read(row)?, set, inserted))
        }
        (Operation::Delete, IncomingContent::Row { row, .. }) => Body::Delete(Deleted::new(read(row)?)),
        (Operation::Update, IncomingContent::Row { row, before, was }) => {
            let after = read(row)?;
            let before = row_before(before, was, row)?;
            Body::Update(Updated::new(optional(before.as_deref())?, after, set))
        }
        (Operation::CreateMany, IncomingContent::Rows { count, rows }) => {
            Body::CreateMany(CreatedMany::new(count, all(rows, &|row| needed(row.after))?))
        }
        (Operation::DeleteMany, IncomingContent::Rows { count, rows }) => {
            Body::DeleteMany(DeletedMany::new(count, all(rows, &|row| needed(row.before))?))
        }
        (Operation::UpdateMany, IncomingContent::Rows { count, rows }) => {
            let change = |row: IncomingRow<'_>| {
                let after = row.after.ok_or(DecodeError::Rows)?;
                let before = row_before(row.before, row.was, after)?;
                Ok(RowChange::new(optional(before.as_deref())?, read(after)?))
            };
            Body::UpdateMany(UpdatedMany::new(count, all(rows, &change)?, set))
        }
        _ => return Err(DecodeError::Rows),
    })
}

fn all<T>(
    rows: Option<Vec<IncomingRow<'_>>>,
    image: &dyn Fn(IncomingRow<'_>) -> Result<T, DecodeError>,
) -> Result<Option<Vec<T>>, DecodeError> {
    let Some(rows) = rows else { return Ok(None) };
    let mut images = Vec::with_capacity(rows.len());
    for row in rows {
        images.push(image(row)?);
    }
    Ok(Some(images))
}
