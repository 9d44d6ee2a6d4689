//! Which events were written down already.

use std::collections::BTreeSet;

use uuid::Uuid;

/// What tells an event from all others: its id, and the life of the node that wrote it.
pub(super) type Identity = (Uuid, Uuid);

/// The greatest of the identities in a table, in memory. Ids of this framework grow with the time, so that an
/// event that comes again is nearly always among them. Of others nothing is guessed: whoever asks looks into
/// the table.
#[derive(Debug, Default)]
pub(super) struct Known {
    greatest: BTreeSet<Identity>,
    /// All that are greater than this one are in memory. `None` where all are.
    floor: Option<Identity>,
}

/// Whether an event was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    No,
    /// The table knows.
    Perhaps,
}

impl Known {
    /// How many are kept in memory, of 32 bytes each.
    pub(super) const MOST: usize = 100_000;

    /// Those of a table: the greatest, and as many as there are or [`MOST`](Self::MOST).
    pub(super) fn of(identities: impl IntoIterator<Item = Identity>) -> Self {
        let greatest: BTreeSet<Identity> = identities.into_iter().collect();
        let floor = greatest.first().filter(|_| greatest.len() >= Self::MOST).copied();
        Self { greatest, floor }
    }

    pub(super) fn has(&self, identity: &Identity) -> Answer {
        if self.greatest.contains(identity) {
            Answer::Yes
        } else if self.floor.is_some_and(|floor| *identity <= floor) {
            Answer::Perhaps
        } else {
            Answer::No
        }
    }

    /// One was written down.
    pub(super) fn add(&mut self, identity: Identity) {
        self.add_within(identity, Self::MOST);
    }

    fn add_within(&mut self, identity: Identity, most: usize) {
        self.greatest.insert(identity);
        while self.greatest.len() > most {
            self.floor = self.floor.max(self.greatest.pop_first());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(number: u8) -> Identity {
        (Uuid::from_u128(u128::from(number / 2)), Uuid::from_u128(u128::from(number % 2)))
    }

    proptest! {
        /// Against a table that forgets nothing: neither yes nor no is ever wrong.
        #[test]
        fn no_answer_is_wrong(added in prop::collection::vec(any::<u8>(), 0..60), most in 1..20_usize) {
            let (mut known, mut table) = (Known::default(), BTreeSet::new());
            for number in added {
                known.add_within(identity(number), most);
                table.insert(identity(number));
                prop_assert!(known.greatest.len() <= most);
                for number in 0..=u8::MAX {
                    match known.has(&identity(number)) {
                        Answer::Yes => prop_assert!(table.contains(&identity(number))),
                        Answer::No => prop_assert!(!table.contains(&identity(number))),
                        Answer::Perhaps => {}
                    }
                }
                // What is greater than all is never asked for.
                prop_assert!(known.has(&(Uuid::max(), Uuid::max())) == Answer::No);
            }
        }
    }

    #[test]
    fn a_table_that_has_more_is_asked() {
        let all = (0..Known::MOST as u128).map(|id| (Uuid::from_u128(id + 10), Uuid::nil()));
        let known = Known::of(all);
        assert_eq!(known.has(&(Uuid::from_u128(5), Uuid::nil())), Answer::Perhaps);
        assert_eq!(known.has(&(Uuid::from_u128(11), Uuid::nil())), Answer::Yes);
        assert_eq!(known.has(&(Uuid::max(), Uuid::nil())), Answer::No);
        let few = Known::of([identity(7)]);
        assert_eq!(few.has(&identity(1)), Answer::No);
    }
}
