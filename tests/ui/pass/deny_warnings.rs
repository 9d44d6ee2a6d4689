//! The expansion warns of nothing, private models included.
#![deny(warnings, unused, nonstandard_style, future_incompatible, rust_2018_idioms, rust_2021_compatibility)]
#![deny(unused_qualifications, unused_lifetimes, single_use_lifetimes, trivial_casts, unused_results)]
#![deny(unreachable_pub, let_underscore_drop, elided_lifetimes_in_paths, missing_abi, non_ascii_idents)]

use emitter_diesel::{Emits, Event, State, listener};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Emits)]
#[emits(all)]
struct User {
    id: i32,
    name: String,
    #[emits(skip)]
    password_hash: String,
}

#[derive(Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Role {
    id: i32,
}

#[listener(model = "user", allow_remote)]
async fn on_user(event: Event<UserEvent>, names: State<String>) -> Result<(), String> {
    drop((event, names));
    Ok(())
}

#[listener(model = "role", remote_only)]
fn on_role(event: Event<RoleCreated>) {
    drop(event);
}

fn main() {}
