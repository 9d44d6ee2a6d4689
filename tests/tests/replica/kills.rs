//! A replica that is killed at any moment: in the end it has what the origin has.

use diesel::PgConnection;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_tests::servers::{Mosquitto, Postgres};
use emitter_tests::worker::{Task, Worker};

use super::databases::Database as _;
use super::*;

diesel::table! {
    orders {
        id -> BigInt,
        step -> BigInt,
    }
}

const KEYS: i64 = 40;

/// How often something is killed.
fn rounds() -> u32 {
    if std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full") { 50 } else { 6 }
}

/// A service with a database, and another one that has a copy of its orders in its own.
struct Stage {
    origin: Postgres,
    copy: Postgres,
    broker: Mosquitto,
}

impl Stage {
    async fn set() -> Self {
        let stage = Self { origin: Postgres::start(), copy: Postgres::start(), broker: Mosquitto::start() };
        for database in [&stage.origin, &stage.copy] {
            // Makes the framework's tables.
            let builder = Emitter::builder().select_listeners(|_| false);
            let maker = builder.with(database.outbox()).start().await.unwrap();
            assert!(maker.shutdown(10 * SECOND).await.is_clean());
            let table = "CREATE TABLE orders (id BIGINT PRIMARY KEY, step BIGINT NOT NULL)";
            database.connect().batch_execute(table).unwrap();
        }
        let fill = format!("INSERT INTO orders SELECT id, 0 FROM generate_series(0, {}) AS id", KEYS - 1);
        stage.origin.connect().batch_execute(&fill).unwrap();
        stage
    }

    fn writer(&self) -> Task {
        Task {
            node: "writer".to_owned(),
            database: self.origin.url(),
            broker: self.broker.url(),
            lease: Some(1_000),
            batch: 50,
            keys: KEYS,
            pause: Some(1_000),
            ..Task::default()
        }
    }

    fn replica(&self, node: &str) -> Task {
        Task { node: node.to_owned(), database: self.copy.url(), replica: true, ..self.writer() }
    }

    fn start(task: &Task) -> Worker {
        tokio::task::block_in_place(|| Worker::start(env!("CARGO_BIN_EXE_worker"), task))
    }

    /// Waits until the copy has what the origin has of what was ever told.
    async fn settle(&self) {
        let load = |conn: &mut PgConnection| -> Vec<(i64, i64)> {
            orders::table.filter(orders::step.gt(0)).order(orders::id).load(conn).unwrap()
        };
        let (mut origin, mut copy) = (self.origin.connect(), self.copy.connect());
        let begun = std::time::Instant::now();
        while load(&mut origin) != load(&mut copy) {
            assert!(begun.elapsed() < 60 * SECOND, "{:?}\n{:?}", load(&mut origin), load(&mut copy));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!load(&mut copy).is_empty());
        println!("{} steps", load(&mut copy).iter().map(|(_, step)| step).sum::<i64>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_killed_in_the_middle_of_its_writes() {
    let stage = Stage::set().await;
    // Once, so that the broker knows of it; and something is left for each life.
    Stage::start(&stage.replica("a")).kill();
    let writer = Stage::start(&stage.writer());
    for _ in 0..rounds() {
        let replica = Stage::start(&stage.replica("a"));
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..500))).await;
        replica.kill();
    }
    writer.kill();
    let _relay = Stage::start(&Task { keys: 0, ..stage.writer() });
    let _last = Stage::start(&stage.replica("a"));
    stage.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_origin_and_one_of_two_replicas_are_killed_in_turn() {
    let stage = Stage::set().await;
    let mut replicas: Vec<Worker> = ["a", "b"].map(|node| Stage::start(&stage.replica(node))).into();
    for round in 0..rounds() {
        let writer = Stage::start(&stage.writer());
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..500))).await;
        replicas.remove(0).kill();
        writer.kill();
        replicas.push(Stage::start(&stage.replica(if round % 2 == 0 { "a" } else { "b" })));
    }
    let _relay = Stage::start(&Task { keys: 0, ..stage.writer() });
    stage.settle().await;
}
