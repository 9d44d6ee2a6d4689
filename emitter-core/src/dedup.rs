//! What has been seen already: a bounded window of event ids.
//!
//! Pure: the caller gives the time. Only ids of this framework's own envelopes are remembered;
//! ids of other programs are no identities (three different creates of the npm package share one).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use uuid::Uuid;

use crate::event::{EventId, Origin};

/// How much the window for redelivered events remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DedupConfig {
    /// How many ids at most. Default 100,000, which take about 20 MB when it is full.
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

/// An id and the life of the node that gave it.
type Identity = (Option<Uuid>, EventId);

/// The window of ids.
#[derive(Debug)]
pub struct DedupWindow {
    config: DedupConfig,
    /// When each id came.
    seen: HashMap<Identity, Duration>,
    /// The same in the order of arrival.
    order: VecDeque<(Identity, Duration)>,
    /// For each origin: when it last sent something new, and how often it is in `order`.
    origins: HashMap<Option<Uuid>, (Duration, usize)>,
}

impl DedupWindow {
    /// An empty window.
    #[must_use]
    pub fn new(config: DedupConfig) -> Self {
        Self { config, seen: HashMap::new(), order: VecDeque::new(), origins: HashMap::new() }
    }

    /// Whether this event is new; it is remembered from here on. `incarnation` is its origin's,
    /// `now` any clock that does not run backwards.
    pub fn is_new(&mut self, incarnation: Option<Uuid>, id: EventId, now: Duration) -> bool {
        let identity = (incarnation, id);
        if self.seen.get(&identity).is_some_and(|at| !self.is_old(incarnation, *at, now)) {
            return false;
        }
        while self.order.front().is_some_and(|((incarnation, _), at)| self.is_old(*incarnation, *at, now)) {
            self.forget_first();
        }
        self.seen.insert(identity, now);
        self.order.push_back((identity, now));
        let (last, count) = self.origins.entry(incarnation).or_default();
        (*last, *count) = (now, *count + 1);
        while self.order.len() > self.config.max_ids {
            self.forget_first();
        }
        true
    }

    /// How many ids are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn is_old(&self, incarnation: Option<Uuid>, at: Duration, now: Duration) -> bool {
        match incarnation {
            // Without an origin there is no resending peer to wait for: real time counts.
            None => now.saturating_sub(at) > self.config.max_age_without_origin,
            Some(_) => self
                .origins
                .get(&incarnation)
                .is_some_and(|(last, _)| last.saturating_sub(at) > self.config.max_age),
        }
    }

    fn forget_first(&mut self) {
        let Some((identity, at)) = self.order.pop_front() else { return };
        if self.seen.get(&identity) == Some(&at) {
            self.seen.remove(&identity);
        }
        if let Some((_, count)) = self.origins.get_mut(&identity.0) {
            *count -= 1;
            if *count == 0 {
                self.origins.remove(&identity.0);
            }
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

    /// The definition, without a clever structure: every event that was new, in order.
    struct Naive {
        config: DedupConfig,
        news: Vec<(Identity, Duration)>,
    }

    impl Naive {
        fn is_new(&mut self, incarnation: Option<Uuid>, id: EventId, now: Duration) -> bool {
            let window = &self.news[self.news.len().saturating_sub(self.config.max_ids)..];
            let heard = |origin| self.news.iter().rev().find(|((o, _), _)| *o == origin).map(|(_, at)| *at);
            let seen = window.iter().rev().find(|(identity, _)| *identity == (incarnation, id)).is_some_and(
                |(_, at)| match incarnation {
                    None => now - *at <= self.config.max_age_without_origin,
                    Some(_) => heard(incarnation).unwrap_or(now) - *at <= self.config.max_age,
                },
            );
            if !seen {
                self.news.push(((incarnation, id), now));
            }
            !seen
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
            let mut naive = Naive { config, news: Vec::new() };
            let mut now = Duration::ZERO;
            for (origin, event, seconds) in steps {
                now += Duration::from_secs(seconds);
                let incarnation = (origin > 0).then(|| Uuid::from_u128(u128::from(origin)));
                prop_assert_eq!(
                    window.is_new(incarnation, id(event), now),
                    naive.is_new(incarnation, id(event), now)
                );
                prop_assert!(window.len() <= max_ids);
                prop_assert!(window.seen.len() <= window.order.len());
                prop_assert!(window.origins.len() <= window.order.len());
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
    fn own_echoes_of_this_life_and_of_earlier_ones_are_own() {
        let at = |millis: u128| EventId::from_uuid(Uuid::from_u128(millis << 80));
        let own = origin("a", 1000 << 80);
        assert_eq!(sender(&own, at(5000), &own), Sender::Own);
        assert_eq!(sender(&origin("a", 500 << 80), at(700), &own), Sender::Own);
        assert_eq!(sender(&origin("a", 500 << 80), at(1700), &own), Sender::Namesake);
        assert_eq!(sender(&origin("b", 500 << 80), at(700), &own), Sender::Other);
    }
}
