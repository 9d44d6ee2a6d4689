//! Hands events to listeners: in order per key, each listener on its own.
//!
//! One task per model owns its listeners and their lanes, so nothing here is locked but the queue
//! in front of it. A call is polled once where it stands; only one that has to wait becomes a
//! task. A listener that panics, fails, or takes longer than its time-out is a failure of that
//! listener alone.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::event::Operation;
use crate::listener::{Handler, ListenerInfo, ListenerOptions};
use crate::metrics::Counters;
use crate::model_info::AnyEvent;
use crate::queue::{Linger, Queue};
use crate::record::Standing;
use crate::retry::Retry;
use crate::topic::Topic;

mod account;
mod attempts;
mod calls;
mod job;
pub mod lanes;
mod trouble;

pub(crate) use account::{Account, Entry, Keeper, Selection};
pub(crate) use attempts::End;
use attempts::{Attempts, Finished, First, first_poll};
pub(crate) use calls::{Calls, Timing};
pub(crate) use job::{Completion, Job};
use lanes::{Lane, Lanes};
use trouble::Trouble;
pub(crate) use trouble::{Bury, GivenUp};

/// A listener with its number; numbers are never used twice.
pub(crate) struct Listener {
    pub(crate) id: u64,
    /// Set by `unsubscribe`: no call begins any more.
    pub(crate) gone: AtomicBool,
    /// Set once another listener of its model has had the same name.
    pub(crate) namesake: AtomicBool,
    pub(crate) info: ListenerInfo,
    pub(crate) handler: Handler,
    /// Shared with those of its name.
    pub(crate) calls: Arc<Calls>,
    /// Of its model's events.
    pub(crate) destinations: Destinations,
}

/// The topics of a model's events, in the order of [`Operation::ALL`].
pub(crate) type Destinations = Arc<[Topic; Operation::ALL.len()]>;

/// What reaches a model's task, in order.
pub(crate) enum Message {
    Event(Job),
    Listen(Arc<Listener>),
    Forget(u64),
}

/// Bounds of a model's dispatch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DispatchLimits {
    /// Events that may wait for one listener.
    pub(crate) queue: usize,
    /// Calls of one listener that may run at a time.
    pub(crate) concurrency: usize,
    /// How long one call may take.
    pub(crate) timeout: Duration,
    /// How often a listener is called for one event.
    pub(crate) retry: Retry,
}

impl DispatchLimits {
    /// The limits of a listener that says where it differs.
    fn with(self, options: &ListenerOptions) -> Self {
        Self {
            queue: self.queue,
            concurrency: options.concurrency.unwrap_or(self.concurrency),
            timeout: options.timeout.unwrap_or(self.timeout),
            retry: options.retry(self.retry),
        }
    }

    /// When a listener is called again that waits until then: never later than it would be here, whatever was written
    /// down, for events of the key wait with it.
    fn soon(&self, due: Instant) -> Instant {
        let longest = self.retry.backoff.delay(u32::MAX, 1.0);
        Instant::now().checked_add(longest).map_or(due, |latest| latest.min(due))
    }
}

/// The task of one model.
pub(crate) struct Worker {
    queue: Arc<Queue<Message>>,
    listeners: Vec<Attendant>,
    calls: JoinSet<Finished>,
    limits: DispatchLimits,
    trouble: Arc<Trouble>,
    /// Which listeners were done at once with the event that is being dispatched, where somebody keeps account of it.
    at_once: Vec<(usize, Standing)>,
    /// Local events that are done with, to be dropped where they were made.
    spent: Vec<Message>,
}

/// A listener and its lanes.
struct Attendant {
    listener: Arc<Listener>,
    lanes: Lanes<Job>,
    limits: DispatchLimits,
    /// How many lanes an unordered listener has had: each event has its own.
    unordered: Option<u64>,
    /// Counted, and not told yet. Shared counters for each call would cost as much as the call.
    handled: u64,
    filtered: u64,
}

impl Attendant {
    fn new(listener: Arc<Listener>, limits: DispatchLimits) -> Self {
        let limits = limits.with(listener.handler.options());
        let unordered = listener.handler.is_unordered().then_some(0);
        Self { lanes: Lanes::new(limits.concurrency), listener, limits, unordered, handled: 0, filtered: 0 }
    }

    /// Tells what was counted.
    fn flush(&mut self) {
        for (counted, counter) in [
            (&mut self.handled, &self.listener.calls.handled),
            (&mut self.filtered, &self.listener.calls.filtered),
        ] {
            if *counted > 0 {
                counter.add(std::mem::take(counted));
            }
        }
    }

    /// The lane of an event that would be in this one.
    fn lane(&mut self, lane: Lane) -> Lane {
        self.unordered.as_mut().map_or(lane, |next| {
            *next = next.wrapping_add(1);
            Lane::Key(*next)
        })
    }
}

/// How many messages are worked through before other tasks have a turn.
const TURN: usize = 128;

impl Worker {
    pub(crate) fn new(
        queue: Arc<Queue<Message>>,
        limits: DispatchLimits,
        counters: Arc<Counters>,
        bury: Bury,
    ) -> Self {
        let trouble = Arc::new(Trouble::new(counters, bury));
        let (listeners, calls) = (Vec::new(), JoinSet::new());
        Self { queue, listeners, calls, limits, trouble, at_once: Vec::new(), spent: Vec::new() }
    }

    /// Works until the queue is closed and everything that was in it is done.
    pub(crate) async fn run(mut self) {
        let mut linger = Linger::new();
        let mut work = VecDeque::new();
        std::future::poll_fn(|cx| {
            loop {
                for message in work.drain(..work.len().min(TURN)) {
                    self.take(message, cx);
                }
                while let Poll::Ready(Some(finished)) = self.calls.poll_join_next(cx) {
                    self.joined(finished, cx);
                }
                self.listeners.iter_mut().for_each(Attendant::flush);
                self.queue.report(work.len() + self.unfinished());
                if !work.is_empty() {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                match self.queue.poll_take(&mut linger, &mut work, &mut self.spent, cx) {
                    Poll::Ready(false) => {}
                    Poll::Ready(true) if self.unfinished() == 0 => return Poll::Ready(()),
                    Poll::Ready(true) | Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }

    fn take(&mut self, message: Message, cx: &mut Context<'_>) {
        match message {
            Message::Event(job) => self.dispatch(job, cx),
            Message::Listen(listener) => {
                self.listeners.push(Attendant::new(listener, self.limits));
            }
            Message::Forget(id) => {
                let gone = self.listeners.extract_if(.., |attendant| attendant.listener.id == id);
                let left = gone.flat_map(|mut attendant| {
                    attendant.flush();
                    attendant.lanes.drain().collect::<Vec<_>>()
                });
                left.for_each(Job::finish);
            }
        }
    }

    fn dispatch(&mut self, job: Job, cx: &mut Context<'_>) {
        let meta = job.event().meta();
        let (source, operation) = (meta.source, meta.operation);
        let lane = match &*meta.keys {
            [key] => Lane::Key(key.stable_hash()),
            _ => Lane::Barrier,
        };
        let keeps_account = job.account().is_some();
        let (mut heard, mut goes_on) = (false, false);
        for index in 0..self.listeners.len() {
            let attendant = &mut self.listeners[index];
            if !attendant.listener.takes(operation) || !job.is_heard_by(&attendant.listener, source) {
                continue;
            }
            heard = true;
            if !job.is_for(&attendant.listener) {
                continue;
            }
            match filtered(&attendant.listener.handler, job.shared_event()) {
                Filtered::LetThrough => {}
                Filtered::HeldBack => {
                    attendant.filtered += 1;
                    if keeps_account {
                        self.at_once.push((index, Standing::HeldBack));
                    }
                    continue;
                }
                Filtered::Panicked => {
                    let (listener, timeout) = (&attendant.listener, attendant.limits.timeout);
                    self.trouble.failed(listener, &job, &End::Panicked, timeout);
                    self.trouble.gave_up(listener, &job, 1, &End::Panicked, timeout);
                    goes_on = true;
                    continue;
                }
            }
            let lane = attendant.lane(lane);
            if attendant.lanes.is_free(lane) {
                match self.call(index, lane, &job, cx) {
                    Called::Running => {
                        self.listeners[index].lanes.occupy(lane);
                        goes_on = true;
                    }
                    Called::Handled if keeps_account => self.at_once.push((index, Standing::Handled)),
                    Called::GivenUp => goes_on = true,
                    Called::Handled | Called::NotForIt => {}
                }
            } else if !job.is_owed() && attendant.lanes.waiting() >= attendant.limits.queue {
                self.trouble.overflowed(&attendant.listener, attendant.limits.queue);
            } else {
                attendant.lanes.push(lane, job.share());
                goes_on = true;
            }
        }
        if !heard {
            self.trouble.counters.unheard.add_one();
        }
        if keeps_account {
            self.note_at_once(&job, goes_on);
        }
        if job.is_owed() { job.finish() } else { self.spent.push(Message::Event(job)) }
    }

    /// Tells who was done with an event at once, where that is not all that there is to tell.
    fn note_at_once(&mut self, job: &Job, goes_on: bool) {
        if let Some(account) = job.account().filter(|account| goes_on || account.has_all()) {
            let entry =
                |(index, standing): (usize, _)| Entry::ended(&self.listeners[index].listener, 1, standing);
            account.note(job, self.at_once.drain(..).map(entry));
        }
        self.at_once.clear();
    }

    /// Calls a listener and polls it once; one that is not done by then, or is to be called again,
    /// becomes a task.
    fn call(&mut self, index: usize, lane: Lane, job: &Job, cx: &mut Context<'_>) -> Called {
        let Attendant { listener, limits, handled, .. } = &mut self.listeners[index];
        let earlier = job.earlier(listener);
        let begun = listener.calls.timing.as_ref().map(|_| Instant::now());
        let first = match earlier.and_then(|earlier| earlier.due) {
            Some(due) => First::Later(limits.soon(due)),
            None => first_poll(listener, job, limits.timeout, cx),
        };
        if let (First::Ended(end), Some(begun)) = (&first, begun) {
            listener.calls.took(begun.elapsed(), end, job.event().meta().time);
        }
        let first = match first {
            First::NotForIt => return Called::NotForIt,
            First::Ended(End::Handled) => {
                *handled += 1;
                return Called::Handled;
            }
            First::Ended(end) if limits.retry.attempts <= 1 && end.is_an_attempt() => {
                self.trouble.failed(listener, job, &end, limits.timeout);
                self.trouble.gave_up(listener, job, 1, &end, limits.timeout);
                return Called::GivenUp;
            }
            first => first,
        };
        let attempts = Attempts {
            listener: Arc::clone(listener),
            job: job.share(),
            before: earlier.map_or(0, |earlier| earlier.attempts),
            begun,
            limits: *limits,
            trouble: Arc::clone(&self.trouble),
        };
        self.calls.spawn(async move { attempts.run(lane, first).await });
        Called::Running
    }

    fn joined(&mut self, joined: Result<Finished, tokio::task::JoinError>, cx: &mut Context<'_>) {
        // A call never panics out of its guard; it is cancelled only with the whole runtime.
        let Ok(Finished { listener, lane, job, handled }) = joined else { return };
        let place = self.listeners.iter().position(|attendant| attendant.listener.id == listener.id);
        if let Some(index) = place {
            self.listeners[index].lanes.finish(lane);
            self.follow(index, cx);
        }
        job.finish();
        listener.calls.handled.add(u64::from(handled));
    }

    /// Starts what may start now.
    fn follow(&mut self, index: usize, cx: &mut Context<'_>) {
        while let Some((lane, job)) = self.listeners[index].lanes.pop() {
            let gone = self.listeners[index].listener.gone.load(Ordering::Relaxed);
            let called = if gone { Called::NotForIt } else { self.call(index, lane, &job, cx) };
            let Attendant { listener, lanes, .. } = &mut self.listeners[index];
            if called != Called::Running {
                lanes.finish(lane);
            }
            if called == Called::Handled {
                job.note(|| Entry::ended(listener, 1, Standing::Handled));
            }
            job.finish();
        }
    }

    fn unfinished(&self) -> usize {
        self.listeners.iter().map(|attendant| attendant.lanes.waiting()).sum::<usize>() + self.calls.len()
    }
}

/// What became of a call at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Called {
    NotForIt,
    Handled,
    GivenUp,
    Running,
}

impl Listener {
    pub(crate) fn new(
        id: u64,
        info: ListenerInfo,
        handler: Handler,
        calls: Arc<Calls>,
        destinations: Destinations,
    ) -> Self {
        let (gone, namesake) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { id, gone, namesake, info, handler, calls, destinations }
    }

    /// Whether its name does not tell it from all other listeners of its model.
    fn has_namesake(&self) -> bool {
        self.namesake.load(Ordering::Relaxed)
    }

    /// Wherever it comes from.
    fn takes(&self, operation: Operation) -> bool {
        self.handler.operation().is_none_or(|wanted| wanted == operation)
            && !self.gone.load(Ordering::Relaxed)
    }
}

/// What a listener's filters say of an event.
enum Filtered {
    LetThrough,
    HeldBack,
    Panicked,
}

/// Asks a listener's filters, which are the user's and may panic.
fn filtered(handler: &Handler, event: &Arc<dyn AnyEvent>) -> Filtered {
    let Some(filter) = handler.filter() else { return Filtered::LetThrough };
    match catch_unwind(AssertUnwindSafe(|| filter(event))) {
        Ok(true) => Filtered::LetThrough,
        Ok(false) => Filtered::HeldBack,
        Err(_) => Filtered::Panicked,
    }
}
