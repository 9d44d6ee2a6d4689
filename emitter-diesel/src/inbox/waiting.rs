//! The events that wait until the database of an inbox is there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use emitter_core::EventId;
use emitter_core::listener::Unhandled;

use super::Desk;

/// An event, and the listener that is to be called for it.
pub(super) type Wanted = (EventId, &'static str);

/// The events whose listeners could not be called yet. As many as are called at a time.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    since: HashMap<Wanted, Instant>,
    /// What hindered the last one, where none was called after it.
    error: Option<String>,
}

/// A call that is to be made.
pub(super) struct Waits {
    desk: Arc<Desk>,
    wanted: Wanted,
    goes_on: bool,
}

impl Waits {
    pub(super) fn new(desk: Arc<Desk>, wanted: Wanted) -> Self {
        desk.waiting().since.entry(wanted).or_insert_with(Instant::now);
        Self { desk, wanted, goes_on: false }
    }

    /// What became of the call: where it could not be made, it goes on to wait.
    pub(super) fn unless_over(mut self, result: Result<(), Unhandled>) -> Result<(), Unhandled> {
        self.goes_on = matches!(result, Err(Unhandled::Unready(_)));
        result
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if !self.goes_on {
            self.desk.waiting().since.remove(&self.wanted);
        }
    }
}

/// How long an event may wait before that is told, where nothing failed.
const LATE: Duration = Duration::from_secs(10);

impl Waiting {
    pub(super) fn hindered(&mut self, error: String) {
        self.error = Some(error);
    }

    pub(super) fn called(&mut self, wanted: &Wanted) {
        self.since.remove(wanted);
        self.error = None;
    }

    pub(super) fn len(&self) -> usize {
        self.since.len()
    }

    /// As a node's health has it.
    pub(super) fn trouble(&self) -> Option<String> {
        let oldest = self.since.values().min()?.elapsed();
        let error = match &self.error {
            Some(error) => error,
            None if oldest > LATE => "it does not answer",
            None => return None,
        };
        let events = self.since.len();
        Some(format!("inbox: {events} events wait for its database, the oldest for {oldest:.0?}: {error}"))
    }
}
