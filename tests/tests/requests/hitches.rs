//! Connections of an attendant that break while it works at a request.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::mirror::{self, ReplayOptions};
use emitter_diesel::requests::{Attendant, Requests, Status, Work};
use emitter_diesel::tables::Tables;
use emitter_tests::eventually::eventually;
use emitter_tests::frail::{Breaker, Moment};

use super::databases::{Database, Sqlite};
use super::*;

#[derive(QueryableByName)]
struct Claims {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    claims: i64,
}

/// A node whose connections break as the test says, and a replay that it does in `seconds`.
async fn begun(database: &Sqlite, breaker: &Breaker, seconds: i64) -> (Emitter, Requests, i64) {
    let requests = Requests::open(&database.tables()).unwrap();
    database.connect().batch_execute(&mirrored(0..10 * seconds)).unwrap();
    let tables = Tables::new(breaker.around(database.connector()));
    let attendant = Attendant::new(tables).lease(2 * SECOND);
    let emitter = builder("a", &Arc::default()).with(attendant).start().await.unwrap();
    let options = ReplayOptions { per_second: Some(10), ..ReplayOptions::default() };
    let work = Work::Replay { events: mirror::Selection::default(), options };
    let id = requests.ask("shop", &work, None).unwrap();
    (emitter, requests, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_behind_the_first_lease_is_noted_again() {
    let (database, breaker) = (Sqlite::start(), Breaker::default());
    breaker.plan("status = 'DONE'", [Some(Moment::Before), Some(Moment::Before)]);
    let (emitter, requests, id) = begun(&database, &breaker, 4).await;
    eventually(|| requests.state(id).unwrap().status.is_over()).await;
    let over = requests.state(id).unwrap();
    assert_eq!((over.status, over.progress.handled, breaker.is_done()), (Status::Done, 40, true), "{over:?}");
    let claims = "SELECT CAST(claims AS BIGINT) AS claims FROM emitter_requests";
    let claims: Claims = diesel::sql_query(claims).get_result(&mut database.connect()).unwrap();
    assert_eq!(claims.claims, 1);
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
}

/// While it waits for a listener, the node has its request back in the table, and nobody else is there to take it up.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ends_rests_when_it_has_given_a_request_back() {
    let (database, breaker) = (Sqlite::start(), Breaker::default());
    let (emitter, requests, id) = begun(&database, &breaker, 20).await;
    let mut db = database.connect();
    db.batch_execute(
        "CREATE TABLE begun (claims INTEGER); \
         CREATE TRIGGER begins AFTER UPDATE ON emitter_requests WHEN NEW.owner IS NOT NULL AND OLD.owner IS NULL \
         BEGIN INSERT INTO begun VALUES (NEW.claims); END",
    )
    .unwrap();
    let _ = emitter.on::<OrderCreated>().name("slow").run(|event: Event<OrderCreated>| async move {
        if event.row.id < 0 {
            tokio::time::sleep(4 * SECOND).await;
        }
    });
    emitter.publish(OrderCreated::new(Order { id: -1, step: 0 }));
    eventually(|| requests.state(id).unwrap().progress.handled > 2).await;
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    assert_eq!(requests.state(id).unwrap().status, Status::Asked);
    let begun = "SELECT COUNT(*) AS claims FROM begun";
    let begun: Claims = diesel::sql_query(begun).get_result(&mut db).unwrap();
    assert!((1..=6).contains(&begun.claims), "it was taken up {} times", begun.claims);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trouble_that_is_over_is_told_no_more() {
    let (database, breaker) = (Sqlite::start(), Breaker::default());
    breaker.plan("handled = 1", [Some(Moment::Before)]);
    let (emitter, requests, id) = begun(&database, &breaker, 20).await;
    let is_troubled = || emitter.health().reasons.iter().any(|reason| reason.starts_with("requests: "));
    eventually(is_troubled).await;
    eventually(|| !is_troubled()).await;
    let under_way = requests.state(id).unwrap();
    assert!(under_way.status == Status::UnderWay && breaker.is_done(), "{under_way:?}");
    assert!(requests.cancel(id).unwrap());
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
}
