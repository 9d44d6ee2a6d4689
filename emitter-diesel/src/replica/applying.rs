//! One event, in one transaction.

use std::collections::HashSet;
use std::fmt;
use std::ops::DerefMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use diesel::connection::Connection;
use diesel::result::{Error, QueryResult};
use emitter_core::event::Meta;
use emitter_core::listener::{Ready, Unhandled};
use emitter_core::model::{BodyRef, Model, ModelEvent};
use emitter_core::{Emitter, Event, Key, Source};

use super::Tally;
use super::copy::{Copied, ReplicaConnection, Shape};
use super::order::Stamp;
use super::positions::{LONGEST, Note, Positions, record};
use crate::Bound;
use crate::handle::{Bindable, marker};
use crate::tables::{Dialect, PROBE};

/// Makes connections of Diesel's.
pub(super) type Connect<C> = Arc<dyn Fn() -> Result<Box<dyn DerefMut<Target = C>>, String> + Send + Sync>;

/// A version of a row, and the column of the copies that has it.
pub(super) struct Version<M: Model> {
    /// As SQL.
    pub(super) column: String,
    pub(super) of: fn(&M::Row) -> i64,
}

impl<M: Model> Clone for Version<M> {
    fn clone(&self) -> Self {
        Self { column: self.column.clone(), of: self.of }
    }
}

/// What applies the events of a model.
pub(super) struct Applying<M: Model, C: ReplicaConnection> {
    pub(super) connect: Connect<C>,
    pub(super) owner: Option<String>,
    pub(super) version: Option<Version<M>>,
    pub(super) positions: Positions,
    pub(super) shape: Shape,
    /// The outbox in the same tables.
    pub(super) own_outbox: String,
    pub(super) tally: Arc<Tally>,
}

/// What an event does to a row.
struct Change<'e, M: Model> {
    row: &'e M::Row,
    /// The row that tells the version: of one that went to another key, that which it is there.
    newest: &'e M::Row,
    is_delete: bool,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Applied,
    /// Something newer is there.
    Stale,
    /// It was there already.
    Duplicate,
}

/// Why an event was not applied.
#[derive(Debug)]
enum Refusal {
    Database(Error),
    Input(String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Database(error)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database(error) => error.fmt(f),
            Self::Input(problem) => f.write_str(problem),
        }
    }
}

impl<M: Model, C: ReplicaConnection> Applying<M, C> {
    /// Applies an event, all of its rows or none. A call that is given up may still end: what it then does is as
    /// good as if it had been in time.
    ///
    /// # Errors
    /// What the database says, or why the event tells too little.
    pub(super) fn apply<L: Copied<C> + From<M::Row>>(
        &self,
        event: &Event<M::Event>,
        emitter: &Emitter,
        ready: Ready,
    ) -> Result<(), Unhandled> {
        let meta = event.meta();
        let is_of_owner = self
            .owner
            .as_ref()
            .is_none_or(|owner| meta.origin.as_ref().is_some_and(|origin| *origin.service == **owner));
        if !is_of_owner {
            add(&self.tally.foreign);
            return Ok(());
        }
        // Another node wrote it, and into this very database.
        let outbox = meta.number.as_ref().map(|number| &*number.outbox);
        let is_own = meta.source == Source::Local || outbox == Some(&*self.own_outbox);
        if is_own && self.version.is_none() {
            return Ok(());
        }
        let changes = changes::<M>(&event.body()).ok_or_else(|| Unhandled::Failed(ROWLESS.to_owned()))?;
        let mut connection = (self.connect)().map_err(Unhandled::Unready)?;
        let bound = Bindable::<marker::Blocking>::bound(&mut **connection, emitter);
        let mut bound = bound.map_err(|error| Unhandled::Unready(error.to_string()))?;
        bound.prove_commits();
        // The call has a time-out of its own.
        bound.transaction_timeout(None);
        let mut ready = Some(ready);
        let fates = bound.transaction(|bound| {
            if let Some(ready) = ready.take() {
                ready.now();
            }
            let each = changes.iter().map(|change| self.change::<L>(bound, meta, change, is_own));
            each.collect::<Result<Vec<_>, Refusal>>()
        });
        drop(bound);
        let fates = fates.map_err(|refusal| match refusal {
            // It was not even begun.
            Refusal::Database(error) if ready.is_some() => Unhandled::Unready(error.to_string()),
            Refusal::Database(error) if connection.batch_execute(PROBE).is_err() => {
                Unhandled::Interrupted(error.to_string())
            }
            refusal => Unhandled::Failed(refusal.to_string()),
        })?;
        if !is_own {
            changes.iter().zip(fates).for_each(|(change, fate)| self.count(fate, change.is_delete));
        }
        Ok(())
    }

    fn change<L: Copied<C> + From<M::Row>>(
        &self,
        bound: &mut Bound<'_, C>,
        meta: &Meta,
        change: &Change<'_, M>,
        is_own: bool,
    ) -> Result<Fate, Refusal> {
        let Change { row, newest, is_delete } = *change;
        let version = self.version.as_ref().map(|version| (&*version.column, (version.of)(newest)));
        let stamp = match version {
            Some((_, version)) => Stamp::of_version(version, is_delete, meta),
            None => Stamp::of(meta),
        };
        let note = note(&M::key(row), stamp, meta, is_delete)?;
        let positions = &self.positions;
        let is_newer =
            C::change(bound, &positions.begin(&note))? > 0 || C::change(bound, &positions.go_on(&note))? > 0;
        if !is_newer {
            let is_noted = C::change(bound, &positions.is_noted(&note))? > 0;
            return Ok(if is_noted { Fate::Duplicate } else { Fate::Stale });
        }
        if is_own {
            return Ok(Fate::Applied);
        }
        let row = L::from(row.clone());
        Ok(bound.run(|conn| match is_delete {
            true => self.delete(conn, &row, version),
            false => self.write(conn, row, version),
        })?)
    }

    fn count(&self, fate: Fate, is_delete: bool) {
        if fate == Fate::Applied && is_delete {
            add(&self.tally.tombstones);
        }
        add(match fate {
            Fate::Applied => &self.tally.applied,
            Fate::Stale => &self.tally.stale,
            Fate::Duplicate => &self.tally.duplicates,
        });
    }

    fn delete<L: Copied<C>>(&self, conn: &mut C, row: &L, version: Option<(&str, i64)>) -> QueryResult<Fate> {
        let (begin, shape) = (self.comment(), &self.shape);
        // What was written here meanwhile, and is not noted yet, stays.
        let unless =
            version.map_or_else(String::new, |(column, version)| format!(" AND {column} <= {version}"));
        row.at_key(conn, &format!("{begin}{}", shape.delete()), &unless)?;
        Ok(Fate::Applied)
    }

    fn write<L: Copied<C>>(&self, conn: &mut C, row: L, version: Option<(&str, i64)>) -> QueryResult<Fate> {
        let (begin, shape) = (self.comment(), &self.shape);
        // Where that were not asked, MySQL would update another row, of which a unique column has the same value.
        let looks = version.is_some() || C::DIALECT == Dialect::MySql;
        let look = format!("{begin}{}", shape.look());
        let is_there = !looks || row.at_key(conn, &look, "")? > 0;
        if let (true, Some((column, version))) = (is_there, version)
            && row.at_key(conn, &look, &format!(" AND {column} > {version}"))? > 0
        {
            return Ok(Fate::Stale);
        }
        let behind = if is_there { shape.or_update() } else { String::new() };
        row.insert(conn, &begin, &behind)?;
        Ok(Fate::Applied)
    }

    /// What a trigger that captures the model's table reads: it makes no event of what a replica writes.
    fn comment(&self) -> String {
        #[cfg(feature = "postgres")]
        if C::DIALECT == Dialect::Postgres {
            return crate::queries::comment(M::NAME);
        }
        String::new()
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

const ROWLESS: &str = "the event tells how many rows there were, and not which: a replica cannot know them";

/// What an event does, row by row; `None` where it only tells how many there were.
fn changes<'e, M: Model>(body: &BodyRef<'e, M>) -> Option<Vec<Change<'e, M>>> {
    let put = |row| Change { row, newest: row, is_delete: false };
    let gone = |row| Change { row, newest: row, is_delete: true };
    let updated = |before: Option<&'e M::Row>, after: &'e M::Row| {
        let moved = before.filter(|before| M::key(before) != M::key(after));
        let moved = moved.map(|row| Change { row, newest: after, is_delete: true });
        moved.into_iter().chain([put(after)])
    };
    let mut changes: Vec<_> = match body {
        BodyRef::Create(body) => vec![put(&body.row)],
        BodyRef::CreateMany(body) => body.rows.as_ref()?.iter().map(put).collect(),
        BodyRef::Update(body) => updated(body.before.as_ref(), &body.after).collect(),
        BodyRef::UpdateMany(body) => {
            let rows = body.rows.as_ref()?.iter();
            rows.flat_map(|row| updated(row.before.as_ref(), &row.after)).collect()
        }
        BodyRef::Upsert(body) => vec![put(&body.row)],
        BodyRef::Delete(body) => vec![gone(&body.row)],
        BodyRef::DeleteMany(body) => body.rows.as_ref()?.iter().map(gone).collect(),
    };
    // One statement may move a row to the key that another one had, and its changes are all of one time.
    let is_put = |change: &&Change<'_, M>| !change.is_delete;
    let there: HashSet<Key> = changes.iter().filter(is_put).map(|change| M::key(change.row)).collect();
    changes.retain(|change| !change.is_delete || !there.contains(&M::key(change.row)));
    Some(changes)
}

fn note(key: &Key, stamp: Stamp, meta: &Meta, is_delete: bool) -> Result<Note, Refusal> {
    let record = record(key);
    if record.len() > LONGEST {
        return Err(Refusal::Input(format!("the row's key is longer than {LONGEST} bytes")));
    }
    Ok(Note { record, stamp, event: meta.id, is_delete })
}
