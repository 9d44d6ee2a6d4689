use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event)]
struct LoginFailed {
    username: String,
    #[emits(hash)]
    ip_address: String,
}

fn main() {}
