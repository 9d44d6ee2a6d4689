//! A bounded queue from many threads to one task.
//!
//! The writer's side is a lock, a push and, when the task may be asleep, a wake-up; the task takes
//! everything at once. That is about half the price of a channel at the rate at which a database
//! in memory takes inserts, and its bound is checked where the caller can still be told.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    wake: Notify,
    bound: usize,
    /// What the task has taken and not finished, as it reported last.
    taken: AtomicUsize,
}

struct State<T> {
    items: Vec<T>,
    closed: bool,
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
            state: Mutex::new(State { items: Vec::new(), closed: false }),
            wake: Notify::new(),
            bound,
            taken: AtomicUsize::new(0),
        }
    }

    /// Adds an item, unless the queue is at its bound.
    pub(crate) fn push(&self, item: T) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.items.len() >= self.bound {
            return Err(Refused::Full);
        }
        self.add(&mut state, item)
    }

    /// Adds an item whose number is bounded elsewhere.
    pub(crate) fn push_unbounded(&self, item: T) -> Result<(), Refused> {
        self.add(&mut self.lock(), item)
    }

    fn add(&self, state: &mut State<T>, item: T) -> Result<(), Refused> {
        if state.closed {
            return Err(Refused::Closed);
        }
        state.items.push(item);
        if state.items.len() == 1 {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Takes no more items, and wakes the task so that it sees that.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Swaps the waiting items with `empty`; `true` when the queue is closed.
    pub(crate) fn take(&self, empty: &mut Vec<T>) -> bool {
        let mut state = self.lock();
        std::mem::swap(&mut state.items, empty);
        state.closed
    }

    /// Waits until there is something to take, or the queue was closed.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// The task says how many of the taken items it has not finished.
    pub(crate) fn report(&self, unfinished: usize) {
        self.taken.store(unfinished, Ordering::Relaxed);
    }

    /// Items that wait, and those that the task has not finished.
    pub(crate) fn unfinished(&self) -> usize {
        self.lock().items.len() + self.taken.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
