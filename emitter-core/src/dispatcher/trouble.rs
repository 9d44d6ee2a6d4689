//! What goes wrong with listeners: counted, logged, and told to whoever has to know.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, warn};

use super::account::Entry;
use super::attempts::End;
use super::{Job, Listener};
use crate::metrics::{Counters, OnceInAWhile};
use crate::record::Standing;

/// An event that a listener did not handle in all its attempts.
pub(crate) struct GivenUp<'j> {
    pub(crate) job: &'j Job,
    /// To be [noted](Job::note) when the event is where it goes: until then it would be lost.
    pub(crate) entry: Entry,
}

/// Makes a dead letter of it.
pub(crate) type Bury = Arc<dyn Fn(GivenUp<'_>) + Send + Sync>;

/// Counts and logs what goes wrong, in the task and in the calls that it has spawned.
pub(super) struct Trouble {
    pub(super) counters: Arc<Counters>,
    bury: Bury,
    failures: OnceInAWhile,
    waits: OnceInAWhile,
    given_up: OnceInAWhile,
    overflows: OnceInAWhile,
}

impl Trouble {
    pub(super) fn new(counters: Arc<Counters>, bury: Bury) -> Self {
        Self {
            counters,
            bury,
            failures: OnceInAWhile::every(Duration::from_secs(1)),
            waits: OnceInAWhile::every(Duration::from_secs(10)),
            given_up: OnceInAWhile::every(Duration::from_secs(1)),
            overflows: OnceInAWhile::every(Duration::from_secs(10)),
        }
    }

    /// One call of a listener did not end well.
    pub(super) fn failed(&self, listener: &Listener, job: &Job, end: &End, limit: Duration) {
        let name = &*listener.info.name;
        let event = job.event().meta().id;
        match end {
            End::Handled => {}
            End::Failed(reason) | End::Unready(reason) | End::Interrupted(reason) => {
                listener.calls.failed.add_one();
                self.failures.log(|more| warn!(listener = name, %event, more, "a listener failed: {reason}"));
            }
            End::Panicked => {
                listener.calls.panicked.add_one();
                self.failures.log(|more| error!(listener = name, %event, more, "a listener panicked"));
            }
            End::TimedOut => {
                listener.calls.timed_out.add_one();
                self.failures
                    .log(|more| warn!(listener = name, %event, more, ?limit, "a listener timed out"));
            }
        }
    }

    /// A call of a listener was no attempt, for what it needs was not there.
    pub(super) fn waits(&self, listener: &Listener, job: &Job, end: &End, limit: Duration) {
        let (name, event, reason) = (&*listener.info.name, job.event().meta().id, end.reason(limit));
        listener.calls.unready.add_one();
        self.waits.log(|more| warn!(listener = name, %event, more, "an event waits: {reason}"));
    }

    /// A listener is not called again for an event.
    pub(super) fn gave_up(
        &self,
        listener: &Arc<Listener>,
        job: &Job,
        attempts: u32,
        end: &End,
        limit: Duration,
    ) {
        let entry = |standing| Entry::failed(listener, attempts, standing, end.reason(limit).into_owned());
        if job.is_letter() || listener.handler.options().no_dead_letter {
            job.note(|| entry(Standing::GivenUp));
        } else {
            // If the node ends before the letter is kept, the next life makes one.
            job.note(|| entry(Standing::Retrying(Duration::ZERO)));
            let given_up = GivenUp { job, entry: entry(Standing::GivenUp) };
            // Making a letter writes the row as JSON, by code of the user's.
            let _ = catch_unwind(AssertUnwindSafe(|| (self.bury)(given_up)));
        }
        let (name, event) = (&*listener.info.name, job.event().meta().id);
        listener.calls.given_up.add_one();
        self.given_up.log(|more| error!(listener = name, %event, more, attempts, "an event was given up"));
    }

    pub(super) fn overflowed(&self, listener: &Listener, limit: usize) {
        let name = &*listener.info.name;
        listener.calls.overflowed.add_one();
        self.overflows.log(|more| {
            error!(
                listener = name,
                more, limit, "a listener is too slow: its queue is full and it misses events"
            );
        });
    }
}
