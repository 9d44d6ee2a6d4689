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
        // `mul_f64` would panic beyond `Duration::MAX`, and for NaN.
        let random = if random > 0.0 { random.min(1.0) } else { 0.0 };
        let jitter = Duration::try_from_secs_f64(self.jitter.as_secs_f64() * random).unwrap_or(self.jitter);
        exponential.saturating_add(jitter.min(self.jitter))
    }
}

/// How often a listener is called for one event, and when.
///
/// While it retries, events of the same key wait; so there is a budget of time, after which the
/// event is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Calls in all, the first one included. 1 is no retry. Default 3.
    pub attempts: u32,
    /// The time between calls. Default 1 s, doubled each time up to 30 s, and up to 250 ms more.
    pub backoff: Backoff,
    /// No call begins later than this after the first one. Default 30 s.
    pub budget: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        let backoff = Backoff {
            base: Duration::from_secs(1),
            cap: Duration::from_secs(30),
            jitter: Duration::from_millis(250),
        };
        Self { attempts: 3, backoff, budget: Duration::from_secs(30) }
    }
}

impl Retry {
    /// How long to wait after the `failures`-th failure, `since_first` after the first call began;
    /// `None` when it is given up. `random` is in `[0, 1)`.
    #[must_use]
    pub fn next(&self, failures: u32, since_first: Duration, random: f64) -> Option<Duration> {
        let delay = self.backoff.delay(failures, random);
        (failures < self.attempts && since_first.saturating_add(delay) <= self.budget).then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            4 => (0..1_000_000_u64).prop_map(Duration::from_micros),
            1 => any::<u64>().prop_map(Duration::from_secs),
            1 => Just(Duration::MAX),
        ]
    }

    fn any_backoff() -> impl Strategy<Value = Backoff> {
        (any_duration(), any_duration(), any_duration()).prop_map(|(base, cap, jitter)| Backoff {
            base,
            cap,
            jitter,
        })
    }

    /// Doubles one at a time.
    fn naive(backoff: &Backoff, failures: u32) -> Duration {
        let doubled = (1..failures.min(100)).fold(backoff.base, |delay, _| delay.saturating_mul(2));
        doubled.min(backoff.cap)
    }

    proptest! {
        #[test]
        fn lies_between_the_doubled_base_and_the_jitter_above(
            backoff in any_backoff(), failures in prop_oneof![0..40_u32, any::<u32>()], random in 0.0..1.0_f64
        ) {
            let delay = backoff.delay(failures, random);
            // 31 doublings of a base of 1 ns are 2 s: the cap may be out of reach.
            let least = naive(&backoff, failures.min(32));
            prop_assert!(delay >= least, "{:?} < {:?}", delay, least);
            prop_assert!(delay <= least.saturating_add(backoff.jitter), "{:?}", delay);
            prop_assert!(delay <= backoff.delay(failures.saturating_add(1), random));
            prop_assert!(backoff.delay(failures, 0.0) <= delay && delay <= backoff.delay(failures, 1.0));
        }

        #[test]
        fn no_random_number_makes_it_panic(backoff in any_backoff(), random in any::<f64>()) {
            let delay = backoff.delay(3, random);
            prop_assert!(delay >= backoff.delay(3, 0.0) && delay <= backoff.delay(3, 1.0));
        }
    }

    fn check(failures: u32, random: f64, expected_ms: u64) {
        let [base, cap, jitter] = [1_000, 60_000, 1_000].map(Duration::from_millis);
        let delay = Backoff { base, cap, jitter }.delay(failures, random);
        assert_eq!(delay, Duration::from_millis(expected_ms), "{failures} failures, {random}");
    }

    #[test]
    fn doubles_up_to_the_cap_and_adds_jitter() {
        check(0, 0.0, 1_000);
        check(1, 0.0, 1_000);
        check(2, 0.5, 2_500);
        check(6, 0.0, 32_000);
        check(7, 0.0, 60_000);
        check(u32::MAX, 0.25, 60_250);
    }

    #[test]
    fn it_is_given_up_after_so_many_attempts_or_so_long() {
        let check = |failures, elapsed_s, expected_s: Option<u64>| {
            let delay = Retry::default().next(failures, Duration::from_secs(elapsed_s), 0.0);
            assert_eq!(delay, expected_s.map(Duration::from_secs), "{failures} failures, {elapsed_s} s");
        };
        check(1, 0, Some(1));
        check(2, 1, Some(2));
        check(3, 3, None);
        check(1, 29, Some(1));
        check(1, 30, None);
        assert_eq!(Retry { attempts: 1, ..Retry::default() }.next(1, Duration::ZERO, 0.0), None);
    }

    #[test]
    fn no_setting_makes_it_panic() {
        let longest = Duration::MAX;
        let backoff = Backoff { base: longest, cap: longest, jitter: Duration::from_secs(1) };
        assert_eq!(backoff.delay(u32::MAX, 0.5), longest);
    }
}
