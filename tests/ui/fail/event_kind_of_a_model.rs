use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create, kind = "user_made")]
struct User {
    id: i32,
}

fn main() {}
