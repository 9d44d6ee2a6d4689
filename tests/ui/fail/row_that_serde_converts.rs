use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[serde(into = "(i32, String)", from = "(i32, String)")]
#[emits(create)]
struct User {
    id: i32,
    name: String,
}

impl From<User> for (i32, String) {
    fn from(user: User) -> Self {
        (user.id, user.name)
    }
}

impl From<(i32, String)> for User {
    fn from((id, name): (i32, String)) -> Self {
        Self { id, name }
    }
}

fn main() {}
