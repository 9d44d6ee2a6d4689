use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create, durable, queued)]
struct Order {
    id: i64,
}

fn main() {}
