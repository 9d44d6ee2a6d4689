//! What surrounds one call of a listener.

use std::fmt;
use std::sync::Arc;

use once_cell::sync::OnceCell;

use crate::emitter::{Emitter, WeakEmitter};
use crate::event::{Event, EventId, Origin, Source, Timestamp};
use crate::model::EventBody;

/// What surrounds one call of a listener: which event, from where, the how-many-eth attempt, and
/// the emitter that calls. A listener takes it as a parameter.
///
/// ```
/// # use emitter_core::{Context, Emits, Event, listener};
/// # #[derive(Clone, serde::Serialize, serde::Deserialize, Emits)]
/// # #[emits(create)]
/// # struct Order { id: i64 }
/// #[listener(model = "order")]
/// async fn charge(event: Event<OrderCreated>, context: Context) -> Result<(), String> {
///     println!("order {}, attempt {}", event.key(), context.attempt());
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Context {
    id: EventId,
    source: Source,
    origin: Option<Arc<Origin>>,
    time: Timestamp,
    attempt: u32,
    home: Home,
}

impl Context {
    /// The event's id: the same at each attempt, and on every node. Good as an idempotency key.
    #[must_use]
    pub fn id(&self) -> EventId {
        self.id
    }

    /// Whether this node wrote, or another one.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// Who wrote, or `None` when a program that sends no origin did.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_deref()
    }

    /// When it was written, by the clock of the node that wrote.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The how-many-eth call of this listener for this event, from 1. An event that the broker
    /// sends again, after a crash, begins at 1 again.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The emitter that calls the listener, for binding a connection and writing in turn; `None`
    /// when the application has dropped it meanwhile.
    #[must_use]
    pub fn emitter(&self) -> Option<Emitter> {
        self.home.0.get()?.upgrade()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("id", &self.id)
            .field("source", &self.source)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// The emitter that listeners belong to, which comes to be after them.
#[derive(Clone, Default)]
pub struct Home(Arc<OnceCell<WeakEmitter>>);

impl Home {
    pub(crate) fn settle(&self, emitter: WeakEmitter) {
        // Once, at the start: there is no second one to be refused.
        let _ = self.0.set(emitter);
    }
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Home")
    }
}

/// The context of a call, for `#[listener]`.
#[must_use]
pub fn context<T: EventBody>(event: &Event<T>, attempt: u32, home: &Home) -> Context {
    let meta = event.meta();
    let (id, source, time) = (meta.id, meta.source, meta.time);
    Context { id, source, origin: meta.origin.clone(), time, attempt, home: home.clone() }
}
