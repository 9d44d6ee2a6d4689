//! How a node relays.

use std::time::Duration;

use emitter_core::retry::Backoff;

use crate::bounds::{AGES, DAY, backoff, within};
use crate::outbox::BACKOFF;

/// How a node relays. A value that would not work is replaced by the nearest one that does; a start says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayConfig {
    /// How long a lane belongs to a relay that says nothing more, by the database's clock. A relay says three
    /// times as often that it is there. Default 15 s; 1 s to a day.
    pub lease: Duration,
    /// How often the tables are looked at though nobody said that something came: for rows that other programs
    /// committed. Default 250 ms; 1 ms to a day.
    pub poll: Duration,
    /// How many rows are published and not confirmed at a time. Default 4,000; at least 1.
    pub window: usize,
    /// How many rows are read, and settled, at a time. Default 1,000; at least 1.
    pub batch: usize,
    /// How often a row is published that the broker refuses. Default 3; at least 1.
    pub max_attempts: u32,
    /// How long such a row waits for its next attempt, and with it what comes after it of its key. Default 1 s, doubled each time up to
    /// 60 s, and up to 1 s more; each part no longer than a day.
    pub backoff: Backoff,
    /// How long a node waits for a listener for what others left to theirs, before it counts as orphaned: so
    /// long after its start listeners may still be added. Default 60 s.
    pub orphan_after: Duration,
    /// How long the history keeps a row that was settled. Default 7 days; at most 100 years.
    pub keep: Duration,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            poll: Duration::from_millis(250),
            window: 4_000,
            batch: 1_000,
            max_attempts: 3,
            backoff: BACKOFF,
            orphan_after: Duration::from_secs(60),
            keep: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

impl RelayConfig {
    /// What nobody meant, as near to it as works.
    pub(super) fn within_bounds(self) -> Self {
        const OF: &str = "the relay";
        Self {
            lease: within(OF, "lease", self.lease, Duration::from_secs(1), DAY),
            poll: within(OF, "poll", self.poll, Duration::from_millis(1), DAY),
            window: within(OF, "window", self.window, 1, usize::MAX),
            batch: within(OF, "batch", self.batch, 1, usize::MAX),
            max_attempts: within(OF, "max_attempts", self.max_attempts, 1, u32::MAX),
            backoff: backoff(OF, self.backoff),
            keep: within(OF, "keep", self.keep, Duration::ZERO, AGES),
            ..self
        }
    }
}
