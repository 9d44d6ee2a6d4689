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
#[emits(create)]
struct User {
    id: i32,
    name: String,
}

fn run(conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<String> {
    let insert = diesel::insert_into(users::table).values(users::name.eq("alice"));
    Ok(insert.emit().get_result::<User>(conn)?.name)
}

fn main() {}
