//! The task that takes this node's events to the transport.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use metrics::Histogram;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{Span, warn};

use super::Shared;
use super::burying::{DeadLetters, Held};
use super::gathering::Gathering;
use super::outbound::{Failure, Outbound, Told};
use super::parcel::{Address, original, outgoing};
use super::shutdown::after;
use super::telling::{Kept, locked};
use crate::batch::{self, Batches};
use crate::dead_letter::{DeadLetter, Original, Reason};
use crate::emit::QoS;
use crate::envelope::{self, Encoded, Format, WireLimits};
use crate::event::{EventId, Operation};
use crate::gaps::ring::{Place, Ring};
use crate::metrics::{Counters, OnceInAWhile, table};
use crate::model_info::{AnyEvent, ModelInfo, sent};
use crate::queue::Linger;
use crate::record::{Number, Parcel};
use crate::signature::{self, Signatures};
use crate::spans;
use crate::topic::Topic;
use crate::transport::{Confirmation, Confirmed, Message, Properties, PublishError};

/// How many events are encoded before other tasks have a turn.
const TURN: usize = 64;

/// How long an event waits for others of its model while there is still something to encode, where it
/// would not wait at all.
const WHILE_BUSY: Duration = Duration::from_millis(1);

/// Numbers, encodes and publishes events, in the order in which they were emitted.
pub(super) struct Publishing {
    shared: Arc<Shared>,
    limits: WireLimits,
    models: HashMap<&'static str, Wired>,
    outcomes: Arc<Outcomes>,
    gathering: Gathering,
    /// Numbers events, and keeps the last ones.
    ring: Arc<Mutex<Ring<Kept>>>,
    /// Wakes the task for those that have been gathered long enough.
    timer: Option<Pin<Box<Sleep>>>,
    /// Messages that wait for room, and how many events they are.
    going: VecDeque<Going>,
    going_events: usize,
}

/// The events of one message.
enum Going {
    One(Ready),
    Several(Vec<Ready>),
}

impl Publishing {
    pub(super) fn new(shared: Arc<Shared>, limits: WireLimits) -> Self {
        let ring = Arc::clone(&shared.catching_up.telling.ring);
        let outcomes = Arc::new(Outcomes {
            ring: Arc::clone(&ring),
            counters: Arc::clone(&shared.counters),
            timing: (shared.reporting.as_ref())
                .map(|reporting| reporting.histogram(&table::PUBLISH_SECONDS, &[])),
            dead_letters: Arc::clone(&shared.dead_letters),
            failures: OnceInAWhile::every(Duration::from_secs(10)),
            awaited: AtomicUsize::new(0),
            again: Mutex::new(Some(Vec::new())),
            waker: AtomicWaker::new(),
        });
        if shared.signatures.as_ref().is_some_and(|signatures| signatures.bytes() == 0) {
            warn!("this node signs nothing: what it emits is refused by nodes with `signatures`");
        }
        let signature = shared.signatures.as_ref().map_or(0, Signatures::bytes);
        let limits = WireLimits { max_bytes: limits.max_bytes.saturating_sub(signature), ..limits };
        let (gathering, going) = (Gathering::default(), VecDeque::new());
        Self {
            shared,
            limits,
            models: HashMap::new(),
            outcomes,
            gathering,
            ring,
            timer: None,
            going,
            going_events: 0,
        }
    }

    /// Works until the queue is closed and the last event is confirmed or given up.
    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut linger = Linger::new();
        let mut spent = Vec::new();
        let mut work: VecDeque<Outbound> = VecDeque::new();
        std::future::poll_fn(|cx| {
            self.outcomes.waker.register(cx.waker());
            loop {
                self.take_again();
                self.hand_on_late(WHILE_BUSY);
                let mut room = self.send_going(cx);
                for _ in 0..work.len().min(TURN) {
                    if !room {
                        break;
                    }
                    let Some(outbound) = work.pop_front() else { break };
                    // What is spent is dropped at some later time.
                    spent.extend(self.publish(outbound));
                    room = self.send_going(cx);
                }
                self.report(work.len());
                if !work.is_empty() {
                    if room {
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Pending;
                }
                match shared.to_publish.poll_take(&mut linger, &mut work, &mut spent, cx) {
                    Poll::Ready(false) => {}
                    Poll::Ready(true) => {
                        self.hand_on(|gathering, send| gathering.all(send));
                        let all_sent = self.send_going(cx);
                        self.report(0);
                        return if all_sent { self.outcomes.poll_all_told() } else { Poll::Pending };
                    }
                    Poll::Pending => {
                        self.wait_for_late(cx);
                        self.report(0);
                        return Poll::Pending;
                    }
                }
            }
        })
        .await;
    }

    /// What waits for its confirmation is counted by the transport.
    fn report(&self, work: usize) {
        let again = self.outcomes.again().as_ref().map_or(0, Vec::len);
        self.shared.to_publish.report(work + self.gathering.events() + self.going_events + again);
    }

    /// Sends an event on its way, and returns what is left of it.
    fn publish(&mut self, outbound: Outbound) -> Option<Outbound> {
        match outbound {
            Outbound::Event { event, qos, ticket } => {
                self.publish_event(&event, qos, Told::from(ticket));
                Some(Outbound::Event { event, qos, ticket: None })
            }
            Outbound::Record { parcel, number, told } => {
                self.publish_record(*parcel, &number, told);
                None
            }
        }
    }

    fn publish_record(&mut self, parcel: Parcel, number: &Number, told: Told) {
        let Parcel { id, topic, qos, payload, properties } = parcel;
        let topic = match Topic::parse(&topic) {
            Ok(topic) => topic,
            Err(error) => return told.settled(Err(&error.into())),
        };
        let mut encoded = Encoded { payload, properties };
        envelope::add_number(&mut encoded, number);
        self.go(Going::One(Ready { id, topic, batch: None, qos, expires: None, encoded, place: None, told }));
    }

    fn publish_event(&mut self, event: &Arc<dyn AnyEvent>, qos: Option<QoS>, told: Told) {
        let info = event.model();
        let wired = self.models.entry(info.name).or_insert_with(|| {
            let catching_up = &self.shared.catching_up;
            if let Some(transport) = self.shared.transport.as_ref().filter(|_| catching_up.telling.is_on()) {
                catching_up.hear_asks(&**transport);
            }
            Wired { place: locked(&self.ring).add_model(info.name), addresses: Default::default() }
        });
        let place = locked(&self.ring).give(wired.place);
        let sequence = place.sequence;
        // The row's `Serialize` is the user's; its panic must not end this task.
        let operation = event.meta().operation;
        let address = match &mut wired.addresses[operation.index()] {
            Some(address) => Ok(&*address),
            absent => Address::new(&self.shared, info, operation).map(|address| &*absent.insert(address)),
        };
        let encode = |address| encode(&self.shared, &self.limits, &**event, qos, sequence, address);
        let encoded = catch_unwind(AssertUnwindSafe(|| address.map_err(Failure::from).and_then(encode)));
        match encoded.unwrap_or(Err(Failure::Panicked)) {
            Ok(ready) => {
                let ready = Ready { told, place: Some(place), ..ready };
                match self.shared.batches {
                    Some(batches) => self.gather(info, ready, &batches),
                    None => self.go(Going::One(ready)),
                }
            }
            Err(failure) => {
                locked(&self.ring).take_back(place);
                self.outcomes.failed(&failure, told);
                if failure.matters() && self.shared.dead_letters.may() {
                    let original = catch_unwind(AssertUnwindSafe(|| original(&self.shared, &**event)));
                    let letters = &self.shared.dead_letters;
                    let letter = letters.letter(
                        Reason::Unpublished,
                        failure.to_string(),
                        original.unwrap_or_default(),
                    );
                    let (event, model) = (Some(event.meta().id), Some(info.name.to_owned()));
                    letters.put(DeadLetter { event, model, ..letter }, Held::Nothing, true);
                }
            }
        }
    }

    /// Keeps an event until others of its model are there to travel with.
    fn gather(&mut self, info: &'static ModelInfo, ready: Ready, batches: &Batches) {
        let bytes =
            ready.encoded.payload.len() + self.shared.signatures.as_ref().map_or(0, Signatures::bytes);
        let now = Instant::now();
        self.hand_on(|gathering, send| gathering.add(info.name, ready, bytes, batches, now, send));
    }

    /// Lets go what was gathered.
    fn hand_on(&mut self, which: impl FnOnce(&mut Gathering, &mut dyn FnMut(Vec<Ready>))) {
        let mut gathering = std::mem::take(&mut self.gathering);
        which(&mut gathering, &mut |mut events| match events.pop() {
            Some(one) if events.is_empty() => self.go(Going::One(one)),
            last => {
                events.extend(last);
                self.go(Going::Several(events));
            }
        });
        self.gathering = gathering;
    }

    fn hand_on_late(&mut self, at_least: Duration) {
        if self.gathering.events() > 0 {
            let now = Instant::now();
            self.hand_on(|gathering, send| gathering.late(now, at_least, send));
        }
    }

    /// Sends what was gathered long enough, and has the task woken for what was not.
    fn wait_for_late(&mut self, cx: &mut Context<'_>) {
        loop {
            self.hand_on_late(Duration::ZERO);
            self.send_going(cx);
            let Some(next) = self.gathering.next() else { return };
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(next)));
            timer.as_mut().reset(next);
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
        }
    }

    fn go(&mut self, going: Going) {
        self.going_events += going.events();
        self.going.push_back(going);
    }

    /// Sends what goes, each message when there is room for it; `false` where one has to wait.
    fn send_going(&mut self, cx: &mut Context<'_>) -> bool {
        while !self.going.is_empty() {
            if self.shared.transport.as_ref().is_some_and(|transport| transport.poll_room(cx).is_pending()) {
                return false;
            }
            let Some(going) = self.going.pop_front() else { break };
            self.going_events -= going.events();
            match going {
                Going::One(event) => self.send(event),
                Going::Several(events) => self.send_batch(events),
            }
        }
        true
    }

    /// Sends an event alone.
    fn send(&self, ready: Ready) {
        let Ready { id, topic, qos, expires, place, told, encoded, .. } = ready;
        let Encoded { mut payload, properties } = encoded;
        if let Some(signatures) = &self.shared.signatures {
            signatures.sign(topic.as_str(), &properties, &mut payload);
        }
        let payload = Bytes::from(payload);
        // Shared, not copied: it is there if a dead letter has to be made of it.
        let of_event = self.shared.format == Format::CloudEventsBinary;
        let span = spans::send(id, &topic, qos, payload.len(), &properties);
        let sent = Sent {
            id,
            topic: topic.clone(),
            payload: payload.clone(),
            properties: of_event.then(|| properties.clone()),
            qos,
            expires,
            place,
            handed: self.outcomes.clock(),
            told,
            span,
        };
        let message = Message { topic, payload, qos, expires, properties, retain: false };
        let outcomes = Arc::clone(&self.outcomes);
        match self.accepted(message) {
            Ok(confirmation) => confirmation.then(move |outcome| outcomes.settled(outcome, sent)),
            Err(error) => outcomes.told(Err(error), sent),
        }
    }

    /// Sends events of one model, of which there are some, in one message.
    fn send_batch(&self, events: Vec<Ready>) {
        const NOTHING: Properties = Properties { content_type: None, user: Vec::new() };
        let Some(topic) = events.first().and_then(|first| first.batch.clone()) else {
            return events.into_iter().for_each(|event| self.send(event));
        };
        let (qos, expires) = (events[0].qos, events.iter().filter_map(|event| event.expires).min());
        let mut tickets = Vec::with_capacity(events.len());
        let (payload, parts) = batch::join(events.into_iter().map(|event| {
            let mut payload = event.encoded.payload;
            let span = spans::send(event.id, &topic, qos, payload.len(), &event.encoded.properties);
            tickets.push((event.id, event.topic, event.expires, event.place, event.told, span));
            if let Some(signatures) = &self.shared.signatures {
                signatures.sign(topic.as_str(), &NOTHING, &mut payload);
            }
            payload
        }));
        let handed = self.outcomes.clock();
        let sent = tickets.into_iter().zip(parts);
        let sent = sent.map(|((id, topic, expires, place, told, span), payload)| Sent {
            id,
            topic,
            payload,
            properties: None,
            qos,
            expires,
            place,
            handed,
            told,
            span,
        });
        let sent: Vec<Sent> = sent.collect();
        let properties = Properties::of_type(batch::content_type(self.shared.format));
        let message = Message { topic, payload, qos, expires, properties, retain: false };
        let outcomes = Arc::clone(&self.outcomes);
        match self.accepted(message) {
            Ok(confirmation) => confirmation.then(move |outcome| outcomes.settled_batch(&outcome, sent)),
            Err(error) => outcomes.told_batch(&Err(error), sent),
        }
    }

    /// Hands a message to the transport; if that takes it, it will tell what became of it.
    fn accepted(&self, message: Message) -> Result<Confirmation, PublishError> {
        let transport = self.shared.transport.as_ref().ok_or(PublishError::Closed)?;
        let confirmation = transport.publish(message)?;
        self.outcomes.awaited.fetch_add(1, Ordering::Relaxed);
        Ok(confirmation)
    }

    /// Sends again, each alone, the events of batches that the broker did not take.
    fn take_again(&mut self) {
        let again = self.outcomes.again().as_mut().map(std::mem::take);
        for sent in again.into_iter().flatten() {
            let Sent { id, topic, payload, qos, expires, place, told, .. } = sent;
            let payload = match self.shared.signatures {
                // It was made for another topic.
                Some(_) => signature::unsigned(&payload),
                None => payload.to_vec(),
            };
            let properties = envelope::found_beside(&payload, self.shared.format, &self.shared.wire);
            let encoded = Encoded { payload, properties };
            self.go(Going::One(Ready { id, topic, batch: None, qos, expires, encoded, place, told }));
        }
    }
}

impl Drop for Publishing {
    /// From now on nobody sends anything again.
    fn drop(&mut self) {
        self.outcomes.again().take();
    }
}

impl Going {
    fn events(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Several(events) => events.len(),
        }
    }
}

/// An encoded event that goes out.
pub(super) struct Ready {
    id: EventId,
    topic: Topic,
    /// Where it goes with others.
    batch: Option<Topic>,
    pub(super) qos: QoS,
    pub(super) expires: Option<Instant>,
    encoded: Encoded,
    /// Its number, where this node counts.
    place: Option<Place>,
    told: Told,
}

/// Where it is counted what became of events. The transport tells it, in its own task: another one would
/// have to be woken for it, which costs more than all of this.
///
/// It holds nothing that leads to the transport, which holds it.
struct Outcomes {
    ring: Arc<Mutex<Ring<Kept>>>,
    counters: Arc<Counters>,
    /// How long the broker takes, where somebody wants to know.
    timing: Option<Histogram>,
    dead_letters: Arc<DeadLetters>,
    failures: OnceInAWhile,
    /// Messages of which the transport has not told what became of them.
    awaited: AtomicUsize,
    /// Events of batches, to be sent again; `None` once nobody does.
    again: Mutex<Option<Vec<Sent>>>,
    /// Of the task that publishes: woken when there is something to be sent again, and when nothing is
    /// awaited any more.
    waker: AtomicWaker,
}

impl Outcomes {
    fn again(&self) -> MutexGuard<'_, Option<Vec<Sent>>> {
        self.again.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, where that is measured.
    fn clock(&self) -> Option<Instant> {
        self.timing.as_ref().map(|_| Instant::now())
    }

    /// Ready when the last one is told.
    fn poll_all_told(&self) -> Poll<()> {
        // In this order: what is to be sent again is put there before its batch is told.
        let told = self.awaited.load(Ordering::Acquire) == 0;
        if told && self.again().as_ref().is_none_or(Vec::is_empty) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn settled(&self, settled: Result<Confirmed, PublishError>, sent: Sent) {
        self.told(settled, sent);
        self.one_less();
    }

    fn settled_batch(&self, settled: &Result<Confirmed, PublishError>, events: Vec<Sent>) {
        self.told_batch(settled, events);
        self.one_less();
    }

    fn one_less(&self) {
        if self.awaited.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.waker.wake();
        }
    }

    fn told_batch(&self, settled: &Result<Confirmed, PublishError>, events: Vec<Sent>) {
        // What is about one message may be about one event of it, or about the topic of batches.
        let about_it = matches!(
            settled,
            Err(PublishError::TooLarge { .. }
                | PublishError::Refused { .. }
                | PublishError::EndsConnections { .. })
        );
        if about_it && let Some(again) = &mut *self.again() {
            again.extend(events);
            return self.waker.wake();
        }
        events.into_iter().for_each(|sent| self.told(settled.clone(), sent));
    }

    fn told(&self, settled: Result<Confirmed, PublishError>, sent: Sent) {
        let Sent { id, topic, payload, properties, expires, place, told, handed, span, .. } = sent;
        spans::sent(&span, &settled);
        let error = match settled {
            Ok(Confirmed { had_subscribers }) => {
                if let Some(place) = place {
                    let bytes = payload.len() + topic.as_str().len();
                    locked(&self.ring).keep(place, bytes, Kept { topic, payload, properties, expires });
                }
                told.settled(Ok(()));
                self.counters.published.add_one();
                if let (Some(timing), Some(handed)) = (&self.timing, handed) {
                    timing.record(handed.elapsed());
                }
                if !had_subscribers {
                    self.counters.published_to_nobody.add_one();
                }
                return;
            }
            Err(error) => error,
        };
        // Whoever misses it is told that it is nothing: it is counted here.
        let model = place.and_then(|place| {
            let mut ring = locked(&self.ring);
            ring.settle(place);
            ring.model(place)
        });
        let error = match error {
            error @ PublishError::QueueFull { .. } => {
                if told.is_relay() {
                    self.counters.postponed.add_one();
                    return told.settled(Err(&Failure::Publish(error)));
                }
                self.counters.publish_refused.add_one();
                told.settled(Err(&Failure::Publish(error)));
                return self.failures.log(|more| {
                    warn!(more, "the transport's queue is full: events are lost to other nodes");
                });
            }
            error => error,
        };
        let attempts = match error {
            PublishError::EndsConnections { times } => times,
            _ => 1,
        };
        let failure = Failure::Publish(error);
        // Who relays has it still, and keeps it where it gives up.
        let is_relay = told.is_relay();
        self.failed(&failure, told);
        if !is_relay && failure.matters() && self.dead_letters.may() {
            let (topic, properties) = (topic.to_string(), properties.unwrap_or_default());
            let letter = self.dead_letters.letter(
                Reason::Unpublished,
                failure.to_string(),
                Original { topic, payload, properties },
            );
            let letter = DeadLetter { event: Some(id), model: model.map(str::to_owned), attempts, ..letter };
            self.dead_letters.put(letter, Held::Nothing, true);
        }
    }

    fn failed(&self, failure: &Failure, told: Told) {
        let counter = match told.is_relay() {
            true => &self.counters.postponed,
            false => &self.counters.publish_failed,
        };
        counter.add_one();
        told.settled(Err(failure));
        self.failures.log(|more| warn!(more, "an event was not published: {failure}"));
    }
}

/// A model as this node publishes it.
struct Wired {
    /// Where it is in the ring.
    place: usize,
    /// By operation, made when there is a first event of it.
    addresses: [Option<Address>; Operation::ALL.len()],
}

fn encode(
    shared: &Shared,
    limits: &WireLimits,
    event: &dyn AnyEvent,
    qos: Option<QoS>,
    sequence: u64,
    address: &Address,
) -> Result<Ready, Failure> {
    let content = sent(event)?;
    let outgoing = outgoing(shared, event, &content, &address.kind, Some(sequence));
    Ok(Ready {
        id: event.meta().id,
        topic: address.topic.clone(),
        batch: address.batch.clone(),
        qos: qos.unwrap_or(address.qos),
        expires: event.model().expires.map(after),
        encoded: envelope::encode(&outgoing, shared.format, limits)?,
        place: None,
        told: Told::Nobody,
    })
}

/// What was sent: shared with the transport, not copied.
struct Sent {
    id: EventId,
    topic: Topic,
    payload: Bytes,
    /// Of a form in which they are a part of the event.
    properties: Option<Properties>,
    qos: QoS,
    expires: Option<Instant>,
    place: Option<Place>,
    /// When it was handed to the transport, where that is measured.
    handed: Option<Instant>,
    told: Told,
    /// Until the broker has confirmed it.
    span: Span,
}
