//! The service that takes orders.

use std::error::Error;
use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel::result::Error::RollbackTransaction;
use emitter_diesel::inbox::InboxTx;
use emitter_diesel::{Bind, Bound, Emit, Emits, Event, listener, update};
use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;

use crate::billing::InvoiceCreated;
use crate::service::{Service, Setup};

diesel::table! {
    orders {
        id -> BigInt,
        status -> Text,
        cents -> BigInt,
        version -> BigInt,
        invoices -> BigInt,
        invoiced_cents -> BigInt,
    }
}

/// Its events are written down in the transaction of the row (`durable`), and carry the row as it was (`before`), of
/// which billing makes a difference.
#[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(create, update, durable, before)]
pub(crate) struct Order {
    pub(crate) id: i64,
    pub(crate) status: String,
    /// What the customer owes: nothing, when it is cancelled.
    pub(crate) cents: i64,
    /// How often it was written.
    pub(crate) version: i64,
    /// What billing has told: how many invoices, and over how much. Billing knows it.
    #[emits(skip)]
    pub(crate) invoices: i64,
    #[emits(skip)]
    pub(crate) invoiced_cents: i64,
}

const SETUP: Setup = Setup {
    name: "orders",
    listener: "note_invoice",
    tables: "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, status TEXT NOT NULL, cents BIGINT NOT NULL,
                 version BIGINT NOT NULL, invoices BIGINT NOT NULL DEFAULT 0, invoiced_cents BIGINT NOT NULL DEFAULT 0)",
};

/// Adds: it has to happen once for each invoice, however often its event comes.
#[listener(model = "invoice", remote_only)]
fn note_invoice(event: Event<InvoiceCreated>, mut tx: InboxTx<'_, SqliteConnection>) -> QueryResult<()> {
    let order = diesel::update(orders::table.find(event.row.order_id));
    let told = (
        orders::invoices.eq(orders::invoices + 1),
        orders::invoiced_cents.eq(orders::invoiced_cents + event.row.cents),
    );
    order.set(told).execute(&mut *tx)?;
    Ok(())
}

pub(crate) async fn run(database: &str, broker: &str) -> Result<(), Box<dyn Error>> {
    let mut service = Service::start(&SETUP, database, broker).await?;
    block_in_place(|| {
        trade(&mut service)?;
        wait_for_invoices(&mut service)
    })?;
    service.end().await
}

/// Customers come until it is over.
fn trade(service: &mut Service) -> Result<(), Box<dyn Error>> {
    let emitter = service.emitter.clone();
    while !service.is_over() {
        service.tell();
        let conn = &mut emitter.bind(&mut service.database)?;
        match conn.immediate_transaction(serve) {
            Err(RollbackTransaction) => service.rolled_back += 1,
            served => served?,
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// A customer orders something, or changes or cancels one of the latest orders; or thinks better of it.
fn serve(conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<()> {
    let open = orders::table.filter(orders::status.eq("OPEN")).order(orders::id.desc());
    let one = open.offset(fastrand::i64(..20)).select(orders::id).first(conn).optional()?;
    let cents = fastrand::i64(1..=100_000);
    match (one, fastrand::u8(..4)) {
        (Some(id), 0) => change(conn, id, "CANCELLED", 0)?,
        (Some(id), 1 | 2) => change(conn, id, "OPEN", cents)?,
        _ => {
            let order = (orders::status.eq("OPEN"), orders::cents.eq(cents), orders::version.eq(1));
            diesel::insert_into(orders::table).values(order).emit::<Order>().execute(conn)?;
        }
    }
    // No event of this was ever there.
    if fastrand::u8(..5) == 0 { Err(RollbackTransaction) } else { Ok(()) }
}

fn change(conn: &mut Bound<'_, SqliteConnection>, id: i64, status: &str, cents: i64) -> QueryResult<()> {
    let version = orders::version.eq(orders::version + 1);
    let change =
        update(orders::table.find(id)).set((orders::status.eq(status), orders::cents.eq(cents), version));
    change.emit::<Order>().get_result(conn)?;
    Ok(())
}

fn wait_for_invoices(service: &mut Service) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let owed = orders::table.filter(orders::invoices.lt(orders::version)).count();
    while owed.get_result::<i64>(&mut service.database)? > 0 {
        if begun.elapsed() > Duration::from_secs(60) {
            return Err("some orders were not invoiced within a minute".into());
        }
        service.tell();
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
