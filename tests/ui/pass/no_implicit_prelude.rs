//! Nothing is in scope but what the user named.
#![no_implicit_prelude]

use ::core::clone::Clone;
use ::core::result::Result::{self, Ok};
use ::emitter_diesel::{Emits, Event, State, listener};
use ::serde::{Deserialize, Serialize};
use ::std::string::String;

#[derive(Serialize, Deserialize, Emits)]
#[emits(all)]
struct User {
    id: i32,
    #[emits(skip)]
    password_hash: String,
}

#[derive(Clone, Serialize, Deserialize, Emits)]
#[emits(key(user, role), create, delete)]
struct Grant {
    user: i32,
    role: String,
}

#[listener(model = "user", allow_remote)]
async fn on_user(event: Event<UserEvent>, names: State<String>) -> Result<(), String> {
    ::core::mem::drop((event, names));
    Ok(())
}

#[listener(model = "grant")]
fn on_grant(event: Event<GrantDeleted>) {
    ::core::mem::drop(event);
}

fn main() {}
