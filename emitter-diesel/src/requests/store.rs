//! What is asked of the table of requests, as SQL.

use std::fmt::Display;
use std::time::Duration;

use emitter_core::retry::Backoff;

use super::Progress;
use crate::mirror::Cursor;
use crate::tables::{Dialect, Names};

/// How often a request is taken up by nodes that come to no end with it.
pub const MOST_CLAIMS: u32 = 5;

/// How long a request rests that something hindered. Databases that take no more connections, or are set up anew, are back
/// before all of it is over.
const REST: Backoff =
    Backoff { base: Duration::from_secs(5), cap: Duration::from_secs(60), jitter: Duration::ZERO };

/// How long what is over is kept.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// How the statements about one table of requests are written.
#[derive(Debug, Clone)]
pub(super) struct Store {
    pub(super) dialect: Dialect,
    pub(super) names: Names,
}

/// A request that a node has taken up.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) id: i64,
    /// What this taking up is called, and no other: a UUID.
    pub(super) run: String,
    /// How often it was taken up, with this time.
    pub(super) times: u32,
}

/// How a node's work at a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// All of it was tried; what was wrong with the first that could not be read, in words.
    Done(Option<String>),
    /// In words.
    Failed(String),
    /// The node ends: another one goes on.
    GivenBack,
    /// Something went wrong that may be another time, in words.
    Hindered(String),
}

impl Store {
    fn table(&self) -> impl Display + '_ {
        self.names.table("requests")
    }

    pub(super) fn insert(
        &self,
        ticket: &str,
        service: &str,
        action: &str,
        work: &str,
        asked_by: Option<&str>,
    ) -> String {
        let Self { dialect, .. } = self;
        let mut by = String::new();
        dialect.optional(&mut by, asked_by);
        format!(
            "INSERT INTO {} (ticket, service, action, work, asked_by, created_at) VALUES ({}, {}, '{action}', {}, {by}, {}){}",
            self.table(),
            dialect.quoted(ticket),
            dialect.quoted(service),
            dialect.quoted(work),
            dialect.timestamp(),
            match dialect {
                Dialect::Postgres | Dialect::Sqlite => " ON CONFLICT (ticket) DO NOTHING",
                Dialect::MySql => " ON DUPLICATE KEY UPDATE ticket = VALUES(ticket)",
            },
        )
    }

    /// The number of the request with this ticket.
    pub(super) fn number(&self, ticket: &str) -> String {
        format!(
            "SELECT 'id' AS text, id AS number FROM {} WHERE ticket = {}",
            self.table(),
            self.dialect.quoted(ticket)
        )
    }

    pub(super) fn one(&self, id: i64) -> String {
        format!("SELECT {} FROM {} WHERE id = {id}", self.columns(), self.table())
    }

    /// The first one of the same service that was asked before this one, and that a node has.
    pub(super) fn ahead(&self, id: i64) -> String {
        format!(
            "SELECT {} FROM {table} WHERE service = (SELECT service FROM {table} WHERE id = {id}) AND id < {id} \
             AND status = 'UNDER_WAY' AND until > {} ORDER BY id LIMIT 1",
            self.columns(),
            self.dialect.now(),
            table = self.table(),
        )
    }

    /// The newest.
    pub(super) fn newest(&self, most: usize) -> String {
        format!("SELECT {} FROM {} ORDER BY id DESC LIMIT {most}", self.columns(), self.table())
    }

    fn columns(&self) -> String {
        let (cast, millis): (_, fn(&str) -> String) = match self.dialect {
            Dialect::Postgres => ("BIGINT", |time| format!("extract(epoch FROM {time}) * 1000")),
            Dialect::Sqlite => {
                ("BIGINT", |time| format!("round((julianday({time}) - 2440587.5) * 86400000)"))
            }
            Dialect::MySql => ("SIGNED", |time| format!("UNIX_TIMESTAMP({time}) * 1000")),
        };
        format!(
            "id, service, action, work, asked_by, status, node, claims, total, handled, failed, skipped, unheard, place, last_error, \
             CAST({created} AS {cast}) AS created, CAST({finished} AS {cast}) AS finished, \
             CAST(CASE WHEN until > {now} THEN 1 ELSE 0 END AS {cast}) AS claimed",
            created = millis("created_at"),
            finished = millis("finished_at"),
            now = self.dialect.now(),
        )
    }

    /// Takes a request back that is not over.
    pub(super) fn cancel(&self, id: i64) -> String {
        format!(
            "UPDATE {} SET status = 'CANCELLED', finished_at = {} WHERE id = {id} AND status IN ('ASKED', 'UNDER_WAY')",
            self.table(),
            self.dialect.timestamp()
        )
    }

    /// That a node may take a request up.
    fn is_free(&self) -> String {
        format!("status IN ('ASKED', 'UNDER_WAY') AND until <= {}", self.dialect.now())
    }

    /// The oldest request of a service that nobody has.
    pub(super) fn free(&self, service: &str) -> String {
        format!(
            "SELECT {} FROM {} WHERE service = {} AND {} ORDER BY id LIMIT 1",
            self.columns(),
            self.table(),
            self.dialect.quoted(service),
            self.is_free()
        )
    }

    /// Takes it up, if nobody has it still.
    pub(super) fn claim(&self, claim: &Claim, node: &str, lease: Duration) -> String {
        format!(
            "UPDATE {} SET status = 'UNDER_WAY', owner = {}, node = {}, claims = claims + 1, until = {} + {} \
             WHERE id = {} AND {}",
            self.table(),
            self.dialect.quoted(&claim.run),
            self.dialect.quoted(node),
            self.dialect.now(),
            lease.as_millis(),
            claim.id,
            self.is_free(),
        )
    }

    /// Fails what was taken up too often, if nobody has it.
    pub(super) fn give_up(&self, id: i64, why: &str) -> String {
        format!(
            "UPDATE {} SET status = 'FAILED', owner = NULL, last_error = {}, finished_at = {} WHERE id = {id} AND {}",
            self.table(),
            self.dialect.quoted(why),
            self.dialect.timestamp(),
            self.is_free(),
        )
    }

    /// That this node has it still.
    fn is_mine(&self, claim: &Claim) -> String {
        let owner = self.dialect.quoted(&claim.run);
        format!("id = {} AND owner = {owner} AND status = 'UNDER_WAY'", claim.id)
    }

    fn progress(&self, progress: &Progress, cursor: Option<Cursor>) -> String {
        let Progress { total, handled, failed, skipped, unheard } = progress;
        let total = total.map_or_else(|| "NULL".to_owned(), |total| total.to_string());
        let place = cursor.map_or_else(|| "NULL".to_owned(), |cursor| format!("'{cursor}'"));
        format!(
            "total = COALESCE(total, {total}), handled = {handled}, failed = {failed}, skipped = {skipped}, \
             unheard = {unheard}, place = COALESCE({place}, place)"
        )
    }

    /// Notes how far it is, and keeps it for another lease.
    pub(super) fn renew(
        &self,
        claim: &Claim,
        progress: &Progress,
        cursor: Option<Cursor>,
        lease: Duration,
    ) -> String {
        format!(
            "UPDATE {} SET {}, until = {} + {} WHERE {}",
            self.table(),
            self.progress(progress, cursor),
            self.dialect.now(),
            lease.as_millis(),
            self.is_mine(claim),
        )
    }

    /// Notes how it ended.
    pub(super) fn end(
        &self,
        claim: &Claim,
        progress: &Progress,
        cursor: Option<Cursor>,
        end: &End,
    ) -> String {
        let (quoted, now) = (|words: &str| self.dialect.quoted(words), self.dialect.timestamp());
        let end = match end {
            End::Done(problem) => {
                let problem = problem.as_deref().map_or_else(|| "NULL".to_owned(), quoted);
                format!("status = 'DONE', last_error = {problem}, finished_at = {now}")
            }
            End::Failed(why) => {
                format!("status = 'FAILED', last_error = {}, finished_at = {now}", quoted(why))
            }
            End::GivenBack => "status = 'ASKED', until = 0, claims = claims - 1".to_owned(),
            End::Hindered(why) => {
                let rest =
                    if claim.times < MOST_CLAIMS { REST.delay(claim.times, 0.0) } else { Duration::ZERO };
                format!("until = {} + {}, last_error = {}", self.dialect.now(), rest.as_millis(), quoted(why))
            }
        };
        format!(
            "UPDATE {} SET {}, {end}, owner = NULL WHERE {}",
            self.table(),
            self.progress(progress, cursor),
            self.is_mine(claim)
        )
    }

    /// Clears away what was over for so long.
    pub(super) fn clear(&self) -> String {
        let old = format!("({} - {})", self.dialect.now(), KEPT.as_millis());
        let old = match self.dialect {
            Dialect::Postgres => format!("to_timestamp({old} / 1000.0)"),
            Dialect::Sqlite => format!("strftime('%Y-%m-%dT%H:%M:%fZ', {old} / 1000.0, 'unixepoch')"),
            Dialect::MySql => format!("TIMESTAMPADD(MICROSECOND, 1000 * {old}, '1970-01-01')"),
        };
        format!("DELETE FROM {} WHERE finished_at < {old}", self.table())
    }
}
