//! The whole test of the application: no broker, no sleep, a database in memory.

use std::sync::Mutex;

use diesel::prelude::*;
use emitter_diesel::manifest::Manifest;
use emitter_diesel::testing::TestEmitter;
use emitter_diesel::{Bind, HashKey, Scope};
use order_desk::{
    OrderCreated, OrderEvent, OrderRow, OrderUpdated, Post, Prices, Product, ProductUpdated,
    ProductUpdatedMany, products,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// An instance of the application, and what it writes to people.
struct Desk {
    node: TestEmitter,
    letters: Mutex<UnboundedReceiver<String>>,
    prices: Prices,
}

fn key() -> HashKey {
    HashKey::new(&[1; 32]).unwrap()
}

impl Desk {
    async fn open() -> (Self, SqliteConnection) {
        let (post, letters) = unbounded_channel();
        let prices = Prices::default();
        let configure = |builder: emitter_diesel::Builder| {
            builder.hash_key(key()).state(Post(post)).state(prices.clone())
        };
        let node = TestEmitter::start(configure).await;
        let mut database = SqliteConnection::establish(":memory:").unwrap();
        order_desk::create_tables(&mut database).unwrap();
        database.begin_test_transaction().unwrap();
        (Self { node, letters: Mutex::new(letters), prices }, database)
    }

    async fn letters(&self) -> Vec<String> {
        self.node.drain().await;
        let mut letters = self.letters.lock().unwrap();
        std::iter::from_fn(|| letters.try_recv().ok()).collect()
    }
}

#[tokio::test]
async fn a_large_order_is_looked_at() {
    let (desk, mut database) = Desk::open().await;
    let conn = &mut desk.node.bind(&mut database).unwrap();
    order_desk::take(conn, "ada", "4111", 99_999).unwrap();
    order_desk::take(conn, "bob", "4111", 100_000).unwrap();
    desk.node.assert_emitted_count::<OrderCreated>(2);
    let ada = desk.node.assert_emitted::<OrderCreated>(|event| event.row.customer == "ada");
    assert_eq!((ada.scope, ada.row.card_number), (Scope::BOTH, key().hash("4111")));
    assert_eq!(desk.letters().await, ["to the desk: order 2 is large"]);
    desk.node.assert_listeners_succeeded();
}

#[tokio::test]
async fn the_customer_hears_of_a_completed_order_once() {
    let (desk, mut database) = Desk::open().await;
    let conn = &mut desk.node.bind(&mut database).unwrap();
    let order = order_desk::take(conn, "ada", "4111", 500).unwrap();
    order_desk::complete(conn, &order).unwrap();
    desk.node.assert_emitted::<OrderUpdated>(|event| event.after.status == "COMPLETED");
    assert_eq!(desk.letters().await, ["to ada: order 1 over 500 cents is complete; attempt 1"]);
}

#[tokio::test]
async fn what_is_rolled_back_did_not_happen() {
    let (desk, mut database) = Desk::open().await;
    let conn = &mut desk.node.bind(&mut database).unwrap();
    let order = order_desk::take(conn, "ada", "4111", 0).unwrap();
    assert!(order_desk::complete(conn, &order).is_err());
    desk.node.assert_none_emitted::<OrderUpdated>();
    assert!(desk.letters().await.is_empty());
}

#[tokio::test]
async fn prices_are_forgotten_whoever_changed_them() {
    let (desk, mut database) = Desk::open().await;
    let product = |id, cents| Product { id, name: "tea".to_owned(), cents };
    let know_two = || *desk.prices.known() = [(1, 350), (2, 400)].into();
    let known = || {
        let mut known: Vec<i64> = desk.prices.known().keys().copied().collect();
        known.sort_unstable();
        known
    };

    know_two();
    desk.node.receive(ProductUpdated::new(None, product(1, 360), None)).await;
    desk.node.drain().await;
    assert_eq!(known(), [1, 2], "nobody said what was set");

    let before = Some(product(1, 350));
    desk.node
        .receive(ProductUpdated::new(before, product(1, 360), Some(emitter_diesel::columns::Columns::ALL)))
        .await;
    desk.node.drain().await;
    assert_eq!(known(), [2]);

    know_two();
    let conn = &mut desk.node.bind(&mut database).unwrap();
    for id in [1, 2] {
        let tea = (products::id.eq(id), products::name.eq("tea"), products::cents.eq(350));
        diesel::insert_into(products::table).values(tea).execute(conn).unwrap();
    }
    assert_eq!(order_desk::raise_prices(conn, 20), Ok(2));
    desk.node.assert_emitted::<ProductUpdatedMany>(|event| event.count == 2);
    desk.node.drain().await;
    assert!(known().is_empty());
}

/// With the post office closed, the group's listener is called five times, and then the event is given up.
#[tokio::test]
async fn a_letter_that_cannot_be_sent_is_tried_again() {
    let (desk, mut database) = Desk::open().await;
    desk.letters.lock().unwrap().close();
    let conn = &mut desk.node.bind(&mut database).unwrap();
    let order = order_desk::take(conn, "ada", "4111", 500).unwrap();
    order_desk::complete(conn, &order).unwrap();
    let captured = desk.node.captured();
    captured.assert_emitted_count::<OrderEvent>(2);
    tokio::time::pause();
    desk.node.drain().await;
    let stats = desk.node.stats();
    assert_eq!((stats.failed, stats.retried, stats.given_up), (5, 4, 1));
}

#[tokio::test]
async fn no_message_has_a_card_number() {
    let (desk, mut database) = Desk::open().await;
    let conn = &mut desk.node.bind(&mut database).unwrap();
    let order = order_desk::take(conn, "ada", "4111 1111", 500).unwrap();
    assert_eq!(order.card_number, "4111 1111", "the desk itself has it");
    desk.node.drain().await;
    let published = desk.node.published();
    let text = std::str::from_utf8(&published[0].payload).unwrap();
    assert!(text.contains("ada") && !text.contains("4111"), "{text}");
    let row: OrderRow = desk.node.assert_emitted::<OrderCreated>(|_| true).row.clone();
    assert_eq!(row.card_number, key().hash("4111 1111"));
}

/// After a change that is meant: `EMITTER_MANIFEST=write cargo test -p order-desk`.
#[test]
fn events_change_only_with_their_version() {
    Manifest::of_crates(&["order_desk"]).assert("emitter.json");
}
