//! Updates and deletes of which events know the rows.
//!
//! Diesel's own statements keep their condition to themselves, so that nobody can read the rows that
//! they are about to change.

use std::fmt;

use diesel::backend::Backend;
use diesel::query_builder::{AsChangeset, AstPass, IntoUpdateTarget, QueryFragment};
use diesel::result::{Error, QueryResult};
use diesel::sql_types::BoolOrNullableBool;
use diesel::{AppearsOnTable, Expression, QuerySource, SelectableExpression, Table};

use crate::bypass::Silent;
use crate::statements::Emitting;

/// Begins an update that emits: `update(target).set(changes).emit()`.
///
/// It takes what [`diesel::update`] takes: a table, a table with a filter, a row. The statement is
/// cached by the connection, which Diesel's own are not.
///
/// ```
/// # use diesel::prelude::*;
/// # use emitter_diesel::{Bind, Emit, Emits, Emitter, update};
/// # use serde::{Deserialize, Serialize};
/// # diesel::table! { users { id -> Integer, name -> Text, } }
/// # #[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Serialize, Deserialize, Emits)]
/// # #[emits(update, update_many)]
/// # struct User { id: i32, name: String }
/// # fn rename(emitter: &Emitter, db: &mut SqliteConnection, alice: &User) -> Result<(), Box<dyn std::error::Error>> {
/// let conn = &mut emitter.bind(db)?;
/// let alicia: User = update(alice).set(users::name.eq("alicia")).emit().get_result(conn)?;
/// let count = update(users::table.filter(users::id.gt(10))).set(users::name.eq("-")).emit::<User>().execute(conn)?;
/// # Ok(())
/// # }
/// ```
pub fn update<T: IntoUpdateTarget>(target: T) -> UpdateTarget<T::Table, T::WhereClause> {
    let target = target.into_update_target();
    UpdateTarget { table: target.table, condition: target.where_clause }
}

/// What is to be updated; [`set`](Self::set) says how.
#[derive(Debug)]
#[must_use = "nothing is updated until `.set(…).emit()` is executed"]
pub struct UpdateTarget<T, W> {
    table: T,
    condition: W,
}

impl<T: Table, W> UpdateTarget<T, W> {
    /// Only rows of which this is true, too: as in `update(users::table).filter(…)`.
    pub fn filter<P: AppearsOnTable<T, SqlType: BoolOrNullableBool>>(
        self,
        predicate: P,
    ) -> UpdateTarget<T, AndAlso<W, P>> {
        UpdateTarget { table: self.table, condition: AndAlso { first: self.condition, then: predicate } }
    }

    /// What becomes of the rows: anything that Diesel's `set` takes.
    pub fn set<V: AsChangeset<Target = T>>(self, changes: V) -> Update<T, W, V::Changeset, T::AllColumns> {
        Update {
            parts: Box::new(Parts {
                from: self.table.from_clause(),
                table: self.table,
                condition: self.condition,
                changes: changes.as_changeset(),
                returning: T::all_columns(),
            }),
        }
    }
}

/// A condition, which may be none, and another one.
#[derive(Debug, Clone, Copy)]
pub struct AndAlso<W, P> {
    first: W,
    then: P,
}

impl<DB: Backend, W: QueryFragment<DB>, P: QueryFragment<DB>> QueryFragment<DB> for AndAlso<W, P> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        let Self { first, then } = self;
        first.walk_ast(out.reborrow())?;
        out.push_sql(if first.is_noop(out.backend())? { " WHERE " } else { " AND " });
        then.walk_ast(out)
    }
}

/// An update, made by [`update`].
#[must_use = "a statement does nothing until it is executed"]
pub struct Update<T: QuerySource, W, V, R> {
    pub(crate) parts: Box<Parts<T, W, V, R>>,
}

/// Begins a delete that emits: `delete(target).emit()`.
///
/// It takes what [`diesel::delete`] takes: a table, a table with a filter, a row.
///
/// ```
/// # use diesel::prelude::*;
/// # use emitter_diesel::{Bind, Emit, Emits, Emitter, delete};
/// # use serde::{Deserialize, Serialize};
/// # diesel::table! { users { id -> Integer, name -> Text, } }
/// # #[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Serialize, Deserialize, Emits)]
/// # #[emits(delete, delete_many)]
/// # struct User { id: i32, name: String }
/// # fn remove(emitter: &Emitter, db: &mut SqliteConnection, alice: &User) -> Result<(), Box<dyn std::error::Error>> {
/// let conn = &mut emitter.bind(db)?;
/// let alice: User = delete(alice).emit().get_result(conn)?;
/// let count = delete(users::table.filter(users::id.gt(10))).emit::<User>().execute(conn)?;
/// # Ok(())
/// # }
/// ```
pub fn delete<T: IntoUpdateTarget>(
    target: T,
) -> Delete<T::Table, T::WhereClause, <T::Table as Table>::AllColumns>
where
    T::Table: Table,
{
    let target = target.into_update_target();
    Delete {
        parts: Box::new(Parts {
            from: target.table.from_clause(),
            table: target.table,
            condition: target.where_clause,
            changes: (),
            returning: <T::Table as Table>::all_columns(),
        }),
    }
}

/// A delete, made by [`delete`].
#[must_use = "a statement does nothing until it is executed"]
pub struct Delete<T: QuerySource, W, R> {
    pub(crate) parts: Box<Parts<T, W, (), R>>,
}

impl<T: QuerySource, W, R> Delete<T, W, R> {
    /// Only rows of which this is true, too: as in `delete(users::table).filter(…)`.
    pub fn filter<P: AppearsOnTable<T, SqlType: BoolOrNullableBool>>(
        self,
        predicate: P,
    ) -> Delete<T, AndAlso<W, P>, R> {
        let Parts { table, from, condition, changes, returning } = *self.parts;
        let condition = AndAlso { first: condition, then: predicate };
        Delete { parts: Box::new(Parts { table, from, condition, changes, returning }) }
    }

    /// What the rows are loaded from, instead of all columns of the table:
    /// `.returning(User::as_select())`.
    pub fn returning<E: Expression + SelectableExpression<T>>(self, returning: E) -> Delete<T, W, E> {
        let Parts { table, from, condition, changes, .. } = *self.parts;
        Delete { parts: Box::new(Parts { table, from, condition, changes, returning }) }
    }
}

impl<T: QuerySource, W, R> fmt::Debug for Delete<T, W, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delete").finish_non_exhaustive()
    }
}

/// A statement that says whether it emits.
#[diagnostic::on_unimplemented(
    message = "this statement does not say whether it emits",
    label = "neither `.emit()` nor `.emit_none()`",
    note = "write `.emit()` in front of it and run it on a bound handle, or `.emit_none()` where no event is meant"
)]
pub trait Decided {}

impl<S, K, M, P> Decided for Emitting<S, K, M, P> {}
impl<S> Decided for Silent<S> {}

/// Methods that are there for their message alone: else Diesel's would be looked for.
macro_rules! undecided {
    ($statement:ident<$($parameter:ident),*>) => {
        #[doc(hidden)]
        impl<T: QuerySource, $($parameter),*> $statement<T, $($parameter),*> {
            pub fn execute<C>(self, _: &mut C) -> QueryResult<usize>
            where
                Self: Decided,
            {
                Ok(0)
            }

            pub fn get_result<U, C>(self, _: &mut C) -> QueryResult<U>
            where
                Self: Decided,
            {
                Err(Error::NotFound)
            }

            pub fn get_results<U, C>(self, _: &mut C) -> QueryResult<Vec<U>>
            where
                Self: Decided,
            {
                Ok(Vec::new())
            }

            pub fn load<U, C>(self, _: &mut C) -> QueryResult<Vec<U>>
            where
                Self: Decided,
            {
                Ok(Vec::new())
            }
        }
    };
}

undecided! { Update<W, V, R> }
undecided! { Delete<W, R> }

/// What an update or a delete is made of.
pub struct Parts<T: QuerySource, W, V, R> {
    pub(crate) table: T,
    pub(crate) from: T::FromClause,
    pub(crate) condition: W,
    pub(crate) changes: V,
    pub(crate) returning: R,
}

impl<T: QuerySource, W, V, R> Update<T, W, V, R> {
    /// Only rows of which this is true, too: as in `update(users::table).set(…).filter(…)`.
    pub fn filter<P: AppearsOnTable<T, SqlType: BoolOrNullableBool>>(
        self,
        predicate: P,
    ) -> Update<T, AndAlso<W, P>, V, R> {
        let Parts { table, from, condition, changes, returning } = *self.parts;
        let condition = AndAlso { first: condition, then: predicate };
        Update { parts: Box::new(Parts { table, from, condition, changes, returning }) }
    }

    /// What the rows are loaded from, before and after, instead of all columns of the table:
    /// `.returning(User::as_select())`.
    pub fn returning<E: Expression + SelectableExpression<T>>(self, returning: E) -> Update<T, W, V, E> {
        let Parts { table, from, condition, changes, .. } = *self.parts;
        Update { parts: Box::new(Parts { table, from, condition, changes, returning }) }
    }
}

impl<T: QuerySource, W, V, R> fmt::Debug for Parts<T, W, V, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

impl<T: QuerySource, W, V, R> fmt::Debug for Update<T, W, V, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Update").finish_non_exhaustive()
    }
}
