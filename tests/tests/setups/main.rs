//! Databases that are set up in another way than most: what nodes say of them, and what they need.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::prelude::*;
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{Builder, Emitter};
use emitter_diesel::{Bind, Emit, Emits};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as Turn, MutexGuard};

mod bounds;
#[allow(dead_code, reason = "it is written for the outbox's suite")]
#[path = "../outbox/databases.rs"]
mod databases;
mod doubts;
mod rights;
mod schemas;

diesel::table! {
    orders {
        id -> BigInt,
    }
}

#[derive(
    Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Insertable, Serialize, Deserialize, Emits,
)]
#[emits(create)]
struct Order {
    id: i64,
}

const TABLES: [&str; 1] = ["CREATE TABLE orders (id BIGINT PRIMARY KEY)"];

const SECOND: Duration = Duration::from_secs(1);

fn builder(broker: &MemoryBroker, service: &str, node: &str) -> Builder {
    let builder = Emitter::builder().service(service).node(node).select_listeners(|_| false);
    builder.transport(broker.connect(&format!("{service}.{node}")))
}

/// What is logged, by all nodes of this process: a test that starts some waits for its turn.
#[derive(Debug, Clone)]
struct Log(Arc<Mutex<Vec<u8>>>);

static TURN: Turn<Option<Log>> = Turn::const_new(None);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// While this is held, nobody else's nodes run.
    async fn turn() -> MutexGuard<'static, Option<Self>> {
        let mut turn = TURN.lock().await;
        turn.get_or_insert_with(|| {
            let log = Self(Arc::default());
            let writer = log.clone();
            let subscriber =
                tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
            // What a node begins has threads of its own.
            tracing::subscriber::set_global_default(subscriber).unwrap();
            log
        });
        turn
    }

    /// The lines of this level that the start of a node logs, and its end.
    async fn of_start(&self, level: &str, node: Builder) -> Vec<String> {
        self.0.lock().unwrap().clear();
        let emitter = node.start().await.unwrap();
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
        self.lines(level)
    }

    fn lines(&self, level: &str) -> Vec<String> {
        let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        log.lines().filter(|line| line.contains(level)).map(ToOwned::to_owned).collect()
    }
}

/// What yields a connection by itself, as inboxes and replicas want it.
fn boxed<C>(
    connect: impl Fn() -> diesel::ConnectionResult<C> + Send + Sync + 'static,
) -> impl Fn() -> diesel::ConnectionResult<Box<C>> + Send + Sync + 'static {
    move || connect().map(Box::new)
}
