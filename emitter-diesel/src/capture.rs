//! Writes of other programs, captured by triggers of PostgreSQL into the same outbox; and a log of who changed what.
//!
//! A script, another service or somebody at `psql` changes a table without a word to anybody. A trigger on the table
//! writes down which row was what, in the transaction of the write; a node that knows the model turns that into an
//! event, which is relayed like every other one in the [outbox](crate::outbox).
//!
//! ```no_run
//! # #[cfg(feature = "postgres")]
//! # mod example {
//! # use diesel::prelude::*;
//! use emitter_diesel::capture::Capture;
//! use emitter_diesel::outbox::Outbox;
//! use emitter_diesel::tables::Tables;
//! use emitter_diesel::{Emits, Emitter};
//! # use serde::{Deserialize, Serialize};
//!
//! # diesel::table! { users { id -> Integer, name -> Text, password_hash -> Text, } }
//! #[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
//! #[emits(create, update, delete)]
//! struct User {
//!     id: i32,
//!     name: String,
//!     #[emits(skip)]
//!     password_hash: String, // the trigger does not read it, either
//! }
//!
//! async fn started(url: String) -> Result<Emitter, Box<dyn std::error::Error>> {
//!     let tables = Tables::new(move || PgConnection::establish(&url)).migrate(); // makes the triggers, too
//!     let outbox = Outbox::new(tables).capture(Capture::of::<User>()?.audit());
//!     Ok(Emitter::builder().service("shop").node("a").mqtt("mqtt://localhost").with(outbox).start().await?)
//! }
//! # }
//! ```
//!
//! # What is captured
//! Each row that an `INSERT`, `UPDATE`, `DELETE`, `MERGE` or `COPY` changed, and each that a cascade or another
//! trigger changed, if the model emits such an operation: one event a row, `update` with the row before. An update
//! that left the row as it was is none; one that changed a skipped column alone is one.
//!
//! Not captured is
//! - what a statement with `.emit()` on a bound handle tells of itself, durable or not: the statement says so in a
//!   comment that the trigger reads, so that both may be done in one transaction. (Something between program and
//!   database that takes comments out of statements makes such a write two events.) Writes without `.emit()`, with
//!   `.emit_none()` or `.emit_if(false)`, or for which nobody listens to the writer, are captured; so are those of a model
//!   that the writer [skips](emitter_core::Builder::skip_models), and emitted by a node that does not;
//! - what is written after `SET LOCAL emitter.capture = 'off'`, for imports and for programs that bring rows from
//!   elsewhere;
//! - `TRUNCATE`, which knows no rows. It is in the audit log;
//! - what logical replication brings, for which triggers do not fire.
//!
//! A row that an update moves to another partition is deleted and inserted, for PostgreSQL and so here.
//!
//! # Turning
//! What was captured is turned by any node whose [`Outbox`](crate::outbox::Outbox) was given the same capture, of each model by one node
//! at a time, in one transaction with the row in the outbox: each exactly once. It is turned with Diesel: into the
//! model's value, by its own types, and then into what listeners may see. So values come out as in all other events.
//! The node that turned it counts as the one that wrote it: its listeners hear it as `Local`.
//!
//! A node without MQTT (and not [`without_relay`](crate::outbox::Outbox::without_relay)) turns what it has a listener
//! for, and others never hear of it. What cannot be read stays in `emitter_captured` as `UNREADABLE`, with
//! `last_error`, and what comes after it goes on; after `UPDATE … SET status = 'CAPTURED'` it is tried again. That
//! happens where a trigger is older than the model, and where a skipped
//! column's type takes none of the values that stand in its place (`''`, `0`, `false`, `{}` and the like).
//!
//! How many rows wait, and for how long, tells [`states`]; what a node has turned [`stats`]. A node that cannot turn says so in
//! its [`health`](Emitter::health).
//!
//! # Order
//! Events of one key are in the order of the commits, captured and durable ones alike: a relay does not publish a
//! durable event of a model before what was captured of that model earlier is turned. It waits no longer than ten
//! seconds where nobody turns it. Buffered events are in no order with either.
//!
//! # Costs and rights
//! The trigger's function runs with the rights of who installed it, so that writers need none on the framework's
//! tables. It is a part of the write: where those tables are gone, the write fails. Take it away first
//! ([`removal`](Capture::removal)). To make a trigger takes a lock on the table for a moment, and waits for
//! transactions that write to it; [`sql`](Capture::sql) prints what is to be done at a time of your own. Run it again after
//! columns or operations of the model have changed: with `migrate()` each start does, so do not use it where several
//! versions of a program run at a time.
//!
//! # The audit log
//! [`audit`](Capture::audit) has each change written to `emitter_audit_log`, whoever made it, events or not, and
//! without any node: table, key, values before and after, action, time, transaction, database user and
//! `application_name`. What listeners do not see (`skip`, `redact`, `hash`) is not in it. Nobody clears it: how long
//! it is kept is yours to decide.

use std::fmt;

use diesel::associations::HasTable;
use diesel::connection::SimpleConnection;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::query_dsl::methods::LoadQuery;
use diesel::result::QueryResult;
use diesel::sql_types::BigInt;
use diesel::{Expression, PgConnection, QuerySource, RunQueryDsl, Table};
use emitter_core::model::Model;
use emitter_core::{Emission, Emitter, Operation};

use crate::tables::Tables;
use crate::written::sql;

mod captured;
mod tally;
mod trigger;
mod turning;

use self::captured::Captured;
pub use self::tally::{CaptureState, CaptureStats, states, stats};
use self::trigger::{Actions, Column, Seen, Traced, unquoted};
pub(crate) use self::turning::begin;

/// How a table is captured for a model. See the [module](self).
#[derive(Clone)]
#[must_use = "it is given to an outbox, `Outbox::new(tables).capture(capture)`, or printed, `capture.sql(&tables)`"]
pub struct Capture {
    traced: Traced,
    events: MakeEvents,
}

/// Loads the images of captured rows, and makes events of them: `None` of one that goes nowhere.
type MakeEvents =
    fn(&mut PgConnection, &Emitter, &[Captured], [String; 2]) -> QueryResult<Vec<(i64, Option<Emission>)>>;

/// Why a table cannot be captured for a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CannotCapture {
    /// It cannot be told which field is which column: a field is made of several (`#[diesel(embed)]`), or is none of
    /// the table's.
    #[error(
        "it cannot be told which column `{0}` of the model is: a captured model has one column for each field"
    )]
    Column(String),
    /// The model is an event that is no row, or has no key.
    #[error("the model is no row of a table with a key")]
    NoRow,
}

impl Capture {
    /// Captures the table of a model, the one of `#[diesel(table_name = …)]`, as far as the model emits.
    ///
    /// The model is loaded from all columns of the table in `table!`, and needs `Identifiable`.
    ///
    /// # Errors
    /// [`CannotCapture`]
    pub fn of<M>() -> Result<Self, CannotCapture>
    where
        M: Model + HasTable<Table: QuerySource<FromClause: QueryFragment<Pg>>>,
        <M::Table as Table>::AllColumns: QueryFragment<Pg>,
        Images<<M::Table as Table>::AllColumns>: for<'q> LoadQuery<'q, PgConnection, (i64, M)>,
    {
        let table = sql::<Pg>(&M::table().from_clause()).unwrap_or_default();
        let columns = sql::<Pg>(&<M::Table as Table>::all_columns()).unwrap_or_default();
        Ok(Self {
            traced: traced::<M>(table, &columns)?,
            events: captured::events::<M, <M::Table as Table>::AllColumns>,
        })
    }

    /// Writes each change to the audit log, too. Where several models share a table, ask for it at one of them.
    pub fn audit(mut self) -> Self {
        self.traced.audit = true;
        self
    }

    /// Writes each change to the audit log, and makes no events.
    pub fn only_audit(mut self) -> Self {
        self.traced.events = None;
        self.audit()
    }

    /// Makes the triggers, as SQL for a tool of your own: after the tables are made. To be run again, also where
    /// nothing changed. The same each time.
    #[must_use]
    pub fn sql(&self, tables: &Tables) -> String {
        self.traced.install(tables.all_names())
    }

    /// Makes the triggers, where they are not there yet: after the tables are made.
    ///
    /// # Errors
    /// The database's.
    pub fn apply(&self, conn: &mut PgConnection, tables: &Tables) -> QueryResult<()> {
        conn.batch_execute(&self.sql(tables))
    }

    /// Takes the triggers away, as SQL. What was captured before stays.
    #[must_use]
    pub fn removal(&self, tables: &Tables) -> String {
        self.traced.remove(tables.all_names())
    }
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Traced { model, table, events, audit, .. } = &self.traced;
        f.debug_struct("Capture")
            .field("model", model)
            .field("table", table)
            .field("events", &events.is_some())
            .field("audit", audit)
            .finish_non_exhaustive()
    }
}

fn traced<M: Model>(table: String, columns: &str) -> Result<Traced, CannotCapture> {
    if M::EVENT.is_some() || M::KEY_COLUMNS.is_empty() {
        return Err(CannotCapture::NoRow);
    }
    let mut all = Vec::new();
    // Diesel writes each with the whole name of its table.
    let prefix = format!("{table}.");
    for column in columns.split(&prefix).skip(1) {
        let column = column.trim_end_matches(", ");
        let name = unquoted(column).ok_or_else(|| CannotCapture::Column(column.to_owned()))?;
        all.push(Column { name, seen: Seen::Never, is_key: false });
    }
    if all.len() != M::FIELDS {
        return Err(CannotCapture::Column(format!("of {}", M::NAME)));
    }
    for column in M::COLUMNS {
        let found = column.place.and_then(|place| all.get_mut(place));
        let found = found.ok_or_else(|| CannotCapture::Column(column.field.to_owned()))?;
        found.is_key = M::KEY_COLUMNS.contains(&column.json);
        found.seen = match () {
            () if column.is_redacted() => Seen::Never,
            () if column.is_hashed() => Seen::Hashed,
            () => Seen::Plain,
        };
    }
    let emits = |operations: &[Operation]| operations.iter().any(|one| M::OPERATIONS.contains(one));
    let events = Actions {
        insert: emits(&captured::INSERTS),
        update: emits(&captured::UPDATES),
        delete: emits(&captured::DELETES),
    };
    Ok(Traced { model: M::NAME, table, columns: all, events: Some(events), audit: false })
}

/// A query for images of rows, each with a number, in the columns `E`.
#[derive(Debug)]
pub struct Images<E> {
    sql: String,
    columns: std::marker::PhantomData<fn() -> E>,
}

impl<E> Images<E> {
    fn of(sql: String) -> Self {
        Self { sql, columns: std::marker::PhantomData }
    }
}

impl<E> QueryId for Images<E> {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<E, C> RunQueryDsl<C> for Images<E> {}

impl<E: Expression> diesel::query_builder::Query for Images<E> {
    type SqlType = (BigInt, E::SqlType);
}

impl<E> QueryFragment<Pg> for Images<E> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.unsafe_to_cache_prepared();
        out.push_sql(&self.sql);
        Ok(())
    }
}
