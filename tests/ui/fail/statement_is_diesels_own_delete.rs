use diesel::prelude::*;
use emitter_diesel::{Bound, Emit, Emits};
use serde::{Deserialize, Serialize};

diesel::table! {
    users {
        id -> Integer,
        name -> Text,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Serialize, Deserialize, Emits)]
#[emits(delete)]
struct User {
    id: i32,
    name: String,
}

fn run(conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<User> {
    diesel::delete(users::table.find(1)).emit().get_result(conn)
}

fn main() {}
