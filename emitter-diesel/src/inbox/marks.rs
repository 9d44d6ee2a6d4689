//! What is asked of the inbox's table, as SQL.

use std::time::Duration;

use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sql_types::Text;
use emitter_core::EventId;

use crate::tables::{Dialect, Names};

/// The marks of what was done.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    pub(super) dialect: Dialect,
    pub(super) names: Names,
}

/// The longest name of a listener, in bytes: what every database can have in a key.
pub(super) const LONGEST_NAME: usize = 191;

impl Marks {
    /// Marks an event as done by a listener.
    pub(super) fn claim(&self, event: String, listener: &'static str, service: &str) -> Claim {
        Claim { marks: self.clone(), event, listener, service: service.to_owned() }
    }

    /// The marks of an event, as `service/listener`, and when they were made.
    pub(super) fn of(&self, event: EventId) -> String {
        let inbox = self.names.table("inbox");
        let (text, claimed) = match self.dialect {
            Dialect::Postgres => {
                ("service || '/' || listener", "(extract(epoch FROM claimed_at) * 1000)::bigint")
            }
            Dialect::Sqlite => (
                "service || '/' || listener",
                "CAST(round((julianday(claimed_at) - 2440587.5) * 86400000) AS INTEGER)",
            ),
            Dialect::MySql => (
                "CONCAT(service, '/', listener)",
                "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', claimed_at) DIV 1000",
            ),
        };
        format!(
            "SELECT {text} AS text, {claimed} AS number FROM {inbox} WHERE event_id = '{event}' LIMIT 1000"
        )
    }

    /// Forgets some of the marks that were made so long ago.
    pub(super) fn clear(&self, keep: Duration, most: usize) -> String {
        // Databases know no later times than some thousand years from now.
        let seconds = keep.as_secs().min(100 * 365 * 24 * 3600);
        let inbox = self.names.table("inbox");
        match self.dialect {
            // By the time at which the statement began, for an index can be asked for that one.
            Dialect::Postgres => format!(
                "DELETE FROM {inbox} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {inbox} \
                 WHERE claimed_at < now() - {seconds} * interval '1 second' ORDER BY claimed_at LIMIT {most}))"
            ),
            // Times are texts, in the order of what they mean.
            Dialect::Sqlite => format!(
                "DELETE FROM {inbox} WHERE rowid IN (SELECT rowid FROM {inbox} \
                 WHERE claimed_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-{seconds} seconds') ORDER BY claimed_at LIMIT {most})"
            ),
            Dialect::MySql => format!(
                "DELETE FROM {inbox} WHERE claimed_at < UTC_TIMESTAMP(3) - INTERVAL {seconds} SECOND \
                 ORDER BY claimed_at LIMIT {most}"
            ),
        }
    }
}

/// One mark: changes one row, or none where it was made before. With parameters, for it is kept prepared.
#[derive(Debug, Clone)]
pub struct Claim {
    marks: Marks,
    event: String,
    listener: &'static str,
    service: String,
}

impl QueryId for Claim {
    type QueryId = ();

    // The table has any name.
    const HAS_STATIC_QUERY_ID: bool = false;
}

macro_rules! claims {
    ($($feature:literal $backend:ty: $insert:literal $event:literal $otherwise:literal;)*) => { $(
        #[cfg(feature = $feature)]
        impl QueryFragment<$backend> for Claim {
            fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, $backend>) -> QueryResult<()> {
                let Self { marks, event, listener, service } = self;
                out.push_sql($insert);
                out.push_sql(&marks.names.table("inbox").to_string());
                out.push_sql(" (event_id, listener, service, claimed_at) VALUES (CAST(");
                out.push_bind_param::<Text, _>(event)?;
                out.push_sql(concat!(" AS ", $event, "), "));
                out.push_bind_param::<Text, _>(listener)?;
                out.push_sql(", ");
                out.push_bind_param::<Text, _>(service)?;
                out.push_sql(", ");
                out.push_sql(marks.dialect.timestamp());
                out.push_sql($otherwise);
                Ok(())
            }
        }
    )* };
}

claims! {
    "_postgres" diesel::pg::Pg: "INSERT INTO " "uuid" ") ON CONFLICT DO NOTHING";
    "sqlite" diesel::sqlite::Sqlite: "INSERT INTO " "text" ") ON CONFLICT DO NOTHING";
    // What else it would ignore is a name that is too long, and that is refused at the start.
    "_mysql" diesel::mysql::Mysql: "INSERT IGNORE INTO " "char" ")";
}
