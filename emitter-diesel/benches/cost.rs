//! What the framework costs, beside what it is compared with, in one run.
//!
//! `cargo bench -p emitter-diesel --features sqlite-bundled`
//!
//! Each figure is the median of many short rounds. What is compared is measured in turns, round
//! by round, so that a busy machine slows both; the ratio is the median of the rounds' ratios.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use diesel::prelude::*;
use emitter_diesel::envelope::{self, Content, Outgoing, WireLimits};
use emitter_diesel::event::{EventId, Operation, Timestamp};
use emitter_diesel::key::Key;
use emitter_diesel::model::{Created, Model};
use emitter_diesel::{Bind, Bound, Emit, Emits, Emitter, Event, Scope};
use serde::{Deserialize, Serialize};

diesel::table! {
    users (id) {
        id -> Integer,
        name -> Text,
        email -> Text,
        status -> Text,
        password_hash -> Text,
    }
}

/// A row of a common size.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(create, update, update_many)]
struct User {
    id: i32,
    name: String,
    email: String,
    status: String,
    #[emits(skip)]
    password_hash: String,
}

#[derive(Insertable)]
#[diesel(table_name = users)]
struct NewUser {
    name: &'static str,
    email: &'static str,
    status: &'static str,
    password_hash: &'static str,
}

const ALICE: NewUser = NewUser {
    name: "Alice Liddell",
    email: "alice@example.com",
    status: "ACTIVE",
    password_hash: "$argon2id$v=19$m=65536,t=2,p=1$gZiV/M1gPc22ElAH/Jh1Hw",
};

fn row() -> UserRow {
    UserRow { id: 7, name: ALICE.name.into(), email: ALICE.email.into(), status: ALICE.status.into() }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` runs this too: then one round is enough to see that it works.
    let rounds = if arguments.iter().any(|argument| argument == "--bench") { 200 } else { 1 };
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str()));
    println!("{:<56} {:>12}", "", "per event");
    if wants("dispatch") {
        dispatch(rounds, 1);
        dispatch(rounds, 10);
    }
    if wants("wire") {
        wire(rounds);
    }
    if wants("insert") {
        insert(rounds);
    }
    if wants("update") {
        update(rounds);
    }
}

/// Making an event of a row, and from there to the end of its last listener.
fn dispatch(rounds: usize, listeners: usize) {
    // Under load the dispatcher gathers events for a millisecond, and so it does at the end of a
    // round: the round has to be long beside that.
    const EVENTS: u32 = 100_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let emitter = Emitter::builder().start().await.unwrap();
        for _ in 0..listeners {
            let _stays = emitter.on::<UserCreated>().run(|event: Event<UserCreated>| async move {
                black_box(event.row.id);
            });
        }
        let mut making = Vec::new();
        let mut dispatching = Vec::new();
        for round in 1..=(rounds as u64).div_ceil(5) {
            let begun = Instant::now();
            (0..EVENTS).for_each(|_| drop(black_box(emission(&emitter))));
            let made = begun.elapsed() / EVENTS;
            let begun = Instant::now();
            for chunk in 1..=EVENTS {
                emitter.emit(emission(&emitter));
                if chunk.is_multiple_of(100) {
                    tokio::task::yield_now().await;
                }
            }
            while emitter.stats().handled < round * u64::from(EVENTS) * listeners as u64 {
                tokio::task::yield_now().await;
            }
            dispatching.push((begun.elapsed() / EVENTS).saturating_sub(made));
            making.push(made);
        }
        if listeners == 1 {
            print("making an event of a row (its clone, id, time and key)", median(making));
        }
        print(&format!("dispatch to {listeners} async listener(s)"), median(dispatching));
        assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
    });
}

fn emission(emitter: &Emitter) -> Option<emitter_diesel::Emission> {
    emitter.event::<User>(UserEvent::Created(Created::new(row())), Scope::BOTH)
}

/// The specification's JSON, both ways, rows included.
fn wire(rounds: usize) {
    const EVENTS: u32 = 2_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let emitter = runtime.block_on(Emitter::builder().start()).unwrap();
    let limits = WireLimits::default();
    let row = row();
    let encode = || {
        let content = Content::Row { row: envelope::encode_row(&row).unwrap(), before: None };
        let outgoing = Outgoing {
            model: "user",
            key_columns: &["id"],
            operation: Operation::Create,
            keys: &[Key::Int(7)],
            content: &content,
            columns: User::COLUMNS,
            set: None,
            time: Timestamp::now(),
            id: EventId::now(),
            origin: emitter.origin(),
            sequence: 42,
            version: 1,
            trace: None,
            idempotency_key: None,
        };
        envelope::encode(&outgoing, &limits).unwrap()
    };
    let bytes = encode();
    let timed = |work: &dyn Fn()| {
        let samples = (0..rounds).map(|_| {
            let begun = Instant::now();
            (0..EVENTS).for_each(|_| work());
            begun.elapsed() / EVENTS
        });
        median(samples.collect())
    };
    print(&format!("encode ({} bytes)", bytes.len()), timed(&|| drop(black_box(encode()))));
    let decode = || {
        let incoming = envelope::decode(black_box(&bytes), &limits).unwrap();
        match incoming.content {
            envelope::IncomingContent::Row { row, .. } => envelope::decode_row::<UserRow>(row).unwrap(),
            envelope::IncomingContent::Rows { .. } => unreachable!("it is a create"),
        }
    };
    print("decode", timed(&|| drop(black_box(decode()))));
    assert!(runtime.block_on(emitter.shutdown(Duration::from_secs(5))).is_clean());
}

/// Inserts into SQLite in memory: plain Diesel beside `.emit()` with one local listener, which
/// runs on another thread.
fn insert(rounds: usize) {
    beside_plain_diesel(
        rounds,
        "insert into SQLite in memory",
        |db| diesel::insert_into(users::table).values(&ALICE).get_result(db).unwrap(),
        |conn| diesel::insert_into(users::table).values(&ALICE).emit().get_result(conn).unwrap(),
    );
}

/// Updates of one row, of which the listener may ask what they set.
fn update(rounds: usize) {
    let set = || (users::status.eq("BLOCKED"), users::name.eq("Alice L."));
    beside_plain_diesel(
        rounds,
        "update in SQLite in memory",
        |db| diesel::update(users::table.find(1)).set(set()).get_result(db).unwrap(),
        |conn| emitter_diesel::update(users::table.find(1)).set(set()).emit().get_result(conn).unwrap(),
    );
}

fn beside_plain_diesel(
    rounds: usize,
    what: &str,
    plain: impl Fn(&mut SqliteConnection) -> User,
    emitting: impl Fn(&mut Bound<'_, SqliteConnection>) -> User,
) {
    const STATEMENTS: u32 = 500;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let emitter = runtime.block_on(Emitter::builder().start()).unwrap();
    let _stays = emitter.on::<UserEvent>().run(|event: Event<UserEvent>| async move {
        black_box(event.id());
    });
    let mut plain_db = database();
    let mut emitting_db = database();
    let mut plain_times = Vec::new();
    let mut emitting_times = Vec::new();
    let mut ratios = Vec::new();
    for round in 0..rounds * 2 {
        let plain = |db: &mut SqliteConnection| {
            let begun = Instant::now();
            (0..STATEMENTS).for_each(|_| drop(black_box(plain(db))));
            begun.elapsed() / STATEMENTS
        };
        let emitting = |db: &mut SqliteConnection| {
            let conn = &mut emitter.bind(db).unwrap();
            let begun = Instant::now();
            (0..STATEMENTS).for_each(|_| drop(black_box(emitting(conn))));
            begun.elapsed() / STATEMENTS
        };
        // Whoever comes second finds warmer caches: take turns.
        let (plain, emitting) = if round % 2 == 0 {
            (plain(&mut plain_db), emitting(&mut emitting_db))
        } else {
            let emitting = emitting(&mut emitting_db);
            (plain(&mut plain_db), emitting)
        };
        plain_times.push(plain);
        emitting_times.push(emitting);
        ratios.push(emitting.as_secs_f64() / plain.as_secs_f64());
    }
    print(&format!("{what}, plain Diesel"), median(plain_times));
    print(&format!("{what}, with .emit()"), median(emitting_times));
    ratios.sort_by(f64::total_cmp);
    println!("{:<56} {:>12.3}", "  ratio", ratios[ratios.len() / 2]);
    assert!(runtime.block_on(emitter.shutdown(Duration::from_secs(5))).is_clean());
    assert_eq!(emitter.stats().handled, u64::from(STATEMENTS) * rounds as u64 * 2);
}

fn database() -> SqliteConnection {
    let mut conn = SqliteConnection::establish(":memory:").unwrap();
    diesel::sql_query(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL, status TEXT NOT NULL, \
         password_hash TEXT NOT NULL)",
    )
    .execute(&mut conn)
    .unwrap();
    diesel::insert_into(users::table).values(&ALICE).execute(&mut conn).unwrap();
    conn
}

fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

fn print(what: &str, time: Duration) {
    println!("{what:<56} {:>9} ns", time.as_nanos());
}
