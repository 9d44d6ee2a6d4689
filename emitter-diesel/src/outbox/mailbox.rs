//! What the thread of an outbox is told by others.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use emitter_core::gaps::wire::Ask;
use emitter_core::metrics::{Report, table};
use emitter_core::record::Progress;
use emitter_core::transport::PublishError;
use emitter_core::{EventId, Unpublished};

use super::OutboxState;
use super::handing::Door;

/// How often it is looked how an outbox stands, where somebody is told.
pub(crate) const LOOK: Duration = Duration::from_secs(5);

/// A look that is so late does not come.
const SOON: Duration = Duration::from_secs(20);

/// For so long somebody is told who asked.
const INTEREST: Duration = Duration::from_secs(60);

/// What waits for the thread of an outbox.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    came: Condvar,
    /// Events that listeners of this node have and are not done with.
    in_hand: Mutex<HashSet<EventId>>,
    /// Whether they get what is committed at once.
    door: Arc<Door>,
    /// Why the thread waits for its database, if it does.
    trouble: Mutex<Option<String>>,
    /// How the outbox stood at the last look, where somebody is told.
    standing: Mutex<Option<Standing>>,
    /// When a node's health was asked for last.
    asked: Mutex<Option<Instant>>,
}

/// How an outbox stood.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) at: Instant,
    /// When there is to be another look, if anybody wants to know.
    pub(crate) next: Instant,
    pub(crate) state: OutboxState,
    /// How many lanes this node has.
    pub(crate) lanes: usize,
}

impl Standing {
    /// How long the oldest row has waited. While nobody can look, it grows older, and where there was none, one may have been
    /// written since.
    fn oldest(&self) -> Duration {
        let unseen = if self.is_late() { self.at.elapsed() } else { Duration::ZERO };
        self.state.oldest.unwrap_or_default() + unseen
    }

    fn is_late(&self) -> bool {
        self.next.elapsed() > SOON
    }
}

/// Says that listeners are done with an event, or, dropped before that, that they will never be in this life.
#[derive(Debug)]
pub(crate) struct InHand {
    mailbox: Arc<Mailbox>,
    event: EventId,
    is_done: bool,
}

impl InHand {
    /// They are done. It stays in hand until that is [noted](Mailbox::noted), or it would be handed on again.
    pub(crate) fn done(mut self) {
        self.is_done = true;
        self.mailbox.put(|mail| mail.handled.push(self.event));
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        if !self.is_done {
            self.mailbox.hand().remove(&self.event);
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Mail {
    /// Rows may have been committed.
    pub(crate) woken: bool,
    /// Events are to be written down.
    queued: bool,
    /// What became of published rows.
    pub(crate) outcomes: Vec<(Sending, Result<(), PublishError>)>,
    /// Events that the listeners of this node are done with.
    pub(crate) handled: Vec<EventId>,
    /// How far listeners of this node are with events of which something went wrong, in order.
    pub(crate) progress: Vec<(EventId, Vec<Progress>)>,
    /// Questions of nodes that miss events.
    pub(crate) asks: Vec<Ask>,
    /// Somebody wants the thread to end.
    pub(crate) ending: bool,
    /// It knows that.
    is_told: bool,
    /// The thread is asleep, and nobody has woken it yet.
    waits: bool,
}

/// One publishing of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sending {
    pub(crate) id: i64,
    /// Which one it is: a row may be published again by the same relay.
    pub(crate) attempt: u64,
}

impl Mailbox {
    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, put: impl FnOnce(&mut Mail)) {
        let mut mail = self.mail();
        put(&mut mail);
        // Each call is one of the kernel's, and while rows are published there is one for each of them.
        if std::mem::take(&mut mail.waits) {
            self.came.notify_one();
        }
    }

    /// Says that rows were committed.
    pub(crate) fn wake(&self) {
        self.put(|mail| mail.woken = true);
    }

    /// Says that there is something to be written down.
    pub(crate) fn queued(&self) {
        self.put(|mail| mail.queued = true);
    }

    pub(crate) fn told(&self, sending: Sending, outcome: Result<(), PublishError>) {
        self.put(|mail| mail.outcomes.push((sending, outcome)));
    }

    /// Something went wrong with an event, or went on after that.
    pub(crate) fn account(&self, event: EventId, progress: Vec<Progress>) {
        self.put(|mail| mail.progress.push((event, progress)));
    }

    /// A node misses events. Of too many questions the last are forgotten: who asks in vain asks again.
    pub(crate) fn asked(&self, ask: Ask) {
        const MOST: usize = 256;
        self.put(|mail| {
            if mail.asks.len() < MOST {
                mail.asks.push(ask);
            }
        });
    }

    /// Says what is wrong with the database, or that nothing is.
    pub(crate) fn troubled(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// As a node's health has it.
    pub(crate) fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().map(|error| format!("outbox: it waits for its database: {error}"))
    }

    /// Says how the outbox stands.
    pub(crate) fn stands(&self, standing: Standing) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing);
    }

    fn standing(&self) -> Option<Standing> {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As a node's health has it.
    pub(crate) fn backlog(&self) -> Option<Unpublished> {
        let was_wanted = self.is_wanted();
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        // What was seen when somebody asked an hour ago says nothing.
        let standing = self.standing().filter(|standing| was_wanted || !standing.is_late())?;
        let events = standing.state.pending + standing.state.waiting;
        Some(Unpublished { events, oldest: standing.oldest() })
    }

    /// Whether somebody asks for a node's health.
    pub(crate) fn is_wanted(&self) -> bool {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.is_some_and(|asked| asked.elapsed() < INTEREST)
    }

    /// As it is told to who exports metrics.
    pub(crate) fn report(&self, report: &mut Report) {
        let Some(standing) = self.standing() else { return };
        let Standing { state, lanes, .. } = standing;
        for (status, rows) in [
            ("pending", state.pending),
            ("waiting", state.waiting),
            ("processing", state.processing),
            ("failed", state.failed),
            ("unreadable", state.unreadable),
            ("orphaned", state.orphaned),
        ] {
            report.gauge(&table::OUTBOX_ROWS, &[status], rows);
        }
        report.seconds(&table::OUTBOX_OLDEST_SECONDS, &[], standing.oldest());
        report.gauge(&table::OUTBOX_LANES, &["owned"], state.owned.into());
        report.gauge(&table::OUTBOX_LANES, &["free"], state.lanes.saturating_sub(state.owned).into());
        report.gauge(&table::OUTBOX_LANES_HERE, &[], lanes as u64);
        report.gauge(&table::OUTBOX_PAUSED, &[], state.paused.into());
    }

    fn hand(&self) -> MutexGuard<'_, HashSet<EventId>> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether listeners of this node get what it commits at once.
    pub(crate) fn door(&self) -> &Arc<Door> {
        &self.door
    }

    /// An event goes to the listeners of this node.
    pub(crate) fn hand_out(self: &Arc<Self>, event: EventId) -> InHand {
        self.hand().insert(event);
        InHand { mailbox: Arc::clone(self), event, is_done: false }
    }

    /// The tables know that listeners are done with these.
    pub(crate) fn noted(&self, events: &[EventId]) {
        let mut hand = self.hand();
        for event in events {
            hand.remove(event);
        }
    }

    /// How many events listeners of this node have.
    pub(crate) fn in_hand(&self) -> usize {
        self.hand().len()
    }

    /// Whether listeners of this node have an event.
    pub(crate) fn is_in_hand(&self, event: EventId) -> bool {
        self.hand().contains(&event)
    }

    pub(crate) fn end(&self) {
        self.put(|mail| mail.ending = true);
    }

    /// Everything that came, at once or within this time. That the thread is to end is said each time.
    pub(crate) fn take(&self, within: Duration) -> Mail {
        let nothing = |mail: &mut Mail| {
            !mail.woken
                && !mail.queued
                && mail.outcomes.is_empty()
                && mail.handled.is_empty()
                && mail.progress.is_empty()
                && mail.asks.is_empty()
                && (!mail.ending || mail.is_told)
        };
        let mut mail = self.mail();
        if !within.is_zero() && nothing(&mut mail) {
            let waited = self.came.wait_timeout_while(mail, within, |mail| {
                mail.waits = nothing(mail);
                mail.waits
            });
            mail = waited.unwrap_or_else(PoisonError::into_inner).0;
            mail.waits = false;
        }
        let ending = mail.ending;
        let taken = std::mem::take(&mut *mail);
        (mail.ending, mail.is_told) = (ending, ending);
        taken
    }
}
