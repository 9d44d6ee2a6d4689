//! Committed events that are written into the outbox after their commit, by its own thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::result::{Error, QueryResult};
use emitter_core::receipt::Loss;
use emitter_core::record::Record;
use emitter_core::retry::Backoff;
use emitter_core::transport::Ack;
use emitter_core::{Emitter, HandOut, Origin, QueueKeeper, Queued};
use tracing::warn;

use super::handing::{Handing, handler, later};
use super::writing::{NO_OUTBOX, wrong};
use super::{BACKOFF, Mailbox, Opened, Store};
use crate::bounds::{backoff, within};
use crate::tables::Database;

/// How events of `.queued()` are written into the outbox.
///
/// They are written as soon as the thread of the outbox is free; while it writes, the next ones gather.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueConfig {
    /// How many events are written at a time. Default 100; at least 1.
    pub batch: usize,
    /// How often it is tried to write an event that the database refuses, before it is lost to other nodes: the last time
    /// by itself. Default 3; at least 1.
    pub attempts: u32,
    /// How long it waits for its next attempt. Default 1 s, doubled each time up to 60 s, and up to 1 s more; each part no longer than a
    /// day.
    pub backoff: Backoff,
    /// How long an event may wait in memory before [`Emitter::health`] tells of it. Default 10 s. It waits for
    /// that long only where the database is away, or slower than what is written into it.
    pub late: Duration,
    /// How many events may wait in memory, as while the database is away. What comes beyond is lost to other
    /// nodes, and counted (`queue_refused`). Default 65,536.
    pub capacity: usize,
    /// How many bytes of rows may wait so, by their JSON, beside the first 64 events. Default 64 MiB.
    pub bytes: usize,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            batch: 100,
            attempts: 3,
            backoff: BACKOFF,
            late: Duration::from_secs(10),
            capacity: 65_536,
            bytes: 64 * 1024 * 1024,
        }
    }
}

/// How many batches are written before the thread does other things.
const TURN: usize = 8;

impl QueueConfig {
    /// What nobody meant, as near to it as works.
    pub(super) fn within_bounds(self) -> Self {
        const OF: &str = "the queue of an outbox";
        Self {
            batch: within(OF, "batch", self.batch, 1, usize::MAX),
            attempts: within(OF, "attempts", self.attempts, 1, u32::MAX),
            backoff: backoff(OF, self.backoff),
            ..self
        }
    }

    /// Who writes down what is queued, on the side of those who wait for nothing.
    pub(super) fn keeper(self, mailbox: &Arc<Mailbox>) -> QueueKeeper {
        let (hands, came) = (Arc::clone(mailbox), Arc::clone(mailbox));
        QueueKeeper {
            capacity: self.capacity,
            bytes: self.bytes,
            late: self.late,
            hand_out: Box::new(move |event| match hands.door().handing() {
                Handing::AtOnce => {
                    let in_hand = hands.hand_out(event);
                    HandOut::Now(Ack::new(move || in_hand.done()))
                }
                Handing::Later(left) => HandOut::Later(Ack::new(move || drop(left))),
            }),
            // It is awake while there are any.
            came: Box::new(move || came.queued()),
        }
    }
}

/// # Errors
/// When nobody writes down what is queued.
pub(crate) fn refuse_to_queue(emitter: &Emitter) -> QueryResult<()> {
    if emitter.queue_status().is_some() { Ok(()) } else { Err(wrong(NO_OUTBOX)) }
}

/// What is to be written, and how often the database refused it.
pub(super) struct Queueing {
    config: QueueConfig,
    store: Store,
    lanes: u32,
    /// Whose listeners work on it already, or are to read it.
    handlers: [Arc<str>; 2],
    /// How often the database refused the oldest ones, and how many these are.
    refused: u32,
    tried: usize,
    /// Of what was written last, some may be there though it ended with an error.
    is_unsure: bool,
    /// When there is something to be done, if there is.
    next: Option<Instant>,
}

impl Queueing {
    pub(super) fn new(config: QueueConfig, opened: &Opened, origin: &Origin) -> Self {
        Self {
            config: config.within_bounds(),
            store: opened.store.clone(),
            lanes: opened.lanes,
            handlers: [handler(origin).into(), later(&handler(origin)).into()],
            refused: 0,
            tried: 0,
            is_unsure: false,
            next: None,
        }
    }

    /// Writes what is due; whether some of it was written.
    ///
    /// # Errors
    /// The database's, where that is there no more. Then nothing is lost: it waits for the next connection.
    pub(super) fn write(&mut self, database: &mut dyn Database, emitter: &Emitter) -> QueryResult<bool> {
        let mut wrote = false;
        for _ in 0..TURN {
            let batch = self.due(emitter);
            if batch.is_empty() {
                break;
            }
            wrote |= self.write_batch(database, emitter, batch)?;
        }
        Ok(wrote)
    }

    /// For how long there is nothing to be done.
    pub(super) fn wait(&self) -> Duration {
        self.next.map_or(Duration::MAX, |next| next.saturating_duration_since(Instant::now()))
    }

    fn due(&mut self, emitter: &Emitter) -> Vec<Arc<Queued>> {
        if self.refused > 0 && !self.wait().is_zero() {
            return Vec::new();
        }
        // What was refused is tried again as it was, so that each is tried as often as all.
        let batch = emitter.queued(if self.refused > 0 { self.tried } else { self.config.batch });
        self.next = (!batch.is_empty()).then(Instant::now);
        batch
    }

    fn write_batch(
        &mut self,
        database: &mut dyn Database,
        emitter: &Emitter,
        batch: Vec<Arc<Queued>>,
    ) -> QueryResult<bool> {
        let batch = if self.is_unsure { self.absent(database, emitter, batch)? } else { batch };
        let batch = recorded(emitter, batch);
        if self.refused + 1 >= self.config.attempts {
            return self.write_each(database, emitter, batch);
        }
        let Err(error) = self.insert(database, &batch)? else {
            (self.refused, self.is_unsure) = (0, false);
            emitter.settle_queued(batch.into_iter().map(|(event, _)| (event, Ok(()))).collect());
            return Ok(true);
        };
        (self.refused, self.tried) = (self.refused + 1, batch.len());
        self.next = Some(Instant::now() + self.config.backoff.delay(self.refused, fastrand::f64()));
        warn!(events = batch.len(), "the outbox does not take events: {error}");
        Ok(false)
    }

    /// The last attempt: each by itself, so that one that the database cannot take takes no other along.
    fn write_each(
        &mut self,
        database: &mut dyn Database,
        emitter: &Emitter,
        batch: Vec<(Arc<Queued>, Record)>,
    ) -> QueryResult<bool> {
        let (attempts, mut wrote) = (self.config.attempts, false);
        // Some of those that were tried before may have been found in the table.
        self.tried = batch.len();
        for one in batch {
            let outcome = self.insert(database, std::slice::from_ref(&one))?;
            let outcome = outcome.map_err(|error| Loss::Unwritten { attempts, error: error.to_string() });
            wrote |= outcome.is_ok();
            self.tried -= 1;
            emitter.settle_queued(vec![(one.0, outcome)]);
        }
        (self.refused, self.is_unsure) = (0, false);
        Ok(wrote)
    }

    /// Writes them, or says why the database refuses that.
    ///
    /// # Errors
    /// The database's, where that is there no more.
    fn insert(
        &mut self,
        database: &mut dyn Database,
        batch: &[(Arc<Queued>, Record)],
    ) -> QueryResult<Result<(), Error>> {
        let [now, later] = &self.handlers;
        let records = batch.iter().map(|(event, record)| {
            let handler = if event.is_handed_later() { later } else { now };
            (record, &**handler)
        });
        let inserts = self.store.insert(records, self.lanes);
        let Err(error) = inserts.iter().try_for_each(|insert| database.run(insert)) else {
            return Ok(Ok(()));
        };
        let was_unsure = std::mem::replace(&mut self.is_unsure, true);
        self.answers(database)?;
        // Of one statement that it refused nothing is there.
        self.is_unsure = was_unsure || inserts.len() > 1;
        Ok(Err(error))
    }

    /// Whether the database is there: then the connection that has just failed answers.
    fn answers(&self, database: &mut dyn Database) -> QueryResult<()> {
        database.pairs(self.store.clock()).map(drop)
    }

    /// Those that are not in the table; all, where it does not tell.
    fn absent(
        &mut self,
        database: &mut dyn Database,
        emitter: &Emitter,
        batch: Vec<Arc<Queued>>,
    ) -> QueryResult<Vec<Arc<Queued>>> {
        let ids: Vec<String> = batch.iter().map(|event| event.id().to_string()).collect();
        let Ok(there) = database.pairs(self.store.there(&ids)) else {
            return self.answers(database).map(|()| batch);
        };
        self.is_unsure = false;
        let is_there = |event: &Arc<Queued>| there.iter().any(|row| row.text == event.id().to_string());
        let (there, absent): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_there);
        emitter.settle_queued(there.into_iter().map(|event| (event, Ok(()))).collect());
        Ok(absent)
    }
}

/// What is to be written of them. One that cannot be encoded is lost.
fn recorded(emitter: &Emitter, batch: Vec<Arc<Queued>>) -> Vec<(Arc<Queued>, Record)> {
    let mut records = Vec::with_capacity(batch.len());
    for event in batch {
        match emitter.record_queued(&event) {
            Ok(record) => records.push((event, record)),
            Err(error) => emitter.settle_queued(vec![(event, Err(Loss::Encode(error.to_string())))]),
        }
    }
    records
}
