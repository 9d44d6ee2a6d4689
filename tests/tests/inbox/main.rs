//! Effects in the transaction of a mark: as many as events, however often these come.
//!
//! The suite is written once and compiled for each database, with plain and with asynchronous listeners.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::{Identifiable, Insertable, Queryable};
use emitter_core::retry::{Backoff, Retry};
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{Builder, Emitter};
use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[macro_use]
mod suite;
mod away;
#[path = "../outbox/databases.rs"]
mod databases;
mod kills;
mod starts;
#[path = "../outbox/workplaces.rs"]
mod workplaces;

diesel::table! {
    orders {
        id -> BigInt,
        cents -> BigInt,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Order {
    id: i64,
    cents: i64,
}

diesel::table! {
    bills {
        id -> BigInt,
        order_id -> BigInt,
        cents -> BigInt,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Bill {
    /// At random: nothing keeps two bills of one order from being written.
    id: i64,
    order_id: i64,
    cents: i64,
}

diesel::table! {
    parcels (order_id) {
        order_id -> BigInt,
    }
}

diesel::table! {
    customers { id -> BigInt, }
}

diesel::table! {
    /// Of which the database asks for the customer at the COMMIT.
    promises (customer) {
        customer -> BigInt,
    }
}

const TABLES: [&str; 4] = [
    "CREATE TABLE orders (id BIGINT PRIMARY KEY, cents BIGINT NOT NULL)",
    "CREATE TABLE bills (id BIGINT PRIMARY KEY, order_id BIGINT NOT NULL, cents BIGINT NOT NULL)",
    "CREATE TABLE parcels (order_id BIGINT NOT NULL)",
    "CREATE TABLE customers (id BIGINT PRIMARY KEY)",
];

const LATE_CHECK: &str =
    "CREATE TABLE promises (customer BIGINT REFERENCES customers (id) DEFERRABLE INITIALLY DEFERRED)";

const SECOND: Duration = Duration::from_secs(1);

/// What the listeners of a node are to do at their next calls. After that they do what they should.
#[derive(Debug, Clone, Default)]
struct Script(Arc<Acts>);

#[derive(Debug, Default)]
struct Acts {
    next: Mutex<VecDeque<Act>>,
    /// The listener that emits nothing ignores an error once.
    careless: AtomicBool,
    calls: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// Writes the bill.
    Bill,
    /// … and fails.
    Fail,
    /// … and panics.
    Panic,
    /// … and takes some milliseconds more.
    Take(u64),
    /// … and ignores the error of a statement.
    Ignore,
    /// … and something that the database refuses at the COMMIT.
    Promise,
    /// … and lets its transaction outlive the call.
    Keep,
    /// … within a transaction that does not end, as one whose future is dropped.
    Open,
}

impl Script {
    fn of(acts: impl IntoIterator<Item = Act>) -> Self {
        let script = Self::default();
        script.0.next.lock().unwrap().extend(acts);
        script
    }

    fn careless(self) -> Self {
        self.0.careless.store(true, Ordering::Relaxed);
        self
    }

    fn next(&self) -> Act {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        self.0.next.lock().unwrap().pop_front().unwrap_or(Act::Bill)
    }

    fn calls(&self) -> usize {
        self.0.calls.load(Ordering::Relaxed)
    }
}

/// As fast as a test wants it.
fn retry() -> Retry {
    let backoff = Backoff { base: Duration::from_millis(20), cap: SECOND, jitter: Duration::from_millis(20) };
    Retry { backoff, ..Retry::default() }
}

fn builder(broker: &MemoryBroker, service: &str, node: &str) -> Builder {
    Emitter::builder()
        .service(service)
        .node(node)
        .transport(broker.connect(&format!("{service}.{node}")))
        .listener_retry(retry())
}

/// Events that another service has published: of orders with these numbers.
async fn published(orders: impl IntoIterator<Item = i64>) -> Vec<Vec<u8>> {
    let broker = MemoryBroker::new();
    let desk = builder(&broker, "desk", "a").select_listeners(|_| false).start().await.unwrap();
    for id in orders {
        desk.publish(OrderCreated::new(Order { id, cents: 100 * id }));
    }
    assert!(desk.shutdown(10 * SECOND).await.is_clean());
    broker.published().into_iter().map(|message| message.payload.to_vec()).collect()
}

/// What yields connections of a pool, as an application would.
macro_rules! pooled {
    ($server:ident) => {{
        let manager = diesel_async::pooled_connection::AsyncDieselConnectionManager::new($server.url());
        let pool =
            diesel_async::pooled_connection::deadpool::Pool::builder(manager).max_size(4).build().unwrap();
        async move || pool.get().await
    }};
}

suite!(sqlite: databases::Sqlite, "bill_sqlite", "pack_sqlite", diesel::SqliteConnection, [diesel::RunQueryDsl], diesel::connection::TransactionManager, std::thread::sleep;
|server| {
    let connect = server.connector();
    emitter_diesel::inbox::Inbox::new(server.tables(), move || {
        let mut connection = connect()?;
        let set = diesel::connection::SimpleConnection::batch_execute(&mut connection, "PRAGMA foreign_keys = ON");
        set.map_err(diesel::ConnectionError::CouldntSetupConfiguration)?;
        Ok::<_, diesel::ConnectionError>(Box::new(connection))
    })
});
suite!(postgres: emitter_tests::servers::Postgres, "bill_postgres", "pack_postgres", diesel::PgConnection, [diesel::RunQueryDsl], diesel::connection::TransactionManager, std::thread::sleep;
    |server| emitter_diesel::inbox::Inbox::new(server.tables(), boxed(server.connector())));
suite!(mariadb: emitter_tests::servers::MariaDb, "bill_mariadb", "pack_mariadb", diesel::MysqlConnection, [diesel::RunQueryDsl], diesel::connection::TransactionManager, std::thread::sleep;
    |server| emitter_diesel::inbox::Inbox::new(server.tables(), boxed(server.connector())));

suite!(async_sqlite: databases::Sqlite, "bill_async_sqlite", "pack_async_sqlite",
diesel_async::sync_connection_wrapper::SyncConnectionWrapper<diesel::SqliteConnection>, [diesel_async::RunQueryDsl], diesel_async::TransactionManager, tokio::time::sleep, async await;
|server| {
    let path = server.path().to_str().unwrap().to_owned();
    emitter_diesel::inbox::Inbox::from_async(server.tables(), async move || {
        use diesel_async::{AsyncConnection, SimpleAsyncConnection};
        let mut connection = diesel_async::sync_connection_wrapper::SyncConnectionWrapper::establish(&path).await?;
        let set = connection.batch_execute("PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON").await;
        set.map_err(diesel::ConnectionError::CouldntSetupConfiguration)?;
        Ok::<_, diesel::ConnectionError>(Box::new(connection))
    })
});
suite!(async_postgres: emitter_tests::servers::Postgres, "bill_async_postgres", "pack_async_postgres",
    diesel_async::AsyncPgConnection, [diesel_async::RunQueryDsl], diesel_async::TransactionManager, tokio::time::sleep, async await;
    |server| emitter_diesel::inbox::Inbox::from_async(server.tables(), pooled!(server)));
suite!(async_mariadb: emitter_tests::servers::MariaDb, "bill_async_mariadb", "pack_async_mariadb",
    diesel_async::AsyncMysqlConnection, [diesel_async::RunQueryDsl], diesel_async::TransactionManager, tokio::time::sleep, async await;
    |server| emitter_diesel::inbox::Inbox::from_async(server.tables(), pooled!(server)));

/// What yields a connection by itself, as the inbox wants it.
fn boxed<C>(
    connect: impl Fn() -> diesel::ConnectionResult<C> + Send + Sync + 'static,
) -> impl Fn() -> diesel::ConnectionResult<Box<C>> + Send + Sync + 'static {
    move || connect().map(Box::new)
}
