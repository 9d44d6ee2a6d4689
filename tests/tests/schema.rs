//! What a program's events look like in the words of others, and that it is so: what nodes publish is of the JSON Schema, AsyncAPI's
//! own parser finds no error, and a program in TypeScript that knows the types hears a Rust node.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use chrono::NaiveDate;
use emitter_core::manifest::Manifest;
use emitter_core::masked::HashKey;
use emitter_core::model::UpdatedMany;
use emitter_core::schema::{self, About, SchemaError};
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{Builder, Emits, Emitter, Event, listener};
use emitter_tests::documents::{HEAR, Readers};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::Mosquitto;
use emitter_tests::typescript::TypeScript;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "shopOrder", create, update, update_many, delete, before)]
#[serde(rename_all = "camelCase")]
struct ShopOrder {
    id: i64,
    customer_name: String,
    note: Option<String>,
    tags: Vec<String>,
    paid: bool,
    lines: Vec<(String, f64)>,
    weight: f64,
    extra: Value,
    placed_on: Option<NaiveDate>,
    #[emits(hash)]
    card: String,
    #[emits(redact)]
    iban: String,
    #[emits(skip)]
    #[serde(skip)]
    internal: String,
}

/// It is no row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(event, kind = "auth.login_failed", topic = "auth/login_failed")]
struct LoginFailed {
    username: String,
    attempts: u8,
}

/// Nobody else hears of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, local)]
struct Draft {
    id: i64,
}

#[listener(model = "shopOrder", allow_remote)]
async fn pack(_: Event<ShopOrderCreated>) {}

fn order(id: i64) -> ShopOrder {
    ShopOrder {
        id,
        customer_name: "Ana \"\u{1f980}\"".to_owned(),
        note: (id > 1).then(|| "*/ // `${1}`".to_owned()),
        tags: vec!["a".to_owned(), "b".to_owned()],
        paid: id > 1,
        lines: vec![("tea".to_owned(), 2.5), ("cup".to_owned(), 4.0)],
        weight: if id > 1 { f64::NAN } else { 0.5 },
        extra: json!({ "gift": [true, null] }),
        placed_on: NaiveDate::from_ymd_opt(2026, 11, 22).filter(|_| id > 1),
        card: "4111".to_owned(),
        iban: "DE00".to_owned(),
        internal: "secret".to_owned(),
    }
}

fn seen(order: &ShopOrder) -> ShopOrderRow {
    use emitter_core::model::Model;

    let key = HashKey::new(b"0123456789abcdef0123456789abcdef").unwrap();
    order.to_row(Some(&key))
}

fn builder(node: &str) -> Builder {
    let key = HashKey::new(b"0123456789abcdef0123456789abcdef").unwrap();
    Emitter::builder().service("shop").node(node).hash_key(key)
}

/// One event of each kind, and some with less.
fn tell(emitter: &Emitter) {
    let (one, two) = (seen(&order(1)), seen(&order(2)));
    emitter.publish(ShopOrderCreated::new(one.clone()));
    emitter.publish(ShopOrderUpdated::new(Some(one.clone()), two.clone(), None));
    emitter.publish(ShopOrderUpdated::new(None, two.clone(), None));
    emitter.publish(UpdatedMany::<ShopOrder>::new(7, None, None));
    emitter.publish(ShopOrderDeleted::new(two));
    emitter.publish(LoginFailed { username: "root".to_owned(), attempts: 3 });
}

/// Of this test's own crate.
fn manifest() -> Manifest {
    Manifest::of_crates(&["schema"])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_of_the_json_schema() {
    let schema: Value =
        serde_json::from_str(&schema::json_schema(&manifest(), &About::default()).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let broker = MemoryBroker::new();
    let emitter = builder("a").transport(broker.connect("shop.a")).start().await.unwrap();
    emitter.connected(Duration::from_secs(10)).await.unwrap();
    tell(&emitter);
    assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
    let published = broker.published();
    let events: Vec<Value> = published
        .iter()
        .filter(|message| !message.topic.contains("/_"))
        .map(|message| serde_json::from_slice(&message.payload).unwrap())
        .collect();
    assert_eq!(events.len(), 6, "{published:?}");
    for event in &events {
        let errors: Vec<String> = validator.iter_errors(event).map(|error| error.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new(), "{event}");
        // And of nothing else.
        for (place, wrong) in [
            ("/operation", json!("dance")),
            ("/eventId", json!(7)),
            ("/result", json!({ "rows": 1 })),
            ("/origin", json!("shop")),
        ] {
            let mut event = event.clone();
            *event.pointer_mut(place).unwrap() = wrong;
            assert!(!validator.is_valid(&event), "{place} of {event}");
        }
    }
    // What differs alone, in place of the row before.
    let mut update = events[1].clone();
    let before = update.as_object_mut().unwrap().remove("before").unwrap();
    for (was, is_right) in [
        (json!({ "paid": before["paid"], "note": before["note"] }), true),
        (json!({}), true),
        (json!({ "paid": "yes" }), false),
        (json!([]), false),
    ] {
        update["was"] = was.clone();
        assert_eq!(validator.is_valid(&update), is_right, "{was}");
        let mut many = events[3].clone();
        many["rows"] = json!([{ "was": was, "after": update["result"] }]);
        assert_eq!(validator.is_valid(&many), is_right, "{was}");
    }
    let row = &schema["$defs"]["ShopOrderRow"];
    assert_eq!(row["properties"]["extra"], json!({ "description": "Value" }));
    assert_eq!(row["properties"]["placedOn"], json!({ "type": ["string", "null"], "format": "date" }));
    assert_eq!(row["properties"]["card"]["type"], json!(["string", "null"]));
    assert_eq!(row["properties"].get("internal"), None);
    assert!(schema["$defs"].get("DraftRow").is_none());
}

#[test]
fn asyncapis_own_parser_finds_no_error() {
    let readers = Readers::provide(env!("CARGO_TARGET_TMPDIR"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("asyncapi.json");
    let about = About { title: "Shop".to_owned(), version: "2.1.0".to_owned(), ..About::default() };
    let found = |document: &str| -> Value {
        std::fs::write(&file, document).unwrap();
        serde_json::from_str(&readers.asyncapi(&file)).unwrap()
    };
    let text = |value: &Value| -> BTreeSet<String> {
        value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let set = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<_>>();
    let document = schema::asyncapi(&manifest(), &about).unwrap();
    let whole = found(&document);
    assert_eq!((&whole["errors"], &whole["version"]), (&json!([]), &json!("3.0.0")), "{whole}");
    let topics = [
        "prisma/events/auth/login_failed",
        "prisma/events/shopOrder/create",
        "prisma/events/shopOrder/delete",
        "prisma/events/shopOrder/update",
        "prisma/events/shopOrder/updateMany",
    ];
    assert_eq!(text(&whole["channels"]), set(&topics));
    let sent = [
        "LoginFailedEvent",
        "ShopOrderCreated",
        "ShopOrderDeleted",
        "ShopOrderUpdated",
        "ShopOrderUpdatedMany",
    ];
    assert_eq!(text(&whole["messages"]), set(&sent));
    let mut operations: BTreeSet<String> = sent.iter().map(|name| format!("send{name}")).collect();
    operations.insert("receiveShopOrderCreated".to_owned());
    assert_eq!(text(&whole["operations"]), operations);
    // All operations of a model on one topic, as the npm package has them.
    let npm = About { layout: emitter_core::topic::Layout::npm(), ..about.clone() };
    let one = found(&schema::asyncapi(&manifest(), &npm).unwrap());
    assert_eq!(one["errors"], json!([]), "{one}");
    assert_eq!(
        text(&one["channels"]),
        set(&["prisma/events/auth/login_failed/all", "prisma/events/shoporder/all"])
    );
    // No models, and a parser that can find an error.
    assert_eq!(found(&schema::asyncapi(&Manifest::default(), &about).unwrap())["errors"], json!([]));
    let broken = document.replace("#/components/messages/ShopOrderCreated", "#/components/messages/Nothing");
    assert_ne!(found(&broken)["errors"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typescript_program_that_knows_the_types_hears_a_rust_node() {
    let target = env!("CARGO_TARGET_TMPDIR");
    let (typescript, readers) =
        tokio::task::block_in_place(|| (TypeScript::provide(target), Readers::provide(target)));
    let folder = tempfile::tempdir().unwrap();
    let module = schema::typescript(&manifest(), &About::default()).unwrap();
    std::fs::write(folder.path().join("events.ts"), &module).unwrap();
    std::fs::write(folder.path().join("hear.ts"), HEAR).unwrap();
    std::fs::write(folder.path().join("package.json"), r#"{ "type": "module" }"#).unwrap();
    std::os::unix::fs::symlink(readers.modules(), folder.path().join("node_modules")).unwrap();
    typescript.compile(folder.path(), "events.ts").unwrap_or_else(|said| panic!("{said}\n{module}"));
    // Types of packages are theirs to check.
    let compile = |file: &str| typescript.compile_with(folder.path(), file, &["--skipLibCheck"]);
    compile("hear.ts").unwrap_or_else(|said| panic!("{said}\n{module}"));
    for (right, wrong) in [
        ("const before: string = ", "const before: number = "),
        ("event.result.attempts", "event.result.attempt"),
        ("note ?? '-'", "note.length"),
        ("case 'delete':", "case 'remove':"),
        ("case 'login_failed':\n", "case 'login_faild':\n"),
    ] {
        assert!(HEAR.contains(right), "{right}");
        std::fs::write(folder.path().join("wrong.ts"), HEAR.replace(right, wrong)).unwrap();
        assert!(compile("wrong.ts").is_err(), "{wrong}");
    }

    let broker = Mosquitto::start();
    let mut program = readers.program(folder.path(), "hear.js");
    let mut program = program.arg(broker.url()).stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(program.stdout.take().unwrap());
    let lines = std::sync::Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let told = std::sync::Arc::clone(&lines);
    let reading = std::thread::spawn(move || {
        output.lines().map_while(Result::ok).for_each(|line| told.lock().unwrap().push(line));
    });
    eventually(|| lines.lock().unwrap().first().is_some_and(|line| line == "listening")).await;
    let emitter = builder("a").mqtt(broker.url()).start().await.unwrap();
    emitter.connected(Duration::from_secs(10)).await.unwrap();
    tell(&emitter);
    eventually(|| lines.lock().unwrap().len() >= 7).await;
    assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
    program.kill().unwrap();
    program.wait().unwrap();
    reading.join().unwrap();
    let expected = [
        "listening",
        "created 1 Ana \"\u{1f980}\" - a+b false 6.5 - by shop/a",
        "updated 2 Ana \"\u{1f980}\" id+note+paid+weight+placedOn by shop/a",
        "updated 2 ?  by shop/a",
        "updatedMany 7  by shop/a",
        "deleted 2 by shop/a",
        "login root 3 by shop/a",
    ];
    let heard: BTreeSet<String> = lines.lock().unwrap().iter().cloned().collect();
    assert_eq!(heard, expected.iter().map(|line| (*line).to_owned()).collect());
}

/// Whatever models and events are called, nothing of a document is called so already.
#[test]
fn names_that_meet_are_told_apart() {
    let typescript = TypeScript::provide(env!("CARGO_TARGET_TMPDIR"));
    let folder = tempfile::tempdir().unwrap();
    let all = ["create", "createMany", "update", "updateMany", "upsert", "delete", "deleteMany"];
    let model = |emits: &[&str]| {
        json!({ "version": 1, "reads_from": 1, "key": [], "emits": emits,
                "columns": { "extra": { "type": "HashMap<String, u8>" } } })
    };
    let event = || {
        let mut event = model(&["create"]);
        event["event"] = json!("told");
        event
    };
    let mut models = serde_json::Map::new();
    for name in ["row", "rows", "change", "any", "order", "orderCreated2", "record_row"] {
        models.insert(name.to_owned(), model(&all));
    }
    for name in
        ["origin", "envelope", "events", "record", "topics", "row_event", "order_created", "order_event"]
    {
        models.insert(name.to_owned(), event());
    }
    let manifest: Manifest = serde_json::from_value(json!({ "models": models, "listeners": [] })).unwrap();
    let about = About::default();
    let module = schema::typescript(&manifest, &about).unwrap();
    std::fs::write(folder.path().join("events.ts"), &module).unwrap();
    typescript.compile(folder.path(), "events.ts").unwrap_or_else(|said| panic!("{said}\n{module}"));
    let declared: Vec<&str> = module
        .lines()
        .filter_map(|line| line.strip_prefix("export interface ").or(line.strip_prefix("export type ")))
        .filter_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric()).next())
        .collect();
    let unique: BTreeSet<&&str> = declared.iter().collect();
    // TypeScript puts interfaces of one name together.
    assert_eq!(declared.len(), unique.len(), "{declared:?}");
    // Each has its row and its events, and there is `Origin`.
    let definitions = |document: String, place: &str| {
        let document: Value = serde_json::from_str(&document).unwrap();
        document.pointer(place).and_then(Value::as_object).unwrap().clone()
    };
    let number = 7 * (1 + 7) + 8 * 2 + 1;
    let schema = definitions(schema::json_schema(&manifest, &about).unwrap(), "/$defs");
    assert_eq!(
        (schema.len(), &schema["Origin"]["required"]),
        (number, &json!(["service", "node", "incarnation"]))
    );
    let asyncapi = schema::asyncapi(&manifest, &about).unwrap();
    assert_eq!(definitions(asyncapi.clone(), "/components/schemas").len(), number);
    assert_eq!(definitions(asyncapi, "/components/messages").len(), 7 * 7 + 8);
}

#[test]
fn a_manifest_of_anybody_makes_a_document_or_an_error() {
    let typescript = TypeScript::provide(env!("CARGO_TARGET_TMPDIR"));
    let folder = tempfile::tempdir().unwrap();
    let strange: Manifest = serde_json::from_value(json!({
        "models": {
            "order_item": { "version": 1, "reads_from": 1, "key": [], "emits": ["create", "upsert"], "columns": {
                "*/ } evil\n": { "type": "*/ export const evil = 1; /*" },
                "constructor": { "type": "Option<f64>", "may_be_absent": true },
                "\u{2028}": { "type": "Vec<Option<(u8, HashMap<String, Status>)>>" },
            }},
            "orderItem": { "version": 1, "reads_from": 1, "key": [], "emits": [], "columns": {} },
            "OrderItem": { "version": 3, "reads_from": 1, "key": [], "emits": ["deleteMany"], "columns": {} },
            "7\u{e9}": { "version": 1, "reads_from": 1, "key": [], "emits": ["create"], "columns": {} },
        },
        "listeners": [],
    }))
    .unwrap();
    let about = About { title: "*/ evil\n".to_owned(), ..About::default() };
    let module = schema::typescript(&strange, &about).unwrap();
    std::fs::write(folder.path().join("events.ts"), &module).unwrap();
    typescript.compile(folder.path(), "events.ts").unwrap_or_else(|said| panic!("{said}\n{module}"));
    assert!(!module.contains("\nexport const evil"), "{module}");
    let document: Value = serde_json::from_str(&schema::json_schema(&strange, &about).unwrap()).unwrap();
    jsonschema::validator_for(&document).unwrap();
    let names: Vec<&str> =
        document["oneOf"].as_array().unwrap().iter().map(|one| one["$ref"].as_str().unwrap()).collect();
    let unique: BTreeSet<&&str> = names.iter().collect();
    assert_eq!((names.len(), unique.len()), (4, 4), "{names:?}");
    let bad = json!({ "models": { "a#b": { "version": 1, "reads_from": 1, "key": [], "emits": [], "columns": {} } }, "listeners": [] });
    let bad: Manifest = serde_json::from_value(bad).unwrap();
    assert!(matches!(schema::asyncapi(&bad, &about), Err(SchemaError::Model { .. })));
}
