//! Workers that are killed in the middle of an effect: in the end there are as many effects as events.

use diesel::connection::SimpleConnection;
use emitter_tests::servers::{MariaDb, Mosquitto, Postgres};
use emitter_tests::worker::{Cue, Deed, Moment, Task, Worker};

use super::databases::Sqlite;
use super::workplaces::Workplace;
use super::*;

const KEYS: i64 = 40;

/// How often something is killed.
fn rounds() -> u32 {
    if std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full") { 50 } else { 6 }
}

const STAGE: [&str; 3] = [
    "CREATE TABLE orders (id BIGINT PRIMARY KEY, step BIGINT NOT NULL)",
    "CREATE TABLE bills (order_id BIGINT NOT NULL, step BIGINT NOT NULL)",
    "CREATE TABLE totals (order_id BIGINT PRIMARY KEY, bills BIGINT NOT NULL)",
];

/// What there is in the end.
#[derive(Debug)]
struct Found {
    events: i64,
    /// Bills, different bills, bills by the totals, marks.
    effects: [i64; 4],
}

impl Found {
    fn look<D: Workplace>(conn: &mut D::Conn) -> Self {
        let all = format!(
            "SELECT CAST(SUM(step) AS {0}) AS number, 1 AS place FROM orders UNION ALL SELECT COUNT(*), 2 FROM bills \
             UNION ALL SELECT COUNT(*), 3 FROM (SELECT DISTINCT order_id, step FROM bills) AS different \
             UNION ALL SELECT CAST(SUM(bills) AS {0}), 4 FROM totals UNION ALL SELECT COUNT(*), 5 FROM emitter_inbox \
             ORDER BY place",
            D::BIGINT
        );
        let [events, effects @ ..]: [i64; 5] = D::numbers(conn, &all).try_into().unwrap();
        Self { events, effects }
    }
}

struct Stage<D> {
    database: D,
    broker: Mosquitto,
    listener: &'static str,
}

impl<D: Workplace> Stage<D> {
    async fn set(listener: &'static str) -> Self {
        let (database, broker) = tokio::task::block_in_place(|| (D::start(), Mosquitto::start()));
        // Makes the framework's tables.
        let builder = Emitter::builder().select_listeners(|_| false);
        let maker = builder.with(database.outbox()).start().await.unwrap();
        assert!(maker.shutdown(10 * SECOND).await.is_clean());
        let mut conn = database.connect();
        STAGE.iter().for_each(|table| conn.batch_execute(table).unwrap());
        let rows = (0..KEYS).map(|id| format!("({id}, 0)")).collect::<Vec<_>>().join(", ");
        for table in ["orders", "totals"] {
            conn.batch_execute(&format!("INSERT INTO {table} VALUES {rows}")).unwrap();
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

    /// Waits until all events have had their effects, as long as some have, and looks whether they had them once.
    async fn settle(&self) -> Found {
        let mut conn = self.database.connect();
        let (mut before, mut since) = (0, std::time::Instant::now());
        loop {
            let found = Found::look::<D>(&mut conn);
            let [bills, ..] = found.effects;
            if bills > before {
                (before, since) = (bills, std::time::Instant::now());
            }
            if bills >= found.events || since.elapsed() > 60 * SECOND {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(SECOND).await;
        let found = Found::look::<D>(&mut conn);
        assert_eq!(found.effects, [found.events; 4], "{found:?}");
        assert!(found.events > 0);
        found
    }
}

fn start(task: &Task) -> Worker {
    tokio::task::block_in_place(|| Worker::start(env!("CARGO_BIN_EXE_worker"), task))
}

async fn a_consumer_is_killed<D: Workplace>(listener: &'static str) {
    let stage = Stage::<D>::set(listener).await;
    // Once, so that the broker knows of it; and something is left for each life.
    start(&stage.consumer("a")).kill();
    let writer = start(&stage.writer());
    for _ in 0..rounds() {
        let consumer = start(&stage.consumer("a"));
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..500))).await;
        consumer.kill();
    }
    writer.kill();
    let _relay = start(&Task { keys: 0, ..stage.writer() });
    let _last = start(&stage.consumer("a"));
    println!("{:?}", stage.settle().await);
}

/// Of a listener's two writes the first one is made, each time.
async fn a_consumer_dies_between_two_writes<D: Workplace>(listener: &'static str) {
    let stage = Stage::<D>::set(listener).await;
    let mut conn = stage.database.connect();
    start(&stage.consumer("a")).kill();
    let writer = start(&stage.writer());
    for _ in 0..rounds() {
        let cue = Cue { moment: Moment::InEffect, skip: fastrand::u32(..8), deed: Deed::Die };
        let consumer = Task { cue: Some(cue), ..stage.consumer("a") };
        tokio::task::block_in_place(|| Worker::start(env!("CARGO_BIN_EXE_worker"), &consumer).died());
        // Nothing is half done, as soon as the database notices.
        let begun = std::time::Instant::now();
        loop {
            let found = Found::look::<D>(&mut conn);
            if found.effects == [found.effects[0]; 4] {
                break;
            }
            assert!(begun.elapsed() < 10 * SECOND, "{found:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    writer.kill();
    let _relay = start(&Task { keys: 0, ..stage.writer() });
    let _last = start(&stage.consumer("a"));
    println!("{:?}", stage.settle().await);
}

async fn two_nodes_with_one_inbox_are_killed_in_turn<D: Workplace>(listener: &'static str) {
    let stage = Stage::<D>::set(listener).await;
    let mut consumers: Vec<Worker> = ["a", "b"].map(|node| start(&stage.consumer(node))).into();
    let writer = start(&stage.writer());
    for round in 0..rounds() {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..500))).await;
        consumers.remove(0).kill();
        consumers.push(start(&stage.consumer(if round % 2 == 0 { "a" } else { "b" })));
    }
    writer.kill();
    let _relay = start(&Task { keys: 0, ..stage.writer() });
    println!("{:?}", stage.settle().await);
}

async fn the_server_is_killed<D: Workplace>(listener: &'static str, dies: impl Fn(&mut D)) {
    let mut stage = Stage::<D>::set(listener).await;
    let _consumer = start(&stage.consumer("a"));
    let writer = start(&stage.writer());
    for _ in 0..rounds().div_ceil(3) {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(300..900))).await;
        tokio::task::block_in_place(|| dies(&mut stage.database));
    }
    tokio::time::sleep(SECOND).await;
    writer.kill();
    let _relay = start(&Task { keys: 0, ..stage.writer() });
    println!("{:?}", stage.settle().await);
}

macro_rules! kills {
    ($name:ident: $database:ty, $bill:literal, $bill_async:literal) => {
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn a_consumer_dies_between_two_writes_of_an_effect() {
                a_consumer_dies_between_two_writes::<$database>($bill).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_asynchronous_consumer_dies_between_two_writes_of_an_effect() {
                a_consumer_dies_between_two_writes::<$database>($bill_async).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_consumer_is_killed_in_the_middle_of_its_effects() {
                a_consumer_is_killed::<$database>($bill).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_asynchronous_consumer_is_killed_in_the_middle_of_its_effects() {
                a_consumer_is_killed::<$database>($bill_async).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_two_nodes_with_one_inbox_each_is_killed_in_turn() {
                two_nodes_with_one_inbox_are_killed_in_turn::<$database>($bill).await;
            }
        }
    };
}

kills!(postgres: Postgres, "bill", "bill_async");
kills!(mariadb: MariaDb, "bill_mysql", "bill_mysql_async");
kills!(sqlite: Sqlite, "bill_sqlite", "bill_sqlite_async");

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_killed_in_the_middle_of_effects() {
    the_server_is_killed("bill", |server: &mut Postgres| {
        server.kill();
        server.restart();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_is_killed_in_the_middle_of_effects() {
    the_server_is_killed("bill_mysql", MariaDb::restart).await;
}
