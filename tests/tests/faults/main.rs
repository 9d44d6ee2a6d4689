//! Nodes in one process, over the memory broker: with faults, with listeners that misbehave, with
//! messages that are none.

mod hostile;
mod lifecycle;
mod listeners;
mod mutations;
mod nodes;
mod order;
mod poison;
mod scopes;
mod wire;
