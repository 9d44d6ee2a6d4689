//! A connection bound to an emitter.

use std::fmt;
use std::time::Duration;

use diesel::backend::Backend;
use diesel::connection::{
    CacheSize, Connection, ConnectionSealed, Instrumentation, LoadConnection, SimpleConnection,
    TransactionManager, WithMetadataLookup,
};
use diesel::expression::QueryMetadata;
use diesel::query_builder::{Query, QueryFragment, QueryId};
use diesel::result::{ConnectionError, ConnectionResult, Error, QueryResult};
use emitter_core::{Emission, Emitter};
use tracing::warn;

use crate::buffer::Buffer;
use crate::outbox::Written;
use crate::statements::Handle;
use crate::tables::Dialect;
use crate::{bypass, raw_sql};

mod timeout;
mod transactions;

pub(crate) use self::timeout::Time;
pub use self::timeout::{TimedOut, TransactionTimeout};
pub use self::transactions::EmittingTransactionManager;
#[cfg(feature = "_postgres")]
pub use self::transactions::TransactionBuilder;
use self::transactions::commit_with;
pub(crate) use self::transactions::{Depth, is_guarded};
#[cfg(feature = "_async")]
pub(crate) use self::transactions::{ENDED_BEFORE, GUARD, NOTHING_COMMITTED, RELEASE_GUARD};

/// Binds connections to an emitter.
pub trait Bind {
    /// Binds a connection for as long as it is borrowed: statements with `.emit()` on the bound
    /// handle become events, which leave after the outermost commit.
    ///
    /// `conn` is any connection of Diesel or of diesel-async, also one out of a pool. The handle is
    /// a [`Bound`] or a `BoundAsync`, and a connection like the one that it is made of; `Marker`
    /// tells the two apart and is always inferred. Batch inserts on SQLite want the connection
    /// itself: `emitter.bind(&mut *pooled)`.
    ///
    /// # Errors
    /// [`BindError`] when the connection is within a transaction: the handle would not see how
    /// that ends. Bind first, then begin. (A test transaction is fine: see [`Bound`].)
    fn bind<'c, C: Bindable<Marker>, Marker>(&self, conn: &'c mut C) -> Result<C::Bound<'c>, BindError>;
}

impl Bind for Emitter {
    fn bind<'c, C: Bindable<Marker>, Marker>(&self, conn: &'c mut C) -> Result<C::Bound<'c>, BindError> {
        conn.bound(self)
    }
}

/// A connection that can be bound: any of Diesel's, and any of diesel-async's.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no connection that can be bound",
    label = "no connection of Diesel or of diesel-async",
    note = "of one from a pool, bind what it holds: `emitter.bind(&mut *pooled)`",
    note = "for asynchronous connections, `emitter-diesel` needs the feature `async-postgres`, `async-sqlite` or `async-mysql`"
)]
pub trait Bindable<Marker> {
    /// The handle.
    type Bound<'c>
    where
        Self: 'c;

    /// Makes it.
    ///
    /// # Errors
    /// As [`Bind::bind`].
    fn bound<'c>(&'c mut self, emitter: &Emitter) -> Result<Self::Bound<'c>, BindError>;
}

/// Markers of [`Bindable`].
pub mod marker {
    /// A connection of Diesel.
    #[derive(Debug)]
    pub enum Blocking {}

    /// A connection of diesel-async.
    #[derive(Debug)]
    pub enum Async {}
}

#[diagnostic::do_not_recommend]
impl<C: Connection<Backend: 'static>> Bindable<marker::Blocking> for C {
    type Bound<'c>
        = Bound<'c, C>
    where
        C: 'c;

    fn bound<'c>(&'c mut self, emitter: &Emitter) -> Result<Bound<'c, C>, BindError> {
        let depth = Depth::of(self).map_err(|_| BindError::Broken)?;
        if depth.beyond_ground > 0 {
            return Err(BindError::TransactionOpen);
        }
        Ok(Bound {
            conn: self,
            emitter: emitter.clone(),
            buffer: Buffer::new(),
            net: false,
            time: Time::of(emitter),
            proves: false,
            guarded: is_guarded::<C::Backend>(),
            dialect: Dialect::of::<C::Backend>(),
        })
    }
}

#[cfg(feature = "_async")]
#[diagnostic::do_not_recommend]
impl<C: diesel_async::AsyncConnection<Backend: 'static>> Bindable<marker::Async> for C {
    type Bound<'c>
        = crate::BoundAsync<'c, C>
    where
        C: 'c;

    fn bound<'c>(&'c mut self, emitter: &Emitter) -> Result<crate::BoundAsync<'c, C>, BindError> {
        crate::BoundAsync::new(emitter, self)
    }
}

/// Why a connection cannot be bound. Nothing was sent to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BindError {
    /// A transaction is open. Bind the connection first and begin the transaction on the handle.
    TransactionOpen,
    /// An earlier transaction could neither be committed nor rolled back. Drop the connection.
    Broken,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TransactionOpen => {
                "a transaction is open on the connection: bind it first, then begin the transaction on the bound handle"
            }
            Self::Broken => "an earlier transaction on the connection could not be ended: drop the connection",
        })
    }
}

impl std::error::Error for BindError {}

/// So that `?` takes it where Diesel's errors are returned.
impl From<BindError> for Error {
    fn from(error: BindError) -> Self {
        Self::QueryBuilderError(Box::new(error))
    }
}

/// A Diesel connection that is bound to an emitter.
///
/// It is itself a [`Connection`]: plain queries, `transaction`, nested and manual transactions
/// work on it as on the connection. Events of statements with `.emit()` leave when the outermost
/// transaction has really been committed; outside of transactions, right after the statement. What
/// is rolled back, by itself or with a savepoint, is never emitted.
///
/// Within [`Connection::begin_test_transaction`] and `test_transaction`, which never commit, the
/// test transaction counts as the ground: what is committed in it is emitted.
///
/// A transaction that is begun by raw SQL is invisible to Diesel and to this handle. The handle
/// refuses a `batch_execute` in which a statement begins or ends one (but looks no further than a
/// `CREATE TRIGGER` in it); do not send such statements with `sql_query` either. On SQLite there are `immediate_transaction` and
/// `exclusive_transaction`.
pub struct Bound<'c, C: Connection> {
    conn: &'c mut C,
    emitter: Emitter,
    buffer: Buffer<Emission>,
    /// The outermost transaction emits its net changes.
    net: bool,
    time: Time,
    /// A COMMIT has to be a true one though no event depends on it.
    proves: bool,
    /// The database ends transactions behind Diesel's back: a savepoint tells whether it did.
    guarded: bool,
    dialect: Option<Dialect>,
}

impl<C: Connection> Handle for Bound<'_, C> {
    type Output<'a, T: Send + 'a>
        = QueryResult<T>
    where
        Self: 'a;
}

impl<C: Connection> Bound<'_, C> {
    /// The emitter that it is bound to.
    #[must_use]
    pub fn emitter(&self) -> &Emitter {
        &self.emitter
    }

    /// Runs a statement that knows what it emits on the connection itself.
    pub(crate) fn run<T>(&mut self, statement: impl FnOnce(&mut C) -> QueryResult<T>) -> QueryResult<T> {
        self.in_time()?;
        bypass::meant(|| self.conn.instrumentation(), true);
        let result = statement(self.conn);
        bypass::meant(|| self.conn.instrumentation(), false);
        result
    }

    /// Takes an event of a statement that has just succeeded.
    pub(crate) fn keep(&mut self, emission: Emission) {
        // A broken connection keeps it: its transaction can only be rolled back.
        if Depth::of(self.conn).is_ok_and(|depth| depth.beyond_ground == 0) {
            self.emitter.emit([emission]);
        } else {
            self.buffer.push(emission);
        }
    }

    /// Emits what the outermost transaction that is open, or else the next one, does in the end, and
    /// not all that it does on the way: of each row one event, with the row as it was first, as it
    /// is at the end, and the columns of all its updates; of one that was inserted and deleted again,
    /// none. See [`Emitter::emit_net`].
    ///
    /// It holds for that transaction as a whole, also where it is asked for within a savepoint, and
    /// until it ends: a rolled-back savepoint does not take it back, and single statements before the
    /// next transaction do not use it up. The row as it was first is known where the first change of
    /// it knew the row before.
    ///
    /// ```
    /// # use diesel::prelude::*;
    /// # use emitter_diesel::{Bound, Emit, Emits, update};
    /// # use serde::{Deserialize, Serialize};
    /// # diesel::table! { users { id -> Integer, name -> Text, } }
    /// # #[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
    /// # #[emits(update)]
    /// # struct User { id: i32, name: String }
    /// # fn rename(conn: &mut Bound<'_, SqliteConnection>, alice: &User) -> QueryResult<User> {
    /// conn.transaction(|conn| {
    ///     conn.net_changes();
    ///     update(alice).set(users::name.eq("al")).emit::<User>().get_result(conn)?;
    ///     update(alice).set(users::name.eq("alicia")).emit::<User>().get_result(conn)
    /// }) // one event: from alice to alicia
    /// # }
    /// ```
    pub fn net_changes(&mut self) {
        self.net = true;
    }

    /// How long the outermost transaction that is open, or else the next one, may take, instead of what the builder was given
    /// by [`TransactionTimeout`]; `None` for as long as it likes.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use diesel::prelude::*;
    /// # use emitter_diesel::Bound;
    /// # fn import(conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<usize> { Ok(0) }
    /// # fn nightly(conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<usize> {
    /// conn.transaction(|conn| {
    ///     conn.transaction_timeout(Some(Duration::from_secs(3600)));
    ///     import(conn)
    /// })
    /// # }
    /// ```
    pub fn transaction_timeout(&mut self, timeout: Option<Duration>) {
        self.time.set(timeout);
    }

    /// Refuses what is asked of a transaction that has taken too long.
    fn in_time(&mut self) -> QueryResult<()> {
        match self.time.over() {
            Some(late) if Depth::of(self.conn)?.beyond_ground > 0 => Err(late),
            _ => Ok(()),
        }
    }

    /// From now on a COMMIT that the database would not carry out is an error, whether there are events or not.
    pub(crate) fn prove_commits(&mut self) {
        self.proves = true;
    }

    /// A handle in this one's place, which has what it has until it gives that [back](Self::give_back).
    pub(crate) fn lend(&mut self) -> Bound<'_, C> {
        Bound {
            conn: self.conn,
            emitter: self.emitter.clone(),
            buffer: std::mem::replace(&mut self.buffer, Buffer::new()),
            net: self.net,
            time: self.time,
            proves: self.proves,
            guarded: self.guarded,
            dialect: self.dialect,
        }
    }

    /// What a lent handle has.
    #[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
    pub(crate) fn give_back(&mut self) -> Lent {
        let events = std::mem::replace(&mut self.buffer, Buffer::new());
        Lent { events, net: self.net, time: self.time }
    }

    /// Takes back the transactions within the outermost one that were begun and did not end; whether there were any.
    pub(crate) fn roll_back_inner(&mut self) -> QueryResult<bool> {
        let mut any = false;
        while Depth::of(self.conn)?.beyond_ground > 1 {
            EmittingTransactionManager::rollback_transaction(self)?;
            any = true;
        }
        Ok(any)
    }

    /// The lent handle is there no more.
    pub(crate) fn take_back(&mut self, lent: Lent) {
        (self.buffer, self.net, self.time) = (lent.events, lent.net, lent.time);
    }

    /// Whether events, or whoever asked for it, depend on a COMMIT.
    fn depends_on_commit(&self) -> bool {
        self.proves || self.buffer.len() > 0
    }

    /// Runs a statement in a transaction, if it has to be in one and is not.
    pub(crate) fn together<T>(
        &mut self,
        in_transaction: bool,
        statement: impl FnOnce(&mut Self) -> QueryResult<T>,
    ) -> QueryResult<T> {
        if in_transaction && Depth::of(self.conn)?.beyond_ground == 0 {
            self.transaction(statement)
        } else {
            statement(self)
        }
    }

    /// Commits the outermost transaction together with the events that are to be written down.
    fn commit_written(&mut self) -> QueryResult<()> {
        let events = self.buffer.committed(0);
        let events = if std::mem::take(&mut self.net) { self.emitter.net(events) } else { events };
        let written = match Written::new(&self.emitter, self.dialect, events) {
            Ok(written) => written,
            Err(error) => {
                EmittingTransactionManager::rollback_transaction(self)?;
                return Err(error);
            }
        };
        let inserts = written.sql();
        let committed = if !inserts.is_empty() && self.commits_in_one() {
            commit_with(self.conn, &inserts.join("; "))
        } else {
            if let Err(error) = inserts.iter().try_for_each(|insert| self.conn.batch_execute(insert)) {
                EmittingTransactionManager::rollback_transaction(self)?;
                return Err(error);
            }
            C::TransactionManager::commit_transaction(self.conn)
        };
        self.follow(committed.is_ok());
        committed?;
        written.emit(&self.emitter);
        Ok(())
    }

    /// Whether the INSERT and the COMMIT can be one message.
    fn commits_in_one(&mut self) -> bool {
        let alone = Depth::of(self.conn).is_ok_and(|depth| !depth.within_test);
        alone && self.dialect == Some(Dialect::Postgres)
    }

    /// Brings the buffer in line after a transaction began or ended; `ended_well` says how.
    fn follow(&mut self, ended_well: bool) {
        let depth = Depth::of(self.conn).map_or(0, |depth| depth.beyond_ground);
        if !ended_well {
            self.buffer.rolled_back(depth);
        } else if self.net {
            self.emitter.emit_net(self.buffer.committed(depth));
        } else {
            self.emitter.emit(self.buffer.committed(depth));
        }
        self.net &= depth > 0;
        if depth == 0 {
            self.time.ended();
        }
    }
}

impl<C: Connection> fmt::Debug for Bound<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("waiting", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl<C: Connection> Drop for Bound<'_, C> {
    fn drop(&mut self) {
        let events = self.buffer.len();
        if events > 0 {
            warn!(events, "a bound handle was dropped within a transaction: its events are dropped with it");
        }
    }
}

/// What the transaction of a lent handle has emitted so far.
#[derive(Debug)]
pub struct Lent {
    pub(crate) events: Buffer<Emission>,
    pub(crate) net: bool,
    pub(crate) time: Time,
}

pub(crate) const RAW_TRANSACTION: &str = "a transaction begun or ended by raw SQL is invisible to the bound handle: use \
                               `conn.transaction(…)`, or begin and commit by the handle's transaction manager";

impl<C: Connection> SimpleConnection for Bound<'_, C> {
    fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        if raw_sql::controls_transactions(query) {
            return Err(Error::QueryBuilderError(RAW_TRANSACTION.into()));
        }
        self.in_time()?;
        self.conn.batch_execute(query)
    }
}

impl<C: Connection> ConnectionSealed for Bound<'_, C> {}

impl<C: Connection> Connection for Bound<'_, C> {
    type Backend = C::Backend;
    type TransactionManager = EmittingTransactionManager;

    fn establish(_: &str) -> ConnectionResult<Self> {
        Err(ConnectionError::BadConnection(
            "bind an established connection with `emitter.bind(&mut conn)`".to_owned(),
        ))
    }

    /// As Diesel's, but what is committed within is emitted, so that tests see events.
    fn test_transaction<T, E, F>(&mut self, f: F) -> T
    where
        F: FnOnce(&mut Self) -> Result<T, E>,
        E: fmt::Debug,
    {
        if let Err(error) = self.begin_test_transaction() {
            panic!("the test transaction did not begin: {error}");
        }
        let result = f(self);
        // As in Diesel: the outcome of the test counts, not that of its clean-up.
        let _ = Self::TransactionManager::rollback_transaction(self);
        result.unwrap_or_else(|error| panic!("the test transaction did not succeed: {error:?}"))
    }

    fn execute_returning_count<T>(&mut self, source: &T) -> QueryResult<usize>
    where
        T: QueryFragment<Self::Backend> + QueryId,
    {
        self.in_time()?;
        self.conn.execute_returning_count(source)
    }

    fn transaction_state(
        &mut self,
    ) -> &mut <Self::TransactionManager as TransactionManager<Self>>::TransactionStateData {
        self.conn.transaction_state()
    }

    fn instrumentation(&mut self) -> &mut dyn Instrumentation {
        self.conn.instrumentation()
    }

    fn set_instrumentation(&mut self, instrumentation: impl Instrumentation) {
        self.conn.set_instrumentation(instrumentation);
    }

    fn set_prepared_statement_cache_size(&mut self, size: CacheSize) {
        self.conn.set_prepared_statement_cache_size(size);
    }
}

impl<C: LoadConnection<B>, B> LoadConnection<B> for Bound<'_, C> {
    type Cursor<'conn, 'query>
        = C::Cursor<'conn, 'query>
    where
        Self: 'conn;
    type Row<'conn, 'query>
        = C::Row<'conn, 'query>
    where
        Self: 'conn;

    fn load<'conn, 'query, T>(&'conn mut self, source: T) -> QueryResult<Self::Cursor<'conn, 'query>>
    where
        T: Query + QueryFragment<Self::Backend> + QueryId + 'query,
        Self::Backend: QueryMetadata<T::SqlType>,
    {
        self.in_time()?;
        self.conn.load(source)
    }
}

impl<C: WithMetadataLookup> WithMetadataLookup for Bound<'_, C> {
    fn metadata_lookup(&mut self) -> &mut <Self::Backend as diesel::sql_types::TypeMetadata>::MetadataLookup {
        self.conn.metadata_lookup()
    }
}

/// Keeps the bound of [`Connection::Backend`] in one place.
#[expect(dead_code, reason = "asserts that a bound handle is a connection of its connection's back end")]
fn is_connection<C: Connection<Backend = DB>, DB: Backend>(
    bound: Bound<'_, C>,
) -> impl Connection<Backend = DB> {
    bound
}
