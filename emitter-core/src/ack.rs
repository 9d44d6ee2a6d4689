//! The duty to acknowledge, which an event of another node carries from the transport to its last
//! listener.

use std::fmt;

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
