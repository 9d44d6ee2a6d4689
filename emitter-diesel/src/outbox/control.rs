//! What an operator does to an outbox, and sees of it.

use std::fmt;
use std::time::{Duration, Instant};

use diesel::result::QueryResult;

use super::store::{self, Store};
use crate::tables::{Database, Tables};

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
    /// Nothing is published until somebody resumes.
    pub paused: bool,
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

    /// Has all relays, on whatever node, publish nothing more from this outbox; what is on its way arrives.
    /// Writes go on, and wait.
    ///
    /// # Errors
    /// The database's.
    pub fn pause(&mut self) -> QueryResult<()> {
        self.database.run(&self.store.pause(true))
    }

    /// Has them go on.
    ///
    /// # Errors
    /// The database's.
    pub fn resume(&mut self) -> QueryResult<()> {
        self.database.run(&self.store.pause(false))?;
        self.store.notify().map_or(Ok(()), |notify| self.database.run(&notify))
    }

    /// Waits until nothing is left that is to be published, at most so long; `false` where something is. What was
    /// given up is not waited for, nor are listeners.
    ///
    /// # Errors
    /// The database's.
    pub fn drain(&mut self, within: Duration) -> QueryResult<bool> {
        let begun = Instant::now();
        loop {
            let OutboxState { pending, waiting, .. } = self.state()?;
            if pending + waiting == 0 {
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
