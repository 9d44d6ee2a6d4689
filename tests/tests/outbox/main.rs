//! Events in the outbox of a database: written with their rows, relayed in order, and not lost.
//!
//! The suite is written once and compiled for each database.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::{Identifiable, Insertable, Queryable};
use emitter_core::model::EventBody;
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{Builder, Emitter, Event, EventId};
use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[macro_use]
mod suite;
mod asynchronous;
mod databases;
mod disks;
mod forms;
mod frozen;
mod gaps;
#[macro_use]
mod given_up;
mod kills;
mod migrations;
mod plans;
#[macro_use]
mod ledger;
#[macro_use]
mod metrics;
#[macro_use]
mod paused;
mod queued;
mod refusals;
mod timeouts;
mod workplaces;

diesel::table! {
    orders {
        id -> BigInt,
        step -> BigInt,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create, update, delete)]
struct Order {
    id: i64,
    step: i64,
}

diesel::table! {
    notes {
        id -> BigInt,
        text -> Text,
    }
}

/// A model of which events are durable though no call says so, and of which one event may be of several rows.
#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create, create_many, delete_many, durable)]
struct Note {
    id: i64,
    text: String,
}

/// A model of which updates tell what differs.
#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[diesel(table_name = notes)]
#[emits(update, durable, before = "changed")]
struct Page {
    id: i64,
    text: String,
}

diesel::table! {
    jobs {
        id -> BigInt,
    }
}

/// A model with listeners that fail: see `ledger`.
#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Job {
    id: i64,
}

const TABLES: [&str; 3] = [
    "CREATE TABLE orders (id BIGINT PRIMARY KEY, step BIGINT NOT NULL)",
    "CREATE TABLE jobs (id BIGINT PRIMARY KEY)",
    "CREATE TABLE notes (id BIGINT PRIMARY KEY, text VARCHAR(2000) NOT NULL)",
];

const SECOND: Duration = Duration::from_secs(1);

fn builder(broker: &MemoryBroker, name: &str) -> Builder {
    let builder = Emitter::builder().service("shop").node(name).select_listeners(|_| false);
    builder.transport(broker.connect(&format!("shop.{name}")))
}

/// What another node heard, in order.
#[derive(Debug, Clone, Default)]
struct Ear(Arc<Mutex<Vec<Heard>>>);

#[derive(Debug, Clone, PartialEq)]
struct Heard {
    event: EventId,
    id: i64,
    step: i64,
    sequence: Option<u64>,
}

impl Ear {
    /// A node that hears orders, and nothing else.
    async fn start(broker: &MemoryBroker) -> (Emitter, Self) {
        let emitter = builder(broker, "ear").start().await.unwrap();
        let ear = Self::default();
        let heard = ear.clone();
        emitter.on::<OrderEvent>().allow_remote().run(move |event: Event<OrderEvent>| {
            let row = match &*event {
                OrderEvent::Created(body) => body.row.clone(),
                OrderEvent::Updated(body) => body.after.clone(),
                OrderEvent::Deleted(body) => body.row.clone(),
            };
            heard.hear(&event, &row);
            std::future::ready(())
        });
        emitter.connected(10 * SECOND).await.unwrap();
        (emitter, ear)
    }

    fn hear<T: EventBody>(&self, event: &Event<T>, row: &Order) {
        let heard = Heard { event: event.id(), id: row.id, step: row.step, sequence: event.sequence() };
        self.0.lock().unwrap().push(heard);
    }

    fn heard(&self) -> Vec<Heard> {
        self.0.lock().unwrap().clone()
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// What was heard more than once, each with its place among all that was heard, at first and again.
    fn twice(&self) -> Vec<(Heard, [usize; 2])> {
        let mut first = BTreeMap::new();
        let heard = self.heard().into_iter().enumerate();
        heard
            .filter_map(|(place, heard)| {
                first.insert(heard.event, place).map(|first| (heard, [first, place]))
            })
            .collect()
    }

    /// Keys with the steps that were heard of them, at first sight.
    fn steps(&self) -> BTreeMap<i64, Vec<i64>> {
        let mut seen = BTreeSet::new();
        let mut steps = BTreeMap::<_, Vec<_>>::new();
        for heard in self.heard() {
            if seen.insert(heard.event) {
                steps.entry(heard.id).or_default().push(heard.step);
            }
        }
        steps
    }
}

/// Ends a node without a word to anybody: what it had not done stays undone.
fn kill(emitter: Emitter) {
    drop(emitter);
}

/// How many rows of how many keys.
fn size() -> (i64, i64) {
    if std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full") {
        (40_000, 100)
    } else {
        (4_000, 100)
    }
}

given_up!(sqlite_given_up: databases::Sqlite);
given_up!(postgres_given_up: emitter_tests::servers::Postgres);
given_up!(mariadb_given_up: emitter_tests::servers::MariaDb);
paused!(sqlite_paused: databases::Sqlite);
paused!(postgres_paused: emitter_tests::servers::Postgres);
paused!(mariadb_paused: emitter_tests::servers::MariaDb);
suite!(sqlite: databases::Sqlite);
suite!(postgres: emitter_tests::servers::Postgres);
suite!(mariadb: emitter_tests::servers::MariaDb);
metrics!(sqlite_metrics: databases::Sqlite, two minutes ago is "strftime('%Y-%m-%d %H:%M:%f', created_at, '-2 minutes')");
metrics!(postgres_metrics: emitter_tests::servers::Postgres, two minutes ago is "created_at - interval '2 minutes'");
metrics!(mariadb_metrics: emitter_tests::servers::MariaDb, two minutes ago is "created_at - INTERVAL 2 MINUTE");
ledger!(sqlite_ledger: databases::Sqlite);
ledger!(postgres_ledger: emitter_tests::servers::Postgres);
ledger!(mariadb_ledger: emitter_tests::servers::MariaDb);
