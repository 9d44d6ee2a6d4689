//! The last events, from which each visitor reads at its own pace.
//!
//! No visitor has a queue: one that is slow is behind, and one that is behind by more than the ring holds has missed
//! events, and is told so. So memory is bounded whatever visitors do.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use emitter_core::EventId;

/// Where a visitor is: the number of the next event that it is to be told.
pub(super) type Place = u64;

/// The last items, numbered from 0; each is the event of another id.
#[derive(Debug)]
pub(super) struct Ring<T> {
    items: VecDeque<Kept<T>>,
    ids: HashSet<EventId>,
    /// The number of the first of them.
    first: Place,
    bytes: usize,
    max_items: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Kept<T> {
    id: EventId,
    bytes: usize,
    item: Arc<T>,
}

impl<T> Ring<T> {
    pub(super) fn new(max_items: usize, max_bytes: usize) -> Self {
        Self { items: VecDeque::new(), ids: HashSet::new(), first: 0, bytes: 0, max_items, max_bytes }
    }

    /// Whether it holds this event.
    pub(super) fn knows(&self, id: EventId) -> bool {
        self.ids.contains(&id)
    }

    /// The number that the next item gets.
    pub(super) fn end(&self) -> Place {
        self.first.saturating_add(self.items.len() as u64)
    }

    /// So many items before the end, or where the first one is.
    #[cfg(feature = "dashboard")]
    pub(super) fn before(&self, items: u64) -> Place {
        self.end().saturating_sub(items).max(self.first)
    }

    /// Whether nothing is forgotten from a place on, at which somebody can be.
    pub(super) fn has(&self, place: Place) -> bool {
        (self.first..=self.end()).contains(&place)
    }

    /// Adds an item of so many bytes, and forgets those for which there is no room. Returns the end.
    pub(super) fn push(&mut self, id: EventId, bytes: usize, item: T) -> Place {
        self.ids.insert(id);
        self.items.push_back(Kept { id, bytes, item: Arc::new(item) });
        self.bytes = self.bytes.saturating_add(bytes);
        while self.items.len() > self.max_items || self.bytes > self.max_bytes {
            let Some(oldest) = self.items.pop_front() else { break };
            self.ids.remove(&oldest.id);
            self.bytes = self.bytes.saturating_sub(oldest.bytes);
            self.first = self.first.saturating_add(1);
        }
        self.end()
    }

    /// The next items from a place on: at most so many, and no more after so many bytes. `None` where one of them is
    /// forgotten, or nobody could be there.
    pub(super) fn from(&self, place: Place, max_items: usize, max_bytes: usize) -> Option<Vec<Arc<T>>> {
        let skipped = self.has(place).then(|| usize::try_from(place - self.first).ok())??;
        let mut bytes = 0;
        let room = self.items.iter().skip(skipped).take(max_items).take_while(|kept| {
            let fits = bytes < max_bytes;
            bytes = bytes.saturating_add(kept.bytes);
            fits
        });
        Some(room.map(|kept| Arc::clone(&kept.item)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(items: Option<Vec<Arc<u32>>>) -> Option<Vec<u32>> {
        items.map(|items| items.iter().map(|item| **item).collect())
    }

    #[test]
    fn whoever_is_behind_by_too_much_is_told_so() {
        let mut ring = Ring::new(3, usize::MAX);
        assert_eq!(texts(ring.from(0, 10, 10)), Some(vec![]));
        assert_eq!(texts(ring.from(1, 10, 10)), None);
        for item in 0..5 {
            assert_eq!(ring.push(EventId::now(), 1, item), u64::from(item) + 1);
        }
        assert_eq!(texts(ring.from(1, 10, 10)), None);
        assert_eq!(texts(ring.from(2, 10, 10)), Some(vec![2, 3, 4]));
        assert_eq!(texts(ring.from(5, 10, 10)), Some(vec![]));
        assert_eq!(texts(ring.from(6, 10, 10)), None);
        assert_eq!(texts(ring.from(u64::MAX, 10, 10)), None);
    }

    #[test]
    fn it_is_bounded_in_bytes() {
        let mut ring = Ring::new(100, 10);
        ring.push(EventId::now(), 6, 0);
        ring.push(EventId::now(), 4, 1);
        assert_eq!(texts(ring.from(0, 10, 100)), Some(vec![0, 1]));
        assert_eq!(texts(ring.from(0, 10, 6)), Some(vec![0]));
        ring.push(EventId::now(), 1, 2);
        assert_eq!(texts(ring.from(0, 10, 100)), None);
        assert_eq!(texts(ring.from(1, 10, 100)), Some(vec![1, 2]));
        // One that is larger than all room leaves nothing, and nobody goes on as if nothing had been.
        ring.push(EventId::now(), 11, 3);
        assert_eq!(texts(ring.from(2, 10, 100)), None);
        assert_eq!(texts(ring.from(ring.end(), 10, 100)), Some(vec![]));
    }

    #[test]
    fn it_knows_the_events_that_it_holds() {
        let mut ring = Ring::new(2, usize::MAX);
        let ids = [(); 3].map(|()| EventId::now());
        for id in ids {
            ring.push(id, 1, 0);
            assert!(ring.knows(id));
        }
        assert_eq!(ids.map(|id| ring.knows(id)), [false, true, true]);
        assert_eq!(ring.ids.len(), 2);
    }
}
