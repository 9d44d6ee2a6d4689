//! What a stream is told to tell, and to whom, before it begins to hear.

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;

use emitter_core::metrics::table;
use emitter_core::model::{EventBody, Model};
use emitter_core::{Emitter, Event, ListenerOptions, Operation, Subscription};

use super::hub::{Hub, May};
use super::{Stream, StreamConfig, StreamStats};

/// Why a stream did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The emitter is shut down, or the model's name or topic is another's. The log says which.
    #[error("the stream cannot hear the model `{model}`: see the log")]
    Unheard {
        /// The model.
        model: &'static str,
    },
    /// An event would be told twice, for two of the stream's types have it, such as `OrderEvent` and `OrderCreated`.
    /// Name each once.
    #[error("the stream is to tell the same events of the model `{model}` twice")]
    Twice {
        /// The model.
        model: &'static str,
    },
}

/// Which events: of a model, of one operation or all.
#[derive(Clone, Copy)]
struct Named {
    model: TypeId,
    name: &'static str,
    operation: Option<Operation>,
}

impl Named {
    fn meets(&self, other: &Self) -> bool {
        let any = self.operation.is_none() || other.operation.is_none();
        self.model == other.model && (any || self.operation == other.operation)
    }
}

type Begin<V> = Box<dyn FnOnce(&Emitter, &Arc<Hub<V>>) -> Result<Subscription, StreamError> + Send>;

/// A stream that is about to start. See [`Stream::builder`].
#[must_use = "nothing is heard until `.start(&emitter)`"]
pub struct StreamBuilder<V> {
    config: StreamConfig,
    named: Vec<Named>,
    begin: Vec<Begin<V>>,
}

impl<V: Send + Sync + 'static> StreamBuilder<V> {
    pub(super) fn new() -> Self {
        Self { config: StreamConfig::default(), named: Vec::new(), begin: Vec::new() }
    }

    /// Bounds. Default: see [`StreamConfig`].
    pub fn config(mut self, config: StreamConfig) -> Self {
        self.config = config;
        self
    }

    /// Tells of these events, which are `T`, such as `OrderEvent` or `OrderCreated`, the visitors of whom `may` says
    /// so. It is asked for each visitor and event, on the visitor's task, and must not block; one that
    /// panics has said no.
    pub fn events<T: EventBody>(self, may: impl Fn(&V, &Event<T>) -> bool + Send + Sync + 'static) -> Self {
        let may = Arc::new(may);
        self.told_of::<T>(move |event| {
            let (may, event) = (Arc::clone(&may), event.clone());
            Some(Box::new(move |visitor| may(visitor, &event)))
        })
    }

    /// Tells all visitors of these events.
    pub fn events_for_all<T: EventBody>(self) -> Self {
        self.told_of::<T>(|_| None)
    }

    fn told_of<T: EventBody>(
        mut self,
        may: impl Fn(&Event<T>) -> Option<May<V>> + Send + Sync + 'static,
    ) -> Self {
        self.named.push(Named {
            model: TypeId::of::<T::Model>(),
            name: T::Model::NAME,
            operation: T::OPERATION,
        });
        self.begin.push(Box::new(move |emitter, hub| {
            let hub = Ears(Arc::clone(hub));
            // It fails where the row's `Serialize` does, and would again.
            let options =
                ListenerOptions { attempts: Some(1), no_dead_letter: true, ..ListenerOptions::default() };
            let listener = emitter.on::<T>().allow_remote().name("stream").options(options);
            let subscription = listener.run(move |event| {
                let told = hub.0.push(&event, may(&event));
                async move { told }
            });
            if subscription.is_active() {
                Ok(subscription)
            } else {
                Err(StreamError::Unheard { model: T::Model::NAME })
            }
        }));
        self
    }

    /// Begins to hear.
    ///
    /// # Errors
    /// [`StreamError`], which names a model that cannot be heard, or would be twice.
    pub fn start(self, emitter: &Emitter) -> Result<Stream<V>, StreamError> {
        for (place, named) in self.named.iter().enumerate() {
            if self.named[..place].iter().any(|earlier| earlier.meets(named)) {
                return Err(StreamError::Twice { model: named.name });
            }
        }
        let hub = Arc::new(Hub::new(self.config));
        report(emitter, &hub);
        let mut heard = Subscriptions(Vec::new());
        for begin in self.begin {
            heard.0.push(begin(emitter, &hub)?);
        }
        Ok(Stream { hub, heard: Arc::new(heard) })
    }
}

/// Has the node tell what a stream does.
fn report<V: Send + Sync + 'static>(emitter: &Emitter, hub: &Arc<Hub<V>>) {
    emitter.report_while(hub, |hub, report| {
        let StreamStats { visitors, told, dropped, reloads } = hub.stats();
        report.gauge(&table::STREAM_VISITORS, &[], visitors as u64);
        report.counter(&table::STREAM_TOLD, &[], told);
        report.counter(&table::STREAM_DROPPED, &[], dropped);
        report.counter(&table::STREAM_RELOADS, &[], reloads);
    });
}

/// What a listener hears with. It is dropped with the listener, after the last event: when the emitter is shut down, or
/// nobody has the stream any more. Then no visitor waits for more.
struct Ears<V>(Arc<Hub<V>>);

impl<V> Drop for Ears<V> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<V> fmt::Debug for StreamBuilder<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

/// They end with the last who has them.
pub(super) struct Subscriptions(pub(super) Vec<Subscription>);

impl Drop for Subscriptions {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Subscription::unsubscribe);
    }
}
