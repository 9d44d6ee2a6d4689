//! The expansion names everything by its whole path.

#![allow(dead_code, non_camel_case_types)]

mod shop {
    use ::emitter_diesel::{Emits, listener};
    use ::serde::{Deserialize, Serialize};

    struct Option;
    struct Result;
    struct Some;
    struct None;
    struct Ok;
    struct Event;
    struct Key;
    struct Operation;
    struct Model;
    trait Clone {}
    mod core {}
    mod std {}
    mod emitter_diesel {}
    mod emitter_core {}

    #[derive(::core::fmt::Debug, ::core::clone::Clone, Serialize, Deserialize, Emits)]
    #[emits(all)]
    pub struct User {
        id: i32,
        #[emits(skip)]
        password_hash: ::std::string::String,
    }

    #[listener(model = "user")]
    async fn on_user(event: ::emitter_diesel::Event<UserEvent>) {
        drop(event);
    }
}

fn main() {}
