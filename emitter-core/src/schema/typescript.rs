//! Events as types of TypeScript.

use std::fmt::Write;

use super::shape::{Shape, Text};
use super::{About, Described, DescribedEvent};
use crate::event::Operation;

const HEAD: &str = "\
/** The node that wrote. */
export interface Origin {
  service: string;
  node: string;
  /** Another one at each start. */
  incarnation: string;
}

/** What every event has. */
export interface Envelope<Model extends string, Operation extends string> {
  model: Model;
  operation: Operation;
  /** What was asked of the database, as Prisma has it. */
  args: Record<string, unknown>;
  /** ISO 8601. */
  timestamp: string;
  eventId: string;
  origin: Origin;
  /** Its number in its stream. */
  seq?: number;
  stream?: string;
  /** That of the row's shape; absent for the first. */
  version?: number;
  traceparent?: string;
  tracestate?: string;
  idempotencyKey?: string;
  metadata?: Record<string, string>;
  /** The event whose listener wrote it. */
  causedBy?: string;
  hops?: number;
  signature?: string;
}

/** One row, as it is now; as it was, where it was deleted. */
export interface RowEvent<Model extends string, Operation extends string, Row> extends Envelope<Model, Operation> {
  result: Row;
}

/** One row that may have been there before. */
export interface ChangeEvent<Model extends string, Operation extends string, Row>
  extends RowEvent<Model, Operation, Row> {
  before?: Row;
  /** In place of `before`: the row before is `result` with these put over it. */
  was?: Partial<Row>;
  /** The columns that were set. */
  changed?: (keyof Row & string)[];
}

/** Many rows. */
export interface RowsEvent<Model extends string, Operation extends string, Row> extends Envelope<Model, Operation> {
  result: { count: number };
  /** Each of them, where they are known. */
  rows?: { before?: Row; was?: Partial<Row>; after?: Row }[];
  /** The columns that were set. */
  changed?: (keyof Row & string)[];
}
";

pub(super) fn module(models: &[Described], about: &About) -> String {
    let mut text =
        format!("// {}, {}. Generated: do not edit.\n\n{HEAD}", line(&about.title), line(&about.version));
    // Writing to a `String` cannot fail.
    for model in models {
        let _ = write!(text, "\n{}", of_model(model));
    }
    let events = || models.iter().flat_map(|model| &model.events);
    let names: Vec<&str> = events().map(|event| &*event.name).collect();
    let union = if names.is_empty() { "never".to_owned() } else { names.join(" | ") };
    let _ = write!(text, "\n/** Any of them. */\nexport type AnyEvent = {union};\n");
    text.push_str("\n/** Where each travels. */\nexport const topics = {\n");
    for DescribedEvent { name, topic, .. } in events() {
        let _ = writeln!(text, "  {name}: {},", quoted(topic));
    }
    text.push_str("} as const;\n\n/** Which events come on which topic. */\nexport interface Events {\n");
    let mut topics: Vec<&str> = events().map(|event| &*event.topic).collect();
    topics.sort_unstable();
    topics.dedup();
    for topic in topics {
        let names: Vec<&str> =
            events().filter(|event| event.topic == topic).map(|event| &*event.name).collect();
        let _ = writeln!(text, "  {}: {};", quoted(topic), names.join(" | "));
    }
    text.push_str("}\n");
    text
}

fn of_model(model: &Described) -> String {
    let (row, name) = (model.row(), &model.name);
    let what = if model.is_event { "What the event tells" } else { "What is seen of a row" };
    let mut text = format!(
        "/** {what}: `{}`, version {}. */\nexport interface {row} {{\n",
        line(&model.model),
        model.version
    );
    // Writing to a `String` cannot fail.
    for column in &model.columns {
        if let Some(words) = words(&column.shape) {
            let _ = writeln!(text, "  /** {} */", line(&words));
        }
        let absent = if column.may_be_absent { "?" } else { "" };
        let _ = writeln!(text, "  {}{absent}: {};", property(&column.name), written(&column.shape));
    }
    text.push_str("}\n");
    for event in &model.events {
        let kind = match event.operation {
            Operation::Create | Operation::Delete => "RowEvent",
            Operation::Update | Operation::Upsert => "ChangeEvent",
            Operation::CreateMany | Operation::UpdateMany | Operation::DeleteMany => "RowsEvent",
        };
        let also = if event.operation == Operation::Upsert { " & { inserted?: boolean }" } else { "" };
        let (operation, model) = (quoted(event.operation.as_str()), quoted(&model.model));
        let _ = writeln!(text, "export type {} = {kind}<{model}, {operation}, {row}>{also};", event.name);
    }
    // That of an event that is no row is called so itself.
    if !model.is_event && !model.events.is_empty() {
        let names: Vec<&str> = model.events.iter().map(|event| &*event.name).collect();
        let _ = writeln!(text, "export type {name}Event = {};", names.join(" | "));
    }
    text
}

/// The type of a value.
fn written(shape: &Shape) -> String {
    match shape {
        Shape::Boolean => "boolean".to_owned(),
        Shape::Integer(_) => "number".to_owned(),
        Shape::Number => "number | null".to_owned(),
        Shape::Text(_) => "string".to_owned(),
        Shape::Nullable(shape) => match (&**shape, written(shape)) {
            // It has it already.
            (Shape::Number | Shape::Any(_), text) => text,
            (_, text) => format!("{text} | null"),
        },
        Shape::Array(shape) => format!("({})[]", written(shape)),
        Shape::Tuple(shapes) => {
            let each: Vec<String> = shapes.iter().map(written).collect();
            format!("[{}]", each.join(", "))
        }
        Shape::Map(shape) => format!("Record<string, {}>", written(shape)),
        Shape::Any(_) => "unknown".to_owned(),
    }
}

/// What the type does not tell.
fn words(shape: &Shape) -> Option<String> {
    match shape {
        Shape::Text(Text::Of(format)) => Some(format!("A {format}.")),
        Shape::Text(Text::As(words)) => Some((*words).to_owned()),
        Shape::Text(Text::Redacted) => Some("Nobody is told the value.".to_owned()),
        Shape::Text(Text::Hashed) => Some("A hash of the value.".to_owned()),
        Shape::Any(name) => Some(name.clone()),
        Shape::Nullable(shape) | Shape::Array(shape) | Shape::Map(shape) => words(shape),
        _ => None,
    }
}

fn property(name: &str) -> String {
    let is_plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_plain { name.to_owned() } else { quoted(name) }
}

/// A text as a literal: JSON's are TypeScript's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Within one line of a comment.
fn line(text: &str) -> String {
    text.replace("*/", "* /").replace(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'), " ")
}
