//! A table of every event that was seen on the bus, and replays from it.
//!
//! A node with a mirror writes down what travels below the application's topics, whoever wrote it and in
//! whichever form, and tells the broker only then that it has it: what is published while the node, the network
//! or the database is away waits at the broker. Any number of nodes may be given the same mirror. One writes, and
//! when it dies another one goes on, in the same session at the broker, where it stopped.
//!
//! ```no_run
//! # #[cfg(feature = "sqlite")]
//! # async fn started() -> Result<(), Box<dyn std::error::Error>> {
//! use diesel::{Connection, SqliteConnection};
//! use emitter_diesel::Emitter;
//! use emitter_diesel::mirror::{Mirror, Mirrored, ReplayOptions, Selection};
//! use emitter_diesel::tables::Tables;
//!
//! let tables = Tables::new(|| SqliteConnection::establish("audit.db")).migrate();
//! let builder = Emitter::builder().service("audit").node("a").mqtt("mqtt://localhost");
//! let emitter = builder.with(Mirror::new(tables.clone())).start().await?;
//!
//! // Reading needs no emitter. It blocks, as Diesel does.
//! let mut mirrored = Mirrored::open(&tables)?;
//! let orders = Selection { model: Some("order".to_owned()), key: Some("7".to_owned()), ..Selection::default() };
//! println!("{} events", mirrored.count(&orders)?);
//! for event in mirrored.read(&orders)?.events {
//!     println!("{} {} {}", event.created_at, event.kind.as_deref().unwrap_or("?"), event.topic);
//! }
//!
//! // Hands them to this node's listeners once more.
//! let replayed = tokio::task::spawn_blocking(move || -> Result<_, emitter_diesel::mirror::MirrorError> {
//!     mirrored.replay(&emitter, orders, ReplayOptions::default())?.finish()
//! });
//! println!("{:?}", replayed.await??);
//! # Ok(())
//! # }
//! ```
//!
//! # What is written down
//! Every message that is a JSON object, and every one in a batch, by itself: with its topic, when it was written
//! down (`created_at`, the database's clock), and what it tells of itself. Not: what the framework says to itself
//! (dead letters, announcements, canaries), what was retained before the mirror first subscribed, and what is
//! no JSON object, larger or deeper than the node takes, or, where the node has
//! [`Signatures`](emitter_core::Signatures), not signed by whom it trusts.
//!
//! An event of this framework is written down once, as long as its row is kept, however often it comes: its
//! origin and its id tell it from all others. Of other programs' events nothing does, and what comes again (after a
//! crash between the commit and the acknowledgement, or because its publisher sent it twice) is a second row.
//!
//! On PostgreSQL the payload is `jsonb`, which keeps values and not texts. Where that would make another event of
//! it, and where it is signed, the exact text stands beside it (`exact`); what is read and replayed is that.
//!
//! [`Emitter::connected`](emitter_core::Emitter::connected) does not wait for a mirror, which has a connection of its own: it hears from when
//! [`stats`] says so (`hears`).
//!
//! # The table
//! `emitter_events_mirror` is there for SQL of your own, such as a count by service, model and operation. What a message does not tell is NULL.
//!
//! | column | what it is |
//! |---|---|
//! | `id` | a number, in the order of the writing |
//! | `topic`, `payload` | as on the bus; the payload is `jsonb` on PostgreSQL, else text |
//! | `created_at` | when it was written down |
//! | `event_id`, `trace_id`, `kind` | of the event |
//! | `service`, `node`, `incarnation` | who wrote it: which of the node's lives |
//! | `model`, `operation`, `record_id` | `order`, `createMany`, and the key of an event of one row |
//! | `properties`, `exact` | what travelled beside it; its exact text, where the payload's is another |

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use emitter_core::metrics::{Report, table};
use emitter_core::{Builder, Emitter, Extension, WeakEmitter};
use tracing::warn;

use crate::bounds::{AGES, DAY, within};
use crate::companion::{self, Activity};
use crate::tables::{Doubted, Tables};

mod bell;
mod known;
mod reading;
mod replay;
mod selection;
mod store;
mod writer;

use self::bell::Bell;
pub use self::reading::{MirrorError, MirrorState, MirrorWriter, Mirrored, MirroredEvent, Page, Tail};
pub use self::replay::{Listeners, Replay, ReplayOptions, Replayed};
pub use self::selection::{Cursor, NoCursor, Selection};
use self::writer::Writer;

/// A mirror in a database's tables, and how this node writes it.
///
/// Given to the builder of an emitter by [`with`](Builder::with).
#[derive(Debug)]
#[must_use = "it is given to the builder of an emitter: `.with(mirror)`"]
pub struct Mirror {
    tables: Tables,
    config: MirrorConfig,
}

impl Mirror {
    /// The mirror in these tables.
    pub fn new(tables: Tables) -> Self {
        Self { tables, config: MirrorConfig::default() }
    }

    /// How it is written. Default: see [`MirrorConfig`].
    pub fn config(mut self, config: MirrorConfig) -> Self {
        self.config = config;
        self
    }
}

/// How a mirror is written. A value that would not work is replaced by the nearest one that does; a start says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorConfig {
    /// What it is called among the mirrors of its service: the client at the broker is `{service}-{name}`, and
    /// one node at a time is that client. A service that mirrors into two databases needs two names. Default `mirror`.
    pub name: String,
    /// How many events are written at a time at most. Default 1,000; 1 to 10,000.
    pub batch: usize,
    /// How long an event waits for others at most; while a batch is written the next one gathers anyway. Brokers
    /// send no more than a window of unacknowledged messages, so a long time is a slow mirror. Default 2 ms; at most 1 s.
    pub linger: Duration,
    /// How long the writing belongs to a node that says nothing more, by the database's clock. Default 15 s; 1 s
    /// to a day.
    pub lease: Duration,
    /// How long rows are kept. On PostgreSQL days are dropped as a whole, so that a row is there for up to a day more. An
    /// [inbox](crate::inbox::Inbox::keep) or a [replica](crate::replica::Replica::keep) of this node remembers for a day longer than
    /// this, or the start fails. Default 30 days; 1 s to 100 years.
    pub keep: Duration,
}

impl Default for MirrorConfig {
    fn default() -> Self {
        Self {
            name: "mirror".to_owned(),
            batch: 1_000,
            linger: Duration::from_millis(2),
            lease: Duration::from_secs(15),
            keep: KEEP,
        }
    }
}

/// How long rows are kept, where nobody says otherwise.
pub(crate) const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);

/// So much longer than the mark of its event a row may be there: a day is dropped as a whole, and a mirror that was away writes
/// down late.
pub(crate) const LATE: Duration = DAY;

impl MirrorConfig {
    /// What nobody meant, as near to it as works.
    fn within_bounds(self) -> Self {
        const OF: &str = "the mirror";
        const SECOND: Duration = Duration::from_secs(1);
        Self {
            batch: within(OF, "batch", self.batch, 1, 10_000),
            linger: within(OF, "linger", self.linger, Duration::ZERO, SECOND),
            lease: within(OF, "lease", self.lease, SECOND, DAY),
            keep: within(OF, "keep", self.keep, SECOND, AGES),
            ..self
        }
    }

    fn is_named(&self) -> bool {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        (1..=64).contains(&self.name.len()) && self.name.chars().all(allowed)
    }
}

/// What a node's mirror has done since its start, in events unless said otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MirrorStats {
    /// Written down.
    pub recorded: u64,
    /// Not written down again.
    pub duplicates: u64,
    /// Lost, because the database took everything else, and not this one. The log says which.
    pub failed: u64,
    /// No events, or not signed by whom this node trusts.
    pub refused: u64,
    /// Batches written.
    pub batches: u64,
    /// Whether it is this node that writes.
    pub writes: bool,
    /// Whether the broker has confirmed that what is published comes to it.
    pub hears: bool,
}

/// What the mirror of an emitter has done; `None` where it has none.
#[must_use]
pub fn stats(emitter: &Emitter) -> Option<MirrorStats> {
    emitter.state::<Attached>().map(|attached| attached.tally.told())
}

/// A mirror that an emitter has.
#[derive(Debug)]
pub(crate) struct Attached {
    tally: Arc<Tally>,
    keep: Duration,
}

impl Attached {
    /// How long after the mark of an event it may still be replayed.
    pub(crate) fn keeps(&self) -> Duration {
        self.keep.saturating_add(LATE)
    }
}

#[derive(Debug, Default)]
struct Tally {
    recorded: AtomicU64,
    duplicates: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    batches: AtomicU64,
    writes: AtomicBool,
    hears: AtomicBool,
    troubles: Mutex<Troubles>,
}

/// What hinders a mirror.
#[derive(Debug, Default)]
struct Troubles {
    database: Option<String>,
    days: Option<String>,
    bus: Vec<String>,
}

impl Tally {
    fn trouble(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn database(&self, trouble: Option<String>) {
        self.trouble().database = trouble;
    }

    /// What hinders it from having partitions; told to the log when it begins.
    fn days(&self, trouble: Option<String>) {
        let earlier = std::mem::replace(&mut self.trouble().days, trouble.clone());
        if let Some(trouble) = trouble.filter(|_| earlier.is_none()) {
            warn!("the mirror: {trouble}");
        }
    }

    fn bus(&self, troubles: Vec<String>) {
        self.trouble().bus = troubles;
    }

    /// As a node's health has it.
    fn troubles(&self) -> Vec<String> {
        let Troubles { database, days, bus } = &*self.trouble();
        database.iter().chain(days).chain(bus).map(|trouble| format!("mirror: {trouble}")).collect()
    }

    /// As it is told to who exports metrics.
    fn report(&self, report: &mut Report) {
        let MirrorStats { recorded, duplicates, failed, refused, writes, .. } = self.told();
        for (outcome, events) in
            [("recorded", recorded), ("duplicate", duplicates), ("failed", failed), ("refused", refused)]
        {
            report.counter(&table::MIRRORED, &[outcome], events);
        }
        report.gauge(&table::MIRROR_WRITES, &[], writes.into());
    }

    fn told(&self) -> MirrorStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MirrorStats {
            recorded: count(&self.recorded),
            duplicates: count(&self.duplicates),
            failed: count(&self.failed),
            refused: count(&self.refused),
            batches: count(&self.batches),
            writes: self.writes.load(Ordering::Relaxed),
            hears: self.hears.load(Ordering::Relaxed),
        }
    }
}

/// Writes every event on the bus down in this mirror, or stands by while another node does.
///
/// [`start`](Builder::start) then fails with [`StartError::Companion`](emitter_core::StartError::Companion)
/// where the database cannot be reached, its tables are not those of this version, or there is no bus.
impl Extension for Mirror {
    fn extend(self, builder: Builder) -> Builder {
        let tally = Arc::<Tally>::default();
        let attached = Attached { tally: Arc::clone(&tally), keep: self.config.keep.min(AGES) };
        let bell = Arc::new(Bell::default());
        let end = Arc::clone(&bell);
        let asked = Arc::clone(&tally);
        let Mirror { tables, config } = self;
        let open = move |emitter: &WeakEmitter| {
            let alive = emitter.upgrade().ok_or("its emitter is there no more")?;
            if alive.transport_status().is_none() {
                return Err("its emitter has no transport: give `.mqtt(\"mqtt://…\")`".to_owned());
            }
            if !config.is_named() {
                return Err("its name has to have 1 to 64 letters, digits, '-', '_', '.'".to_owned());
            }
            let told = Arc::clone(&tally);
            alive.report_also(move |report| told.report(report));
            let (database, _) = tables.open_for(emitter, "the mirror")?;
            Ok(Writer::new(config.within_bounds(), tables, database, &alive, tally, bell))
        };
        let run = |mut writer: Writer, emitter, activity: &Arc<Activity>| writer.run(&emitter, activity);
        let begin = companion::thread("emitter-mirror", open, run, move || end.end());
        builder
            .state(attached)
            .state(Doubted::default())
            .troubles(move || asked.troubles())
            .companion("mirror", begin)
    }
}
