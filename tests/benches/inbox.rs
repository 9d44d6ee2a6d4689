//! How many events an inbox checks in a second: new ones, each of which is marked in a transaction of its own, and
//! such as were marked before.
//!
//! `cargo bench -p emitter-tests --features servers --bench inbox [-- sqlite|postgres]`
//!
//! A listener that does nothing is handed events, one at a time and sixteen at a time, as a replay hands them. Beside
//! it, in turns, as many threads as calls, each with a connection of its own: a transaction with one insert of
//! the same size, prepared, and nothing else. For what was marked before, that insert finds its row, and the
//! transaction is rolled back.
//!
//! Beside rates stands the processor time that an event took, which other work on the machine changes less.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_core::transport::memory::MemoryBroker;
use emitter_diesel::inbox::{Inbox, InboxConnection, InboxTx};
use emitter_diesel::{Emits, Emitter, Event, listener};
use emitter_tests::servers::Postgres;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use self::databases::{Asked, Server, Spent, Sqlite, median};

mod databases;

diesel::table! {
    marks (event_id, listener, service) {
        event_id -> Text,
        listener -> Text,
        service -> Text,
    }
}

const TABLE: &str = "CREATE TABLE marks (event_id TEXT NOT NULL, listener TEXT NOT NULL, service TEXT NOT NULL, \
                     PRIMARY KEY (event_id, listener, service))";

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Order {
    id: i64,
    cents: i64,
}

/// A database with an inbox. (A macro, for listeners and statements depend on its type.)
trait WithInbox: Server {
    const ALONE: &'static str;
    const SIXTEEN: &'static str;

    fn inbox(&self) -> Inbox<Self::Conn>
    where
        Self::Conn: InboxConnection;

    fn stats(emitter: &Emitter) -> (u64, u64);

    fn mark(conn: &mut Self::Conn, event: &str) -> QueryResult<usize>;
}

macro_rules! with_inbox {
    ($($module:ident $server:ty, $connection:ty, $alone:literal, $sixteen:literal;)*) => { $(
        mod $module {
            use super::*;

            #[listener(model = "order", name = $alone, allow_remote, concurrency = 1)]
            fn alone(_: Event<OrderCreated>, _: InboxTx<'_, $connection>) {}

            #[listener(model = "order", name = $sixteen, allow_remote, concurrency = 16)]
            fn sixteen(_: Event<OrderCreated>, _: InboxTx<'_, $connection>) {}
        }

        impl WithInbox for $server {
            const ALONE: &'static str = $alone;
            const SIXTEEN: &'static str = $sixteen;

            fn inbox(&self) -> Inbox<$connection> {
                let (connect, free) = (self.connector(), Arc::new(Mutex::new(Vec::new())));
                Inbox::new(self.tables(), move || {
                    let kept = free.lock().unwrap().pop();
                    let conn = kept.map_or_else(&connect, Ok)?;
                    Ok::<_, ConnectionError>(Pooled { conn: Some(conn), free: Arc::clone(&free) })
                })
            }

            fn stats(emitter: &Emitter) -> (u64, u64) {
                let stats = emitter.state::<Inbox<$connection>>().unwrap().stats();
                (stats.claimed, stats.already_done)
            }

            fn mark(conn: &mut $connection, event: &str) -> QueryResult<usize> {
                let mark = (marks::event_id.eq(event), marks::listener.eq($sixteen), marks::service.eq("bench"));
                diesel::insert_into(marks::table).values(mark).on_conflict_do_nothing().execute(conn)
            }
        }
    )* };
}

with_inbox! {
    sqlite Sqlite, SqliteConnection, "sqlite_alone", "sqlite_sixteen";
    postgres Postgres, PgConnection, "postgres_alone", "postgres_sixteen";
}

/// A connection that comes back for the next call, as from any pool.
struct Pooled<C> {
    conn: Option<C>,
    free: Arc<Mutex<Vec<C>>>,
}

impl<C> Deref for Pooled<C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.conn.as_ref().unwrap()
    }
}

impl<C> DerefMut for Pooled<C> {
    fn deref_mut(&mut self) -> &mut C {
        self.conn.as_mut().unwrap()
    }
}

impl<C> Drop for Pooled<C> {
    fn drop(&mut self) {
        self.free.lock().unwrap().extend(self.conn.take());
    }
}

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

/// Rates of turns: bare ones, those of the inbox, and the ratios.
#[derive(Default)]
struct Rates {
    bare: Vec<f64>,
    inbox: Vec<f64>,
    ratios: Vec<f64>,
    spent: [String; 2],
}

fn compare<D: WithInbox<Conn: InboxConnection>>(asked: &Asked) {
    let (turns, events) = asked.size.pick([(1, 50), (3, 2_000), (7, 20_000)]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = D::start();
    server.connect().batch_execute(TABLE).unwrap();
    println!("\n{}", D::NAME);
    for (listener, at_once) in [(D::ALONE, 1), (D::SIXTEEN, 16)] {
        let (mut new, mut again) = (Rates::default(), Rates::default());
        for _ in 0..turns {
            let orders = orders(&runtime, events);
            let node = runtime.block_on(start(&server, listener));
            let names: Vec<String> =
                (0..events).map(|event| format!("{event:032}{}", fastrand::u32(..))).collect();
            for rates in [&mut new, &mut again] {
                let (bare, spent) = measured(events, || bare(&server, at_once, &names));
                rates.spent[0] = spent;
                let (inbox, spent) = measured(events, || replay::<D>(&node, &orders));
                rates.spent[1] = spent;
                rates.ratios.push(inbox / bare);
                rates.bare.push(bare);
                rates.inbox.push(inbox);
            }
            assert_eq!(D::stats(&node), (events as u64, events as u64));
            assert!(runtime.block_on(node.shutdown(Duration::from_secs(20))).is_clean());
        }
        for (what, Rates { bare, inbox, ratios, spent }) in [("new", new), ("marked before", again)] {
            println!(
                "{:<30} {:>8.0}/s; bare {:>8.0}/s; ratio {:.2}; each: {}; bare: {}",
                format!("{what}, {at_once} at a time"),
                median(inbox),
                median(bare),
                median(ratios),
                spent[1],
                spent[0]
            );
        }
    }
}

/// The rate, and the processor time that each took.
fn measured(events: usize, run: impl FnOnce()) -> (f64, String) {
    let (begun, before) = (Instant::now(), Spent::now());
    run();
    (events as f64 / begun.elapsed().as_secs_f64(), Spent::now().since(before).each(events))
}

/// Events that another service has published.
fn orders(runtime: &Runtime, events: usize) -> Vec<Vec<u8>> {
    let broker = MemoryBroker::new();
    runtime.block_on(async {
        let desk = Emitter::builder().service("desk").transport(broker.connect("desk"));
        let desk = desk.select_listeners(|_| false).start().await.unwrap();
        for id in 0..events {
            desk.publish(OrderCreated::new(Order { id: i64::try_from(id).unwrap(), cents: 100 }));
        }
        assert!(desk.shutdown(Duration::from_secs(20)).await.is_clean());
    });
    broker.published().into_iter().map(|message| message.payload.to_vec()).collect()
}

async fn start<D: WithInbox<Conn: InboxConnection>>(server: &D, listener: &'static str) -> Emitter {
    let builder =
        Emitter::builder().service("bench").node("a").select_listeners(move |info| info.name == listener);
    let builder = builder.transport(MemoryBroker::new().connect("a"));
    builder.with(server.inbox()).start().await.unwrap()
}

fn replay<D: WithInbox<Conn: InboxConnection>>(node: &Emitter, orders: &[Vec<u8>]) {
    let done = || {
        let (claimed, already_done) = D::stats(node);
        claimed + already_done
    };
    let wanted = done() + orders.len() as u64;
    for order in orders {
        node.replay(order).unwrap();
    }
    while done() < wanted {
        thread::sleep(Duration::from_micros(200));
    }
}

/// Marks each of them, as many at a time.
fn bare<D: WithInbox>(server: &D, at_once: usize, names: &[String]) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..at_once {
            let mut conn = server.connect();
            let next = &next;
            scope.spawn(move || {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let marked = conn.transaction(|conn| match D::mark(conn, name)? {
                        0 => Err(diesel::result::Error::RollbackTransaction),
                        _ => Ok(()),
                    });
                    assert!(matches!(marked, Ok(()) | Err(diesel::result::Error::RollbackTransaction)));
                }
            });
        }
    });
}
