//! A function that events are handed to, and what surrounds it.

use std::any::{Any, TypeId, type_name};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::cause::Cause;
use crate::context::Home;
use crate::event::{Event, Operation, Source, Stored};
use crate::model::{EventBody, Model};
use crate::model_info::{AnyEvent, ModelInfo};
use crate::retry::{Backoff, Retry};

/// What is known of a listener without running it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerInfo {
    /// The function's name, or the name given at run time.
    pub name: Cow<'static, str>,
    /// The model it listens to.
    pub model: &'static str,
    /// The one operation it listens to, or `None` for all.
    pub operation: Option<Operation>,
    /// Which side's events it is given.
    pub hears: Hears,
    /// Those of the service's nodes that have a listener of this group share the events: each is
    /// given to one of them. `None` where every node is given all.
    pub group: Option<Cow<'static, str>>,
    /// `file:line` of its definition, or `run time`.
    pub defined_at: Cow<'static, str>,
}

/// Which side's events a listener is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hears {
    /// What this node wrote; the default.
    #[default]
    Local,
    /// What any node wrote: `allow_remote`.
    Everything,
    /// What other nodes wrote: `remote_only`.
    Remote,
}

impl Hears {
    /// Whether events from that side are given to the listener.
    #[must_use]
    pub const fn hears(self, source: Source) -> bool {
        match source {
            Source::Local => matches!(self, Self::Local | Self::Everything),
            Source::Remote => self.remote(),
        }
    }

    /// Whether it takes a subscription.
    #[must_use]
    pub const fn remote(self) -> bool {
        matches!(self, Self::Everything | Self::Remote)
    }
}

/// Something that an application shares with its listeners: a pool, a cache, a client.
///
/// Given once with [`Builder::state`](crate::Builder::state), named by type in a listener's
/// parameters. A listener whose state was not given is an error at start.
#[derive(Debug)]
pub struct State<T>(Arc<T>);

impl<T> State<T> {
    /// A state around a value.
    pub fn new(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T> Clone for State<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for State<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The states of an application, by type, and the emitter that its listeners will belong to.
#[derive(Default)]
pub struct States {
    by_type: HashMap<TypeId, (&'static str, Arc<dyn Any + Send + Sync>)>,
    home: Home,
}

impl States {
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        self.by_type.insert(TypeId::of::<T>(), (type_name::<T>(), Arc::new(value)));
    }

    /// The state of this type.
    ///
    /// # Errors
    /// [`MissingState`] when the application gave none.
    pub fn get<T: Send + Sync + 'static>(&self) -> Result<State<T>, MissingState> {
        self.find().ok_or_else(|| {
            let mut given: Vec<_> = self.by_type.values().map(|(name, _)| *name).collect();
            given.sort_unstable();
            MissingState { type_name: type_name::<T>(), given, by: ".state(…)" }
        })
    }

    /// The same, for who can do without.
    pub(crate) fn find<T: Send + Sync + 'static>(&self) -> Option<State<T>> {
        let (_, any) = self.by_type.get(&TypeId::of::<T>())?;
        Arc::clone(any).downcast().ok().map(State)
    }

    /// The emitter, for contexts.
    #[must_use]
    pub fn home(&self) -> Home {
        self.home.clone()
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "States({})", self.by_type.len())
    }
}

/// A listener wants a state that the application did not give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no state of type `{type_name}` was given; give it with `{by}` on the builder ({})", among(given))]
pub struct MissingState {
    /// The type's name.
    pub type_name: &'static str,
    /// The types of the states that were given.
    pub given: Vec<&'static str>,
    /// What gives it, such as `.state(…)`.
    pub by: &'static str,
}

fn among(given: &[&'static str]) -> String {
    if given.is_empty() { "none was given".to_owned() } else { format!("given were {}", given.join(", ")) }
}

/// How one listener is called, where that differs from what the emitter's builder says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListenerOptions {
    /// How many of its calls may run at a time, at least 1.
    /// See [`Builder::listener_concurrency`](crate::Builder::listener_concurrency).
    pub concurrency: Option<usize>,
    /// How long one call may take.
    /// See [`Builder::listener_timeout`](crate::Builder::listener_timeout).
    pub timeout: Option<Duration>,
    /// Calls for events of one key may run side by side and in any order.
    pub unordered: bool,
    /// How often it is called for one event, at least 1.
    pub attempts: Option<u32>,
    /// How long after a failed call the next one begins; doubled each time.
    pub backoff: Option<Duration>,
    /// At most this much is added to that at random.
    pub jitter: Option<Duration>,
    /// No call begins later than this after the first one for its event.
    pub budget: Option<Duration>,
    /// An event that it does not handle in all its attempts becomes no dead letter.
    pub no_dead_letter: bool,
    /// It wants the row as it was before an update. Writes of this node read it then, which those
    /// of other nodes only do where they have such a listener too, or the model says `before`.
    pub before: bool,
}

impl ListenerOptions {
    /// The emitter's retries, with what differs.
    pub(crate) fn retry(&self, default: Retry) -> Retry {
        let backoff = Backoff {
            base: self.backoff.unwrap_or(default.backoff.base),
            cap: default.backoff.cap.max(self.backoff.unwrap_or_default()),
            jitter: self.jitter.unwrap_or(default.backoff.jitter),
        };
        let attempts = self.attempts.unwrap_or(default.attempts);
        Retry { attempts, backoff, budget: self.budget.unwrap_or(default.budget) }
    }
}

/// What a listener may return: `()`, or a `Result<(), E>` whose error can be displayed.
#[diagnostic::on_unimplemented(
    message = "a listener cannot return `{Self}`",
    label = "return `()` or `Result<(), E>` where `E: Display`"
)]
pub trait Outcome {
    /// The error as text, if it is one.
    fn into_result(self) -> Result<(), String>;
}

#[diagnostic::do_not_recommend]
impl Outcome for () {
    fn into_result(self) -> Result<(), String> {
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl<E: fmt::Display> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

/// Why a call did not handle its event, with the reason in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unhandled {
    /// The listener was called and failed: one of its attempts.
    Failed(String),
    /// What the call needs is not there, such as a connection, and the listener was not called. No attempt: the call is made
    /// again until it is there.
    Unready(String),
    /// It was lost in the middle of the call. No attempt either, ten times for an event; after that it is, for it may be the event
    /// that has it lost.
    Interrupted(String),
}

/// One call of a listener.
pub(crate) struct Call {
    /// Pending until its event is done with.
    pub(crate) running: BoxFuture<'static, Result<(), Unhandled>>,
    /// Tells when it has what it needs; `None` where it needs nothing. Its time-out counts from there on.
    pub(crate) ready: Option<oneshot::Receiver<()>>,
}

impl Call {
    fn new(running: impl Future<Output = Result<(), Unhandled>> + Send + 'static) -> Self {
        Self { running: Box::pin(running), ready: None }
    }
}

/// Says that a call has what it needs: from there on its time-out counts.
#[derive(Debug)]
pub struct Ready(oneshot::Sender<()>);

impl Ready {
    /// Now it has.
    pub fn now(self) {
        // Nobody listens to a call that was dropped.
        let _ = self.0.send(());
    }
}

/// Makes a call on a thread that may block. Dropped before one has begun with it, it is taken back.
///
/// # Errors
/// The call's; and that the runtime is shutting down, which then makes none.
pub async fn on_a_thread(
    call: impl FnOnce() -> Result<(), Unhandled> + Send + 'static,
) -> Result<(), Unhandled> {
    let mut thread = JoinSet::new();
    thread.spawn_blocking(call);
    match thread.join_next().await.unwrap_or(Ok(Ok(()))) {
        Ok(result) => result,
        Err(stopped) => match stopped.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Unhandled::Failed("the runtime is shutting down".to_owned())),
        },
    }
}

/// Begins a call, the how-many-eth for this event; `None` when the event is not of the listener's type.
type Begin = dyn Fn(&Arc<dyn AnyEvent>, u32) -> Option<Call> + Send + Sync;

/// Whether an event is let through; `false` for one that is not of the listener's type.
pub(crate) type Filter = dyn Fn(&Arc<dyn AnyEvent>) -> bool + Send + Sync;

/// A listener's function, ready to be called with events of its model.
///
/// Made by [`Handler::from_async`] and [`Handler::from_blocking`].
#[derive(Clone)]
pub struct Handler {
    info: &'static ModelInfo,
    operation: Option<Operation>,
    /// Which of those events it takes; all where there is none.
    filter: Option<Arc<Filter>>,
    options: ListenerOptions,
    call: Arc<Begin>,
}

impl Handler {
    /// A handler around an async function, which is told the how-many-eth call for its event this
    /// is. What it does before its first await runs on the
    /// model's dispatcher task: it must not block.
    pub fn from_async<T, F, R>(function: F) -> Self
    where
        T: EventBody,
        F: Fn(Event<T>, u32) -> R + Send + Sync + 'static,
        R: Future<Output: Outcome> + Send + 'static,
    {
        Self::of::<T>(Arc::new(move |event, attempt| {
            let running = function(typed::<T>(event)?, attempt);
            Some(Call::new(async move { running.await.into_result().map_err(Unhandled::Failed) }))
        }))
    }

    /// The same around a function that needs something which may be away, such as a connection, before it can
    /// call the listener. Until it is [`Ready`] it may take any time; and what it says is no attempt of the listener.
    pub fn from_preparing<T, F, R>(function: F) -> Self
    where
        T: EventBody,
        F: Fn(Event<T>, u32, Ready) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Unhandled>> + Send + 'static,
    {
        Self::of::<T>(Arc::new(move |event, attempt| {
            let (ready, is_ready) = oneshot::channel();
            let running = function(typed::<T>(event)?, attempt, Ready(ready));
            Some(Call { ready: Some(is_ready), ..Call::new(running) })
        }))
    }

    /// A handler around a plain function, which may block: each call runs on tokio's pool of
    /// blocking threads. Its time-out lets the queue go on; a function that has begun by then cannot
    /// be stopped, and may still work when the next event of its key comes.
    pub fn from_blocking<T, F, R>(function: F) -> Self
    where
        T: EventBody,
        F: Fn(Event<T>, u32) -> R + Send + Sync + 'static,
        R: Outcome,
    {
        let function = Arc::new(function);
        Self::of::<T>(Arc::new(move |event, attempt| {
            let (event, function) = (typed::<T>(event)?, Arc::clone(&function));
            Some(Call::new(async move {
                let cause = Cause::present(event.meta());
                let call = move || function(event, attempt).into_result().map_err(Unhandled::Failed);
                on_a_thread(move || cause.within(call)).await
            }))
        }))
    }

    /// [`from_blocking`](Self::from_blocking) around a function that needs something which may be away, as that of
    /// [`from_preparing`](Self::from_preparing).
    pub fn from_blocking_preparing<T, F>(function: F) -> Self
    where
        T: EventBody,
        F: Fn(Event<T>, u32, Ready) -> Result<(), Unhandled> + Send + Sync + 'static,
    {
        let function = Arc::new(function);
        Self::from_preparing::<T, _, _>(move |event, attempt, ready| {
            let function = Arc::clone(&function);
            async move {
                let cause = Cause::present(event.meta());
                on_a_thread(move || cause.within(|| function(event, attempt, ready))).await
            }
        })
    }

    fn of<T: EventBody>(call: Arc<Begin>) -> Self {
        Self {
            info: ModelInfo::of::<T::Model>(),
            operation: T::OPERATION,
            filter: None,
            options: ListenerOptions::default(),
            call,
        }
    }

    /// Takes only events for which `filter` says `true`, besides what it was told before. A filter
    /// runs on the model's dispatcher task: it must not block.
    #[must_use]
    pub fn filtered<T: EventBody>(
        mut self,
        filter: impl Fn(&Event<T>) -> bool + Send + Sync + 'static,
    ) -> Self {
        let before = self.filter.take();
        self.filter = Some(Arc::new(move |event| {
            before.as_ref().is_none_or(|before| before(event))
                && typed::<T>(event).is_some_and(|event| filter(&event))
        }));
        self
    }

    /// How it is called.
    #[must_use]
    pub fn with(mut self, options: ListenerOptions) -> Self {
        self.options = options;
        self
    }

    pub(crate) fn options(&self) -> &ListenerOptions {
        &self.options
    }

    /// Whether calls may come in any order: it says so, or its events have no key to be in order by.
    pub(crate) fn is_unordered(&self) -> bool {
        self.options.unordered || self.info.key_columns.is_empty()
    }

    /// Whether updates are to tell it the row before.
    pub(crate) fn wants_before(&self) -> bool {
        let updates = matches!(self.operation, None | Some(Operation::Update | Operation::UpdateMany));
        self.options.before && updates
    }

    /// Which events it takes; all where there is none.
    pub(crate) fn filter(&self) -> Option<&Filter> {
        self.filter.as_deref()
    }

    /// The model whose events it takes.
    pub(crate) fn model(&self) -> &'static ModelInfo {
        self.info
    }

    /// The operation that it takes, or `None` for all.
    pub(crate) fn operation(&self) -> Option<Operation> {
        self.operation
    }

    /// Begins a call; `None` when the event is not of its type.
    pub(crate) fn call(&self, event: &Arc<dyn AnyEvent>, attempt: u32) -> Option<Call> {
        (self.call)(event, attempt)
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler").field("model", &self.info.name).finish_non_exhaustive()
    }
}

/// An event of any model as one of this type, if it is.
pub(crate) fn typed<T: EventBody>(event: &Arc<dyn AnyEvent>) -> Option<Event<T>> {
    let any: Arc<dyn Any + Send + Sync> = Arc::clone(event).as_any();
    Event::of(any.downcast::<Stored<T::Model>>().ok()?)
}

/// What a listener of an event type wants, for `#[listener]`.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The model's name.
    pub model: &'static str,
    /// The one operation, or `None` for all.
    pub operation: Option<Operation>,
}

/// What a listener of this event type wants. One function for all, so that a type that is no
/// event is one error.
#[must_use]
pub const fn wanted<T: EventBody>() -> Wanted {
    Wanted { model: <T::Model as Model>::NAME, operation: T::OPERATION }
}

/// "Is this model."
#[diagnostic::on_unimplemented(
    message = "the listener's event belongs to `{Self}`, and its model is `{M}`",
    label = "an event of `{Self}`",
    note = "write `model = {Self}`, or take an event of `{M}`"
)]
pub trait IsModel<M> {}

#[diagnostic::do_not_recommend]
impl<M> IsModel<M> for M {}

/// Nothing but the proof that events of this type are the model's, for `#[listener(model = User)]`.
pub fn listens_to<T: EventBody<Model: IsModel<M>>, M>() {}

/// Whether two names are one model, for the check that `#[listener]` writes: upper and lower case
/// are not told apart.
#[must_use]
pub const fn same_model(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// What the compiler answers where the names are not one model; it cannot format while it compiles.
#[must_use]
pub const fn other_model<T: EventBody>(given: &str) -> Answer {
    let model = <T::Model as Model>::NAME;
    Answer { text: [0; 512], length: 0 }
        .and("the listener's model is \"")
        .and(given)
        .and("\", but its event belongs to \"")
        .and(model)
        .and("\": write `model = \"")
        .and(model)
        .and("\"`, or take an event of the other model")
}

/// A text that is put together while the program is compiled.
#[derive(Debug)]
pub struct Answer {
    text: [u8; 512],
    length: usize,
}

impl Answer {
    const fn and(mut self, part: &str) -> Self {
        let mut index = 0;
        while index < part.len() && self.length < self.text.len() {
            self.text[self.length] = part.as_bytes()[index];
            self.length += 1;
            index += 1;
        }
        self
    }

    /// The text.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        match str::from_utf8(self.text.split_at(self.length).0) {
            Ok(text) => text,
            // Cut off within a letter.
            Err(_) => "the listener's model and its event's model are not the same: make them agree",
        }
    }
}
