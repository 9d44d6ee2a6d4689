//! Commits on asynchronous connections: those that were none, those that were cancelled, pools.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use diesel::result::{DatabaseErrorKind, Error};
use diesel::{
    Connection, ExpressionMethods, Identifiable, Insertable, QueryDsl, QueryResult, Queryable,
    SqliteConnection,
};
use diesel_async::pooled_connection::AsyncDieselConnectionManager;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{
    AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection, TransactionManager,
};
use emitter_diesel::{Bind, BindError, BoundAsync, Emit, Emits, Emitter, Event, update};
use emitter_tests::servers::Postgres;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

diesel::table! {
    counters {
        id -> Integer,
        n -> Integer,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create, update, before)]
struct Counter {
    id: i32,
    n: i32,
}

type Conn<'c> = BoundAsync<'c, AsyncPgConnection>;

/// An emitter, and the ids of the rows that it has told of.
async fn node() -> (Emitter, Arc<Mutex<Vec<i32>>>) {
    let emitter = Emitter::builder().start().await.unwrap();
    let heard = Arc::default();
    let log: Arc<Mutex<Vec<i32>>> = Arc::clone(&heard);
    emitter.on::<CounterEvent>().run(move |event: Event<CounterEvent>| {
        let id = match &*event {
            CounterEvent::Created(body) => body.row.id,
            CounterEvent::Updated(body) => body.after.id,
        };
        log.lock().unwrap().push(id);
        std::future::ready(())
    });
    (emitter, heard)
}

async fn heard(emitter: &Emitter, heard: &Mutex<Vec<i32>>) -> Vec<i32> {
    assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
    heard.lock().unwrap().clone()
}

async fn postgres() -> (Postgres, AsyncPgConnection) {
    let server = Postgres::start();
    let mut conn = AsyncPgConnection::establish(&server.url()).await.unwrap();
    conn.batch_execute("CREATE TABLE counters (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)").await.unwrap();
    (server, conn)
}

async fn insert(id: i32, conn: &mut Conn<'_>) -> QueryResult<Counter> {
    diesel::insert_into(counters::table).values(Counter { id, n: 0 }).emit().get_result(conn).await
}

async fn rows<C: AsyncConnection<Backend = diesel::pg::Pg>>(conn: &mut C) -> Vec<i32> {
    counters::table.select(counters::id).order(counters::id).load(conn).await.unwrap()
}

#[tokio::test]
async fn an_error_that_is_ignored_commits_nothing() {
    let (_server, mut db) = postgres().await;
    let lie = db
        .transaction(async |db| {
            let row = Counter { id: 1, n: 0 };
            diesel::insert_into(counters::table).values(row).execute(db).await?;
            let _ignored = diesel::sql_query("SELECT 1 / 0").execute(db).await;
            QueryResult::Ok(())
        })
        .await;
    assert_eq!((lie, rows(&mut db).await), (Ok(()), vec![]), "it says that it was committed, and it was not");

    let (emitter, log) = node().await;
    let conn = &mut emitter.bind(&mut db).unwrap();
    let error = conn
        .transaction(async |conn| {
            insert(1, conn).await?;
            let _ignored = diesel::sql_query("SELECT 1 / 0").execute(conn).await;
            QueryResult::Ok(())
        })
        .await;
    assert!(error.unwrap_err().to_string().contains("nothing was committed"));
    // One that is ignored within a savepoint is harmless.
    conn.transaction(async |conn| {
        insert(2, conn).await?;
        let _ignored =
            conn.transaction(async |conn| diesel::sql_query("SELECT 1 / 0").execute(conn).await).await;
        QueryResult::Ok(())
    })
    .await
    .unwrap();
    assert_eq!(rows(conn).await, [2]);
    assert_eq!(heard(&emitter, &log).await, [2]);
}

#[tokio::test]
async fn a_transaction_may_tell_what_it_did_in_the_end() {
    let (_server, mut db) = postgres().await;
    let (emitter, log) = node().await;
    let conn = &mut emitter.bind(&mut db).unwrap();
    for net in [true, false] {
        let first = if net { 1 } else { 11 };
        conn.build_transaction()
            .serializable()
            .run(async |conn| {
                if net {
                    conn.net_changes();
                }
                insert(first, conn).await?;
                insert(first + 1, conn).await?;
                let counters = counters::table.find(first);
                update(counters).set(counters::n.eq(2)).emit::<Counter>().get_result(conn).await
            })
            .await
            .unwrap();
    }
    assert_eq!(heard(&emitter, &log).await, [1, 2, 11, 12, 11]);
}

#[tokio::test]
async fn a_savepoint_drops_only_its_own_events() {
    let (_server, mut db) = postgres().await;
    let (emitter, log) = node().await;
    let conn = &mut emitter.bind(&mut db).unwrap();
    insert(1, conn).await.unwrap();
    conn.transaction(async |conn| {
        insert(2, conn).await?;
        let dropped = conn
            .transaction(async |conn| {
                insert(3, conn).await?;
                conn.transaction(async |conn| insert(4, conn).await).await?;
                QueryResult::<()>::Err(Error::RollbackTransaction)
            })
            .await;
        assert_eq!(dropped, Err(Error::RollbackTransaction));
        conn.transaction(async |conn| insert(5, conn).await).await?;
        let first = update(counters::table.find(1)).set(counters::n.eq(1)).emit::<Counter>();
        first.get_result(conn).await
    })
    .await
    .unwrap();
    conn.transaction(async |conn| {
        insert(6, conn).await?;
        QueryResult::<()>::Err(Error::RollbackTransaction)
    })
    .await
    .unwrap_err();
    assert_eq!(rows(conn).await, [1, 2, 5]);
    assert_eq!(heard(&emitter, &log).await, [1, 2, 5, 1]);
}

#[tokio::test]
async fn a_transaction_that_is_cancelled_emits_nothing() {
    let (_server, mut db) = postgres().await;
    let (emitter, log) = node().await;
    let mut bound = emitter.bind(&mut db).unwrap();
    let never = bound.transaction(async |conn| {
        insert(1, conn).await?;
        pending::<QueryResult<()>>().await
    });
    timeout(Duration::from_millis(200), never).await.unwrap_err();
    drop(bound);
    // It is still within the transaction, of which a new handle would not see the end.
    assert_eq!(emitter.bind(&mut db).unwrap_err(), BindError::TransactionOpen);
    <AsyncPgConnection as AsyncConnection>::TransactionManager::rollback_transaction(&mut db).await.unwrap();
    let conn = &mut emitter.bind(&mut db).unwrap();
    insert(2, conn).await.unwrap();
    assert_eq!(rows(conn).await, [2]);
    assert_eq!(heard(&emitter, &log).await, [2]);
}

/// Polls a future once, and drops it where it stands.
async fn begin_and_drop(future: impl Future) {
    let mut future = pin!(future);
    let waits = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await;
    assert!(waits, "there is nothing to be dropped");
}

#[tokio::test]
async fn a_begin_that_is_cancelled_is_no_autocommit() {
    let (server, mut db) = postgres().await;
    let (emitter, log) = node().await;
    let mut bound = emitter.bind(&mut db).unwrap();
    begin_and_drop(bound.transaction(async |conn| insert(1, conn).await)).await;
    assert!(matches!(insert(2, &mut bound).await, Err(Error::BrokenTransactionManager)));
    let refused = bound.transaction(async |conn| insert(3, conn).await).await;
    assert!(matches!(refused, Err(Error::BrokenTransactionManager)));
    drop(bound);
    assert_eq!(emitter.bind(&mut db).unwrap_err(), BindError::Broken);
    drop(db);
    let mut other = AsyncPgConnection::establish(&server.url()).await.unwrap();
    assert!(rows(&mut other).await.is_empty());
    assert!(heard(&emitter, &log).await.is_empty());
}

/// On SQLite an update that reads the row before has a transaction of its own.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_is_cancelled_leaves_no_transaction_behind() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("counters.db").display().to_string();
    let mut other = SqliteConnection::establish(&file).unwrap();
    diesel::connection::SimpleConnection::batch_execute(
        &mut other,
        "CREATE TABLE counters (id INTEGER PRIMARY KEY, n INTEGER NOT NULL); INSERT INTO counters VALUES (1, 0)",
    )
    .unwrap();
    let mut db = SyncConnectionWrapper::<SqliteConnection>::establish(&file).await.unwrap();
    db.batch_execute("PRAGMA busy_timeout = 1000").await.unwrap();
    let (emitter, log) = node().await;
    let conn = &mut emitter.bind(&mut db).unwrap();
    let set = |n| update(counters::table.find(1)).set(counters::n.eq(n)).emit::<Counter>();
    diesel::connection::SimpleConnection::batch_execute(&mut other, "BEGIN IMMEDIATE").unwrap();
    timeout(Duration::from_millis(300), set(1).get_result(conn)).await.unwrap_err();
    diesel::connection::SimpleConnection::batch_execute(&mut other, "COMMIT").unwrap();
    assert_eq!(set(2).get_result(conn).await.unwrap().n, 2);
    let n: i32 =
        diesel::RunQueryDsl::get_result(counters::table.find(1).select(counters::n), &mut other).unwrap();
    assert_eq!(n, 2, "it is there for others");
    assert_eq!(heard(&emitter, &log).await, [1]);
}

#[tokio::test]
async fn of_two_transactions_that_cannot_be_serialized_one_emits() {
    let (server, mut db) = postgres().await;
    let mut other = AsyncPgConnection::establish(&server.url()).await.unwrap();
    let (emitter, log) = node().await;
    let conn = &mut emitter.bind(&mut db).unwrap();
    let other = &mut emitter.bind(&mut other).unwrap();
    let error = conn.build_transaction().serializable().run(async |conn| {
        rows(conn).await;
        insert(1, conn).await?;
        let second = other.build_transaction().serializable();
        second
            .run(async |other| {
                rows(other).await;
                insert(2, other).await
            })
            .await
    });
    let error = error.await.unwrap_err();
    assert!(matches!(error, Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _)), "{error:?}");
    assert_eq!(heard(&emitter, &log).await, [2]);
}

#[tokio::test]
async fn pooled_connections_are_bound_like_others() {
    let (server, _db) = postgres().await;
    let (emitter, log) = node().await;
    let manager = || AsyncDieselConnectionManager::<AsyncPgConnection>::new(server.url());

    let deadpool = diesel_async::pooled_connection::deadpool::Pool::builder(manager()).build().unwrap();
    let mut pooled = deadpool.get().await.unwrap();
    let conn = &mut emitter.bind(&mut *pooled).unwrap();
    conn.transaction(async |conn| insert(1, conn).await).await.unwrap();

    let bb8 = diesel_async::pooled_connection::bb8::Pool::builder().build(manager()).await.unwrap();
    let mut pooled = bb8.get().await.unwrap();
    let conn = &mut emitter.bind(&mut *pooled).unwrap();
    conn.transaction(async |conn| insert(2, conn).await).await.unwrap();

    assert_eq!(heard(&emitter, &log).await, [1, 2]);
}

/// As a web server's handlers are spawned.
#[tokio::test]
async fn isolated_transactions_can_be_spawned() {
    let (_server, mut db) = postgres().await;
    let (emitter, log) = node().await;
    let node = emitter.clone();
    let spawned = tokio::spawn(async move {
        let conn = &mut node.bind(&mut db).unwrap();
        let transaction = conn.build_transaction().repeatable_read();
        transaction.run(async |conn| insert(1, conn).await).await
    });
    assert_eq!(spawned.await.unwrap().unwrap().id, 1);
    assert_eq!(heard(&emitter, &log).await, [1]);
}

#[tokio::test]
async fn a_test_transaction_is_the_ground() {
    let (server, mut db) = postgres().await;
    db.begin_test_transaction().await.unwrap();
    let (emitter, log) = node().await;
    let conn = &mut emitter.bind(&mut db).unwrap();
    insert(1, conn).await.unwrap();
    conn.transaction(async |conn| insert(2, conn).await).await.unwrap();
    let mut other = AsyncPgConnection::establish(&server.url()).await.unwrap();
    assert!(rows(&mut other).await.is_empty());
    assert_eq!(heard(&emitter, &log).await, [1, 2]);
}

/// Events are handed out on other threads, and so may their statements be.
#[tokio::test(flavor = "multi_thread")]
async fn writers_of_one_row_know_it_as_it_was() {
    let (server, mut db) = postgres().await;
    let emitter = Emitter::builder().start().await.unwrap();
    let seen: Arc<Mutex<Vec<_>>> = Arc::default();
    let log = Arc::clone(&seen);
    emitter.on::<CounterUpdated>().run(move |event: Event<CounterUpdated>| {
        log.lock().unwrap().push((event.before.as_ref().map(|before| before.n), event.after.n));
        std::future::ready(())
    });
    diesel::insert_into(counters::table).values(Counter { id: 1, n: 0 }).execute(&mut db).await.unwrap();
    let writers = (0..3).map(|_| {
        let (emitter, url) = (emitter.clone(), server.url());
        tokio::spawn(async move {
            let mut db = AsyncPgConnection::establish(&url).await.unwrap();
            let conn = &mut emitter.bind(&mut db).unwrap();
            for _ in 0..100 {
                let one = update(counters::table.find(1)).set(counters::n.eq(counters::n + 1));
                one.emit::<Counter>().get_result(conn).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    seen.sort_unstable();
    assert!(seen.into_iter().eq((0..300).map(|n| (Some(n), n + 1))));
}
