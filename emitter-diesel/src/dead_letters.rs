//! Dead letters in a database: kept by each node, looked through, mended, tried again and discarded.
//!
//! A node with [`DeadLetters`] writes each dead letter into the table `dlq_events` before the message of
//! which it was made is acknowledged. A [`DeadLetterBook`] works on that table, in the node itself, in a tool of its own, or
//! in a job at night:
//!
//! ```no_run
//! # #[cfg(feature = "sqlite")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use diesel::{Connection, SqliteConnection};
//! use emitter_diesel::Emitter;
//! use emitter_diesel::dead_letters::{DeadLetterBook, DeadLetters, Facet, Redrive, Selection};
//! use emitter_diesel::tables::Tables;
//!
//! let tables = Tables::new(|| SqliteConnection::establish("shop.db")).migrate();
//! let letters = DeadLetters::new(tables.clone());
//! let emitter = Emitter::builder().service("shop").node("a").with(letters).start().await?;
//!
//! let book = DeadLetterBook::open(&tables)?;
//! for (listener, letters) in book.count_by(&Selection::default(), Facet::Listener)? {
//!     println!("{letters} of {listener}");
//! }
//! // The listener is mended and deployed: what it missed in the last 24 hours, 50 a second.
//! let missed = Selection { listener: Some("notify".to_owned()), ..Selection::last(Duration::from_secs(24 * 3600)) };
//! let redriven = book.redrive(&emitter, &missed, Redrive { per_second: 50, ..Redrive::default() }).await?;
//! println!("{} handled, {} failed again", redriven.handled, redriven.failed);
//! # Ok(())
//! # }
//! ```
//!
//! # Redrive
//! What a listener did not handle goes to that listener alone, with all its attempts, on whichever node of the service calls
//! [`redrive`](DeadLetterBook::redrive). What could not be read is read again, and goes to all listeners of the node that
//! hear it. What could not be published is published. A letter is deleted when that has come to a good end, and stays
//! otherwise, with the attempts and the last error; no second one is made of it.
//!
//! Oldest first; of the letters of one listener and key, one after the other, and none after one that failed. Any number of
//! redrives may work at once, on any nodes: each letter is claimed by one of them, for as long as that lives. A process that
//! dies between a listener's success and the deletion has its letter handled again: listeners that must not do twice what they
//! do know the event by its id or idempotency key, which a redrive does not change.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use emitter_core::dead_letter::{DeadLetter, Reason};
use emitter_core::event::Timestamp;
use emitter_core::transport::Properties;
use emitter_core::{BeginCompanion, Builder, Companion, EventId, Extension, Origin};
use futures_util::FutureExt;

use crate::clearing::{Clearing, PORTION};
use crate::tables::{Doubted, LetterRow, Tables, ago};

mod book;
mod keeping;
mod redrive;
mod store;

pub use self::book::{BookError, DeadLetterBook};
use self::keeping::Keeping;
pub(crate) use self::redrive::Course;
pub use self::redrive::{Redrive, Redriven};

/// Where a node keeps its dead letters, and how many.
///
/// Given to the builder of an emitter by [`with`](Builder::with).
#[derive(Debug, Clone)]
#[must_use = "it is given to the builder of an emitter: `.with(letters)`"]
pub struct DeadLetters {
    tables: Tables,
    keep: Duration,
    limits: Limits,
}

/// How long a node keeps its letters.
pub(crate) struct Keeps(pub(crate) Duration);

/// How often is looked for old letters.
const REST: Duration = Duration::from_secs(3600);

/// How many letters a table holds.
#[derive(Debug, Clone, Copy)]
struct Limits {
    letters: u64,
    bytes: u64,
}

impl DeadLetters {
    /// Dead letters in these tables.
    pub fn new(tables: Tables) -> Self {
        Self {
            tables,
            keep: Duration::from_secs(90 * 24 * 3600),
            limits: Limits { letters: 100_000, bytes: 1024 * 1024 * 1024 },
        }
    }

    /// For how long a letter is kept; it is deleted within an hour after that. Default 90 days.
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// How many letters the table holds at most, those of all nodes together and about. What comes then is not kept, and
    /// counted in `dead_letters_lost`: what is there already was promised to somebody. Default 100,000.
    pub fn most(mut self, letters: u64) -> Self {
        self.limits.letters = letters;
        self
    }

    /// How many bytes of events they hold at most, in the same way. Default 1 GiB.
    pub fn most_bytes(mut self, bytes: u64) -> Self {
        self.limits.bytes = bytes;
        self
    }
}

/// Keeps every dead letter of this node in a table, beside whatever else keeps them
/// ([`keep_dead_letters`](Builder::keep_dead_letters)).
///
/// [`start`](Builder::start) then fails with [`StartError::Companion`](emitter_core::StartError::Companion)
/// where the database cannot be reached or its tables are not those of this version.
impl Extension for DeadLetters {
    fn extend(self, builder: Builder) -> Builder {
        let DeadLetters { tables, keep, limits } = self;
        let keeping = Arc::new(Keeping::new(DeadLetterBook::unopened(&tables), limits));
        let (asked, ended) = (Arc::downgrade(&keeping), Arc::downgrade(&keeping));
        let builder = builder
            .companion("dead letters", ending(ended))
            .keep_dead_letters(move |letter| keeping.keep(letter))
            .troubles(move || asked.upgrade().and_then(|keeping| keeping.trouble()).into_iter().collect());
        let names = tables.all_names().clone();
        let clear = move |_: &_, dialect, _| Ok(store::Store { dialect, names }.clear(keep, PORTION));
        let clearing = Clearing {
            part: "the keeper of dead letters",
            thread: "emitter-letters",
            rows: "dead letters",
            rest: REST,
            cleared: Arc::default(),
        };
        builder
            .state(Keeps(keep))
            .state(Doubted::default())
            .companion("dead letters", clearing.companion(tables, clear))
    }
}

/// Nothing to begin; at the end of the node, letters wait for their database no more.
fn ending(keeping: Weak<Keeping>) -> BeginCompanion {
    Box::new(move |_| {
        let end = async move {
            if let Some(keeping) = keeping.upgrade() {
                keeping.ends();
            }
        };
        // What an outbox gives up at its end becomes letters.
        std::future::ready(Ok(Companion::new(move |_| end.boxed()).after(&["outbox"]))).boxed()
    })
}

/// Which letters are meant: those for which everything holds that is said. Nothing said, all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// These, by [`KeptLetter::id`]. An empty list means none.
    pub ids: Option<Vec<i64>>,
    /// Those of this event.
    pub event: Option<EventId>,
    /// Why they are dead letters.
    pub reason: Option<Reason>,
    /// A pattern of the topic, in which `*` stands for anything, as in `prisma/events/user/*`.
    pub topic: Option<String>,
    /// The model; what could not be read has none.
    pub model: Option<String>,
    /// The listener that did not handle them.
    pub listener: Option<String>,
    /// The service of the node on which they died.
    pub service: Option<String>,
    /// The name of that node.
    pub node: Option<String>,
    /// Kept at this time or later, by the database's clock.
    pub since: Option<Timestamp>,
    /// Kept before this time.
    pub until: Option<Timestamp>,
    /// With an [id](KeptLetter::id) up to this: what comes later has a greater one, whatever clocks say.
    pub up_to: Option<i64>,
}

impl Selection {
    /// One letter.
    #[must_use]
    pub fn one(id: i64) -> Self {
        Self { ids: Some(vec![id]), ..Self::default() }
    }

    /// What came in the last 24 hours, or however long, by this machine's clock.
    #[must_use]
    pub fn last(duration: Duration) -> Self {
        Self { since: Some(ago(duration)), ..Self::default() }
    }
}

/// A part of a list of letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// What comes after the letter with this [id](KeptLetter::id), the last one of the page before. Default: the first.
    pub after: Option<i64>,
    /// How many, 1 to 1,000. Default 100.
    pub limit: usize,
    /// The newest first, and not the oldest. Default: no.
    pub newest_first: bool,
}

impl Default for Page {
    fn default() -> Self {
        Self { after: None, limit: 100, newest_first: false }
    }
}

/// What letters are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Facet {
    /// Why they are dead letters.
    Reason,
    /// Their topic.
    Topic,
    /// Their model; empty where it is not known.
    Model,
    /// The listener that did not handle them; empty where it was none.
    Listener,
    /// The node on which they died.
    Node,
}

impl Facet {
    const fn column(self) -> &'static str {
        match self {
            Self::Reason => "reason",
            Self::Topic => "original_topic",
            Self::Model => "model",
            Self::Listener => "listener",
            Self::Node => "node",
        }
    }
}

/// A dead letter as it is kept.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptLetter {
    /// Its number in the table: of letters of one node, the order in which they died.
    pub id: i64,
    /// The topic on which the event came, or was to go.
    pub original_topic: String,
    /// Why, for sorting; `None` where somebody else wrote the row.
    pub reason: Option<Reason>,
    /// Why, in words: of the last attempt.
    pub failure_reason: String,
    /// The listener that did not handle it.
    pub listener: Option<String>,
    /// The model; none of what could not be read.
    pub model: Option<String>,
    /// The key of its row, of what a listener did not handle.
    pub key: Option<String>,
    /// How often it was tried, redrives included.
    pub attempts: u32,
    /// How many redrives ended in vain.
    pub redrives: u32,
    /// The event's id, where one could be read.
    pub event: Option<EventId>,
    /// The service of the node on which it died.
    pub service: String,
    /// The name of that node.
    pub node: String,
    /// When it was kept, by the database's clock.
    pub created_at: Timestamp,
    /// A redrive has it.
    pub is_claimed: bool,
    /// How many bytes the event has.
    pub bytes: u64,
    /// The event's bytes; `None` in lists, and where they were too many to be kept (more than 1 MiB).
    pub payload: Option<Vec<u8>>,
    /// What travelled beside them.
    pub properties: Properties,
}

impl fmt::Debug for KeptLetter {
    /// Leaves payload, properties and key out: they hold users' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptLetter")
            .field("id", &self.id)
            .field("original_topic", &self.original_topic)
            .field("failure_reason", &self.failure_reason)
            .field("listener", &self.listener)
            .field("attempts", &self.attempts)
            .field("redrives", &self.redrives)
            .field("event", &self.event)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl From<LetterRow> for KeptLetter {
    fn from(row: LetterRow) -> Self {
        let properties = row.properties.as_deref().and_then(Properties::from_json).unwrap_or_default();
        Self {
            id: row.id,
            original_topic: row.original_topic,
            reason: Reason::from_name(&row.reason),
            failure_reason: row.failure_reason,
            listener: row.listener,
            model: row.model,
            key: row.record_id,
            attempts: u32::try_from(row.attempts).unwrap_or_default(),
            redrives: u32::try_from(row.redrives).unwrap_or_default(),
            event: row.event_id.and_then(|id| id.parse().ok()),
            service: row.service,
            node: row.node,
            created_at: Timestamp::from_millis(row.created),
            is_claimed: row.claimed != 0,
            bytes: u64::try_from(row.bytes).unwrap_or_default(),
            payload: row.payload.and_then(|text| store::read(text, row.payload_encoding.as_deref())),
            properties,
        }
    }
}

/// A row as the letter that it was made of; `None` where somebody else wrote it.
fn letter(row: LetterRow) -> Option<DeadLetter> {
    let node = Origin {
        service: row.service.into(),
        node: row.node.into(),
        incarnation: *row.incarnation.parse::<EventId>().ok()?.as_uuid(),
    };
    let payload = match row.payload {
        Some(text) => store::read(text, row.payload_encoding.as_deref())?,
        None => Vec::new(),
    };
    let reason = Reason::from_name(&row.reason)?;
    let mut letter = DeadLetter::kept(row.letter_id.parse().ok()?, reason, row.original_topic, payload, node);
    letter.listener = row.listener;
    letter.event = row.event_id.and_then(|id| id.parse().ok());
    letter.properties =
        row.properties.as_deref().map_or(Some(Properties::default()), Properties::from_json)?;
    Some(letter)
}
