//! An event in the form in which it leaves, and where it goes.

use super::Shared;
use crate::dead_letter::Original;
use crate::emit::QoS;
use crate::envelope::{self, Content, Encoded, Format, Outgoing, WireLimits};
use crate::event::Operation;
use crate::model_info::{AnyEvent, ModelInfo, sent};
use crate::record::{Number, Parcel, RecordError};
use crate::signature::Signatures;
use crate::topic::{Topic, TopicError};

/// Where events of one operation go, and how.
pub(super) struct Address {
    pub(super) topic: Topic,
    /// Where several go in one message, if they do.
    pub(super) batch: Option<Topic>,
    pub(super) kind: String,
    pub(super) qos: QoS,
}

impl Address {
    pub(super) fn new(shared: &Shared, info: &ModelInfo, operation: Operation) -> Result<Self, TopicError> {
        let model = info.topic()?;
        let topic = shared.topics.topic(&model, operation);
        let batch = shared.batches.is_some().then(|| shared.topics.batch(&model));
        let last = topic
            .as_str()
            .rmatch_indices('/')
            .nth(1)
            .map_or(topic.as_str(), |(place, _)| &topic.as_str()[place + 1..]);
        let qos = shared.qos.get(last).copied().unwrap_or_else(|| (info.qos)(operation));
        let kind = shared.kind_of(info, operation);
        Ok(Self { topic, batch, kind, qos })
    }
}

/// An event as it is written down.
pub(super) fn parcel(shared: &Shared, event: &dyn AnyEvent, qos: Option<QoS>) -> Result<Parcel, RecordError> {
    let (info, meta) = (event.model(), event.meta());
    let address = Address::new(shared, info, meta.operation)?;
    let content = sent(event)?;
    let outgoing = outgoing(shared, event, &content, &address.kind, None);
    let beside = Number::MAX_BYTES + shared.signatures.as_ref().map_or(0, Signatures::bytes);
    let limits = WireLimits { max_bytes: shared.wire.max_bytes.saturating_sub(beside), ..shared.wire };
    let Encoded { payload, properties } = envelope::encode(&outgoing, shared.format, &limits)?;
    let qos = qos.unwrap_or(address.qos);
    Ok(Parcel { id: meta.id, topic: address.topic.to_string(), qos, payload, properties })
}

pub(super) fn outgoing<'a>(
    shared: &'a Shared,
    event: &'a dyn AnyEvent,
    content: &'a Content,
    kind: &'a str,
    sequence: Option<u64>,
) -> Outgoing<'a> {
    let (info, meta) = (event.model(), event.meta());
    Outgoing {
        model: info.name,
        key_columns: info.key_columns,
        operation: meta.operation,
        kind,
        keys: &meta.keys,
        content,
        columns: info.columns,
        set: event.set(),
        inserted: event.inserted(),
        time: meta.time,
        id: meta.id,
        origin: &shared.origin,
        sequence,
        version: info.version,
        trace: meta.trace(),
        trace_state: meta.trace_state(),
        idempotency_key: meta.idempotency_key(),
        metadata: meta.noted(),
        cause: meta.cause(),
        hops: meta.hops(),
    }
}

/// An event as one that came would be: what a dead letter of it carries.
pub(super) fn original(shared: &Shared, event: &dyn AnyEvent) -> Original {
    let (info, meta) = (event.model(), event.meta());
    let Ok(Address { topic, kind, .. }) = Address::new(shared, info, meta.operation) else {
        return Original::default();
    };
    let payload = sent(event).ok().and_then(|content| {
        let outgoing = outgoing(shared, event, &content, &kind, meta.sequence.or(Some(0)));
        // No limit: it is not to be sent.
        let limits = WireLimits { max_bytes: usize::MAX, max_depth: usize::MAX };
        envelope::encode(&outgoing, Format::Specification, &limits).ok()
    });
    let Encoded { payload, properties } = payload.unwrap_or_default();
    Original { topic: topic.to_string(), payload: payload.into(), properties }
}
