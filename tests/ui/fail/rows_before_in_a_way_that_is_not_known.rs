use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(update, before = "diff")]
struct User {
    id: i32,
}

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(update, before = changed)]
struct Order {
    id: i32,
}

fn main() {}
