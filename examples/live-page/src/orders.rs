//! The orders, and what becomes of them.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::{Bind, Emit, Emits, Emitter, update};
use serde::{Deserialize, Serialize};

diesel::table! {
    orders {
        id -> Integer,
        customer -> Text,
        status -> Text,
        card -> Text,
    }
}

#[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(model = "order", create, update)]
pub(crate) struct Order {
    pub(crate) id: i32,
    pub(crate) customer: String,
    pub(crate) status: String,
    /// No page sees it, for no event has it.
    #[emits(skip)]
    card: String,
}

/// The third is no friend of ours.
const CUSTOMERS: [&str; 4] = ["ada", "bob", "<script>alert('carl')</script>", "dora"];

pub(crate) fn create_table(conn: &mut SqliteConnection) -> QueryResult<()> {
    conn.batch_execute(
        "PRAGMA journal_mode = WAL;
        CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, status TEXT NOT NULL, card TEXT NOT NULL);
        INSERT INTO orders (customer, status, card) VALUES ('zoe', 'SENT', '4111 1111 1111 1111')",
    )
}

/// The last orders, the newest first.
pub(crate) fn last(conn: &mut SqliteConnection) -> QueryResult<Vec<Order>> {
    orders::table.order(orders::id.desc()).limit(20).load(conn)
}

/// Every third moment a new order comes; else the oldest that is not yet sent is packed, or sent.
pub(crate) fn change(emitter: &Emitter, conn: &mut SqliteConnection, moment: usize) -> QueryResult<()> {
    let conn = &mut emitter.bind(conn).expect("nothing is under way on this connection");
    let open = orders::table.filter(orders::status.ne("SENT")).order(orders::id).first::<Order>(conn);
    match open.optional()? {
        Some(order) if !moment.is_multiple_of(3) => {
            let next = if order.status == "NEW" { "PACKED" } else { "SENT" };
            update(&order).set(orders::status.eq(next)).emit::<Order>().get_result(conn)?;
        }
        _ => {
            let customer = CUSTOMERS[moment / 3 % CUSTOMERS.len()];
            let values = (
                orders::customer.eq(customer),
                orders::status.eq("NEW"),
                orders::card.eq("4111 1111 1111 1111"),
            );
            let _: Order = diesel::insert_into(orders::table).values(values).emit().get_result(conn)?;
        }
    }
    Ok(())
}
