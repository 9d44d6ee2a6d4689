//! Each is a struct of its own, and nothing else is generated beside it.

#![deny(missing_docs, warnings)]

use emitter_core::model::EventBody;
use emitter_core::{Emits, Emitter, Event, Key, Model, QoS, listener};
use serde::{Deserialize, Serialize};

/// It has no key.
#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(crate = emitter_core, event, topic = "auth/login_failed", qos = 2)]
pub struct LoginFailed {
    username: String,
    #[emits(sensitive_ok = "its name is all that is told")]
    token_name: String,
}

/// A name that the derive would give to something else.
#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(crate = emitter_core, event, key(id, r#type), kind = "order.paid", version = 2, earlier(OrderEventV1))]
pub struct OrderEvent<T> {
    id: i64,
    r#type: String,
    of: Option<T>,
}

/// What it was before.
#[derive(Debug, Deserialize)]
pub struct OrderEventV1 {
    id: i64,
}

impl<T> From<OrderEventV1> for OrderEvent<T> {
    fn from(earlier: OrderEventV1) -> Self {
        Self { id: earlier.id, r#type: String::new(), of: None }
    }
}

/// Nothing is to be told but that it happened.
#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(crate = emitter_core, event, model = "restart", local, expires = "1min")]
pub struct RestartAll {}

#[listener(crate = emitter_core, model = "login_failed", allow_remote, where(username = "root"), data(token_name))]
async fn alarm(event: Event<LoginFailed>) {
    println!("{} {:?}", event.username, event.keys());
}

#[listener(crate = emitter_core, model = RestartAll, group = "one")]
fn restart(_: Event<RestartAll>) {}

/// The key of each is its own.
pub fn hear(emitter: &Emitter) {
    let _ = emitter.on::<OrderEvent<u8>>().run(|event| async move { println!("{}", event.key()) });
    emitter.publish(RestartAll {});
}

fn main() {
    assert_eq!((LoginFailed::NAME, LoginFailed::TOPIC), ("login_failed", "auth/login_failed"));
    assert_eq!((LoginFailed::EVENT, OrderEvent::<u8>::EVENT), (Some("login_failed"), Some("order.paid")));
    assert_eq!((RestartAll::NAME, OrderEvent::<u8>::NAME), ("restart", "order_event"));
    assert!(LoginFailed::KEY_COLUMNS.is_empty() && RestartAll::COLUMNS.is_empty());
    assert_eq!(LoginFailed::qos(LoginFailed::OPERATIONS[0]), QoS::ExactlyOnce);
    let order = OrderEvent { id: 7, r#type: "a".to_owned(), of: Some(1_u8) };
    assert_eq!(OrderEvent::key(&order), Key::composite([Key::Int(7), Key::Text("a".into())]));
    assert_eq!(order.into_event().row.id, 7);
}
