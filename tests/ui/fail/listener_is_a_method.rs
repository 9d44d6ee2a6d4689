use emitter_diesel::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct User {
    id: i32,
}

struct Service;

impl Service {
    #[listener(model = "user")]
    async fn on_user(&self, _: Event<UserEvent>) {}
}

fn main() {}
