//! The databases that workers work in, and what tests ask them besides.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use emitter_tests::servers::{MariaDb, Postgres};

use super::databases::{Database, Sqlite};

/// A database that processes are told of.
pub(crate) trait Workplace: Database {
    /// What its SQL calls a number of 64 bits where something is made one.
    const BIGINT: &'static str;

    /// What a worker is told.
    fn url(&self) -> String;

    /// A query's column `number`.
    fn numbers(conn: &mut Self::Conn, sql: &str) -> Vec<i64>;

    /// A query's column `text`.
    #[allow(dead_code, reason = "not every test that has these databases asks for it")]
    fn texts(conn: &mut Self::Conn, sql: &str) -> Vec<String>;

    /// One number.
    #[allow(dead_code, reason = "not every test that has these databases asks for it")]
    fn number(conn: &mut Self::Conn, sql: &str) -> i64 {
        let numbers = Self::numbers(conn, sql);
        assert_eq!(numbers.len(), 1, "{sql}");
        numbers[0]
    }
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

#[derive(QueryableByName)]
#[allow(dead_code, reason = "as above")]
struct Line {
    #[diesel(sql_type = Text)]
    text: String,
}

macro_rules! workplaces {
    ($($database:ty: $bigint:literal, |$self:ident| $url:expr;)*) => { $(
        impl Workplace for $database {
            const BIGINT: &'static str = $bigint;

            fn url(&self) -> String {
                let $self = self;
                $url
            }

            fn numbers(conn: &mut Self::Conn, sql: &str) -> Vec<i64> {
                let rows: QueryResult<Vec<Number>> = diesel::sql_query(sql).load(conn);
                let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
                rows.into_iter().map(|row| row.number).collect()
            }

            fn texts(conn: &mut Self::Conn, sql: &str) -> Vec<String> {
                let rows: QueryResult<Vec<Line>> = diesel::sql_query(sql).load(conn);
                let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
                rows.into_iter().map(|row| row.text).collect()
            }
        }
    )* };
}

workplaces! {
    Postgres: "BIGINT", |server| server.url();
    MariaDb: "SIGNED", |server| server.url();
    Sqlite: "BIGINT", |file| file.path().to_str().unwrap().to_owned();
}
