//! The publishing link: what was accepted goes out in order, until it is confirmed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::DEFAULT_QUEUE;
use super::broker::{Answer, Ticket};
use super::faults::{Dice, Passage};
use super::link::{Link, Lost, Side};
use super::outbox::Outbox;
use crate::transport::{Confirmation, Confirmed, Message, PublishError, QoS};

pub(super) struct Publisher {
    link: Link,
    outbox: Mutex<Outbox>,
    drained: Notify,
}

/// One connection of it.
struct Connection<'a> {
    publisher: &'a Publisher,
    ticket: &'a Ticket,
    dice: &'a mut Dice,
    /// A confirmation has vanished, and all after it do, until so many messages more were sent.
    unnoticed: Option<u8>,
}

impl Publisher {
    pub(super) fn new(link: Link) -> Self {
        Self { link, outbox: Mutex::new(Outbox::new(DEFAULT_QUEUE)), drained: Notify::new() }
    }

    pub(super) fn set_bound(&self, messages: usize) {
        self.lock().set_bound(messages);
    }

    pub(super) fn publish(&self, message: Message) -> Result<Confirmation, PublishError> {
        let confirmation = self.lock().accept(message)?;
        self.link.wake();
        Ok(confirmation)
    }

    pub(super) fn unconfirmed(&self) -> usize {
        self.lock().unconfirmed()
    }

    pub(super) fn stop_accepting(&self) {
        self.lock().stop_accepting();
    }

    /// Waits until everything is settled. For one caller.
    pub(super) async fn drained(&self) {
        while !self.lock().is_empty() {
            self.drained.notified().await;
        }
    }

    /// Settles everything that is left as closed, and tells how many that were.
    pub(super) fn give_up(&self) -> usize {
        self.lock().give_up()
    }

    fn settle(&self, number: u64, outcome: Result<Confirmed, PublishError>) {
        let mut outbox = self.lock();
        outbox.settle(number, outcome);
        if outbox.is_empty() {
            self.drained.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Side for Publisher {
    fn link(&self) -> &Link {
        &self.link
    }

    fn is_wanted(&self) -> bool {
        true
    }

    async fn serve(&self, ticket: &Ticket, dice: &mut Dice) -> Lost {
        self.lock().rewind();
        let mut connection = Connection { publisher: self, ticket, dice, unnoticed: None };
        match connection.work().await {
            Ok(never) => match never {},
            Err(lost) => lost,
        }
    }

    fn lost(&self) {}

    fn taken_over(&self) {
        self.give_up();
        self.drained.notify_one();
    }
}

impl Connection<'_> {
    async fn work(&mut self) -> Result<std::convert::Infallible, Lost> {
        let mut count = 0_u64;
        loop {
            self.publisher.link.broker.session(self.ticket, |_| ())?;
            let next = self.publisher.lock().next();
            match next {
                Some((number, message)) => self.send(number, &message).await?,
                None if self.unnoticed.is_some() => return Err(CONFIRMATION_LOST),
                None => self.publisher.link.woken().await,
            }
            count += 1;
            if count.is_multiple_of(32) {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn send(&mut self, number: u64, message: &Message) -> Result<(), Lost> {
        if message.expires.is_some_and(|expires| expires <= tokio::time::Instant::now()) {
            self.publisher.settle(number, Err(PublishError::Expired));
            return Ok(());
        }
        if message.qos == QoS::AtMostOnce {
            // Sent once and forgotten, whatever becomes of it.
            self.publisher.settle(number, Ok(Confirmed { had_subscribers: true }));
        }
        let Passage { delay, lost, copies, cut } = self.dice.passage();
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        if lost {
            return Err(Lost::Fault("a publish was lost"));
        }
        for _ in 0..copies {
            let answer = self.publisher.link.broker.publish(self.ticket, message)?;
            self.answer(number, answer)?;
        }
        if cut { Err(Lost::Fault("the link went down")) } else { Ok(()) }
    }

    /// The broker's answer comes back, or does not.
    fn answer(&mut self, number: u64, answer: Answer) -> Result<(), Lost> {
        if self.unnoticed.is_none() && self.dice.loses_answer() {
            self.unnoticed = Some(self.dice.unnoticed());
        }
        match &mut self.unnoticed {
            None => self.publisher.settle(number, outcome(answer)),
            Some(0) => return Err(CONFIRMATION_LOST),
            Some(more) => *more -= 1,
        }
        Ok(())
    }
}

const CONFIRMATION_LOST: Lost = Lost::Fault("a confirmation was lost");

fn outcome(answer: Answer) -> Result<Confirmed, PublishError> {
    match answer {
        Answer::Taken(sessions) => Ok(Confirmed { had_subscribers: sessions > 0 }),
        Answer::Full => Err(PublishError::Refused { reason: "QuotaExceeded".to_owned() }),
    }
}
