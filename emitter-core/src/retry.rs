//! How long to wait before the next attempt: exponential, capped, with jitter.

use std::time::Duration;

/// Delays that double from `base` up to `cap`, with a random part.
///
/// Pure: the caller gives the random number, so that it can be tested and replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The delay after the first failure, before jitter.
    pub base: Duration,
    /// The longest delay, before jitter.
    pub cap: Duration,
    /// At most this much is added at random, so that many clients do not come back at once.
    pub jitter: Duration,
}

impl Backoff {
    /// The delay after the `failures`-th failure in a row (1 = first); `random` is in `[0, 1)`.
    #[must_use]
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let exponential = self.base.saturating_mul(1 << doublings).min(self.cap);
        exponential + self.jitter.mul_f64(random.clamp(0.0, 1.0))
    }
}
