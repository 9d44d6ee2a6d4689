//! What it costs a write where its event waits: in memory (`.emit()`), in an outbox after the commit
//! (`.queued()`), in an outbox with the commit (`.durable()`).
//!
//! `cargo bench -p emitter-tests --features servers --bench persistence [-- sqlite|postgres]`
//!
//! Sixteen clients, each with a connection of its own, insert as fast as the database lets them, in turns: bare
//! Diesel, and each of the others. A ratio is the median of the rounds' ratios of a turn's rate to that of the
//! bare one of its round. A turn ends when its last insert is done, and once more when all is written that was
//! queued meanwhile: the second rate is what lasts. Before the next one begins, everything has
//! been written and relayed, or cleared away. Both waits of an outbox are measured, with its relay in this process
//! and with none: then others relay, on another machine. A live mosquitto takes what is published.
//!
//! Both databases wait for the disk at every commit: PostgreSQL with `fsync = on` and `synchronous_commit = on`,
//! SQLite in WAL mode with `synchronous = FULL`. SQLite has one writer at a time: there the clients share one
//! connection, as by a pool of that size, for the sleeps of its busy handler would be all that is measured else.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::ConnectionResult;
use emitter_diesel::outbox::Outbox;
use emitter_diesel::tables::{Database, Names, Tables};
use emitter_diesel::{Bind, Bound, Emit, Emits, Emitter};
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

const CLIENTS: usize = 16;

/// What is written. (A macro, for its type depends on the database.)
macro_rules! insert {
    () => {
        diesel::insert_into(users::table).values(&ALICE)
    };
}

struct Ways<C: Connection> {
    bare: fn(&mut C),
    emit: fn(&mut Bound<'_, C>),
    queued: fn(&mut Bound<'_, C>),
    durable: fn(&mut Bound<'_, C>),
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wants = |name: &str| {
        let named = ["sqlite", "postgres"].iter().any(|known| arguments.iter().any(|word| word == known));
        !named || arguments.iter().any(|word| word == name)
    };
    // `cargo test --benches` runs this too: then little is enough to see that it works.
    let full = arguments.iter().any(|argument| argument == "--bench");
    let (rounds, inserts) = if full { (15, 100) } else { (1, 3) };
    let broker = Mosquitto::start();
    if wants("sqlite") {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users");
        let connect = move || {
            let mut conn = SqliteConnection::establish(file.to_str().unwrap_or_default())?;
            let settings =
                "PRAGMA busy_timeout = 60000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL";
            conn.batch_execute(settings).map_err(ConnectionError::CouldntSetupConfiguration)?;
            Ok(conn)
        };
        let ways = Ways {
            bare: |db| drop(insert!().get_result::<User>(db).unwrap()),
            emit: |conn| drop(insert!().emit::<User>().get_result(conn).unwrap()),
            queued: |conn| drop(insert!().emit::<User>().queued().get_result(conn).unwrap()),
            durable: |conn| drop(insert!().emit::<User>().durable().get_result(conn).unwrap()),
        };
        compare("SQLite in a file", "INTEGER PRIMARY KEY", &broker, connect, &ways, (1, rounds, inserts));
    }
    if wants("postgres") {
        let server = Postgres::start_with_fsync();
        let url = server.url();
        let connect = move || PgConnection::establish(&url);
        let ways = Ways {
            bare: |db| drop(insert!().get_result::<User>(db).unwrap()),
            emit: |conn| drop(insert!().emit::<User>().get_result(conn).unwrap()),
            queued: |conn| drop(insert!().emit::<User>().queued().get_result(conn).unwrap()),
            durable: |conn| drop(insert!().emit::<User>().durable().get_result(conn).unwrap()),
        };
        compare("PostgreSQL", "SERIAL PRIMARY KEY", &broker, connect, &ways, (CLIENTS, rounds, inserts));
    }
}

/// Who emits, and how.
type Way<'e, C> = (&'e Emitter, fn(&mut Bound<'_, C>));

/// What is measured, and what of it.
struct Measured {
    name: &'static str,
    rates: Vec<f64>,
    ratios: Vec<f64>,
    /// Until all is written.
    lasting: Vec<f64>,
    /// The longest that an event waited in memory, in each turn.
    waited: Vec<f64>,
}

fn compare<C, F>(
    name: &str,
    id: &str,
    broker: &Mosquitto,
    connect: F,
    ways: &Ways<C>,
    (connections, rounds, inserts): (usize, usize, u32),
) where
    C: Database + Connection<Backend: 'static> + SimpleConnection + Send + 'static,
    F: Fn() -> ConnectionResult<C> + Clone + Send + Sync + 'static,
{
    let mut db = connect().unwrap();
    db.batch_execute(&format!(
        "CREATE TABLE users (id {id}, name TEXT NOT NULL, email TEXT NOT NULL, status TEXT NOT NULL, \
         password_hash TEXT NOT NULL, logins INTEGER NOT NULL DEFAULT 0)"
    ))
    .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let start = |node: &str, outbox: Option<Outbox>| {
        let builder = Emitter::builder().service("bench").node(node).mqtt(broker.url().as_str());
        let builder = match outbox {
            Some(outbox) => builder.with(outbox),
            None => builder,
        };
        let emitter = runtime.block_on(builder.start()).unwrap();
        runtime.block_on(emitter.connected(Duration::from_secs(10))).unwrap();
        emitter
    };
    let tables =
        |prefix: &str| Tables::new(connect.clone()).names(Names::with_prefix(prefix).unwrap()).migrate();
    let buffered = start("buffered", None);
    let alone = start("alone", Some(Outbox::new(tables("elsewhere_")).without_relay()));
    let relaying = start("relaying", Some(Outbox::new(tables("here_"))));
    let mut all: Vec<(Measured, Option<Way<'_, C>>)> = [
        ("bare", None),
        (".emit()", Some((&buffered, ways.emit))),
        (".queued(), relayed elsewhere", Some((&alone, ways.queued))),
        (".durable(), relayed elsewhere", Some((&alone, ways.durable))),
        (".queued(), relayed here", Some((&relaying, ways.queued))),
        (".durable(), relayed here", Some((&relaying, ways.durable))),
    ]
    .into_iter()
    .map(|(name, way)| {
        (Measured { name, rates: vec![], ratios: vec![], lasting: vec![], waited: vec![] }, way)
    })
    .collect();
    let clients: Vec<Mutex<C>> = (0..connections).map(|_| Mutex::new(connect().unwrap())).collect();
    for round in 0..=rounds {
        for (measured, way) in &mut all {
            let (rate, lasting, waited) = match way {
                None => turn(&clients, inserts, None, |db| (ways.bare)(db)),
                Some((emitter, write)) => turn(&clients, inserts, Some(emitter), |db| {
                    write(&mut emitter.bind(db).unwrap());
                }),
            };
            // The first round warms up.
            if round > 0 {
                measured.rates.push(rate);
                measured.lasting.push(lasting);
                measured.waited.push(waited);
            }
            settle(&mut db, [&buffered, &alone, &relaying]);
        }
    }
    let bare = all[0].0.rates.clone();
    println!("\n{name}, {CLIENTS} clients, {rounds} rounds of {} inserts", CLIENTS * inserts as usize);
    println!(
        "{:<32} {:>10} {:>7} {:>16} {:>14} {:>16}",
        "", "rate", "ratio", "of the rounds", "until written", "waited at most"
    );
    for (Measured { name, rates, mut ratios, lasting, waited }, _) in all {
        ratios.extend(rates.iter().zip(&bare).map(|(rate, bare)| rate / bare));
        ratios.sort_by(f64::total_cmp);
        let lasting = lasting.iter().zip(&bare).map(|(rate, bare)| rate / bare).collect();
        let range = format!("{:.2}–{:.2}", ratios[0], ratios[ratios.len() - 1]);
        println!(
            "{name:<32} {:>8.0}/s {:>7.3} {range:>16} {:>14.3} {:>13.0} ms",
            median(rates),
            median(ratios),
            median(lasting),
            median(waited)
        );
    }
    for emitter in [buffered, alone, relaying] {
        assert!(runtime.block_on(emitter.shutdown(Duration::from_secs(20))).is_clean());
    }
}

/// The rate of a turn, that until all of it is written, and how long an event waited in memory at most, in milliseconds.
fn turn<C: Send>(
    connections: &[Mutex<C>],
    inserts: u32,
    emitter: Option<&Emitter>,
    write: impl Fn(&mut C) + Sync,
) -> (f64, f64, f64) {
    let ended = AtomicBool::new(false);
    let count = f64::from(inserts) * CLIENTS as f64;
    let (write, ended) = (&write, &ended);
    thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let mut longest = Duration::ZERO;
            while !ended.load(Ordering::Relaxed) {
                let oldest =
                    emitter.and_then(Emitter::queue_status).map_or(Duration::ZERO, |queue| queue.oldest);
                longest = longest.max(oldest);
                thread::sleep(Duration::from_millis(2));
            }
            longest.as_secs_f64() * 1000.0
        });
        let begun = Instant::now();
        let client = |number: usize| {
            let connection = &connections[number % connections.len()];
            move || (0..inserts).for_each(|_| write(&mut connection.lock().unwrap()))
        };
        let writers: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(client(number))).collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let rate = count / begun.elapsed().as_secs_f64();
        while emitter.and_then(Emitter::queue_status).is_some_and(|queue| queue.waiting > 0) {
            thread::sleep(Duration::from_micros(200));
        }
        let lasting = count / begun.elapsed().as_secs_f64();
        ended.store(true, Ordering::Relaxed);
        (rate, lasting, watch.join().unwrap())
    })
}

/// Waits until nothing is under way, and clears away what others would relay.
fn settle(db: &mut impl Database, [buffered, alone, relaying]: [&Emitter; 3]) {
    let published = |emitter: &Emitter| emitter.stats().published == emitter.stats().emitted_remote;
    let written = |emitter: &Emitter| emitter.queue_status().is_some_and(|queue| queue.waiting == 0);
    while !(published(buffered) && written(alone) && written(relaying)) {
        thread::sleep(Duration::from_millis(5));
    }
    while !db
        .pairs("SELECT status AS text, id AS number FROM here_outbox LIMIT 1".to_owned())
        .unwrap()
        .is_empty()
    {
        thread::sleep(Duration::from_millis(5));
    }
    db.run("DELETE FROM elsewhere_outbox").unwrap();
    db.run("DELETE FROM here_history").unwrap();
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
