use emitter_diesel::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct User {
    id: i32,
}

struct Invoice;

#[listener(model = "invoice")]
async fn on_invoice(_: Event<Invoice>) {}

fn main() {}
