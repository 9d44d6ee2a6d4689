//! Listeners that mark events in the transaction of their effects.

use diesel::prelude::*;
use emitter_diesel::inbox::InboxTx;
use emitter_diesel::{Context, Emit, Emits, Event, State, listener, update};
use serde::{Deserialize, Serialize};

diesel::table! { users { id -> Integer, name -> Text, } }

#[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct User {
    id: i32,
    name: String,
}

#[listener(model = "user")]
fn alone(_: Event<UserCreated>, _: InboxTx<'_, SqliteConnection>) {}

#[listener(model = "user", data(name = "alice"))]
fn in_any_order(
    names: State<Vec<String>>,
    mut tx: emitter_diesel::inbox::InboxTx<'_, diesel::SqliteConnection>,
    event: Event<UserUpdated>,
    context: Context,
) -> QueryResult<()> {
    let _ = (context.attempt(), names);
    // Diesel's own, in a savepoint, and with an event.
    users::table.count().get_result::<i64>(&mut *tx)?;
    tx.transaction(|conn| diesel::delete(users::table.find(event.after.id)).execute(conn))?;
    let renamed = update(users::table.find(event.after.id)).set(users::name.eq("bob"));
    let _: User = renamed.emit().get_result(&mut *tx)?;
    Ok(())
}

#[listener(model = "user", retry(attempts = 1))]
fn another_error(__tx: Event<UserEvent>, mut __transaction: InboxTx<'_, SqliteConnection>) -> Result<(), String> {
    let _ = __tx;
    users::table.count().get_result::<i64>(&mut *__transaction).map_err(|error| error.to_string())?;
    Ok(())
}

fn main() {}
