//! A node that the tests of outbox and inbox kill: it writes durable events into PostgreSQL, relays them, or has effects
//! of them, until somebody ends it. What it is to do it is told by one JSON value.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::error::Error;
use std::thread;
use std::time::Duration;

use diesel::prelude::*;
use diesel_async::AsyncPgConnection;
use emitter_diesel::capture::Capture;
use emitter_diesel::inbox::{Inbox, InboxTx};
use emitter_diesel::outbox::{Outbox, RelayConfig};
use emitter_diesel::replica::Replica;
use emitter_diesel::tables::Tables;
use emitter_diesel::{Bind, Bound, Emit, Emits, Emitter, Event, listener, update};
use emitter_tests::worker::Task;
use serde::{Deserialize, Serialize};

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

/// Two writes, and time to be killed in between.
#[listener(model = "order", remote_only)]
fn bill(event: Event<OrderUpdated>, mut tx: InboxTx<'_, PgConnection>) -> QueryResult<()> {
    let Order { id, step } = event.after;
    let bill = (bills::order_id.eq(id), bills::step.eq(step));
    diesel::insert_into(bills::table).values(bill).execute(&mut *tx)?;
    thread::sleep(Duration::from_millis(fastrand::u64(..10)));
    let total = diesel::update(totals::table.find(id)).set(totals::bills.eq(totals::bills + 1));
    total.execute(&mut *tx).map(|_| ())
}

#[listener(model = "order", remote_only)]
async fn bill_async(event: Event<OrderUpdated>, mut tx: InboxTx<'_, AsyncPgConnection>) -> QueryResult<()> {
    let Order { id, step } = event.after;
    let bill = (bills::order_id.eq(id), bills::step.eq(step));
    let bill = diesel::insert_into(bills::table).values(bill);
    diesel_async::RunQueryDsl::execute(bill, &mut *tx).await?;
    tokio::time::sleep(Duration::from_millis(fastrand::u64(..10))).await;
    let total = diesel::update(totals::table.find(id)).set(totals::bills.eq(totals::bills + 1));
    diesel_async::RunQueryDsl::execute(total, &mut *tx).await.map(|_| ())
}

/// Has effects until it is killed.
async fn listen(task: Task, listener: String) -> Result<(), Box<dyn Error>> {
    let tables = |url: String| Tables::new(move || PgConnection::establish(&url));
    let [url, blocking, asynchronous] = [(); 3].map(|()| task.database.clone());
    let plain = Inbox::new(tables(url.clone()), move || PgConnection::establish(&blocking).map(Box::new));
    let not_blocking = Inbox::from_async(tables(url), async move || {
        use diesel_async::AsyncConnection;
        AsyncPgConnection::establish(&asynchronous).await.map(Box::new)
    });
    let builder = Emitter::builder().service("billing").node(task.node).mqtt(task.broker.as_str());
    // PostgreSQL has not many connections.
    let builder = builder.listener_concurrency(8).select_listeners(move |info| info.name == listener);
    let emitter = builder.with(plain).with(not_blocking).start().await?;
    emitter.connected(Duration::from_secs(10)).await?;
    println!("started");
    std::future::pending().await
}

/// Copies the orders of others until it is killed.
async fn copy(task: Task) -> Result<(), Box<dyn Error>> {
    let [url, own] = [(); 2].map(|()| task.database.clone());
    let tables = Tables::new(move || PgConnection::establish(&url));
    let orders = Replica::<Order, _>::new(tables, move || PgConnection::establish(&own).map(Box::new));
    let builder = Emitter::builder().service("billing").node(task.node).mqtt(task.broker.as_str());
    // PostgreSQL has not many connections.
    let builder = builder.listener_concurrency(8).select_listeners(|_| false);
    let emitter = builder.with(orders.owner("shop")).start().await?;
    emitter.connected(Duration::from_secs(10)).await?;
    println!("started");
    std::future::pending().await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut task: Task = serde_json::from_str(&std::env::args().nth(1).ok_or("a task is missing")?)?;
    if let Some(listener) = task.listener.take() {
        return listen(task, listener).await;
    }
    if task.replica {
        return copy(task).await;
    }
    let url = task.database.clone();
    let outbox = Outbox::new(Tables::new(move || PgConnection::establish(&url)));
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
    println!("started");
    if task.keys == 0 {
        std::future::pending::<()>().await;
    }
    let writing = tokio::task::spawn_blocking(move || {
        loop {
            // Whatever ends the connection: the next one goes on.
            if let Err(error) = write(&emitter, &task) {
                eprintln!("{}: {error}", task.node);
                thread::sleep(Duration::from_millis(20));
            }
        }
    });
    Ok(writing.await?)
}

/// Steps through orders, a third of the transactions in vain.
fn write(emitter: &Emitter, task: &Task) -> Result<(), Box<dyn Error>> {
    let mut db = PgConnection::establish(&task.database)?;
    let conn = &mut emitter.bind(&mut db)?;
    loop {
        let (one, two) = (fastrand::i64(0..task.keys), fastrand::i64(0..task.keys));
        let undone = conn.transaction(|conn| {
            // In this order, so that no two wait for each other.
            for id in [one.min(two), one.max(two)] {
                step(conn, id, task.queued)?;
            }
            if fastrand::u8(..3) == 0 { Err(diesel::result::Error::RollbackTransaction) } else { Ok(()) }
        });
        match undone {
            Ok(()) | Err(diesel::result::Error::RollbackTransaction) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(pause) = task.pause {
            thread::sleep(Duration::from_micros(pause));
        }
    }
}

fn step(conn: &mut Bound<'_, PgConnection>, id: i64, queued: bool) -> QueryResult<Order> {
    let update = update(orders::table.find(id)).set(orders::step.eq(orders::step + 1)).emit();
    if queued { update.queued().get_result(conn) } else { update.durable().get_result(conn) }
}
