//! The duty to acknowledge, which an event of another node carries from the transport to its last
//! listener.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The duty to acknowledge a [`Delivery`](crate::transport::Delivery).
///
/// Dropping it without [`done`](Self::done) leaves the message unacknowledged: the broker sends
/// it again on the next connection.
#[must_use = "a delivery that is never acknowledged comes again"]
pub struct Ack(Box<dyn FnOnce() + Send>);

impl Ack {
    /// An acknowledgement that runs `done`.
    pub fn new(done: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(done))
    }

    /// The same duty in so many parts: it is done when the last of them is, and never when one is dropped.
    pub(crate) fn shared(self, parts: usize) -> impl Iterator<Item = Self> {
        let whole = Arc::new(Mutex::new(Some(self)));
        let left = Arc::new(AtomicUsize::new(parts));
        (0..parts).map(move |_| {
            let (whole, left) = (Arc::clone(&whole), Arc::clone(&left));
            Self::new(move || {
                if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                    let whole = whole.lock().unwrap_or_else(PoisonError::into_inner).take();
                    whole.into_iter().for_each(Self::done);
                }
            })
        })
    }

    /// Acknowledges. May be called in any order: the transport sends acknowledgements in the
    /// order of arrival.
    pub fn done(self) {
        (self.0)();
    }
}

impl fmt::Debug for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ack")
    }
}
