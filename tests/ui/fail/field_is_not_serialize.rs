use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq)]
struct Address;

#[derive(Debug, Clone, PartialEq, Emits)]
#[emits(create)]
struct User {
    id: i32,
    address: Address,
    #[emits(skip)]
    password_hash: String,
}

fn main() {}
