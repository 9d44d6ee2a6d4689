//! What the broker keeps of one client. No I/O, no clock.

use std::collections::{BTreeSet, VecDeque};

use super::Published;
use crate::topic::TopicFilter;

/// A client's subscriptions, and its deliveries until it acknowledges them.
#[derive(Debug)]
pub(super) struct Session {
    filters: BTreeSet<String>,
    matchers: Vec<TopicFilter>,
    /// Oldest first; the numbers are consecutive.
    waiting: VecDeque<Waiting>,
    /// How many of them, from the front, were sent on this connection.
    sent: usize,
    next_number: u64,
    connection: u64,
    bound: usize,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    message: Published,
    /// The client is done with it, and says so when its turn comes.
    done: bool,
}

/// A delivery to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) number: u64,
    pub(super) message: Published,
}

impl Session {
    /// A session without subscriptions, for `bound` deliveries.
    pub(super) fn new(bound: usize) -> Self {
        Self {
            filters: BTreeSet::new(),
            matchers: Vec::new(),
            waiting: VecDeque::new(),
            sent: 0,
            next_number: 0,
            connection: 0,
            bound,
        }
    }

    pub(super) fn subscribe(&mut self, filter: &TopicFilter) {
        if self.filters.insert(filter.as_str().to_owned()) {
            self.matchers.push(filter.clone());
        }
    }

    /// What waits already is still delivered, as real brokers do.
    pub(super) fn unsubscribe(&mut self, filter: &TopicFilter) {
        if self.filters.remove(filter.as_str()) {
            self.matchers.retain(|other| other != filter);
        }
    }

    pub(super) fn filters(&self) -> impl Iterator<Item = &str> {
        self.filters.iter().map(String::as_str)
    }

    /// Whether any subscription matches; overlapping ones count once.
    pub(super) fn wants(&self, topic: &str) -> bool {
        self.matchers.iter().any(|filter| filter.matches(topic))
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= self.bound
    }

    /// Takes a message, unless it is full.
    pub(super) fn push(&mut self, message: &Published) -> bool {
        if self.is_full() {
            return false;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.waiting.push_back(Waiting { number, message: message.clone(), done: false });
        true
    }

    /// Deliveries that were not acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.waiting.len()
    }

    /// A connection begins: everything unacknowledged is sent again.
    pub(super) fn resume(&mut self, connection: u64) {
        self.connection = connection;
        self.sent = 0;
        self.waiting.iter_mut().for_each(|waiting| waiting.done = false);
    }

    /// The next delivery, while fewer than `window` are out.
    pub(super) fn next(&mut self, window: usize) -> Option<Outgoing> {
        if self.sent >= window {
            return None;
        }
        let Waiting { number, message, .. } = self.waiting.get(self.sent)?;
        self.sent += 1;
        Some(Outgoing { number: *number, message: message.clone() })
    }

    /// The client is done with a delivery of this connection. Those of another one, and those that
    /// are acknowledged already, are none of its business.
    pub(super) fn done(&mut self, connection: u64, number: u64) {
        if connection != self.connection {
            return;
        }
        let first = self.waiting.front().map_or(0, |waiting| waiting.number);
        let place = number.checked_sub(first).and_then(|place| usize::try_from(place).ok());
        if let Some(waiting) =
            place.filter(|place| *place < self.sent).and_then(|place| self.waiting.get_mut(place))
        {
            waiting.done = true;
        }
    }

    /// Whether the client has something to acknowledge: in order of arrival, so the first one.
    pub(super) fn first_is_done(&self) -> bool {
        self.waiting.front().is_some_and(|waiting| waiting.done)
    }

    /// The acknowledgement of the first one has come.
    pub(super) fn acknowledge_first(&mut self) {
        if self.waiting.pop_front().is_some() {
            self.sent = self.sent.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topic::{ModelTopic, Topics};
    use crate::transport::Properties;

    #[derive(Debug, Clone)]
    enum Step {
        Push,
        Send,
        Done(usize),
        Acknowledge,
        Resume,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Push),
            4 => Just(Step::Send),
            4 => (0..6_usize).prop_map(Step::Done),
            3 => Just(Step::Acknowledge),
            1 => Just(Step::Resume),
        ]
    }

    proptest! {
        /// Against a list of numbers: what is out is a prefix of what is unacknowledged, and
        /// nothing is acknowledged that was not done on this connection, nor out of order.
        #[test]
        fn agrees_with_a_plain_list(steps in prop::collection::vec(step(), 0..200), window in 1..5_usize) {
            let mut session = Session::new(20);
            let message = Published { topic: "t".to_owned(), payload: "".into(), properties: Properties::default() };
            let (mut left, mut out, mut done) = (Vec::new(), Vec::new(), BTreeSet::new());
            let (mut pushed, mut connection) = (0_u64, 0_u64);
            for step in steps {
                match step {
                    Step::Push => {
                        let took = session.push(&message);
                        prop_assert_eq!(took, left.len() < 20);
                        if took {
                            left.push(pushed);
                            pushed += 1;
                        }
                    }
                    Step::Send => {
                        let next = session.next(window).map(|outgoing| outgoing.number);
                        let expected = left.get(out.len()).copied().filter(|_| out.len() < window);
                        prop_assert_eq!(next, expected);
                        out.extend(next);
                    }
                    Step::Done(place) => {
                        if let Some(number) = out.get(place) {
                            session.done(connection.wrapping_sub(1), *number);
                            session.done(connection, *number);
                            done.insert(*number);
                        }
                        session.done(connection, pushed + 7);
                    }
                    Step::Acknowledge => {
                        let expected = out.first().is_some_and(|first| done.contains(first));
                        prop_assert_eq!(session.first_is_done(), expected);
                        if expected {
                            session.acknowledge_first();
                            out.remove(0);
                            left.remove(0);
                        }
                    }
                    Step::Resume => {
                        connection += 1;
                        session.resume(connection);
                        out.clear();
                        done.clear();
                    }
                }
                prop_assert_eq!(session.unacknowledged(), left.len());
            }
        }
    }

    #[test]
    fn overlapping_and_repeated_filters_deliver_once() {
        let filter = Topics::default().model_filter(&ModelTopic::new("user").unwrap());
        let mut session = Session::new(1);
        session.subscribe(&filter);
        session.subscribe(&filter);
        assert!(session.wants("prisma/events/user/create"));
        assert!(!session.wants("prisma/events/users/create"));
        session.unsubscribe(&filter);
        assert!(!session.wants("prisma/events/user/create"));
        assert_eq!(session.filters().count(), 0);
    }
}
