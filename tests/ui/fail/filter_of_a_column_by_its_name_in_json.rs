use emitter_diesel::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[serde(rename_all = "camelCase")]
#[emits(create, update)]
struct User {
    id: i32,
    first_name: String,
}

#[listener(model = "user", where(firstName = "Alice"))]
async fn on_user(_: Event<UserEvent>) {}

fn main() {}
