//! A listener with a transaction, of `emitter-core` alone.

use diesel::SqliteConnection;
use emitter_core::{Emits, Event, listener};
use emitter_diesel::inbox::InboxTx;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(crate = emitter_core, create, update)]
struct User {
    id: i32,
}

#[listener(crate = emitter_core, model = "user")]
fn on_user(_: Event<UserEvent>, _: InboxTx<'_, SqliteConnection>) {}

fn main() {}
