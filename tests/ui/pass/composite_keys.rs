//! Keys of several columns: by Diesel's attribute, by ours, and ours wins.

use diesel::prelude::*;
use emitter_diesel::{Emits, Key, Model};
use serde::{Deserialize, Serialize};

diesel::table! {
    grants (user_id, role) {
        user_id -> Integer,
        role -> Text,
        since -> BigInt,
    }
}

#[derive(Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[diesel(table_name = grants, primary_key(user_id, role))]
#[emits(all)]
struct Grant {
    user_id: i32,
    role: String,
    since: i64,
}

#[derive(Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[diesel(table_name = grants)]
#[diesel(primary_key(user_id, role))]
#[emits(key(role), all)]
struct Role {
    user_id: i32,
    role: String,
    since: i64,
}

#[derive(Clone, Serialize, Deserialize, Emits)]
#[emits(key(b, a), create)]
struct Pair {
    a: i32,
    b: bool,
}

fn main() {
    let grant = Grant { user_id: 7, role: "admin".into(), since: 0 };
    assert_eq!(Grant::KEY_COLUMNS, ["user_id", "role"]);
    assert_eq!(Grant::key(&grant.to_row(None)), Key::composite([Key::Int(7), Key::Text("admin".into())]));
    assert_eq!(Role::KEY_COLUMNS, ["role"]);
    assert_eq!(Role::key(&Role { user_id: 7, role: "admin".into(), since: 0 }), Key::Text("admin".into()));
    assert_eq!(Pair::KEY_COLUMNS, ["b", "a"]);
}
