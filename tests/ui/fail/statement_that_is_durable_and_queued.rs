//! A call that says two things of where its event waits.

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
#[emits(create)]
struct User {
    id: i32,
    name: String,
}

fn insert(conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<User> {
    diesel::insert_into(users::table).values(users::name.eq("a")).emit().durable().queued().get_result(conn)
}

fn main() {}
