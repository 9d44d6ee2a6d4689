//! What `.emit()` costs a write, beside plain Diesel, in one run.
//!
//! `cargo bench -p emitter-tests --features servers --bench writes [-- sqlite|postgres|NAME]`
//!
//! What is compared is measured in turns, round by round, so that a busy machine slows both; the
//! ratio is the median of the rounds' ratios. One listener of this node hears every event.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::{Bind, Bound, Emit, Emits, Emitter, Event, update};
use emitter_tests::servers::Postgres;
use serde::{Deserialize, Serialize};

diesel::table! {
    users (id) {
        id -> Integer,
        name -> Text,
        email -> Text,
        status -> Text,
        password_hash -> Text,
        logins -> Integer,
    }
}

/// A row of a common size.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(create, create_many, update, update_many)]
struct User {
    id: i32,
    name: String,
    email: String,
    status: String,
    #[emits(skip)]
    password_hash: String,
    logins: i32,
}

#[derive(Insertable, Clone, Copy)]
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

/// The comparisons, for one kind of connection.
macro_rules! comparisons {
    ($name:literal, $connect:expr, $id:literal, $wanted:expr, $rounds:expr) => {{
        let measured = Measured {
            name: $name,
            connect: $connect,
            id: $id,
            rounds: $rounds,
            wanted: $wanted,
            before: false,
        };
        let list = vec![ALICE; 100];
        let set = || (users::status.eq("BLOCKED"), users::logins.eq(users::logins + 1));
        let thousand = || users::table.filter(users::id.le(1_000));
        measured.compare(
            "insert",
            400,
            |db| drop(diesel::insert_into(users::table).values(&ALICE).get_result::<User>(db).unwrap()),
            |conn| {
                drop(
                    diesel::insert_into(users::table).values(&ALICE).emit::<User>().get_result(conn).unwrap(),
                )
            },
        );
        measured.compare(
            "insert of 100 rows",
            4,
            |db| drop(diesel::insert_into(users::table).values(&list).get_results::<User>(db).unwrap()),
            |conn| {
                drop(
                    diesel::insert_into(users::table).values(&list).emit::<User>().get_results(conn).unwrap(),
                )
            },
        );
        measured.compare(
            "update, after",
            400,
            |db| drop(diesel::update(users::table.find(1)).set(set()).get_result::<User>(db).unwrap()),
            |conn| drop(update(users::table.find(1)).set(set()).emit::<User>().get_result(conn).unwrap()),
        );
        measured.compare(
            "update of 1,000 rows, after",
            1,
            |db| drop(diesel::update(thousand()).set(set()).get_results::<User>(db).unwrap()),
            |conn| drop(update(thousand()).set(set()).emit::<User>().get_results(conn).unwrap()),
        );
        let measured = Measured { before: true, ..measured };
        measured.compare(
            "update, before and after",
            400,
            |db| drop(diesel::update(users::table.find(1)).set(set()).get_result::<User>(db).unwrap()),
            |conn| drop(update(users::table.find(1)).set(set()).emit::<User>().get_result(conn).unwrap()),
        );
        measured.compare(
            "update of 1,000 rows, before and after",
            1,
            |db| drop(diesel::update(thousand()).set(set()).get_results::<User>(db).unwrap()),
            |conn| drop(update(thousand()).set(set()).emit::<User>().get_results(conn).unwrap()),
        );
    }};
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` runs this too: then one round is enough to see that it works.
    let rounds = if arguments.iter().any(|argument| argument == "--bench") { 100 } else { 1 };
    let wanted: Vec<String> = arguments.into_iter().filter(|argument| !argument.starts_with('-')).collect();
    println!("{:<52} {:>10} {:>10} {:>7} {:>12}", "", "plain", "emitting", "ratio", "allocations");
    comparisons!(
        "SQLite in memory",
        || SqliteConnection::establish(":memory:").unwrap(),
        "INTEGER PRIMARY KEY",
        &wanted,
        rounds
    );
    let folder = tempfile::tempdir().unwrap();
    let file = std::cell::Cell::new(0);
    comparisons!(
        "SQLite in a file",
        || {
            let name = folder.path().join(file.replace(file.get() + 1).to_string());
            let mut conn = SqliteConnection::establish(name.to_str().unwrap()).unwrap();
            conn.batch_execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL").unwrap();
            conn
        },
        "INTEGER PRIMARY KEY",
        &wanted,
        rounds
    );
    let server = Postgres::start();
    comparisons!(
        "PostgreSQL",
        || PgConnection::establish(&server.url()).unwrap(),
        "SERIAL PRIMARY KEY",
        &wanted,
        rounds
    );
}

struct Measured<'w, F> {
    name: &'static str,
    connect: F,
    /// The type of the key's column.
    id: &'static str,
    rounds: usize,
    wanted: &'w [String],
    /// Whether the listener wants the row before.
    before: bool,
}

impl<C, F> Measured<'_, F>
where
    C: Connection<Backend: 'static>,
    F: Fn() -> C,
{
    fn compare(
        &self,
        what: &str,
        statements: u32,
        plain: impl Fn(&mut C),
        emitting: impl Fn(&mut Bound<'_, C>),
    ) {
        let Self { name, rounds, .. } = self;
        let title = format!("{name}: {what}");
        if !self.wanted.is_empty() && !self.wanted.iter().any(|wanted| title.to_lowercase().contains(wanted))
        {
            return;
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let emitter = runtime.block_on(Emitter::builder().start()).unwrap();
        let listener = emitter.on::<UserEvent>();
        let listener = if self.before { listener.before() } else { listener };
        let _stays = listener.run(|event: Event<UserEvent>| async move {
            black_box(event.id());
        });
        let (mut plain_db, mut emitting_db) = (self.database("plain"), self.database("emitting"));
        let (mut plain_times, mut emitting_times, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds * 2 {
            let plain = |db: &mut C| {
                let begun = Instant::now();
                (0..statements).for_each(|_| plain(db));
                begun.elapsed() / statements
            };
            let emitting = |db: &mut C| {
                let conn = &mut emitter.bind(db).unwrap();
                let begun = Instant::now();
                (0..statements).for_each(|_| emitting(conn));
                begun.elapsed() / statements
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
        ratios.sort_by(f64::total_cmp);
        // Of the writer's thread.
        let count = |work: &mut dyn FnMut()| allocation_counter::measure(work).count_total;
        let plain = count(&mut || plain(&mut plain_db));
        let emitting = {
            let conn = &mut emitter.bind(&mut emitting_db).unwrap();
            count(&mut || emitting(conn))
        };
        println!(
            "{title:<52} {:>7.1} µs {:>7.1} µs {:>7.3} {:>5} → {:>4}",
            median(plain_times).as_nanos() as f64 / 1e3,
            median(emitting_times).as_nanos() as f64 / 1e3,
            ratios[ratios.len() / 2],
            plain,
            emitting
        );
        assert!(runtime.block_on(emitter.shutdown(Duration::from_secs(5))).is_clean());
        assert_eq!(emitter.stats().handled, u64::from(statements) * *rounds as u64 * 2 + 1);
    }

    /// A database with a table that is its own, of 1,000 rows.
    fn database(&self, schema: &str) -> C {
        let mut conn = (self.connect)();
        if self.name == "PostgreSQL" {
            conn.batch_execute(&format!(
                "DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}; SET search_path TO {schema}"
            ))
            .unwrap();
        }
        conn.batch_execute(&format!(
            "CREATE TABLE users (id {}, name TEXT NOT NULL, email TEXT NOT NULL, status TEXT NOT NULL, \
             password_hash TEXT NOT NULL, logins INTEGER NOT NULL DEFAULT 0)",
            self.id
        ))
        .unwrap();
        let row =
            format!("('{}', '{}', '{}', '{}')", ALICE.name, ALICE.email, ALICE.status, ALICE.password_hash);
        let rows = vec![row; 1_000].join(", ");
        conn.batch_execute(&format!("INSERT INTO users (name, email, status, password_hash) VALUES {rows}"))
            .unwrap();
        conn
    }
}

fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort_unstable();
    samples[samples.len() / 2]
}
