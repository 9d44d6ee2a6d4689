//! Events of outboxes that did not come are asked for, and those that follow them wait.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use once_cell::sync::OnceCell;

use super::{Emitter, Shared};
use crate::ack::Ack;
use crate::dead_letter::Original;
use crate::emit::QoS;
use crate::event::Origin;
use crate::gaps::wire::{self, Answer, Ask};
use crate::gaps::{Gaps, Head, Position, Since};
use crate::properties::Properties;
use crate::record::Number;
use crate::topic::{Topic, TopicFilter, Topics};
use crate::transport::{Message, Transport};

/// What this node knows of the outboxes that it hears of, and of its own.
pub(super) struct CatchingUp {
    /// What waits for one that is missing is acknowledged: in the window of what is not, it would hold up the
    /// answers, and everything else.
    gaps: Mutex<Gaps<Original>>,
    /// `{service}.{node}`.
    name: String,
    ask: Topic,
    heads: Topic,
    reply: Topic,
    /// Answers for an outbox of this node.
    answers: OnceCell<Box<dyn Fn(Ask) + Send + Sync>>,
    /// It hears what it is answered.
    hears: OnceCell<()>,
    /// To how many topics of these this node is subscribed.
    subscriptions: AtomicUsize,
    /// How many connections and subscriptions there were when all outboxes were asked how far they are, and when.
    asked_at: Mutex<Option<((u64, usize), Instant)>>,
    began: Instant,
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

impl CatchingUp {
    pub(super) fn new(topics: &Topics, origin: &Origin) -> Self {
        let name = format!("{}.{}", origin.service, origin.node);
        Self {
            gaps: Mutex::default(),
            ask: topics.own(&["_replay", "ask"]),
            heads: topics.own(&["_replay", "heads"]),
            reply: topics.own(&["_replay", "to", &name]),
            name,
            answers: OnceCell::new(),
            hears: OnceCell::new(),
            subscriptions: AtomicUsize::new(0),
            asked_at: Mutex::default(),
            began: Instant::now(),
        }
    }

    pub(super) fn gaps(&self) -> MutexGuard<'_, Gaps<Original>> {
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

    /// Hears what outboxes say, from now on.
    pub(super) fn hear(&self, transport: &dyn Transport) {
        self.hears.get_or_init(|| {
            for topic in [&self.heads, &self.reply] {
                self.subscribe(transport, topic);
            }
        });
    }

    fn subscribe(&self, transport: &dyn Transport, topic: &Topic) {
        self.subscriptions.fetch_add(1, Ordering::Relaxed);
        transport.subscribe(TopicFilter::of(topic));
    }

    /// Hands a question on to whoever answers.
    pub(super) fn asked(&self, ask: Ask) {
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
    /// Asks for what is missing, where it is time.
    pub(super) fn ask(&self) {
        let catching_up = &self.catching_up;
        let due = {
            let mut gaps = catching_up.gaps();
            if gaps.behind() == 0 {
                return;
            }
            self.counters.gaps.add(gaps.found());
            gaps.due(catching_up.began.elapsed())
        };
        for payload in Ask::of(&catching_up.name, &due, false) {
            self.say(&catching_up.ask, payload);
        }
    }

    /// Asks all outboxes how far they are, and has an own one tell it: at each connection, when a model is
    /// listened to, and every minute. What was lost last shows in nothing that comes.
    pub(super) fn ask_for_heads(&self, transport: &dyn Transport) {
        let catching_up = &self.catching_up;
        if catching_up.subscriptions() == 0 {
            return;
        }
        let status = transport.status();
        if !status.subscriber.connected {
            return;
        }
        let wanted = self.subscribed_models(None) + catching_up.subscriptions();
        let now = (status.subscriber.connections, wanted);
        let mut asked_at = catching_up.asked_at.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, when) = asked_at.unwrap_or(((0, 0), catching_up.began));
        // Not before the answers come; but a subscription may be refused for good.
        let answers_come = status.subscriptions >= wanted;
        if !(now != before && answers_come || when.elapsed() >= EVERY) {
            return;
        }
        *asked_at = Some((now, Instant::now()));
        drop(asked_at);
        if catching_up.hears.get().is_some() {
            for payload in Ask::of(&catching_up.name, &[], true) {
                self.say(&catching_up.ask, payload);
            }
        }
        // Whoever asked meanwhile was not heard.
        catching_up.asked(Ask { from: catching_up.name.clone(), streams: Vec::new(), heads: true });
    }

    /// Publishes what is said about events, and not worth much later.
    fn say(&self, topic: &Topic, mut payload: Vec<u8>) {
        let Some(transport) = &self.transport else { return };
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
        drop(transport.publish(message));
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
            catching_up.subscribe(&**transport, &catching_up.ask);
        }
    }

    /// Answers a node's [question](Self::answer_asks); `to` is who [asked](Ask::from).
    pub fn answer(&self, to: &str, answer: &Answer) {
        let topic = self.node.shared.topics.own(&["_replay", "to", to]);
        // Made of what was asked, which was checked; checked again, for it is a topic.
        if Topic::parse(topic.as_str()).is_ok() {
            self.node.shared.say(&topic, answer.to_json());
        }
    }

    /// Tells other nodes how far an outbox of this node is.
    pub fn tell_heads(&self, heads: &[Head]) {
        for payload in wire::heads(heads) {
            self.node.shared.say(&self.node.shared.catching_up.heads, payload);
        }
    }

    /// Begins to hear outboxes where an earlier life ended, and those that are new to it as `since` says. To be
    /// called by a [companion](crate::Builder::companion) as it begins; then nothing has come yet. From then on
    /// [`positions`](Self::positions) tells how far the listeners are.
    pub fn resume(&self, positions: impl IntoIterator<Item = Position>, since: Since) {
        let shared = &self.node.shared;
        shared.catching_up.gaps().resume(positions, since);
        if let Some(transport) = &shared.transport {
            shared.catching_up.hear(&**transport);
        }
    }

    /// How far the listeners of this node are in each stream of an outbox that it hears.
    #[must_use]
    pub fn positions(&self) -> Vec<Position> {
        self.node.shared.catching_up.gaps().positions()
    }
}
