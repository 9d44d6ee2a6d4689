//! A node that the tests of the outbox kill: it writes durable events into PostgreSQL, or relays them, until
//! somebody ends it. What it is to do it is told by one JSON value.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::error::Error;
use std::thread;
use std::time::Duration;

use diesel::prelude::*;
use emitter_diesel::outbox::{Outbox, RelayConfig, WithOutbox};
use emitter_diesel::tables::Tables;
use emitter_diesel::{Bind, Bound, Emit, Emits, Emitter, update};
use emitter_tests::worker::Task;
use serde::{Deserialize, Serialize};

diesel::table! {
    orders {
        id -> BigInt,
        step -> BigInt,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct Order {
    id: i64,
    step: i64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let task: Task = serde_json::from_str(&std::env::args().nth(1).ok_or("a task is missing")?)?;
    let url = task.database.clone();
    let outbox = Outbox::new(Tables::new(move || PgConnection::establish(&url)));
    let outbox = match task.lease {
        Some(millis) => {
            let lease = Duration::from_millis(millis);
            outbox.relay(RelayConfig { lease, batch: task.batch, ..RelayConfig::default() })
        }
        None => outbox.without_relay(),
    };
    let builder = Emitter::builder().service("shop").node(task.node.clone()).mqtt(task.broker.as_str());
    // The database may be away, too.
    let emitter = builder.outbox(outbox).start().await?;
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
