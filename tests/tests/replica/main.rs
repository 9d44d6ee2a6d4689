//! Copies of another service's table: the same rows as there, in whatever order and however often events come.
//!
//! The suite is written once and compiled for each database.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::time::Duration;

use diesel::{Identifiable, Insertable, Queryable, Selectable};
use emitter_core::retry::{Backoff, Retry};
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{Builder, Emitter};
use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[macro_use]
mod suite;
mod captured;
mod convergence;
#[path = "../outbox/databases.rs"]
mod databases;
mod kills;

diesel::table! {
    customers {
        id -> BigInt,
        name -> Text,
        email -> Nullable<Text>,
        version -> BigInt,
    }
}

#[derive(
    Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Insertable, Serialize, Deserialize, Emits,
)]
#[emits(all, before)]
struct Customer {
    id: i64,
    name: String,
    email: Option<String>,
    version: i64,
}

impl Customer {
    fn new(id: i64, name: &str) -> Self {
        Self { id, name: name.to_owned(), email: None, version: 1 }
    }
}

diesel::table! {
    tags (customer_id, tag) {
        customer_id -> BigInt,
        tag -> Text,
    }
}

/// A row that is nothing but its key.
#[derive(
    Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Insertable, Serialize, Deserialize, Emits,
)]
#[diesel(primary_key(customer_id, tag))]
#[emits(all)]
struct Tag {
    customer_id: i64,
    tag: String,
}

diesel::table! {
    users {
        id -> BigInt,
        name -> Text,
        password -> Text,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct User {
    id: i64,
    name: String,
    #[emits(skip)]
    password: String,
}

diesel::table! {
    known_users {
        id -> BigInt,
        label -> Nullable<Text>,
        remark -> Nullable<Text>,
    }
}

/// What another service writes down of users, beside what it knows itself of them (`remark`).
#[derive(Debug, Clone, Selectable, Identifiable, Insertable)]
struct KnownUser {
    id: i64,
    label: Option<String>,
}

impl From<UserRow> for KnownUser {
    fn from(UserRow { id, name }: UserRow) -> Self {
        Self { id, label: (name != "-").then_some(name) }
    }
}

const TABLES: [&str; 4] = [
    "CREATE TABLE customers (id BIGINT PRIMARY KEY, name VARCHAR(50) NOT NULL, email VARCHAR(50) UNIQUE, version BIGINT NOT NULL)",
    "CREATE TABLE tags (customer_id BIGINT NOT NULL, tag VARCHAR(50) NOT NULL, PRIMARY KEY (customer_id, tag))",
    "CREATE TABLE users (id BIGINT PRIMARY KEY, name VARCHAR(50) NOT NULL, password VARCHAR(50) NOT NULL)",
    "CREATE TABLE known_users (id BIGINT PRIMARY KEY, label VARCHAR(50), remark VARCHAR(50))",
];

const SECOND: Duration = Duration::from_secs(1);

fn builder(broker: &MemoryBroker, service: &str, node: &str) -> Builder {
    let backoff = Backoff { base: Duration::from_millis(20), cap: SECOND, jitter: Duration::from_millis(20) };
    Emitter::builder()
        .service(service)
        .node(node)
        .transport(broker.connect(&format!("{service}.{node}")))
        .listener_concurrency(4)
        .listener_retry(Retry { backoff, ..Retry::default() })
}

/// What yields a connection by itself, as a replica wants it.
fn boxed<C>(
    connect: impl Fn() -> diesel::ConnectionResult<C> + Send + Sync + 'static,
) -> impl Fn() -> diesel::ConnectionResult<Box<C>> + Send + Sync + 'static {
    move || connect().map(Box::new)
}

suite!(sqlite: databases::Sqlite);
suite!(postgres: emitter_tests::servers::Postgres);
suite!(mariadb: emitter_tests::servers::MariaDb);
