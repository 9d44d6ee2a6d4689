//! Workers that are killed, frozen, and lose their database: what was committed is heard, in order, and what
//! was not is not.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::{Bind, Emit};
use emitter_tests::servers::{Mosquitto, Postgres};
use emitter_tests::worker::{Task, Worker};

use super::databases::Database as _;
use super::*;

const KEYS: i64 = 40;

/// How often something is killed.
fn rounds() -> u32 {
    if std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full") { 50 } else { 6 }
}

/// PostgreSQL with an outbox, mosquitto, and a node that hears what becomes of orders.
struct Stage {
    database: Postgres,
    broker: Mosquitto,
    emitter: Emitter,
    heard: Ear,
}

impl Stage {
    async fn set() -> Self {
        let database = <Postgres as databases::Database>::with_tables();
        let broker = Mosquitto::start();
        // Makes the tables.
        let maker = Emitter::builder().with(database.outbox()).start().await.unwrap();
        assert!(maker.shutdown(10 * SECOND).await.is_clean());
        let orders: Vec<Order> = (0..KEYS).map(|id| Order { id, step: 0 }).collect();
        diesel::insert_into(orders::table).values(&orders).execute(&mut database.connect()).unwrap();
        let emitter = Emitter::builder().service("desk").node("ear").mqtt(broker.url().as_str());
        let emitter = emitter.start().await.unwrap();
        let heard = Ear::default();
        let ear = heard.clone();
        emitter.on::<OrderUpdated>().allow_remote().run(move |event: Event<OrderUpdated>| {
            ear.hear(&event, &event.after);
            std::future::ready(())
        });
        emitter.connected(10 * SECOND).await.unwrap();
        Self { database, broker, emitter, heard }
    }

    fn task(&self, node: &str) -> Task {
        Task {
            node: node.to_owned(),
            database: self.database.url(),
            broker: self.broker.url(),
            lease: Some(1_000),
            batch: 50,
            ..Task::default()
        }
    }

    fn writer(&self, node: &str) -> Task {
        Task { keys: KEYS, pause: Some(500), ..self.task(node) }
    }

    fn start(task: &Task) -> Worker {
        tokio::task::block_in_place(|| Worker::start(env!("CARGO_BIN_EXE_worker"), task))
    }

    /// Waits until everything is relayed, and compares what was heard with the database. Returns how many events
    /// there were, and how many came twice.
    async fn settle(self) -> (usize, u64) {
        let _relay = Self::start(&self.task("last"));
        let mut db = self.database.connect();
        let committed: Vec<Order> = orders::table.order(orders::id).load(&mut db).unwrap();
        let events: i64 = committed.iter().map(|order| order.step).sum();
        let events = usize::try_from(events).unwrap();
        let begun = std::time::Instant::now();
        while (self.heard.len() < events || outbox(&mut db) > 0) && begun.elapsed() < 60 * SECOND {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let expected: BTreeMap<i64, Vec<i64>> = committed
            .iter()
            .filter(|order| order.step > 0)
            .map(|order| (order.id, (1..=order.step).collect()))
            .collect();
        let steps = self.heard.steps();
        for (id, expected) in &expected {
            assert_eq!(steps.get(id), Some(expected), "order {id}");
        }
        assert_eq!(
            (steps.len(), self.heard.len()),
            (expected.len(), events),
            "nothing else was heard, or twice"
        );
        assert_eq!(outbox(&mut db), 0);
        let history: Vec<Number> = diesel::sql_query(
            "SELECT COUNT(*) AS number FROM emitter_history WHERE status = 'COMPLETED' \
             UNION ALL SELECT COUNT(DISTINCT event_id) FROM emitter_history",
        )
        .load(&mut db)
        .unwrap();
        assert_eq!([history[0].number, history[1].number], [i64::try_from(events).unwrap(); 2]);
        let twice = self.emitter.stats().duplicates;
        assert!(self.emitter.shutdown(10 * SECOND).await.is_clean());
        (events, twice)
    }
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    number: i64,
}

fn outbox(conn: &mut PgConnection) -> i64 {
    let rows: QueryResult<Vec<Number>> =
        diesel::sql_query("SELECT COUNT(*) AS number FROM emitter_outbox").load(conn);
    rows.unwrap()[0].number
}

fn some_time(most: u64) -> Duration {
    Duration::from_millis(fastrand::u64(10..most))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_writes_and_relays_is_killed_at_any_moment() {
    let stage = Stage::set().await;
    for _ in 0..rounds() {
        let worker = Stage::start(&stage.writer("a"));
        tokio::time::sleep(some_time(400)).await;
        worker.kill();
    }
    let (events, twice) = stage.settle().await;
    println!("{events} events, {twice} came twice");
    assert!(events > 0);
}

/// What it owned is its next life's at once: all of it, though the lease of the dead one still runs.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_life_of_a_relay_waits_for_no_lease() {
    let stage = Stage::set().await;
    let long = Task { lease: Some(600_000), ..stage.task("a") };
    Stage::start(&long).kill();
    let writer =
        Emitter::builder().service("shop").node("writer").with(stage.database.outbox().without_relay());
    let writer = writer.start().await.unwrap();
    let mut db = stage.database.connect();
    for id in 0..KEYS {
        let step = emitter_diesel::update(orders::table.find(id)).set(orders::step.eq(1));
        step.emit::<Order>().durable().get_result(&mut writer.bind(&mut db).unwrap()).unwrap();
    }
    assert!(writer.shutdown(10 * SECOND).await.is_clean());
    let _next = Stage::start(&long);
    // Keys of every lane.
    let begun = std::time::Instant::now();
    while outbox(&mut db) > 0 {
        assert!(begun.elapsed() < 30 * SECOND, "{} wait for the lease of the dead", outbox(&mut db));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (events, _) = stage.settle().await;
    assert_eq!(events, usize::try_from(KEYS).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_is_queued_a_kill_takes_the_last_alone() {
    let stage = Stage::set().await;
    let steps = |db: &mut PgConnection| -> BTreeMap<i64, i64> {
        let orders: Vec<Order> = orders::table.load(db).unwrap();
        orders.into_iter().map(|order| (order.id, order.step)).collect()
    };
    let mut db = stage.database.connect();
    let mut lives = vec![steps(&mut db)];
    for _ in 0..rounds() {
        let worker = Stage::start(&Task { queued: true, ..stage.writer("a") });
        tokio::time::sleep(some_time(400)).await;
        worker.kill();
        // The database may be about to commit what the worker asked last.
        tokio::time::sleep(Duration::from_millis(200)).await;
        lives.push(steps(&mut db));
    }
    let _relay = Stage::start(&stage.task("last"));
    let begun = std::time::Instant::now();
    while outbox(&mut db) > 0 && begun.elapsed() < 60 * SECOND {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let written: Vec<Number> =
        diesel::sql_query("SELECT COUNT(*) AS number FROM emitter_history").load(&mut db).unwrap();
    let written = usize::try_from(written[0].number).unwrap();
    emitter_tests::eventually::eventually(|| stage.heard.len() >= written).await;
    let heard = stage.heard.steps();
    let (mut committed, mut lost) = (0, 0);
    for life in lives.windows(2) {
        for (id, after) in &life[1] {
            let before = life[0][id];
            let of_life = |step: &&i64| **step > before && **step <= *after;
            let heard: Vec<i64> = heard.get(id).into_iter().flatten().filter(of_life).copied().collect();
            let expected: Vec<i64> = (before + 1..).take(heard.len()).collect();
            assert_eq!(heard, expected, "order {id}: something is missing in the middle of a life");
            committed += after - before;
            lost += after - before - i64::try_from(heard.len()).unwrap();
        }
    }
    println!("{lost} of {committed} events were not written yet");
    let all: usize = heard.values().map(Vec::len).sum();
    assert_eq!((all, stage.heard.len()), (written, written), "nothing else was heard, or twice");
    assert!(written > 0 && lost < committed / 4);
    assert!(stage.emitter.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_lanes_is_killed_and_others_take_them() {
    let stage = Stage::set().await;
    let _writer = Stage::start(&Task { lease: None, ..stage.writer("writer") });
    let mut relays: Vec<Worker> = (0..3).map(|n| Stage::start(&stage.task(&format!("relay-{n}")))).collect();
    for round in 0..rounds() {
        tokio::time::sleep(some_time(600)).await;
        relays.remove(0).kill();
        // Another one, for an earlier life's lanes would be taken at once.
        relays.push(Stage::start(&stage.task(&format!("relay-{}", round + 3))));
    }
    drop(_writer);
    drop(relays);
    let (events, twice) = stage.settle().await;
    println!("{events} events, {twice} came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_frozen_for_longer_than_its_lease_marks_nothing() {
    let stage = Stage::set().await;
    let writer = Stage::start(&Task { lease: None, ..stage.writer("writer") });
    let relays: Vec<Worker> = (0..2).map(|n| Stage::start(&stage.task(&format!("relay-{n}")))).collect();
    for round in 0..rounds().div_ceil(5) {
        let relay = &relays[round as usize % 2];
        tokio::time::sleep(some_time(600)).await;
        relay.freeze();
        tokio::time::sleep(2 * SECOND).await;
        relay.thaw();
    }
    writer.kill();
    drop(relays);
    let (events, twice) = stage.settle().await;
    println!("{events} events, {twice} came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_killed_and_its_sessions_are_terminated() {
    let mut stage = Stage::set().await;
    let workers = ["a", "b"].map(|node| Stage::start(&stage.writer(node)));
    for _ in 0..rounds().div_ceil(3) {
        tokio::time::sleep(some_time(600)).await;
        tokio::task::block_in_place(|| {
            stage.database.kill();
            stage.database.restart();
        });
        for _ in 0..3 {
            tokio::time::sleep(some_time(300)).await;
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
                       AND backend_type = 'client backend'";
            tokio::task::block_in_place(|| stage.database.connect().batch_execute(end)).unwrap();
        }
    }
    tokio::time::sleep(SECOND).await;
    workers.into_iter().for_each(Worker::kill);
    let (events, twice) = stage.settle().await;
    println!("{events} events, {twice} came twice");
    assert!(events > 0);
}
