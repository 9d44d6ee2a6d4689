use emitter_diesel::inbox::InboxTx;
use emitter_diesel::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct User {
    id: i32,
}

#[listener(model = "user")]
fn on_user(_: Event<UserEvent>, _: InboxTx) {}

fn main() {}
