//! Workers that are killed in the middle of an effect: in the end there are as many effects as events.

use diesel::PgConnection;
use diesel::QueryableByName;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use emitter_tests::servers::{Mosquitto, Postgres};
use emitter_tests::worker::{Cue, Deed, Moment, Task, Worker};

use super::databases::Database as _;
use super::*;

const KEYS: i64 = 40;

/// How often something is killed.
fn rounds() -> u32 {
    if std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full") { 50 } else { 6 }
}

const STAGE: &str = "CREATE TABLE orders (id BIGINT PRIMARY KEY, step BIGINT NOT NULL); \
                     CREATE TABLE bills (order_id BIGINT NOT NULL, step BIGINT NOT NULL); \
                     CREATE TABLE totals (order_id BIGINT PRIMARY KEY, bills BIGINT NOT NULL)";

/// What there is in the end: events, bills, different bills, bills by the totals, marks.
#[derive(Debug, QueryableByName)]
struct Found {
    #[diesel(sql_type = BigInt)]
    events: i64,
    #[diesel(sql_type = BigInt)]
    bills: i64,
    #[diesel(sql_type = BigInt)]
    different: i64,
    #[diesel(sql_type = BigInt)]
    totals: i64,
    #[diesel(sql_type = BigInt)]
    marks: i64,
}

const FOUND: &str = "SELECT (SELECT sum(step) FROM orders)::bigint AS events, (SELECT count(*) FROM bills) AS bills, \
                     (SELECT count(DISTINCT (order_id, step)) FROM bills) AS different, \
                     (SELECT sum(bills) FROM totals)::bigint AS totals, (SELECT count(*) FROM emitter_inbox) AS marks";

impl Found {
    fn look(conn: &mut PgConnection) -> Self {
        diesel::sql_query(FOUND).get_result(conn).unwrap()
    }

    fn effects(&self) -> [i64; 4] {
        [self.bills, self.different, self.totals, self.marks]
    }
}

struct Stage {
    database: Postgres,
    broker: Mosquitto,
    listener: &'static str,
}

impl Stage {
    async fn set(listener: &'static str) -> Self {
        let (database, broker) = (Postgres::start(), Mosquitto::start());
        // Makes the framework's tables.
        let builder = Emitter::builder().select_listeners(|_| false);
        let maker = builder.with(database.outbox()).start().await.unwrap();
        assert!(maker.shutdown(10 * SECOND).await.is_clean());
        let mut conn = database.connect();
        conn.batch_execute(STAGE).unwrap();
        for table in ["orders", "totals"] {
            let fill =
                format!("INSERT INTO {table} SELECT id, 0 FROM generate_series(0, {}) AS id", KEYS - 1);
            conn.batch_execute(&fill).unwrap();
        }
        Self { database, broker, listener }
    }

    fn writer(&self) -> Task {
        Task {
            node: "writer".to_owned(),
            database: self.database.url(),
            broker: self.broker.url(),
            lease: Some(1_000),
            batch: 50,
            keys: KEYS,
            pause: Some(1_000),
            ..Task::default()
        }
    }

    fn consumer(&self, node: &str) -> Task {
        Task { node: node.to_owned(), listener: Some(self.listener.to_owned()), ..self.writer() }
    }

    fn start(task: &Task) -> Worker {
        tokio::task::block_in_place(|| Worker::start(env!("CARGO_BIN_EXE_worker"), task))
    }

    /// Waits until all events have had their effects, as long as some have, and looks whether they had them once.
    async fn settle(&self) -> Found {
        let mut conn = self.database.connect();
        let (mut before, mut since) = (0, std::time::Instant::now());
        loop {
            let found = Found::look(&mut conn);
            if found.bills > before {
                (before, since) = (found.bills, std::time::Instant::now());
            }
            if found.bills >= found.events || since.elapsed() > 60 * SECOND {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(SECOND).await;
        let found = Found::look(&mut conn);
        assert_eq!(found.effects(), [found.events; 4], "{found:?}");
        assert!(found.events > 0);
        found
    }
}

async fn a_consumer_is_killed(listener: &'static str) {
    let stage = Stage::set(listener).await;
    // Once, so that the broker knows of it; and something is left for each life.
    Stage::start(&stage.consumer("a")).kill();
    let writer = Stage::start(&stage.writer());
    for _ in 0..rounds() {
        let consumer = Stage::start(&stage.consumer("a"));
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..500))).await;
        consumer.kill();
    }
    writer.kill();
    let _relay = Stage::start(&Task { keys: 0, ..stage.writer() });
    let _last = Stage::start(&stage.consumer("a"));
    println!("{:?}", stage.settle().await);
}

/// Of a listener's two writes the first one is made, each time.
async fn a_consumer_dies_between_two_writes(listener: &'static str) {
    let stage = Stage::set(listener).await;
    let mut conn = stage.database.connect();
    Stage::start(&stage.consumer("a")).kill();
    let writer = Stage::start(&stage.writer());
    for _ in 0..rounds() {
        let cue = Cue { moment: Moment::InEffect, skip: fastrand::u32(..8), deed: Deed::Die };
        let consumer = Task { cue: Some(cue), ..stage.consumer("a") };
        tokio::task::block_in_place(|| Worker::start(env!("CARGO_BIN_EXE_worker"), &consumer).died());
        // Nothing is half done, as soon as the database notices.
        let begun = std::time::Instant::now();
        loop {
            let found = Found::look(&mut conn);
            if found.effects() == [found.bills; 4] {
                break;
            }
            assert!(begun.elapsed() < 10 * SECOND, "{found:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    writer.kill();
    let _relay = Stage::start(&Task { keys: 0, ..stage.writer() });
    let _last = Stage::start(&stage.consumer("a"));
    println!("{:?}", stage.settle().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_dies_between_two_writes_of_an_effect() {
    a_consumer_dies_between_two_writes("bill").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_consumer_dies_between_two_writes_of_an_effect() {
    a_consumer_dies_between_two_writes("bill_async").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_killed_in_the_middle_of_its_effects() {
    a_consumer_is_killed("bill").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_consumer_is_killed_in_the_middle_of_its_effects() {
    a_consumer_is_killed("bill_async").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_with_one_inbox_each_is_killed_in_turn() {
    let stage = Stage::set("bill").await;
    let mut consumers: Vec<Worker> = ["a", "b"].map(|node| Stage::start(&stage.consumer(node))).into();
    let writer = Stage::start(&stage.writer());
    for round in 0..rounds() {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..500))).await;
        consumers.remove(0).kill();
        consumers.push(Stage::start(&stage.consumer(if round % 2 == 0 { "a" } else { "b" })));
    }
    writer.kill();
    let _relay = Stage::start(&Task { keys: 0, ..stage.writer() });
    println!("{:?}", stage.settle().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_killed_in_the_middle_of_effects() {
    let mut stage = Stage::set("bill").await;
    let _consumer = Stage::start(&stage.consumer("a"));
    let writer = Stage::start(&stage.writer());
    for _ in 0..rounds().div_ceil(3) {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(300..900))).await;
        tokio::task::block_in_place(|| {
            stage.database.kill();
            stage.database.restart();
        });
    }
    tokio::time::sleep(SECOND).await;
    writer.kill();
    let _relay = Stage::start(&Task { keys: 0, ..stage.writer() });
    println!("{:?}", stage.settle().await);
}
