//! What `emitter generate` writes compiles, and emits: `models.rs` here is its output for `schema.rs`.

#![allow(missing_docs, reason = "neither diesel's `table!` nor what is generated documents anything")]

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::{Connection, PgConnection};
use emitter_diesel::{Bind, Emit, Emitter, Event};
use emitter_tests::servers::Postgres;
use serde_json::{Value, json};

mod models;
#[allow(unreachable_pub, reason = "as `diesel print-schema` writes it")]
mod schema;

use self::models::{Account, AuthUser, OrderItem, User, UserCreated, UserUpdated};
use self::schema::users;

const SCHEMA: &str = include_str!("schema.rs");

fn generate(arguments: &[&str], schema: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emitter"));
    command.args([&["generate", "-"][..], arguments].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(schema.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn models_are_written_for_each_table() {
    let output = generate(&[], SCHEMA);
    let (rust, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(rust, include_str!("models.rs"));
    assert!(
        output.status.code() == Some(1) && said.contains("users.password_hash is left out of events"),
        "{said}"
    );
    // Every word that the derive refuses, and what would be called like something else.
    for what in [
        "accounts.pin is left out",
        "accounts.file_hash is left out",
        "accounts.recovery_codes is left out",
        "user_events: its model is called UserEvent2",
        "options: its model is called Option2",
        "auth::users: its model is called AuthUser",
    ] {
        assert!(said.contains(what), "{what}: {said}");
    }
    let modules = |table: &str| generate(&["--table", table, "--json"], SCHEMA).stdout;
    let made = |table: &str| serde_json::from_slice::<Value>(&modules(table)).unwrap()["models"].clone();
    assert_eq!((made("auth::users"), made("users")), (json!(["User"]), json!(["User", "AuthUser"])));
    // A key is in every event.
    let output = generate(&[], "diesel::table! { sessions (token) { token -> Text, } }");
    let (rust, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.code() == Some(1) && said.contains("sessions.token is in the key"), "{said}");
    assert!(!rust.contains("#[emits(skip)]"), "{rust}");

    let output = generate(&["--table", "order_items", "--emits", "create,update_many", "--json"], SCHEMA);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut whole: Value = serde_json::from_str(include_str!("../../reports.schema.json")).unwrap();
    whole["$ref"] = json!("#/$defs/generate");
    assert!(jsonschema::validator_for(&whole).unwrap().is_valid(&report), "{report}");
    assert_eq!((output.status.code(), &report["models"]), (Some(0), &json!(["OrderItem"])));
    let rust = report["rust"].as_str().unwrap();
    assert!(rust.contains("#[emits(create, update_many)]") && !rust.contains("users"), "{rust}");

    let unknown = "diesel::table! { use super::sql_types::Status; shop.orders (r#type) { r#type -> Int4, status -> Nullable<Status>, r#in -> Text, } }";
    let output = generate(&["--module", "shop::schema"], unknown);
    let (rust, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(
        output.status.code() == Some(1) && said.contains("orders.status: which type of Rust is `Status`"),
        "{said}"
    );
    for part in [
        "use shop::schema::{orders};",
        "primary_key(r#type)",
        "pub r#in: String",
        "pub status: Option<Status>",
        "pub struct Order {",
    ] {
        assert!(rust.contains(part), "{part}: {rust}");
    }
    syn::parse_file(&rust).unwrap();

    for (arguments, schema, word) in [
        (&["--table", "nothing"][..], SCHEMA, "there are: users, order_items, accounts"),
        (&["--emits", "dance"], SCHEMA, "dance"),
        (&["--module", "7"], SCHEMA, "no path"),
        (&[], "fn main() {}", "no `table!`"),
        (&[], "diesel::table! {\n users { id -> , } }", "line 2"),
        (&[], "}{", "line 1"),
    ] {
        let output = generate(arguments, schema);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(word), "{arguments:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_emits_and_tells_no_secret() {
    let server = tokio::task::block_in_place(Postgres::start);
    let mut db = PgConnection::establish(&server.url()).unwrap();
    db.batch_execute(
        "CREATE TABLE users (id INT PRIMARY KEY, email VARCHAR(255) NOT NULL, password_hash TEXT NOT NULL, \"type\" SMALLINT NOT NULL, \
         is_admin BOOL NOT NULL, invited_by INT, score FLOAT8, balance NUMERIC NOT NULL, avatar BYTEA, settings JSONB NOT NULL, \
         tags TEXT[] NOT NULL, born_on DATE, created_at TIMESTAMPTZ NOT NULL, updated_at TIMESTAMP NOT NULL, external UUID NOT NULL)",
    )
    .unwrap();
    let emitter = Emitter::builder().start().await.unwrap();
    let (told, heard) = mpsc::channel();
    let also = told.clone();
    emitter.on::<UserCreated>().name("created").run(move |event: Event<UserCreated>| {
        told.send(event.to_json().unwrap()).unwrap();
        std::future::ready(())
    });
    emitter.on::<UserUpdated>().name("updated").run(move |event: Event<UserUpdated>| {
        also.send(event.to_json().unwrap()).unwrap();
        std::future::ready(())
    });
    let time: chrono::DateTime<chrono::Utc> = "2026-11-22T15:00:00Z".parse().unwrap();
    let user = User {
        id: 7,
        email: "alice@example.org".to_owned(),
        password_hash: "sesame".to_owned(),
        type_: 2,
        is_admin: false,
        invited_by: None,
        score: Some(0.5),
        balance: "12.34".parse().unwrap(),
        avatar: Some(vec![1, 2]),
        settings: json!({ "dark": true }),
        tags: vec![Some("a".to_owned()), None],
        born_on: Some(time.date_naive()),
        created_at: time,
        updated_at: time.naive_utc(),
        external: uuid::Uuid::nil(),
    };
    let conn = &mut emitter.bind(&mut db).unwrap();
    let alice: User = diesel::insert_into(users::table).values(&user).emit().get_result(conn).unwrap();
    assert_eq!(alice, user);
    use diesel::ExpressionMethods;
    let change = users::email.eq("alicia@example.org");
    let _: User = emitter_diesel::update(&alice).set(change).emit::<User>().get_result(conn).unwrap();
    for email in ["alice@example.org", "alicia@example.org"] {
        let event = heard.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(event.contains(email) && !event.contains("sesame"), "{event}");
    }
    assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
    // A composite key is one of events, too.
    assert_eq!(<OrderItem as emitter_diesel::model::Model>::KEY_COLUMNS, ["order_id", "place"]);
    // Neither are two of a name one.
    let names =
        [<User as emitter_diesel::model::Model>::NAME, <AuthUser as emitter_diesel::model::Model>::NAME];
    assert_eq!(names, ["user", "authUser"]);
    let account = <Account as emitter_diesel::model::Model>::COLUMNS;
    assert_eq!(account.iter().map(|column| column.field).collect::<Vec<_>>(), ["id", "pinned"]);
}
