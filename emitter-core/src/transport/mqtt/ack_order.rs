//! Acknowledgements in the order of arrival, whatever the order in which the work is done. No I/O
//! and no clock.

use std::collections::VecDeque;

/// The deliveries of the present connection that are not acknowledged yet, in order of arrival.
///
/// MQTT wants acknowledgements in that order. And a packet id belongs to its connection: on the
/// next one it may stand for another message, so what arrived on an older connection is never
/// acknowledged; the broker sends it again.
#[derive(Debug)]
pub(super) struct AckOrder<R> {
    connection: u64,
    /// The number of the first one in `open`.
    first: u64,
    open: VecDeque<Open<R>>,
}

#[derive(Debug)]
struct Open<R> {
    receipt: R,
    done: bool,
}

/// One delivery: on which connection, and the how-manieth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) connection: u64,
    number: u64,
}

impl<R> AckOrder<R> {
    pub(super) fn new() -> Self {
        Self { connection: 0, first: 0, open: VecDeque::new() }
    }

    /// A new connection begins; what is open belongs to the old one. Returns the new one's number.
    pub(super) fn connected(&mut self) -> u64 {
        self.connection += 1;
        self.first = 0;
        self.open.clear();
        self.connection
    }

    /// A delivery arrived, to be acknowledged with `receipt`.
    pub(super) fn arrived(&mut self, receipt: R) -> Arrival {
        let number = self.first + self.open.len() as u64;
        self.open.push_back(Open { receipt, done: false });
        Arrival { connection: self.connection, number }
    }

    /// The work for a delivery is done. Nothing happens if it arrived on an older connection.
    pub(super) fn done(&mut self, arrival: Arrival) {
        if arrival.connection != self.connection {
            return;
        }
        let place = arrival.number.checked_sub(self.first).and_then(|n| usize::try_from(n).ok());
        if let Some(open) = place.and_then(|place| self.open.get_mut(place)) {
            open.done = true;
        }
    }

    /// The receipt to be sent next, if all before it were sent.
    pub(super) fn next(&self) -> Option<&R> {
        self.open.front().filter(|open| open.done).map(|open| &open.receipt)
    }

    /// The [`next`](Self::next) one was sent.
    pub(super) fn sent(&mut self) {
        if self.open.pop_front().is_some() {
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Arrive,
        Done(prop::sample::Index),
        Reconnect,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => Just(Step::Arrive),
            8 => any::<prop::sample::Index>().prop_map(Step::Done),
            1 => Just(Step::Reconnect),
        ]
    }

    fn send_all(order: &mut AckOrder<usize>) -> Vec<usize> {
        let mut sent = Vec::new();
        while let Some(&receipt) = order.next() {
            sent.push(receipt);
            order.sent();
        }
        sent
    }

    proptest! {
        /// After every step, exactly the longest done prefix of this connection's deliveries has
        /// been acknowledged, in order of arrival.
        #[test]
        fn acknowledges_the_done_prefix(steps in prop::collection::vec(step(), 0..200)) {
            let mut order = AckOrder::new();
            order.connected();
            let mut unfinished: Vec<(usize, Arrival)> = Vec::new();
            let mut arrived = 0;
            let mut here: Vec<(usize, bool)> = Vec::new();
            let mut acknowledged: Vec<usize> = Vec::new();
            for step in steps {
                match step {
                    Step::Arrive => {
                        unfinished.push((arrived, order.arrived(arrived)));
                        here.push((arrived, false));
                        arrived += 1;
                    }
                    Step::Done(index) if !unfinished.is_empty() => {
                        let (number, arrival) = unfinished.remove(index.index(unfinished.len()));
                        order.done(arrival);
                        for delivery in here.iter_mut().filter(|(n, _)| *n == number) {
                            delivery.1 = true;
                        }
                    }
                    Step::Done(_) => {}
                    Step::Reconnect => {
                        order.connected();
                        here.clear();
                        acknowledged.clear();
                    }
                }
                acknowledged.extend(send_all(&mut order));
                let prefix: Vec<usize> =
                    here.iter().take_while(|(_, done)| *done).map(|(n, _)| *n).collect();
                prop_assert_eq!(&acknowledged, &prefix);
            }
        }
    }

    #[test]
    fn an_old_connections_delivery_acknowledges_nothing() {
        let mut order = AckOrder::new();
        order.connected();
        let old = order.arrived(1);
        order.connected();
        let new = order.arrived(2);
        order.done(old);
        assert_eq!(order.next(), None);
        order.done(new);
        assert_eq!(order.next(), Some(&2));
    }
}
