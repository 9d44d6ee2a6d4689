use emitter_diesel::{Emits, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct User {
    id: i32,
}

#[listener(model = "user")]
async fn on_user(_: UserEvent) {}

fn main() {}
