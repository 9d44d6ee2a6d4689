//! Everything that travels on the bus, for who keeps it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use tracing::warn;
use uuid::Uuid;

use super::{Emitter, Shared, health};
use crate::batch;
use crate::envelope::{self, DecodeError, Glimpse, Incoming, Kind};
use crate::event::{EventId, Operation, Origin};
use crate::metrics::OnceInAWhile;
use crate::plain;
use crate::properties::Properties;
use crate::registry::RegisteredModel;
use crate::signature::{Checked, Unauthentic};
use crate::topic::{MAX_MODEL_BYTES, MAX_TOPIC_BYTES, Said};
use crate::transport::{Ack, Delivery, Transport, TransportStatus};

/// Everything that travels on the bus below this application's topics, on a connection of its own: whoever
/// wrote it, whether anybody listens, in each form of events. Batches are taken apart, and where the node has
/// [`Signatures`](crate::Signatures) what no trusted key signed is refused.
///
/// What is acknowledged only after it was written down is not lost: the connection's session is kept by the
/// broker, under the name that [`Emitter::bus`] was given.
pub struct Bus {
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    /// By their names in lower case.
    models: HashMap<String, &'static RegisteredModel>,
    refused: u64,
    bad: OnceInAWhile,
}

/// A message on the bus.
#[derive(Debug)]
pub struct Passing {
    /// The topic on which it came; not validated, at most [`MAX_TOPIC_BYTES`] long.
    pub topic: String,
    /// Its events: one, or those of a batch.
    pub events: Vec<Sighting>,
    /// To be settled when they are written down.
    pub ack: Ack,
}

/// An event on the bus, and what it tells of itself. Nothing but its text is certain: it is a JSON object
/// within this node's limits.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Sighting {
    /// The event as it travelled.
    pub payload: Bytes,
    /// What travelled beside it and counts.
    pub properties: Properties,
    /// Its id, where that is a UUID.
    pub id: Option<EventId>,
    /// Who wrote it. With the id it tells an event from all others; ids without it are no identities.
    pub origin: Option<Origin>,
    /// Its model.
    pub model: Option<String>,
    /// What was done.
    pub operation: Option<Operation>,
    /// The key of its row, as [`Key`](crate::Key) shows itself: where the program knows the model, the sender
    /// tells it, or it is in a column `id`. `None` of events of several rows.
    pub key: Option<String>,
    /// What kind of event it says it is; where it says none, or no more than model and operation, as
    /// [`Event::kind`](crate::Event::kind) has it.
    pub kind: Option<String>,
    /// The trace to which it belongs; else its id.
    pub trace_id: Option<Uuid>,
    /// It carries a signature, of a trusted key where this node has any.
    pub signed: bool,
}

impl Sighting {
    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        // It was read as one.
        std::str::from_utf8(&self.payload).unwrap_or("{}")
    }

    /// Whether a database that keeps JSON by its values, such as PostgreSQL's `jsonb`, gives back the same event:
    /// then it is not signed, has no name twice, no NUL, and no number that is not written plainly.
    #[must_use]
    pub fn is_kept_by_value(&self) -> bool {
        !self.signed && envelope::is_kept_by_value(self.text())
    }
}

impl fmt::Debug for Sighting {
    /// Leaves the payload out: it holds users' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sighting")
            .field("bytes", &self.payload.len())
            .field("id", &self.id)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// The longest texts of an event that whoever keeps it may have an index of.
const MAX_KEY_BYTES: usize = 512;
const MAX_NAME_BYTES: usize = 128;

/// Why a message is not taken.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Unauthentic(#[from] Unauthentic),
    #[error("its topic has more than {MAX_TOPIC_BYTES} bytes")]
    Topic,
    #[error("it is no JSON object")]
    NoObject,
}

impl Emitter {
    /// Listens to the whole bus as the client `client`, whose session any node may take over from any other:
    /// the last one that does has it. `None` without a transport, or where that knows no such connections.
    #[must_use]
    pub fn bus(&self, client: &str) -> Option<Bus> {
        let shared = Arc::clone(&self.node.shared);
        // Its tasks run there, also when a thread that knows no runtime asks.
        let within = shared.runtime.enter();
        let transport = shared.transport.as_ref()?.receiver(client)?;
        transport.subscribe(shared.topics.everything());
        drop(within);
        let models = RegisteredModel::all().map(|model| (model.name.to_ascii_lowercase(), model)).collect();
        let bad = OnceInAWhile::every(Duration::from_secs(10));
        Some(Bus { shared, transport, models, refused: 0, bad })
    }
}

impl Bus {
    /// The next message with an event in it; `None` once somebody else has taken the client's name, or the
    /// connection is closed. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Passing> {
        loop {
            let Delivery { topic, payload, properties, ack } = self.transport.next().await?;
            // Dead letters, announcements and canaries are no events.
            let events = match self.shared.topics.is_own_topic(&topic) {
                true => Vec::new(),
                false => self.events(&topic, &payload, properties),
            };
            if !events.is_empty() {
                return Some(Passing { topic, events, ack });
            }
            // It would not get better by coming again.
            ack.done();
        }
    }

    /// How many messages, or parts of a batch, were refused: no JSON objects, too large, too deep, or not signed
    /// by whom this node trusts.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// How the connection stands.
    #[must_use]
    pub fn status(&self) -> TransportStatus {
        self.transport.status()
    }

    /// What is not as it should be with the connection, as in [`Health::reasons`](crate::Health::reasons).
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        health::of_receiver(&self.status()).collect()
    }

    /// Sends the last acknowledgements and ends the connection, within this time. It blocks the thread; dropped
    /// without it, the connection breaks.
    pub fn close(self, within: Duration) {
        let (done, is_done) = mpsc::channel();
        let transport = Arc::clone(&self.transport);
        self.shared.runtime.spawn(async move {
            transport.close(within).await;
            // Nobody waits any more.
            let _ = done.send(());
        });
        // An error where the runtime is gone, and its connections with it.
        let _ = is_done.recv_timeout(within + Duration::from_secs(1));
    }

    fn events(&mut self, topic: &str, payload: &Bytes, properties: Properties) -> Vec<Sighting> {
        let parts = match self.parts(topic, payload, properties) {
            Ok(parts) => parts,
            Err(refusal) => {
                self.refuse(topic, &refusal);
                return Vec::new();
            }
        };
        let mut events = Vec::with_capacity(parts.len());
        for (payload, properties) in parts {
            match self.sighting(topic, payload, properties) {
                Ok(sighting) => events.push(sighting),
                Err(refusal) => self.refuse(topic, &refusal),
            }
        }
        events
    }

    fn parts(
        &self,
        topic: &str,
        payload: &Bytes,
        properties: Properties,
    ) -> Result<Vec<(Bytes, Properties)>, Refusal> {
        if topic.len() > MAX_TOPIC_BYTES {
            return Err(Refusal::Topic);
        }
        let (bytes, limit) = (properties.bytes(), Properties::MOST_BYTES);
        if bytes > limit {
            return Err(DecodeError::Properties { bytes, limit }.into());
        }
        match batch::split(payload, &self.shared.wire) {
            None => Ok(vec![(payload.clone(), properties)]),
            // What came beside the message is about the batch.
            Some(events) => Ok(events?.into_iter().map(|event| (event, Properties::default())).collect()),
        }
    }

    fn refuse(&mut self, topic: &str, refusal: &Refusal) {
        self.refused += 1;
        let topic: String = topic.chars().take(200).collect();
        self.bad.log(|more| warn!(topic, more, "a message on the bus was refused: {refusal}"));
    }

    fn sighting(&self, topic: &str, payload: Bytes, properties: Properties) -> Result<Sighting, Refusal> {
        let limits = &self.shared.wire;
        let text = envelope::text(&payload, limits)?;
        let mut properties = properties;
        let mut signed = crate::signature::is_signed(&payload);
        if let Some(signatures) = &self.shared.signatures {
            signed = signatures.check(topic, &properties, &payload)? == Checked::Signed;
            // Of what was signed, no more is left than was.
            if signed && !envelope::has_attributes(&properties) {
                properties = Properties::default();
            }
        }
        let glimpse = Glimpse::of(text).ok_or(Refusal::NoObject)?;
        let told = self.told(topic, &payload, &properties, &glimpse);
        Ok(Sighting { signed, payload, properties, ..told })
    }

    /// What an event tells of itself; of what is none to any form, next to nothing.
    fn told(&self, topic: &str, payload: &Bytes, properties: &Properties, glimpse: &Glimpse<'_>) -> Sighting {
        let limits = &self.shared.wire;
        let place = self.shared.model_on(topic);
        let said = match &place {
            Some((_, said)) => *said,
            None => self.shared.topics.read(topic).map_or(Said::Nothing, |(_, said)| said),
        };
        let decoded = envelope::decode(payload, properties, said, limits);
        // An event that is no row has no operation in its topic, nor in its kind where another program wrote it.
        let decoded =
            decoded.or_else(|_| envelope::decode(payload, properties, Said::This(Operation::Create), limits));
        let incoming = decoded.ok();
        let named = incoming.as_ref().and_then(|incoming| incoming.model.as_deref());
        let named = named.or(place.as_ref().map(|(model, _)| model.info.name));
        let known = named.and_then(|name| self.models.get(&name.to_ascii_lowercase())).copied();
        let model = known.map(|known| known.name).or(named).filter(|name| name.len() <= MAX_MODEL_BYTES);
        let operation = incoming.as_ref().map(|incoming| incoming.operation);
        let kind = glimpse.kind(properties).map(std::borrow::Cow::into_owned);
        let kind = kind.filter(|kind| !kind.is_empty() && kind.len() <= Kind::MAX_BYTES);
        // Some forms tell none, and CloudEvents model and operation alone: whoever looks for a kind knows it as `Event::kind`.
        let untold = |kind: &String| {
            let both = model.zip(operation);
            both.is_some_and(|(model, operation)| *kind == format!("{model}.{operation}"))
        };
        let kind = kind.filter(|kind| !untold(kind)).or_else(|| match known.and_then(|known| known.event) {
            Some(kind) => Some(kind.to_owned()),
            None => Some(plain::kind_of_rows(model?, operation?)),
        });
        let key = incoming.as_ref().and_then(|incoming| key(incoming, known, glimpse, properties));
        let id = incoming.as_ref().and_then(|incoming| incoming.id);
        let trace = incoming.as_ref().and_then(|incoming| incoming.trace);
        let trace_id = trace.map(|trace| Uuid::from_u128(trace.trace_id()));
        let trace_id = trace_id.or_else(|| glimpse.trace_id()).or(id.map(|id| *id.as_uuid()));
        let model = model.map(str::to_owned);
        let origin = incoming.and_then(|incoming| incoming.origin).filter(|origin| {
            [&origin.service, &origin.node].into_iter().all(|name| (1..=MAX_NAME_BYTES).contains(&name.len()))
        });
        Sighting {
            payload: Bytes::new(),
            properties: Properties::default(),
            id,
            origin,
            model,
            operation,
            key: key.filter(|key| key.len() <= MAX_KEY_BYTES),
            kind,
            trace_id,
            signed: false,
        }
    }
}

/// The key of an event's row.
fn key(
    incoming: &Incoming<'_>,
    known: Option<&RegisteredModel>,
    glimpse: &Glimpse<'_>,
    properties: &Properties,
) -> Option<String> {
    if crate::model_info::bulk(incoming.operation) {
        return None;
    }
    let of_row = |columns: &[&str]| envelope::key_of_row(&incoming.content, columns);
    match known {
        Some(known) => of_row(known.key_columns),
        None => glimpse.key(properties).or_else(|| of_row(&["id"])),
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("status", &self.status()).finish_non_exhaustive()
    }
}
