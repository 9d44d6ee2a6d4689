use std::sync::Mutex;

use emitter_diesel::{Emits, Event, State, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct User {
    id: i32,
}

async fn pause() {}

#[listener(model = "user")]
async fn on_user(_: Event<UserEvent>, count: State<Mutex<i32>>) {
    let mut count = count.lock().unwrap();
    pause().await;
    *count += 1;
}

fn main() {}
