use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, key(email))]
struct User {
    #[emits(hash)]
    email: String,
}

fn main() {}
