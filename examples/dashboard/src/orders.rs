//! The orders, what becomes of them, and who hears of it.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::{Bind, Emit, Emits, Emitter, Event, State, listener, update};
use serde::{Deserialize, Serialize};

diesel::table! {
    orders {
        id -> Integer,
        customer -> Text,
        email -> Text,
        card -> Text,
        item -> Text,
        cents -> Integer,
        status -> Text,
        margin -> Integer,
    }
}

#[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(model = "order", create, update, delete, durable, before)]
pub(crate) struct Order {
    id: i32,
    customer: String,
    /// Equal addresses are equal, and nobody reads them.
    #[emits(hash)]
    email: String,
    #[emits(redact)]
    card: String,
    item: String,
    cents: i32,
    status: String,
    /// In no event.
    #[emits(skip)]
    margin: i32,
}

/// It happens to no row.
#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event, topic = "auth/login_failed")]
pub(crate) struct LoginFailed {
    username: String,
    address: String,
}

/// It is away in the last quarter of each minute.
pub(crate) struct MailServer(Instant);

impl Default for MailServer {
    fn default() -> Self {
        Self(Instant::now())
    }
}

/// Why a mail was not sent.
#[derive(Debug)]
pub(crate) struct NotSent;

impl std::fmt::Display for NotSent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("mail.example.com:587: connection refused")
    }
}

impl MailServer {
    fn send(&self) -> Result<(), NotSent> {
        if self.0.elapsed().as_secs() % 60 >= 45 { Err(NotSent) } else { Ok(()) }
    }
}

#[listener(model = "order", data(status = ["PAID", "SENT"]), retry(attempts = 2, backoff = "200ms"))]
async fn send_mail(_event: Event<OrderUpdated>, mail: State<MailServer>) -> Result<(), NotSent> {
    tokio::time::sleep(Duration::from_millis(5)).await;
    mail.send()
}

/// Of the courier, which is another service.
#[listener(model = "order", remote_only, data(status = "SENT"))]
async fn dispatch(_event: Event<OrderUpdated>) {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// The third is no friend of ours.
const CUSTOMERS: [&str; 5] = ["Ada", "Bob", "<script>alert('Carl')</script>", "Dora", "Emil"];
const ITEMS: [(&str, i32); 4] = [("kettle", 3490), ("tea, 250 g", 890), ("two cups", 1250), ("teapot", 5900)];

pub(crate) fn create_table(conn: &mut SqliteConnection) -> QueryResult<()> {
    conn.batch_execute(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, email TEXT NOT NULL, card TEXT NOT NULL,
            item TEXT NOT NULL, cents INTEGER NOT NULL, status TEXT NOT NULL, margin INTEGER NOT NULL)",
    )
}

/// Every third moment an order comes; else the oldest goes on: it is paid, sent, and forgotten. Now and then somebody
/// tries a password.
pub(crate) fn change(emitter: &Emitter, conn: &mut SqliteConnection, moment: usize) -> QueryResult<()> {
    if moment % 25 == 24 {
        emitter.publish(LoginFailed { username: "root".to_owned(), address: "203.0.113.9".to_owned() });
    }
    let conn = &mut emitter.bind(conn).expect("nothing is under way on this connection");
    let oldest =
        orders::table.filter(orders::status.ne("SENT")).order(orders::id).first::<Order>(conn).optional()?;
    match oldest {
        Some(order) if !moment.is_multiple_of(3) => {
            let next = if order.status == "NEW" { "PAID" } else { "SENT" };
            update(&order).set(orders::status.eq(next)).emit::<Order>().get_result(conn)?;
        }
        _ => {
            let customer = CUSTOMERS[moment / 3 % CUSTOMERS.len()];
            let (item, cents) = ITEMS[moment / 3 % ITEMS.len()];
            let values = (
                orders::customer.eq(customer),
                orders::email.eq(format!("customer-{}@example.com", moment / 3 % CUSTOMERS.len())),
                orders::card.eq("4111 1111 1111 1111"),
                orders::item.eq(item),
                orders::cents.eq(cents),
                orders::status.eq("NEW"),
                orders::margin.eq(cents / 5),
            );
            let _: Order = diesel::insert_into(orders::table).values(values).emit().get_result(conn)?;
        }
    }
    Ok(())
}
