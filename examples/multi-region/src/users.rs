//! The users, and what each region does to hold a copy of all of them. This is what an application writes.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::error::Error;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::ConnectionResult;
use emitter_diesel::catch_up::{CatchUp, Since};
use emitter_diesel::outbox::Outbox;
use emitter_diesel::replica::Replica;
use emitter_diesel::tables::Tables;
use emitter_diesel::{Bound, Emit, Emits, Emitter, Event, State, delete, listener, update};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;

diesel::table! {
    users {
        id -> Text,
        name -> Text,
        version -> BigInt,
    }
}

/// A user, whom every region may write. No two regions give the same id, and each write raises the version.
#[derive(
    Debug, Clone, PartialEq, Queryable, Selectable, Identifiable, Insertable, Serialize, Deserialize, Emits,
)]
#[emits(create, update, delete, durable)] // durable: written down with the row, and so never lost
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: i64,
}

/// Only what other regions did: this one knows what it did itself. It has nothing to do with the copy, and would be where a
/// cache is cleared.
#[listener(model = "user", remote_only)]
async fn hear(event: Event<UserEvent>, heard: State<UnboundedSender<String>>, region: State<Region>) {
    let from = event.origin().map_or("nobody", |origin| &origin.node);
    // At the very end nobody reads any more.
    let _ = heard.send(format!("{} hears from {from}: {} {}", region.name, event.operation(), event.key()));
}

pub(crate) fn create(conn: &mut Bound<'_, SqliteConnection>, id: &str, name: &str) -> QueryResult<User> {
    let user = User { id: id.to_owned(), name: name.to_owned(), version: 1 };
    diesel::insert_into(users::table).values(&user).emit().get_result(conn)
}

pub(crate) fn rename(conn: &mut Bound<'_, SqliteConnection>, id: &str, name: &str) -> QueryResult<User> {
    let changes = (users::name.eq(name), users::version.eq(users::version + 1));
    update(users::table.find(id)).set(changes).emit().get_result(conn)
}

pub(crate) fn remove(conn: &mut Bound<'_, SqliteConnection>, id: &str) -> QueryResult<User> {
    delete(users::table.find(id)).emit().get_result(conn)
}

/// A region, and where its database is.
#[derive(Debug, Clone)]
pub(crate) struct Region {
    pub(crate) name: &'static str,
    pub(crate) database: String,
}

impl Region {
    /// The same in all regions but for name and database.
    pub(crate) async fn start(
        &self,
        broker: &str,
        heard: UnboundedSender<String>,
    ) -> Result<Emitter, Box<dyn Error>> {
        self.connect()?.batch_execute(
            "CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY, name TEXT NOT NULL, version BIGINT NOT NULL)",
        )?;
        let (region, tables) = (self.clone(), self.tables().migrate());
        let copies = Replica::<User, _>::new(tables.clone(), move || region.connect().map(Box::new));
        let emitter = Emitter::builder()
            .service("users")
            .node(self.name) // the same after a restart: by this name it goes on where it was
            .topic_prefix("global/events")
            .mqtt(broker)
            .with(Outbox::new(tables.clone()))
            .with(copies.version(users::version, |user| user.version))
            .with(CatchUp::new(tables).since(Since::Beginning)) // a new region begins with what there was
            .state(self.clone())
            .state(heard);
        Ok(emitter.start().await?)
    }

    /// Where outbox, positions and the notes of the copies are: in the database of the users.
    pub(crate) fn tables(&self) -> Tables {
        let region = self.clone();
        Tables::new(move || region.connect())
    }

    /// On a server: a pool.
    pub(crate) fn connect(&self) -> ConnectionResult<SqliteConnection> {
        let mut connection = SqliteConnection::establish(&self.database)?;
        let set_up = connection.batch_execute("PRAGMA busy_timeout = 20000; PRAGMA journal_mode = WAL");
        set_up.map_err(ConnectionError::CouldntSetupConfiguration)?;
        Ok(connection)
    }
}
