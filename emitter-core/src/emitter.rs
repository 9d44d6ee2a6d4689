//! The running node that an application holds: it knows the dispatcher and the transport, which do
//! not know each other.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::BuildHasherDefault;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use once_cell::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, warn};

use crate::ack::Ack;
use crate::batch::Batches;
use crate::cause::noted;
use crate::dead_letter::{DeadLetter, Original, Reason};
use crate::dedup::DedupConfig;
use crate::dispatcher::lanes::AlreadyHashed;
use crate::dispatcher::{
    Account, Bury, Completion, DispatchLimits, Entry, GivenUp, Job, Keeper, Listener, Message, Selection,
    Worker,
};
use crate::emit::{EmitConfig, EmitOptions, QoS, Scope};
use crate::envelope::{Format, Kind, WireLimits};
use crate::event::{EventId, Operation, Origin, Source};
use crate::listener::{Handler, ListenerInfo, State, States};
use crate::masked::HashKey;
use crate::metrics::{Counters, OnceInAWhile, Stats};
use crate::model::{EventBody, Model, ModelEvent};
use crate::model_info::{AnyEvent, ModelInfo};
use crate::queue::{Queue, Refused};
use crate::receipt::{Asked, Loss, Way};
use crate::signature::Signatures;
use crate::topic::{ModelTopic, Said, Topics};
use crate::transport::{Transport, TransportStatus};

mod builder;
mod burying;
mod bus;
mod catching_up;
mod emission;
mod gathering;
mod health;
mod intake;
mod net;
mod on;
mod outbound;
mod parcel;
mod publishing;
mod queueing;
mod recording;
mod redrive;
mod replay;
mod shutdown;
mod telling;

use builder::check_name;
pub use builder::{BeginCompanion, Builder, EndCompanion, Extension, StartError};
use burying::{DeadLetters, Held};
pub use bus::{Bus, Passing, Sighting};
use catching_up::CatchingUp;
pub use emission::{Emission, Published, Route};
pub use health::{Health, HealthStatus};
use intake::Intake;
use on::On;
pub use on::Subscription;
use outbound::Outbound;
use queueing::Unwritten;
pub use queueing::{QueueKeeper, QueueStatus, Queued};
pub use redrive::RedriveError;
pub use replay::ReplayError;
pub use shutdown::ShutdownReport;
use shutdown::{Ending, after};

/// A node: dispatches its own changes to its listeners, publishes them to other nodes, and hands
/// other nodes' changes to its listeners.
///
/// Cloning it clones a pointer. [`shutdown`](Self::shutdown) ends it in good order; when the last
/// clone is dropped without it, its tasks are stopped where they are.
///
/// ```
/// # use emitter_core::Emitter;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let emitter = Emitter::builder().service("shop").start().await?;
/// assert!(emitter.shutdown(std::time::Duration::from_secs(1)).await.is_clean());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Emitter {
    node: Arc<Node>,
}

/// An emitter that does not keep its node alive.
#[derive(Clone)]
pub struct WeakEmitter(std::sync::Weak<Node>);

impl fmt::Debug for WeakEmitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakEmitter")
    }
}

impl WeakEmitter {
    /// The emitter, while its node is there.
    #[must_use]
    pub fn upgrade(&self) -> Option<Emitter> {
        self.0.upgrade().map(|node| Emitter { node })
    }
}

/// The node and the tasks that work for it.
struct Node {
    shared: Arc<Shared>,
    tasks: Mutex<Tasks>,
}

/// What the tasks need too.
struct Shared {
    origin: Arc<Origin>,
    emit: EmitConfig,
    limits: DispatchLimits,
    topics: Topics,
    wire: WireLimits,
    dedup: DedupConfig,
    /// How many events of other nodes may be in progress.
    in_progress: usize,
    hash_key: Option<HashKey>,
    /// How many events may cause each other.
    max_hops: u8,
    format: Format,
    kind: Kind,
    batches: Option<Batches>,
    signatures: Option<Signatures>,
    /// By the last two levels of topics.
    qos: HashMap<String, QoS>,
    models: RwLock<Models>,
    transport: Option<Arc<dyn Transport>>,
    /// The connections of groups, by their names.
    groups: Mutex<BTreeMap<Arc<str>, Arc<dyn Transport>>>,
    to_publish: Queue<Outbound>,
    /// Filled by who writes down what is queued, if anybody does.
    unwritten: OnceCell<Unwritten>,
    /// Filled by who keeps account of what listeners do with what is written down, if anybody does.
    ledger: OnceCell<Keeper>,
    catching_up: Arc<CatchingUp>,
    counters: Arc<Counters>,
    dead_letters: Arc<DeadLetters>,
    overflows: OnceInAWhile,
    /// Its name is made up, and nobody will have it again.
    transient: bool,
    /// What this node writes down, others publish.
    relayed_elsewhere: bool,
    /// Sees everything that is emitted, in tests.
    tap: Option<Tap>,
    /// Asked how the parts stand that the builder was given.
    troubles: Vec<Troubles>,
    next_listener: AtomicU64,
    states: States,
    /// Where the tasks run. Listeners may be added from threads that know no runtime.
    runtime: tokio::runtime::Handle,
}

/// Tells what is wrong with a part.
type Troubles = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// Is shown what is emitted, and where it may go.
pub(crate) type Tap = Box<dyn Fn(&Arc<dyn AnyEvent>, Scope) + Send + Sync>;

#[derive(Default)]
struct Tasks {
    /// One worker for each model that has or had listeners.
    workers: JoinSet<()>,
    publishing: Option<tokio::task::JoinHandle<()>>,
    burying: Option<tokio::task::JoinHandle<()>>,
    /// What ends each of the companions.
    companions: Vec<EndCompanion>,
    /// By group; `None` is what comes for every node.
    intakes: HashMap<Option<Arc<str>>, tokio::task::JoinHandle<()>>,
    /// All listeners of the start are there: what waits at the broker may come.
    receiving: bool,
    /// Present from the first call of `shutdown` on: its outcome.
    ending: Option<Ending>,
}

/// The models that this node has met, by type and by lower-cased name.
#[derive(Default)]
struct Models {
    by_type: HashMap<std::any::TypeId, Arc<ModelState>, BuildHasherDefault<AlreadyHashed>>,
    by_name: HashMap<String, Arc<ModelState>>,
    /// With whether it is an event that is no row, for such a one may have a model's levels.
    by_topic: HashMap<(bool, String), Arc<ModelState>>,
}

/// A model at this node.
struct ModelState {
    info: &'static ModelInfo,
    topic: ModelTopic,
    /// Of this node; its events carry it.
    origin: Arc<Origin>,
    /// The application's, for models that hash columns.
    hash_key: Option<HashKey>,
    queue: Arc<Queue<Message>>,
    listeners: Mutex<Vec<Arc<Listener>>>,
    /// How many of them hear local events; read for every emitted event.
    local_listeners: AtomicUsize,
    /// How many belong to a group: they get what is published from the broker.
    members: AtomicUsize,
    /// How many want the row as it was before an update.
    before: AtomicUsize,
    /// Filled when its task runs, which is from its first listener on.
    worker: OnceCell<()>,
}

impl Emitter {
    /// A builder with the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Who this node is.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.node.shared.origin
    }

    /// Whether the node was given its name, and has it in its next life: see [`Builder::node`].
    #[must_use]
    pub fn is_named(&self) -> bool {
        !self.node.shared.transient
    }

    /// Where events of this model and operation go now, if a call asks for that: narrowed by
    /// the application and the model, and to nobody where nobody listens. `None` when they go
    /// nowhere, so that none needs to be made.
    #[must_use]
    pub fn route<M: Model>(&self, operation: Operation, asked: impl Into<EmitOptions>) -> Option<Route<M>> {
        let shared = &self.node.shared;
        let EmitOptions { scope, qos, notes, receipt } = asked.into();
        // What the application emits by operation says nothing of events that have none.
        let of_application = if M::EVENT.is_some() { Scope::BOTH } else { shared.emit.scope(operation) };
        let allowed = scope.and(M::SCOPE).and(of_application);
        if allowed.is_none() {
            return None;
        }
        let state = match shared.model(ModelInfo::of::<M>()) {
            Ok(state) => state,
            Err(problem) => {
                shared.overflows.log(|more| error!(more, "events are not emitted: {problem}"));
                return None;
            }
        };
        let remote = allowed.remote && (shared.transport.is_some() || shared.relayed_elsewhere);
        let scope = Scope { local: allowed.local && state.hears_local(remote), remote };
        (!scope.is_none() || shared.tap.is_some()).then_some(Route {
            state,
            scope,
            allowed,
            qos,
            notes,
            receipt,
            persistence: M::PERSISTENCE,
            model: std::marker::PhantomData,
        })
    }

    /// Makes an event of something that this node did. It goes nowhere until
    /// [`emit`](Self::emit); `None` when it would go nowhere then, either.
    #[must_use]
    pub fn event<M: Model>(&self, event: M::Event, asked: impl Into<EmitOptions>) -> Option<Emission> {
        let route = self.route::<M>(event.body().operation(), asked)?;
        Some(route.event(event))
    }

    /// Emits something that this node did, here and to other nodes as far as the application and
    /// the model allow: what `.emit()` does for a statement, for services without a database, and for
    /// events that are no rows. It has an id though nobody may hear it.
    ///
    /// ```
    /// # use emitter_core::{Emits, Emitter};
    /// # use emitter_core::model::Created;
    /// # #[derive(Clone, serde::Serialize, serde::Deserialize, Emits)]
    /// # #[emits(create)]
    /// # struct Order { id: i64 }
    /// # #[derive(Clone, serde::Serialize, serde::Deserialize, Emits)]
    /// # #[emits(event, topic = "auth/login_failed")]
    /// # struct LoginFailed { username: String }
    /// # fn placed(emitter: &Emitter) {
    /// emitter.publish(OrderCreated::new(Order { id: 1 }));
    /// let published = emitter.publish(LoginFailed { username: "alice".to_owned() });
    /// println!("{} in trace {}", published.id, published.trace_id);
    /// # }
    /// ```
    pub fn publish<T: EventBody>(&self, event: T) -> Published {
        self.publish_with(event, EmitOptions::default())
    }

    /// The same, narrowed, with another quality of service, in a trace, with an idempotency key or
    /// metadata.
    pub fn publish_with<T: EventBody>(&self, event: T, options: impl Into<EmitOptions>) -> Published {
        let options = options.into();
        let notes = options.notes.clone();
        let Some(emission) = self.event::<T::Model>(event.into_event(), options) else {
            return Published::new(EventId::now(), noted(notes).and_then(|notes| notes.trace));
        };
        let published = Published::new(emission.id(), emission.event.meta().trace());
        self.emit([emission]);
        published
    }

    /// Sends events on their way, in order: to dispatch and to publishing, neither of which waits
    /// for the other. It does not wait either, and it cannot fail what the caller did before:
    /// what finds a queue at its bound is counted and logged.
    pub fn emit(&self, emissions: impl IntoIterator<Item = Emission>) {
        for emission in emissions {
            self.node.shared.emit(emission);
        }
    }

    /// A listener at run time, as `#[listener]` is one at compile time.
    ///
    /// The listener stays until [`Subscription::unsubscribe`], not longer than the emitter.
    #[must_use = "nothing listens until `.run(…)`"]
    pub fn on<T: EventBody>(&self) -> On<'_, T> {
        On::new(self)
    }

    /// The listeners that are registered now.
    #[must_use]
    pub fn listeners(&self) -> Vec<ListenerInfo> {
        let models = self.node.shared.models.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<ListenerInfo> = models
            .by_type
            .values()
            .flat_map(|model| {
                model.listeners().iter().map(|listener| listener.info.clone()).collect::<Vec<_>>()
            })
            .collect();
        all.sort_by(|a, b| (a.model, &a.name).cmp(&(b.model, &b.name)));
        all
    }

    /// The state of this type that the application gave, if it did: see [`Builder::state`].
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(&self) -> Option<State<T>> {
        self.node.shared.states.get().ok()
    }

    /// A pointer that does not keep the node alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakEmitter {
        WeakEmitter(Arc::downgrade(&self.node))
    }

    /// What was counted since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.node.shared.counters.snapshot()
    }

    /// How the transport stands; `None` without one.
    #[must_use]
    pub fn transport_status(&self) -> Option<TransportStatus> {
        self.node.shared.transport.as_ref().map(|transport| transport.status())
    }

    /// How long after a disconnection other nodes' events still wait for this one at the broker, where it is this
    /// node that says so.
    #[must_use]
    pub fn session_expiry(&self) -> Option<Duration> {
        self.node.shared.transport.as_ref()?.session_expiry()
    }

    /// Waits until both connections stand and every subscription is confirmed, at most `within`.
    /// Nothing needs this but tests and demonstrations: events are kept until the broker comes.
    /// Without a transport there is nothing to wait for.
    ///
    /// # Errors
    /// [`NotConnected`] tells how the transport stands after `within`.
    pub async fn connected(&self, within: Duration) -> Result<(), NotConnected> {
        let Some(transport) = &self.node.shared.transport else { return Ok(()) };
        let deadline = after(within);
        loop {
            let status = transport.status();
            let shared = &self.node.shared;
            let subscribed = |status: &TransportStatus, group: Option<&str>| {
                let own = if group.is_none() { shared.catching_up.subscriptions() } else { 0 };
                let wanted = shared.subscribed_models(group) + own;
                status.subscriptions >= wanted && (wanted == 0 || status.subscriber.connected)
            };
            let groups = shared.groups().clone();
            let shared_out = groups.iter().all(|(group, way)| subscribed(&way.status(), Some(group)));
            if status.publisher.connected && subscribed(&status, None) && shared_out {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(NotConnected { within, status: Box::new(status) });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[cfg(any(test, feature = "testing"))]
impl Emitter {
    pub(crate) fn topics(&self) -> &Topics {
        &self.node.shared.topics
    }

    pub(crate) fn format(&self) -> Format {
        self.node.shared.format
    }

    pub(crate) fn kind(&self, model: &ModelInfo, operation: Operation) -> String {
        self.node.shared.kind_of(model, operation)
    }

    pub(crate) fn signatures(&self) -> Option<&Signatures> {
        self.node.shared.signatures.as_ref()
    }

    pub(crate) fn wire_limits(&self) -> WireLimits {
        self.node.shared.wire
    }

    /// The groups that have a connection of their own.
    pub(crate) fn groups(&self) -> Vec<Arc<str>> {
        self.node.shared.groups().keys().cloned().collect()
    }

    /// Events that listeners or publishing have not finished.
    pub(crate) fn unfinished(&self) -> usize {
        let shared = &self.node.shared;
        let listeners: usize = shared.all_models().iter().map(|model| model.queue.unfinished()).sum();
        listeners + shared.to_publish.unfinished()
    }
}

impl fmt::Debug for Emitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emitter").field("origin", self.origin()).finish_non_exhaustive()
    }
}

/// The connections did not stand in time.
#[derive(Debug, thiserror::Error)]
#[error("not connected to the broker within {within:?}: {status:?}")]
pub struct NotConnected {
    /// How long was waited.
    pub within: Duration,
    /// How the transport stands.
    pub status: Box<TransportStatus>,
}

impl Node {
    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a listener, with its model's task and subscription where they are not there yet.
    fn add_listener(
        &self,
        info: ListenerInfo,
        handler: Handler,
    ) -> Result<(Arc<ModelState>, u64), StartError> {
        let shared = &self.shared;
        if self.tasks().ending.is_some() {
            return Err(StartError::ShutDown);
        }
        let model = shared.model(handler.model())?;
        model.worker.get_or_try_init(|| {
            let mut tasks = self.tasks();
            if tasks.ending.is_some() {
                return Err(StartError::ShutDown);
            }
            let (queue, counters) = (Arc::clone(&model.queue), Arc::clone(&shared.counters));
            let burying = Arc::downgrade(shared);
            let bury: Bury = Arc::new(move |given_up| {
                if let Some(shared) = burying.upgrade() {
                    shared.bury(given_up);
                }
            });
            let worker = Worker::new(queue, shared.limits, counters, bury);
            tasks.workers.spawn_on(worker.run(), &shared.runtime);
            Ok(())
        })?;
        let id = shared.next_listener.fetch_add(1, Ordering::Relaxed);
        let listener = Arc::new(Listener::new(id, info, handler));
        shared.insert_listener(&model, listener)?;
        self.receive();
        Ok((model, id))
    }

    /// Takes in what comes, over each way that there is by now.
    fn receive(&self) {
        let Some(transport) = &self.shared.transport else { return };
        let mut tasks = self.tasks();
        if !tasks.receiving || tasks.ending.is_some() {
            return;
        }
        let groups = self.shared.groups().clone();
        let ways = groups.into_iter().map(|(group, way)| (Some(group), way));
        for (group, way) in ways.chain([(None, Arc::clone(transport))]) {
            tasks.intakes.entry(group).or_insert_with_key(|group| {
                let intake = Intake::new(Arc::clone(&self.shared), way, group.clone());
                self.shared.runtime.spawn(intake.run())
            });
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        for task in tasks.intakes.values().chain(&tasks.publishing).chain(&tasks.burying) {
            task.abort();
        }
        if tasks.ending.is_none() {
            warn!(node = %self.shared.origin, "dropped without `shutdown`: its tasks were stopped where they were");
        }
    }
}

const NO_OUTBOX: &str =
    "events are to be queued, and their emitter has no outbox: they wait in memory for the broker";

const LOOP: &str = "events were not emitted: listeners write what makes listeners write, in a circle. Let the \
                    listener ignore what it wrote itself, or raise `max_hops`";

impl Shared {
    /// The state of a model, made when it is met for the first time.
    fn model(&self, info: &'static ModelInfo) -> Result<Arc<ModelState>, StartError> {
        let known = |models: &Models| models.by_type.get(&info.type_id).cloned();
        if let Some(model) = known(&self.models.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(model);
        }
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = known(&models) {
            return Ok(model);
        }
        let topic = info.topic()?;
        if self.topics.is_own(&topic) {
            return Err(StartError::OwnTopic(info.name));
        }
        let folded = info.name.to_ascii_lowercase();
        if models.by_name.contains_key(&folded) {
            return Err(StartError::SameModelName(info.name));
        }
        if let Some(other) = models.by_type.values().find(|other| self.topics.clash(&other.topic, &topic)) {
            return Err(StartError::SameTopic(info.name, other.info.name));
        }
        let model = Arc::new(ModelState {
            info,
            topic,
            origin: Arc::clone(&self.origin),
            hash_key: self.hash_key.clone(),
            queue: Arc::new(Queue::new(self.limits.queue)),
            listeners: Mutex::default(),
            local_listeners: AtomicUsize::new(0),
            members: AtomicUsize::new(0),
            before: AtomicUsize::new(0),
            worker: OnceCell::new(),
        });
        models.by_type.insert(info.type_id, Arc::clone(&model));
        models.by_name.insert(folded, Arc::clone(&model));
        let levels = model.topic.as_str().to_ascii_lowercase();
        models.by_topic.insert((model.topic.is_event(), levels), Arc::clone(&model));
        Ok(model)
    }

    /// The model with this name on the wire.
    fn model_named(&self, name: &str) -> Option<Arc<ModelState>> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        models.by_name.get(&name.to_ascii_lowercase()).cloned()
    }

    /// Whose topic it is, and what it tells of the operation. Events are looked for first: one may lie below
    /// a model, and no topic of a model is that of an event.
    fn model_on<'t>(&self, topic: &'t str) -> Option<(Arc<ModelState>, Said<'t>)> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let at = |event, levels: &str| models.by_topic.get(&(event, levels.to_ascii_lowercase())).cloned();
        let event = self.topics.read_event(topic).and_then(|levels| at(true, levels));
        event.map(|event| (event, Said::This(Operation::Create))).or_else(|| {
            let (levels, said) = self.topics.read(topic)?;
            Some((at(false, levels)?, said))
        })
    }

    /// The kind of a model's events, for the forms that tell it.
    fn kind_of(&self, info: &ModelInfo, operation: Operation) -> String {
        let service = &self.origin.service;
        match info.event {
            Some(kind) => self.kind.of_event(service, kind),
            None => self.kind.of(service, info.name, operation),
        }
    }

    fn all_models(&self) -> Vec<Arc<ModelState>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).by_type.values().cloned().collect()
    }

    /// How many models have listeners for other nodes' events, in this group or in none.
    fn subscribed_models(&self, group: Option<&str>) -> usize {
        self.all_models().iter().filter(|model| model.is_subscribed(group)).count()
    }

    /// Whether a listener of this group, or of none, brings what comes on this topic.
    fn is_subscribed(&self, topic: &str, group: Option<&str>) -> bool {
        let brings = |model: &Arc<ModelState>| {
            model.is_subscribed(group) && self.topics.model_filter(&model.topic).matches(topic)
        };
        self.all_models().iter().any(brings)
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<dyn Transport>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way by which a listener of this group, or of none, hears other nodes; `None` without a
    /// transport.
    fn way(&self, group: Option<&str>) -> Result<Option<Arc<dyn Transport>>, StartError> {
        let (Some(transport), Some(group)) = (&self.transport, group) else {
            return Ok(self.transport.clone());
        };
        let mut groups = self.groups();
        if let Some(known) = groups.get(group) {
            return Ok(Some(Arc::clone(known)));
        }
        check_name("group", group)?;
        // A service's groups are its own. No name has a colon.
        let share = format!("{}:{group}", self.origin.service);
        // Its tasks run there, also when a thread that knows no runtime adds the listener.
        let _within = self.runtime.enter();
        let way = transport.group(&share, group).ok_or(StartError::NoGroups)?;
        groups.insert(group.into(), Arc::clone(&way));
        Ok(Some(way))
    }

    fn emit(&self, emission: Emission) {
        if emission.is_queued() {
            match self.unwritten.get() {
                Some(unwritten) => return self.emit_queued(unwritten, emission),
                None => self.overflows.log(|more| error!(more, "{NO_OUTBOX}")),
            }
        }
        let Emission { event, model, mut scope, allowed, qos, mut ticket, .. } = emission;
        // Others relay what is written down, and nothing else.
        scope.remote &= self.transport.is_some();
        let asked = ticket.as_mut().map(|ticket| ticket.emitted(scope.remote, false));
        if !self.admits(&*event) {
            return told_of_loop(scope, asked);
        }
        if let Some(tap) = &self.tap {
            tap(&event, allowed);
        }
        let mut published = scope.remote;
        if scope.remote {
            self.counters.emitted_remote.add_one();
            let outbound = Outbound::Event { event: Arc::clone(&event), qos, ticket };
            if let Err((reason, outbound)) = self.to_publish.offer(outbound) {
                published = false;
                if let Some(asked) = &asked {
                    asked.remote(Way::Lost(reason.into()));
                }
                // Not before: its ticket would tell of a shutdown.
                drop(outbound);
                self.counters.publish_refused.add_one();
                self.overflows.log(|more| match reason {
                    Refused::Full => {
                        error!(more, "the queue for publishing is full: events are lost to other nodes");
                    }
                    Refused::Closed => {
                        warn!(more, "an event came after the shutdown: it is lost to other nodes");
                    }
                });
            }
        }
        // What could not be published would never come back to this node's members of groups.
        let refused = scope.remote && !published && allowed.local && model.hears_local(false);
        let mut local = Way::NotMeant;
        if scope.local || refused {
            self.counters.emitted_local.add_one();
            local = Way::Taken;
            if let Err(reason) =
                model.queue.push(Message::Event(Job::local(event, published, allowed.remote)))
            {
                local = Way::Lost(reason.into());
                self.counters.overflowed.add_one();
                self.overflows.log(|more| match reason {
                    Refused::Full => error!(
                        model = model.info.name,
                        more, "the queue of a model is full: its listeners miss events"
                    ),
                    Refused::Closed => warn!(
                        model = model.info.name,
                        more, "an event came after the shutdown; listeners miss it"
                    ),
                });
            }
        }
        if let Some(asked) = asked {
            asked.local(local);
        }
    }

    /// Makes a dead letter of an event that a listener did not handle.
    fn bury(&self, given_up: GivenUp<'_>) {
        let GivenUp { job, entry } = given_up;
        if self.dead_letters.may() {
            let letter = self.letter(job, &entry);
            self.dead_letters.put(letter, Held::Job(job.share(), entry), job.may_leave());
        } else {
            job.note(|| entry);
        }
    }

    /// What a listener did not handle.
    fn letter(&self, job: &Job, entry: &Entry) -> DeadLetter {
        let Entry { listener, attempts, error, .. } = entry;
        let original = match job.original() {
            // What came is told as it came, all of it shared.
            Some(Original { topic, payload, properties }) => {
                Original { topic: topic.clone(), payload: payload.clone(), properties: properties.clone() }
            }
            // Its `Serialize` may panic; the letter tells of it all the same.
            None => {
                catch_unwind(AssertUnwindSafe(|| parcel::original(self, job.event()))).unwrap_or_default()
            }
        };
        let meta = job.event().meta();
        DeadLetter {
            listener: Some(listener.info.name.to_string()),
            attempts: *attempts,
            event: Some(meta.id),
            model: Some(listener.info.model.to_owned()),
            key: match &*meta.keys {
                [key] => Some(key.to_string()),
                _ => None,
            },
            is_ordered: !listener.handler.is_unordered(),
            ..self.dead_letters.letter(Reason::Unhandled, error.clone().unwrap_or_default(), original)
        }
    }

    /// Emits no more of what listeners cause each other to write.
    fn admits(&self, event: &dyn AnyEvent) -> bool {
        let admitted = event.meta().hops() <= self.max_hops;
        if !admitted {
            self.counters.loops.add_one();
            let (model, hops) = (event.model().name, self.max_hops);
            self.overflows.log(|more| error!(model, hops, more, LOOP));
        }
        admitted
    }

    /// An event that is written down: others get it from there.
    fn emit_recorded(&self, emission: Emission, handled: Ack) {
        let Emission { event, model, scope, allowed, mut ticket, .. } = emission;
        let asked = ticket.as_mut().map(|ticket| ticket.emitted(scope.remote, true));
        if let Some(tap) = &self.tap {
            tap(&event, allowed);
        }
        if scope.remote {
            self.counters.emitted_remote.add_one();
        }
        if let Some(asked) = &asked {
            asked.remote(if scope.remote { Way::Recorded } else { Way::NotMeant });
            asked.local(if scope.local { Way::Recorded } else { Way::NotMeant });
            asked.outbox(Way::Recorded);
        }
        if !scope.local {
            return;
        }
        self.counters.emitted_local.add_one();
        let job = Job::recorded(event, scope.remote, allowed.remote, self.recorded(handled));
        // Refused, it is handed on later by whoever reads what was written down.
        let _ = model.queue.push(Message::Event(job));
    }

    /// What ends an event that is written down until its listeners are done with it.
    fn recorded(&self, handled: Ack) -> Arc<Completion> {
        Completion::of(handled, None, Selection::default(), self.account(false))
    }

    /// How far listeners are with such an event, where somebody keeps account of it.
    fn account(&self, goes_on: bool) -> Option<Account> {
        self.ledger.get().map(|keeper| Account::of_record(Arc::clone(keeper), goes_on))
    }

    /// The listener and what follows from it: events from here on, and the subscription.
    fn insert_listener(&self, model: &ModelState, listener: Arc<Listener>) -> Result<(), StartError> {
        let (hears, is_member) = (listener.info.hears, listener.info.group.is_some());
        let way = self.way(listener.info.group.as_deref())?;
        let mut listeners = model.listeners();
        for other in listeners.iter().filter(|other| other.info.name == listener.info.name) {
            [other, &listener].iter().for_each(|one| one.namesake.store(true, Ordering::Relaxed));
        }
        let wants_before = listener.handler.wants_before();
        let first_remote = hears.remote() && !listeners.iter().any(|other| other.shares_way(&listener.info));
        let listen = Message::Listen(Arc::clone(&listener));
        model.queue.push_urgent(listen).map_err(|_| StartError::ShutDown)?;
        listeners.push(listener);
        if hears.hears(Source::Local) {
            model.local(is_member).fetch_add(1, Ordering::Relaxed);
        }
        model.before.fetch_add(usize::from(wants_before), Ordering::Relaxed);
        if let Some(transport) = way.filter(|_| first_remote) {
            if !is_member {
                self.catching_up.gaps().forget_lives(model.info.name);
            }
            transport.subscribe(self.topics.model_filter(&model.topic));
        }
        Ok(())
    }

    fn remove_listener(&self, model: &ModelState, id: u64) {
        let mut listeners = model.listeners();
        let Some(index) = listeners.iter().position(|listener| listener.id == id) else { return };
        let listener = listeners.remove(index);
        listener.gone.store(true, Ordering::Relaxed);
        let hears = listener.info.hears;
        let _ = model.queue.push_urgent(Message::Forget(id));
        if hears.hears(Source::Local) {
            model.local(listener.info.group.is_some()).fetch_sub(1, Ordering::Relaxed);
        }
        model.before.fetch_sub(usize::from(listener.handler.wants_before()), Ordering::Relaxed);
        let last_remote = hears.remote() && !listeners.iter().any(|other| other.shares_way(&listener.info));
        let way = match listener.info.group.as_deref() {
            None => self.transport.clone(),
            Some(group) => self.groups().get(group).cloned(),
        };
        if let Some(transport) = way.filter(|_| last_remote) {
            transport.unsubscribe(&self.topics.model_filter(&model.topic));
        }
    }
}

/// Tells whoever asked that an event goes nowhere.
fn told_of_loop(scope: Scope, asked: Option<Asked>) {
    if let Some(asked) = asked {
        let way = |meant| if meant { Way::Lost(Loss::Loop) } else { Way::NotMeant };
        asked.local(way(scope.local));
        asked.remote(way(scope.remote));
    }
}

impl Listener {
    /// Whether the subscription of a listener like this serves it, too.
    fn shares_way(&self, info: &ListenerInfo) -> bool {
        self.info.hears.remote() && self.info.group == info.group
    }
}

impl ModelState {
    /// Whether somebody here is handed local events by this node itself.
    fn hears_local(&self, published: bool) -> bool {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        count(&self.local_listeners) > 0 || !published && count(&self.members) > 0
    }

    fn local(&self, member: bool) -> &AtomicUsize {
        if member { &self.members } else { &self.local_listeners }
    }

    /// Whether a listener of this group, or of none, hears other nodes.
    fn is_subscribed(&self, group: Option<&str>) -> bool {
        let hears = |listener: &Arc<Listener>| {
            listener.info.hears.remote() && listener.info.group.as_deref() == group
        };
        self.listeners().iter().any(hears)
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Arc<Listener>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
