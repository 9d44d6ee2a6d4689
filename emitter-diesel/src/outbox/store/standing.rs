//! How an outbox stands, and an operator's hand on it.

use emitter_core::EventId;

use super::{PENDING, Store, WAITING};
use crate::tables::Dialect;

impl Store {
    /// Has all lanes rest, or go on.
    pub(crate) fn pause(&self, pause: bool) -> String {
        format!("UPDATE {} SET paused = {}", self.names.table("lanes"), u8::from(pause))
    }

    /// How many lanes rest.
    pub(crate) fn paused(&self) -> String {
        format!(
            "SELECT 'paused' AS text, COUNT(*) AS number FROM {} WHERE paused <> 0",
            self.names.table("lanes")
        )
    }

    /// How many rows there are of each status; lanes, owned ones, and paused ones.
    pub(crate) fn statuses(&self) -> String {
        let (outbox, lanes) = (self.names.table("outbox"), self.names.table("lanes"));
        let now = self.dialect.now();
        format!(
            "SELECT status AS text, COUNT(*) AS number FROM {outbox} GROUP BY status \
             UNION ALL SELECT 'lanes', COUNT(*) FROM {lanes} \
             UNION ALL SELECT 'owned', COUNT(*) FROM {lanes} WHERE owner IS NOT NULL AND until > {now} \
             UNION ALL SELECT 'paused', COUNT(*) FROM {lanes} WHERE paused <> 0"
        )
    }

    /// Every lane, as `lane/epoch/paused/node`, and for how many milliseconds its lease still lasts.
    pub(crate) fn each_lane(&self) -> String {
        let (lanes, now) = (self.names.table("lanes"), self.dialect.now());
        let text = match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => {
                "lane || '/' || epoch || '/' || paused || '/' || COALESCE(node, '')"
            }
            Dialect::MySql => "CONCAT(lane, '/', epoch, '/', paused, '/', COALESCE(node, ''))",
        };
        format!(
            "SELECT {text} AS text, CASE WHEN owner IS NULL THEN 0 ELSE until - {now} END AS number FROM {lanes} \
             ORDER BY lane"
        )
    }

    /// Every relay that is there, as `takes lanes/node`, and for how many milliseconds it has said so.
    pub(crate) fn each_relay(&self) -> String {
        let (relays, now) = (self.names.table("relays"), self.dialect.now());
        let text = match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => "lanes || '/' || node",
            Dialect::MySql => "CONCAT(lanes, '/', node)",
        };
        format!(
            "SELECT {text} AS text, until - {now} AS number FROM {relays} WHERE until > {now} ORDER BY node, relay"
        )
    }

    /// How many milliseconds ago the first row was written of those that are to be published; of each lane.
    pub(crate) fn oldest_pending(&self) -> String {
        let (outbox, lanes, now) =
            (self.names.table("outbox"), self.names.table("lanes"), self.dialect.now());
        let written = match self.dialect {
            Dialect::Postgres => "(extract(epoch FROM created_at) * 1000)::bigint",
            Dialect::Sqlite => "CAST((julianday(created_at) - 2440587.5) * 86400000 AS INTEGER)",
            Dialect::MySql => "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', created_at) DIV 1000",
        };
        let parts = [PENDING, WAITING].map(|status| {
            format!(
                "SELECT '{status}' AS text, {now} - {written} AS number FROM {outbox} WHERE id IN (SELECT \
                 (SELECT f.id FROM {outbox} f WHERE f.status = '{status}' AND f.lane = l.lane ORDER BY f.id LIMIT 1) \
                 FROM {lanes} l)"
            )
        });
        parts.join(" UNION ALL ")
    }

    /// What there is of an event, in the outbox and in the history, which is read through.
    pub(crate) fn find(&self, event: EventId) -> String {
        // In the outbox it is when it was given up.
        let rows = [("outbox", false), ("history", true)].map(|(table, is_done)| {
            format!(
                "SELECT {} FROM {} WHERE event_id = '{event}'",
                self.row_columns(is_done, true),
                self.names.table(table)
            )
        });
        rows.join(" UNION ALL ")
    }

    /// What is told of a row of the outbox or the history: with the time when it was done, and its event, or without.
    pub(crate) fn row_columns(&self, with_processed: bool, with_payload: bool) -> String {
        let text = |column: &str| match self.dialect {
            Dialect::Postgres => format!("CAST({column} AS TEXT)"),
            Dialect::Sqlite | Dialect::MySql => column.to_owned(),
        };
        let (no_number, no_text) = match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => ("CAST(NULL AS BIGINT)", "CAST(NULL AS TEXT)"),
            Dialect::MySql => ("CAST(NULL AS SIGNED)", "CAST(NULL AS CHAR(1))"),
        };
        let processed = if with_processed { self.millis_of("processed_at") } else { no_number.to_owned() };
        let payload = if with_payload { text("payload") } else { no_text.to_owned() };
        format!(
            "id, status, {} AS event_id, model, record_id, topic, retries, last_error, {} AS created, \
             {processed} AS processed, {payload} AS payload",
            text("event_id"),
            self.millis_of("created_at"),
        )
    }

    /// How far nodes that remember it are in streams, as `outbox/lane/model/node`: how many numbers they are behind what
    /// this outbox has settled last, -1 where the stream is of another one.
    pub(crate) fn behind(&self) -> String {
        let (positions, schema) = (self.names.table("positions"), self.names.table("schema"));
        let streams = self.names.table("streams");
        let text = match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => {
                "p.outbox || '/' || p.lane || '/' || p.model || '/' || p.node"
            }
            Dialect::MySql => "CONCAT(p.outbox, '/', p.lane, '/', p.model, '/', p.node)",
        };
        format!(
            "SELECT {text} AS text, CASE WHEN o.outbox_id IS NULL THEN -1 \
             WHEN COALESCE(s.sequence, 0) > p.sequence THEN COALESCE(s.sequence, 0) - p.sequence ELSE 0 END AS number \
             FROM {positions} p LEFT JOIN {schema} o ON o.outbox_id = p.outbox AND o.version = 1 \
             LEFT JOIN {streams} s ON o.outbox_id IS NOT NULL AND s.lane = p.lane AND s.model = p.model \
             ORDER BY p.node, p.outbox, p.model, p.lane"
        )
    }

    /// A column's time in milliseconds since 1970.
    pub(crate) fn millis_of(&self, column: &str) -> String {
        match self.dialect {
            Dialect::Postgres => format!("(extract(epoch FROM {column}) * 1000)::bigint"),
            Dialect::Sqlite => {
                format!("CAST(round((julianday({column}) - 2440587.5) * 86400000) AS INTEGER)")
            }
            Dialect::MySql => format!("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {column}) DIV 1000"),
        }
    }
}
