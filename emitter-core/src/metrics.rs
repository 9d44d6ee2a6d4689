//! What is counted. Read with [`Emitter::stats`](crate::Emitter::stats), or told to whatever exporter the application has, through
//! the facade [`metrics`], where the builder is given [`Metrics`].
//!
//! [`table`] has all of it: names, labels, and the alert that is for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[cfg(feature = "prometheus")]
mod prometheus;
mod report;
pub mod table;

#[cfg(feature = "prometheus")]
pub use prometheus::Prometheus;
pub(crate) use report::Reporting;
pub use report::{Metrics, Report};

/// A number that only grows. It has a cache line for itself: counters that writers touch are not
/// slowed by those that the dispatcher touches.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    (
        $(#[$doc:meta])* $live:ident => $snapshot:ident { $($(#[$field_doc:meta])* $field:ident,)* }
        elsewhere { $($(#[$other_doc:meta])* $other:ident,)* }
    ) => {
        #[derive(Debug, Default)]
        pub(crate) struct $live { $(pub(crate) $field: Counter,)* }

        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $snapshot {
            $($(#[$field_doc])* pub $field: u64,)*
            $($(#[$other_doc])* pub $other: u64,)*
        }

        impl $live {
            /// Without what is counted elsewhere.
            pub(crate) fn snapshot(&self) -> $snapshot {
                $snapshot { $($field: self.$field.get(),)* $($other: 0,)* }
            }
        }
    };
}

counters! {
    /// What happened since the emitter started, in events unless said otherwise.
    Counters => Stats {
        /// Confirmed by the broker.
        published,
        /// Confirmed by the broker with the remark that nobody was subscribed (MQTT 5).
        published_to_nobody,
        /// Given up: too large, refused, displaced, or not encodable.
        publish_failed,
        /// Not accepted for publishing, because the queue was at its bound.
        publish_refused,
        /// Of an outbox, which has them still: not taken by the broker, or by the queue for it. It tries again, or gives up.
        postponed,
        /// Committed, and to be written into an outbox (`.queued()`). What of these is not counted in the next
        /// two is in memory alone, and lost to other nodes if the process is killed.
        queued,
        /// Of these, written.
        queue_written,
        /// Of these, given up: the outbox refused them, or did not have them at the end of a shutdown.
        queue_failed,
        /// Not taken to be written into an outbox, because as many waited as may.
        queue_refused,
        /// Not emitted, because too many events caused each other up to this one.
        loops,
        /// Messages that came from the broker, but for what nodes say to each other about events that are missing.
        received,
        /// Own echoes, dropped.
        echoes,
        /// Redelivered events, dropped.
        duplicates,
        /// Events under this node's name that another node wrote: give each node its own name.
        namesakes,
        /// Messages, or parts of a batch, that were no event: wrong size, depth, form or type; unknown model,
        /// operation or topic.
        bad_messages,
        /// Those among them that nobody signed whom this node trusts.
        unauthentic,
        /// Times that events of an outbox, or of a node, were missing, and asked for.
        gaps,
        /// Events that came because they were missing and asked for.
        recovered,
        /// Events that were missing, and that nobody has any more: their outbox, or the node that published them.
        lost,
        /// Well-formed events for which no listener was left.
        unheard,
        /// Dead letters that were forgotten, because there were too many of them, or that did not get
        /// where they go.
        dead_letters_lost,
        /// Events that were handed to listeners once more, from a record or by [`Emitter::replay`](crate::Emitter::replay).
        replayed,
    }
    // By model, by listener, by reason.
    elsewhere {
        /// Handed to local dispatch.
        emitted_local,
        /// Handed to publishing.
        emitted_remote,
        /// Calls of listeners that were not made because their filters held the event back.
        filtered,
        /// Calls of listeners that ended well.
        handled,
        /// Calls of listeners that returned an error.
        failed,
        /// Calls of listeners that panicked.
        panicked,
        /// Calls of listeners that took longer than their time-out.
        timed_out,
        /// Calls of listeners that were made because an earlier one for the same event failed.
        retried,
        /// Calls of listeners that were no attempts, because what they need was not there, as the database of an inbox:
        /// they are made again.
        unready,
        /// Events that a listener did not handle in all its attempts.
        given_up,
        /// Dead letters: events that could not be read, handled or published.
        dead_letters,
        /// Events that a listener missed, because its queue or the model's was at its bound.
        overflowed,
    }
}

/// Lets one message through every `interval`, and says how many it held back.
#[derive(Debug)]
#[doc(hidden)]
pub struct OnceInAWhile {
    started: Instant,
    interval: Duration,
    /// Milliseconds since `started` at which the next one may pass.
    next: AtomicU64,
    held_back: Counter,
}

impl OnceInAWhile {
    /// At most once in this time.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self { started: Instant::now(), interval, next: AtomicU64::new(0), held_back: Counter::default() }
    }

    /// Runs `log` with the number of messages held back since the last time, if it is time.
    pub fn log(&self, log: impl FnOnce(u64)) {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let now = millis(self.started.elapsed());
        let next = self.next.load(Ordering::Relaxed);
        let later = now.saturating_add(millis(self.interval));
        if now >= next
            && self.next.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            log(self.held_back.0.swap(0, Ordering::Relaxed));
        } else {
            self.held_back.add_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn the_first_passes_and_the_next_wait() {
        let once = OnceInAWhile::every(Duration::MAX);
        let mut passed = Vec::new();
        (0..100).for_each(|_| once.log(|more| passed.push(more)));
        assert_eq!(passed, [0]);
        assert_eq!(once.held_back.get(), 99);
    }

    #[test]
    fn what_was_held_back_is_told_once() {
        let once = OnceInAWhile::every(Duration::from_millis(50));
        let mut passed = Vec::new();
        for round in 0..2 {
            (0..10).for_each(|_| once.log(|more| passed.push(more)));
            assert!(passed.len() <= round + 1);
            std::thread::sleep(Duration::from_millis(60));
        }
        once.log(|more| passed.push(more));
        assert_eq!((passed.len(), passed[0]), (3, 0));
        assert_eq!(passed.iter().sum::<u64>() + 3, 21);
    }

    #[test]
    fn many_threads_lose_no_count() {
        let once = OnceInAWhile::every(Duration::from_millis(1));
        let (passed, told) = (AtomicUsize::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        once.log(|more| {
                            passed.fetch_add(1, Ordering::Relaxed);
                            told.fetch_add(more, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        let passed = u64::try_from(passed.into_inner()).unwrap();
        assert!(passed > 0);
        assert_eq!(passed + told.into_inner() + once.held_back.get(), 80_000);
    }

    #[test]
    fn a_snapshot_has_the_counts() {
        let counters = Counters::default();
        counters.echoes.add(3);
        counters.received.add_one();
        assert_eq!(counters.snapshot(), Stats { echoes: 3, received: 1, ..Stats::default() });
    }
}
