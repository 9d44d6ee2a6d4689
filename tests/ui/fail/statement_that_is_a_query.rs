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

fn all(emitter: &Emitter, conn: &mut SqliteConnection) -> QueryResult<Vec<User>> {
    let conn = &mut emitter.bind(conn).unwrap();
    users::table.emit().get_results(conn)
}

fn main() {}
