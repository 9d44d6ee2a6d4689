//! Dead letters in a database: kept, looked through, mended, tried again and discarded, on three databases.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use emitter_core::dead_letter::DeadLetterLimits;
use emitter_core::retry::{Backoff, Retry};
use emitter_core::{Builder, Context, Emits, Emitter, Event, EventId, State, listener};
use serde::{Deserialize, Serialize};

#[path = "../outbox/databases.rs"]
#[allow(dead_code, reason = "an outbox is the other suite's")]
mod databases;
#[macro_use]
mod suite;
mod kills;
mod plans;

/// The databases need none of their own.
const TABLES: [&str; 0] = [];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "order", create, delete_many)]
struct Order {
    id: i64,
    step: i64,
}

fn order(id: i64, step: i64) -> OrderCreated {
    OrderCreated::new(Order { id, step })
}

/// What listeners do not handle, and what they have handled.
#[derive(Default)]
struct Shop {
    /// Orders that are refused as long as it is closed.
    refused: Mutex<Vec<i64>>,
    closed: AtomicBool,
    seen: Mutex<Vec<Seen>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    listener: &'static str,
    id: i64,
    step: i64,
    event: EventId,
    is_redriven: bool,
}

impl Shop {
    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap()
    }

    fn refuse(&self, ids: impl IntoIterator<Item = i64>) {
        self.closed.store(true, Ordering::SeqCst);
        *self.refused.lock().unwrap() = ids.into_iter().collect();
    }

    fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
    }

    fn visit(&self, listener: &'static str, order: &Order, context: &Context) -> Result<(), String> {
        if self.closed.load(Ordering::SeqCst) && self.refused.lock().unwrap().contains(&order.id) {
            return Err(format!("no courier for {}", order.id));
        }
        let (id, step) = (order.id, order.step);
        let seen = Seen { listener, id, step, event: context.id(), is_redriven: context.again().is_some() };
        self.seen().push(seen);
        Ok(())
    }

    /// The steps of each order that a listener has handled, in order.
    fn steps(&self, listener: &str) -> BTreeMap<i64, Vec<i64>> {
        let mut steps = BTreeMap::<i64, Vec<i64>>::new();
        for seen in self.seen().iter().filter(|seen| seen.listener == listener) {
            steps.entry(seen.id).or_default().push(seen.step);
        }
        steps
    }
}

#[listener(model = "order", allow_remote)]
async fn notify(event: Event<OrderCreated>, shop: State<Arc<Shop>>, context: Context) -> Result<(), String> {
    shop.visit("notify", &event.row, &context)
}

#[listener(model = "order", allow_remote)]
async fn count(event: Event<OrderCreated>, shop: State<Arc<Shop>>, context: Context) {
    let _ = shop.visit("count", &Order { id: -1 - event.row.id, ..event.row.clone() }, &context);
}

fn builder(name: &str, shop: &Arc<Shop>) -> Builder {
    let backoff =
        Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(1), jitter: Duration::ZERO };
    let limits = DeadLetterLimits { per_second: 100_000, burst: 100_000, ..DeadLetterLimits::default() };
    let retry = Retry { attempts: 2, backoff, budget: Duration::from_secs(5) };
    let builder = Emitter::builder().service("shop").node(name).dead_letters(limits).listener_retry(retry);
    builder.state(Arc::clone(shop))
}

const SECOND: Duration = Duration::from_secs(1);

suite!(sqlite: databases::Sqlite);
suite!(postgres: emitter_tests::servers::Postgres);
suite!(mariadb: emitter_tests::servers::MariaDb);
