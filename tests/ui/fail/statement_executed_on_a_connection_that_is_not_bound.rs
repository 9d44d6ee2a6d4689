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

fn run(conn: &mut SqliteConnection) -> QueryResult<usize> {
    diesel::insert_into(users::table).values(users::name.eq("a")).emit::<User>().execute(conn)
}

fn main() {}
