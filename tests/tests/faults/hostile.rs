//! Messages that are no events: counted, acknowledged, and no listener is called.

use emitter_core::transport::memory::MemoryBroker;
use emitter_tests::eventually::eventually;
use serde_json::{Value, json};

use crate::nodes::{Ear, SECOND, User, UserEvent, creation, node, subscribed};

const CREATE: &str = "prisma/events/user/create";
const ALL: &str = "prisma/events/user/all";

fn row() -> Value {
    json!({ "id": 1, "email": "a@example.com", "name": null, "status": "NEW", "n": 0 })
}

/// A whole event with one field changed.
fn with(field: &str, value: Value) -> Vec<u8> {
    let mut event = json!({ "model": "User", "operation": "create", "args": {}, "result": row() });
    event[field] = value;
    event.to_string().into()
}

fn without(field: &str) -> Vec<u8> {
    let mut event = json!({ "model": "User", "operation": "create", "args": {}, "result": row() });
    event.as_object_mut().unwrap().remove(field);
    event.to_string().into()
}

fn row_with(field: &str, value: Value) -> Vec<u8> {
    let mut row = row();
    row[field] = value;
    with("result", row)
}

fn many(operation: &str, result: &Value, rows: &Value) -> Vec<u8> {
    json!({ "model": "User", "operation": operation, "result": result, "rows": rows }).to_string().into()
}

fn nested(open: &str, close: &str, levels: usize) -> Vec<u8> {
    let deep = format!("{}1{}", open.repeat(levels), close.repeat(levels));
    format!(r#"{{"model":"User","operation":"create","args":{deep},"result":{}}}"#, row()).into()
}

fn broken_bytes() -> Vec<(&'static str, Vec<u8>)> {
    let whole = creation(&User::new(1, 1));
    vec![
        (CREATE, vec![]),
        (CREATE, b" \n".to_vec()),
        (CREATE, vec![0; 64]),
        (CREATE, vec![0xff, 0xfe, 0xfd]),
        (CREATE, whole.replace("@example", "\u{0}").replace('\u{0}', "@").into_bytes()[1..].to_vec()),
        (CREATE, whole.as_bytes()[..whole.len() - 1].to_vec()),
        (CREATE, [whole.as_bytes(), b"}"].concat()),
        (CREATE, [whole.as_bytes(), whole.as_bytes()].concat()),
        (CREATE, [b"\xef\xbb\xbf", whole.as_bytes()].concat()),
        (CREATE, whole.replace("NEW", r"\ud800").into_bytes()),
        (CREATE, [&whole.as_bytes()[..whole.len() - 2], b"\xc3(}", b"}"].concat()),
        (CREATE, whole.replacen('{', r#"{"model":"user","#, 1).into_bytes()),
    ]
}

fn wrong_types() -> Vec<(&'static str, Vec<u8>)> {
    let payloads = [
        b"null".to_vec(),
        b"[]".to_vec(),
        b"{}".to_vec(),
        b"42".to_vec(),
        br#""text""#.to_vec(),
        // All fields of an envelope in their order, but no object.
        json!(["User", "create", row(), null, null, null, null, null, null]).to_string().into(),
        without("model"),
        without("operation"),
        without("result"),
        with("model", json!(7)),
        with("model", json!(["User"])),
        with("operation", json!({ "create": true })),
        with("operation", Value::Null),
        with("result", Value::Null),
        with("result", json!("row")),
        with("result", json!([])),
        with("result", json!({})),
        with("result", json!({ "id": 4 })),
        with("timestamp", json!(1_700_000_000)),
        with("timestamp", json!("yesterday")),
        with("timestamp", json!("2026-13-41T00:00:00Z")),
        with("eventId", json!(7)),
        with("origin", json!("server-1")),
        with("origin", json!({ "service": "shop" })),
        with(
            "origin",
            json!({ "service": "", "node": "b", "incarnation": "01935a00-0000-7000-8000-000000000000" }),
        ),
        with("origin", json!({ "service": "s", "node": "b", "incarnation": "no uuid" })),
        with("seq", json!(-1)),
        with("seq", json!("1")),
        row_with("id", json!("1")),
        row_with("id", json!(1.5)),
        row_with("id", json!(u64::MAX)),
        row_with("email", Value::Null),
        row_with("name", json!([])),
        row_with("n", json!({ "increment": 1 })),
    ];
    payloads.into_iter().map(|payload| (CREATE, payload)).collect()
}

fn wrong_meaning() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (ALL, with("operation", json!("Create"))),
        (ALL, with("operation", json!("truncate"))),
        (ALL, with("operation", json!(""))),
        (ALL, with("model", json!("Users"))),
        (ALL, with("model", json!(""))),
        (CREATE, with("operation", json!("upsert"))),
        ("prisma/events/user/delete", with("n", json!(1))),
        (ALL, many("updateMany", &json!({}), &Value::Null)),
        (ALL, many("updateMany", &json!(3), &Value::Null)),
        (ALL, many("updateMany", &json!([3]), &Value::Null)),
        (ALL, many("updateMany", &json!({ "count": -1 }), &Value::Null)),
        (ALL, many("updateMany", &json!({ "count": 1.5 }), &Value::Null)),
        (ALL, many("updateMany", &json!({ "count": 2 }), &json!([{ "after": row() }]))),
        (ALL, many("updateMany", &json!({ "count": 1 }), &json!([{ "before": row() }]))),
        (ALL, many("updateMany", &json!({ "count": 1 }), &json!([{ "after": { "id": 1 } }]))),
        (ALL, many("updateMany", &json!({ "count": 1 }), &json!({ "0": {} }))),
        (ALL, many("createMany", &json!({ "count": 1 }), &json!([{ "before": row() }]))),
        (ALL, many("deleteMany", &json!({ "count": 1 }), &json!([{ "after": row() }]))),
        (ALL, many("deleteMany", &json!({ "count": 1 }), &json!([null]))),
        updated("before", &json!({ "id": 1 })),
        updated("was", &json!({ "unheard_of": 1 })),
        updated("was", &json!({ "id": "one" })),
        updated("was", &json!([1])),
        (
            ALL,
            json!({ "model": "User", "operation": "update", "result": row(), "before": row(), "was": {} })
                .to_string()
                .into(),
        ),
        (
            ALL,
            many(
                "updateMany",
                &json!({ "count": 1 }),
                &json!([{ "after": row(), "was": { "unheard_of": 1 } }]),
            ),
        ),
        (ALL, many("updateMany", &json!({ "count": 1 }), &json!([{ "was": {} }]))),
    ]
}

fn updated(name: &str, value: &Value) -> (&'static str, Vec<u8>) {
    let event = json!({ "model": "User", "operation": "update", "result": row(), name: value });
    (ALL, event.to_string().into())
}

fn too_large() -> Vec<(&'static str, Vec<u8>)> {
    let whole = creation(&User::new(1, 1));
    let padded = |bytes: usize| [whole.as_bytes(), &vec![b' '; bytes - whole.len()]].concat();
    vec![
        (CREATE, padded(256 * 1024 + 1)),
        (CREATE, row_with("email", json!("x".repeat(1 << 20)))),
        (CREATE, nested("[", "]", 32)),
        (CREATE, nested(r#"{"a":"#, "}", 32)),
        (CREATE, nested("[", "]", 100_000)),
        (CREATE, vec![b'['; 200_000]),
    ]
}

/// On topics that no filter of the node matches, too: the broker is hostile itself.
fn wrong_topics() -> Vec<(&'static str, Vec<u8>)> {
    let topics = [
        "",
        "/",
        "user",
        "prisma/events",
        "prisma/events/",
        "prisma/events/user",
        "prisma/events/user/",
        "prisma/events//create",
        "prisma/events/user/create/",
        "prisma/events/user/create/x",
        "prisma/events/user/drop",
        "prisma/eventsX/user/create",
        "prisma/events/users/create",
        "prisma/events/log/create",
        "xprisma/events/user/create",
        "$SYS/user/create",
        "prisma/events/user/\u{0}",
        "prisma/events/user/#",
        "prisma/events/+/create",
        "prisma/events/nothing/all",
    ];
    topics.into_iter().map(|topic| (topic, creation(&User::new(1, 1)).into())).collect()
}

#[tokio::test]
async fn each_is_counted_and_acknowledged_and_reaches_no_listener() {
    let broker = MemoryBroker::new();
    let b = node(&broker, "b").await;
    let ear = Ear::default();
    let hears = ear.clone();
    let _ = b.on::<UserEvent>().allow_remote().run(move |event| {
        hears.hear(&event, 0);
        std::future::ready(())
    });
    subscribed(&b, 1).await;
    let messages = [broken_bytes(), wrong_types(), wrong_meaning(), too_large(), wrong_topics()].concat();
    let mut bad = 0;
    for (count, (topic, payload)) in (1_u64..).zip(messages) {
        // An array is taken apart, and each part is one.
        bad += match serde_json::from_slice(&payload) {
            Ok(Value::Array(parts)) => parts.len().max(1) as u64,
            _ => 1,
        };
        let shown = String::from_utf8_lossy(&payload[..payload.len().min(200)]).into_owned();
        assert!(broker.send("b", topic, payload));
        eventually(|| b.stats().received == count && broker.unacknowledged("b") == 0).await;
        assert_eq!(b.stats().bad_messages, bad, "taken for an event: {topic} {shown}");
        assert_eq!(ear.len(), 0, "a listener was called: {topic} {shown}");
    }
    broker.publish(CREATE, creation(&User::new(1, 1)));
    eventually(|| ear.len() == 1).await;
    assert!(b.shutdown(SECOND).await.is_clean());
}

#[tokio::test]
async fn what_is_just_within_the_bounds_is_an_event() {
    let broker = MemoryBroker::new();
    let b = node(&broker, "b").await;
    let ear = Ear::default();
    let _ = ear.listen(&b);
    subscribed(&b, 1).await;
    let whole = creation(&User::new(1, 1));
    let messages = [
        [whole.as_bytes(), &vec![b' '; 256 * 1024 - whole.len()]].concat(),
        nested("[", "]", 31),
        with("args", Value::Null),
        without("args"),
        with("eventId", Value::Null),
        with("eventId", json!("no uuid")),
        with("timestamp", Value::Null),
        with("model", json!("uSER")),
        with("something", json!({ "new": [1] })),
        row_with("something", json!("[[[[")),
    ];
    let expected = messages.len();
    for message in messages {
        assert_eq!(broker.publish(CREATE, message), 1);
    }
    eventually(|| broker.unacknowledged("b") == 0).await;
    assert_eq!((ear.len(), b.stats().bad_messages), (expected, 0));
}
