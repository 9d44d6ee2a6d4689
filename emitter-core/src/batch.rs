//! Events of one model that travel in one message.
//!
//! A message costs broker and network about the same whether it carries one event or ten, so that
//! consecutive events of a model may go together: as a JSON array of them, on `{prefix}/{model}/batch`. Each
//! keeps its id, its number, its signature and its own fate at the receiver, which takes them apart before
//! all else.

use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::envelope::{self, DecodeError, Format, WireLimits};

/// When events of a model travel together. Off unless [`Builder::batches`](crate::Builder::batches) is given
/// this: nodes of this framework take batches from each other without being told, other programs do not.
///
/// A batch is a JSON array of events, of content type `application/vnd.model-events.batch+json` (of
/// CloudEvents `application/cloudevents-batch+json`), on the topic `{prefix}/{model}/batch`, or where another
/// layout has `batch` in place of the operation: access control has to allow that. Of up to 1,000 events a
/// node takes it apart; beyond that it is no event.
///
/// The broker confirms or refuses a batch as one. When it refuses one, its events are sent again, each alone
/// and on its own topic; then one may come after later ones of its key. A batch expires with the first of its
/// events that does; of a model that says `expires`, none waits longer than a tenth of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batches {
    /// How many events travel in one message at most, up to 1,000. Default 100.
    pub max_events: usize,
    /// How many bytes these have at most; a larger event travels alone. No more than a message may have, by
    /// [`max_payload`](crate::Builder::max_payload) of those who receive it and by the broker's settings.
    /// Default 64 KiB.
    pub max_bytes: usize,
    /// How long an event waits for others at most. 0 waits for nothing: together travels only what was
    /// emitted while the node was busy. Default 5 ms.
    pub max_delay: Duration,
}

impl Default for Batches {
    fn default() -> Self {
        Self { max_events: 100, max_bytes: 64 * 1024, max_delay: Duration::from_millis(5) }
    }
}

/// How many events a received batch may have.
pub(crate) const MOST: usize = 1_000;

/// The media type of a batch.
pub(crate) fn content_type(format: Format) -> &'static str {
    match format {
        // CloudEvents have one of their own.
        Format::CloudEvents => "application/cloudevents-batch+json",
        _ => "application/vnd.model-events.batch+json",
    }
}

/// Encoded events as one payload, and each as a part of it.
pub(crate) fn join(events: impl Iterator<Item = Vec<u8>>) -> (Bytes, Vec<Bytes>) {
    let (mut all, mut places) = (vec![b'['], Vec::new());
    for event in events {
        if !places.is_empty() {
            all.push(b',');
        }
        let from = all.len();
        all.extend_from_slice(&event);
        places.push(from..all.len());
    }
    all.push(b']');
    let all = Bytes::from(all);
    let parts = places.into_iter().map(|place| all.slice(place)).collect();
    (all, parts)
}

/// The events of a batch; `None` of a message that is none. Told by shape, for MQTT 3.1.1 carries no media
/// type, and no event is an array.
pub(crate) fn split(payload: &Bytes, limits: &WireLimits) -> Option<Result<Vec<Bytes>, DecodeError>> {
    payload.trim_ascii_start().starts_with(b"[").then(|| parts(payload, limits))
}

fn parts(payload: &Bytes, limits: &WireLimits) -> Result<Vec<Bytes>, DecodeError> {
    let text =
        envelope::text(payload, &WireLimits { max_depth: limits.max_depth.saturating_add(1), ..*limits })?;
    let events: Vec<&RawValue> = serde_json::from_str(text)
        .map_err(|_| DecodeError::Malformed("it begins like a batch and is no JSON array".to_owned()))?;
    if events.is_empty() || events.len() > MOST {
        return Err(DecodeError::Malformed(format!("a batch has 1 to {MOST} events")));
    }
    Ok(events.into_iter().map(|event| payload.slice_ref(event.get().as_bytes())).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken_apart(payload: &[u8]) -> Option<Result<Vec<Bytes>, DecodeError>> {
        split(&Bytes::copy_from_slice(payload), &WireLimits { max_bytes: 10_000, max_depth: 3 })
    }

    #[test]
    fn what_is_no_batch_is_told() {
        for event in ["", "{}", "{\"a\":[]}", "17", "\"[\""] {
            assert_eq!(taken_apart(event.as_bytes()), None, "{event}");
        }
        for malformed in ["[", "[{]", "[]", "[{}] x", " [", "[{},]"] {
            assert!(
                matches!(taken_apart(malformed.as_bytes()), Some(Err(DecodeError::Malformed(_)))),
                "{malformed}"
            );
        }
        let many = |events: usize| format!("[{}]", vec!["1"; events].join(","));
        assert!(taken_apart(many(MOST).as_bytes()).unwrap().is_ok());
        assert!(taken_apart(many(MOST + 1).as_bytes()).unwrap().is_err());
        assert_eq!(
            taken_apart(&[b'['; 10_001]),
            Some(Err(DecodeError::TooLarge { bytes: 10_001, limit: 10_000 }))
        );
        // One level is the batch's own.
        assert!(taken_apart(b"[{\"a\":{\"b\":{}}}]").unwrap().is_ok());
        assert_eq!(taken_apart(b"[[[[[]]]]]"), Some(Err(DecodeError::TooDeep { limit: 4 })));
        assert_eq!(taken_apart(b"[\"\xff\"]"), Some(Err(DecodeError::NotUtf8)));
    }

    proptest! {
        #[test]
        fn what_is_joined_comes_apart(events in prop::collection::vec("[a-z\\[\\]{},\"]{0,9}", 1..20)) {
            let events: Vec<Vec<u8>> =
                events.iter().map(|text| serde_json::to_vec(&serde_json::json!({ "a": text })).unwrap()).collect();
            let (all, parts) = join(events.iter().cloned());
            prop_assert_eq!(&parts, &events);
            prop_assert_eq!(taken_apart(&all).unwrap().unwrap(), events);
        }

        #[test]
        fn any_bytes_are_no_batch_or_some(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(Ok(events)) = taken_apart(&payload) {
                prop_assert!(!events.is_empty());
            }
        }
    }
}
