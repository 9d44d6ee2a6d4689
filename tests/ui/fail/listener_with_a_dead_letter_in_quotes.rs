use emitter_diesel::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct User {
    id: i32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Order {
    id: i32,
}

#[listener(model = "user", dead_letter = "no")]
async fn on_user(_: Event<UserEvent>) {}

fn main() {}
