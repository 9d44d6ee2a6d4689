use diesel::prelude::*;
use emitter_diesel::{Bound, Emits, update};
use serde::{Deserialize, Serialize};

diesel::table! {
    users {
        id -> Integer,
        name -> Text,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Serialize, Deserialize, Emits)]
#[emits(update)]
struct User {
    id: i32,
    name: String,
}

fn run(conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<User> {
    update(users::table.find(1)).set(users::name.eq("a")).get_result(conn)
}

fn main() {}
