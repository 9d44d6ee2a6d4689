use diesel::Identifiable;
use emitter_diesel::Emits;
use serde::{Deserialize, Serialize};

diesel::table! {
    users (email) {
        email -> Text,
    }
}

#[derive(Clone, Identifiable, Serialize, Deserialize, Emits)]
#[diesel(table_name = users, primary_key(mail))]
#[emits(create)]
struct User {
    email: String,
}

fn main() {}
