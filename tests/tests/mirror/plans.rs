//! How many rows MariaDB looks at to clear a few away.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use emitter_diesel::mirror::Mirror;
use emitter_tests::eventually::eventually;
use emitter_tests::servers::MariaDb;

use super::databases::Database;
use super::*;

const EVENTS: usize = 5_000;

#[derive(Debug, QueryableByName)]
struct Statement {
    #[diesel(sql_type = BigInt)]
    rows: i64,
}

/// MySQL before 8.0.21 and MariaDB before 11.1 read all rows of a table that is changed `WHERE id IN (SELECT …)`.
#[tokio::test(flavor = "multi_thread")]
async fn old_rows_are_cleared_away_without_looking_at_the_others() {
    let server = tokio::task::block_in_place(<MariaDb as Database>::with_tables);
    let mut db = server.connect();
    let rows = || Mirrored::open(&server.tables()).unwrap().count(&Selection::default()).unwrap();
    assert_eq!(rows(), 0);
    let events = (0..EVENTS).map(|id| {
        let day = if id < 3 { "2020-01-01" } else { "2037-01-01" };
        format!("('a', '{{}}', '{day}')")
    });
    let events = events.collect::<Vec<_>>().join(", ");
    db.batch_execute(&format!(
        "INSERT INTO emitter_events_mirror (topic, payload, created_at) VALUES {events}"
    ))
    .unwrap();
    // It writes down how many rows each statement looked at, from the next connection on.
    db.batch_execute(
        "SET GLOBAL log_output = 'TABLE', GLOBAL slow_query_log = 1, GLOBAL long_query_time = 0",
    )
    .unwrap();
    let audit = builder(&MemoryBroker::new(), "audit", "a").with(Mirror::new(server.tables()));
    let audit = audit.start().await.unwrap();
    eventually(|| rows() == EVENTS as u64 - 3).await;
    assert!(audit.shutdown(10 * SECOND).await.is_clean());
    let clearings = "SELECT CAST(rows_examined AS SIGNED) AS `rows` FROM mysql.slow_log \
                     WHERE sql_text LIKE 'DELETE%emitter_events_mirror%'";
    let clearings: Vec<Statement> = diesel::sql_query(clearings).load(&mut db).unwrap();
    let most = clearings.iter().map(|clearing| clearing.rows).max().expect("it cleared them away");
    assert!(most < 100, "{most} rows are looked at to clear 3 away");
}
