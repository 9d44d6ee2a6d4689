//! What emitting over MQTT leaves of the rate at which plain Diesel writes: a live mosquitto, and a
//! listener in another process.
//!
//! `cargo bench -p emitter-tests --features servers --bench published`
//!
//! One connection inserts as fast as the database lets it, in turns with and without `.emit()`. The
//! time of a turn ends when its last insert is done; before the next one begins, everything has been
//! heard by the other process. How much was still under way at the end of a turn is shown, for a rate
//! that the broker does not sustain would show there.
//!
//! PostgreSQL waits for the disk at every commit, as it does by default; the SQLite file is in WAL mode
//! with `synchronous = FULL`, its default.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::{Bind, Bound, Emit, Emits, Emitter, Event};
use emitter_tests::servers::{Mosquitto, Postgres};
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
#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(create)]
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

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, url] = &arguments[..]
        && role == "listen"
    {
        return listen(url);
    }
    // `cargo test --benches` runs this too: then little is enough to see that it works.
    let full = arguments.iter().any(|argument| argument == "--bench");
    let (turns, inserts) = if full { (40, 2_000) } else { (2, 50) };
    let broker = Mosquitto::start();
    println!("{:<20} {:>10} {:>10} {:>7} {:>22}", "", "bare", "emitting", "ratio", "under way at the end");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    let mut sqlite = SqliteConnection::establish(file.to_str().unwrap()).unwrap();
    sqlite.batch_execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL").unwrap();
    table(&mut sqlite, "INTEGER PRIMARY KEY");
    compare(
        "SQLite in a file",
        &broker,
        &mut sqlite,
        (turns, inserts),
        |db| drop(diesel::insert_into(users::table).values(&ALICE).get_result::<User>(db).unwrap()),
        |conn| {
            drop(diesel::insert_into(users::table).values(&ALICE).emit::<User>().get_result(conn).unwrap());
        },
    );

    let server = Postgres::start_with_fsync();
    let mut postgres = PgConnection::establish(&server.url()).unwrap();
    table(&mut postgres, "SERIAL PRIMARY KEY");
    compare(
        "PostgreSQL",
        &broker,
        &mut postgres,
        (turns, inserts),
        |db| drop(diesel::insert_into(users::table).values(&ALICE).get_result::<User>(db).unwrap()),
        |conn| {
            drop(diesel::insert_into(users::table).values(&ALICE).emit::<User>().get_result(conn).unwrap());
        },
    );
}

fn table(conn: &mut impl SimpleConnection, id: &str) {
    conn.batch_execute(&format!(
        "CREATE TABLE users (id {id}, name TEXT NOT NULL, email TEXT NOT NULL, status TEXT NOT NULL, \
         password_hash TEXT NOT NULL, logins INTEGER NOT NULL DEFAULT 0)"
    ))
    .unwrap();
}

fn compare<C: Connection<Backend: 'static>>(
    name: &str,
    broker: &Mosquitto,
    db: &mut C,
    (turns, inserts): (usize, u32),
    plain: impl Fn(&mut C),
    emitting: impl Fn(&mut Bound<'_, C>),
) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let builder = Emitter::builder().service("bench").node("writer").mqtt(broker.url().as_str());
    let emitter = runtime.block_on(builder.start()).unwrap();
    runtime.block_on(emitter.connected(Duration::from_secs(10))).unwrap();
    let mut other = Listener::start(&broker.url());
    let (mut bare_rates, mut emitting_rates, mut ratios, mut under_way) = (vec![], vec![], vec![], vec![]);
    let mut emitted = 0;
    for turn in 0..turns {
        let rate = |begun: Instant| f64::from(inserts) / begun.elapsed().as_secs_f64();
        let mut bare = |db: &mut C| {
            let begun = Instant::now();
            (0..inserts).for_each(|_| plain(db));
            bare_rates.push(rate(begun));
        };
        let mut told = |db: &mut C| {
            let conn = &mut emitter.bind(db).unwrap();
            let begun = Instant::now();
            (0..inserts).for_each(|_| emitting(conn));
            emitting_rates.push(rate(begun));
            emitted += u64::from(inserts);
            under_way.push(emitted - emitter.stats().published);
            other.wait_for(emitted);
        };
        if turn % 2 == 0 {
            bare(db);
            told(db);
        } else {
            told(db);
            bare(db);
        }
        ratios.push(emitting_rates[turn] / bare_rates[turn]);
    }
    under_way.sort_unstable();
    println!(
        "{name:<20} {:>8.0}/s {:>8.0}/s {:>7.3} {:>22}",
        median(bare_rates),
        median(emitting_rates),
        median(ratios),
        format!("{} of {inserts}", under_way[under_way.len() / 2]),
    );
    assert!(runtime.block_on(emitter.shutdown(Duration::from_secs(5))).is_clean());
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// The other process: this program again.
struct Listener {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Listener {
    fn start(url: &str) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut process = Command::new(program)
            .args(["listen", url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let mut listener = Self { process, orders, answers };
        listener.answer();
        listener
    }

    fn answer(&mut self) {
        let mut line = String::new();
        assert!(self.answers.read_line(&mut line).unwrap() > 0, "the listener has ended");
    }

    /// Returns when it has heard that many events.
    fn wait_for(&mut self, events: u64) {
        writeln!(self.orders, "{events}").unwrap();
        self.answer();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn listen(url: &str) {
    let builder = Emitter::builder().service("bench").node("listener").mqtt(url);
    let emitter = builder.start().await.unwrap();
    emitter.on::<UserCreated>().remote_only().run(|_: Event<UserCreated>| std::future::ready(()));
    emitter.connected(Duration::from_secs(10)).await.unwrap();
    println!("ready");
    let (orders, mut wanted) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let count: u64 = line.unwrap().parse().unwrap();
            orders.send(count).unwrap();
        }
    });
    while let Some(count) = wanted.recv().await {
        while emitter.stats().handled < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        println!("heard");
    }
}
