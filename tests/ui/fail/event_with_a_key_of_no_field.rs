use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event, key(user_id))]
struct LoginFailed {
    username: String,
}

fn main() {}
