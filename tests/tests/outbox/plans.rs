//! What PostgreSQL makes of the relay's statements when it takes the outbox for empty.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use emitter_diesel::{Bind, Emit};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::Postgres;

use super::databases::Database;
use super::*;

const ROWS: i64 = 5_000;

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

fn count(conn: &mut PgConnection, sql: &str) -> i64 {
    diesel::sql_query(sql).get_result::<Count>(conn).unwrap().count
}

/// Writes many orders, which are relayed only then. PostgreSQL looks at the outbox when it has this many rows.
async fn write_and_relay(server: &Postgres, first: i64, known: i64) {
    let broker = MemoryBroker::new();
    let writer = builder(&broker, "writer").with(server.outbox().without_relay()).start().await.unwrap();
    tokio::task::block_in_place(|| {
        let mut db = server.connect();
        for (ids, is_looked_at) in [(first..first + known, true), (first + known..first + ROWS, false)] {
            let written = writer.bind(&mut db).unwrap().transaction(|conn| {
                ids.into_iter().try_for_each(|id| {
                    let insert = diesel::insert_into(orders::table).values(Order { id, step: 0 });
                    insert.emit::<Order>().durable().execute(conn).map(drop)
                })
            });
            written.unwrap();
            if is_looked_at {
                db.batch_execute("ANALYZE emitter_outbox").unwrap();
            }
        }
    });
    let (ear, heard) = Ear::start(&broker).await;
    let relay = builder(&broker, "relay").with(server.outbox()).start().await.unwrap();
    eventually(|| heard.steps().len() == usize::try_from(ROWS).unwrap()).await;
    for emitter in [writer, relay, ear] {
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }
}

/// Where the table was looked at when it was empty, as it is most of the time, PostgreSQL expects one row in it.
/// It must not read all that waits for each settling then, nor all that was there for each claim.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_claimed_by_lane_and_settled_by_id_whatever_is_known_of_the_table() {
    let server = <Postgres as Database>::with_tables();
    let mut conn = server.connect();
    write_and_relay(&server, 0, 0).await;
    // It logs the plan of each statement, with what it did, from the next connection on.
    conn.batch_execute("LOAD 'auto_explain'").unwrap();
    for setting in [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_analyze = on",
        "auto_explain.log_timing = off",
        "autovacuum = off",
    ] {
        conn.batch_execute(&format!("ALTER SYSTEM SET {setting}")).unwrap();
    }
    conn.batch_execute("SELECT pg_reload_conf()").unwrap();
    for (round, known) in [(1, 0), (2, 20)] {
        write_and_relay(&server, round * ROWS, known).await;
        let known = format!(
            "SELECT count(*) AS count FROM pg_class WHERE relname = 'emitter_outbox' AND reltuples = {known} AND relpages > 20"
        );
        assert_eq!(count(&mut conn, &known), 1, "it is taken for all but empty, and has pages");
    }
    assert_eq!(count(&mut conn, "SELECT count(*) AS count FROM emitter_history"), 3 * ROWS);
    let log = server.log();
    let plans = log.split(" LOG:  ").filter(|entry| entry.contains("->  Delete on emitter_outbox"));
    let (mut settlings, mut most) = (0, 0);
    for plan in plans {
        settlings += 1;
        let found = plan.lines().filter_map(|line| line.split_once("(actual rows="));
        let found = found.filter_map(|(_, rows)| rows.split(' ').next()?.parse::<i64>().ok());
        most = most.max(found.max().expect("it is analyzed"));
    }
    // What was relayed leaves dead rows, which any other index leads to: after ten minutes a claim would read 35,000 of them.
    let claims = log
        .lines()
        .filter(|line| line.contains(" on emitter_outbox o ") || line.contains(" on emitter_outbox o_1 "));
    let mut by_lane = 0;
    for scan in claims {
        assert!(scan.contains("Index Scan using emitter_outbox_lane "), "{scan}");
        by_lane += 1;
    }
    assert!(by_lane > 0, "there is a plan of each claim");
    assert!(settlings > 0, "there is a plan of each settling");
    assert!(most <= ROWS / 2, "{most} rows are looked at to settle a thousand of {ROWS}");
}
