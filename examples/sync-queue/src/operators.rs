//! A travel agency's operators, whose changes go to the head office: the models, the queue's workers, the configuration. This
//! is what an application writes.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::error::Error;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::ConnectionResult;
use emitter_diesel::dead_letters::DeadLetters;
use emitter_diesel::outbox::Outbox;
use emitter_diesel::tables::Tables;
use emitter_diesel::{Context, Emits, Emitter, Event, State, listener};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::office::HeadOffice;

diesel::table! { operators { id -> BigInt, name -> Text, phone -> Text, status -> Text, } }
diesel::table! { visits { id -> BigInt, operator_id -> BigInt, } }

/// Each change is in the queue exactly if its transaction is committed (`durable`), with the row as it was (`before`). Nobody
/// but the workers of this service hears of it (`local`).
#[derive(Debug, Clone, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create, update, delete, durable, before, local)]
pub(crate) struct Operator {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) phone: String,
    pub(crate) status: String,
}

/// Somebody looked at an operator's page. The write does not wait for the queue: the event is in it a moment later (`queued`),
/// and a process that is killed in this moment loses it.
#[derive(Debug, Clone, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create, queued, local)]
pub(crate) struct Visit {
    pub(crate) id: i64,
    pub(crate) operator_id: i64,
}

type Pushed = Result<(), Box<dyn Error + Send + Sync>>;

/// Works the queue off. While a push fails it is tried again, and later changes of that operator wait; those of others do not.
/// It may be made twice, which the office knows by the idempotency key.
#[listener(model = "operator", retry(attempts = 5, backoff = "50ms", jitter = "0ms"))]
async fn push_operator(event: Event<OperatorEvent>, call: Context, office: State<HeadOffice>) -> Pushed {
    let fields = match &*event {
        OperatorEvent::Created(created) => serde_json::to_value(&created.row)?,
        OperatorEvent::Updated(updated) => changes(updated)?,
        OperatorEvent::Deleted(_) => Value::Null,
    };
    let record = format!("operator {}", event.key());
    office.push(&call.idempotency_key(), &record, event.operation(), fields).await
}

#[listener(model = "visit", retry(attempts = 5, backoff = "50ms", jitter = "0ms"))]
async fn push_visit(event: Event<VisitCreated>, call: Context, office: State<HeadOffice>) -> Pushed {
    let (record, fields) = (format!("visit {}", event.key()), serde_json::to_value(&event.row)?);
    office.push(&call.idempotency_key(), &record, event.operation(), fields).await
}

/// What changed and nothing else, before and after.
fn changes(update: &OperatorUpdated) -> serde_json::Result<Value> {
    let (before, after) = (serde_json::to_value(&update.before)?, serde_json::to_value(&update.after)?);
    let of_column = |column: &'static str| (column, json!([before[column], after[column]]));
    Ok(update.changed().columns().map(of_column).collect())
}

/// A server of the agency.
pub(crate) async fn start(database: &str, office: HeadOffice) -> Result<Emitter, Box<dyn Error>> {
    let tables = tables(database).migrate();
    let emitter = Emitter::builder()
        .service("agency")
        .node("server-1") // the same after a restart: what its last life left undone is its own
        .with(Outbox::new(tables.clone()))
        .with(DeadLetters::new(tables))
        .state(office)
        .require("push_operator")
        .require("push_visit");
    Ok(emitter.start().await?)
}

/// Where the queue is: in the database of the rows.
pub(crate) fn tables(database: &str) -> Tables {
    let database = database.to_owned();
    Tables::new(move || connect(&database))
}

/// On a server: a pool.
pub(crate) fn connect(database: &str) -> ConnectionResult<SqliteConnection> {
    let mut connection = SqliteConnection::establish(database)?;
    let set_up = connection.batch_execute("PRAGMA busy_timeout = 20000; PRAGMA journal_mode = WAL");
    set_up.map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}
