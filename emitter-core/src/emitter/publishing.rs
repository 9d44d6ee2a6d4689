//! The task that takes this node's events to the transport.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tracing::warn;

use super::burying::{DeadLetters, Held};
use super::shutdown::after;
use super::{Outbound, Shared};
use crate::dead_letter::{DeadLetter, Original, Reason};
use crate::emit::QoS;
use crate::envelope::{self, Content, EncodeError, Encoded, Format, Outgoing, WireLimits};
use crate::event::{EventId, Operation};
use crate::metrics::{Counters, OnceInAWhile};
use crate::model_info::{AnyEvent, ModelInfo};
use crate::queue::Linger;
use crate::receipt::{Loss, Ticket};
use crate::topic::{ModelTopic, Topic, TopicError};
use crate::transport::{Confirmed, Message, Properties, PublishError};

/// How many events are encoded before other tasks have a turn.
const TURN: usize = 64;

/// Numbers, encodes and publishes events, in the order in which they were emitted.
pub(super) struct Publishing {
    shared: Arc<Shared>,
    limits: WireLimits,
    models: HashMap<&'static str, Wired>,
    outcomes: Arc<Outcomes>,
}

impl Publishing {
    pub(super) fn new(shared: Arc<Shared>, limits: WireLimits) -> Self {
        let outcomes = Arc::new(Outcomes {
            counters: Arc::clone(&shared.counters),
            dead_letters: Arc::clone(&shared.dead_letters),
            failures: OnceInAWhile::every(Duration::from_secs(10)),
            awaited: AtomicUsize::new(0),
            ending: AtomicWaker::new(),
        });
        Self { shared, limits, models: HashMap::new(), outcomes }
    }

    /// Works until the queue is closed and the last event is confirmed or given up.
    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut linger = Linger::new();
        let mut spent = Vec::new();
        let mut work: VecDeque<Outbound> = VecDeque::new();
        std::future::poll_fn(|cx| {
            loop {
                let room = |shared: &Shared, cx: &mut Context<'_>| {
                    let transport = shared.transport.as_ref();
                    transport.is_none_or(|transport| transport.poll_room(cx).is_ready())
                };
                let mut waits = false;
                for _ in 0..work.len().min(TURN) {
                    if !room(&shared, cx) {
                        waits = true;
                        break;
                    }
                    let Some(mut event) = work.pop_front() else { break };
                    // What is spent is dropped at some later time.
                    let ticket = event.ticket.take();
                    self.publish(&event, ticket);
                    spent.push(event);
                }
                // What waits for its confirmation is counted by the transport.
                shared.to_publish.report(work.len());
                if !work.is_empty() {
                    if !waits {
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Pending;
                }
                match shared.to_publish.poll_take(&mut linger, &mut work, &mut spent, cx) {
                    Poll::Ready(false) => {}
                    Poll::Ready(true) => return self.outcomes.poll_all_told(cx),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }

    fn publish(&mut self, outbound: &Outbound, ticket: Option<Box<Ticket>>) {
        // The number is used up even when the event fails from here on: receivers shall see a gap.
        let info = outbound.event.model();
        let wired = self.models.entry(info.name).or_default();
        wired.sequence += 1;
        let sequence = wired.sequence;
        // The row's `Serialize` is the user's; its panic must not end this task.
        let operation = outbound.event.meta().operation;
        let address = match &mut wired.addresses[operation.index()] {
            Some(address) => Ok(&*address),
            absent => Address::new(&self.shared, info, operation).map(|address| &*absent.insert(address)),
        };
        let encode = |address| encode(&self.shared, &self.limits, outbound, sequence, address);
        let encoded = catch_unwind(AssertUnwindSafe(|| address.map_err(Failure::from).and_then(encode)));
        let outcome = encoded.unwrap_or(Err(Failure::Panicked)).and_then(|message| {
            let transport = self.shared.transport.as_ref().ok_or(PublishError::Closed)?;
            // Shared, not copied: it is there if a dead letter has to be made of it.
            let sent = Sent {
                id: outbound.event.meta().id,
                topic: message.topic.clone(),
                payload: message.payload.clone(),
                properties: (self.shared.format == Format::CloudEventsBinary)
                    .then(|| message.properties.clone()),
            };
            Ok((transport.publish(message)?, sent))
        });
        match outcome {
            Ok((confirmation, sent)) => {
                let outcomes = Arc::clone(&self.outcomes);
                outcomes.awaited.fetch_add(1, Ordering::Relaxed);
                confirmation.then(move |outcome| outcomes.settled(outcome, ticket, sent));
            }
            Err(failure @ Failure::Publish(PublishError::QueueFull { .. })) => {
                told(ticket, Err(&failure));
                self.shared.counters.publish_refused.add_one();
                self.outcomes
                    .failures
                    .log(|more| warn!(more, "the transport's queue is full: events are lost to other nodes"));
            }
            Err(failure) => {
                self.outcomes.failed(&failure, ticket);
                if failure.matters() && self.shared.dead_letters.may() {
                    let original =
                        catch_unwind(AssertUnwindSafe(|| original(&self.shared, &*outbound.event)));
                    self.outcomes.bury(&failure, outbound.event.meta().id, original.unwrap_or_default(), 0);
                }
            }
        }
    }
}

/// Where it is counted what became of events. The transport tells it, in its own task: another one would
/// have to be woken for it, which costs more than all of this.
///
/// It holds nothing that leads to the transport, which holds it.
struct Outcomes {
    counters: Arc<Counters>,
    dead_letters: Arc<DeadLetters>,
    failures: OnceInAWhile,
    /// Those of which the transport has not told what became of them.
    awaited: AtomicUsize,
    /// Woken when there are none any more.
    ending: AtomicWaker,
}

impl Outcomes {
    /// Ready when the last one is told.
    fn poll_all_told(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.ending.register(cx.waker());
        if self.awaited.load(Ordering::Acquire) == 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    fn settled(&self, settled: Result<Confirmed, PublishError>, ticket: Option<Box<Ticket>>, sent: Sent) {
        self.told(settled, ticket, sent);
        if self.awaited.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.ending.wake();
        }
    }

    fn told(&self, settled: Result<Confirmed, PublishError>, ticket: Option<Box<Ticket>>, sent: Sent) {
        match settled {
            Ok(Confirmed { had_subscribers }) => {
                told(ticket, Ok(()));
                self.counters.published.add_one();
                if !had_subscribers {
                    self.counters.published_to_nobody.add_one();
                }
            }
            Err(error) => {
                let failure = Failure::Publish(error);
                self.failed(&failure, ticket);
                if failure.matters() && self.dead_letters.may() {
                    let Sent { id, topic, payload, properties } = sent;
                    let (topic, properties) = (topic.to_string(), properties.unwrap_or_default());
                    let original = Original { topic, payload, properties };
                    let attempts = match failure {
                        Failure::Publish(PublishError::EndsConnections { times }) => times,
                        _ => 1,
                    };
                    self.bury(&failure, id, original, attempts);
                }
            }
        }
    }

    fn bury(&self, failure: &Failure, event: EventId, original: Original, attempts: u32) {
        let letter = self.dead_letters.letter(Reason::Unpublished, failure.to_string(), original);
        let letter = DeadLetter { event: Some(event), attempts, ..letter };
        self.dead_letters.put(letter, Held::Nothing, true);
    }

    fn failed(&self, failure: &Failure, ticket: Option<Box<Ticket>>) {
        told(ticket, Err(failure));
        self.counters.publish_failed.add_one();
        self.failures.log(|more| warn!(more, "an event was not published: {failure}"));
    }
}

/// A model as this node publishes it.
#[derive(Default)]
struct Wired {
    /// The last number given.
    sequence: u64,
    /// By operation, made when there is a first event of it.
    addresses: [Option<Address>; Operation::ALL.len()],
}

/// Where events of one operation go, and how.
struct Address {
    topic: Topic,
    kind: String,
    qos: QoS,
}

impl Address {
    fn new(shared: &Shared, info: &ModelInfo, operation: Operation) -> Result<Self, TopicError> {
        let topic = shared.topics.topic(&ModelTopic::new(info.topic)?, operation);
        let last = topic
            .as_str()
            .rmatch_indices('/')
            .nth(1)
            .map_or(topic.as_str(), |(place, _)| &topic.as_str()[place + 1..]);
        let qos = shared.qos.get(last).copied().unwrap_or_else(|| (info.qos)(operation));
        let kind = shared.kind.of(&shared.origin.service, info.name, operation);
        Ok(Self { topic, kind, qos })
    }
}

fn encode(
    shared: &Shared,
    limits: &WireLimits,
    outbound: &Outbound,
    sequence: u64,
    address: &Address,
) -> Result<Message, Failure> {
    let Outbound { event, qos, .. } = outbound;
    let content = event.content()?;
    let outgoing = outgoing(shared, &**event, &content, &address.kind, sequence);
    let Encoded { payload, properties } = envelope::encode(&outgoing, shared.format, limits)?;
    Ok(Message {
        topic: address.topic.clone(),
        payload: payload.into(),
        qos: qos.unwrap_or(address.qos),
        expires: event.model().expires.map(after),
        properties,
        retain: false,
    })
}

fn outgoing<'a>(
    shared: &'a Shared,
    event: &'a dyn AnyEvent,
    content: &'a Content,
    kind: &'a str,
    sequence: u64,
) -> Outgoing<'a> {
    let (info, meta) = (event.model(), event.meta());
    Outgoing {
        model: info.name,
        key_columns: info.key_columns,
        operation: meta.operation,
        kind,
        keys: &meta.keys,
        content,
        columns: info.columns,
        set: event.set(),
        inserted: event.inserted(),
        time: meta.time,
        id: meta.id,
        origin: &shared.origin,
        sequence,
        version: info.version,
        trace: meta.trace(),
        trace_state: meta.trace_state(),
        idempotency_key: meta.idempotency_key(),
        cause: meta.cause(),
        hops: meta.hops(),
    }
}

/// An event as one that came would be: what a dead letter of it carries.
pub(super) fn original(shared: &Shared, event: &dyn AnyEvent) -> Original {
    let (info, meta) = (event.model(), event.meta());
    let Ok(Address { topic, kind, .. }) = Address::new(shared, info, meta.operation) else {
        return Original::default();
    };
    let payload = event.content().ok().and_then(|content| {
        let outgoing = outgoing(shared, event, &content, &kind, meta.sequence.unwrap_or_default());
        // No limit: it is not to be sent.
        let limits = WireLimits { max_bytes: usize::MAX, max_depth: usize::MAX };
        envelope::encode(&outgoing, Format::Specification, &limits).ok()
    });
    let Encoded { payload, properties } = payload.unwrap_or_default();
    Original { topic: topic.to_string(), payload: payload.into(), properties }
}

/// What was sent: shared with the transport, not copied.
struct Sent {
    id: EventId,
    topic: Topic,
    payload: Bytes,
    /// Of a form in which they are a part of the event.
    properties: Option<Properties>,
}

/// Tells whoever asked.
fn told(ticket: Option<Box<Ticket>>, outcome: Result<(), &Failure>) {
    if let Some(ticket) = ticket {
        ticket.settled(outcome.map_err(|failure| match failure {
            Failure::Publish(PublishError::QueueFull { .. }) => Loss::QueueFull,
            Failure::Publish(PublishError::Closed) => Loss::ShutDown,
            Failure::Publish(error) => Loss::Publish(error.clone()),
            other => Loss::Encode(other.to_string()),
        }));
    }
}

impl Failure {
    /// Whether a dead letter is to be made of it. What a full queue, a shutdown or a model's `expires` did was
    /// meant so by somebody.
    fn matters(&self) -> bool {
        matches!(
            self,
            Self::Encode(_)
                | Self::Panicked
                | Self::Topic(_)
                | Self::Publish(
                    PublishError::TooLarge { .. }
                        | PublishError::Refused { .. }
                        | PublishError::EndsConnections { .. }
                )
        )
    }
}

/// Why an event did not reach the broker.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error("the row's `Serialize` panicked")]
    Panicked,
}
