//! The subscribing link: deliveries arrive in order, and are acknowledged in order.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Published;
use super::broker::{Gone, Ticket};
use super::faults::{Dice, Passage};
use super::link::{Link, Lost, Side};
use super::session::{Outgoing, Session};
use crate::topic::TopicFilter;
use crate::transport::{Ack, Delivery};

/// Deliveries that are out and not acknowledged: the receive maximum of MQTT.
const WINDOW: usize = 100;

pub(super) struct Subscriber {
    link: Link,
    wishes: Mutex<HashMap<TopicFilter, Wish>>,
    inbox: Mutex<Inbox>,
    arrived: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Wanted,
    Confirmed,
    /// Taken back; the broker does not know yet.
    TakenBack,
}

/// What has arrived and was not taken. No longer than the window, for a lost link empties it.
#[derive(Default)]
struct Inbox {
    deliveries: VecDeque<Delivery>,
    closed: bool,
    /// The connection, while it is up.
    ticket: Option<Ticket>,
}

impl Subscriber {
    pub(super) fn new(link: Link) -> Self {
        Self { link, wishes: Mutex::default(), inbox: Mutex::default(), arrived: Notify::new() }
    }

    pub(super) fn subscribe(&self, filter: TopicFilter) {
        let mut wishes = self.wishes();
        let wish = wishes.entry(filter).or_insert(Wish::Wanted);
        if *wish == Wish::TakenBack {
            *wish = Wish::Wanted;
        }
        drop(wishes);
        self.link.wake();
    }

    pub(super) fn unsubscribe(&self, filter: &TopicFilter) {
        // Also one that was not wished for: the session may remember it from an earlier life.
        self.wishes().insert(filter.clone(), Wish::TakenBack);
        self.link.wake();
    }

    pub(super) async fn next(&self) -> Option<Delivery> {
        loop {
            {
                let mut inbox = self.inbox();
                if inbox.closed {
                    return None;
                }
                if let Some(delivery) = inbox.deliveries.pop_front() {
                    return Some(delivery);
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Filters that the broker knows.
    pub(super) fn confirmed(&self) -> usize {
        self.wishes().values().filter(|wish| **wish == Wish::Confirmed).count()
    }

    /// Filters that the broker must still forget.
    pub(super) fn unsubscribing(&self) -> usize {
        self.wishes().values().filter(|wish| **wish == Wish::TakenBack).count()
    }

    /// Hands out no more deliveries.
    pub(super) fn close(&self) {
        let mut inbox = self.inbox();
        inbox.closed = true;
        inbox.deliveries.clear();
        self.arrived.notify_one();
    }

    /// Acknowledges what is done with, if the link is up. Its task must have ended.
    pub(super) fn last_acknowledgements(&self) {
        let ticket = self.inbox().ticket.take();
        if let Some(ticket) = ticket {
            // Gone meanwhile: then the deliveries come again.
            let _ = self.link.broker.session(&ticket, |session| {
                while session.first_is_done() {
                    session.acknowledge_first();
                }
            });
        }
    }

    async fn work(&self, ticket: &Ticket, dice: &mut Dice) -> Result<std::convert::Infallible, Lost> {
        self.begin(ticket)?;
        let mut count = 0_u64;
        loop {
            for filter in self.link.broker.session(ticket, |session| self.tell_wishes(session))? {
                self.link.broker.hand_out_retained(ticket, &filter)?;
            }
            self.acknowledge(ticket, dice)?;
            if !self.deliver(ticket, dice).await? {
                self.link.woken().await;
            }
            count += 1;
            if count.is_multiple_of(32) {
                tokio::task::yield_now().await;
            }
        }
    }

    fn begin(&self, ticket: &Ticket) -> Result<(), Gone> {
        for wish in self.wishes().values_mut().filter(|wish| **wish == Wish::Confirmed) {
            *wish = Wish::Wanted;
        }
        self.inbox().ticket = Some(ticket.clone());
        self.link.broker.session(ticket, |session| session.resume(ticket.connection))
    }

    /// Those that are new on this connection.
    fn tell_wishes(&self, session: &mut Session) -> Vec<TopicFilter> {
        let mut subscribed = Vec::new();
        self.wishes().retain(|filter, wish| match wish {
            Wish::Confirmed => true,
            Wish::Wanted => {
                session.subscribe(filter);
                *wish = Wish::Confirmed;
                subscribed.push(filter.clone());
                true
            }
            Wish::TakenBack => {
                session.unsubscribe(filter);
                false
            }
        });
        subscribed
    }

    fn acknowledge(&self, ticket: &Ticket, dice: &mut Dice) -> Result<(), Lost> {
        while self.link.broker.session(ticket, |session| session.first_is_done())? {
            if dice.loses_answer() {
                return Err(Lost::Fault("an acknowledgement was lost"));
            }
            self.link.broker.session(ticket, Session::acknowledge_first)?;
        }
        Ok(())
    }

    /// Delivers one message, or two in the wrong order; `false` when none waits.
    async fn deliver(&self, ticket: &Ticket, dice: &mut Dice) -> Result<bool, Lost> {
        let next = || self.link.broker.session(ticket, |session| session.next(WINDOW));
        let Some(first) = next()? else { return Ok(false) };
        let second = if dice.swaps() { next()? } else { None };
        for outgoing in second.into_iter().chain([first]) {
            self.pass(ticket, dice, &outgoing).await?;
        }
        Ok(true)
    }

    async fn pass(&self, ticket: &Ticket, dice: &mut Dice, outgoing: &Outgoing) -> Result<(), Lost> {
        let Passage { delay, lost, copies, cut } = dice.passage();
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
            self.link.broker.session(ticket, |_| ())?;
        }
        if lost {
            return Err(Lost::Fault("a delivery was lost"));
        }
        for _ in 0..copies {
            self.arrive(ticket, outgoing);
        }
        if cut { Err(Lost::Fault("the link went down")) } else { Ok(()) }
    }

    fn arrive(&self, ticket: &Ticket, outgoing: &Outgoing) {
        let Outgoing { number, message: Published { topic, payload, properties } } = outgoing.clone();
        let (broker, ticket) = (Arc::clone(&self.link.broker), ticket.clone());
        let ack = Ack::new(move || broker.done(&ticket, number));
        let mut inbox = self.inbox();
        if !inbox.closed {
            inbox.deliveries.push_back(Delivery { topic, payload, properties, ack });
            self.arrived.notify_one();
        }
    }

    fn wishes(&self) -> MutexGuard<'_, HashMap<TopicFilter, Wish>> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Side for Subscriber {
    fn link(&self) -> &Link {
        &self.link
    }

    fn is_wanted(&self) -> bool {
        !self.wishes().is_empty()
    }

    async fn serve(&self, ticket: &Ticket, dice: &mut Dice) -> Lost {
        match self.work(ticket, dice).await {
            Ok(never) => match never {},
            Err(lost) => lost,
        }
    }

    fn lost(&self) {
        let mut inbox = self.inbox();
        inbox.ticket = None;
        // What was not taken comes again.
        inbox.deliveries.clear();
    }

    fn taken_over(&self) {
        self.close();
    }
}
