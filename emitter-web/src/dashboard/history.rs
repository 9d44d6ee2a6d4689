//! The last quarter of an hour of a node, in samples.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use emitter_core::metrics::Stats;

/// How many samples are kept.
pub(super) const KEPT: usize = 180;

/// How a node stood at a moment.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) stats: Stats,
    /// Seconds of the last message to itself.
    pub(super) round_trip: Option<f64>,
    /// What the tables held; `None` where they did not say.
    pub(super) tables: Option<Held>,
}

/// What the tables held at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// Rows of the outbox that are to be published.
    pub(super) backlog: u64,
    /// How many seconds the oldest of them has waited.
    pub(super) oldest: f64,
    pub(super) letters: u64,
}

/// The last samples, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<VecDeque<Sample>>);

impl History {
    pub(super) fn push(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push_back(sample);
        if samples.len() > KEPT {
            samples.pop_front();
        }
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// How much a number grew in a second, from sample to sample.
pub(super) fn rates(samples: &[Sample], number: impl Fn(&Stats) -> u64) -> Vec<Option<f64>> {
    let rate = |pair: &[Sample]| {
        let seconds = (pair[1].at - pair[0].at).as_secs_f64();
        let grown = number(&pair[1].stats).saturating_sub(number(&pair[0].stats));
        (seconds > 0.0).then(|| grown as f64 / seconds)
    };
    samples.windows(2).map(rate).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_rate_is_in_events_per_second() {
        let begun = Instant::now();
        let sample = |seconds, published| {
            let mut stats = Stats::default();
            stats.published = published;
            let at = begun + Duration::from_secs(seconds);
            Sample { at, stats, round_trip: None, tables: None }
        };
        let samples = [sample(0, 0), sample(5, 50), sample(5, 60), sample(7, 50)];
        let of = |stats: &Stats| stats.published;
        assert_eq!(rates(&samples, of), [Some(10.0), None, Some(0.0)]);
        assert_eq!(rates(&samples[..1], of), []);
        let history = History::default();
        (0..400).for_each(|second| history.push(sample(second, 0)));
        assert_eq!(history.samples().len(), KEPT);
    }
}
