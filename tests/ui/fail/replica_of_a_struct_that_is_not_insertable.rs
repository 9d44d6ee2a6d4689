use diesel::prelude::*;
use emitter_diesel::Emits;
use emitter_diesel::replica::Replica;
use emitter_diesel::tables::Tables;
use serde::{Deserialize, Serialize};

diesel::table! { users { id -> Integer, } }

#[derive(Debug, Clone, Identifiable, Selectable, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct User {
    id: i32,
}

fn users(tables: Tables) -> Replica<User, SqliteConnection> {
    Replica::<User, _>::new(tables, || SqliteConnection::establish("users.db").map(Box::new))
}

fn main() {}
