//! Model-change events: typed events, listeners, dispatch, envelope and transports.
//!
//! This crate knows no database. `emitter-diesel` gives birth to events from Diesel statements
//! and re-exports everything here; a service that only listens needs this crate alone.

#![cfg_attr(docsrs, feature(doc_cfg))]

// Lets the macros name this crate the same way from everywhere, its own tests included.
#[allow(unused_extern_crates)]
extern crate self as emitter_core;

pub mod dedup;
pub mod dispatcher;
pub mod emit;
mod emitter;
pub mod envelope;
pub mod event;
pub mod key;
pub mod listener;
pub mod metrics;
pub mod model;
mod model_info;
mod queue;
pub mod registry;
pub mod retry;
pub mod topic;
pub mod transport;

#[cfg(feature = "macros")]
pub use emitter_macros::{Emits, listener};

pub use crate::emit::{EmitConfig, Scope};
pub use crate::emitter::{Builder, Emission, Emitter, NotConnected, Route, ShutdownReport, StartError, Subscription};
pub use crate::event::{Event, EventId, Operation, Origin, Source};
pub use crate::key::Key;
pub use crate::listener::State;
pub use crate::model::Model;

/// What the macros' expansions name, and nobody else should.
#[doc(hidden)]
pub mod __private {
    pub use inventory;
    pub use serde;

    pub use crate::listener::{Handler, Hears, MissingState, States, same_model, wanted};
    pub use crate::model::itself;
    pub use crate::registry::Registration;
}
