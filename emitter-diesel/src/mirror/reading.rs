//! Reading a mirror, without missing anything and without an emitter.

use std::fmt;
use std::time::{Duration, Instant};

use diesel::result::QueryResult;
use emitter_core::event::Timestamp;
use emitter_core::transport::Properties;
use emitter_core::{Emitter, EventId, Operation};
use uuid::Uuid;

use super::replay::{Replay, ReplayOptions};
use super::selection::{Cursor, Selection};
use super::store::{MOST_BYTES, Store};
use crate::tables::{Database, Pair, Seen, Tables};

/// A mirror to be read, by a connection of its own. Its methods block, as Diesel's do; after an error the next
/// call connects anew.
pub struct Mirrored {
    tables: Tables,
    store: Store,
    database: Option<Box<dyn Database>>,
}

/// An event that was written down.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MirroredEvent {
    /// The row's number.
    pub id: i64,
    /// Where it stands: to go on behind it.
    pub cursor: Cursor,
    /// When it was written down, by the database's clock.
    pub created_at: Timestamp,
    /// The topic on which it came.
    pub topic: String,
    /// The event as it travelled, but for what `jsonb` changes without changing the event: white space and the
    /// order of members. Signed events are exact.
    pub payload: String,
    /// What travelled beside it.
    pub properties: Properties,
    /// Its id, where that is a UUID.
    pub event_id: Option<EventId>,
    /// The trace to which it belongs; else its id.
    pub trace_id: Option<Uuid>,
    /// The service that wrote it, where it says so.
    pub service: Option<String>,
    /// The node that wrote it, where it says so.
    pub node: Option<String>,
    /// Its model, in lower case.
    pub model: Option<String>,
    /// What was done.
    pub operation: Option<Operation>,
    /// The key of its row: where the program that wrote it down knew the model, the sender told it, or it is in a
    /// column `id`. `None` of events of several rows.
    pub key: Option<String>,
    /// What kind of event it says it is; where it says none, or no more than model and operation, as
    /// [`Event::kind`](emitter_core::Event::kind) has it: `user_created`.
    pub kind: Option<String>,
}

impl fmt::Debug for MirroredEvent {
    /// Leaves the payload out: it holds users' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MirroredEvent")
            .field("id", &self.id)
            .field("created_at", &self.created_at)
            .field("topic", &self.topic)
            .field("event_id", &self.event_id)
            .field("bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// Some of the events of a selection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The events, oldest first.
    pub events: Vec<MirroredEvent>,
    /// Where to go on: `Selection { after: Some(page.cursor), ..selection }`.
    pub cursor: Cursor,
    /// Whether there may be more already.
    pub more: bool,
}

/// How a mirror stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MirrorState {
    /// How long ago the last event was written down; `None` where there is none.
    pub newest: Option<Duration>,
    /// The mirrors that were ever written into these tables, by name.
    pub writers: Vec<MirrorWriter>,
}

/// Who writes a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MirrorWriter {
    /// The mirror's name.
    pub name: String,
    /// The node that writes it; `None` where nobody does, or nobody has said so for longer than a lease.
    pub node: Option<String>,
}

/// Why a mirror was not read or replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MirrorError {
    /// Its tables cannot be reached, or are of another version.
    #[error("the mirror: {0}")]
    Open(String),
    /// The database did not do what was asked. The next call makes a new connection.
    #[error("the mirror's database: {0}")]
    Database(#[from] diesel::result::Error),
    /// A replay is for a listener that is not there.
    #[error("no listener of this node is called `{0}`")]
    UnknownListener(String),
    /// The emitter was shut down in the middle of a replay. It can be resumed behind the cursor of its last step.
    #[error("the emitter is shut down")]
    ShutDown,
}

impl Mirrored {
    /// Connects to the mirror in these tables.
    ///
    /// # Errors
    /// [`MirrorError::Open`] says what to do.
    pub fn open(tables: &Tables) -> Result<Self, MirrorError> {
        let (database, _) = tables.open().map_err(MirrorError::Open)?;
        let store = Store { dialect: database.dialect(), names: tables.all_names().clone() };
        Ok(Self { tables: tables.clone(), store, database: Some(database) })
    }

    /// The next events of a selection, oldest first: those that are settled. What a transaction has written that
    /// is not over is not among them, nor what comes behind it; so none is missed by whoever goes on behind
    /// [`Page::cursor`].
    ///
    /// # Errors
    /// [`MirrorError::Database`]
    pub fn read(&mut self, selection: &Selection) -> Result<Page, MirrorError> {
        let horizon = self.horizon()?;
        self.read_until(selection, horizon)
    }

    /// The last events of a selection in front of a place, such as the [`cursor`](MirroredEvent::cursor) of an event, oldest
    /// first: as many as the selection's limit, and no more than a page has bytes.
    ///
    /// # Errors
    /// [`MirrorError::Database`]
    pub fn before(
        &mut self,
        selection: &Selection,
        place: Cursor,
    ) -> Result<Vec<MirroredEvent>, MirrorError> {
        let horizon = self.horizon()?;
        let sql = self.store.read_before(selection, place, horizon);
        let rows = self.ask(|database| database.seen(sql))?;
        Ok(rows.into_iter().map(event).collect())
    }

    /// How many settled events a selection has, behind its cursor and whatever its limit: the dry run of a replay.
    ///
    /// # Errors
    /// [`MirrorError::Database`]
    pub fn count(&mut self, selection: &Selection) -> Result<u64, MirrorError> {
        let horizon = self.horizon()?;
        let count = self.store.count(selection, selection.after.unwrap_or_default(), horizon);
        let count = self.ask(|database| database.pairs(count))?;
        Ok(count.first().map_or(0, |pair| pair.number.unsigned_abs()))
    }

    /// The place behind everything that is settled: for a tail of what comes from now on.
    ///
    /// # Errors
    /// [`MirrorError::Database`]
    pub fn end(&mut self) -> Result<Cursor, MirrorError> {
        Ok(self.horizon()?)
    }

    /// Who writes it, and how long ago it was written to.
    ///
    /// # Errors
    /// [`MirrorError::Database`]
    pub fn state(&mut self) -> Result<MirrorState, MirrorError> {
        let (newest, writers) = (self.store.newest(), self.store.writers());
        let newest = self.ask(|database| database.pairs(newest))?;
        let newest =
            newest.first().map(|pair| Duration::from_millis(u64::try_from(pair.number).unwrap_or_default()));
        let writer = |pair: &Pair| {
            let (name, node) = pair.text.split_once('/')?;
            let node = (pair.number > 0).then(|| node.to_owned());
            Some(MirrorWriter { name: name.to_owned(), node })
        };
        let writers = self.ask(|database| database.pairs(writers))?;
        Ok(MirrorState { newest, writers: writers.iter().filter_map(writer).collect() })
    }

    /// Follows a selection, from its cursor on and with what comes.
    pub fn tail(&mut self, selection: Selection) -> Tail<'_> {
        Tail { mirrored: self, selection }
    }

    /// Begins to hand the events of a selection to an emitter's listeners once more: those that are settled now.
    /// Nothing is handed on before [`Replay::step`].
    ///
    /// # Errors
    /// [`MirrorError::UnknownListener`], [`MirrorError::Database`]
    pub fn replay(
        &mut self,
        emitter: &Emitter,
        selection: Selection,
        options: ReplayOptions,
    ) -> Result<Replay<'_>, MirrorError> {
        Replay::new(self, emitter.clone(), selection, options)
    }

    pub(super) fn horizon(&mut self) -> QueryResult<Cursor> {
        let horizon = self.store.horizon();
        let found = self.ask(|database| database.pairs(horizon))?;
        let cursor = |pair: &Pair| Cursor { xid: pair.text.parse().unwrap_or_default(), id: pair.number };
        Ok(found.first().map(cursor).unwrap_or_default())
    }

    pub(super) fn read_until(&mut self, selection: &Selection, horizon: Cursor) -> Result<Page, MirrorError> {
        let after = selection.after.unwrap_or_default();
        let most = selection.page();
        let sql = self.store.read(selection, after, horizon, most);
        let rows = self.ask(|database| database.seen(sql))?;
        let bytes: usize = rows.iter().map(|row| row.payload.len()).sum();
        let more = rows.len() == most || bytes >= MOST_BYTES;
        let events: Vec<MirroredEvent> = rows.into_iter().map(event).collect();
        // Where that were all, what comes next comes behind the horizon, whatever was left out.
        let last = events.last().map(|event| event.cursor).filter(|_| more);
        let is_of_this_life = horizon.xid == 0 || after.xid <= horizon.xid;
        let end = if is_of_this_life { horizon.max(after) } else { horizon };
        Ok(Page { cursor: last.unwrap_or(end), more, events })
    }

    fn ask<T>(&mut self, ask: impl FnOnce(&mut dyn Database) -> QueryResult<T>) -> QueryResult<T> {
        let mut database = match self.database.take() {
            Some(database) => database,
            None => self.tables.connected()?,
        };
        let answer = ask(&mut *database)?;
        self.database = Some(database);
        Ok(answer)
    }
}

impl fmt::Debug for Mirrored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirrored").field("tables", &self.tables).finish_non_exhaustive()
    }
}

fn event(row: Seen) -> MirroredEvent {
    let Seen { id, xid, topic, payload, properties, created, event_id, trace_id, .. } = row;
    MirroredEvent {
        id,
        cursor: Cursor { xid: xid.parse().unwrap_or_default(), id },
        created_at: Timestamp::from_millis(created),
        topic,
        payload,
        properties: properties.and_then(|text| Properties::from_json(&text)).unwrap_or_default(),
        event_id: event_id.and_then(|id| id.parse().ok()),
        trace_id: trace_id.and_then(|id| id.parse().ok()),
        service: row.service,
        node: row.node,
        model: row.model,
        operation: row.operation.and_then(|name| Operation::from_name(&name)),
        key: row.record_id,
        kind: row.kind,
    }
}

/// The events of a selection as they come.
#[derive(Debug)]
pub struct Tail<'m> {
    mirrored: &'m mut Mirrored,
    selection: Selection,
}

/// How often a tail looks.
const LOOK: Duration = Duration::from_millis(50);

impl Tail<'_> {
    /// The next events: at once where there are some, else as soon as some come, and none when none came within
    /// this time. It blocks the thread.
    ///
    /// # Errors
    /// [`MirrorError::Database`]; the next call goes on where this one was.
    pub fn next(&mut self, within: Duration) -> Result<Vec<MirroredEvent>, MirrorError> {
        let begun = Instant::now();
        loop {
            let page = self.mirrored.read(&self.selection)?;
            self.selection.after = Some(page.cursor);
            let left = within.saturating_sub(begun.elapsed());
            if !page.events.is_empty() || left.is_zero() {
                return Ok(page.events);
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    /// Where it is: for a tail that goes on there.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.selection.after.unwrap_or_default()
    }
}
