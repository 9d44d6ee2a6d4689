//! Which event a listener is being called for, so that what it emits tells what caused it.
//!
//! It is known while a call is polled, on the thread that polls it. What a listener moves to another
//! thread or task has to say it itself: [`EmitOptions::caused_by`](crate::emit::EmitOptions::caused_by).

use std::cell::RefCell;
use std::sync::Arc;

use crate::emit::Notes;
use crate::event::{EventId, Meta};

/// The event that a listener works on.
#[derive(Debug, Clone)]
pub(crate) struct Cause {
    id: EventId,
    notes: Option<Arc<Notes>>,
}

thread_local! {
    static PRESENT: RefCell<Option<Cause>> = const { RefCell::new(None) };
}

impl Cause {
    pub(crate) fn of(meta: &Meta) -> Self {
        Self { id: meta.id, notes: meta.notes.clone() }
    }

    pub(crate) fn new(id: EventId, notes: Option<Arc<Notes>>) -> Self {
        Self { id, notes }
    }

    /// Does something as part of a listener's call.
    pub(crate) fn within<R>(self, act: impl FnOnce() -> R) -> R {
        let _restored = Restored(PRESENT.replace(Some(self)));
        act()
    }

    /// What an event carries that was caused by this one, besides what its writer says: the cause, one
    /// hop more, and the trace if the writer names no other.
    pub(crate) fn note(&self, notes: &mut Notes) {
        let mine = self.notes.as_deref();
        notes.cause = Some(self.id);
        notes.hops = mine.map_or(0, |mine| mine.hops).saturating_add(1);
        if notes.trace.is_none() {
            notes.trace = mine.and_then(|mine| mine.trace);
            notes.trace_state = mine.and_then(|mine| mine.trace_state.clone());
        }
    }
}

/// Puts back what was there before, also when the call panics.
struct Restored(Option<Cause>);

impl Drop for Restored {
    fn drop(&mut self) {
        PRESENT.replace(self.0.take());
    }
}

/// The notes of an event that is born now, on this thread.
pub(crate) fn noted(notes: Option<Arc<Notes>>) -> Option<Arc<Notes>> {
    PRESENT.with_borrow(|present| {
        let Some(cause) = present else { return notes };
        let mut notes = notes.unwrap_or_default();
        if notes.cause.is_none() {
            cause.note(Arc::make_mut(&mut notes));
        }
        Some(notes)
    })
}
