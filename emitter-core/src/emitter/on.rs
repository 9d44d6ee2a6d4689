//! Listeners that are added and removed while the node runs.

use std::fmt;
use std::sync::Arc;

use tracing::error;

use super::{Emitter, ModelState, Node};
use crate::event::Event;
use crate::listener::{Handler, Hears, ListenerInfo, ListenerOptions, Outcome, Ready, Unhandled};
use crate::model::EventBody;

/// A listener that is about to be added at run time. See [`Emitter::on`].
pub struct On<'e, T: EventBody> {
    emitter: &'e Emitter,
    hears: Hears,
    group: Option<String>,
    name: Option<String>,
    filters: Vec<EventFilter<T>>,
    options: ListenerOptions,
}

/// Whether a listener is handed an event.
type EventFilter<T> = Box<dyn Fn(&Event<T>) -> bool + Send + Sync>;

impl<'e, T: EventBody> On<'e, T> {
    pub(super) fn new(emitter: &'e Emitter) -> Self {
        Self {
            emitter,
            hears: Hears::Local,
            group: None,
            name: None,
            filters: Vec::new(),
            options: ListenerOptions::default(),
        }
    }

    /// Hears what other nodes wrote too.
    #[must_use]
    pub fn allow_remote(mut self) -> Self {
        if self.hears == Hears::Local {
            self.hears = Hears::Everything;
        }
        self
    }

    /// Hears only what other nodes wrote.
    #[must_use]
    pub fn remote_only(mut self) -> Self {
        self.hears = Hears::Remote;
        self
    }

    /// One of the service's nodes that have a listener of this group hears an event, whichever node
    /// wrote; the group's name is of letters, digits, `-`, `_` and `.`.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Hears only events for which `filter` says `true`; of several filters, all have to. A filter
    /// runs on the model's dispatcher task, so it must not block; one that panics counts as a call
    /// that panicked, and the event is a dead letter at once.
    ///
    /// ```
    /// # use emitter_core::{Emits, Emitter, Event};
    /// # #[derive(Clone, serde::Serialize, serde::Deserialize, Emits)]
    /// # #[emits(update)]
    /// # struct Order { id: i64, total: u32 }
    /// # fn add(emitter: &Emitter) {
    /// let raised = |event: &Event<OrderUpdated>| event.changed().total().is_some();
    /// let subscription = emitter.on::<OrderUpdated>().filter(raised).run(|event| async move {
    ///     println!("{} now", event.after.total);
    /// });
    /// # }
    /// ```
    #[must_use]
    pub fn filter(mut self, filter: impl Fn(&Event<T>) -> bool + Send + Sync + 'static) -> Self {
        self.filters.push(Box::new(filter));
        self
    }

    /// How it is called: its concurrency, time-out, order and retries, where they differ from what
    /// the builder says.
    #[must_use]
    pub fn options(mut self, options: ListenerOptions) -> Self {
        self.options = ListenerOptions { before: self.options.before || options.before, ..options };
        self
    }

    /// Wants the row as it was before an update: `event.before`, and the old values and exact
    /// columns of `event.changed()`. See [`ListenerOptions::before`].
    #[must_use]
    pub fn before(mut self) -> Self {
        self.options.before = true;
        self
    }

    /// A name for logs. Default: the name of the event type.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Adds an async function or closure as the listener. (One whose effect is to happen once, in the transaction of an inbox,
    /// is made by `#[listener]`.)
    pub fn run<F, R>(self, function: F) -> Subscription
    where
        F: Fn(Event<T>) -> R + Send + Sync + 'static,
        R: Future<Output: Outcome> + Send + 'static,
    {
        self.add(Handler::from_async(move |event, _| function(event)))
    }

    /// Adds a plain function or closure, which may block, as the listener.
    pub fn run_blocking<F, R>(self, function: F) -> Subscription
    where
        F: Fn(Event<T>) -> R + Send + Sync + 'static,
        R: Outcome,
    {
        self.add(Handler::from_blocking(move |event, _| function(event)))
    }

    /// The same of one that needs something which may be away, such as a connection, before it can do its work: it says when it has
    /// it, and what fails before is no attempt. See [`Handler::from_preparing`].
    pub fn run_blocking_preparing<F>(self, function: F) -> Subscription
    where
        F: Fn(Event<T>, Ready) -> Result<(), Unhandled> + Send + Sync + 'static,
    {
        self.add(Handler::from_blocking_preparing(move |event, _, ready| function(event, ready)))
    }

    fn add(self, handler: Handler) -> Subscription {
        let handler = handler.with(self.options);
        let handler = self.filters.into_iter().fold(handler, |handler, filter| handler.filtered::<T>(filter));
        let name = self.name.unwrap_or_else(|| std::any::type_name::<T>().to_owned());
        let info = ListenerInfo {
            name: name.into(),
            model: handler.model().name,
            operation: handler.operation(),
            // In a group it does not matter which node wrote.
            hears: if self.group.is_some() { Hears::Everything } else { self.hears },
            group: self.group.map(Into::into),
            defined_at: "run time".into(),
        };
        let node = Arc::downgrade(&self.emitter.node);
        match self.emitter.node.add_listener(info, handler) {
            Ok((model, id)) => {
                self.emitter.announce();
                Subscription { node, model: Some(model), id }
            }
            Err(refusal) => {
                error!("a listener was not added: {refusal}");
                Subscription { node, model: None, id: 0 }
            }
        }
    }
}

/// A listener that was added at run time.
///
/// Dropping it leaves the listener where it is.
pub struct Subscription {
    node: std::sync::Weak<Node>,
    model: Option<Arc<ModelState>>,
    id: u64,
}

impl Subscription {
    /// Removes the listener: it is given no event after this, not even those that wait for it, which
    /// of a group's share no other node will be given either. A
    /// call that is running ends in peace. With the last remote listener of a model goes the
    /// subscription at the broker.
    pub fn unsubscribe(self) {
        if let (Some(node), Some(model)) = (self.node.upgrade(), &self.model) {
            node.shared.remove_listener(model, self.id);
            Emitter { node }.announce();
        }
    }

    /// Whether the listener was added; it is not when the emitter was shut down before, when its
    /// group's name is none, or the model's name or topic is another's. The log says which.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.model.is_some()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("id", &self.id).finish_non_exhaustive()
    }
}
