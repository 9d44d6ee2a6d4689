//! What was asked of the database, as the specification's `args` has it, and what of it says which
//! columns a write set.

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{Content, Outgoing};
use crate::columns::{Column, Columns};
use crate::event::Operation;
use crate::key::Key;

/// The specification's `args`. The npm package dies of an absent one, so there is always an
/// object, and in it what its filters look into.
#[derive(Serialize, Default)]
pub(super) struct Args<'a> {
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    selector: Option<Selector<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    create: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    update: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Row(&'a RawValue),
    Part(Part<'a>),
    Unknown {},
    UnknownRows([u8; 0]),
}

pub(super) fn args<'a>(event: &Outgoing<'a>) -> Args<'a> {
    let selector = Some(Selector { columns: event.key_columns, key: event.keys.first() });
    let anything = Some(Selector { columns: &[], key: None });
    let row = match event.content {
        Content::Row { row, .. } => Some(&**row),
        Content::Rows { .. } => None,
    };
    match event.operation {
        Operation::Create => Args { data: row.map(Data::Row), ..Args::default() },
        Operation::Update => Args { selector, data: row.map(|row| written(event, row)), ..Args::default() },
        Operation::Upsert => Args { selector, create: row, update: row, ..Args::default() },
        Operation::Delete => Args { selector, ..Args::default() },
        Operation::CreateMany => Args { data: Some(Data::UnknownRows([])), ..Args::default() },
        Operation::UpdateMany => Args { selector: anything, data: Some(Data::Unknown {}), ..Args::default() },
        Operation::DeleteMany => Args { selector: anything, ..Args::default() },
    }
}

/// `{"id":7}`, or one entry for each part of a composite key.
struct Selector<'a> {
    columns: &'a [&'a str],
    key: Option<&'a Key>,
}

impl Serialize for Selector<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let parts: &[Key] = match self.key {
            None => &[],
            Some(Key::Composite(parts)) if self.columns.len() > 1 => parts,
            Some(single) => std::slice::from_ref(single),
        };
        let mut map = serializer.serialize_map(Some(parts.len().min(self.columns.len())))?;
        for (column, part) in self.columns.iter().zip(parts) {
            map.serialize_entry(column, part)?;
        }
        map.end()
    }
}

/// What an update set, where that is known.
fn written<'a>(event: &Outgoing<'a>, row: &'a RawValue) -> Data<'a> {
    match event.set {
        None => Data::Unknown {},
        Some(set) if (0..event.columns.len()).all(|place| set.contains(place)) => Data::Row(row),
        Some(set) => Data::Part(Part { row, names: named(event.columns, set).collect() }),
    }
}

/// The names in JSON of the columns in a set.
pub(super) fn named(columns: &'static [Column], set: Columns) -> impl Iterator<Item = &'static str> {
    let set = columns.iter().enumerate().filter(move |(place, _)| set.contains(*place));
    set.map(|(_, column)| column.json)
}

/// Some fields of a row.
struct Part<'a> {
    row: &'a RawValue,
    names: Vec<&'static str>,
}

impl Serialize for Part<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Fields(fields) = serde_json::from_str(self.row.get()).map_err(serde::ser::Error::custom)?;
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in fields.iter().filter(|(name, _)| self.names.contains(&&**name)) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// An object's fields in their order.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    fields.push((name, map.next_value()?));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// A text that is borrowed where the JSON has no escapes in it.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Names of columns, from the wire: an object's keys or a list. Beyond twice as many as a model may
/// have, they are passed over, for each is looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names<'a>(Vec<Cow<'a, str>>);

const MOST_NAMES: usize = 2 * Columns::MAX;

impl<'a> Names<'a> {
    /// Those among a model's columns.
    #[must_use]
    pub fn columns(&self, known: &[Column]) -> Columns {
        Columns::named(known, self.0.iter().map(|name| &**name))
    }

    /// Whether a model has each of them.
    #[must_use]
    pub fn all_of(&self, known: &[Column]) -> bool {
        self.0.iter().all(|name| known.iter().any(|column| column.json == name))
    }

    #[cfg(test)]
    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|known| known == name)
    }

    fn push(&mut self, name: Cow<'a, str>) {
        if self.0.len() < MOST_NAMES {
            self.0.push(name);
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Names<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;

        impl<'de> Visitor<'de> for Words {
            type Value = Names<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of names, or an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut names = Names::default();
                while let Some((Name(name), IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(names)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut names = Names::default();
                while let Some(Name(name)) = list.next_element()? {
                    names.push(name);
                }
                Ok(names)
            }
        }

        deserializer.deserialize_any(Words)
    }
}

/// What `args` says about the columns that a write set; `None` where it says nothing, or is
/// something else than the specification's.
pub(super) fn set<'a>(operation: Operation, args: Option<&'a RawValue>) -> Option<Names<'a>> {
    #[derive(Deserialize)]
    struct Written<'a> {
        #[serde(borrow, default)]
        data: Option<Names<'a>>,
        #[serde(borrow, default)]
        create: Option<Names<'a>>,
        #[serde(borrow, default)]
        update: Option<Names<'a>>,
    }

    let written = |args: &'a RawValue| serde_json::from_str::<Written<'a>>(args.get()).ok();
    let names = match operation {
        Operation::Update | Operation::UpdateMany => written(args?)?.data?,
        // Which of the two it did is not told.
        Operation::Upsert => {
            let Written { create, update, .. } = written(args?)?;
            let mut names = create?;
            update?.0.into_iter().for_each(|name| names.push(name));
            names
        }
        Operation::Create | Operation::CreateMany | Operation::Delete | Operation::DeleteMany => return None,
    };
    (!names.0.is_empty()).then_some(names)
}
