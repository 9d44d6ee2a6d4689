//! A listener's calls for one event, each of which ends here, whatever the listener does.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::account::Entry;
use super::lanes::Lane;
use super::trouble::Trouble;
use super::{DispatchLimits, Job, Listener};
use crate::cause::Cause;
use crate::listener::{Call, Handler};
use crate::model_info::AnyEvent;
use crate::record::Standing;

/// A listener's calls for one event, until one ends well or the event is given up.
pub(super) struct Attempts {
    pub(super) listener: Arc<Listener>,
    pub(super) job: Job,
    /// How many were made when the event was handed out before.
    pub(super) before: u32,
    pub(super) limits: DispatchLimits,
    pub(super) trouble: Arc<Trouble>,
}

/// Calls that have come to their end.
pub(super) struct Finished {
    pub(super) listener: u64,
    pub(super) lane: Lane,
    pub(super) job: Job,
    pub(super) handled: bool,
}

impl Attempts {
    /// Goes on from the first poll of the first call.
    pub(super) async fn run(self, lane: Lane, first: First) -> Finished {
        let handled = self.until_handled(first).await;
        Finished { listener: self.listener.id, lane, job: self.job, handled }
    }

    async fn until_handled(&self, first: First) -> bool {
        let Self { listener, job, limits, trouble, .. } = self;
        let first = match first {
            First::Later(due) => {
                sleep_until(due).await;
                if self.is_gone() {
                    return false;
                }
                trouble.counters.retried.add_one();
                self.call(self.before.saturating_add(1))
            }
            first => first,
        };
        let begun = Instant::now();
        let mut end = self.end_of(first).await;
        let mut failures = self.before;
        while !matches!(end, End::Handled) {
            failures = failures.saturating_add(1);
            trouble.failed(listener, job, &end, limits.timeout);
            let delay = limits.retry.next(failures, begun.elapsed(), fastrand::f64());
            let Some(delay) = delay else {
                trouble.gave_up(listener, job, failures, &end, limits.timeout);
                return false;
            };
            job.note(|| {
                let error = end.reason(limits.timeout).into_owned();
                Entry::failed(listener, failures, Standing::Retrying(delay), error)
            });
            sleep(delay).await;
            if self.is_gone() {
                return false;
            }
            trouble.counters.retried.add_one();
            end = self.end_of(self.call(failures.saturating_add(1))).await;
        }
        job.note(|| Entry::ended(listener, failures.saturating_add(1), Standing::Handled));
        true
    }

    fn is_gone(&self) -> bool {
        self.listener.gone.load(Ordering::Relaxed)
    }

    /// Begins a call, the how-many-eth for this event.
    fn call(&self, attempt: u32) -> First {
        let event = self.job.shared_event();
        let call = || self.listener.handler.call(event, attempt);
        match catch_unwind(AssertUnwindSafe(|| Cause::of(event.meta()).within(call))) {
            Ok(Some(call)) => First::Waits(call),
            Ok(None) => First::Ended(End::Handled),
            Err(_) => First::Ended(End::Panicked),
        }
    }

    async fn end_of(&self, first: First) -> End {
        match first {
            First::Waits(call) => rest_of(call, self.job.shared_event(), self.limits.timeout).await,
            First::Ended(end) => end,
            First::NotForIt | First::Later(_) => End::Handled,
        }
    }
}

/// How a call ended.
pub(super) enum End {
    Handled,
    Failed(String),
    Panicked,
    TimedOut,
}

impl End {
    /// Why it did not end well, where it had so much time.
    pub(super) fn reason(&self, limit: Duration) -> Cow<'_, str> {
        match self {
            Self::Failed(reason) => reason.into(),
            Self::Panicked => "it panicked".into(),
            Self::Handled | Self::TimedOut => format!("it took longer than {limit:?}").into(),
        }
    }
}

impl From<Result<(), String>> for End {
    fn from(result: Result<(), String>) -> Self {
        result.map_or_else(Self::Failed, |()| Self::Handled)
    }
}

/// What the first poll of a call came to.
pub(super) enum First {
    /// The event is not of the listener's type.
    NotForIt,
    Ended(End),
    Waits(Call),
    /// There was none: it failed before, and is called again then.
    Later(Instant),
}

/// Makes a call and polls it once. Whatever of the listener panics, its `Drop` included, ends here.
pub(super) fn first_poll(handler: &Handler, event: &Arc<dyn AnyEvent>, cx: &mut Context<'_>) -> First {
    let poll = || {
        let Some(mut call) = handler.call(event, 1) else { return First::NotForIt };
        match call.as_mut().poll(cx) {
            Poll::Ready(result) => First::Ended(result.into()),
            Poll::Pending => First::Waits(call),
        }
    };
    let polled = catch_unwind(AssertUnwindSafe(|| Cause::of(event.meta()).within(poll)));
    polled.unwrap_or(First::Ended(End::Panicked))
}

/// The rest of a call, within its time-out, and with the same care.
async fn rest_of(mut call: Call, event: &Arc<dyn AnyEvent>, timeout: Duration) -> End {
    let rest = std::future::poll_fn(|cx| {
        let poll = || call.as_mut().poll(cx);
        let polled = catch_unwind(AssertUnwindSafe(|| Cause::of(event.meta()).within(poll)));
        polled.map_or(Poll::Ready(End::Panicked), |polled| polled.map(End::from))
    });
    let end = tokio::time::timeout(timeout, rest).await.unwrap_or(End::TimedOut);
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(call)));
    dropped.map_or(End::Panicked, |()| end)
}
