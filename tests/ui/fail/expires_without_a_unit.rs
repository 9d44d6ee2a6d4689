use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, expires = "60")]
struct User {
    id: i32,
    name: String,
}

fn main() {}
