//! Tables that are made by several at once, or by who dies in the middle, where the database commits each statement by itself.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use emitter_diesel::dead_letters::DeadLetterBook;
use emitter_diesel::tables::{Dialect, Tables};
use emitter_tests::servers::MariaDb;

/// An empty database on a server.
struct Place {
    url: String,
}

impl Place {
    fn new(server: &MariaDb, name: &str) -> Self {
        let mut conn = MysqlConnection::establish(&server.url()).unwrap();
        conn.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        Self { url: server.url().replace("/test", &format!("/{name}")) }
    }

    fn connect(&self) -> MysqlConnection {
        MysqlConnection::establish(&self.url).unwrap()
    }

    fn tables(&self) -> Tables {
        let url = self.url.clone();
        Tables::new(move || MysqlConnection::establish(&url)).migrate()
    }

    /// Makes the tables.
    fn open(&self) -> Result<(), String> {
        DeadLetterBook::open(&self.tables()).map(drop).map_err(|error| error.to_string())
    }

    fn texts(&self, sql: &str) -> Vec<String> {
        let rows: Vec<Row> = diesel::sql_query(sql).load(&mut self.connect()).unwrap();
        rows.into_iter().map(|row| row.text).collect()
    }

    /// Columns, indexes, lanes and versions.
    fn all(&self) -> Vec<String> {
        let parts = [
            "SELECT CONCAT_WS(' ', table_name, column_name, column_type, is_nullable) AS text \
             FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position",
            "SELECT CONCAT_WS(' ', table_name, index_name, non_unique, seq_in_index, column_name, sub_part) AS text \
             FROM information_schema.statistics WHERE table_schema = DATABASE() \
             ORDER BY table_name, index_name, seq_in_index",
            "SELECT CAST(lane AS CHAR) AS text FROM emitter_lanes ORDER BY lane",
            "SELECT CONCAT(version, ' ', lanes) AS text FROM emitter_schema",
        ];
        parts.into_iter().flat_map(|part| self.texts(part)).collect()
    }
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    text: String,
}

#[derive(QueryableByName)]
struct Answer {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

#[test]
fn a_migration_that_ends_at_any_statement_is_completed_by_the_next() {
    let server = MariaDb::start();
    let whole = Place::new(&server, "whole");
    whole.open().unwrap();
    let wanted = whole.all();
    assert!(wanted.len() > 100 && wanted.contains(&"1 16".to_owned()), "{wanted:?}");
    let statements = |lanes| -> Vec<String> {
        let steps = whole.tables().lanes(lanes).migrations(Dialect::MySql);
        steps.into_iter().flat_map(|step| step.statements).collect()
    };
    let all = statements(16).len();
    for done in 0..=all {
        let place = Place::new(&server, &format!("cut_{done}"));
        let mut conn = place.connect();
        // By who was told of other lanes, as long as it has not come to its end.
        let lanes = if done == all { 16 } else { 30 };
        statements(lanes).iter().take(done).for_each(|statement| conn.batch_execute(statement).unwrap());
        place.open().unwrap_or_else(|error| panic!("after {done} of {all} statements: {error}"));
        assert_eq!(place.all(), wanted, "after {done} of {all} statements");
        place.open().unwrap();
    }
}

#[test]
fn of_several_that_migrate_at_once_one_makes_the_tables() {
    let server = MariaDb::start();
    for round in 0..5 {
        let place = Place::new(&server, &format!("round_{round}"));
        std::thread::scope(|scope| {
            let opened: Vec<_> = (0..4).map(|_| scope.spawn(|| place.open())).collect();
            for opened in opened {
                assert_eq!(opened.join().unwrap(), Ok(()));
            }
        });
        assert!(place.all().contains(&"1 16".to_owned()));
    }
}

#[test]
fn who_cannot_have_the_lock_of_migrations_says_who_has_it() {
    let server = MariaDb::start();
    let place = Place::new(&server, "locked");
    let mut holder = place.connect();
    let mut ask = |sql: &str| -> i64 {
        diesel::sql_query(format!("SELECT CAST({sql} AS SIGNED) AS number"))
            .get_result::<Answer>(&mut holder)
            .unwrap()
            .number
    };
    let id = ask("connection_id()");
    assert_eq!(ask("GET_LOCK('emitter_migration', 0)"), 1);
    let error = place.open().unwrap_err();
    assert!(error.contains(&format!("`KILL {id}`")), "{error}");
    assert_eq!(ask("RELEASE_LOCK('emitter_migration')"), 1);
    place.open().unwrap();
}
