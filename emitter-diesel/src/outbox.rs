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
//! use emitter_diesel::outbox::Outbox;
//! use emitter_diesel::tables::Tables;
//!
//! let tables = Tables::new(|| SqliteConnection::establish("shop.db")).migrate();
//! let outbox = Outbox::new(tables);
//! let emitter = Emitter::builder().service("shop").node("a").mqtt("mqtt://localhost").with(outbox).start().await?;
//! # Ok(())
//! # }
//! ```
//!
//! On SQLite the relay writes into the same file: set `PRAGMA busy_timeout = 5000` and `PRAGMA journal_mode = WAL` on each connection of
//! yours, or a write that meets it fails with `database is locked`.
//!
//! # Queued events
//! A statement with `.queued()`, or of a model with `#[emits(queued)]`, adds its row as well, but after the COMMIT: the
//! event waits in memory until the thread of the outbox has written it, with up to a hundred others in one INSERT. It
//! does so as soon as it is free, for to wait would only make more of them wait in memory: while it writes some, the
//! next ones gather by themselves. From there they go the way of durable ones.
//!
//! | | `.durable()` | `.queued()` |
//! |---|---|---|
//! | the row is written | in the transaction, which waits for it | after it, by another connection |
//! | it cannot be written | the transaction fails | tried three times in all, after 1 s and 2 s ([`QueueConfig::attempts`] and [`backoff`](QueueConfig::backoff)); then the event is lost to other nodes, counted (`queue_failed`), and a [dead letter](emitter_core::dead_letter) |
//! | the database is away | there is no transaction | it waits in memory, up to [`QueueConfig::capacity`] and [`bytes`](QueueConfig::bytes), and is not counted as an attempt |
//! | the process is killed | nothing is lost | what was not written yet is lost: `queued` less `queue_written` in [`Stats`](emitter_core::metrics::Stats) |
//! | the order of a key | that of its commits, whichever node wrote | that in which the commits returned in this process; none across processes, nor beside durable events of the same key |
//! | listeners of this node | are called after the COMMIT | the same |
//! | the outbox is in | the database of the connection | any database |
//!
//! How long an event waited at most is in [`Health::queue`](emitter_core::Health::queue), which names it as a reason beyond
//! [`QueueConfig::late`]: have somebody told of it. Who wants to know when an event is in the outbox, and whether, asks its
//! receipt:
//!
//! ```no_run
//! # #[cfg(feature = "sqlite")]
//! # mod example {
//! # use diesel::prelude::*;
//! # use emitter_diesel::{Bind, Emit, Emits, Emitter, Receipt};
//! # use serde::{Deserialize, Serialize};
//! # diesel::table! { orders { id -> BigInt, } }
//! # #[derive(Clone, Queryable, Serialize, Deserialize, Emits)]
//! # #[emits(create)]
//! # struct Order { id: i64 }
//! # async fn placed(emitter: &Emitter, db: &mut SqliteConnection) -> Result<Order, Box<dyn std::error::Error>> {
//! let receipt = Receipt::new();
//! let insert = diesel::insert_into(orders::table).values(orders::id.eq(7));
//! let order: Order = insert.emit().queued().receipt(&receipt).get_result(&mut emitter.bind(db)?)?;
//! if let Err(loss) = receipt.recorded().await {
//!     eprintln!("the order is placed, and other nodes will not hear of it: {loss}");
//! }
//! # Ok(order)
//! # }
//! # }
//! ```
//!
//! `emitter.publish(…)` of a model or event that says `queued` goes this way, too.
//!
//! # Order
//! Rows of one key are published in the order in which they were committed, whichever node wrote them and
//! whichever relays them: each is in a *lane* by its model and key, a lane belongs to one relay at a time, for
//! as long as its lease lasts, and rows are read only after the lane was taken. A model that emits bulk
//! operations has one lane for all of its events, for one event may be of any key.

use std::sync::Arc;
use std::time::Duration;

use emitter_core::retry::Backoff;
use emitter_core::{Builder, Extension, WeakEmitter};
use once_cell::sync::OnceCell;

use crate::companion::{self, Activity};
use crate::tables::{Database, Doubted, Tables};

mod control;
mod given_up;
mod handing;
mod ledger;
mod mailbox;
mod queueing;
mod relay;
mod store;
#[cfg(all(test, feature = "sqlite"))]
mod tests;
mod writing;

pub use self::control::{Behind, Control, LaneState, OpenError, OutboxRow, OutboxState, RelayState};
pub use self::given_up::{GivenUp, GivenUpEvent, GivenUpSelection, GivenUpStatus};
pub use self::ledger::{Ledger, LedgerEntry, LedgerSelection, LedgerStatus};
pub use self::queueing::QueueConfig;
use self::queueing::Queueing;
use self::relay::Relay;
pub use self::relay::RelayConfig;

#[cfg(feature = "postgres")]
pub(crate) use self::handing::Handing;
pub(crate) use self::mailbox::Mailbox;
pub(crate) use self::queueing::refuse_to_queue;
pub(crate) use self::store::Store;
pub(crate) use self::writing::Written;

/// The outbox of a database, and how this node relays it.
///
/// Given to the builder of an emitter by [`with`](Builder::with).
#[derive(Debug)]
#[must_use = "it is given to the builder of an emitter: `.with(outbox)`"]
pub struct Outbox {
    tables: Tables,
    relay: Option<RelayConfig>,
    #[cfg(feature = "postgres")]
    captures: Vec<crate::capture::Capture>,
    queue: QueueConfig,
}

impl Outbox {
    /// The outbox in these tables, relayed by this node.
    pub fn new(tables: Tables) -> Self {
        Self {
            tables,
            relay: Some(RelayConfig::default()),
            queue: QueueConfig::default(),
            #[cfg(feature = "postgres")]
            captures: Vec::new(),
        }
    }

    /// How events of `.queued()` are written. Default: see [`QueueConfig`].
    pub fn queue(mut self, queue: QueueConfig) -> Self {
        self.queue = queue;
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

    /// This node turns what triggers capture of this table into events: see [`capture`](crate::capture). With
    /// [`Tables::migrate`] it makes the triggers, too; else the start fails where they are not there.
    #[cfg(feature = "postgres")]
    pub fn capture(mut self, capture: crate::capture::Capture) -> Self {
        self.captures.push(capture);
        self
    }
}

/// An outbox that an emitter has: what its bound handles need of it.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    opened: OnceCell<Opened>,
    /// How long this node keeps its history.
    keeps: Option<Duration>,
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

    pub(crate) fn keeps(&self) -> Option<Duration> {
        self.keeps
    }

    pub(crate) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }
}

/// Has statements with `.durable()` write their events into this outbox, and relays them.
///
/// [`start`](Builder::start) then fails with [`StartError::Companion`](emitter_core::StartError::Companion)
/// where the database cannot be reached or its tables are not those of this version.
impl Extension for Outbox {
    fn extend(self, builder: Builder) -> Builder {
        let builder = if self.relay.is_none() { builder.relayed_elsewhere() } else { builder };
        let keeps = self.relay.map(|relay| relay.keep);
        let attached = Attached { keeps, ..Attached::default() };
        let [mailbox, asked, counted] = [(); 3].map(|()| Arc::clone(attached.mailbox()));
        #[cfg(feature = "postgres")]
        let builder = {
            let poll = self.relay.unwrap_or_default().poll;
            let elsewhere = self.relay.is_none();
            crate::capture::begin(builder, self.tables.clone(), self.captures, poll, elsewhere)
        };
        let Outbox { tables, relay, queue, .. } = self;
        let open = {
            let tables = tables.clone();
            move |emitter: &WeakEmitter| open(&tables, queue, emitter)
        };
        let run = move |(database, opened): (_, Opened), emitter: WeakEmitter, activity: &Arc<Activity>| {
            let Some(origin) = emitter.upgrade().map(|emitter| emitter.origin().clone()) else { return };
            let queueing = Queueing::new(queue, &opened, &origin);
            if let Some(mut relay) = Relay::new(tables, relay, database, opened, queueing, emitter) {
                relay.run(activity);
            }
        };
        let begin = companion::thread("emitter-outbox", open, run, move || mailbox.end());
        // What is turned is relayed here, and handed to the listeners of this node: that it does neither any more, the outbox says
        // last.
        let begin = companion::after(&["capture"], begin);
        builder
            .state(attached)
            .state(Doubted::default())
            .troubles(move || asked.trouble().into_iter().collect())
            .backlog(move || counted.backlog())
            .companion("outbox", begin)
    }
}

/// Connects, and looks whether the tables are there.
fn open(
    tables: &Tables,
    queue: QueueConfig,
    emitter: &WeakEmitter,
) -> Result<(Box<dyn Database>, Opened), String> {
    let (mut database, found) = tables.open_for(emitter, "the outbox")?;
    let store = Store { dialect: database.dialect(), names: tables.all_names().clone() };
    if let Some(listen) = store.listen() {
        database.run(&listen).map_err(|error| format!("its database does not let it listen: {error}"))?;
    }
    let paused = database.pairs(store.paused());
    let paused =
        paused.map_err(|error| format!("its database does not tell whether it is paused: {error}"))?;
    let is_paused = paused.iter().any(|lanes| lanes.number > 0);
    let opened = Opened { store, outbox_id: found.outbox_id.into(), lanes: found.lanes };
    let emitter = emitter.upgrade().ok_or("its emitter is there no more")?;
    let attached = emitter.state::<Attached>().ok_or("its emitter is there no more")?;
    if is_paused {
        attached.mailbox().door().shut();
    }
    emitter.keep_queued(queue.keeper(attached.mailbox()));
    let told = Arc::clone(attached.mailbox());
    emitter.report_also(move |report| told.report(report));
    let mailbox = Arc::clone(attached.mailbox());
    emitter.keep_ledger(move |event, progress| mailbox.account(event, progress));
    // Set once: an outbox begins once.
    let opened = attached.opened.get_or_init(|| opened).clone();
    Ok((database, opened))
}

/// How long what was refused waits for its next attempt, where nobody says otherwise.
const BACKOFF: Backoff =
    Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(60), jitter: Duration::from_secs(1) };
