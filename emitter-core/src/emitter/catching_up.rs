//! Events that did not come are asked for, and those that follow them wait.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use once_cell::sync::OnceCell;
use tracing::{error, warn};

use super::telling::Telling;
use super::{Emitter, Shared};
use crate::ack::Ack;
use crate::dead_letter::Original;
use crate::emit::QoS;
use crate::event::Origin;
use crate::gaps::wire::{self, Answer, Ask};
use crate::gaps::{Gaps, Head, Position, RingLimits, Since, Stream};
use crate::metrics::OnceInAWhile;
use crate::properties::Properties;
use crate::record::Number;
use crate::topic::{Topic, TopicFilter, Topics};
use crate::transport::{Confirmation, Message, PublishError, Transport};

/// What this node knows of what others publish, and of what it does itself.
pub(super) struct CatchingUp {
    gaps: Mutex<Gaps<Waiting>>,
    /// What it publishes itself.
    pub(super) telling: Telling,
    /// `{service}.{node}`.
    name: String,
    ask: Topic,
    heads: Topic,
    reply: Topic,
    /// Answers for an outbox of this node.
    answers: OnceCell<Box<dyn Fn(Ask) + Send + Sync>>,
    /// It hears what others ask.
    hears_asks: OnceCell<()>,
    /// It hears what it is answered.
    hears: OnceCell<()>,
    /// Some of that is of outboxes, or may be.
    hears_outboxes: AtomicBool,
    /// How many answers wait to be sent.
    under_way: Arc<AtomicUsize>,
    /// To how many topics of these this node is subscribed.
    subscriptions: AtomicUsize,
    /// How many connections and subscriptions there were when all outboxes were asked how far they are, and when.
    asked_at: Mutex<Option<((u64, usize), Instant)>>,
    began: Instant,
    /// When it was last found that events are lost.
    lost_at: Mutex<Option<Instant>>,
    losses: OnceInAWhile,
}

/// An event that waits for one before it.
///
/// One of an outbox is acknowledged, for its outbox has it: in the window of what is not, it would hold up
/// everything else. One that only a life has is not, or it would be lost with this node.
pub(super) struct Waiting {
    pub(super) original: Original,
    pub(super) ack: Ack,
}

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    Ask,
    Heads,
    Answer,
}

/// How often outboxes are asked how far they are.
const EVERY: Duration = Duration::from_secs(60);

/// How long a message of this kind is worth something.
const FRESH: Duration = Duration::from_secs(10);

/// How many answers, of 64 KiB or one event each, may wait to be sent: in the transport's queue they stand between events.
const MOST_UNDER_WAY: usize = 16;

impl CatchingUp {
    pub(super) fn new(topics: &Topics, origin: &Origin, ring: RingLimits) -> Self {
        let name = format!("{}.{}", origin.service, origin.node);
        Self {
            gaps: Mutex::default(),
            telling: Telling::new(origin, ring),
            ask: topics.own(&["_replay", "ask"]),
            heads: topics.own(&["_replay", "heads"]),
            reply: topics.own(&["_replay", "to", &name]),
            name,
            answers: OnceCell::new(),
            hears_asks: OnceCell::new(),
            hears: OnceCell::new(),
            hears_outboxes: AtomicBool::new(false),
            under_way: Arc::default(),
            subscriptions: AtomicUsize::new(0),
            asked_at: Mutex::default(),
            began: Instant::now(),
            lost_at: Mutex::default(),
            losses: OnceInAWhile::every(Duration::from_secs(10)),
        }
    }

    pub(super) fn gaps(&self) -> MutexGuard<'_, Gaps<Waiting>> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To how many topics the node is subscribed for this.
    pub(super) fn subscriptions(&self) -> usize {
        self.subscriptions.load(Ordering::Relaxed)
    }

    /// What came on one of these topics is about.
    pub(super) fn about(&self, topic: &str) -> Option<About> {
        // Most topics are others.
        [(&self.reply, About::Answer), (&self.heads, About::Heads), (&self.ask, About::Ask)]
            .into_iter()
            .find_map(|(own, about)| (own.as_str() == topic).then_some(about))
    }

    /// Hears what others say, from now on; and asks how far they are, where that may be outboxes.
    pub(super) fn hear(&self, transport: &dyn Transport, outboxes: bool) {
        if outboxes && !self.hears_outboxes.swap(true, Ordering::Relaxed) {
            *self.asked_at() = None;
        }
        self.hears.get_or_init(|| {
            for topic in [&self.heads, &self.reply] {
                self.subscribe(transport, topic);
            }
        });
    }

    /// Hears what others ask, from now on.
    pub(super) fn hear_asks(&self, transport: &dyn Transport) {
        self.hears_asks.get_or_init(|| self.subscribe(transport, &self.ask));
    }

    fn asked_at(&self) -> MutexGuard<'_, Option<((u64, usize), Instant)>> {
        self.asked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.lost_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was found of late that events are lost.
    pub(super) fn has_lost(&self) -> bool {
        const OF_LATE: Duration = Duration::from_secs(600);
        self.lost_at().is_some_and(|lost_at| lost_at.elapsed() < OF_LATE)
    }

    fn subscribe(&self, transport: &dyn Transport, topic: &Topic) {
        self.subscriptions.fetch_add(1, Ordering::Relaxed);
        transport.subscribe(TopicFilter::of(topic));
    }

    /// Hands a question on to who answers for an outbox.
    fn asked(&self, ask: Ask) {
        if let Some(answers) = self.answers.get() {
            answers(ask);
        }
    }

    /// Listeners are done with a numbered event when the acknowledgement is.
    pub(super) fn noted(self: &Arc<Self>, number: Number, model: &'static str, ack: Ack) -> Ack {
        if !self.gaps().keeps() {
            return ack;
        }
        let catching_up = Arc::clone(self);
        Ack::new(move || {
            ack.done();
            catching_up.gaps().closed(&number, model);
        })
    }
}

impl Shared {
    /// A node asks for what it misses.
    pub(super) fn asked(&self, ask: Ask) {
        if ask.from != self.catching_up.name {
            self.tell(&ask);
        }
        self.catching_up.asked(ask);
    }

    /// Events will not come any more.
    pub(super) fn count_lost(&self, lost: u64, stream: Option<&Stream>) {
        if lost == 0 {
            return;
        }
        self.counters.lost.add(lost);
        *self.catching_up.lost_at() = Some(Instant::now());
        let model = stream.map_or("", |stream| &stream.model);
        self.catching_up.losses.log(|more| {
            error!(lost, model, more, "events were missing, and nobody has them any more");
        });
    }

    /// Asks for what is missing, where it is time.
    pub(super) fn ask(&self) {
        let catching_up = &self.catching_up;
        let (due, lost) = {
            let mut gaps = catching_up.gaps();
            let found = gaps.found();
            if found > 0 {
                self.counters.gaps.add(found);
            }
            if gaps.behind() == 0 {
                return;
            }
            (gaps.due(catching_up.began.elapsed()), gaps.lost())
        };
        self.count_lost(lost, None);
        for payload in Ask::of(&catching_up.name, &due, false) {
            drop(self.say(&catching_up.ask, payload));
        }
    }

    /// Asks all others how far they are, and has this node tell it: at each connection, when a model is listened
    /// to, and, of outboxes, every minute. What was lost last shows in nothing that comes.
    pub(super) fn ask_for_heads(&self, transport: &dyn Transport) {
        let catching_up = &self.catching_up;
        if catching_up.subscriptions() == 0 {
            return;
        }
        let status = transport.status();
        if !status.subscriber.connected {
            return;
        }
        let wanted = self.subscribed_models(None) + self.own_subscriptions(&status);
        let now = (status.subscriber.connections, wanted);
        let outboxes = catching_up.hears_outboxes.load(Ordering::Relaxed);
        let mut asked_at = catching_up.asked_at();
        // Of what lives published before this node heard them, it misses nothing.
        let begins = asked_at.is_none();
        let (before, when) = asked_at.unwrap_or(((0, 0), catching_up.began));
        // Not before the answers come; but a subscription may be refused for good.
        let answers_come = status.subscriptions >= wanted;
        if !(now != before && answers_come || when.elapsed() >= EVERY) {
            return;
        }
        *asked_at = Some((now, Instant::now()));
        drop(asked_at);
        if catching_up.hears.get().is_some() && (outboxes || !begins && now != before) {
            for payload in Ask::of(&catching_up.name, &[], true) {
                drop(self.say(&catching_up.ask, payload));
            }
        }
        // Whoever asked meanwhile was not heard.
        if !begins && now != before {
            catching_up.telling.want_heads();
        }
        catching_up.asked(Ask { from: catching_up.name.clone(), streams: Vec::new(), heads: true });
    }

    /// Tells how far an outbox, or this node, is.
    pub(super) fn tell_heads(&self, heads: &[Head]) {
        for payload in wire::heads(heads) {
            drop(self.say(&self.catching_up.heads, payload));
        }
    }

    /// Whether few enough answers wait to be sent.
    pub(super) fn may_answer(&self) -> bool {
        self.catching_up.under_way.load(Ordering::Relaxed) < MOST_UNDER_WAY
    }

    /// Answers a node's question.
    pub(super) fn answer(&self, to: &str, answer: &Answer) {
        let topic = self.topics.own(&["_replay", "to", to]);
        // Made of what was asked, which was checked; checked again, for it is a topic.
        if Topic::parse(topic.as_str()).is_err() {
            return;
        }
        let mut said = self.say(&topic, answer.to_json());
        let mut shorter = answer.shorter();
        while let (Err(PublishError::TooLarge { .. }), Some(answer)) = (&said, &shorter) {
            if answer.events.is_empty() {
                let (model, sequence) = (&*answer.stream.model, answer.covered);
                self.catching_up.losses.log(|more| {
                    warn!(
                        to,
                        model, sequence, more, "an event does not fit into an answer: it is told as lost"
                    );
                });
            }
            said = self.say(&topic, answer.to_json());
            shorter = answer.shorter();
        }
        if let Ok(confirmation) = said {
            let under_way = Arc::clone(&self.catching_up.under_way);
            under_way.fetch_add(1, Ordering::Relaxed);
            confirmation.then(move |_| {
                under_way.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }

    /// Publishes what is said about events, and not worth much later.
    fn say(&self, topic: &Topic, mut payload: Vec<u8>) -> Result<Confirmation, PublishError> {
        let transport = self.transport.as_ref().ok_or(PublishError::Closed)?;
        let properties = Properties::of_type("application/json");
        if let Some(signatures) = &self.signatures {
            signatures.sign(topic.as_str(), &properties, &mut payload);
        }
        let message = Message {
            topic: topic.clone(),
            payload: Bytes::from(payload),
            // They pass what waits to be acknowledged, and pile up for nobody who is away. What is lost is asked for
            // again.
            qos: QoS::AtMostOnce,
            expires: Some(super::shutdown::after(FRESH)),
            properties,
            retain: false,
        };
        transport.publish(message)
    }
}

impl Emitter {
    /// Has this node answer for an outbox: `answer` is called with each question of another node, from a task
    /// that must not be blocked. Later calls change nothing. Without a transport nobody asks.
    pub fn answer_asks(&self, answer: impl Fn(Ask) + Send + Sync + 'static) {
        let catching_up = &self.node.shared.catching_up;
        if catching_up.answers.set(Box::new(answer)).is_ok()
            && let Some(transport) = &self.node.shared.transport
        {
            catching_up.hear_asks(&**transport);
        }
    }

    /// Answers a node's [question](Self::answer_asks); `to` is who [asked](Ask::from).
    pub fn answer(&self, to: &str, answer: &Answer) {
        self.node.shared.answer(to, answer);
    }

    /// Whether an answer may be given now. While too many wait to be sent, questions are better kept: answers stand
    /// in the same queue as events.
    #[must_use]
    pub fn may_answer(&self) -> bool {
        self.node.shared.may_answer()
    }

    /// Tells other nodes how far an outbox of this node is.
    pub fn tell_heads(&self, heads: &[Head]) {
        self.node.shared.tell_heads(heads);
    }

    /// Begins to hear outboxes where an earlier life ended, and those that are new to it as `since` says. To be
    /// called by a [companion](crate::Builder::companion) as it begins; then nothing has come yet. From then on
    /// [`positions`](Self::positions) tells how far the listeners are.
    pub fn resume(&self, positions: impl IntoIterator<Item = Position>, since: Since) {
        let shared = &self.node.shared;
        shared.catching_up.gaps().resume(positions, since);
        if let Some(transport) = &shared.transport {
            shared.catching_up.hear(&**transport, true);
        }
    }

    /// How far the listeners of this node are in each stream of an outbox that it hears.
    #[must_use]
    pub fn positions(&self) -> Vec<Position> {
        self.node.shared.catching_up.gaps().positions()
    }
}
