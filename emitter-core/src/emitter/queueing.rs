//! Committed events that wait in memory until somebody has written them down.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::burying::Held;
use super::emitting::told_of_loop;
use super::{Emission, Emitter, Shared, parcel};
use crate::ack::Ack;
use crate::dead_letter::{DeadLetter, Reason};
use crate::dispatcher::{Job, Message};
use crate::event::EventId;
use crate::queue::Refused;
use crate::receipt::{Loss, Ticket, Way};
use crate::record::{Record, RecordError};

/// Who writes queued events down: what an outbox gives its emitter.
pub struct QueueKeeper {
    /// How many events may wait. What comes beyond is lost to other nodes, and counted.
    pub capacity: usize,
    /// How many bytes their rows may have, in the same way: as JSON, but for the first 64 events, which are not measured.
    pub bytes: usize,
    /// How long an event may wait before [`Emitter::health`] tells of it.
    pub late: Duration,
    /// An event is about to go to the listeners of this node: when they are handed it.
    pub hand_out: Box<dyn Fn(EventId) -> HandOut + Send + Sync>,
    /// An event came, and none waited. It is called by the thread that wrote.
    pub came: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for QueueKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { capacity, bytes, late, .. } = self;
        let mut debug = f.debug_struct("QueueKeeper");
        debug.field("capacity", capacity).field("bytes", bytes).field("late", late).finish_non_exhaustive()
    }
}

/// When the listeners of this node are handed a queued event.
#[derive(Debug)]
pub enum HandOut {
    /// At once: what they return when they are done with it. It is dropped where that does not happen in this life.
    Now(Ack),
    /// Later, by [`replay_record`](Emitter::replay_record), when it is written down: what is dropped as soon as it is. Where
    /// it is lost to other nodes instead, they are handed it after all.
    Later(Ack),
}

/// How the queue of events that are to be written down stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct QueueStatus {
    /// How many wait: what other nodes would never hear of if the process were killed now.
    pub waiting: usize,
    /// How long the oldest of them has waited; zero where none waits.
    pub oldest: Duration,
}

/// A committed event that is to be written down.
pub struct Queued {
    emission: Emission,
    listeners: Arc<Mutex<Listeners>>,
    since: Instant,
    /// Of its rows, where they were measured.
    bytes: usize,
}

/// How far the listeners of this node are with an event that is not written down yet.
enum Listeners {
    AtWork,
    /// They are handed it when it is written.
    Later(Ack),
    /// They are done before it was written.
    Done(Ack),
    /// It is written as one that no listener has to be handed any more.
    Settled,
    /// It is written as one that they are to be handed in another life.
    Written,
}

impl Queued {
    /// The event's id.
    #[must_use]
    pub fn id(&self) -> EventId {
        self.emission.id()
    }

    /// How long it has waited.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether the listeners of this node are handed it [later](HandOut::Later), when it is written down.
    #[must_use]
    pub fn is_handed_later(&self) -> bool {
        matches!(*self.listeners(), Listeners::Later(_))
    }

    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        lock(&self.listeners)
    }

    /// The event is in the table.
    fn written(&self) {
        let mut listeners = self.listeners();
        match mem::replace(&mut *listeners, Listeners::Written) {
            Listeners::Done(ack) => ack.done(),
            Listeners::Settled => *listeners = Listeners::Settled,
            Listeners::Later(ack) => drop(ack),
            Listeners::AtWork | Listeners::Written => {}
        }
    }
}

impl fmt::Debug for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Queued").field(&self.emission).finish()
    }
}

/// What waits, oldest first.
pub(super) struct Unwritten {
    keeper: QueueKeeper,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    entries: VecDeque<(Arc<Queued>, Option<Box<Ticket>>)>,
    /// Of all that were measured.
    bytes: usize,
    closed: bool,
}

/// So many events wait unmeasured: to measure one takes as long as to encode it, and where few wait, somebody writes them.
const UNMEASURED: usize = 64;

impl Unwritten {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }

    /// Takes an event in; returns what the listeners of this node say when they are done with it.
    fn push(&self, emission: &mut Emission) -> Result<Option<Ack>, Refused> {
        let is_measured = self.waiting().entries.len() >= UNMEASURED;
        let bytes = if is_measured { bytes(emission) } else { 0 };
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(Refused::Closed);
        }
        let is_full = waiting.entries.len() >= self.keeper.capacity;
        if is_full || waiting.bytes.saturating_add(bytes) > self.keeper.bytes {
            return Err(Refused::Full);
        }
        let hand_out = emission.scope.local.then(|| (self.keeper.hand_out)(emission.id()));
        let (handled, listeners) = match hand_out {
            Some(HandOut::Now(ack)) => (Some(ack), Listeners::AtWork),
            Some(HandOut::Later(ack)) => (None, Listeners::Later(ack)),
            None => (None, Listeners::AtWork),
        };
        let listeners = Arc::new(Mutex::new(listeners));
        let handled = handled.map(|ack| {
            let listeners = Arc::clone(&listeners);
            Ack::new(move || {
                let mut listeners = lock(&listeners);
                if matches!(*listeners, Listeners::AtWork) {
                    *listeners = Listeners::Done(ack);
                } else {
                    drop(listeners);
                    ack.done();
                }
            })
        });
        let queued = Queued { emission: emission.share(), listeners, since: Instant::now(), bytes };
        waiting.bytes = waiting.bytes.saturating_add(bytes);
        waiting.entries.push_back((Arc::new(queued), emission.ticket.take()));
        let first = waiting.entries.len() == 1;
        drop(waiting);
        if first {
            (self.keeper.came)();
        }
        Ok(handled)
    }

    /// Takes these out, each with who wants to know.
    fn take(&self, settled: &[(Arc<Queued>, Result<(), Loss>)]) -> Vec<Option<Option<Box<Ticket>>>> {
        let mut waiting = self.waiting();
        let taken = settled.iter().map(|(event, _)| {
            // Most often the first.
            let place = waiting.entries.iter().position(|(other, _)| Arc::ptr_eq(other, event))?;
            waiting.bytes = waiting.bytes.saturating_sub(event.bytes);
            waiting.entries.remove(place).map(|(_, ticket)| ticket)
        });
        taken.collect()
    }

    pub(super) fn status(&self) -> QueueStatus {
        let waiting = self.waiting();
        let oldest = waiting.entries.front().map_or(Duration::ZERO, |(event, _)| event.age());
        QueueStatus { waiting: waiting.entries.len(), oldest }
    }

    /// Why it is not as it should be, if it is not.
    pub(super) fn problem(&self) -> Option<String> {
        let QueueStatus { waiting, oldest } = self.status();
        (oldest > self.keeper.late).then(|| {
            format!(
                "{waiting} events wait to be written into the outbox, the oldest for {} s: is its database there, and does \
                 it take what is written?",
                oldest.as_secs()
            )
        })
    }

    /// Takes nothing more in, and forgets what waits; returns how many that were.
    pub(super) fn close(&self) -> usize {
        let left = {
            let mut waiting = self.waiting();
            (waiting.closed, waiting.bytes) = (true, 0);
            mem::take(&mut waiting.entries)
        };
        let count = left.len();
        left.into_iter()
            .filter_map(|(_, ticket)| ticket)
            .for_each(|ticket| ticket.recorded(Err(Loss::ShutDown)));
        count
    }
}

/// How many bytes the rows of an event have; none, where they cannot be encoded, which is found when it is to be written.
fn bytes(emission: &Emission) -> usize {
    // The row's `Serialize` is the user's.
    let content = catch_unwind(AssertUnwindSafe(|| emission.event.content()));
    content.ok().and_then(Result::ok).map_or(0, |content| content.bytes())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Emitter {
    /// Has somebody write down what is queued. Later calls change nothing.
    pub fn keep_queued(&self, keeper: QueueKeeper) {
        let unwritten = Unwritten { keeper, waiting: Mutex::default() };
        // Set once: an emitter has one outbox.
        let _ = self.node.shared.unwritten.set(unwritten);
    }

    /// How the queue of events that are to be written down stands; `None` where nobody
    /// [writes them down](Self::keep_queued).
    #[must_use]
    pub fn queue_status(&self) -> Option<QueueStatus> {
        self.node.shared.unwritten.get().map(Unwritten::status)
    }

    /// The oldest events that wait to be written down, in order. They wait until [`settle_queued`](Self::settle_queued).
    #[must_use]
    pub fn queued(&self, most: usize) -> Vec<Arc<Queued>> {
        let Some(unwritten) = self.node.shared.unwritten.get() else { return Vec::new() };
        unwritten.waiting().entries.iter().take(most).map(|(event, _)| Arc::clone(event)).collect()
    }

    /// Writes a queued event down, as [`record`](Self::record) does. Where the listeners of this node are done
    /// with it, the record does not name them any more.
    ///
    /// # Errors
    /// [`RecordError`] when it cannot be encoded.
    pub fn record_queued(&self, event: &Queued) -> Result<Record, RecordError> {
        let mut record = self.record(&event.emission)?;
        let mut listeners = event.listeners();
        if record.scope.remote && matches!(*listeners, Listeners::Done(_)) {
            *listeners = Listeners::Settled;
        }
        record.scope.local &= !matches!(*listeners, Listeners::Settled);
        Ok(record)
    }

    /// Says what became of queued events. What was lost becomes a dead letter.
    pub fn settle_queued(&self, settled: Vec<(Arc<Queued>, Result<(), Loss>)>) {
        let shared = &self.node.shared;
        let Some(unwritten) = shared.unwritten.get() else { return };
        let tickets = unwritten.take(&settled);
        for ((event, outcome), ticket) in settled.into_iter().zip(tickets) {
            // One that is there no more was counted at the end of the shutdown.
            let Some(ticket) = ticket else { continue };
            match &outcome {
                Ok(()) => {
                    event.written();
                    shared.counters.queue_written.add_one();
                }
                Err(loss) => {
                    shared.lose(&event, loss);
                    if event.is_handed_later() {
                        shared.hand_at_last(&event);
                    }
                }
            }
            if let Some(ticket) = ticket {
                ticket.recorded(outcome);
            }
        }
    }
}

impl Shared {
    /// An event that is written down from here on: listeners of this node get it at once, others from there.
    pub(super) fn emit_queued(&self, unwritten: &Unwritten, mut emission: Emission) {
        let (scope, operation) = (emission.scope, emission.event.meta().operation.index());
        let asked = emission.ticket.as_mut().map(|ticket| ticket.emitted(scope.remote, true));
        if let Some(asked) = asked.as_ref().filter(|_| !scope.local) {
            asked.local(Way::NotMeant);
        }
        if !self.admits(&*emission.event) {
            if let Some(asked) = &asked {
                asked.outbox(Way::Lost(Loss::Loop));
            }
            return told_of_loop(scope, asked);
        }
        if let Some(tap) = &self.tap {
            tap(&emission.event, emission.allowed);
        }
        if scope.is_none() {
            return;
        }
        if scope.remote {
            emission.model.tally.emitted_remote[operation].add_one();
        }
        let pushed = unwritten.push(&mut emission);
        let is_kept = pushed.is_ok();
        let Emission { event, model, allowed, ticket, .. } = emission;
        let job = match pushed {
            Ok(handled) => {
                self.counters.queued.add_one();
                if scope.local && handled.is_none() {
                    model.tally.emitted_local[operation].add_one();
                }
                let done = handled.map(|handled| self.recorded(handled));
                done.map(|done| Job::recorded(event, scope.remote, allowed.remote, done))
            }
            Err(reason) => {
                self.refuse_queued(reason, ticket);
                // What is not published would never come back to this node's members of groups.
                let local = scope.local || scope.remote && allowed.local && model.hears_local(false);
                local.then(|| Job::local(event, false, allowed.remote))
            }
        };
        let Some(job) = job else { return };
        model.tally.emitted_local[operation].add_one();
        let is_taken = if is_kept {
            self.push_recorded(&model, job)
        } else {
            let is_taken = model.queue.push(Message::Event(job)).is_ok();
            if !is_taken {
                model.tally.overflowed.add_one();
            }
            is_taken
        };
        if let Some(asked) = asked.filter(|_| is_taken) {
            asked.local(Way::Taken);
        }
    }

    /// An event does not fit.
    fn refuse_queued(&self, reason: Refused, ticket: Option<Box<Ticket>>) {
        self.counters.queue_refused.add_one();
        if let Some(ticket) = ticket {
            ticket.recorded(Err(reason.into()));
        }
        self.overflows.log(|more| match reason {
            Refused::Full => {
                error!(more, "the queue for the outbox is full: events are lost to other nodes");
            }
            Refused::Closed => warn!(more, "an event came after the shutdown: it is lost to other nodes"),
        });
    }

    /// Hands an event to the listeners of this node that were to be handed it when it was written down, which it cannot be.
    fn hand_at_last(&self, event: &Queued) {
        let Emission { event, model, allowed, .. } = event.emission.share();
        if model.queue.push(Message::Event(Job::local(event, false, allowed.remote))).is_err() {
            model.tally.overflowed.add_one();
        }
    }

    /// An event could not be written down.
    fn lose(&self, event: &Queued, loss: &Loss) {
        self.counters.queue_failed.add_one();
        self.overflows.log(|more| error!(more, "an event is lost to other nodes: {loss}"));
        if !self.dead_letters.may() {
            return;
        }
        let emission = &event.emission;
        let original =
            catch_unwind(AssertUnwindSafe(|| parcel::original(self, &*emission.event))).unwrap_or_default();
        let letter = self.dead_letters.letter(Reason::Unpublished, loss.to_string(), original);
        let model = Some(emission.event.model().name.to_owned());
        let letter = DeadLetter { event: Some(event.id()), model, ..letter };
        self.dead_letters.put(letter, Held::Nothing, emission.scope.remote);
    }
}
