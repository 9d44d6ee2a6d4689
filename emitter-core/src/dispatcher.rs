//! Hands events to listeners: in order per key, each listener on its own.
//!
//! One task per model owns its listeners and their lanes, so nothing here is locked but the queue
//! in front of it. A call is polled once where it stands; only one that has to wait becomes a
//! task. A listener that panics, fails, or takes longer than its time-out is a failure of that
//! listener alone.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tracing::{error, warn};

use crate::event::Source;
use crate::listener::{Call, Handler, ListenerInfo};
use crate::metrics::{Counters, OnceInAWhile};
use crate::model_info::AnyEvent;
use crate::queue::Queue;
use crate::transport::Ack;

pub mod lanes;

use lanes::{Lane, Lanes};

/// A listener with its number; numbers are never used twice.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) id: u64,
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
}

impl Job {
    pub(crate) fn local(event: Arc<dyn AnyEvent>) -> Self {
        Self { event, done: None }
    }

    /// An event whose acknowledgements wait in `done`.
    pub(crate) fn remote(event: Arc<dyn AnyEvent>, done: Arc<Completion>) -> Self {
        Self { event, done: Some(done) }
    }

    /// One more listener works on it.
    fn share(&self) -> Self {
        if let Some(done) = &self.done {
            done.unfinished.fetch_add(1, Ordering::Relaxed);
        }
        self.clone()
    }

    /// One listener less works on it.
    fn finish(self) {
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
    acks: Mutex<Option<Vec<Ack>>>,
}

impl Completion {
    pub(crate) fn new(ack: Ack) -> Arc<Self> {
        Arc::new(Self { unfinished: AtomicUsize::new(1), acks: Mutex::new(Some(vec![ack])) })
    }

    /// The same event came again: its acknowledgement waits for the same listeners.
    pub(crate) fn attach(&self, ack: Ack) {
        match &mut *self.acks.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(acks) => acks.push(ack),
            None => ack.done(),
        }
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

/// Bounds of a model's dispatch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DispatchLimits {
    /// Events that may wait for one listener.
    pub(crate) queue: usize,
    /// Calls of one listener that may run at a time.
    pub(crate) concurrency: usize,
    /// How long one call may take.
    pub(crate) timeout: Duration,
}

/// The task of one model.
pub(crate) struct Worker {
    queue: Arc<Queue<Message>>,
    listeners: Vec<Attendant>,
    calls: JoinSet<Finished>,
    limits: DispatchLimits,
    counters: Arc<Counters>,
    failures: OnceInAWhile,
    overflows: OnceInAWhile,
}

/// A listener and its lanes.
struct Attendant {
    listener: Arc<Listener>,
    lanes: Lanes<Job>,
}

/// A call that has come to its end.
struct Finished {
    listener: u64,
    lane: Lane,
    job: Job,
    end: End,
}

/// How a call ended.
enum End {
    Handled,
    Failed(String),
    Panicked,
    TimedOut,
}

/// A call in progress; `None` when it panicked while it was made.
type Guarded = Option<futures_util::future::CatchUnwind<AssertUnwindSafe<Call>>>;

impl Worker {
    pub(crate) fn new(queue: Arc<Queue<Message>>, limits: DispatchLimits, counters: Arc<Counters>) -> Self {
        let interval = Duration::from_secs(10);
        Self {
            queue,
            listeners: Vec::new(),
            calls: JoinSet::new(),
            limits,
            counters,
            failures: OnceInAWhile::every(Duration::from_secs(1)),
            overflows: OnceInAWhile::every(interval),
        }
    }

    /// Works until the queue is closed and everything that was in it is done.
    pub(crate) async fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            let closed = self.queue.take(&mut batch);
            let idle = batch.is_empty();
            self.queue.report(batch.len() + self.unfinished());
            for (count, message) in batch.drain(..).enumerate() {
                self.take(message).await;
                if count % 64 == 63 {
                    self.reap().await;
                    tokio::task::yield_now().await;
                }
            }
            self.reap().await;
            let unfinished = self.unfinished();
            self.queue.report(unfinished);
            if closed && idle && unfinished == 0 {
                return;
            }
            if idle {
                tokio::select! {
                    () = self.queue.changed() => {}
                    Some(finished) = self.calls.join_next() => self.joined(finished).await,
                }
            }
        }
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Event(job) => self.dispatch(job).await,
            Message::Listen(listener) => {
                self.listeners.push(Attendant { listener, lanes: Lanes::new(self.limits.concurrency) });
            }
            Message::Forget(id) => {
                let gone = self.listeners.extract_if(.., |attendant| attendant.listener.id == id);
                gone.flat_map(|mut attendant| attendant.lanes.drain().collect::<Vec<_>>()).for_each(Job::finish);
            }
        }
    }

    async fn dispatch(&mut self, job: Job) {
        let (source, operation, lane) = {
            let meta = job.event.meta();
            let lane = match &*meta.keys {
                [key] => Lane::Key(key.stable_hash()),
                _ => Lane::Barrier,
            };
            (meta.source, meta.operation, lane)
        };
        let mut heard = false;
        for index in 0..self.listeners.len() {
            let Attendant { listener, lanes } = &mut self.listeners[index];
            let wants = listener.info.hears.hears(source)
                && listener.handler.operation().is_none_or(|wanted| wanted == operation);
            if !wants {
                continue;
            }
            heard = true;
            if lanes.is_free(lane) {
                if let Some(call) = self.begin(index, lane, &job).await {
                    self.listeners[index].lanes.occupy(lane);
                    self.calls.spawn(call);
                }
            } else if source == Source::Local && lanes.waiting() >= self.limits.queue {
                self.overflow(index);
            } else {
                lanes.push(lane, job.share());
            }
        }
        if !heard {
            self.counters.unheard.add_one();
        }
        job.finish();
    }

    /// Calls a listener and polls it once. What is not done by then is returned, to be spawned.
    async fn begin(
        &self,
        index: usize,
        lane: Lane,
        job: &Job,
    ) -> Option<impl Future<Output = Finished> + Send + use<>> {
        let listener = &self.listeners[index].listener;
        let mut call: Guarded = guard(&listener.handler, &job.event)?;
        let first = std::future::poll_fn(|cx| Poll::Ready(poll_guarded(&mut call, cx))).await;
        if let Poll::Ready(end) = first {
            self.settle(listener, job, end);
            return None;
        }
        let (listener, job, timeout) = (listener.id, job.share(), self.limits.timeout);
        Some(async move {
            let rest = std::future::poll_fn(|cx| poll_guarded(&mut call, cx));
            let end = tokio::time::timeout(timeout, rest).await.unwrap_or(End::TimedOut);
            Finished { listener, lane, job, end }
        })
    }

    /// Takes the calls that have ended, without waiting.
    async fn reap(&mut self) {
        while let Some(finished) = self.calls.try_join_next() {
            self.joined(finished).await;
        }
    }

    async fn joined(&mut self, joined: Result<Finished, tokio::task::JoinError>) {
        // A call never panics out of its guard; it is cancelled only with the whole runtime.
        let Ok(Finished { listener, lane, job, end }) = joined else { return };
        let place = self.listeners.iter().position(|attendant| attendant.listener.id == listener);
        if let Some(index) = place {
            self.settle(&self.listeners[index].listener, &job, end);
            self.listeners[index].lanes.finish(lane);
            self.follow(index).await;
        }
        job.finish();
    }

    /// Starts what may start now.
    async fn follow(&mut self, index: usize) {
        while let Some((lane, job)) = self.listeners[index].lanes.pop() {
            match self.begin(index, lane, &job).await {
                Some(call) => drop(self.calls.spawn(call)),
                None => self.listeners[index].lanes.finish(lane),
            }
            job.finish();
        }
    }

    fn settle(&self, listener: &Listener, job: &Job, end: End) {
        let name = &*listener.info.name;
        let event = job.event.meta().id;
        match end {
            End::Handled => self.counters.handled.add_one(),
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
                let limit = self.limits.timeout;
                self.failures.log(|more| warn!(listener = name, %event, more, ?limit, "a listener timed out"));
            }
        }
    }

    fn overflow(&self, index: usize) {
        let name = &*self.listeners[index].listener.info.name;
        self.counters.overflowed.add_one();
        self.overflows.log(|more| {
            let limit = self.limits.queue;
            error!(listener = name, more, limit, "a listener is too slow: its queue is full and it misses events");
        });
    }

    fn unfinished(&self) -> usize {
        self.listeners.iter().map(|attendant| attendant.lanes.waiting()).sum::<usize>() + self.calls.len()
    }
}

/// Makes the call; the outer `None` means that the event is not for this listener after all.
fn guard(handler: &Handler, event: &Arc<dyn AnyEvent>) -> Option<Guarded> {
    match std::panic::catch_unwind(AssertUnwindSafe(|| handler.call(event))) {
        Ok(call) => call.map(|call| Some(AssertUnwindSafe(call).catch_unwind())),
        Err(_) => Some(None),
    }
}

fn poll_guarded(call: &mut Guarded, cx: &mut std::task::Context<'_>) -> Poll<End> {
    let Some(running) = call else { return Poll::Ready(End::Panicked) };
    running.poll_unpin(cx).map(|end| match end {
        Ok(Ok(())) => End::Handled,
        Ok(Err(reason)) => End::Failed(reason),
        Err(_) => End::Panicked,
    })
}
