//! Connections that the framework can work with.

use diesel::prelude::QueryableByName;
use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Integer, Nullable, SmallInt, Text};

use super::dialect::Dialect;

/// A connection that an outbox or the like has for itself: Diesel's to PostgreSQL, SQLite, MySQL or MariaDB.
pub trait Database: std::any::Any {
    /// Its SQL.
    fn dialect(&self) -> Dialect;

    /// Whether another connection may have committed something since this was asked last: always, where to look
    /// at the tables costs next to nothing, and never, where nobody tells.
    ///
    /// # Errors
    /// The database's.
    fn has_changed(&mut self) -> QueryResult<bool>;

    /// Runs statements without parameters.
    ///
    /// # Errors
    /// The database's.
    fn run(&mut self, sql: &str) -> QueryResult<()>;

    /// Runs one statement, and returns how many rows it changed.
    ///
    /// # Errors
    /// The database's.
    fn change(&mut self, sql: String) -> QueryResult<usize>;

    /// Reads queued rows.
    ///
    /// # Errors
    /// The database's.
    fn queued(&mut self, sql: String) -> QueryResult<Vec<Queued>>;

    /// Reads lanes.
    ///
    /// # Errors
    /// The database's.
    fn lanes(&mut self, sql: String) -> QueryResult<Vec<Lane>>;

    /// Reads a pair of a text and a number.
    ///
    /// # Errors
    /// The database's.
    fn pairs(&mut self, sql: String) -> QueryResult<Vec<Pair>>;
}

/// A row that is to be published.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Queued {
    #[diesel(sql_type = BigInt)]
    pub(crate) id: i64,
    #[diesel(sql_type = Integer)]
    pub(crate) lane: i32,
    #[diesel(sql_type = Text)]
    pub(crate) event_id: String,
    #[diesel(sql_type = Text)]
    pub(crate) model: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) record_id: Option<String>,
    #[diesel(sql_type = SmallInt)]
    pub(crate) by_model: i16,
    #[diesel(sql_type = Text)]
    pub(crate) topic: String,
    #[diesel(sql_type = SmallInt)]
    pub(crate) qos: i16,
    #[diesel(sql_type = Text)]
    pub(crate) payload: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) properties: Option<String>,
    #[diesel(sql_type = Integer)]
    pub(crate) retries: i32,
    #[diesel(sql_type = Nullable<BigInt>)]
    pub(crate) sequence: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) stream: Option<String>,
    #[diesel(sql_type = Integer)]
    pub(crate) handled_here: i32,
}

/// A lane that a relay owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct Lane {
    #[diesel(sql_type = Integer)]
    pub(crate) lane: i32,
    #[diesel(sql_type = BigInt)]
    pub(crate) epoch: i64,
}

/// A text and a number.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Pair {
    #[diesel(sql_type = Text)]
    pub(crate) text: String,
    #[diesel(sql_type = BigInt)]
    pub(crate) number: i64,
}

macro_rules! databases {
    ($($feature:literal $connection:path: $dialect:ident, $changed:expr;)*) => { $(
        #[cfg(feature = $feature)]
        impl Database for $connection {
            fn dialect(&self) -> Dialect {
                Dialect::$dialect
            }

            fn has_changed(&mut self) -> QueryResult<bool> {
                $changed(self)
            }

            fn run(&mut self, sql: &str) -> QueryResult<()> {
                diesel::connection::SimpleConnection::batch_execute(self, sql)
            }

            fn change(&mut self, sql: String) -> QueryResult<usize> {
                diesel::RunQueryDsl::execute(diesel::sql_query(sql), self)
            }

            fn queued(&mut self, sql: String) -> QueryResult<Vec<Queued>> {
                diesel::RunQueryDsl::load(diesel::sql_query(sql), self)
            }

            fn lanes(&mut self, sql: String) -> QueryResult<Vec<Lane>> {
                diesel::RunQueryDsl::load(diesel::sql_query(sql), self)
            }

            fn pairs(&mut self, sql: String) -> QueryResult<Vec<Pair>> {
                diesel::RunQueryDsl::load(diesel::sql_query(sql), self)
            }
        }
    )* };
}

databases! {
    "postgres" diesel::PgConnection: Postgres, |conn: &mut diesel::PgConnection| {
        conn.notifications_iter().try_fold(false, |_, notification| notification.map(|_| true))
    };
    "sqlite" diesel::SqliteConnection: Sqlite, |_| Ok(true);
    "mysql" diesel::MysqlConnection: MySql, |_| Ok(false);
}
