//! When listeners of a node are handed what it commits: at once, or later, from its row.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use emitter_core::Origin;

/// What is committed while it is shut is left in its row, and nothing of that is kept in memory.
///
/// It is shut while the outbox is paused, and after that until nothing is left that was written meanwhile: an event that is
/// handed at once would come before earlier ones of its key.
#[derive(Debug, Default)]
pub(crate) struct Door(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_shut: bool,
    /// How many times something was left, by now.
    left: u64,
    /// Of how many of these it is not known whether they are committed.
    open_ends: u64,
}

/// When listeners are handed what one transaction commits, or one event that is queued.
#[derive(Debug)]
pub(crate) enum Handing {
    /// By whoever commits it.
    AtOnce,
    /// By the thread of the outbox, which reads it.
    Later(Left),
}

/// What is left in its row, until it is known whether that is there.
#[derive(Debug)]
pub(crate) struct Left(Arc<Door>);

impl Door {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides about what is about to be written down.
    pub(crate) fn handing(self: &Arc<Self>) -> Handing {
        let mut state = self.state();
        if !state.is_shut {
            return Handing::AtOnce;
        }
        state.left += 1;
        state.open_ends += 1;
        Handing::Later(Left(Arc::clone(self)))
    }

    pub(crate) fn shut(&self) {
        self.state().is_shut = true;
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.state().is_shut
    }

    /// How many times something was left; `None` while one of them may still come to be seen.
    pub(crate) fn left(&self) -> Option<u64> {
        let state = self.state();
        (state.open_ends == 0).then_some(state.left)
    }

    /// Opens it, where nothing was left since there were so many; whether it did.
    pub(crate) fn open(&self, left: u64) -> bool {
        let mut state = self.state();
        state.is_shut &= state.left != left;
        !state.is_shut
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open_ends = state.open_ends.saturating_sub(1);
    }
}

impl Handing {
    /// Who hands such a row to its listeners.
    pub(crate) fn handler(&self, origin: &Origin) -> String {
        match self {
            Self::AtOnce => handler(origin),
            Self::Later(_) => later(&handler(origin)),
        }
    }
}

/// Who hands a row to its listeners: the node that wrote it, and which life of it. No name has a slash.
pub(crate) fn handler(origin: &Origin) -> String {
    format!("{origin}/{}", origin.incarnation)
}

/// The same of rows that it is to read, and with which it has not begun: left by others, or by itself.
pub(crate) fn later(handler: &str) -> String {
    format!("{handler}+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_opens_when_nothing_is_left_behind_it() {
        let door = Arc::new(Door::default());
        assert!(matches!(door.handing(), Handing::AtOnce));
        door.shut();
        let [first, second] = [door.handing(), door.handing()];
        drop(first);
        assert_eq!(door.left(), None, "the second may still be committed");
        drop(second);
        let left = door.left().unwrap();
        // While somebody looked what there is, there came something more.
        drop(door.handing());
        assert!(!door.open(left) && door.is_shut());
        assert!(door.open(door.left().unwrap()));
        assert!(matches!(door.handing(), Handing::AtOnce));
    }
}
