//! What the tests of the whole share: servers of their own, and other programs that talk to them.

pub mod alerts;
#[cfg(feature = "servers")]
pub mod brokers;
pub mod documents;
pub mod eventually;
pub mod frail;
pub mod node;
pub mod npm;
pub mod raw_publisher;
pub mod servers;
pub mod typescript;
pub mod worker;

/// Compiles the code of a document, for which no library has what it needs.
#[cfg(all(doctest, feature = "servers"))]
mod compiled {
    #[doc = include_str!("../../docs/PRODUCTION.md")]
    struct Production;

    #[doc = include_str!("../../docs/TRACING.md")]
    struct Tracing;
}
