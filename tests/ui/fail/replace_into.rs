//! `replace_into`, which deletes rows of which no event could tell.

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

fn replace(conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<User> {
    diesel::replace_into(users::table).values((users::id.eq(1), users::name.eq("a"))).emit().get_result(conn)
}

fn main() {}
