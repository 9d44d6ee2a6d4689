use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, topic = "shop/users/")]
struct User {
    id: i32,
    name: String,
}

fn main() {}
