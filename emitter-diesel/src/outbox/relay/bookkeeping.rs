//! How far listeners are with events with which something went wrong, on its way into the ledger.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use diesel::result::{Error, QueryResult};
use emitter_core::record::{Progress, Standing};
use emitter_core::{Emitter, EventId};
use tracing::{error, warn};

use super::millis;
use crate::outbox::{BACKOFF, Store};
use crate::tables::{Database, Dialect};

/// What is to be written into the ledger.
pub(super) struct Bookkeeping {
    store: Store,
    service: String,
    /// By event, the last of each listener, and when it was told.
    waiting: BTreeMap<EventId, Vec<(Progress, Instant)>>,
    /// How often the database refused it.
    refused: u32,
    /// When it is tried again.
    next: Instant,
}

/// How many events are written of at a time.
const BATCH: usize = 100;

/// How many events may wait. Of those beyond nothing is written, so that listeners may be called once more.
const MOST: usize = 65_536;

/// How often it is tried to write what the database refuses.
const ATTEMPTS: u32 = 3;

impl Bookkeeping {
    pub(super) fn new(store: Store, service: String) -> Self {
        Self { store, service, waiting: BTreeMap::new(), refused: 0, next: Instant::now() }
    }

    /// Takes in what was told of an event's listeners.
    pub(super) fn add(&mut self, event: EventId, told: Vec<Progress>) {
        if self.waiting.len() >= MOST && !self.has(event) {
            return;
        }
        for progress in told.into_iter().filter(|progress| progress.standing != Standing::HeldBack) {
            let now = Instant::now();
            let listeners = self.waiting.entry(event).or_default();
            match listeners.iter_mut().find(|(earlier, _)| earlier.listener == progress.listener) {
                Some(earlier) => {
                    // An end is told without the error before it.
                    let error = progress.error.or(earlier.0.error.take());
                    *earlier = (Progress { error, ..progress }, now);
                }
                None => listeners.push((progress, now)),
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether something of an event is still to be written.
    pub(super) fn has(&self, event: EventId) -> bool {
        self.waiting.contains_key(&event)
    }

    /// For how long there is nothing to be done.
    pub(super) fn wait(&self) -> Duration {
        if self.refused == 0 { Duration::MAX } else { self.next.saturating_duration_since(Instant::now()) }
    }

    /// Writes what is due.
    ///
    /// # Errors
    /// The database's, where that is there no more. Then it waits for the next connection.
    pub(super) fn write(&mut self, database: &mut dyn Database, emitter: &Emitter) -> QueryResult<()> {
        if self.waiting.is_empty() || Instant::now() < self.next {
            return Ok(());
        }
        // A row of those comes first: without one, nothing is written.
        let queued = emitter.queue_status().filter(|queue| queue.waiting > 0).map(|_| {
            emitter.queued(usize::MAX).iter().map(|queued| queued.id()).collect::<HashSet<EventId>>()
        });
        let is_due = |event: &&EventId| queued.as_ref().is_none_or(|queued| !queued.contains(*event));
        let due: Vec<EventId> = self.waiting.keys().filter(is_due).copied().collect();
        for batch in due.chunks(BATCH) {
            if self.refused + 1 == ATTEMPTS {
                self.write_each(database, batch)?;
            } else if let Err(error) = self.write_batch(database, batch)? {
                self.refused += 1;
                self.next = Instant::now() + BACKOFF.delay(self.refused, fastrand::f64());
                warn!(events = batch.len(), "the ledger does not take how far listeners are: {error}");
                return Ok(());
            }
            batch.iter().for_each(|event| drop(self.waiting.remove(event)));
        }
        self.refused = 0;
        Ok(())
    }

    fn write_batch(&self, database: &mut dyn Database, batch: &[EventId]) -> QueryResult<Result<(), Error>> {
        let statements: Vec<String> = batch.iter().flat_map(|event| self.statements(*event)).collect();
        let dialect = self.store.dialect;
        let Err(error) = database.run(&dialect.atomic(&statements)) else { return Ok(Ok(())) };
        if dialect != Dialect::Postgres {
            // There may be none any more.
            let _ = database.run("ROLLBACK");
        }
        self.answers(database).map(|()| Err(error))
    }

    /// The last attempt: each by itself, so that one which the database cannot take takes no other along.
    fn write_each(&self, database: &mut dyn Database, batch: &[EventId]) -> QueryResult<()> {
        for event in batch {
            for statement in self.statements(*event) {
                if let Err(error) = database.run(&statement) {
                    self.answers(database)?;
                    error!(%event, "the ledger does not take how far a listener is, which may be called once more: {error}");
                }
            }
        }
        Ok(())
    }

    fn statements(&self, event: EventId) -> impl Iterator<Item = String> + '_ {
        let of_event = self.waiting.get(&event).into_iter().flatten();
        of_event.filter_map(move |(progress, since)| {
            let delay = match progress.standing {
                Standing::Retrying(delay) => millis(delay.saturating_sub(since.elapsed())),
                Standing::Handled | Standing::HeldBack | Standing::GivenUp => 0,
            };
            self.store.account(event, &self.service, progress, delay)
        })
    }

    /// Whether the database is there: then the connection that has just failed answers.
    fn answers(&self, database: &mut dyn Database) -> QueryResult<()> {
        database.pairs(self.store.clock()).map(drop)
    }
}
