//! Connections that the framework can work with.

use std::fmt;

use diesel::prelude::QueryableByName;
use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Integer, Nullable, SmallInt, Text};

use super::dialect::Dialect;

/// A connection that an outbox or the like has for itself: Diesel's to PostgreSQL, SQLite, MySQL or MariaDB.
pub trait Database: std::any::Any + Send {
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

    /// Reads dead letters.
    ///
    /// # Errors
    /// The database's.
    fn letters(&mut self, sql: String) -> QueryResult<Vec<LetterRow>>;

    /// Reads rows of an outbox that were given up.
    ///
    /// # Errors
    /// The database's.
    fn given_up(&mut self, sql: String) -> QueryResult<Vec<GivenUpRow>>;

    /// Reads a ledger.
    ///
    /// # Errors
    /// The database's.
    fn ledger(&mut self, sql: String) -> QueryResult<Vec<LedgerRow>>;

    /// Reads requests.
    ///
    /// # Errors
    /// The database's.
    fn requests(&mut self, sql: String) -> QueryResult<Vec<RequestRow>>;

    /// Reads a pair of a text and a number.
    ///
    /// # Errors
    /// The database's.
    fn pairs(&mut self, sql: String) -> QueryResult<Vec<Pair>>;

    /// Reads rows of a mirror.
    ///
    /// # Errors
    /// The database's.
    fn seen(&mut self, sql: String) -> QueryResult<Vec<Seen>>;
}

/// A row that is to be published.
#[derive(Clone, PartialEq, Eq, QueryableByName)]
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
    #[diesel(sql_type = SmallInt)]
    pub(crate) park: i16,
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

impl fmt::Debug for Queued {
    /// Says which one it is: the rest holds users' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queued").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A lane that a relay owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct Lane {
    #[diesel(sql_type = Integer)]
    pub(crate) lane: i32,
    #[diesel(sql_type = BigInt)]
    pub(crate) epoch: i64,
}

/// A dead letter as it is kept.
#[derive(Clone, PartialEq, Eq, QueryableByName)]
pub struct LetterRow {
    #[diesel(sql_type = BigInt)]
    pub(crate) id: i64,
    #[diesel(sql_type = Text)]
    pub(crate) letter_id: String,
    #[diesel(sql_type = Text)]
    pub(crate) original_topic: String,
    #[diesel(sql_type = Text)]
    pub(crate) failure_reason: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) payload: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) payload_encoding: Option<String>,
    #[diesel(sql_type = BigInt)]
    pub(crate) bytes: i64,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) properties: Option<String>,
    #[diesel(sql_type = Text)]
    pub(crate) reason: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) listener: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) model: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) record_id: Option<String>,
    #[diesel(sql_type = SmallInt)]
    pub(crate) ordered: i16,
    #[diesel(sql_type = Integer)]
    pub(crate) attempts: i32,
    #[diesel(sql_type = Integer)]
    pub(crate) redrives: i32,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) event_id: Option<String>,
    #[diesel(sql_type = Text)]
    pub(crate) service: String,
    #[diesel(sql_type = Text)]
    pub(crate) node: String,
    #[diesel(sql_type = Text)]
    pub(crate) incarnation: String,
    #[diesel(sql_type = BigInt)]
    pub(crate) created: i64,
    #[diesel(sql_type = BigInt)]
    pub(crate) claimed: i64,
}

impl fmt::Debug for LetterRow {
    /// Says which one it is: the rest holds users' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LetterRow").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A row of an outbox that was given up.
#[derive(Clone, PartialEq, Eq, QueryableByName)]
pub struct GivenUpRow {
    #[diesel(sql_type = BigInt)]
    pub(crate) id: i64,
    #[diesel(sql_type = Text)]
    pub(crate) status: String,
    #[diesel(sql_type = Text)]
    pub(crate) event_id: String,
    #[diesel(sql_type = Text)]
    pub(crate) model: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) record_id: Option<String>,
    #[diesel(sql_type = Text)]
    pub(crate) topic: String,
    #[diesel(sql_type = Integer)]
    pub(crate) retries: i32,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) last_error: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    pub(crate) created: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    pub(crate) processed: Option<i64>,
    /// In lists, none.
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) payload: Option<String>,
}

impl fmt::Debug for GivenUpRow {
    /// Says which one it is: the rest holds users' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GivenUpRow")
            .field("id", &self.id)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// How far a listener is with an event.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct LedgerRow {
    #[diesel(sql_type = Text)]
    pub(crate) event_id: String,
    #[diesel(sql_type = Text)]
    pub(crate) listener: String,
    #[diesel(sql_type = Text)]
    pub(crate) service: String,
    #[diesel(sql_type = Text)]
    pub(crate) status: String,
    #[diesel(sql_type = Integer)]
    pub(crate) attempts: i32,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) last_error: Option<String>,
    #[diesel(sql_type = BigInt)]
    pub(crate) next_attempt: i64,
    /// By the same clock.
    #[diesel(sql_type = BigInt)]
    pub(crate) now: i64,
    #[diesel(sql_type = BigInt)]
    pub(crate) updated: i64,
}

/// What a service is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct RequestRow {
    #[diesel(sql_type = BigInt)]
    pub(crate) id: i64,
    #[diesel(sql_type = Text)]
    pub(crate) service: String,
    #[diesel(sql_type = Text)]
    pub(crate) action: String,
    #[diesel(sql_type = Text)]
    pub(crate) work: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) asked_by: Option<String>,
    #[diesel(sql_type = Text)]
    pub(crate) status: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) node: Option<String>,
    #[diesel(sql_type = Integer)]
    pub(crate) claims: i32,
    #[diesel(sql_type = Nullable<BigInt>)]
    pub(crate) total: Option<i64>,
    #[diesel(sql_type = BigInt)]
    pub(crate) handled: i64,
    #[diesel(sql_type = BigInt)]
    pub(crate) failed: i64,
    #[diesel(sql_type = BigInt)]
    pub(crate) skipped: i64,
    #[diesel(sql_type = BigInt)]
    pub(crate) unheard: i64,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) place: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) last_error: Option<String>,
    #[diesel(sql_type = BigInt)]
    pub(crate) created: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    pub(crate) finished: Option<i64>,
    #[diesel(sql_type = BigInt)]
    pub(crate) claimed: i64,
}

/// A text and a number.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Pair {
    #[diesel(sql_type = Text)]
    pub(crate) text: String,
    #[diesel(sql_type = BigInt)]
    pub(crate) number: i64,
}

/// A row of a mirror.
#[derive(Clone, PartialEq, Eq, QueryableByName)]
pub struct Seen {
    #[diesel(sql_type = BigInt)]
    pub(crate) id: i64,
    #[diesel(sql_type = Text)]
    pub(crate) xid: String,
    #[diesel(sql_type = Text)]
    pub(crate) topic: String,
    #[diesel(sql_type = Text)]
    pub(crate) payload: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) properties: Option<String>,
    #[diesel(sql_type = BigInt)]
    pub(crate) created: i64,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) event_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) trace_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) service: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) node: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) model: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) operation: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) record_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) kind: Option<String>,
}

impl fmt::Debug for Seen {
    /// Leaves the payload out: it holds users' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seen").field("id", &self.id).finish_non_exhaustive()
    }
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

            fn letters(&mut self, sql: String) -> QueryResult<Vec<LetterRow>> {
                diesel::RunQueryDsl::load(diesel::sql_query(sql), self)
            }

            fn given_up(&mut self, sql: String) -> QueryResult<Vec<GivenUpRow>> {
                diesel::RunQueryDsl::load(diesel::sql_query(sql), self)
            }

            fn ledger(&mut self, sql: String) -> QueryResult<Vec<LedgerRow>> {
                diesel::RunQueryDsl::load(diesel::sql_query(sql), self)
            }

            fn requests(&mut self, sql: String) -> QueryResult<Vec<RequestRow>> {
                diesel::RunQueryDsl::load(diesel::sql_query(sql), self)
            }

            fn pairs(&mut self, sql: String) -> QueryResult<Vec<Pair>> {
                diesel::RunQueryDsl::load(diesel::sql_query(sql), self)
            }

            fn seen(&mut self, sql: String) -> QueryResult<Vec<Seen>> {
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
