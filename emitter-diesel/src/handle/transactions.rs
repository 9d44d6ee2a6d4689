//! How transactions of a bound connection begin and end, and what that means for its events.

use std::any::TypeId;
use std::num::NonZeroU32;

#[cfg(any(feature = "_postgres", feature = "sqlite"))]
use diesel::connection::AnsiTransactionManager;
use diesel::connection::{
    Connection, InstrumentationEvent, TransactionDepthChange, TransactionManager, TransactionManagerStatus,
};
use diesel::result::{Error, QueryResult};
use emitter_core::Emission;

use super::Bound;

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
    pub(super) fn of<C: Connection>(conn: &mut C) -> QueryResult<Self> {
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
        conn.in_time()?;
        C::TransactionManager::begin_transaction(conn.conn)?;
        let depth = Depth::of(conn.conn)?.beyond_ground;
        conn.buffer.begun(depth);
        if depth == 1 {
            conn.time.begun();
        }
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
        if depth.beyond_ground == 1
            && let Err(late) = conn.in_time()
        {
            Self::rollback_transaction(conn)?;
            return Err(late);
        }
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
pub(super) fn commit_with<C: Connection>(conn: &mut C, sql: &str) -> QueryResult<()> {
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
        self.time.begun();
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
