//! Disks that are full, or that do not keep what they were given: what was committed is heard, in order, and what was
//! not is not; the nodes live on, say what is wrong, and go on by themselves.

use std::time::Instant;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::outbox::{Control, RelayConfig};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::{Disk, Fault, Mosquitto, Postgres};
use emitter_tests::worker::{Task, Worker};

use super::databases::{Database, Sqlite};
use super::kills::{Stage, agrees, start};
use super::*;

fn rounds() -> u32 {
    if std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full") { 20 } else { 3 }
}

/// PostgreSQL on a disk that may fail, two nodes that write and relay, and one of which the health is asked.
struct Server {
    disk: Arc<Disk>,
    stage: Stage<Postgres>,
    writers: [Worker; 2],
    node: Emitter,
}

impl Server {
    async fn start() -> Self {
        let disk = Arc::new(Disk::new());
        let database = tokio::task::block_in_place(|| Postgres::start_on(&disk));
        TABLES.iter().for_each(|table| database.connect().batch_execute(table).unwrap());
        let stage = Stage::set_in(database).await;
        let writers = ["a", "b"].map(|node| start(&stage.writer(node)));
        let node = Emitter::builder().service("shop").node("c").mqtt(stage.broker.url().as_str());
        let relay = RelayConfig { lease: SECOND, ..RelayConfig::default() };
        let node = node.select_listeners(|_| false).with(stage.database.outbox().relay(relay));
        let node = node.start().await.unwrap();
        Self { disk, stage, writers, node }
    }

    fn heard(&self) -> usize {
        self.stage.heard.len()
    }

    /// Something failed.
    async fn failed(&self) {
        eventually(|| self.disk.has_failed()).await;
    }

    /// The disk works again, and so do the nodes, without anybody's help but for that a server which has given up is
    /// started again.
    async fn goes_on(&mut self) {
        self.disk.work();
        let begun = Instant::now();
        tokio::task::block_in_place(|| {
            while self.stage.database.connector()().is_err() {
                if self.stage.database.has_ended() {
                    self.stage.database.restart();
                }
                // After a crash it has all files synced first.
                assert!(begun.elapsed() < 60 * SECOND, "{}", self.stage.database.log());
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let before = self.heard();
        eventually(|| self.heard() > before + 20).await;
        eventually(|| !troubled(&self.node)).await;
        assert!(self.writers.iter_mut().all(Worker::is_alive));
    }

    async fn settle(self) {
        self.writers.into_iter().for_each(Worker::kill);
        assert!(self.node.shutdown(10 * SECOND).await.is_clean());
        let log = self.stage.database.log();
        let count = |what: &str| log.lines().filter(|line| line.contains(what)).count();
        let (full, lost, panics) = (count("No space left"), count("Input/output error"), count("PANIC"));
        let (events, twice) = self.stage.settle().await;
        println!(
            "{events} events, {twice} came twice; told of no space {full} times, of fsync {lost} times, {panics} panics"
        );
    }
}

/// Whether its outbox waits for the database, as its health has it.
fn troubled(node: &Emitter) -> bool {
    node.health().reasons.iter().any(|reason| reason.contains("outbox: it waits for its database"))
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_has_a_full_disk() {
    let mut server = Server::start().await;
    for round in 0..rounds() {
        let before = server.heard();
        eventually(|| server.heard() > before + 20).await;
        if round % 2 == 1 {
            // Its journal cannot be written on, either: it panics.
            server.disk.fail(Fault::Dead);
        } else {
            server.disk.fail(Fault::Full);
        }
        server.failed().await;
        eventually(|| troubled(&server.node)).await;
        server.goes_on().await;
    }
    server.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_has_a_disk_that_does_not_keep_what_is_written() {
    let mut server = Server::start().await;
    for _ in 0..rounds() {
        server.disk.fail(Fault::Fsync);
        server.failed().await;
        server.goes_on().await;
    }
    server.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_has_a_disk_that_is_full_or_does_not_keep_what_is_written() {
    let (server, disk, broker) = (Sqlite::with_tables(), Disk::new(), Mosquitto::start());
    let maker = Emitter::builder().with(server.outbox()).start().await.unwrap();
    assert!(maker.shutdown(10 * SECOND).await.is_clean());
    let orders: Vec<Order> = (0..40).map(|id| Order { id, step: 0 }).collect();
    diesel::insert_into(orders::table).values(&orders).execute(&mut server.connect()).unwrap();
    let emitter = Emitter::builder().service("desk").node("ear").mqtt(broker.url().as_str());
    let emitter = emitter.start().await.unwrap();
    let heard = Ear::default();
    let ear = heard.clone();
    emitter.on::<OrderUpdated>().allow_remote().run(move |event: Event<OrderUpdated>| {
        ear.hear(&event, &event.after);
        std::future::ready(())
    });
    emitter.connected(10 * SECOND).await.unwrap();
    let path = server.path();
    let task = Task {
        node: "a".to_owned(),
        database: path.to_str().unwrap().to_owned(),
        broker: broker.url(),
        lease: Some(1_000),
        batch: 50,
        keys: 40,
        pause: Some(500),
        ..Task::default()
    };
    let folder = path.parent().unwrap().to_owned();
    let program = env!("CARGO_BIN_EXE_worker");
    let worker = tokio::task::block_in_place(|| Worker::start_on(&disk, &folder, program, &task));
    let worker = Mutex::new(worker);
    let health = || tokio::task::block_in_place(|| worker.lock().unwrap().health());
    let mut told = 0;
    for round in 0..rounds() {
        disk.fail([Fault::Dead, Fault::Fsync, Fault::Full][round as usize % 3]);
        eventually(|| disk.has_failed()).await;
        if round % 3 == 0 {
            eventually(|| health().contains("outbox: it waits for its database")).await;
            told += 1;
        }
        disk.work();
        let before = heard.len();
        eventually(|| heard.len() > before + 20).await;
        eventually(|| health().is_empty()).await;
    }
    assert!(told > 0);
    worker.into_inner().unwrap().kill();
    let _relay = tokio::task::block_in_place(|| Worker::start(program, &Task { keys: 0, ..task }));
    let control = Mutex::new(Control::open(&server.tables()).unwrap());
    eventually(|| control.lock().unwrap().state().unwrap().pending == 0).await;
    let mut db = server.connect();
    let committed: Vec<Order> = orders::table.load(&mut db).unwrap();
    let events: i64 = committed.iter().map(|order| order.step).sum();
    eventually(|| heard.len() >= usize::try_from(events).unwrap()).await;
    agrees(&committed, &heard);
    println!("{events} events, {} came twice", emitter.stats().duplicates);
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
}
