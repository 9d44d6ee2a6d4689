use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, delete(qos = "exactly_once"))]
struct User {
    id: i32,
    name: String,
}

fn main() {}
