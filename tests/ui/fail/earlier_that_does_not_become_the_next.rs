use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct UserV1 {
    id: i32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, version = 2, earlier(UserV1))]
struct User {
    id: i32,
    name: String,
}

fn main() {}
