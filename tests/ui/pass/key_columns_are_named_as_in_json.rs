//! Every name that serde can give a column, against serde itself.

#![allow(non_snake_case)]

use emitter_diesel::{Emits, Model};
use serde::{Deserialize, Serialize};
use serde_json::Value;

fn check<M: Model>(row: &M::Row) {
    let Ok(Value::Object(json)) = serde_json::to_value(row) else { panic!("a row is an object") };
    let mut written: Vec<&str> = json.keys().map(String::as_str).collect();
    let mut known = M::KEY_COLUMNS.to_vec();
    written.sort_unstable();
    known.sort_unstable();
    assert_eq!(known, written, "{}", M::NAME);
}

/// A model of which every column is in the key.
macro_rules! models {
    ($($model:ident $(#[$attribute:meta])*;)*) => {
        $(
            #[derive(Default, Clone, Serialize, Deserialize, Emits)]
            #[emits(key(id, user_id, a_b_c, a1_2b, _x, y_, z__z, größe, r#type, renamed, written), create)]
            $(#[$attribute])*
            struct $model {
                id: i32,
                user_id: i32,
                a_b_c: i32,
                a1_2b: i32,
                _x: i32,
                y_: i32,
                z__z: i32,
                größe: i32,
                r#type: i32,
                #[serde(rename = "Quite another")]
                renamed: i32,
                #[serde(default, rename(serialize = "out", deserialize = "in"), alias = "b")]
                written: i32,
            }
            )*

        fn main() {
            $(check::<$model>(&$model::default());)*
        }
    };
}

models! {
    Plain;
    Lower #[serde(rename_all = "lowercase")];
    Upper #[serde(rename_all = "UPPERCASE")];
    Pascal #[serde(rename_all = "PascalCase")];
    Camel #[serde(rename_all = "camelCase")];
    Snake #[serde(rename_all = "snake_case")];
    ScreamingSnake #[serde(rename_all = "SCREAMING_SNAKE_CASE")];
    Kebab #[serde(rename_all = "kebab-case")];
    ScreamingKebab #[serde(rename_all = "SCREAMING-KEBAB-CASE")];
    Sides #[serde(rename_all(serialize = "camelCase", deserialize = "PascalCase"))];
    Others #[serde(default, bound = "", rename_all = "camelCase")];
}
