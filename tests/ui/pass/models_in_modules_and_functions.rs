//! What is generated is as visible as the model.

mod private {
    use emitter_diesel::{Emits, Event, listener};
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
    #[emits(create)]
    pub(crate) struct User {
        pub(crate) id: i32,
        #[emits(skip)]
        #[allow(dead_code)]
        password_hash: String,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
    #[emits(create)]
    pub(super) struct Role {
        pub(in crate::private) id: i32,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
    #[emits(create)]
    struct Hidden {
        id: i32,
    }

    #[listener(model = "hidden")]
    async fn on_hidden(event: Event<HiddenCreated>) {
        drop(event);
    }
}

use emitter_diesel::{Emits, Event, Model, listener};
use private::{RoleCreated, UserCreated, UserRow};
use serde::{Deserialize, Serialize};

#[listener(model = "user")]
async fn on_user(event: Event<UserCreated>) {
    let UserRow { id } = event.row;
    let _ = id;
}

#[listener(model = "role")]
async fn on_role(event: Event<RoleCreated>) {
    drop(event);
}

fn main() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
    #[emits(create)]
    struct Local {
        id: i32,
        #[emits(skip)]
        #[allow(dead_code)]
        secret: String,
    }

    #[listener(model = "local")]
    fn on_local(event: Event<LocalEvent>) {
        drop(event);
    }

    assert_eq!(Local::NAME, "local");
    assert_eq!(emitter_diesel::registry::Registration::all().count(), 4);
}
