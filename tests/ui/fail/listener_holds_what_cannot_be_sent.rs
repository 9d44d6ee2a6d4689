use emitter_diesel::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct User {
    id: i32,
}

async fn pause() {}

#[listener(model = "user")]
async fn on_user(_: Event<UserEvent>) {
    let shared = std::rc::Rc::new(1);
    pause().await;
    drop(shared);
}

fn main() {}
