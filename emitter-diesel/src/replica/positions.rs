//! What is asked of the table of positions, as SQL.

use std::time::Duration;

use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sql_types::Text;
use emitter_core::{EventId, Key};

use super::order::Stamp;
use crate::tables::{Dialect, Names};

/// Of each row that was ever copied into a table, the newest event that counted.
#[derive(Debug, Clone)]
pub(super) struct Positions {
    pub(super) dialect: Dialect,
    pub(super) names: Names,
    pub(super) model: &'static str,
    /// The table of the copies.
    pub(super) copies: String,
}

/// The longest name or key, in bytes: what every database can have in a key.
pub(super) const LONGEST: usize = 191;

/// What an event says of a row.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) record: String,
    pub(super) stamp: Stamp,
    pub(super) event: EventId,
    /// The row is there no more.
    pub(super) is_delete: bool,
}

impl Positions {
    /// Notes an event of a row of which none was noted: changes one row, else none.
    pub(super) fn begin(&self, note: &Note) -> Statement {
        let (insert, otherwise) = match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => ("INSERT", " ON CONFLICT DO NOTHING"),
            // What else it would ignore is a text that is too long, and those are refused before.
            Dialect::MySql => ("INSERT IGNORE", ""),
        };
        let columns = "(model, table_name, record_id, stamp, event_id, applied_at, deleted_at)";
        let mut sql = Statement::new(format!("{insert} INTO {} {columns} VALUES (", self.table()));
        for text in [self.model, &self.copies, &note.record, note.stamp.as_str()] {
            sql.text(text).sql(", ");
        }
        self.event(&mut sql, note);
        sql.sql(&format!(", {}, {}){otherwise}", self.dialect.timestamp(), self.deleted(note)));
        sql
    }

    /// Notes an event in place of an older one: changes one row, or none where the one that was noted is not older.
    pub(super) fn go_on(&self, note: &Note) -> Statement {
        let mut sql = Statement::new(format!("UPDATE {} SET stamp = ", self.table()));
        sql.text(note.stamp.as_str()).sql(", event_id = ");
        self.event(&mut sql, note);
        sql.sql(&format!(", applied_at = {}, deleted_at = {}", self.dialect.timestamp(), self.deleted(note)));
        self.of(&mut sql, note);
        sql.sql(" AND stamp < ").text(note.stamp.as_str());
        sql
    }

    /// Finds one row, where this very event is the one that was noted.
    pub(super) fn is_noted(&self, note: &Note) -> Statement {
        // Every kind of connection counts what is changed, and a row that is set to what it was, too.
        let mut sql = Statement::new(format!("UPDATE {} SET applied_at = applied_at", self.table()));
        self.of(&mut sql, note);
        sql.sql(" AND stamp = ").text(note.stamp.as_str());
        sql
    }

    /// Forgets some of the rows that were deleted so long ago.
    pub(super) fn clear(&self, keep: Duration, most: usize) -> String {
        // Databases know no later times than some thousand years from now.
        let seconds = keep.as_secs().min(100 * 365 * 24 * 3600);
        let table = self.table();
        let of_these = format!(
            "model = {} AND table_name = {}",
            self.dialect.quoted(self.model),
            self.dialect.quoted(&self.copies)
        );
        match self.dialect {
            Dialect::Postgres => format!(
                "DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE {of_these} \
                 AND deleted_at < now() - {seconds} * interval '1 second' ORDER BY deleted_at LIMIT {most}))"
            ),
            // Times are texts, in the order of what they mean.
            Dialect::Sqlite => format!(
                "DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE {of_these} \
                 AND deleted_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-{seconds} seconds') \
                 ORDER BY deleted_at LIMIT {most})"
            ),
            Dialect::MySql => format!(
                "DELETE FROM {table} WHERE {of_these} \
                 AND deleted_at < UTC_TIMESTAMP(3) - INTERVAL {seconds} SECOND ORDER BY deleted_at LIMIT {most}"
            ),
        }
    }

    fn table(&self) -> String {
        self.names.table("replicas").to_string()
    }

    fn of(&self, sql: &mut Statement, note: &Note) {
        sql.sql(" WHERE model = ").text(self.model);
        sql.sql(" AND table_name = ").text(&self.copies);
        sql.sql(" AND record_id = ").text(&note.record);
    }

    fn event(&self, sql: &mut Statement, note: &Note) {
        let uuid = match self.dialect {
            Dialect::Postgres => "uuid",
            Dialect::Sqlite => "text",
            Dialect::MySql => "char",
        };
        sql.sql("CAST(").text(&note.event.to_string()).sql(&format!(" AS {uuid})"));
    }

    fn deleted(&self, note: &Note) -> &'static str {
        if note.is_delete { self.dialect.timestamp() } else { "NULL" }
    }
}

/// A key as it stands in the table: that of one column as it is shown everywhere, several with commas between,
/// of which those in a text are marked.
pub(super) fn record(key: &Key) -> String {
    match key {
        Key::Composite(parts) => {
            let part = |part: &Key| record(part).replace('\\', "\\\\").replace(',', "\\,");
            parts.iter().map(part).collect::<Vec<_>>().join(",")
        }
        Key::Int(_) | Key::Uint(_) | Key::Uuid(_) | Key::Text(_) => key.to_string(),
    }
}

/// A statement with texts as parameters, for it is kept prepared.
#[derive(Debug, Default)]
pub struct Statement(Vec<Piece>);

#[derive(Debug)]
enum Piece {
    Sql(String),
    Text(String),
}

impl Statement {
    fn new(sql: String) -> Self {
        Self(vec![Piece::Sql(sql)])
    }

    fn sql(&mut self, sql: &str) -> &mut Self {
        self.0.push(Piece::Sql(sql.to_owned()));
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.0.push(Piece::Text(text.to_owned()));
        self
    }
}

impl QueryId for Statement {
    type QueryId = ();

    // The table has any name.
    const HAS_STATIC_QUERY_ID: bool = false;
}

macro_rules! spoken {
    ($($feature:literal $backend:ty;)*) => { $(
        #[cfg(feature = $feature)]
        impl QueryFragment<$backend> for Statement {
            fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, $backend>) -> QueryResult<()> {
                self.0.iter().try_for_each(|piece| match piece {
                    Piece::Sql(sql) => {
                        out.push_sql(sql);
                        Ok(())
                    }
                    Piece::Text(text) => out.push_bind_param::<Text, _>(text),
                })
            }
        }
    )* };
}

spoken! {
    "_postgres" diesel::pg::Pg;
    "sqlite" diesel::sqlite::Sqlite;
    "_mysql" diesel::mysql::Mysql;
}
