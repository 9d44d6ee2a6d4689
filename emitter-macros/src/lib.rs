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
mod time;

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
/// `UserUpserted`, `UserDeleted`, `UserDeletedMany`), the enum of them (`UserEvent`), and, for a
/// model that is updated, `UserDiff`: what an update changed, with a method for each column, so
/// that `event.changed().status()` is the old and the new status, if it changed.
///
/// On the struct, `#[emits(…)]`:
/// - the operations `create`, `create_many`, `update`, `update_many`, `upsert`, `delete`,
///   `delete_many`, or `all`; at least one.
/// - `model = "…"`: the name in topics and envelopes. Default: the struct's name in camelCase.
///   Spell it the same on all nodes: brokers tell upper from lower case.
/// - `local`: its events stay on the node that wrote. `remote`: they only go to other nodes.
///   Default: both. A call that asks for what the model forbids does not compile.
/// - `qos = 0`, `1` or `2`: how hard is tried to bring its events to other nodes, as MQTT has it;
///   default 1, at least once. `delete(qos = 2)` is that of one operation.
/// - `expires = "1h"`: how long its events are worth anything to other nodes, from when they are
///   published; default: for ever. Over MQTT 5 the broker drops later ones, too.
/// - `before`: updates carry the row as it was, whoever listens. Default: where a listener of the
///   node that writes wants it. `before = "changed"`: they carry of it what was in the columns that differ; listeners
///   are handed the row as it was, and what is sent and stored is smaller by the other columns. It is sent whole where
///   the rows before and after have not the same columns (`skip_serializing_if`).
/// - `durable`: its events are written into the outbox of the database with the rows that they tell of, as if each
///   call said `.durable()`. (`emitter.publish(…)` is in no transaction, and not durable.)
/// - `park`: when one of its durable events is given up, later ones of its key wait until somebody has it sent again
///   or discards it. Default: they go on without it.
/// - `queued`: its events are written into the outbox once their transaction is committed, as if each call said
///   `.queued()`, and `emitter.publish(…)` as well.
/// - `topic = "shop/users"`: the levels between prefix and operation. Default: the model's name.
/// - `version = 2`: of the row's shape, from 1 on, the default. `earlier(UserV1, UserV2)` names the
///   types of the versions right before, oldest first: an event of such a version is read as that
///   type, and made into the next one by `From`, up to the row.
/// - `event`, instead of operations, for what is no row: the struct is an event itself, told by
///   `emitter.publish(LoginFailed { … })` and heard as `Event<LoginFailed>`. Its name is the struct's in
///   snake_case by default, its topic has no operation, and it needs no key: `key(…)` gives its events an
///   order. `kind = "…"` is what CloudEvents and the tracker form call it, by default its name. An event holds
///   what is to be told, so its fields can neither be skipped nor hidden.
/// - `key(a, b)`: the fields that tell rows apart. Default: Diesel's
///   `#[diesel(primary_key(…))]`, else `id`.
/// - `crate = path`: where the framework is, when it is not a dependency under its own name.
///
/// On a field:
/// - `skip`: the field is absent from `UserRow`, hence from every listener, message and log.
/// - `redact`: in `UserRow` it is a `Redacted`, which has no value.
/// - `hash`: in `UserRow` it is a `Hashed`, HMAC-SHA256 of the value's JSON under the key of
///   `Builder::hash_key`, without which the program does not start.
/// - `sensitive_ok = "reason"`: a field whose name looks secret (`password`, `token`, `api_key`,
///   `…_hash`, `iban` and the like) may be in events all the same. Without one of the four it does
///   not compile.
///
/// A generic struct is one model for each of its types, under one name: an emitter can have one of
/// them.
///
/// Without a hidden field `UserRow` is the struct itself, which must be `Clone`, `Serialize` and
/// `Deserialize`; else `UserRow` is generated, takes over serde's attributes, and needs field
/// types that are `Debug`, `Clone`, `PartialEq`, `Serialize` and `Deserialize`. Columns of a model
/// that is updated are compared, so their types must be `PartialEq`.
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
/// - `model = "user"` or `model = User`: the model by its name or its type, checked against the
///   parameter's type.
/// - `name = "…"`: how logs and `.require(…)` call it. Default: the function's name.
/// - `allow_remote`: hears what other nodes wrote too. Without it, and without `remote_only`,
///   only what this node wrote.
/// - `remote_only`: hears only what other nodes wrote.
/// - `every_instance`, the default: each node that may hear an event does. `group = "billing"`: one
///   node of the service does, whichever wrote; those with a listener of that group share the events.
/// - Filters, of which all have to let the event through: `where(id = 1)` for what the row is,
///   `data(status = "ACTIVE")` and `data(status)` for what the write set,
///   `data(status: "DRAFT" -> "PUBLISHED")`, `changed(email, phone)`, `enters(status = "ACTIVE")`
///   and `leaves(status = "ACTIVE")` for what became of it. A value may be a list,
///   `["ACTIVE", "BLOCKED"]`, `None` for NULL, or a predicate, `|status| status.is_empty()`;
///   instead of a column there may be a predicate of the row, `where(|row| row.total > 100)`.
///   What each means for each operation stands in the module `filter`.
/// - `timeout = "5s"`, `concurrency = 8`, `retry(attempts = 5, backoff = "1s", jitter = "250ms",
///   budget = "1min")`, each part of it optional: where this listener differs from the builder's
///   `listener_timeout`, `listener_concurrency` and `listener_retry`. `attempts = 1` is no retry.
/// - `unordered`: calls for events of one key may run side by side and in any order. Default:
///   `ordered`.
/// - `before`: wants the row as it was before an update, for `event.before` and the old values in
///   `event.changed()`. The filters `changed`, `enters`, `leaves` and `… -> …` say it of themselves.
/// - `crate = path`: where the framework is, when it is not a dependency under its own name.
///
/// The function takes one `Event<T>`, where `T` is the model's enum (all operations), one of its event
/// types (that operation), or an event that is no row; any number of `State<T>`, a `Context` if it
/// wants to know the attempt or write in turn, and, of `emitter-diesel`, an `InboxTx<'_, C>` if it is to mark the
/// event in the transaction of its effect. It is async, or plain (then each call runs on a thread that
/// may block), and returns `()` or `Result<(), E>` for any `E` that can be displayed.
#[proc_macro_attribute]
pub fn listener(attribute: TokenStream, function: TokenStream) -> TokenStream {
    listener::attribute(attribute.into(), &function.into()).into()
}
