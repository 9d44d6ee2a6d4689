use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct User {
    id: i32,
    #[emits(skip)]
    password: String,
    #[emits(sensitive_ok = "the hash of a public commit")]
    commit_hash: String,
}

fn main() {}
