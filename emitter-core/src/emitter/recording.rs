//! Events that somebody keeps until they are published.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::outbound::{Outbound, Told};
use super::parcel::parcel;
use super::{Emission, Emitter};
use crate::ack::Ack;
use crate::dispatcher::{Entry, Job};
use crate::event::EventId;
use crate::model_info::bulk;
use crate::record::{Number, Parcel, Progress, Record, RecordError, lane};
use crate::trace::Trace;
use crate::transport::PublishError;

impl Emitter {
    /// Writes an event down, in the form in which it is published.
    ///
    /// # Errors
    /// [`RecordError`] when it cannot be encoded; then it could not be published, either.
    pub fn record(&self, emission: &Emission) -> Result<Record, RecordError> {
        let event = &*emission.event;
        let (info, meta) = (event.model(), event.meta());
        // The row's `Serialize` is the user's.
        let encoded = catch_unwind(AssertUnwindSafe(|| parcel(&self.node.shared, event, emission.qos)));
        let parcel = encoded.unwrap_or(Err(RecordError::Panicked))?;
        let key = match &*meta.keys {
            [key] => Some(key),
            _ => None,
        };
        let by_model = info.operations.iter().any(|operation| bulk(*operation));
        Ok(Record {
            parcel,
            model: info.name,
            operation: meta.operation,
            inserted: event.inserted(),
            key: key.map(ToString::to_string),
            lane: lane(info.name, key.filter(|_| !by_model)),
            by_model,
            park: info.park,
            scope: emission.scope,
            time: meta.time,
            trace_id: Trace::id_of(meta.trace(), meta.id),
            idempotency_key: meta.idempotency_key().map(str::to_owned),
        })
    }

    /// Whether an event may leave at all: what listeners make each other write in a circle does not, and is
    /// counted and logged.
    #[must_use]
    pub fn admits(&self, emission: &Emission) -> bool {
        self.node.shared.admits(&*emission.event)
    }

    /// Hands an event that is written down, and whose transaction is committed, to the listeners of this
    /// node. `handled` is done when the last of them is, and dropped where that does not happen in this
    /// life, or where none of them is meant; without it they are handed the event later, by
    /// [`replay_record`](Self::replay_record). Other nodes get it by [`publish_record`](Self::publish_record).
    pub fn emit_recorded(&self, emission: Emission, handled: Option<Ack>) {
        self.node.shared.emit_recorded(emission, handled);
    }

    /// Has somebody keep account of how far listeners of this node are with events that are written down, from when
    /// something goes wrong with an event: then `keeper` is told of those that are done with it, of the one that failed,
    /// and of each of them from there on. Of an event that all listeners handle at once it is told nothing; nor of
    /// listeners of a model that share a name, for nobody could tell them apart. It must not wait. Later calls change
    /// nothing.
    pub fn keep_ledger(&self, keeper: impl Fn(EventId, Vec<Progress>) + Send + Sync + 'static) {
        let keeper = move |job: &Job, entries: Vec<Entry>| {
            keeper(job.event().meta().id, entries.into_iter().map(Entry::progress).collect());
        };
        // Set once: an emitter has one outbox.
        let _ = self.node.shared.ledger.set(Arc::new(keeper));
    }

    /// Publishes what was written down, in order with everything that this node publishes. `told` is called
    /// once, when the broker has confirmed it, or with the reason why it does not have it.
    ///
    /// It waits for nothing. What is unconfirmed is kept in memory, so bound how many are.
    pub fn publish_record(
        &self,
        parcel: Parcel,
        number: &Number,
        told: impl FnOnce(Result<(), PublishError>) + Send + 'static,
    ) {
        let told = Told::relay(told);
        let outbound = Outbound::Record { parcel: Box::new(parcel), number: number.clone(), told };
        // Refused, it is dropped, which tells whoever wants to know.
        let _ = self.node.shared.to_publish.push_urgent(outbound);
    }
}
