//! Columns whose values nobody is told, from the statement to the other node.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::sync::{Arc, Mutex};

use diesel::prelude::*;
use emitter_core::testing::TestEmitter;
use emitter_core::transport::memory::MemoryBroker;
use emitter_diesel::{
    Bind, Emit, Emits, Emitter, Event, HashKey, Hashed, Redacted, StartError, State, listener,
};

diesel::table! {
    accounts {
        id -> Integer,
        email -> Text,
        password -> Text,
        reset_token -> Nullable<Text>,
    }
}

#[derive(Debug, Queryable, Insertable, Emits)]
#[diesel(table_name = accounts)]
#[emits(create, update)]
struct Account {
    id: i32,
    #[emits(hash)]
    email: String,
    #[emits(redact)]
    password: String,
    #[emits(skip)]
    reset_token: Option<String>,
}

type Seen = Arc<Mutex<Vec<AccountRow>>>;

#[listener(model = "account", allow_remote)]
async fn see(event: Event<AccountEvent>, seen: State<Seen>) {
    match &*event {
        AccountEvent::Created(created) => seen.lock().unwrap().push(created.row.clone()),
        AccountEvent::Updated(updated) => {
            // That it was set is no secret.
            assert!(updated.changed().password().is_some_and(|change| *change.new == Redacted));
            seen.lock().unwrap().push(updated.after.clone());
        }
    }
}

fn key(byte: u8) -> HashKey {
    HashKey::new(&[byte; 32]).unwrap()
}

async fn node(broker: &MemoryBroker, name: &str, key: HashKey) -> (TestEmitter, Seen) {
    let seen = Seen::default();
    let configure =
        |builder: emitter_core::Builder| builder.node(name).hash_key(key).state(Arc::clone(&seen));
    (TestEmitter::start_on(broker, configure).await, seen)
}

fn connection() -> SqliteConnection {
    let mut conn = SqliteConnection::establish(":memory:").unwrap();
    diesel::sql_query("CREATE TABLE accounts (id INTEGER PRIMARY KEY, email TEXT NOT NULL, password TEXT NOT NULL, reset_token TEXT)")
        .execute(&mut conn)
        .unwrap();
    conn
}

#[tokio::test]
async fn no_listener_and_no_message_has_the_value() {
    let broker = MemoryBroker::new();
    let (one, here) = node(&broker, "one", key(1)).await;
    let (other, there) = node(&broker, "other", key(1)).await;
    let mut conn = connection();
    let conn = &mut one.bind(&mut conn).unwrap();
    let ada = Account {
        id: 1,
        email: "ada@example.org".to_owned(),
        password: "byron".to_owned(),
        reset_token: Some("t0k3n".to_owned()),
    };
    let stored: Account = diesel::insert_into(accounts::table).values(ada).emit().get_result(conn).unwrap();
    assert_eq!(stored.password, "byron", "the writer gets all of it back");
    emitter_diesel::update(accounts::table.find(1))
        .set(accounts::password.eq("king"))
        .emit::<Account>()
        .get_result(conn)
        .unwrap();
    one.drain().await;
    other.drain().await;

    let expected = AccountRow { id: 1, email: key(1).hash("ada@example.org"), password: Redacted };
    for seen in [here, there] {
        assert_eq!(*seen.lock().unwrap(), [expected.clone(), expected.clone()]);
    }
    for message in one.published() {
        let text = String::from_utf8(message.payload.to_vec()).unwrap();
        let values = ["ada@", "byron", "king", "t0k3n", "reset_token"];
        assert!(values.iter().all(|value| !text.contains(value)), "{text}");
        assert!(text.contains(&expected.email.to_string()));
    }
    one.assert_listeners_succeeded();
    other.assert_listeners_succeeded();
}

#[tokio::test]
async fn other_keys_make_other_hashes_and_without_one_nothing_starts() {
    let broker = MemoryBroker::new();
    let (node, _) = node(&broker, "one", key(2)).await;
    let route = node.route::<Account>(emitter_core::Operation::Create, emitter_core::Scope::BOTH).unwrap();
    let hash = |key: HashKey| key.hash("a");
    assert_eq!(hash(route.hash_key().unwrap()), hash(key(2)));
    assert_ne!(hash(key(2)), hash(key(1)));
    let _: Hashed = hash(key(1));

    let refused = Emitter::builder().state(Seen::default()).start().await.unwrap_err();
    assert!(matches!(refused, StartError::NoHashKey("account")), "{refused}");
    assert!(refused.to_string().contains(".hash_key(…)"), "{refused}");
}
