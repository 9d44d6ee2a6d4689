//! What is counted of a listener's calls, and how long they take.

use std::time::Duration;

use metrics::Histogram;

use super::attempts::End;
use crate::event::Timestamp;
use crate::metrics::Counter;

/// Of all listeners of one name at a model, also of those that are gone.
#[derive(Default)]
pub(crate) struct Calls {
    pub(crate) handled: Counter,
    pub(crate) failed: Counter,
    pub(crate) panicked: Counter,
    pub(crate) timed_out: Counter,
    pub(crate) unready: Counter,
    pub(crate) retried: Counter,
    pub(crate) filtered: Counter,
    pub(crate) given_up: Counter,
    pub(crate) overflowed: Counter,
    /// `None` where nobody wants to know, and no clock is read.
    pub(crate) timing: Option<Timing>,
}

/// How long calls take.
pub(crate) struct Timing {
    /// One call.
    pub(crate) handle: Histogram,
    /// From the write to the end of the call that ended well.
    pub(crate) effect: Histogram,
}

impl Calls {
    /// One call ended so, after such a time, for an event that was written then.
    pub(super) fn took(&self, took: Duration, end: &End, written: Timestamp) {
        let Some(Timing { handle, effect }) = &self.timing else { return };
        handle.record(took);
        if matches!(end, End::Handled) {
            let millis = Timestamp::now().as_millis().saturating_sub(written.as_millis());
            // The writer's clock may be ahead of this one.
            effect.record(Duration::from_millis(u64::try_from(millis).unwrap_or_default()));
        }
    }
}
