//! The thread that clears away old letters.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use emitter_core::WeakEmitter;
use tracing::warn;

use super::book::{DeadLetterBook, PORTION};

/// Whether the thread is to end.
#[derive(Debug, Default)]
pub(super) struct Ending {
    is_ending: Mutex<bool>,
    said: Condvar,
}

/// What ends the thread.
pub(super) fn end(ending: &Arc<Ending>) -> impl FnOnce() + Send + 'static {
    let ending = Arc::clone(ending);
    move || {
        *ending.is_ending.lock().unwrap_or_else(PoisonError::into_inner) = true;
        ending.said.notify_all();
    }
}

/// How often is looked for old letters.
const PAUSE: Duration = Duration::from_secs(3600);

/// How often is looked whether the emitter is still there.
const LOOK: Duration = Duration::from_secs(1);

/// Clears away what was kept for long enough, at once and then every hour.
pub(super) fn run(ending: &Ending, book: &DeadLetterBook, keep: Duration, emitter: &WeakEmitter) {
    // Databases know no later times than some thousand years from now.
    let keep = keep.min(Duration::from_secs(100 * 365 * 24 * 3600));
    let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            next = Instant::now() + PAUSE;
            match book.ask(|database, store| database.change(store.clear(keep, PORTION))) {
                Ok(PORTION) => next = Instant::now(),
                Ok(_) => {}
                Err(error) => warn!("old dead letters could not be cleared away: {error}"),
            }
        }
        let wait = next.saturating_duration_since(Instant::now()).min(LOOK);
        let is_ending = ending.is_ending.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = ending.said.wait_timeout_while(is_ending, wait, |ending| !*ending);
        if *waited.unwrap_or_else(PoisonError::into_inner).0 || emitter.upgrade().is_none() {
            return;
        }
    }
}
