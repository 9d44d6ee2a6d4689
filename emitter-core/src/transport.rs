//! What carries encoded events between nodes.
//!
//! A transport knows bytes, topics and acknowledgements; it knows nothing of models, listeners or
//! the dispatcher. Two exist: [`mqtt`] for production and [`memory`] (feature `testing`) for
//! tests inside one process.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

pub use crate::ack::Ack;
pub use crate::emit::QoS;
use crate::event::Timestamp;
pub use crate::properties::Properties;
use crate::topic::{Topic, TopicFilter};

mod confirmation;

pub use confirmation::{Confirmation, Settler};

#[cfg(any(test, feature = "testing"))]
pub mod memory;
#[cfg(feature = "mqtt")]
pub mod mqtt;

/// A way to other nodes: publishes messages, and delivers those that match the subscriptions.
///
/// Delivery is at least once: a message that [`publish`](Self::publish) accepted is sent again
/// after every disconnection until it is confirmed, and a [`Delivery`] that was not acknowledged
/// comes again.
pub trait Transport: Send + Sync + 'static {
    /// Accepts a message for publishing, without waiting. Messages of one transport go out in the
    /// order in which they were accepted.
    ///
    /// # Errors
    /// [`PublishError::QueueFull`], [`PublishError::TooLarge`] or [`PublishError::Closed`], at
    /// once. What happens to it later is told by the returned [`Confirmation`].
    fn publish(&self, message: Message) -> Result<Confirmation, PublishError>;

    /// Ready when a message would be accepted, as far as room goes. A transport whose policy is to refuse or
    /// to displace is always ready; another one wakes the task of `cx` when it is. Meant for one caller.
    fn poll_room(&self, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        let _ = cx;
        std::task::Poll::Ready(())
    }

    /// Wishes for the messages that match `filter`, now and after every reconnection, until
    /// [`unsubscribe`](Self::unsubscribe). Asking twice for the same filter is asking once.
    fn subscribe(&self, filter: TopicFilter);

    /// Takes a wish back. It holds also when the broker is away at that moment.
    fn unsubscribe(&self, filter: &TopicFilter);

    /// A connection of its own that only receives, and shares what it receives: of all connections
    /// with the same `share`, on whatever node, one is sent each message. `name` tells it from the
    /// others of this node. `None` where the transport knows no such thing.
    fn group(&self, share: &str, name: &str) -> Option<std::sync::Arc<dyn Transport>> {
        let _ = (share, name);
        None
    }

    /// How long after a disconnection messages still wait for this node, where it is this node that says so.
    fn session_expiry(&self) -> Option<Duration> {
        None
    }

    /// A connection of its own that only receives, as the client `client`, in a session that belongs to that
    /// name and not to this node: whichever node takes the name goes on where the last one that had it stopped,
    /// and throws it off. What was retained before it subscribed it is not sent. `None` where the transport
    /// knows no such thing.
    fn receiver(&self, client: &str) -> Option<std::sync::Arc<dyn Transport>> {
        let _ = client;
        None
    }

    /// The next message, or `None` once the transport is closed. Meant for one caller.
    fn next(&self) -> BoxFuture<'_, Option<Delivery>>;

    /// How it stands now.
    fn status(&self) -> TransportStatus;

    /// Stops receiving, sends what is queued until `deadline` from now has passed, disconnects,
    /// and tells how many messages were left unconfirmed.
    fn close(&self, deadline: Duration) -> BoxFuture<'_, Unconfirmed>;
}

/// A message to be published.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it goes.
    pub topic: Topic,
    /// The encoded event.
    pub payload: Bytes,
    /// How hard to try.
    pub qos: QoS,
    /// When it is worth nothing any more. A transport does not begin to send it after that; over
    /// MQTT 5 the broker is told, too.
    pub expires: Option<Instant>,
    /// What travels beside it, over MQTT 5.
    pub properties: Properties,
    /// Whether the broker keeps it for those who subscribe later, in place of the one before.
    pub retain: bool,
}

impl Message {
    /// A message that is sent at least once, does not expire and is not retained.
    #[must_use]
    pub fn new(topic: Topic, payload: impl Into<Bytes>) -> Self {
        Self {
            topic,
            payload: payload.into(),
            qos: QoS::AtLeastOnce,
            expires: None,
            properties: Properties::default(),
            retain: false,
        }
    }

    /// The bytes of topic, payload and properties, as limits count them.
    #[must_use]
    pub fn size(&self) -> usize {
        self.topic.as_str().len() + self.payload.len() + self.properties.bytes()
    }
}

impl fmt::Debug for Message {
    /// Leaves the payload out: it holds users' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("bytes", &self.payload.len())
            .field("qos", &self.qos)
            .finish_non_exhaustive()
    }
}

/// What a broker said when it took a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    /// `false` when the broker told that nobody was subscribed (MQTT 5, reason 0x10). A broker
    /// that forgot its sessions shows itself this way.
    pub had_subscribers: bool,
}

/// Why a message was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The queue for messages that wait for the broker is at its bound.
    /// Raise the bound, or look at why the broker is away.
    #[error("the publish queue is full ({messages} messages, {bytes} bytes wait for the broker)")]
    QueueFull {
        /// Messages waiting.
        messages: usize,
        /// Their payloads' bytes.
        bytes: usize,
    },
    /// A newer message took its place, because the queue was full and the policy says so.
    #[error("dropped from the full publish queue to make room for a newer message")]
    Displaced,
    /// Larger than this node or the broker takes.
    #[error("the message has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// The size of topic, payload and properties in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Its time was over before the broker took it.
    #[error("the event expired while it waited for the broker")]
    Expired,
    /// The broker refused this message (MQTT 5); the others go on.
    #[error("the broker refused the message: {reason}")]
    Refused {
        /// The broker's reason, such as `NotAuthorized`.
        reason: String,
    },
    /// Each time that it was sent, and nothing else, the connection ended: the broker cannot bear it.
    #[error("the connection ended {times} times when this message was sent alone: the broker cannot bear it")]
    EndsConnections {
        /// How many connections in a row.
        times: u32,
    },
    /// The transport was closed before the broker confirmed the message.
    #[error("the transport was closed before the broker confirmed the message")]
    Closed,
}

/// A message from another node, to be acknowledged when it is done with.
#[derive(Debug)]
pub struct Delivery {
    /// The topic on which it came; not validated.
    pub topic: String,
    /// Its bytes; not validated.
    pub payload: Bytes,
    /// What came beside it; not validated.
    pub properties: Properties,
    /// To be settled when the listeners are done.
    pub ack: Ack,
}

/// How a transport stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportStatus {
    /// The publishing connection.
    pub publisher: LinkStatus,
    /// The subscribing connection.
    pub subscriber: LinkStatus,
    /// Messages accepted and not yet confirmed.
    pub unconfirmed: usize,
    /// How long ago the oldest of them was accepted; `None` without any, and where that is not known.
    pub oldest: Option<Duration>,
    /// How many of them are on the wire, and how many may be at a time.
    pub window: Option<Window>,
    /// Filters of which the broker has confirmed that what they match comes: by themselves, or by a wider one.
    pub subscriptions: usize,
    /// Filters that were taken back, and of which the broker has not confirmed that yet.
    pub unsubscribing: usize,
    /// Filters that the broker refused, with its reason. They are tried again.
    pub refused_subscriptions: Vec<(String, String)>,
    /// What messages to oneself told, where there are any.
    pub canary: Option<Canary>,
    /// The broker could not bear that the node announces itself: for an hour it does not.
    pub silenced: bool,
}

/// What messages that a node sends to itself told: whether what is published really arrives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Canary {
    /// How long the last one that came back was under way; `None` before the first.
    pub round_trip: Option<Duration>,
    /// When that one came back.
    pub came: Option<Timestamp>,
    /// How many in a row were sent and did not come back before the next one.
    pub missed: u32,
}

/// How many messages may be on the wire at a time, unconfirmed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Window {
    /// As the settings have it, less where the broker says so.
    pub size: usize,
    /// How many are.
    pub used: usize,
}

/// How one connection stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkStatus {
    /// Whether it is connected now.
    pub connected: bool,
    /// How often it was connected so far.
    pub connections: u64,
    /// The last error, without credentials.
    pub last_error: Option<String>,
    /// It was tried as often as the settings say (`max_retries`), and is made no more.
    pub given_up: bool,
    /// How often it was lost, or not made, and why: each of a few words. Not that it was ended on purpose.
    pub lost: std::collections::BTreeMap<&'static str, u64>,
}

/// What a closed transport left behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unconfirmed {
    /// Messages that no broker confirmed before the deadline.
    pub messages: usize,
}
