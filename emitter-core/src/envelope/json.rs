//! JSON that nobody trusts yet.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{DecodeError, WireLimits};

/// The text of a payload, within the limits.
pub(crate) fn text<'a>(payload: &'a [u8], limits: &WireLimits) -> Result<&'a str, DecodeError> {
    if payload.len() > limits.max_bytes {
        return Err(DecodeError::TooLarge { bytes: payload.len(), limit: limits.max_bytes });
    }
    let text = std::str::from_utf8(payload).map_err(|_| DecodeError::NotUtf8)?;
    if is_deeper_than(text, limits.max_depth) {
        return Err(DecodeError::TooDeep { limit: limits.max_depth });
    }
    Ok(text)
}

/// Reads a struct. Serde alone would also take an array of its fields in their order.
pub(super) fn from_object<'a, T: Deserialize<'a>>(text: &'a str) -> serde_json::Result<T> {
    if is_object(text) { serde_json::from_str(text) } else { Err(serde::de::Error::custom("not an object")) }
}

pub(super) fn is_object(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

pub(super) fn malformed(error: &serde_json::Error) -> DecodeError {
    DecodeError::Malformed(what_is_wrong(error))
}

/// The kind and place of a JSON error. Its own text may quote the payload, which may be secret.
pub(super) fn what_is_wrong(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Io | serde_json::error::Category::Syntax => "not JSON",
        serde_json::error::Category::Data => "a field is missing or of the wrong type",
        serde_json::error::Category::Eof => "the JSON ends too early",
    };
    format!("{kind}, at line {} column {}", error.line(), error.column())
}

/// A text within JSON, borrowed where it has no escapes. (Serde's own `Cow` within an `Option` is
/// never borrowed.)
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// The text itself.
pub(super) fn inner(text: Option<Text<'_>>) -> Option<Cow<'_, str>> {
    text.map(|Text(text)| text)
}

/// The text that a value is; `None` where it is something else.
pub(super) fn as_text(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str(value.get()).ok().map(|Text(text)| text)
}

/// The members of an object, in their order.
pub(super) struct Members<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The first of this name.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }
}

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Text(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

/// A value that is of no use where it is of another type than it should be: one of another program,
/// which means something else by the name.
pub(super) fn lenient<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let value = <&'de RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(value.get()).ok())
}

/// Whether arrays and objects are nested deeper than `limit`. Brackets within strings do not
/// count. On text that is not JSON the answer has no meaning and does no harm.
pub(super) fn is_deeper_than(text: &str, limit: usize) -> bool {
    // Most messages do not have so many brackets in all, and counting them is a tenth of the work.
    let opening = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    opening > limit && nests_deeper_than(text, limit)
}

fn nests_deeper_than(text: &str, limit: usize) -> bool {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}
