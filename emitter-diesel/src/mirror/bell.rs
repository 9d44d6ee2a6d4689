//! What wakes a thread that waits.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

/// Wakes the thread that waits by it.
#[derive(Debug, Default)]
pub(super) struct Bell {
    waiting: Mutex<Option<Thread>>,
    ending: AtomicBool,
}

impl Bell {
    /// Somebody wants the thread to end.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        self.ring();
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    fn ring(&self) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.iter().for_each(Thread::unpark);
    }

    /// What a future comes to until this moment; `None` when it came to nothing, or the thread is to end. The
    /// future is polled here and not by a runtime: a thread that blocks must outlive none.
    pub(super) fn wait<T>(self: &Arc<Self>, until: Instant, future: impl Future<Output = T>) -> Option<T> {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
        let waker = Waker::from(Arc::clone(self));
        let mut context = Context::from_waker(&waker);
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return Some(value);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_ending() {
                return None;
            }
            std::thread::park_timeout(left);
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}
