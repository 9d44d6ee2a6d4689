//! The publishing side: what was accepted goes out in order, and is settled by its own answer.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::config::{MqttConfig, Overflow, PUBLISH_OVERHEAD};
use super::driver::{Link, Lost, Side};
use super::in_flight::{Bounds, InFlight};
use super::protocol::{Client, Role, Signal, Verdict, Welcome};
use crate::retry::Backoff;
use crate::transport::{Confirmation, Confirmed, Message, PublishError, QoS, Settler, Window};

/// Accepts messages and sees each one settled.
pub(super) struct Publisher {
    link: Link,
    state: Mutex<State>,
    drained: Notify,
}

/// One lock covers our own list and handing over to the client library, so that both hold the
/// same messages in the same order.
struct State {
    in_flight: InFlight<Publishing>,
    /// While connected.
    client: Option<Client>,
    accepting: bool,
    /// The largest topic and payload that this side and the broker take.
    largest: usize,
    /// How many messages may be on the wire, as the broker said last.
    window: usize,
    /// QoS 2 messages whose PUBREC said that nobody was subscribed.
    unheard: HashSet<u16>,
    /// Slots of rumqttc's window that it lost, and how many it may lose. See [`State::leaked`].
    leaks: u16,
    bearable_leaks: u16,
    /// When the broker last answered, or owed no answer.
    progress: Instant,
    /// How often a message is sent that the broker refuses for now, the first time included.
    attempts: u32,
    /// Nothing is sent before, for the broker refused a message for now.
    not_before: Option<Instant>,
    /// No message that waits expires before.
    next_expiry: Option<Instant>,
    /// Waits for room, where that is the policy.
    waiting: Option<Waker>,
    /// When a message of the node's own was sent on this connection, if nothing was settled since.
    sent_own: Option<Instant>,
    /// How many connections in a row ended right after one.
    ends_after_own: u32,
    /// Since when none is sent any more.
    silent_since: Option<Instant>,
    /// The last connection ended before anything was settled: on this one events go first, so that it is
    /// known what ends it.
    events_first: bool,
    /// What became of messages, told when the lock is free: whoever is told may ask how things stand.
    told: Vec<(Settler, Result<Confirmed, PublishError>)>,
}

/// After so many connections that ended right after a message of the node's own, it sends none for a while:
/// events are worth more than an announcement.
const SUSPICIOUS: u32 = 3;

/// For how long.
const SILENCE: Duration = Duration::from_secs(3_600);

/// How often those that have expired are looked for.
const BETWEEN_SWEEPS: Duration = Duration::from_millis(250);

/// How long what a node says of itself may change before it is said.
const GATHERING: Duration = Duration::from_millis(200);

/// A connection that ends later ends for something else.
const RIGHT_AFTER: Duration = Duration::from_secs(1);

struct Publishing {
    message: Message,
    settler: Settler,
    accepted: Instant,
    /// How often the broker refused it for now.
    refusals: u32,
}

/// A message that alone ended so many connections in a row is given up. A broker that is killed and
/// started again, or a way that breaks, ends now and then one that it did not mean.
const ENDS: u32 = 10;

/// How long the next message waits after one was refused for now.
const AFTER_REFUSAL: Backoff = Backoff {
    base: Duration::from_secs(1),
    cap: Duration::from_secs(30),
    jitter: Duration::from_millis(250),
};

impl Publisher {
    pub(super) fn new(config: Arc<MqttConfig>, client_id: String) -> Self {
        let bounds = Bounds {
            window: config.window.into(),
            messages: config.queue_messages,
            bytes: config.queue_bytes,
            displace: config.overflow == Overflow::DropOldest,
        };
        let state = State {
            in_flight: InFlight::new(bounds),
            client: None,
            accepting: true,
            largest: config.largest_message(),
            window: config.window.into(),
            unheard: HashSet::new(),
            leaks: 0,
            bearable_leaks: 0,
            progress: Instant::now(),
            attempts: config.publish_attempts,
            not_before: None,
            next_expiry: None,
            waiting: None,
            sent_own: None,
            ends_after_own: 0,
            silent_since: None,
            events_first: false,
            told: Vec::new(),
        };
        let link = Link::new("publisher", config, client_id);
        Self { link, state: Mutex::new(state), drained: Notify::new() }
    }

    pub(super) fn publish(&self, message: Message) -> Result<Confirmation, PublishError> {
        let size = message.size();
        let limit = self.link.config.largest_accepted();
        if size > limit {
            return Err(PublishError::TooLarge { size, limit });
        }
        let (settler, confirmation) = Confirmation::new();
        let publishing = Publishing { message, settler, accepted: Instant::now(), refusals: 0 };
        self.locked(|state| state.accept(publishing, size))?;
        Ok(confirmation)
    }

    /// Whether there is room for a message of any size; where not, whoever asks is woken when there is.
    /// There always is where nobody is to wait.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.link.config.overflow != Overflow::Wait {
            return Poll::Ready(());
        }
        self.locked(|state| {
            state.sweep();
            if !state.accepting || state.has_room(&self.link.config) {
                return Poll::Ready(());
            }
            state.waiting = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    /// Sends a message of QoS 0 that nobody waits for, ahead of what is queued, if there is a connection.
    pub(super) fn send_at_once(&self, message: &Message) -> bool {
        self.locked(|state| state.send_own(Some(message)))
    }

    /// What the node says of itself, if it is to say it.
    fn announcement(&self, online: bool) -> Option<Message> {
        let config = &self.link.config;
        let presence = config.presence.as_ref().filter(|_| config.announce)?;
        let payload = if online { presence.said.text() } else { presence.offline.clone() };
        let message = Message::new(presence.topic.clone(), payload);
        Some(Message { qos: QoS::AtMostOnce, retain: true, ..message })
    }

    /// Says again what the node says of itself, whenever that changes, until it is closed.
    pub(super) async fn keep_announcing(self: Arc<Self>) {
        let Some(presence) = &self.link.config.presence else { return };
        loop {
            tokio::select! {
                () = self.link.closing() => return,
                () = presence.said.changed() => {}
            }
            // Listeners come one after the other.
            tokio::select! {
                () = self.link.closing() => return,
                () = tokio::time::sleep(GATHERING) => {}
            }
            // Where it was connected meanwhile, that was said already; where it is not, it is as soon as it is.
            if presence.said.is_news() {
                let announcement = self.announcement(true);
                self.locked(|state| state.send_own(announcement.as_ref()));
            }
        }
    }

    /// Whether the broker could not bear that the node announces itself.
    pub(super) fn is_silent(&self) -> bool {
        self.lock().silent_since.is_some()
    }

    pub(super) fn unconfirmed(&self) -> usize {
        self.lock().in_flight.len()
    }

    /// How long ago the oldest of those that are not settled was accepted.
    pub(super) fn oldest(&self) -> Option<Duration> {
        let state = self.lock();
        state.in_flight.oldest().map(|publishing| publishing.accepted.elapsed())
    }

    pub(super) fn window(&self) -> Window {
        let state = self.lock();
        Window { size: state.window, used: state.in_flight.on_the_wire() }
    }

    pub(super) fn stop_accepting(&self) {
        self.locked(|state| state.accepting = false);
        self.link.close();
    }

    /// Waits until everything is settled. Ends only if nothing new is accepted.
    pub(super) async fn drained(&self) {
        loop {
            let notified = self.drained.notified();
            if self.unconfirmed() == 0 {
                return;
            }
            notified.await;
        }
    }

    pub(super) fn finish(&self) {
        self.link.finish();
        let farewell = self.announcement(false);
        self.locked(|state| {
            state.send_own(farewell.as_ref());
            if let Some(client) = &state.client {
                // If it cannot be handed over, the connection is gone already.
                let _ = client.disconnect();
            }
        });
    }

    /// Settles everything that is left as closed, and tells how many that were.
    pub(super) fn give_up(&self) -> usize {
        let left = self.lock().in_flight.give_up();
        let messages = left.len();
        for publishing in left {
            publishing.settler.settle(Err(PublishError::Closed));
        }
        messages
    }

    /// Does something with the state, and tells everybody what came of it when the lock is free.
    fn locked<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let outcome = act(&mut state);
        let told = std::mem::take(&mut state.told);
        let room = state.waiting.is_some() && (!state.accepting || state.has_room(&self.link.config));
        let waiting = state.waiting.take_if(|_| room);
        let drained = !state.accepting && state.in_flight.len() == 0;
        drop(state);
        for (settler, outcome) in told {
            settler.settle(outcome);
        }
        waiting.into_iter().for_each(Waker::wake);
        if drained {
            self.drained.notify_waiters();
        }
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Side for Publisher {
    fn link(&self) -> &Link {
        &self.link
    }

    fn role(&self) -> Role {
        let window = self.link.config.window;
        Role {
            client_id: self.link.client_id.clone(),
            persistent: false,
            // Twice the window: an answer that comes late holds nothing up until as many messages
            // as the window has were sent after it.
            packet_ids: window.saturating_mul(2),
            // The window, what is sent at once, a DISCONNECT, and some to spare.
            requests: usize::from(window) + 8,
            will: !self.is_silent(),
        }
    }

    async fn needed(&self) {}

    fn connected(&self, client: Client, welcome: &Welcome) {
        let ours = self.link.config.largest_message();
        let brokers = welcome.max_packet.map(|bytes| bytes.saturating_sub(PUBLISH_OVERHEAD));
        let ids = self.role().packet_ids;
        let announcement = self.announcement(true);
        self.locked(|state| {
            state.largest = brokers.map_or(ours, |brokers| brokers.min(ours));
            let window = self.link.config.window;
            state.window = welcome.receive_maximum.map_or(window, |brokers| brokers.min(window)).into();
            state.leaks = 0;
            state.bearable_leaks = welcome.receive_maximum.map_or(ids, |brokers| brokers.min(ids)) / 2;
            state.progress = Instant::now();
            state.client = Some(client);
            if state.silent_since.is_some_and(|since| since.elapsed() > SILENCE) {
                state.silent_since = None;
                state.ends_after_own = 0;
            }
            // Before all else that this connection carries, as long as nothing is suspected.
            if state.in_flight.len() == 0 {
                state.events_first = false;
            }
            state.send_own(announcement.as_ref());
            state.top_up();
        });
    }

    async fn handle(&self, batch: Vec<Signal>) -> Result<(), Lost> {
        // A packet that the broker lost stays unanswered for good while pings are answered.
        let patience = 2 * self.link.config.keep_alive;
        let announcement = || self.announcement(true);
        self.locked(|state| {
            let suspected = state.events_first;
            for signal in batch {
                state.apply(signal)?;
            }
            if suspected && !state.events_first {
                state.send_own(announcement().as_ref());
            }
            state.top_up();
            if state.progress.elapsed() > patience { Err(Lost::Unanswered(patience)) } else { Ok(()) }
        })
    }

    fn disconnected(&self, leftovers: Vec<Signal>, hung_up: bool) {
        let silenced = self.locked(|state| {
            for signal in leftovers {
                // The connection is lost already: an error would say no more than that.
                let _ = state.apply(signal);
            }
            state.client = None;
            state.unheard.clear();
            // Who refused something for now has to be asked anew.
            state.not_before = None;
            state.lost(hung_up)
        });
        if silenced {
            tracing::warn!(broker = %self.link.config.address(), UNBEARABLE);
        }
    }

    fn gave_up(&self) {
        self.stop_accepting();
        self.give_up();
        self.drained.notify_waiters();
    }

    fn due(&self) -> Option<Instant> {
        let state = self.lock();
        state.not_before.into_iter().chain(state.next_expiry).min()
    }

    fn on_due(&self) {
        self.locked(|state| {
            state.sweep();
            state.top_up();
        });
    }
}

impl State {
    fn accept(&mut self, publishing: Publishing, size: usize) -> Result<(), PublishError> {
        if !self.accepting {
            return Err(PublishError::Closed);
        }
        self.sweep();
        self.will_expire(publishing.message.expires);
        let displaced = self
            .in_flight
            .accept(publishing, size)
            .map_err(|full| PublishError::QueueFull { messages: full.messages, bytes: full.bytes })?;
        self.told.extend(displaced.into_iter().map(|one| (one.settler, Err(PublishError::Displaced))));
        self.top_up();
        Ok(())
    }

    /// Whether a message of any size would be taken in; with a small bound, whether any is there.
    fn has_room(&self, config: &MqttConfig) -> bool {
        let large = config.largest_accepted().min(config.queue_bytes / 2);
        self.in_flight.has_room(large)
    }

    /// Sends a message of the node's own, of QoS 0, if there is a connection that may carry it.
    fn send_own(&mut self, message: Option<&Message>) -> bool {
        let Some(message) = message else { return false };
        if self.silent_since.is_some() || self.events_first {
            return false;
        }
        let sent = self.client.as_ref().is_some_and(|client| client.publish(message).is_ok());
        if sent {
            self.in_flight.handed_over_nobodys();
            self.sent_own = Some(Instant::now());
        }
        sent
    }

    /// The connection is lost: what is suspected to have ended it? Returns whether the node falls silent.
    fn lost(&mut self, hung_up: bool) -> bool {
        let own = self.sent_own.take();
        let right_after = hung_up && own.is_some_and(|sent| sent.elapsed() < RIGHT_AFTER);
        // As long as it may have been a message of the node's own, no event is suspected.
        let fruitless = self.in_flight.disconnected(hung_up && !right_after);
        self.events_first = fruitless || right_after;
        let waits = self.in_flight.first_expiry(|publishing| publishing.message.expires);
        self.next_expiry = waits.map(tokio::time::Instant::into_std);
        if !right_after {
            if own.is_some() {
                self.ends_after_own = 0;
            }
            return false;
        }
        self.ends_after_own += 1;
        let falls_silent = self.ends_after_own >= SUSPICIOUS && self.silent_since.is_none();
        if falls_silent {
            self.silent_since = Some(Instant::now());
        }
        falls_silent
    }

    fn will_expire(&mut self, expires: Option<tokio::time::Instant>) {
        if let Some(expires) = expires.map(tokio::time::Instant::into_std) {
            self.next_expiry = Some(self.next_expiry.map_or(expires, |other| other.min(expires)));
        }
    }

    /// Hands over what the window has room for.
    fn top_up(&mut self) {
        let Self { client: Some(client), in_flight, told, largest, .. } = self else { return };
        if in_flight.on_the_wire() == 0 {
            self.progress = Instant::now();
        }
        if self.not_before.is_some_and(|moment| moment > Instant::now()) {
            return;
        }
        self.not_before = None;
        while in_flight.next_ends_connections(ENDS) {
            let poison = in_flight.withdraw().map(|one| one.settler);
            told.extend(poison.map(|settler| (settler, Err(PublishError::EndsConnections { times: ENDS }))));
        }
        while let Some(publishing) = in_flight.next() {
            let size = publishing.message.size();
            let expired =
                publishing.message.expires.is_some_and(|expires| expires <= tokio::time::Instant::now());
            let outcome = if expired {
                PublishError::Expired
            } else if size > *largest {
                // Sent all the same, it would end the connection, again and again.
                PublishError::TooLarge { size, limit: *largest }
            } else if client.publish(&publishing.message).is_ok() {
                in_flight.handed_over();
                continue;
            } else {
                // The event loop ended this moment; `disconnected` follows.
                return;
            };
            told.extend(in_flight.withdraw().map(|one| (one.settler, Err(outcome))));
        }
    }

    fn apply(&mut self, signal: Signal) -> Result<(), Lost> {
        match signal {
            Signal::Written(id) => {
                let written = self.in_flight.written(id)?;
                self.settled(written, Ok(Confirmed { had_subscribers: true }));
            }
            Signal::Collided(id) => self.in_flight.collided(id)?,
            Signal::Acknowledged(id, verdict) => {
                let stuck = verdict.is_err() && self.in_flight.is_awaited(id);
                if verdict.as_ref().is_err_and(|reason| is_for_now(reason)) && self.again_later(id) {
                    return if stuck { Err(Lost::Renewed) } else { Ok(()) };
                }
                let answered = self.in_flight.answered(id);
                self.settled(answered, verdict);
                return if stuck { Err(Lost::Renewed) } else { Ok(()) };
            }
            Signal::Received(id, Ok(confirmed)) => {
                self.in_flight.received(id);
                if !confirmed.had_subscribers {
                    self.unheard.insert(id);
                }
            }
            Signal::Received(id, Err(reason)) if is_for_now(&reason) && self.again_later(id) => {
                return self.leaked(id);
            }
            Signal::Received(id, refused) => {
                let answered = self.in_flight.answered(id);
                self.settled(answered, refused);
                return self.leaked(id);
            }
            Signal::Completed(id, verdict) => {
                let leak = verdict.is_err();
                let had_subscribers = !self.unheard.remove(&id);
                let completed = self.in_flight.completed(id);
                self.settled(completed, verdict.map(|_| Confirmed { had_subscribers }));
                return if leak { self.leaked(id) } else { Ok(()) };
            }
            Signal::Disconnected => return Err(Lost::Finished),
            Signal::Connected(_) | Signal::Subscribed(_) | Signal::Unsubscribed | Signal::Delivered(_) => {}
        }
        Ok(())
    }

    /// rumqttc 0.25 (v5/state.rs) does not free the slot of a QoS 2 message that is refused, and
    /// after a refusal does not send the message that waited for its id. Before its window is
    /// half lost, or at once in the second case, a new connection mends it.
    fn leaked(&mut self, id: u16) -> Result<(), Lost> {
        self.leaks = self.leaks.saturating_add(1);
        if self.in_flight.is_awaited(id) || self.leaks >= self.bearable_leaks {
            return Err(Lost::Renewed);
        }
        Ok(())
    }

    /// Sends a message again later that the broker refused for now, and no other before it; `false` when
    /// it was sent often enough.
    fn again_later(&mut self, id: u16) -> bool {
        let attempts = self.attempts;
        let tried = self.in_flight.on_the_wire_as(id).map(|publishing| publishing.refusals + 1);
        if tried.is_none_or(|tried| tried >= attempts) {
            return false;
        }
        let Some(publishing) = self.in_flight.refused_for_now(id) else { return false };
        publishing.refusals += 1;
        let delay = AFTER_REFUSAL.delay(publishing.refusals, fastrand::f64());
        self.progress = Instant::now();
        self.not_before = self.not_before.max(Some(Instant::now() + delay));
        true
    }

    /// Gives up what has expired while it waited.
    fn sweep(&mut self) {
        let now = Instant::now();
        if self.next_expiry.is_none_or(|expiry| expiry > now) {
            return;
        }
        let expired = self.in_flight.withdraw_if(|publishing| {
            publishing.message.expires.is_some_and(|expires| expires.into_std() <= now)
        });
        self.told.extend(expired.into_iter().map(|one| (one.settler, Err(PublishError::Expired))));
        // Each has a moment of its own, and to look at all of them costs time.
        let next = self.in_flight.first_expiry(|publishing| publishing.message.expires);
        self.next_expiry = next.map(|next| next.into_std().max(now + BETWEEN_SWEEPS));
    }

    fn settle(&mut self, publishing: Option<Publishing>, outcome: Result<Confirmed, PublishError>) {
        self.told.extend(publishing.map(|publishing| (publishing.settler, outcome)));
    }

    fn settled(&mut self, publishing: Option<Publishing>, verdict: Verdict) {
        if publishing.is_some() {
            self.progress = Instant::now();
            self.sent_own = None;
            self.events_first = false;
        }
        self.settle(publishing, verdict.map_err(|reason| PublishError::Refused { reason }));
    }
}

const UNBEARABLE: &str = "the broker ends the connection right after this node announces itself, again and again: it sends \
                          no more announcements and canaries. Allow it to publish below `_nodes` and `_canary`, or \
                          switch `announce` and `canary` off";

/// Whether a refusal is about the moment and not about the message.
fn is_for_now(reason: &str) -> bool {
    matches!(reason, "QuotaExceeded" | "UnspecifiedError" | "ImplementationSpecificError")
}
