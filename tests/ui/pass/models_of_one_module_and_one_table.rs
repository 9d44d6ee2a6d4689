//! Several models of one table, in one module.

use diesel::prelude::*;
use emitter_diesel::{Emits, Model};
use serde::{Deserialize, Serialize};

diesel::table! {
    users {
        id -> Integer,
        name -> Text,
        email -> Text,
    }
}

#[derive(Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[diesel(table_name = users)]
#[emits(all)]
struct User {
    id: i32,
    name: String,
    email: String,
}

#[derive(Clone, Queryable, Selectable, Identifiable, Serialize, Deserialize, Emits)]
#[diesel(table_name = users)]
#[emits(model = "contact", update)]
struct UserContact {
    id: i32,
    email: String,
}

fn main() {
    assert_eq!((User::NAME, UserContact::NAME), ("user", "contact"));
    assert_eq!((User::OPERATIONS.len(), UserContact::OPERATIONS.len()), (7, 1));
}
