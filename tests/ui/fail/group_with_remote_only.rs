use emitter_diesel::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create)]
struct User {
    id: i32,
}

#[listener(model = "user", remote_only, group = "billing")]
async fn bill(_: Event<UserCreated>) {}

fn main() {}
