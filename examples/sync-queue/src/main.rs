//! Changes wait in a queue of the same database until the head office has them, which is closed at first.
//!
//! Run it with `cargo run -p sync-queue`; nothing has to be installed. This file is the stage; what an application writes is in
//! `operators.rs`.

mod office;
mod operators;
mod queue;

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::Error::RollbackTransaction;
use emitter_diesel::dead_letters::{DeadLetterBook, Page, Redrive, Selection};
use emitter_diesel::outbox::{Control, Ledger, LedgerSelection};
use emitter_diesel::{Bind, Bound, Emit, Emitter, Receipt, delete, update};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::office::HeadOffice;
use crate::operators::{Operator, Visit, connect, operators as table, start, tables, visits};

/// How long is waited for what should take a moment.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let database = folder.path().join("agency.db").to_string_lossy().into_owned();
    let mut db = connect(&database)?;
    db.batch_execute(
        "CREATE TABLE operators (id BIGINT PRIMARY KEY, name TEXT NOT NULL, phone TEXT NOT NULL, status TEXT NOT NULL);
         CREATE TABLE visits (id BIGINT PRIMARY KEY, operator_id BIGINT NOT NULL)",
    )?;
    let office = HeadOffice::default();
    let server = start(&database, office.clone()).await?;

    write(&server, &mut db).await?;
    let ledger = Ledger::open(&tables(&database))?;
    let twice = || {
        let entries = ledger.list(&LedgerSelection::default(), None, 10)?;
        Ok(entries.iter().filter(|entry| entry.attempts == 2).count() == 3)
    };
    until(twice).await?;
    println!(
        "The head office is closed. What was committed waits, and of what was rolled back there is nothing:"
    );
    queue::print(&mut db)?;

    // Without a word, as by SIGKILL.
    drop(server);
    office.open();
    let server = start(&database, office.clone()).await?;
    let mut control = Control::open(&tables(&database))?;
    let mut is_empty = || Ok(control.state()?.processing == 0);
    until(&mut is_empty).await?;
    println!("The server was killed and started again, and the office is open. One change it does not take:");
    queue::print(&mut db)?;

    let letters = DeadLetterBook::open(&tables(&database))?;
    for letter in letters.list(&Selection::default(), Page::default())? {
        let (listener, attempts) = (letter.listener.unwrap_or_default(), letter.attempts);
        println!("A dead letter, after {attempts} calls of {listener}: {}", letter.failure_reason);
    }
    office.books().takes_any_phone = true;
    let redriven = letters.redrive(&server, &Selection::default(), Redrive::default()).await?;
    let left = letters.count(&Selection::default())?;
    println!("The office takes it now: {} redriven, {left} dead letters left.\n", redriven.handled);

    let _: Operator = delete(table::table.find(1)).emit().get_result(&mut server.bind(&mut db)?)?;
    until(&mut is_empty).await?;
    let report = server.shutdown(PATIENCE).await;
    if left > 0 || !report.is_clean() {
        return Err(format!("{left} dead letters are left, and undone: {report:?}").into());
    }
    println!("What the office did, each change once and those of a record in their order:");
    for (record, done) in &office.books().done {
        println!("    {record}: {}", done.join(", "));
    }
    let ours = records(&mut db)?;
    if office.books().records != ours {
        return Err(format!("the office has {:?}\nand the agency {ours:?}", office.books().records).into());
    }
    println!("It has the records that the agency has: {}", ours.into_keys().collect::<Vec<_>>().join(", "));
    Ok(())
}

/// What the agency does while the office is closed.
async fn write(server: &Emitter, db: &mut SqliteConnection) -> Result<(), Box<dyn Error>> {
    let conn = &mut server.bind(db)?;
    insert(conn, 1, "Ada Tours", "+44 20 7946 0018")?;
    conn.immediate_transaction(|conn| {
        update(table::table.find(1)).set(table::status.eq("APPROVED")).emit::<Operator>().get_result(conn)?;
        insert(conn, 2, "Bob's Boats", "ask for Bob")
    })?;
    let rolled_back = conn.immediate_transaction(|conn| {
        insert(conn, 3, "Carl's Cars", "+44 20 7946 0131")?;
        Err::<(), _>(RollbackTransaction)
    });
    assert_eq!(rolled_back, Err(RollbackTransaction));
    let receipt = Receipt::new();
    let visit = Visit { id: 1, operator_id: 1 };
    let insert = diesel::insert_into(visits::table).values(&visit);
    let _: Visit = insert.emit().receipt(&receipt).get_result(conn)?;
    // Not needed; this tells when it is in the queue.
    Ok(receipt.recorded().await?)
}

fn insert(conn: &mut Bound<'_, SqliteConnection>, id: i64, name: &str, phone: &str) -> QueryResult<Operator> {
    let status = "NEW".to_owned();
    let operator = Operator { id, name: name.to_owned(), phone: phone.to_owned(), status };
    diesel::insert_into(table::table).values(&operator).emit().get_result(conn)
}

/// The agency's records, as the office has them.
fn records(db: &mut SqliteConnection) -> QueryResult<BTreeMap<String, Value>> {
    let operators = table::table.load::<Operator>(db)?;
    let visits = visits::table.load::<Visit>(db)?;
    let operators = operators.iter().map(|row| (format!("operator {}", row.id), json!(row)));
    Ok(operators.chain(visits.iter().map(|row| (format!("visit {}", row.id), json!(row)))).collect())
}

/// Waits until it is so.
async fn until(mut is_so: impl FnMut() -> Result<bool, Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    while !is_so()? {
        if begun.elapsed() > PATIENCE {
            return Err("it takes too long".into());
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
