//! A broker inside the process, for tests: with the guarantees of MQTT at QoS 1 in persistent
//! sessions, and with faults on request.
//!
//! ```
//! # use emitter_core::Emitter;
//! # use emitter_core::transport::memory::MemoryBroker;
//! # use std::time::Duration;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = MemoryBroker::new();
//! let berlin = Emitter::builder().node("berlin").transport(broker.connect("berlin")).start().await?;
//! let madrid = Emitter::builder().node("madrid").transport(broker.connect("madrid")).start().await?;
//! // What `berlin` emits, the listeners of `madrid` hear as remote.
//! assert!(berlin.shutdown(Duration::from_secs(1)).await.is_clean());
//! assert!(madrid.shutdown(Duration::from_secs(1)).await.is_clean());
//! # Ok(())
//! # }
//! ```
//!
//! A *client* is a name. A *link* is one direction of its connection; each client has two, one
//! for publishing and one for deliveries, and one that breaks leaves the other alone. A *session*
//! is what the broker keeps of a client for as long as the broker lives: its subscriptions, and
//! the deliveries that it has not acknowledged.
//!
//! What holds, with any [`Faults`]:
//! - What [`publish`](Transport::publish) accepted goes out in the order of acceptance, and again
//!   after each break until the broker has confirmed it.
//! - Whatever vanishes breaks its link. When the link is up again, everything unconfirmed or
//!   unacknowledged comes again, in order. So first arrivals are in order, unless
//!   [`Faults::reorder`] is asked for.
//! - A client that connects again resumes its session; as with [`mqtt`](super::mqtt), deliveries
//!   begin with the first subscription of the new connection. An older connection of the same
//!   client is taken over: it ends.
//!
//! What is absent on purpose: bytes on a socket, QoS 2 (treated as 1), refused subscriptions. For these there are real brokers.

// What the broker keeps, without I/O.
mod broker;
mod faults;
mod outbox;
mod session;
// The two links of a client, and what owns them.
mod link;
mod publisher;
mod subscriber;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::task::JoinSet;

use self::broker::Broker;
pub use self::faults::Faults;
use self::link::{Link, Side};
use self::publisher::Publisher;
use self::subscriber::Subscriber;
use super::{
    Confirmation, Delivery, Message, Properties, PublishError, Transport, TransportStatus, Unconfirmed,
};
use crate::topic::TopicFilter;

/// Messages that a transport keeps for an absent broker, unless
/// [`with_queue`](MemoryTransport::with_queue) says otherwise.
pub const DEFAULT_QUEUE: usize = 10_000;

/// Messages that the broker keeps for one absent client. Beyond them it refuses publishes for it.
pub const SESSION_BOUND: usize = 100_000;

/// Messages that [`MemoryBroker::published`] remembers.
pub const LOG_BOUND: usize = 10_000;

/// A broker inside the process, for tests. Cloning it clones a pointer.
#[derive(Clone)]
pub struct MemoryBroker {
    broker: Arc<Broker>,
}

/// A message as the broker took it, duplicates included.
#[derive(Clone, PartialEq, Eq)]
pub struct Published {
    /// The topic.
    pub topic: String,
    /// The bytes.
    pub payload: Bytes,
    /// What travelled beside them.
    pub properties: Properties,
}

impl fmt::Debug for Published {
    /// Leaves the payload out: it holds users' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published").field("topic", &self.topic).field("bytes", &self.payload.len()).finish()
    }
}

impl MemoryBroker {
    /// A broker whose links have no faults.
    #[must_use]
    pub fn new() -> Self {
        Self::with_faults(Faults::default())
    }

    /// A broker whose links have these faults. Print [`Faults::seed`] where a test fails.
    #[must_use]
    pub fn with_faults(faults: Faults) -> Self {
        Self { broker: Arc::new(Broker::new(faults)) }
    }

    /// Connects a client and resumes its session, or begins one. An older connection of the same
    /// client ends.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time enabled.
    #[must_use]
    pub fn connect(&self, client: &str) -> MemoryTransport {
        MemoryTransport::start(&self.broker, client, true, None)
    }

    /// Breaks both links of a client, and keeps them down until [`reconnect`](Self::reconnect). It
    /// may be a client that is yet to come.
    pub fn disconnect(&self, client: &str) {
        self.broker.hold(client);
    }

    /// Lets a client connect again.
    pub fn reconnect(&self, client: &str) {
        self.broker.release(client);
    }

    /// Breaks all links, and keeps them down until [`resume`](Self::resume): a broker that is
    /// stopped and keeps its sessions.
    pub fn pause(&self) {
        self.broker.pause();
    }

    /// Lets the clients connect again.
    pub fn resume(&self) {
        self.broker.resume();
    }

    /// Forgets a client's session, and breaks its links if it is connected: a broker that was
    /// restarted without its data.
    pub fn forget(&self, client: &str) {
        self.broker.forget(client);
    }

    /// A message as from another program: any bytes, on any topic, faulty or not. How many
    /// sessions it was put into.
    pub fn publish(&self, topic: &str, payload: impl Into<Bytes>) -> usize {
        self.publish_with(topic, payload, Properties::default())
    }

    /// The same with something beside it.
    pub fn publish_with(&self, topic: &str, payload: impl Into<Bytes>, properties: Properties) -> usize {
        self.broker.inject(&Published { topic: topic.to_owned(), payload: payload.into(), properties })
    }

    /// A message for one client whether it subscribed or not, as from a broker gone mad. `false`
    /// when it never connected, or its session is full.
    pub fn send(&self, client: &str, topic: &str, payload: impl Into<Bytes>) -> bool {
        let (topic, properties) = (topic.to_owned(), Properties::default());
        self.broker.send(client, &Published { topic, payload: payload.into(), properties })
    }

    /// The last [`LOG_BOUND`] messages that were published, oldest first.
    #[must_use]
    pub fn published(&self) -> Vec<Published> {
        self.broker.published()
    }

    /// The filters of a client's session, sorted.
    #[must_use]
    pub fn subscriptions(&self, client: &str) -> Vec<String> {
        self.broker.subscriptions(client)
    }

    /// The messages that a client has not acknowledged, whether they were delivered or not.
    #[must_use]
    pub fn unacknowledged(&self, client: &str) -> usize {
        self.broker.unacknowledged(client)
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker").field("faults", self.broker.faults()).finish_non_exhaustive()
    }
}

/// A client's connection to a [`MemoryBroker`]: a [`Transport`].
///
/// Dropping it without [`close`](Transport::close) ends its tasks at once; the session stays, and
/// what was not confirmed ends as [`PublishError::Closed`].
pub struct MemoryTransport {
    broker: Arc<Broker>,
    client: String,
    /// Absent from connections that only receive.
    publisher: Option<Arc<Publisher>>,
    subscriber: Arc<Subscriber>,
    /// Aborts what is left of them when dropped.
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

impl MemoryTransport {
    fn start(broker: &Arc<Broker>, client: &str, publishes: bool, share: Option<&str>) -> Self {
        let member = broker.join(client, publishes, share);
        let dice = |side: &str| broker.faults().dice(&format!("{client}/{side}/{}", member.life));
        let link = |wake| Link::new(Arc::clone(broker), client, member.life, wake);
        let publish = || Arc::new(Publisher::new(link(Arc::clone(&member.publisher))));
        let publisher = publishes.then(publish);
        let subscriber = Arc::new(Subscriber::new(link(Arc::clone(&member.subscriber))));
        let mut tasks = JoinSet::new();
        if let Some(publisher) = &publisher {
            tasks.spawn(link::keep_up(Arc::clone(publisher), dice("publisher")));
        }
        tasks.spawn(link::keep_up(Arc::clone(&subscriber), dice("subscriber")));
        let (broker, client) = (Arc::clone(broker), client.to_owned());
        Self { broker, client, publisher, subscriber, tasks: tokio::sync::Mutex::new(tasks) }
    }

    /// The same with another bound on the messages that wait for the broker. Default
    /// [`DEFAULT_QUEUE`].
    #[must_use]
    pub fn with_queue(self, messages: usize) -> Self {
        self.publisher.iter().for_each(|publisher| publisher.set_bound(messages));
        self
    }

    async fn close_within(&self, deadline: Duration) -> Unconfirmed {
        self.subscriber.close();
        if let Some(publisher) = &self.publisher {
            publisher.stop_accepting();
            // Late is no error: the rest is counted below.
            let _ = tokio::time::timeout(deadline, publisher.drained()).await;
        }
        self.tasks.lock().await.shutdown().await;
        self.subscriber.last_acknowledgements();
        self.end();
        Unconfirmed { messages: self.publisher.as_ref().map_or(0, |publisher| publisher.give_up()) }
    }

    fn end(&self) {
        self.publisher.iter().for_each(|publisher| publisher.link().end());
        self.subscriber.link().end();
    }
}

impl Transport for MemoryTransport {
    fn publish(&self, message: Message) -> Result<Confirmation, PublishError> {
        self.publisher.as_ref().ok_or(PublishError::Closed)?.publish(message)
    }

    fn group(&self, share: &str, name: &str) -> Option<Arc<dyn Transport>> {
        let client = format!("{}:{name}", self.client);
        Some(Arc::new(Self::start(&self.broker, &client, false, Some(share))))
    }

    fn receiver(&self, client: &str) -> Option<Arc<dyn Transport>> {
        Some(Arc::new(Self::start(&self.broker, client, false, None)))
    }

    fn subscribe(&self, filter: TopicFilter) {
        self.subscriber.subscribe(filter);
    }

    fn unsubscribe(&self, filter: &TopicFilter) {
        self.subscriber.unsubscribe(filter);
    }

    fn next(&self) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(self.subscriber.next())
    }

    fn status(&self) -> TransportStatus {
        TransportStatus {
            publisher: self.publisher.as_ref().map(|publisher| publisher.link().status()).unwrap_or_default(),
            subscriber: self.subscriber.link().status(),
            unconfirmed: self.publisher.as_ref().map_or(0, |publisher| publisher.unconfirmed()),
            oldest: None,
            window: None,
            subscriptions: self.subscriber.confirmed(),
            unsubscribing: self.subscriber.unsubscribing(),
            refused_subscriptions: Vec::new(),
            canary: None,
            silenced: false,
        }
    }

    fn close(&self, deadline: Duration) -> BoxFuture<'_, Unconfirmed> {
        Box::pin(self.close_within(deadline))
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport").field("status", &self.status()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
