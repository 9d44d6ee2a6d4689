//! A bounded queue from many threads to one task.
//!
//! The writer's side is a lock, a push and, when the task is asleep, a wake-up; the task takes
//! everything at once. It costs the writer about half of what a channel does, and its bound is
//! checked where the caller can still be told.
//!
//! Waking a sleeping thread costs the writer more than all the rest of an event (about 2 µs on
//! Linux). So a task that finds itself woken for every few events [lingers](Queue::poll_take)
//! instead of going to sleep: for a millisecond it is not woken, then it takes what has gathered.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// From this many events a millisecond on, the task gathers them instead of being woken for each.
const BUSY: u128 = 16;

/// How long it gathers. Timers of tokio tick once a millisecond.
const GATHER: Duration = Duration::from_millis(1);

pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    bound: usize,
    /// What the task has taken and not finished, as it reported last.
    taken: AtomicUsize,
}

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
    /// Present while the task sleeps.
    sleeper: Option<Waker>,
}

/// Why an item was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Closed,
}

impl<T> Queue<T> {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            state: Mutex::new(State { items: VecDeque::new(), closed: false, sleeper: None }),
            bound,
            taken: AtomicUsize::new(0),
        }
    }

    /// Adds an item, unless the queue is at its bound.
    pub(crate) fn push(&self, item: T) -> Result<(), Refused> {
        self.add(item, self.bound)
    }

    /// Adds an item whose number is bounded elsewhere.
    pub(crate) fn push_unbounded(&self, item: T) -> Result<(), Refused> {
        self.add(item, usize::MAX)
    }

    fn add(&self, item: T, bound: usize) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.items.len() >= bound {
            return Err(Refused::Full);
        }
        state.items.push_back(item);
        let sleeper = state.sleeper.take();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
        Ok(())
    }

    /// Takes no more items, and wakes the task so that it sees that.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let sleeper = state.sleeper.take();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    /// Swaps what waits with `empty`, which is empty. Ready with `true` when the queue is closed
    /// and nothing more will come; pending, and the task is woken later, when nothing is there.
    ///
    /// `linger` belongs to the one task that takes.
    pub(crate) fn poll_take(&self, linger: &mut Linger, empty: &mut VecDeque<T>, cx: &mut Context<'_>) -> Poll<bool> {
        ready!(linger.poll(cx));
        let mut state = self.lock();
        if state.items.is_empty() && !state.closed {
            if linger.is_busy() {
                drop(state);
                linger.begin(cx);
            } else {
                state.sleeper = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        std::mem::swap(&mut state.items, empty);
        linger.took(empty.len());
        Poll::Ready(state.closed && empty.is_empty())
    }

    /// The task says how many of the taken items it has not finished.
    pub(crate) fn report(&self, unfinished: usize) {
        self.taken.store(unfinished, Ordering::Relaxed);
    }

    /// Items that wait, and those that the task has not finished.
    pub(crate) fn unfinished(&self) -> usize {
        self.lock().items.len() + self.taken.load(Ordering::Relaxed)
    }

    /// Items that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().items.len()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the task that takes from a [`Queue`] sleeps until it is woken, or gathers for a while.
pub(crate) struct Linger {
    /// When the items in `taken` began to count.
    since: Instant,
    taken: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Linger {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), taken: 0, timer: None }
    }

    fn took(&mut self, items: usize) {
        self.taken += items;
    }

    /// Whether so many items came lately that waking for each would cost their writers too much.
    fn is_busy(&mut self) -> bool {
        let elapsed = self.since.elapsed();
        let period = elapsed.max(GATHER).as_nanos();
        let busy = self.taken as u128 * GATHER.as_nanos() >= BUSY * period;
        if busy || elapsed >= GATHER {
            (self.since, self.taken) = (Instant::now(), 0);
        }
        busy
    }

    /// Not to be woken by writers; the timer does that.
    fn begin(&mut self, cx: &mut Context<'_>) {
        let mut timer = Box::pin(sleep(GATHER));
        if timer.as_mut().poll(cx).is_pending() {
            self.timer = Some(timer);
        } else {
            cx.waker().wake_by_ref();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
        Poll::Ready(())
    }
}
