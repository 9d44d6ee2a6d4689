//! The services that write. They know nothing of who counts.

use std::error::Error;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::{Bind, Emit, Emits, Emitter};
use serde::{Deserialize, Serialize};

diesel::table! { orders { id -> Integer, status -> Text, cents -> BigInt, } }
diesel::table! { customers { id -> Integer, city -> Text, email -> Text, } }

/// Of the services `shop` and `tills`.
#[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(create, update)]
pub(crate) struct Order {
    pub(crate) id: i32,
    pub(crate) status: String,
    pub(crate) cents: i64,
}

/// Of the service `accounts`. Nobody counts e-mail addresses, so they are in no event.
#[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(create, delete)]
pub(crate) struct Customer {
    pub(crate) id: i32,
    pub(crate) city: String,
    #[emits(skip)]
    pub(crate) email: String,
}

/// Of the service `accounts`, too. It is no row, and counts all the same.
#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event)]
pub(crate) struct LoginFailed {
    pub(crate) customer: i32,
}

pub(crate) fn sell(server: &Emitter, db: &mut SqliteConnection, cents: i64) -> Result<Order, Box<dyn Error>> {
    let values = (orders::status.eq("NEW"), orders::cents.eq(cents));
    Ok(diesel::insert_into(orders::table).values(values).emit().get_result(&mut server.bind(db)?)?)
}

pub(crate) fn register(
    server: &Emitter,
    db: &mut SqliteConnection,
    city: &str,
) -> Result<Customer, Box<dyn Error>> {
    let values = (customers::city.eq(city), customers::email.eq("ada@example.com"));
    Ok(diesel::insert_into(customers::table).values(values).emit().get_result(&mut server.bind(db)?)?)
}

/// A database of one of them.
pub(crate) fn database() -> Result<SqliteConnection, Box<dyn Error>> {
    let mut db = SqliteConnection::establish(":memory:")?;
    db.batch_execute(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, status TEXT NOT NULL, cents BIGINT NOT NULL);
         CREATE TABLE customers (id INTEGER PRIMARY KEY, city TEXT NOT NULL, email TEXT NOT NULL);",
    )?;
    Ok(db)
}
