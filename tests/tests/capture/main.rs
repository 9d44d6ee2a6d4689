//! What other programs write on PostgreSQL, captured by triggers: heard as events, once, and in order.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_core::model::EventBody;
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{Builder, Emitter, Event, HashKey, Redacted, Source};
use emitter_diesel::Emits;
use emitter_diesel::capture::Capture;
use emitter_diesel::outbox::Outbox;
use emitter_diesel::tables::Tables;
use emitter_tests::eventually::eventually;
use emitter_tests::servers::Postgres;
use serde::{Deserialize, Serialize};

mod audit;
mod frozen;
mod kills;
mod kinds;
mod order;
mod strange;
mod tally;
mod told;

diesel::table! {
    people {
        id -> BigInt,
        name -> Text,
        boss -> Nullable<BigInt>,
        email -> Text,
        tax -> Text,
        #[sql_name = "pass word"]
        secret -> Text,
        pin -> Nullable<Integer>,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[diesel(table_name = people)]
#[emits(model = "person", create, create_many, update, upsert, delete, before)]
struct Person {
    id: i64,
    name: String,
    boss: Option<i64>,
    #[emits(hash)]
    email: String,
    #[emits(redact)]
    tax: String,
    #[emits(skip)]
    secret: String,
    #[emits(skip)]
    pin: Option<i32>,
}

const PEOPLE: &str = "CREATE TABLE people (id BIGINT PRIMARY KEY, name TEXT NOT NULL, \
                      boss BIGINT REFERENCES people (id) ON DELETE CASCADE, email TEXT NOT NULL, tax TEXT NOT NULL, \
                      \"pass word\" TEXT NOT NULL, pin INTEGER)";

fn person(id: i64) -> Person {
    Person {
        id,
        name: format!("person-{id}"),
        boss: None,
        email: "someone@example.org".to_owned(),
        tax: "tax-number".to_owned(),
        secret: "hidden-secret".to_owned(),
        pin: Some(4711),
    }
}

/// As somebody at `psql` writes it.
fn inserted(ids: impl IntoIterator<Item = i64>) -> String {
    let rows = ids.into_iter().map(|id| {
        format!("({id}, 'person-{id}', NULL, 'someone@example.org', 'tax-number', 'hidden-secret', 4711)")
    });
    format!("INSERT INTO people VALUES {}", rows.collect::<Vec<_>>().join(", "))
}

const SECOND: Duration = Duration::from_secs(1);

fn connect(server: &Postgres) -> PgConnection {
    PgConnection::establish(&server.url()).unwrap()
}

fn tables(server: &Postgres) -> Tables {
    let url = server.url();
    Tables::new(move || PgConnection::establish(&url)).migrate()
}

fn builder(broker: &MemoryBroker, name: &str) -> Builder {
    let key = HashKey::new(b"0123456789abcdef").unwrap();
    let transport = broker.connect(&format!("shop.{name}"));
    Emitter::builder().service("shop").node(name).hash_key(key).transport(transport)
}

/// A database with people, whose triggers are made by the nodes that begin.
fn with_people() -> Postgres {
    let server = Postgres::start();
    connect(&server).batch_execute(PEOPLE).unwrap();
    server
}

async fn capturing(server: &Postgres, broker: &MemoryBroker, name: &str) -> Emitter {
    let outbox = Outbox::new(tables(server)).capture(Capture::of::<Person>().unwrap());
    builder(broker, name).with(outbox).start().await.unwrap()
}

/// What a node heard, in order.
#[derive(Debug, Clone)]
struct Ear<T>(Arc<Mutex<Vec<T>>>);

impl<T: Clone + Send + 'static> Ear<T> {
    /// Has a node listen to what others write.
    fn on<E: EventBody>(emitter: &Emitter, heard: fn(&Event<E>) -> T) -> Self {
        let ear = Self(Arc::default());
        let kept = ear.clone();
        emitter.on::<E>().allow_remote().run(move |event: Event<E>| {
            kept.0.lock().unwrap().push(heard(&event));
            std::future::ready(())
        });
        ear
    }

    fn heard(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// A node that listens, and writes nothing.
async fn ear<E: EventBody, T: Clone + Send + 'static>(
    broker: &MemoryBroker,
    heard: fn(&Event<E>) -> T,
) -> (Emitter, Ear<T>) {
    let emitter = builder(broker, "ear").start().await.unwrap();
    let ear = Ear::on::<E>(&emitter, heard);
    emitter.connected(10 * SECOND).await.unwrap();
    (emitter, ear)
}

/// `create 7`, and so on.
fn in_short(event: &Event<PersonEvent>) -> String {
    let keys: Vec<String> = event.keys().iter().map(ToString::to_string).collect();
    format!("{} {}", event.operation(), keys.join(" "))
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    count: i64,
}

fn count(conn: &mut PgConnection, what: &str) -> i64 {
    let rows: Vec<Count> =
        diesel::sql_query(format!("SELECT COUNT(*) AS count FROM {what}")).load(conn).unwrap();
    rows[0].count
}

async fn ended(emitters: impl IntoIterator<Item = Emitter>) {
    for emitter in emitters {
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }
}

/// Waits until there are so many.
#[track_caller]
fn until(conn: &mut PgConnection, what: &str, wanted: i64) {
    let begun = std::time::Instant::now();
    tokio::task::block_in_place(|| {
        while count(conn, what) != wanted {
            assert!(begun.elapsed() < 20 * SECOND, "{what}: {} and not {wanted}", count(conn, what));
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}
