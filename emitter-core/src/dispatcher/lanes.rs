//! Which waiting item may start: one at a time per key, in order, and at most so many in all.
//!
//! Pure: it starts nothing itself, it only says what may be started. Each listener of each model
//! has its own [`Lanes`], so that a slow listener delays no other.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// Where an item belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// After all earlier items of the same key (its hash), beside those of other keys.
    Key(u64),
    /// After all earlier items, before all later ones: an event of many or of unknown rows.
    Barrier,
}

/// The items of one listener: those that wait, and how many have started.
pub struct Lanes<T> {
    /// Keys with a started item, and what waits behind it.
    busy: HashMap<u64, VecDeque<T>, BuildHasherDefault<AlreadyHashed>>,
    /// A barrier and everything that came after it.
    behind: VecDeque<(Lane, T)>,
    /// Items whose turn it is and that wait for a free place.
    ready: VecDeque<(Lane, T)>,
    barrier_started: bool,
    started: usize,
    waiting: usize,
    limit: usize,
}

impl<T> Lanes<T> {
    /// Empty lanes of which at most `limit` items (at least 1) are started at a time.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            busy: HashMap::default(),
            behind: VecDeque::new(),
            ready: VecDeque::new(),
            barrier_started: false,
            started: 0,
            waiting: 0,
            limit: limit.max(1),
        }
    }

    /// How many items wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many items have been started and not finished.
    #[must_use]
    pub fn started(&self) -> usize {
        self.started
    }

    /// Whether an item of this lane could start at once. If so, it may be run to its end without
    /// telling; one that takes longer is told with [`occupy`](Self::occupy).
    #[must_use]
    pub fn is_free(&self, lane: Lane) -> bool {
        self.started < self.limit
            && self.behind.is_empty()
            && !self.barrier_started
            && self.ready.is_empty()
            && {
                match lane {
                    Lane::Key(key) => !self.busy.contains_key(&key),
                    Lane::Barrier => self.busy.is_empty(),
                }
            }
    }

    /// Marks a lane that [`is_free`](Self::is_free) as started.
    pub fn occupy(&mut self, lane: Lane) {
        self.started += 1;
        self.take_turn(lane);
    }

    /// Adds an item behind all earlier ones of its lane.
    pub fn push(&mut self, lane: Lane, item: T) {
        self.waiting += 1;
        if !self.behind.is_empty() || self.barrier_started {
            self.behind.push_back((lane, item));
        } else {
            self.arrive(lane, item);
        }
    }

    /// The next item that may start now, which counts as started from here on.
    pub fn pop(&mut self) -> Option<(Lane, T)> {
        if self.started >= self.limit {
            return None;
        }
        let next = self.ready.pop_front()?;
        self.started += 1;
        self.waiting -= 1;
        Some(next)
    }

    /// A started item of this lane has come to its end; ask [`pop`](Self::pop) what follows.
    pub fn finish(&mut self, lane: Lane) {
        self.started -= 1;
        match lane {
            Lane::Barrier => self.barrier_started = false,
            Lane::Key(key) => {
                if let Some(next) = self.busy.get_mut(&key).and_then(VecDeque::pop_front) {
                    self.ready.push_back((lane, next));
                    return;
                }
                self.busy.remove(&key);
            }
        }
        if self.busy.is_empty() && !self.barrier_started {
            self.release();
        }
    }

    /// Takes out everything that waits.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.waiting = 0;
        let queued: Vec<T> = self.busy.values_mut().flat_map(std::mem::take).collect();
        // A ready item holds its lane already: give the lane back.
        let ready: Vec<(Lane, T)> = self.ready.drain(..).collect();
        for (lane, _) in &ready {
            match lane {
                Lane::Key(key) => drop(self.busy.remove(key)),
                Lane::Barrier => self.barrier_started = false,
            }
        }
        ready.into_iter().chain(self.behind.drain(..)).map(|(_, item)| item).chain(queued)
    }

    /// Lets what waited behind a barrier come forward, up to the next barrier.
    fn release(&mut self) {
        while let Some((lane, item)) = self.behind.pop_front() {
            if lane == Lane::Barrier && !self.busy.is_empty() {
                self.behind.push_front((lane, item));
                return;
            }
            self.arrive(lane, item);
            if lane == Lane::Barrier {
                return;
            }
        }
    }

    fn arrive(&mut self, lane: Lane, item: T) {
        match lane {
            Lane::Key(key) if self.busy.contains_key(&key) => {
                self.busy.entry(key).or_default().push_back(item);
            }
            Lane::Barrier if !self.busy.is_empty() => self.behind.push_back((lane, item)),
            _ => {
                self.take_turn(lane);
                self.ready.push_back((lane, item));
            }
        }
    }

    fn take_turn(&mut self, lane: Lane) {
        match lane {
            Lane::Key(key) => drop(self.busy.insert(key, VecDeque::new())),
            Lane::Barrier => self.barrier_started = true,
        }
    }
}

/// For keys that are hashes already: hashing them again would be a good part of a dispatch.
#[derive(Default)]
pub(crate) struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Push(Lane),
        /// Finish the n-th of the started ones.
        Finish(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..5_u64).prop_map(|key| Step::Push(Lane::Key(key))),
            1 => Just(Step::Push(Lane::Barrier)),
            6 => (0..8_usize).prop_map(Step::Finish),
        ]
    }

    /// Whether `item` has to wait for `earlier`: the naive definition of the order.
    fn ordered(earlier: Lane, item: Lane) -> bool {
        earlier == item || earlier == Lane::Barrier || item == Lane::Barrier
    }

    proptest! {
        #[test]
        fn an_item_starts_exactly_when_all_that_it_must_wait_for_are_done(
            steps in prop::collection::vec(step(), 0..200), limit in 1..6_usize
        ) {
            let mut lanes = Lanes::new(limit);
            let mut all: Vec<Lane> = Vec::new();
            let mut unfinished: Vec<usize> = Vec::new();
            let mut started: Vec<usize> = Vec::new();
            for step in steps {
                match step {
                    Step::Push(lane) => {
                        unfinished.push(all.len());
                        let free = lanes.is_free(lane);
                        if free {
                            // What `is_free` promises: `push` would have started it at once.
                            prop_assert!(started.iter().all(|s| !ordered(all[*s], lane)));
                        }
                        lanes.push(lane, all.len());
                        all.push(lane);
                    }
                    Step::Finish(nth) if !started.is_empty() => {
                        let item = started.remove(nth % started.len());
                        unfinished.retain(|u| *u != item);
                        lanes.finish(all[item]);
                    }
                    Step::Finish(_) => {}
                }
                while let Some((lane, item)) = lanes.pop() {
                    prop_assert_eq!(lane, all[item]);
                    prop_assert!(unfinished.iter().all(|u| *u >= item || !ordered(all[*u], lane)));
                    started.push(item);
                }
                prop_assert!(started.len() <= limit);
                let may_start = unfinished.iter().filter(|u| {
                    !started.contains(u) && unfinished.iter().all(|e| *e >= **u || !ordered(all[*e], all[**u]))
                }).count();
                prop_assert!(may_start == 0 || started.len() == limit, "{} could start", may_start);
                prop_assert_eq!(lanes.started(), started.len());
                prop_assert_eq!(lanes.waiting(), unfinished.len() - started.len());
            }
            let left = lanes.drain().count();
            prop_assert_eq!(left, unfinished.len() - started.len());
            for item in started {
                lanes.finish(all[item]);
            }
            prop_assert!(lanes.is_free(Lane::Barrier));
        }
    }
}
