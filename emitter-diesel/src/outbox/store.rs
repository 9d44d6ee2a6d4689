//! What is asked of the tables, as SQL.

use emitter_core::emit::QoS;
use emitter_core::transport::Properties;

use crate::tables::{Dialect, Names};

mod history;
mod inheritance;
mod leases;
mod ledger;
mod publishing;
mod standing;
mod writing;

pub(crate) use self::history::Kept;
pub(crate) use self::ledger::{HANDLED, RETRYING};
pub(crate) use self::publishing::{Due, Next, Reading, Settled, Unsettled};

/// How the statements of one outbox are written.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) dialect: Dialect,
    pub(crate) names: Names,
}

impl Store {
    /// What is read of a row of the outbox, called `o`.
    fn columns(&self) -> String {
        let handled_here = format!(
            "CASE WHEN o.handler IS NULL THEN 0 WHEN o.status = '{PROCESSING}' AND o.sequence IS NULL THEN 2 ELSE 1 END"
        );
        self.columns_with(&handled_here)
    }

    /// The same of a settled row.
    fn settled_columns(&self) -> String {
        self.columns_with("0")
    }

    fn columns_with(&self, handled_here: &str) -> String {
        let text = |column| match self.dialect {
            Dialect::Postgres => format!("CAST(o.{column} AS TEXT) AS {column}"),
            Dialect::Sqlite | Dialect::MySql => format!("o.{column}"),
        };
        format!(
            "o.id, o.lane, {}, o.model, o.record_id, o.by_model, o.park, o.topic, o.qos, {}, o.properties, o.retries, o.sequence, \
             o.stream, {handled_here} AS handled_here",
            text("event_id"),
            text("payload"),
        )
    }

    /// An event's id as a text.
    fn event_id(&self) -> &'static str {
        match self.dialect {
            Dialect::Postgres => "CAST(event_id AS TEXT)",
            Dialect::Sqlite | Dialect::MySql => "event_id",
        }
    }

    /// Deletes such rows of the outbox, which an index finds on MySQL.
    fn delete(&self, index: &str, such: &str) -> String {
        let outbox = self.names.table("outbox");
        match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => format!("DELETE FROM {outbox} WHERE {such}"),
            // A short table it would rather read as a whole, and wait at each row that somebody writes until he commits: a process
            // that was frozen in between would hold up all relays.
            Dialect::MySql => format!("DELETE {outbox} FROM {outbox} FORCE INDEX ({index}) WHERE {such}"),
        }
    }

    /// The database's clock.
    pub(crate) fn clock(&self) -> String {
        format!("SELECT 'clock' AS text, {} AS number", self.dialect.now())
    }

    /// What is said on a new connection, besides what every one is told: it is told of what others commit.
    pub(crate) fn listen(&self) -> Option<String> {
        // A bitmap scan leaves dead entries of an index as they are, and each claim would visit the rows of all of them until the next
        // VACUUM; an index scan marks them when it has met them once.
        (self.dialect == Dialect::Postgres)
            .then(|| format!("SET enable_bitmapscan = off; LISTEN {}", self.names.index("outbox")))
    }
}

/// What queue and history have in common, but for the number.
const COLUMNS: &str = "id, event_id, action, model, record_id, payload, retries, last_error, created_at, operation, topic, \
                       qos, properties, lane, by_model, park, trace_id, idempotency_key";

/// To be published.
pub(crate) const PENDING: &str = "PENDING";
/// Was refused, and waits for its next attempt; what comes after it waits with it.
pub(crate) const WAITING: &str = "WAITING";
/// Published, or not to be: listeners of the node that wrote work on it.
pub(crate) const PROCESSING: &str = "PROCESSING";
/// No program that is there can read it.
pub(crate) const UNREADABLE: &str = "UNREADABLE";
/// No program that is there has a listener for it.
pub(crate) const ORPHANED: &str = "ORPHANED";
/// Nothing is left to be done.
pub(crate) const COMPLETED: &str = "COMPLETED";
/// Given up.
pub(crate) const FAILED: &str = "FAILED";

/// What travels beside an event that has no trace, in the specification's form.
pub(crate) fn usual_properties(event: &str) -> Properties {
    Properties::of_type("application/json").with("eventId", event)
}

const fn qos_number(qos: QoS) -> u8 {
    match qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce => 1,
        QoS::ExactlyOnce => 2,
    }
}

pub(crate) const fn qos(number: i16) -> Option<QoS> {
    match number {
        0 => Some(QoS::AtMostOnce),
        1 => Some(QoS::AtLeastOnce),
        2 => Some(QoS::ExactlyOnce),
        _ => None,
    }
}
