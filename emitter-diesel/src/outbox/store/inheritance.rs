//! Whose listeners are not done with rows, and what is left of a node that is there no more.

use super::{COLUMNS, COMPLETED, PROCESSING, Store};
use crate::tables::list;

impl Store {
    /// Whose listeners are not done, and with how many rows.
    pub(crate) fn handlers(&self) -> String {
        let outbox = self.names.table("outbox");
        format!(
            "SELECT handler AS text, COUNT(*) AS number FROM {outbox} WHERE handler IS NOT NULL GROUP BY handler"
        )
    }

    /// Takes over rows from a node that is there no more.
    pub(crate) fn inherit(&self, from: &str, to: &str, models: Option<&[String]>, most: usize) -> String {
        let outbox = self.names.table("outbox");
        let of_models = models.map_or_else(String::new, |models| {
            let models: Vec<String> = models.iter().map(|model| self.dialect.quoted(model)).collect();
            format!(" AND model IN ({})", models.join(", "))
        });
        let (from, to) = (self.dialect.quoted(from), self.dialect.quoted(to));
        // MySQL reads no table that it writes but through another one.
        format!(
            "UPDATE {outbox} SET handler = {to} WHERE handler = {from} AND id IN (SELECT id FROM \
             (SELECT id FROM {outbox} WHERE handler = {from}{of_models} ORDER BY id LIMIT {most}) AS first)"
        )
    }

    /// Counts these rows of its own among those that were left to a node.
    pub(crate) fn adopt(&self, from: &str, to: &str, ids: &[i64]) -> String {
        let outbox = self.names.table("outbox");
        let (from, to) = (self.dialect.quoted(from), self.dialect.quoted(to));
        format!(
            "UPDATE {outbox} SET handler = {to} WHERE handler = {from} AND id IN ({})",
            list(ids.iter().copied())
        )
    }

    /// The first rows of a handler, and whose events they are.
    pub(crate) fn left(&self, handler: &str, most: usize) -> String {
        format!(
            "SELECT {} AS text, id AS number FROM {} WHERE handler = {} ORDER BY id LIMIT {most}",
            self.event_id(),
            self.names.table("outbox"),
            self.dialect.quoted(handler),
        )
    }

    /// Rows that are this node's to handle, and with which it has not begun.
    pub(crate) fn inherited(&self, handler: &str, after: i64, most: usize) -> String {
        format!(
            "SELECT {} FROM {} o WHERE o.handler = {} AND o.id > {after} ORDER BY o.id LIMIT {most}",
            self.columns(),
            self.names.table("outbox"),
            self.dialect.quoted(handler),
        )
    }

    /// Listeners of this node cannot be handed a row: it is neither done nor forgotten.
    pub(crate) fn give_up(&self, id: i64, terminal: &str, error: &str) -> String {
        let outbox = self.names.table("outbox");
        let (error, mark) = (self.dialect.quoted(error), terminal.to_ascii_lowercase());
        format!(
            "UPDATE {outbox} SET handler = '!{mark}', last_error = {error}, \
             status = CASE status WHEN '{PROCESSING}' THEN '{terminal}' ELSE status END WHERE id = {id}"
        )
    }

    /// Listeners of the node that wrote are done with these rows.
    pub(crate) fn handled(&self, ids: &[String]) -> String {
        let Self { dialect, names } = self;
        let (outbox, history) = (names.table("outbox"), names.table("history"));
        let ids: Vec<String> = ids.iter().map(|id| format!("'{id}'")).collect();
        let ids = ids.join(", ");
        let done = format!("event_id IN ({ids}) AND handler IS NULL AND status = '{PROCESSING}'");
        dialect.atomic(&[
            format!("UPDATE {outbox} SET handler = NULL WHERE event_id IN ({ids})"),
            format!(
                "INSERT INTO {history} ({COLUMNS}, sequence, stream, status, processed_at) \
                 SELECT {COLUMNS}, sequence, stream, '{COMPLETED}', {} FROM {outbox} WHERE {done}",
                dialect.timestamp()
            ),
            self.delete(&names.index("outbox_event").to_string(), &done),
        ])
    }
}
