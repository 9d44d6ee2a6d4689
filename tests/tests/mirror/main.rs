//! Everything on the bus in a table: once, whatever dies, and read and replayed without missing anything.
//!
//! The suite is written once and compiled for each database.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{Builder, Emitter, EventId};
use emitter_diesel::Emits;
use emitter_diesel::mirror::{self, Mirrored, MirroredEvent, Selection};
use serde::{Deserialize, Serialize};

#[macro_use]
mod suite;
#[allow(dead_code, reason = "it is written for the outbox's suite")]
#[path = "../outbox/databases.rs"]
mod databases;
mod kills;
mod plans;
mod rates;
mod transactions;
mod troubles;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, create_many, update)]
struct Order {
    id: i64,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(event, topic = "auth/login_failed")]
struct LoginFailed {
    username: String,
}

/// The mirror's are all that there are.
const TABLES: [&str; 0] = [];

const SECOND: Duration = Duration::from_secs(1);

fn is_full() -> bool {
    std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full")
}

fn builder(broker: &MemoryBroker, service: &str, node: &str) -> Builder {
    Emitter::builder().service(service).node(node).transport(broker.connect(&format!("{service}.{node}")))
}

fn order(id: i64) -> OrderCreated {
    OrderCreated::new(Order { id, text: format!("order {id}") })
}

/// Everything, page by page.
fn all(mirrored: &mut Mirrored) -> Vec<MirroredEvent> {
    let mut selection = Selection { limit: 77, ..Selection::default() };
    let mut events = Vec::new();
    loop {
        let page = mirrored.read(&selection).unwrap();
        events.extend(page.events);
        selection.after = Some(page.cursor);
        if !page.more {
            return events;
        }
    }
}

fn ids(events: &[MirroredEvent]) -> Vec<EventId> {
    events.iter().filter_map(|event| event.event_id).collect()
}

/// Waits until so many are written down.
async fn recorded(emitter: &Emitter, wanted: u64) {
    let told = || mirror::stats(emitter).unwrap();
    let begun = std::time::Instant::now();
    while told().recorded < wanted {
        assert!(begun.elapsed() < 30 * SECOND, "{wanted} are wanted: {:?}", told());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn writes(emitter: &Emitter) {
    let told = || mirror::stats(emitter).unwrap();
    // What is published before it hears is nobody's.
    emitter_tests::eventually::eventually(|| told().writes && told().hears).await;
}

suite!(sqlite: databases::Sqlite);
suite!(postgres: emitter_tests::servers::Postgres);
suite!(mariadb: emitter_tests::servers::MariaDb);
