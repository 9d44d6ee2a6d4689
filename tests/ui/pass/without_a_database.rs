//! A service that only listens depends on `emitter-core` alone.

use emitter_core::{Emits, Event, Model, State, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(crate = emitter_core, create, update)]
struct User {
    id: u64,
    #[emits(skip)]
    password_hash: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(crate = ::emitter_core, all)]
struct Role {
    id: String,
}

#[listener(crate = emitter_core, model = "user")]
async fn on_user(event: Event<UserEvent>, names: State<String>) -> Result<(), String> {
    let _ = (event, names);
    Ok(())
}

fn main() {
    assert_eq!((User::NAME, Role::NAME), ("user", "role"));
}
