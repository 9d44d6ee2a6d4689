//! Link-time listeners of one node, without a transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use emitter_core::model::{Created, UpdatedMany};
use emitter_core::retry::Retry;
use emitter_core::{Emission, Emits, Emitter, Event, Model, Scope, StartError, State, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update_many)]
struct OrderItem {
    id: i32,
    name: String,
    #[emits(skip)]
    discount: String,
}

/// How often each listener was called.
#[derive(Default)]
struct Calls {
    on_create: AtomicUsize,
    on_anything: AtomicUsize,
    on_remote: AtomicUsize,
}

#[listener(model = "orderItem")]
async fn on_create(event: Event<OrderItemCreated>, calls: State<Arc<Calls>>) {
    assert_eq!(event.row, OrderItemRow { id: 7, name: "tea".into() });
    assert_eq!(event.key().to_string(), "7");
    tokio::task::yield_now().await;
    calls.on_create.fetch_add(1, Ordering::SeqCst);
}

#[listener(model = "orderItem", allow_remote)]
fn on_anything(calls: State<Arc<Calls>>, event: Event<OrderItemEvent>) -> Result<(), String> {
    calls.on_anything.fetch_add(1, Ordering::SeqCst);
    match &*event {
        OrderItemEvent::Created(_) => Ok(()),
        OrderItemEvent::UpdatedMany(body) => Err(format!("{} rows are too many", body.count)),
    }
}

#[listener(model = "orderItem", remote_only)]
async fn on_remote(_: Event<OrderItemEvent>, calls: State<Arc<Calls>>) {
    calls.on_remote.fetch_add(1, Ordering::SeqCst);
}

fn created(emitter: &Emitter) -> Option<Emission> {
    let item = OrderItem { id: 7, name: "tea".into(), discount: "secret".into() };
    emitter.event::<OrderItem>(OrderItemEvent::Created(Created::new(item.to_row(None))), Scope::BOTH)
}

#[tokio::test]
async fn each_listener_hears_what_it_asks_for() {
    let calls = Arc::new(Calls::default());
    let retry = Retry { attempts: 1, ..Retry::default() };
    let builder = Emitter::builder().state(Arc::clone(&calls)).require("on_create").listener_retry(retry);
    let emitter = builder.start().await.unwrap();
    emitter.emit(created(&emitter));
    emitter.emit(
        emitter.event::<OrderItem>(OrderItemEvent::UpdatedMany(UpdatedMany::new(3, None, None)), Scope::BOTH),
    );
    assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
    assert_eq!(calls.on_create.load(Ordering::SeqCst), 1);
    assert_eq!(calls.on_anything.load(Ordering::SeqCst), 2);
    assert_eq!(calls.on_remote.load(Ordering::SeqCst), 0);
    let stats = emitter.stats();
    assert_eq!((stats.handled, stats.failed), (2, 1));
}

#[tokio::test]
async fn nothing_is_made_where_nobody_would_hear_it() {
    let emitter = Emitter::builder().select_listeners(|_| false).start().await.unwrap();
    assert!(created(&emitter).is_none());
    let _listener = emitter.on::<OrderItemCreated>().run(|_| async {});
    assert!(created(&emitter).is_some());
    assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
}

#[tokio::test]
async fn a_state_that_was_not_given_is_an_error_that_names_it() {
    let error = Emitter::builder().state(String::new()).start().await.unwrap_err();
    assert!(matches!(error, StartError::State { .. }), "{error:?}");
    let text = error.to_string();
    for part in ["on_", "local.rs", "Arc<local::Calls>", "alloc::string::String", ".state("] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[tokio::test]
async fn a_required_listener_that_is_absent_is_an_error_with_the_cure() {
    let builder = Emitter::builder().state(Arc::new(Calls::default()));
    let text = builder.require("on_delete").start().await.unwrap_err().to_string();
    for part in ["`on_delete`", "on_create", "use its_crate as _;"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn an_emitter_needs_a_runtime() {
    let error = futures_util::FutureExt::now_or_never(Emitter::builder().start()).unwrap().unwrap_err();
    assert!(matches!(error, StartError::NoRuntime));
}
