//! Which event a listener is being called for, so that what it emits tells what caused it.
//!
//! It is known while a call is polled, on the thread that polls it. What a listener moves to another
//! thread or task has to say it itself: [`EmitOptions::caused_by`](crate::emit::EmitOptions::caused_by).

use std::cell::RefCell;
use std::sync::Arc;

use crate::emit::Notes;
use crate::event::{EventId, Meta};
use crate::spans::{self, CallSpan};

/// The event that a listener works on.
#[derive(Debug, Clone)]
pub(crate) struct Cause {
    id: EventId,
    notes: Option<Arc<Notes>>,
    span: CallSpan,
}

thread_local! {
    static PRESENT: RefCell<Option<Cause>> = const { RefCell::new(None) };
}

impl Cause {
    pub(crate) fn of(meta: &Meta, span: &CallSpan) -> Self {
        Self { id: meta.id, notes: meta.notes.clone(), span: span.clone() }
    }

    /// What this thread works on: this event, if it is a listener's call that asks.
    pub(crate) fn present(meta: &Meta) -> Self {
        let present = PRESENT.with_borrow(Option::clone).filter(|present| present.id == meta.id);
        present.unwrap_or_else(|| Self::of(meta, &None))
    }

    pub(crate) fn id(&self) -> EventId {
        self.id
    }

    pub(crate) fn notes(&self) -> Option<&Notes> {
        self.notes.as_deref()
    }

    /// Does something as part of a listener's call.
    pub(crate) fn within<R>(self, act: impl FnOnce() -> R) -> R {
        let span = self.span.clone();
        let _restored = Restored(PRESENT.replace(Some(self)));
        match span {
            Some(span) => span.in_scope(act),
            None => act(),
        }
    }

    /// What an event carries that was caused by this one, besides what its writer says: the cause, one
    /// hop more, and the trace if the writer names no other.
    pub(crate) fn note(&self, notes: &mut Notes) {
        let mine = self.notes.as_deref();
        notes.cause = Some(self.id);
        notes.hops = mine.map_or(0, |mine| mine.hops).saturating_add(1);
        if notes.trace.is_none() {
            let onwards = spans::onwards(&self.span, mine);
            (notes.trace, notes.trace_state) =
                onwards.map_or((None, None), |traced| (Some(traced.trace), traced.state));
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
