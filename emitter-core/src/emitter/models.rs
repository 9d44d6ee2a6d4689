//! Which models a node has met, who listens to them, and which subscriptions follow from that.

use std::any::TypeId;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use once_cell::sync::OnceCell;

use super::{Shared, StartError};
use crate::dispatcher::lanes::AlreadyHashed;
use crate::dispatcher::{Destinations, Listener, Message};
use crate::event::{Operation, Origin, Source};
use crate::listener::ListenerInfo;
use crate::masked::HashKey;
use crate::metrics::Counter;
use crate::model_info::ModelInfo;
use crate::queue::Queue;
use crate::topic::{ModelTopic, Said};

/// The models that this node has met, by type and by lower-cased name.
#[derive(Default)]
pub(super) struct Models {
    pub(super) by_type: HashMap<TypeId, Arc<ModelState>, BuildHasherDefault<AlreadyHashed>>,
    pub(super) by_name: HashMap<String, Arc<ModelState>>,
    /// With whether it is an event that is no row, for such a one may have a model's levels.
    pub(super) by_topic: HashMap<(bool, String), Arc<ModelState>>,
}

/// A model at this node.
pub(super) struct ModelState {
    pub(super) info: &'static ModelInfo,
    pub(super) topic: ModelTopic,
    /// The application emits nothing of it.
    pub(super) skipped: bool,
    /// Where its events go.
    pub(super) destinations: Destinations,
    /// Of this node; its events carry it.
    pub(super) origin: Arc<Origin>,
    /// The application's, for models that hash columns.
    pub(super) hash_key: Option<HashKey>,
    pub(super) queue: Arc<Queue<Message>>,
    pub(super) listeners: Mutex<Vec<Arc<Listener>>>,
    /// How many of them hear local events; read for every emitted event.
    pub(super) local_listeners: AtomicUsize,
    /// How many belong to a group: they get what is published from the broker.
    pub(super) members: AtomicUsize,
    /// How many want the row as it was before an update.
    pub(super) before: AtomicUsize,
    pub(super) tally: Tally,
    /// Filled when its task runs, which is from its first listener on.
    pub(super) worker: OnceCell<()>,
}

/// What is counted of a model's events: of each operation, in the order of [`Operation::ALL`].
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) emitted_local: [Counter; Operation::ALL.len()],
    pub(super) emitted_remote: [Counter; Operation::ALL.len()],
    /// Other nodes', handed to listeners here.
    pub(super) received: [Counter; Operation::ALL.len()],
    /// That all of its listeners missed, for its queue was at its bound.
    pub(super) overflowed: Counter,
}

impl Shared {
    /// The state of a model, made when it is met for the first time.
    pub(super) fn model(&self, info: &'static ModelInfo) -> Result<Arc<ModelState>, StartError> {
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
        let destinations = Operation::ALL.map(|operation| self.topics.topic(&topic, operation)).into();
        let skipped = self.skipped.iter().any(|name| name.eq_ignore_ascii_case(info.name));
        let model = Arc::new(ModelState {
            info,
            topic,
            skipped,
            destinations,
            origin: Arc::clone(&self.origin),
            hash_key: self.hash_key.clone(),
            queue: Arc::new(Queue::new(self.limits.queue)),
            listeners: Mutex::default(),
            local_listeners: AtomicUsize::new(0),
            members: AtomicUsize::new(0),
            before: AtomicUsize::new(0),
            tally: Tally::default(),
            worker: OnceCell::new(),
        });
        models.by_type.insert(info.type_id, Arc::clone(&model));
        models.by_name.insert(folded, Arc::clone(&model));
        let levels = model.topic.as_str().to_ascii_lowercase();
        models.by_topic.insert((model.topic.is_event(), levels), Arc::clone(&model));
        Ok(model)
    }

    /// The model with this name on the wire.
    pub(super) fn model_named(&self, name: &str) -> Option<Arc<ModelState>> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        models.by_name.get(&name.to_ascii_lowercase()).cloned()
    }

    /// Whose topic it is, and what it tells of the operation. Events are looked for first: one may lie below
    /// a model, and no topic of a model is that of an event.
    pub(super) fn model_on<'t>(&self, topic: &'t str) -> Option<(Arc<ModelState>, Said<'t>)> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let at = |event, levels: &str| models.by_topic.get(&(event, levels.to_ascii_lowercase())).cloned();
        let event = self.topics.read_event(topic).and_then(|levels| at(true, levels));
        event.map(|event| (event, Said::This(Operation::Create))).or_else(|| {
            let (levels, said) = self.topics.read(topic)?;
            Some((at(false, levels)?, said))
        })
    }

    pub(super) fn all_models(&self) -> Vec<Arc<ModelState>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).by_type.values().cloned().collect()
    }

    /// How many models have listeners for other nodes' events, in this group or in none.
    pub(super) fn subscribed_models(&self, group: Option<&str>) -> usize {
        self.all_models().iter().filter(|model| model.is_subscribed(group)).count()
    }

    /// Whether a listener of this group, or of none, brings what comes on this topic.
    pub(super) fn is_subscribed(&self, topic: &str, group: Option<&str>) -> bool {
        let brings = |model: &Arc<ModelState>| {
            model.is_subscribed(group) && self.topics.model_filter(&model.topic).matches(topic)
        };
        self.all_models().iter().any(brings)
    }

    /// The listener and what follows from it: events from here on, and the subscription.
    pub(super) fn insert_listener(
        &self,
        model: &ModelState,
        listener: Arc<Listener>,
    ) -> Result<(), StartError> {
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

    pub(super) fn remove_listener(&self, model: &ModelState, id: u64) {
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

impl Listener {
    /// Whether the subscription of a listener like this serves it, too.
    pub(super) fn shares_way(&self, info: &ListenerInfo) -> bool {
        self.info.hears.remote() && self.info.group == info.group
    }
}

impl ModelState {
    /// Whether somebody here is handed local events by this node itself.
    pub(super) fn hears_local(&self, published: bool) -> bool {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        count(&self.local_listeners) > 0 || !published && count(&self.members) > 0
    }

    pub(super) fn local(&self, member: bool) -> &AtomicUsize {
        if member { &self.members } else { &self.local_listeners }
    }

    /// Whether a listener of this group, or of none, hears other nodes.
    pub(super) fn is_subscribed(&self, group: Option<&str>) -> bool {
        let hears = |listener: &Arc<Listener>| {
            listener.info.hears.remote() && listener.info.group.as_deref() == group
        };
        self.listeners().iter().any(hears)
    }

    pub(super) fn listeners(&self) -> MutexGuard<'_, Vec<Arc<Listener>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
