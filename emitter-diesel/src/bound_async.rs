//! An asynchronous connection bound to an emitter.

use std::fmt;
use std::time::Duration;

use diesel::connection::{CacheSize, Instrumentation, TransactionManagerStatus};
use diesel::query_builder::{AsQuery, QueryFragment, QueryId};
use diesel::result::{ConnectionError, ConnectionResult, Error, QueryResult};
use diesel_async::{AsyncConnection, AsyncConnectionCore, SimpleAsyncConnection, TransactionManager};
use emitter_core::model::Emits;
use emitter_core::{Emission, Emitter};
use futures_util::future::BoxFuture;
use tracing::warn;

use crate::buffer::Buffer;
use crate::engine::{AsyncCounts, AsyncEngine, Rows};
#[cfg(feature = "_postgres")]
use crate::handle::TransactionBuilder;
use crate::handle::{
    BindError, Depth, ENDED_BEFORE, EmittingTransactionManager, GUARD, Lent, NOTHING_COMMITTED,
    RAW_TRANSACTION, RELEASE_GUARD, Time, is_guarded,
};
use crate::outbox::Written;
use crate::statements::{Emitting, Executes, FromRows, Handle, Kind, Loads};
use crate::tables::Dialect;
use crate::watched::Watched;
use crate::{bypass, raw_sql};

/// An asynchronous connection of diesel-async that is bound to an emitter: what
/// [`Bound`](crate::Bound) is for Diesel's own connections.
///
/// It is itself an [`AsyncConnection`]. Before the COMMIT of a transaction with events a `SELECT 1`
/// asks the database whether the transaction still stands: PostgreSQL would answer the COMMIT of one
/// in which a statement has failed with a silent rollback. On MySQL and MariaDB a savepoint tells
/// it, which is set when the transaction begins: they end it at a deadlock, or at a `CREATE TABLE`.
///
/// In tests, begin the test transaction on the connection (`db.begin_test_transaction().await`) and
/// bind it then: what is committed in it is emitted. `test_transaction` on the handle is one that is
/// rolled back, of which nothing is.
///
/// A transaction whose future is dropped in the middle leaves the connection within it, as
/// diesel-async does; its events are never emitted, and the connection cannot be bound again until
/// the transaction is rolled back. Drop the handle with it: what it writes afterwards says `Ok` and is
/// part of the transaction that nobody will commit. One that is dropped while the database works at its BEGIN, COMMIT
/// or ROLLBACK leaves a connection of which nobody knows where it is: it is refused, and has to be
/// dropped. On MySQL and MariaDB that goes for every statement on the handle, plain ones as well:
/// mysql_async would take the answer, when it comes, for that to the next statement. Pools drop all
/// of these.
pub struct BoundAsync<'c, C: AsyncConnection> {
    conn: &'c mut C,
    emitter: Emitter,
    buffer: Buffer<Emission>,
    /// The outermost transaction emits its net changes.
    net: bool,
    time: Time,
    /// A COMMIT has to be a true one though no event depends on it.
    proves: bool,
    /// A statement outside of transactions has begun and not ended: it may have one of its own.
    alone: bool,
    /// The database works at a BEGIN, COMMIT or ROLLBACK, of a savepoint as well: dropped then, nobody knows where
    /// the connection is.
    moving: bool,
    /// The back end is MySQL, which ends transactions behind Diesel's back: a savepoint tells. Its
    /// connection cannot go on where an answer is owed.
    guarded: bool,
    /// What was asked last had no answer: its future was dropped.
    unanswered: bool,
    dialect: Option<Dialect>,
}

impl<'c, C: AsyncConnection> BoundAsync<'c, C> {
    pub(crate) fn new(emitter: &Emitter, conn: &'c mut C) -> Result<Self, BindError>
    where
        C::Backend: 'static,
    {
        let depth = depth(conn).map_err(|_| BindError::Broken)?;
        if depth.beyond_ground > 0 {
            return Err(BindError::TransactionOpen);
        }
        if is_broken(conn) {
            return Err(BindError::Broken);
        }
        Ok(Self {
            conn,
            emitter: emitter.clone(),
            buffer: Buffer::new(),
            net: false,
            time: Time::of(emitter),
            proves: false,
            alone: false,
            moving: false,
            guarded: is_guarded::<C::Backend>(),
            unanswered: false,
            dialect: Dialect::of::<C::Backend>(),
        })
    }

    /// Gives up a connection that owes an answer: mysql_async would take it, when it comes, for that
    /// to the next question, be it a COMMIT; and whoever does not know whether there is a transaction can end
    /// none. Diesel's own status says so to later handles and pools.
    fn settle(&mut self) {
        let unanswered = std::mem::take(&mut self.unanswered) && self.guarded;
        if std::mem::take(&mut self.moving) || unanswered {
            C::TransactionManager::transaction_manager_status_mut(self.conn).set_in_error();
        }
    }

    /// Whether an answer of the connection may be that to another question.
    fn is_given_up(&mut self) -> bool {
        self.settle();
        self.guarded && depth(self.conn).is_err()
    }

    /// Why nothing more may be asked of the connection, if that is so.
    fn refusal(&mut self) -> Option<Error> {
        if self.is_given_up() { Some(Error::BrokenTransactionManager) } else { self.in_time().err() }
    }

    /// Refuses what is asked of a transaction that has taken too long.
    fn in_time(&mut self) -> QueryResult<()> {
        match self.time.over() {
            Some(late) if depth(self.conn)?.beyond_ground > 0 => Err(late),
            _ => Ok(()),
        }
    }

    /// Before anything is done: ends what a statement left behind whose future was dropped, and
    /// refuses a connection of which nobody knows whether it is within a transaction, and a transaction that has taken
    /// too long.
    async fn ready(&mut self) -> QueryResult<()> {
        if self.is_given_up() || is_broken(self.conn) {
            return Err(Error::BrokenTransactionManager);
        }
        if std::mem::take(&mut self.alone) && depth(self.conn)?.beyond_ground > 0 {
            EmittingTransactionManager::rollback_transaction(self).await?;
        }
        self.in_time()
    }

    /// Begins a statement, which [ends](Self::ended) by itself or is dropped.
    async fn begin_statement(&mut self) -> QueryResult<()> {
        self.ready().await?;
        self.alone = depth(self.conn)?.beyond_ground == 0;
        bypass::meant(|| self.conn.instrumentation(), true);
        Ok(())
    }

    /// Begins a transaction for a statement that has to be in one and is not; whether it did.
    async fn begin_own(&mut self, needed: bool) -> QueryResult<bool> {
        if !needed {
            return Ok(false);
        }
        self.ready().await?;
        if depth(self.conn)?.beyond_ground > 0 {
            return Ok(false);
        }
        EmittingTransactionManager::begin_transaction(self).await?;
        Ok(true)
    }

    /// Ends it, as the statement ended.
    async fn end_own<T>(&mut self, begun: bool, result: QueryResult<T>) -> QueryResult<T> {
        if !begun {
            return result;
        }
        // Dropped from here on, it is rolled back by whoever comes next, if the COMMIT has not begun.
        self.alone = true;
        let ended = match &result {
            Ok(_) => EmittingTransactionManager::commit_transaction(self).await,
            // The first error says more than that of the clean-up after it.
            Err(_) => EmittingTransactionManager::rollback_transaction(self).await.or(Ok(())),
        };
        self.alone = false;
        ended.and(result)
    }

    /// The statement has ended, well or not.
    fn ended(&mut self) {
        self.alone = false;
        bypass::meant(|| self.conn.instrumentation(), false);
    }

    /// Sends SQL of ours, or such as was looked at.
    fn ask(&mut self, sql: &str) -> impl Future<Output = QueryResult<()>> + Send {
        Watched::new(&mut self.unanswered, self.conn.batch_execute(sql))
    }

    /// The emitter that it is bound to.
    #[must_use]
    pub fn emitter(&self) -> &Emitter {
        &self.emitter
    }

    /// Takes an event of a statement that has just succeeded.
    fn keep(&mut self, emission: Emission) {
        // A broken connection keeps it: its transaction can only be rolled back.
        if depth(self.conn).is_ok_and(|depth| depth.beyond_ground == 0) {
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
    pub fn net_changes(&mut self) {
        self.net = true;
    }

    /// How long the outermost transaction that is open, or else the next one, may take, instead of what the builder was given
    /// by [`TransactionTimeout`](crate::TransactionTimeout); `None` for as long as it likes.
    pub fn transaction_timeout(&mut self, timeout: Option<Duration>) {
        self.time.set(timeout);
    }

    /// From now on a COMMIT that the database would not carry out is an error, whether there are events or not.
    pub(crate) fn prove_commits(&mut self) {
        self.proves = true;
    }

    /// A handle in this one's place, which has what it has until it gives that [back](Self::give_back).
    pub(crate) fn lend(&mut self) -> BoundAsync<'_, C> {
        BoundAsync {
            conn: self.conn,
            emitter: self.emitter.clone(),
            buffer: std::mem::replace(&mut self.buffer, Buffer::new()),
            net: self.net,
            time: self.time,
            proves: self.proves,
            alone: false,
            moving: false,
            guarded: self.guarded,
            unanswered: std::mem::take(&mut self.unanswered),
            dialect: self.dialect,
        }
    }

    /// What a lent handle has.
    pub(crate) fn give_back(&mut self) -> Lent {
        let events = std::mem::replace(&mut self.buffer, Buffer::new());
        Lent { events, net: self.net, time: self.time }
    }

    /// Takes back the transactions within the outermost one that were begun and did not end; whether there were any.
    pub(crate) async fn roll_back_inner(&mut self) -> QueryResult<bool> {
        let mut any = false;
        while depth(self.conn)?.beyond_ground > 1 {
            EmittingTransactionManager::rollback_transaction(self).await?;
            any = true;
        }
        Ok(any)
    }

    /// The lent handle is there no more.
    pub(crate) fn take_back(&mut self, lent: Lent) {
        (self.buffer, self.net, self.time) = (lent.events, lent.net, lent.time);
    }

    /// What the outermost transaction emitted, with what is to be written down of it.
    fn written(&mut self, durable: bool) -> QueryResult<Option<Written>> {
        if !durable {
            return Ok(None);
        }
        let events = self.buffer.committed(0);
        let events = if std::mem::take(&mut self.net) { self.emitter.net(events) } else { events };
        Written::new(&self.emitter, self.dialect, events).map(Some)
    }

    /// Brings the buffer in line after a transaction began or ended; `ended_well` says how.
    fn follow(&mut self, ended_well: bool) {
        let depth = depth(self.conn).map_or(0, |depth| depth.beyond_ground);
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

#[cfg(feature = "_postgres")]
impl<C> BoundAsync<'_, C>
where
    C: AsyncConnection<Backend = diesel::pg::Pg, TransactionManager = diesel_async::AnsiTransactionManager>,
{
    /// A transaction of PostgreSQL with an isolation level and other options:
    /// `conn.build_transaction().serializable().run(async |conn| …).await`.
    pub fn build_transaction(&mut self) -> TransactionBuilder<'_, Self> {
        TransactionBuilder::new(self)
    }
}

/// A handle that begins transactions in words of its own, for [`TransactionBuilder::run`].
///
/// A trait, for only what is generic over the handle can promise that the future may be sent.
#[cfg(feature = "_postgres")]
pub trait BeginsBy: AsyncConnection<TransactionManager = EmittingTransactionManager> {
    /// Begins one by this SQL.
    ///
    /// # Errors
    /// [`Error::AlreadyInTransaction`] within a transaction; else the database's.
    fn begin_by(&mut self, sql: &str) -> impl Future<Output = QueryResult<()>> + Send;
}

#[cfg(feature = "_postgres")]
impl<C> BeginsBy for BoundAsync<'_, C>
where
    C: AsyncConnection<Backend = diesel::pg::Pg, TransactionManager = diesel_async::AnsiTransactionManager>,
{
    async fn begin_by(&mut self, sql: &str) -> QueryResult<()> {
        self.ready().await?;
        self.moving = true;
        let begun = diesel_async::AnsiTransactionManager::begin_transaction_sql(self.conn, sql).await;
        self.moving = false;
        begun?;
        self.buffer.begun(1);
        self.time.begun();
        Ok(())
    }
}

/// An asynchronous closure whose future can be named, as in diesel-async, which keeps its own to
/// itself.
#[cfg(feature = "_postgres")]
pub trait AsyncFunc<T, R>: AsyncFnOnce(T) -> R + FnOnce(T) -> <Self as AsyncFunc<T, R>>::Fut {
    /// The future.
    type Fut: Future<Output = R>;
}

#[cfg(feature = "_postgres")]
impl<F, T, Fut, R> AsyncFunc<T, R> for F
where
    F: AsyncFnOnce(T) -> R + FnOnce(T) -> Fut,
    Fut: Future<Output = R>,
{
    type Fut = Fut;
}

#[cfg(feature = "_postgres")]
impl<'b, H> TransactionBuilder<'b, H>
where
    H: BeginsBy,
    EmittingTransactionManager: TransactionManager<H>,
{
    /// Runs `f` in the transaction, and commits it if `f` succeeds.
    ///
    /// # Errors
    /// [`Error::AlreadyInTransaction`] within a transaction; else as `transaction`.
    #[expect(clippy::manual_async_fn, reason = "says that the future can be sent")]
    pub fn run<'a, T, E, F>(self, f: F) -> impl Future<Output = Result<T, E>> + Send + 'b
    where
        for<'r> F: AsyncFnOnce(&'r mut H) -> Result<T, E>
            + AsyncFunc<&'r mut H, Result<T, E>, Fut: Send>
            + Send
            + 'a,
        T: Send + 'a,
        E: From<Error> + Send + 'a,
        'a: 'b,
    {
        async move {
            let (conn, begin) = self.begin();
            conn.begin_by(&begin).await?;
            match f(&mut *conn).await {
                Ok(value) => EmittingTransactionManager::commit_transaction(conn)
                    .await
                    .map(|()| value)
                    .map_err(E::from),
                Err(error) => match EmittingTransactionManager::rollback_transaction(conn).await {
                    // The first error says more than that of the clean-up after it.
                    Ok(()) | Err(Error::BrokenTransactionManager) => Err(error),
                    Err(rollback) => Err(rollback.into()),
                },
            }
        }
    }
}

/// Whether a BEGIN, COMMIT or ROLLBACK was dropped while the database worked at it.
fn is_broken<C: AsyncConnection>(conn: &mut C) -> bool {
    let at_ground = depth(conn).is_ok_and(|depth| depth.beyond_ground == 0 && !depth.within_test);
    at_ground && C::TransactionManager::is_broken_transaction_manager(conn)
}

fn depth<C: AsyncConnection>(conn: &mut C) -> QueryResult<Depth> {
    Depth::from_status(C::TransactionManager::transaction_manager_status_mut(conn))
}

impl<C: AsyncConnection> fmt::Debug for BoundAsync<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundAsync").field("waiting", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl<C: AsyncConnection> Drop for BoundAsync<'_, C> {
    fn drop(&mut self) {
        self.settle();
        let events = self.buffer.len();
        if events > 0 {
            warn!(events, "a bound handle was dropped within a transaction: its events are dropped with it");
        }
    }
}

impl<C: AsyncConnection> Handle for BoundAsync<'_, C> {
    type Output<'a, T: Send + 'a>
        = BoxFuture<'a, QueryResult<T>>
    where
        Self: 'a;
}

#[diagnostic::do_not_recommend]
impl<'a, C, S, M, K> Loads<'a, S, M, K> for BoundAsync<'_, C>
where
    C: AsyncConnection<Backend: AsyncEngine<'a, C, S, M, K>>,
    S: Send + 'a,
{
    fn load<Op: FromRows, T: Send + 'a>(
        &'a mut self,
        emitting: Emitting<S, K, M>,
        then: fn(Rows<M>) -> QueryResult<T>,
    ) -> BoxFuture<'a, QueryResult<T>>
    where
        K: Kind,
        M: Emits<Op>,
    {
        let routed = emitting.route::<Op>(&self.emitter);
        Box::pin(async move {
            let (statement, events) = routed?;
            let alone =
                self.begin_own(events.as_ref().is_some_and(|(events, _)| events.are_durable())).await?;
            self.begin_statement().await?;
            self.alone |= alone;
            let (events, ask) = events.unzip();
            let load = C::Backend::load(self.conn, statement, ask.unwrap_or_default());
            let rows = Watched::new(&mut self.unanswered, load).await;
            self.ended();
            let result = rows.and_then(|mut rows| {
                if let Some(events) = events {
                    events.of::<Op>(&mut rows, |event| self.keep(event));
                }
                then(rows)
            });
            self.end_own(alone, result).await
        })
    }
}

#[diagnostic::do_not_recommend]
impl<'a, C, S, M, K> Executes<'a, S, M, K> for BoundAsync<'_, C>
where
    C: AsyncConnection<Backend: AsyncEngine<'a, C, S, M, K>>,
    S: AsyncCounts<C> + Send + 'a,
{
    fn execute(&'a mut self, emitting: Emitting<S, K, M>) -> BoxFuture<'a, QueryResult<usize>>
    where
        K: Kind,
        M: Emits<K::Many>,
    {
        let routed = emitting.route::<K::Many>(&self.emitter);
        Box::pin(async move {
            let (statement, events) = routed?;
            let alone =
                self.begin_own(events.as_ref().is_some_and(|(events, _)| events.are_durable())).await?;
            self.begin_statement().await?;
            self.alone |= alone;
            let Some((events, ask)) = events else {
                let count = Watched::new(&mut self.unanswered, statement.execute(self.conn)).await;
                self.ended();
                return count;
            };
            let rows = Watched::new(&mut self.unanswered, C::Backend::load(self.conn, statement, ask)).await;
            self.ended();
            let result = rows.map(|mut rows| {
                events.of::<K::Many>(&mut rows, |event| self.keep(event));
                rows.count()
            });
            self.end_own(alone, result).await
        })
    }
}

impl<'c, C: AsyncConnection> TransactionManager<BoundAsync<'c, C>> for EmittingTransactionManager {
    type TransactionStateData = <C::TransactionManager as TransactionManager<C>>::TransactionStateData;

    async fn begin_transaction(conn: &mut BoundAsync<'c, C>) -> QueryResult<()> {
        conn.ready().await?;
        conn.moving = true;
        let begin = C::TransactionManager::begin_transaction(conn.conn);
        let begun = Watched::new(&mut conn.unanswered, begin).await;
        conn.moving = false;
        begun?;
        let depth = depth(conn.conn)?.beyond_ground;
        conn.buffer.begun(depth);
        if depth == 1 {
            conn.time.begun();
        }
        if depth == 1
            && conn.guarded
            && let Err(error) = conn.ask(GUARD).await
        {
            Self::rollback_transaction(conn).await?;
            return Err(error);
        }
        Ok(())
    }

    async fn rollback_transaction(conn: &mut BoundAsync<'c, C>) -> QueryResult<()> {
        conn.settle();
        conn.moving = true;
        let rollback = C::TransactionManager::rollback_transaction(conn.conn);
        let rolled_back = Watched::new(&mut conn.unanswered, rollback).await;
        conn.moving = false;
        conn.follow(false);
        rolled_back
    }

    async fn commit_transaction(conn: &mut BoundAsync<'c, C>) -> QueryResult<()> {
        conn.settle();
        let outermost = depth(conn.conn)?.beyond_ground == 1;
        if outermost && let Err(late) = conn.in_time() {
            Self::rollback_transaction(conn).await?;
            return Err(late);
        }
        let durable = outermost && conn.buffer.any(Emission::is_durable);
        let matters = outermost && (conn.proves || conn.buffer.len() > 0);
        let written = match conn.written(durable) {
            Ok(written) => written,
            Err(error) => {
                Self::rollback_transaction(conn).await?;
                return Err(error);
            }
        };
        let inserts = written.as_ref().map(Written::sql).unwrap_or_default();
        // What is written into the outbox tells it as well, but for MySQL: there it would be committed by itself.
        if matters && (conn.guarded || inserts.is_empty()) {
            let (probe, otherwise) =
                if conn.guarded { (RELEASE_GUARD, ENDED_BEFORE) } else { ("SELECT 1", NOTHING_COMMITTED) };
            if conn.ask(probe).await.is_err() {
                Self::rollback_transaction(conn).await?;
                return Err(Error::QueryBuilderError(otherwise.into()));
            }
        }
        for insert in inserts {
            if let Err(error) = conn.ask(insert).await {
                Self::rollback_transaction(conn).await?;
                return Err(error);
            }
        }
        conn.moving = true;
        let commit = C::TransactionManager::commit_transaction(conn.conn);
        let committed = Watched::new(&mut conn.unanswered, commit).await;
        conn.moving = false;
        conn.follow(committed.is_ok());
        committed?;
        if let Some(written) = written {
            written.emit(&conn.emitter);
        }
        Ok(())
    }

    fn transaction_manager_status_mut<'s>(
        conn: &'s mut BoundAsync<'c, C>,
    ) -> &'s mut TransactionManagerStatus {
        C::TransactionManager::transaction_manager_status_mut(conn.conn)
    }

    fn is_broken_transaction_manager(conn: &mut BoundAsync<'c, C>) -> bool {
        C::TransactionManager::is_broken_transaction_manager(conn.conn)
    }
}

impl<C: AsyncConnection> SimpleAsyncConnection for BoundAsync<'_, C> {
    async fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        if raw_sql::controls_transactions(query) {
            return Err(Error::QueryBuilderError(RAW_TRANSACTION.into()));
        }
        self.ready().await?;
        self.ask(query).await
    }
}

impl<C: AsyncConnection> AsyncConnectionCore for BoundAsync<'_, C> {
    type ExecuteFuture<'conn, 'query> = Watched<'conn, C::ExecuteFuture<'conn, 'query>>;
    type LoadFuture<'conn, 'query> = Watched<'conn, C::LoadFuture<'conn, 'query>>;
    type Stream<'conn, 'query> = C::Stream<'conn, 'query>;
    type Row<'conn, 'query> = C::Row<'conn, 'query>;
    type Backend = C::Backend;

    fn load<'conn, 'query, T>(&'conn mut self, source: T) -> Self::LoadFuture<'conn, 'query>
    where
        T: AsQuery + 'query,
        T::Query: QueryFragment<Self::Backend> + QueryId + 'query,
    {
        if let Some(refusal) = self.refusal() {
            return Watched::refused(&mut self.unanswered, refusal);
        }
        Watched::new(&mut self.unanswered, self.conn.load(source))
    }

    fn execute_returning_count<'conn, 'query, T>(
        &'conn mut self,
        source: T,
    ) -> Self::ExecuteFuture<'conn, 'query>
    where
        T: QueryFragment<Self::Backend> + QueryId + 'query,
    {
        if let Some(refusal) = self.refusal() {
            return Watched::refused(&mut self.unanswered, refusal);
        }
        Watched::new(&mut self.unanswered, self.conn.execute_returning_count(source))
    }
}

impl<C: AsyncConnection> AsyncConnection for BoundAsync<'_, C> {
    type TransactionManager = EmittingTransactionManager;

    async fn establish(_: &str) -> ConnectionResult<Self> {
        Err(ConnectionError::BadConnection(
            "bind an established connection with `emitter.bind(&mut conn)`".to_owned(),
        ))
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
