//! What becomes of an event that cannot be read, handled or published.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::event::{EventId, Origin, Timestamp};
use crate::properties::Properties;

/// Why an event is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// What came is no event, or none that this node's model can read.
    Undecodable,
    /// A listener did not handle it in all its attempts.
    Unhandled,
    /// It could not be sent: too large, refused by the broker, no JSON.
    Unpublished,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Undecodable, Self::Unhandled, Self::Unpublished];

    /// Its name, as in letters: `undecodable`, `unhandled`, `unpublished`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::Unhandled => "unhandled",
            Self::Unpublished => "unpublished",
        }
    }

    /// The reason with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An event that cannot be read, handled or published, with all that helps to find out why.
///
/// It is published on `{prefix}/dlq/{original topic with / as _}` at QoS 1, as a JSON object of
/// `original_topic`, `failure_reason`, `failure_timestamp` and `payload`, and beside these `id`, `reason`, `error`,
/// `attempts`, `listener`, `event_id`, `node`, `content_type` and `properties`. The payload is there as it came: an
/// object as that, another text as a text, other bytes in base64 with `"payload_encoding":"base64"`; it is
/// `null` where it would not fit, with its length in `payload_bytes`.
#[derive(Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The letter's own id.
    pub id: EventId,
    /// The topic on which the event came, or was to go.
    pub original_topic: String,
    /// Why, for sorting.
    pub reason: Reason,
    /// Why, in words. Of a listener it is what its error displays.
    pub error: String,
    /// The listener that did not handle it.
    pub listener: Option<String>,
    /// How often that was called, or the event was sent; 0 where nothing of that was tried.
    pub attempts: u32,
    /// The event's id, where one could be read.
    pub event: Option<EventId>,
    /// The event's model; none of what could not be read.
    pub model: Option<String>,
    /// The key of its row as text, of what a listener did not handle, where the event is of one row.
    pub key: Option<String>,
    /// Whether the listener is given the events of a key in order; where there is no key, all of the model.
    pub is_ordered: bool,
    /// When it died, by this node's clock.
    pub time: Timestamp,
    /// The node on which it died.
    pub node: Arc<Origin>,
    /// The event's bytes. They hold users' data.
    pub payload: Bytes,
    /// What travelled beside them.
    pub properties: Properties,
}

impl fmt::Debug for DeadLetter {
    /// Leaves payload and properties out: they hold users' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("id", &self.id)
            .field("original_topic", &self.original_topic)
            .field("reason", &self.reason)
            .field("error", &self.error)
            .field("listener", &self.listener)
            .field("attempts", &self.attempts)
            .field("event", &self.event)
            .finish_non_exhaustive()
    }
}

/// An event as it came.
#[derive(Debug, Default)]
pub(crate) struct Original {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) properties: Properties,
}

#[derive(Serialize)]
struct Letter<'a> {
    original_topic: &'a str,
    failure_reason: String,
    failure_timestamp: Timestamp,
    payload: Payload<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_bytes: Option<usize>,
    id: EventId,
    reason: Reason,
    error: &'a str,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<EventId>,
    node: &'a Origin,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    properties: &'a [(std::borrow::Cow<'static, str>, String)],
}

#[derive(Serialize)]
#[serde(untagged)]
enum Payload<'a> {
    Object(&'a RawValue),
    Text(&'a str),
    Bytes(String),
    LeftOut(()),
}

/// The longest text of an error that a letter carries, in bytes.
pub(crate) const MAX_ERROR_BYTES: usize = 2_048;

impl DeadLetter {
    /// As it is published: without its payload and what travelled beside it where it would be more than so
    /// many bytes. What is left has no such bound, but is short where the topic is.
    #[must_use]
    pub fn to_json(&self, most: usize) -> Vec<u8> {
        let whole = self.written(self.payload(), None);
        if whole.len() <= most {
            return whole;
        }
        self.written(Payload::LeftOut(()), Some(self.payload.len()))
    }

    /// A letter that was kept, on its way to [`Emitter::redrive`](crate::Emitter::redrive). What else is known of it
    /// is put into its fields.
    #[must_use]
    pub fn kept(
        id: EventId,
        reason: Reason,
        original_topic: impl Into<String>,
        payload: impl Into<Bytes>,
        node: Origin,
    ) -> Self {
        Self {
            id,
            original_topic: original_topic.into(),
            reason,
            error: String::new(),
            listener: None,
            attempts: 0,
            event: None,
            model: None,
            key: None,
            is_ordered: false,
            time: Timestamp::from_millis(0),
            node: Arc::new(node),
            payload: payload.into(),
            properties: Properties::default(),
        }
    }

    /// Why, in words, as the letter's `failure_reason` has it.
    #[must_use]
    pub fn failure_reason(&self) -> String {
        let error = &self.error[..self.error.floor_char_boundary(MAX_ERROR_BYTES)];
        format!("{}: {error}", self.reason)
    }

    /// The bytes that it takes.
    pub(crate) fn size(&self) -> usize {
        self.payload.len() + self.properties.bytes() + self.original_topic.len() + self.error.len()
    }

    fn payload(&self) -> Payload<'_> {
        let Ok(text) = std::str::from_utf8(&self.payload) else {
            return Payload::Bytes(STANDARD.encode(&self.payload));
        };
        match serde_json::from_str::<&RawValue>(text) {
            Ok(object) if object.get().starts_with('{') => Payload::Object(object),
            _ => Payload::Text(text),
        }
    }

    fn written(&self, payload: Payload<'_>, payload_bytes: Option<usize>) -> Vec<u8> {
        let error = &self.error[..self.error.floor_char_boundary(MAX_ERROR_BYTES)];
        let left_out = payload_bytes.is_some();
        let letter = Letter {
            original_topic: &self.original_topic,
            failure_reason: self.failure_reason(),
            failure_timestamp: self.time,
            payload_encoding: matches!(payload, Payload::Bytes(_)).then_some("base64"),
            payload,
            payload_bytes,
            id: self.id,
            reason: self.reason,
            error,
            attempts: self.attempts,
            listener: self.listener.as_deref(),
            event_id: self.event,
            node: &self.node,
            content_type: self.properties.content_type.as_deref().filter(|_| !left_out),
            properties: if left_out { &[] } else { &self.properties.user },
        };
        // All of it can be JSON: texts, numbers, and a payload that is JSON already.
        serde_json::to_vec(&letter).unwrap_or_default()
    }
}

/// How dead letters are kept, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetterLimits {
    /// Whether they are published on `{prefix}/dlq/…`. Default: yes.
    pub publish: bool,
    /// How many may become of events in a second, on the average. What goes beyond is counted
    /// (`dead_letters_lost`) and forgotten, so that a flood of bad messages makes none of letters.
    /// Default 100.
    pub per_second: u32,
    /// How many may at once, after a time without any. Default 1,000.
    pub burst: u32,
    /// How many of the last ones this node keeps in memory, for
    /// [`Emitter::dead_letters`](crate::Emitter::dead_letters). Default 200.
    pub kept: usize,
    /// How many bytes of theirs it keeps at most. Default 8 MiB.
    pub kept_bytes: usize,
}

impl Default for DeadLetterLimits {
    fn default() -> Self {
        Self { publish: true, per_second: 100, burst: 1_000, kept: 200, kept_bytes: 8 * 1024 * 1024 }
    }
}

/// So many a second, and so many at once.
#[derive(Debug)]
pub(crate) struct Bucket {
    per_second: f64,
    burst: f64,
    left: f64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        Self { per_second: per_second.into(), burst: burst.into(), left: burst.into(), filled: now }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let since: Duration = now.saturating_duration_since(self.filled);
        self.left = since.as_secs_f64().mul_add(self.per_second, self.left).min(self.burst);
        self.filled = self.filled.max(now);
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;

    fn letter(payload: &[u8]) -> DeadLetter {
        DeadLetter {
            id: EventId::from_uuid(Uuid::from_u128(1)),
            original_topic: "prisma/events/user/create".to_owned(),
            reason: Reason::Unhandled,
            error: "no such host".to_owned(),
            listener: Some("notify".to_owned()),
            attempts: 3,
            event: None,
            model: None,
            key: None,
            is_ordered: false,
            time: Timestamp::from_millis(0),
            node: Arc::new(Origin {
                service: "shop".into(),
                node: "a".into(),
                incarnation: Uuid::from_u128(9),
            }),
            payload: Bytes::copy_from_slice(payload),
            properties: Properties::of_type("application/json").with("a", "b"),
        }
    }

    fn json_of(letter: &DeadLetter, most: usize) -> Value {
        serde_json::from_slice(&letter.to_json(most)).unwrap()
    }

    #[test]
    fn a_letter_has_the_fields_of_its_document() {
        let json = json_of(&letter(br#"{"id":1}"#), usize::MAX);
        assert_eq!(json["original_topic"], "prisma/events/user/create");
        assert_eq!(json["failure_reason"], "unhandled: no such host");
        assert_eq!(json["failure_timestamp"], "1970-01-01T00:00:00.000Z");
        assert_eq!(json["payload"], json!({ "id": 1 }));
        assert_eq!(
            (&json["reason"], &json["attempts"], &json["listener"]),
            (&json!("unhandled"), &json!(3), &json!("notify"))
        );
        assert_eq!(json["properties"], json!([["a", "b"]]));
    }

    #[test]
    fn payloads_that_are_no_object_are_kept_too() {
        assert_eq!(json_of(&letter(b"{\"id\":"), usize::MAX)["payload"], "{\"id\":");
        assert_eq!(json_of(&letter(b"[1]"), usize::MAX)["payload"], "[1]");
        let bytes = json_of(&letter(b"\xff\x00"), usize::MAX);
        assert_eq!((&bytes["payload"], &bytes["payload_encoding"]), (&json!("/wA="), &json!("base64")));
        let large = json_of(&letter(&[b'x'; 10_000]), 5_000);
        assert_eq!((&large["payload"], &large["payload_bytes"]), (&Value::Null, &json!(10_000)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_letter_within_its_bound(
            payload in prop::collection::vec(any::<u8>(), 0..4_000), error in "\\PC{0,4000}"
        ) {
            let letter = DeadLetter { error, ..letter(&payload) };
            let bytes = letter.to_json(9_000);
            prop_assert!(bytes.len() <= 9_000);
            prop_assert!(serde_json::from_slice::<Value>(&bytes).unwrap().is_object());
        }

        /// Over any time no more than the burst and what the time brings.
        #[test]
        fn a_bucket_gives_no_more_than_it_says(waits in prop::collection::vec(0..400_u64, 0..200), burst in 1..20_u32) {
            let begun = Instant::now();
            let mut bucket = Bucket::new(10, burst, begun);
            let (mut now, mut given) = (begun, 0_u32);
            for wait in waits {
                now += Duration::from_millis(wait);
                given += u32::from(bucket.take(now));
                let most = f64::from(burst) + now.duration_since(begun).as_secs_f64() * 10.0;
                prop_assert!(f64::from(given) <= most + 1e-6);
            }
        }
    }
}
