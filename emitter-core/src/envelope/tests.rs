use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

/// Any JSON, not too deep.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Eighths: serde_json reads other floats within one unit in the last place only.
        any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        any::<String>().prop_map(Value::from),
        "[\\[\\]{}\"\\\\]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-z\\[{\"]{0,4}", inner, 0..5)
                .prop_map(|map| Value::from(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn row() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[abé\"]{1,2}", value(), 0..5)
        .prop_map(|map| Value::from(map.into_iter().collect::<Map<_, _>>()))
}

/// What is put in and must come out.
#[derive(Debug, Clone)]
struct Sent {
    operation: Operation,
    row: Value,
    before: Option<Value>,
    count: u64,
    rows: Option<Vec<(Option<Value>, Option<Value>)>>,
    millis: i64,
    id: u128,
    sequence: u64,
    key: Option<Key>,
    set: Option<[bool; 3]>,
}

/// Of the model; rows have others too.
const COLUMNS: &[Column] = &[
    Column::new("a", "a", "String", None),
    Column::new("quote", "\"", "String", None),
    Column::new("e", "é", "String", None),
];

fn sent() -> impl Strategy<Value = Sent> {
    let rows = prop::collection::vec((prop::option::of(row()), prop::option::of(row())), 0..4);
    let key = prop_oneof![
        any::<i64>().prop_map(Key::Int),
        "[a-z]{0,9}".prop_map(|text| Key::Text(text.into())),
        (any::<i64>(), "[a-z]{0,9}").prop_map(|(a, b)| Key::composite([Key::Int(a), Key::Text(b.into())])),
    ];
    let set = prop::option::of(any::<[bool; 3]>());
    let surrounding = (0..4_102_444_800_000_i64, any::<u128>(), any::<u64>(), set);
    let operation = prop::sample::select(Operation::ALL.to_vec());
    let content = (row(), prop::option::of(row()), prop::option::of(rows), any::<u64>());
    (operation, content, surrounding, prop::option::of(key)).prop_map(
        |(operation, (row, before, rows, count), (millis, id, sequence, set), key)| {
            let count = rows.as_ref().map_or(count, |rows| rows.len() as u64);
            let set = set.filter(|_| {
                matches!(operation, Operation::Update | Operation::UpdateMany | Operation::Upsert)
            });
            Sent { operation, row, before, count, rows, millis, id, sequence, key, set }
        },
    )
}

fn is_bulk(operation: Operation) -> bool {
    matches!(operation, Operation::CreateMany | Operation::UpdateMany | Operation::DeleteMany)
}

fn raw(value: &Value) -> Box<RawValue> {
    encode_row(value).unwrap()
}

fn origin() -> Origin {
    Origin { service: "shop".into(), node: "a".into(), incarnation: Uuid::from_u128(9) }
}

fn content_of(sent: &Sent) -> Content {
    if !is_bulk(sent.operation) {
        return Content::Row {
            row: raw(&sent.row),
            before: sent.before.as_ref().map(raw).map(RowBefore::Whole),
        };
    }
    let image = |(before, after): &(Option<Value>, Option<Value>)| RowImages {
        before: before.as_ref().map(raw).map(RowBefore::Whole),
        after: after.as_ref().map(raw),
    };
    Content::Rows { count: sent.count, rows: sent.rows.as_ref().map(|rows| rows.iter().map(image).collect()) }
}

fn idempotency_key(sent: &Sent) -> Option<&str> {
    if sent.sequence.is_multiple_of(7) { Some("") } else { some_text(sent) }
}

fn some_text(sent: &Sent) -> Option<&str> {
    sent.row.as_object()?.keys().next().map(String::as_str)
}

/// Without a content type, on a topic that tells nothing.
fn read<'a>(payload: &'a [u8], limits: &WireLimits) -> Result<Incoming<'a>, DecodeError> {
    const NOTHING: &Properties = &Properties { content_type: None, user: Vec::new() };
    decode(payload, NOTHING, Said::Nothing, limits)
}

fn version(sent: &Sent) -> u32 {
    if sent.sequence.is_multiple_of(2) { 1 } else { 3 }
}

fn inserted(sent: &Sent) -> Option<bool> {
    [None, Some(true), Some(false)][(sent.sequence % 3) as usize]
}

const FORMATS: [Format; 4] =
    [Format::Specification, Format::CloudEvents, Format::CloudEventsBinary, Format::Tracker];

fn encoded(sent: &Sent, limits: &WireLimits) -> Result<Vec<u8>, EncodeError> {
    encoded_as(Format::Specification, sent, limits).map(|encoded| encoded.payload)
}

fn trace_state(sent: &Sent) -> Option<&str> {
    some_text(sent).filter(|text| Trace::is_state(text))
}

fn metadata(sent: &Sent) -> Option<Metadata> {
    let mut metadata = Metadata::default();
    for name in ["actor", "source", "\"\n"].iter().take((sent.id % 4) as usize) {
        metadata.insert(name, &sent.millis.to_string());
    }
    (metadata != Metadata::default()).then_some(metadata)
}

fn cause(sent: &Sent) -> Option<EventId> {
    sent.sequence.is_multiple_of(5).then(|| EventId::from_uuid(Uuid::from_u128(!sent.id)))
}

fn hops(sent: &Sent) -> u8 {
    u8::try_from(sent.sequence % 4).unwrap()
}

fn encoded_as(format: Format, sent: &Sent, limits: &WireLimits) -> Result<Encoded, EncodeError> {
    encoded_of(&content_of(sent), format, sent, limits)
}

fn encoded_of(
    content: &Content,
    format: Format,
    sent: &Sent,
    limits: &WireLimits,
) -> Result<Encoded, EncodeError> {
    let columns: &[&str] = match &sent.key {
        Some(Key::Composite(_)) => &["a", "b"],
        _ => &["id"],
    };
    let noted = metadata(sent);
    let outgoing = Outgoing {
        model: "user",
        key_columns: columns,
        operation: sent.operation,
        kind: &format.default_kind().parse::<Kind>().unwrap().of("shop", "user", sent.operation),
        keys: sent.key.as_slice(),
        content,
        columns: COLUMNS,
        set: sent.set.map(Columns::from_flags),
        inserted: inserted(sent),
        time: Timestamp::from_millis(sent.millis),
        id: EventId::from_uuid(Uuid::from_u128(sent.id)),
        origin: &origin(),
        sequence: Some(sent.sequence),
        version: version(sent),
        trace: Trace::new(sent.id, sent.sequence, true),
        trace_state: trace_state(sent),
        idempotency_key: idempotency_key(sent),
        metadata: noted.as_ref(),
        cause: cause(sent),
        hops: hops(sent),
    };
    encode(&outgoing, format, limits)
}

const WIDE: WireLimits = WireLimits { max_bytes: usize::MAX, max_depth: usize::MAX };

/// The part of the row that was set; the whole row if all columns were.
fn written(sent: &Sent) -> Value {
    let set = match sent.set {
        None => return json!({}),
        Some([true, true, true]) => return sent.row.clone(),
        Some(set) => set,
    };
    let is_set = |name: &str| COLUMNS.iter().zip(set).any(|(column, set)| set && column.json == name);
    let fields = sent.row.as_object().unwrap().iter().filter(|(name, _)| is_set(name));
    Value::from(fields.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>())
}

/// What was set, and is the same in all rows after it.
fn written_in_all(sent: &Sent) -> Value {
    let rows = sent.rows.iter().flatten().map(|(_, after)| after.as_ref().and_then(Value::as_object));
    let Some(rows) = rows.collect::<Option<Vec<_>>>() else { return json!({}) };
    let set = COLUMNS.iter().zip(sent.set.unwrap_or_default()).filter(|(_, set)| *set);
    let common = set.filter_map(|(column, _)| {
        let value = rows.first()?.get(column.json)?;
        let everywhere = rows.iter().all(|row| row.get(column.json) == Some(value));
        everywhere.then(|| (column.json.to_owned(), value.clone()))
    });
    Value::from(common.collect::<Map<_, _>>())
}

fn parsed(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap()
}

/// Nesting as the recursive definition has it.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// A row of the same columns, of which one differs.
fn alike(row: &Value) -> Value {
    let mut other = row.clone();
    other.as_object_mut().unwrap().values_mut().take(1).for_each(|value| *value = json!([value]));
    other
}

/// Bytes that are nearly an event.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\"model\"",
        "\"user\"",
        "\"operation\"",
        "\"create\"",
        "\"updateMany\"",
        "\"result\"",
        "{\"count\":1}",
        "{\"id\":1}",
        "\"rows\"",
        "\"origin\"",
        "null",
        "1",
        "-",
        "1e999",
        "true",
        "\"\\ud800\"",
        " ",
        "\u{0}",
        "\"eventId\"",
        "\"timestamp\"",
        "\"seq\"",
        "\"before\"",
        "\"was\"",
    ]);
    let soup = prop::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat().into_bytes());
    let broken = (sent(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)).prop_map(
        |(sent, changes)| {
            let mut bytes = encoded(&sent, &WIDE).unwrap();
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            bytes
        },
    );
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), soup, broken]
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_again(
        sent in sent(), format in prop::sample::select(FORMATS.to_vec()), by_shape in any::<bool>()
    ) {
        let Encoded { payload, mut properties } = encoded_as(format, &sent, &WIDE).unwrap();
        if by_shape && format != Format::CloudEventsBinary {
            properties = Properties::default();
        }
        let incoming = decode(&payload, &properties, Said::Nothing, &WIDE).unwrap();
        prop_assert_eq!(incoming.model.as_deref(), Some("user"));
        prop_assert_eq!(incoming.operation, sent.operation);
        prop_assert_eq!(incoming.time, Some(Timestamp::from_millis(sent.millis)));
        prop_assert_eq!(incoming.id, Some(EventId::from_uuid(Uuid::from_u128(sent.id))));
        prop_assert_eq!(incoming.origin, Some(origin()));
        prop_assert_eq!(incoming.sequence, Some(sent.sequence));
        prop_assert_eq!(incoming.version, Some(version(&sent)));
        prop_assert_eq!(incoming.trace, Trace::new(sent.id, sent.sequence, true));
        prop_assert_eq!(incoming.trace_state.as_deref(), trace_state(&sent));
        prop_assert_eq!(incoming.idempotency_key.as_deref(), idempotency_key(&sent));
        prop_assert_eq!(incoming.metadata, metadata(&sent).unwrap_or_default());
        prop_assert_eq!((incoming.cause, incoming.hops), (cause(&sent), hops(&sent)));
        prop_assert_eq!(incoming.inserted, inserted(&sent));
        if let Some(set) = sent.set {
            let told = incoming.set.map(|names| names.columns(COLUMNS));
            prop_assert_eq!(told, Some(Columns::from_flags(set)));
        }
        match incoming.content {
            IncomingContent::Row { row, before, was } => {
                prop_assert!(!is_bulk(sent.operation) && was.is_none());
                prop_assert_eq!(parsed(row), sent.row);
                prop_assert_eq!(before.map(parsed), sent.before);
            }
            IncomingContent::Rows { count, rows } => {
                prop_assert!(is_bulk(sent.operation));
                prop_assert_eq!(count, sent.count);
                let image = |row: IncomingRow<'_>| (row.before.map(parsed), row.after.map(parsed));
                prop_assert_eq!(rows.map(|rows| rows.into_iter().map(image).collect::<Vec<_>>()), sent.rows);
            }
        }
    }

    /// Whichever way it is told in.
    #[test]
    fn rows_before_that_are_told_by_what_differs_come_back(
        sent in sent(), same in any::<bool>(), format in prop::sample::select(FORMATS.to_vec())
    ) {
        let mut sent = sent;
        // Rows of two shapes are told whole.
        if same {
            sent.before = Some(alike(&sent.row));
            let rows = sent.rows.iter_mut().flatten().filter(|(_, after)| after.is_some());
            rows.for_each(|(before, after)| *before = after.as_ref().map(alike));
        }
        let mut content = content_of(&sent);
        content.narrow();
        let narrow = encoded_of(&content, format, &sent, &WIDE).unwrap();
        let whole = encoded_as(format, &sent, &WIDE).unwrap();
        prop_assert!(!same || narrow.payload.len() <= whole.payload.len());
        let incoming = decode(&narrow.payload, &narrow.properties, Said::Nothing, &WIDE).unwrap();
        let back = |before: Option<&RawValue>, was: Option<&RawValue>, after: &RawValue| {
            row_before(before, was, after).unwrap().map(|row| parsed(&row))
        };
        match incoming.content {
            IncomingContent::Row { row, before, was } => {
                prop_assert!(!same || (before.is_none() && was.is_some()));
                prop_assert_eq!(back(before, was, row), sent.before);
            }
            IncomingContent::Rows { rows, .. } => {
                for (row, (before, _)) in rows.iter().flatten().zip(sent.rows.iter().flatten()) {
                    match row.after {
                        Some(after) => prop_assert_eq!(&back(row.before, row.was, after), before),
                        None => prop_assert_eq!(&row.before.map(parsed), before),
                    }
                }
            }
        }
    }

    /// What another program's `args` say about columns; whatever else they are does no harm.
    #[test]
    fn args_of_any_shape_are_no_error(args in value(), update in prop::sample::select(vec!["update", "updateMany", "upsert"])) {
        let event = json!({ "model": "user", "operation": update, "args": args, "result": { "count": 1 } });
        let bytes = serde_json::to_vec(&event).unwrap();
        let names = read(&bytes, &WIDE).unwrap().set;
        let keys = |field: &str| args.get(field).and_then(Value::as_object).map(|fields| fields.keys().collect::<Vec<_>>());
        let wanted = match update {
            "upsert" => keys("create").zip(keys("update")).map(|(create, update)| [create, update].concat()),
            _ => keys("data"),
        };
        if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
            prop_assert!(wanted.iter().all(|name| names.as_ref().is_some_and(|names| names.contains(name))));
        }
    }

    /// What the npm package looks into is there, in the shape in which it writes it.
    #[test]
    fn the_specifications_fields_are_there(sent in sent()) {
        let event: Value = serde_json::from_slice(&encoded(&sent, &WIDE).unwrap()).unwrap();
        let result = if is_bulk(sent.operation) { json!({ "count": sent.count }) } else { sent.row.clone() };
        let selector = match &sent.key {
            None => json!({}),
            Some(Key::Composite(parts)) => json!({ "a": parts[0], "b": parts[1] }),
            Some(key) => json!({ "id": key }),
        };
        let row = &sent.row;
        let args = match sent.operation {
            Operation::Create => json!({ "data": row }),
            Operation::CreateMany => json!({ "data": [] }),
            Operation::Update => json!({ "where": selector, "data": written(&sent) }),
            Operation::UpdateMany => json!({ "where": selector, "data": written_in_all(&sent) }),
            Operation::Upsert => json!({ "where": selector, "create": row, "update": row }),
            Operation::Delete | Operation::DeleteMany => json!({ "where": selector }),
        };
        prop_assert_eq!(&event["operation"], sent.operation.as_str());
        prop_assert_eq!(&event["result"], &result);
        prop_assert_eq!(&event["args"], &args);
    }

    #[test]
    fn a_limit_is_kept_both_ways(sent in sent(), less in 0..3_usize) {
        let bytes = encoded(&sent, &WIDE).unwrap();
        let limits = WireLimits { max_bytes: bytes.len() - less, ..WIDE };
        prop_assert_eq!(encoded(&sent, &limits).is_ok(), less == 0);
        prop_assert_eq!(read(&bytes, &limits).is_ok(), less == 0);
        let deep = depth(&serde_json::from_slice(&bytes).unwrap());
        let limits = WireLimits { max_depth: deep - less.min(deep), ..WIDE };
        prop_assert_eq!(read(&bytes, &limits).is_ok(), less == 0);
    }

    #[test]
    fn depth_is_what_recursion_says(value in value(), limit in 0..8_usize, pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        prop_assert_eq!(is_deeper_than(&text.unwrap(), limit), depth(&value) > limit);
    }

    #[test]
    fn bytes_are_rejected_or_a_whole_event(bytes in nearly(), max_bytes in 0..600_usize, max_depth in 1..9_usize) {
        let limits = WireLimits { max_bytes, max_depth };
        if let Ok(incoming) = read(&bytes, &limits) {
            prop_assert!(bytes.len() <= max_bytes);
            let fields: Map<String, Value> = match serde_json::from_slice(&bytes) {
                Ok(fields) => fields,
                // What nobody looks at is not read: such a number or surrogate may stand there.
                Err(error) if error.is_syntax() => return Ok(()),
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            };
            prop_assert_eq!(&fields["operation"], incoming.operation.as_str());
            prop_assert_eq!(fields["model"].as_str(), incoming.model.as_deref());
            prop_assert!(depth(&Value::from(fields)) <= max_depth);
        }
    }
}

/// What filters of the npm package look into where an update touched several rows.
#[test]
fn args_of_many_rows() {
    let args = |columns: &[&str], keys: &[Key], rows: &[Value]| {
        let images = rows.iter().map(|row| RowImages { before: None, after: Some(raw(row)) });
        let content = Content::Rows { count: rows.len() as u64, rows: Some(images.collect()) };
        let sent = Outgoing {
            model: "user",
            key_columns: columns,
            operation: Operation::UpdateMany,
            kind: "",
            keys,
            content: &content,
            columns: COLUMNS,
            set: Some(Columns::from_flags([true, true, false])),
            inserted: None,
            time: Timestamp::from_millis(0),
            id: EventId::from_uuid(Uuid::from_u128(0)),
            origin: &origin(),
            sequence: Some(1),
            version: FIRST_VERSION,
            trace: None,
            trace_state: None,
            idempotency_key: None,
            metadata: None,
            cause: None,
            hops: 0,
        };
        let payload = encode(&sent, Format::Specification, &WIDE).unwrap().payload;
        serde_json::from_slice::<Value>(&payload).unwrap()["args"].clone()
    };
    let row = |a: Value, quote: &str| json!({ "a": a, "\"": quote, "é": 1, "id": 7 });
    let rows = [row(json!([1.5]), "x"), row(json!([1.5]), "y")];
    let keys: Vec<Key> = (0..=100).map(Key::Int).collect();
    let check = |columns: &[&str], keys: &[Key], expected: Value| {
        assert_eq!(args(columns, keys, &rows), json!({ "where": expected, "data": { "a": [1.5] } }));
    };
    check(&["id"], &[], json!({}));
    check(&["id"], &keys[7..8], json!({ "id": 7 }));
    check(&["id"], &keys[7..9], json!({ "id": { "in": [7, 8] } }));
    check(&["id"], &keys[..100], json!({ "id": { "in": (0..100).collect::<Vec<_>>() } }));
    check(&["id"], &keys, json!({}));
    let pairs = [1, 2].map(|a| Key::composite([Key::Int(a), Key::Text("x".into())]));
    let both = json!({ "OR": [{ "a": 1, "b": "x" }, { "a": 2, "b": "x" }] });
    check(&["a", "b"], &pairs, both);
    let nothing_in_common = [row(json!(1), "x"), row(json!(2), "y")];
    assert_eq!(args(&["id"], &[], &nothing_in_common)["data"], json!({}));
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only its types matter")]
struct User {
    id: i64,
    name: String,
    tags: Vec<bool>,
}

const CANARY: &str = "c4n4ry-of-a-secret";

/// The message with this field at this place, by a pointer into it.
fn with(pointer: &str, value: Value) -> Value {
    let mut event = json!({
        "model": "user", "operation": "updateMany", "args": {}, "result": { "count": 1 },
        "timestamp": "2026-11-21T00:42:25.735Z", "eventId": "", "before": {}, "seq": 1,
        "origin": { "service": "s", "node": "n", "incarnation": "01935a00-0000-7000-8000-000000000000" },
        "rows": [{ "before": { "id": 1, "name": "", "tags": [] }, "after": { "id": 1, "name": "", "tags": [] } }],
    });
    match pointer.rsplit_once('/') {
        Some((parent, field)) if event.pointer(pointer).is_none() => {
            event.pointer_mut(parent).unwrap()[field] = value;
        }
        _ => *event.pointer_mut(pointer).unwrap() = value,
    }
    event
}

/// What everything that is said about a message says.
fn errors(payload: &[u8]) -> Vec<String> {
    let limits = WireLimits::default();
    let said = |error: DecodeError| format!("{error} {error:?}");
    match read(payload, &limits) {
        Err(error) => vec![said(error)],
        Ok(Incoming { content: IncomingContent::Row { row, before, was }, .. }) => [Some(row), before, was]
            .into_iter()
            .flatten()
            .filter_map(|row| decode_row::<User>(row).err())
            .map(said)
            .collect(),
        Ok(Incoming { content: IncomingContent::Rows { rows, .. }, .. }) => rows
            .into_iter()
            .flatten()
            .flat_map(|row| [row.before, row.after])
            .flatten()
            .filter_map(|row| decode_row::<User>(row).err())
            .map(said)
            .collect(),
    }
}

#[test]
fn no_error_repeats_the_payload() {
    let places = [
        "",
        "/model",
        "/operation",
        "/result",
        "/result/count",
        "/timestamp",
        "/eventId",
        "/seq",
        "/origin",
        "/origin/service",
        "/origin/incarnation",
        "/rows",
        "/rows/0",
        "/rows/0/before",
        "/rows/0/after",
        "/rows/0/after/id",
        "/rows/0/after/tags",
        "/rows/0/after/name",
        "/rows/0/after/new",
    ];
    let secrets = [
        json!(CANARY),
        json!([CANARY]),
        json!({ CANARY: CANARY }),
        json!({ "id": CANARY, "name": 1, "tags": CANARY }),
        json!({ "id": 1, "name": "", "tags": [CANARY] }),
    ];
    let mut said = Vec::new();
    for place in places {
        for secret in &secrets {
            let whole = with(place, secret.clone()).to_string();
            said.extend(errors(whole.as_bytes()));
            // Cut off within the secret, and with a wrong byte behind it.
            if let Some(at) = whole.rfind(CANARY) {
                said.extend(errors(&whole.as_bytes()[..at + CANARY.len()]));
                said.extend(errors(whole.replace(CANARY, &format!("{CANARY}\u{1}")).as_bytes()));
                said.extend(errors(whole.replace(CANARY, &format!("{CANARY}\\q")).as_bytes()));
            }
        }
    }
    assert!(said.len() > 100, "{}", said.len());
    for text in said {
        assert!(!text.contains("c4n4ry"), "{text}");
    }
}

/// What another program sends, read on a topic that says this.
fn foreign(
    payload: &Value,
    beside: &Properties,
    said: Said<'_>,
) -> Result<(Option<String>, Operation, Value), String> {
    let bytes = serde_json::to_vec(payload).unwrap();
    let incoming = decode(&bytes, beside, said, &WireLimits::default()).map_err(|error| error.to_string())?;
    assert_eq!(incoming.origin, None);
    let row = match incoming.content {
        IncomingContent::Row { row, .. } => parsed(row),
        IncomingContent::Rows { count, rows } => json!([count, rows.is_some()]),
    };
    Ok((incoming.model.map(Cow::into_owned), incoming.operation, row))
}

#[test]
fn a_cloud_event_of_another_program_has_the_row_as_its_data() {
    let event = |kind: &str, data: Value| json!({ "specversion": "1.0", "id": "1", "source": "/elsewhere", "type": kind, "data": data, "sequence": 7 });
    let plain = Properties::default();
    let row = json!({ "id": 7, "model": "T" });
    let created = Ok((None, Operation::Create, row.clone()));
    assert_eq!(foreign(&event("com.example.user.created", row.clone()), &plain, Said::Nothing), created);
    let typed = Properties {
        content_type: Some("application/cloudevents+json; charset=utf-8".into()),
        user: Vec::new(),
    };
    assert_eq!(foreign(&event("x", row.clone()), &typed, Said::This(Operation::Create)), created);
    let binary = Properties::of_type("application/json")
        .with("specversion", "1.0")
        .with("id", "1")
        .with("source", "/elsewhere")
        .with("type", "user.create");
    assert_eq!(foreign(&row, &binary, Said::Nothing), created);

    let wrong = |event: &Value, beside: &Properties, expected: &str| {
        let error = foreign(event, beside, Said::Nothing).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    wrong(&event("com.example.user", row.clone()), &plain, "unknown operation");
    wrong(&event("", row.clone()), &plain, "`type` is empty");
    wrong(&event("user.create", json!(7)), &plain, "no object");
    wrong(
        &json!({ "specversion": "1.0", "id": "1", "source": "/", "type": "user.create" }),
        &plain,
        "`data` is absent",
    );
    wrong(
        &json!({ "specversion": "2.0", "id": "1", "source": "/", "type": "user.create", "data": {} }),
        &plain,
        "not 1.0",
    );
    wrong(&row, &Properties::default().with("specversion", "1.0").with("id", "1"), "`source` is absent");
    wrong(&row, &binary.clone().with("time", "today"), "not ISO 8601");
}

#[test]
fn an_event_in_the_tracker_form_is_checked_as_its_document_says() {
    let event = json!({
        "trace_id": "550e8400-e29b-41d4-a716-446655440000",
        "ts": "2025-01-15T10:30:00Z",
        "kind": "project_created",
        "idempotency_key": "project_created_1642247400_a1b2c3d4",
        "payload": { "project_id": "550e8400-e29b-41d4-a716-446655440000", "name": "New Project" },
    });
    let plain = Properties::default();
    let row = event["payload"].clone();
    assert_eq!(foreign(&event, &plain, Said::Nothing), Ok((None, Operation::Create, row.clone())));
    assert_eq!(
        foreign(&event, &plain, Said::This(Operation::Update)),
        Ok((None, Operation::Update, row)),
        "the topic says more than the kind"
    );
    let bytes = serde_json::to_vec(&event).unwrap();
    let incoming = read(&bytes, &WIDE).unwrap();
    assert_eq!(incoming.time, Timestamp::parse("2025-01-15T10:30:00.000Z"));
    assert_eq!(incoming.trace.map(|trace| trace.trace_id()), Some(0x550e8400_e29b_41d4_a716_446655440000));
    assert_eq!(incoming.idempotency_key.as_deref(), Some("project_created_1642247400_a1b2c3d4"));
    assert_eq!(incoming.id, None, "it is no identity");

    // Everything that is wrong is told at once, and nothing of it repeated.
    let wrong = json!({ "trace_id": CANARY, "ts": CANARY, "kind": "", "payload": [CANARY] });
    let error = foreign(&wrong, &plain, Said::Nothing).unwrap_err();
    for expected in [
        "`trace_id` is no UUID",
        "`ts` is not ISO 8601",
        "`kind` is no text",
        "`idempotency_key` is absent",
        "`payload` is no object",
    ] {
        assert!(error.contains(expected), "{error}");
    }
    assert!(!error.contains(CANARY), "{error}");
}

#[test]
fn the_tracker_form_has_its_five_fields() {
    let sent = Sent {
        operation: Operation::Create,
        row: json!({ "id": 7 }),
        before: None,
        count: 1,
        rows: None,
        millis: 0,
        id: 0,
        // Whose idempotency key is empty, which the form does not allow.
        sequence: 7,
        key: Some(Key::Int(7)),
        set: None,
    };
    let Encoded { payload, properties } = encoded_as(Format::Tracker, &sent, &WIDE).unwrap();
    let event: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(event["kind"], "user_created");
    assert_eq!(event["payload"], json!({ "id": 7 }));
    assert_eq!(event["ts"], "1970-01-01T00:00:00.000Z");
    assert_eq!(event["idempotency_key"], "user_created_0_00000000");
    assert!(event["trace_id"].as_str().is_some_and(|id| Uuid::try_parse(id).is_ok()));
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
}

#[test]
fn an_array_of_the_fields_is_no_event() {
    let array = json!(["user", "create", { "id": 1 }, null, null, null, null, null, null]).to_string();
    assert!(matches!(read(array.as_bytes(), &WIDE), Err(DecodeError::Malformed(_))));
    let count = json!({ "model": "user", "operation": "updateMany", "result": [1] }).to_string();
    assert!(matches!(read(count.as_bytes(), &WIDE), Err(DecodeError::Malformed(_))));
}
