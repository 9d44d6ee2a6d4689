use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(key(id, tenant), create)]
struct User {
    id: i32,
    tenant_id: i32,
}

fn main() {}
