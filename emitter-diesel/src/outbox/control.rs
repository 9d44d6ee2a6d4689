//! What an operator does to an outbox, and sees of it.

use std::fmt;
use std::time::{Duration, Instant};

use diesel::result::QueryResult;
use emitter_core::EventId;
use emitter_core::event::Timestamp;

use super::store::{self, Store};
use crate::tables::{Database, GivenUpRow, Pair, Tables, doubts_of, journal};

/// The hand on an outbox, from wherever its database can be reached: of a command, a test, a job. It needs no
/// running emitter, and blocks.
///
/// ```no_run
/// # #[cfg(feature = "sqlite")]
/// # fn stop() -> Result<(), Box<dyn std::error::Error>> {
/// use diesel::{Connection, SqliteConnection};
/// use emitter_diesel::outbox::Control;
/// use emitter_diesel::tables::Tables;
///
/// let tables = Tables::new(|| SqliteConnection::establish("shop.db"));
/// let mut outbox = Control::open(&tables)?;
/// outbox.pause()?; // what is committed from now on waits
/// println!("{} wait", outbox.state()?.pending);
/// outbox.resume()?;
/// # Ok(())
/// # }
/// ```
pub struct Control {
    database: Box<dyn Database>,
    store: Store,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("names", &self.store.names).finish_non_exhaustive()
    }
}

/// The database cannot be reached, or its tables are not those of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the outbox cannot be opened: {0}")]
pub struct OpenError(String);

/// How an outbox stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxState {
    /// Rows that are to be published.
    pub pending: u64,
    /// Rows that were refused and wait for their next attempt.
    pub waiting: u64,
    /// Rows that are published, or not to be, and that listeners of the node that wrote are not done with.
    pub processing: u64,
    /// Rows that were given up.
    pub failed: u64,
    /// Rows that no program could read.
    pub unreadable: u64,
    /// Rows for which nobody had a listener.
    pub orphaned: u64,
    /// How long ago the oldest row was written that is still to be published, by the database's clock.
    pub oldest: Option<Duration>,
    /// Lanes, and how many of them a relay owns.
    pub lanes: u32,
    /// How many lanes a relay owns at present.
    pub owned: u32,
    /// Nothing is published, nor handed to listeners, until somebody resumes.
    pub paused: bool,
}

impl OutboxState {
    /// Rows that nobody tries any more, until a person looks after them: see [`GivenUp`](super::GivenUp).
    #[must_use]
    pub const fn given_up(&self) -> u64 {
        self.failed + self.unreadable + self.orphaned
    }
}

/// A lane of an outbox, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneState {
    /// Its number.
    pub lane: u32,
    /// The node whose relay owns it; `None` where nobody does, or nobody has said so for longer than a lease.
    pub node: Option<String>,
    /// How often it has changed hands.
    pub epoch: u64,
    /// Nothing of it is published until somebody resumes.
    pub paused: bool,
    /// For how long it is that node's, unless it says again that it is there.
    pub lease: Option<Duration>,
}

/// A relay that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayState {
    /// Its node.
    pub node: String,
    /// Whether it takes lanes; one that ends does not.
    pub takes_lanes: bool,
    /// For how long it counts as there, unless it says so again.
    pub lease: Duration,
}

/// What there is of an event in an outbox and its history.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxRow {
    /// Its number.
    pub id: i64,
    /// `PENDING`, `WAITING`, `PROCESSING`, `FAILED`, `UNREADABLE`, `ORPHANED`, or `COMPLETED` in the history.
    pub status: String,
    /// Its model.
    pub model: String,
    /// The key of its row.
    pub key: Option<String>,
    /// The topic on which it goes.
    pub topic: String,
    /// How often it was published in vain.
    pub retries: u32,
    /// With what it failed last.
    pub last_error: Option<String>,
    /// When it was written down, by the database's clock.
    pub written_at: Option<Timestamp>,
    /// When it came into the history: everything is done.
    pub done_at: Option<Timestamp>,
    /// The event itself, as it is published.
    pub payload: Option<String>,
}

impl fmt::Debug for OutboxRow {
    /// Leaves key and event out, which are the user's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, status, model, .. } = self;
        f.debug_struct("OutboxRow")
            .field("id", id)
            .field("status", status)
            .field("model", model)
            .finish_non_exhaustive()
    }
}

/// How far a node that remembers it ([`CatchUp`](crate::catch_up::CatchUp)) is in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Behind {
    /// The node.
    pub node: String,
    /// The outbox of which the stream is.
    pub outbox: String,
    /// The lane.
    pub lane: u32,
    /// The model.
    pub model: String,
    /// How many numbers are settled that the node has not noted. It notes every 50 ms at first, then after each tenth of its
    /// life, and at least every second. `None` where the stream is of an outbox in another database.
    pub numbers: Option<u64>,
}

impl Control {
    /// Connects to the outbox in these tables.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong, and what to do.
    pub fn open(tables: &Tables) -> Result<Self, OpenError> {
        let (database, _) = tables.open().map_err(OpenError)?;
        let store = Store { dialect: database.dialect(), names: tables.all_names().clone() };
        Ok(Self { database, store })
    }

    /// Has all nodes publish nothing more from this outbox, and hand their listeners nothing more of what is written
    /// down in it; what is on its way arrives, and what listeners were handed already they go on with, also where they fail
    /// and are called again. Writes go on, and wait in their rows.
    ///
    /// Relays publish nothing from their next look at the tables on. Nodes learn what concerns their listeners with their
    /// next heartbeat: within a third of the [`lease`](super::RelayConfig::lease), 5 s by default.
    ///
    /// # Errors
    /// The database's.
    pub fn pause(&mut self) -> QueryResult<()> {
        self.database.run(&self.store.pause(true))
    }

    /// Has them go on, as soon. What listeners missed they are handed from the rows, in order, and what is committed
    /// meanwhile behind it, until there is a moment in which nothing is committed.
    ///
    /// # Errors
    /// The database's.
    pub fn resume(&mut self) -> QueryResult<()> {
        self.database.run(&self.store.pause(false))?;
        self.store.notify().map_or(Ok(()), |notify| self.database.run(&notify))
    }

    /// Waits until nothing is left that is to be published, and listeners are done with all that is written down, at most
    /// so long; `false` where something is left. What was given up is not waited for. A listener that is called again for
    /// two days has it wait as long: [`state`](Self::state) tells what is left.
    ///
    /// # Errors
    /// The database's.
    pub fn drain(&mut self, within: Duration) -> QueryResult<bool> {
        let begun = Instant::now();
        loop {
            let OutboxState { pending, waiting, processing, .. } = self.state()?;
            if pending + waiting + processing == 0 {
                return Ok(true);
            }
            if begun.elapsed() >= within {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(20).min(within));
        }
    }

    /// How it stands.
    ///
    /// # Errors
    /// The database's.
    pub fn state(&mut self) -> QueryResult<OutboxState> {
        OutboxState::read(&mut *self.database, &self.store)
    }

    /// All lanes, by number: which node's they are, and which of them rest.
    ///
    /// # Errors
    /// The database's.
    pub fn lanes(&mut self) -> QueryResult<Vec<LaneState>> {
        let pairs = self.database.pairs(self.store.each_lane())?;
        Ok(pairs.iter().filter_map(lane).collect())
    }

    /// What is to be said against the settings and the clock of the database, each with what to do about it.
    ///
    /// # Errors
    /// The database's.
    pub fn doubts(&mut self) -> QueryResult<Vec<String>> {
        let Store { dialect, names } = &self.store;
        let mut doubts = doubts_of(&mut *self.database, names)?;
        if let Some(journal) = journal(*dialect, names) {
            let modes = self.database.pairs(journal)?;
            doubts.extend(modes.iter().filter(|mode| mode.number != 0).map(|mode| {
                format!(
                    "its journal_mode is `{}`, so that readers and writers hold each other up: run `PRAGMA journal_mode = WAL` \
                     once, it stays",
                    mode.text
                )
            }));
        }
        Ok(doubts)
    }

    /// What there is of an event: nothing where it was not durable, or has been cleared away. The history is read through.
    ///
    /// # Errors
    /// The database's.
    pub fn find(&mut self, event: EventId) -> QueryResult<Vec<OutboxRow>> {
        let rows = self.database.given_up(self.store.find(event))?;
        let row = |row: GivenUpRow| OutboxRow {
            written_at: row.created.map(Timestamp::from_millis),
            done_at: row.processed.map(Timestamp::from_millis),
            id: row.id,
            status: row.status,
            model: row.model,
            key: row.record_id,
            topic: row.topic,
            retries: u32::try_from(row.retries).unwrap_or_default(),
            last_error: row.last_error,
            payload: row.payload,
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// How far nodes are that remember it in this database, by node.
    ///
    /// # Errors
    /// The database's.
    pub fn behind(&mut self) -> QueryResult<Vec<Behind>> {
        let pairs = self.database.pairs(self.store.behind())?;
        Ok(pairs.iter().filter_map(behind).collect())
    }

    /// The relays that are there, by node.
    ///
    /// # Errors
    /// The database's.
    pub fn relays(&mut self) -> QueryResult<Vec<RelayState>> {
        let pairs = self.database.pairs(self.store.each_relay())?;
        Ok(pairs.iter().filter_map(relay).collect())
    }
}

impl OutboxState {
    /// As the tables have it.
    pub(super) fn read(database: &mut dyn Database, store: &Store) -> QueryResult<Self> {
        let mut state = Self::default();
        for pair in database.pairs(store.statuses())? {
            let number = u64::try_from(pair.number).unwrap_or_default();
            let few = u32::try_from(number).unwrap_or(u32::MAX);
            match &*pair.text {
                store::PENDING => state.pending = number,
                store::WAITING => state.waiting = number,
                store::PROCESSING => state.processing = number,
                store::FAILED => state.failed = number,
                store::UNREADABLE => state.unreadable = number,
                store::ORPHANED => state.orphaned = number,
                "lanes" => state.lanes = few,
                "owned" => state.owned = few,
                "paused" => state.paused = number > 0,
                _ => {}
            }
        }
        let oldest = database.pairs(store.oldest_pending())?;
        let ages = oldest.iter().map(|pair| u64::try_from(pair.number).unwrap_or_default());
        state.oldest = ages.max().map(Duration::from_millis);
        Ok(state)
    }
}

fn lane(pair: &Pair) -> Option<LaneState> {
    let mut parts = pair.text.splitn(4, '/');
    let (lane, epoch) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let paused = parts.next()? != "0";
    let lease = u64::try_from(pair.number).ok().filter(|left| *left > 0).map(Duration::from_millis);
    let node = parts.next().filter(|_| lease.is_some()).map(str::to_owned);
    Some(LaneState { lane, node, epoch, paused, lease })
}

fn behind(pair: &Pair) -> Option<Behind> {
    let mut parts = pair.text.splitn(4, '/');
    let outbox = parts.next()?.to_owned();
    let lane = parts.next()?.parse().ok()?;
    let (model, node) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    Some(Behind { node, outbox, lane, model, numbers: u64::try_from(pair.number).ok() })
}

fn relay(pair: &Pair) -> Option<RelayState> {
    let (takes_lanes, node) = pair.text.split_once('/')?;
    let lease = Duration::from_millis(u64::try_from(pair.number).unwrap_or_default());
    Some(RelayState { node: node.to_owned(), takes_lanes: takes_lanes != "0", lease })
}
