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
#[emits(create, remote)]
struct User {
    id: i32,
    name: String,
}

fn create(conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<User> {
    diesel::insert_into(users::table).values(users::name.eq("alice")).emit().local_only().get_result(conn)
}

fn main() {}
