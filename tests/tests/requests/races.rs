//! Nodes that reach for one request at the same moment.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::mirror::{self, ReplayOptions};
use emitter_diesel::requests::{Attendant, Requests, Status, Work};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::Postgres;

use super::databases::Database as _;
use super::*;

#[derive(QueryableByName)]
struct Waiting {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    sessions: i64,
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_that_found_a_request_free_one_does_it() {
    let database = tokio::task::block_in_place(<Postgres as databases::Database>::start);
    let requests = Requests::open(&database.tables()).unwrap();
    let mut db = database.connect();
    db.batch_execute(&mirrored(0..300)).unwrap();
    let options = ReplayOptions { per_second: Some(100), ..ReplayOptions::default() };
    let id =
        requests.ask("shop", &Work::Replay { events: mirror::Selection::default(), options }, None).unwrap();
    // Both see it, and neither can take it up.
    db.batch_execute("BEGIN; SELECT FROM emitter_requests FOR UPDATE").unwrap();
    let (shop, mut nodes) = (Arc::new(Shop::default()), Vec::new());
    for name in ["a", "b"] {
        let node = builder(name, &shop).with(Attendant::new(database.tables()));
        nodes.push(node.start().await.unwrap());
    }
    let waiting = || {
        let each = "SELECT COUNT(*) AS sessions FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let waiting: Vec<Waiting> = diesel::sql_query(each).load(&mut database.connect()).unwrap();
        waiting[0].sessions
    };
    eventually(|| waiting() == 2).await;
    db.batch_execute("COMMIT").unwrap();
    eventually(|| requests.state(id).unwrap().status.is_over()).await;
    let over = requests.state(id).unwrap();
    assert_eq!((over.status, over.progress.handled), (Status::Done, 300));
    for node in nodes {
        assert!(node.shutdown(10 * SECOND).await.is_clean());
    }
    assert_eq!(shop.seen("count"), (0..300).collect::<Vec<_>>());
}
