use emitter_diesel::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create)]
struct User {
    id: i32,
    #[emits(skip)]
    password_hash: String,
}

#[listener(model = User)]
async fn on_user(_: Event<UserRow>) {}

fn main() {}
