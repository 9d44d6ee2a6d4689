use emitter_diesel::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct User {
    id: i32,
}

#[listener(model = "user", allow_remote = true)]
async fn on_user(_: Event<UserEvent>) {}

fn main() {}
