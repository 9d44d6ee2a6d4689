//! Which columns a statement sets, as filters and diffs see it.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use emitter_diesel::{Bind, Bound, Emit, Emits, Emitter, Event, State, listener};
use serde::{Deserialize, Serialize};

diesel::table! {
    orders (number) {
        number -> Integer,
        status -> Text,
        #[sql_name = "TOTAL"]
        total -> Integer,
        note -> Nullable<Text>,
        secret -> Text,
        touched -> Integer,
    }
}

/// Without the column `touched`.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Serialize, Deserialize, Emits)]
#[diesel(table_name = orders, primary_key(number))]
#[emits(all)]
struct Order {
    number: i32,
    status: String,
    #[diesel(column_name = total)]
    amount: i32,
    note: Option<String>,
    #[emits(skip)]
    secret: String,
}

/// Sets other columns each time.
#[derive(Default, AsChangeset)]
#[diesel(table_name = orders)]
struct Change<'a> {
    status: Option<&'a str>,
    note: Option<Option<&'a str>>,
    secret: Option<&'a str>,
}

type Log = Arc<Mutex<Vec<&'static str>>>;

#[listener(model = "order", data(status = "PAID"))]
async fn paid(_: Event<OrderEvent>, log: State<Log>) {
    log.lock().unwrap().push("paid");
}

/// What each update is said to have changed.
#[listener(model = "order")]
async fn changed(event: Event<OrderEvent>, log: State<Log>) {
    match &*event {
        OrderEvent::Updated(update) => log.lock().unwrap().extend(update.changed().columns()),
        OrderEvent::UpdatedMany(update) => {
            log.lock().unwrap().extend(update.changed().flat_map(|row| row.columns().collect::<Vec<_>>()));
        }
        _ => {}
    }
}

async fn check(work: impl FnOnce(&mut Bound<'_, SqliteConnection>) -> QueryResult<()>, expected: &[&str]) {
    let log = Log::default();
    let emitter = Emitter::builder().state(Arc::clone(&log)).start().await.unwrap();
    let mut db = SqliteConnection::establish(":memory:").unwrap();
    db.batch_execute(
        "CREATE TABLE orders (number INTEGER PRIMARY KEY, status TEXT NOT NULL, TOTAL INTEGER NOT NULL DEFAULT 0, \
         note TEXT, secret TEXT NOT NULL DEFAULT '', touched INTEGER NOT NULL DEFAULT 0); \
         INSERT INTO orders (number, status) VALUES (1, 'PAID'), (2, 'PAID')",
    )
    .unwrap();
    work(&mut emitter.bind(&mut db).unwrap()).unwrap();
    assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
    let (mut heard, mut expected) = (log.lock().unwrap().clone(), expected.to_vec());
    heard.sort_unstable();
    expected.sort_unstable();
    assert_eq!(heard, expected);
}

fn one() -> diesel::dsl::Find<orders::table, i32> {
    orders::table.find(1)
}

#[tokio::test]
async fn an_update_sets_the_columns_of_its_statement() {
    let update = |conn: &mut Bound<'_, SqliteConnection>, change: Change<'_>| {
        emitter_diesel::update(one())
            .set(change)
            .returning(Order::as_returning())
            .emit::<Order>()
            .get_result(conn)
            .map(drop)
    };
    let status = |status| Change { status: Some(status), ..Change::default() };
    check(|conn| update(conn, status("PAID")), &["paid", "status"]).await;
    check(|conn| update(conn, status("SENT")), &["status"]).await;
    check(|conn| update(conn, Change { note: Some(None), ..Change::default() }), &["note"]).await;
    let both = Change { note: Some(Some("a, b WHERE c")), ..status("PAID") };
    check(|conn| update(conn, both), &["paid", "status", "note"]).await;
    // The model's field is called otherwise than its column.
    check(
        |conn| {
            let change = (orders::total.eq(orders::total + 1), orders::touched.eq(1));
            let statement = emitter_diesel::update(one()).set(change).returning(Order::as_returning());
            statement.emit::<Order>().get_result(conn).map(drop)
        },
        &["amount"],
    )
    .await;
    // A skipped column is nobody's business.
    let secret = Change { secret: Some("x"), ..Change::default() };
    check(|conn| update(conn, secret), &[]).await;
    // Nor is one that the model has not.
    check(
        |conn| {
            let statement =
                emitter_diesel::update(one()).set(orders::touched.eq(1)).returning(Order::as_returning());
            statement.emit::<Order>().get_result(conn).map(drop)
        },
        &[],
    )
    .await;
}

#[tokio::test]
async fn a_bulk_update_sets_the_same_columns_of_all_its_rows() {
    check(
        |conn| {
            let statement = emitter_diesel::update(orders::table).set(orders::status.eq("PAID"));
            statement.returning(Order::as_returning()).emit::<Order>().get_results(conn).map(drop)
        },
        &["paid", "status", "status"],
    )
    .await;
}

#[tokio::test]
async fn an_upsert_counts_as_an_insert_and_a_delete_sets_nothing() {
    check(
        |conn| {
            let values = (orders::number.eq(1), orders::status.eq("PAID"));
            let upsert = diesel::insert_into(orders::table).values(values).on_conflict(orders::number);
            let upsert = upsert.do_update().set(orders::note.eq("again")).returning(Order::as_returning());
            upsert.emit::<Order>().get_result(conn)?;
            emitter_diesel::delete(one())
                .returning(Order::as_returning())
                .emit::<Order>()
                .get_result(conn)
                .map(drop)
        },
        &["paid"],
    )
    .await;
}
