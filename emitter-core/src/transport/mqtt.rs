//! The transport over MQTT: one client publishes, another one subscribes, and one that fails
//! leaves the other alone.
//!
//! Words: a publish is *accepted* when it has its place in the queue, *on the wire* when it was
//! handed to the connection, and *confirmed* when the broker has answered this very message. A
//! *delivery* is a message from the broker; it is *acknowledged* when its listeners are done.
//!
//! What holds:
//! - Accepted messages go out in the order of acceptance. After a disconnection all unconfirmed
//!   ones go out again, in that order, on a connection that begins with nothing of the old one.
//!   So a message may arrive twice, and after a duplicate older ones may be seen again; first
//!   arrivals are in order.
//! - A delivery is acknowledged after all that arrived before it; on another connection than its
//!   own never.
//! - Every queue is bounded by a setting of [`MqttConfig`].
//!
//! What is absent on purpose: subscriptions at QoS 2 (rumqttc livelocks with them after a
//! restart), and, unless it is asked for, a last attempt to connect.

mod address;
mod canary;
mod config;
mod settings;
// How a connection is kept, and what the two of them do with it.
mod driver;
mod publisher;
mod subscriber;
// What is decided, without I/O.
mod ack_order;
mod in_flight;
mod subscriptions;
// What rumqttc says and is told.
mod protocol;
#[cfg(feature = "mqtt-tls")]
mod tls;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::canary::{Canaries, keep_singing};
pub use self::config::{ClientId, MqttConfig, MqttConfigError, MqttVersion, Overflow};
pub(crate) use self::config::{Presence, Said};
use self::driver::{Side, keep_connected};
use self::publisher::Publisher;
use self::subscriber::{Reach, Subscriber};
#[cfg(feature = "mqtt-tls")]
pub use self::tls::Tls;
use super::{Confirmation, Delivery, Message, PublishError, Transport, TransportStatus, Unconfirmed};
use crate::topic::TopicFilter;

/// A connection to an MQTT broker: a [`Transport`].
///
/// It never waits for the broker: started while the broker is away, it queues and goes on trying.
/// Dropping it without [`close`](Transport::close) ends its tasks at once; what was not confirmed
/// ends as [`PublishError::Closed`].
pub struct MqttTransport {
    config: Arc<MqttConfig>,
    client_id: String,
    /// Absent from connections that only receive.
    publisher: Option<Arc<Publisher>>,
    subscriber: Arc<Subscriber>,
    canaries: Option<Arc<Canaries>>,
    /// Aborts what is left of them when dropped.
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

const EXPOSED: &str = "events, user name and password travel in plain text: use mqtts:// or wss://, with the feature `mqtt-tls`";

/// How many deliveries a [receiver](Transport::receiver) may have unacknowledged; brokers have bounds of their own.
const RECEIVER_WINDOW: u16 = 1_000;

/// How long the tasks get to say goodbye when the deadline is already over.
const GOODBYE: Duration = Duration::from_millis(200);

impl MqttTransport {
    /// Starts publishing as `{client_id}`, in a session that ends with each connection, and, from
    /// the first subscription on, receiving as `{client_id}-subscriber`, in a session that the
    /// broker keeps. An id in the configuration wins over `client_id`.
    ///
    /// Where TLS is asked for and nobody can be trusted, the log says so, and no connection succeeds.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time and I/O enabled.
    #[must_use]
    pub fn start(mut config: MqttConfig, client_id: ClientId) -> Self {
        if let Err(error) = config.prepare() {
            tracing::error!("{error}");
        }
        if config.is_exposed() {
            tracing::warn!(broker = %config.address(), EXPOSED);
        }
        let id = config.client_id.clone().unwrap_or(client_id);
        let config = Arc::new(config);
        let publisher = Arc::new(Publisher::new(Arc::clone(&config), id.as_str().to_owned()));
        let client_id = id.as_str().to_owned();
        let canaries = config.presence.as_ref().zip(config.canary);
        let canaries = canaries.map(|(presence, every)| (Canaries::new(presence.canary.clone()), every));
        let (canaries, every) = canaries.unzip();
        let subscriber = Subscriber::new(
            Arc::clone(&config),
            format!("{client_id}-subscriber"),
            Reach::All,
            canaries.clone(),
        );
        let mut tasks = JoinSet::new();
        if let (Some(canaries), Some(every)) = (&canaries, every) {
            let (publisher, subscriber) = (Arc::clone(&publisher), Arc::clone(&subscriber));
            tasks.spawn(keep_singing(Arc::clone(canaries), publisher, subscriber, every));
        }
        tasks.spawn(keep_connected(Arc::clone(&publisher)));
        tasks.spawn(Arc::clone(&publisher).keep_announcing());
        tasks.spawn(keep_connected(Arc::clone(&subscriber)));
        let tasks = tokio::sync::Mutex::new(tasks);
        Self { config, client_id, publisher: Some(publisher), subscriber, canaries, tasks }
    }

    /// Receives as this client, and does nothing else.
    fn receiving(config: Arc<MqttConfig>, client_id: String, reach: Reach) -> Self {
        let subscriber = Subscriber::new(Arc::clone(&config), client_id.clone(), reach, None);
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_connected(Arc::clone(&subscriber)));
        let tasks = tokio::sync::Mutex::new(tasks);
        Self { config, client_id, publisher: None, subscriber, canaries: None, tasks }
    }

    async fn close_within(&self, deadline: Duration) -> Unconfirmed {
        let begun = Instant::now();
        let publisher = self.publisher.as_ref();
        publisher.inspect(|publisher| publisher.stop_accepting());
        // It stays connected, so that acknowledgements of the last deliveries still go out.
        self.subscriber.link().close();
        if let Some(publisher) = publisher {
            // Late is no error: the rest is counted below.
            let _ = timeout(deadline, publisher.drained()).await;
            publisher.finish();
        }
        self.subscriber.finish();
        let left = deadline.saturating_sub(begun.elapsed()).max(GOODBYE);
        let mut tasks = self.tasks.lock().await;
        let _ = timeout(left, async { while tasks.join_next().await.is_some() {} }).await;
        tasks.shutdown().await;
        Unconfirmed { messages: publisher.map_or(0, |publisher| publisher.give_up()) }
    }
}

impl Transport for MqttTransport {
    fn publish(&self, message: Message) -> Result<Confirmation, PublishError> {
        self.publisher.as_ref().ok_or(PublishError::Closed)?.publish(message)
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.publisher {
            Some(publisher) => publisher.poll_room(cx),
            None => Poll::Ready(()),
        }
    }

    /// Receives as `{client_id}:{name}`, in a session that the broker keeps, what is its share of
    /// `$share/{share}/…`.
    fn group(&self, share: &str, name: &str) -> Option<Arc<dyn Transport>> {
        let (config, client_id) = (Arc::clone(&self.config), format!("{}:{name}", self.client_id));
        Some(Arc::new(Self::receiving(config, client_id, Reach::Share(share.to_owned()))))
    }

    /// Receives in a session that the broker keeps, whatever the settings say of others, and with a window of
    /// 1,000 at least: who writes down what comes acknowledges many at a time.
    fn receiver(&self, client: &str) -> Option<Arc<dyn Transport>> {
        let mut config = MqttConfig::clone(&self.config);
        config.keep_session(RECEIVER_WINDOW);
        Some(Arc::new(Self::receiving(Arc::new(config), client.to_owned(), Reach::New)))
    }

    fn subscribe(&self, filter: TopicFilter) {
        self.subscriber.subscribe(&filter);
    }

    fn unsubscribe(&self, filter: &TopicFilter) {
        self.subscriber.unsubscribe(filter);
    }

    fn session_expiry(&self) -> Option<Duration> {
        let MqttConfig { version, clean, session_expiry, .. } = &*self.config;
        (*version == MqttVersion::V5 && !clean).then_some(*session_expiry)
    }

    fn next(&self) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(self.subscriber.next())
    }

    fn status(&self) -> TransportStatus {
        TransportStatus {
            publisher: self.publisher.as_ref().map(|publisher| publisher.link().status()).unwrap_or_default(),
            subscriber: self.subscriber.link().status(),
            unconfirmed: self.publisher.as_ref().map_or(0, |publisher| publisher.unconfirmed()),
            oldest: self.publisher.as_ref().and_then(|publisher| publisher.oldest()),
            window: self.publisher.as_ref().map(|publisher| publisher.window()),
            subscriptions: self.subscriber.confirmed(),
            unsubscribing: self.subscriber.unsubscribing(),
            refused_subscriptions: self.subscriber.refused(),
            canary: self.canaries.as_ref().map(|canaries| canaries.told()),
            silenced: self.publisher.as_ref().is_some_and(|publisher| publisher.is_silent()),
        }
    }

    fn close(&self, deadline: Duration) -> BoxFuture<'_, Unconfirmed> {
        Box::pin(self.close_within(deadline))
    }
}

impl fmt::Debug for MqttTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MqttTransport").field("status", &self.status()).finish_non_exhaustive()
    }
}
