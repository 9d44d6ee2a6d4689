//! A node that the tests of dead letters and of requests kill: it redrives those of its service until none is left, or does
//! what it is asked. What it is to do it is told by one JSON value.

use std::error::Error;
use std::sync::Mutex;
use std::time::Duration;

use diesel::prelude::*;
use emitter_diesel::dead_letters::{DeadLetterBook, Redrive, Selection};
use emitter_diesel::requests::Attendant;
use emitter_diesel::tables::Tables;
use emitter_diesel::{Emits, Emitter, Event};
use emitter_tests::worker::Task;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Order {
    id: i64,
    step: i64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let task: Task = serde_json::from_str(&std::env::args().nth(1).ok_or("a task is missing")?)?;
    let url = task.database.clone();
    let tables = Tables::new(move || PgConnection::establish(&url));
    let lease = Duration::from_millis(task.lease.unwrap_or(1_000));
    let builder = Emitter::builder().service("shop").node(task.node);
    let builder = match task.attends {
        true => builder.with(Attendant::new(tables.clone()).lease(lease)),
        false => builder,
    };
    let emitter = builder.start().await?;
    let till = Mutex::new(PgConnection::establish(&task.database)?);
    let _ = emitter.on::<OrderCreated>().allow_remote().name("notify").run_blocking(
        move |event: Event<OrderCreated>| {
            let mut till = till.lock().map_err(|_| "poisoned".to_owned())?;
            let note = diesel::sql_query(format!("INSERT INTO handled VALUES ({})", event.row.id));
            note.execute(&mut *till).map(drop).map_err(|error| error.to_string())
        },
    );
    let book = DeadLetterBook::open(&tables)?;
    println!("started");
    if task.attends {
        std::future::pending::<()>().await;
    }
    let all = Selection::default();
    loop {
        let redrive = Redrive { per_second: 300, at_once: task.batch, lease };
        book.redrive(&emitter, &all, redrive).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
