//! The listeners that `#[listener]`, and the models that `#[derive(Emits)]` registered at link time.
//!
//! A crate that no Rust code names is not linked, and its listeners are silently absent. So the
//! emitter reports at start which ones it found, `.require("name")` makes an absent one an error,
//! and `use that_crate as _;` is the cure.

use crate::columns::Column;
use crate::emit::Scope;
use crate::event::Operation;
use crate::listener::{Handler, Hears, ListenerInfo, MissingState, States, Wanted};
use crate::model::Model;

/// A listener as `#[listener]` registers it: one per function.
#[derive(Debug)]
pub struct Registration {
    /// The function's name.
    pub name: &'static str,
    /// What it listens to.
    pub wanted: Wanted,
    /// Which side's events it is given.
    pub hears: Hears,
    /// The group of nodes of which one is given an event.
    pub group: Option<&'static str>,
    /// The module in which it is defined.
    pub module: &'static str,
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
            model: self.wanted.model,
            operation: self.wanted.operation,
            hears: self.hears,
            group: self.group.map(Into::into),
            defined_at: self.defined_at.into(),
        }
    }
}

/// A model as `#[derive(Emits)]` registers it; generic ones are not, for they are as many models
/// as they have types.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RegisteredModel {
    /// Its name on the wire.
    pub name: &'static str,
    /// What kind of event it is, where it is an event itself and no row.
    pub event: Option<&'static str>,
    /// The levels of its topics between prefix and operation.
    pub topic: &'static str,
    /// The version of its row's shape.
    pub version: u32,
    /// The earliest version that it still reads.
    pub earliest: u32,
    /// The names of its key columns in JSON.
    pub key_columns: &'static [&'static str],
    /// The operations that it emits.
    pub operations: &'static [Operation],
    /// The columns that listeners see.
    pub columns: &'static [Column],
    /// Where its events may go at most.
    pub scope: Scope,
    /// Whether it hashes a column.
    pub hashes: bool,
    /// The module in which it is defined.
    pub module: &'static str,
    /// The name of the table that its rows are kept in, if they are: as Diesel's attribute says, else
    /// by Diesel's rule (`user_roles` of `UserRole`). An event that is no row has none.
    pub table: Option<&'static str>,
}

inventory::collect!(RegisteredModel);

impl RegisteredModel {
    /// A model that is defined in this module, with rows in this table.
    #[must_use]
    pub const fn of<M: Model>(module: &'static str, table: Option<&'static str>) -> Self {
        Self {
            name: M::NAME,
            event: M::EVENT,
            topic: M::TOPIC,
            version: M::VERSION,
            earliest: M::EARLIEST,
            key_columns: M::KEY_COLUMNS,
            operations: M::OPERATIONS,
            columns: M::COLUMNS,
            scope: M::SCOPE,
            hashes: M::HASHES,
            module,
            table,
        }
    }

    /// All models of this program, in no particular order.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        inventory::iter::<Self>()
    }
}
