//! What it costs a write where its event waits: in memory (`.emit()`), in an outbox after the commit
//! (`.queued()`), in an outbox with the commit (`.durable()`).
//!
//! `cargo bench -p emitter-tests --features servers --bench persistence [-- sqlite|postgres]`
//!
//! Clients insert as fast as the database lets them, in turns: bare Diesel, and each of the others. A ratio is the
//! median of the rounds' ratios of a turn's rate to that of the bare one of its round. First transactions are compared
//! with transactions: BEGIN, one insert, COMMIT, on either side. Then single statements with single
//! statements: there bare Diesel sends one, which commits itself, and a durable event makes a transaction of it, of
//! three messages to the database.
//!
//! A turn ends when its last insert is done, and once more when all is written that was queued meanwhile: the second
//! rate is what lasts. Before the next one begins, everything has been written and relayed, or cleared away. Both
//! waits of an outbox are measured, with its relay in this process and with none: then others relay, on another machine.
//! A live mosquitto takes what is published. Sixteen clients, and one.
//!
//! Both databases wait for the disk at every commit. On SQLite, which has one writer at a time, the clients share one
//! connection. Beside rates stands the processor time of a write, which other work on the machine changes less.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::outbox::Outbox;
use emitter_diesel::tables::{Database, Names};
use emitter_diesel::{Bind, Bound, Emit, Emits, Emitter};
use emitter_tests::servers::{Mosquitto, Postgres};
use serde::{Deserialize, Serialize};

use self::databases::{Asked, Server, Spent, Sqlite, median};

mod databases;

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

/// A database, and how a user is written into it. (A macro, for the statement's type depends on the database.)
trait Written: Server<Conn: Send> {
    fn bare(conn: &mut Self::Conn) -> QueryResult<User>;
    fn emit(conn: &mut Bound<'_, Self::Conn>) -> QueryResult<User>;
    fn queued(conn: &mut Bound<'_, Self::Conn>) -> QueryResult<User>;
    fn durable(conn: &mut Bound<'_, Self::Conn>) -> QueryResult<User>;
}

macro_rules! written {
    ($($server:ty, $connection:ty;)*) => { $(
        impl Written for $server {
            fn bare(conn: &mut $connection) -> QueryResult<User> {
                diesel::insert_into(users::table).values(&ALICE).get_result(conn)
            }

            fn emit(conn: &mut Bound<'_, $connection>) -> QueryResult<User> {
                diesel::insert_into(users::table).values(&ALICE).emit::<User>().get_result(conn)
            }

            fn queued(conn: &mut Bound<'_, $connection>) -> QueryResult<User> {
                diesel::insert_into(users::table).values(&ALICE).emit::<User>().queued().get_result(conn)
            }

            fn durable(conn: &mut Bound<'_, $connection>) -> QueryResult<User> {
                diesel::insert_into(users::table).values(&ALICE).emit::<User>().durable().get_result(conn)
            }
        }
    )* };
}

written! {
    Sqlite, SqliteConnection;
    Postgres, PgConnection;
}

fn main() {
    let asked = Asked::new();
    let broker = Mosquitto::start();
    let databases = ["sqlite", "postgres"];
    for clients in [16, 1] {
        if asked.wants("sqlite", &databases) {
            compare::<Sqlite>(&broker, clients, &asked);
        }
        if asked.wants("postgres", &databases) {
            compare::<Postgres>(&broker, clients, &asked);
        }
    }
}

/// Who emits, and how; nobody, of bare Diesel.
type Way<'e, C> = Option<(&'e Emitter, fn(&mut Bound<'_, C>) -> QueryResult<User>)>;

/// What is measured, and what of it.
#[derive(Default)]
struct Measured {
    name: &'static str,
    /// In a transaction that the client begins.
    in_transaction: bool,
    rates: Vec<f64>,
    /// Until all is written.
    lasting: Vec<f64>,
    /// The longest that an event waited in memory, in each turn.
    waited: Vec<f64>,
    spent: String,
}

fn compare<D: Written>(broker: &Mosquitto, clients: usize, asked: &Asked) {
    // A client alone waits for the disk each time.
    let (rounds, inserts) = asked.size.pick([(1, 3), (3, 800 / clients), (15, 3_200 / clients)]);
    let server = D::start();
    let mut db = server.connect();
    db.batch_execute(&format!(
        "CREATE TABLE users (id {}, name TEXT NOT NULL, email TEXT NOT NULL, status TEXT NOT NULL, \
         password_hash TEXT NOT NULL, logins INTEGER NOT NULL DEFAULT 0)",
        D::KEY
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
    let tables = |prefix: &str| server.tables().names(Names::with_prefix(prefix).unwrap());
    let buffered = start("buffered", None);
    let alone = start("alone", Some(Outbox::new(tables("elsewhere_")).without_relay()));
    let relaying = start("relaying", Some(Outbox::new(tables("here_"))));
    let ways: [(&'static str, bool, Way<'_, D::Conn>); 10] = [
        ("transaction, bare", true, None),
        ("… .emit()", true, Some((&buffered, D::emit))),
        ("… .queued(), relayed elsewhere", true, Some((&alone, D::queued))),
        ("… .durable(), relayed elsewhere", true, Some((&alone, D::durable))),
        ("… .queued(), relayed here", true, Some((&relaying, D::queued))),
        ("… .durable(), relayed here", true, Some((&relaying, D::durable))),
        ("single statement, bare", false, None),
        ("… .emit()", false, Some((&buffered, D::emit))),
        ("… .queued(), relayed elsewhere", false, Some((&alone, D::queued))),
        ("… .durable(), relayed elsewhere", false, Some((&alone, D::durable))),
    ];
    let mut all = ways
        .map(|(name, in_transaction, way)| (Measured { name, in_transaction, ..Measured::default() }, way));
    let connections = if D::ONE_WRITER { 1 } else { clients };
    let connections: Vec<Mutex<D::Conn>> = (0..connections).map(|_| Mutex::new(server.connect())).collect();
    for round in 0..=rounds {
        for (measured, way) in &mut all {
            let in_transaction = measured.in_transaction;
            let before = Spent::now();
            let (rate, lasting, waited) = match way {
                None => turn(&connections, (clients, inserts), None, |db| {
                    if in_transaction { db.transaction(D::bare) } else { D::bare(db) }
                }),
                Some((emitter, write)) => turn(&connections, (clients, inserts), Some(emitter), |db| {
                    let mut conn = emitter.bind(db).unwrap();
                    if in_transaction { conn.transaction(|conn| write(conn)) } else { write(&mut conn) }
                }),
            };
            // The first round warms up.
            if round > 0 {
                measured.spent = Spent::now().since(before).each(clients * inserts);
                measured.rates.push(rate);
                measured.lasting.push(lasting);
                measured.waited.push(waited);
            }
            settle(&mut db, [&buffered, &alone, &relaying]);
        }
    }
    println!(
        "\n{}, {clients} clients, {rounds} rounds of {} inserts\n{:<34} {:>9} {:>6} {:>13} {:>14} {:>15}   processor time of a write",
        D::NAME,
        clients * inserts,
        "",
        "rate",
        "ratio",
        "of the rounds",
        "until written",
        "waited at most"
    );
    let mut bare = Vec::new();
    for (Measured { name, rates, lasting, waited, spent, .. }, way) in all {
        if way.is_none() {
            bare.clone_from(&rates);
        }
        let ratios =
            |rates: &[f64]| rates.iter().zip(&bare).map(|(rate, bare)| rate / bare).collect::<Vec<_>>();
        let mut of_rounds = ratios(&rates);
        of_rounds.sort_by(f64::total_cmp);
        println!(
            "{name:<34} {:>7.0}/s {:>6.2} {:>13} {:>14.2} {:>12.0} ms   {spent}",
            median(rates),
            median(of_rounds.clone()),
            format!("{:.2}–{:.2}", of_rounds[0], of_rounds[of_rounds.len() - 1]),
            median(ratios(&lasting)),
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
    (clients, inserts): (usize, usize),
    emitter: Option<&Emitter>,
    write: impl Fn(&mut C) -> QueryResult<User> + Sync,
) -> (f64, f64, f64) {
    let ended = AtomicBool::new(false);
    let count = (clients * inserts) as f64;
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
            move || (0..inserts).for_each(|_| drop(write(&mut connection.lock().unwrap()).unwrap()))
        };
        let writers: Vec<_> = (0..clients).map(|number| scope.spawn(client(number))).collect();
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
