//! What the cases are written in: clients, messages, and waiting for them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Bounds, Broker};
use crate::event::Operation;
use crate::topic::{ModelTopic, TopicFilter, Topics};
use crate::transport::{
    Confirmation, Confirmed, Delivery, Message, PublishError, Transport, TransportStatus,
};

/// One case at one broker.
pub(super) struct Trial<'b> {
    broker: &'b dyn Broker,
    case: &'static str,
    /// How many messages go through where the number matters.
    pub(super) events: usize,
    patience: Duration,
}

/// So many messages of a stream are accepted and not confirmed, less than any transport refuses.
const IN_FLIGHT: usize = 500;

/// After so long without anything we believe that nothing comes.
const QUIET: Duration = Duration::from_secs(1);

/// Between two looks at what will become so.
const LOOK: Duration = Duration::from_millis(2);

/// The one place where messages are made: on the topic of a model's operation, with a number or a text.
pub(super) fn message(model: &ModelTopic, operation: Operation, payload: impl Display) -> Message {
    Message::new(Topics::default().topic(model, operation), payload.to_string())
}

/// What a delivery says.
pub(super) fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.payload).into_owned()
}

/// The number that a delivery of a stream is.
pub(super) fn number(delivery: &Delivery) -> Result<usize, String> {
    let text = text(delivery);
    text.parse().map_err(|_| format!("{text:?} came, which nobody sent"))
}

pub(super) fn filter(model: &ModelTopic) -> TopicFilter {
    Topics::default().model_filter(model)
}

/// An error with what was seen, unless the condition holds.
pub(super) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

impl<'b> Trial<'b> {
    pub(super) fn new(broker: &'b dyn Broker, case: &'static str, events: usize, patience: Duration) -> Self {
        Self { broker, case, events, patience }
    }

    /// The broker's name for a client of this case.
    fn client(&self, name: &str) -> String {
        format!("{}-{name}", self.case)
    }

    /// A model of this case.
    pub(super) fn model(&self, name: &str) -> ModelTopic {
        model(&format!("{}-{name}", self.case))
    }

    pub(super) async fn connect(&self, client: &str) -> Arc<dyn Transport> {
        self.broker.connect(&self.client(client)).await
    }

    pub(super) async fn cut(&self, client: &str) -> Result<(), String> {
        self.broker.cut(&self.client(client)).await
    }

    pub(super) async fn restart(&self) -> Result<(), String> {
        self.broker.restart().await
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.broker.bounds()
    }

    /// A transport that has subscribed to these models.
    pub(super) async fn receiver(
        &self,
        client: &str,
        models: &[&ModelTopic],
    ) -> Result<Arc<dyn Transport>, String> {
        let transport = self.connect(client).await;
        self.subscribe(&*transport, models).await?;
        Ok(transport)
    }

    /// The next life of a client that had subscribed to these models: its session may have more for it than
    /// its window, so the confirmation of the subscription may come behind what has to be taken first.
    pub(super) async fn resumed(&self, client: &str, models: &[&ModelTopic]) -> Arc<dyn Transport> {
        let transport = self.connect(client).await;
        models.iter().for_each(|model| transport.subscribe(filter(model)));
        transport
    }

    /// Subscribes, and waits until the broker has confirmed it.
    pub(super) async fn subscribe(
        &self,
        transport: &dyn Transport,
        models: &[&ModelTopic],
    ) -> Result<(), String> {
        let wanted = transport.status().subscriptions + models.len();
        models.iter().for_each(|model| transport.subscribe(filter(model)));
        let answered = |status: &TransportStatus| {
            status.subscriptions >= wanted || !status.refused_subscriptions.is_empty()
        };
        self.until(transport, "subscribed", answered).await?;
        let refused = transport.status().refused_subscriptions;
        ensure(refused.is_empty(), || format!("the subscription was refused: {refused:?}"))
    }

    /// Waits until the transport stands so.
    pub(super) async fn until(
        &self,
        transport: &dyn Transport,
        what: &str,
        condition: impl Fn(&TransportStatus) -> bool,
    ) -> Result<(), String> {
        let begun = Instant::now();
        while !condition(&transport.status()) {
            let status = transport.status();
            ensure(begun.elapsed() < self.patience, || format!("it was never {what}: {status:?}"))?;
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// What becomes of an accepted message.
    pub(super) async fn settled(
        &self,
        what: &str,
        confirmation: Confirmation,
    ) -> Result<Result<Confirmed, PublishError>, String> {
        timeout(self.patience, confirmation).await.map_err(|_| format!("{what} was never settled"))
    }

    /// Waits until a message is confirmed.
    pub(super) async fn confirmed(
        &self,
        what: &str,
        confirmation: Confirmation,
    ) -> Result<Confirmed, String> {
        self.settled(what, confirmation).await?.map_err(|error| format!("{what} was not confirmed: {error}"))
    }

    /// Publishes one message and waits until it is confirmed.
    pub(super) async fn publish(&self, transport: &dyn Transport, message: Message) -> Result<(), String> {
        let what = format!("the message {}", String::from_utf8_lossy(&message.payload));
        let confirmation = accepted(transport.publish(message))?;
        self.confirmed(&what, confirmation).await.map(drop)
    }

    /// Publishes these numbers, and waits until all are confirmed. `begins` is called before each.
    pub(super) async fn stream(
        &self,
        transport: &dyn Transport,
        model: &ModelTopic,
        numbers: Range<usize>,
        mut begins: impl FnMut(usize),
    ) -> Result<(), String> {
        let mut sending = self.sending(transport);
        for number in numbers {
            begins(number);
            sending.send(message(model, Operation::Create, number)).await?;
        }
        sending.confirmed().await
    }

    /// Begins to publish many messages.
    pub(super) fn sending<'t>(&'t self, transport: &'t dyn Transport) -> Sending<'t> {
        Sending { trial: self, transport, in_flight: VecDeque::new() }
    }

    /// The next delivery.
    pub(super) async fn next(&self, transport: &dyn Transport) -> Result<Delivery, String> {
        let next = timeout(self.patience, transport.next()).await;
        let next = next.map_err(|_| format!("nothing came: {:?}", transport.status()))?;
        next.ok_or_else(|| "the transport ended".to_owned())
    }

    /// Takes deliveries without acknowledging them, until none comes for a while or there are so many.
    pub(super) async fn hold(&self, transport: &dyn Transport, most: usize) -> Result<Vec<Delivery>, String> {
        let mut held = vec![self.next(transport).await?];
        while held.len() < most {
            match timeout(QUIET, transport.next()).await {
                Ok(Some(delivery)) => held.push(delivery),
                Ok(None) => return Err("the transport ended".to_owned()),
                Err(_) => break,
            }
        }
        Ok(held)
    }

    /// Takes deliveries, and acknowledges them at once, until so many different numbers have come.
    pub(super) async fn receive(&self, transport: &dyn Transport, count: usize) -> Result<Arrivals, String> {
        let mut arrivals = Arrivals::default();
        self.receive_more(transport, &mut arrivals, count).await?;
        Ok(arrivals)
    }

    /// The same where some have come before.
    pub(super) async fn receive_more(
        &self,
        transport: &dyn Transport,
        arrivals: &mut Arrivals,
        count: usize,
    ) -> Result<(), String> {
        while arrivals.count() < count {
            let next = self.next(transport).await;
            let missing = || format!("{} of {count} were lost", count - arrivals.count());
            let delivery = next.map_err(|seen| format!("{}: {seen}", missing()))?;
            arrivals.note(number(&delivery)?);
            delivery.ack.done();
        }
        Ok(())
    }

    /// Closes a transport that has nothing left to send.
    pub(super) async fn close(&self, transport: &dyn Transport) -> Result<(), String> {
        let left = transport.close(self.patience).await.messages;
        ensure(left == 0, || format!("{left} messages were left unconfirmed"))
    }
}

/// Many messages on their way, of which only so many are unconfirmed at a time.
pub(super) struct Sending<'t> {
    trial: &'t Trial<'t>,
    transport: &'t dyn Transport,
    in_flight: VecDeque<Confirmation>,
}

impl Sending<'_> {
    /// Publishes the next one, when enough of those before are confirmed.
    pub(super) async fn send(&mut self, message: Message) -> Result<(), String> {
        if self.in_flight.len() == IN_FLIGHT {
            self.oldest_confirmed().await?;
        }
        self.in_flight.push_back(accepted(self.transport.publish(message))?);
        Ok(())
    }

    /// Waits for the last ones.
    pub(super) async fn confirmed(&mut self) -> Result<(), String> {
        while !self.in_flight.is_empty() {
            self.oldest_confirmed().await?;
        }
        Ok(())
    }

    async fn oldest_confirmed(&mut self) -> Result<(), String> {
        match self.in_flight.pop_front() {
            Some(confirmation) => self.trial.confirmed("a message of many", confirmation).await.map(drop),
            None => Ok(()),
        }
    }
}

/// The numbers that came.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    times: BTreeMap<usize, usize>,
    /// How many came that had come before.
    pub(super) again: usize,
    /// The first that came after a greater one, and that one.
    pub(super) disorder: Option<(usize, usize)>,
}

impl Arrivals {
    pub(super) fn note(&mut self, number: usize) {
        let greatest = self.times.last_key_value().map(|(greatest, _)| *greatest);
        let times = self.times.entry(number).or_default();
        *times += 1;
        self.again += usize::from(*times > 1);
        if let Some(greatest) = greatest.filter(|greatest| *greatest > number && *times == 1) {
            self.disorder.get_or_insert((number, greatest));
        }
    }

    pub(super) fn has(&self, number: usize) -> bool {
        self.times.contains_key(&number)
    }

    /// How many different ones came.
    pub(super) fn count(&self) -> usize {
        self.times.len()
    }

    /// First arrivals are in order.
    pub(super) fn in_order(&self) -> Result<(), String> {
        match self.disorder {
            None => Ok(()),
            Some((number, greater)) => Err(format!("{number} came first after {greater}")),
        }
    }
}

/// A model of this name.
pub(super) fn model(name: &str) -> ModelTopic {
    ModelTopic::new(name).unwrap_or_else(|error| panic!("{error}"))
}

/// A message that the transport took.
pub(super) fn accepted(taken: Result<Confirmation, PublishError>) -> Result<Confirmation, String> {
    taken.map_err(|error| format!("a message was not accepted: {error}"))
}
