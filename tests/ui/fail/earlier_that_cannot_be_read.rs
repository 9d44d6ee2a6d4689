use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

struct UserV1 {
    id: i32,
}

impl From<UserV1> for User {
    fn from(user: UserV1) -> Self {
        Self { id: user.id, name: String::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, version = 2, earlier(UserV1))]
struct User {
    id: i32,
    name: String,
}

fn main() {}
