//! How a node relays.

use std::time::Duration;

/// How a node relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayConfig {
    /// How long a lane belongs to a relay that says nothing more, by the database's clock. A relay says three
    /// times as often that it is there. Default 15 s; at least 1 s.
    pub lease: Duration,
    /// How often the tables are looked at though nobody said that something came: for rows that other programs
    /// committed. Default 250 ms.
    pub poll: Duration,
    /// How many rows are published and not confirmed at a time. Default 4,000.
    pub window: usize,
    /// How many rows are read, and settled, at a time. Default 1,000.
    pub batch: usize,
    /// How often a row is published that the broker refuses. Default 3.
    pub max_attempts: u32,
    /// How long a node waits for a listener for what others left to theirs, before it counts as orphaned: so
    /// long after its start listeners may still be added. Default 60 s.
    pub orphan_after: Duration,
    /// How long the history keeps a row that was settled. Default 7 days.
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
            orphan_after: Duration::from_secs(60),
            keep: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

impl RelayConfig {
    /// What nobody meant, as near to it as works.
    pub(super) fn within_bounds(self) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            lease: self.lease.clamp(Duration::from_secs(1), DAY),
            poll: self.poll.clamp(Duration::from_millis(1), DAY),
            window: self.window.max(1),
            batch: self.batch.max(1),
            max_attempts: self.max_attempts.max(1),
            ..self
        }
    }
}
