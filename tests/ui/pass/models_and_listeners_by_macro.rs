//! `macro_rules!` hands types and literals over in invisible parentheses.

use emitter_diesel::{Emits, Event, Model, State, listener};
use serde::{Deserialize, Serialize};

macro_rules! model {
    ($name:literal, $model:ident, $key:ident: $type:ty, $event:ty, $listener:ident, $parameter:ty, $state:ty) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
        #[emits(model = $name, key($key), create)]
        struct $model {
            $key: $type,
            #[emits(skip)]
            secret: String,
        }

        #[listener(model = $name)]
        async fn $listener(event: $parameter, state: $state) -> Result<(), String> {
            let _ = (event, state);
            Ok(())
        }
    };
}

model!("user", User, id: i32, UserEvent, on_user, Event<UserEvent>, State<String>);
model!("role", Role, name: String, RoleCreated, on_role, Event<RoleCreated>, State<i32>);

fn main() {
    assert_eq!(User { id: 1, secret: String::new() }.to_row(None), UserRow { id: 1 });
    assert_eq!((User::NAME, Role::NAME), ("user", "role"));
}
