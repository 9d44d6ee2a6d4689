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
