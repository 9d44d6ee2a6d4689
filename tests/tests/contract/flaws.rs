//! Transports that are wrong in one way each: a case that they all pass would hold nothing.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use emitter_core::testing::contract::{Bounds, Broker, Inability};
use emitter_core::topic::TopicFilter;
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::transport::{
    Ack, Confirmation, Confirmed, Delivery, Message, PublishError, Transport, TransportStatus, Unconfirmed,
};
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::case;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// A delivery is acknowledged when it is handed out.
    AcknowledgesAtOnce,
    /// What is done is not acknowledged.
    AcknowledgesNever,
    /// A publish counts as confirmed when it is accepted.
    ConfirmsAtOnce,
    /// What is taken back stays subscribed.
    StaysSubscribed,
    /// Each tenth delivery is taken and not handed out.
    Loses,
    /// Two deliveries in ten change places.
    Swaps,
    /// Closing counts one too few.
    Miscounts,
    /// Each member of a group is one of its own, and each receiver has a session of its own.
    GroupsOfOne,
}

/// A broker in memory with such transports.
struct FlawedBroker(MemoryBroker, Flaw);

struct FlawedTransport {
    inner: Arc<dyn Transport>,
    flaw: Flaw,
    taken: AtomicUsize,
    /// The delivery that another one has overtaken.
    overtaken: Mutex<Option<Delivery>>,
}

impl FlawedTransport {
    fn over(inner: Arc<dyn Transport>, flaw: Flaw) -> Arc<dyn Transport> {
        Arc::new(Self { inner, flaw, taken: AtomicUsize::new(0), overtaken: Mutex::default() })
    }

    async fn take(&self) -> Option<Delivery> {
        let mut overtaken = self.overtaken.lock().await;
        if let Some(delivery) = overtaken.take() {
            return Some(delivery);
        }
        let mut delivery = self.inner.next().await?;
        let is_tenth = self.taken.fetch_add(1, Ordering::Relaxed) % 10 == 9;
        match self.flaw {
            Flaw::Loses if is_tenth => {
                delivery.ack.done();
                self.inner.next().await
            }
            Flaw::Swaps if is_tenth => {
                *overtaken = Some(delivery);
                self.inner.next().await
            }
            Flaw::AcknowledgesAtOnce => {
                mem::replace(&mut delivery.ack, Ack::new(|| {})).done();
                Some(delivery)
            }
            Flaw::AcknowledgesNever => {
                let kept = mem::replace(&mut delivery.ack, Ack::new(|| {}));
                delivery.ack = Ack::new(move || drop(kept));
                Some(delivery)
            }
            _ => Some(delivery),
        }
    }
}

impl Transport for FlawedTransport {
    fn publish(&self, message: Message) -> Result<Confirmation, PublishError> {
        let accepted = self.inner.publish(message)?;
        if self.flaw != Flaw::ConfirmsAtOnce {
            return Ok(accepted);
        }
        let (settler, confirmation) = Confirmation::new();
        settler.settle(Ok(Confirmed { had_subscribers: true }));
        Ok(confirmation)
    }

    fn subscribe(&self, filter: TopicFilter) {
        self.inner.subscribe(filter);
    }

    fn unsubscribe(&self, filter: &TopicFilter) {
        self.inner.unsubscribe(filter);
        if self.flaw == Flaw::StaysSubscribed {
            self.inner.subscribe(filter.clone());
        }
    }

    fn group(&self, share: &str, name: &str) -> Option<Arc<dyn Transport>> {
        static MEMBERS: AtomicUsize = AtomicUsize::new(0);
        let own = match self.flaw {
            Flaw::GroupsOfOne => format!("{share}-{}", MEMBERS.fetch_add(1, Ordering::Relaxed)),
            _ => share.to_owned(),
        };
        Some(Self::over(self.inner.group(&own, name)?, self.flaw))
    }

    fn receiver(&self, client: &str) -> Option<Arc<dyn Transport>> {
        static LIVES: AtomicUsize = AtomicUsize::new(0);
        let own = match self.flaw {
            Flaw::GroupsOfOne => format!("{client}-{}", LIVES.fetch_add(1, Ordering::Relaxed)),
            _ => client.to_owned(),
        };
        Some(Self::over(self.inner.receiver(&own)?, self.flaw))
    }

    fn next(&self) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(self.take())
    }

    fn status(&self) -> TransportStatus {
        self.inner.status()
    }

    fn close(&self, deadline: Duration) -> BoxFuture<'_, Unconfirmed> {
        Box::pin(async move {
            let Unconfirmed { messages } = self.inner.close(deadline).await;
            let fewer = usize::from(self.flaw == Flaw::Miscounts);
            Unconfirmed { messages: messages.saturating_sub(fewer) }
        })
    }
}

impl Broker for FlawedBroker {
    fn connect<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Arc<dyn Transport>> {
        Box::pin(async move { FlawedTransport::over(Broker::connect(&self.0, client).await, self.1) })
    }

    fn cut<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Result<(), String>> {
        self.0.cut(client)
    }

    fn restart(&self) -> BoxFuture<'_, Result<(), String>> {
        Broker::restart(&self.0)
    }

    fn bounds(&self) -> Bounds {
        self.0.bounds()
    }

    fn inabilities(&self) -> &[Inability] {
        self.0.inabilities()
    }
}

/// The flaws, with cases that each of them fails and what these say.
const FOUND: &[(Flaw, &str, &str)] = &[
    (Flaw::AcknowledgesAtOnce, "no_ack_before_done", "deliveries came although none was done"),
    (Flaw::AcknowledgesAtOnce, "window_of_the_next_life", "deliveries came although none was done"),
    (Flaw::AcknowledgesAtOnce, "resend", "waiting for 4"),
    (Flaw::AcknowledgesNever, "resend", "instead of 4 came 0"),
    (Flaw::AcknowledgesNever, "no_ack_before_done", "nothing came"),
    (Flaw::ConfirmsAtOnce, "close_under_load", "unconfirmed messages, but there were 0"),
    (Flaw::StaysSubscribed, "publish_and_subscribe", "after its filter was taken back"),
    (Flaw::Loses, "publish_and_subscribe", "nothing came"),
    (Flaw::Loses, "concurrency", "were lost"),
    (Flaw::Loses, "restart", "were lost"),
    (Flaw::Loses, "duplicate_bound", "were lost"),
    (Flaw::Loses, "groups", "lost"),
    (Flaw::Swaps, "order", "came first after"),
    (Flaw::Swaps, "concurrency", "came first after"),
    (Flaw::Miscounts, "close_under_load", "closing counted"),
    (Flaw::GroupsOfOne, "groups", "to no member, or to two"),
    (Flaw::GroupsOfOne, "receiver", "were lost"),
    (Flaw::AcknowledgesAtOnce, "receiver", "were lost"),
];

/// With a clock that goes on as soon as everybody waits.
#[tokio::test(start_paused = true)]
async fn each_flaw_is_found() {
    let mut missed = Vec::new();
    for (flaw, name, words) in FOUND {
        let outcome = case(name).check(&FlawedBroker(MemoryBroker::new(), *flaw), 300).await;
        if !matches!(&outcome, Err(seen) if seen.contains(words)) {
            missed.push(format!("{flaw:?}, `{name}`: {outcome:?}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
