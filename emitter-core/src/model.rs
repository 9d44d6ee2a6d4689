//! What `#[derive(Emits)]` writes about a model, and the bodies of its events.
//!
//! The bodies are ordinary generic structs; a derive only names those that the model emits
//! (`type UserCreated = Created<User>`) and writes the enum of them. So an expansion stays small
//! and everything that can be read is here.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::columns::{Column, Columns};
use crate::diff::Diff;
use crate::emit::{Persistence, QoS, Scope};
use crate::envelope::{DecodeError, decode_row};
use crate::event::Operation;
use crate::key::Key;
use crate::masked::HashKey;

/// A model whose changes are events. Written by `#[derive(Emits)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an emitting model",
    label = "this is not an emitting model",
    note = "write `#[derive(Emits)]` and `#[emits(create, update, …)]` on the struct"
)]
pub trait Model: Sized + Send + Sync + 'static {
    /// The name in topics and envelopes, such as `user`.
    const NAME: &'static str;

    /// What kind of event its values are, where they are events by themselves and no rows: `#[emits(event)]`.
    /// Default: they are rows.
    const EVENT: Option<&'static str> = None;

    /// The names of its key columns as they are in JSON. Events that are no rows may have none, and then no
    /// order among each other.
    const KEY_COLUMNS: &'static [&'static str];

    /// The version of its row's shape, which its events carry, from 1. Default 1.
    const VERSION: u32 = 1;

    /// The earliest version that [`read_row`](Self::read_row) knows. Default: this one.
    const EARLIEST: u32 = Self::VERSION;

    /// The levels of a topic that stand between prefix and operation, such as `user`. Default: its
    /// name.
    const TOPIC: &'static str = Self::NAME;

    /// Where its events may go at most. Default: everywhere.
    const SCOPE: Scope = Scope::BOTH;

    /// Where its events wait until they are published, though the call does not say so. Default: in memory. (What
    /// is published without a statement is in no transaction, and never durable.)
    const PERSISTENCE: Persistence = Persistence::Buffered;

    /// Whether, when a durable event of it is given up, later ones of its key wait until somebody has it sent
    /// again or discards it. Default: no, they go on without it.
    const PARK: bool = false;

    /// How long its events are worth anything to other nodes, from when they are published.
    /// Default: for ever.
    const EXPIRES: Option<Duration> = None;

    /// Whether updates carry the row as it was before, and how. Default [`Before::Wanted`].
    const BEFORE: Before = Before::Wanted;

    /// Whether it hashes a column, and so needs a [`HashKey`].
    const HASHES: bool = false;

    /// The operations that it emits.
    const OPERATIONS: &'static [Operation];

    /// What listeners are handed: the model itself when it skips no field, else a generated
    /// struct without the skipped ones.
    type Row: Clone + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The enum of its events, such as `UserEvent`.
    type Event: ModelEvent<Self>;

    /// The columns of its row, in the order of the struct.
    const COLUMNS: &'static [Column];

    /// How many fields the struct has, hidden ones included.
    const FIELDS: usize = Self::COLUMNS.len();

    /// What an update did, with a method for each column, such as `UserDiff`; [`Diff`] itself for
    /// a model that emits no update.
    type Diff<'e>;

    /// The diff with its methods.
    fn diff<'e>(diff: Diff<'e, Self>) -> Self::Diff<'e>;

    /// The columns in which two images of a row differ, each compared by its type's `PartialEq`.
    fn differing(before: &Self::Row, after: &Self::Row) -> Columns;

    /// What listeners may see of this value. A column that the model hashes is absent where there
    /// is no key.
    fn to_row(&self, hash_key: Option<&HashKey>) -> Self::Row;

    /// What listeners may see of this value, which nobody else wants.
    fn into_row(self, hash_key: Option<&HashKey>) -> Self::Row {
        self.to_row(hash_key)
    }

    /// The key of a row.
    fn key(row: &Self::Row) -> Key;

    /// How hard is tried to bring an event to other nodes. Default: at least once.
    #[must_use]
    fn qos(_: Operation) -> QoS {
        QoS::AtLeastOnce
    }

    /// Reads a row of this version, or of an earlier one if the model names its type.
    ///
    /// # Errors
    /// [`DecodeError::Row`] when it is something else, [`DecodeError::Version`] when the model does
    /// not know the version.
    fn read_row(version: u32, row: &RawValue) -> Result<Self::Row, DecodeError> {
        read_row::<Self>(version, row)
    }
}

/// What an update tells of the row as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Before {
    /// The row, where a listener of the node that writes wants it. The default.
    #[default]
    Wanted,
    /// The row, whoever listens: `#[emits(before)]`.
    Row,
    /// What was in the columns that differ, whoever listens: `#[emits(before = "changed")]`. Events are smaller on
    /// the wire and in tables by all other columns; listeners are handed the whole row, for the others are those of
    /// the row after. Where one of the two rows lacks a column that the other one has (`skip_serializing_if`), it is
    /// sent whole.
    Changed,
}

/// Reads a row of a model's present version, for `#[derive(Emits)]`.
///
/// # Errors
/// As [`Model::read_row`].
pub fn read_row<M: Model>(version: u32, row: &RawValue) -> Result<M::Row, DecodeError> {
    if version != M::VERSION {
        return Err(DecodeError::Version { found: version, known: M::VERSION });
    }
    decode_row(row)
}

/// Reads a row of an earlier version and makes one of the next of it, for `#[derive(Emits)]`.
///
/// # Errors
/// [`DecodeError::Row`] when it is something else.
pub fn upcast<Earlier: DeserializeOwned, Next: From<Earlier>>(row: &RawValue) -> Result<Next, DecodeError> {
    decode_row::<Earlier>(row).map(Next::from)
}

/// The row of a model that skips no field, for `#[derive(Emits)]`. Its bound says once that a model
/// has to be `Clone`.
pub fn itself<M: Model>(row: &M::Row) -> M::Row {
    row.clone()
}

/// The enum of a model's events. Written by `#[derive(Emits)]`.
pub trait ModelEvent<M: Model>: EventBody<Model = M> {
    /// The event in the form that knows all operations.
    fn body(&self) -> BodyRef<'_, M>;

    /// The other way round; `None` when the model does not emit that operation.
    fn from_body(body: Body<M>) -> Option<Self>
    where
        Self: Sized;
}

/// Of an event that is no row there is one thing to tell, and it goes by the name of `create`.
impl<M: Emits<operation::Create> + Model<Event = Self>> ModelEvent<M> for Created<M> {
    fn body(&self) -> BodyRef<'_, M> {
        BodyRef::Create(self)
    }

    fn from_body(body: Body<M>) -> Option<Self> {
        match body {
            Body::Create(body) => Some(body),
            _ => None,
        }
    }
}

/// One operation as a type: `#[derive(Emits)]` implements [`Emits`] for each that is enabled.
pub trait OperationType: 'static {
    /// The operation.
    const OPERATION: Operation;

    /// The body of its events.
    type Body<M: Model>;
}

/// "This model emits that operation." Written by `#[derive(Emits)]` for each enabled operation.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not emit `{Op}`",
    label = "`{Op}` is not among the operations of `{Self}`",
    note = "add the operation to its attribute, as in `#[emits(create, update_many)]`: `create`, `create_many`, `update`, `update_many`, `upsert`, `delete`, `delete_many`"
)]
pub trait Emits<Op: OperationType>: Model {
    /// The body as the model's event.
    fn wrap(body: Op::Body<Self>) -> Self::Event;

    /// The event's body, if it is of this operation.
    fn unwrap(event: &Self::Event) -> Option<&Op::Body<Self>>;
}

/// "Its events may go to listeners of this node." Written by `#[derive(Emits)]`, unless the model
/// says `remote`.
#[diagnostic::on_unimplemented(
    message = "the events of `{Self}` only go to other nodes",
    label = "the model's `#[emits(remote)]` forbids this",
    note = "leave `.local_only()` out, or `remote` in the model's attribute"
)]
pub trait EmitsLocally: Model {}

/// "Its events may go to other nodes." Written by `#[derive(Emits)]`, unless the model says
/// `local`.
#[diagnostic::on_unimplemented(
    message = "the events of `{Self}` stay on this node",
    label = "the model's `#[emits(local)]` forbids this",
    note = "leave `.remote_only()` out, or `local` in the model's attribute"
)]
pub trait EmitsRemotely: Model {}

/// The type that a listener's parameter names in `Event<…>`: a model's whole enum, one body, or an event
/// that is no row.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event of an emitting model",
    note = "`#[derive(Emits)]` on `User` makes `UserEvent`, and `UserCreated`, `UserUpdated`, … for each enabled operation",
    note = "what is no row is an event itself, with `#[emits(event)]` on it"
)]
pub trait EventBody: Sized + Send + Sync + 'static {
    /// Whose event it is.
    type Model: Model;

    /// The one operation, or `None` for the enum of all, and for an event that is no row.
    const OPERATION: Option<Operation>;

    /// The body within an event of the model, if it is of this type.
    fn of(event: &<Self::Model as Model>::Event) -> Option<&Self>;

    /// The body as an event of the model.
    fn into_event(self) -> <Self::Model as Model>::Event;
}

/// Events of exactly one row: every body but the bulk ones, the enum of a model that emits no bulk
/// operation, and an event that is no row and names a key.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no single key",
    note = "where it may carry many rows, use `event.keys()`, which has one key for each row",
    note = "where it is no row, name its key with `#[emits(event, key(…))]`"
)]
pub trait SingleRow: EventBody {}

macro_rules! bodies {
    ($(
        $(#[$doc:meta])*
        $operation:ident => $body:ident { $($(#[$field_doc:meta])* $field:ident : $type:ty,)* } $(: $single:ident)?
    )*) => {
        /// The operations as types, for [`Emits`](super::Emits).
        pub mod operation {
            $(
                #[doc = concat!("[`", stringify!($operation), "`](crate::event::Operation::", stringify!($operation), ") as a type.")]
                #[derive(Debug, Clone, Copy)]
                pub enum $operation {}

                impl super::OperationType for $operation {
                    const OPERATION: super::Operation = super::Operation::$operation;
                    type Body<M: super::Model> = super::$body<M>;
                }
            )*
        }

        $(
            $(#[$doc])*
            #[non_exhaustive]
            pub struct $body<M: Model> { $($(#[$field_doc])* pub $field: $type,)* }

            impl<M: Emits<operation::$operation>> EventBody for $body<M> {
                type Model = M;
                const OPERATION: Option<Operation> = Some(Operation::$operation);

                fn of(event: &M::Event) -> Option<&Self> {
                    M::unwrap(event)
                }

                fn into_event(self) -> M::Event {
                    M::wrap(self)
                }
            }

            impl<M: Model> $body<M> {
                /// A body.
                #[must_use]
                pub fn new($($field: $type),*) -> Self {
                    Self { $($field),* }
                }
            }

            impl<M: Model> Clone for $body<M> {
                fn clone(&self) -> Self {
                    Self { $($field: self.$field.clone(),)* }
                }
            }

            impl<M: Model<Row: fmt::Debug>> fmt::Debug for $body<M> {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.debug_struct(stringify!($body))$(.field(stringify!($field), &self.$field))*.finish()
                }
            }

            impl<M: Model> From<$body<M>> for Body<M> {
                fn from(body: $body<M>) -> Self {
                    Self::$operation(body)
                }
            }

            $(#[diagnostic::do_not_recommend] impl<M: Emits<operation::$operation>> $single for $body<M> {})?
        )*

        /// A body of any operation, whether the model emits it or not.
        #[allow(missing_docs, reason = "each variant is the operation of the same name")]
        pub enum Body<M: Model> { $($operation($body<M>),)* }

        /// A borrowed [`Body`].
        #[allow(missing_docs, reason = "each variant is the operation of the same name")]
        pub enum BodyRef<'a, M: Model> { $($operation(&'a $body<M>),)* }

        impl<M: Model> Body<M> {
            /// Borrows it.
            #[must_use]
            pub fn as_ref(&self) -> BodyRef<'_, M> {
                match self { $(Self::$operation(body) => BodyRef::$operation(body),)* }
            }
        }

        impl<M: Model> BodyRef<'_, M> {
            /// Which operation it is.
            #[must_use]
            pub fn operation(&self) -> Operation {
                match self { $(Self::$operation(_) => Operation::$operation,)* }
            }
        }
    };
}

bodies! {
    /// One row was inserted.
    Create => Created {
        /// The row as it is in the database now.
        row: M::Row,
    } : SingleRow
    /// One statement inserted rows.
    CreateMany => CreatedMany {
        /// How many.
        count: u64,
        /// The rows in the order of the statement; `None` when a program that only counts sent it.
        rows: Option<Vec<M::Row>>,
    }
    /// One row was updated.
    Update => Updated {
        /// The row as it was; `None` when its origin did not keep it.
        before: Option<M::Row>,
        /// The row as it is in the database now.
        after: M::Row,
        /// The columns that the statement set; `None` when that is not known.
        set: Option<Columns>,
    } : SingleRow
    /// One statement updated rows.
    UpdateMany => UpdatedMany {
        /// How many.
        count: u64,
        /// The rows; `None` when a program that only counts sent it.
        rows: Option<Vec<RowChange<M>>>,
        /// The columns that the statement set; `None` when that is not known.
        set: Option<Columns>,
    }
    /// One row was inserted or updated.
    Upsert => Upserted {
        /// The row as it is in the database now.
        row: M::Row,
        /// The columns that the statement wrote, whether it inserted or updated; `None` when that
        /// is not known.
        set: Option<Columns>,
        /// Whether it was inserted; `None` where the database does not tell that from an update,
        /// and where a program sent it that does not say.
        inserted: Option<bool>,
    } : SingleRow
    /// One row was deleted.
    Delete => Deleted {
        /// The row as it was.
        row: M::Row,
    } : SingleRow
    /// One statement deleted rows.
    DeleteMany => DeletedMany {
        /// How many.
        count: u64,
        /// The rows as they were; `None` when a program that only counts sent it.
        rows: Option<Vec<M::Row>>,
    }
}

impl<M: Model> Updated<M> {
    /// Which columns changed, with their old and new values: `event.changed().status()`.
    #[must_use]
    pub fn changed(&self) -> M::Diff<'_> {
        M::diff(Diff::new(self.before.as_ref(), &self.after, self.set))
    }
}

impl<M: Model> UpdatedMany<M> {
    /// What changed, row by row; nothing when a program that only counts sent the event.
    pub fn changed(&self) -> impl Iterator<Item = M::Diff<'_>> {
        let rows = self.rows.iter().flatten();
        rows.map(|row| M::diff(Diff::new(row.before.as_ref(), &row.after, self.set)))
    }
}

/// One row of a bulk update.
#[non_exhaustive]
pub struct RowChange<M: Model> {
    /// The row as it was; `None` when its origin did not keep it.
    pub before: Option<M::Row>,
    /// The row as it is in the database now.
    pub after: M::Row,
}

impl<M: Model> RowChange<M> {
    /// A change.
    #[must_use]
    pub fn new(before: Option<M::Row>, after: M::Row) -> Self {
        Self { before, after }
    }
}

impl<M: Model> Clone for RowChange<M> {
    fn clone(&self) -> Self {
        Self { before: self.before.clone(), after: self.after.clone() }
    }
}

impl<M: Model<Row: fmt::Debug>> fmt::Debug for RowChange<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowChange").field("before", &self.before).field("after", &self.after).finish()
    }
}
