//! What surrounds one call of a listener.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use once_cell::sync::OnceCell;

use crate::cause::Cause;
use crate::emitter::{Emitter, WeakEmitter};
use crate::event::{Again, Event, EventId, Origin, Source, Timestamp};
use crate::model::EventBody;
use crate::trace::Trace;

/// What surrounds one call of a listener: which event, from where, the how-many-eth attempt, and
/// the emitter that calls. A listener takes it as a parameter. The call's span, where somebody traces it, ends with the
/// last copy.
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
    /// The event, and the call of the listener.
    cause: Cause,
    source: Source,
    origin: Option<Arc<Origin>>,
    time: Timestamp,
    attempt: u32,
    again: Option<Again>,
    home: Home,
}

impl Context {
    /// The event's id: the same at each attempt, and on every node.
    #[must_use]
    pub fn id(&self) -> EventId {
        self.cause.id()
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

    /// The trace to which the event belongs, if its writer said so.
    #[must_use]
    pub fn trace(&self) -> Option<Trace> {
        self.cause.notes()?.trace()
    }

    /// What vendors of tracing hand on beside the trace.
    #[must_use]
    pub fn trace_state(&self) -> Option<&str> {
        self.cause.notes()?.trace_state()
    }

    pub(crate) fn cause(&self) -> &Cause {
        &self.cause
    }

    /// Does a part of the call on another thread: what it emits there tells that this event caused it, as
    /// everything does that a listener emits where it is called.
    pub fn within<R>(&self, act: impl FnOnce() -> R) -> R {
        self.cause.clone().within(act)
    }

    /// What tells by what was done already: what the writer gave as the idempotency key of this
    /// doing, else the event's id.
    #[must_use]
    pub fn idempotency_key(&self) -> Cow<'_, str> {
        let given = self.cause.notes().and_then(|notes| notes.idempotency_key.as_deref());
        given.map_or_else(|| self.id().to_string().into(), Cow::Borrowed)
    }

    /// The how-many-eth call of this listener for this event, from 1. An event that the broker
    /// sends again, after a crash, begins at 1 again; one of an outbox that this node's service wrote goes on where
    /// it was.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Why the event is handed out again, where somebody does that: a listener that sends e-mails returns
    /// where this is [`Again::Replayed`]. Id and idempotency key are those of the first time;
    /// [`attempt`](Self::attempt) begins at 1.
    #[must_use]
    pub fn again(&self) -> Option<Again> {
        self.again
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
            .field("id", &self.id())
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
    let (source, time, again) = (meta.source, meta.time, meta.again);
    let (origin, cause) = (meta.origin.clone(), Cause::present(meta));
    Context { cause, source, origin, time, attempt, again, home: home.clone() }
}
