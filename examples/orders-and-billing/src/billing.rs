//! The service that writes invoices.

use std::error::Error;
use std::time::Duration;

use diesel::prelude::*;
use emitter_diesel::inbox::InboxTx;
use emitter_diesel::{Emit, Emits, Event, listener};
use serde::{Deserialize, Serialize};

use crate::orders::OrderEvent;
use crate::service::{Service, Setup};

diesel::table! {
    invoices {
        id -> BigInt,
        order_id -> BigInt,
        order_version -> BigInt,
        kind -> Text,
        cents -> BigInt,
    }
}

/// A document that went to the customer. It is never changed: a later one corrects it, and one that was written twice
/// would be sent twice.
#[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(create, durable)]
pub(crate) struct Invoice {
    pub(crate) id: i64,
    pub(crate) order_id: i64,
    pub(crate) order_version: i64,
    pub(crate) kind: String,
    pub(crate) cents: i64,
}

const SETUP: Setup = Setup {
    name: "billing",
    listener: "bill",
    tables: "CREATE TABLE IF NOT EXISTS invoices (id INTEGER PRIMARY KEY, order_id BIGINT NOT NULL,
                 order_version BIGINT NOT NULL, kind TEXT NOT NULL, cents BIGINT NOT NULL)",
};

/// The mark that the event was heard, the invoice, and the invoice's own event: one transaction.
#[listener(model = "order", remote_only)]
fn bill(event: Event<OrderEvent>, mut tx: InboxTx<'_, SqliteConnection>) -> QueryResult<()> {
    let (kind, order, billed) = match &*event {
        OrderEvent::Created(created) => ("invoice", &created.row, 0),
        OrderEvent::Updated(updated) => {
            // It is there, for the model says `before`.
            let before = updated.before.as_ref().ok_or(diesel::NotFound)?;
            let kind = if updated.after.status == "CANCELLED" { "credit" } else { "correction" };
            (kind, &updated.after, before.cents)
        }
    };
    let invoice = (
        invoices::order_id.eq(order.id),
        invoices::order_version.eq(order.version),
        invoices::kind.eq(kind),
        invoices::cents.eq(order.cents - billed),
    );
    diesel::insert_into(invoices::table).values(invoice).emit::<Invoice>().execute(&mut *tx)?;
    Ok(())
}

/// All it does is listen.
pub(crate) async fn run(database: &str, broker: &str) -> Result<(), Box<dyn Error>> {
    let service = Service::start(&SETUP, database, broker).await?;
    while !service.is_over() {
        service.tell();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    service.end().await
}
