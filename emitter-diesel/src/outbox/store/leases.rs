//! Who is there, and whose the lanes are.

use super::Store;
use crate::tables::{Dialect, list};

impl Store {
    /// Says that a relay is there, and keeps its lanes.
    pub(crate) fn beat(&self, relay: &str, node: &str, takes_lanes: bool, lease: i64) -> String {
        let takes = u8::from(takes_lanes);
        let Self { dialect, names } = self;
        let (relays, lanes, now) = (names.table("relays"), names.table("lanes"), dialect.now());
        let here = match dialect {
            Dialect::Postgres | Dialect::Sqlite => format!(
                "INSERT INTO {relays} (relay, node, lanes, until) VALUES ('{relay}', '{node}', {takes}, {now} + {lease}) \
                 ON CONFLICT (relay) DO UPDATE SET until = excluded.until"
            ),
            Dialect::MySql => format!(
                "INSERT INTO {relays} (relay, node, lanes, until) VALUES ('{relay}', '{node}', {takes}, {now} + {lease}) \
                 ON DUPLICATE KEY UPDATE until = VALUES(until)"
            ),
        };
        dialect.atomic(&[
            here,
            format!("DELETE FROM {relays} WHERE until <= {now} - 10 * {lease}"),
            format!("UPDATE {lanes} SET until = {now} + {lease} WHERE owner = '{relay}'"),
        ])
    }

    /// Who is there, each with whether it takes lanes; of this very node no earlier life, though its lease may still run.
    pub(crate) fn relays(&self, relay: &str, node: &str) -> String {
        let (relays, now) = (self.names.table("relays"), self.dialect.now());
        let number = match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => "CAST(lanes AS BIGINT)",
            Dialect::MySql => "CAST(lanes AS SIGNED)",
        };
        format!(
            "SELECT relay AS text, {number} AS number FROM {relays} \
             WHERE until > {now} AND (node <> '{node}' OR relay = '{relay}')"
        )
    }

    /// The lanes that a relay owns.
    pub(crate) fn owned(&self, relay: &str) -> String {
        let lanes = self.names.table("lanes");
        format!("SELECT lane, epoch FROM {lanes} WHERE owner = '{relay}' AND until > {}", self.dialect.now())
    }

    /// That nobody owns a lane, or an earlier life of this very node.
    fn is_free(&self, relay: &str, node: &str) -> String {
        format!(
            "(owner IS NULL OR until <= {} OR (node = '{node}' AND owner <> '{relay}'))",
            self.dialect.now()
        )
    }

    /// The lanes that may be taken.
    pub(crate) fn free(&self, relay: &str, node: &str) -> String {
        let lanes = self.names.table("lanes");
        format!("SELECT lane, epoch FROM {lanes} WHERE {} ORDER BY lane", self.is_free(relay, node))
    }

    /// Takes a lane, if it may be taken.
    pub(crate) fn take(&self, lane: i32, relay: &str, node: &str, lease: i64) -> String {
        let (lanes, now) = (self.names.table("lanes"), self.dialect.now());
        format!(
            "UPDATE {lanes} SET owner = '{relay}', node = '{node}', epoch = epoch + 1, until = {now} + {lease} \
             WHERE lane = {lane} AND {}",
            self.is_free(relay, node)
        )
    }

    /// The last number of each model in these lanes, as `lane/model`.
    pub(crate) fn numbers(&self, lanes: impl IntoIterator<Item = i64>) -> String {
        let streams = self.names.table("streams");
        let text = match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => "lane || '/' || model",
            Dialect::MySql => "CONCAT(lane, '/', model)",
        };
        format!("SELECT {text} AS text, sequence AS number FROM {streams} WHERE lane IN ({})", list(lanes))
    }

    /// Gives lanes back.
    pub(crate) fn release(&self, relay: &str, which: impl IntoIterator<Item = i64>) -> String {
        let lanes = self.names.table("lanes");
        format!(
            "UPDATE {lanes} SET owner = NULL, node = NULL, until = 0 WHERE owner = '{relay}' AND lane IN ({})",
            list(which)
        )
    }

    /// A relay is there no more.
    pub(crate) fn leave(&self, relay: &str) -> String {
        let Self { dialect, names } = self;
        let (relays, lanes) = (names.table("relays"), names.table("lanes"));
        dialect.atomic(&[
            format!("UPDATE {lanes} SET owner = NULL, node = NULL, until = 0 WHERE owner = '{relay}'"),
            format!("DELETE FROM {relays} WHERE relay = '{relay}'"),
        ])
    }
}
