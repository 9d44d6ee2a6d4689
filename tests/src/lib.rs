//! What the tests of the whole share: servers of their own.

pub mod eventually;
pub mod node;
pub mod servers;
