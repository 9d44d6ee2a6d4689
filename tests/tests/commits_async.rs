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
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{
    AsyncConnection, AsyncMysqlConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection,
    TransactionManager,
};
use emitter_diesel::{
    Bind, BindError, BoundAsync, Emit, Emits, Emitter, EmittingTransactionManager, Event, update,
};
use emitter_tests::servers::{MariaDb, Postgres};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

diesel::table! {
    counters {
        id -> Integer,
        n -> Integer,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create, create_many, update, before)]
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
        log.lock().unwrap().extend(match &*event {
            CounterEvent::Created(body) => vec![body.row.id],
            CounterEvent::CreatedMany(body) => body.rows.iter().flatten().map(|row| row.id).collect(),
            CounterEvent::Updated(body) => vec![body.after.id],
        });
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

/// Of writers on tasks of their own every event has to know the row as it was when it was
/// incremented. A macro, as the bounds of a function could not be said.
macro_rules! increments {
    ($connection:ty, $url:expr) => {
        let emitter = Emitter::builder().start().await.unwrap();
        let seen: Arc<Mutex<Vec<_>>> = Arc::default();
        let log = Arc::clone(&seen);
        emitter.on::<CounterUpdated>().run(move |event: Event<CounterUpdated>| {
            log.lock().unwrap().push((event.before.as_ref().map(|before| before.n), event.after.n));
            std::future::ready(())
        });
        let writers = (0..3).map(|_| {
            let (emitter, url) = (emitter.clone(), $url);
            tokio::spawn(async move {
                let mut db = <$connection>::establish(&url).await.unwrap();
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
    };
}

/// Events are handed out on other threads, and so may their statements be.
#[tokio::test(flavor = "multi_thread")]
async fn writers_of_one_row_know_it_as_it_was() {
    let (server, mut db) = postgres().await;
    diesel::insert_into(counters::table).values(Counter { id: 1, n: 0 }).execute(&mut db).await.unwrap();
    increments!(AsyncPgConnection, server.url());
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_one_row_of_mariadb_know_it_as_it_was() {
    let (server, _db) = mariadb().await;
    increments!(AsyncMysqlConnection, server.url());
}

/// A MariaDB with `counters` from 1 to 100.
async fn mariadb() -> (MariaDb, AsyncMysqlConnection) {
    let server = MariaDb::start();
    let mut conn = AsyncMysqlConnection::establish(&server.url()).await.unwrap();
    conn.batch_execute("CREATE TABLE counters (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)").await.unwrap();
    let rows: Vec<Counter> = (1..=100).map(|id| Counter { id, n: 0 }).collect();
    diesel::insert_into(counters::table).values(&rows).execute(&mut conn).await.unwrap();
    (server, conn)
}

async fn set(id: i32, n: i32, conn: &mut BoundAsync<'_, AsyncMysqlConnection>) -> QueryResult<Counter> {
    update(counters::table.find(id)).set(counters::n.eq(n)).emit().get_result(conn).await
}

async fn n_of<C: AsyncConnection<Backend = diesel::mysql::Mysql>>(id: i32, conn: &mut C) -> i32 {
    counters::table.find(id).select(counters::n).get_result(conn).await.unwrap()
}

/// The number by which the server knows the connection.
async fn id_of<C: AsyncConnection<Backend = diesel::mysql::Mysql>>(conn: &mut C) -> i64 {
    let id = diesel::dsl::sql::<diesel::sql_types::BigInt>("CAST(CONNECTION_ID() AS SIGNED)");
    diesel::select(id).get_result(conn).await.unwrap()
}

async fn connect(server: &MariaDb) -> AsyncMysqlConnection {
    AsyncMysqlConnection::establish(&server.url()).await.unwrap()
}

/// A transaction that has written more than a counter, so that in a deadlock the other one fails. It
/// takes all rows but the first when the future is awaited, and then wants that one.
fn rival(server: &MariaDb) -> (impl Future<Output = ()> + Send + use<>, JoinHandle<()>) {
    let (go, may_go) = oneshot::channel();
    let (locked, is_locked) = oneshot::channel();
    let url = server.url();
    let ended = tokio::spawn(async move {
        let mut db = AsyncMysqlConnection::establish(&url).await.unwrap();
        db.transaction(async |db| {
            may_go.await.unwrap();
            let many = counters::table.filter(counters::id.gt(1));
            diesel::update(many).set(counters::n.eq(counters::n + 1)).execute(db).await?;
            locked.send(()).unwrap();
            diesel::update(counters::table.find(1)).set(counters::n.eq(9)).execute(db).await
        })
        .await
        .unwrap();
    });
    let lock = async move {
        go.send(()).unwrap();
        is_locked.await.unwrap();
    };
    (lock, ended)
}

#[tokio::test]
async fn a_deadlock_that_is_ignored_emits_nothing() {
    let (server, mut db) = mariadb().await;
    let plain = |id| diesel::update(counters::table.find(id)).set(counters::n.eq(1));
    let (lock, ended) = rival(&server);
    let lie = db
        .transaction(async |db| {
            plain(1).execute(db).await?;
            lock.await;
            let error = plain(2).execute(db).await.unwrap_err();
            assert!(error.to_string().contains("Deadlock"), "{error}");
            QueryResult::Ok(())
        })
        .await;
    ended.await.unwrap();
    assert_eq!((lie, n_of(1, &mut db).await), (Ok(()), 9), "it says that it was committed, and it was not");

    let (emitter, log) = node().await;
    let conn = &mut emitter.bind(&mut db).unwrap();
    let (lock, ended) = rival(&server);
    let error = conn
        .transaction(async |conn| {
            set(1, 2, conn).await?;
            lock.await;
            let error = set(2, 2, conn).await.unwrap_err();
            assert!(error.to_string().contains("Deadlock"), "{error}");
            QueryResult::Ok(())
        })
        .await;
    ended.await.unwrap();
    assert!(error.unwrap_err().to_string().contains("ended the transaction before its COMMIT"));
    assert_eq!(n_of(1, conn).await, 9);
    // One that is returned is undone as ever, and the connection goes on.
    let (lock, ended) = rival(&server);
    let error = conn
        .transaction(async |conn| {
            set(1, 3, conn).await?;
            lock.await;
            set(2, 3, conn).await
        })
        .await;
    ended.await.unwrap();
    assert!(error.unwrap_err().to_string().contains("Deadlock"));
    set(3, 30, conn).await.unwrap();
    assert_eq!(heard(&emitter, &log).await, [3]);
}

#[tokio::test]
async fn a_statement_that_commits_by_itself_is_noticed() {
    let (_server, mut db) = mariadb().await;
    let create = |number: i32| format!("CREATE TABLE t{number} (id INTEGER PRIMARY KEY)");
    let lie = db
        .transaction(async |db| {
            diesel::update(counters::table.find(1)).set(counters::n.eq(1)).execute(db).await?;
            db.batch_execute(&create(1)).await?;
            QueryResult::<()>::Err(Error::RollbackTransaction)
        })
        .await;
    assert_eq!(lie, Err(Error::RollbackTransaction));
    assert_eq!(n_of(1, &mut db).await, 1, "it was committed in the middle");

    let (emitter, log) = node().await;
    let conn = &mut emitter.bind(&mut db).unwrap();
    let error = conn
        .transaction(async |conn| {
            set(1, 2, conn).await?;
            conn.batch_execute(&create(2)).await
        })
        .await;
    assert!(error.unwrap_err().to_string().contains("ended the transaction before its COMMIT"));
    assert_eq!(n_of(1, conn).await, 2);
    // Nested and plain ones are as ever.
    conn.transaction(async |conn| {
        conn.transaction(async |conn| set(2, 2, conn).await).await?;
        conn.transaction(async |conn| {
            set(3, 3, conn).await?;
            QueryResult::<()>::Err(Error::RollbackTransaction)
        })
        .await
        .unwrap_err();
        set(4, 4, conn).await
    })
    .await
    .unwrap();
    assert_eq!(heard(&emitter, &log).await, [2, 4]);
}

#[tokio::test]
async fn a_connection_that_dies_before_its_commit_emits_nothing() {
    let (server, mut db) = mariadb().await;
    let (emitter, log) = node().await;
    let mut bound = emitter.bind(&mut db).unwrap();
    let error = bound
        .transaction(async |conn| {
            set(1, 1, conn).await?;
            let kill = format!("KILL {}", id_of(conn).await);
            connect(&server).await.batch_execute(&kill).await
        })
        .await;
    assert!(error.is_err());
    drop(bound);
    assert_eq!(emitter.bind(&mut db).unwrap_err(), BindError::Broken);
    assert_eq!(n_of(1, &mut connect(&server).await).await, 0);
    assert!(heard(&emitter, &log).await.is_empty());
}

#[tokio::test]
async fn a_transaction_of_mariadb_that_is_cancelled_emits_nothing() {
    let (_server, mut db) = mariadb().await;
    let (emitter, log) = node().await;
    let mut bound = emitter.bind(&mut db).unwrap();
    let (set_it, is_set) = oneshot::channel();
    let never = bound.transaction(async |conn| {
        set(1, 1, conn).await?;
        set_it.send(()).unwrap();
        pending::<QueryResult<()>>().await
    });
    tokio::select! {
        ended = never => panic!("{ended:?}"),
        answered = is_set => answered.unwrap(),
    }
    drop(bound);
    assert_eq!(emitter.bind(&mut db).unwrap_err(), BindError::TransactionOpen);
    <AsyncMysqlConnection as AsyncConnection>::TransactionManager::rollback_transaction(&mut db)
        .await
        .unwrap();
    let conn = &mut emitter.bind(&mut db).unwrap();
    set(2, 2, conn).await.unwrap();
    assert_eq!((n_of(1, conn).await, n_of(2, conn).await), (0, 2));
    assert_eq!(heard(&emitter, &log).await, [2]);
}

async fn is_refused(conn: &mut BoundAsync<'_, AsyncMysqlConnection>) {
    let broken =
        |error: Option<Error>| assert!(matches!(error, Some(Error::BrokenTransactionManager)), "{error:?}");
    broken(counters::table.count().get_result::<i64>(conn).await.err());
    broken(diesel::sql_query("DO 1").execute(conn).await.err());
    broken(conn.batch_execute("DO 1").await.err());
    broken(set(2, 2, conn).await.err());
    broken(conn.transaction(async |conn| set(2, 2, conn).await).await.err());
}

/// mysql_async takes the answer to what was dropped for that to the next statement.
#[tokio::test]
async fn an_answer_that_nobody_waited_for_is_not_that_to_the_next_statement() {
    const SHORT: Duration = Duration::from_millis(200);
    let (server, mut db) = mariadb().await;
    timeout(SHORT, db.batch_execute("DO SLEEP(0.4)")).await.unwrap_err();
    assert_eq!(db.batch_execute("this is no SQL").await, Ok(()), "it says that it was done");

    let (emitter, log) = node().await;
    let mut other = connect(&server).await;
    macro_rules! check {
        (|$conn:ident| $cancelled:expr) => {
            let mut db = connect(&server).await;
            let mut bound = emitter.bind(&mut db).unwrap();
            let $conn = &mut bound;
            $cancelled;
            is_refused($conn).await;
            drop(bound);
            assert_eq!(emitter.bind(&mut db).unwrap_err(), BindError::Broken);
        };
    }
    check!(|conn| begin_and_drop(conn.transaction(async |conn| set(1, 1, conn).await)).await);
    check!(|conn| timeout(SHORT, conn.batch_execute("DO SLEEP(0.4)")).await.unwrap_err());
    check!(|conn| timeout(SHORT, diesel::sql_query("DO SLEEP(0.4)").execute(conn)).await.unwrap_err());
    let sleep = || diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>("SLEEP(0.4)"));
    check!(|conn| timeout(SHORT, sleep().get_result::<i32>(conn)).await.unwrap_err());
    other.batch_execute("FLUSH TABLES WITH READ LOCK").await.unwrap();
    check!(|conn| timeout(SHORT, set(1, 1, conn)).await.unwrap_err());
    other.batch_execute("UNLOCK TABLES").await.unwrap();
    // Ignored within a transaction, too; and at the COMMIT itself, of which nobody knows then.
    check!(|conn| {
        let error = conn.transaction(async |conn| {
            set(3, 3, conn).await?;
            timeout(SHORT, diesel::sql_query("DO SLEEP(0.4)").execute(conn)).await.unwrap_err();
            QueryResult::Ok(())
        });
        assert!(matches!(error.await, Err(Error::BrokenTransactionManager)));
    });
    check!(|conn| {
        EmittingTransactionManager::begin_transaction(conn).await.unwrap();
        set(4, 4, conn).await.unwrap();
        other.batch_execute("FLUSH TABLES WITH READ LOCK").await.unwrap();
        timeout(SHORT, EmittingTransactionManager::commit_transaction(conn)).await.unwrap_err();
    });
    other.batch_execute("UNLOCK TABLES").await.unwrap();
    for id in 1..=3 {
        assert_eq!(n_of(id, &mut other).await, 0);
    }
    assert!(heard(&emitter, &log).await.is_empty());
}

#[tokio::test]
async fn pools_drop_a_connection_that_owes_an_answer() {
    let (server, _db) = mariadb().await;
    let (emitter, log) = node().await;
    // One that tries each connection first may find out by itself.
    let mut config = ManagerConfig::default();
    config.recycling_method = RecyclingMethod::Fast;
    let manager = AsyncDieselConnectionManager::<AsyncMysqlConnection>::new_with_config(server.url(), config);
    let pool = diesel_async::pooled_connection::deadpool::Pool::builder(manager).max_size(1).build().unwrap();
    let mut pooled = pool.get().await.unwrap();
    let mut bound = emitter.bind(&mut *pooled).unwrap();
    let given_up = id_of(&mut bound).await;
    let sleep = diesel::sql_query("DO SLEEP(0.4)");
    timeout(Duration::from_millis(200), sleep.execute(&mut bound)).await.unwrap_err();
    drop(bound);
    drop(pooled);
    let mut pooled = pool.get().await.unwrap();
    let conn = &mut emitter.bind(&mut *pooled).unwrap();
    assert_ne!(id_of(conn).await, given_up);
    conn.transaction(async |conn| set(1, 1, conn).await).await.unwrap();
    assert_eq!(heard(&emitter, &log).await, [1]);
}

#[tokio::test]
async fn rows_inserted_into_mariadb_are_found_by_their_keys() {
    let (_server, mut db) = mariadb().await;
    db.batch_execute("ALTER TABLE counters MODIFY id INTEGER AUTO_INCREMENT").await.unwrap();
    let (emitter, log) = node().await;
    let conn = &mut emitter.bind(&mut db).unwrap();
    let one: Counter =
        diesel::insert_into(counters::table).values(counters::n.eq(7)).emit().get_result(conn).await.unwrap();
    assert_eq!(one, Counter { id: 101, n: 7 });
    let list = vec![counters::n.eq(8), counters::n.eq(9)];
    let many: Vec<Counter> =
        diesel::insert_into(counters::table).values(list).emit().get_results(conn).await.unwrap();
    assert_eq!(many, [Counter { id: 102, n: 8 }, Counter { id: 103, n: 9 }]);
    let known = diesel::insert_or_ignore_into(counters::table).values(Counter { id: 1, n: 1 });
    assert_eq!(known.emit::<Counter>().execute(conn).await.unwrap(), 0);
    let some = vec![Counter { id: 1, n: 1 }, Counter { id: 200, n: 1 }];
    let some = diesel::insert_or_ignore_into(counters::table).values(&some).emit::<Counter>();
    let error = some.execute(conn).await.unwrap_err();
    assert!(error.to_string().contains("insert them one by one"), "{error}");
    let key = update(counters::table.find(1)).set(counters::id.eq(200)).emit::<Counter>();
    let error = key.get_result(conn).await.unwrap_err();
    assert!(error.to_string().contains("cannot set the key"), "{error}");
    assert_eq!(counters::table.count().get_result::<i64>(conn).await.unwrap(), 103);
    assert_eq!(heard(&emitter, &log).await, [101, 102, 103]);
}
