//! The subscribing side: keeps the wished filters subscribed, passes deliveries on, and
//! acknowledges them in order of arrival.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::{Notify, mpsc};
use tokio::time::timeout_at;

use super::ack_order::{AckOrder, Arrival};
use super::canary::Canaries;
use super::config::MqttConfig;
use super::driver::{Link, Lost, Side};
use super::protocol::{Client, Incoming, Receipt, Role, Signal, Welcome};
use super::subscriptions::Subscriptions;
use crate::topic::TopicFilter;
use crate::transport::{Ack, Delivery};

/// Receives messages.
pub(super) struct Subscriber {
    link: Link,
    /// For the acknowledgements, which outlive the transport in the hands of listeners.
    myself: Weak<Self>,
    state: Mutex<State>,
    /// There is a first wish.
    first_wish: Notify,
    reach: Reach,
    /// Messages of this node to itself; they go no further than here.
    canaries: Option<Arc<Canaries>>,
    deliveries: mpsc::Sender<Queued>,
    inbox: tokio::sync::Mutex<mpsc::Receiver<Queued>>,
}

/// Which messages a subscriber gets, of those that match its filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    /// All of them, with what was retained before.
    All,
    /// What is published from its subscription on.
    New,
    /// Its share of that.
    Share(String),
}

struct State {
    subscriptions: Subscriptions,
    acks: AckOrder<Receipt>,
    /// While connected.
    client: Option<Client>,
    /// There was a wish: from now on it stays connected.
    started: bool,
    /// The broker sends again what arrived on connections before this one.
    coming_again_before: u64,
}

struct Queued {
    delivery: Delivery,
    /// `None` for QoS 0.
    arrival: Option<Arrival>,
}

/// More than there are packet ids, so that handing over an acknowledgement never fails.
const REQUESTS: usize = 65_535 + 8;

impl Subscriber {
    pub(super) fn new(
        config: Arc<MqttConfig>,
        client_id: String,
        reach: Reach,
        canaries: Option<Arc<Canaries>>,
    ) -> Arc<Self> {
        let (deliveries, inbox) = mpsc::channel(config.receive_maximum.into());
        Arc::new_cyclic(|myself| Self {
            link: Link::new("subscriber", config, client_id),
            myself: myself.clone(),
            state: Mutex::new(State {
                subscriptions: Subscriptions::default(),
                acks: AckOrder::new(),
                client: None,
                started: false,
                coming_again_before: 0,
            }),
            first_wish: Notify::new(),
            reach,
            canaries,
            deliveries,
            inbox: tokio::sync::Mutex::new(inbox),
        })
    }

    pub(super) fn subscribe(&self, filter: &TopicFilter) {
        let mut state = self.lock();
        state.subscriptions.wish(&self.shared(filter));
        if let Some(canaries) = &self.canaries {
            // With the first one, for the answer to another request would stand behind what comes meanwhile.
            state.subscriptions.wish(&self.shared(&TopicFilter::of(&canaries.topic)));
        }
        state.started = true;
        state.ask();
        drop(state);
        self.first_wish.notify_one();
    }

    pub(super) fn unsubscribe(&self, filter: &TopicFilter) {
        let mut state = self.lock();
        state.subscriptions.take_back(&self.shared(filter));
        state.ask();
    }

    /// The filter as the broker is asked for it.
    fn shared<'f>(&self, filter: &'f TopicFilter) -> Cow<'f, str> {
        match &self.reach {
            Reach::All | Reach::New => filter.as_str().into(),
            Reach::Share(share) => format!("$share/{share}/{filter}").into(),
        }
    }

    pub(super) async fn next(&self) -> Option<Delivery> {
        let mut inbox = self.inbox.lock().await;
        loop {
            let queued = tokio::select! {
                biased;
                () = self.link.closing() => return None,
                queued = inbox.recv() => queued?,
            };
            if !self.comes_again(&queued) {
                return Some(queued.delivery);
            }
        }
    }

    /// Whether the broker sends this one again on the present connection. It would only be a
    /// duplicate now, and cannot be acknowledged any more.
    fn comes_again(&self, queued: &Queued) -> bool {
        let before = self.lock().coming_again_before;
        queued.arrival.is_some_and(|arrival| arrival.connection < before)
    }

    pub(super) fn confirmed(&self) -> usize {
        let state = self.lock();
        let own = self
            .canaries
            .as_ref()
            .filter(|canaries| state.subscriptions.is_confirmed(canaries.topic.as_str()));
        state.subscriptions.confirmed() - usize::from(own.is_some())
    }

    pub(super) fn is_confirmed(&self, filter: &TopicFilter) -> bool {
        self.lock().subscriptions.is_confirmed(filter.as_str())
    }

    pub(super) fn unsubscribing(&self) -> usize {
        self.lock().subscriptions.dropped()
    }

    pub(super) fn refused(&self) -> Vec<(String, String)> {
        self.lock().subscriptions.refused()
    }

    pub(super) fn finish(&self) {
        self.link.finish();
        if let Some(client) = &self.lock().client {
            // If it cannot be handed over, the connection is gone already.
            let _ = client.disconnect();
        }
    }

    fn done(&self, arrival: Arrival) {
        let mut state = self.lock();
        state.acks.done(arrival);
        state.acknowledge();
    }

    /// Passes a delivery on. With MQTT 5 there should always be room, for the broker may send no
    /// more than the queue holds. One of MQTT 3.1.1 may, and mosquitto 2.0.11 does over both: with
    /// each connection it sends a whole window beside what comes again (docs/BROKERS.md). Then
    /// nothing is read from the connection, not even a SUBACK, and no ping sent, until a listener
    /// takes one; `until` lies before the broker's patience ends. After it the connection is given
    /// up, and what was not acknowledged comes again.
    async fn deliver(&self, incoming: Incoming, until: tokio::time::Instant) -> Result<(), Lost> {
        let canaries = self.canaries.as_ref().filter(|canaries| incoming.topic == canaries.topic.as_str());
        canaries.inspect(|canaries| canaries.arrived(&incoming.payload));
        let is_old = incoming.retained && self.reach != Reach::All;
        if canaries.is_some() || is_old {
            let arrival = incoming.receipt.map(|receipt| self.lock().acks.arrived(receipt));
            arrival.into_iter().for_each(|arrival| self.done(arrival));
            return Ok(());
        }
        let room = tokio::select! {
            biased;
            () = self.link.closing() => return Ok(()),
            room = timeout_at(until, self.deliveries.reserve()) => room,
        };
        let untaken = || Lost::Untaken(self.link.config.keep_alive / 2);
        let Ok(room) = room.map_err(|_| untaken())? else {
            return Ok(()); // The inbox is closed: nobody will ever take one.
        };
        let arrival = incoming.receipt.map(|receipt| self.lock().acks.arrived(receipt));
        let Incoming { topic, payload, properties, .. } = incoming;
        let delivery = Delivery { topic, payload, properties, ack: self.ack(arrival) };
        room.send(Queued { delivery, arrival });
        Ok(())
    }

    fn ack(&self, arrival: Option<Arrival>) -> Ack {
        let Some(arrival) = arrival else { return Ack::new(|| {}) };
        let subscriber = self.myself.clone();
        Ack::new(move || {
            if let Some(subscriber) = subscriber.upgrade() {
                subscriber.done(arrival);
            }
        })
    }

    fn subscribed(&self, answers: Vec<Result<(), String>>) {
        let reconnect = self.link.config.reconnect;
        let again = |refusals| Instant::now() + reconnect.delay(refusals, fastrand::f64());
        let refused = self.lock().subscriptions.subscribed(answers, again);
        for (filter, reason) in refused {
            tracing::warn!(filter, reason, "the broker refused a subscription; it is tried again");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Side for Subscriber {
    fn link(&self) -> &Link {
        &self.link
    }

    fn role(&self) -> Role {
        Role {
            client_id: self.link.client_id.clone(),
            persistent: !self.link.config.clean,
            // For SUBSCRIBE and UNSUBSCRIBE, of which one is outstanding at a time.
            packet_ids: 16,
            requests: REQUESTS,
            will: false,
        }
    }

    async fn needed(&self) {
        while !self.lock().started {
            self.first_wish.notified().await;
        }
    }

    fn connected(&self, client: Client, welcome: &Welcome) {
        let mut state = self.lock();
        let connection = state.acks.connected();
        if welcome.session_present {
            state.coming_again_before = connection;
        }
        state.subscriptions.connected(welcome.session_present);
        state.client = Some(client);
        state.ask();
    }

    async fn handle(&self, batch: Vec<Signal>) -> Result<(), Lost> {
        let until = tokio::time::Instant::now() + self.link.config.keep_alive / 2;
        for signal in batch {
            match signal {
                Signal::Delivered(incoming) => self.deliver(incoming, until).await?,
                Signal::Subscribed(answers) => self.subscribed(answers),
                Signal::Unsubscribed => self.lock().subscriptions.unsubscribed(),
                Signal::Disconnected => return Err(Lost::Finished),
                _ => {}
            }
        }
        let mut state = self.lock();
        state.acknowledge();
        state.ask();
        let patience = 2 * self.link.config.keep_alive;
        match state.subscriptions.outstanding_since() {
            Some(since) if since.elapsed() > patience => Err(Lost::Unanswered(patience)),
            _ => Ok(()),
        }
    }

    fn disconnected(&self, _leftovers: Vec<Signal>, _hung_up: bool) {
        // Deliveries among them were not acknowledged, so they come again.
        let mut state = self.lock();
        state.client = None;
        state.subscriptions.disconnected();
    }

    fn gave_up(&self) {}

    fn due(&self) -> Option<Instant> {
        self.lock().subscriptions.next_retry()
    }

    fn on_due(&self) {
        self.lock().ask();
    }
}

impl State {
    /// Sends the next request, if one is due and none outstanding.
    fn ask(&mut self) {
        let Some(client) = &self.client else { return };
        let now = Instant::now();
        let Some(request) = self.subscriptions.next(now) else { return };
        if client.request(&request).is_ok() {
            self.subscriptions.sent(request, now);
        }
    }

    /// Sends the acknowledgements whose turn it is.
    fn acknowledge(&mut self) {
        let Some(client) = &self.client else { return };
        while let Some(receipt) = self.acks.next() {
            if client.acknowledge(*receipt).is_err() {
                return;
            }
            self.acks.sent();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::subscriptions::Request;
    use super::*;
    use crate::topic::{ModelTopic, Topics};

    #[test]
    fn the_canaries_are_asked_for_with_the_first_wish() {
        let topics = Topics::default();
        let canaries = Canaries::new(topics.own(&["_canary", "shop.a"]));
        let config = Arc::new(MqttConfig::new("mqtt://127.0.0.1").unwrap());
        let subscriber =
            Subscriber::new(config, "shop.a".to_owned(), Reach::All, Some(Arc::clone(&canaries)));
        let filter = topics.model_filter(&ModelTopic::new("user").unwrap());
        subscriber.subscribe(&filter);
        let Some(Request::Subscribe(asked)) = subscriber.lock().subscriptions.next(Instant::now()) else {
            panic!("nothing is asked for")
        };
        let both = [canaries.topic.as_str(), filter.as_str()];
        assert!(
            asked.len() == 2 && both.iter().all(|one| asked.iter().any(|other| other == one)),
            "{asked:?}"
        );
    }
}
