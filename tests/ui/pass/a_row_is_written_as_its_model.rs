//! Skipping a field changes nothing about the others on the wire.

use emitter_diesel::{Emits, Model};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, to_value};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[emits(key(user_id), create)]
struct UserAccount {
    user_id: i32,
    #[serde(rename = "mail")]
    email_address: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    nick_name: Option<String>,
    #[serde(with = "shouting")]
    last_word: String,
    #[emits(skip)]
    password_hash: String,
}

mod shouting {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&text.to_uppercase())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        String::deserialize(deserializer).map(|text| text.to_lowercase())
    }
}

/// serde under another path, as in a crate that re-exports it.
mod reexport {
    pub use serde as ser;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[serde(crate = "crate::reexport::ser")]
#[emits(create)]
struct Elsewhere {
    id: i32,
    #[emits(skip)]
    secret: String,
}

fn main() {
    let account = UserAccount {
        user_id: 1,
        email_address: "a@b".into(),
        nick_name: None,
        last_word: "bye".into(),
        password_hash: "x".into(),
    };
    let mut whole = to_value(&account).unwrap();
    let hidden = whole.as_object_mut().unwrap().remove("passwordHash");
    assert_eq!(hidden, Some(Value::from("x")));
    let row = account.to_row(None);
    assert_eq!(to_value(&row).unwrap(), whole);
    assert_eq!(whole, json!({ "userId": 1, "mail": "a@b", "lastWord": "BYE" }));
    assert_eq!(serde_json::from_value::<UserAccountRow>(whole).unwrap(), row);
    assert_eq!(to_value(Elsewhere { id: 1, secret: "x".into() }.to_row(None)).unwrap(), json!({ "id": 1 }));
}
