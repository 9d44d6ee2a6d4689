use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event, durable)]
struct LoginFailed {
    username: String,
}

fn main() {}
