use diesel::prelude::*;
use emitter_diesel::{Bound, Emit, Emits};
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

fn run(conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<Vec<User>> {
    diesel::insert_into(users::table).values(vec![users::name.eq("a")]).emit().get_results(conn)
}

fn main() {}
