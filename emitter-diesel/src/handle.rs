//! A connection bound to an emitter.

use std::any::TypeId;
use std::fmt;
use std::num::NonZeroU32;

use diesel::backend::Backend;
#[cfg(any(feature = "_postgres", feature = "sqlite"))]
use diesel::connection::AnsiTransactionManager;
use diesel::connection::{
    CacheSize, Connection, ConnectionSealed, Instrumentation, InstrumentationEvent, LoadConnection,
    SimpleConnection, TransactionDepthChange, TransactionManager, TransactionManagerStatus,
    WithMetadataLookup,
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
            proves: self.proves,
            guarded: self.guarded,
            dialect: self.dialect,
        }
    }

    /// What a lent handle has.
    #[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
    pub(crate) fn give_back(&mut self) -> Lent {
        Lent { events: std::mem::replace(&mut self.buffer, Buffer::new()), net: self.net }
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
        (self.buffer, self.net) = (lent.events, lent.net);
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
    }
}

#[cfg(feature = "sqlite")]
impl Bound<'_, diesel::sqlite::SqliteConnection> {
    /// A transaction that takes SQLite's write lock at once (`BEGIN IMMEDIATE`), so that one which
    /// reads first and writes later does not fail with "database is locked".
    ///
    /// # Errors
    /// [`Error::AlreadyInTransaction`] within a transaction; else as `transaction`.
    pub fn immediate_transaction<T, E: From<Error>>(
        &mut self,
        f: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.transaction_by("BEGIN IMMEDIATE", f)
    }

    /// A transaction that also keeps readers out (`BEGIN EXCLUSIVE`).
    ///
    /// # Errors
    /// [`Error::AlreadyInTransaction`] within a transaction; else as `transaction`.
    pub fn exclusive_transaction<T, E: From<Error>>(
        &mut self,
        f: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.transaction_by("BEGIN EXCLUSIVE", f)
    }
}

#[cfg(feature = "_postgres")]
impl<C> Bound<'_, C>
where
    C: Connection<Backend = diesel::pg::Pg, TransactionManager = AnsiTransactionManager>,
{
    /// A transaction of PostgreSQL with an isolation level and other options, as Diesel's
    /// `build_transaction` on the connection: `conn.build_transaction().serializable().run(|conn| …)`.
    pub fn build_transaction(&mut self) -> TransactionBuilder<'_, Self> {
        TransactionBuilder::new(self)
    }
}

/// A transaction of PostgreSQL that is about to begin. See [`Bound::build_transaction`].
///
/// What is not said is as the database has it set.
#[cfg(feature = "_postgres")]
#[derive(Debug)]
#[must_use = "nothing happens until `.run(…)`"]
pub struct TransactionBuilder<'b, H> {
    conn: &'b mut H,
    isolation: &'static str,
    access: &'static str,
    deferrable: &'static str,
}

#[cfg(feature = "_postgres")]
impl<'b, H> TransactionBuilder<'b, H> {
    pub(crate) fn new(conn: &'b mut H) -> Self {
        Self { conn, isolation: "", access: "", deferrable: "" }
    }

    /// The connection, and the SQL that begins the transaction.
    pub(crate) fn begin(self) -> (&'b mut H, String) {
        let Self { conn, isolation, access, deferrable } = self;
        (conn, format!("BEGIN TRANSACTION{isolation}{access}{deferrable}"))
    }

    /// `ISOLATION LEVEL READ COMMITTED`
    pub fn read_committed(self) -> Self {
        Self { isolation: " ISOLATION LEVEL READ COMMITTED", ..self }
    }

    /// `ISOLATION LEVEL REPEATABLE READ`
    pub fn repeatable_read(self) -> Self {
        Self { isolation: " ISOLATION LEVEL REPEATABLE READ", ..self }
    }

    /// `ISOLATION LEVEL SERIALIZABLE`
    pub fn serializable(self) -> Self {
        Self { isolation: " ISOLATION LEVEL SERIALIZABLE", ..self }
    }

    /// `READ ONLY`
    pub fn read_only(self) -> Self {
        Self { access: " READ ONLY", ..self }
    }

    /// `READ WRITE`
    pub fn read_write(self) -> Self {
        Self { access: " READ WRITE", ..self }
    }

    /// `DEFERRABLE`: of effect with `SERIALIZABLE` and `READ ONLY` only.
    pub fn deferrable(self) -> Self {
        Self { deferrable: " DEFERRABLE", ..self }
    }

    /// `NOT DEFERRABLE`
    pub fn not_deferrable(self) -> Self {
        Self { deferrable: " NOT DEFERRABLE", ..self }
    }
}

#[cfg(feature = "_postgres")]
impl<'c, C> TransactionBuilder<'_, Bound<'c, C>>
where
    C: Connection<Backend = diesel::pg::Pg, TransactionManager = AnsiTransactionManager>,
{
    /// Runs `f` in the transaction, and commits it if `f` succeeds.
    ///
    /// # Errors
    /// [`Error::AlreadyInTransaction`] within a transaction; else as `transaction`.
    pub fn run<T, E: From<Error>>(self, f: impl FnOnce(&mut Bound<'c, C>) -> Result<T, E>) -> Result<T, E> {
        let (conn, begin) = self.begin();
        conn.transaction_by(&begin, f)
    }
}

#[cfg(any(feature = "_postgres", feature = "sqlite"))]
impl<C: Connection<TransactionManager = AnsiTransactionManager>> Bound<'_, C> {
    fn transaction_by<T, E: From<Error>>(
        &mut self,
        begin: &str,
        f: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        AnsiTransactionManager::begin_transaction_sql(self.conn, begin)?;
        self.buffer.begun(1);
        match f(self) {
            Ok(value) => {
                EmittingTransactionManager::commit_transaction(self).map(|()| value).map_err(E::from)
            }
            Err(error) => match EmittingTransactionManager::rollback_transaction(self) {
                // The first error says more than that of the clean-up after it.
                Ok(()) | Err(Error::BrokenTransactionManager) => Err(error),
                Err(rollback) => Err(rollback.into()),
            },
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
}

/// How many transactions are open on a connection.
pub(crate) struct Depth {
    /// Those whose end decides about events: all but the test transaction.
    pub(crate) beyond_ground: usize,
    /// The innermost will be rolled back by the database whatever is asked of it.
    doomed: bool,
    /// The ground is a test transaction.
    pub(crate) within_test: bool,
}

impl Depth {
    fn of<C: Connection>(conn: &mut C) -> QueryResult<Self> {
        Self::from_status(C::TransactionManager::transaction_manager_status_mut(conn))
    }

    pub(crate) fn from_status(status: &TransactionManagerStatus) -> QueryResult<Self> {
        match status {
            TransactionManagerStatus::InError => Err(Error::BrokenTransactionManager),
            TransactionManagerStatus::Valid(status) => Ok(status.in_transaction.as_ref().map_or(
                Self { beyond_ground: 0, doomed: false, within_test: false },
                |open| Self {
                    beyond_ground: open.transaction_depth.get() as usize - usize::from(open.test_transaction),
                    doomed: open.requires_rollback_maybe_up_to_top_level,
                    within_test: open.test_transaction,
                },
            )),
        }
    }
}

/// Begins, commits and rolls back by the connection's own manager, and tells the buffer.
#[derive(Debug)]
pub struct EmittingTransactionManager;

impl<'c, C: Connection> TransactionManager<Bound<'c, C>> for EmittingTransactionManager {
    type TransactionStateData = <C::TransactionManager as TransactionManager<C>>::TransactionStateData;

    fn begin_transaction(conn: &mut Bound<'c, C>) -> QueryResult<()> {
        C::TransactionManager::begin_transaction(conn.conn)?;
        let depth = Depth::of(conn.conn)?.beyond_ground;
        conn.buffer.begun(depth);
        if depth == 1
            && conn.guarded
            && let Err(error) = conn.conn.batch_execute(GUARD)
        {
            Self::rollback_transaction(conn)?;
            return Err(error);
        }
        Ok(())
    }

    fn rollback_transaction(conn: &mut Bound<'c, C>) -> QueryResult<()> {
        let rolled_back = C::TransactionManager::rollback_transaction(conn.conn);
        conn.follow(false);
        rolled_back
    }

    fn commit_transaction(conn: &mut Bound<'c, C>) -> QueryResult<()> {
        let depth = Depth::of(conn.conn)?;
        if depth.doomed && depth.beyond_ground == 1 && conn.depends_on_commit() {
            // The database would answer this COMMIT with a silent rollback, and Diesel with `Ok`.
            Self::rollback_transaction(conn)?;
            return Err(Error::QueryBuilderError(NOTHING_COMMITTED.into()));
        }
        let guarded = conn.guarded && depth.beyond_ground == 1 && conn.depends_on_commit();
        if guarded && conn.conn.batch_execute(RELEASE_GUARD).is_err() {
            Self::rollback_transaction(conn)?;
            return Err(Error::QueryBuilderError(ENDED_BEFORE.into()));
        }
        if depth.beyond_ground == 1 && conn.buffer.any(Emission::is_durable) {
            return conn.commit_written();
        }
        let committed = C::TransactionManager::commit_transaction(conn.conn);
        conn.follow(committed.is_ok());
        committed
    }

    fn transaction_manager_status_mut<'s>(conn: &'s mut Bound<'c, C>) -> &'s mut TransactionManagerStatus {
        C::TransactionManager::transaction_manager_status_mut(conn.conn)
    }
}

/// Ends a transaction by SQL that goes before its COMMIT, in one message: as Diesel's manager does.
fn commit_with<C: Connection>(conn: &mut C, sql: &str) -> QueryResult<()> {
    let one = NonZeroU32::MIN;
    conn.instrumentation().on_connection_event(InstrumentationEvent::commit_transaction(one));
    match conn.batch_execute(&format!("{sql}; COMMIT")) {
        Ok(()) => {
            let status = C::TransactionManager::transaction_manager_status_mut(conn);
            match status {
                TransactionManagerStatus::Valid(status) => {
                    match status.change_transaction_depth(TransactionDepthChange::DecreaseDepth) {
                        // The connection has seen for itself that the transaction ended.
                        Ok(()) | Err(Error::NotInTransaction) => Ok(()),
                        Err(error) => Err(error),
                    }
                }
                TransactionManagerStatus::InError => Err(Error::BrokenTransactionManager),
            }
        }
        Err(error) => {
            // It may be open still. The first error says more than that of its end.
            let rolled_back = C::TransactionManager::rollback_transaction(conn);
            if !matches!(rolled_back, Ok(()) | Err(Error::NotInTransaction)) {
                C::TransactionManager::transaction_manager_status_mut(conn).set_in_error();
            }
            Err(error)
        }
    }
}

pub(crate) const NOTHING_COMMITTED: &str = "nothing was committed: a statement of this transaction failed and its error was ignored, \
                                 so the database rolls the transaction back. Return the error from the transaction, or run \
                                 the statement in a nested transaction";

pub(crate) const GUARD: &str = "SAVEPOINT emitter_guard";

pub(crate) const RELEASE_GUARD: &str = "RELEASE SAVEPOINT emitter_guard";

pub(crate) const ENDED_BEFORE: &str = "the database has ended the transaction before its COMMIT: MySQL and MariaDB commit it at a CREATE, \
                            ALTER or DROP TABLE, and roll it back at a deadlock. Some of what was written in it may be \
                            committed, and no event tells of it. Keep such statements out of transactions, and return the \
                            error of a deadlock from the transaction";

/// Whether the database may end a transaction without an error: at statements that define data.
pub(crate) fn is_guarded<DB: 'static>() -> bool {
    let guarded: &[TypeId] = &[
        #[cfg(feature = "_mysql")]
        TypeId::of::<diesel::mysql::Mysql>(),
    ];
    guarded.contains(&TypeId::of::<DB>())
}

pub(crate) const RAW_TRANSACTION: &str = "a transaction begun or ended by raw SQL is invisible to the bound handle: use \
                               `conn.transaction(…)`, or begin and commit by the handle's transaction manager";

impl<C: Connection> SimpleConnection for Bound<'_, C> {
    fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        if raw_sql::controls_transactions(query) {
            return Err(Error::QueryBuilderError(RAW_TRANSACTION.into()));
        }
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
