//! Who did what: told to the log, and the last of it shown.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use emitter_core::event::Timestamp;
use tracing::{info, warn};

/// How many are shown at most.
const KEPT: usize = 100;

/// What visitors did on this node, since its start.
#[derive(Debug, Default)]
pub(super) struct Journal(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    last: u64,
    kept: VecDeque<Entry>,
}

/// Something that a visitor does.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) at: Timestamp,
    pub(super) who: String,
    pub(super) what: String,
    /// What it came to; `None` while it is under way.
    pub(super) outcome: Option<Result<String, String>>,
}

impl Journal {
    /// Somebody begins something. Both ends are logged, so that also what never ends is known.
    pub(super) fn begin(&self, who: &str, what: String) -> u64 {
        let mut entries = self.entries();
        entries.last += 1;
        let number = entries.last;
        // By `Debug`, for a name may hold a line's end.
        info!(target: "emitter_web::audit", number, visitor = ?who, action = ?what, "a visitor acts");
        let entry = Entry { number, at: Timestamp::now(), who: who.to_owned(), what, outcome: None };
        entries.kept.push_front(entry);
        entries.kept.truncate(KEPT);
        number
    }

    /// It came to this.
    pub(super) fn end(&self, number: u64, outcome: Result<String, String>) {
        match &outcome {
            Ok(done) => info!(target: "emitter_web::audit", number, outcome = ?done, "it is done"),
            Err(error) => warn!(target: "emitter_web::audit", number, error = ?error, "it failed"),
        }
        if let Some(entry) = self.entries().kept.iter_mut().find(|entry| entry.number == number) {
            entry.outcome = Some(outcome);
        }
    }

    /// The last ones, the newest first.
    pub(super) fn last(&self, most: usize) -> Vec<Entry> {
        self.entries().kept.iter().take(most).cloned().collect()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
