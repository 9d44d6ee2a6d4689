use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create, delete, before)]
struct Login {
    id: i32,
}

fn main() {}
