//! Messages of any bytes: each is refused with an error that repeats nothing of it, or is a whole event, which is the same
//! when it is sent on in any form.

use std::borrow::Cow;
use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Unstructured};
use emitter_core::columns::{Column, Columns};
use emitter_core::envelope::{
    Content, DecodeError, EncodeError, Encoded, Format, Incoming, IncomingContent, IncomingRow, Kind,
    Outgoing, RowBefore, RowImages, WireLimits, decode, decode_row, encode,
};
use emitter_core::event::Timestamp;
use emitter_core::topic::Said;
use emitter_core::transport::Properties;
use emitter_core::{EmitOptions, EventId, Key, Operation, Origin, Trace};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;

#[derive(Debug, Arbitrary)]
pub(crate) struct Input<'a> {
    said: Topic<'a>,
    limits: Limits,
    content_type: Option<&'a str>,
    user: Vec<(Name<'a>, &'a str)>,
    /// In which it is sent on.
    format: u8,
    /// How the kind of an event is written.
    kind: &'a str,
    payload: Payload<'a>,
}

#[derive(Debug, Arbitrary)]
enum Payload<'a> {
    /// Whatever bytes.
    Bytes(&'a [u8]),
    /// One of [`EVENTS`], in which some fields have other values: few bytes that are mutated are JSON, fewer an event.
    Edited { event: u8, edits: Vec<Edit<'a>> },
}

#[derive(Debug, Arbitrary)]
struct Edit<'a> {
    /// Within this object, where there is one.
    within: Option<u8>,
    field: u8,
    /// None where the field is taken away.
    value: Option<Text<'a>>,
}

/// What may stand for a value.
#[derive(Debug, Arbitrary)]
enum Text<'a> {
    Known(u8),
    Number(u64),
    Words(&'a str),
    List(Vec<&'a str>),
    Json(&'a str),
}

/// What the topic tells.
#[derive(Debug, Arbitrary)]
enum Topic<'a> {
    Nothing,
    This(u8),
    Other(&'a str),
}

#[derive(Debug, Arbitrary)]
enum Limits {
    Default,
    These { bytes: u16, depth: u8 },
}

/// The name of a user property, more often than not one that counts.
#[derive(Debug)]
struct Name<'a>(&'a str);

const NAMES: &str = concat!(
    "specversion|id|source|type|time|subject|sequence|incarnation|traceparent|tracestate|idempotencykey|",
    "rowversion|causedby|hops",
);

impl<'a> Arbitrary<'a> for Name<'a> {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let place = usize::from(u8::arbitrary(u)?);
        NAMES.split('|').nth(place).map_or_else(|| u.arbitrary().map(Self), |name| Ok(Self(name)))
    }
}

/// Events that are whole, one of each form.
const EVENTS: [&str; 7] = [
    r#"{"model":"user","operation":"update","args":{"where":{"id":7},"data":{"name":"Ada"}},"result":{"id":7,"name":"Ada","tags":[]},"timestamp":"2026-11-21T00:42:25.735Z","eventId":"01935a3c-6f1e-7a52-8d10-3f5b9c0ffee1","origin":{"service":"shop","node":"a","incarnation":"01935a3b-0000-7000-8000-00000000000a"},"seq":42}"#,
    r#"{"model":"user","operation":"updateMany","args":{},"result":{"count":2},"rows":[{"before":{},"after":{"id":7}},{}]}"#,
    r#"{"specversion":"1.0","id":"01935a3c-6f1e-7a52-8d10-3f5b9c0ffee1","source":"/shop/a","type":"user.upsert","time":"2026-11-21T00:42:25.735Z","sequence":"42","incarnation":"01935a3b-0000-7000-8000-00000000000a","data":{"model":"user","operation":"upsert","args":{"create":{},"update":{}},"result":{"id":7}}}"#,
    r#"{"specversion":"1.0","id":"1","source":"/elsewhere","type":"user.created","data":{"id":7}}"#,
    r#"{"trace_id":"01935a3c-6f1e-7a52-8d10-3f5b9c0ffee1","ts":"2026-11-21T00:42:25.735Z","kind":"user_updated","idempotency_key":"k","payload":{"id":7},"change":{"model":"user","operation":"update","eventId":"01935a3c-6f1e-7a52-8d10-3f5b9c0ffee1","origin":{"service":"shop","node":"a","incarnation":"01935a3b-0000-7000-8000-00000000000a"},"seq":42,"before":{"id":7}}}"#,
    r#"{"trace_id":"01935a3c-6f1e-7a52-8d10-3f5b9c0ffee1","ts":"2026-11-21T00:42:25","kind":"user_deleted_many","idempotency_key":"k","payload":{"count":1}}"#,
    r#"{"model":"user","operation":"update","args":{},"result":{"id":7,"name":"Ada"},"was":{"name":"Bo"}}"#,
];

/// The fields of all forms. The corpus names them, as all that stands in such lists, by their place.
const FIELDS: &str = concat!(
    "model|operation|args|result|timestamp|eventId|before|rows|changed|inserted|origin|seq|version|",
    "traceparent|tracestate|idempotencyKey|causedBy|hops|specversion|id|source|type|time|subject|",
    "datacontenttype|sequence|incarnation|idempotencykey|rowversion|causedby|data|trace_id|ts|kind|",
    "idempotency_key|payload|change|service|node|where|create|update|count|name|tags|after|in|OR||c4n4ry|",
    "é\"|metadata|actor|was",
);

/// One of a list, whichever number is given.
fn of(list: &'static str, place: u8) -> &'static str {
    list.split('|').cycle().nth(place.into()).unwrap_or_default()
}

/// Values of which the forms make something.
const VALUES: &str = concat!(
    r#"null|true|false|""|[]|{}|"create"|"createMany"|"update"|"updateMany"|"upsert"|"delete"|"deleteMany"|"#,
    r#""1.0"|"user_created"|"a.updated_many"|"/shop/a/b"|"01935a3c-6f1e-7a52-8d10-3f5b9c0ffee1"|"#,
    r#""00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"|"2026-11-21T00:42:25.7359+23:59"|"#,
    r#""0000-01-01T00:00:00+01:00"|"9999-12-31T23:59:60Z"|{"count":1}|{"id":7,"name":"c4n4ry"}|"#,
    r#"[{"after":{"id":7}}]|["id","name","tags"]|{"id":1,"other":2}|1e999|-1|"\ud800""#,
);

/// Stands for what is secret in a payload.
const CANARY: &str = "c4n4ry";

const FORMATS: [Format; 4] =
    [Format::Specification, Format::CloudEvents, Format::CloudEventsBinary, Format::Tracker];

const WIDE: WireLimits = WireLimits { max_bytes: usize::MAX, max_depth: usize::MAX };

const COLUMNS: &[Column] = &[
    Column::new("id", "id", "i64", None),
    Column::new("name", "name", "String", None),
    Column::new("tags", "tags", "Vec<bool>", None),
];

/// A row that fits few messages.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only its types matter")]
struct Row {
    id: i64,
    name: String,
    tags: Vec<bool>,
}

impl Input<'_> {
    pub(crate) fn check(&self) {
        let (kind, payload) = (kind(self.kind), self.payload.bytes());
        let (properties, said, limits) = (self.properties(), self.said(), self.limits());
        let incoming = match decode(&payload, &properties, said, &limits) {
            Ok(incoming) => incoming,
            Err(error) => return tells_nothing(&error),
        };
        is_within(&payload, &limits);
        self.is_whole(&incoming);
        rows_are_read(&incoming);
        sent_on(&incoming, FORMATS[usize::from(self.format) % FORMATS.len()], &kind);
    }

    fn properties(&self) -> Properties {
        let user =
            self.user.iter().map(|(Name(name), value)| (Cow::Owned((*name).to_owned()), (*value).to_owned()));
        let content_type = self.content_type.map(|text| Cow::Owned(text.to_owned()));
        Properties { content_type, user: user.collect() }
    }

    fn said(&self) -> Said<'_> {
        match self.said {
            Topic::Nothing => Said::Nothing,
            Topic::This(operation) => {
                Said::This(Operation::ALL[usize::from(operation) % Operation::ALL.len()])
            }
            Topic::Other(word) => Said::Other(word),
        }
    }

    fn limits(&self) -> WireLimits {
        match self.limits {
            Limits::Default => WireLimits::default(),
            Limits::These { bytes, depth } => WireLimits { max_bytes: bytes.into(), max_depth: depth.into() },
        }
    }

    fn is_whole(&self, incoming: &Incoming<'_>) {
        assert!(incoming.trace_state.as_deref().is_none_or(Trace::is_state));
        let key = incoming.idempotency_key.as_deref();
        assert!(key.is_none_or(|key| key.len() <= EmitOptions::MAX_IDEMPOTENCY_KEY));
        if let (None, Said::This(operation)) = (&incoming.model, self.said()) {
            assert_eq!(incoming.operation, operation, "the topic says more than the kind");
        }
        match &incoming.content {
            IncomingContent::Row { .. } => assert!(!is_bulk(incoming.operation)),
            IncomingContent::Rows { count, rows } => {
                assert!(is_bulk(incoming.operation));
                assert!(rows.as_ref().is_none_or(|rows| rows.len() as u64 == *count));
            }
        }
    }
}

impl Payload<'_> {
    fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Bytes(bytes) => Cow::Borrowed(bytes),
            Self::Edited { event, edits } => {
                let event = EVENTS[usize::from(*event) % EVENTS.len()];
                let mut event: Fields = serde_json::from_str(event).expect("an event is an object");
                edits.iter().for_each(|edit| edit.apply(&mut event));
                Cow::Owned(serde_json::to_vec(&event).expect("an object is JSON"))
            }
        }
    }
}

/// An object whose values are as they were written.
type Fields = BTreeMap<String, Box<RawValue>>;

impl Edit<'_> {
    fn apply(&self, event: &mut Fields) {
        let name = |place| of(FIELDS, place);
        let outer = self.within.and_then(|place| event.get_mut(name(place)));
        let inner = outer.and_then(|outer| Some((serde_json::from_str::<Fields>(outer.get()).ok()?, outer)));
        let Some((mut inner, outer)) = inner else { return self.set(event, name(self.field)) };
        self.set(&mut inner, name(self.field));
        *outer = to_raw_value(&inner).expect("an object is JSON");
    }

    fn set(&self, fields: &mut Fields, name: &str) {
        match self.value.as_ref().map(Text::json) {
            Some(value) => fields.insert(name.to_owned(), value),
            None => fields.remove(name),
        };
    }
}

impl Text<'_> {
    /// As JSON; null where a text is none.
    fn json(&self) -> Box<RawValue> {
        let written = match self {
            Self::Known(place) => of(VALUES, *place).to_owned(),
            Self::Number(number) => number.to_string(),
            Self::Words(text) => Value::from(*text).to_string(),
            Self::List(texts) => Value::from(texts.clone()).to_string(),
            Self::Json(text) => (*text).to_owned(),
        };
        RawValue::from_string(written).unwrap_or_else(|_| RawValue::NULL.to_owned())
    }
}

fn tells_nothing(error: &DecodeError) {
    let said = format!("{error} {error:?}");
    assert!(!said.contains(CANARY), "{said}");
}

/// What is taken keeps the limits, by another count than the decoder's.
fn is_within(payload: &[u8], limits: &WireLimits) {
    assert!(payload.len() <= limits.max_bytes);
    // What nobody looks at is not read: a number beyond all bounds may stand there.
    if let Ok(value) = serde_json::from_slice::<Value>(payload) {
        assert!(value.is_object() && depth(&value) <= limits.max_depth);
    }
}

fn rows_are_read(incoming: &Incoming<'_>) {
    let rows = match &incoming.content {
        IncomingContent::Row { row, before, was } => vec![Some(*row), *before, *was],
        IncomingContent::Rows { rows, .. } => {
            rows.iter().flatten().flat_map(|row| [row.before, row.was, row.after]).collect()
        }
    };
    for row in rows.into_iter().flatten() {
        if let Err(error) = decode_row::<Row>(row) {
            tells_nothing(&error);
        }
    }
}

/// A node that sends an event as it came is heard to say the same.
fn sent_on(incoming: &Incoming<'_>, format: Format, kind: &str) {
    let content = content(&incoming.content);
    let origin = origin(incoming);
    let set = incoming.set.as_ref().map(|names| names.columns(COLUMNS));
    let outgoing = Outgoing {
        model: incoming.model.as_deref().unwrap_or("user"),
        key_columns: &["id"],
        operation: incoming.operation,
        kind,
        keys: &[Key::Int(7)],
        content: &content,
        columns: COLUMNS,
        set,
        inserted: incoming.inserted,
        time: incoming.time.unwrap_or(Timestamp::from_millis(0)),
        id: incoming.id.unwrap_or(EventId::from_uuid(Uuid::from_u128(1))),
        origin: &origin,
        sequence: incoming.sequence.or(Some(1)),
        version: incoming.version.unwrap_or(1),
        trace: incoming.trace,
        trace_state: incoming.trace_state.as_deref(),
        idempotency_key: incoming.idempotency_key.as_deref(),
        metadata: Some(&incoming.metadata).filter(|metadata| metadata.iter().next().is_some()),
        cause: incoming.cause,
        hops: incoming.hops,
    };
    let encoded = match encode(&outgoing, format, &WIDE) {
        Ok(encoded) => encoded,
        Err(error) => {
            return assert!(error == EncodeError::Json && !is_a_row(&content), "{format:?}: {error}");
        }
    };
    if format == Format::Tracker && !is_a_row(&content) {
        return;
    }
    read_as_sent(&encoded, &outgoing, set);
    if format != Format::CloudEventsBinary {
        // What MQTT 3.1.1 leaves of it.
        read_as_sent(&Encoded { properties: Properties::default(), ..encoded }, &outgoing, set);
    }
    let limits = WireLimits::default();
    if let Ok(Encoded { payload, properties }) = encode(&outgoing, format, &limits) {
        assert!(
            decode(&payload, &properties, Said::Nothing, &limits).is_ok(),
            "a limit is the same both ways"
        );
    }
}

fn read_as_sent(encoded: &Encoded, sent: &Outgoing<'_>, set: Option<Columns>) {
    let Encoded { payload, properties } = encoded;
    let read = decode(payload, properties, Said::Nothing, &WIDE);
    let read = read.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(payload)));
    assert_eq!(read.model.as_deref(), Some(sent.model));
    assert_eq!((read.operation, read.time, read.id), (sent.operation, Some(sent.time), Some(sent.id)));
    assert_eq!(read.origin.as_ref(), Some(sent.origin));
    assert_eq!((read.sequence, read.version), (sent.sequence, Some(sent.version)));
    assert_eq!((read.trace, read.trace_state.as_deref()), (sent.trace, sent.trace_state));
    assert_eq!(read.idempotency_key.as_deref(), sent.idempotency_key);
    assert!(read.metadata.iter().eq(sent.metadata.iter().flat_map(|metadata| metadata.iter())));
    assert_eq!((read.cause, read.hops, read.inserted), (sent.cause, sent.hops, sent.inserted));
    assert_eq!(read.set.map(|names| names.columns(COLUMNS)), set);
    assert_eq!(format!("{:?}", content(&read.content)), format!("{:?}", sent.content));
}

/// The sender, where a node of this framework can be called so.
fn origin(incoming: &Incoming<'_>) -> Origin {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let found = incoming.origin.clone().filter(|origin| is_name(&origin.service) && is_name(&origin.node));
    found.unwrap_or_else(|| Origin {
        service: "shop".into(),
        node: "a".into(),
        incarnation: Uuid::from_u128(9),
    })
}

/// No node sends both.
fn before_of(before: Option<&RawValue>, was: Option<&RawValue>) -> Option<RowBefore> {
    let whole = before.map(|row| RowBefore::Whole(row.to_owned()));
    whole.or_else(|| was.map(|row| RowBefore::Differing(row.to_owned())))
}

fn content(content: &IncomingContent<'_>) -> Content {
    let image = |row: &IncomingRow<'_>| RowImages {
        before: before_of(row.before, row.was),
        after: row.after.map(RawValue::to_owned),
    };
    match content {
        IncomingContent::Row { row, before, was } => {
            Content::Row { row: (*row).to_owned(), before: before_of(*before, *was) }
        }
        IncomingContent::Rows { count, rows } => {
            Content::Rows { count: *count, rows: rows.as_ref().map(|rows| rows.iter().map(image).collect()) }
        }
    }
}

/// Whether a model could have written it: an object whose names are texts.
fn is_a_row(content: &Content) -> bool {
    match content {
        Content::Row { row, .. } => serde_json::from_str::<BTreeMap<String, &RawValue>>(row.get()).is_ok(),
        Content::Rows { .. } => true,
    }
}

/// The kind of an event that is written so, if it can be.
fn kind(text: &str) -> String {
    let Ok(kind) = text.parse::<Kind>() else { return "user.create".to_owned() };
    assert_eq!(kind.to_string(), text);
    let kind = kind.of("shop", "user", Operation::Create);
    assert!(!kind.is_empty());
    kind
}

fn is_bulk(operation: Operation) -> bool {
    matches!(operation, Operation::CreateMany | Operation::UpdateMany | Operation::DeleteMany)
}

/// Nesting as the recursive definition has it.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
