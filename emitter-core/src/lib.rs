//! Model-change events: typed events, listeners, dispatch, envelope and transports.
//!
//! This crate knows no database. `emitter-diesel` makes events of Diesel statements and re-exports
//! everything here; a service that only listens, or that emits without a database, needs this
//! crate alone.
//!
//! An **event** is one change to one **model**, or something that happened to no row. A **listener** is
//! a function that events are handed to: those of its own **node** (`Local`), and, if it allows that,
//! those of others (`Remote`), which come over a **transport**. An [`Emitter`] is a running node.
//!
//! ```standalone_crate
//! use std::time::Duration;
//!
//! use emitter_core::{Emits, Emitter, Event, State, listener};
//! use serde::{Deserialize, Serialize};
//! use tokio::sync::mpsc::UnboundedSender;
//!
//! #[derive(Clone, Serialize, Deserialize, Emits)]
//! #[emits(create)]
//! struct Order {
//!     id: i64,
//!     total: u32,
//! }
//!
//! #[listener(model = "order", allow_remote)]
//! async fn notify(event: Event<OrderCreated>, till: State<UnboundedSender<u32>>) -> Result<(), String> {
//!     till.send(event.row.total).map_err(|error| error.to_string())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (till, mut totals) = tokio::sync::mpsc::unbounded_channel::<u32>();
//! let emitter = Emitter::builder().state(till).start().await?;
//! emitter.publish(OrderCreated::new(Order { id: 1, total: 99 }));
//! assert_eq!(totals.recv().await, Some(99));
//! assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
//! # Ok(())
//! # }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

// Lets the macros name this crate the same way from everywhere, its own tests included.
#[allow(unused_extern_crates)]
extern crate self as emitter_core;

mod ack;
pub mod announcement;
mod batch;
mod cause;
pub mod columns;
mod context;
pub mod dead_letter;
pub mod dedup;
pub mod diff;
pub mod dispatcher;
pub mod emit;
mod emitter;
pub mod envelope;
pub mod event;
pub mod filter;
pub mod gaps;
pub mod key;
pub mod listener;
pub mod manifest;
pub mod masked;
pub mod metadata;
pub mod metrics;
pub mod model;
mod model_info;
mod net;
pub mod plain;
mod properties;
mod queue;
pub mod receipt;
pub mod record;
pub mod registry;
pub mod retry;
pub mod schema;
pub mod signature;
mod spans;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod topic;
pub mod trace;
pub mod transport;

#[cfg(feature = "macros")]
pub use emitter_macros::{Emits, listener};

pub use crate::batch::Batches;
pub use crate::context::Context;
pub use crate::emit::{EmitConfig, EmitOptions, Persistence, QoS, Scope};
pub use crate::emitter::{
    Backlog, BeginCompanion, Builder, Bus, Companion, Emission, Emitter, Extension, HandOut, Health,
    HealthStatus, NotConnected, Passing, Published, Pulse, QueueKeeper, QueueStatus, Queued, RedriveError,
    ReplayError, Route, ShutdownReport, Sighting, StartError, Subscription, Unpublished, WeakEmitter,
};
pub use crate::event::{Again, Event, EventId, Operation, Origin, Source};
pub use crate::key::Key;
pub use crate::listener::{ListenerOptions, State};
pub use crate::masked::{HashKey, Hashed, Redacted};
pub use crate::model::Model;
pub use crate::receipt::Receipt;
pub use crate::signature::{Signatures, SigningKey, VerifyingKey};
pub use crate::trace::Trace;

/// What the macros' expansions name, and nobody else should.
#[doc(hidden)]
pub mod __private {
    pub use inventory;
    pub use serde;
    pub use serde_json::value::RawValue;

    pub use crate::columns::place_of;
    pub use crate::context::{Home, context};
    pub use crate::diff::differ;
    pub use crate::envelope::DecodeError;
    pub use crate::filter::{can_change, can_enter, can_leave, can_set, check, is, is_null};
    pub use crate::listener::{
        Handler, Hears, ListenerOptions, MissingState, States, listens_to, on_a_thread, other_model,
        same_model, wanted,
    };
    pub use crate::masked::hash;
    pub use crate::model::{itself, read_row, upcast};
    pub use crate::registry::{RegisteredModel, Registration};
}
