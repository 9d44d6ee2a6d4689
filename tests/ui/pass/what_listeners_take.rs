use emitter_diesel::{Context, Emits, Event, State, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct User {
    id: i32,
}

struct Cache;

#[listener(model = "user")]
async fn event_alone(_: Event<UserCreated>) {}

#[listener(model = "user")]
async fn two_states(event: Event<UserCreated>, cache: State<Cache>, names: State<Vec<String>>) {
    let _ = (event.row.id, cache, names);
}

#[listener(model = "USER")]
async fn states_first(mut cache: State<Cache>, State { .. }: State<u8>, mut event: Event<UserUpdated>) {
    (cache, event) = (cache.clone(), event.clone());
    let _ = (cache, event);
}

#[listener(model = "user")]
fn one_state_twice(first: State<Cache>, event: Event<UserEvent>, second: State<Cache>) {
    let _ = (first, event, second);
}

#[listener(remote_only, allow_remote, model = "user")]
fn whole_paths(event: ::emitter_diesel::Event<self::UserEvent>, cache: ::emitter_diesel::State<self::Cache>) {
    let _ = (event, cache);
}

#[listener(model = User)]
fn a_context(context: Context, event: Event<UserEvent>, cache: State<Cache>) {
    let _ = (context.attempt(), event, cache);
}

#[listener(model = self::User)]
async fn contexts(first: emitter_diesel::Context, event: Event<UserEvent>, second: Context) {
    let _ = (first, event, second);
}

#[listener(model = "user", name = "any name", ordered, concurrency = 1, timeout = "1 min", retry(attempts = 1))]
async fn options(_: Event<UserEvent>) {}

#[listener(model = "user", unordered, retry(backoff = "100ms", jitter = "0s", budget = "1h"))]
async fn more_options(_: Event<UserEvent>) {}

#[allow(unused_mut)]
#[listener(model = "user",)]
/// Documented, and with another attribute.
#[inline]
pub(crate) async fn attributes(#[allow(unused)] mut event: Event<UserEvent>) {}

fn main() {}
