//! Models, nodes and ears of these tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::model::{Created, EventBody};
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{Builder, Emits, Emitter, Event, EventId, Key, Scope, Source, Subscription};
use serde::{Deserialize, Serialize};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The model of the npm package's messages in `tests/wire`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "user", all)]
pub(crate) struct User {
    pub(crate) id: i64,
    pub(crate) email: String,
    pub(crate) name: Option<String>,
    pub(crate) status: String,
    pub(crate) n: i64,
}

impl User {
    pub(crate) fn new(id: i64, n: i64) -> Self {
        Self { id, email: format!("{id}@example.com"), name: None, status: "NEW".to_owned(), n }
    }
}

/// Without the listeners that one of these tests registers.
pub(crate) fn builder(name: &str) -> Builder {
    Emitter::builder().node(name).select_listeners(|_| false)
}

/// A node that is its client's next life where there was one before.
pub(crate) async fn node(broker: &MemoryBroker, name: &str) -> Emitter {
    builder(name).transport(broker.connect(name)).start().await.unwrap()
}

/// Waits until the broker knows all subscriptions of a node to models. What a session held may have brought about others.
pub(crate) async fn subscribed(emitter: &Emitter, filters: usize) {
    emitter_tests::eventually::eventually(|| emitter.transport_status().unwrap().subscriptions >= filters)
        .await;
}

pub(crate) fn create(emitter: &Emitter, user: User) {
    create_within(emitter, user, Scope::BOTH);
}

pub(crate) fn create_within(emitter: &Emitter, user: User, scope: Scope) {
    emitter.emit(emitter.event::<User>(UserEvent::Created(Created::new(user)), scope));
}

/// A message as another node sends it, with its own id.
pub(crate) fn creation(user: &User) -> String {
    serde_json::json!({ "model": "user", "operation": "create", "args": {}, "result": user }).to_string()
}

/// What one listener heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ear(Arc<Mutex<Vec<Heard>>>);

#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) source: Source,
    pub(crate) id: EventId,
    pub(crate) key: Option<Key>,
    /// The row's `n`.
    pub(crate) n: i64,
}

impl Ear {
    pub(crate) fn hear<T: EventBody>(&self, event: &Event<T>, n: i64) {
        let key = event.keys().first().cloned();
        self.0.lock().unwrap().push(Heard { source: event.source(), id: event.id(), key, n });
    }

    /// A listener that only listens.
    pub(crate) fn listen(&self, emitter: &Emitter) -> Subscription {
        let ear = self.clone();
        emitter.on::<UserCreated>().allow_remote().run(move |event| {
            ear.hear(&event, event.row.n);
            std::future::ready(())
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn all(&self) -> Vec<Heard> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn from(&self, source: Source) -> Vec<Heard> {
        self.all().into_iter().filter(|heard| heard.source == source).collect()
    }
}

/// The `n`s of each key, in the order in which they were heard.
pub(crate) fn by_key(heard: &[Heard]) -> HashMap<Key, Vec<i64>> {
    let mut keys: HashMap<Key, Vec<i64>> = HashMap::new();
    for heard in heard {
        keys.entry(heard.key.clone().unwrap()).or_default().push(heard.n);
    }
    keys
}
