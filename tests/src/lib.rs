//! What the tests of the whole share: servers of their own.

#[cfg(feature = "servers")]
pub mod brokers;
pub mod eventually;
pub mod node;
pub mod servers;
