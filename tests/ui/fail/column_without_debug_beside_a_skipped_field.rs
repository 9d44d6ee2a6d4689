use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Address(String);

#[derive(Serialize, Deserialize, Emits)]
#[emits(create)]
struct User {
    id: i32,
    address: Address,
    #[emits(skip)]
    password_hash: String,
}

fn main() {}
