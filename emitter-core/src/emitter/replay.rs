//! Events that come from a record instead of a write.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use super::{Emitter, ModelState};
use crate::ack::Ack;
use crate::dead_letter::{DeadLetter, Original};
use crate::dispatcher::{Completion, Job, Message, Selection};
use crate::envelope::{self, DecodeError};
use crate::event::{Again, EventId, Origin, Source, Timestamp};
use crate::model_info::{AnyEvent, Received};
use crate::properties::Properties;
use crate::queue::Refused;
use crate::record::{Parcel, Progress};
use crate::topic::Said;

impl Emitter {
    /// Hands an event to this node's listeners as it was encoded once: from a log, a mirror, a file
    /// of a test. Rows of an earlier version of their model are read as that and made into present
    /// ones. What this node wrote is `Local`, everything else `Remote`; nothing is published, and no
    /// event is dropped as a duplicate, for a replay is meant.
    ///
    /// # Errors
    /// [`ReplayError`]; then no listener is called.
    pub fn replay(&self, payload: &[u8]) -> Result<EventId, ReplayError> {
        self.replay_as(payload, &Properties::default(), None, Some(Again::Replayed))
    }

    /// The same with a dead letter, of whichever form its event was: what the payload does not tell, its
    /// topic and its properties do.
    ///
    /// # Errors
    /// [`ReplayError`]; then no listener is called.
    pub fn replay_letter(&self, letter: &DeadLetter) -> Result<EventId, ReplayError> {
        self.replay_as(&letter.payload, &letter.properties, Some(&letter.original_topic), None)
    }

    /// Hands an event that was kept as it travelled to this node's listeners: to all that hear it by its source,
    /// whatever their group, or to those of these names alone, marked as [`Again::Replayed`]. `handled` is done
    /// when the last of them is.
    ///
    /// # Errors
    /// [`ReplayError`]; then no listener is called, and `handled` is dropped.
    pub fn replay_kept(
        &self,
        topic: &str,
        payload: &Bytes,
        properties: &Properties,
        listeners: Option<Arc<[String]>>,
        handled: Ack,
    ) -> Result<EventId, ReplayError> {
        let (model, mut event) =
            self.recalled(payload, properties, Some(topic), |_, origin| self.wrote(origin))?;
        if model.worker.get().is_none() {
            return Err(ReplayError::Unheard);
        }
        self.room(&model)?;
        mark(&mut event, Again::Replayed);
        let id = event.meta().id;
        let original =
            Original { topic: topic.to_owned(), payload: payload.clone(), properties: properties.clone() };
        let done = Completion::of(handled, Some(original), Selection::of_names(listeners), None);
        model.queue.push(Message::Event(Job::again(event, true, done)))?;
        self.node.shared.counters.replayed.add_one();
        Ok(id)
    }

    /// Hands an event that is written down to this node's listeners, as `Local`, as its writer would have done
    /// who did not come to it. Where it is `published`, too, groups get it from the broker. Those that were done with it
    /// `earlier` are not called, and those that failed go on from there. `handled` is done when the last of them is.
    ///
    /// # Errors
    /// [`ReplayError`]; then no listener is called, and `handled` is dropped.
    pub fn replay_record(
        &self,
        parcel: &Parcel,
        published: bool,
        earlier: Vec<Progress>,
        handled: Ack,
    ) -> Result<(), ReplayError> {
        let local = |_: &ModelState, _: Option<&Origin>| Source::Local;
        let (model, event) =
            self.recalled(&parcel.payload, &parcel.properties, Some(&parcel.topic), local)?;
        if model.worker.get().is_none() || !model.hears_local(published) {
            return Err(ReplayError::Unheard);
        }
        self.room(&model)?;
        let account = self.node.shared.account(!earlier.is_empty());
        let done = Completion::of(handled, None, Selection::after(earlier), account);
        model.queue.push(Message::Event(Job::recorded(event, published, published, done)))?;
        Ok(())
    }

    fn replay_as(
        &self,
        payload: &[u8],
        properties: &Properties,
        topic: Option<&str>,
        again: Option<Again>,
    ) -> Result<EventId, ReplayError> {
        let (model, mut event) = self.recalled(payload, properties, topic, |_, origin| self.wrote(origin))?;
        again.into_iter().for_each(|again| mark(&mut event, again));
        let id = event.meta().id;
        if model.worker.get().is_none() {
            self.node.shared.counters.unheard.add_one();
            return Ok(id);
        }
        self.room(&model)?;
        model.queue.push(Message::Event(Job::local(event, false, false)))?;
        self.node.shared.counters.replayed.add_one();
        Ok(id)
    }

    /// What waits in lanes counts, too: a replay is faster than any listener.
    pub(super) fn room(&self, model: &ModelState) -> Result<(), ReplayError> {
        if model.queue.unfinished() >= self.node.shared.limits.queue {
            return Err(ReplayError::QueueFull);
        }
        Ok(())
    }

    /// On which side the writer of an event is.
    fn wrote(&self, origin: Option<&Origin>) -> Source {
        match origin {
            Some(origin) if origin.is_of_node(&self.node.shared.origin) => Source::Local,
            _ => Source::Remote,
        }
    }

    /// An event as it was encoded once; `source` says whether this node counts as its writer.
    pub(super) fn recalled(
        &self,
        payload: &[u8],
        properties: &Properties,
        topic: Option<&str>,
        source: impl FnOnce(&ModelState, Option<&Origin>) -> Source,
    ) -> Result<(Arc<ModelState>, Arc<dyn AnyEvent>), ReplayError> {
        let shared = &self.node.shared;
        let place = topic.and_then(|topic| shared.model_on(topic));
        let said = place.as_ref().map_or(Said::Nothing, |(_, said)| *said);
        let incoming = envelope::decode(payload, properties, said, &shared.wire)?;
        let named = incoming.model.as_deref().and_then(|name| shared.model_named(name));
        let model = named.or(place.map(|(model, _)| model)).ok_or(ReplayError::UnknownModel)?;
        let id = incoming.id.unwrap_or_else(EventId::now);
        let received = Received {
            id,
            time: incoming.time.unwrap_or_else(Timestamp::now),
            source: source(&model, incoming.origin.as_ref()),
        };
        // The row's `Deserialize` is the user's, and so is what makes it of an earlier version.
        let decoded = catch_unwind(AssertUnwindSafe(|| (model.info.decode)(incoming, received)));
        let event = decoded.map_err(|_| ReplayError::Panicked)??;
        Ok((model, event))
    }
}

/// Says that an event was there before. Nobody else has it yet.
fn mark(event: &mut Arc<dyn AnyEvent>, again: Again) {
    if let Some(event) = Arc::get_mut(event) {
        event.meta_mut().again = Some(again);
    }
}

/// Why an event was not replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// It is no event, or of a version that the model does not know.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// No listener of this node hears what its service writes of the model.
    #[error("no listener of this node hears what its service writes of the model")]
    Unheard,
    /// Nothing in this program has met a model of that name.
    #[error("no listener of this node knows the model")]
    UnknownModel,
    /// The row's `Deserialize` panicked, or a `From` of an earlier version.
    #[error("the row's `Deserialize` panicked")]
    Panicked,
    /// The model's queue is at its bound: wait until listeners have caught up, and go on.
    #[error("the queue of the model is full")]
    QueueFull,
    /// The emitter is shut down.
    #[error("the emitter is shut down")]
    ShutDown,
}

impl From<Refused> for ReplayError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::QueueFull,
            Refused::Closed => Self::ShutDown,
        }
    }
}
