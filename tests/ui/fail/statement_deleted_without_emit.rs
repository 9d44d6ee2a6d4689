use diesel::prelude::*;
use emitter_diesel::{Bound, Emits, delete};
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

fn run(conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<usize> {
    delete(users::table.find(1)).execute(conn)
}

fn main() {}
