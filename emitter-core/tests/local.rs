//! Listeners of one node, without a transport.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use emitter_core::event::Event;
use emitter_core::model::Created;
use emitter_core::{Emits, Emitter, Model, Scope, State, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update_many)]
struct OrderItem {
    id: i32,
    name: String,
    #[emits(skip)]
    secret: String,
}

#[derive(Default)]
struct Heard(AtomicUsize);

#[listener(model = "orderItem")]
async fn count(event: Event<OrderItemCreated>, heard: State<Heard>) {
    assert_eq!(event.row.name, "x");
    assert_eq!(event.key().to_string(), "7");
    tokio::task::yield_now().await;
    heard.0.fetch_add(1, Ordering::SeqCst);
}

#[listener(model = "orderItem", allow_remote)]
fn blocking(heard: State<Heard>, event: Event<OrderItemEvent>) -> Result<(), String> {
    match &*event {
        OrderItemEvent::Created(_) => {
            heard.0.fetch_add(100, Ordering::SeqCst);
            Ok(())
        }
        OrderItemEvent::UpdatedMany(_) => Err("no".to_owned()),
    }
}

#[tokio::test]
async fn a_listener_hears_what_this_node_emits() {
    let emitter = Emitter::builder().state(Heard::default()).require("count").start().await.unwrap();
    let row = OrderItem { id: 7, name: "x".into(), secret: "s".into() }.to_row();
    assert_eq!(row, OrderItemRow { id: 7, name: "x".into() });
    let event = emitter.event::<OrderItem>(OrderItemEvent::Created(Created::new(row)), Scope::BOTH).unwrap();
    emitter.emit([event]);
    assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
    let stats = emitter.stats();
    assert_eq!(stats.handled, 2, "{stats:?}");
}
