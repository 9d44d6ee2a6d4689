//! Each type that can be a key.

use emitter_diesel::{Emits, Key, Model};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

macro_rules! keys {
    ($($model:ident: $type:ty = $value:expr => $key:expr;)*) => {
        $(
            #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
            #[emits(create)]
            struct $model {
                id: $type,
            }
        )*

        fn main() {
            $(assert_eq!($model::key(&$model { id: $value }), $key);)*
        }
    };
}

keys! {
    ByI16: i16 = -1 => Key::Int(-1);
    ByI32: i32 = 1 => Key::Int(1);
    ByI64: i64 = i64::MIN => Key::Int(i64::MIN);
    ByU32: u32 = u32::MAX => Key::Int(4_294_967_295);
    ByU64: u64 = u64::MAX => Key::Uint(u64::MAX);
    ByBool: bool = true => Key::Int(1);
    ByString: String = "a".into() => Key::Text("a".into());
    ByArc: Arc<str> = "a".into() => Key::Text("a".into());
}
