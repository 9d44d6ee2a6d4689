//! How many rows MariaDB looks at to find a few letters among many.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use emitter_diesel::dead_letters::{DeadLetterBook, DeadLetters, Redrive, Selection};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::MariaDb;

use super::databases::Database;
use super::*;

const LETTERS: i64 = 5_000;

#[derive(Debug, QueryableByName)]
struct Statement {
    #[diesel(sql_type = Text)]
    sql: String,
    #[diesel(sql_type = BigInt)]
    rows: i64,
}

/// MySQL before 8.0.21 and MariaDB before 11.1 read all rows of a table that is changed `WHERE id IN (SELECT …)`.
#[tokio::test(flavor = "multi_thread")]
async fn letters_are_claimed_discarded_and_cleared_away_without_looking_at_all() {
    let server = tokio::task::block_in_place(<MariaDb as Database>::with_tables);
    let mut db = server.connect();
    drop(DeadLetterBook::open(&server.tables()).unwrap());
    let rows = (0..LETTERS).map(|id| {
        let day = if id < 3 { "2020-01-01" } else { "2037-01-01" };
        format!("('a', 'no courier', '{{}}', '{day}', 2, 'unhandled', 'notify', 'order', '{id}', 1, 1, UUID(), 'shop', 'a', UUID())")
    });
    let columns = "(original_topic, failure_reason, payload, created_at, bytes, reason, listener, model, record_id, ordered, \
                   attempts, letter_id, service, node, incarnation)";
    let rows = rows.collect::<Vec<_>>().join(", ");
    db.batch_execute(&format!("INSERT INTO emitter_dlq_events {columns} VALUES {rows}")).unwrap();
    // It writes down how many rows each statement looked at, from the next connection on.
    db.batch_execute(
        "SET GLOBAL log_output = 'TABLE', GLOBAL slow_query_log = 1, GLOBAL long_query_time = 0",
    )
    .unwrap();

    let emitter =
        builder("a", &Arc::default()).with(DeadLetters::new(server.tables())).start().await.unwrap();
    let count = |which: &str| {
        let sql = format!("SELECT 'rows' AS `sql`, COUNT(*) AS `rows` FROM emitter_dlq_events WHERE {which}");
        diesel::sql_query(sql).get_result::<Statement>(&mut server.connect()).unwrap().rows
    };
    eventually(|| count("created_at < '2021-01-01'") == 0).await;
    let book = DeadLetterBook::open(&server.tables()).unwrap();
    assert_eq!(book.discard(&Selection::one(10)).unwrap(), 1);
    let redriven = book.redrive(&emitter, &Selection::one(11), Redrive::default()).await.unwrap();
    assert_eq!((redriven.handled, redriven.failed), (0, 1));
    assert_eq!(count("redrives = 1"), 1);
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());

    let changes = "SELECT CAST(sql_text AS CHAR) AS `sql`, CAST(rows_examined AS SIGNED) AS `rows` FROM mysql.slow_log \
                   WHERE sql_text LIKE 'DELETE%emitter_dlq_events%' OR sql_text LIKE 'UPDATE%emitter_dlq_events%'";
    let changes: Vec<Statement> = diesel::sql_query(changes).load(&mut db).unwrap();
    // Cleared away, discarded twice, claimed, and noted.
    let of = |what: &str| changes.iter().filter(|change| change.sql.contains(what)).count();
    assert!(of("created_at <") > 0 && of("o.id IN (-1,10)") > 1 && of("NOT EXISTS") > 0, "{changes:?}");
    assert!(changes.iter().all(|change| change.rows < LETTERS / 10), "{changes:?}");
}
