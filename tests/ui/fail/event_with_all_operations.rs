use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(all, event)]
struct LoginFailed {
    username: String,
}

fn main() {}
