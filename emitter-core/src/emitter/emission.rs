//! Events between the write that caused them and the queues.

use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::ModelState;
use crate::cause::noted;
use crate::emit::{Notes, Persistence, QoS, Scope};
use crate::event::{EventId, Meta, Operation, Source, Stored, Timestamp};
use crate::masked::HashKey;
use crate::model::{Before, Model, ModelEvent};
use crate::model_info::{AnyEvent, keys};
use crate::receipt::{Receipt, Ticket};
use crate::spans;
use crate::trace::Trace;

/// An event that has been born and waits for its transaction to commit.
pub struct Emission {
    pub(super) event: Arc<dyn AnyEvent>,
    pub(super) model: Arc<ModelState>,
    pub(super) scope: Scope,
    /// Where it might go if somebody listened.
    pub(super) allowed: Scope,
    pub(super) qos: Option<QoS>,
    /// Where it waits until it is published.
    pub(super) persistence: Persistence,
    /// Somebody asked what becomes of it.
    pub(super) ticket: Option<Box<Ticket>>,
}

impl fmt::Debug for Emission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emission").field("model", &self.model.info.name).field("scope", &self.scope).finish()
    }
}

/// What an event that was published is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Published {
    /// The event's id.
    pub id: EventId,
    /// The trace to which it belongs: that of the call, or of the event whose listener made it, else its own,
    /// which has the event's id.
    pub trace_id: Uuid,
}

impl Published {
    pub(super) fn new(id: EventId, trace: Option<Trace>) -> Self {
        Self { id, trace_id: Trace::id_of(trace, id) }
    }
}

/// Where an event goes; cloned for each event of a statement. See [`Emitter::route`](crate::Emitter::route).
pub struct Route<M> {
    pub(super) state: Arc<ModelState>,
    pub(super) scope: Scope,
    pub(super) allowed: Scope,
    pub(super) qos: Option<QoS>,
    pub(super) notes: Option<Arc<Notes>>,
    pub(super) receipt: Option<Receipt>,
    pub(super) persistence: Persistence,
    pub(super) model: PhantomData<fn() -> M>,
}

impl<M: Model> Route<M> {
    /// The same for events that wait in this place at least. Without it, they wait where the model says.
    #[must_use]
    pub fn persistence(mut self, at_least: Persistence) -> Self {
        self.persistence = self.persistence.max(at_least);
        self
    }

    /// Whether its events are written down with what they tell of.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.persistence == Persistence::Durable
    }

    /// Whether its events are written down once their transaction is committed.
    #[must_use]
    pub fn is_queued(&self) -> bool {
        self.persistence == Persistence::Queued
    }

    /// Makes an event of something that this node did. It goes nowhere until [`Emitter::emit`](crate::Emitter::emit).
    #[must_use]
    pub fn event(self, event: M::Event) -> Emission {
        self.event_at(Timestamp::now(), event)
    }

    /// The same of something that was done at this time: what a trigger wrote down is told of later.
    #[must_use]
    pub fn event_at(self, time: Timestamp, event: M::Event) -> Emission {
        let body = event.body();
        let named = self.notes.as_ref().is_some_and(|notes| notes.trace.is_some());
        let mut meta = Meta {
            again: None,
            id: EventId::at(time),
            operation: body.operation(),
            source: Source::Local,
            origin: Some(Arc::clone(&self.state.origin)),
            time,
            sequence: None,
            number: None,
            keys: keys(&body),
            notes: noted(self.notes),
        };
        let topic = &self.state.destinations[meta.operation.index()];
        if let Some(made) = spans::create(self.state.info, &meta, topic, named) {
            Arc::make_mut(meta.notes.get_or_insert_default()).made = Some(Box::new(made));
        }
        let ticket = self.receipt.map(|receipt| Box::new(receipt.ticket(meta.id, meta.operation)));
        let event = Arc::new(Stored::<M> { meta, event });
        let Self { state: model, scope, allowed, qos, persistence, .. } = self;
        Emission { event, model, scope, allowed, qos, persistence, ticket }
    }

    /// Whether updates should carry the row as it was before: the model says so, or a listener here
    /// wants it.
    #[must_use]
    pub fn wants_before(&self) -> bool {
        M::BEFORE != Before::Wanted || self.state.before.load(Ordering::Relaxed) > 0
    }

    /// The key of the model's hashed columns, for [`Model::to_row`]; `None` where it hashes none.
    #[must_use]
    pub fn hash_key(&self) -> Option<HashKey> {
        if M::HASHES { self.state.hash_key.clone() } else { None }
    }
}

impl<M> Clone for Route<M> {
    fn clone(&self) -> Self {
        let (state, model) = (Arc::clone(&self.state), PhantomData);
        let (notes, receipt) = (self.notes.clone(), self.receipt.clone());
        let Self { scope, allowed, qos, persistence, .. } = *self;
        Self { state, scope, allowed, qos, notes, receipt, persistence, model }
    }
}

impl<M> fmt::Debug for Route<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("model", &self.state.info.name).field("scope", &self.scope).finish()
    }
}

impl Emission {
    /// The event's id.
    #[must_use]
    pub fn id(&self) -> EventId {
        self.event.meta().id
    }

    /// What was done.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.event.meta().operation
    }

    /// Whether it is to be [written down](crate::Emitter::record) before its transaction commits.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.persistence == Persistence::Durable
    }

    /// Whether it is to be [written down](crate::Emitter::queued) once its transaction is committed.
    #[must_use]
    pub fn is_queued(&self) -> bool {
        self.persistence == Persistence::Queued
    }

    /// The same event, for whoever does not tell what becomes of it.
    pub(super) fn share(&self) -> Self {
        let Self { scope, allowed, qos, persistence, .. } = *self;
        let (event, model) = (Arc::clone(&self.event), Arc::clone(&self.model));
        Self { event, model, scope, allowed, qos, persistence, ticket: None }
    }

    /// Another event that goes the same way.
    pub(super) fn with(&self, event: Arc<dyn AnyEvent>) -> Self {
        let Self { model, scope, allowed, qos, persistence, .. } = self;
        let ticket = self.ticket.as_ref().map(|ticket| {
            let meta = event.meta();
            Box::new(ticket.receipt().ticket(meta.id, meta.operation))
        });
        let model = Arc::clone(model);
        let (scope, allowed, qos, persistence) = (*scope, *allowed, *qos, *persistence);
        Self { event, model, scope, allowed, qos, persistence, ticket }
    }

    /// What decides who hears it, and what is told beside it.
    pub(super) fn way(&self) -> impl Eq + Hash {
        let receipt = self.ticket.as_ref().map(|ticket| ticket.receipt().address());
        let notes =
            self.event.meta().notes.as_deref().map(Notes::said).filter(|said| *said != Notes::default());
        (self.scope, self.allowed, self.qos, self.persistence, notes, receipt)
    }
}
