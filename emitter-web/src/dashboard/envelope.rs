//! What an event's text says of rows: as it was, as it is, and which values nobody sees.
//!
//! The text is what travelled, or what somebody edited: nothing of it is certain.

use serde_json::{Map, Value};

/// So many rows of an event are shown.
const MOST_ROWS: usize = 20;

/// A row before and after.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    pub(super) columns: Vec<ColumnChange>,
}

/// A column before and after; `None` where that is not known.
#[derive(Debug, PartialEq)]
pub(super) struct ColumnChange {
    pub(super) name: String,
    pub(super) before: Option<Shown>,
    pub(super) after: Option<Shown>,
    /// The values differ, or the event says so.
    pub(super) changed: bool,
}

/// A value as it is shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Value(String),
    /// The column is there, its value is not.
    Redacted,
    /// The beginning of its hash.
    Hashed(String),
}

impl Shown {
    fn of(value: &Value) -> Self {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match value {
            Value::String(text) if text == "[redacted]" => Self::Redacted,
            Value::String(text) if text.len() == 64 && text.bytes().all(is_digit) => {
                Self::Hashed(text[..12].to_owned())
            }
            Value::String(text) => Self::Value(text.clone()),
            other => Self::Value(other.to_string()),
        }
    }
}

/// The text, indented; as it is where it is no JSON.
pub(super) fn indented(text: &str) -> String {
    let value = serde_json::from_str::<Value>(text);
    value.and_then(|value| serde_json::to_string_pretty(&value)).unwrap_or_else(|_| text.to_owned())
}

/// What the event says of the rows that it is of, in whichever form.
pub(super) fn changes(text: &str) -> Vec<Change> {
    let Ok(Value::Object(mut whole)) = serde_json::from_str(text) else { return Vec::new() };
    // A CloudEvent has it one level below.
    if let Some(Value::Object(data)) = whole.get_mut("data") {
        whole = std::mem::take(data);
    }
    if let Some(Value::Array(rows)) = whole.get("rows") {
        let change = |row: &Value| Change::of(row.get("before"), row.get("after"), &[]);
        return rows.iter().take(MOST_ROWS).filter_map(change).collect();
    }
    let names =
        |value: &Value| Some(value.as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    let changed: Vec<String> = whole.get("changed").and_then(names).unwrap_or_default();
    let after = whole.get("result").or_else(|| whole.get("payload"));
    let (before, after) = match (whole.get("operation").and_then(Value::as_str), after) {
        (Some("delete"), row) => (row, None),
        (_, row) => (whole.get("before"), row),
    };
    Change::of(before, after, &changed).into_iter().collect()
}

impl Change {
    fn of(before: Option<&Value>, after: Option<&Value>, changed: &[String]) -> Option<Self> {
        let object = |value: Option<&Value>| value.and_then(Value::as_object).cloned().unwrap_or_default();
        let (before, after) = (object(before), object(after));
        let mut names: Vec<&String> =
            after.keys().chain(before.keys().filter(|name| !after.contains_key(*name))).collect();
        names.truncate(200);
        let columns: Vec<_> = names.into_iter().map(|name| column(name, &before, &after, changed)).collect();
        (!columns.is_empty()).then_some(Self { columns })
    }
}

fn column(
    name: &String,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    changed: &[String],
) -> ColumnChange {
    let (was, is) = (before.get(name), after.get(name));
    let differs = was.zip(is).is_some_and(|(was, is)| was != is);
    ColumnChange {
        name: name.clone(),
        before: was.map(Shown::of),
        after: is.map(Shown::of),
        changed: differs || changed.contains(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<Shown> {
        Some(Shown::Value(text.to_owned()))
    }

    #[test]
    fn an_update_says_what_changed_in_each_form() {
        let row = r#"{"id":7,"status":"PAID","card":"[redacted]"}"#;
        let before = r#"{"id":7,"status":"NEW","card":"[redacted]"}"#;
        for text in [
            format!(
                r#"{{"operation":"update","result":{row},"before":{before},"changed":["status","card"]}}"#
            ),
            format!(
                r#"{{"specversion":"1.0","data":{{"operation":"update","result":{row},"before":{before},"changed":["status","card"]}}}}"#
            ),
            format!(r#"{{"kind":"a","payload":{row},"before":{before},"changed":["status","card"]}}"#),
        ] {
            let [change] = &changes(&text)[..] else { panic!("{text}") };
            let [card, id, status] = &change.columns[..] else { panic!("{text}") };
            assert_eq!((&id.before, &id.after, id.changed), (&value("7"), &value("7"), false));
            assert_eq!(
                (&status.before, &status.after, status.changed),
                (&value("NEW"), &value("PAID"), true)
            );
            assert_eq!((&card.before, card.changed), (&Some(Shown::Redacted), true));
        }
    }

    #[test]
    fn a_deleted_row_was_there_and_is_not() {
        let hash = "0123456789abcdef".repeat(4);
        let text = format!(r#"{{"operation":"delete","result":{{"email":"{hash}"}}}}"#);
        let [change] = &changes(&text)[..] else { panic!() };
        assert_eq!(change.columns[0].before, Some(Shown::Hashed("0123456789ab".to_owned())));
        assert_eq!(change.columns[0].after, None);
    }

    #[test]
    fn rows_of_one_statement_are_told_one_by_one() {
        let text =
            r#"{"result":{"count":2},"rows":[{"after":{"id":1}},{"before":{"id":2},"after":{"id":2}},{}]}"#;
        assert_eq!(changes(text).len(), 2);
    }

    #[test]
    fn what_is_no_event_changes_nothing() {
        for text in ["", "7", "[]", "{", r#"{"result":7,"before":[],"changed":7,"rows":8}"#, r#"{"data":{}}"#]
        {
            assert_eq!(changes(text), [], "{text}");
        }
        assert_eq!(indented("{"), "{");
        assert_eq!(indented(r#"{"a":1}"#), "{\n  \"a\": 1\n}");
    }
}
