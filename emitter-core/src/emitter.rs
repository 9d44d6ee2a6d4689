//! The running node that an application holds: it knows the dispatcher and the transport, which do
//! not know each other.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use once_cell::sync::OnceCell;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{error, warn};

use crate::batch::Batches;
use crate::cause::noted;
use crate::dedup::DedupConfig;
use crate::dispatcher::{Bury, DispatchLimits, Keeper, Listener, Worker};
use crate::emit::{EmitConfig, EmitOptions, QoS, Scope};
use crate::envelope::{Format, Kind, WireLimits};
use crate::event::{EventId, Operation, Origin};
use crate::listener::{Handler, ListenerInfo, State, States};
use crate::masked::HashKey;
use crate::metrics::{Counters, OnceInAWhile, Reporting};
use crate::model::{EventBody, Model, ModelEvent};
use crate::model_info::{AnyEvent, ModelInfo};
use crate::queue::Queue;
use crate::signature::Signatures;
use crate::topic::Topics;
use crate::transport::{Transport, TransportStatus};

#[cfg(feature = "mqtt")]
mod announced;
mod builder;
mod burying;
mod bus;
mod catching_up;
mod companion;
mod emission;
mod emitting;
mod gathering;
mod health;
mod intake;
mod models;
mod net;
mod nodes;
mod on;
mod outbound;
mod parcel;
mod publishing;
mod queueing;
mod recording;
mod redrive;
mod replay;
mod reporting;
mod shutdown;
mod telling;

#[cfg(feature = "mqtt")]
use announced::Announced;
use builder::check_name;
pub use builder::{Builder, Extension, StartError};
use burying::DeadLetters;
pub use bus::{Bus, Passing, Sighting};
use catching_up::CatchingUp;
pub use companion::{BeginCompanion, Companion, Pulse};
pub use emission::{Emission, Published, Route};
pub use health::{Backlog, Health, HealthStatus, Unpublished};
use intake::Intake;
use models::{ModelState, Models};
use nodes::Nodes;
use on::On;
pub use on::Subscription;
use outbound::Outbound;
use queueing::Unwritten;
pub use queueing::{HandOut, QueueKeeper, QueueStatus, Queued};
pub use redrive::RedriveError;
pub use replay::ReplayError;
use reporting::AllCalls;
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
    /// The names of models of which nothing is emitted.
    skipped: Vec<String>,
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
    #[cfg(feature = "mqtt")]
    announced: Option<Announced>,
    /// The connections of groups, by their names.
    groups: Mutex<BTreeMap<Arc<str>, Arc<dyn Transport>>>,
    to_publish: Queue<Outbound>,
    /// Filled by who writes down what is queued, if anybody does.
    unwritten: OnceCell<Unwritten>,
    /// Filled by who keeps account of what listeners do with what is written down, if anybody does.
    ledger: OnceCell<Keeper>,
    catching_up: Arc<CatchingUp>,
    nodes: Nodes,
    counters: Arc<Counters>,
    calls: Mutex<AllCalls>,
    /// To whom it is told what is counted, if to anybody.
    reporting: Option<Reporting>,
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
    backlogs: Vec<AskBacklog>,
    next_listener: AtomicU64,
    states: States,
    /// Where the tasks run. Listeners may be added from threads that know no runtime.
    runtime: tokio::runtime::Handle,
}

/// Tells what is wrong with a part.
type Troubles = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// Tells what a part has still to publish.
type AskBacklog = Box<dyn Fn() -> Option<Unpublished> + Send + Sync>;

/// Is shown what is emitted, and where it may go.
pub(crate) type Tap = Box<dyn Fn(&Arc<dyn AnyEvent>, Scope) + Send + Sync>;

#[derive(Default)]
struct Tasks {
    /// One worker for each model that has or had listeners.
    workers: JoinSet<()>,
    /// The same, to see whether they are there.
    at_work: Vec<AbortHandle>,
    publishing: Option<tokio::task::JoinHandle<()>>,
    burying: Option<tokio::task::JoinHandle<()>>,
    companions: Vec<(&'static str, Companion)>,
    /// By group; `None` is what comes for every node.
    intakes: HashMap<Option<Arc<str>>, tokio::task::JoinHandle<()>>,
    /// All listeners of the start are there: what waits at the broker may come.
    receiving: bool,
    /// Present from the first call of `shutdown` on: its outcome.
    ending: Option<Ending>,
}

impl Tasks {
    /// Whether none has ended by itself.
    fn all_run(&self) -> bool {
        let mut others = self.intakes.values().chain(&self.publishing).chain(&self.burying);
        others.all(|task| !task.is_finished())
            && self.at_work.iter().all(|worker| !worker.is_finished())
            && self.pulses().all(|(_, pulse)| pulse != Pulse::Ended)
    }

    /// How each of the companions is that says so.
    fn pulses(&self) -> impl Iterator<Item = (&'static str, Pulse)> {
        self.companions.iter().filter_map(|(name, companion)| Some((*name, companion.pulse.as_ref()?())))
    }
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
        if state.skipped {
            return None;
        }
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
            return Published::new(EventId::now(), noted(notes).and_then(|notes| notes.trace()));
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

    /// Says on the bus which listeners there are now.
    fn announce(&self) {
        #[cfg(feature = "mqtt")]
        if let Some(announced) = &self.node.shared.announced {
            announced.tell_now(|| self.listeners());
        }
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
        self.node.shared.states.find()
    }

    /// A pointer that does not keep the node alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakEmitter {
        WeakEmitter(Arc::downgrade(&self.node))
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
                let own = if group.is_none() { shared.own_subscriptions(status) } else { 0 };
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
            let at_work = tasks.workers.spawn_on(worker.run(), &shared.runtime);
            tasks.at_work.push(at_work);
            Ok(())
        })?;
        let id = shared.next_listener.fetch_add(1, Ordering::Relaxed);
        let calls = shared.calls_of(&info);
        let listener = Arc::new(Listener::new(id, info, handler, calls, Arc::clone(&model.destinations)));
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

impl Shared {
    /// The kind of a model's events, for the forms that tell it.
    fn kind_of(&self, info: &ModelInfo, operation: Operation) -> String {
        let service = &self.origin.service;
        match info.event {
            Some(kind) => self.kind.of_event(service, kind),
            None => self.kind.of(service, info.name, operation),
        }
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
}
