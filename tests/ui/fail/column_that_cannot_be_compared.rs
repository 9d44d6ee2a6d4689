use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Address(String);

#[derive(Clone, Serialize, Deserialize, Emits)]
#[emits(update)]
struct User {
    id: i32,
    address: Address,
}

fn main() {}
