//! What running nodes are asked to do by those who have no listeners, on three databases.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::dead_letter::DeadLetterLimits;
use emitter_core::retry::{Backoff, Retry};
use emitter_core::{Builder, Context, Emits, Emitter, Event, State, listener};
use serde::{Deserialize, Serialize};

#[path = "../outbox/databases.rs"]
#[allow(dead_code, reason = "an outbox is the other suite's")]
mod databases;
mod hitches;
mod kills;
mod races;
#[macro_use]
mod suite;

/// The databases need none of their own.
const TABLES: [&str; 0] = [];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "order", create)]
struct Order {
    id: i64,
    step: i64,
}

/// Which orders are refused, and which were handled, by whom.
#[derive(Default)]
struct Shop {
    refused: Mutex<Vec<i64>>,
    seen: Mutex<Vec<(&'static str, i64)>>,
}

impl Shop {
    fn refuse(&self, ids: impl IntoIterator<Item = i64>) {
        *self.refused.lock().unwrap() = ids.into_iter().collect();
    }

    fn seen(&self, listener: &str) -> Vec<i64> {
        let seen = self.seen.lock().unwrap();
        let mut ids: Vec<i64> = seen.iter().filter(|(by, _)| *by == listener).map(|(_, id)| *id).collect();
        ids.sort_unstable();
        ids
    }

    fn visit(&self, listener: &'static str, id: i64) -> Result<(), String> {
        if self.refused.lock().unwrap().contains(&id) {
            return Err(format!("no courier for {id}"));
        }
        self.seen.lock().unwrap().push((listener, id));
        Ok(())
    }
}

#[listener(model = "order", allow_remote)]
async fn notify(event: Event<OrderCreated>, shop: State<Arc<Shop>>, _context: Context) -> Result<(), String> {
    shop.visit("notify", event.row.id)
}

#[listener(model = "order", allow_remote)]
async fn count(event: Event<OrderCreated>, shop: State<Arc<Shop>>) -> Result<(), String> {
    shop.visit("count", event.row.id)
}

fn builder(name: &str, shop: &Arc<Shop>) -> Builder {
    let backoff =
        Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(1), jitter: Duration::ZERO };
    let limits = DeadLetterLimits { per_second: 100_000, burst: 100_000, ..DeadLetterLimits::default() };
    let retry = Retry { attempts: 2, backoff, budget: Duration::from_secs(5) };
    let builder = Emitter::builder().service("shop").node(name).dead_letters(limits).listener_retry(retry);
    builder.state(Arc::clone(shop))
}

/// Writes orders of another program into the mirror, as they came from the bus.
fn mirrored(ids: std::ops::Range<i64>) -> String {
    let rows: Vec<String> = ids
        .map(|id| {
            format!(
                "('prisma/events/order/create', '{{\"model\":\"Order\",\"operation\":\"create\",\"args\":{{}},\
                 \"result\":{{\"id\":{id},\"step\":0}}}}', 'order', 'create', '{id}')"
            )
        })
        .collect();
    format!(
        "INSERT INTO emitter_events_mirror (topic, payload, model, operation, record_id) VALUES {}",
        rows.join(", ")
    )
}

const SECOND: Duration = Duration::from_secs(1);

suite!(sqlite: databases::Sqlite);
suite!(postgres: emitter_tests::servers::Postgres);
suite!(mariadb: emitter_tests::servers::MariaDb);
