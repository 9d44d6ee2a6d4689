//! Settings that would not work as they were said: they are used as near to it as works, and that is told.

use std::fmt;
use std::time::Duration;

use emitter_core::retry::Backoff;
use tracing::warn;

/// So long nothing is meant to wait, or to be somebody's.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// For ever: databases know no later times than some thousand years from now.
pub(crate) const AGES: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What is used of a setting, of which a start says where it is something else than what was said.
pub(crate) fn within<T: Copy + PartialOrd + fmt::Debug>(
    of: &'static str,
    setting: &'static str,
    said: T,
    least: T,
    most: T,
) -> T {
    let (used, bound) = if said < least {
        (least, "the least")
    } else if said > most {
        (most, "the most")
    } else {
        return said;
    };
    warn!("`{setting}` of {of} is {said:?}: {used:?} is used instead, {bound} that works");
    used
}

/// The same of times between attempts.
pub(crate) fn backoff(of: &'static str, said: Backoff) -> Backoff {
    let time = |setting, said| within(of, setting, said, Duration::ZERO, DAY);
    Backoff {
        base: time("backoff.base", said.base),
        cap: time("backoff.cap", said.cap),
        jitter: time("backoff.jitter", said.jitter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_works_is_used_as_it_was_said() {
        for (said, used) in [(0, 1), (1, 1), (7, 7), (10, 10), (11, 10)] {
            assert_eq!(within("a test", "number", said, 1, 10), used, "{said}");
        }
        assert_eq!(within("a test", "time", Duration::MAX, Duration::ZERO, DAY), DAY);
    }
}
