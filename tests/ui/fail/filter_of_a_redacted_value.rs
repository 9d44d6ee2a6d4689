use emitter_diesel::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create)]
struct User {
    id: i32,
    #[emits(redact)]
    email: String,
}

#[listener(model = "user", where(email = "a@example.org"))]
async fn hear(_: Event<UserCreated>) {}

fn main() {}
