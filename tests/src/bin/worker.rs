//! A node that the tests of outbox and inbox kill: it writes durable events into PostgreSQL, SQLite or MariaDB, relays
//! them, or has effects of them, until somebody ends it, or it ends itself at its cue. What it is to do it is told by one JSON value.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::error::Error;
use std::io::{Write, stdin, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use diesel::connection::{Instrumentation, InstrumentationEvent, SimpleConnection};
use diesel::prelude::*;
use diesel::r2d2;
use diesel::result::ConnectionResult;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, deadpool};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection, AsyncMysqlConnection, AsyncPgConnection, SimpleAsyncConnection};
use emitter_diesel::capture::Capture;
use emitter_diesel::inbox::{Inbox, InboxTx};
use emitter_diesel::outbox::{Outbox, RelayConfig};
use emitter_diesel::replica::Replica;
use emitter_diesel::tables::Tables;
use emitter_diesel::{Bind, Emit, Emits, Emitter, Event, listener, update};
use emitter_tests::worker::{Cue, Deed, STARTED, Task};
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};

/// How long a broker may take; less than whoever started it waits.
const PATIENCE: Duration = Duration::from_secs(50);

const SECOND: Duration = Duration::from_secs(1);

/// Calls of a listener at a time: PostgreSQL has not many connections.
const CALLS: u32 = 8;

diesel::table! {
    orders {
        id -> BigInt,
        step -> BigInt,
    }
}

#[derive(
    Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Insertable, Serialize, Deserialize, Emits,
)]
#[emits(create, update)]
struct Order {
    id: i64,
    step: i64,
}

diesel::table! {
    /// One for each step, and nothing that keeps two from being written.
    bills (order_id, step) {
        order_id -> BigInt,
        step -> BigInt,
    }
}

diesel::table! {
    totals (order_id) {
        order_id -> BigInt,
        bills -> BigInt,
    }
}

/// Listeners of one database, blocking and asynchronous: two writes, and time to be killed in between.
macro_rules! bills {
    ($bill:ident: $conn:ty, $bill_async:ident: $async_conn:ty) => {
        #[listener(model = "order", remote_only)]
        fn $bill(event: Event<OrderUpdated>, mut tx: InboxTx<'_, $conn>) -> QueryResult<()> {
            let Order { id, step } = event.after;
            let bill = (bills::order_id.eq(id), bills::step.eq(step));
            diesel::insert_into(bills::table).values(bill).execute(&mut *tx)?;
            thread::sleep(Duration::from_millis(fastrand::u64(..10)));
            let total = diesel::update(totals::table.find(id)).set(totals::bills.eq(totals::bills + 1));
            total.execute(&mut *tx).map(|_| ())
        }

        #[listener(model = "order", remote_only)]
        async fn $bill_async(
            event: Event<OrderUpdated>,
            mut tx: InboxTx<'_, $async_conn>,
        ) -> QueryResult<()> {
            let Order { id, step } = event.after;
            let bill = (bills::order_id.eq(id), bills::step.eq(step));
            let bill = diesel::insert_into(bills::table).values(bill);
            diesel_async::RunQueryDsl::execute(bill, &mut *tx).await?;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..10))).await;
            let total = diesel::update(totals::table.find(id)).set(totals::bills.eq(totals::bills + 1));
            diesel_async::RunQueryDsl::execute(total, &mut *tx).await.map(|_| ())
        }
    };
}

bills!(bill: PgConnection, bill_async: AsyncPgConnection);
bills!(bill_mysql: MysqlConnection, bill_mysql_async: AsyncMysqlConnection);
bills!(bill_sqlite: SqliteConnection, bill_sqlite_async: SyncConnectionWrapper<SqliteConnection>);

/// Watches the statements of a node's connections for its cue.
#[derive(Debug, Clone, Default)]
struct Prompter {
    cue: Option<Cue>,
    gone_by: Arc<AtomicU32>,
    stopped: Arc<AtomicBool>,
}

impl Prompter {
    fn of(task: &Task) -> Self {
        Self { cue: task.cue, ..Self::default() }
    }

    fn instrumentation(&self) -> impl Instrumentation + use<> {
        let prompter = self.clone();
        // What was inserted and is not committed: PostgreSQL is told it in one message with its COMMIT.
        let mut inserted = None;
        move |event: InstrumentationEvent<'_>| {
            let (mut sql, is_over) = match event {
                InstrumentationEvent::StartQuery { query, .. } => (query.to_string(), false),
                InstrumentationEvent::FinishQuery { query, error: None, .. } => (query.to_string(), true),
                _ => return,
            };
            if let Some(inserted) = inserted.as_ref().filter(|_| sql == "COMMIT") {
                sql = format!("{inserted}; {sql}");
            } else if is_over && sql.starts_with("INSERT INTO emitter_outbox") {
                inserted = Some(sql.clone());
            }
            prompter.see(&sql, is_over);
            if is_over && (sql.ends_with("COMMIT") || sql == "ROLLBACK") {
                inserted = None;
            }
        }
    }

    fn see(&self, sql: &str, is_over: bool) {
        let Some(Cue { moment, skip, deed }) = self.cue else { return };
        if is_over && moment.is_at(sql, false) && self.stopped.swap(false, Ordering::SeqCst) {
            say("over");
        }
        if !moment.is_at(sql, is_over) || self.gone_by.fetch_add(1, Ordering::SeqCst) != skip {
            return;
        }
        match deed {
            Deed::Die => signal(Signal::KILL),
            Deed::Stop => {
                self.stopped.store(true, Ordering::SeqCst);
                say("stopped");
                signal(Signal::STOP);
            }
        }
    }

    fn connect<C: Connection>(&self, url: &str) -> ConnectionResult<C> {
        let mut conn = C::establish(url)?;
        conn.set_instrumentation(self.instrumentation());
        Ok(conn)
    }

    /// A connection that waits for the disk at each COMMIT.
    fn sqlite(&self, path: &str) -> ConnectionResult<SqliteConnection> {
        let mut conn = self.connect::<SqliteConnection>(path)?;
        conn.batch_execute(
            "PRAGMA busy_timeout = 20000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL",
        )
        .map_err(ConnectionError::CouldntSetupConfiguration)?;
        Ok(conn)
    }
}

/// What is said on a connection of this database, so that it waits where another one writes.
fn patience(url: &str) -> Option<&'static str> {
    (!url.contains("://")).then_some("PRAGMA busy_timeout = 20000")
}

/// Makes a pool's connections those of a worker.
#[derive(Debug)]
struct Customizer {
    patience: Option<&'static str>,
    prompter: Prompter,
}

impl<C: Connection> r2d2::CustomizeConnection<C, r2d2::Error> for Customizer {
    fn on_acquire(&self, conn: &mut C) -> Result<(), r2d2::Error> {
        self.patience
            .map_or(Ok(()), |patience| conn.batch_execute(patience))
            .map_err(r2d2::Error::QueryError)?;
        conn.set_instrumentation(self.prompter.instrumentation());
        Ok(())
    }
}

fn signal(signal: Signal) {
    // Its own, so it may.
    let _ = kill_process(getpid(), signal);
    // Any thread may be the one that is told; this one goes no further until all are stopped.
    thread::sleep(Duration::from_millis(200));
}

/// A line for whoever started it.
fn say(line: &str) {
    // Nobody listens any more where that fails.
    let _ = writeln!(stdout(), "{line}");
}

/// Answers whoever asks for its health.
fn answer(emitter: Emitter) {
    thread::spawn(move || {
        for _ in stdin().lines().map_while(Result::ok) {
            say(&emitter.health().reasons.join("; "));
        }
    });
}

/// Has effects until it is killed, in a database of this kind.
macro_rules! listen {
    ($name:ident: $conn:ty, $async_conn:ty) => {
        async fn $name(task: Task, listener: String) -> Result<(), Box<dyn Error>> {
            let tables = |url: String| Tables::new(move || <$conn>::establish(&url));
            let [url, blocking, asynchronous] = [(); 3].map(|()| task.database.clone());
            let prompter = Prompter::of(&task);
            let watching = prompter.clone();
            // Those of one kind are never used.
            let pool = r2d2::Pool::builder().max_size(CALLS).min_idle(Some(0)).connection_timeout(2 * SECOND);
            let pool =
                pool.connection_customizer(Box::new(Customizer { patience: patience(&blocking), prompter }));
            let pool = pool.build(r2d2::ConnectionManager::<$conn>::new(blocking))?;
            let mut setup = ManagerConfig::default();
            setup.custom_setup = Box::new(move |url| {
                let (url, watching) = (url.to_owned(), watching.clone());
                Box::pin(async move {
                    let mut conn = <$async_conn>::establish(&url).await?;
                    if let Some(patience) = patience(&url) {
                        let set = SimpleAsyncConnection::batch_execute(&mut conn, patience).await;
                        set.map_err(ConnectionError::CouldntSetupConfiguration)?;
                    }
                    conn.set_instrumentation(watching.instrumentation());
                    Ok(conn)
                })
            });
            let manager = AsyncDieselConnectionManager::<$async_conn>::new_with_config(asynchronous, setup);
            let not_blocking = deadpool::Pool::builder(manager).max_size(CALLS as usize).build()?;
            let plain = Inbox::new(tables(url.clone()), move || pool.get());
            let not_blocking = Inbox::from_async(tables(url), async move || not_blocking.get().await);
            let builder = Emitter::builder().service("billing").node(task.node).mqtt(task.broker.as_str());
            let builder = builder
                .listener_concurrency(CALLS as usize)
                .select_listeners(move |info| info.name == listener);
            let emitter = builder.with(plain).with(not_blocking).start().await?;
            // In later lives answers come behind all that waited for it, and it works meanwhile.
            emitter.connected(PATIENCE).await?;
            say(STARTED);
            std::future::pending().await
        }
    };
}

listen!(listen: PgConnection, AsyncPgConnection);
listen!(listen_mysql: MysqlConnection, AsyncMysqlConnection);
listen!(listen_sqlite: SqliteConnection, SyncConnectionWrapper<SqliteConnection>);

/// Copies the orders of others until it is killed.
async fn copy(task: Task) -> Result<(), Box<dyn Error>> {
    let [url, own] = [(); 2].map(|()| task.database.clone());
    let tables = Tables::new(move || PgConnection::establish(&url));
    let pool = r2d2::Pool::builder().max_size(CALLS).min_idle(Some(0)).connection_timeout(2 * SECOND);
    let pool = pool.build(r2d2::ConnectionManager::<PgConnection>::new(own))?;
    let orders = Replica::<Order, _>::new(tables, move || pool.get());
    let builder = Emitter::builder().service("billing").node(task.node).mqtt(task.broker.as_str());
    let builder = builder.listener_concurrency(CALLS as usize).select_listeners(|_| false);
    let emitter = builder.with(orders.owner("shop")).start().await?;
    emitter.connected(PATIENCE).await?;
    say(STARTED);
    std::future::pending().await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut task: Task = serde_json::from_str(&std::env::args().nth(1).ok_or("a task is missing")?)?;
    let kind = task.database.split_once("://").map_or("sqlite", |(kind, _)| kind);
    let kind = kind.to_owned();
    if let Some(listener) = task.listener.take() {
        return match kind.as_str() {
            "sqlite" => listen_sqlite(task, listener).await,
            "mysql" => listen_mysql(task, listener).await,
            _ => listen(task, listener).await,
        };
    }
    if task.replica {
        return copy(task).await;
    }
    let prompter = Prompter::of(&task);
    let (url, watching) = (task.database.clone(), prompter.clone());
    let outbox = Outbox::new(match kind.as_str() {
        "sqlite" => Tables::new(move || watching.sqlite(&url)),
        "mysql" => Tables::new(move || watching.connect::<MysqlConnection>(&url)),
        _ => Tables::new(move || watching.connect::<PgConnection>(&url)),
    });
    let outbox = match task.lease {
        Some(millis) => {
            let lease = Duration::from_millis(millis);
            outbox.relay(RelayConfig { lease, batch: task.batch, ..RelayConfig::default() })
        }
        None => outbox.without_relay(),
    };
    let outbox = if task.captures { outbox.capture(Capture::of::<Order>()?) } else { outbox };
    let builder = Emitter::builder().service("shop").node(task.node.clone()).mqtt(task.broker.as_str());
    let builder = builder.select_listeners(|_| false);
    // The database may be away, too.
    let emitter = builder.with(outbox).start().await?;
    say(STARTED);
    answer(emitter.clone());
    if task.keys == 0 {
        std::future::pending::<()>().await;
    }
    let writing = tokio::task::spawn_blocking(move || {
        loop {
            let ended = match kind.as_str() {
                "sqlite" => write_sqlite(&emitter, &task, &prompter),
                "mysql" => write_mysql(&emitter, &task, &prompter),
                _ => write_postgres(&emitter, &task, &prompter),
            };
            // Whatever ends the connection: the next one goes on.
            if let Err(error) = ended {
                eprintln!("{}: {error}", task.node);
                thread::sleep(Duration::from_millis(20));
            }
        }
    });
    Ok(writing.await?)
}

/// Writes until something fails, by such a connection and in transactions that begin so.
macro_rules! writes {
    ($name:ident: $conn:ty, $connect:ident, $transaction:ident) => {
        fn $name(emitter: &Emitter, task: &Task, prompter: &Prompter) -> Result<(), Box<dyn Error>> {
            let mut db: $conn = prompter.$connect(&task.database)?;
            let conn = &mut emitter.bind(&mut db)?;
            loop {
                let ended: QueryResult<()> = conn.$transaction(|conn| {
                    let (one, two) = (fastrand::i64(0..task.keys), fastrand::i64(0..task.keys));
                    // In this order, so that no two wait for each other.
                    for id in [one.min(two), one.max(two)] {
                        let step = update(orders::table.find(id)).set(orders::step.eq(orders::step + 1));
                        let step = step.emit::<Order>();
                        if task.queued {
                            step.queued().get_result(conn)
                        } else {
                            step.durable().get_result(conn)
                        }?;
                    }
                    // A third of the times in vain.
                    if fastrand::u8(..3) == 0 {
                        Err(diesel::result::Error::RollbackTransaction)
                    } else {
                        Ok(())
                    }
                });
                if let Some(pause) = task.pause {
                    thread::sleep(Duration::from_micros(pause));
                }
                match ended {
                    Ok(()) | Err(diesel::result::Error::RollbackTransaction) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    };
}

writes!(write_postgres: PgConnection, connect, transaction);
writes!(write_mysql: MysqlConnection, connect, transaction);
writes!(write_sqlite: SqliteConnection, sqlite, immediate_transaction);
