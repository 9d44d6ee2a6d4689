use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct User {
    id: i32,
    #[emits(sensitive_ok = "")]
    api_key: String,
}

fn main() {}
