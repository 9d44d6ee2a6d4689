//! Events from Diesel statements, sent after the commit and never without one.

// Lets the macros name this crate the same way from everywhere, its own tests included.
#[allow(unused_extern_crates)]
extern crate self as emitter_diesel;

mod buffer;
mod handle;
pub mod statements;

pub use emitter_core::*;

pub use crate::handle::{Bind, BindError, Bound, EmittingTransactionManager};
pub use crate::statements::Emit;
