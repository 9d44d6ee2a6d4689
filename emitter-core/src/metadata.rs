//! What a writer notes beside an event: who did it, by what, in which version.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserializer, Serialize};
use serde_json::value::RawValue;

/// Texts by their names, few and short: every event carries its own, and what comes from elsewhere
/// is bounded by the same numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Metadata(BTreeMap<Box<str>, Box<str>>);

impl Metadata {
    /// How many entries there are at most.
    pub const MAX_ENTRIES: usize = 16;

    /// The longest name in bytes; it has at least one.
    pub const MAX_NAME: usize = 64;

    /// The longest value in bytes.
    pub const MAX_VALUE: usize = 256;

    /// Notes a value in place of the one of that name; one beyond the bounds is left out.
    pub fn insert(&mut self, name: &str, value: &str) {
        let fits = (1..=Self::MAX_NAME).contains(&name.len()) && value.len() <= Self::MAX_VALUE;
        if fits && (self.0.len() < Self::MAX_ENTRIES || self.0.contains_key(name)) {
            self.0.insert(name.into(), value.into());
        }
    }

    /// The value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| &**value)
    }

    /// Names and values, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Of JSON of any shape, what are texts within the bounds.
    pub(crate) fn read(json: &RawValue) -> Self {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut metadata = Metadata::default();
                while let Some((name, value)) = map.next_entry::<Cow<'de, str>, &RawValue>()? {
                    if let Ok(value) = serde_json::from_str::<Cow<'_, str>>(value.get()) {
                        metadata.insert(&name, &value);
                    }
                }
                Ok(metadata)
            }
        }

        serde_json::Deserializer::from_str(json.get()).deserialize_map(Texts).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(json: &Value) -> Vec<(String, String)> {
        let raw = serde_json::value::to_raw_value(json).unwrap();
        let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Metadata::read(&raw).iter().map(pair).collect()
    }

    #[test]
    fn what_is_no_short_text_is_left_out() {
        let check = |json: Value, expected: &[(&str, &str)]| {
            let expected: Vec<(String, String)> =
                expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(read(&json), expected, "{json}");
        };
        check(json!({ "actor": "u-7", "é\n": "\"" }), &[("actor", "u-7"), ("é\n", "\"")]);
        check(json!({ "actor": 7, "source": "api", "version": null }), &[("source", "api")]);
        check(json!({ "": "nobody", "long": "x".repeat(257), "x".repeat(65): "long" }), &[]);
        for no_object in [json!(null), json!("actor"), json!([["actor", "u-7"]]), json!(7)] {
            check(no_object, &[]);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(entries in prop::collection::vec((".{0,30}", ".{0,90}"), 0..20)) {
            let mut metadata = Metadata::default();
            let mut naive = BTreeMap::new();
            for (name, value) in &entries {
                metadata.insert(name, value);
                let bounds = (1..=64).contains(&name.len()) && value.len() <= 256;
                if bounds && (naive.len() < 16 || naive.contains_key(name)) {
                    naive.insert(name.clone(), value.clone());
                }
            }
            prop_assert!(entries.iter().all(|(name, _)| metadata.get(name) == naive.get(name).map(String::as_str)));
            let json = serde_json::to_value(&metadata).unwrap();
            prop_assert_eq!(read(&json), naive.into_iter().collect::<Vec<_>>());
        }
    }
}
