//! Which filters are wished for, and what the broker said to them. No I/O; the time is given.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::topic::covers;

/// The wished filters and where each stands, and those that the broker must still forget.
///
/// Of two of which one covers the other, the wider is asked for, and the other only where that is
/// refused: some brokers send a message once for each filter that it matches. What is asked for
/// anew is confirmed before what it replaces is given back, so that nothing is missed in between.
///
/// One request is outstanding at a time, so its answer needs no guessing; a request may name many
/// filters.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    wishes: BTreeMap<String, Standing>,
    /// What the broker may know of, for a persistent session remembers it: what was asked for, wished, or
    /// taken back, and was not confirmed to be forgotten.
    known: BTreeSet<String>,
    outstanding: Option<Outstanding>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Wanted { refusals: u32 },
    Asked { refusals: u32 },
    Confirmed,
    Refused { reason: String, refusals: u32, again: Instant },
}

/// What to send to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Subscribe(Vec<String>),
    Unsubscribe(String),
}

#[derive(Debug)]
struct Outstanding {
    request: Request,
    since: Instant,
}

/// At most so many filters, and so many bytes of them, in one SUBSCRIBE: 200 models need 7 round
/// trips, and no packet comes near the limit of any broker.
const FILTERS_A_REQUEST: usize = 32;

/// At most so many filters that were never wished for are given back at a time.
const STRAYS: usize = 64;

const BYTES_A_REQUEST: usize = 4_096;

impl Subscriptions {
    pub(super) fn wish(&mut self, filter: &str) {
        self.known.insert(filter.to_owned());
        self.wishes.entry(filter.to_owned()).or_insert(Standing::Wanted { refusals: 0 });
    }

    pub(super) fn take_back(&mut self, filter: &str) {
        // Also one that was not wished for: the session may remember it from an earlier life.
        if self.wishes.remove(filter).is_some() || self.dropped() < STRAYS {
            self.known.insert(filter.to_owned());
        }
    }

    /// How many wishes the broker serves, by their own filter or by one that covers it.
    pub(super) fn confirmed(&self) -> usize {
        self.wishes.keys().filter(|filter| self.is_confirmed(filter)).count()
    }

    pub(super) fn is_confirmed(&self, filter: &str) -> bool {
        match self.wishes.get(filter) {
            Some(Standing::Confirmed) => true,
            Some(_) => self.is_replaced(filter),
            None => false,
        }
    }

    /// Those that the broker must still forget.
    pub(super) fn dropped(&self) -> usize {
        self.superfluous().count()
    }

    fn superfluous(&self) -> impl Iterator<Item = &String> {
        self.known.iter().filter(|filter| !self.wishes.contains_key(*filter) || self.is_replaced(filter))
    }

    /// The refused filters with the broker's reasons.
    pub(super) fn refused(&self) -> Vec<(String, String)> {
        let refused = |(filter, standing): (&String, &Standing)| match standing {
            Standing::Refused { reason, .. } if !self.is_replaced(filter) => {
                Some((filter.clone(), reason.clone()))
            }
            _ => None,
        };
        self.wishes.iter().filter_map(refused).collect()
    }

    /// Whether another wish that is not refused brings what this one would.
    fn is_covered(&self, filter: &str) -> bool {
        self.covering(filter).any(|standing| !matches!(standing, Standing::Refused { .. }))
    }

    /// Whether another wish that is confirmed brings what this one would.
    fn is_replaced(&self, filter: &str) -> bool {
        self.covering(filter).any(|standing| *standing == Standing::Confirmed)
    }

    fn covering(&self, filter: &str) -> impl Iterator<Item = &Standing> {
        let covering = move |(other, _): &(&String, &Standing)| *other != filter && covers(other, filter);
        self.wishes.iter().filter(covering).map(|(_, standing)| standing)
    }

    /// A connection begins. All wishes are asked again even in a session that remembers them: it
    /// is harmless, and finds out a broker that remembers wrongly.
    pub(super) fn connected(&mut self, session_present: bool) {
        self.disconnected();
        if !session_present {
            self.known.clear();
        }
        for standing in self.wishes.values_mut() {
            let refusals = standing.refusals();
            *standing = Standing::Wanted { refusals };
        }
    }

    /// The connection is gone, and with it the answer to what was asked.
    pub(super) fn disconnected(&mut self) {
        self.outstanding = None;
        for standing in self.wishes.values_mut() {
            if matches!(standing, Standing::Asked { .. } | Standing::Confirmed) {
                *standing = Standing::Wanted { refusals: standing.refusals() };
            }
        }
    }

    /// What to send now, if nothing is outstanding. Once sent, tell [`sent`](Self::sent).
    pub(super) fn next(&self, now: Instant) -> Option<Request> {
        if self.outstanding.is_some() {
            return None;
        }
        let mut bytes = 0;
        let due =
            self.wishes.iter().filter(|(filter, standing)| standing.is_due(now) && !self.is_covered(filter));
        let filters: Vec<String> = due
            .map(|(filter, _)| filter.clone())
            .take(FILTERS_A_REQUEST)
            .take_while(|filter| {
                let first = bytes == 0;
                bytes += filter.len();
                first || bytes <= BYTES_A_REQUEST
            })
            .collect();
        if filters.is_empty() {
            return self.superfluous().next().cloned().map(Request::Unsubscribe);
        }
        Some(Request::Subscribe(filters))
    }

    pub(super) fn sent(&mut self, request: Request, now: Instant) {
        match &request {
            Request::Subscribe(filters) => {
                for filter in filters {
                    self.known.insert(filter.clone());
                    if let Some(standing) = self.wishes.get_mut(filter) {
                        *standing = Standing::Asked { refusals: standing.refusals() };
                    }
                }
            }
            // From now on it is the one that covers it which brings this.
            Request::Unsubscribe(filter) => {
                if let Some(standing) = self.wishes.get_mut(filter) {
                    *standing = Standing::Wanted { refusals: 0 };
                }
            }
        }
        self.outstanding = Some(Outstanding { request, since: now });
    }

    /// Since when an answer is outstanding.
    pub(super) fn outstanding_since(&self) -> Option<Instant> {
        self.outstanding.as_ref().map(|outstanding| outstanding.since)
    }

    /// SUBACK, with one answer for each filter in the order of the request. `again` tells when a
    /// filter that was refused so many times in a row is tried again. Returns what was refused.
    pub(super) fn subscribed(
        &mut self,
        answers: Vec<Result<(), String>>,
        again: impl Fn(u32) -> Instant,
    ) -> Vec<(String, String)> {
        let Some(filters) = self.outstanding_subscribe() else { return Vec::new() };
        let unanswered = std::iter::repeat_with(|| Err("the broker gave no answer".to_owned()));
        let mut refused = Vec::new();
        for (filter, answer) in filters.into_iter().zip(answers.into_iter().chain(unanswered)) {
            let Some(standing @ Standing::Asked { .. }) = self.wishes.get_mut(&filter) else {
                continue; // Taken back, perhaps wished again, meanwhile.
            };
            let refusals = standing.refusals() + 1;
            *standing = match answer {
                Ok(()) => Standing::Confirmed,
                Err(reason) => {
                    refused.push((filter, reason.clone()));
                    Standing::Refused { reason, refusals, again: again(refusals) }
                }
            };
        }
        refused
    }

    fn outstanding_subscribe(&mut self) -> Option<Vec<String>> {
        let is_subscribe =
            |outstanding: &mut Outstanding| matches!(outstanding.request, Request::Subscribe(_));
        match self.outstanding.take_if(is_subscribe)?.request {
            Request::Subscribe(filters) => Some(filters),
            Request::Unsubscribe(_) => None,
        }
    }

    /// UNSUBACK. Even a refusal ends it: the reasons are that there was no such subscription, or
    /// ones that another attempt would not change.
    pub(super) fn unsubscribed(&mut self) {
        let is_unsubscribe =
            |outstanding: &mut Outstanding| matches!(outstanding.request, Request::Unsubscribe(_));
        if let Some(Outstanding { request: Request::Unsubscribe(filter), .. }) =
            self.outstanding.take_if(is_unsubscribe)
        {
            self.known.remove(&filter);
        }
    }

    /// When the next refused filter is to be tried again.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        if self.outstanding.is_some() {
            return None;
        }
        let again = |(filter, standing): (&String, &Standing)| match standing {
            Standing::Refused { again, .. } if !self.is_covered(filter) => Some(*again),
            _ => None,
        };
        self.wishes.iter().filter_map(again).min()
    }
}

impl Standing {
    fn refusals(&self) -> u32 {
        match self {
            Self::Wanted { refusals } | Self::Asked { refusals } | Self::Refused { refusals, .. } => {
                *refusals
            }
            Self::Confirmed => 0,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        match self {
            Self::Wanted { .. } => true,
            Self::Refused { again, .. } => *again <= now,
            Self::Asked { .. } | Self::Confirmed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn subscribe(filters: &[&str]) -> Option<Request> {
        Some(Request::Subscribe(filters.iter().map(|&filter| filter.to_owned()).collect()))
    }

    /// Sends what is due and returns it.
    fn send(subscriptions: &mut Subscriptions, now: Instant) -> Option<Request> {
        let request = subscriptions.next(now)?;
        subscriptions.sent(request.clone(), now);
        Some(request)
    }

    #[test]
    fn wishes_are_asked_again_on_every_connection() {
        let now = Instant::now();
        let mut subscriptions = Subscriptions::default();
        subscriptions.wish("a");
        subscriptions.wish("b");
        for session_present in [false, true, true] {
            subscriptions.connected(session_present);
            assert_eq!(send(&mut subscriptions, now), subscribe(&["a", "b"]));
            assert_eq!(send(&mut subscriptions, now), None, "one at a time");
            subscriptions.subscribed(vec![Ok(()), Ok(())], |_| now);
            assert_eq!(subscriptions.confirmed(), 2);
            subscriptions.disconnected();
            assert_eq!(subscriptions.confirmed(), 0);
        }
    }

    #[test]
    fn a_refused_filter_is_tried_again_when_its_time_has_come() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut subscriptions = Subscriptions::default();
        subscriptions.wish("a");
        subscriptions.wish("b");
        subscriptions.connected(false);
        send(&mut subscriptions, now);
        subscriptions.subscribed(vec![Ok(()), Err("no".to_owned())], |refusals| {
            now + Duration::from_secs(1) * refusals
        });
        assert_eq!(subscriptions.refused(), [("b".to_owned(), "no".to_owned())]);
        assert_eq!(subscriptions.next_retry(), Some(later));
        assert_eq!(send(&mut subscriptions, now), None);
        assert_eq!(send(&mut subscriptions, later), subscribe(&["b"]));
        subscriptions.subscribed(vec![], |refusals| now + Duration::from_secs(1) * refusals);
        assert_eq!(subscriptions.next_retry(), Some(now + Duration::from_secs(2)));
    }

    #[test]
    fn what_was_taken_back_while_away_is_unsubscribed_if_the_session_remembers() {
        let now = Instant::now();
        let mut subscriptions = Subscriptions::default();
        for (session_present, expected) in [(true, Some(Request::Unsubscribe("a".to_owned()))), (false, None)]
        {
            subscriptions.wish("a");
            subscriptions.take_back("a");
            subscriptions.connected(session_present);
            assert_eq!(send(&mut subscriptions, now), expected);
            // Lost before the answer: it is asked again.
            subscriptions.connected(session_present);
            assert_eq!(send(&mut subscriptions, now), expected);
            subscriptions.unsubscribed();
            assert_eq!(send(&mut subscriptions, now), None);
        }
    }

    #[test]
    fn a_wish_that_changes_while_it_is_asked_ends_as_wished() {
        let now = Instant::now();
        let mut subscriptions = Subscriptions::default();
        subscriptions.wish("a");
        subscriptions.connected(false);
        send(&mut subscriptions, now);
        subscriptions.take_back("a");
        subscriptions.wish("a");
        subscriptions.subscribed(vec![Ok(())], |_| now);
        assert_eq!(send(&mut subscriptions, now), subscribe(&["a"]));
        subscriptions.take_back("a");
        subscriptions.subscribed(vec![Ok(())], |_| now);
        assert_eq!(send(&mut subscriptions, now), Some(Request::Unsubscribe("a".to_owned())));
    }

    #[test]
    fn of_two_filters_the_wider_is_subscribed() {
        let now = Instant::now();
        let unsubscribe = |filter: &str| Some(Request::Unsubscribe(filter.to_owned()));
        let mut subscriptions = Subscriptions::default();
        subscriptions.wish("projects/paid");
        subscriptions.connected(false);
        assert_eq!(send(&mut subscriptions, now), subscribe(&["projects/paid"]));
        subscriptions.subscribed(vec![Ok(())], |_| now);
        subscriptions.wish("projects/#");
        assert_eq!(send(&mut subscriptions, now), subscribe(&["projects/#"]));
        subscriptions.subscribed(vec![Ok(())], |_| now);
        assert_eq!(send(&mut subscriptions, now), unsubscribe("projects/paid"), "not before the other came");
        subscriptions.unsubscribed();
        assert_eq!((send(&mut subscriptions, now), subscriptions.confirmed()), (None, 2));

        subscriptions.take_back("projects/#");
        assert_eq!(send(&mut subscriptions, now), subscribe(&["projects/paid"]));
        subscriptions.subscribed(vec![Ok(())], |_| now);
        assert_eq!(send(&mut subscriptions, now), unsubscribe("projects/#"), "not before the other came");
        subscriptions.unsubscribed();

        // Who may not have the wider one is not deprived of the other.
        subscriptions.wish("projects/#");
        subscriptions.connected(true);
        assert_eq!(send(&mut subscriptions, now), subscribe(&["projects/#"]));
        subscriptions.subscribed(vec![Err("no".to_owned())], |_| now + Duration::from_secs(1));
        assert_eq!(send(&mut subscriptions, now), subscribe(&["projects/paid"]));
        subscriptions.subscribed(vec![Ok(())], |_| now);
        assert_eq!((send(&mut subscriptions, now), subscriptions.confirmed()), (None, 1));
        assert_eq!(subscriptions.refused(), [("projects/#".to_owned(), "no".to_owned())]);
    }

    const FILTERS: [&str; 6] = ["a/#", "a/b", "a/b/#", "a/+/c", "a/b/c", "d"];

    /// A broker that refuses some filters.
    #[derive(Debug, Default)]
    struct Broker {
        session: BTreeSet<String>,
        refused: BTreeSet<&'static str>,
    }

    impl Broker {
        /// One round trip; `false` when there is nothing to say. An answer may be lost, with the connection.
        fn round_trip(&mut self, subscriptions: &mut Subscriptions, now: Instant, lost: bool) -> bool {
            let Some(request) = send(subscriptions, now) else { return false };
            let mut answers = Vec::new();
            match &request {
                Request::Unsubscribe(filter) => drop(self.session.remove(filter)),
                Request::Subscribe(filters) => {
                    for filter in filters {
                        let refused = self.refused.contains(filter.as_str());
                        answers.push(if refused { Err("no".to_owned()) } else { Ok(()) });
                        if !refused {
                            self.session.insert(filter.clone());
                        }
                    }
                }
            }
            match request {
                _ if lost => subscriptions.connected(true),
                Request::Subscribe(_) => {
                    subscriptions.subscribed(answers, |_| now + Duration::from_secs(1));
                }
                Request::Unsubscribe(_) => subscriptions.unsubscribed(),
            }
            true
        }

        fn serves(&self, filter: &str) -> bool {
            self.session.iter().any(|other| covers(other, filter))
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Wish(usize),
        TakeBack(usize),
        RoundTrip { lost: bool },
        Reconnect { session: bool },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..FILTERS.len()).prop_map(Step::Wish),
            2 => (0..FILTERS.len()).prop_map(Step::TakeBack),
            6 => prop::bool::weighted(0.1).prop_map(|lost| Step::RoundTrip { lost }),
            1 => any::<bool>().prop_map(|session| Step::Reconnect { session }),
        ]
    }

    proptest! {
        /// Whatever is wished and taken back when, in the end the broker has what is wished, each part
        /// of it once; and while a session lasts, what is served stays served.
        #[test]
        fn the_broker_has_each_part_once(
            earlier in prop::sample::subsequence(FILTERS.to_vec(), 0..FILTERS.len()),
            refused in prop::sample::subsequence(FILTERS.to_vec(), 0..2),
            steps in prop::collection::vec(step(), 0..40),
        ) {
            let now = Instant::now();
            let refused: BTreeSet<&str> = refused.into_iter().collect();
            let session = earlier.into_iter().filter(|filter| !refused.contains(filter)).map(str::to_owned);
            let mut broker = Broker { session: session.collect(), refused };
            let (mut subscriptions, mut wished) = (Subscriptions::default(), BTreeSet::<&str>::new());
            subscriptions.connected(true);
            for step in steps {
                let served: Vec<&str> = wished.iter().copied().filter(|filter| broker.serves(filter)).collect();
                let mut lasts = true;
                match step {
                    Step::Wish(place) => {
                        subscriptions.wish(FILTERS[place]);
                        wished.insert(FILTERS[place]);
                    }
                    Step::TakeBack(place) => {
                        subscriptions.take_back(FILTERS[place]);
                        wished.remove(FILTERS[place]);
                    }
                    Step::RoundTrip { lost } => drop(broker.round_trip(&mut subscriptions, now, lost)),
                    Step::Reconnect { session } => {
                        lasts = session;
                        if !session {
                            broker.session.clear();
                        }
                        subscriptions.connected(session);
                    }
                }
                // What an earlier life left, and nobody may have now, goes when it is given back.
                let stays = |filter: &&str| !lasts || !wished.contains(filter) || broker.serves(filter) || broker.refused.contains(filter);
                prop_assert!(served.iter().all(stays), "{served:?} {broker:?}");
            }
            let mut round_trips = 0;
            while broker.round_trip(&mut subscriptions, now, false) {
                round_trips += 1;
                prop_assert!(round_trips < 50, "it comes to no end: {subscriptions:?}");
            }
            let granted = |filter: &&str| !broker.refused.contains(filter);
            for filter in wished.iter().copied() {
                let covered = wished.iter().copied().filter(granted).any(|other| other != filter && covers(other, filter));
                prop_assert_eq!(broker.session.contains(filter), !covered && granted(&filter), "{} {:?}", filter, broker);
                prop_assert_eq!(subscriptions.is_confirmed(filter), covered || granted(&filter), "{} {:?}", filter, subscriptions);
            }
            prop_assert_eq!(subscriptions.dropped(), 0);
        }
    }

    #[test]
    fn many_filters_are_asked_in_parts() {
        let now = Instant::now();
        let mut subscriptions = Subscriptions::default();
        for number in 0..100 {
            subscriptions.wish(&format!("{number:0>300}"));
        }
        subscriptions.connected(false);
        let mut requests = 0;
        while let Some(Request::Subscribe(filters)) = send(&mut subscriptions, now) {
            assert!(filters.iter().map(String::len).sum::<usize>() <= BYTES_A_REQUEST);
            subscriptions.subscribed(vec![Ok(()); filters.len()], |_| now);
            requests += 1;
        }
        assert_eq!((subscriptions.confirmed(), requests), (100, 8));
    }
}
