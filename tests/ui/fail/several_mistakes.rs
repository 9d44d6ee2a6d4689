use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "a/b", craete, key(name), replace, update)]
struct User {
    id: i32,
    #[emits(skipp)]
    password_hash: String,
}

fn main() {}
