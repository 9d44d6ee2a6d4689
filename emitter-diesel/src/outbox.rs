//! Events that may not be lost: they are written down in the transaction of the rows that they tell of, and
//! relayed from there.
//!
//! A statement with `.durable()`, or of a model with `#[emits(durable)]`, adds a row to the outbox of its
//! database before the outermost COMMIT: on PostgreSQL in one message with it, elsewhere as one INSERT for
//! the whole transaction. If that fails, the transaction fails. What is committed is there, whatever dies
//! afterwards, and a relay publishes it; any number of nodes may run one.
//!
//! ```no_run
//! # #[cfg(feature = "sqlite")]
//! # async fn started() -> Result<(), Box<dyn std::error::Error>> {
//! use diesel::{Connection, SqliteConnection};
//! use emitter_diesel::Emitter;
//! use emitter_diesel::outbox::{Outbox, WithOutbox};
//!
//! let outbox = Outbox::new(|| SqliteConnection::establish("shop.db")).migrate();
//! let emitter = Emitter::builder().service("shop").node("a").mqtt("mqtt://localhost").outbox(outbox).start().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Order
//! Rows of one key are published in the order in which they were committed, whichever node wrote them and
//! whichever relays them: each is in a *lane* by its model and key, a lane belongs to one relay at a time, for
//! as long as its lease lasts, and rows are read only after the lane was taken. A model that emits bulk
//! operations has one lane for all of its events, for one event may be of any key.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use diesel::result::ConnectionResult;
use emitter_core::Builder;
use emitter_core::retry::Backoff;
use once_cell::sync::OnceCell;

mod database;
mod dialect;
mod mailbox;
mod names;
mod relay;
mod schema;
mod store;
mod writing;

pub use self::database::Database;
pub use self::dialect::Dialect;
pub use self::names::{BadName, Names};
pub use self::relay::RelayConfig;
pub use self::schema::{LANES, Migration, VERSION};

pub(crate) use self::mailbox::Mailbox;
pub(crate) use self::store::Store;
pub(crate) use self::writing::Written;

/// Makes connections of an outbox's own.
type Connect = Arc<dyn Fn() -> ConnectionResult<Box<dyn Database>> + Send + Sync>;

/// The outbox of a database: where its tables are, and how they are relayed.
///
/// Given to the builder of an emitter by [`WithOutbox::outbox`].
#[must_use = "it is given to the builder of an emitter: `.outbox(outbox)`"]
pub struct Outbox {
    connect: Connect,
    names: Names,
    relay: Option<RelayConfig>,
    lanes: u32,
    migrate: bool,
}

impl Outbox {
    /// An outbox that works over connections of its own, made by `connect`: to the database of the bound
    /// connections. They are used by one thread, one at a time.
    pub fn new<C, F>(connect: F) -> Self
    where
        C: Database + 'static,
        F: Fn() -> ConnectionResult<C> + Send + Sync + 'static,
    {
        Self {
            connect: Arc::new(move || Ok(Box::new(connect()?))),
            names: Names::default(),
            relay: Some(RelayConfig::default()),
            lanes: LANES,
            migrate: false,
        }
    }

    /// What its tables are called. Default `emitter_outbox` and so on.
    pub fn names(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// How this node relays. Default: see [`RelayConfig`].
    pub fn relay(mut self, relay: RelayConfig) -> Self {
        self.relay = Some(relay);
        self
    }

    /// This node relays nothing; others do.
    pub fn without_relay(mut self) -> Self {
        self.relay = None;
        self
    }

    /// Makes the tables at the start, or brings them up to date, where they are not. Default: a start with
    /// tables of another version fails.
    pub fn migrate(mut self) -> Self {
        self.migrate = true;
        self
    }

    /// How many lanes the tables get when they are made; afterwards, what they were made with counts. No more
    /// relays than that share the work. Default [`LANES`]; 1 to 200.
    pub fn lanes(mut self, lanes: u32) -> Self {
        self.lanes = lanes.clamp(1, 200);
        self
    }

    /// The steps that make its tables, for a tool of your own.
    #[must_use]
    pub fn migrations(&self, dialect: Dialect) -> Vec<Migration> {
        schema::migrations(dialect, &self.names, self.lanes)
    }

    fn attached(&self) -> Attached {
        Attached { names: self.names.clone(), opened: OnceCell::new(), mailbox: Arc::default() }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, relay, lanes, migrate, .. } = self;
        f.debug_struct("Outbox")
            .field("names", names)
            .field("relay", relay)
            .field("lanes", lanes)
            .field("migrate", migrate)
            .finish_non_exhaustive()
    }
}

/// An outbox that an emitter has: what its bound handles need of it.
#[derive(Debug)]
pub(crate) struct Attached {
    names: Names,
    opened: OnceCell<Opened>,
    mailbox: Arc<Mailbox>,
}

/// What was read from the tables.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) outbox_id: Arc<str>,
    pub(crate) lanes: u32,
}

impl Attached {
    pub(crate) fn opened(&self) -> Option<&Opened> {
        self.opened.get()
    }

    pub(crate) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }
}

/// Gives an emitter an outbox.
pub trait WithOutbox {
    /// Has statements with `.durable()` write their events into this outbox, and relays them.
    ///
    /// [`start`](Builder::start) then fails with [`StartError::Companion`](emitter_core::StartError::Companion)
    /// where the database cannot be reached or its tables are not those of this version.
    #[must_use]
    fn outbox(self, outbox: Outbox) -> Self;
}

impl WithOutbox for Builder {
    fn outbox(self, outbox: Outbox) -> Self {
        let attached = Arc::new(outbox.attached());
        let builder = if outbox.relay.is_none() { self.relayed_elsewhere() } else { self };
        let begin = relay::begin(outbox, Arc::clone(&attached));
        builder.state(attached).companion("outbox", begin)
    }
}

/// How long a row that could not be published waits for its next attempt.
pub(crate) const BACKOFF: Backoff =
    Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(60), jitter: Duration::from_secs(1) };
