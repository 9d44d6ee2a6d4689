//! Which events of a mirror are meant.

use std::fmt;
use std::str::FromStr;

use emitter_core::event::Timestamp;
use emitter_core::{EventId, Operation};
use uuid::Uuid;

/// Which events of a mirror are meant: those of which all holds that is said here. Default: all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Written down at this moment or later, by the database's clock.
    pub since: Option<Timestamp>,
    /// Written down at this moment or before.
    pub until: Option<Timestamp>,
    /// On a topic that begins with this text.
    pub topic_prefix: Option<String>,
    /// Of exactly this kind, such as `user_created`: see [`MirroredEvent::kind`](super::MirroredEvent::kind).
    pub kind: Option<String>,
    /// Of this model, whatever the case of its letters.
    pub model: Option<String>,
    /// Of the row with this key, as [`Key`](emitter_core::Key) shows itself. An event of several rows is not
    /// found by the key of one of them.
    pub key: Option<String>,
    /// Of this operation.
    pub operation: Option<Operation>,
    /// The event with this id.
    pub event_id: Option<EventId>,
    /// Of this trace.
    pub trace_id: Option<Uuid>,
    /// Behind this place. Default: from the beginning.
    pub after: Option<Cursor>,
    /// How many are read at a time; 0 stands for 500, and there are never more than 1,000. Default 0. A page ends as well
    /// with the event at which it has 8 MiB.
    pub limit: usize,
}

impl Selection {
    /// How many rows are read at a time.
    pub(super) fn page(&self) -> usize {
        if self.limit == 0 { 500 } else { self.limit.min(1_000) }
    }
}

/// A place in a mirror, behind which to go on. As a text it is two numbers, such as `7301.52`.
///
/// Rows are in the order in which their transactions began to write, and those are read first that are over:
/// none comes to be seen later in front of a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cursor {
    /// The transaction, on PostgreSQL; else 0.
    pub(super) xid: u64,
    pub(super) id: i64,
}

/// A text is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no cursor of a mirror, such as \"7301.52\"")]
pub struct NoCursor(String);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.xid, self.id)
    }
}

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let read = || {
            let (xid, id) = text.split_once('.')?;
            Some(Self { xid: xid.parse().ok()?, id: id.parse().ok().filter(|id| *id >= 0)? })
        };
        read().ok_or_else(|| NoCursor(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_is_read_as_it_was_written(xid in any::<u64>(), id in 0..i64::MAX) {
            let cursor = Cursor { xid, id };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }

    #[test]
    fn what_is_no_cursor_is_told() {
        for text in ["", ".", "1", "1.-2", "-1.2", "1.2.3", "a.b"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
