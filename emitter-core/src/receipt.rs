//! What became of events, told to whoever asks.
//!
//! Nobody has to: a write never waits for its events and never fails because of them, and what is lost
//! is counted. Where a caller wants to know it of the very events of a call, it hands that a
//! [`Receipt`].

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::event::{EventId, Operation};
use crate::queue::Refused;
use crate::transport::PublishError;

/// Learns what becomes of events: `.emit().receipt(&receipt)` on a statement, or
/// [`EmitOptions::receipt`](crate::EmitOptions::receipt).
///
/// ```
/// # use emitter_core::{Emits, Emitter, EmitOptions};
/// # use emitter_core::receipt::{Receipt, Way};
/// # #[derive(Clone, serde::Serialize, serde::Deserialize, Emits)]
/// # #[emits(create)]
/// # struct Order { id: i64 }
/// # async fn placed(emitter: &Emitter) {
/// let receipt = Receipt::new();
/// emitter.publish_with(OrderCreated::new(Order { id: 1 }), EmitOptions::default().receipt(&receipt));
/// for fate in receipt.settled().await {
///     if let Way::Lost(loss) = fate.remote {
///         eprintln!("other nodes miss {}: {loss}", fate.id);
///     }
/// }
/// # }
/// ```
///
/// | what happened | `local` | `remote` |
/// |---|---|---|
/// | the transaction is open, or the broker has not answered | [`Open`](Way::Open) | `Open` |
/// | the transaction was rolled back | [`Withdrawn`](Way::Withdrawn) | `Withdrawn` |
/// | it became part of a net change, which has a fate of its own further on in the list | `Withdrawn` | `Withdrawn` |
/// | no listener here, no transport, `.local_only()`, `.remote_only()` | [`NotMeant`](Way::NotMeant) there | |
/// | the dispatcher has it; the broker has confirmed it | [`Taken`](Way::Taken) | `Taken` |
/// | an outbox has it, and its transaction is committed | [`Recorded`](Way::Recorded) | `Recorded` |
/// | it waits to be written into an outbox, after its commit | `Taken` | `Open`, then `Recorded` |
/// | a full queue, a shutdown, a refusal | [`Lost`](Way::Lost) | `Lost` |
///
/// A statement that touched no row has no event, and one that goes nowhere is not made: then there is
/// no fate. Cloning a receipt clones a pointer. One may be handed to several calls; it keeps the fate
/// of each of their events, so take a new one for each piece of work.
#[derive(Clone, Default)]
pub struct Receipt {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    fates: Mutex<Vec<Fate>>,
    changed: Notify,
}

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fate {
    /// The event's id.
    pub id: EventId,
    /// What was done.
    pub operation: Operation,
    /// On its way to the listeners of this node.
    pub local: Way,
    /// On its way to the other nodes.
    pub remote: Way,
    /// On its way into an outbox; [`NotMeant`](Way::NotMeant) of one that waits in memory.
    pub outbox: Way,
}

/// How far an event came on one of its ways.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Way {
    /// Nothing is decided: its transaction is open, or the broker has not confirmed it.
    Open,
    /// It does not go there: nobody listens there, there is no transport, or somebody narrowed it.
    NotMeant,
    /// It was never emitted: its transaction was rolled back, or it became part of a net change.
    Withdrawn,
    /// It is there: with the dispatcher, which calls the listeners (what these make of it is counted,
    /// not told here), or with the broker, which has confirmed it. (With QoS 0, it was written to the
    /// socket.)
    Taken,
    /// It is written down in an outbox, from where it gets there whatever dies meanwhile.
    Recorded,
    /// It is lost to those there, or nobody knows that it is not.
    Lost(Loss),
}

/// Why an event was lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Loss {
    /// The queue was at its bound.
    #[error("the queue was full")]
    QueueFull,
    /// The emitter was shut down, or dropped, before it got there or was confirmed. The broker may
    /// have it all the same.
    #[error("the emitter was shut down before it was confirmed")]
    ShutDown,
    /// Too many events caused each other: listeners write what makes listeners write.
    #[error("too many events caused each other, up to this one")]
    Loop,
    /// It could not be encoded.
    #[error("{0}")]
    Encode(String),
    /// The transport did not bring it to the broker.
    #[error(transparent)]
    Publish(PublishError),
    /// The outbox did not take it, though its database was there.
    #[error("the outbox did not take it in {attempts} attempts: {error}")]
    Unwritten {
        /// How often it was tried.
        attempts: u32,
        /// What the database said last.
        error: String,
    },
}

impl Receipt {
    /// One that was handed to nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What became of the events so far, in the order in which they were made. An event that would
    /// go nowhere is not made.
    #[must_use]
    pub fn fates(&self) -> Vec<Fate> {
        self.shared.lock().clone()
    }

    /// Waits until nothing is open of the events that were made so far; at once if there are none.
    ///
    /// While the broker is away this takes until it comes back: set a time-out. It takes for ever
    /// within the transaction of the events.
    pub async fn settled(&self) -> Vec<Fate> {
        loop {
            let changed = self.shared.changed.notified();
            let fates = self.fates();
            if fates.iter().all(|fate| ![&fate.local, &fate.remote, &fate.outbox].contains(&&Way::Open)) {
                return fates;
            }
            changed.await;
        }
    }

    /// Waits until those of the events that were made so far are in the outbox that are to be there: what is
    /// committed with `.queued()`. It takes no longer than the COMMIT where all are durable, and no time at all
    /// where none goes there. Whether other nodes have them already is another matter: see
    /// [`settled`](Self::settled).
    ///
    /// While the database is away this takes until it comes back: set a time-out. It takes for ever within the
    /// transaction of the events.
    ///
    /// # Errors
    /// Why the first one that is lost is not there: [`Loss::Unwritten`] when the database refused it three times,
    /// [`Loss::QueueFull`] when too many wait, [`Loss::ShutDown`] when the node ended before (the outbox may have
    /// it all the same), [`Loss::Encode`] and [`Loss::Loop`].
    pub async fn recorded(&self) -> Result<(), Loss> {
        loop {
            let changed = self.shared.changed.notified();
            let ways: Vec<Way> = self.shared.lock().iter().map(|fate| fate.outbox.clone()).collect();
            if !ways.contains(&Way::Open) {
                let lost = ways
                    .into_iter()
                    .find_map(|way| if let Way::Lost(loss) = way { Some(loss) } else { None });
                return lost.map_or(Ok(()), Err);
            }
            changed.await;
        }
    }

    /// The part of one event.
    pub(crate) fn ticket(&self, id: EventId, operation: Operation) -> Ticket {
        let mut fates = self.shared.lock();
        let place = fates.len();
        fates.push(Fate { id, operation, local: Way::Open, remote: Way::Open, outbox: Way::Open });
        Ticket { asked: Asked { receipt: self.clone(), place }, emitted: false }
    }

    /// What tells it from others.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.shared).addr()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Fate>> {
        self.fates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receipt").field(&*self.shared.lock()).finish()
    }
}

impl From<Refused> for Loss {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::QueueFull,
            Refused::Closed => Self::ShutDown,
        }
    }
}

/// Goes with an event until it has left, and then to the broker, and says where it ended.
#[derive(Debug)]
pub(crate) struct Ticket {
    asked: Asked,
    emitted: bool,
}

/// An event of which somebody asked what becomes of it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    receipt: Receipt,
    place: usize,
}

impl Ticket {
    /// The event leaves, to other nodes or not, by an outbox or not.
    pub(crate) fn emitted(&mut self, to_others: bool, by_outbox: bool) -> Asked {
        self.emitted = true;
        if !to_others {
            self.asked.remote(Way::NotMeant);
        }
        if !by_outbox {
            self.asked.outbox(Way::NotMeant);
        }
        self.asked.clone()
    }

    /// The outbox has it, or will never have it. What goes nowhere else by now goes there.
    pub(crate) fn recorded(self, outcome: Result<(), Loss>) {
        let way = outcome.map_or_else(Way::Lost, |()| Way::Recorded);
        self.asked.tell(|fate| {
            for open in [&mut fate.local, &mut fate.remote, &mut fate.outbox] {
                if *open == Way::Open {
                    *open = way.clone();
                }
            }
        });
    }

    /// The broker has it, or will never have it.
    pub(crate) fn settled(self, outcome: Result<(), Loss>) {
        self.asked.remote(outcome.map_or_else(Way::Lost, |()| Way::Taken));
    }

    pub(crate) fn receipt(&self) -> &Receipt {
        &self.asked.receipt
    }
}

impl Asked {
    pub(crate) fn local(&self, way: Way) {
        self.tell(|fate| fate.local = way);
    }

    pub(crate) fn remote(&self, way: Way) {
        self.tell(|fate| fate.remote = way);
    }

    pub(crate) fn outbox(&self, way: Way) {
        self.tell(|fate| fate.outbox = way);
    }

    fn tell(&self, what: impl FnOnce(&mut Fate)) {
        if let Some(fate) = self.receipt.shared.lock().get_mut(self.place) {
            what(fate);
        }
        self.receipt.shared.changed.notify_waiters();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let emitted = self.emitted;
        self.asked.tell(|fate| {
            if !emitted {
                (fate.local, fate.remote, fate.outbox) = (Way::Withdrawn, Way::Withdrawn, Way::Withdrawn);
            }
            let Fate { local, remote, outbox, .. } = fate;
            // Of one that waits in memory whoever emits it tells how far it came here.
            let queued = *outbox == Way::Open;
            for open in [remote, outbox].into_iter().chain(queued.then_some(local)) {
                if *open == Way::Open {
                    *open = Way::Lost(Loss::ShutDown);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(receipt: &Receipt) -> Ticket {
        receipt.ticket(EventId::now(), Operation::Create)
    }

    fn ways(receipt: &Receipt) -> Vec<(Way, Way)> {
        receipt.fates().into_iter().map(|fate| (fate.local, fate.remote)).collect()
    }

    #[tokio::test]
    async fn a_ticket_that_is_dropped_says_where() {
        let receipt = Receipt::new();
        assert!(receipt.settled().await.is_empty());
        drop(ticket(&receipt));
        let mut left = ticket(&receipt);
        left.emitted(true, false).local(Way::Taken);
        drop(left);
        let mut done = ticket(&receipt);
        done.emitted(true, false).local(Way::NotMeant);
        done.settled(Ok(()));
        let expected = [
            (Way::Withdrawn, Way::Withdrawn),
            (Way::Taken, Way::Lost(Loss::ShutDown)),
            (Way::NotMeant, Way::Taken),
        ];
        assert_eq!(ways(&receipt), expected);
        assert_eq!(receipt.settled().await.len(), 3);
    }

    #[tokio::test]
    async fn whoever_waits_is_told() {
        let receipt = Receipt::new();
        let mut ticket = ticket(&receipt);
        let waiting = tokio::spawn({
            let receipt = receipt.clone();
            async move { receipt.settled().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let asked = ticket.emitted(false, false);
        assert!(!waiting.is_finished());
        asked.local(Way::Taken);
        assert_eq!(waiting.await.unwrap()[0].local, Way::Taken);
    }
}
