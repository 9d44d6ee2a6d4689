//! What the thread of an outbox is told by others.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use emitter_core::EventId;
use emitter_core::transport::PublishError;

/// What waits for the thread of an outbox.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    came: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct Mail {
    /// Rows may have been committed.
    pub(crate) woken: bool,
    /// What became of published rows.
    pub(crate) outcomes: Vec<(Sending, Result<(), PublishError>)>,
    /// Events that the listeners of this node are done with.
    pub(crate) handled: Vec<EventId>,
    /// Somebody wants the thread to end.
    pub(crate) ending: bool,
}

/// One publishing of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sending {
    pub(crate) id: i64,
    /// Which one it is: a row may be published again by the same relay.
    pub(crate) attempt: u64,
}

impl Mailbox {
    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, put: impl FnOnce(&mut Mail)) {
        put(&mut self.mail());
        self.came.notify_one();
    }

    /// Says that rows were committed.
    pub(crate) fn wake(&self) {
        self.put(|mail| mail.woken = true);
    }

    pub(crate) fn told(&self, sending: Sending, outcome: Result<(), PublishError>) {
        self.put(|mail| mail.outcomes.push((sending, outcome)));
    }

    pub(crate) fn handled(&self, event: EventId) {
        self.put(|mail| mail.handled.push(event));
    }

    pub(crate) fn end(&self) {
        self.put(|mail| mail.ending = true);
    }

    /// Everything that came, at once or within this time. That the thread is to end is said each time.
    pub(crate) fn take(&self, within: Duration) -> Mail {
        let nothing = |mail: &mut Mail| {
            !mail.woken && mail.outcomes.is_empty() && mail.handled.is_empty() && !mail.ending
        };
        let mut mail = self.mail();
        if !within.is_zero() && nothing(&mut mail) {
            let waited = self.came.wait_timeout_while(mail, within, nothing);
            mail = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let ending = mail.ending;
        let taken = std::mem::take(&mut *mail);
        mail.ending = ending;
        taken
    }
}
