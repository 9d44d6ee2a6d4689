//! `#[derive(Emits)]` and `#[listener]`.
//!
//! Each macro is a small compiler in three files: `attr` reads what the user wrote, `model`
//! decides everything, with all mistakes at once, and `expand` prints. The expansions only call
//! ordinary functions of `emitter-core`, through `emitter-diesel` where the user depends on that.

use proc_macro::TokenStream;

mod crate_path;
mod emits;
mod errors;
mod listener;

#[cfg(test)]
mod tests;

/// Makes the changes of a model events.
///
/// ```ignore
/// #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
/// #[emits(model = "user", create, update, update_many, upsert, delete)]
/// struct User {
///     id: i32,
///     name: String,
///     #[emits(skip)]
///     password_hash: String,
/// }
/// ```
///
/// It writes the type of the row that listeners are handed (`UserRow`), one event type for each
/// enabled operation (`UserCreated`, `UserCreatedMany`, `UserUpdated`, `UserUpdatedMany`,
/// `UserUpserted`, `UserDeleted`, `UserDeletedMany`), and the enum of them (`UserEvent`).
///
/// On the struct, `#[emits(…)]`:
/// - the operations `create`, `create_many`, `update`, `update_many`, `upsert`, `delete`,
///   `delete_many`, or `all`; at least one.
/// - `model = "…"`: the name in topics and envelopes. Default: the struct's name in camelCase.
///   Spell it the same on all nodes: brokers tell upper from lower case.
/// - `key(a, b)`: the fields that tell rows apart. Default: Diesel's
///   `#[diesel(primary_key(…))]`, else `id`.
/// - `crate = path`: where the framework is, when it is not a dependency under its own name.
///
/// On a field:
/// - `#[emits(skip)]`: the field is absent from `UserRow`, hence from every listener, message and
///   log.
///
/// Without a skipped field `UserRow` is the struct itself, which must be `Clone`, `Serialize` and
/// `Deserialize`; else `UserRow` is generated, takes over serde's attributes, and needs field
/// types that are `Debug`, `Clone`, `PartialEq`, `Serialize` and `Deserialize`.
#[proc_macro_derive(Emits, attributes(emits))]
pub fn derive_emits(input: TokenStream) -> TokenStream {
    emits::derive(input.into()).into()
}

/// Makes a function a listener, registered when the program is linked.
///
/// ```ignore
/// /// On every server, wherever the user was changed.
/// #[listener(model = "user", allow_remote)]
/// async fn forget(event: Event<UserEvent>, cache: State<Cache>) -> Result<(), CacheError> {
///     event.keys().iter().try_for_each(|key| cache.remove(key))
/// }
/// ```
///
/// - `model = "…"`: the model's name, checked against the parameter's type.
/// - `allow_remote`: hears what other nodes wrote too. Without it, and without `remote_only`,
///   only what this node wrote.
/// - `remote_only`: hears only what other nodes wrote.
/// - `crate = path`: where the framework is, when it is not a dependency under its own name.
///
/// The function takes one `Event<T>`, where `T` is the model's enum (all operations) or one of
/// its event types (that operation), and any number of `State<T>`. It is async, or plain (then
/// each call runs on a thread that may block), and returns `()` or `Result<(), E>` for any `E`
/// that can be displayed.
#[proc_macro_attribute]
pub fn listener(attribute: TokenStream, function: TokenStream) -> TokenStream {
    listener::attribute(attribute.into(), &function.into()).into()
}
