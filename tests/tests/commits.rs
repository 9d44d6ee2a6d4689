//! What a database says it has committed, and has not; and what writers see of each other.
//!
//! Each case is shown with Diesel alone first.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use diesel::connection::{LoadConnection, SimpleConnection};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error};
use emitter_diesel::{Bind, BindError, Bound, Emit, Emits, Emitter, Event, update};
use emitter_tests::servers::{MariaDb, Postgres};
use serde::{Deserialize, Serialize};

diesel::table! {
    counters {
        id -> Integer,
        n -> Integer,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create, update, update_many, upsert, before)]
struct Counter {
    id: i32,
    n: i32,
}

const TABLES: &str = "
    CREATE TABLE counters (id INTEGER PRIMARY KEY, n INTEGER NOT NULL);
    CREATE TABLE children (
        parent INTEGER NOT NULL REFERENCES counters (id) DEFERRABLE INITIALLY DEFERRED
    );
";

/// An emitter, and how many events it has handed out.
async fn node() -> (Emitter, Arc<AtomicUsize>) {
    let emitter = Emitter::builder().start().await.unwrap();
    let heard = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&heard);
    emitter.on::<CounterEvent>().run(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(())
    });
    (emitter, heard)
}

async fn heard(emitter: &Emitter, heard: &AtomicUsize) -> usize {
    assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
    heard.load(Ordering::Relaxed)
}

fn connect(server: &Postgres) -> PgConnection {
    PgConnection::establish(&server.url()).unwrap()
}

fn postgres() -> (Postgres, PgConnection) {
    let server = Postgres::start();
    let mut conn = connect(&server);
    conn.batch_execute(TABLES).unwrap();
    (server, conn)
}

fn insert(id: i32, conn: &mut Bound<'_, PgConnection>) -> QueryResult<Counter> {
    diesel::insert_into(counters::table).values(&Counter { id, n: 0 }).emit().get_result(conn)
}

fn count(conn: &mut impl LoadConnection<Backend = Pg>) -> i64 {
    counters::table.count().get_result(conn).unwrap()
}

#[tokio::test]
async fn an_error_that_is_ignored_commits_nothing() {
    let (_server, mut db) = postgres();
    let lie = db.transaction(|db| {
        diesel::insert_into(counters::table).values(&Counter { id: 1, n: 0 }).execute(db)?;
        let _ignored = diesel::sql_query("SELECT 1 / 0").execute(db);
        QueryResult::Ok(())
    });
    assert_eq!((lie, count(&mut db)), (Ok(()), 0), "Diesel says that it was committed, and it was not");

    let (emitter, log) = node().await;
    let conn = &mut emitter.bind(&mut db).unwrap();
    let error = conn.transaction(|conn| {
        insert(1, conn)?;
        let _ignored = diesel::sql_query("SELECT 1 / 0").execute(conn);
        QueryResult::Ok(())
    });
    assert!(error.unwrap_err().to_string().contains("nothing was committed"));
    // One that is ignored within a savepoint is harmless.
    conn.transaction(|conn| {
        insert(2, conn)?;
        let _ignored = conn.transaction(|conn| diesel::sql_query("SELECT 1 / 0").execute(conn));
        QueryResult::Ok(())
    })
    .unwrap();
    // Without events there is nothing that could be wrong, and it stays as Diesel has it.
    let silent = conn.transaction(|conn| {
        let _ignored = diesel::sql_query("SELECT 1 / 0").execute(conn);
        QueryResult::Ok(())
    });
    assert_eq!(silent, Ok(()));
    assert_eq!(count(conn), 1);
    assert_eq!(heard(&emitter, &log).await, 1);
}

#[tokio::test]
async fn a_commit_that_the_database_refuses_emits_nothing() {
    let (_server, mut db) = postgres();
    let (emitter, log) = node().await;
    let conn = &mut emitter.bind(&mut db).unwrap();
    let orphan = "INSERT INTO children VALUES (9)";
    let error = conn.transaction(|conn| {
        insert(1, conn)?;
        diesel::sql_query(orphan).execute(conn)
    });
    let error = error.unwrap_err();
    assert!(matches!(error, Error::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _)), "{error:?}");
    insert(2, conn).unwrap();
    assert_eq!(count(conn), 1);
    assert_eq!(heard(&emitter, &log).await, 1);
}

#[tokio::test]
async fn of_two_transactions_that_cannot_be_serialized_one_emits() {
    let (server, mut db) = postgres();
    let mut other = connect(&server);
    let (emitter, log) = node().await;
    let sum = |conn: &mut Bound<'_, PgConnection>| counters::table.count().get_result::<i64>(conn);
    let conn = &mut emitter.bind(&mut db).unwrap();
    let error = conn.build_transaction().serializable().run(|conn| {
        sum(conn)?;
        insert(1, conn)?;
        let other = &mut emitter.bind(&mut other).unwrap();
        other.build_transaction().serializable().read_write().run(|other| {
            sum(other)?;
            insert(2, other)
        })
    });
    let error = error.unwrap_err();
    assert!(matches!(error, Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _)), "{error:?}");
    assert_eq!(count(conn), 1);
    assert_eq!(heard(&emitter, &log).await, 1);
}

#[tokio::test]
async fn a_connection_that_dies_before_its_commit_emits_nothing() {
    let (server, mut db) = postgres();
    let (emitter, log) = node().await;
    let error = emitter.bind(&mut db).unwrap().transaction(|conn| {
        insert(1, conn)?;
        let others = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
                      WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
        diesel::sql_query(others).execute(&mut connect(&server)).unwrap();
        QueryResult::Ok(())
    });
    assert!(error.is_err());
    assert_eq!(emitter.bind(&mut db).unwrap_err(), BindError::Broken);
    assert_eq!(count(&mut connect(&server)), 0);
    assert_eq!(heard(&emitter, &log).await, 0);
}

/// Each of `writers` threads makes `times` increments of one row; every event has to know the row
/// as it was when it was incremented.
async fn increments<C: Connection + 'static>(
    connect: impl Fn() -> C + Sync,
    increment: impl Fn(&mut Bound<'_, C>) -> QueryResult<Counter> + Sync,
    [writers, times]: [usize; 2],
) {
    let emitter = Emitter::builder().start().await.unwrap();
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let log = Arc::clone(&seen);
    emitter.on::<CounterUpdated>().run_blocking(move |event: Event<CounterUpdated>| {
        let before = event.before.as_ref().map(|before| before.n);
        log.lock().unwrap().insert((before, event.after.n));
    });
    thread::scope(|scope| {
        for _ in 0..writers {
            scope.spawn(|| {
                let mut conn = connect();
                let conn = &mut emitter.bind(&mut conn).unwrap();
                for time in 0..times {
                    if time % 2 == 0 {
                        increment(conn).unwrap();
                    } else {
                        conn.transaction(|conn| increment(conn)).unwrap();
                    }
                }
            });
        }
    });
    assert!(emitter.shutdown(Duration::from_secs(60)).await.is_clean());
    let all = i32::try_from(writers * times).unwrap();
    assert!(seen.lock().unwrap().iter().copied().eq((0..all).map(|n| (Some(n), n + 1))));
}

#[tokio::test]
async fn writers_of_one_row_of_postgresql_know_it_as_it_was() {
    let (server, mut db) = postgres();
    diesel::insert_into(counters::table).values(&Counter { id: 1, n: 0 }).execute(&mut db).unwrap();
    let one = || counters::table.find(1);
    increments(
        || connect(&server),
        |conn| update(one()).set(counters::n.eq(counters::n + 1)).emit().get_result(conn),
        [3, 300],
    )
    .await;
}

#[tokio::test]
async fn writers_of_one_row_of_sqlite_wait_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("counters.db").display().to_string();
    let connect = || {
        let mut conn = SqliteConnection::establish(&file).unwrap();
        conn.batch_execute(
            "PRAGMA busy_timeout = 60000; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF",
        )
        .unwrap();
        conn
    };
    let mut db = connect();
    db.batch_execute(TABLES).unwrap();
    diesel::insert_into(counters::table).values(&Counter { id: 1, n: 0 }).execute(&mut db).unwrap();
    let one = || counters::table.find(1);
    increments(
        connect,
        |conn| update(one()).set(counters::n.eq(counters::n + 1)).emit().get_result(conn),
        [8, 100],
    )
    .await;
}

#[tokio::test]
async fn an_update_does_not_hold_up_rows_that_refer_to_its_own() {
    let (server, mut db) = postgres();
    let (emitter, log) = node().await;
    let conn = &mut emitter.bind(&mut db).unwrap();
    insert(1, conn).unwrap();
    conn.transaction(|conn| {
        update(counters::table.find(1)).set(counters::n.eq(5)).emit::<Counter>().get_result(conn)?;
        let mut other = connect(&server);
        other.batch_execute("SET lock_timeout = '2s'; INSERT INTO children VALUES (1)")
    })
    .unwrap();
    assert_eq!(heard(&emitter, &log).await, 2);
}

#[tokio::test]
async fn rows_before_are_never_those_of_others() {
    let mut db = SqliteConnection::establish(":memory:").unwrap();
    db.batch_execute("CREATE TABLE counters (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)").unwrap();
    let emitter = Emitter::builder().start().await.unwrap();
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&log);
    emitter.on::<CounterEvent>().run(move |event: Event<CounterEvent>| {
        let line = |before: Option<&Counter>, after: &Counter| {
            format!("{} -> {}", before.map_or("?".to_owned(), |before| before.id.to_string()), after.id)
        };
        heard.lock().unwrap().extend(match &*event {
            CounterEvent::Updated(body) => vec![line(body.before.as_ref(), &body.after)],
            CounterEvent::UpdatedMany(body) => {
                body.rows.iter().flatten().map(|row| line(row.before.as_ref(), &row.after)).collect()
            }
            CounterEvent::Created(_) | CounterEvent::Upserted(_) => vec![],
        });
        std::future::ready(())
    });
    let conn = &mut emitter.bind(&mut db).unwrap();
    let list: Vec<Counter> = (2..=4).map(|id| Counter { id, n: 0 }).collect();
    for counter in &list {
        let insert = diesel::insert_into(counters::table).values(counter).on_conflict_do_nothing();
        insert.emit::<Counter>().emit_if(false).execute(conn).unwrap();
    }
    // One key is another row's by now.
    update(counters::table).set(counters::id.eq(counters::id - 1)).emit::<Counter>().execute(conn).unwrap();
    // One row with a new key is known.
    update(counters::table.find(1)).set(counters::id.eq(9)).emit::<Counter>().get_result(conn).unwrap();
    assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
    assert_eq!(*log.lock().unwrap(), ["? -> 1", "? -> 2", "? -> 3", "1 -> 9"]);
}

#[tokio::test]
async fn rows_before_are_known_on_postgresql_though_their_keys_change() {
    let (_server, mut db) = postgres();
    db.batch_execute("INSERT INTO counters VALUES (2, 2), (3, 3), (4, 4)").unwrap();
    let emitter = Emitter::builder().start().await.unwrap();
    let log: Arc<Mutex<BTreeSet<_>>> = Arc::default();
    let heard = Arc::clone(&log);
    emitter.on::<CounterUpdatedMany>().run(move |event: Event<CounterUpdatedMany>| {
        let rows = event.rows.iter().flatten();
        heard
            .lock()
            .unwrap()
            .extend(rows.map(|row| (row.before.as_ref().map(|before| before.id), row.after.n)));
        std::future::ready(())
    });
    let conn = &mut emitter.bind(&mut db).unwrap();
    update(counters::table).set(counters::id.eq(counters::id + 10)).emit::<Counter>().execute(conn).unwrap();
    assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
    assert!(log.lock().unwrap().iter().copied().eq((2..=4).map(|n| (Some(n), n))));
}

#[tokio::test]
async fn an_upsert_of_an_empty_list_is_nothing() {
    let (_server, mut db) = postgres();
    let (emitter, log) = node().await;
    let conn = &mut emitter.bind(&mut db).unwrap();
    let none: Vec<Counter> = Vec::new();
    let upsert = diesel::insert_into(counters::table).values(&none).on_conflict_do_nothing();
    assert_eq!(upsert.emit::<Counter>().execute(conn).unwrap(), 0);
    assert_eq!(heard(&emitter, &log).await, 0);
}

/// A MariaDB with `counters` from 1 to 100.
fn mariadb() -> (MariaDb, MysqlConnection) {
    let server = MariaDb::start();
    let mut conn = MysqlConnection::establish(&server.url()).unwrap();
    conn.batch_execute("CREATE TABLE counters (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)").unwrap();
    let rows: Vec<Counter> = (1..=100).map(|id| Counter { id, n: 0 }).collect();
    diesel::insert_into(counters::table).values(&rows).execute(&mut conn).unwrap();
    (server, conn)
}

/// Runs into a deadlock with a transaction that has written more, so that `second` is the one that
/// fails. `first` takes row 1, `second` wants row 2.
fn deadlock<C: Connection<Backend = diesel::mysql::Mysql>>(
    server: &MariaDb,
    conn: &mut C,
    first: impl FnOnce(&mut C) -> QueryResult<()>,
    second: impl FnOnce(&mut C) -> QueryResult<()>,
) -> QueryResult<()> {
    let (locked, is_locked) = mpsc::channel();
    let (begun, has_begun) = mpsc::channel();
    let mut other = MysqlConnection::establish(&server.url()).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            other
                .transaction(|other| {
                    let many = counters::table.filter(counters::id.gt(1));
                    diesel::update(many).set(counters::n.eq(counters::n + 1)).execute(other)?;
                    has_begun.recv().unwrap();
                    locked.send(()).unwrap();
                    diesel::update(counters::table.find(1)).set(counters::n.eq(9)).execute(other)
                })
                .unwrap();
        });
        conn.transaction(|conn| {
            first(conn)?;
            begun.send(()).unwrap();
            is_locked.recv().unwrap();
            let error = second(conn).unwrap_err();
            assert!(error.to_string().contains("Deadlock"), "{error}");
            Ok(())
        })
    })
}

#[tokio::test]
async fn a_deadlock_that_is_ignored_commits_nothing() {
    let set = |id, n| diesel::update(counters::table.find(id)).set(counters::n.eq(n));
    let (server, mut db) = mariadb();
    let lie = deadlock(
        &server,
        &mut db,
        |db| set(1, 1).execute(db).map(drop),
        |db| set(2, 1).execute(db).map(drop),
    );
    assert_eq!(lie, Ok(()), "Diesel says that it was committed");
    let n: i32 = counters::table.find(1).select(counters::n).get_result(&mut db).unwrap();
    assert_eq!(n, 9, "and it was not");

    let (emitter, log) = node().await;
    let conn = &mut emitter.bind(&mut db).unwrap();
    let set = |id, n| update(counters::table.find(id)).set(counters::n.eq(n)).emit::<Counter>();
    let error = deadlock(
        &server,
        conn,
        |conn| set(1, 2).get_result(conn).map(drop),
        |conn| set(2, 2).get_result(conn).map(drop),
    );
    assert!(error.unwrap_err().to_string().contains("nothing was committed"));
    assert_eq!(heard(&emitter, &log).await, 0);
}

#[tokio::test]
async fn a_statement_that_commits_by_itself_is_noticed() {
    let (_server, mut db) = mariadb();
    let set = |n| update(counters::table.find(1)).set(counters::n.eq(n)).emit::<Counter>();
    let (emitter, log) = node().await;
    let conn = &mut emitter.bind(&mut db).unwrap();
    let create = |number: i32| format!("CREATE TABLE t{number} (id INTEGER PRIMARY KEY)");
    let error = conn.transaction(|conn| {
        set(1).get_result(conn)?;
        conn.batch_execute(&create(1))
    });
    assert!(error.unwrap_err().to_string().contains("ended the transaction before its COMMIT"));
    let n: i32 = counters::table.find(1).select(counters::n).get_result(conn).unwrap();
    assert_eq!(n, 1, "it was committed in the middle");
    // Nested and plain ones are as ever.
    conn.transaction(|conn| {
        conn.transaction(|conn| set(2).get_result(conn))?;
        conn.transaction(|conn| {
            set(3).get_result(conn)?;
            QueryResult::<()>::Err(Error::RollbackTransaction)
        })
        .unwrap_err();
        set(4).get_result(conn)
    })
    .unwrap();
    assert_eq!(heard(&emitter, &log).await, 2);
}

#[tokio::test]
async fn writers_of_one_row_of_mariadb_know_it_as_it_was() {
    let (server, _db) = mariadb();
    let one = || counters::table.find(1);
    increments(
        || MysqlConnection::establish(&server.url()).unwrap(),
        |conn| update(one()).set(counters::n.eq(counters::n + 1)).emit().get_result(conn),
        [3, 100],
    )
    .await;
}

#[tokio::test]
async fn rows_inserted_into_mariadb_are_found_by_their_keys() {
    let (_server, mut db) = mariadb();
    db.batch_execute(
        "CREATE TABLE notes (id INTEGER PRIMARY KEY AUTO_INCREMENT, text VARCHAR(40) NOT NULL UNIQUE)",
    )
    .unwrap();
    let emitter = Emitter::builder().start().await.unwrap();
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&log);
    emitter.on::<NoteEvent>().run(move |event: Event<NoteEvent>| {
        let keys: Vec<String> = event.keys().iter().map(ToString::to_string).collect();
        heard.lock().unwrap().push(format!("{} {}", event.operation(), keys.join(" ")));
        std::future::ready(())
    });
    let conn = &mut emitter.bind(&mut db).unwrap();
    let texts =
        |texts: &[&str]| texts.iter().map(|text| notes::text.eq((*text).to_owned())).collect::<Vec<_>>();
    let insert = |rows: Vec<_>| diesel::insert_into(notes::table).values(rows).emit::<Note>();
    let one: Note =
        diesel::insert_into(notes::table).values(notes::text.eq("a")).emit().get_result(conn).unwrap();
    assert_eq!(one, Note { id: 1, text: "a".to_owned() });
    let many: Vec<Note> = insert(texts(&["b", "c"])).get_results(conn).unwrap();
    assert_eq!(many.iter().map(|note| note.id).collect::<Vec<_>>(), [2, 3]);
    let given: Note = diesel::insert_into(notes::table)
        .values((notes::text.eq("d"), notes::id.eq(40)))
        .emit()
        .get_result(conn)
        .unwrap();
    assert_eq!(given.id, 40);
    let known =
        || diesel::insert_or_ignore_into(notes::table).values((notes::id.eq(40), notes::text.eq("e")));
    assert_eq!(known().emit::<Note>().execute(conn).unwrap(), 0);
    // What cannot be told is refused before it is done, or undone.
    let upsert = diesel::insert_into(notes::table).values(notes::text.eq("a"));
    let upsert = upsert.on_conflict(diesel::dsl::DuplicatedKeys).do_update().set(notes::text.eq("f"));
    let error = upsert.emit::<Note>().execute(conn).unwrap_err();
    assert!(error.to_string().contains("has to say the row's key"), "{error}");
    let upsert = diesel::insert_into(notes::table).values((notes::id.eq(50), notes::text.eq("a")));
    let upsert = upsert.on_conflict(diesel::dsl::DuplicatedKeys).do_update().set(notes::text.eq("g"));
    let error = upsert.emit::<Note>().execute(conn).unwrap_err();
    assert!(error.to_string().contains("not there under the key"), "{error}");
    let key = diesel::insert_into(notes::table).values((notes::id.eq(notes_max() + 1), notes::text.eq("h")));
    let error = key.emit::<Note>().execute(conn).unwrap_err();
    assert!(error.to_string().contains("has to be a value"), "{error}");
    let error =
        update(notes::table.find(40)).set(notes::id.eq(41)).emit::<Note>().get_result(conn).unwrap_err();
    assert!(error.to_string().contains("cannot set the key"), "{error}");
    let texts: Vec<String> = notes::table.select(notes::text).order(notes::id).load(conn).unwrap();
    assert_eq!(texts, ["a", "b", "c", "d"]);
    assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
    assert_eq!(*log.lock().unwrap(), ["create 1", "createMany 2 3", "create 40"]);
}

diesel::table! {
    notes {
        id -> Integer,
        text -> Text,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(create, create_many, update, upsert)]
struct Note {
    id: i32,
    text: String,
}

/// An expression of the key's type.
fn notes_max() -> diesel::expression::SqlLiteral<diesel::sql_types::Integer> {
    diesel::dsl::sql("60")
}
