//! What a message tells of itself to whoever keeps it and knows no model.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::json::{Members, Text, as_text, from_object, lenient};
use super::{IncomingContent, cloud_events};
use crate::properties::Properties;

/// What a message tells beside what makes it an event.
#[derive(Default, Deserialize)]
pub(crate) struct Glimpse<'a> {
    #[serde(borrow, default, deserialize_with = "lenient")]
    kind: Option<Text<'a>>,
    /// What CloudEvents call it.
    #[serde(borrow, default, rename = "type", deserialize_with = "lenient")]
    event_type: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "lenient")]
    subject: Option<Text<'a>>,
    #[serde(borrow, default)]
    specversion: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "lenient")]
    trace_id: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "lenient")]
    args: Option<ArgsIn<'a>>,
}

#[derive(Deserialize)]
struct ArgsIn<'a> {
    #[serde(borrow, default, rename = "where", deserialize_with = "lenient")]
    condition: Option<Members<'a>>,
}

impl<'a> Glimpse<'a> {
    /// Of a text; `None` of what is no JSON object.
    pub(crate) fn of(text: &'a str) -> Option<Self> {
        from_object(text).ok()
    }

    /// What it calls itself.
    pub(crate) fn kind(&self, properties: &'a Properties) -> Option<Cow<'_, str>> {
        let text = |text: &'a str| Cow::Borrowed(text);
        if cloud_events::is_binary(properties) {
            return properties.get("type").map(text);
        }
        let kind = if self.specversion.is_some() { &self.event_type } else { &self.kind };
        kind.as_ref().map(|kind| Cow::Borrowed(&*kind.0))
    }

    /// The trace that the tracker form tells.
    pub(crate) fn trace_id(&self) -> Option<Uuid> {
        Uuid::try_parse(&self.trace_id.as_ref()?.0).ok()
    }

    /// The key that its sender wrote beside the row.
    pub(crate) fn key(&self, properties: &Properties) -> Option<String> {
        if cloud_events::is_binary(properties) {
            return properties.get("subject").map(str::to_owned);
        }
        if self.specversion.is_some() {
            return self.subject.as_ref().map(|subject| subject.0.to_string());
        }
        let condition = self.args.as_ref()?.condition.as_ref()?;
        text_of(condition.0.iter().map(|(_, value)| *value))
    }
}

/// The key of the one row of an event, by the names of its columns.
pub(crate) fn key_of_row(content: &IncomingContent<'_>, columns: &[&str]) -> Option<String> {
    let IncomingContent::Row { row, .. } = content else { return None };
    let members: Members<'_> = serde_json::from_str(row.get()).ok()?;
    text_of(columns.iter().map(|column| members.get(column)).collect::<Option<Vec<_>>>()?)
}

/// The values of key columns as a [`Key`](crate::Key) shows itself.
fn text_of<'a>(values: impl IntoIterator<Item = &'a RawValue>) -> Option<String> {
    let part = |value: &'a RawValue| match value.get() {
        "true" => Some("1".into()),
        "false" => Some("0".into()),
        number if number.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
            Some(Cow::Borrowed(number))
        }
        _ => as_text(value),
    };
    let parts = values.into_iter().map(part).collect::<Option<Vec<_>>>()?;
    (!parts.is_empty()).then(|| parts.join(","))
}

/// Whether a database that keeps JSON by its values, as PostgreSQL's `jsonb`, gives it back as the same event: it
/// has no name twice, no NUL nor half a character, and no number that is written in another way than plainly.
pub(crate) fn is_kept_by_value(text: &str) -> bool {
    is_plain(text.as_bytes()) && serde_json::from_str::<Unique>(text).is_ok()
}

fn is_plain(text: &[u8]) -> bool {
    let (mut in_string, mut place) = (false, 0);
    while let Some(byte) = text.get(place) {
        let next = text.get(place + 1..).unwrap_or_default();
        match byte {
            b'\\' if in_string => {
                let escape = next.get(..3).unwrap_or_default().to_ascii_lowercase();
                let surrogate = escape.starts_with(b"ud") && escape.get(2).is_some_and(|digit| *digit > b'7');
                if surrogate || next.starts_with(b"u0000") {
                    return false;
                }
                place += 1;
            }
            b'"' => in_string = !in_string,
            b'-' if !in_string && next.first() == Some(&b'0') => return false,
            b'0'..=b'9' | b'.' if !in_string && matches!(next.first(), Some(b'e' | b'E')) => return false,
            _ => {}
        }
        place += 1;
    }
    true
}

/// Any value of which no object has a name twice.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON without a name twice")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
                let mut names = Vec::new();
                while let Some((Text(name), Unique)) = map.next_entry::<Text<'de>, Unique>()? {
                    names.push(name);
                }
                names.sort_unstable();
                match names.windows(2).any(|two| two[0] == two[1]) {
                    true => Err(A::Error::custom("a name twice")),
                    false => Ok(Unique),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Unique, A::Error> {
                while sequence.next_element::<Unique>()?.is_some() {}
                Ok(Unique)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
                Ok(Unique)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
                Ok(Unique)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
                Ok(Unique)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
                Ok(Unique)
            }

            fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
                Ok(Unique)
            }

            fn visit_unit<E>(self) -> Result<Unique, E> {
                Ok(Unique)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glimpsed(text: &str) -> (Option<String>, Option<String>) {
        let properties = Properties::default();
        let glimpse = Glimpse::of(text).unwrap();
        (glimpse.kind(&properties).map(Cow::into_owned), glimpse.key(&properties))
    }

    #[test]
    fn kind_and_key_are_told_in_each_form() {
        let cases = [
            (r#"{"model":"user","args":{"where":{"id":7}}}"#, None, Some("7")),
            (r#"{"args":{"where":{"user_id":7,"lang":"de"}}}"#, None, Some("7,de")),
            (r#"{"args":{"where":{"id":{"in":[7]}}}}"#, None, None),
            (r#"{"args":{"data":{"id":7}}}"#, None, None),
            (r#"{"args":[7],"type":"x"}"#, None, None),
            (
                r#"{"specversion":"1.0","type":"user.update","subject":"7","kind":"x"}"#,
                Some("user.update"),
                Some("7"),
            ),
            (r#"{"kind":"user_updated","trace_id":5,"payload":{}}"#, Some("user_updated"), None),
            (r#"{"kind":{}}"#, None, None),
        ];
        for (text, kind, key) in cases {
            assert_eq!(glimpsed(text), (kind.map(str::to_owned), key.map(str::to_owned)), "{text}");
        }
        let binary =
            Properties::default().with("specversion", "1.0").with("type", "a.b").with("subject", "9");
        let glimpse = Glimpse::of("{\"kind\":\"x\"}").unwrap();
        assert_eq!(
            (glimpse.kind(&binary).as_deref(), glimpse.key(&binary).as_deref()),
            (Some("a.b"), Some("9"))
        );
        for none in ["[]", "", "{", "7"] {
            assert!(Glimpse::of(none).is_none(), "{none}");
        }
    }

    #[test]
    fn what_a_database_would_change_is_told() {
        for kept in [
            r#"{"a":1,"b":[true,false,null,1.50,-7,"e1 -0 \\u0000"],"c":{"a":1}}"#,
            "{}",
            r#"{ "a" : "\u00e4" }"#,
        ] {
            assert!(is_kept_by_value(kept), "{kept}");
        }
        for changed in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":[{"b":1,"\u0062":1}]}"#,
            r#"{"a":"\u0000"}"#,
            r#"{"a":"\uD83D"}"#,
            r#"{"a":1e5}"#,
            r#"{"a":1.0E+5}"#,
            r#"{"a":-0}"#,
        ] {
            assert!(!is_kept_by_value(changed), "{changed}");
        }
    }

    #[test]
    fn a_row_has_the_key_of_its_columns() {
        let key = |row: &str, columns: &[&str]| {
            let row: Box<RawValue> = serde_json::from_str(row).unwrap();
            key_of_row(&IncomingContent::Row { row: &row, before: None, was: None }, columns)
        };
        let row = r#"{"name":"a","id":-7,"on":true,"tag":"x\u00e4","none":null}"#;
        assert_eq!(key(row, &["id"]).as_deref(), Some("-7"));
        assert_eq!(key(row, &["tag", "on", "id"]).as_deref(), Some("x\u{e4},1,-7"));
        for columns in [&["other"][..], &["none"], &[]] {
            assert_eq!(key(row, columns), None);
        }
        assert_eq!(key("[1]", &["id"]), None);
    }
}
