//! The commands against real servers: what they print, in which form, and how they end.
//!
//! Each report is asked for as JSON and held against the schema that users have.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::time::Duration;

use diesel::{Identifiable, Insertable, Queryable};
use emitter_diesel::retry::{Backoff, Retry};
use emitter_diesel::{Builder, Emits, Emitter};
use emitter_tests::servers::Mosquitto;
use serde::{Deserialize, Serialize};

mod command;
#[path = "../../../tests/tests/outbox/databases.rs"]
#[allow(dead_code, reason = "an outbox with a relay is the other suite's")]
mod databases;
mod discard;
mod doctor;
mod documents;
mod requests;
#[macro_use]
mod suite;
mod tail;
mod terminal;

diesel::table! {
    orders {
        id -> BigInt,
        step -> BigInt,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create, delete)]
struct Order {
    id: i64,
    step: i64,
}

const TABLES: [&str; 1] = ["CREATE TABLE orders (id BIGINT PRIMARY KEY, step BIGINT NOT NULL)"];

const SECOND: Duration = Duration::from_secs(1);

/// A node of the shop.
fn node(broker: &Mosquitto, name: &str) -> Builder {
    let backoff =
        Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(1), jitter: Duration::ZERO };
    let retry = Retry { attempts: 2, backoff, budget: 5 * SECOND };
    Emitter::builder().service("shop").node(name).listener_retry(retry).mqtt(&*broker.url())
}

suite!(sqlite: databases::Sqlite);
suite!(postgres: emitter_tests::servers::Postgres);
suite!(mariadb: emitter_tests::servers::MariaDb);
