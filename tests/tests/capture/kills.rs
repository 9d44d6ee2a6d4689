//! Nodes that are killed while they turn.

use emitter_core::EventId;
use emitter_tests::servers::Mosquitto;
use emitter_tests::worker::{Task, Worker};

use super::*;

diesel::table! {
    orders {
        id -> BigInt,
        step -> BigInt,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct Order {
    id: i64,
    step: i64,
}

/// How often somebody is killed.
fn rounds() -> u32 {
    if std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full") { 50 } else { 8 }
}

const KEYS: i64 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_killed_at_any_moment_and_each_write_is_heard_once() {
    let (server, broker) = (Postgres::start(), Mosquitto::start());
    let mut db = connect(&server);
    db.batch_execute("CREATE TABLE orders (id BIGINT PRIMARY KEY, step BIGINT NOT NULL)").unwrap();
    db.batch_execute(&format!("INSERT INTO orders SELECT n, 0 FROM generate_series(0, {}) n", KEYS - 1))
        .unwrap();
    let outbox = Outbox::new(tables(&server)).capture(Capture::of::<Order>().unwrap());
    ended([builder(&MemoryBroker::new(), "maker").with(outbox).start().await.unwrap()]).await;
    let listener = Emitter::builder().service("desk").node("ear").hash_key(HashKey::new(&[7; 16]).unwrap());
    let listener = listener.mqtt(broker.url().as_str());
    let listener = listener.start().await.unwrap();
    let heard: Ear<(EventId, i64, i64)> =
        Ear::on(&listener, |event: &Event<OrderUpdated>| (event.id(), event.after.id, event.after.step));
    listener.connected(10 * SECOND).await.unwrap();
    let start = |node: &str| {
        let task = Task {
            node: node.to_owned(),
            database: server.url(),
            broker: broker.url(),
            lease: Some(1_000),
            batch: 50,
            captures: true,
            ..Task::default()
        };
        tokio::task::block_in_place(|| Worker::start(env!("CARGO_BIN_EXE_worker"), &task))
    };
    let ending = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (mut db, ending) = (connect(&server), Arc::clone(&ending));
            std::thread::spawn(move || {
                while !ending.load(std::sync::atomic::Ordering::Relaxed) {
                    let id = fastrand::i64(0..KEYS);
                    let end = if fastrand::u8(..4) == 0 { "ROLLBACK" } else { "COMMIT" };
                    db.batch_execute(&format!(
                        "BEGIN; UPDATE orders SET step = step + 1 WHERE id = {id}; {end}"
                    ))
                    .unwrap();
                }
            })
        })
        .collect();
    let mut steady = start("b");
    for round in 0..rounds() {
        let worker = start("a");
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..500))).await;
        worker.kill();
        if round % 3 == 2 {
            steady.kill();
            steady = start("b");
        }
    }
    ending.store(true, std::sync::atomic::Ordering::Relaxed);
    tokio::task::block_in_place(|| writers.into_iter().for_each(|writer| writer.join().unwrap()));
    let begun = std::time::Instant::now();
    while (count(&mut db, "emitter_captured") > 0 || count(&mut db, "emitter_outbox") > 0)
        && begun.elapsed() < 60 * SECOND
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rows: Vec<Order> = orders::table.filter(orders::step.gt(0)).order(orders::id).load(&mut db).unwrap();
    let events: i64 = rows.iter().map(|order| order.step).sum();
    eventually(|| heard.len() >= usize::try_from(events).unwrap()).await;
    let mut steps = BTreeMap::<i64, Vec<i64>>::new();
    heard.heard().iter().for_each(|(_, id, step)| steps.entry(*id).or_default().push(*step));
    let expected: BTreeMap<i64, Vec<i64>> =
        rows.iter().map(|row| (row.id, (1..=row.step).collect())).collect();
    assert_eq!(steps, expected);
    assert_eq!(count(&mut db, "emitter_history"), events);
    println!("{events} events, {} came twice", listener.stats().duplicates);
    drop(steady);
    ended([listener]).await;
}
