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

const FIRST: i64 = 1;

#[listener(model = "user", where(id = FIRST))]
async fn on_user(_: Event<UserEvent>) {}

fn main() {}
