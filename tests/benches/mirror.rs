//! How many events a second a mirror writes down.
//!
//! `cargo bench -p emitter-tests --features servers --bench mirror [-- sqlite|postgres]`
//!
//! Events of 749 bytes, each its own, are published by bare rumqttc at QoS 1, over a live mosquitto, and a turn ends when the
//! last is in the table. Beside it, in turns: a subscriber of bare rumqttc, which hears the same messages,
//! acknowledges them, and does nothing else; and the database alone, which is told by one connection to copy as
//! many rows of the mirror into another table with the same indexes, 1,000 in a transaction.
//!
//! Beside rates stands the processor time that an event took, which other work on the machine changes less.
#![allow(missing_docs, reason = "it is a program")]

use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use emitter_core::transport::memory::{LOG_BOUND, MemoryBroker};
use emitter_core::{Emits, Emitter};
use emitter_diesel::mirror::{self, Mirror};
use emitter_diesel::tables::{Database, Dialect};
use emitter_tests::servers::{Mosquitto, Postgres};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event as Notice, EventLoop, MqttOptions};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use self::databases::{Asked, Server, Spent, Sqlite, median};

mod databases;

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Sample {
    id: i64,
    padding: String,
}

const TOPIC: &str = "prisma/events/sample/create";

fn main() {
    let asked = Asked::new();
    let databases = ["sqlite", "postgres"];
    if asked.wants("sqlite", &databases) {
        compare::<Sqlite>(&asked);
    }
    if asked.wants("postgres", &databases) {
        compare::<Postgres>(&asked);
    }
}

fn compare<D: Server>(asked: &Asked) {
    let (turns, count) = asked.size.pick([(1, 200), (3, 20_000), (7, 100_000)]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // As many unacknowledged deliveries as a mirror takes.
    let broker =
        Mosquitto::builder().line("max_inflight_messages 1000").line("max_queued_messages 0").start();
    let server = D::start();
    let builder = Emitter::builder().service("audit").node("a").mqtt(broker.url().as_str());
    let audit = runtime.block_on(builder.with(Mirror::new(server.tables())).start()).unwrap();
    let stats = || mirror::stats(&audit).unwrap();
    while !stats().hears {
        thread::sleep(Duration::from_millis(5));
    }
    let (mut mirrored, mut heard, mut copied) = (vec![], vec![], vec![]);
    let mut spent = Spent::default();
    let before = stats();
    for _ in 0..turns {
        let events = events(&runtime, count);
        let wanted = stats().recorded + count as u64;
        let (begun, earlier) = (Instant::now(), Spent::now());
        runtime.block_on(publish(broker.port(), TOPIC, &events));
        while stats().recorded < wanted {
            thread::sleep(Duration::from_micros(500));
        }
        mirrored.push(count as f64 / begun.elapsed().as_secs_f64());
        spent = Spent::now().since(earlier);
        heard.push(count as f64 / bare(&runtime, broker.port(), &events).as_secs_f64());
        copied.push(count as f64 / copy(&mut server.connect(), count).as_secs_f64());
    }
    let batches = stats().batches - before.batches;
    let ratio = |of: &[f64]| median(mirrored.iter().zip(of).map(|(mirror, bare)| mirror / bare).collect());
    println!(
        "{:<12} {:>8.0} events/s, {:.0} in a batch; rumqttc alone {:>8.0}/s: ratio {:.2}; the database alone {:>8.0}/s: \
         ratio {:.2}; each: {}",
        D::NAME,
        median(mirrored.clone()),
        (turns * count) as f64 / batches as f64,
        median(heard.clone()),
        ratio(&heard),
        median(copied.clone()),
        ratio(&copied),
        spent.each(count)
    );
    assert!(runtime.block_on(audit.shutdown(Duration::from_secs(20))).is_clean());
}

/// Events as a node publishes them.
fn events(runtime: &Runtime, count: usize) -> Vec<bytes::Bytes> {
    // A broker in memory remembers no more messages.
    let parts = (0..count).step_by(LOG_BOUND).map(|first| {
        let part = first..count.min(first + LOG_BOUND);
        let broker = MemoryBroker::new();
        runtime.block_on(async {
            let shop = Emitter::builder().service("shop").node("a").transport(broker.connect("a"));
            let shop = shop.start().await.unwrap();
            for id in part {
                let padding = "x".repeat(196);
                shop.publish(SampleCreated::new(Sample { id: i64::try_from(id).unwrap(), padding }));
            }
            assert!(shop.shutdown(Duration::from_secs(60)).await.is_clean());
        });
        broker.published().into_iter().map(|message| message.payload)
    });
    let events: Vec<bytes::Bytes> = parts.flatten().collect();
    assert_eq!(events.len(), count);
    events
}

fn client(name: &str, port: u16) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(name, "127.0.0.1", port);
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(5);
    options.set_network_options(network).set_outgoing_inflight_upper_limit(1_000);
    AsyncClient::new(options, 200)
}

/// Publishes them all, and returns when the last is acknowledged.
async fn publish(port: u16, topic: &'static str, events: &[bytes::Bytes]) {
    let (client, mut notices) = client("publisher", port);
    let events = events.to_vec();
    let count = events.len();
    let publishing = tokio::spawn(async move {
        for event in events {
            client.publish(topic, QoS::AtLeastOnce, false, event).await.unwrap();
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
}

/// How long it takes until a subscriber of rumqttc alone has heard them all, on a topic of its own.
fn bare(runtime: &Runtime, port: u16, events: &[bytes::Bytes]) -> Duration {
    const TOPIC: &str = "bare/sample/create";
    let (ready, subscribed) = oneshot::channel();
    let count = events.len();
    let hearing = runtime.spawn(async move {
        let (client, mut notices) = client("subscriber", port);
        client.subscribe("bare/#", QoS::AtLeastOnce).await.unwrap();
        let (mut ready, mut heard) = (Some(ready), 0);
        while heard < count {
            match notices.poll().await.unwrap() {
                Notice::Incoming(Packet::SubAck(_)) => ready.take().unwrap().send(()).unwrap(),
                Notice::Incoming(Packet::Publish(_)) => heard += 1,
                _ => {}
            }
        }
    });
    runtime.block_on(async {
        subscribed.await.unwrap();
        let begun = Instant::now();
        publish(port, TOPIC, events).await;
        hearing.await.unwrap();
        begun.elapsed()
    })
}

/// How long it takes to write as many rows into a table like the mirror's.
fn copy<C: Database + SimpleConnection>(db: &mut C, count: usize) -> Duration {
    let (like, begin) = match db.dialect() {
        Dialect::Sqlite => {
            let indexes =
                ["topic", "trace_id", "created_at", "kind", "event_id, incarnation", "model, record_id"];
            let indexes = indexes.iter().enumerate();
            let indexes = indexes.map(|(number, on)| format!("CREATE INDEX copy_{number} ON copy ({on});"));
            let table = "CREATE TABLE copy AS SELECT * FROM emitter_events_mirror WHERE 0;".to_owned();
            (table + &indexes.collect::<String>(), "BEGIN IMMEDIATE")
        }
        _ => ("CREATE TABLE copy (LIKE emitter_events_mirror INCLUDING ALL)".to_owned(), "BEGIN"),
    };
    db.batch_execute(&like).unwrap();
    let begun = Instant::now();
    for from in (0..count).step_by(1_000) {
        let first = format!("(SELECT MIN(id) FROM emitter_events_mirror) + {from}");
        db.batch_execute(&format!(
            "{begin}; INSERT INTO copy SELECT * FROM emitter_events_mirror WHERE id >= {first} AND id < {first} + 1000; COMMIT"
        ))
        .unwrap();
    }
    let took = begun.elapsed();
    db.batch_execute("DROP TABLE copy").unwrap();
    took
}
