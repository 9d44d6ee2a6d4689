use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create)]
struct User<T> {
    id: i32,
    #[emits(hash)]
    email: T,
}

fn main() {}
