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

fn rename(emitter: &Emitter, conn: &mut SqliteConnection) -> QueryResult<usize> {
    let conn = &mut emitter.bind(conn).unwrap();
    emitter_diesel::update(users::table).set(users::name.eq("x")).emit::<User>().execute(conn)
}

fn main() {}
