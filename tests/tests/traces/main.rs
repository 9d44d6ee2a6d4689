//! Traces over nodes in processes of their own, as a collector is told of them; and as foreign clients see and send them.

mod collector;
mod foreign;
mod journey;
mod places;
