//! A listener's calls for one event, each of which ends here, whatever the listener does.

use std::borrow::Cow;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, sleep_until};

use super::account::Entry;
use super::lanes::Lane;
use super::trouble::Trouble;
use super::{DispatchLimits, Job, Listener};
use crate::cause::Cause;
use crate::listener::{Call, Unhandled};
use crate::model_info::AnyEvent;
use crate::record::Standing;
use crate::retry::Backoff;
use crate::spans::{self, CallSpan};

/// A listener's calls for one event, until one ends well or the event is given up.
pub(super) struct Attempts {
    pub(super) listener: Arc<Listener>,
    pub(super) job: Job,
    /// How many were made when the event was handed out before.
    pub(super) before: u32,
    /// When the first call began, where that is measured.
    pub(super) begun: Option<Instant>,
    pub(super) limits: DispatchLimits,
    pub(super) trouble: Arc<Trouble>,
}

/// Calls that have come to their end.
pub(super) struct Finished {
    pub(super) listener: Arc<Listener>,
    pub(super) lane: Lane,
    pub(super) job: Job,
    pub(super) handled: bool,
}

impl Attempts {
    /// Goes on from the first poll of the first call.
    pub(super) async fn run(self, lane: Lane, first: First) -> Finished {
        let handled = self.until_handled(first).await;
        Finished { listener: self.listener, lane, job: self.job, handled }
    }

    async fn until_handled(&self, first: First) -> bool {
        let Self { listener, job, limits, trouble, .. } = self;
        let mut since = self.begun;
        let first = match first {
            First::Later(due) => {
                sleep_until(due).await;
                since = None;
                if self.is_gone() {
                    return false;
                }
                listener.calls.retried.add_one();
                self.call(self.before.saturating_add(1))
            }
            first => first,
        };
        // The first call, and later by as long as it had to wait.
        let mut begun = Instant::now();
        let mut called = begun;
        // One that ended at once was measured where it did.
        let is_measured = since.is_some() && matches!(first, First::Ended(_));
        let mut end = self.end_of(first).await;
        if !is_measured {
            self.took(since.unwrap_or(begun), &end);
        }
        let (mut failures, mut absence) = (self.before, Absence::default());
        while !matches!(end, End::Handled) {
            let is_excused = absence.excuses(&end);
            let delay = if is_excused {
                trouble.waits(listener, job, &end, limits.timeout);
                absence.delay()
            } else {
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
                delay
            };
            sleep(delay).await;
            if self.is_gone() {
                return false;
            }
            if is_excused {
                begun += called.elapsed();
            } else {
                listener.calls.retried.add_one();
            }
            called = Instant::now();
            end = self.end_of(self.call(failures.saturating_add(1))).await;
            self.took(called, &end);
        }
        job.note(|| Entry::ended(listener, failures.saturating_add(1), Standing::Handled));
        true
    }

    fn took(&self, since: Instant, end: &End) {
        self.listener.calls.took(since.elapsed(), end, self.job.event().meta().time);
    }

    fn is_gone(&self) -> bool {
        self.listener.gone.load(Ordering::Relaxed)
    }

    /// Begins a call, the how-many-eth for this event.
    fn call(&self, attempt: u32) -> First {
        let event = self.job.shared_event();
        let call = || self.listener.handler.call(event, attempt);
        let span = spans::process(&self.listener, &self.job, attempt);
        match catch_unwind(AssertUnwindSafe(|| Cause::of(event.meta(), &span).within(call))) {
            Ok(Some(call)) => First::Waits(call, span),
            Ok(None) => First::Ended(End::Handled),
            Err(_) => First::Ended(ended(&span, End::Panicked, self.limits.timeout)),
        }
    }

    async fn end_of(&self, first: First) -> End {
        let limit = self.limits.timeout;
        match first {
            First::Waits(call, span) => {
                let end = rest_of(call, &span, self.job.shared_event(), limit).await;
                ended(&span, end, limit)
            }
            First::Ended(end) => end,
            First::NotForIt | First::Later(_) => End::Handled,
        }
    }
}

/// How a call ended.
pub(crate) enum End {
    Handled,
    Failed(String),
    Panicked,
    TimedOut,
    /// What it needs was not there.
    Unready(String),
    /// It was lost in the middle.
    Interrupted(String),
}

impl End {
    /// Whether it counts, by itself.
    pub(super) fn is_an_attempt(&self) -> bool {
        !matches!(self, Self::Unready(_) | Self::Interrupted(_))
    }

    /// Why it did not end well, where it had so much time.
    pub(crate) fn reason(&self, limit: Duration) -> Cow<'_, str> {
        match self {
            Self::Failed(reason) | Self::Unready(reason) | Self::Interrupted(reason) => reason.into(),
            Self::Panicked => "it panicked".into(),
            Self::Handled | Self::TimedOut => format!("it took longer than {limit:?}").into(),
        }
    }
}

impl From<Result<(), Unhandled>> for End {
    fn from(result: Result<(), Unhandled>) -> Self {
        match result {
            Ok(()) => Self::Handled,
            Err(Unhandled::Failed(reason)) => Self::Failed(reason),
            Err(Unhandled::Unready(reason)) => Self::Unready(reason),
            Err(Unhandled::Interrupted(reason)) => Self::Interrupted(reason),
        }
    }
}

/// How often it is looked whether what a call needs is there.
const LOOK: Backoff = Backoff {
    base: Duration::from_millis(250),
    cap: Duration::from_secs(5),
    jitter: Duration::from_millis(250),
};

/// How many interruptions of one event are nobody's fault.
const INTERRUPTIONS: u32 = 10;

/// The calls for an event that were no attempts.
#[derive(Default)]
struct Absence {
    in_a_row: u32,
    interruptions: u32,
}

impl Absence {
    fn excuses(&mut self, end: &End) -> bool {
        let excused = match end {
            End::Unready(_) => true,
            End::Interrupted(_) => {
                self.interruptions = self.interruptions.saturating_add(1);
                self.interruptions <= INTERRUPTIONS
            }
            End::Handled | End::Failed(_) | End::Panicked | End::TimedOut => false,
        };
        self.in_a_row = if excused { self.in_a_row.saturating_add(1) } else { 0 };
        excused
    }

    fn delay(&self) -> Duration {
        LOOK.delay(self.in_a_row, fastrand::f64())
    }
}

/// What the first poll of a call came to.
pub(super) enum First {
    /// The event is not of the listener's type.
    NotForIt,
    Ended(End),
    /// And the span of it.
    Waits(Call, CallSpan),
    /// There was none: it failed before, and is called again then.
    Later(Instant),
}

/// Makes a call and polls it once. Whatever of the listener panics, its `Drop` included, ends here.
pub(super) fn first_poll(listener: &Listener, job: &Job, limit: Duration, cx: &mut Context<'_>) -> First {
    let event = job.shared_event();
    let poll = || {
        let mut call = listener.handler.call(event, 1)?;
        Some(match call.running.as_mut().poll(cx) {
            Poll::Ready(result) => Ok(result),
            Poll::Pending => Err(call),
        })
    };
    let span = spans::process(listener, job, 1);
    match catch_unwind(AssertUnwindSafe(|| Cause::of(event.meta(), &span).within(poll))) {
        Ok(None) => First::NotForIt,
        Ok(Some(Ok(result))) => First::Ended(ended(&span, result.into(), limit)),
        Ok(Some(Err(call))) => First::Waits(call, span),
        Err(_) => First::Ended(ended(&span, End::Panicked, limit)),
    }
}

/// Notes in a call's span how it ended.
fn ended(span: &CallSpan, end: End, limit: Duration) -> End {
    spans::processed(span, &end, limit);
    end
}

/// The rest of a call, within its time-out from when it has what it needs, and with the same care.
async fn rest_of(mut call: Call, span: &CallSpan, event: &Arc<dyn AnyEvent>, timeout: Duration) -> End {
    let poll = |running: &mut BoxFuture<'static, Result<(), Unhandled>>, cx: &mut Context<'_>| {
        let poll = || running.as_mut().poll(cx);
        let polled = catch_unwind(AssertUnwindSafe(|| Cause::of(event.meta(), span).within(poll)));
        polled.map_or(Poll::Ready(End::Panicked), |polled| polled.map(End::from))
    };
    let mut end = None;
    if let Some(mut ready) = call.ready.take() {
        end = poll_fn(|cx| match poll(&mut call.running, cx) {
            Poll::Ready(end) => Poll::Ready(Some(end)),
            Poll::Pending => ready.poll_unpin(cx).map(|_| None),
        })
        .await;
    }
    let end = match end {
        Some(end) => end,
        None => {
            let rest = poll_fn(|cx| poll(&mut call.running, cx));
            tokio::time::timeout(timeout, rest).await.unwrap_or(End::TimedOut)
        }
    };
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(call)));
    dropped.map_or(End::Panicked, |()| end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_always_loses_its_connection_is_given_up_some_time() {
        let mut absence = Absence::default();
        let (unready, lost) = (|| End::Unready(String::new()), || End::Interrupted(String::new()));
        for _ in 0..INTERRUPTIONS {
            assert!(absence.excuses(&unready()) && absence.excuses(&lost()));
        }
        assert!(!absence.excuses(&lost()) && absence.excuses(&unready()) && !absence.excuses(&lost()));
    }

    #[test]
    fn what_is_looked_for_in_vain_is_looked_for_more_seldom() {
        let mut absence = Absence::default();
        let mut delays = (0..50).map(|_| {
            assert!(absence.excuses(&End::Unready(String::new())));
            absence.delay()
        });
        assert!(delays.next().is_some_and(|first| first < Duration::from_secs(1)));
        assert!(delays.last().is_some_and(|last| last >= LOOK.cap && last <= LOOK.cap + LOOK.jitter));
        assert!(!absence.excuses(&End::TimedOut));
        assert!(absence.excuses(&End::Unready(String::new())) && absence.delay() < Duration::from_secs(1));
    }
}
