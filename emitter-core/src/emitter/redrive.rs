//! Dead letters that are tried again.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::{Emitter, ModelState, ReplayError};
use crate::ack::Ack;
use crate::dead_letter::{DeadLetter, Original, Reason};
use crate::dispatcher::{Account, Completion, Entry, Job, Message, Selection};
use crate::emit::QoS;
use crate::envelope;
use crate::event::{Again, Origin, Source};
use crate::model_info::AnyEvent;
use crate::record::Standing;
use crate::signature;
use crate::spans;
use crate::topic::{BATCH, Said, Topic, TopicError};
use crate::transport::{Message as Outgoing, PublishError};

impl Emitter {
    /// Tries again what became a dead letter, and tells how that ended. What a listener did not handle goes to that
    /// listener alone, with all its attempts; what could not be read is read again, and goes to every listener here
    /// that hears the model; what could not be published is published. Nothing of it becomes a dead letter again:
    /// whoever has the letter keeps it until this is `Ok`.
    ///
    /// It has begun when this returns, so that letters of one key are handed on in the order of the calls, whenever
    /// the futures are awaited. Listeners see it by [`Context::again`](crate::Context::again).
    ///
    /// # Errors
    /// [`RedriveError`]
    pub fn redrive(&self, letter: &DeadLetter) -> BoxFuture<'static, Result<(), RedriveError>> {
        let begun = match letter.reason {
            Reason::Unhandled | Reason::Undecodable => self.hand_again(letter),
            Reason::Unpublished => self.publish_again(letter),
        };
        begun.unwrap_or_else(|error| std::future::ready(Err(error)).boxed())
    }

    fn hand_again(
        &self,
        letter: &DeadLetter,
    ) -> Result<BoxFuture<'static, Result<(), RedriveError>>, RedriveError> {
        let name = match (&letter.listener, letter.reason) {
            (None, Reason::Unhandled) => return Err(RedriveError::NoListener),
            (name, Reason::Unhandled) => name.clone(),
            _ => None,
        };
        if letter.payload.is_empty() {
            return Err(RedriveError::NoPayload);
        }
        let source = |model: &ModelState, origin: Option<&Origin>| {
            let own = origin.is_some_and(|origin| origin.is_of_node(&letter.node));
            let natural = if own && name.is_some() { Source::Local } else { Source::Remote };
            // Of nodes of a service, one may have been called for what another one wrote.
            let listeners = model.listeners();
            let hears = listeners.iter().find(|listener| name.as_deref() == Some(&*listener.info.name));
            match hears.map(|listener| listener.info.hears) {
                Some(hears) if !hears.hears(natural) && natural == Source::Local => Source::Remote,
                Some(hears) if !hears.hears(natural) => Source::Local,
                _ => natural,
            }
        };
        let topic = Some(&*letter.original_topic);
        let (model, mut event) = self.recalled(&letter.payload, &letter.properties, topic, source)?;
        if letter.reason == Reason::Undecodable && !self.fits(&model, &*event, &letter.original_topic) {
            return Err(RedriveError::Mismatch);
        }
        if model.worker.get().is_none() {
            return Err(RedriveError::NoListener);
        }
        self.room(&model)?;
        if let Some(event) = Arc::get_mut(&mut event) {
            let meta = event.meta_mut();
            meta.again = Some(Again::Redriven);
            // One that came without an id keeps the one that it was given.
            meta.id = letter.event.unwrap_or(meta.id);
        }
        let ends = Arc::new(Mutex::new(Ends::default()));
        let (told, ended) = oneshot::channel();
        let whole = Arc::clone(&ends);
        let ack = Ack::new(move || {
            // Nobody may want to know any more.
            let _ = told.send(std::mem::take(&mut *whole.lock().unwrap_or_else(PoisonError::into_inner)));
        });
        // What waits in a queue of the node does not keep it alive.
        let shared = Arc::downgrade(&self.node.shared);
        let keeper = move |job: &Job, entries: Vec<Entry>| {
            let Some(shared) = shared.upgrade() else { return };
            let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
            for entry in entries {
                match entry.standing {
                    Standing::Handled | Standing::HeldBack => ends.handled += 1,
                    Standing::Retrying(_) => {}
                    Standing::GivenUp => ends.failures.push(shared.letter(job, &entry)),
                }
            }
        };
        let original = Original {
            topic: letter.original_topic.clone(),
            payload: letter.payload.clone(),
            properties: letter.properties.clone(),
        };
        let account = Account::of_letter(Arc::new(keeper));
        let done = Completion::of(ack, Some(original), Selection::addressed(name), Some(account));
        let job = Job::again(event, false, done);
        model.queue.push(Message::Event(job)).map_err(ReplayError::from)?;
        let outcome = async move {
            match ended.await {
                Ok(Ends { handled: 0, failures }) if failures.is_empty() => Err(RedriveError::NoListener),
                Ok(Ends { failures, .. }) if failures.is_empty() => Ok(()),
                Ok(Ends { failures, .. }) => Err(RedriveError::Unhandled(failures)),
                Err(_) => Err(RedriveError::Interrupted),
            }
        };
        Ok(outcome.boxed())
    }

    /// What the intake asks of a message beyond its form: whoever may write on one topic says nothing of others.
    fn fits(&self, model: &Arc<ModelState>, event: &dyn AnyEvent, topic: &str) -> bool {
        let Some((place, said)) = self.node.shared.model_on(topic) else { return false };
        let meta = event.meta();
        let operation_fits = match said {
            Said::This(operation) => operation == meta.operation,
            Said::Other(other) => other == "all" || other == BATCH,
            Said::Nothing => true,
        };
        let named = |origin: &Arc<Origin>| !origin.node.is_empty() && !origin.service.is_empty();
        Arc::ptr_eq(&place, model) && operation_fits && meta.origin.as_ref().is_none_or(named)
    }

    fn publish_again(
        &self,
        letter: &DeadLetter,
    ) -> Result<BoxFuture<'static, Result<(), RedriveError>>, RedriveError> {
        let shared = Arc::clone(&self.node.shared);
        let transport = shared.transport.as_ref().ok_or(RedriveError::NoTransport)?;
        let topic = Topic::parse(&letter.original_topic)?;
        let mut payload = letter.payload.to_vec();
        if payload.is_empty() {
            return Err(RedriveError::NoPayload);
        }
        if let Some(signatures) = &shared.signatures {
            // It may have been edited, and the key may be another one now.
            payload = signature::unsigned(&payload);
            signatures.sign(topic.as_str(), &letter.properties, &mut payload);
        }
        let (size, limit) = (payload.len(), shared.wire.max_bytes);
        if size > limit {
            return Err(PublishError::TooLarge { size, limit }.into());
        }
        let properties = match letter.properties.is_empty() {
            true => envelope::found_beside(&payload, shared.format, &shared.wire),
            false => letter.properties.clone(),
        };
        let (qos, payload) = (QoS::AtLeastOnce, Bytes::from(payload));
        let span = spans::send(letter.event.unwrap_or(letter.id), &topic, qos, payload.len(), &properties);
        let message = Outgoing { topic, payload, qos, expires: None, properties, retain: false };
        let accepted = transport.publish(message);
        spans::sent(&span, &accepted);
        let confirmation = accepted?;
        let outcome = async move {
            let confirmed = confirmation.await;
            spans::sent(&span, &confirmed);
            confirmed?;
            shared.counters.published.add_one();
            Ok(())
        };
        Ok(outcome.boxed())
    }
}

/// How the calls for a dead letter ended.
#[derive(Default)]
struct Ends {
    /// How many listeners handled it, or held it back.
    handled: usize,
    /// The letters of those that did not.
    failures: Vec<DeadLetter>,
}

/// Why a dead letter was not done with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedriveError {
    /// It cannot be read, still; or there is no room for it in the model's queue, or the emitter is shut down.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// It is of another model or operation than its topic says, or its origin has no name.
    #[error("the topic and the message name different models or operations")]
    Mismatch,
    /// This node has no such listener, or it hears nothing of that operation.
    #[error("no listener of this node is meant by it")]
    NoListener,
    /// Listeners did not handle it, in all their attempts: a letter of each. They are nowhere but here.
    #[error("{}", why(.0))]
    Unhandled(Vec<DeadLetter>),
    /// Nothing was kept of the event: it was too large, or could not be written as JSON.
    #[error("of the event nothing was kept")]
    NoPayload,
    /// This node has no way to others.
    #[error("this node has no transport")]
    NoTransport,
    /// It has no topic on which it could be published.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// It could not be published, still.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The node was shut down before its listeners were done.
    #[error("the emitter was shut down before listeners were done")]
    Interrupted,
}

fn why(failures: &[DeadLetter]) -> String {
    let each = failures.iter().map(|letter| {
        let listener = letter.listener.as_deref().unwrap_or_default();
        format!("`{listener}` failed: {}", letter.error)
    });
    each.collect::<Vec<_>>().join("; ")
}
