//! The task that takes messages from the transport to the dispatcher.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{error, warn};
use uuid::Uuid;

use super::burying::Held;
use super::catching_up::{About, Waiting};
use super::{ModelState, Shared};
use crate::batch;
use crate::dead_letter::{Original, Reason};
use crate::dedup::{DedupWindow, Sender};
use crate::dispatcher::{Completion, Job, Message};
use crate::envelope::{self, DecodeError, Incoming, WireLimits};
use crate::event::{EventId, Source, Timestamp};
use crate::gaps::wire::{self, Answer, Ask, ToldEvent};
use crate::gaps::{self, Arrival, Stream};
use crate::listener::same_model;
use crate::metrics::OnceInAWhile;
use crate::model_info::{AnyEvent, Received};
use crate::properties::Properties;
use crate::record::Number;
use crate::signature::{Checked, Unauthentic};
use crate::topic::{BATCH, ModelTopic, Said};
use crate::transport::{Ack, Delivery, Transport};

/// Checks, decodes and sorts out what comes, and hands on what is left.
pub(super) struct Intake {
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    /// Whose share it takes, if it is a group's.
    group: Option<Arc<str>>,
    limits: WireLimits,
    started: Instant,
    window: DedupWindow,
    /// Events that listeners work on. One that comes again meanwhile waits for the same
    /// listeners, so that it is not acknowledged before they are done.
    in_progress: HashMap<Identity, Weak<Completion>>,
    /// One for each event that listeners may have in progress. A window of unacknowledged
    /// messages at the broker would not do: messages without receipt (QoS 0) have none.
    places: Arc<Semaphore>,
    tidy_at: usize,
    /// What lives of other nodes are called, by their incarnations.
    lives: HashMap<Uuid, Arc<str>>,
    /// How many messages are not acknowledged for an event that waits: of a batch one, for all of its events.
    messages: usize,
    /// How many dead letters may still be made of the present message.
    letters: usize,
    bad: OnceInAWhile,
    namesakes: OnceInAWhile,
}

/// What a message is.
enum Read {
    /// This node's own.
    Echo,
    Event {
        model: Arc<ModelState>,
        event: Arc<dyn AnyEvent>,
        identity: Option<Identity>,
    },
}

/// How often it is looked whether something is to be asked for again.
const PULSE: Duration = Duration::from_millis(100);

/// A batch of nothing but rubbish must not use up the dead letters of others.
const LETTERS_A_BATCH: usize = 10;

/// What tells an event from all others: its origin's life, if it says so, and its id.
type Identity = (Option<Uuid>, EventId);

/// Why a message goes no further.
#[derive(Debug, thiserror::Error)]
enum Rejection {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the topic has not the layout of this application")]
    Topic,
    #[error("the topic and the message name different models or operations")]
    Mismatch,
    #[error("no listener of this node knows the model")]
    UnknownModel,
    /// On a topic below that of a model, whose subscription brings it.
    #[error("no listener of this node knows the event")]
    UnknownEvent,
    #[error("the origin has empty names")]
    Origin,
    #[error("it is no announcement of the node whose topic it is")]
    Announcement,
    #[error("the row's `Deserialize` panicked")]
    Panicked,
    #[error(transparent)]
    Unauthentic(#[from] Unauthentic),
}

impl Intake {
    /// What comes over this transport. A group has an intake of its own: what is its share may come
    /// to this node for all, too.
    pub(super) fn new(shared: Arc<Shared>, transport: Arc<dyn Transport>, group: Option<Arc<str>>) -> Self {
        let interval = Duration::from_secs(10);
        Self {
            transport,
            group,
            limits: shared.wire,
            started: Instant::now(),
            window: DedupWindow::new(shared.dedup),
            in_progress: HashMap::new(),
            places: Arc::new(Semaphore::new(shared.in_progress)),
            shared,
            tidy_at: 1024,
            lives: HashMap::new(),
            messages: 1,
            letters: usize::MAX,
            bad: OnceInAWhile::every(interval),
            namesakes: OnceInAWhile::every(interval),
        }
    }

    /// Works until the transport is closed.
    pub(super) async fn run(mut self) {
        let transport = Arc::clone(&self.transport);
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.messages = 1;
            let mut next = transport.next();
            let delivery = loop {
                tokio::select! {
                    delivery = &mut next => break delivery,
                    // Of a group a node sees a part, so that numbers tell nothing.
                    _ = pulse.tick(), if self.group.is_none() => self.catch_up().await,
                }
            };
            let Some(delivery) = delivery else { return };
            if let Some(is_one) = self.shared.nodes.take(&delivery.topic, &delivery.payload, &*transport) {
                if !is_one {
                    self.refuse(&Rejection::Announcement, &delivery.topic);
                }
                delivery.ack.done();
                continue;
            }
            let about =
                self.group.is_none().then(|| self.shared.catching_up.about(&delivery.topic)).flatten();
            match about {
                Some(about) => self.take_word(about, delivery).await,
                None => {
                    self.shared.counters.received.add_one();
                    self.take_message(delivery).await;
                }
            }
        }
    }

    /// An event, or several of them.
    async fn take_message(&mut self, delivery: Delivery) {
        match self.parts(&delivery) {
            None => self.take(delivery).await,
            Some(Ok(events)) => self.take_batch(&delivery.topic, events, delivery.ack).await,
            Some(Err(rejection)) => {
                let Delivery { topic, payload, ack, .. } = delivery;
                // Of which there may be too many, and none is a part of a batch.
                let original = Original { topic, payload, properties: Properties::default() };
                self.reject(&rejection, original, ack);
            }
        }
    }

    /// What nodes say to each other about events that are missing.
    async fn take_word(&mut self, about: About, delivery: Delivery) {
        let Delivery { topic, payload, properties, ack } = delivery;
        let original = Original { topic, payload, properties };
        let checked = self.check_word(&original);
        let taken = checked.and_then(|()| match about {
            About::Ask => {
                self.shared.asked(Ask::read(&original.payload)?);
                Ok(None)
            }
            About::Heads => {
                let heads = wire::read_heads(&original.payload)?;
                let catching_up = &self.shared.catching_up;
                let heard = heads.iter().filter(|head| {
                    head.stream.outbox != catching_up.telling.life && self.hears(&head.stream)
                });
                let mut gaps = catching_up.gaps();
                heard.for_each(|head| gaps.head(head));
                Ok(None)
            }
            About::Answer => Ok(Some(Answer::read(&original.payload)?)),
        });
        match taken {
            Ok(Some(answer)) => self.take_answer(answer, ack).await,
            Ok(None) => ack.done(),
            // Whoever wants an answer asks again: nobody misses a letter of it.
            Err(rejection) => {
                self.refuse(&rejection, &original.topic);
                return ack.done();
            }
        }
        self.ask().await;
    }

    /// Whether listeners of this node hear the model of a stream from other nodes.
    fn hears(&self, stream: &Stream) -> bool {
        self.shared.model_named(&stream.model).is_some_and(|model| model.is_subscribed(None))
    }

    /// What an outbox tells of a stream: events that were missing, one after the other, and then those that
    /// waited for them.
    async fn take_answer(&mut self, answer: Answer, ack: Ack) {
        let (told, shared) = (answer.told(), Arc::clone(&self.shared));
        let Answer { stream, events, lost, .. } = answer;
        if !shared.catching_up.gaps().wants(&stream, &told) {
            return ack.done();
        }
        // What waits here is lost to nobody, though who answers does not have it any more.
        let is_told = |sequence: u64| events.iter().any(|event| event.sequence == sequence);
        let untold = {
            let mut gaps = shared.catching_up.gaps();
            let held: Vec<u64> = if lost == 0 {
                Vec::new()
            } else {
                gaps.held_within(&stream, told.after, told.covered).collect()
            };
            held.into_iter().filter(|sequence| !is_told(*sequence)).count() as u64
        };
        shared.count_lost(lost.saturating_sub(untold), Some(&stream));
        if events.is_empty() {
            ack.done();
        } else {
            self.letters = LETTERS_A_BATCH;
            let acks = ack.shared(events.len());
            for (ToldEvent { sequence, topic, payload, properties }, ack) in events.into_iter().zip(acks) {
                // What waits and comes before it, and what comes then.
                loop {
                    let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
                    let earlier = shared.catching_up.gaps().held_before(&stream, told.after, sequence);
                    let Some(Waiting { original, ack }) = earlier else { break };
                    self.go_on(original, ack, place, false);
                }
                let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
                let waited = shared.catching_up.gaps().take_held(&stream, sequence);
                if let Some(Waiting { original, ack: own }) = waited {
                    ack.done();
                    self.go_on(original, own, place, false);
                } else {
                    self.go_on(Original { topic, payload, properties }, ack, place, true);
                }
            }
            self.letters = usize::MAX;
        }
        shared.catching_up.gaps().answered(&stream, &told);
        self.release(&stream).await;
    }

    /// Asks again where nobody answered, and says how far this node is.
    async fn catch_up(&mut self) {
        self.shared.ask_for_heads(&*self.transport);
        self.shared.tell_own_heads();
        self.ask().await;
    }

    /// Asks for what is missing, where it is time, and lets go what has waited for too long: patience ends with a question,
    /// and what comes next must not go first.
    async fn ask(&mut self) {
        self.shared.ask();
        let late = {
            let gaps = self.shared.catching_up.gaps();
            if gaps.behind() == 0 { Vec::new() } else { gaps.impatient() }
        };
        for stream in late {
            self.release(&stream).await;
        }
    }

    /// Lets those go on that wait for nothing any more.
    async fn release(&mut self, stream: &Stream) {
        loop {
            // Before it is taken out: from then on nothing is waited for, or it would be nowhere for that time.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            let next = self.shared.catching_up.gaps().next_held(&stream.outbox, stream.lane, &stream.model);
            let Some(Waiting { original, ack }) = next else { return };
            self.go_on(original, ack, place, false);
        }
    }

    /// Takes an event whose turn it is.
    fn go_on(&mut self, original: Original, ack: Ack, place: OwnedSemaphorePermit, recovered: bool) {
        let (read, ack) = match self.sort(&original) {
            Ok((model, incoming)) => {
                let ack = match self.number(&incoming).filter(|number| !number.is_of_life()) {
                    Some(number) => {
                        if recovered {
                            self.shared.catching_up.gaps().opened(&number, model.info.name);
                        }
                        self.shared.catching_up.noted(number, model.info.name, ack)
                    }
                    None => ack,
                };
                (self.read(model, incoming), ack)
            }
            Err(rejection) => (Err(rejection), ack),
        };
        let is_new = self.finish(read, original, ack, place);
        if recovered && is_new {
            self.shared.counters.recovered.add_one();
        }
    }

    /// The events of a batch; `None` of a message that is none.
    fn parts(&self, delivery: &Delivery) -> Option<Result<Vec<Bytes>, Rejection>> {
        let Delivery { payload, properties, .. } = delivery;
        let (bytes, limit) = (properties.bytes(), Properties::MOST_BYTES);
        let parts = if bytes > limit {
            Err(DecodeError::Properties { bytes, limit })
        } else {
            batch::split(payload, &self.limits)?
        };
        // What cannot be taken apart cannot be signed, either.
        Some(parts.map_err(|error| self.unsigned().err().unwrap_or(error.into())))
    }

    /// What cannot be signed is nothing but that, where events have to be.
    fn unsigned(&self) -> Result<(), Rejection> {
        let Some(signatures) = &self.shared.signatures else { return Ok(()) };
        signatures.unsigned().map(drop).map_err(Rejection::from)
    }

    /// Whether somebody wrote it who is trusted. Of what was signed, no more is left than was.
    fn check(&self, original: &mut Original) -> Result<(), Rejection> {
        let Some(signatures) = &self.shared.signatures else { return Ok(()) };
        let Original { topic, payload, properties } = original;
        if payload.len() > self.limits.max_bytes {
            return self.unsigned();
        }
        if signatures.check(topic, properties, payload)? == Checked::Signed
            && !envelope::has_attributes(properties)
        {
            *properties = Properties::default();
        }
        Ok(())
    }

    /// The same of a message of nodes to each other, which is as large as several events may be.
    fn check_word(&self, original: &Original) -> Result<(), Rejection> {
        let Some(signatures) = &self.shared.signatures else { return Ok(()) };
        let Original { topic, payload, properties } = original;
        signatures.check(topic, properties, payload)?;
        Ok(())
    }

    /// Each event of a batch is taken as if it had come alone. The batch is acknowledged when all are done.
    async fn take_batch(&mut self, topic: &str, events: Vec<Bytes>, ack: Ack) {
        let acks = ack.shared(events.len());
        self.letters = LETTERS_A_BATCH;
        for (payload, ack) in events.into_iter().zip(acks) {
            // What came beside the message is about the batch.
            let properties = Properties::default();
            self.take(Delivery { topic: topic.to_owned(), payload, properties, ack }).await;
        }
        self.letters = usize::MAX;
    }

    async fn take(&mut self, delivery: Delivery) {
        // The semaphore is never closed; without a place nothing more is taken in.
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
        let Delivery { topic, payload, properties, ack } = delivery;
        let mut original = Original { topic, payload, properties };
        if let Err(rejection) = self.check(&mut original) {
            return self.reject(&rejection, original, ack);
        }
        let (model, incoming) = match self.sort(&original) {
            Ok(sorted) => sorted,
            Err(rejection) => {
                self.finish(Err(rejection), original, ack, place);
                return;
            }
        };
        let number = self.number(&incoming);
        let name = model.info.name;
        let arrival = number.as_ref().map(|number| self.arrived(number, name));
        if let (Some(number), Some(Arrival::Waits)) = (&number, arrival) {
            drop(incoming);
            self.hold(number, name, original, ack);
            // What goes on then may need it.
            drop(place);
            return self.ask().await;
        }
        let ack = match number.as_ref().filter(|number| !number.is_of_life()) {
            Some(number) => self.shared.catching_up.noted(number.clone(), name, ack),
            None => ack,
        };
        let read = self.read(model, incoming);
        let stream = number.as_ref().filter(|_| arrival == Some(Arrival::GoesFirst)).map(|number| Stream {
            outbox: Arc::clone(&number.outbox),
            lane: number.lane,
            model: name.into(),
        });
        self.finish(read, original, ack, place);
        if let Some(stream) = stream {
            self.release(&stream).await;
        }
    }

    /// An event's place among those of an outbox, or of its origin. Of a group a node sees a part, so that
    /// numbers tell nothing.
    fn number(&mut self, incoming: &Incoming<'_>) -> Option<Number> {
        const MOST_LIVES: usize = 1_024;
        let sequence = incoming.sequence.filter(|_| self.group.is_none())?;
        if let Some(stream) = &incoming.stream {
            return Number::of_stream(stream, sequence);
        }
        let origin = incoming.origin.as_ref()?;
        let own = &self.shared.origin;
        // What this node publishes comes back, and is not waited for.
        if origin.node == own.node && origin.service == own.service {
            return None;
        }
        if self.lives.len() >= MOST_LIVES && !self.lives.contains_key(&origin.incarnation) {
            self.lives.clear();
        }
        let life = self.lives.entry(origin.incarnation).or_insert_with_key(|life| gaps::life(*life));
        Number::of_life(life, sequence)
    }

    fn arrived(&self, number: &Number, model: &str) -> Arrival {
        let catching_up = &self.shared.catching_up;
        catching_up.hear(&*self.transport, !number.is_of_life());
        catching_up.gaps().arrived(number, model)
    }

    /// Keeps an event until those before it came.
    fn hold(&mut self, number: &Number, model: &str, original: Original, ack: Ack) {
        let bytes = original.payload.len() + original.topic.len() + original.properties.bytes();
        let (ack, messages) = if number.is_of_life() {
            (ack, self.messages)
        } else {
            ack.done();
            (Ack::new(|| {}), 0)
        };
        let waiting = Waiting { original, ack };
        let twin = self.shared.catching_up.gaps().hold(number, model, bytes, messages, waiting);
        self.messages -= messages;
        // The later one is acknowledged when its turn has come.
        if let Some(twin) = twin {
            twin.ack.done();
        }
    }

    /// What becomes of an event that was read, or could not be; whether it is new here.
    fn finish(
        &mut self,
        read: Result<Read, Rejection>,
        original: Original,
        ack: Ack,
        place: OwnedSemaphorePermit,
    ) -> bool {
        match read {
            Ok(Read::Echo) => {
                self.shared.counters.echoes.add_one();
                ack.done();
            }
            Ok(Read::Event { model, event, identity }) => {
                return self.deliver(&model, event, identity, original, ack, place);
            }
            Err(Rejection::UnknownEvent) => {
                self.shared.counters.unheard.add_one();
                ack.done();
            }
            Err(rejection) => {
                if matches!(rejection, Rejection::UnknownModel) {
                    self.give_back(&original.topic);
                }
                self.reject(&rejection, original, ack);
            }
        }
        false
    }

    /// What a message is, its rows included.
    fn read(&self, model: Arc<ModelState>, incoming: Incoming<'_>) -> Result<Read, Rejection> {
        let own = self.is_echo(&incoming);
        if own && self.group.is_none() {
            return Ok(Read::Echo);
        }
        let identity = incoming.id.map(|id| (incoming.origin.as_ref().map(|origin| origin.incarnation), id));
        let received = Received {
            id: incoming.id.unwrap_or_else(EventId::now),
            time: incoming.time.unwrap_or_else(Timestamp::now),
            // Of a group, the node that wrote is as good as any.
            source: if own { Source::Local } else { Source::Remote },
        };
        // The row's `Deserialize` is the user's; its panic must not end this task.
        let decoded = catch_unwind(AssertUnwindSafe(|| (model.info.decode)(incoming, received)));
        let event = decoded.map_err(|_| Rejection::Panicked)??;
        Ok(Read::Event { model, event, identity })
    }

    /// A session remembers what an earlier life of this node subscribed to. In a group that would
    /// take events from the members that have a listener for them.
    fn give_back(&self, topic: &str) {
        let topics = &self.shared.topics;
        let model = topics.read(topic).map(|(levels, _)| ModelTopic::new(levels));
        let event = topics.read_event(topic).map(ModelTopic::of_event);
        for levels in [model, event].into_iter().flatten().flatten() {
            self.transport.unsubscribe(&topics.model_filter(&levels));
        }
    }

    /// Everything that can be said before the rows are decoded.
    fn sort<'p>(&self, original: &'p Original) -> Result<(Arc<ModelState>, Incoming<'p>), Rejection> {
        let Original { topic, payload, properties } = original;
        let (model, said) = self.shared.model_on(topic).ok_or_else(|| self.unknown(topic))?;
        let incoming = envelope::decode(payload, properties, said, &self.limits);
        let names_it = |incoming: &Incoming<'_>| {
            incoming.model.as_ref().is_some_and(|name| same_model(model.info.name, name))
        };
        if said.is_unknown() && !incoming.as_ref().is_ok_and(names_it) {
            return Err(Rejection::UnknownEvent);
        }
        let incoming = incoming?;
        let operation_fits = match said {
            Said::This(operation) => operation == incoming.operation,
            // The npm package writes `all` where the specification has the operation.
            Said::Other(other) => other == "all" || other == BATCH,
            Said::Nothing => true,
        };
        if !operation_fits || incoming.model.as_ref().is_some_and(|name| !same_model(model.info.name, name)) {
            return Err(Rejection::Mismatch);
        }
        if incoming.origin.as_ref().is_some_and(|origin| origin.node.is_empty() || origin.service.is_empty())
        {
            return Err(Rejection::Origin);
        }
        Ok((model, incoming))
    }

    /// Why a topic is no model's.
    fn unknown(&self, topic: &str) -> Rejection {
        let topics = &self.shared.topics;
        match topics.read(topic).is_some() || topics.read_event(topic).is_some() {
            true => Rejection::UnknownModel,
            false => Rejection::Topic,
        }
    }

    /// Hands an event to the listeners; `false` where they have it, or there are none.
    fn deliver(
        &mut self,
        model: &ModelState,
        event: Arc<dyn AnyEvent>,
        identity: Option<Identity>,
        original: Original,
        ack: Ack,
        place: OwnedSemaphorePermit,
    ) -> bool {
        // Rows are decoded before the id is remembered: what is rejected was never an event, and
        // must not shadow one that bears the same id.
        if let Some((incarnation, id)) = identity
            && !self.window.is_new(incarnation, id, self.started.elapsed())
        {
            self.shared.counters.duplicates.add_one();
            self.acknowledge_duplicate((incarnation, id), ack);
            return false;
        }
        // A session remembers subscriptions of an earlier life. Without a listener, nobody empties
        // the model's queue.
        if model.worker.get().is_none() || !model.is_subscribed(self.group.as_deref()) {
            if !self.shared.is_subscribed(&original.topic, self.group.as_deref()) {
                self.transport.unsubscribe(&self.shared.topics.model_filter(&model.topic));
            }
            self.shared.counters.unheard.add_one();
            ack.done();
            return false;
        }
        model.tally.received[event.meta().operation.index()].add_one();
        let completion = Completion::new(ack, Some(original), Some(place));
        if let Some(identity) = identity {
            self.remember(identity, &completion);
        }
        // Refused only while the emitter shuts down: then it is not acknowledged and comes again.
        let _ = model.queue.push_urgent(Message::Event(Job::remote(event, self.group.clone(), completion)));
        true
    }

    fn is_echo(&self, incoming: &Incoming<'_>) -> bool {
        let (Some(origin), Some(id)) = (&incoming.origin, incoming.id) else { return false };
        match crate::dedup::sender(origin, id, &self.shared.origin) {
            Sender::Own => true,
            Sender::Other => false,
            Sender::Namesake => {
                self.shared.counters.namesakes.add_one();
                self.namesakes.log(|more| {
                    error!(node = %self.shared.origin, more, "another node uses this node's name; give each node its own with `.node(…)`");
                });
                false
            }
        }
    }

    fn acknowledge_duplicate(&self, identity: Identity, ack: Ack) {
        match self.in_progress.get(&identity).and_then(Weak::upgrade) {
            Some(completion) => completion.attach(ack),
            None => ack.done(),
        }
    }

    fn remember(&mut self, identity: Identity, completion: &Arc<Completion>) {
        if self.in_progress.len() >= self.tidy_at {
            self.in_progress.retain(|_, completion| completion.upgrade().is_some_and(|c| !c.is_complete()));
            self.tidy_at = (self.in_progress.len() * 2).max(1024);
        }
        self.in_progress.insert(identity, Arc::downgrade(completion));
    }

    /// Counts a message that is of no use.
    fn refuse(&self, rejection: &Rejection, topic: &str) {
        let counters = &self.shared.counters;
        counters.bad_messages.add_one();
        if matches!(rejection, Rejection::Unauthentic(_)) {
            counters.unauthentic.add_one();
        }
        // It may be of 64 kB.
        let topic: String = topic.chars().take(200).collect();
        self.bad.log(|more| warn!(topic, more, "a message was dropped: {rejection}"));
    }

    /// Counts a message that is no event, and acknowledges it once it is a dead letter: it would not
    /// get better by coming again.
    fn reject(&mut self, rejection: &Rejection, original: Original, ack: Ack) {
        self.refuse(rejection, &original.topic);
        let shared = &self.shared;
        if !rejection.matters() {
            return ack.done();
        }
        if self.letters == 0 {
            shared.counters.dead_letters_lost.add_one();
            return ack.done();
        }
        if !shared.dead_letters.may() {
            return ack.done();
        }
        self.letters -= 1;
        let letter = shared.dead_letters.letter(Reason::Undecodable, rejection.to_string(), original);
        shared.dead_letters.put(letter, Held::Ack(ack), true);
    }
}

impl Rejection {
    /// Whether somebody may miss it. What other nodes' models have beyond this node's is none of its
    /// business, a dead letter never becomes one again, and strangers shall not fill what keeps them.
    fn matters(&self) -> bool {
        !matches!(
            self,
            Self::Topic
                | Self::UnknownModel
                | Self::Unauthentic(_)
                | Self::Decode(DecodeError::NotEmitted(_) | DecodeError::UnknownOperation)
        )
    }
}
