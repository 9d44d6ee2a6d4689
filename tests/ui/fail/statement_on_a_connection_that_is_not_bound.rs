use diesel::prelude::*;
use emitter_diesel::{Emit, Emits};
use serde::{Deserialize, Serialize};

diesel::table! {
    users {
        id -> Integer,
        name -> Text,
    }
}

#[derive(Clone, Queryable, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct User {
    id: i32,
    name: String,
}

fn insert(conn: &mut SqliteConnection) -> QueryResult<User> {
    diesel::insert_into(users::table).values(users::name.eq("alice")).emit().get_result(conn)
}

fn main() {}
