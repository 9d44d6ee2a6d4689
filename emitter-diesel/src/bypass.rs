//! Writes that went past `.emit()`, found while a program is developed and tested.
//!
//! A write to a table of an emitting model without `.emit()` is an event that nobody hears, and
//! nothing else tells of it. [`watch`] finds it on every connection that is established from then on:
//!
//! ```
//! # fn main() -> diesel::QueryResult<()> {
//! use emitter_diesel::bypass::{self, Reaction};
//!
//! if cfg!(debug_assertions) {
//!     bypass::watch(Reaction::Warn)?; // in tests: `Reaction::Deny`
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A write that is meant so says it, with [`emit_none`](EmitNone::emit_none); in raw SQL, as that of
//! `batch_execute`, the comment `/* emit_none */` does.
//!
//! A connection has one instrumentation. Where the program has one of its own, put it behind the watch;
//! a connection that is given another one later is not watched any more:
//!
//! ```
//! # fn main() -> diesel::QueryResult<()> {
//! use diesel::connection::{InstrumentationEvent, set_default_instrumentation};
//! use emitter_diesel::bypass::{Reaction, Watch};
//!
//! fn log(event: InstrumentationEvent<'_>) {
//!     println!("{event:?}");
//! }
//!
//! set_default_instrumentation(|| Some(Box::new(Watch::new(Reaction::Warn).and(log))))?;
//! # Ok(())
//! # }
//! ```
//!
//! It looks at the program and not at how a node is set up: of a model that is
//! [skipped](emitter_core::Builder::skip_models), statements with `.emit()` pass as ever, and those that forgot it are found, for they
//! would be silent when the model is emitted again.
//!
//! It is a tool of development, not a promise: it reads the first 16 KiB of each statement that Diesel
//! sends, and knows tables by their names alone: those of `#[diesel(table_name = …)]`, else of Diesel's
//! rule for the struct's name. It does not see what a stored procedure, a trigger or another program
//! writes, nor writes to tables of generic models, or of those that `table!` calls otherwise than the
//! database does (`#[sql_name]`). PostgreSQL's `copy_from` cannot say that it is meant.

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use diesel::QuerySource;
use diesel::connection::{Connection, Instrumentation, InstrumentationEvent, set_default_instrumentation};
use diesel::query_builder::QueryId;
use diesel::query_dsl::methods::LoadQuery;
use diesel::result::{Error, QueryResult};
use emitter_core::Operation;
use emitter_core::registry::RegisteredModel;
use tracing::warn;

use crate::engine::Counts;
use crate::handle::marker;
use crate::raw_sql::{self, Verb, Write as Written};
use crate::update::{Delete, Update};

/// What is done about a write that went past `.emit()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// A line in the log, once for each statement and connection, of 100 statements at most. It names
    /// the table and the model; for the place in the code, take [`Deny`](Self::Deny).
    Warn,
    /// A panic before the statement is sent, with the place of the write in its backtrace
    /// (`RUST_BACKTRACE=1`). On an asynchronous SQLite connection, which works on another thread, the
    /// panic becomes the statement's error, and the backtrace is that thread's.
    Deny,
}

/// Watches every connection that this program establishes from now on.
///
/// It is Diesel's default instrumentation, of which there is one: where the program has one of its
/// own, let that make a [`Watch`] and put its own [behind it](Watch::and).
///
/// # Errors
/// Diesel's, when another thread panicked as it set a default.
pub fn watch(reaction: Reaction) -> QueryResult<()> {
    set_default_instrumentation(match reaction {
        Reaction::Warn => || Some(Box::new(Watch::new(Reaction::Warn))),
        Reaction::Deny => || Some(Box::new(Watch::new(Reaction::Deny))),
    })
}

/// Looks for writes that go past `.emit()` on one connection:
/// `conn.set_instrumentation(Watch::new(Reaction::Deny))`.
///
/// It has to be the connection's instrumentation itself. Within another, such as a closure that calls
/// it, it is not found by statements with `.emit()`, which tell it that they are none, and it takes
/// them for such. (Where the future of such a statement was dropped, plain ones
/// pass until the next.)
pub struct Watch {
    reaction: Reaction,
    then: Option<Box<dyn Instrumentation>>,
    /// The statement that runs emits, or is not meant to.
    meant: bool,
    /// What was told of, by the statement's text.
    told: HashSet<String>,
}

/// Beyond this, statements are told of no more: a program that writes values into its SQL has no end
/// of them.
const MOST_TOLD: usize = 100;

/// As much of a statement is read; the values come after its text.
const MOST_READ: usize = 16 * 1024;

/// Whether this program ever watches: else nobody needs to be told what is meant.
static WATCHES: AtomicBool = AtomicBool::new(false);

impl Watch {
    /// A watch that does this about what it finds.
    #[must_use]
    pub fn new(reaction: Reaction) -> Self {
        WATCHES.store(true, Ordering::Relaxed);
        Self { reaction, then: None, meant: false, told: HashSet::new() }
    }

    /// Hands everything on to another instrumentation.
    #[must_use]
    pub fn and(self, then: impl Instrumentation) -> Self {
        Self { then: Some(Box::new(then)), ..self }
    }

    fn look(&mut self, query: &dyn fmt::Display) {
        let mut text = Head(String::new());
        // Its only error is that it has enough.
        let _ = write!(text, "{query}");
        let sql = text.0.rsplit_once(" -- binds: ").map_or(&*text.0, |(sql, _)| sql);
        if sql.contains("/* emit_none */") {
            return;
        }
        let Some(missed) = raw_sql::writes(sql).into_iter().find_map(Missed::of) else {
            return;
        };
        match self.reaction {
            Reaction::Deny => panic!("{missed}"),
            Reaction::Warn if self.told.len() < MOST_TOLD && self.told.insert(sql.to_owned()) => {
                warn!("{missed}");
            }
            Reaction::Warn => {}
        }
    }
}

impl Instrumentation for Watch {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        if let InstrumentationEvent::StartQuery { query, .. } = &event
            && !self.meant
        {
            self.look(query);
        }
        if let Some(then) = &mut self.then {
            then.on_connection_event(event);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("reaction", &self.reaction).finish_non_exhaustive()
    }
}

/// The beginning of a text.
struct Head(String);

impl fmt::Write for Head {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push_str(text);
        if self.0.len() > MOST_READ { Err(fmt::Error) } else { Ok(()) }
    }
}

/// A write whose events are missing. It shows no values, and no SQL, in which there may be some.
struct Missed {
    model: &'static str,
    verb: &'static str,
    table: String,
}

impl Missed {
    /// `None` where no model would emit an event of it.
    fn of(write: Written) -> Option<Self> {
        use Operation::{Create, CreateMany, Delete, DeleteMany, Update, UpdateMany, Upsert};
        let (verb, operations): (_, &[Operation]) = match write.verb {
            Verb::Insert => ("an insert into", &[Create, CreateMany, Upsert]),
            Verb::Update => ("an update of", &[Update, UpdateMany]),
            Verb::Delete => ("a delete from", &[Delete, DeleteMany]),
        };
        let emits = |model: &&RegisteredModel| {
            model.table.is_some_and(|table| table.eq_ignore_ascii_case(&write.table))
                && model.operations.iter().any(|operation| operations.contains(operation))
        };
        let model = RegisteredModel::all().find(emits)?.name;
        Some(Self { model, verb, table: write.table })
    }
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, verb, table } = self;
        write!(
            f,
            "{verb} `{table}` went past `.emit()`, so nobody hears of it, though `{model}` has events for it. \
             Write `.emit()` on a bound handle, or `.emit_none()` where none is meant (in raw SQL, `/* emit_none */`)"
        )
    }
}

/// Tells a connection's watch, if it has one, whether what it runs from now on is meant as it is.
pub(crate) fn meant<'a>(instrumentation: impl FnOnce() -> &'a mut dyn Instrumentation, meant: bool) {
    if WATCHES.load(Ordering::Relaxed)
        && let Some(watch) = instrumentation().downcast_mut::<Watch>()
    {
        watch.meant = meant;
    }
}

/// `.emit_none()` on a statement: it is meant to be no event.
pub trait EmitNone: Sized {
    /// Says to [`Watch`] that the statement is meant to be no event. Else it is the same, on any
    /// connection, bound or not.
    ///
    /// ```
    /// # use diesel::prelude::*;
    /// # use emitter_diesel::EmitNone;
    /// # diesel::table! { users { id -> Integer, name -> Text, } }
    /// # fn fixtures(db: &mut SqliteConnection) -> QueryResult<()> {
    /// diesel::insert_into(users::table).values(users::name.eq("alice")).emit_none().execute(db)?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "a statement does nothing until it is executed"]
    fn emit_none(self) -> Silent<Self> {
        Silent { statement: self }
    }
}

// Every query of Diesel has it.
impl<S: QueryId> EmitNone for S {}
impl<T: QuerySource, W, V, R> EmitNone for Update<T, W, V, R> {}
impl<T: QuerySource, W, R> EmitNone for Delete<T, W, R> {}

/// A statement that is meant to be no event, made by [`EmitNone::emit_none`].
#[derive(Debug)]
#[must_use = "a statement does nothing until it is executed"]
pub struct Silent<S> {
    statement: S,
}

impl<S> Silent<S> {
    /// Runs the statement and returns how many rows it touched.
    ///
    /// # Errors
    /// Diesel's.
    pub fn execute<'a, C, Marker>(self, conn: &'a mut C) -> C::Output<'a, usize>
    where
        C: Runs<'a, S, Marker>,
    {
        conn.count(self.statement)
    }

    /// Runs the statement and returns the rows that it returns.
    ///
    /// # Errors
    /// Diesel's.
    pub fn get_results<'a, U: Send + 'a, C, Marker>(self, conn: &'a mut C) -> C::Output<'a, Vec<U>>
    where
        C: Returns<'a, S, U, Marker>,
    {
        conn.rows(self.statement, Ok)
    }

    /// The same as [`get_results`](Self::get_results).
    ///
    /// # Errors
    /// Diesel's.
    pub fn load<'a, U: Send + 'a, C, Marker>(self, conn: &'a mut C) -> C::Output<'a, Vec<U>>
    where
        C: Returns<'a, S, U, Marker>,
    {
        self.get_results(conn)
    }

    /// Runs the statement and returns the first row that it returns.
    ///
    /// # Errors
    /// Diesel's; [`Error::NotFound`] when there was none.
    pub fn get_result<'a, U: Send + 'a, C, Marker>(self, conn: &'a mut C) -> C::Output<'a, U>
    where
        C: Returns<'a, S, U, Marker>,
    {
        conn.rows(self.statement, |rows: Vec<U>| rows.into_iter().next().ok_or(Error::NotFound))
    }
}

/// A connection, blocking or asynchronous, as `Marker` tells: what its statements return.
pub trait Connected<Marker> {
    /// A [`QueryResult`], or a future of one.
    type Output<'a, T: Send + 'a>
    where
        Self: 'a;
}

/// A connection on which a statement can be run.
pub trait Runs<'a, S, Marker>: Connected<Marker> {
    /// Runs it for the number of its rows.
    fn count(&'a mut self, statement: S) -> Self::Output<'a, usize>;
}

/// A connection on which a statement returns rows.
#[diagnostic::on_unimplemented(
    message = "without an event, this statement does not return a `{U}` on this connection",
    label = "does not return it",
    note = "for `emitter_diesel::update(…)` and `delete(…)`, which emit, write `diesel::update(…)` and `diesel::delete(…)`",
    note = "else it is as without `.emit_none()`: see the statement's own errors"
)]
pub trait Returns<'a, S, U, Marker>: Connected<Marker> {
    /// Runs it, and returns what `then` makes of its rows.
    fn rows<T: Send + 'a>(
        &'a mut self,
        statement: S,
        then: fn(Vec<U>) -> QueryResult<T>,
    ) -> Self::Output<'a, T>;
}

#[diagnostic::do_not_recommend]
impl<C: Connection> Connected<marker::Blocking> for C {
    type Output<'a, T: Send + 'a>
        = QueryResult<T>
    where
        C: 'a;
}

#[diagnostic::do_not_recommend]
impl<'a, C: Connection, S: Counts<C>> Runs<'a, S, marker::Blocking> for C {
    fn count(&'a mut self, statement: S) -> QueryResult<usize> {
        meant(|| self.instrumentation(), true);
        let count = statement.execute(self);
        meant(|| self.instrumentation(), false);
        count
    }
}

#[diagnostic::do_not_recommend]
impl<'a, C, S, U> Returns<'a, S, U, marker::Blocking> for C
where
    C: Connection,
    S: LoadQuery<'a, C, U>,
{
    fn rows<T: Send + 'a>(&'a mut self, statement: S, then: fn(Vec<U>) -> QueryResult<T>) -> QueryResult<T> {
        meant(|| self.instrumentation(), true);
        let rows = statement.internal_load(self).and_then(Iterator::collect);
        meant(|| self.instrumentation(), false);
        then(rows?)
    }
}

#[cfg(feature = "_async")]
mod asynchronous {
    //! The same on the connections of diesel-async.

    use diesel::result::QueryResult;
    use diesel_async::AsyncConnection;
    use diesel_async::methods::LoadQuery;
    use futures_util::future::BoxFuture;

    use super::{Connected, Returns, Runs, meant};
    use crate::engine::AsyncCounts;
    use crate::handle::marker;

    #[diagnostic::do_not_recommend]
    impl<C: AsyncConnection> Connected<marker::Async> for C {
        type Output<'a, T: Send + 'a>
            = BoxFuture<'a, QueryResult<T>>
        where
            C: 'a;
    }

    #[diagnostic::do_not_recommend]
    impl<'a, C, S> Runs<'a, S, marker::Async> for C
    where
        C: AsyncConnection,
        S: AsyncCounts<C> + Send + 'a,
    {
        fn count(&'a mut self, statement: S) -> BoxFuture<'a, QueryResult<usize>> {
            Box::pin(async move {
                meant(|| self.instrumentation(), true);
                let count = statement.execute(self).await;
                meant(|| self.instrumentation(), false);
                count
            })
        }
    }

    #[diagnostic::do_not_recommend]
    impl<'a, C, S, U> Returns<'a, S, U, marker::Async> for C
    where
        C: AsyncConnection,
        S: LoadQuery<'a, C, U> + Send + 'a,
        U: Send + 'a,
    {
        fn rows<T: Send + 'a>(
            &'a mut self,
            statement: S,
            then: fn(Vec<U>) -> QueryResult<T>,
        ) -> BoxFuture<'a, QueryResult<T>> {
            Box::pin(async move {
                meant(|| self.instrumentation(), true);
                let rows = crate::engine::all(statement, self).await;
                meant(|| self.instrumentation(), false);
                then(rows?)
            })
        }
    }
}
