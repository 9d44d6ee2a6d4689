//! A node in memory for the tests of an application (feature `testing`).
//!
//! What it replaces is delivery: its broker is inside the process, and failed calls are made again
//! without a pause, but for listeners with a `backoff` of their own (with tokio's `test-util`,
//! `tokio::time::pause()` skips that). Dispatch, filters, dedup, the envelope and the listeners are
//! those of production, and no port is opened.
//!
//! ```standalone_crate
//! use emitter_core::testing::TestEmitter;
//! use emitter_core::{Emits, Event, State, listener};
//! use serde::{Deserialize, Serialize};
//! use std::sync::{Arc, Mutex};
//!
//! type Seen = Arc<Mutex<Vec<i64>>>;
//!
//! #[derive(Debug, Clone, Serialize, Deserialize, Emits)]
//! #[emits(create)]
//! struct Order {
//!     id: i64,
//! }
//!
//! #[listener(model = "order", allow_remote)]
//! async fn note(event: Event<OrderCreated>, seen: State<Seen>) {
//!     seen.lock().unwrap().push(event.row.id);
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let seen = Seen::default();
//! let node = TestEmitter::start(|builder| builder.state(Arc::clone(&seen))).await;
//!
//! // What the application does; here without a database.
//! node.publish(OrderCreated::new(Order { id: 1 }));
//! // What another node does.
//! node.receive(OrderCreated::new(Order { id: 2 })).await;
//!
//! node.drain().await;
//! node.assert_emitted::<OrderCreated>(|event| event.row.id == 1);
//! node.assert_emitted_count::<OrderEvent>(1);
//! node.assert_listeners_succeeded();
//! assert_eq!(*seen.lock().unwrap(), [1, 2]);
//! # }
//! ```

use std::any::type_name;
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use crate::emit::Scope;
use crate::emitter::{Builder, Emitter};
use crate::envelope::{self, Encoded, Outgoing};
use crate::event::{Event, EventId, Meta, Origin, Source, Stored, Timestamp};
use crate::listener::typed;
use crate::model::{EventBody, ModelEvent};
use crate::model_info::{AnyEvent, ModelInfo, keys, sent};
use crate::properties::Properties;
use crate::retry::{Backoff, Retry};
use crate::transport::memory::{MemoryBroker, Published};

pub mod contract;

/// How long [`TestEmitter::drain`] waits before it says what it waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node in memory. It derefs to its [`Emitter`], so that it is bound to connections and emits as
/// that does.
#[derive(Debug)]
pub struct TestEmitter {
    emitter: Emitter,
    broker: MemoryBroker,
    client: String,
    log: Log,
    elsewhere: Origin,
    /// How many of each model it received.
    received: Mutex<HashMap<&'static str, u64>>,
}

/// Everything that a node emitted, and where it might go.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Entries>>);

type Entries = Vec<(Arc<dyn AnyEvent>, Scope)>;

impl Log {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({})", self.lock().len())
    }
}

impl TestEmitter {
    /// Starts a node with a broker of its own. `configure` gets a builder whose node is called
    /// `test` and whose failed listeners are called again at once, up to three times; what it sets
    /// as the transport is not used.
    ///
    /// All listeners of the program run on it, as in production; give their states, or choose
    /// with [`Builder::select_listeners`].
    ///
    /// # Panics
    /// When the node does not start, with the reason.
    pub async fn start(configure: impl FnOnce(Builder) -> Builder) -> Self {
        Self::start_on(&MemoryBroker::new(), configure).await
    }

    /// The same at a broker that other nodes use, too. Give each node a name with
    /// [`Builder::node`].
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn start_on(broker: &MemoryBroker, configure: impl FnOnce(Builder) -> Builder) -> Self {
        let (broker, log) = (broker.clone(), Log::default());
        let captured = log.clone();
        let at_once = Backoff { base: Duration::ZERO, cap: Duration::ZERO, jitter: Duration::ZERO };
        let retry = Retry { backoff: at_once, ..Retry::default() };
        let builder = configure(Emitter::builder().node("test").listener_retry(retry));
        let client = builder.client();
        let builder = builder
            .transport(broker.connect(&client))
            .tap(Box::new(move |event, scope| captured.lock().push((Arc::clone(event), scope))));
        let emitter =
            builder.start().await.unwrap_or_else(|error| panic!("the node does not start: {error}"));
        let elsewhere =
            Origin { service: "elsewhere".into(), node: "elsewhere".into(), incarnation: Uuid::now_v7() };
        Self { emitter, broker, client, log, elsewhere, received: Mutex::default() }
    }

    /// The node itself.
    #[must_use]
    pub fn emitter(&self) -> &Emitter {
        &self.emitter
    }

    /// Its broker, for other nodes, for messages of other programs, and for outages.
    #[must_use]
    pub fn broker(&self) -> &MemoryBroker {
        &self.broker
    }

    /// What was published at its broker, as it was on the wire: by this node, by others there, and
    /// by [`receive`](Self::receive).
    #[must_use]
    pub fn published(&self) -> Vec<Published> {
        self.broker.published()
    }

    /// What the node emits from now on.
    #[must_use]
    pub fn capture(&self) -> Capture {
        Capture { log: self.log.clone(), from: self.log.lock().len() }
    }

    /// What the node has emitted since its start.
    #[must_use]
    pub fn captured(&self) -> Capture {
        Capture { log: self.log.clone(), from: 0 }
    }

    /// As [`Capture::assert_emitted`], since the start.
    ///
    /// # Panics
    /// When no event fits.
    #[track_caller]
    pub fn assert_emitted<T: EventBody>(&self, fits: impl FnMut(&Captured<T>) -> bool) -> Captured<T> {
        self.captured().assert_emitted(fits)
    }

    /// As [`Capture::assert_emitted_count`], since the start.
    ///
    /// # Panics
    /// When it is another number.
    #[track_caller]
    pub fn assert_emitted_count<T: EventBody>(&self, expected: usize) {
        self.captured().assert_emitted_count::<T>(expected);
    }

    /// As [`Capture::assert_none_emitted`], since the start.
    ///
    /// # Panics
    /// When there is one.
    #[track_caller]
    pub fn assert_none_emitted<T: EventBody>(&self) {
        self.captured().assert_none_emitted::<T>();
    }

    /// That every call of a listener ended well so far, also the first of those that ended well when
    /// made again, and that everything
    /// that came from other nodes was an event.
    ///
    /// # Panics
    /// When something did not, with the numbers.
    #[track_caller]
    pub fn assert_listeners_succeeded(&self) {
        let stats = self.stats();
        let trouble = [
            ("failed", stats.failed),
            ("panicked", stats.panicked),
            ("timed out", stats.timed_out),
            ("overflowed", stats.overflowed),
            ("bad messages", stats.bad_messages),
        ];
        let trouble: Vec<String> =
            trouble.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{what}: {n}")).collect();
        assert!(trouble.is_empty(), "not all went well: {}", trouble.join(", "));
    }

    /// An event as from another node, over the broker: encoded, decoded, filtered and dispatched as
    /// one in production. Wait for its listeners with [`drain`](Self::drain).
    ///
    /// # Panics
    /// When no listener of this node hears remote events of the model, the row is no JSON, or the node takes
    /// signed events only and has no key to sign one with.
    pub async fn receive<T: EventBody>(&self, event: T) -> EventId {
        let info = ModelInfo::of::<T::Model>();
        let event = event.into_event();
        let body = event.body();
        let meta = Meta {
            again: None,
            id: EventId::now(),
            operation: body.operation(),
            source: Source::Remote,
            origin: None,
            time: Timestamp::now(),
            sequence: None,
            number: None,
            keys: keys(&body),
            notes: None,
        };
        let (id, operation) = (meta.id, meta.operation);
        let sequence = {
            let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
            let sequence = received.entry(info.name).or_default();
            *sequence += 1;
            *sequence
        };
        let stored = Stored::<T::Model> { meta, event };
        let content = sent(&stored).unwrap_or_else(|error| panic!("{error}"));
        let outgoing = Outgoing {
            model: info.name,
            key_columns: info.key_columns,
            operation,
            kind: &self.emitter.kind(info, operation),
            keys: &stored.meta.keys,
            content: &content,
            columns: info.columns,
            set: stored.set(),
            inserted: stored.inserted(),
            time: stored.meta.time,
            id,
            origin: &self.elsewhere,
            sequence: Some(sequence),
            version: info.version,
            trace: None,
            trace_state: None,
            idempotency_key: None,
            metadata: None,
            cause: None,
            hops: 0,
        };
        let encoded = envelope::encode(&outgoing, self.emitter.format(), &self.emitter.wire_limits())
            .unwrap_or_else(|error| panic!("{error}"));
        let topic = info.topic().unwrap_or_else(|error| panic!("{error}"));
        let topic = self.emitter.topics().topic(&topic, operation);
        let Encoded { mut payload, properties } = encoded;
        if let Some(signatures) = self.emitter.signatures() {
            assert!(
                signatures.bytes() > 0 || signatures.unsigned().is_ok(),
                "this node takes signed events only: give it `Signatures::new(key)` in tests, so that they can be signed"
            );
            signatures.sign(topic.as_str(), &properties, &mut payload);
        }
        self.receive_with(topic.as_str(), payload, properties).await;
        id
    }

    /// Bytes as from another program, on a topic such as `prisma/events/user/create`.
    ///
    /// # Panics
    /// When no listener of this node hears remote events on that topic.
    pub async fn receive_message(&self, topic: &str, payload: impl Into<bytes::Bytes>) {
        self.receive_with(topic, payload, Properties::default()).await;
    }

    /// The same with something beside it, as over MQTT 5.
    ///
    /// # Panics
    /// When no listener of this node hears remote events on that topic.
    pub async fn receive_with(&self, topic: &str, payload: impl Into<bytes::Bytes>, properties: Properties) {
        if let Err(error) = self.emitter.connected(PATIENCE).await {
            panic!("{error}");
        }
        let sessions = self.broker.publish_with(topic, payload, properties);
        assert!(
            sessions > 0,
            "nobody here hears remote events on {topic}: write `allow_remote` on a listener"
        );
    }

    /// Waits until there is nothing left to do: what was emitted is published, what was published or
    /// received is handled, and so is what listeners emitted in turn.
    ///
    /// # Panics
    /// After a minute, with what is left.
    pub async fn drain(&self) {
        let begun = tokio::time::Instant::now();
        loop {
            // Between two looks at the queues nothing may have been added to them.
            let before = self.events();
            let busy = self.emitter.unfinished() + self.unacknowledged();
            if busy == 0 && before == self.events() {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "not drained: {busy} events are in progress, {:?}",
                self.stats()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// How many events there were so far.
    fn events(&self) -> (usize, u64) {
        (self.log.lock().len(), self.stats().received)
    }

    fn unacknowledged(&self) -> usize {
        let unconfirmed = self.transport_status().map_or(0, |status| status.unconfirmed);
        let groups = self.emitter.groups().into_iter().map(|group| format!("{}:{group}", self.client));
        let clients = groups.chain([self.client.clone()]);
        unconfirmed + clients.map(|client| self.broker.unacknowledged(&client)).sum::<usize>()
    }
}

impl Deref for TestEmitter {
    type Target = Emitter;

    fn deref(&self) -> &Emitter {
        &self.emitter
    }
}

/// What a node emitted from some moment on: after the commit, whether anybody hears it or not.
///
/// It needs no [`drain`](TestEmitter::drain), but for what listeners emit in turn.
#[derive(Debug, Clone)]
pub struct Capture {
    log: Log,
    from: usize,
}

impl Capture {
    /// The events of this type, in the order in which they were emitted.
    #[must_use]
    pub fn events<T: EventBody>(&self) -> Vec<Captured<T>> {
        let log = self.log.lock();
        let of_type = |(event, scope): &(Arc<dyn AnyEvent>, Scope)| {
            typed::<T>(event).map(|event| Captured { event, scope: *scope })
        };
        log.iter().skip(self.from).filter_map(of_type).collect()
    }

    /// The first event of this type that fits.
    ///
    /// # Panics
    /// When there is none, with what was emitted instead.
    #[track_caller]
    pub fn assert_emitted<T: EventBody>(&self, fits: impl FnMut(&Captured<T>) -> bool) -> Captured<T> {
        let events = self.events::<T>();
        let of_type = events.len();
        match events.into_iter().find(fits) {
            Some(event) => event,
            None => {
                panic!("none of {of_type} events of {} fits; emitted were {}", type_name::<T>(), self.list())
            }
        }
    }

    /// That so many events of this type were emitted.
    ///
    /// # Panics
    /// When it is another number, with what was emitted.
    #[track_caller]
    pub fn assert_emitted_count<T: EventBody>(&self, expected: usize) {
        let found = self.events::<T>().len();
        let name = type_name::<T>();
        assert!(found == expected, "{found} events of {name}, not {expected}; emitted were {}", self.list());
    }

    /// That no event of this type was emitted.
    ///
    /// # Panics
    /// When there is one, with what was emitted.
    #[track_caller]
    pub fn assert_none_emitted<T: EventBody>(&self) {
        self.assert_emitted_count::<T>(0);
    }

    /// `create user 1, update user 1`, without the rows, which need not be printable.
    fn list(&self) -> String {
        let one = |(event, _): &(Arc<dyn AnyEvent>, Scope)| {
            let keys: Vec<String> = event.meta().keys.iter().map(ToString::to_string).collect();
            format!("{} {} {}", event.meta().operation.as_str(), event.model().name, keys.join("+"))
        };
        let all: Vec<String> = self.log.lock().iter().skip(self.from).map(one).collect();
        if all.is_empty() { "none at all".to_owned() } else { all.join(", ") }
    }
}

/// An event that a node emitted, and where it might go.
#[derive(Debug)]
pub struct Captured<T: EventBody> {
    event: Event<T>,
    /// Where application, model and call let it go.
    pub scope: Scope,
}

impl<T: EventBody> Deref for Captured<T> {
    type Target = Event<T>;

    fn deref(&self) -> &Event<T> {
        &self.event
    }
}
