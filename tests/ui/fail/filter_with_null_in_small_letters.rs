use emitter_diesel::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update, delete)]
struct User {
    id: i32,
    status: String,
    email: Option<String>,
    #[emits(skip)]
    password_hash: String,
}

#[listener(model = "user", where(email = null))]
async fn on_user(_: Event<UserEvent>) {}

fn main() {}
