//! Writes that went past `.emit()` are found, and nothing else is taken for one.
//!
//! That no statement with `.emit()` is, on any kind of connection, the suite of operations shows.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use diesel::connection::{InstrumentationEvent, SimpleConnection};
use diesel::prelude::*;
use emitter_diesel::bypass::{self, Reaction, Watch};
use emitter_diesel::{Bind, Emit, EmitNone, Emits, Emitter};
use serde::{Deserialize, Serialize};

mod schema {
    diesel::table! { users { id -> Integer, name -> Text, } }
    diesel::table! { log_lines { id -> Integer, line -> Text, } }
    diesel::table! { notes { id -> Integer, line -> Text, } }
}

use schema::{log_lines, notes, users};

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create, create_many, update_many, delete_many)]
struct User {
    id: i32,
    name: String,
}

/// Its lines are never changed, so that nobody hears of that.
#[derive(Debug, Clone, PartialEq, Queryable, Serialize, Deserialize, Emits)]
#[diesel(table_name = schema::log_lines)]
#[emits(create)]
struct Line {
    id: i32,
    line: String,
}

/// An event that is no row has no table, though there is one that would be its by Diesel's rule.
#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event)]
struct Note {
    line: String,
}

fn database(watch: Watch) -> SqliteConnection {
    let mut db = SqliteConnection::establish(":memory:").unwrap();
    db.batch_execute(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
         CREATE TABLE log_lines (id INTEGER PRIMARY KEY, line TEXT NOT NULL);
         CREATE TABLE notes (id INTEGER PRIMARY KEY, line TEXT NOT NULL);",
    )
    .unwrap();
    db.set_instrumentation(watch);
    db
}

fn user(id: i32, name: &str) -> User {
    User { id, name: name.to_owned() }
}

/// What the statement panics with.
fn denied<T>(
    db: &mut SqliteConnection,
    statement: impl FnOnce(&mut SqliteConnection) -> T,
) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| statement(db))).err()?;
    panic.downcast_ref::<String>().cloned()
}

#[test]
fn a_denied_write_names_its_table_and_its_model_and_never_happens() {
    let db = &mut database(Watch::new(Reaction::Deny));
    let insert =
        denied(db, |db| diesel::insert_into(users::table).values(user(1, "secret")).execute(db)).unwrap();
    assert_eq!(
        insert,
        "an insert into `users` went past `.emit()`, so nobody hears of it, though `user` has events for it. \
         Write `.emit()` on a bound handle, or `.emit_none()` where none is meant (in raw SQL, `/* emit_none */`)"
    );
    let list = [user(1, "a"), user(2, "b")];
    assert!(denied(db, |db| diesel::insert_into(users::table).values(&list).execute(db)).is_some());
    let update = denied(db, |db| diesel::update(users::table).set(users::name.eq("b")).execute(db)).unwrap();
    assert!(update.starts_with("an update of `users`"), "{update}");
    let delete = denied(db, |db| diesel::delete(users::table.find(1)).execute(db)).unwrap();
    assert!(delete.starts_with("a delete from `users`"), "{delete}");
    // In a batch, in a WITH, by another spelling.
    for sql in [
        "PRAGMA foreign_keys; INSERT INTO users VALUES (1, 'a')",
        "WITH a AS (SELECT 1) DELETE FROM main.USERS",
        "REPLACE INTO `users` VALUES (1, 'a')",
    ] {
        assert!(denied(db, |db| db.batch_execute(sql)).is_some(), "{sql}");
    }
    // The table is found by Diesel's attribute, too.
    let line = (log_lines::id.eq(1), log_lines::line.eq("a"));
    assert!(denied(db, |db| diesel::insert_into(log_lines::table).values(line).execute(db)).is_some());
    assert_eq!(users::table.count().get_result(db), Ok(0_i64));
    assert_eq!(log_lines::table.count().get_result(db), Ok(0_i64));
}

#[test]
fn what_no_event_would_tell_of_passes() {
    let db = &mut database(Watch::new(Reaction::Deny));
    diesel::insert_into(notes::table).values((notes::id.eq(1), notes::line.eq("users"))).execute(db).unwrap();
    // `Line` has no event for it.
    diesel::update(log_lines::table).set(log_lines::line.eq("b")).execute(db).unwrap();
    diesel::delete(log_lines::table).execute(db).unwrap();
    users::table.load::<User>(db).unwrap();
    db.batch_execute("CREATE INDEX by_name ON users (name)").unwrap();
}

#[test]
fn what_is_meant_passes_with_all_that_diesel_returns() {
    let db = &mut database(Watch::new(Reaction::Deny));
    let alice: User =
        diesel::insert_into(users::table).values(user(1, "alice")).emit_none().get_result(db).unwrap();
    assert_eq!(alice, user(1, "alice"));
    // A list, which SQLite takes as several statements.
    let list = [user(2, "bob"), user(3, "carol")];
    assert_eq!(diesel::insert_into(users::table).values(&list).emit_none().execute(db), Ok(2));
    let all: Vec<User> =
        diesel::update(users::table).set(users::name.eq("x")).emit_none().get_results(db).unwrap();
    assert_eq!(all.len(), 3);
    let gone: Vec<User> = diesel::delete(users::table.find(3)).emit_none().load(db).unwrap();
    assert_eq!(gone, [user(3, "x")]);
    let nobody = diesel::delete(users::table.find(9)).emit_none().get_result::<User, _, _>(db);
    assert_eq!(nobody, Err(diesel::NotFound));
    db.batch_execute("/* emit_none */ INSERT INTO users VALUES (4, 'd'); DELETE FROM users WHERE id = 4")
        .unwrap();
    // The next one is looked at again, also after a failure.
    diesel::insert_into(users::table).values(user(1, "twice")).emit_none().execute(db).unwrap_err();
    assert!(denied(db, |db| diesel::delete(users::table).execute(db)).is_some());
}

#[tokio::test]
async fn what_emits_passes_and_what_follows_it_is_looked_at() {
    let db = &mut database(Watch::new(Reaction::Deny));
    let emitter = Emitter::builder().start().await.unwrap();
    let conn = &mut emitter.bind(db).unwrap();
    let list = [user(1, "alice"), user(2, "bob")];
    diesel::insert_into(users::table).values(&list).emit::<User>().execute(conn).unwrap();
    // Also where it goes nowhere.
    diesel::insert_into(users::table)
        .values(user(3, "c"))
        .emit::<User>()
        .emit_if(false)
        .execute(conn)
        .unwrap();
    let past = catch_unwind(AssertUnwindSafe(|| diesel::delete(users::table).execute(conn)));
    assert!(past.is_err());
    assert_eq!(users::table.count().get_result(conn), Ok(3_i64));
}

#[tokio::test]
async fn of_a_skipped_model_what_emits_passes_and_what_forgot_to_is_found() {
    let db = &mut database(Watch::new(Reaction::Deny));
    let emitter = Emitter::builder().skip_models(["user"]).start().await.unwrap();
    // Without an outbox, a durable event that somebody is to hear would be an error.
    let _ = emitter.on::<UserEvent>().run(|_| std::future::ready(()));
    let conn = &mut emitter.bind(db).unwrap();
    let alice: User =
        diesel::insert_into(users::table).values(user(1, "alice")).emit().get_result(conn).unwrap();
    emitter_diesel::update(users::table)
        .set(users::name.eq("b"))
        .emit::<User>()
        .durable()
        .execute(conn)
        .unwrap();
    emitter_diesel::delete(users::table).emit::<User>().queued().execute(conn).unwrap();
    assert_eq!((alice, users::table.count().get_result(conn)), (user(1, "alice"), Ok(0_i64)));
    // It would be silent when the model is emitted again.
    let past = catch_unwind(AssertUnwindSafe(|| {
        diesel::insert_into(users::table).values(user(2, "bob")).execute(conn)
    }));
    assert!(past.is_err());
}

#[test]
fn an_instrumentation_of_ones_own_stands_behind_it() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let own = move |event: InstrumentationEvent<'_>| {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            log.lock().unwrap().push(query.to_string());
        }
    };
    let db = &mut database(Watch::new(Reaction::Deny).and(own));
    diesel::insert_into(users::table).values(user(1, "alice")).emit_none().execute(db).unwrap();
    users::table.load::<User>(db).unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[0].starts_with("INSERT INTO `users`"), "{seen:?}");
}

#[test]
fn a_warning_comes_once_for_each_statement_and_shows_no_value() {
    let output = Output::default();
    let writer = output.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        let db = &mut database(Watch::new(Reaction::Warn));
        for id in 0..10 {
            diesel::insert_into(users::table).values(user(id, "hunter2")).execute(db).unwrap();
        }
        diesel::update(users::table).set(users::name.eq("hunter2")).execute(db).unwrap();
        diesel::sql_query("UPDATE users SET name = 'hunter2'").execute(db).unwrap();
        // Without end, there is an end to it.
        for id in 100..1000 {
            diesel::sql_query(format!("INSERT INTO users VALUES ({id}, 'hunter2')")).execute(db).unwrap();
        }
    });
    let log = String::from_utf8(std::mem::take(&mut *output.0.lock().unwrap())).unwrap();
    assert_eq!(log.matches("an update of `users` went past").count(), 2, "{log}");
    assert_eq!(log.matches("an insert into `users` went past").count(), 98, "{log}");
    assert!(!log.contains("hunter2") && !log.contains("VALUES"), "{log}");
}

#[test]
fn every_new_connection_is_watched() {
    bypass::watch(Reaction::Deny).unwrap();
    let mut db = SqliteConnection::establish(":memory:").unwrap();
    db.batch_execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").unwrap();
    assert!(denied(&mut db, |db| diesel::delete(users::table).execute(db)).is_some());
}

#[derive(Debug, Default, Clone)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
