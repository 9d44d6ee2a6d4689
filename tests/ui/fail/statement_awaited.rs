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

async fn run(conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<User> {
    emitter_diesel::update(users::table.find(1)).set(users::name.eq("a")).emit().get_result(conn).await
}

fn main() {}
