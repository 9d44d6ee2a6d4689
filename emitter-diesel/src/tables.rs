//! Where outbox, inbox, dead letters and mirror keep what they keep: the names of their tables, the steps that
//! make them, and connections to them.
//!
//! ```no_run
//! # #[cfg(feature = "sqlite")]
//! # fn tables() -> Result<(), emitter_diesel::tables::BadName> {
//! use diesel::{Connection, SqliteConnection};
//! use emitter_diesel::tables::{Names, Tables};
//!
//! let tables = Tables::new(|| SqliteConnection::establish("shop.db"))
//!     .names(Names::with_prefix("shop_")?)
//!     .migrate();
//! # Ok(())
//! # }
//! ```
//!
//! All of them are made by the same migrations, so that a database has all or none.

use std::collections::HashSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diesel::result::{ConnectionError, ConnectionResult, QueryResult};
use emitter_core::WeakEmitter;
use emitter_core::event::Timestamp;
use tracing::error;

mod database;
mod dialect;
mod doubts;
mod names;
mod schema;
mod session;

pub use self::database::{Database, GivenUpRow, Lane, LedgerRow, LetterRow, Pair, Queued, RequestRow, Seen};
pub use self::dialect::Dialect;
pub(crate) use self::dialect::{PROBE, array, list, list_of};
pub(crate) use self::doubts::journal;
pub use self::names::{BadName, Names};
pub(crate) use self::schema::Found;
pub use self::schema::{LANES, Migration, VERSION};
pub(crate) use self::session::Session;

/// Makes connections of the framework's own.
type Connect = Arc<dyn Fn() -> ConnectionResult<Box<dyn Database>> + Send + Sync>;

/// The framework's tables in a database.
#[derive(Clone)]
#[must_use = "it is given to an outbox or the like: `Outbox::new(tables)`"]
pub struct Tables {
    connect: Connect,
    names: Names,
    lanes: u32,
    migrate: bool,
}

impl Tables {
    /// Tables that are reached by connections of their own, made by `connect`: to the database of the bound
    /// connections. Each of outbox, catch-up, dead letters, mirror and attendant uses one, in a thread of its own.
    ///
    /// Let `connect` bound how long a server is waited for that has vanished without a word, or its threads notice it when the
    /// operating system does, after a quarter of an hour or more: on PostgreSQL in the URL,
    /// `?connect_timeout=10&keepalives_idle=30&keepalives_interval=10&keepalives_count=3&tcp_user_timeout=30000`. A server
    /// that hangs is waited for; no [`shutdown`](emitter_core::Emitter::shutdown) is longer for that than its time.
    /// On SQLite the framework sets `PRAGMA busy_timeout` itself, on its own connections.
    pub fn new<C, F>(connect: F) -> Self
    where
        C: Database + 'static,
        F: Fn() -> ConnectionResult<C> + Send + Sync + 'static,
    {
        Self {
            connect: Arc::new(move || Ok(Box::new(connect()?))),
            names: Names::default(),
            lanes: LANES,
            migrate: false,
        }
    }

    /// What they are called. Default `emitter_outbox` and so on.
    pub fn names(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// Makes them at the start, or brings them up to date, where they are not. Default: a start with tables of
    /// another version fails.
    pub fn migrate(mut self) -> Self {
        self.migrate = true;
        self
    }

    /// How many lanes the outbox gets when its tables are made; afterwards, what they were made with counts. No
    /// more relays than that share the work. Default [`LANES`]; 1 to 200.
    pub fn lanes(mut self, lanes: u32) -> Self {
        self.lanes = lanes.clamp(1, 200);
        self
    }

    /// The steps that make them, for a tool of your own.
    #[must_use]
    pub fn migrations(&self, dialect: Dialect) -> Vec<Migration> {
        schema::migrations(dialect, &self.names, self.lanes)
    }

    /// The version of those that are there, 0 where there are none. Nothing is made, also after
    /// [`migrate`](Self::migrate).
    ///
    /// # Errors
    /// The database's.
    pub fn version(&self) -> QueryResult<u32> {
        let mut database = self.connected()?;
        if !schema::are_there(&mut *database, &self.names)? {
            return Ok(0);
        }
        schema::found(&mut *database, &self.names).map(|found| found.version)
    }

    /// Whether they are made where they are not there.
    #[cfg(feature = "postgres")]
    pub(crate) fn migrates(&self) -> bool {
        self.migrate
    }

    /// What they are called.
    pub(crate) fn all_names(&self) -> &Names {
        &self.names
    }

    /// A new connection, set up.
    pub(crate) fn connected(&self) -> QueryResult<Box<dyn Database>> {
        // Foreign code: a panic in it is not to end the thread that connects, which would be a node's until its end.
        let connected = catch_unwind(AssertUnwindSafe(|| (self.connect)()));
        let connected = connected.unwrap_or_else(|_| {
            Err(ConnectionError::BadConnection(
                "the function that was given to `Tables::new` panicked".to_owned(),
            ))
        });
        let mut database =
            connected.map_err(|error| diesel::result::Error::QueryBuilderError(error.into()))?;
        let greeting = database.dialect().greeting();
        if !greeting.is_empty() {
            database.run(greeting)?;
        }
        Ok(database)
    }

    /// The first connection: makes the tables where that was asked for, and looks whether they are those of this
    /// version.
    ///
    /// # Errors
    /// What is wrong and what to do, in words.
    pub(crate) fn open(&self) -> Result<(Box<dyn Database>, Found), String> {
        let connected = self.connected();
        let mut database = connected.map_err(|error| format!("its database cannot be reached: {error}"))?;
        if self.migrate {
            schema::migrate(&mut *database, &self.names, self.lanes)
                .map_err(|error| format!("its tables could not be made: {error}"))?;
        }
        let found = schema::found(&mut *database, &self.names).map_err(|error| {
            format!("its tables are not there ({error}): run `Tables::migrations`, or call `.migrate()`")
        })?;
        if found.version != VERSION {
            return Err(format!(
                "its tables are of version {}, this program works with {VERSION}: {}",
                found.version,
                if found.version < VERSION { "call `.migrate()`" } else { "update the program" },
            ));
        }
        Ok((database, found))
    }
}

/// The time so long ago, by this machine's clock, for a column to be compared with: databases know no times of any age.
pub(crate) fn ago(duration: Duration) -> Timestamp {
    let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(Timestamp::now().as_millis().saturating_sub(millis).max(0))
}

/// Of which databases a node has said what speaks against relying on them, by the ids of their outboxes. A part that relies on
/// one gives it to its builder as a state; the last one counts for all.
#[derive(Debug, Default)]
pub(crate) struct Doubted(Mutex<HashSet<String>>);

impl Doubted {
    /// Whether nothing was said of it.
    fn is_new(&self, outbox: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(outbox.to_owned())
    }
}

impl Tables {
    /// As [`open`](Self::open), for a part of a node that tells others what it has committed here: what speaks against
    /// relying on that is said, once for each node and database.
    ///
    /// # Errors
    /// What is wrong and what to do, in words.
    pub(crate) fn open_for(
        &self,
        emitter: &WeakEmitter,
        part: &'static str,
    ) -> Result<(Box<dyn Database>, Found), String> {
        let (mut database, found) = self.open()?;
        let emitter = emitter.upgrade().ok_or("its emitter is there no more")?;
        if emitter.state::<Doubted>().is_none_or(|doubted| doubted.is_new(&found.outbox_id)) {
            let doubts = doubts_of(&mut *database, &self.names)
                .map_err(|error| format!("its database does not tell its settings: {error}"))?;
            for doubt in doubts {
                error!("{part} cannot rely on its database: {doubt}");
            }
        }
        Ok((database, found))
    }
}

/// What is to be said against the settings and the clock of a database, each with what to do about it.
///
/// # Errors
/// The database's.
pub(crate) fn doubts_of(database: &mut dyn Database, names: &Names) -> QueryResult<Vec<String>> {
    let told = database.pairs(doubts::settings(database.dialect(), names))?;
    let told = told.iter().map(|pair| (&*pair.text, pair.number));
    Ok(doubts::doubts(told, Timestamp::now().as_millis()))
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, lanes, migrate, .. } = self;
        f.debug_struct("Tables")
            .field("names", names)
            .field("lanes", lanes)
            .field("migrate", migrate)
            .finish_non_exhaustive()
    }
}
