use emitter_core::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, Serialize, Deserialize, Emits)]
#[emits(create)]
#[serde(default)]
struct User {
    id: i32,
    name: String,
    #[emits(skip)]
    notes: String,
}

fn main() {}
