use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Emits)]
#[emits(create)]
struct User {
    id: i32,
}

fn main() {}
