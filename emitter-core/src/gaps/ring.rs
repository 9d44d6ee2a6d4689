//! The last events that this node published, so that it can tell them to nodes that miss some.
//!
//! It gives the numbers of buffered events, one count for each model, and keeps what the broker confirmed. A number
//! of which nothing came (the queue was full, the broker refused it, its time was over) stands for nothing, and
//! whoever asks for it is told so. `E` is an event.

use std::collections::{BTreeSet, VecDeque};

/// How many of its buffered events a node keeps for nodes that miss some, after the broker has confirmed them.
///
/// One bound for all models: the oldest goes first. `events: 0` switches it off: then what a broker loses of this
/// node's buffered events is lost, and counted where it is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLimits {
    /// How many events. Default 1,000.
    pub events: usize,
    /// The bytes of their topics and payloads. Default 8 MiB. (Events that were sent in one message share its memory:
    /// as long as one of them is kept, all of the message is.)
    pub bytes: usize,
}

impl Default for RingLimits {
    fn default() -> Self {
        Self { events: 1_000, bytes: 8 * 1024 * 1024 }
    }
}

impl RingLimits {
    /// Whether anything is kept.
    pub(crate) const fn is_on(&self) -> bool {
        self.events > 0 && self.bytes > 0
    }
}

/// A number that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    model: usize,
    pub(crate) sequence: u64,
}

#[derive(Debug)]
pub(crate) struct Ring<E> {
    limits: RingLimits,
    models: Vec<Published<E>>,
    /// Of which models the kept events are, in the order in which they were confirmed.
    order: VecDeque<usize>,
    bytes: usize,
}

/// What was published of a model.
#[derive(Debug)]
struct Published<E> {
    /// Its name in lower case.
    name: Box<str>,
    /// Its name as the program writes it.
    called: &'static str,
    /// The last number that was given.
    last: u64,
    /// Those of which it is not known yet what became of them. What waits for the broker is bounded, and so are they.
    open: BTreeSet<u64>,
    /// By number.
    kept: VecDeque<Kept<E>>,
    /// Up to here nothing is kept any more.
    gone: u64,
}

#[derive(Debug)]
struct Kept<E> {
    sequence: u64,
    bytes: usize,
    event: E,
}

impl<E> Published<E> {
    /// Of each number up to here it is known what became of it.
    fn settled(&self) -> u64 {
        self.open.first().map_or(self.last, |first| first - 1)
    }
}

/// What the ring knows of a model's events after some number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) after: u64,
    /// Up to here it is known what became of each.
    pub(crate) settled: u64,
    /// Up to here they are not kept any more.
    gone: u64,
}

impl Known {
    /// How many of those up to a number are not kept any more, at most: some may stand for nothing.
    pub(crate) fn lost(&self, up_to: u64) -> u64 {
        self.gone.min(up_to).saturating_sub(self.after)
    }
}

impl<E> Ring<E> {
    pub(crate) fn new(limits: RingLimits) -> Self {
        Self { limits, models: Vec::new(), order: VecDeque::new(), bytes: 0 }
    }

    /// Begins to count a model's events; what it returns is the model's from then on.
    pub(crate) fn add_model(&mut self, called: &'static str) -> usize {
        let name = called.to_ascii_lowercase().into();
        self.models.push(Published {
            name,
            called,
            last: 0,
            open: BTreeSet::new(),
            kept: VecDeque::new(),
            gone: 0,
        });
        self.models.len() - 1
    }

    /// Gives the model's next number.
    pub(crate) fn give(&mut self, model: usize) -> Place {
        let Some(published) = self.models.get_mut(model) else { return Place { model, sequence: 0 } };
        published.last += 1;
        published.open.insert(published.last);
        Place { model, sequence: published.last }
    }

    /// Takes back the number that was given last: nothing is published under it, so that nobody misses it.
    pub(crate) fn take_back(&mut self, place: Place) {
        let Some(published) = self.models.get_mut(place.model) else { return };
        if published.last == place.sequence && published.open.remove(&place.sequence) {
            published.last -= 1;
        }
    }

    /// The broker confirmed the event of this number.
    pub(crate) fn keep(&mut self, place: Place, bytes: usize, event: E) {
        self.settle(place);
        let Some(published) = self.models.get_mut(place.model).filter(|_| self.limits.is_on()) else {
            return;
        };
        let Place { model, sequence } = place;
        // Nearly always at the end; brokers may confirm in another order.
        let at = match published.kept.back() {
            Some(last) if last.sequence > sequence => {
                published.kept.partition_point(|kept| kept.sequence < sequence)
            }
            _ => published.kept.len(),
        };
        published.kept.insert(at, Kept { sequence, bytes, event });
        self.order.push_back(model);
        self.bytes = self.bytes.saturating_add(bytes);
        while self.order.len() > self.limits.events || self.bytes > self.limits.bytes {
            let Some(model) = self.order.pop_front() else { break };
            let Some(published) = self.models.get_mut(model) else { break };
            let Some(gone) = published.kept.pop_front() else { break };
            published.gone = published.gone.max(gone.sequence);
            self.bytes = self.bytes.saturating_sub(gone.bytes);
        }
    }

    /// Nothing came of the event of this number.
    pub(crate) fn settle(&mut self, place: Place) {
        let Some(published) = self.models.get_mut(place.model) else { return };
        published.open.remove(&place.sequence);
    }

    /// The model whose number it is.
    pub(crate) fn model(&self, place: Place) -> Option<&'static str> {
        self.models.get(place.model).map(|published| published.called)
    }

    /// What there is of a model's events after this number, in order: up to the last one before which nothing is
    /// on its way any more. `None` of a model of which nothing was published.
    pub(crate) fn after(&self, model: &str, after: u64) -> Option<(Known, impl Iterator<Item = (u64, &E)>)> {
        let published = self.models.iter().find(|published| published.name.eq_ignore_ascii_case(model))?;
        let (settled, gone) = (published.settled(), published.gone);
        let from = published.kept.partition_point(|kept| kept.sequence <= after);
        let kept = published.kept.range(from..).take_while(move |kept| kept.sequence <= settled);
        Some((Known { after, settled, gone }, kept.map(|kept| (kept.sequence, &kept.event))))
    }

    /// How far it is in each model.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (&str, u64)> {
        self.models.iter().map(|published| (&*published.name, published.settled()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn told(ring: &Ring<u64>, model: &str, after: u64) -> (Vec<u64>, u64, u64) {
        let (known, events) = ring.after(model, after).unwrap();
        let events: Vec<u64> = events
            .map(|(sequence, event)| {
                assert_eq!(sequence, *event);
                sequence
            })
            .collect();
        (events, known.settled, known.lost(known.settled))
    }

    #[test]
    fn a_number_of_which_nothing_came_stands_for_nothing() {
        let mut ring = Ring::new(RingLimits::default());
        let user = ring.add_model("User");
        let places: Vec<Place> = (0..5).map(|_| ring.give(user)).collect();
        for place in [places[0], places[3]] {
            ring.keep(place, 1, place.sequence);
        }
        assert_eq!(told(&ring, "user", 0), (vec![1], 1, 0), "the second is on its way");
        ring.settle(places[1]);
        ring.keep(places[2], 1, 3);
        assert_eq!(told(&ring, "USER", 0), (vec![1, 3, 4], 4, 0));
        assert_eq!(told(&ring, "user", 3), (vec![4], 4, 0));
        assert_eq!(told(&ring, "user", u64::MAX), (vec![], 4, 0));
        ring.take_back(places[4]);
        assert_eq!(ring.give(user).sequence, 5, "nobody misses it");
        assert!(ring.after("order", 0).is_none());
    }

    #[test]
    fn what_is_too_much_goes_oldest_first_whichever_its_model() {
        let mut ring = Ring::new(RingLimits { events: 3, bytes: 100 });
        let (user, order) = (ring.add_model("user"), ring.add_model("order"));
        for model in [user, order, user, user] {
            let place = ring.give(model);
            ring.keep(place, 10, place.sequence);
        }
        assert_eq!(told(&ring, "user", 0), (vec![2, 3], 3, 1));
        assert_eq!(told(&ring, "order", 0), (vec![1], 1, 0));
        let place = ring.give(order);
        ring.keep(place, 90, place.sequence);
        assert_eq!((told(&ring, "user", 0), told(&ring, "order", 0)), ((vec![3], 3, 2), (vec![2], 2, 1)));
        // One that does not fit at all.
        let place = ring.give(order);
        ring.keep(place, 101, place.sequence);
        assert_eq!((told(&ring, "user", 1), ring.bytes), ((vec![], 3, 2), 0));
    }

    /// While a broker is away for long, what its queue refuses comes to nothing at once, behind what waits in it.
    #[test]
    fn what_comes_to_nothing_takes_no_room() {
        let mut ring = Ring::new(RingLimits::default());
        let user = ring.add_model("user");
        let first = ring.give(user);
        for _ in 0..100_000 {
            let place = ring.give(user);
            ring.settle(place);
        }
        assert_eq!(ring.models[0].open.len(), 1);
        assert_eq!(told(&ring, "user", 0), (vec![], 0, 0));
        ring.keep(first, 1, 1);
        assert_eq!(told(&ring, "user", 0), (vec![1], 100_001, 0));
    }

    #[test]
    fn switched_off_it_counts_and_keeps_nothing() {
        let mut ring = Ring::new(RingLimits { events: 0, ..RingLimits::default() });
        let user = ring.add_model("user");
        for _ in 0..3 {
            let place = ring.give(user);
            ring.keep(place, 1, place.sequence);
        }
        assert_eq!((ring.give(user).sequence, ring.order.len()), (4, 0));
    }

    proptest! {
        /// In whatever order a broker answers, and whatever comes to nothing: what is told after any number is what was
        /// confirmed, in order, and what is missing of that is counted.
        #[test]
        fn it_tells_what_was_confirmed(
            steps in prop::collection::vec((0..2_usize, any::<bool>(), 1..20_usize, any::<prop::sample::Index>()), 1..200),
            events in 1..20_usize, bytes in 1..100_usize, after in 0..50_u64
        ) {
            let mut ring = Ring::new(RingLimits { events, bytes });
            let models = ["a", "b"].map(|name| ring.add_model(name));
            let mut open: Vec<Place> = Vec::new();
            let mut fates: [BTreeMap<u64, bool>; 2] = Default::default();
            for (model, confirmed, size, which) in steps {
                open.push(ring.give(models[model]));
                if size % 2 == 0 {
                    continue;
                }
                let place = open.remove(which.index(open.len()));
                let of = usize::from(place.model == models[1]);
                fates[of].insert(place.sequence, confirmed);
                if confirmed { ring.keep(place, size, place.sequence) } else { ring.settle(place) }
                prop_assert!(ring.order.len() <= events && ring.bytes <= bytes);
            }
            for (name, fates) in ["a", "b"].into_iter().zip(fates) {
                let settled = (1..).take_while(|sequence| fates.contains_key(sequence)).last().unwrap_or(0);
                let (told, up_to, lost) = told(&ring, name, after);
                prop_assert_eq!(up_to, settled);
                let confirmed = fates.range(after + 1..).filter(|(sequence, confirmed)| **confirmed && **sequence <= settled);
                let confirmed: Vec<u64> = confirmed.map(|(sequence, _)| *sequence).collect();
                prop_assert!(confirmed.ends_with(&told) || told.iter().all(|one| confirmed.contains(one)));
                prop_assert!(told.is_sorted());
                prop_assert!((confirmed.len() - told.len()) as u64 <= lost, "{} of {}, {lost} lost", told.len(), confirmed.len());
            }
        }
    }
}
