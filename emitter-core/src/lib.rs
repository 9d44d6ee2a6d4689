//! Model-change events.

pub mod event;
pub mod key;
pub mod model;
pub mod retry;
pub mod topic;
pub mod transport;
