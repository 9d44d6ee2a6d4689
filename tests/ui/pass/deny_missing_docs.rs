//! What is generated is documented.
#![deny(missing_docs)]

/// Public, so that everything in it has to be documented.
pub mod shop {
    use emitter_diesel::{Emits, Event, State, listener};
    use serde::{Deserialize, Serialize};

    /// A user.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
    #[emits(all)]
    pub struct User {
        /// The key.
        pub id: i32,
        name: String,
        /// For nobody's eyes.
        #[emits(skip)]
        pub password_hash: String,
    }

    /// A role.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
    #[emits(create)]
    pub struct Role {
        /// The key.
        pub id: i32,
    }

    /// Hears of users.
    #[listener(model = "user", allow_remote)]
    pub async fn on_user(event: Event<UserEvent>, names: State<String>) -> Result<(), String> {
        let _ = (event, names);
        Ok(())
    }

    /// Hears of roles.
    #[listener(model = "role", remote_only)]
    pub fn on_role(event: Event<RoleCreated>) {
        drop(event);
    }

    /// A struct that allows itself what the crate denies.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
    #[emits(create)]
    #[allow(missing_docs)]
    pub struct Undocumented {
        pub id: i32,
        #[emits(skip)]
        pub secret: String,
    }
}

fn main() {}
