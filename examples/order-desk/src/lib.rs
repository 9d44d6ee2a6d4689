//! An application: orders and products in a database, and what follows from their changes.
//!
//! `main.rs` runs two instances of it over a broker; `tests/desk.rs` tests it without one.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]
// What the macros write is fine even with these.
#![deny(clippy::pedantic, unsafe_code, unused)]
#![allow(clippy::missing_errors_doc, reason = "all of them are Diesel's")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::{Bound, Context, Emit, Emits, Event, Key, State, listener};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;

diesel::table! {
    orders {
        id -> Integer,
        customer -> Text,
        card_number -> Text,
        status -> Text,
        cents -> Integer,
    }
}

diesel::table! {
    products {
        id -> Integer,
        name -> Text,
        cents -> Integer,
    }
}

/// An order. The card's number is in no event: a keyed hash tells orders by one card, no more.
#[derive(Debug, Clone, Queryable, Identifiable, Emits)]
#[emits(create, update)]
pub struct Order {
    pub id: i32,
    pub customer: String,
    #[emits(hash)]
    pub card_number: String,
    pub status: String,
    pub cents: i32,
}

/// What can be ordered.
#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(create, update, update_many)]
pub struct Product {
    pub id: i32,
    pub name: String,
    pub cents: i32,
}

/// The prices that an instance has looked up.
#[derive(Debug, Clone, Default)]
pub struct Prices(Arc<Mutex<HashMap<i64, i32>>>);

impl Prices {
    /// All that are known, by product.
    pub fn known(&self) -> MutexGuard<'_, HashMap<i64, i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where messages to people go.
#[derive(Debug, Clone)]
pub struct Post(pub UnboundedSender<String>);

impl Post {
    fn send(&self, text: String) -> Result<(), &'static str> {
        self.0.send(text).map_err(|_| "the post office is closed")
    }
}

/// On every instance, whichever changed a price: what it knew of it is wrong now.
#[listener(model = "product", allow_remote, data(cents))]
async fn forget_prices(event: Event<ProductEvent>, prices: State<Prices>) {
    for key in event.keys() {
        if let Key::Int(product) = key {
            prices.known().remove(product);
        }
    }
}

/// On one instance, whichever completed the order: the customer gets one message.
#[listener(model = "order", group = "post", data(status = "COMPLETED"), retry(attempts = 5, backoff = "1s"))]
async fn confirm(
    event: Event<OrderUpdated>,
    post: State<Post>,
    context: Context,
) -> Result<(), &'static str> {
    let OrderRow { id, customer, cents, .. } = &event.after;
    post.send(format!(
        "to {customer}: order {id} over {cents} cents is complete; attempt {}",
        context.attempt()
    ))
}

/// Here, where it was taken: a large order is looked at first.
#[listener(model = "order", where(cents = |cents| *cents >= 100_000), timeout = "5s")]
async fn look_at(event: Event<OrderCreated>, post: State<Post>) -> Result<(), &'static str> {
    post.send(format!("to the desk: order {} is large", event.key()))
}

/// Takes an order.
pub fn take(
    conn: &mut Bound<'_, SqliteConnection>,
    customer: &str,
    card_number: &str,
    cents: i32,
) -> QueryResult<Order> {
    let values = (
        orders::customer.eq(customer),
        orders::card_number.eq(card_number),
        orders::status.eq("NEW"),
        orders::cents.eq(cents),
    );
    diesel::insert_into(orders::table).values(values).emit().get_result(conn)
}

/// Completes an order, and all that belongs to it or nothing.
pub fn complete(conn: &mut Bound<'_, SqliteConnection>, order: &Order) -> QueryResult<Order> {
    conn.transaction(|conn| {
        let completed = emitter_diesel::update(order).set(orders::status.eq("COMPLETED"));
        let completed: Order = completed.emit().get_result(conn)?;
        // An order for nothing was a mistake of somebody: it stays as it was.
        if completed.cents == 0 { Err(diesel::result::Error::RollbackTransaction) } else { Ok(completed) }
    })
}

/// All products become dearer.
pub fn raise_prices(conn: &mut Bound<'_, SqliteConnection>, cents: i32) -> QueryResult<usize> {
    let raised = emitter_diesel::update(products::table).set(products::cents.eq(products::cents + cents));
    raised.emit::<Product>().execute(conn)
}

/// The tables.
pub fn create_tables(conn: &mut SqliteConnection) -> QueryResult<()> {
    conn.batch_execute(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, card_number TEXT NOT NULL,
             status TEXT NOT NULL, cents INTEGER NOT NULL);
         CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT NOT NULL, cents INTEGER NOT NULL);",
    )
}
