//! What has been seen already: a bounded window of event ids.
//!
//! Pure: the caller gives the time. Only ids of this framework's own envelopes are remembered;
//! ids of other programs are no identities (three different creates of the npm package share one).

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use uuid::Uuid;

use crate::event::{EventId, Origin};

/// How much the window for redelivered events remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DedupConfig {
    /// How many ids at most. Default 100,000, which take about 10 MB when it is full. Beyond that the oldest id of that origin is
    /// forgotten of which most are remembered: who says much takes nothing from the others.
    pub max_ids: usize,
    /// How long an id counts at least while there is room, by the clock of what its origin sends:
    /// it is forgotten when the same origin sent something new this much later. An origin, a
    /// broker or a node that is away for an hour finds its ids where it left them. Default 10
    /// minutes.
    pub max_age: Duration,
    /// The same for ids from peers that send no origin. Default 5 s, as in the specification.
    pub max_age_without_origin: Duration,
}

impl Default for DedupConfig {
    fn default() -> Self {
        Self {
            max_ids: 100_000,
            max_age: Duration::from_secs(600),
            max_age_without_origin: Duration::from_secs(5),
        }
    }
}

/// Who a message comes from, as seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// This node itself, in this life or an earlier one: its own echo.
    Own,
    /// Another node.
    Other,
    /// Another node that uses this node's name: both write at the same time, under one name.
    Namesake,
}

/// Tells own echoes from other nodes' events, without a time limit.
///
/// An event of an earlier life of this node was written before this life began; an event of the
/// same name that was written later comes from a namesake and must not be lost. Both times are in
/// UUIDv7s, and both come from the machine that bears this name.
#[must_use]
pub fn sender(origin: &Origin, id: EventId, own: &Origin) -> Sender {
    if origin.incarnation == own.incarnation {
        return Sender::Own;
    }
    if origin.service != own.service || origin.node != own.node {
        return Sender::Other;
    }
    if millis_of(id.as_uuid()) <= millis_of(&own.incarnation) { Sender::Own } else { Sender::Namesake }
}

/// The first 48 bits of a UUIDv7.
fn millis_of(uuid: &Uuid) -> u128 {
    uuid.as_u128() >> 80
}

/// The window of ids.
#[derive(Debug)]
pub struct DedupWindow {
    config: DedupConfig,
    /// By the life of the node that gave them; `None` of peers that send no origin.
    origins: HashMap<Option<Uuid>, Ids>,
    /// Which have the most.
    sizes: BTreeSet<(usize, Option<Uuid>)>,
    /// How many all of them have.
    len: usize,
}

/// What is remembered of one origin.
#[derive(Debug, Default)]
struct Ids {
    seen: HashSet<EventId>,
    /// The same in the order of arrival, and when each came.
    order: VecDeque<(EventId, Duration)>,
}

impl DedupWindow {
    /// An empty window.
    #[must_use]
    pub fn new(config: DedupConfig) -> Self {
        Self { config, origins: HashMap::new(), sizes: BTreeSet::new(), len: 0 }
    }

    /// Whether this event is new; it is remembered from here on. `incarnation` is its origin's,
    /// `now` any clock that does not run backwards.
    pub fn is_new(&mut self, incarnation: Option<Uuid>, id: EventId, now: Duration) -> bool {
        let ids = self.origins.entry(incarnation).or_default();
        let before = ids.order.len();
        // Without an origin there is no resending peer to wait for: real time counts.
        let (clock, max_age) = match incarnation {
            None => (now, self.config.max_age_without_origin),
            Some(_) => (ids.order.back().map_or(now, |(_, last)| *last), self.config.max_age),
        };
        while ids.order.front().is_some_and(|(_, at)| clock.saturating_sub(*at) > max_age) {
            ids.forget_first();
        }
        let is_new = ids.seen.insert(id);
        if is_new {
            ids.order.push_back((id, now));
        }
        let after = ids.order.len();
        self.resized(incarnation, before, after);
        while self.len > self.config.max_ids {
            let Some((size, most)) = self.sizes.last().copied() else { break };
            if let Some(ids) = self.origins.get_mut(&most) {
                ids.forget_first();
            }
            self.resized(most, size, size - 1);
        }
        is_new
    }

    /// How many ids are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn resized(&mut self, incarnation: Option<Uuid>, before: usize, after: usize) {
        if before == after {
            return;
        }
        self.sizes.remove(&(before, incarnation));
        if after == 0 {
            self.origins.remove(&incarnation);
        } else {
            self.sizes.insert((after, incarnation));
        }
        self.len = self.len + after - before;
    }
}

impl Ids {
    fn forget_first(&mut self) {
        if let Some((id, _)) = self.order.pop_front() {
            self.seen.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u8) -> EventId {
        EventId::from_uuid(Uuid::from_u128(u128::from(number)))
    }

    /// An id and the life of the node that gave it.
    type Identity = (Option<Uuid>, EventId);

    /// The definition, without a clever structure: what is remembered, in the order of arrival.
    struct Naive {
        config: DedupConfig,
        seen: Vec<(Identity, Duration)>,
    }

    impl Naive {
        fn is_new(&mut self, incarnation: Option<Uuid>, id: EventId, now: Duration) -> bool {
            let (clock, max_age) = match incarnation {
                None => (now, self.config.max_age_without_origin),
                Some(_) => {
                    let last = self.seen.iter().rfind(|((origin, _), _)| *origin == incarnation);
                    (last.map_or(now, |(_, at)| *at), self.config.max_age)
                }
            };
            self.seen.retain(|((origin, _), at)| *origin != incarnation || clock - *at <= max_age);
            if self.seen.iter().any(|(identity, _)| *identity == (incarnation, id)) {
                return false;
            }
            self.seen.push(((incarnation, id), now));
            if self.seen.len() > self.config.max_ids {
                let of = |origin| self.seen.iter().filter(|((o, _), _)| *o == origin).count();
                let most = self.seen.iter().map(|((origin, _), _)| (of(*origin), *origin)).max().unwrap().1;
                let first = self.seen.iter().position(|((origin, _), _)| *origin == most).unwrap();
                self.seen.remove(first);
            }
            true
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            steps in prop::collection::vec((0..4_u8, 0..12_u8, 0..9_u64), 0..300),
            max_ids in 1..20_usize,
        ) {
            let config = DedupConfig {
                max_ids,
                max_age: Duration::from_secs(20),
                max_age_without_origin: Duration::from_secs(3),
            };
            let mut window = DedupWindow::new(config);
            let mut naive = Naive { config, seen: Vec::new() };
            let mut now = Duration::ZERO;
            for (origin, event, seconds) in steps {
                now += Duration::from_secs(seconds);
                let incarnation = (origin > 0).then(|| Uuid::from_u128(u128::from(origin)));
                prop_assert_eq!(
                    window.is_new(incarnation, id(event), now),
                    naive.is_new(incarnation, id(event), now)
                );
                prop_assert!(window.len() <= max_ids);
                prop_assert_eq!(window.len(), naive.seen.len());
                prop_assert_eq!(window.len(), window.origins.values().map(|ids| ids.seen.len()).sum::<usize>());
                prop_assert_eq!(window.origins.len(), window.sizes.len());
            }
        }
    }

    fn origin(node: &str, incarnation: u128) -> Origin {
        Origin { service: "shop".into(), node: node.into(), incarnation: Uuid::from_u128(incarnation) }
    }

    #[test]
    fn an_hour_of_silence_forgets_nothing() {
        let mut window = DedupWindow::new(DedupConfig::default());
        let other = Some(Uuid::from_u128(1));
        assert!(window.is_new(other, id(1), Duration::ZERO));
        assert!(!window.is_new(other, id(1), Duration::from_secs(3600)));
    }

    #[test]
    fn who_says_much_is_forgotten_and_not_the_others() {
        let mut window = DedupWindow::new(DedupConfig { max_ids: 100, ..DedupConfig::default() });
        let (quiet, noisy) = (Some(Uuid::from_u128(2)), Some(Uuid::from_u128(1)));
        for number in 0..10 {
            assert!(window.is_new(quiet, id(number), Duration::ZERO));
        }
        for number in 0..10_000 {
            assert!(window.is_new(noisy, EventId::from_uuid(Uuid::from_u128(number)), Duration::ZERO));
        }
        assert_eq!(window.len(), 100);
        for number in 0..10 {
            assert!(!window.is_new(quiet, id(number), Duration::ZERO));
        }
        assert!(!window.is_new(noisy, EventId::from_uuid(Uuid::from_u128(9_999 - 89)), Duration::ZERO));
        assert!(window.is_new(noisy, EventId::from_uuid(Uuid::from_u128(9_999 - 91)), Duration::ZERO));
    }

    #[test]
    fn own_echoes_of_this_life_and_of_earlier_ones_are_own() {
        let at = |millis: u128| EventId::from_uuid(Uuid::from_u128(millis << 80));
        let own = origin("a", 1000 << 80);
        assert_eq!(sender(&own, at(5000), &own), Sender::Own);
        assert_eq!(sender(&origin("a", 500 << 80), at(700), &own), Sender::Own);
        assert_eq!(sender(&origin("a", 500 << 80), at(1700), &own), Sender::Namesake);
        assert_eq!(sender(&origin("b", 500 << 80), at(700), &own), Sender::Other);
    }
}
