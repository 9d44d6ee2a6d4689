//! Hands events to listeners: in order per key, each listener on its own.
//!
//! One task per model owns its listeners and their lanes, so nothing here is locked but the queue
//! in front of it. A call is polled once where it stands; only one that has to wait becomes a
//! task. A listener that panics, fails, or takes longer than its time-out is a failure of that
//! listener alone.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{error, warn};

use crate::ack::Ack;
use crate::cause::Cause;
use crate::dead_letter::{DeadLetter, Original};
use crate::event::{Operation, Source};
use crate::listener::{Call, Handler, ListenerInfo, ListenerOptions};
use crate::metrics::{Counters, OnceInAWhile};
use crate::model_info::AnyEvent;
use crate::queue::{Linger, Queue, drop_guarded};
use crate::retry::Retry;

pub mod lanes;

use lanes::{Lane, Lanes};

/// A listener with its number; numbers are never used twice.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) id: u64,
    /// Set by `unsubscribe`: no call begins any more.
    pub(crate) gone: AtomicBool,
    pub(crate) info: ListenerInfo,
    pub(crate) handler: Handler,
}

/// What reaches a model's task, in order.
pub(crate) enum Message {
    Event(Job),
    Listen(Arc<Listener>),
    Forget(u64),
}

/// An event on its way to listeners.
#[derive(Clone)]
pub(crate) struct Job {
    event: Arc<dyn AnyEvent>,
    /// Present for events that have to be acknowledged.
    done: Option<Arc<Completion>>,
    /// Whose it is.
    share: Share,
    /// Nobody forbade that it goes to other nodes.
    may_leave: bool,
}

/// For which listeners an event is.
#[derive(Clone)]
enum Share {
    /// It came from the broker for those of this group, or for those of none.
    Of(Option<Arc<str>>),
    /// This node wrote it. Where it is on its way to other nodes, too, groups get it from the broker.
    Own { published: bool },
    /// It comes from a record, for the listeners of these names, or for all, whatever their group.
    Again { listeners: Option<Arc<[String]>> },
    /// It was a dead letter.
    Letter(Arc<Redriving>),
}

/// A dead letter that is handed on again, and what becomes of it.
pub(crate) struct Redriving {
    /// Whose it is; `None` of one that nobody could read.
    listener: Option<String>,
    ends: Mutex<Ends>,
}

/// How the calls for a dead letter ended.
#[derive(Default)]
pub(crate) struct Ends {
    /// How many listeners handled it.
    pub(crate) handled: usize,
    /// The letters of those that did not.
    pub(crate) failures: Vec<DeadLetter>,
}

impl Redriving {
    pub(crate) fn new(listener: Option<String>) -> Arc<Self> {
        Arc::new(Self { listener, ends: Mutex::default() })
    }

    /// Whether it is for a listener. What one did not handle is for that one, from wherever it came.
    fn is_for(&self, listener: &Listener, source: Source, operation: Operation) -> bool {
        match &self.listener {
            Some(name) => listener.info.name == **name && listener.takes(operation),
            None => listener.wants(source, operation),
        }
    }

    fn handled(&self) {
        self.lock().handled += 1;
    }

    /// A listener did not handle it, which makes no second letter of it.
    pub(crate) fn failed(&self, letter: DeadLetter) {
        self.lock().failures.push(letter);
    }

    /// How it ended.
    pub(crate) fn ends(&self) -> Ends {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    pub(crate) fn local(event: Arc<dyn AnyEvent>, published: bool, may_leave: bool) -> Self {
        Self { event, done: None, share: Share::Own { published }, may_leave }
    }

    /// The same of an event that is written down until listeners are done with it.
    pub(crate) fn recorded(event: Arc<dyn AnyEvent>, published: bool, may_leave: bool, handled: Ack) -> Self {
        let done = Some(Completion::new(handled, None, None));
        Self { event, done, share: Share::Own { published }, may_leave }
    }

    /// An event whose acknowledgements wait in `done`.
    pub(crate) fn remote(event: Arc<dyn AnyEvent>, group: Option<Arc<str>>, done: Arc<Completion>) -> Self {
        Self { event, done: Some(done), share: Share::Of(group), may_leave: true }
    }

    /// An event from a record, for listeners of these names, or for all. `done` is complete when they are done.
    pub(crate) fn again(
        event: Arc<dyn AnyEvent>,
        listeners: Option<Arc<[String]>>,
        done: Arc<Completion>,
    ) -> Self {
        Self { event, done: Some(done), share: Share::Again { listeners }, may_leave: true }
    }

    /// A dead letter, as it came.
    pub(crate) fn redriven(
        event: Arc<dyn AnyEvent>,
        redriving: Arc<Redriving>,
        original: Original,
        ended: Ack,
    ) -> Self {
        let done = Some(Completion::new(ended, Some(original), None));
        Self { event, done, share: Share::Letter(redriving), may_leave: false }
    }

    /// What is to be told, if it was a dead letter.
    pub(crate) fn letter(&self) -> Option<&Arc<Redriving>> {
        match &self.share {
            Share::Letter(redriving) => Some(redriving),
            Share::Of(_) | Share::Own { .. } | Share::Again { .. } => None,
        }
    }

    /// A listener handled it.
    fn handled(&self) {
        if let Some(redriving) = self.letter() {
            redriving.handled();
        }
    }

    /// Whether it is for this listener, by its group and its name.
    fn is_for(&self, listener: &ListenerInfo) -> bool {
        match (&self.share, listener.group.as_deref()) {
            (Share::Of(own), group) => own.as_deref() == group,
            (Share::Own { published }, Some(_)) => !published,
            (Share::Own { .. }, None) | (Share::Again { listeners: None } | Share::Letter(_), _) => true,
            (Share::Again { listeners: Some(names) }, _) => names.iter().any(|name| *name == *listener.name),
        }
    }

    /// One more listener works on it.
    pub(crate) fn share(&self) -> Self {
        if let Some(done) = &self.done {
            done.unfinished.fetch_add(1, Ordering::Relaxed);
        }
        self.clone()
    }

    pub(crate) fn event(&self) -> &dyn AnyEvent {
        &*self.event
    }

    pub(crate) fn may_leave(&self) -> bool {
        self.may_leave
    }

    /// As it came, if it did.
    pub(crate) fn original(&self) -> Option<&Original> {
        self.done.as_ref()?.original.as_ref()
    }

    /// One listener less works on it.
    pub(crate) fn finish(self) {
        drop_guarded([self.event]);
        if let Some(done) = self.done {
            done.finish_one();
        }
    }
}

/// Acknowledges an event when the last of its listeners is done with it.
///
/// Dropped before that, it acknowledges nothing, and the broker sends the event again.
pub(crate) struct Completion {
    unfinished: AtomicUsize,
    /// `None` once it is complete.
    acks: Mutex<Option<VecDeque<Ack>>>,
    /// As it came, if it did, for a dead letter.
    original: Option<Original>,
    /// Its place among the events of other nodes that are in progress.
    _place: Option<OwnedSemaphorePermit>,
}

/// How many acknowledgements of one event are kept while listeners work on it: those of its last copies,
/// any of which brings it again if the node ends here.
const ACKS: usize = 64;

impl Completion {
    pub(crate) fn new(
        ack: Ack,
        original: Option<Original>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Arc<Self> {
        let acks = Mutex::new(Some(VecDeque::from([ack])));
        Arc::new(Self { unfinished: AtomicUsize::new(1), acks, original, _place: place })
    }

    /// The same event came again: its acknowledgement waits for the same listeners.
    pub(crate) fn attach(&self, ack: Ack) {
        let spare = match &mut *self.acks.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(acks) => {
                acks.push_back(ack);
                // Done, not dropped: what is never acknowledged holds up all behind it.
                if acks.len() > ACKS { acks.pop_front() } else { None }
            }
            None => Some(ack),
        };
        spare.into_iter().for_each(Ack::done);
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn finish_one(&self) {
        if self.unfinished.fetch_sub(1, Ordering::AcqRel) == 1 {
            let acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner).take();
            acks.into_iter().flatten().for_each(Ack::done);
        }
    }
}

/// An event that a listener did not handle in all its attempts.
pub(crate) struct GivenUp<'j> {
    pub(crate) listener: &'j ListenerInfo,
    /// It is given the events of a key in order.
    pub(crate) is_ordered: bool,
    pub(crate) job: &'j Job,
    pub(crate) attempts: u32,
    pub(crate) error: &'j dyn fmt::Display,
}

/// Makes a dead letter of it.
pub(crate) type Bury = Arc<dyn Fn(GivenUp<'_>) + Send + Sync>;

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
}

/// The task of one model.
pub(crate) struct Worker {
    queue: Arc<Queue<Message>>,
    listeners: Vec<Attendant>,
    calls: JoinSet<Finished>,
    limits: DispatchLimits,
    tally: Tally,
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
}

impl Attendant {
    fn new(listener: Arc<Listener>, limits: DispatchLimits) -> Self {
        let limits = limits.with(listener.handler.options());
        let unordered = listener.handler.is_unordered().then_some(0);
        Self { lanes: Lanes::new(limits.concurrency), listener, limits, unordered }
    }

    /// The lane of an event that would be in this one.
    fn lane(&mut self, lane: Lane) -> Lane {
        self.unordered.as_mut().map_or(lane, |next| {
            *next = next.wrapping_add(1);
            Lane::Key(*next)
        })
    }
}

/// A call that has come to its end, with those that followed when it failed.
struct Finished {
    listener: u64,
    lane: Lane,
    job: Job,
    handled: bool,
}

/// A listener's calls for one event, until one ends well or the event is given up.
struct Attempts {
    listener: Arc<Listener>,
    job: Job,
    limits: DispatchLimits,
    trouble: Arc<Trouble>,
}

impl Attempts {
    /// Goes on from the first poll of the first call.
    async fn run(self, lane: Lane, first: First) -> Finished {
        let begun = Instant::now();
        let mut end = self.end_of(first).await;
        let mut failures = 0;
        while !matches!(end, End::Handled) {
            failures += 1;
            self.trouble.failed(&self.listener, &self.job, &end, self.limits.timeout);
            let delay = self.limits.retry.next(failures, begun.elapsed(), fastrand::f64());
            let Some(delay) = delay else {
                self.trouble.gave_up(&self.listener, &self.job, failures, &end, self.limits.timeout);
                break;
            };
            sleep(delay).await;
            if self.listener.gone.load(Ordering::Relaxed) {
                break;
            }
            self.trouble.counters.retried.add_one();
            end = self.end_of(self.call(failures + 1)).await;
        }
        let handled = matches!(end, End::Handled);
        Finished { listener: self.listener.id, lane, job: self.job, handled }
    }

    /// Begins a call, the how-many-eth for this event.
    fn call(&self, attempt: u32) -> First {
        let call = || self.listener.handler.call(&self.job.event, attempt);
        match catch_unwind(AssertUnwindSafe(|| Cause::of(self.job.event.meta()).within(call))) {
            Ok(Some(call)) => First::Waits(call),
            Ok(None) => First::Ended(End::Handled),
            Err(_) => First::Ended(End::Panicked),
        }
    }

    async fn end_of(&self, first: First) -> End {
        match first {
            First::Waits(call) => rest_of(call, &self.job.event, self.limits.timeout).await,
            First::Ended(end) => end,
            First::NotForIt => End::Handled,
        }
    }
}

/// How a call ended.
enum End {
    Handled,
    Failed(String),
    Panicked,
    TimedOut,
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
        let trouble = Arc::new(Trouble {
            counters,
            bury,
            failures: OnceInAWhile::every(Duration::from_secs(1)),
            given_up: OnceInAWhile::every(Duration::from_secs(1)),
            overflows: OnceInAWhile::every(Duration::from_secs(10)),
        });
        let tally = Tally { trouble, handled: 0, filtered: 0 };
        Self { queue, listeners: Vec::new(), calls: JoinSet::new(), limits, tally, spent: Vec::new() }
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
                self.tally.flush();
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
                gone.flat_map(|mut attendant| attendant.lanes.drain().collect::<Vec<_>>())
                    .for_each(Job::finish);
            }
        }
    }

    fn dispatch(&mut self, job: Job, cx: &mut Context<'_>) {
        let meta = job.event.meta();
        let (source, operation) = (meta.source, meta.operation);
        let lane = match &*meta.keys {
            [key] => Lane::Key(key.stable_hash()),
            _ => Lane::Barrier,
        };
        let mut heard = false;
        for index in 0..self.listeners.len() {
            let attendant = &mut self.listeners[index];
            let wants = match job.letter() {
                None => attendant.listener.wants(source, operation),
                Some(again) => again.is_for(&attendant.listener, source, operation),
            };
            if !wants {
                continue;
            }
            heard = true;
            if !job.is_for(&attendant.listener.info) {
                continue;
            }
            match filtered(&attendant.listener.handler, &job.event) {
                Filtered::LetThrough => {}
                Filtered::HeldBack => {
                    self.tally.filtered += 1;
                    job.handled();
                    continue;
                }
                Filtered::Panicked => {
                    let (listener, timeout) = (&attendant.listener, attendant.limits.timeout);
                    self.tally.trouble.failed(listener, &job, &End::Panicked, timeout);
                    if job.letter().is_some() {
                        self.tally.trouble.gave_up(listener, &job, 1, &End::Panicked, timeout);
                    }
                    continue;
                }
            }
            let lane = attendant.lane(lane);
            if attendant.lanes.is_free(lane) {
                if self.call(index, lane, &job, cx) == Called::Running {
                    self.listeners[index].lanes.occupy(lane);
                }
            } else if job.done.is_none() && attendant.lanes.waiting() >= attendant.limits.queue {
                self.tally.trouble.overflowed(&attendant.listener, attendant.limits.queue);
            } else {
                attendant.lanes.push(lane, job.share());
            }
        }
        if !heard {
            self.tally.trouble.counters.unheard.add_one();
        }
        match job.done {
            Some(_) => job.finish(),
            None => self.spent.push(Message::Event(job)),
        }
    }

    /// Calls a listener and polls it once; one that is not done by then, or is to be called again,
    /// becomes a task.
    fn call(&mut self, index: usize, lane: Lane, job: &Job, cx: &mut Context<'_>) -> Called {
        let Attendant { listener, limits, .. } = &self.listeners[index];
        let first = match first_poll(&listener.handler, &job.event, cx) {
            First::NotForIt => return Called::Done,
            First::Ended(End::Handled) => {
                self.tally.handled += 1;
                job.handled();
                return Called::Done;
            }
            First::Ended(end) if limits.retry.attempts <= 1 => {
                self.tally.trouble.failed(listener, job, &end, limits.timeout);
                self.tally.trouble.gave_up(listener, job, 1, &end, limits.timeout);
                return Called::Done;
            }
            first => first,
        };
        let attempts = Attempts {
            listener: Arc::clone(listener),
            job: job.share(),
            limits: *limits,
            trouble: Arc::clone(&self.tally.trouble),
        };
        self.calls.spawn(async move { attempts.run(lane, first).await });
        Called::Running
    }

    fn joined(&mut self, joined: Result<Finished, tokio::task::JoinError>, cx: &mut Context<'_>) {
        // A call never panics out of its guard; it is cancelled only with the whole runtime.
        let Ok(Finished { listener, lane, job, handled }) = joined else { return };
        self.tally.handled += u64::from(handled);
        if handled {
            job.handled();
        }
        let place = self.listeners.iter().position(|attendant| attendant.listener.id == listener);
        if let Some(index) = place {
            self.listeners[index].lanes.finish(lane);
            self.follow(index, cx);
        }
        job.finish();
    }

    /// Starts what may start now.
    fn follow(&mut self, index: usize, cx: &mut Context<'_>) {
        while let Some((lane, job)) = self.listeners[index].lanes.pop() {
            let gone = self.listeners[index].listener.gone.load(Ordering::Relaxed);
            if gone || self.call(index, lane, &job, cx) == Called::Done {
                self.listeners[index].lanes.finish(lane);
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
    Done,
    Running,
}

impl Listener {
    fn wants(&self, source: Source, operation: Operation) -> bool {
        self.info.hears.hears(source) && self.takes(operation)
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

/// What the first poll of a call came to.
enum First {
    /// The event is not of the listener's type.
    NotForIt,
    Ended(End),
    Waits(Call),
}

/// Makes a call and polls it once. Whatever of the listener panics, its `Drop` included, ends here.
fn first_poll(handler: &Handler, event: &Arc<dyn AnyEvent>, cx: &mut Context<'_>) -> First {
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

impl From<Result<(), String>> for End {
    fn from(result: Result<(), String>) -> Self {
        result.map_or_else(Self::Failed, |()| Self::Handled)
    }
}

/// Counts what the task does. Shared counters for each call would cost as much as the call.
struct Tally {
    trouble: Arc<Trouble>,
    handled: u64,
    filtered: u64,
}

impl Tally {
    fn flush(&mut self) {
        let counters = &self.trouble.counters;
        if self.handled > 0 {
            counters.handled.add(std::mem::take(&mut self.handled));
        }
        if self.filtered > 0 {
            counters.filtered.add(std::mem::take(&mut self.filtered));
        }
    }
}

/// Counts and logs what goes wrong, in the task and in the calls that it has spawned.
struct Trouble {
    counters: Arc<Counters>,
    bury: Bury,
    failures: OnceInAWhile,
    given_up: OnceInAWhile,
    overflows: OnceInAWhile,
}

impl Trouble {
    /// One call of a listener did not end well.
    fn failed(&self, listener: &Listener, job: &Job, end: &End, limit: Duration) {
        let name = &*listener.info.name;
        let event = job.event.meta().id;
        match end {
            End::Handled => {}
            End::Failed(reason) => {
                self.counters.failed.add_one();
                self.failures.log(|more| warn!(listener = name, %event, more, "a listener failed: {reason}"));
            }
            End::Panicked => {
                self.counters.panicked.add_one();
                self.failures.log(|more| error!(listener = name, %event, more, "a listener panicked"));
            }
            End::TimedOut => {
                self.counters.timed_out.add_one();
                self.failures
                    .log(|more| warn!(listener = name, %event, more, ?limit, "a listener timed out"));
            }
        }
    }

    /// A listener is not called again for an event.
    fn gave_up(&self, listener: &Listener, job: &Job, attempts: u32, end: &End, limit: Duration) {
        if job.letter().is_some() || !listener.handler.options().no_dead_letter {
            let error: &dyn fmt::Display = match end {
                End::Failed(reason) => reason,
                End::Panicked => &"it panicked",
                End::Handled | End::TimedOut => &format_args!("it took longer than {limit:?}"),
            };
            let is_ordered = !listener.handler.is_unordered();
            let given_up = GivenUp { listener: &listener.info, is_ordered, job, attempts, error };
            // Making a letter writes the row as JSON, by code of the user's.
            let _ = catch_unwind(AssertUnwindSafe(|| (self.bury)(given_up)));
        }
        let (name, event) = (&*listener.info.name, job.event.meta().id);
        self.counters.given_up.add_one();
        self.given_up.log(|more| error!(listener = name, %event, more, attempts, "an event was given up"));
    }

    fn overflowed(&self, listener: &Listener, limit: usize) {
        let name = &*listener.info.name;
        self.counters.overflowed.add_one();
        self.overflows.log(|more| {
            error!(
                listener = name,
                more, limit, "a listener is too slow: its queue is full and it misses events"
            );
        });
    }
}
