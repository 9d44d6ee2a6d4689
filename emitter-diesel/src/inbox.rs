//! Effects that happen once, though events come at least once: a listener marks the event in the transaction of
//! its effect.
//!
//! A listener with a parameter [`InboxTx`] is called in a transaction that the framework began, and in which the
//! event is claimed already. `Ok` commits effect and mark together; an error, a panic or a COMMIT that fails takes
//! both back, and the listener is called again as any other. An event that was claimed and committed before is
//! done: the function is not called.
//!
//! ```no_run,standalone_crate
//! # #[cfg(feature = "sqlite")]
//! # mod example {
//! use diesel::prelude::*;
//! use emitter_diesel::inbox::{Inbox, InboxTx};
//! use emitter_diesel::tables::Tables;
//! use emitter_diesel::{Emits, Emitter, Event, listener};
//! use serde::{Deserialize, Serialize};
//!
//! diesel::table! { orders { id -> BigInt, cents -> BigInt, } }
//! diesel::table! { bills { id -> BigInt, order_id -> BigInt, cents -> BigInt, } }
//!
//! #[derive(Debug, Clone, Queryable, Serialize, Deserialize, Emits)]
//! #[emits(create)]
//! struct Order { id: i64, cents: i64 }
//!
//! /// One bill for each order, however often its event comes.
//! #[listener(model = "order", allow_remote)]
//! fn bill(event: Event<OrderCreated>, mut tx: InboxTx<'_, SqliteConnection>) -> QueryResult<()> {
//!     let Order { id, cents } = event.row;
//!     let bill = (bills::order_id.eq(id), bills::cents.eq(cents));
//!     diesel::insert_into(bills::table).values(bill).execute(&mut *tx)?;
//!     Ok(())
//! }
//!
//! async fn started(pool: diesel::r2d2::Pool<diesel::r2d2::ConnectionManager<SqliteConnection>>)
//! -> Result<Emitter, Box<dyn std::error::Error>> {
//!     let tables = Tables::new(|| SqliteConnection::establish("shop.db")).migrate();
//!     let inbox = Inbox::new(tables, move || pool.get());
//!     Ok(Emitter::builder().service("billing").node("a").mqtt("mqtt://localhost").with(inbox).start().await?)
//! }
//! # }
//! ```
//!
//! [`InboxTx`] dereferences to the bound handle, [`Bound`](crate::Bound) or `BoundAsync`: Diesel's queries take
//! `&mut *tx`, and statements with `.emit()` and `.durable()` work in it. Their events leave with this COMMIT. A plain
//! `fn` takes a connection of Diesel's, an `async fn` one of diesel-async.
//!
//! # Whose mark
//! A mark is of a service, a listener's name and an event. The nodes of a service that share a database have the effect once
//! together, also where each of them hears the event; two services have it once each. A listener that gets another name
//! is another listener. Its events are told apart by their ids: those of programs that send no ids of their own kind, such
//! as the npm package, get a new one each time that they arrive, and an inbox cannot know them again.
//!
//! Whatever hands an event on again finds the mark: a [replay](crate::mirror), too, has no effect of what has a mark. Who means
//! it to deletes the marks of that listener first.
//!
//! A listener with an `InboxTx` is made by `#[listener]`, and has its name. One that is added at run time
//! ([`on`](emitter_core::Emitter::on)) has none: let it write what it did under the event's id by itself.
//!
//! # The database is away
//! A listener that cannot be called for want of a connection or of the mark has not failed: its event waits, and every few seconds
//! it is looked whether the database is there, for as long as it takes. Neither its attempts nor their budget nor its
//! time-out count meanwhile. A connection that ends in the middle of a call is no attempt either, ten times for an event; after that
//! it may be the event that ends it, and each counts. [`health`](emitter_core::Emitter::health) says which inbox waits and why,
//! [`InboxStats::waiting`] how many events do. Those of other nodes stay unacknowledged: when as many wait as the broker
//! hands out at a time (`receive_maximum`, 100), it keeps what follows, for all listeners of this node.
//!
//! A database that hangs in the middle of a call is a time-out of it. Let `connect` have a time-out of its own (`connect_timeout` in the
//! URL, that of a pool), or a thread may wait for it beyond the end of the node.
//!
//! # Two at once
//! The mark is made before the effect, so a second call for the event waits, here or on another node, until the first
//! has ended: then it finds the event done, or has it itself. How long it waits at most is said by the listener's time-out
//! and the database's. Where the connections' isolation is `REPEATABLE READ` or `SERIALIZABLE`, PostgreSQL ends the second
//! one with an error, as MySQL and MariaDB may with a deadlock; it is called again, and finds the event done.
//!
//! On SQLite a connection waits for what another one writes only where it was told so. `connect` should say `PRAGMA busy_timeout`
//! and `journal_mode = WAL`, or calls that meet another one (`database is locked`) are made again some time later;
//! and as one writes at a time, a few calls at once are enough
//! ([`listener_concurrency`](emitter_core::Builder::listener_concurrency)).
//!
//! A call that took longer than its time-out commits nothing: an asynchronous one is dropped in the middle, and a plain one is
//! rolled back when it comes to its end.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use emitter_core::event::Timestamp;
use emitter_core::{Builder, EventId, Extension};
use tokio::sync::watch;

use crate::mirror;
use crate::tables::{Doubted, Pair, Tables};

mod checks;
pub(crate) mod claiming;
mod connection;
mod marks;
mod transaction;
mod waiting;

pub(crate) use self::checks::long_enough;
pub use self::connection::{InAsyncFn, InPlainFn, InboxConnection};
use self::marks::Marks;
pub use self::transaction::InboxTx;
use self::waiting::Waiting;

/// Where the listeners of a node mark what they have done, and the connections on which they do it.
///
/// Given to the builder of an emitter by [`with`](Builder::with), one for each type of connection. It is then a
/// [`State`](crate::State): `emitter.state::<Inbox<PgConnection>>()` tells its [`stats`](Self::stats).
pub struct Inbox<C: InboxConnection> {
    tables: Tables,
    /// `None` where nobody said it.
    keep: Option<Duration>,
    connect: C::Connect,
    marks: Marks,
    desk: Arc<Desk>,
}

/// That a service's listener had its effect of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mark {
    /// The service.
    pub service: String,
    /// The listener's name.
    pub listener: String,
    /// When, by the database's clock.
    pub claimed_at: Timestamp,
}

/// The marks of an event in these tables, at most 1,000, for whoever asks what became of it. It blocks.
///
/// # Errors
/// What is wrong with the tables and what to do about it, in words.
pub fn marks_of(tables: &Tables, event: EventId) -> Result<Vec<Mark>, String> {
    let (mut database, _) = tables.open()?;
    let marks = Marks { dialect: database.dialect(), names: tables.all_names().clone() };
    let pairs =
        database.pairs(marks.of(event)).map_err(|error| format!("its marks cannot be read: {error}"))?;
    let mark = |pair: &Pair| {
        let (service, listener) = pair.text.split_once('/')?;
        let claimed_at = Timestamp::from_millis(pair.number);
        Some(Mark { service: service.to_owned(), listener: listener.to_owned(), claimed_at })
    };
    Ok(pairs.iter().filter_map(mark).collect())
}

/// What its calls and its thread share.
#[derive(Debug)]
struct Desk {
    /// The tables are there.
    open: watch::Sender<bool>,
    /// Who claims.
    listeners: Mutex<Vec<&'static str>>,
    claimed: AtomicU64,
    already_done: AtomicU64,
    waiting: Mutex<Waiting>,
}

impl Desk {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an inbox has counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxStats {
    /// Events whose effect was committed together with its mark.
    pub claimed: u64,
    /// Events that were done already: the listener was not called.
    pub already_done: u64,
    /// Events whose listener is not called yet, for the connection or the mark is waited for: how many there are now, a
    /// moment's each while all is well.
    pub waiting: usize,
}

/// So long a mark is kept at least, where nobody says otherwise: as long as mirrors have rows by default.
const KEEP: Duration = mirror::KEEP.saturating_add(mirror::LATE);

impl<C: InboxConnection> Inbox<C> {
    fn with(tables: Tables, connect: C::Connect) -> Self {
        let desk = Desk {
            open: watch::Sender::new(false),
            listeners: Mutex::default(),
            claimed: AtomicU64::new(0),
            already_done: AtomicU64::new(0),
            waiting: Mutex::default(),
        };
        let marks = Marks { dialect: C::DIALECT, names: tables.all_names().clone() };
        Self { tables, keep: None, connect, marks, desk: Arc::new(desk) }
    }

    /// How long a mark is kept. An event that comes again later has its effect again, so it cannot be shorter than events may
    /// come again: 7 days, which is how long histories keep what they mend gaps from, or what this node's own history
    /// keeps, or as long as its session at the broker, its [dead letters](crate::dead_letters), or its [mirror] and
    /// a day, where these are longer. Default: so long, and at least 31 days: longer than a mirror has what it is to replay, by
    /// default, wherever it is.
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = Some(keep);
        self
    }

    /// What was counted since the start.
    #[must_use]
    pub fn stats(&self) -> InboxStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Desk { claimed, already_done, .. } = &*self.desk;
        let waiting = self.desk.waiting().len();
        InboxStats { claimed: count(claimed), already_done: count(already_done), waiting }
    }
}

impl<C: InboxConnection> fmt::Debug for Inbox<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tables, keep, .. } = self;
        f.debug_struct("Inbox").field("tables", tables).field("keep", keep).finish_non_exhaustive()
    }
}

/// Has listeners with an [`InboxTx`] of this type of connection mark in this inbox what they do.
///
/// [`start`](Builder::start) then fails with [`StartError::Companion`](emitter_core::StartError::Companion) where
/// the database cannot be reached, its tables are not those of this version, [`keep`](Inbox::keep) is too short, there is
/// another inbox for the same type of connection, or two listeners of one model have one name. Without an inbox, the start of a program with such a listener fails.
impl<C: InboxConnection> Extension for Inbox<C> {
    fn extend(self, builder: Builder) -> Builder {
        let Self { tables, marks, keep, desk, .. } = &self;
        let begin = checks::companion::<C>(tables.clone(), marks.clone(), *keep, Arc::clone(desk));
        let asked = Arc::clone(desk);
        let troubles = move || asked.waiting().trouble().into_iter().collect();
        builder.state(self).state(Doubted::default()).troubles(troubles).companion("inbox", begin)
    }
}
