//! How fast a relay takes rows out of an outbox, and how soon they are heard.
//!
//! `cargo bench -p emitter-tests --features servers --bench relay [-- sqlite|postgres|null|mosquitto|latency|claims]`
//!
//! - `null`: an outbox that is full is relayed to a transport that confirms at once, until the last row is in the
//!   history. Beside it, in turns, the database alone: one connection that reads rows and moves them, 500 in a
//!   transaction, and does nothing else.
//! - `mosquitto`: the same to a live broker, at QoS 1. Beside it, in turns, bare rumqttc, which publishes as many
//!   messages of the same bytes with the same window.
//! - `latency`: 500 transactions a second with one durable event each; from the moment before the COMMIT until a
//!   listener of another node is called, over mosquitto.
//! - `claims`: 2,000 durable events a second, for ten minutes in full; how long the relay's statement takes that
//!   reads what is due, in the first tenth of the time and in the last.
//!
//! Beside rates stands the processor time that a row took, which other work on the machine changes less.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_core::topic::TopicFilter;
use emitter_core::transport::{
    Confirmation, Confirmed, Delivery, Message, PublishError, Transport, TransportStatus, Unconfirmed,
};
use emitter_diesel::outbox::Outbox;
use emitter_diesel::tables::{Database, Tables};
use emitter_diesel::{Bind, Bound, Emit, Emits, Emitter, Event};
use emitter_tests::servers::{Mosquitto, Postgres};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event as Notice, MqttOptions};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use self::databases::{Asked, Log, Server, Size, Spent, Sqlite, Timed, at, median};

mod databases;

diesel::table! {
    samples {
        id -> BigInt,
        padding -> Text,
    }
}

/// A row of a common size.
#[derive(Debug, Clone, Queryable, Insertable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(create, durable)]
struct Sample {
    id: i64,
    padding: String,
}

/// A database, and what is written into it. (A macro, for the statement's type depends on the database.)
trait Written: Server {
    fn insert(conn: &mut Bound<'_, Self::Conn>, sample: &Sample) -> QueryResult<Sample>;
}

macro_rules! written {
    ($($server:ty),*) => { $(
        impl Written for $server {
            fn insert(conn: &mut Bound<'_, Self::Conn>, sample: &Sample) -> QueryResult<Sample> {
                diesel::insert_into(samples::table).values(sample).emit::<Sample>().get_result(conn)
            }
        }
    )* };
}

written!(Sqlite, Postgres);

const ALL: [&str; 4] = ["null", "mosquitto", "latency", "claims"];

const TABLE: &str = "CREATE TABLE samples (id BIGINT PRIMARY KEY, padding TEXT NOT NULL)";

fn main() {
    let asked = Asked::new();
    for_database::<Sqlite>("sqlite", &asked);
    for_database::<Postgres>("postgres", &asked);
}

fn for_database<D: Written>(word: &str, asked: &Asked) {
    if !asked.wants(word, &["sqlite", "postgres"]) {
        return;
    }
    println!("\n{}", D::NAME);
    let wants = |what| asked.wants(what, &ALL);
    if wants("null") {
        to_nowhere::<D>(asked.size);
    }
    if wants("mosquitto") {
        to_mosquitto::<D>(asked.size);
    }
    if wants("latency") {
        latency::<D>(asked.size);
    }
    if wants("claims") {
        claims::<D>(asked.size);
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Confirms at once, and keeps nothing but the last message.
#[derive(Default)]
struct Nowhere {
    published: AtomicU64,
    first: Mutex<Option<(Instant, Message)>>,
}

impl Nowhere {
    fn begun(&self) -> Option<(Instant, Message)> {
        self.first.lock().unwrap().clone()
    }
}

struct ToNowhere(Arc<Nowhere>);

impl Transport for ToNowhere {
    fn publish(&self, message: Message) -> Result<Confirmation, PublishError> {
        if self.0.published.fetch_add(1, Ordering::Release) == 0 {
            *self.0.first.lock().unwrap() = Some((Instant::now(), message));
        }
        let (settler, confirmation) = Confirmation::new();
        settler.settle(Ok(Confirmed { had_subscribers: true }));
        Ok(confirmation)
    }

    fn subscribe(&self, _: TopicFilter) {}

    fn unsubscribe(&self, _: &TopicFilter) {}

    fn next(&self) -> BoxFuture<'_, Option<Delivery>> {
        std::future::pending().boxed()
    }

    fn status(&self) -> TransportStatus {
        let mut status = TransportStatus::default();
        (status.publisher.connected, status.subscriber.connected) = (true, true);
        status
    }

    fn close(&self, _: Duration) -> BoxFuture<'_, Unconfirmed> {
        std::future::ready(Unconfirmed::default()).boxed()
    }
}

/// A database with the tables, and nothing in them.
fn started<D: Server>() -> D {
    let server = D::start();
    server.connect().batch_execute(TABLE).unwrap();
    server
}

/// A node that writes what others relay.
fn writer<D: Server>(runtime: &Runtime, server: &D) -> Emitter {
    let outbox = Outbox::new(server.tables()).without_relay();
    runtime.block_on(Emitter::builder().service("bench").node("writer").with(outbox).start()).unwrap()
}

/// Writes so many rows into the outbox, each of its own key.
fn fill<D: Written>(runtime: &Runtime, server: &D, rows: i64) {
    let (writer, mut db) = (writer(runtime, server), server.connect());
    let mut conn = writer.bind(&mut db).unwrap();
    for first in (0..rows).step_by(500) {
        insert::<D>(&mut conn, first..rows.min(first + 500), |_| ());
    }
    assert!(runtime.block_on(writer.shutdown(Duration::from_secs(20))).is_clean());
}

/// One transaction. `committing` is told each id before the COMMIT.
fn insert<D: Written>(conn: &mut Bound<'_, D::Conn>, ids: std::ops::Range<i64>, committing: impl Fn(i64)) {
    conn.transaction(|conn| {
        for id in ids.clone() {
            // With what JSON adds, an event of 749 bytes.
            D::insert(conn, &Sample { id, padding: "x".repeat(196) })?;
        }
        ids.for_each(committing);
        Ok::<_, diesel::result::Error>(())
    })
    .unwrap();
}

fn is_empty(db: &mut impl Database) -> bool {
    db.pairs("SELECT status AS text, id AS number FROM emitter_outbox LIMIT 1".to_owned()).unwrap().is_empty()
}

/// Until nothing is left in it.
fn until_empty(db: &mut impl Database) {
    while !is_empty(db) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// What a relay did in a turn.
struct Turn {
    rate: f64,
    spent: String,
    statements: String,
}

/// Relays what is there, until it is in the history.
fn relay<D: Server>(
    runtime: &Runtime,
    server: &D,
    rows: usize,
    builder: emitter_core::Builder,
    begun: impl Fn(&Emitter) -> Option<Instant>,
) -> Turn {
    let log = Log::default();
    let tables = {
        let (connect, log) = (server.connector(), Arc::clone(&log));
        Tables::new(move || Ok(Timed::new(connect()?, &log)))
    };
    let mut db = server.connect();
    let before = Spent::now();
    let builder = builder.service("bench").node("relay").with(Outbox::new(tables));
    let emitter = runtime.block_on(builder.start()).unwrap();
    let begun = loop {
        if let Some(begun) = begun(&emitter) {
            break begun;
        }
        thread::sleep(Duration::from_micros(100));
    };
    while emitter.stats().published < rows as u64 {
        thread::sleep(Duration::from_micros(500));
    }
    until_empty(&mut db);
    let took = begun.elapsed();
    let spent = Spent::now().since(before).each(rows);
    assert!(runtime.block_on(emitter.shutdown(Duration::from_secs(20))).is_clean());
    let mut kinds = HashMap::<&str, (u32, Duration)>::new();
    for (_, took, _, kind) in &*log.lock().unwrap() {
        let kind = kinds.entry(kind).or_default();
        *kind = (kind.0 + 1, kind.1 + *took);
    }
    let reading = kinds.remove("queued").unwrap_or_default();
    let settling = kinds.remove("run").unwrap_or_default();
    let each = |(_, took): (u32, Duration)| took.as_secs_f64() * 1e6 / rows as f64;
    let statements = format!(
        "{} reads ({:.1} µs a row), {} settlings ({:.1} µs)",
        reading.0,
        each(reading),
        settling.0,
        each(settling)
    );
    Turn { rate: rows as f64 / took.as_secs_f64(), spent, statements }
}

fn to_nowhere<D: Written>(size: Size) {
    let (turns, rows) = size.pick([(1, 500), (3, 20_000), (7, 100_000)]);
    let (runtime, server) = (runtime(), started::<D>());
    let (mut bare, mut relayed, mut ratios, mut last) = (vec![], vec![], vec![], None);
    for _ in 0..turns {
        fill(&runtime, &server, rows as i64);
        bare.push(moved(&mut server.connect(), rows));
        clear(&server);
        fill(&runtime, &server, rows as i64);
        let nowhere = Arc::new(Nowhere::default());
        let builder = Emitter::builder().transport(ToNowhere(Arc::clone(&nowhere)));
        let turn = relay(&runtime, &server, rows, builder, |_| nowhere.begun().map(|(begun, _)| begun));
        relayed.push(turn.rate);
        ratios.push(turn.rate / bare[bare.len() - 1]);
        last = Some(turn);
        clear(&server);
    }
    told("to a transport that confirms at once", "the database alone", (bare, relayed, ratios), last);
}

fn told(
    what: &str,
    beside: &str,
    (bare, relayed, ratios): (Vec<f64>, Vec<f64>, Vec<f64>),
    last: Option<Turn>,
) {
    println!(
        "{what:<40} {:>8.0} rows/s; {beside} {:>8.0}/s; ratio {:.2}",
        median(relayed),
        median(bare),
        median(ratios)
    );
    if let Some(Turn { spent, statements, .. }) = last {
        println!("{:<40} a row: {spent}; {statements}", "");
    }
}

fn clear<D: Server>(server: &D) {
    let mut db = server.connect();
    db.batch_execute("DELETE FROM emitter_history; DELETE FROM samples").unwrap();
    // As autovacuum does in time.
    db.batch_execute("VACUUM").unwrap();
}

/// Reads all rows and moves them to the history, as fast as one connection can.
fn moved<C: Database + SimpleConnection>(db: &mut C, rows: usize) -> f64 {
    const COLUMNS: &str = "id, event_id, action, model, record_id, payload, status, created_at, operation, topic, qos, \
                           properties, lane, by_model, park, trace_id, idempotency_key";
    const FIRST: &str = "SELECT id FROM emitter_outbox ORDER BY id LIMIT 500";
    let begin = match db.dialect() {
        emitter_diesel::tables::Dialect::Sqlite => "BEGIN IMMEDIATE",
        _ => "BEGIN",
    };
    let begun = Instant::now();
    loop {
        let read =
            "SELECT CAST(payload AS TEXT) AS text, id AS number FROM emitter_outbox ORDER BY id LIMIT 500";
        if db.pairs(read.to_owned()).unwrap().is_empty() {
            return rows as f64 / begun.elapsed().as_secs_f64();
        }
        db.batch_execute(&format!(
            "{begin}; INSERT INTO emitter_history ({COLUMNS}) SELECT {COLUMNS} FROM emitter_outbox WHERE id IN ({FIRST}); \
             DELETE FROM emitter_outbox WHERE id IN ({FIRST}); COMMIT"
        ))
        .unwrap();
    }
}

fn to_mosquitto<D: Written>(size: Size) {
    let (turns, rows) = size.pick([(1, 200), (3, 20_000), (7, 100_000)]);
    let (runtime, server, broker) = (runtime(), started::<D>(), Mosquitto::start());
    // What the messages are like.
    fill(&runtime, &server, 1);
    let nowhere = Arc::new(Nowhere::default());
    let builder = Emitter::builder().transport(ToNowhere(Arc::clone(&nowhere)));
    relay(&runtime, &server, 1, builder, |_| nowhere.begun().map(|(begun, _)| begun));
    clear(&server);
    let (_, message) = nowhere.begun().unwrap();
    let (mut bare, mut relayed, mut ratios, mut last) = (vec![], vec![], vec![], None);
    let mut bare_spent = String::new();
    for _ in 0..turns {
        fill(&runtime, &server, rows as i64);
        let before = Spent::now();
        bare.push(runtime.block_on(publish_bare(broker.port(), &message, rows)));
        bare_spent = Spent::now().since(before).each(rows);
        let builder = Emitter::builder().mqtt(broker.url().as_str());
        let first = |emitter: &Emitter| (emitter.stats().published > 0).then(Instant::now);
        let turn = relay(&runtime, &server, rows, builder, first);
        relayed.push(turn.rate);
        ratios.push(turn.rate / bare[bare.len() - 1]);
        last = Some(turn);
        clear(&server);
    }
    told("to mosquitto", "bare rumqttc", (bare, relayed, ratios), last);
    println!("{:<40} bare, a message: {bare_spent}", "");
}

/// The rate at which rumqttc publishes such messages, until the last is acknowledged.
async fn publish_bare(port: u16, message: &Message, count: usize) -> f64 {
    let mut options = MqttOptions::new("bare", "127.0.0.1", port);
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(5);
    options.set_network_options(network).set_outgoing_inflight_upper_limit(100);
    let (client, mut notices) = AsyncClient::new(options, 200);
    let properties = PublishProperties {
        content_type: message.properties.content_type.as_deref().map(str::to_owned),
        user_properties: message
            .properties
            .user
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        ..PublishProperties::default()
    };
    while !matches!(notices.poll().await.unwrap(), Notice::Incoming(Packet::ConnAck(_))) {}
    let (topic, payload) = (message.topic.to_string(), message.payload.clone());
    let begun = Instant::now();
    let publishing = tokio::spawn(async move {
        for _ in 0..count {
            let publish = client.publish_with_properties(
                topic.as_str(),
                QoS::AtLeastOnce,
                false,
                payload.clone(),
                properties.clone(),
            );
            publish.await.unwrap();
        }
        client
    });
    let mut acknowledged = 0;
    while acknowledged < count {
        if let Notice::Incoming(Packet::PubAck(_)) = notices.poll().await.unwrap() {
            acknowledged += 1;
        }
    }
    drop(publishing.await);
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Writes durable events until the time is over, so many in a transaction each time that the pace has passed;
/// `committing` is told the id of each before the COMMIT. Returns how many they were.
fn write<D: Written>(
    server: &D,
    emitter: &Emitter,
    (pace, each): (Duration, i64),
    during: Duration,
    committing: impl Fn(i64),
) -> i64 {
    let mut db = server.connect();
    let mut conn = emitter.bind(&mut db).unwrap();
    let begun = Instant::now();
    let (mut id, mut due) = (0, begun);
    while begun.elapsed() < during {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        due += pace;
        insert::<D>(&mut conn, id..id + each, &committing);
        id += each;
    }
    id
}

fn latency<D: Written>(size: Size) {
    let during = size.pick([Duration::from_millis(200), Duration::from_secs(10), Duration::from_secs(60)]);
    let (runtime, server, broker) = (runtime(), started::<D>(), Mosquitto::start());
    let begun = Instant::now();
    let micros = move || u64::try_from(begun.elapsed().as_micros()).unwrap();
    let committed: Arc<Vec<AtomicU64>> = Arc::new((0..40_000).map(|_| AtomicU64::new(0)).collect());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let node = |name: &str| Emitter::builder().service("bench").node(name).mqtt(broker.url().as_str());
    let hearer = runtime.block_on(node("hearer").start()).unwrap();
    let (when, latencies) = (Arc::clone(&committed), Arc::clone(&heard));
    hearer.on::<SampleCreated>().remote_only().run(move |event: Event<SampleCreated>| {
        let committed = when[usize::try_from(event.row.id).unwrap()].load(Ordering::Acquire);
        latencies.lock().unwrap().push((micros() - committed) as f64 / 1_000.0);
        std::future::ready(())
    });
    let writer = runtime.block_on(node("writer").with(Outbox::new(server.tables())).start()).unwrap();
    for emitter in [&hearer, &writer] {
        runtime.block_on(emitter.connected(Duration::from_secs(10))).unwrap();
    }
    let commits = |id| committed[usize::try_from(id).unwrap()].store(micros(), Ordering::Release);
    let count = write(&server, &writer, (Duration::from_millis(2), 1), during, commits);
    while heard.lock().unwrap().len() < usize::try_from(count).unwrap() {
        thread::sleep(Duration::from_millis(1));
    }
    let mut heard = heard.lock().unwrap().clone();
    // The first ones wait for the connections.
    let mut heard = heard.split_off(heard.len() / 10);
    println!(
        "{:<40} p50 {:.2} ms, p99 {:.2} ms, at most {:.1} ms; {:.0} events/s",
        "before the COMMIT to a remote listener",
        at(&mut heard, 0.5),
        at(&mut heard, 0.99),
        at(&mut heard, 1.0),
        count as f64 / during.as_secs_f64()
    );
    for emitter in [writer, hearer] {
        assert!(runtime.block_on(emitter.shutdown(Duration::from_secs(20))).is_clean());
    }
}

fn claims<D: Written>(size: Size) {
    let during = size.pick([Duration::from_secs(1), Duration::from_secs(20), Duration::from_secs(600)]);
    let (runtime, server, log) = (runtime(), started::<D>(), Log::default());
    let tables = {
        let (connect, log) = (server.connector(), Arc::clone(&log));
        Tables::new(move || Ok(Timed::new(connect()?, &log))).migrate()
    };
    let builder = Emitter::builder().service("bench").node("relay");
    let builder = builder.transport(ToNowhere(Arc::default())).with(Outbox::new(tables));
    let emitter = runtime.block_on(builder.start()).unwrap();
    let begun = Instant::now();
    let count = write(&server, &emitter, (Duration::from_millis(5), 10), during, |_| ());
    until_empty(&mut server.connect());
    let log = std::mem::take(&mut *log.lock().unwrap());
    let tenth = |number: u32| {
        let (from, to) = (begun + during * number / 10, begun + during * (number + 1) / 10);
        let claims = log
            .iter()
            .filter(|(when, _, rows, what)| *what == "queued" && *rows > 0 && (from..to).contains(when));
        median(claims.map(|(_, took, ..)| took.as_secs_f64() * 1_000.0).collect())
    };
    let (first, last) = (tenth(0), tenth(9));
    println!(
        "{:<40} {first:.2} ms in the first tenth of {} s, {last:.2} ms in the last: ratio {:.2}; {:.0} events/s",
        "a claim",
        during.as_secs(),
        last / first,
        count as f64 / during.as_secs_f64()
    );
    assert!(runtime.block_on(emitter.shutdown(Duration::from_secs(20))).is_clean());
}
