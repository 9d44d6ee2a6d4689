use emitter_diesel::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create)]
struct User {
    id: i32,
    #[emits(skip)]
    password_hash: String,
}

#[listener(model = "user")]
async fn on_user(event: Event<UserCreated>) {
    println!("{}", event.row.password_hash);
}

fn main() {}
