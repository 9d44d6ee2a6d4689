//! Events of earlier versions of a model, replayed and over the wire.

use std::sync::{Arc, Mutex};

use emitter_core::testing::TestEmitter;
use emitter_core::{Emits, Event, Model, ReplayError, Source, State, listener};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// As it was first.
#[derive(Deserialize)]
struct UserV1 {
    id: i64,
    name: String,
}

/// Then the name was parted.
#[derive(Deserialize)]
struct UserV2 {
    id: i64,
    first: String,
    last: String,
}

impl From<UserV1> for UserV2 {
    fn from(user: UserV1) -> Self {
        let (first, last) = user.name.split_once(' ').unwrap_or((&user.name, ""));
        Self { id: user.id, first: first.to_owned(), last: last.to_owned() }
    }
}

/// Then it got a status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update, update_many, version = 3, earlier(UserV1, UserV2))]
struct User {
    id: i64,
    first: String,
    last: String,
    status: String,
}

impl From<UserV2> for User {
    fn from(UserV2 { id, first, last }: UserV2) -> Self {
        Self { id, first, last, status: "UNKNOWN".to_owned() }
    }
}

type Seen = Arc<Mutex<Vec<(Source, User)>>>;

#[listener(model = "user", allow_remote)]
async fn see(event: Event<UserEvent>, seen: State<Seen>) {
    let mut seen = seen.lock().unwrap();
    match &*event {
        UserEvent::Created(created) => seen.push((event.source(), created.row.clone())),
        UserEvent::Updated(updated) => {
            seen.extend(updated.before.clone().map(|before| (event.source(), before)));
            seen.push((event.source(), updated.after.clone()));
        }
        UserEvent::UpdatedMany(updated) => {
            seen.extend(updated.rows.iter().flatten().map(|row| (event.source(), row.after.clone())));
        }
    }
}

fn user(id: i64, first: &str, last: &str, status: &str) -> User {
    User { id, first: first.to_owned(), last: last.to_owned(), status: status.to_owned() }
}

/// An event as a node of this framework wrote it; `None` for the version stands for the first.
fn written(version: Option<u32>, node: &str, event: &Value) -> Vec<u8> {
    let mut whole = json!({
        "model": "user", "operation": "create", "args": {}, "timestamp": "2026-11-21T00:42:25.735Z",
        "eventId": "01935a00-0000-7000-8000-000000000001",
        "origin": {"service": "app", "node": node, "incarnation": "01935a00-0000-7000-8000-000000000000"},
        "seq": 1,
    });
    let fields = whole.as_object_mut().unwrap();
    fields.extend(event.as_object().unwrap().clone());
    fields.extend(version.map(|version| ("version".to_owned(), version.into())));
    serde_json::to_vec(&whole).unwrap()
}

struct World {
    node: TestEmitter,
    seen: Seen,
}

impl World {
    async fn new() -> Self {
        let seen = Seen::default();
        let node = TestEmitter::start(|builder| builder.state(Arc::clone(&seen))).await;
        Self { node, seen }
    }

    async fn seen(&self) -> Vec<(Source, User)> {
        self.node.drain().await;
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

#[tokio::test]
async fn an_event_of_any_earlier_version_reaches_a_listener_of_this_one() {
    let world = World::new().await;
    let check = async |version, result: Value, expected: User| {
        let event = written(version, "elsewhere", &json!({ "result": result }));
        world.node.receive_message("prisma/events/user/create", event.clone()).await;
        assert_eq!(world.seen().await, [(Source::Remote, expected.clone())]);
        // The same id: a replay is no duplicate.
        world.node.replay(&event).unwrap();
        assert_eq!(world.seen().await, [(Source::Remote, expected.clone())]);
        let own = written(version, "test", &json!({ "result": result }));
        world.node.replay(&own).unwrap();
        assert_eq!(world.seen().await, [(Source::Local, expected)]);
    };
    check(None, json!({"id": 1, "name": "Ada Lovelace"}), user(1, "Ada", "Lovelace", "UNKNOWN")).await;
    let world = World::new().await;
    let event = written(Some(2), "test", &json!({"result": {"id": 1, "first": "A", "last": "L"}}));
    world.node.replay(&event).unwrap();
    assert_eq!(world.seen().await, [(Source::Local, user(1, "A", "L", "UNKNOWN"))]);
    let present = json!({"result": {"id": 1, "first": "A", "last": "L", "status": "ACTIVE"}});
    world.node.replay(&written(Some(3), "test", &present)).unwrap();
    assert_eq!(world.seen().await, [(Source::Local, user(1, "A", "L", "ACTIVE"))]);
    world.node.assert_listeners_succeeded();
}

#[tokio::test]
async fn images_and_bulk_rows_are_of_the_events_version_too() {
    let world = World::new().await;
    let update = json!({
        "operation": "update",
        "result": {"id": 1, "name": "Ada King"}, "before": {"id": 1, "name": "Ada Byron"}
    });
    world.node.replay(&written(Some(1), "elsewhere", &update)).unwrap();
    let [before, after] = ["Byron", "King"].map(|last| (Source::Remote, user(1, "Ada", last, "UNKNOWN")));
    assert_eq!(world.seen().await, [before, after]);
    // What differs is said in the names of that version, too.
    let update = json!({
        "operation": "update", "result": {"id": 1, "name": "Ada King"}, "was": {"name": "Ada Byron"}
    });
    let world = World::new().await;
    world.node.replay(&written(Some(1), "elsewhere", &update)).unwrap();
    let [before, after] = ["Byron", "King"].map(|last| (Source::Remote, user(1, "Ada", last, "UNKNOWN")));
    assert_eq!(world.seen().await, [before, after]);
    let of_this_version = json!({
        "operation": "update", "result": {"id": 1, "name": "Ada King"}, "was": {"last": "Byron"}
    });
    assert!(world.node.replay(&written(Some(1), "elsewhere", &of_this_version)).is_err());
    let many = json!({
        "operation": "updateMany", "result": {"count": 1}, "rows": [{"after": {"id": 2, "name": "Bo Diddley"}}]
    });
    world.node.replay(&written(Some(1), "elsewhere", &many)).unwrap();
    assert_eq!(world.seen().await, [(Source::Remote, user(2, "Bo", "Diddley", "UNKNOWN"))]);
}

#[tokio::test]
async fn a_version_that_is_not_known_is_refused() {
    let world = World::new().await;
    let row = json!({"result": {"id": 1, "first": "A", "last": "L", "status": "ACTIVE"}});
    for version in [0, 4, u32::MAX] {
        let refused = world.node.replay(&written(Some(version), "elsewhere", &row)).unwrap_err();
        let text = refused.to_string();
        assert!(matches!(refused, ReplayError::Decode(_)), "{text}");
        assert!(text.contains(&format!("version {version} of its model, this node has 3")), "{text}");
    }
    let of_the_wrong_shape = written(Some(2), "elsewhere", &row);
    assert!(world.node.replay(&of_the_wrong_shape).is_ok(), "serde takes fields that it does not know");
    let of_the_wrong_shape = written(Some(1), "elsewhere", &row);
    assert!(world.node.replay(&of_the_wrong_shape).is_err());
    assert_eq!(world.seen().await.len(), 1);
    world.node.receive_message("prisma/events/user/create", written(Some(4), "elsewhere", &row)).await;
    world.node.drain().await;
    assert_eq!(world.node.stats().bad_messages, 1);
}

#[tokio::test]
async fn a_program_that_knows_no_versions_sends_present_rows() {
    let world = World::new().await;
    let foreign = json!({
        "model": "User", "operation": "create", "args": {},
        "result": {"id": 1, "first": "A", "last": "L", "status": "ACTIVE"}
    });
    world.node.receive_message("prisma/events/user/all", foreign.to_string()).await;
    assert_eq!(world.seen().await, [(Source::Remote, user(1, "A", "L", "ACTIVE"))]);
}

#[tokio::test]
async fn events_carry_the_version() {
    let world = World::new().await;
    world.node.publish(UserCreated::new(user(1, "A", "L", "ACTIVE")));
    world.node.drain().await;
    let published: Value = serde_json::from_slice(&world.node.published()[0].payload).unwrap();
    assert_eq!((published["version"].as_u64(), User::EARLIEST), (Some(3), 1));
}
