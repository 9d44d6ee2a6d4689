//! What an event's text says of rows: as it was, as it is, and which values nobody sees.
//!
//! The text is what travelled, or what somebody edited: nothing of it is certain.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// So many rows of an event are shown, and so many columns of a row.
const MOST_ROWS: usize = 20;
const MOST_COLUMNS: usize = 200;

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
    fn of(value: &RawValue) -> Self {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match string(value) {
            Some(text) if text == "[redacted]" => Self::Redacted,
            Some(text) if text.len() == 64 && text.bytes().all(is_digit) => {
                Self::Hashed(text[..12].to_owned())
            }
            Some(text) => Self::Value(text),
            None => Self::Value(value.get().to_owned()),
        }
    }
}

/// The text, indented, and otherwise as it is: a number has each of its digits, and members are in their order. As it is
/// where it is no JSON, or would be too long or too deep for a page.
pub(super) fn indented(text: &str) -> String {
    let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
    is_json.then(|| by_tokens(text)).flatten().unwrap_or_else(|| text.to_owned())
}

/// As much as a dead letter may have, which it is edited in.
const MOST_BYTES: usize = 1024 * 1024;
const DEEPEST: usize = 64;

fn by_tokens(json: &str) -> Option<String> {
    let mut indented = String::with_capacity(json.len() * 2);
    let (mut depth, mut is_string, mut is_escaped) = (0, false, false);
    let mut rest = json.chars().peekable();
    while let Some(letter) = rest.next() {
        if is_string {
            indented.push(letter);
            is_string = is_escaped || letter != '"';
            is_escaped = !is_escaped && letter == '\\';
            continue;
        }
        match letter {
            '{' | '[' => {
                indented.push(letter);
                while rest.next_if(char::is_ascii_whitespace).is_some() {}
                match rest.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => indented.push(end),
                    None => {
                        depth += 1;
                        new_line(&mut indented, depth)?;
                    }
                }
            }
            '}' | ']' => {
                depth = depth.checked_sub(1)?;
                new_line(&mut indented, depth)?;
                indented.push(letter);
            }
            ',' => {
                indented.push(letter);
                new_line(&mut indented, depth)?;
            }
            ':' => indented.push_str(": "),
            _ if letter.is_ascii_whitespace() => {}
            _ => {
                indented.push(letter);
                is_string = letter == '"';
            }
        }
    }
    Some(indented)
}

fn new_line(text: &mut String, depth: usize) -> Option<()> {
    text.push('\n');
    text.extend(std::iter::repeat_n("  ", depth));
    (depth <= DEEPEST && text.len() <= MOST_BYTES).then_some(())
}

/// The members of an object, in their order; a value is its text, so that no number becomes another one.
struct Members<'t>(Vec<(String, &'t RawValue)>);

impl<'de: 't, 't> Deserialize<'de> for Members<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All<'t>(PhantomData<&'t RawValue>);

        impl<'de: 't, 't> Visitor<'de> for All<'t> {
            type Value = Members<'t>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'t>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(All(PhantomData))
    }
}

impl<'t> Members<'t> {
    fn of(text: &'t str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// What is looked at of a row.
    fn of_row(value: Option<&'t RawValue>) -> Self {
        let row = value.and_then(|value| Self::of(value.get()));
        row.map_or(Self(Vec::new()), |Self(members)| Self(members.into_iter().take(MOST_COLUMNS).collect()))
    }

    /// The last of this name, as most readers have it.
    fn get(&self, name: &str) -> Option<&'t RawValue> {
        self.0.iter().rfind(|(known, _)| known == name).map(|(_, value)| *value)
    }
}

/// Whether a text is an object.
pub(super) fn is_object(text: &str) -> bool {
    Members::of(text).is_some()
}

fn string(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

fn elements(array: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(array.get()).ok()
}

/// What the event says of the rows that it is of, in whichever form.
pub(super) fn changes(text: &str) -> Vec<Change> {
    let Some(whole) = Members::of(text) else { return Vec::new() };
    // A CloudEvent has it one level below.
    let whole = whole.get("data").and_then(|data| Members::of(data.get())).unwrap_or(whole);
    // The tracker form has beside the row what others do not know.
    let beside = whole.get("change").and_then(|change| Members::of(change.get()));
    let told = |name: &str| whole.get(name).or_else(|| beside.as_ref()?.get(name));
    if let Some(rows) = told("rows").and_then(elements) {
        let change = |row: &RawValue| {
            let row = Members::of(row.get())?;
            Change::of(RowBefore::of(|name| row.get(name)), row.get("after"), &[])
        };
        return rows.into_iter().take(MOST_ROWS).filter_map(change).collect();
    }
    let names = |value| Some(elements(value)?.into_iter().filter_map(string).collect());
    let changed: Vec<String> = told("changed").and_then(names).unwrap_or_default();
    let after = whole.get("result").or_else(|| whole.get("payload"));
    let (before, after) = match (told("operation").and_then(string).as_deref(), after) {
        (Some("delete"), row) => (row.map(RowBefore::Row), None),
        (_, row) => (RowBefore::of(told), row),
    };
    Change::of(before, after, &changed).into_iter().collect()
}

/// The row before, as an event tells of it.
enum RowBefore<'t> {
    Row(&'t RawValue),
    /// What was in the columns that differ; the others were as they are.
    Was(&'t RawValue),
}

impl<'t> RowBefore<'t> {
    fn of(told: impl Fn(&str) -> Option<&'t RawValue>) -> Option<Self> {
        let told = |name| told(name).filter(|value| value.get() != "null");
        told("before").map(Self::Row).or_else(|| told("was").map(Self::Was))
    }
}

impl Change {
    fn of(before: Option<RowBefore<'_>>, after: Option<&RawValue>, changed: &[String]) -> Option<Self> {
        let others_were = matches!(before, Some(RowBefore::Was(_)));
        let before = before.map(|(RowBefore::Row(row) | RowBefore::Was(row))| row);
        let (before, after) = (Members::of_row(before), Members::of_row(after));
        let was = |name, is| before.get(name).or(Some(is).filter(|_| others_were));
        let is = after.0.iter().map(|(name, is)| (name, was(name, *is), Some(*is)));
        let was = before.0.iter().filter(|(name, _)| after.get(name).is_none());
        let all = is.chain(was.map(|(name, was)| (name, Some(*was), None))).take(MOST_COLUMNS);
        let column = |(name, was, is): (&String, Option<&RawValue>, Option<&RawValue>)| ColumnChange {
            name: name.clone(),
            before: was.map(Shown::of),
            after: is.map(Shown::of),
            changed: was.zip(is).is_some_and(|(was, is)| differ(was, is)) || changed.contains(name),
        };
        let columns: Vec<_> = all.map(column).collect();
        (!columns.is_empty()).then_some(Self { columns })
    }
}

/// Strings by what they say; others by how they are written, which is by the same program.
fn differ(was: &RawValue, is: &RawValue) -> bool {
    was.get() != is.get() && (string(was).is_none() || string(was) != string(is))
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
            format!(
                r#"{{"operation":"update","result":{row},"was":{{"status":"NEW"}},"changed":["status","card"]}}"#
            ),
            format!(
                r#"{{"trace_id":"a","payload":{row},"change":{{"operation":"update","was":{{"status":"NEW"}},"changed":["status","card"]}}}}"#
            ),
        ] {
            let [change] = &changes(&text)[..] else { panic!("{text}") };
            let [id, status, card] = &change.columns[..] else { panic!("{text}") };
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
        let text = r#"{"result":{"count":1},"rows":[{"was":{"b":1},"after":{"a":1,"b":2}}]}"#;
        let [change] = &changes(text)[..] else { panic!() };
        let [a, b] = &change.columns[..] else { panic!() };
        assert_eq!((&a.before, a.changed), (&value("1"), false));
        assert_eq!((&b.before, &b.after, b.changed), (&value("1"), &value("2"), true));
    }

    #[test]
    fn what_is_no_event_changes_nothing() {
        for text in ["", "7", "[]", "{", r#"{"result":7,"before":[],"changed":7,"rows":8}"#, r#"{"data":{}}"#]
        {
            assert_eq!(changes(text), [], "{text}");
        }
    }

    #[test]
    fn a_number_is_shown_with_each_of_its_digits() {
        let (large, long) = ("123456789012345678901234567890", "0.1000000000000000055511151231257827");
        let text = format!(r#"{{"result":{{"z":{large},"a":{long}}},"before":{{"a":{long},"z":{large}1}}}}"#);
        let [change] = &changes(&text)[..] else { panic!() };
        let [z, a] = &change.columns[..] else { panic!() };
        assert_eq!((&z.name[..], &z.after, z.changed), ("z", &value(large), true));
        assert_eq!((&a.name[..], &a.after, a.changed), ("a", &value(long), false));
        for number in [large, long, "1.0", "1e400", "-0"] {
            assert_eq!(indented(&format!("[{number}]")), format!("[\n  {number}\n]"));
        }
    }

    #[test]
    fn indenting_changes_nothing_else() {
        for (text, expected) in [
            (r#"{"b":1,"a":{ } ,"b":[ ]}"#, "{\n  \"b\": 1,\n  \"a\": {},\n  \"b\": []\n}"),
            (
                r#"{"a\"{[,:":"\\\\","ä":[null,"\u00e4"]}"#,
                "{\n  \"a\\\"{[,:\": \"\\\\\\\\\",\n  \"ä\": [\n    null,\n    \"\\u00e4\"\n  ]\n}",
            ),
            (" 7 ", "7"),
            ("{", "{"),
            ("[1}", "[1}"),
            ("", ""),
        ] {
            assert_eq!(indented(text), expected, "{text}");
        }
    }

    #[test]
    fn what_would_be_too_much_for_a_page_is_as_it_is() {
        let deep = format!("{}{}", "[".repeat(500_000), "]".repeat(500_000));
        let long = format!("[{}1]", "1,".repeat(500_000));
        for text in [deep, long] {
            assert_eq!(indented(&text), text);
        }
    }

    #[test]
    fn an_event_is_an_object() {
        assert!(is_object(r#" {"a":1e999,"a":2} "#));
        for text in ["", "{", "[]", "7", "{}{}", r#"{"a":1e}"#, r#""{}""#] {
            assert!(!is_object(text), "{text}");
        }
    }
}
