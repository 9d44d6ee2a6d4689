//! What `#[listener]`'s filters are made of. They let through what is known to match.
//!
//! | filter | lets through an event with a row … |
//! |---|---|
//! | `where(id = 1)` | that is so: as it is now, or as it was for a delete |
//! | `data(status = "ACTIVE")` | whose `status` this write set, to that value |
//! | `data(status)` | whose `status` this write set |
//! | `data(status: "DRAFT" -> "PUBLISHED")` | whose `status` was the one and is the other now |
//! | `changed(email, phone)` | of which an update changed one of these columns |
//! | `enters(status = "ACTIVE")` | that was not so, or was not there, and is so now |
//! | `leaves(status = "ACTIVE")` | that was so, and is not so or not there any more |
//!
//! A value may be a list, `["ACTIVE", "BLOCKED"]`, of which one has to fit; `None` for NULL; or a
//! predicate, `|status| status.starts_with("A")`. Instead of columns there may be a predicate of
//! the row, `where(|row| row.total > 100)`; in `data` of any row that there is after the write. All conditions have to hold of one and the same row;
//! of an event of many rows, one such row is enough, and the listener is handed the whole event.
//!
//! What a write sets is the same for local and remote events:
//!
//! | operation | sets |
//! |---|---|
//! | create, createMany | every column |
//! | update, updateMany | the columns of its statement, also those that keep their value |
//! | upsert | every column, for nobody says whether it inserted; of other programs, what either way sets |
//! | delete, deleteMany | none |
//!
//! What is not known does not match: `data` where the origin did not tell what it set, transitions,
//! `changed`, `enters` and `leaves` where it did not keep the row before, and every filter where
//! it only sent a count.

use crate::event::Operation;
use crate::model::{EventBody, Model};

/// "A column of this type can be compared with that value." `Marker` tells columns that may be
/// NULL from others, and is always inferred.
#[diagnostic::on_unimplemented(
    message = "a column of type `{Self}` cannot be compared with `{Value}`",
    label = "not a value of the column's type",
    note = "write a value of the column's type (of an `Option`'s, without `Some`), a list of such values, `None` for NULL, or a predicate, as in `|value| …`"
)]
pub trait Comparable<Value: ?Sized, Marker> {
    /// Whether the column has this value.
    fn has(&self, value: &Value) -> bool;
}

/// Markers of [`Comparable`].
pub mod marker {
    /// The value is compared with the column.
    #[derive(Debug)]
    pub enum Plain {}

    /// The value is compared with what the column holds, if it is not NULL.
    #[derive(Debug)]
    pub enum Nullable {}
}

#[diagnostic::do_not_recommend]
impl<T: PartialEq<V>, V> Comparable<V, marker::Plain> for T {
    fn has(&self, value: &V) -> bool {
        self == value
    }
}

#[diagnostic::do_not_recommend]
impl<T: PartialEq<V>, V> Comparable<V, marker::Nullable> for Option<T> {
    fn has(&self, value: &V) -> bool {
        self.as_ref().is_some_and(|held| held == value)
    }
}

/// Whether a column has this value. NULL is no value.
pub fn is<Column: Comparable<Value, Marker>, Value, Marker>(column: &Column, value: &Value) -> bool {
    column.has(value)
}

/// "A column of this type may be NULL."
#[diagnostic::on_unimplemented(
    message = "a column of type `{Self}` is never NULL",
    label = "`None` fits columns of type `Option<…>`",
    note = "leave this condition out"
)]
pub trait Nullable {
    /// Whether it is NULL.
    fn is_null(&self) -> bool;
}

#[diagnostic::do_not_recommend]
impl<T> Nullable for Option<T> {
    fn is_null(&self) -> bool {
        self.is_none()
    }
}

/// Whether a column is NULL.
pub fn is_null<Column: Nullable>(column: &Column) -> bool {
    column.is_null()
}

/// Whether a predicate holds of a column or a row; tells the compiler what the predicate takes.
pub fn check<T>(subject: &T, predicate: impl FnOnce(&T) -> bool) -> bool {
    predicate(subject)
}

/// Whether events of this type can set a column, for the check that `#[listener]` writes.
#[must_use]
pub const fn can_set<T: EventBody>() -> bool {
    emits_any::<T>(&[
        Operation::Create,
        Operation::CreateMany,
        Operation::Update,
        Operation::UpdateMany,
        Operation::Upsert,
    ])
}

/// Whether events of this type tell the row before and the row now.
#[must_use]
pub const fn can_change<T: EventBody>() -> bool {
    emits_any::<T>(&[Operation::Update, Operation::UpdateMany])
}

/// Whether a row can enter a condition by events of this type.
#[must_use]
pub const fn can_enter<T: EventBody>() -> bool {
    emits_any::<T>(&[Operation::Create, Operation::CreateMany, Operation::Update, Operation::UpdateMany])
}

/// Whether a row can leave a condition by events of this type.
#[must_use]
pub const fn can_leave<T: EventBody>() -> bool {
    emits_any::<T>(&[Operation::Update, Operation::UpdateMany, Operation::Delete, Operation::DeleteMany])
}

const fn emits_any<T: EventBody>(wanted: &[Operation]) -> bool {
    match T::OPERATION {
        Some(operation) => contains(wanted, operation),
        None => {
            let mut i = 0;
            while i < <T::Model as Model>::OPERATIONS.len() {
                if contains(wanted, <T::Model as Model>::OPERATIONS[i]) {
                    return true;
                }
                i += 1;
            }
            false
        }
    }
}

const fn contains(operations: &[Operation], wanted: Operation) -> bool {
    let mut i = 0;
    while i < operations.len() {
        if operations[i] as usize == wanted as usize {
            return true;
        }
        i += 1;
    }
    false
}
