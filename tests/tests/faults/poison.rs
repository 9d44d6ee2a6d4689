//! Rows whose own code panics: one event is lost, and the node lives.

use emitter_core::model::Created;
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{Emits, Scope};
use emitter_tests::eventually::eventually;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::nodes::{SECOND, node, subscribed};

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(model = "poison", create)]
struct Poison {
    id: i64,
    touchy: Touchy,
}

/// Panics when 12 is written, and when 13 is read.
#[derive(Debug, Clone, Copy)]
struct Touchy(i64);

impl Serialize for Touchy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert_ne!(self.0, 12, "for the test");
        serializer.serialize_i64(self.0)
    }
}

impl<'de> Deserialize<'de> for Touchy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        assert_ne!(number, 13, "for the test");
        Ok(Self(number))
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_a_bad_message() {
    let broker = MemoryBroker::new();
    let b = node(&broker, "b").await;
    let _ = b.on::<PoisonCreated>().remote_only().run(|_| std::future::ready(()));
    subscribed(&b, 1).await;
    for id in [1, 13, 2] {
        let row = serde_json::json!({ "id": id, "touchy": id });
        let event = serde_json::json!({ "model": "poison", "operation": "create", "result": row });
        broker.publish("prisma/events/poison/create", event.to_string());
    }
    eventually(|| b.stats().handled == 2 && broker.unacknowledged("b") == 0).await;
    assert_eq!(b.stats().bad_messages, 1);
    assert!(b.shutdown(SECOND).await.is_clean());
}

#[tokio::test]
async fn a_row_that_cannot_be_written_is_not_published() {
    let a = node(&MemoryBroker::new(), "a").await;
    for id in [1, 12, 2] {
        let row = Poison { id, touchy: Touchy(id) };
        a.emit(a.event::<Poison>(PoisonEvent::Created(Created::new(row)), Scope::BOTH));
    }
    eventually(|| a.stats().published == 2).await;
    assert_eq!(a.stats().publish_failed, 1);
    assert!(a.shutdown(SECOND).await.is_clean());
}
