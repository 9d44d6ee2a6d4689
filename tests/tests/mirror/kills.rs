//! Mirrors that are killed, at a real broker, and one that loses its database: all that was confirmed to who
//! published it is there, once.

use diesel::connection::SimpleConnection;
use emitter_diesel::mirror::Mirror;
use emitter_tests::servers::{Mosquitto, Postgres};
use emitter_tests::worker::{Task, Worker};

use super::databases::Database as _;
use super::*;

/// How often something is killed.
fn rounds() -> u32 {
    if is_full() { 30 } else { 4 }
}

/// PostgreSQL with a mirror, mosquitto, and a node that publishes orders.
struct Stage {
    database: Postgres,
    broker: Mosquitto,
    shop: Emitter,
}

impl Stage {
    async fn set() -> Self {
        let database = <Postgres as databases::Database>::with_tables();
        let broker = Mosquitto::builder().line("max_inflight_messages 500").start();
        // Makes the tables, and the session at the broker.
        let maker = Emitter::builder().service("audit").node("maker").mqtt(broker.url().as_str());
        let maker = maker.with(Mirror::new(database.tables())).start().await.unwrap();
        writes(&maker).await;
        maker.publish(order(-1));
        recorded(&maker, 1).await;
        assert!(maker.shutdown(10 * SECOND).await.is_clean());
        let shop = Emitter::builder().service("shop").node("a").mqtt(broker.url().as_str());
        let shop = shop.start().await.unwrap();
        shop.connected(10 * SECOND).await.unwrap();
        Self { database, broker, shop }
    }

    fn start(&self, node: &str) -> Worker {
        let task = Task {
            node: node.to_owned(),
            database: self.database.url(),
            broker: self.broker.url(),
            lease: Some(1_000),
            batch: 100,
            ..Task::default()
        };
        tokio::task::block_in_place(|| Worker::start(env!("CARGO_BIN_EXE_scribe"), &task))
    }

    /// Publishes for so long.
    async fn publish(&self, expected: &mut Vec<EventId>, time: Duration) {
        let begun = std::time::Instant::now();
        while begun.elapsed() < time {
            for _ in 0..10 {
                let id = i64::try_from(expected.len()).unwrap();
                expected.push(self.shop.publish(order(id)).id);
            }
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
    }

    /// Waits until everything is there, and compares.
    async fn settle(self, expected: &[EventId]) {
        let _last = self.start("last");
        let mut mirrored = Mirrored::open(&self.database.tables()).unwrap();
        let begun = std::time::Instant::now();
        let wanted = expected.len() as u64 + 1;
        while mirrored.count(&Selection::default()).unwrap() < wanted && begun.elapsed() < 60 * SECOND {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let found = ids(&all(&mut mirrored));
        assert_eq!(found.len(), expected.len() + 1, "something is missing, or there twice");
        let sorted = |ids: &[EventId]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        assert_eq!(sorted(&found[1..]), sorted(expected));
        assert_eq!(self.shop.stats().publish_failed, 0);
        assert!(self.shop.shutdown(10 * SECOND).await.is_clean());
        println!("{} events", expected.len());
    }
}

fn some_time(most: u64) -> Duration {
    Duration::from_millis(fastrand::u64(10..most))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_killed_at_any_moment_and_begins_again() {
    let stage = Stage::set().await;
    let mut expected = Vec::new();
    for _ in 0..rounds() {
        let worker = stage.start("a");
        stage.publish(&mut expected, some_time(400)).await;
        worker.kill();
        stage.publish(&mut expected, some_time(50)).await;
    }
    stage.settle(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_that_writes_is_killed_or_frozen_and_another_takes_over() {
    let stage = Stage::set().await;
    let mut expected = Vec::new();
    let mut nodes = vec![stage.start("node-0"), stage.start("node-1")];
    for round in 0..rounds() {
        stage.publish(&mut expected, some_time(600)).await;
        if round % 2 == 0 {
            nodes.remove(0).kill();
        } else {
            let frozen = nodes.remove(0);
            frozen.freeze();
            stage.publish(&mut expected, Duration::from_millis(2_500)).await;
            // It wakes up and finds that it has no say any more.
            frozen.thaw();
            stage.publish(&mut expected, some_time(300)).await;
            frozen.kill();
        }
        nodes.push(stage.start(&format!("node-{}", round + 2)));
        stage.publish(&mut expected, Duration::from_millis(1_500)).await;
    }
    drop(nodes);
    stage.settle(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_killed_and_its_sessions_are_terminated() {
    let mut stage = Stage::set().await;
    let mut expected = Vec::new();
    let worker = stage.start("a");
    for _ in 0..rounds().div_ceil(2) {
        stage.publish(&mut expected, some_time(400)).await;
        tokio::task::block_in_place(|| stage.database.kill());
        stage.publish(&mut expected, 2 * SECOND).await;
        tokio::task::block_in_place(|| stage.database.restart());
        for _ in 0..5 {
            stage.publish(&mut expected, some_time(200)).await;
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
                       AND backend_type = 'client backend'";
            tokio::task::block_in_place(|| stage.database.connect().batch_execute(end)).unwrap();
        }
    }
    tokio::time::sleep(SECOND).await;
    worker.kill();
    stage.settle(&expected).await;
}
