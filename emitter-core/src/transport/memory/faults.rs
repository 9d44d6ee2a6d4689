//! What goes wrong on a link, decided by a seeded random number.

use std::time::Duration;

use crate::key::Key;

/// What goes wrong on the links of a [`MemoryBroker`](super::MemoryBroker): how often, from 0
/// (never, the default of each) to 1 (always), for each message that passes.
///
/// Every fault is one that the protocol mends. With the same seed, each link draws the same
/// random numbers; when they are drawn depends on tokio's scheduling.
///
/// ```
/// use emitter_core::transport::memory::{Faults, MemoryBroker};
///
/// let broker = MemoryBroker::with_faults(Faults { seed: 7, drop: 0.01, duplicate: 0.05, ..Faults::default() });
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// Where the random numbers begin.
    pub seed: u64,
    /// A publish, its confirmation, a delivery or its acknowledgement vanishes. The link breaks
    /// with it, and what is unsettled comes again.
    pub drop: f64,
    /// A publish reaches the broker twice, or a delivery its client.
    pub duplicate: f64,
    /// Two neighbouring deliveries change places, where two wait. An order per key cannot be
    /// asserted then.
    pub reorder: f64,
    /// A message takes up to [`longest_delay`](Self::longest_delay), and all behind it wait.
    pub delay: f64,
    /// The link goes down for up to [`longest_outage`](Self::longest_outage).
    pub disconnect: f64,
    /// Default 2 ms.
    pub longest_delay: Duration,
    /// How long a broken link stays down at most. Default 10 ms; at least 1 ms.
    pub longest_outage: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            seed: 0,
            drop: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            delay: 0.0,
            disconnect: 0.0,
            longest_delay: Duration::from_millis(2),
            longest_outage: Duration::from_millis(10),
        }
    }
}

impl Faults {
    /// The dice of the link with this name.
    pub(super) fn dice(&self, link: &str) -> Dice {
        let seed = self.seed ^ Key::Text(link.into()).stable_hash();
        Dice { faults: *self, random: fastrand::Rng::with_seed(seed) }
    }
}

/// The fates of what passes over one link.
#[derive(Debug)]
pub(super) struct Dice {
    faults: Faults,
    random: fastrand::Rng,
}

/// What happens to one message on its way.
#[derive(Debug)]
pub(super) struct Passage {
    pub(super) delay: Option<Duration>,
    /// It never arrives, and the link breaks.
    pub(super) lost: bool,
    /// How often it arrives otherwise.
    pub(super) copies: u8,
    /// The link breaks after it.
    pub(super) cut: bool,
}

impl Dice {
    /// The fate of the next message.
    pub(super) fn passage(&mut self) -> Passage {
        let Faults { drop, duplicate, delay, disconnect, longest_delay, .. } = self.faults;
        Passage {
            delay: self.happens(delay).then(|| longest_delay.mul_f64(self.random.f64())),
            lost: self.happens(drop),
            copies: if self.happens(duplicate) { 2 } else { 1 },
            cut: self.happens(disconnect),
        }
    }

    /// Whether an answer vanishes.
    pub(super) fn loses_answer(&mut self) -> bool {
        self.happens(self.faults.drop)
    }

    /// How many messages more go out before a lost confirmation is noticed.
    pub(super) fn unnoticed(&mut self) -> u8 {
        self.random.u8(0..8)
    }

    /// Whether two neighbours change places.
    pub(super) fn swaps(&mut self) -> bool {
        self.happens(self.faults.reorder)
    }

    /// How long the link stays down.
    pub(super) fn outage(&mut self) -> Duration {
        self.faults.longest_outage.mul_f64(self.random.f64()).max(Duration::from_millis(1))
    }

    fn happens(&mut self, probability: f64) -> bool {
        self.random.f64() < probability
    }
}
