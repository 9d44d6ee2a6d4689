use diesel::prelude::*;
use emitter_diesel::{Bind, Emit, Emits, Emitter};
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

fn delete(emitter: &Emitter, conn: &mut SqliteConnection) -> QueryResult<User> {
    let conn = &mut emitter.bind(conn).unwrap();
    emitter_diesel::delete(users::table.find(1)).emit().get_result(conn)
}

fn main() {}
