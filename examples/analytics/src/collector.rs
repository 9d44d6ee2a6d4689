//! The service that collects: what it listens to, where that ends up, and how it starts.

use diesel::connection::SimpleConnection;
use diesel::dsl::count_star;
use diesel::prelude::*;
use emitter_diesel::inbox::{Inbox, InboxTx};
use emitter_diesel::mirror::Mirror;
use emitter_diesel::tables::Tables;
use emitter_diesel::{Emitter, Event, StartError, listener};

use crate::services::OrderCreated;

diesel::table! { turnover (service) { service -> Text, orders -> BigInt, cents -> BigInt, } }

diesel::table! {
    /// What the mirror writes, as far as it is counted here.
    emitter_events_mirror {
        id -> BigInt,
        service -> Nullable<Text>,
        model -> Nullable<Text>,
        operation -> Nullable<Text>,
    }
}

/// What other services sell. The sum is written in the transaction in which the event is marked as heard, so an event
/// that comes twice is added once.
#[listener(model = "order", allow_remote, remote_only)]
fn add_up(event: Event<OrderCreated>, mut tx: InboxTx<'_, SqliteConnection>) -> QueryResult<()> {
    let service = event.origin().map_or("unknown", |origin| &origin.service);
    let first = (turnover::service.eq(service), turnover::orders.eq(1), turnover::cents.eq(event.row.cents));
    let more =
        (turnover::orders.eq(turnover::orders + 1), turnover::cents.eq(turnover::cents + event.row.cents));
    let sum = diesel::insert_into(turnover::table).values(first).on_conflict(turnover::service);
    sum.do_update().set(more).execute(&mut *tx)?;
    Ok(())
}

/// The mirror writes down every event of every service, also of those whose models this program does not know.
pub(crate) async fn start(broker: &str, database: &str) -> Result<Emitter, StartError> {
    let (path, path_of_inbox) = (database.to_owned(), database.to_owned());
    let tables = Tables::new(move || connect(&path)).migrate();
    Emitter::builder()
        .service("analytics")
        .node("collector-1")
        .mqtt(broker)
        .with(Mirror::new(tables.clone()))
        .with(Inbox::new(tables, move || connect(&path_of_inbox).map(Box::new)))
        .require("add_up")
        .start()
        .await
}

/// Service, model, operation, and how many events of them there are.
pub(crate) type Count = (Option<String>, Option<String>, Option<String>, i64);

pub(crate) fn counts(db: &mut SqliteConnection) -> QueryResult<Vec<Count>> {
    use self::emitter_events_mirror::{model, operation, service, table};
    let by = (service, model, operation);
    table.group_by(by).select((service, model, operation, count_star())).order(by).load(db)
}

/// Service, orders, cents.
pub(crate) fn turnovers(db: &mut SqliteConnection) -> QueryResult<Vec<(String, i64, i64)>> {
    turnover::table.order(turnover::service).load(db)
}

/// A connection to the collector's database: its threads write into one file, so each waits for the others.
pub(crate) fn connect(file: &str) -> ConnectionResult<SqliteConnection> {
    let mut connection = SqliteConnection::establish(file)?;
    let set_up = connection.batch_execute(
        "PRAGMA busy_timeout = 20000; PRAGMA journal_mode = WAL;
         CREATE TABLE IF NOT EXISTS turnover (service TEXT PRIMARY KEY, orders BIGINT NOT NULL, cents BIGINT NOT NULL)",
    );
    set_up.map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}
