//! Statements on SQLite: what is emitted, and when.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::connection::{SimpleConnection as _, TransactionManager};
use diesel::prelude::*;
use diesel::result::Error;
use emitter_diesel::{Bind, BindError, Bound, Emit, EmitConfig, Emits, Emitter, Event, Operation};
use serde::{Deserialize, Serialize};

diesel::table! {
    users {
        id -> Integer,
        name -> Text,
        password_hash -> Text,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(all)]
struct User {
    id: i32,
    name: String,
    #[emits(skip)]
    password_hash: String,
}

#[derive(Insertable)]
#[diesel(table_name = users)]
struct NewUser<'a> {
    id: i32,
    name: &'a str,
    password_hash: &'a str,
}

fn new(id: i32, name: &str) -> NewUser<'_> {
    NewUser { id, name, password_hash: "hash" }
}

/// What a listener heard: the operation, and `id:name` of each row.
type Heard = Arc<Mutex<Vec<(Operation, Vec<String>)>>>;

fn show(row: &UserRow) -> String {
    format!("{}:{}", row.id, row.name)
}

async fn node(config: EmitConfig) -> (Emitter, Heard) {
    let emitter = Emitter::builder().emit(config).start().await.unwrap();
    let heard = Heard::default();
    let log = Arc::clone(&heard);
    let _listener = emitter.on::<UserEvent>().run(move |event: Event<UserEvent>| {
        let rows = match &*event {
            UserEvent::Created(body) => vec![show(&body.row)],
            UserEvent::Updated(body) => vec![show(&body.after)],
            UserEvent::Upserted(body) => vec![show(&body.row)],
            UserEvent::Deleted(body) => vec![show(&body.row)],
            UserEvent::CreatedMany(body) => body.rows.iter().flatten().map(show).collect(),
            UserEvent::DeletedMany(body) => body.rows.iter().flatten().map(show).collect(),
            UserEvent::UpdatedMany(body) => body.rows.iter().flatten().map(|row| show(&row.after)).collect(),
        };
        log.lock().unwrap().push((event.operation(), rows));
        std::future::ready(())
    });
    (emitter, heard)
}

fn database() -> SqliteConnection {
    let mut conn = SqliteConnection::establish(":memory:").unwrap();
    diesel::sql_query(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, password_hash TEXT NOT NULL)",
    )
    .execute(&mut conn)
    .unwrap();
    conn
}

/// Runs `work` on a bound connection; what listeners heard of it, as `operation id:name id:name`.
async fn heard_of(work: impl FnOnce(&mut Bound<'_, SqliteConnection>)) -> Vec<String> {
    let (emitter, heard) = node(EmitConfig::all()).await;
    work(&mut emitter.bind(&mut database()).unwrap());
    assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
    let heard = heard.lock().unwrap();
    heard.iter().map(|(operation, rows)| format!("{operation} {}", rows.join(" "))).collect()
}

fn insert(id: i32, name: &str, conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<User> {
    diesel::insert_into(users::table).values(&new(id, name)).emit().get_result(conn)
}

/// A function of an application, as the README says to write those that do not emit.
fn find(
    conn: &mut impl diesel::connection::LoadConnection<Backend = diesel::sqlite::Sqlite>,
    id: i32,
) -> QueryResult<User> {
    users::table.find(id).first(conn)
}

#[tokio::test]
async fn generic_functions_take_bare_and_bound_connections() {
    let heard = heard_of(|conn| {
        insert(1, "alice", conn).unwrap();
        assert_eq!(find(conn, 1).unwrap().name, "alice");
        assert_eq!(find(&mut database(), 1).unwrap_err(), diesel::result::Error::NotFound);
    });
    assert_eq!(heard.await, ["create 1:alice"]);
}

#[tokio::test]
async fn each_statement_is_the_operation_that_it_does() {
    let heard = heard_of(|conn| {
        let alice = insert(1, "alice", conn).unwrap();
        assert_eq!(alice.password_hash, "hash");
        let list = vec![new(2, "bob"), new(3, "carol")];
        let count = diesel::insert_into(users::table).values(&list);
        assert_eq!(count.emit::<User>().execute(conn).unwrap(), 2);
        let renamed = emitter_diesel::update(&alice)
            .set(users::name.eq("alicia"))
            .emit::<User>()
            .get_result(conn)
            .unwrap();
        assert_eq!(renamed.name, "alicia");
        let all = emitter_diesel::update(users::table.filter(users::id.gt(1)))
            .set(users::name.eq(users::name.concat("!")));
        assert_eq!(all.emit::<User>().execute(conn).unwrap(), 2);
        let upserted: User = diesel::insert_into(users::table)
            .values(&new(1, "al"))
            .on_conflict(users::id)
            .do_update()
            .set(users::name.eq("al"))
            .emit()
            .get_result(conn)
            .unwrap();
        assert_eq!(upserted.name, "al");
        let _: User = emitter_diesel::delete(users::table.find(1)).emit().get_result(conn).unwrap();
        let gone: Vec<User> = emitter_diesel::delete(users::table).emit().get_results(conn).unwrap();
        assert_eq!(gone.len(), 2);
        assert_eq!(users::table.count().get_result::<i64>(conn).unwrap(), 0);
    })
    .await;
    assert_eq!(
        heard,
        [
            "create 1:alice",
            "createMany 2:bob 3:carol",
            "update 1:alicia",
            "updateMany 2:bob! 3:carol!",
            "upsert 1:al",
            "delete 1:al",
            "deleteMany 2:bob! 3:carol!",
        ]
    );
}

#[tokio::test]
async fn a_statement_without_emit_or_without_rows_is_silent() {
    let heard = heard_of(|conn| {
        diesel::insert_into(users::table).values(&new(1, "alice")).execute(conn).unwrap();
        let nobody = emitter_diesel::update(users::table.find(9)).set(users::name.eq("x"));
        assert_eq!(nobody.emit::<User>().execute(conn).unwrap(), 0);
        let nobody = emitter_diesel::update(users::table.find(9)).set(users::name.eq("x"));
        assert_eq!(nobody.emit::<User>().get_result(conn).unwrap_err(), Error::NotFound);
        let again = new(1, "alice");
        let known = diesel::insert_into(users::table).values(&again).on_conflict_do_nothing();
        assert_eq!(known.emit::<User>().execute(conn).unwrap(), 0);
        insert(1, "alice", conn).unwrap_err();
        let narrowed = emitter_diesel::update(users::table).set(users::name.eq("y")).emit::<User>();
        assert_eq!(narrowed.remote_only().execute(conn).unwrap(), 1);
        let narrowed = emitter_diesel::update(users::table).set(users::name.eq("z")).emit::<User>();
        assert_eq!(narrowed.emit_if(false).execute(conn).unwrap(), 1);
    })
    .await;
    assert!(heard.is_empty(), "{heard:?}");
}

#[tokio::test]
async fn the_application_narrows_what_calls_ask_for() {
    let (emitter, heard) = node(EmitConfig::all().with(Operation::Create, false)).await;
    insert(1, "alice", &mut emitter.bind(&mut database()).unwrap()).unwrap();
    assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
    assert!(heard.lock().unwrap().is_empty());
}

#[tokio::test]
async fn events_leave_after_the_outermost_commit_or_never() {
    let heard = heard_of(|conn| {
        let failed = conn.transaction(|conn| {
            insert(1, "rolled back", conn)?;
            Err::<(), _>(Error::RollbackTransaction)
        });
        assert_eq!(failed, Err(Error::RollbackTransaction));
        conn.transaction(|conn| {
            insert(2, "outer", conn)?;
            let inner = conn.transaction(|conn| {
                insert(3, "inner, rolled back", conn)?;
                conn.transaction(|conn| insert(4, "innermost, rolled back with it", conn))?;
                Err::<(), _>(Error::RollbackTransaction)
            });
            assert!(inner.is_err());
            conn.transaction(|conn| insert(5, "inner", conn))?;
            assert_eq!(conn.emitter().stats().emitted_local, 0, "nothing leaves before the commit");
            insert(6, "outer again", conn)
        })
        .unwrap();
        let names: Vec<i32> = users::table.select(users::id).order(users::id).load(conn).unwrap();
        assert_eq!(names, [2, 5, 6]);
    })
    .await;
    assert_eq!(heard, ["create 2:outer", "create 5:inner", "create 6:outer again"]);
}

#[tokio::test]
async fn manual_transactions_are_followed() {
    type Manager<'c> = <Bound<'c, SqliteConnection> as Connection>::TransactionManager;
    let heard = heard_of(|conn| {
        Manager::begin_transaction(conn).unwrap();
        insert(1, "a", conn).unwrap();
        Manager::begin_transaction(conn).unwrap();
        insert(2, "b", conn).unwrap();
        Manager::rollback_transaction(conn).unwrap();
        Manager::commit_transaction(conn).unwrap();
        Manager::begin_transaction(conn).unwrap();
        insert(3, "c", conn).unwrap();
        Manager::rollback_transaction(conn).unwrap();
        assert!(matches!(Manager::commit_transaction(conn), Err(Error::NotInTransaction)));
        insert(4, "d", conn).unwrap();
    })
    .await;
    assert_eq!(heard, ["create 1:a", "create 4:d"]);
}

#[tokio::test]
async fn a_test_transaction_is_the_ground() {
    let heard = heard_of(|conn| {
        conn.test_transaction(|conn| {
            insert(1, "at once", conn)?;
            let failed = conn.transaction(|conn| {
                insert(2, "rolled back", conn)?;
                Err::<(), _>(Error::RollbackTransaction)
            });
            assert!(failed.is_err());
            conn.transaction(|conn| insert(3, "committed", conn))
        });
    })
    .await;
    assert_eq!(heard, ["create 1:at once", "create 3:committed"]);
}

#[tokio::test]
async fn a_failing_commit_emits_nothing() {
    let heard = heard_of(|conn| {
        let setup = "PRAGMA foreign_keys = ON; CREATE TABLE posts (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL \
                     REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED)";
        conn.batch_execute(setup).unwrap();
        let failed: QueryResult<User> = conn.transaction(|conn| {
            diesel::sql_query("INSERT INTO posts VALUES (1, 99)").execute(conn)?;
            insert(1, "alice", conn)
        });
        assert!(failed.is_err(), "the deferred foreign key fails at COMMIT");
        assert_eq!(users::table.count().get_result::<i64>(conn).unwrap(), 0);
        insert(2, "bob", conn).unwrap();
    })
    .await;
    assert_eq!(heard, ["create 2:bob"]);
}

#[tokio::test]
async fn a_panic_in_a_transaction_emits_nothing_and_the_connection_is_refused_until_it_ends() {
    let (emitter, heard) = node(EmitConfig::all()).await;
    let mut conn = database();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let bound = &mut emitter.bind(&mut conn).unwrap();
        let _: QueryResult<()> = bound.transaction(|conn| {
            insert(1, "alice", conn)?;
            panic!("in the middle")
        });
    }));
    assert!(panicked.is_err());
    assert_eq!(emitter.bind(&mut conn).unwrap_err(), BindError::TransactionOpen);
    <SqliteConnection as Connection>::TransactionManager::rollback_transaction(&mut conn).unwrap();
    insert(2, "bob", &mut emitter.bind(&mut conn).unwrap()).unwrap();
    assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
    assert_eq!(heard.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn raw_transactions_are_refused() {
    heard_of(|conn| {
        for sql in ["BEGIN", "-- now\nBEGIN IMMEDIATE", "SELECT 1; ROLLBACK"] {
            assert!(conn.batch_execute(sql).is_err(), "{sql}");
        }
        conn.batch_execute("CREATE TABLE beginners (id INTEGER)").unwrap();
    })
    .await;
}

#[tokio::test]
async fn immediate_and_exclusive_transactions_are_followed() {
    let heard = heard_of(|conn| {
        conn.immediate_transaction(|conn| {
            insert(1, "a", conn)?;
            conn.transaction(|conn| insert(2, "b", conn))?;
            assert!(matches!(
                conn.immediate_transaction(|_| QueryResult::Ok(())),
                Err(Error::AlreadyInTransaction)
            ));
            assert_eq!(conn.emitter().stats().emitted_local, 0, "nothing leaves before the commit");
            QueryResult::Ok(())
        })
        .unwrap();
        let failed: QueryResult<()> = conn.exclusive_transaction(|conn| {
            insert(3, "c", conn)?;
            Err(Error::RollbackTransaction)
        });
        assert_eq!(failed, Err(Error::RollbackTransaction));
        insert(4, "d", conn).unwrap();
    })
    .await;
    assert_eq!(heard, ["create 1:a", "create 2:b", "create 4:d"]);
}

#[tokio::test]
async fn pooled_connections_are_bound_like_others() {
    use diesel::r2d2::{ConnectionManager, Pool};
    let (emitter, heard) = node(EmitConfig::all()).await;
    let pool =
        Pool::builder().max_size(1).build(ConnectionManager::<SqliteConnection>::new(":memory:")).unwrap();
    let mut pooled = pool.get().unwrap();
    pooled
        .batch_execute(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, password_hash TEXT NOT NULL)",
        )
        .unwrap();
    let bound = &mut emitter.bind(&mut pooled).unwrap();
    let _: User = bound
        .transaction(|conn| {
            diesel::insert_into(users::table).values(&new(1, "alice")).emit().get_result(conn)
        })
        .unwrap();
    assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
    assert_eq!(heard.lock().unwrap().len(), 1);
}
