//! Events as JSON Schema, and as an AsyncAPI document around that.

use serde_json::{Map, Value, json};

use super::shape::{Shape, Text};
use super::{About, Described, DescribedEvent};
use crate::event::Operation;
use crate::manifest::Manifest;

pub(super) fn json_schema(models: &[Described], about: &About) -> String {
    let definitions = definitions(models, "#/$defs/");
    let events = models.iter().flat_map(|model| &model.events);
    let each: Vec<Value> = events.map(|event| reference("#/$defs/", &event.name)).collect();
    text(&json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": about.title,
        // Of no models there is no event.
        "oneOf": if each.is_empty() { json!([false]) } else { each.into() },
        "$defs": definitions,
    }))
}

pub(super) fn asyncapi(manifest: &Manifest, models: &[Described], about: &About) -> String {
    const SCHEMAS: &str = "#/components/schemas/";
    let (mut channels, mut messages, mut operations) = (Map::new(), Map::new(), Map::new());
    for model in models {
        for event in &model.events {
            let DescribedEvent { name, topic, operation } = event;
            // Several events may share a topic, as the layout says.
            let place = channels.iter().find(|(_, channel)| channel["address"] == **topic);
            let channel = place.map_or_else(|| name.clone(), |(channel, _)| channel.clone());
            let entry = channels
                .entry(channel.clone())
                .or_insert_with(|| json!({ "address": topic, "messages": {} }));
            entry["messages"][name] = reference("#/components/messages/", name);
            let title = match model.is_event {
                true => format!("The event {}", model.model),
                false => format!("{} of the model {}", operation.as_str(), model.model),
            };
            let message = json!({
                "name": name,
                "title": title,
                "contentType": "application/json",
                "payload": reference(SCHEMAS, name),
            });
            messages.insert(name.clone(), message);
            let way = |action: &str| {
                json!({
                    "action": action,
                    "channel": reference("#/channels/", &channel),
                    "messages": [reference(&format!("#/channels/{channel}/messages/"), name)],
                })
            };
            operations.insert(format!("send{name}"), way("send"));
            let listeners = manifest.hearing(&model.model, *operation);
            if !listeners.is_empty() {
                let mut receives = way("receive");
                receives["summary"] = format!("By {}", listeners.join(", ")).into();
                operations.insert(format!("receive{name}"), receives);
            }
        }
    }
    text(&json!({
        "asyncapi": "3.0.0",
        "info": { "title": about.title, "version": about.version },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages, "schemas": definitions(models, SCHEMAS) },
    }))
}

fn text(document: &Value) -> String {
    // Of what is JSON already, nothing can fail.
    format!("{document:#}\n")
}

fn reference(place: &str, name: &str) -> Value {
    json!({ "$ref": format!("{place}{name}") })
}

/// Rows and events by their names. Keywords are those that the drafts 7 and 2020-12 have alike.
fn definitions(models: &[Described], place: &str) -> Map<String, Value> {
    let mut definitions = Map::new();
    definitions.insert("Origin".to_owned(), origin());
    for model in models {
        definitions.insert(model.row(), row(model));
        for event in &model.events {
            definitions.insert(event.name.clone(), message(model, event, place));
        }
    }
    definitions
}

fn origin() -> Value {
    json!({
        "description": "The node that wrote",
        "type": "object",
        "properties": {
            "service": { "type": "string" },
            "node": { "type": "string" },
            "incarnation": { "type": "string", "format": "uuid", "description": "Another one at each start" },
        },
        "required": ["service", "node", "incarnation"],
    })
}

fn row(model: &Described) -> Value {
    let columns: Map<String, Value> =
        model.columns.iter().map(|column| (column.name.clone(), value(&column.shape))).collect();
    let needed = model.columns.iter().filter(|column| !column.may_be_absent);
    let needed: Vec<&str> = needed.map(|column| &*column.name).collect();
    let what = if model.is_event { "What the event tells" } else { "What is seen of a row" };
    json!({
        "description": format!("{what}, in version {}", model.version),
        "type": "object",
        "properties": columns,
        "required": needed,
    })
}

fn message(model: &Described, event: &DescribedEvent, place: &str) -> Value {
    let row = || reference(place, &model.row());
    let mut properties = Map::new();
    let mut add = |name: &str, value: Value| properties.insert(name.to_owned(), value);
    add("model", json!({ "const": model.model }));
    add("operation", json!({ "const": event.operation.as_str() }));
    add(
        "args",
        json!({ "type": "object", "description": "What was asked of the database, as Prisma has it" }),
    );
    add("timestamp", json!({ "type": "string", "format": "date-time" }));
    add("eventId", json!({ "type": "string", "format": "uuid" }));
    add("origin", reference(place, "Origin"));
    add("seq", json!({ "type": "integer", "minimum": 1, "description": "Its number in its stream" }));
    add("stream", json!({ "type": "string" }));
    add(
        "version",
        json!({ "type": "integer", "minimum": 2, "description": "That of the row's shape; absent for the first" }),
    );
    for (name, what) in [
        ("traceparent", "The trace to which it belongs, as W3C has it"),
        ("tracestate", "The trace's state"),
        ("idempotencyKey", "What tells one doing from others of its kind"),
        ("signature", "Who wrote it"),
    ] {
        add(name, json!({ "type": "string", "description": what }));
    }
    add(
        "causedBy",
        json!({ "type": "string", "format": "uuid", "description": "The event whose listener wrote it" }),
    );
    add("hops", json!({ "type": "integer", "minimum": 1 }));
    add("metadata", json!({ "type": "object", "additionalProperties": { "type": "string" } }));
    let one = |add: &mut dyn FnMut(&str, Value)| add("result", row());
    let was = || {
        let columns = model.columns.iter().map(|column| (column.name.clone(), value(&column.shape)));
        json!({
            "description": "In place of `before`: the row before is the row after with these put over it",
            "type": "object",
            "properties": columns.collect::<Map<_, _>>(),
        })
    };
    let many = |add: &mut dyn FnMut(&str, Value)| {
        let count = json!({
            "type": "object", "properties": { "count": { "type": "integer", "minimum": 0 } }, "required": ["count"],
        });
        add("result", count);
        let images = json!({
            "type": "array",
            "description": "Each row, where they are known",
            "items": { "type": "object", "properties": { "before": row(), "was": was(), "after": row() } },
        });
        add("rows", images);
    };
    let changed =
        json!({ "type": "array", "items": { "type": "string" }, "description": "The columns that were set" });
    let mut add = |name: &str, value: Value| drop(properties.insert(name.to_owned(), value));
    match event.operation {
        Operation::Create | Operation::Delete => one(&mut add),
        Operation::Update => {
            one(&mut add);
            add("before", row());
            add("was", was());
            add("changed", changed);
        }
        Operation::Upsert => {
            one(&mut add);
            add("before", row());
            add("changed", changed);
            add("inserted", json!({ "type": "boolean" }));
        }
        Operation::CreateMany | Operation::DeleteMany => many(&mut add),
        Operation::UpdateMany => {
            many(&mut add);
            add("changed", changed);
        }
    }
    json!({
        "type": "object",
        "properties": properties,
        "required": ["model", "operation", "args", "result", "timestamp", "eventId", "origin"],
    })
}

fn value(shape: &Shape) -> Value {
    match shape {
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Integer(None) => json!({ "type": "integer" }),
        Shape::Integer(Some((least, most))) => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Shape::Number => json!({ "type": ["number", "null"] }),
        Shape::Text(Text::Plain) => json!({ "type": "string" }),
        Shape::Text(Text::Of(format)) => json!({ "type": "string", "format": format }),
        Shape::Text(Text::As(words)) => json!({ "type": "string", "description": words }),
        Shape::Text(Text::Redacted) => json!({ "type": "string", "description": "Nobody is told the value" }),
        Shape::Text(Text::Hashed) => {
            json!({ "type": "string", "pattern": "^[0-9a-f]{64}$", "description": "A hash of the value" })
        }
        Shape::Nullable(shape) => nullable(value(shape)),
        Shape::Array(shape) => json!({ "type": "array", "items": value(shape) }),
        Shape::Tuple(shapes) => {
            let each: Vec<Value> = shapes.iter().map(value).collect();
            let length = each.len();
            // Which stands where, the two drafts say differently.
            let items = if each.is_empty() { json!({}) } else { json!({ "anyOf": each }) };
            json!({ "type": "array", "items": items, "minItems": length, "maxItems": length })
        }
        Shape::Map(shape) => json!({ "type": "object", "additionalProperties": value(shape) }),
        Shape::Any(name) => json!({ "description": name }),
    }
}

fn nullable(mut schema: Value) -> Value {
    match &mut schema["type"] {
        // It says of no type that it is it: anything is, `null` as well.
        Value::Null => {}
        Value::Array(_) => return schema,
        one => {
            let also = json!([one.take(), "null"]);
            schema["type"] = also;
            return schema;
        }
    }
    if let Value::Object(schema) = &mut schema {
        schema.remove("type");
    }
    schema
}
