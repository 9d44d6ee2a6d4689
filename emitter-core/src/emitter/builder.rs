//! How an emitter is set up and started.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use once_cell::sync::OnceCell;
use tracing::{info, warn};
use uuid::Uuid;

#[cfg(feature = "mqtt")]
use super::announced::Announced;
use super::burying::{DeadLetters, Graveyard, Keeper};
use super::catching_up::CatchingUp;
use super::companion::BeginCompanion;
use super::health::Unpublished;
use super::nodes::Nodes;
use super::publishing::Publishing;
use super::{AskBacklog, Emitter, Node, Shared, Tap, Tasks, Troubles, WeakEmitter};
use crate::batch::{self, Batches};
use crate::dead_letter::{DeadLetter, DeadLetterLimits};
use crate::dedup::DedupConfig;
use crate::dispatcher::DispatchLimits;
use crate::emit::{EmitConfig, QoS};
use crate::envelope::{Format, NoKind, WireLimits};
use crate::event::Origin;
use crate::gaps::RingLimits;
use crate::listener::{Handler, ListenerInfo, MissingState, States};
use crate::masked::HashKey;
use crate::metrics::{Counters, OnceInAWhile, Reporting};
use crate::queue::Queue;
use crate::registry::{RegisteredModel, Registration};
use crate::retry::Retry;
use crate::signature::Signatures;
use crate::topic::{Layout, ModelTopic, TopicError, TopicPrefix, Topics};
use crate::transport::Transport;
#[cfg(feature = "mqtt")]
use crate::transport::mqtt::{ClientId, MqttConfig, MqttConfigError, MqttTransport};

/// Something that [`with`](Builder::with) adds to an emitter: an outbox, an inbox, a mirror.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is nothing that an emitter can be given",
    label = "given to `.with(…)` are an `Outbox`, `Inbox`, `CatchUp`, `DeadLetters`, `Mirror` and the like"
)]
pub trait Extension {
    /// The builder with what this adds: settings, states, companions.
    fn extend(self, builder: Builder) -> Builder;
}

/// Settings of an [`Emitter`]; each has a default that runs.
///
/// Mistakes are collected and told by [`start`](Self::start), the first one first.
#[must_use = "nothing runs until `.start().await`"]
pub struct Builder {
    service: String,
    node: Option<String>,
    prefix: String,
    emit: EmitConfig,
    skipped: Vec<String>,
    hash_key: Option<HashKey>,
    max_hops: u8,
    dead_letters: DeadLetterLimits,
    keepers: Vec<Keeper>,
    format: Format,
    kind: Option<String>,
    layout: String,
    qos: Vec<(String, QoS)>,
    batches: Option<Batches>,
    signatures: Option<Signatures>,
    tap: Option<Tap>,
    states: States,
    reporting: Option<Reporting>,
    companions: Vec<(&'static str, BeginCompanion)>,
    troubles: Vec<Troubles>,
    backlogs: Vec<AskBacklog>,
    relayed_elsewhere: bool,
    required: Vec<String>,
    select: Box<dyn Fn(&ListenerInfo) -> bool + Send>,
    dedup: DedupConfig,
    wire: WireLimits,
    dispatch: DispatchLimits,
    publish_queue: usize,
    in_progress: usize,
    ring: RingLimits,
    link: Link,
}

/// The way to other nodes.
enum Link {
    None,
    Given(Box<dyn Transport>),
    #[cfg(feature = "mqtt")]
    Mqtt(Result<Box<MqttConfig>, MqttConfigError>),
}

/// Why an emitter did not start. Nothing runs then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The topic prefix, the layout or a model's name cannot be part of a topic.
    #[error("topic_prefix, topic_layout or model: {0}")]
    Topic(#[from] TopicError),
    /// A setting is out of its bounds.
    #[error("{setting}: {problem}")]
    Setting {
        /// The builder's method.
        setting: &'static str,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// A listener needs a state that was not given.
    #[error("listener `{listener}` ({defined_at}): {missing}")]
    State {
        /// The listener's name.
        listener: &'static str,
        /// Where it is.
        defined_at: &'static str,
        /// What it needs.
        missing: MissingState,
    },
    /// A listener that `.require(…)` names was not linked into this program.
    #[error(
        "required listener `{name}` was not found among {found:?}. A crate that no code names is not linked: \
         write `use its_crate as _;` in your main.rs"
    )]
    MissingListener {
        /// The name that was required.
        name: String,
        /// The names that were found.
        found: Vec<String>,
    },
    /// Two models have the same name but for upper and lower case.
    #[error("two models are called `{0}`; give one of them another name with `#[emits(model = \"…\")]`")]
    SameModelName(&'static str),
    /// The topics of two models lie within each other, so that each would be sent the other's events.
    /// (That of an event that is no row may lie below a model's, where its last level means no operation.)
    #[error(
        "the topics of the models `{0}` and `{1}` lie within each other; give one of them another with `#[emits(topic = \"…\")]`"
    )]
    SameTopic(&'static str, &'static str),
    /// The levels of a model's topic are the framework's own.
    #[error(
        "the topics of the model `{0}` would lie where dead letters or nodes have theirs; give it another with \
         `#[emits(topic = \"…\")]`"
    )]
    OwnTopic(&'static str),
    /// The kind of events has a placeholder that means nothing.
    #[error("event_kind: {0}")]
    Kind(#[from] NoKind),
    /// A model hashes a column, and there is no key.
    #[error(
        "the model `{0}` has a field with `#[emits(hash)]`: give the key with `.hash_key(…)` on the builder, the same on all nodes"
    )]
    NoHashKey(&'static str),
    /// The MQTT settings are wrong.
    #[cfg(feature = "mqtt")]
    #[error(transparent)]
    Mqtt(#[from] MqttConfigError),
    /// `start` was called outside a tokio runtime.
    #[error(
        "an emitter needs a tokio runtime; call `start` within `#[tokio::main]` or `runtime.block_on(…)`"
    )]
    NoRuntime,
    /// A listener has a group, and the transport cannot share messages out.
    #[error("a listener has a group, and this transport knows none: leave `group` out, or use MQTT")]
    NoGroups,
    /// Something that runs with the node could not begin.
    #[error("{name}: {problem}")]
    Companion {
        /// What it is, such as `outbox`.
        name: &'static str,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A listener was added after the shutdown.
    #[error("the emitter is shut down")]
    ShutDown,
}

/// How long a node that could not begin has for its end.
const ABORTING: Duration = Duration::from_secs(5);

impl Default for Builder {
    fn default() -> Self {
        Self {
            service: "app".to_owned(),
            node: None,
            prefix: crate::topic::DEFAULT_PREFIX.to_owned(),
            emit: EmitConfig::all(),
            skipped: Vec::new(),
            hash_key: None,
            max_hops: 8,
            dead_letters: DeadLetterLimits::default(),
            keepers: Vec::new(),
            format: Format::default(),
            kind: None,
            layout: Layout::default().to_string(),
            qos: Vec::new(),
            batches: None,
            signatures: None,
            tap: None,
            states: States::default(),
            reporting: None,
            companions: Vec::new(),
            troubles: Vec::new(),
            backlogs: Vec::new(),
            relayed_elsewhere: false,
            required: Vec::new(),
            select: Box::new(|_| true),
            dedup: DedupConfig::default(),
            wire: WireLimits::default(),
            dispatch: DispatchLimits {
                queue: 65_536,
                concurrency: 64,
                timeout: Duration::from_secs(10),
                retry: Retry::default(),
            },
            publish_queue: 65_536,
            in_progress: 1_024,
            ring: RingLimits::default(),
            link: Link::None,
        }
    }
}

impl Builder {
    /// What the application calls itself, the same on all its nodes. Default `app`.
    pub fn service(mut self, service: impl Into<String>) -> Self {
        self.service = service.into();
        self
    }

    /// This node's name, unique among the nodes of its service and the same after a restart. The
    /// MQTT client id is `{service}.{node}`, unless the MQTT settings give another; two processes
    /// with one client id throw each other off the broker. Default: the host's name and a random
    /// part, new at each start, so that nothing waits at the broker for it; give one in production.
    pub fn node(mut self, node: impl Into<String>) -> Self {
        self.node = Some(node.into());
        self
    }

    /// The first levels of all topics. Default `prisma/events`.
    pub fn topic_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Which level of a topic stands where, the same on all nodes: see [`Layout`]. Default
    /// `{prefix}/{model}/{operation}`; [`Layout::npm`] for nodes that run the npm package.
    pub fn topic_layout(mut self, layout: impl fmt::Display) -> Self {
        self.layout = layout.to_string();
        self
    }

    /// In which form this node's events travel. It understands those of other nodes in every form.
    /// Default [`Format::Specification`].
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// What kind of event it is, in the forms that say so: see [`Kind`](crate::envelope::Kind). Default
    /// `{model}.{operation}` for CloudEvents, `{model}_{past_tense}` for the tracker form.
    pub fn event_kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// How hard is tried to bring events on such topics to other nodes, whatever their model says: by
    /// the last two levels, as in `.qos("plugins/security_violation", QoS::ExactlyOnce)`. What a
    /// call says counts more.
    pub fn qos(mut self, last_levels: impl Into<String>, qos: QoS) -> Self {
        self.qos.push((last_levels.into(), qos));
        self
    }

    /// Sends consecutive events of a model together, which brings several times as many of them through a broker at QoS 1:
    /// see [`Batches`]. Default: each alone.
    pub fn batches(mut self, batches: Batches) -> Self {
        self.batches = Some(batches);
        self
    }

    /// Signs the events that this node sends, and takes only those that a trusted key signed: see
    /// [`Signatures`]. Default: neither.
    pub fn signatures(mut self, signatures: Signatures) -> Self {
        self.signatures = Some(signatures);
        self
    }

    /// How dead letters are kept, and how many. Default: see [`DeadLetterLimits`].
    pub fn dead_letters(mut self, limits: DeadLetterLimits) -> Self {
        self.dead_letters = limits;
        self
    }

    /// Keeps each dead letter: in a table, a file, a ticket. The event is acknowledged to the broker
    /// when this is done. One whose keeper fails or panics is counted (`dead_letters_lost`) and logged. Letters
    /// are handed over in order, those of one key and listener at least. Said twice, both keep them.
    ///
    /// ```
    /// # use emitter_core::Emitter;
    /// let builder = Emitter::builder().keep_dead_letters(|letter| async move {
    ///     std::fs::write(format!("dead/{}.json", letter.id), letter.to_json(usize::MAX))
    /// });
    /// # drop(builder);
    /// ```
    pub fn keep_dead_letters<F, R, E>(mut self, keep: F) -> Self
    where
        F: Fn(Arc<DeadLetter>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        self.keepers.push(Arc::new(move |letter| {
            let keeping = keep(letter);
            Box::pin(async move { keeping.await.map_err(|error| error.to_string()) })
        }));
        self
    }

    /// How many events, each written by a listener of the one before, may follow each other. The
    /// next one is not emitted, but counted (`loops`) and logged: so a circle of listeners that make
    /// each other write comes to an end. Default 8, at most 254.
    pub fn max_hops(mut self, hops: u8) -> Self {
        self.max_hops = hops;
        self
    }

    /// What the application emits, by operation. Default: everything, everywhere. It narrows what
    /// models and calls ask for; it is still `.emit()` that makes a statement emit.
    pub fn emit(mut self, emit: EmitConfig) -> Self {
        self.emit = emit;
        self
    }

    /// Models of which this node emits nothing, whatever they and their calls say: an operator turns a noisy one off, and
    /// back on. By their names, upper and lower case alike; events that are no rows have one, too. Default: none. Said
    /// twice, both count. A name of no model that is linked into the program is an error at start; generic models are known
    /// by their listeners alone.
    ///
    /// Statements with `.emit()` run as if they had none, `.durable()` and `.queued()` ones as well: neither listeners of this
    /// node nor other nodes hear of them, and nothing is written into an outbox. [`publish`](Emitter::publish) returns an id that
    /// nobody hears of. It is for this node, and for what it does from now on: what other nodes emit of the model is heard
    /// as ever, and what an outbox has already is relayed.
    ///
    /// White space around a name counts for nothing, nor does a name that is empty, so that one may come from the environment:
    ///
    /// ```
    /// # use emitter_core::Emitter;
    /// let skipped = std::env::var("SHOP_SKIP_MODELS").unwrap_or_default(); // such as `audit_log, heartbeat`
    /// let builder = Emitter::builder().skip_models(skipped.split(','));
    /// # drop(builder);
    /// ```
    pub fn skip_models(mut self, names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let names = names.into_iter().map(|name| name.as_ref().trim().to_owned());
        self.skipped.extend(names.filter(|name| !name.is_empty()));
        self
    }

    /// The key of columns with `#[emits(hash)]`, the same on all nodes of the application. Without
    /// it, a program with such a column does not start.
    pub fn hash_key(mut self, key: HashKey) -> Self {
        self.hash_key = Some(key);
        self
    }

    /// Something that listeners may take as a `State<T>` parameter, one for each type.
    pub fn state<T: Send + Sync + 'static>(mut self, state: T) -> Self {
        self.states.insert(state);
        self
    }

    /// Adds a part that is made elsewhere, such as an outbox.
    pub fn with(self, extension: impl Extension) -> Self {
        extension.extend(self)
    }

    /// Runs something with the node, such as the relay of an outbox. It begins when the node has begun, and is
    /// ended at a shutdown when listeners are done and before the way to other nodes is closed, all of them at the same time
    /// ([`Companion::after`](super::Companion::after)).
    pub fn companion(mut self, name: &'static str, begin: BeginCompanion) -> Self {
        self.companions.push((name, begin));
        self
    }

    /// Has [`Emitter::health`] ask such a part, too: what is not as it should be, each with what to look at. It is to
    /// answer at once.
    pub fn troubles(mut self, ask: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        self.troubles.push(Box::new(ask));
        self
    }

    /// Has [`Emitter::health`] ask such a part what it has still to publish; `None` while that is not known. It is to answer at
    /// once.
    pub fn backlog(mut self, ask: impl Fn() -> Option<Unpublished> + Send + Sync + 'static) -> Self {
        self.backlogs.push(Box::new(ask));
        self
    }

    /// Tells what is counted.
    pub(crate) fn reporting(mut self, reporting: Reporting) -> Self {
        self.reporting = Some(reporting);
        self
    }

    /// Other nodes publish what this one [writes down](Emitter::record): so it may go to others though this one
    /// has no way to them.
    pub fn relayed_elsewhere(mut self) -> Self {
        self.relayed_elsewhere = true;
        self
    }

    /// Makes it an error at start when no listener of this name was linked into the program.
    pub fn require(mut self, listener: impl Into<String>) -> Self {
        self.required.push(listener.into());
        self
    }

    /// Which of the listeners that `#[listener]` registered run on this node. Default: all.
    pub fn select_listeners(mut self, select: impl Fn(&ListenerInfo) -> bool + Send + 'static) -> Self {
        self.select = Box::new(select);
        self
    }

    /// The window for redelivered events. Default: see [`DedupConfig`].
    pub fn dedup(mut self, dedup: DedupConfig) -> Self {
        self.dedup = dedup;
        self
    }

    /// The largest event in bytes, sent or received. Default 256 KiB.
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.wire.max_bytes = bytes;
        self
    }

    /// The deepest nesting of arrays and objects in a received event. Default 32.
    pub fn max_depth(mut self, levels: usize) -> Self {
        self.wire.max_depth = levels;
        self
    }

    /// How many events may wait for a model's dispatch, and for each of its listeners. What finds
    /// the queue full is counted (`overflowed`) and logged; what is written down in an outbox is handed on from there, some
    /// seconds later. Default 65,536.
    pub fn listener_queue(mut self, events: usize) -> Self {
        self.dispatch.queue = events;
        self
    }

    /// How many calls of one listener may run at a time, each for another key. Default 64.
    pub fn listener_concurrency(mut self, calls: usize) -> Self {
        self.dispatch.concurrency = calls;
        self
    }

    /// How long one call of a listener may take before it counts as failed. Default 10 s: three calls
    /// that all take too long fit into the 30 s of [`listener_retry`](Self::listener_retry).
    pub fn listener_timeout(mut self, timeout: Duration) -> Self {
        self.dispatch.timeout = timeout;
        self
    }

    /// How often a listener is called again when it failed, panicked or took too long, and when.
    /// While it retries, events of the same key wait for it, and it takes one of the places of
    /// [`listener_concurrency`](Self::listener_concurrency). Default: see [`Retry`].
    pub fn listener_retry(mut self, retry: Retry) -> Self {
        self.dispatch.retry = retry;
        self
    }

    /// How many events may wait to be encoded for publishing. Default 65,536. (How many may wait
    /// for the broker is a setting of the transport.)
    pub fn publish_queue(mut self, events: usize) -> Self {
        self.publish_queue = events;
        self
    }

    /// How many events of other nodes listeners may have in progress. Beyond that, nothing more is
    /// taken from the transport. With an event's largest size it bounds the memory that other nodes
    /// can make this one use. Default 1,024.
    pub fn remote_in_progress(mut self, events: usize) -> Self {
        self.in_progress = events;
        self
    }

    /// How many of its last events this node keeps in memory, for nodes that miss some: see [`RingLimits`]. It hears
    /// their questions on a subscription of its own, also where it has no listeners. Default: 1,000, and 8 MiB.
    pub fn ring(mut self, limits: RingLimits) -> Self {
        self.ring = limits;
        self
    }

    /// Reaches other nodes over MQTT: a URL such as `mqtt://localhost:1883`, or an [`MqttConfig`].
    /// Without it, and without [`transport`](Self::transport), events stay on this node.
    #[cfg(feature = "mqtt")]
    pub fn mqtt<C: TryInto<MqttConfig, Error: Into<MqttConfigError>>>(mut self, config: C) -> Self {
        self.link = Link::Mqtt(config.try_into().map(Box::new).map_err(Into::into));
        self
    }

    /// Reaches other nodes over MQTT as the environment says: see [`MqttConfig::from_env`]. Without
    /// `EMITTER_MQTT_URL`, events stay on this node, of which the log warns unless `EMITTER_MQTT_ENABLED` is `false`.
    #[cfg(feature = "mqtt")]
    pub fn mqtt_from_env(self) -> Self {
        match MqttConfig::from_env() {
            Ok(None) => {
                if std::env::var("EMITTER_MQTT_ENABLED").as_deref() != Ok("false") {
                    warn!(
                        "EMITTER_MQTT_URL is not set: no event leaves this node, and none comes. EMITTER_MQTT_ENABLED=false \
                         says that this is meant"
                    );
                }
                Self { link: Link::None, ..self }
            }
            Ok(Some(config)) => self.mqtt(config),
            Err(error) => Self { link: Link::Mqtt(Err(error)), ..self },
        }
    }

    /// Reaches other nodes over another transport.
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.link = Link::Given(Box::new(transport));
        self
    }

    /// Checks the settings, finds the listeners, and starts the node's tasks. A broker that is
    /// away is no error: local events work, others are kept and sent when it comes.
    ///
    /// # Errors
    /// [`StartError`], which names the setting or the listener and what to do.
    pub async fn start(self) -> Result<Emitter, StartError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        // Tokio tells in no other way whether a runtime has timers.
        std::panic::catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO)))
            .map_err(|_| StartError::NoRuntime)?;
        self.check()?;
        let incarnation = Uuid::now_v7();
        let node = self.node.clone().unwrap_or_else(|| generated_node(&incarnation));
        let kind = self.kind.as_deref().unwrap_or(self.format.default_kind()).parse()?;
        let topics = Topics::new(TopicPrefix::new(&self.prefix)?, self.layout.parse()?);
        if let Some(batches) = &self.batches {
            self.check_batches(batches, topics.layout())?;
        }
        check_models(&topics)?;
        let handlers = self.handlers()?;
        self.check_skipped(&handlers)?;
        let home = self.states.home();
        #[cfg(feature = "mqtt")]
        let mut announced = None;
        let transport: Option<Arc<dyn Transport>> = match self.link {
            Link::None => None,
            Link::Given(transport) => Some(Arc::from(transport)),
            #[cfg(feature = "mqtt")]
            Link::Mqtt(config) => {
                // Two services on one broker may well have a node of the same name.
                let client_id = ClientId::new(&format!("{}.{node}", self.service))?;
                let mut config = config?;
                config.prepare()?;
                let said = Announced::new(&self.service, &node, incarnation);
                config.set_presence(said.presence(&topics));
                announced = Some(said);
                Some(Arc::new(MqttTransport::start(*config, client_id)))
            }
        };
        let origin = Arc::new(Origin { service: self.service.into(), node: node.into(), incarnation });
        let counters = Arc::new(Counters::default());
        let (dead_letters, undertaker) =
            DeadLetters::new(Arc::clone(&origin), self.dead_letters, Arc::clone(&counters));
        let graveyard = Graveyard {
            transport: transport.clone().filter(|_| self.dead_letters.publish),
            keepers: self.keepers,
            topics: topics.clone(),
            max_bytes: self.wire.max_bytes,
            counters: Arc::clone(&counters),
            log: OnceInAWhile::every(Duration::from_secs(10)),
            silent: AtomicBool::new(false),
        };
        let catching_up = Arc::new(CatchingUp::new(&topics, &origin, self.ring));
        let shared = Arc::new(Shared {
            origin,
            catching_up,
            nodes: Nodes::new(&topics),
            emit: self.emit,
            skipped: self.skipped,
            limits: self.dispatch,
            topics,
            wire: self.wire,
            dedup: self.dedup,
            in_progress: self.in_progress,
            hash_key: self.hash_key,
            max_hops: self.max_hops,
            format: self.format,
            kind,
            batches: self.batches,
            signatures: self.signatures,
            qos: self.qos.into_iter().collect(),
            models: RwLock::default(),
            transport,
            #[cfg(feature = "mqtt")]
            announced,
            groups: Mutex::default(),
            to_publish: Queue::new(self.publish_queue),
            unwritten: OnceCell::new(),
            ledger: OnceCell::new(),
            counters: Arc::clone(&counters),
            calls: Mutex::default(),
            reporting: self.reporting,
            dead_letters: Arc::new(dead_letters),
            overflows: OnceInAWhile::every(Duration::from_secs(10)),
            transient: self.node.is_none(),
            tap: self.tap,
            troubles: self.troubles,
            backlogs: self.backlogs,
            next_listener: AtomicU64::new(1),
            states: self.states,
            relayed_elsewhere: self.relayed_elsewhere,
            runtime,
        });
        let burying = Some(tokio::spawn(undertaker.run(graveyard)));
        let mut tasks = Tasks { burying, ..Tasks::default() };
        if shared.transport.is_some() {
            tasks.publishing = Some(tokio::spawn(Publishing::new(Arc::clone(&shared), self.wire).run()));
        }
        let node = Arc::new(Node { shared, tasks: Mutex::new(tasks) });
        home.settle(WeakEmitter(Arc::downgrade(&node)));
        for (info, handler) in handlers {
            node.add_listener(info, handler)?;
        }
        let emitter = Emitter { node };
        emitter.announce();
        for (name, begin) in self.companions {
            match begin(emitter.downgrade()).await {
                Ok(begun) => emitter.node.tasks().companions.push((name, begun)),
                Err(problem) => {
                    // Nothing was done yet that could be left undone.
                    let _ = emitter.shutdown(ABORTING).await;
                    return Err(StartError::Companion { name, problem });
                }
            }
        }
        // Not before all listeners are there, for a session may hold messages for each of their models; nor before
        // the companions, which may know what came in an earlier life.
        emitter.node.tasks().receiving = true;
        emitter.node.receive();
        report(&emitter);
        Ok(emitter)
    }

    /// Shows `tap` everything that is emitted.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn tap(mut self, tap: Tap) -> Self {
        self.tap = Some(tap);
        self
    }

    /// What the node is called at a broker: its service and its name.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn client(&self) -> String {
        format!("{}.{}", self.service, self.node.as_deref().unwrap_or_default())
    }

    fn check(&self) -> Result<(), StartError> {
        let positive = [
            ("max_payload", self.wire.max_bytes),
            ("max_depth", self.wire.max_depth),
            ("listener_queue", self.dispatch.queue),
            ("listener_concurrency", self.dispatch.concurrency),
            ("listener_retry.attempts", self.dispatch.retry.attempts as usize),
            ("publish_queue", self.publish_queue),
            ("remote_in_progress", self.in_progress),
            ("dedup.max_ids", self.dedup.max_ids),
        ];
        for (setting, value) in positive {
            if NonZeroUsize::new(value).is_none() {
                return Err(StartError::Setting {
                    setting,
                    problem: "0 is not allowed; use 1 or more".to_owned(),
                });
            }
        }
        let times = [
            ("listener_timeout", self.dispatch.timeout, "a call needs some time"),
            ("dedup.max_age", self.dedup.max_age, "redelivered events would be heard twice"),
            (
                "dedup.max_age_without_origin",
                self.dedup.max_age_without_origin,
                "redelivered events would be heard twice",
            ),
        ];
        for (setting, time, why) in times {
            if time.is_zero() {
                let problem = format!("0 s is not allowed; {why}");
                return Err(StartError::Setting { setting, problem });
            }
        }
        #[cfg(feature = "mqtt")]
        if let Link::Mqtt(Ok(config)) = &self.link {
            let largest = config.largest_message();
            if largest < self.wire.max_bytes {
                let problem = format!(
                    "{} bytes do not fit into the MQTT packets of at most {largest}; raise `max_packet` there, or lower this",
                    self.wire.max_bytes
                );
                return Err(StartError::Setting { setting: "max_payload", problem });
            }
            if self.format == Format::CloudEventsBinary && !config.carries_properties() {
                let problem =
                    "MQTT 3.1.1 cannot carry CloudEvents in binary mode; use Format::CloudEvents".to_owned();
                return Err(StartError::Setting { setting: "format", problem });
            }
        }
        if self.signatures.as_ref().is_some_and(Signatures::trusts_nobody) {
            let problem =
                "no key is trusted, so that every event would be refused; add one with `.trusting(…)`";
            return Err(StartError::Setting { setting: "signatures", problem: problem.to_owned() });
        }
        let unhashed = RegisteredModel::all().find(|model| model.hashes && self.hash_key.is_none());
        if let Some(model) = unhashed {
            return Err(StartError::NoHashKey(model.name));
        }
        if self.max_hops == u8::MAX {
            let problem =
                "255 hops are counted no further, so that no circle would end; use 254 or less".to_owned();
            return Err(StartError::Setting { setting: "max_hops", problem });
        }
        if let Some((levels, _)) = self.qos.iter().find(|(levels, _)| levels.split('/').count() != 2) {
            let problem =
                format!("{levels:?} is not the last two levels of a topic; write it as in \"user/create\"");
            return Err(StartError::Setting { setting: "qos", problem });
        }
        check_name("service", &self.service)?;
        self.node.as_deref().map_or(Ok(()), |node| check_name("node", node))
    }

    /// A name that means nothing would let through what it was to turn off.
    fn check_skipped(&self, handlers: &[(ListenerInfo, Handler)]) -> Result<(), StartError> {
        let heard = handlers.iter().map(|(info, _)| info.model);
        let known: BTreeSet<&str> = RegisteredModel::all().map(|model| model.name).chain(heard).collect();
        let is_known = |name: &str| known.iter().any(|known| known.eq_ignore_ascii_case(name));
        let Some(name) = self.skipped.iter().find(|name| !is_known(name)) else { return Ok(()) };
        let problem = format!(
            "the model {name:?} was not found among {known:?}. A crate that no code names is not linked: write \
             `use its_crate as _;` in your main.rs"
        );
        Err(StartError::Setting { setting: "skip_models", problem })
    }

    fn check_batches(&self, batches: &Batches, layout: &Layout) -> Result<(), StartError> {
        let Batches { max_events, max_bytes, max_delay } = *batches;
        let wrong = |problem: String| Err(StartError::Setting { setting: "batches", problem });
        if self.format == Format::CloudEventsBinary {
            return wrong(
                "CloudEvents in binary mode have properties each, so that none travel together; use Format::CloudEvents"
                    .to_owned(),
            );
        }
        if !layout.tells_operations() {
            return wrong(
                "the topic layout has no level for `batch`, so that batches would reach programs that know none, such as \
                 the npm package; use one with {operation} or {past_tense}"
                    .to_owned(),
            );
        }
        if !(2..=batch::MOST).contains(&max_events) {
            return wrong(format!("max_events: {max_events} is not allowed; use 2 to {}", batch::MOST));
        }
        if max_bytes == 0 || max_bytes > self.wire.max_bytes {
            let most = self.wire.max_bytes;
            return wrong(format!(
                "max_bytes: {max_bytes} is not allowed; use 1 to `max_payload`, which is {most}"
            ));
        }
        if max_delay > MAX_BATCH_DELAY {
            return wrong(format!(
                "max_delay: {max_delay:?} is not allowed; use {MAX_BATCH_DELAY:?} or less"
            ));
        }
        Ok(())
    }

    /// The registered listeners that run here, with their states.
    fn handlers(&self) -> Result<Vec<(ListenerInfo, Handler)>, StartError> {
        let mut handlers = Vec::new();
        for registration in Registration::all() {
            if !(self.select)(&registration.info()) {
                continue;
            }
            let handler = (registration.prepare)(&self.states).map_err(|missing| StartError::State {
                listener: registration.name,
                defined_at: registration.defined_at,
                missing,
            })?;
            handlers.push((registration.info(), handler));
        }
        // The order of registration depends on the linker.
        handlers.sort_by(|(a, _), (b, _)| {
            (a.model, &a.name, &a.defined_at).cmp(&(b.model, &b.name, &b.defined_at))
        });
        let found = || handlers.iter().map(|(info, _)| info.name.to_string());
        if let Some(name) = self.required.iter().find(|name| !found().any(|found| found == **name)) {
            return Err(StartError::MissingListener { name: name.clone(), found: found().collect() });
        }
        let mut models = HashMap::new();
        for (info, handler) in &handlers {
            handler.model().topic()?;
            let model = handler.model().type_id;
            if *models.entry(info.model.to_ascii_lowercase()).or_insert(model) != model {
                return Err(StartError::SameModelName(info.model));
            }
        }
        Ok(handlers)
    }
}

/// Longer than this, somebody meant something else.
const MAX_BATCH_DELAY: Duration = Duration::from_secs(60);

/// Topics of models that are only written would else be refused at their first event. Whether two of them
/// lie within each other is not asked before both are used: a program may link more models than it uses.
fn check_models(topics: &Topics) -> Result<(), StartError> {
    for model in RegisteredModel::all() {
        if topics.is_own(&ModelTopic::of(model.topic, model.event.is_some())?) {
            return Err(StartError::OwnTopic(model.name));
        }
    }
    Ok(())
}

/// What runs where, for the log of a start.
fn report(emitter: &Emitter) {
    let listeners = emitter.listeners();
    info!(node = %emitter.origin(), listeners = listeners.len(), transport = emitter.transport_status().is_some(), "started");
    for ListenerInfo { name, model, operation, hears, group, defined_at } in &listeners {
        let operation = operation.map_or("all", |operation| operation.as_str());
        info!(%name, model, operation, ?hears, group = group.as_deref(), %defined_at, "listener");
    }
    let skipped = &emitter.node.shared.skipped;
    if !skipped.is_empty() {
        info!(models = ?skipped, "nothing is emitted of the models that `skip_models` names");
    }
    let remote = listeners.iter().any(|listener| listener.hears.remote());
    if remote && emitter.node.shared.transport.is_none() {
        warn!("there are listeners for other nodes' events, and no transport: give `.mqtt(\"mqtt://…\")`");
    }
}

/// `host-1a2b3c4d`.
fn generated_node(incarnation: &Uuid) -> String {
    let host = gethostname::gethostname();
    let host: String =
        host.to_string_lossy().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
    let random = incarnation.as_u128() & 0xffff_ffff;
    format!("{host}-{random:08x}")
}

pub(super) fn check_name(setting: &'static str, name: &str) -> Result<(), StartError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 128 || !name.chars().all(allowed) {
        let problem = format!("{name:?} is not allowed; use 1 to 128 letters, digits, '-', '_', '.'");
        return Err(StartError::Setting { setting, problem });
    }
    Ok(())
}

/// So that `.mqtt("mqtt://localhost:1883")` can be written.
#[cfg(feature = "mqtt")]
impl TryFrom<&str> for MqttConfig {
    type Error = MqttConfigError;

    fn try_from(url: &str) -> Result<Self, MqttConfigError> {
        Self::new(url)
    }
}

#[cfg(feature = "mqtt")]
impl TryFrom<&String> for MqttConfig {
    type Error = MqttConfigError;

    fn try_from(url: &String) -> Result<Self, MqttConfigError> {
        Self::new(url)
    }
}

#[cfg(feature = "mqtt")]
impl TryFrom<String> for MqttConfig {
    type Error = MqttConfigError;

    fn try_from(url: String) -> Result<Self, MqttConfigError> {
        Self::new(&url)
    }
}

#[cfg(feature = "mqtt")]
impl From<std::convert::Infallible> for MqttConfigError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}
