//! Nodes that are killed in the middle of what they were asked to do.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::dead_letters::{self, DeadLetterBook, DeadLetters};
use emitter_diesel::mirror::{self, ReplayOptions};
use emitter_diesel::requests::{Requests, Status, Work};
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

fn worker(database: &Postgres, node: &str) -> Worker {
    let task = Task {
        node: node.to_owned(),
        database: database.url(),
        lease: Some(2_000),
        attends: true,
        ..Task::default()
    };
    tokio::task::block_in_place(|| Worker::start(env!("CARGO_BIN_EXE_redriver"), &task))
}

/// The first node is killed at a third of it, and the second one goes on. Returns how many came twice.
async fn taken_over(database: &Postgres, work: &Work, number: i64) -> i64 {
    let requests = Requests::open(&database.tables()).unwrap();
    let first = worker(database, "first");
    let id = requests.ask("shop", work, None).unwrap();
    let state = || requests.state(id).unwrap();
    eventually(|| handled(database).len() as i64 >= number / 3).await;
    first.kill();
    let before = state();
    assert!(before.status == Status::UnderWay && before.node.as_deref() == Some("shop/first"), "{before:?}");
    let _second = worker(database, "second");
    eventually(|| state().status.is_over()).await;
    let after = state();
    assert_eq!((after.status, after.node.as_deref()), (Status::Done, Some("shop/second")), "{after:?}");
    assert_eq!(after.progress.total, Some(number.unsigned_abs()));
    assert!(before.progress.handled > 0 && after.progress.handled > before.progress.handled, "{after:?}");
    let handled = handled(database);
    assert_eq!(handled.iter().map(|times| times.id).collect::<Vec<_>>(), (0..number).collect::<Vec<_>>());
    handled.iter().map(|times| times.times - 1).sum()
}

async fn set(letters: i64) -> Postgres {
    let database = tokio::task::block_in_place(<Postgres as databases::Database>::start);
    let shop = Arc::new(Shop::default());
    let emitter = builder("a", &shop).with(DeadLetters::new(database.tables())).start().await.unwrap();
    shop.refuse(0..letters);
    for id in 0..letters {
        emitter.publish(OrderCreated::new(Order { id, step: 0 }));
    }
    let book = DeadLetterBook::open(&database.tables()).unwrap();
    let all = dead_letters::Selection::default();
    eventually(|| book.count(&all).unwrap() == 2 * letters.unsigned_abs()).await;
    let count = dead_letters::Selection { listener: Some("count".to_owned()), ..all };
    book.discard(&count).unwrap();
    database.connect().batch_execute("CREATE TABLE handled (id BIGINT NOT NULL)").unwrap();
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_whose_node_is_killed_is_taken_over() {
    let database = set(300).await;
    let letters = dead_letters::Selection::default();
    let twice = taken_over(&database, &Work::Redrive { letters, per_second: 100 }, 300).await;
    // What was in progress.
    assert!(twice <= 32, "{twice}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_whose_node_is_killed_is_taken_over_behind_its_cursor() {
    let database = set(0).await;
    database.connect().batch_execute(&mirrored(0..300)).unwrap();
    let options = ReplayOptions { per_second: Some(50), ..ReplayOptions::default() };
    let twice =
        taken_over(&database, &Work::Replay { events: mirror::Selection::default(), options }, 300).await;
    // A step is a second's worth; one more may not have been noted.
    assert!(twice <= 100, "{twice}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_slept_through_its_lease_goes_on_with_nothing() {
    let database = set(0).await;
    database.connect().batch_execute(&mirrored(0..300)).unwrap();
    let requests = Requests::open(&database.tables()).unwrap();
    let first = worker(&database, "first");
    let options = ReplayOptions { per_second: Some(50), ..ReplayOptions::default() };
    let work = Work::Replay { events: mirror::Selection::default(), options };
    let id = requests.ask("shop", &work, None).unwrap();
    let state = || requests.state(id).unwrap();
    eventually(|| state().progress.handled >= 50).await;
    first.freeze();
    let _second = worker(&database, "second");
    eventually(|| state().node.as_deref() == Some("shop/second") && state().progress.handled >= 150).await;
    first.thaw();
    eventually(|| state().status.is_over()).await;
    let over = state();
    assert_eq!((over.status, over.node.as_deref()), (Status::Done, Some("shop/second")), "{over:?}");
    let handled = handled(&database);
    assert_eq!(handled.len(), 300);
    let twice: i64 = handled.iter().map(|times| times.times - 1).sum();
    // The step that it was in, and one that it had not noted.
    println!("{twice} of 300 came twice");
    assert!(twice <= 100, "{twice}");
}
