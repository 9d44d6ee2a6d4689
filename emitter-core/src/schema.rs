//! What a program's events look like, in the words of others: an AsyncAPI 3 document, a JSON Schema, or types of TypeScript.
//!
//! They are made of the [`Manifest`], which is a file beside the program, so that `emitter schema` needs no running node:
//!
//! ```console
//! $ emitter schema typescript --from emitter.json > events.ts
//! ```
//!
//! Where there is no such file, the program itself can write them, in which all models are linked:
//!
//! ```
//! use emitter_core::manifest::Manifest;
//! use emitter_core::schema::{self, About};
//!
//! println!("{}", schema::typescript(&Manifest::linked(), &About::default())?);
//! # Ok::<(), schema::SchemaError>(())
//! ```
//!
//! They describe the specification's JSON with what nodes of this framework put beside it, which is what travels unless
//! [`Format`](crate::envelope::Format) says otherwise; one event in each message, so not those of
//! [`Batches`](crate::Batches). Models that say `local` are left out: nobody else hears of them.
//!
//! What a column's value looks like in JSON is told by the name of its type: see [`schema::json_schema`](json_schema). What serde was told of a
//! single field (`with`, `serialize_with`) is not known here, and described as if it were not there.

use std::collections::BTreeSet;

use crate::event::Operation;
use crate::manifest::{Manifest, ModelShape, pascal_case};
use crate::topic::{Layout, ModelTopic, TopicError, TopicPrefix, Topics};

mod document;
mod shape;
mod typescript;

use self::shape::Shape;

/// What a document says beside the models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// What it is called. Default `Events`.
    pub title: String,
    /// Its version, such as that of the program. Default `1.0.0`.
    pub version: String,
    /// What topics begin with. Default `prisma/events`.
    pub prefix: TopicPrefix,
    /// What topics look like. Default: that of [`Builder::topic_layout`](crate::Builder::topic_layout).
    pub layout: Layout,
}

impl Default for About {
    fn default() -> Self {
        Self {
            title: "Events".to_owned(),
            version: "1.0.0".to_owned(),
            prefix: TopicPrefix::default(),
            layout: Layout::default(),
        }
    }
}

/// Why there is no document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// A model of the manifest has a name or topic that no model can have.
    #[error("the manifest's model `{model}`: {problem}")]
    Model {
        /// Its name.
        model: String,
        /// What is wrong with it.
        problem: TopicError,
    },
}

/// An AsyncAPI 3.0 document, as JSON: a channel and a message for each operation of each model, what the program sends, and what
/// its listeners receive of others.
///
/// # Errors
/// [`SchemaError`]
pub fn asyncapi(manifest: &Manifest, about: &About) -> Result<String, SchemaError> {
    Ok(document::asyncapi(manifest, &described(manifest, about)?, about))
}

/// A JSON Schema (2020-12) of which each event is a value, with a definition for each event and for each model's row.
///
/// | type of a column | in JSON |
/// |---|---|
/// | integers | `integer`, within the type's bounds |
/// | `f32`, `f64` | `number`, or `null` where it is none |
/// | `bool`; `String`, `str`, `char` | `boolean`; `string` |
/// | `Option<T>` | that of `T`, or `null`; it may be absent |
/// | `Vec<T>`, `[T; N]`, sets; tuples | `array` |
/// | `HashMap<K, T>`, `BTreeMap<K, T>` | `object` of `T` |
/// | `Box<T>`, `Arc<T>`, `Rc<T>`, `Cow<T>` | that of `T` |
/// | `Uuid`, `EventId` | `string`, a UUID |
/// | `DateTime<…>` of chrono, `Timestamp` | `string`, a date and time with its zone |
/// | `NaiveDate` | `string`, a date |
/// | `NaiveDateTime`, `NaiveTime`, `BigDecimal`, `Decimal` | `string` |
/// | what is redacted; what is hashed | `string`; 64 hexadecimal digits, or `null` |
/// | `Value` of serde_json, and everything else | anything; the type's name is its description |
///
/// # Errors
/// [`SchemaError`]
pub fn json_schema(manifest: &Manifest, about: &About) -> Result<String, SchemaError> {
    Ok(document::json_schema(&described(manifest, about)?, about))
}

/// A module of TypeScript: an interface for each model's row, a type for each event, the union of them, and their topics.
/// It compiles in strict mode and needs nothing else.
///
/// Integers beyond 2^53 are `number`, too: `JSON.parse` rounds them.
///
/// # Errors
/// [`SchemaError`]
pub fn typescript(manifest: &Manifest, about: &About) -> Result<String, SchemaError> {
    Ok(typescript::module(&described(manifest, about)?, about))
}

/// A model, or an event that is no row, with all that is said of it.
struct Described {
    /// On the wire.
    model: String,
    /// As a type: `OrderItem`.
    name: String,
    is_event: bool,
    version: u32,
    columns: Vec<Column>,
    events: Vec<DescribedEvent>,
}

struct Column {
    name: String,
    shape: Shape,
    may_be_absent: bool,
}

/// One operation of a model.
struct DescribedEvent {
    operation: Operation,
    /// As a type: `OrderItemUpdated`.
    name: String,
    topic: String,
}

impl Described {
    /// What its row is called; the event itself, where it is none.
    fn row(&self) -> String {
        row_name(&self.name, self.is_event)
    }
}

fn row_name(name: &str, is_event: bool) -> String {
    if is_event { name.to_owned() } else { format!("{name}Row") }
}

/// What is called so in each document, whatever the models are: what they declare themselves, and what they use of their language.
const FIXED: [&str; 8] =
    ["Origin", "Envelope", "RowEvent", "ChangeEvent", "RowsEvent", "AnyEvent", "Events", "Record"];

fn described(manifest: &Manifest, about: &About) -> Result<Vec<Described>, SchemaError> {
    let topics = Topics::new(about.prefix.clone(), about.layout.clone());
    let mut names: BTreeSet<String> = FIXED.iter().map(|name| (*name).to_owned()).collect();
    let models = manifest.models.iter().filter(|(_, shape)| !shape.local);
    models.map(|(model, shape)| describe(model, shape, &topics, &mut names)).collect()
}

fn describe(
    model: &str,
    shape: &ModelShape,
    topics: &Topics,
    names: &mut BTreeSet<String>,
) -> Result<Described, SchemaError> {
    let is_event = shape.event.is_some();
    let topic = ModelTopic::of(shape.topic.as_deref().unwrap_or(model), is_event);
    let topic = topic.map_err(|problem| SchemaError::Model { model: model.to_owned(), problem })?;
    let operations = if is_event { &[Operation::Create] } else { &*shape.emits };
    let event_name = |name: &str, operation: Operation| match is_event {
        true => format!("{name}Event"),
        false => format!("{name}{}", past(operation)),
    };
    let all = |name: &str| -> Vec<String> {
        // What tells the row, what any of its events is, and each of them.
        let (row, any) = (row_name(name, is_event), format!("{name}Event"));
        let events = operations.iter().map(|operation| event_name(name, *operation));
        [row, any].into_iter().chain(events).collect()
    };
    let name = unique(&identifier(&pascal_case(model)), all, names);
    let event = |operation: &Operation| DescribedEvent {
        operation: *operation,
        name: event_name(&name, *operation),
        topic: topics.topic(&topic, *operation).as_str().to_owned(),
    };
    let columns = shape.columns.iter().map(|(name, column)| Column {
        name: name.clone(),
        shape: Shape::of(&column.r#type),
        may_be_absent: column.may_be_absent,
    });
    Ok(Described {
        model: model.to_owned(),
        is_event,
        version: shape.version,
        columns: columns.collect(),
        events: operations.iter().map(event).collect(),
        name,
    })
}

/// As the derive calls its types.
const fn past(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "Created",
        Operation::CreateMany => "CreatedMany",
        Operation::Update => "Updated",
        Operation::UpdateMany => "UpdatedMany",
        Operation::Upsert => "Upserted",
        Operation::Delete => "Deleted",
        Operation::DeleteMany => "DeletedMany",
    }
}

/// A name that is one in every language.
fn identifier(name: &str) -> String {
    let letters: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    if letters.starts_with(|c: char| c.is_ascii_alphabetic()) { letters } else { format!("Model{letters}") }
}

/// The first name, numbered where it has to be, of which no other has any of `all` that are made of it; they are taken then.
fn unique(name: &str, all: impl Fn(&str) -> Vec<String>, taken: &mut BTreeSet<String>) -> String {
    let numbered = (2..).map(|number: u32| format!("{name}{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    let free = names.find(|name| all(name).iter().all(|made| !taken.contains(made)));
    let name = free.unwrap_or_else(|| name.to_owned());
    taken.extend(all(&name));
    name
}
