//! Four servers of a shop, each with a cache of prices. One of them changes a price, and all four forget what they
//! knew of it.
//!
//! Run it with `cargo run -p cache-invalidation`; nothing has to be installed.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use embedded_broker::EmbeddedBroker;
use emitter_diesel::{Bind, Emit, Emits, Emitter, Event, StartError, State, listener, update};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};

diesel::table! { products { id -> Integer, name -> Text, cents -> Integer, } }

#[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(update, update_many, delete)]
struct Product {
    id: i32,
    name: String,
    cents: i32,
}

/// On every server, wherever a product was changed: what its cache knows of it is wrong now.
#[listener(model = "product", allow_remote)]
async fn invalidate(event: Event<ProductEvent>, cache: State<Cache>, log: State<Log>) {
    for key in event.keys() {
        cache.entries().remove(&format!("product:{key}"));
        log.line(&format!("drops product:{key}, source {}", event.source()));
    }
}

/// All that makes a program one of the servers.
async fn start(node: &'static str, broker: &str, log: Log) -> Result<Emitter, StartError> {
    Emitter::builder()
        .service("shop")
        .node(node)
        .mqtt(broker)
        .state(Cache::default())
        .state(log)
        .require("invalidate")
        .start()
        .await
}

/// Prices by `product:{id}`.
#[derive(Default)]
struct Cache(Mutex<HashMap<String, i32>>);

impl Cache {
    fn entries(&self) -> MutexGuard<'_, HashMap<String, i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Out of the cache, or out of the database and into the cache.
    fn price(&self, db: &mut SqliteConnection, id: i32) -> QueryResult<i32> {
        let entry = format!("product:{id}");
        if let Some(cents) = self.entries().get(&entry) {
            return Ok(*cents);
        }
        let cents = products::table.find(id).select(products::cents).get_result(db)?;
        self.entries().insert(entry, cents);
        Ok(cents)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = EmbeddedBroker::start().await?;
    let (lines, mut told) = unbounded_channel();
    let mut servers = Vec::new();
    for name in ["server-1", "server-2", "server-3", "server-4"] {
        let server = start(name, &broker.url(), Log { name, lines: lines.clone() }).await?;
        // No price is changed before all are listening.
        server.connected(Duration::from_secs(10)).await?;
        servers.push(server);
    }
    let mut db = SqliteConnection::establish(":memory:")?;
    db.batch_execute(
        "CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT NOT NULL, cents INTEGER NOT NULL);
         INSERT INTO products VALUES (1, 'teapot', 12900), (2, 'cup', 1500);",
    )?;

    println!("Four servers look up two prices, and remember them:");
    answer(&servers, &mut db)?;

    println!("server-1 changes a price, with .emit():");
    let reduced = update(products::table.find(1)).set(products::cents.eq(9999));
    reduced.emit::<Product>().get_result(&mut servers[0].bind(&mut db)?)?;
    tell(4, &mut told).await?;

    println!("server-3 changes all prices, by one statement, which is one event:");
    let raised = update(products::table).set(products::cents.eq(products::cents + 100));
    raised.emit::<Product>().execute(&mut servers[2].bind(&mut db)?)?;
    tell(8, &mut told).await?;

    println!("They are asked again, and look it up:");
    answer(&servers, &mut db)?;

    println!("Two events, and each server was called for each of them once:");
    for server in &servers {
        // What a server publishes comes back to it, for it listens to the same topics as the others.
        let own = u64::from(["server-1", "server-3"].contains(&&*server.origin().node));
        let back = async {
            while server.stats().echoes < own {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), back).await?;
        let (report, stats) = (server.shutdown(Duration::from_secs(5)).await, server.stats());
        let name = &server.origin().node;
        println!("    {name}: {} calls, {} event(s) of its own dropped", stats.handled, stats.echoes);
        if !report.is_clean() || (stats.handled, stats.echoes) != (2, own) {
            return Err(format!("{name} left work undone, or did it twice: {report:?} {stats:?}").into());
        }
    }
    broker.stop().await;
    Ok(())
}

/// Asks each server for both prices, and fails where one tells what the database does not.
fn answer(servers: &[Emitter], db: &mut SqliteConnection) -> Result<(), Box<dyn Error>> {
    for server in servers {
        let cache = server.state::<Cache>().ok_or("a server without a cache")?;
        let known: Vec<i32> = [1, 2].into_iter().map(|id| cache.price(db, id)).collect::<QueryResult<_>>()?;
        let price = |cents: i32| format!("{}.{:02}", cents / 100, cents % 100);
        println!("    {}: teapot {}, cup {}", server.origin().node, price(known[0]), price(known[1]));
        if known != products::table.select(products::cents).order(products::id).load::<i32>(db)? {
            return Err("that is an old price".into());
        }
    }
    println!();
    Ok(())
}

/// Where the listeners of a server say what they do.
struct Log {
    name: &'static str,
    lines: UnboundedSender<String>,
}

impl Log {
    fn line(&self, what: &str) {
        // At the very end nobody reads any more.
        let _ = self.lines.send(format!("    {} {what}", self.name));
    }
}

/// Prints the next `count` lines, in the same order each time, and fails if they do not come.
async fn tell(count: usize, told: &mut UnboundedReceiver<String>) -> Result<(), Box<dyn Error>> {
    let mut lines = Vec::new();
    while lines.len() < count {
        lines.extend(timeout(Duration::from_secs(10), told.recv()).await?);
    }
    lines.sort();
    println!("{}\n", lines.join("\n"));
    match told.try_recv() {
        Ok(line) => Err(format!("one line too many: {line}").into()),
        Err(_) => Ok(()),
    }
}
