//! Two servers, one database, one broker: who wrote, who heard it, and what nobody heard. Each
//! server has a cache to keep in order, and a search index of its own to feed.
//!
//! Run it with `cargo run -p quickstart`. Nothing has to be installed: SQLite is compiled in, and
//! the broker runs inside this process. In a real application each server is a process of its
//! own, and the broker is mosquitto, or any other.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::error::Error;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use embedded_broker::EmbeddedBroker;
use emitter_diesel::{Bind, Emit, Emits, Emitter, Event, Source, State, listener};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

diesel::table! {
    users {
        id -> Integer,
        name -> Text,
        status -> Text,
        password_hash -> Text,
    }
}

/// An ordinary Diesel model. `Emits` makes its changes events; the hash never leaves this struct.
#[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(model = "user", create, update, delete)]
struct User {
    id: i32,
    name: String,
    status: String,
    #[emits(skip)]
    password_hash: String,
}

/// On every server, wherever the user was changed.
#[listener(model = "user", allow_remote)]
async fn forget(event: Event<UserEvent>, server: State<Server>) {
    let what = match &*event {
        UserEvent::Created(created) => format!("{} was created", created.row.name),
        UserEvent::Updated(updated) => format!("{} is {} now", updated.after.name, updated.after.status),
        UserEvent::Deleted(deleted) => format!("{} was deleted", deleted.row.name),
    };
    let whence = match event.source() {
        Source::Local => "written here".to_owned(),
        Source::Remote => {
            event.origin().map_or("from another program".to_owned(), |origin| format!("from {}", origin.node))
        }
    };
    server.says(&format!("forgets user {} in its cache: {what} ({whence})", event.key()));
}

/// On the other servers only, when a user was updated: the server that wrote has done it already.
#[listener(model = "user", remote_only)]
async fn index(event: Event<UserUpdated>, server: State<Server>) {
    server.says(&format!("puts user {} into its search index: {:?}", event.key(), event.after));
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = EmbeddedBroker::start().await?;
    let (said, mut heard) = mpsc::unbounded_channel();
    let one = server("server-1", &broker, &said).await?;
    let two = server("server-2", &broker, &said).await?;
    let mut db_of_one = database()?;
    let mut db_of_two = database()?;
    db_of_one.batch_execute(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL, password_hash TEXT NOT NULL)",
    )?;
    println!("Two servers share a database and a broker at {}.\n", broker.url());

    println!("server-1 inserts alice, with .emit():");
    let conn = &mut one.bind(&mut db_of_one)?;
    let values = (users::name.eq("alice"), users::status.eq("NEW"), users::password_hash.eq("$argon2id$…"));
    let alice: User = diesel::insert_into(users::table).values(values).emit().get_result(conn)?;
    tell(2, &mut heard).await?;

    println!(
        "server-2 updates alice, in a transaction that commits (her hash is in no event: the model skips it):"
    );
    two.bind(&mut db_of_two)?.transaction(|conn| {
        let change = emitter_diesel::update(&alice).set(users::status.eq("ACTIVE"));
        change.emit::<User>().get_result(conn)
    })?;
    tell(3, &mut heard).await?;

    println!("server-1 deletes alice, in a transaction that rolls back:");
    let rolled_back: QueryResult<()> = conn.transaction(|conn| {
        emitter_diesel::delete(&alice).emit::<User>().get_result(conn)?;
        Err(diesel::result::Error::RollbackTransaction)
    });
    assert!(rolled_back.is_err());
    println!("    nobody hears of it: it never happened\n");

    println!("server-1 inserts bob, without .emit():");
    let values = (users::name.eq("bob"), users::status.eq("NEW"), users::password_hash.eq("$argon2id$…"));
    diesel::insert_into(users::table).values(values).execute(conn)?;
    println!("    nobody hears of it: it was not asked to\n");

    println!("server-1 deletes alice after all:");
    emitter_diesel::delete(&alice).emit::<User>().get_result(conn)?;
    tell(2, &mut heard).await?;

    println!("In the end:");
    for server in [&one, &two] {
        let report = server.shutdown(Duration::from_secs(5)).await;
        let stats = server.stats();
        println!(
            "    {} sent {} event(s), got {} from the broker, and dropped {} of them: its own, echoed",
            server.origin().node,
            stats.published,
            stats.received,
            stats.echoes
        );
        if !report.is_clean() {
            return Err(format!("{} left work undone: {report:?}", server.origin().node).into());
        }
    }
    broker.stop().await;
    match heard.try_recv() {
        Err(_) => Ok(()),
        Ok(line) => Err(format!("somebody heard what nobody should: {line}").into()),
    }
}

/// Starts a node. This, and the listeners above, is all that an application writes.
async fn server(
    name: &'static str,
    broker: &EmbeddedBroker,
    said: &mpsc::UnboundedSender<String>,
) -> Result<Emitter, Box<dyn Error>> {
    let emitter = Emitter::builder()
        .service("quickstart")
        .node(name)
        .mqtt(broker.url())
        .state(Server { name, said: said.clone() })
        .require("forget")
        .start()
        .await?;
    // An application need not wait; this story should not begin before both are listening.
    emitter.connected(Duration::from_secs(10)).await?;
    Ok(emitter)
}

fn database() -> ConnectionResult<SqliteConnection> {
    SqliteConnection::establish("file:quickstart?mode=memory&cache=shared")
}

/// What listeners share: where they say what they do.
struct Server {
    name: &'static str,
    said: mpsc::UnboundedSender<String>,
}

impl Server {
    fn says(&self, line: &str) {
        // At the very end nobody reads any more.
        let _ = self.said.send(format!("    {} {line}", self.name));
    }
}

/// Prints what the next `lines` calls of listeners say, in the same order each time.
async fn tell(lines: usize, heard: &mut mpsc::UnboundedReceiver<String>) -> Result<(), Box<dyn Error>> {
    let mut all = Vec::new();
    while all.len() < lines {
        all.extend(timeout(Duration::from_secs(10), heard.recv()).await?);
    }
    all.sort();
    println!("{}\n", all.join("\n"));
    Ok(())
}
