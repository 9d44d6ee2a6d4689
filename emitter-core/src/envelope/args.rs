//! What was asked of the database, as the specification's `args` has it, and what of it says which
//! columns a write set.

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::json::{Members, Text};
use super::{Content, Outgoing, RowImages};
use crate::columns::{Column, Columns};
use crate::event::{Operation, Origin};
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
    Common(Members<'a>),
    Unknown {},
    UnknownRows([u8; 0]),
}

pub(super) fn args<'a>(event: &Outgoing<'a>) -> Args<'a> {
    let selector = Some(Selector { columns: event.key_columns, keys: event.keys });
    let row = match event.content {
        Content::Row { row, .. } => Some(&**row),
        Content::Rows { .. } => None,
    };
    match event.operation {
        Operation::Create => Args { data: row.map(Data::Row), ..Args::default() },
        Operation::Update => Args { selector, data: row.map(|row| written(event, row)), ..Args::default() },
        Operation::Upsert => Args { selector, create: row, update: row, ..Args::default() },
        Operation::Delete | Operation::DeleteMany => Args { selector, ..Args::default() },
        Operation::CreateMany => Args { data: Some(Data::UnknownRows([])), ..Args::default() },
        Operation::UpdateMany => Args { selector, data: Some(written_in_all(event)), ..Args::default() },
    }
}

/// Which rows, as Prisma selects them: `{"id":7}`, or one entry for each part of a composite key;
/// `{"id":{"in":[7,8]}}` or `{"OR":[…]}` for several. Beyond [`MOST_KEYS`] nothing, for the rows
/// stand in the message anyway.
struct Selector<'a> {
    columns: &'a [&'a str],
    keys: &'a [Key],
}

/// With more keys an event that is nearly as large as allowed could be too large because of them.
const MOST_KEYS: usize = 100;

impl Serialize for Selector<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { columns, keys } = *self;
        let mut map = serializer.serialize_map(None)?;
        match (keys, columns) {
            ([key], _) => {
                let parts = match key {
                    Key::Composite(parts) if columns.len() > 1 => parts,
                    single => std::slice::from_ref(single),
                };
                columns.iter().zip(parts).try_for_each(|(column, part)| map.serialize_entry(column, part))?;
            }
            ([], _) | (_, []) => {}
            _ if keys.len() > MOST_KEYS => {}
            (_, [column]) => map.serialize_entry(column, &In { list: keys })?,
            (_, columns) => {
                let each = |key| Selector { columns, keys: std::slice::from_ref(key) };
                map.serialize_entry("OR", &keys.iter().map(each).collect::<Vec<_>>())?;
            }
        }
        map.end()
    }
}

#[derive(Serialize)]
struct In<'a> {
    #[serde(rename = "in")]
    list: &'a [Key],
}

/// What an update set, where that is known.
fn written<'a>(event: &Outgoing<'a>, row: &'a RawValue) -> Data<'a> {
    match event.set {
        None => Data::Unknown {},
        Some(set) if (0..event.columns.len()).all(|place| set.contains(place)) => Data::Row(row),
        Some(set) => Data::Part(Part { row, names: named(event.columns, set).collect() }),
    }
}

/// What an update of many rows set, as far as it is the same in all of them.
fn written_in_all<'a>(event: &Outgoing<'a>) -> Data<'a> {
    let Content::Rows { rows: Some(rows), .. } = event.content else { return Data::Unknown {} };
    let mut rows = rows.iter().map(|RowImages { after, .. }| after.as_deref());
    let (Some(set), Some(Some(row))) = (event.set, rows.next()) else { return Data::Unknown {} };
    let fields = |row: &'a RawValue| serde_json::from_str::<Members<'a>>(row.get()).ok();
    let Some(mut common) = fields(row) else { return Data::Unknown {} };
    common.0.retain(|(name, _)| named(event.columns, set).any(|column| column == name));
    for other in rows {
        // Nothing is left to compare, so the other rows need not be read.
        if common.0.is_empty() {
            break;
        }
        let Some(other) = other.and_then(fields) else { return Data::Unknown {} };
        common.0.retain(|(name, value)| other.get(name).is_some_and(|other| other.get() == value.get()));
    }
    Data::Common(common)
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
        let mut fields: Members<'_> =
            serde_json::from_str(self.row.get()).map_err(serde::ser::Error::custom)?;
        fields.0.retain(|(name, _)| self.names.contains(&&**name));
        fields.serialize(serializer)
    }
}

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
                while let Some((Text(name), IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(names)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut names = Names::default();
                while let Some(Text(name)) = list.next_element()? {
                    names.push(name);
                }
                Ok(names)
            }
        }

        deserializer.deserialize_any(Words)
    }
}

/// The columns that a write set, as far as its sender tells. A node of this framework, which says who it is, tells by
/// `changed` or does not know: its `args` are there for the filters of others.
pub(super) fn told<'a>(
    operation: Operation,
    changed: Option<Names<'a>>,
    args: Option<&'a RawValue>,
    origin: Option<&Origin>,
) -> Option<Names<'a>> {
    changed.or_else(|| if origin.is_none() { set(operation, args) } else { None })
}

/// What `args` says about the columns that a write set; `None` where it says nothing, or is
/// something else than the specification's.
fn set<'a>(operation: Operation, args: Option<&'a RawValue>) -> Option<Names<'a>> {
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
