//! What a client has accepted for publishing, until the broker confirms it. No I/O, no clock.

use std::collections::VecDeque;

use crate::transport::{Confirmation, Confirmed, Message, PublishError, Settler};

/// Messages in the order of acceptance; some of them are on their way.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Oldest first; the numbers are consecutive.
    messages: VecDeque<Accepted>,
    /// How many of them, from the front, were sent on this connection.
    sent: usize,
    next_number: u64,
    bytes: usize,
    bound: usize,
    accepting: bool,
}

#[derive(Debug)]
struct Accepted {
    number: u64,
    message: Message,
    /// `None` once it is settled and waits only for those before it.
    settler: Option<Settler>,
}

impl Outbox {
    pub(super) fn new(bound: usize) -> Self {
        Self { messages: VecDeque::new(), sent: 0, next_number: 0, bytes: 0, bound, accepting: true }
    }

    pub(super) fn set_bound(&mut self, bound: usize) {
        self.bound = bound;
    }

    pub(super) fn accept(&mut self, message: Message) -> Result<Confirmation, PublishError> {
        if !self.accepting {
            return Err(PublishError::Closed);
        }
        if self.messages.len() >= self.bound {
            return Err(PublishError::QueueFull { messages: self.messages.len(), bytes: self.bytes });
        }
        let (settler, confirmation) = Confirmation::new();
        self.bytes += message.size();
        self.messages.push_back(Accepted { number: self.next_number, message, settler: Some(settler) });
        self.next_number += 1;
        Ok(confirmation)
    }

    pub(super) fn stop_accepting(&mut self) {
        self.accepting = false;
    }

    /// Messages that are not confirmed.
    pub(super) fn unconfirmed(&self) -> usize {
        self.messages.iter().filter(|accepted| accepted.settler.is_some()).count()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// A connection begins: everything unconfirmed is sent again.
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
        self.tidy();
    }

    /// The next message to send, with its number.
    pub(super) fn next(&mut self) -> Option<(u64, Message)> {
        let (place, accepted) = self
            .messages
            .iter()
            .enumerate()
            .skip(self.sent)
            .find(|(_, accepted)| accepted.settler.is_some())?;
        self.sent = place + 1;
        Some((accepted.number, accepted.message.clone()))
    }

    /// The broker's answer to a message has come, at whatever place.
    pub(super) fn settle(&mut self, number: u64, outcome: Result<Confirmed, PublishError>) {
        let first = self.messages.front().map_or(0, |accepted| accepted.number);
        let place = number.checked_sub(first).and_then(|place| usize::try_from(place).ok());
        let settler = place.and_then(|place| self.messages.get_mut(place)).and_then(|a| a.settler.take());
        if let Some(settler) = settler {
            settler.settle(outcome);
        }
        self.tidy();
    }

    /// Takes everything out, unsettled.
    pub(super) fn give_up(&mut self) -> usize {
        self.accepting = false;
        self.sent = 0;
        self.bytes = 0;
        let left = self.unconfirmed();
        // Dropping its settler settles a message as closed.
        self.messages.clear();
        left
    }

    /// Forgets what is settled at the front.
    fn tidy(&mut self) {
        while self.messages.front().is_some_and(|accepted| accepted.settler.is_none()) {
            if let Some(gone) = self.messages.pop_front() {
                self.bytes -= gone.message.size();
                self.sent = self.sent.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::event::Operation;
    use crate::topic::{ModelTopic, Topics};

    fn message() -> Message {
        let topic = Topics::default().topic(&ModelTopic::new("user").unwrap(), Operation::Create);
        Message::new(topic, Bytes::from_static(b"{}"))
    }

    #[derive(Debug, Clone)]
    enum Step {
        Accept,
        Send,
        Settle(usize),
        Rewind,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Accept),
            4 => Just(Step::Send),
            3 => (0..5_usize).prop_map(Step::Settle),
            1 => Just(Step::Rewind),
        ]
    }

    proptest! {
        /// Against a list: what is sent is the oldest unsettled one that was not sent yet.
        #[test]
        fn agrees_with_a_plain_list(steps in prop::collection::vec(step(), 0..200)) {
            let mut outbox = Outbox::new(10);
            let (mut left, mut sent, mut accepted) = (Vec::new(), Vec::new(), 0_u64);
            for step in steps {
                match step {
                    Step::Accept => {
                        if outbox.accept(message()).is_ok() {
                            left.push(accepted);
                            accepted += 1;
                        } else {
                            prop_assert!(left.len() <= 10);
                        }
                    }
                    Step::Send => {
                        let last = sent.iter().max().copied();
                        let expected = left.iter().copied().find(|number| Some(*number) > last);
                        prop_assert_eq!(outbox.next().map(|(number, _)| number), expected);
                        sent.extend(expected);
                    }
                    Step::Settle(place) => {
                        if let Some(number) = sent.get(place).copied() {
                            outbox.settle(number, Ok(Confirmed { had_subscribers: true }));
                            left.retain(|other| *other != number);
                        }
                    }
                    Step::Rewind => {
                        outbox.rewind();
                        sent.clear();
                    }
                }
                prop_assert_eq!(outbox.unconfirmed(), left.len());
                prop_assert_eq!(outbox.is_empty(), left.is_empty());
            }
            prop_assert_eq!(outbox.give_up(), left.len());
            prop_assert_eq!(outbox.bytes, 0);
            prop_assert_eq!(outbox.accept(message()).err(), Some(PublishError::Closed));
        }
    }
}
