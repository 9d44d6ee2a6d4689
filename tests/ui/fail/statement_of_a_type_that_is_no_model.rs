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

#[derive(Queryable)]
struct Person {
    id: i32,
    name: String,
}

fn insert(emitter: &Emitter, conn: &mut SqliteConnection) -> QueryResult<Person> {
    let conn = &mut emitter.bind(conn).unwrap();
    diesel::insert_into(users::table).values(users::name.eq("alice")).emit().get_result(conn)
}

fn main() {}
