//! Processes that are killed in the middle of a redrive, and a database that goes away.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_core::transport::memory::MemoryBroker;
use emitter_diesel::dead_letters::{DeadLetterBook, DeadLetters, Redrive, Selection};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::Postgres;
use emitter_tests::worker::{Task, Worker};

use super::databases::Database as _;
use super::*;

#[derive(QueryableByName)]
struct Times {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    id: i64,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    times: i64,
}

fn handled(database: &Postgres) -> Vec<Times> {
    let each = "SELECT id, COUNT(*) AS times FROM handled GROUP BY id ORDER BY id";
    diesel::sql_query(each).load(&mut database.connect()).unwrap()
}

fn start() -> Postgres {
    tokio::task::block_in_place(<Postgres as databases::Database>::start)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_is_killed_loses_nothing_and_its_claims_expire() {
    const LETTERS: i64 = 600;
    let database = start();
    let shop = Arc::new(Shop::default());
    let letters = DeadLetters::new(database.tables());
    let emitter = builder("a", &shop).with(letters).start().await.unwrap();
    let book = DeadLetterBook::open(&database.tables()).unwrap();
    shop.refuse(0..LETTERS);
    for id in 0..LETTERS {
        emitter.publish(order(id, 0));
    }
    let all = Selection::default();
    eventually(|| book.count(&all).unwrap() == LETTERS.unsigned_abs()).await;
    database.connect().batch_execute("CREATE TABLE handled (id BIGINT NOT NULL)").unwrap();

    let task = |node: &str| Task {
        node: node.to_owned(),
        database: database.url(),
        broker: String::new(),
        lease: Some(1_000),
        batch: 8,
        ..Task::default()
    };
    let begin = |node: &str| {
        tokio::task::block_in_place(|| Worker::start(env!("CARGO_BIN_EXE_redriver"), &task(node)))
    };
    for round in 0..4 {
        let before = handled(&database).len();
        let worker = begin(&format!("r{round}"));
        eventually(|| handled(&database).len() >= before + 60).await;
        worker.kill();
        assert!(book.count(&all).unwrap() > 0, "it was killed in the middle");
    }
    let _last = begin("last");
    eventually(|| book.count(&all).unwrap() == 0).await;
    let handled = handled(&database);
    assert_eq!(handled.iter().map(|times| times.id).collect::<Vec<_>>(), (0..LETTERS).collect::<Vec<_>>());
    // What was in progress at each of the four kills, and nothing else.
    let twice: i64 = handled.iter().map(|times| times.times - 1).sum();
    println!("{twice} of {LETTERS} came twice");
    assert!(twice <= 4 * 8, "{twice}");
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_letters_go_to_the_broker_and_events_go_on() {
    let mut database = start();
    let (broker, shop) = (MemoryBroker::new(), Arc::new(Shop::default()));
    let letters = DeadLetters::new(database.tables());
    let transport = broker.connect("shop.a");
    let emitter = builder("a", &shop).with(letters).transport(transport).start().await.unwrap();
    emitter.connected(10 * SECOND).await.unwrap();
    let book = DeadLetterBook::open(&database.tables()).unwrap();
    let send = || assert!(broker.send("shop.a", "prisma/events/order/create", "no event"));
    let on_the_broker = || {
        let dead = |topic: &str| topic.starts_with("prisma/events/dlq/");
        broker.published().iter().filter(|message| dead(&message.topic)).count()
    };
    send();
    eventually(|| book.count(&Selection::default()).unwrap() == 1).await;
    let kept = || book.count(&Selection::default()).ok();
    let waits = || emitter.health().reasons.iter().any(|reason| reason.starts_with("dead letters: "));
    // For a moment: what came meanwhile waits for it, and is acknowledged when it is kept.
    tokio::task::block_in_place(|| database.kill());
    tokio::time::sleep(SECOND).await;
    for _ in 0..50 {
        send();
    }
    eventually(waits).await;
    assert_eq!(broker.unacknowledged("shop.a"), 50);
    tokio::task::block_in_place(|| database.restart());
    eventually(|| kept() == Some(51) && broker.unacknowledged("shop.a") == 0 && !waits()).await;
    assert_eq!(emitter.stats().dead_letters_lost, 0);
    // For longer: events go on without, and the letters are kept all the same in the end.
    tokio::task::block_in_place(|| database.kill());
    // Its children notice.
    tokio::time::sleep(SECOND).await;
    for _ in 0..100 {
        send();
    }
    tokio::time::sleep(10 * SECOND).await;
    eventually(|| broker.unacknowledged("shop.a") == 0).await;
    eventually(|| emitter.stats().dead_letters_lost == 100 && on_the_broker() == 151).await;
    tokio::task::block_in_place(|| database.restart());
    eventually(|| kept() == Some(151) && !waits()).await;
    send();
    eventually(|| kept() == Some(152)).await;
    assert_eq!(emitter.stats().dead_letters_lost, 100);
    let undecodable =
        Selection { reason: Some(emitter_core::dead_letter::Reason::Undecodable), ..Selection::default() };
    assert_eq!(book.discard(&undecodable).unwrap(), 152);

    // And in the middle of a redrive: it goes on where it was.
    shop.refuse(0..100);
    for id in 0..100 {
        emitter.publish_with(order(id, 0), emitter_core::Scope::LOCAL);
    }
    eventually(|| kept() == Some(100)).await;
    shop.open();
    let unhandled =
        Selection { reason: Some(emitter_core::dead_letter::Reason::Unhandled), ..Selection::default() };
    let slow = Redrive { per_second: 50, ..Redrive::default() };
    let (redriven, ()) = tokio::join!(book.redrive(&emitter, &unhandled, slow), async {
        tokio::time::sleep(SECOND / 2).await;
        tokio::task::block_in_place(|| {
            database.kill();
            database.restart();
        });
    });
    assert_eq!(redriven.unwrap().handled, 100);
    assert_eq!(shop.steps("notify"), (0..100).map(|id| (id, vec![0])).collect());
    assert_eq!(book.count(&Selection::default()).unwrap(), 0);
    // At an end nothing waits for it.
    tokio::task::block_in_place(|| database.kill());
    send();
    eventually(waits).await;
    let begun = std::time::Instant::now();
    assert!(emitter.shutdown(30 * SECOND).await.is_clean());
    assert!(begun.elapsed() < 5 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_acknowledged_when_its_letter_is_kept_but_no_hanging_database_is_waited_for() {
    let database = start();
    let (broker, shop) = (MemoryBroker::new(), Arc::new(Shop::default()));
    let letters = DeadLetters::new(database.tables());
    let transport = broker.connect("shop.a");
    let emitter = builder("a", &shop).with(letters).transport(transport).start().await.unwrap();
    emitter.connected(10 * SECOND).await.unwrap();
    let send = || assert!(broker.send("shop.a", "prisma/events/order/create", "no event"));
    let unacknowledged = || broker.unacknowledged("shop.a");
    let mut db = database.connect();
    let lock = "BEGIN; LOCK TABLE emitter_dlq_events IN ACCESS EXCLUSIVE MODE";
    db.batch_execute(lock).unwrap();
    send();
    tokio::time::sleep(SECOND).await;
    assert_eq!(unacknowledged(), 1);
    db.batch_execute("COMMIT").unwrap();
    eventually(|| unacknowledged() == 0).await;
    assert_eq!(emitter.stats().dead_letters_lost, 0);

    // It hangs: what comes in the first seconds waits for it, and nothing after that.
    db.batch_execute(lock).unwrap();
    (0..300).for_each(|_| send());
    tokio::time::sleep(SECOND).await;
    assert!(unacknowledged() > 0);
    tokio::time::sleep(10 * SECOND).await;
    eventually(|| unacknowledged() == 0).await;
    let begun = std::time::Instant::now();
    (0..300).for_each(|_| send());
    eventually(|| emitter.stats().dead_letters_lost == 600 && unacknowledged() == 0).await;
    assert!(begun.elapsed() < 2 * SECOND, "{:?}", begun.elapsed());
    db.batch_execute("COMMIT").unwrap();
    let book = DeadLetterBook::open(&database.tables()).unwrap();
    let kept = || book.count(&Selection::default()).unwrap();
    // It answers again.
    let before = kept();
    eventually(|| {
        send();
        kept() > before + 1
    })
    .await;
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
}
