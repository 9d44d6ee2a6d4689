//! How far listeners are with events with which something went wrong.

use emitter_core::EventId;
use emitter_core::record::{Progress, Standing};

use super::{FAILED, Store};
use crate::tables::{Dialect, list_of};

/// It is called again.
pub(crate) const RETRYING: &str = "RETRYING";
/// It is done with the event.
pub(crate) const HANDLED: &str = "HANDLED";

/// What [`Standing`] is called in the table; `None` of what is not there.
pub(crate) const fn status(standing: Standing) -> Option<&'static str> {
    match standing {
        Standing::Retrying(_) => Some(RETRYING),
        Standing::Handled => Some(HANDLED),
        Standing::GivenUp => Some(FAILED),
        // Its filter says so again, and costs nothing.
        Standing::HeldBack => None,
    }
}

impl Store {
    /// Writes down how far a listener is that is called again in so many milliseconds, if it is. Nothing is written of
    /// an event that is in the outbox no more, nor over an end.
    pub(crate) fn account(
        &self,
        event: EventId,
        service: &str,
        progress: &Progress,
        delay: i64,
    ) -> Option<String> {
        let Self { dialect, names } = self;
        let (ledger, outbox) = (names.table("ledger"), names.table("outbox"));
        let status = status(progress.standing)?;
        let is_called_again = matches!(progress.standing, Standing::Retrying(_));
        let next = if is_called_again { format!("{} + {delay}", dialect.now()) } else { "0".to_owned() };
        let mut error = String::new();
        dialect.optional(&mut error, progress.error.as_deref());
        let id = match dialect {
            Dialect::Postgres => format!("CAST('{event}' AS UUID)"),
            Dialect::Sqlite | Dialect::MySql => format!("'{event}'"),
        };
        let alias = if *dialect == Dialect::MySql { "" } else { " AS l" };
        let row = format!(
            "INSERT INTO {ledger}{alias} (event_id, listener, service, status, attempts, last_error, next_attempt, updated_at) \
             SELECT {id}, {}, {}, '{status}', {}, {error}, {next}, {} FROM (SELECT 1 AS one) AS v \
             WHERE EXISTS (SELECT 1 FROM {outbox} o WHERE o.event_id = {id})",
            dialect.quoted(&progress.listener),
            dialect.quoted(service),
            progress.attempts.min(i32::MAX.unsigned_abs()),
            dialect.timestamp(),
        );
        Some(match dialect {
            Dialect::Postgres | Dialect::Sqlite => format!(
                "{row} ON CONFLICT (event_id, listener, service) DO UPDATE SET status = excluded.status, \
                 attempts = excluded.attempts, last_error = COALESCE(excluded.last_error, l.last_error), \
                 next_attempt = excluded.next_attempt, updated_at = excluded.updated_at WHERE l.status = '{RETRYING}'"
            ),
            // It sets columns one after the other, so what is asked is set last.
            Dialect::MySql => format!(
                "{row} ON DUPLICATE KEY UPDATE attempts = IF(status = '{RETRYING}', VALUES(attempts), attempts), \
                 last_error = IF(status = '{RETRYING}', COALESCE(VALUES(last_error), last_error), last_error), \
                 next_attempt = IF(status = '{RETRYING}', VALUES(next_attempt), next_attempt), \
                 updated_at = IF(status = '{RETRYING}', VALUES(updated_at), updated_at), \
                 status = IF(status = '{RETRYING}', VALUES(status), status)"
            ),
        })
    }

    /// How far these listeners were with these events.
    pub(crate) fn accounts(&self, service: &str, events: &[String], listeners: &[String]) -> String {
        let quoted = |texts: &[String]| list_of(texts.iter().map(|text| self.dialect.quoted(text)));
        let events = events.iter().map(|event| match self.dialect {
            Dialect::Postgres => format!("CAST({} AS UUID)", self.dialect.quoted(event)),
            Dialect::Sqlite | Dialect::MySql => self.dialect.quoted(event),
        });
        format!(
            "SELECT {} FROM {} l WHERE l.event_id IN ({}) AND l.listener IN ({}) AND l.service = {}",
            self.account_columns("CAST(NULL AS CHAR(1))"),
            self.names.table("ledger"),
            list_of(events),
            quoted(listeners),
            self.dialect.quoted(service),
        )
    }

    /// Those for which this holds, in order, at most so many. Nobody waits for a listener that is there no more, when
    /// all others are done.
    pub(crate) fn ledger(&self, which: &str, most: usize) -> String {
        format!(
            "SELECT {} FROM {} l WHERE {which} AND (l.status <> '{RETRYING}' \
             OR EXISTS (SELECT 1 FROM {} o WHERE o.event_id = l.event_id)) \
             ORDER BY l.event_id, l.listener, l.service LIMIT {most}",
            self.account_columns("l.last_error"),
            self.names.table("ledger"),
            self.names.table("outbox"),
        )
    }

    fn account_columns(&self, error: &str) -> String {
        let (event, updated) = match self.dialect {
            Dialect::Postgres => (
                "CAST(l.event_id AS TEXT) AS event_id",
                "CAST(extract(epoch FROM l.updated_at) * 1000 AS BIGINT)",
            ),
            Dialect::Sqlite => {
                ("l.event_id", "CAST(round((julianday(l.updated_at) - 2440587.5) * 86400000) AS INTEGER)")
            }
            Dialect::MySql => {
                ("l.event_id", "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', l.updated_at) DIV 1000")
            }
        };
        format!(
            "{event}, l.listener, l.service, l.status, l.attempts, {error} AS last_error, l.next_attempt, \
             {} AS now, {updated} AS updated",
            self.dialect.now()
        )
    }
}
