//! The listeners that `#[listener]` registered at link time.
//!
//! A crate that no Rust code names is not linked, and its listeners are silently absent. So the
//! emitter reports at start which ones it found, `.require("name")` makes an absent one an error,
//! and `use that_crate as _;` is the cure.

use crate::event::Operation;
use crate::listener::{Handler, Hears, ListenerInfo, MissingState, States};

/// A listener as `#[listener]` registers it: one per function.
#[derive(Debug)]
pub struct Registration {
    /// The function's name.
    pub name: &'static str,
    /// The model it listens to.
    pub model: &'static str,
    /// The one operation it listens to, or `None` for all.
    pub operation: Option<Operation>,
    /// Which side's events it is given.
    pub hears: Hears,
    /// Its `file:line`.
    pub defined_at: &'static str,
    /// Takes the states that it needs, and makes the handler.
    pub prepare: fn(&States) -> Result<Handler, MissingState>,
}

inventory::collect!(Registration);

impl Registration {
    /// All listeners of this program, in no particular order.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        inventory::iter::<Self>()
    }

    pub(crate) fn info(&self) -> ListenerInfo {
        ListenerInfo {
            name: self.name.into(),
            model: self.model,
            operation: self.operation,
            hears: self.hears,
            defined_at: self.defined_at.into(),
        }
    }
}
