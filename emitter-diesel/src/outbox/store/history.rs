//! What was published, for as long as it is kept.

use super::{ORPHANED, PROCESSING, Store, UNREADABLE};
use crate::tables::{Dialect, Pair, list};

/// What is kept of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept<'m> {
    pub(crate) lane: i32,
    pub(crate) model: &'m str,
    /// After this number,
    pub(crate) after: i64,
    /// up to this one.
    pub(crate) up_to: i64,
}

impl Store {
    /// What is kept of a stream, in order, at most so many of each part: in the history, and where listeners are
    /// not done with it.
    pub(crate) fn kept(&self, kept: &Kept<'_>, most: usize) -> [String; 2] {
        self.where_kept(kept).map(|(table, which)| {
            format!(
                "SELECT {} FROM {table} o WHERE {which} ORDER BY o.sequence LIMIT {most}",
                self.settled_columns()
            )
        })
    }

    /// The lowest number that is kept of a stream.
    pub(crate) fn oldest(&self, kept: &Kept<'_>) -> String {
        self.first(kept, "")
    }

    /// The lowest number of what was written since so many milliseconds after 1970.
    pub(crate) fn first_since(&self, kept: &Kept<'_>, millis: i64) -> String {
        self.first(kept, &format!(" AND {}", self.is_since("o.created_at", millis)))
    }

    /// The first number of the history, and whether it was settled `before` a time. Its index finds it: lane and number
    /// are all that it goes by.
    pub(crate) fn settled_after(&self, kept: &Kept<'_>, millis: i64) -> String {
        // Clocks are set back at times.
        const CLOCKS: i64 = 60_000;
        let [(history, which), _] = self.where_kept(kept);
        let since = self.is_since("o.processed_at", millis.saturating_sub(CLOCKS));
        // Of what nobody knows when it was settled it is not said that it was before.
        format!(
            "SELECT CASE WHEN {since} OR o.processed_at IS NULL THEN 'since' ELSE 'before' END AS text, o.sequence AS number \
             FROM {history} o WHERE {which} ORDER BY o.sequence LIMIT 1"
        )
    }

    /// Whether a column has a time that is not before so many milliseconds after 1970.
    fn is_since(&self, column: &str, millis: i64) -> String {
        let moment = self.moment(millis);
        match self.dialect {
            Dialect::Postgres | Dialect::MySql => format!("{column} >= {moment}"),
            Dialect::Sqlite => format!("julianday({column}) >= {moment}"),
        }
    }

    fn first(&self, kept: &Kept<'_>, also: &str) -> String {
        let parts = self.where_kept(kept).map(|(table, which)| {
            format!(
                "SELECT 'first' AS text, number FROM (SELECT o.sequence AS number FROM {table} o WHERE {which}{also} \
                 ORDER BY o.sequence LIMIT 1) AS f_{}",
                if table.ends_with("history") { "history" } else { "outbox" }
            )
        });
        parts.join(" UNION ALL ")
    }

    /// Tables and conditions, with each table called `o`.
    fn where_kept(&self, kept: &Kept<'_>) -> [(String, String); 2] {
        let Kept { lane, model, after, up_to } = kept;
        let model = self.dialect.quoted(model);
        let which = format!(
            "o.lane = {lane} AND o.sequence > {after} AND o.sequence <= {up_to} AND lower(o.model) = lower({model})"
        );
        let unhandled = format!("{which} AND o.status IN ('{PROCESSING}', '{UNREADABLE}', '{ORPHANED}')");
        [
            (self.names.table("history").to_string(), which),
            (self.names.table("outbox").to_string(), unhandled),
        ]
    }

    /// The first rows that were settled before this, in milliseconds since 1970, and whose events they are.
    pub(crate) fn old(&self, before: i64, most: usize) -> String {
        let before = match self.dialect {
            Dialect::Postgres | Dialect::MySql => self.moment(before),
            // As it is written there, so that the index finds it.
            Dialect::Sqlite => format!("strftime('%Y-%m-%dT%H:%M:%fZ', {before} / 1000.0, 'unixepoch')"),
        };
        format!(
            "SELECT {} AS text, id AS number FROM {} WHERE processed_at < {before} ORDER BY processed_at, id LIMIT {most}",
            self.event_id(),
            self.names.table("history"),
        )
    }

    /// Clears these rows away, with what the ledger has of their events. By their numbers, for two who looked for old ones at a
    /// time would not mean the same.
    pub(crate) fn clear(&self, rows: &[Pair]) -> String {
        let (history, ledger) = (self.names.table("history"), self.names.table("ledger"));
        let events: Vec<String> = rows.iter().map(|row| self.dialect.quoted(&row.text)).collect();
        self.dialect.atomic(&[
            format!("DELETE FROM {ledger} WHERE event_id IN ({})", events.join(", ")),
            format!("DELETE FROM {history} WHERE id IN ({})", list(rows.iter().map(|row| row.number))),
        ])
    }

    /// So many milliseconds after 1970, as what columns with times are compared with.
    fn moment(&self, millis: i64) -> String {
        match self.dialect {
            Dialect::Postgres => format!("to_timestamp({millis} / 1000.0)"),
            Dialect::Sqlite => format!("2440587.5 + {millis} / 86400000.0"),
            Dialect::MySql => format!("TIMESTAMPADD(MICROSECOND, {millis} * 1000, '1970-01-01')"),
        }
    }
}
