//! What the npm package prisma-extension-emitter really sends.

use std::sync::{Arc, Mutex};

use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{Emits, Emitter, Event, Source};
use emitter_tests::eventually::eventually;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::nodes::{Ear, SECOND, User, UserCreated, UserEvent, node, subscribed};

/// One message a line: the topic, a space, the payload.
const LINES: &str = include_str!("../../wire/prisma-extension-emitter-2.1.14.txt");

pub(crate) fn lines() -> Vec<(&'static str, &'static str)> {
    LINES.lines().map(|line| line.split_once(' ').unwrap()).collect()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "log", create)]
pub(crate) struct Log {
    pub(crate) id: i64,
    pub(crate) msg: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "item", create)]
pub(crate) struct Item {
    pub(crate) id: i64,
    pub(crate) big: Option<i64>,
    pub(crate) at: String,
    pub(crate) price: String,
    pub(crate) flag: bool,
    pub(crate) ratio: f64,
    pub(crate) blob: Value,
    pub(crate) meta: Value,
}

/// What listeners of all three models heard, as text that says everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transcript(Arc<Mutex<Vec<String>>>);

impl Transcript {
    pub(crate) fn listen(&self, emitter: &Emitter) {
        let transcript = self.clone();
        let _ = emitter.on::<UserEvent>().remote_only().run(move |event| {
            transcript.add(user_line(&event));
            std::future::ready(())
        });
        let transcript = self.clone();
        let _ = emitter.on::<LogEvent>().remote_only().run(move |event| {
            let LogEvent::Created(created) = &*event;
            transcript.add(format!("log create {}", as_value(&created.row)));
            std::future::ready(())
        });
        let transcript = self.clone();
        let _ = emitter.on::<ItemEvent>().remote_only().run(move |event| {
            let ItemEvent::Created(created) = &*event;
            transcript.add(format!("item create {}", as_value(&created.row)));
            std::future::ready(())
        });
    }

    fn add(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn as_value(row: &impl Serialize) -> Value {
    serde_json::to_value(row).unwrap()
}

fn user_line(event: &Event<UserEvent>) -> String {
    assert_eq!((event.source(), event.origin(), event.sequence()), (Source::Remote, None, None));
    let operation = event.operation();
    match &**event {
        UserEvent::Created(body) => format!("user {operation} {}", as_value(&body.row)),
        UserEvent::Upserted(body) => format!("user {operation} {}", as_value(&body.row)),
        UserEvent::Deleted(body) => format!("user {operation} {}", as_value(&body.row)),
        UserEvent::Updated(body) => {
            assert!(body.before.is_none());
            format!("user {operation} {}", as_value(&body.after))
        }
        UserEvent::CreatedMany(body) => format!("user {operation} {} {}", body.count, body.rows.is_some()),
        UserEvent::UpdatedMany(body) => format!("user {operation} {} {}", body.count, body.rows.is_some()),
        UserEvent::DeletedMany(body) => format!("user {operation} {} {}", body.count, body.rows.is_some()),
    }
}

#[tokio::test]
async fn each_line_reaches_typed_listeners_but_the_one_without_its_row() {
    let broker = MemoryBroker::new();
    let b = node(&broker, "b").await;
    let transcript = Transcript::default();
    transcript.listen(&b);
    subscribed(&b, 3).await;
    let lines = lines();
    assert_eq!(lines.len(), 9);
    for (count, (topic, payload)) in (1..).zip(&lines) {
        assert_eq!(broker.publish(topic, *payload), 1);
        // One after the other, for there is no order across models.
        eventually(|| b.stats().received == count && broker.unacknowledged("b") == 0).await;
    }
    assert_eq!(
        transcript.take(),
        [
            r#"user create {"email":"alice@example.com","id":1,"n":0,"name":"Alice","status":"NEW"}"#,
            r#"user update {"email":"alice@example.com","id":1,"n":0,"name":"Alice","status":"ACTIVE"}"#,
            "user updateMany 1 false",
            r#"user upsert {"email":"bob@example.com","id":2,"n":0,"name":"Bob","status":"NEW"}"#,
            r#"user upsert {"email":"bob@example.com","id":2,"n":0,"name":"Bob2","status":"NEW"}"#,
            "log create {\"id\":1,\"msg\":\"héllo \\\"q\\\" \u{2028} \\n\"}",
            r#"item create {"at":"2024-01-02T03:04:05.678Z","big":null,"blob":{"0":1,"1":2,"2":255},"flag":true,"id":1,"meta":{"a":[1,null,"x"]},"price":"12.34","ratio":0.1}"#,
            r#"user create {"email":"ro@example.com","id":5,"n":0,"name":null,"status":"NEW"}"#,
        ]
    );
    let stats = b.stats();
    assert_eq!((stats.bad_messages, stats.duplicates, stats.handled), (1, 0, 8), "{stats:?}");
    assert!(b.shutdown(SECOND).await.is_clean());
}

#[tokio::test]
async fn events_that_share_an_id_of_the_npm_package_all_arrive() {
    let broker = MemoryBroker::new();
    let b = node(&broker, "b").await;
    let ear = Ear::default();
    let _ = ear.listen(&b);
    subscribed(&b, 1).await;
    let (topic, payload) = lines()[0];
    for n in 1..=3 {
        let mut event: Value = serde_json::from_str(payload).unwrap();
        event["result"] = as_value(&User::new(n, n));
        broker.publish(topic, event.to_string());
    }
    eventually(|| ear.len() == 3).await;
    assert_eq!(b.stats().duplicates, 0);
}

#[tokio::test]
async fn its_time_is_the_senders() {
    let broker = MemoryBroker::new();
    let b = node(&broker, "b").await;
    let times = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&times);
    let _ = b.on::<UserCreated>().remote_only().run(move |event| {
        hears.lock().unwrap().push(event.time().to_string());
        std::future::ready(())
    });
    subscribed(&b, 1).await;
    let (topic, payload) = lines()[0];
    broker.publish(topic, payload);
    eventually(|| *times.lock().unwrap() == ["2026-11-21T00:42:25.735Z"]).await;
}
