//! Model-change events for browsers.
//!
//! A [`Stream`](stream::Stream) is an axum router to mount in your application: it tells pages of the events that you
//! choose, over WebSockets and as server-sent events. Its visitors are whoever your own extractor lets in.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use axum::Router;
//! use axum::extract::FromRequestParts;
//! use axum::http::StatusCode;
//! use axum::http::request::Parts;
//! use axum::response::Html;
//! use axum::routing::get;
//! use emitter_core::{Emits, Emitter, Event};
//! use emitter_web::stream::Stream;
//! use serde::{Deserialize, Serialize};
//! use tokio::signal::unix::{SignalKind, signal};
//!
//! #[derive(Clone, Serialize, Deserialize, Emits)]
//! #[emits(create, update)]
//! struct Order {
//!     id: i64,
//!     customer: i64,
//! }
//!
//! /// Who is asking; whom it rejects is told of nothing.
//! struct Customer(i64);
//!
//! impl<S: Sync> FromRequestParts<S> for Customer {
//!     type Rejection = StatusCode;
//!
//!     async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
//!         let session = parts.headers.get("cookie"); // … asks the database whose it is
//!         session.map(|_| Self(7)).ok_or(StatusCode::UNAUTHORIZED)
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let emitter = Emitter::builder().service("shop").node("web-1").start().await?;
//!     let stream = Stream::<Customer>::builder()
//!         .events(|customer: &Customer, event: &Event<OrderEvent>| match &**event {
//!             OrderEvent::Created(created) => created.row.customer == customer.0,
//!             OrderEvent::Updated(updated) => updated.after.customer == customer.0,
//!         })
//!         .start(&emitter)?;
//!
//!     let page = stream.clone();
//!     let draw = async move |_: Customer| {
//!         let cursor = page.cursor(); // before the orders are read
//!         Html(format!(
//!             r#"<body data-cursor="{cursor}"> … <script type="module">
//!                 import {{ EventStream }} from "/events/client.js";
//!                 const stream = new EventStream("/", {{ cursor: document.body.dataset.cursor }});
//!                 stream.subscribe("order_updated", ({{ payload }}) => console.log(payload.id));
//!             </script>"#
//!         ))
//!     };
//!     let app = Router::new().route("/", get(draw)).merge(stream.router());
//!
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//!     let end = async move {
//!         asked_to_end().await;
//!         stream.close(Duration::from_secs(5)).await;
//!     };
//!     // Longer nobody keeps the server, whatever it takes of its answers.
//!     let late = async {
//!         asked_to_end().await;
//!         tokio::time::sleep(Duration::from_secs(10)).await;
//!     };
//!     tokio::select! {
//!         served = axum::serve(listener, app).with_graceful_shutdown(end).into_future() => served?,
//!         () = late => {}
//!     }
//!     assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
//!     Ok(())
//! }
//!
//! /// By Ctrl-C, or by SIGTERM, as Kubernetes, Docker and systemd ask.
//! async fn asked_to_end() {
//!     let mut terminated = signal(SignalKind::terminate()).expect("a runtime with I/O");
//!     tokio::select! {
//!         _ = tokio::signal::ctrl_c() => {}
//!         _ = terminated.recv() => {}
//!     }
//! }
//! ```
//!
//! In this order nothing is lost: pages are sent away, the server ends, and then the emitter, which was still handed what
//! requests did. What a load balancer sees of that is said in [`health`](health#the-end).
//!
//! With the feature `dashboard` there is a dashboard for who runs it, too: see the module of that name.
//!
//! [`health`] has the routes by which Kubernetes and monitoring see whether the node works.
//!
//! A whole application is the example `live-page`; what is promised is in `docs/GUARANTEES.md`.

#[cfg(feature = "dashboard")]
pub mod dashboard;
pub mod health;
pub mod stream;
