//! The task that takes this node's events to the transport.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tracing::warn;

use super::shutdown::after;
use super::{Outbound, Shared};
use crate::envelope::{self, EncodeError, Outgoing, WireLimits};
use crate::metrics::OnceInAWhile;
use crate::model_info::AnyEvent;
use crate::queue::Linger;
use crate::receipt::{Loss, Ticket};
use crate::topic::{ModelTopic, Topic, TopicError};
use crate::transport::{Confirmation, Confirmed, Message, PublishError};

/// How many events are encoded before other tasks have a turn.
const TURN: usize = 64;

/// Numbers, encodes and publishes events, in the order in which they were emitted.
pub(super) struct Publishing {
    shared: Arc<Shared>,
    limits: WireLimits,
    /// The last number given, for each model.
    sequences: HashMap<&'static str, u64>,
    unconfirmed: FuturesUnordered<Settling>,
    failures: OnceInAWhile,
}

impl Publishing {
    pub(super) fn new(shared: Arc<Shared>, limits: WireLimits) -> Self {
        Self {
            shared,
            limits,
            sequences: HashMap::new(),
            unconfirmed: FuturesUnordered::new(),
            failures: OnceInAWhile::every(Duration::from_secs(10)),
        }
    }

    /// Works until the queue is closed and the last event is confirmed or given up.
    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut linger = Linger::new();
        let mut spent = Vec::new();
        let mut work: VecDeque<Outbound> = VecDeque::new();
        std::future::poll_fn(|cx| {
            loop {
                for mut event in work.drain(..work.len().min(TURN)) {
                    // What is spent is dropped at some later time.
                    let ticket = event.ticket.take();
                    self.publish(&event, ticket);
                    spent.push(event);
                }
                while let Poll::Ready(Some((settled, ticket))) = self.unconfirmed.poll_next_unpin(cx) {
                    self.settled(settled, ticket);
                }
                // What waits for its confirmation is counted by the transport.
                shared.to_publish.report(work.len());
                if !work.is_empty() {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                match shared.to_publish.poll_take(&mut linger, &mut work, &mut spent, cx) {
                    Poll::Ready(false) => {}
                    Poll::Ready(true) if self.unconfirmed.is_empty() => return Poll::Ready(()),
                    Poll::Ready(true) | Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }

    fn publish(&mut self, outbound: &Outbound, ticket: Option<Box<Ticket>>) {
        // The number is used up even when the event fails from here on: receivers shall see a gap.
        let sequence = self.sequences.entry(outbound.event.model().name).or_default();
        *sequence += 1;
        let sequence = *sequence;
        // The row's `Serialize` is the user's; its panic must not end this task.
        let encoded = catch_unwind(AssertUnwindSafe(|| self.encode(outbound, sequence)));
        let outcome = encoded.unwrap_or(Err(Failure::Panicked)).and_then(|message| {
            let transport = self.shared.transport.as_ref().ok_or(PublishError::Closed)?;
            Ok(transport.publish(message)?)
        });
        match outcome {
            Ok(confirmation) => self.unconfirmed.push(Settling { confirmation, ticket }),
            Err(failure @ Failure::Publish(PublishError::QueueFull { .. })) => {
                told(ticket, Err(&failure));
                self.shared.counters.publish_refused.add_one();
                self.failures
                    .log(|more| warn!(more, "the transport's queue is full: events are lost to other nodes"));
            }
            Err(failure) => self.failed(&failure, ticket),
        }
    }

    fn encode(&self, outbound: &Outbound, sequence: u64) -> Result<Message, Failure> {
        let Outbound { event, qos, .. } = outbound;
        let info = event.model();
        let meta = event.meta();
        let payload = envelope::encode(
            &Outgoing {
                model: info.name,
                key_columns: info.key_columns,
                operation: meta.operation,
                keys: &meta.keys,
                content: &event.content()?,
                columns: info.columns,
                set: event.set(),
                inserted: event.inserted(),
                time: meta.time,
                id: meta.id,
                origin: &self.shared.origin,
                sequence,
                version: info.version,
                trace: meta.trace(),
                idempotency_key: meta.idempotency_key(),
            },
            &self.limits,
        )?;
        Ok(Message {
            topic: self.topic(&**event)?,
            payload: payload.into(),
            qos: qos.unwrap_or_else(|| (info.qos)(meta.operation)),
            expires: info.expires.map(after),
        })
    }

    fn topic(&self, event: &dyn AnyEvent) -> Result<Topic, TopicError> {
        let model = ModelTopic::new(event.model().topic)?;
        Ok(self.shared.prefix.topic(&model, event.meta().operation))
    }

    fn settled(&self, settled: Result<Confirmed, PublishError>, ticket: Option<Box<Ticket>>) {
        match settled {
            Ok(Confirmed { had_subscribers }) => {
                told(ticket, Ok(()));
                self.shared.counters.published.add_one();
                if !had_subscribers {
                    self.shared.counters.published_to_nobody.add_one();
                }
            }
            Err(error) => self.failed(&Failure::Publish(error), ticket),
        }
    }

    fn failed(&self, failure: &Failure, ticket: Option<Box<Ticket>>) {
        told(ticket, Err(failure));
        self.shared.counters.publish_failed.add_one();
        self.failures.log(|more| warn!(more, "an event was not published: {failure}"));
    }
}

/// An event that waits for its confirmation.
struct Settling {
    confirmation: Confirmation,
    ticket: Option<Box<Ticket>>,
}

impl Future for Settling {
    type Output = (Result<Confirmed, PublishError>, Option<Box<Ticket>>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.confirmation).poll(cx).map(|settled| (settled, self.ticket.take()))
    }
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
