//! The SQL of an [`Update`](crate::Update) and of a [`Delete`](crate::Delete), in the forms that the
//! back ends need.

use std::sync::Arc;

use diesel::backend::Backend;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::{Error, QueryResult};
use diesel::{Expression, QuerySource, RunQueryDsl};

use crate::update::Parts;
use crate::written::Layout;

#[cfg(feature = "_mysql")]
mod keys;
#[cfg(feature = "_mysql")]
pub(crate) use keys::Bytes;
#[cfg(feature = "_mysql")]
pub use keys::{DeleteKeys, ForUpdate, GivenColumn, InsertedKey, OfKeys, WithKeys};
#[cfg(feature = "_postgres")]
mod both;
#[cfg(feature = "_postgres")]
pub use both::Both;
#[cfg(feature = "_postgres")]
mod marked;
#[cfg(feature = "_postgres")]
pub use marked::Marked;
#[cfg(feature = "postgres")]
pub(crate) use marked::comment;
#[cfg(feature = "_postgres")]
mod upsert;
#[cfg(feature = "_postgres")]
pub use upsert::AndWhetherInserted;

/// A statement of the parts of an update or a delete, in one of its forms.
///
/// `P` is what holds the parts: shared by several statements, or owned by the only one.
///
/// Unlike Diesel's own updates it may be kept prepared: its text says all there is to it.
#[derive(Debug)]
pub struct Query<F, P> {
    parts: P,
    form: F,
}

/// Writes nothing, but takes SQLite's lock for writing.
#[derive(Debug)]
pub struct Lock(pub(crate) Arc<Layout>);

impl<F, P> Query<F, P> {
    /// The statement in this form.
    #[cfg(any(feature = "_mysql", feature = "sqlite"))]
    pub(crate) fn with(parts: P, form: F) -> Self {
        Self { parts, form }
    }
}

impl<F: Default, P> Query<F, P> {
    /// The statement in this form.
    pub(crate) fn of(parts: P) -> Self {
        Self { parts, form: F::default() }
    }
}

macro_rules! forms {
    ($($(#[$doc:meta])* $form:ident)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $form;
    )* };
}

forms! {
    /// `UPDATE … SET … WHERE …`
    Plain
    /// `UPDATE … SET … WHERE … RETURNING …`
    Returning
    /// `SELECT … FROM … WHERE …`: the rows before.
    Select
    /// `DELETE FROM … WHERE …`
    PlainDelete
    /// `DELETE FROM … WHERE … RETURNING …`
    DeleteReturning
}

impl<F, P> QueryId for Query<F, P> {
    type QueryId = ();

    // A changeset of one type may set other columns each time.
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<F, P, C> RunQueryDsl<C> for Query<F, P> {}

impl<T, W, V, R> diesel::query_builder::Query for Query<Select, Arc<Parts<T, W, V, R>>>
where
    T: QuerySource,
    R: Expression,
{
    type SqlType = R::SqlType;
}

impl<T: QuerySource, W, V, R> Parts<T, W, V, R> {
    /// `UPDATE … SET …`
    fn update<'b, DB: Backend>(&'b self, out: &mut AstPass<'_, 'b, DB>) -> QueryResult<()>
    where
        T::FromClause: QueryFragment<DB>,
        V: QueryFragment<DB>,
    {
        if self.changes.is_noop(out.backend())? {
            return Err(Error::QueryBuilderError(NOTHING_SET.into()));
        }
        out.push_sql("UPDATE ");
        self.from.walk_ast(out.reborrow())?;
        out.push_sql(" SET ");
        self.changes.walk_ast(out.reborrow())
    }
}

const NOTHING_SET: &str =
    "the update sets no column: every field of its changeset is `None`. Look before, or set one";

impl<T, W, V, R, DB> QueryFragment<DB> for Query<Plain, Box<Parts<T, W, V, R>>>
where
    DB: Backend,
    T: QuerySource<FromClause: QueryFragment<DB>>,
    W: QueryFragment<DB>,
    V: QueryFragment<DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        self.parts.update(&mut out)?;
        self.parts.condition.walk_ast(out)
    }
}

macro_rules! returning {
    ($($holder:ident)*) => { $(
        impl<T, W, V, R> diesel::query_builder::Query for Query<Returning, $holder<Parts<T, W, V, R>>>
        where
            T: QuerySource,
            R: Expression,
        {
            type SqlType = R::SqlType;
        }

        impl<T, W, V, R, DB> QueryFragment<DB> for Query<Returning, $holder<Parts<T, W, V, R>>>
        where
            DB: Backend,
            T: QuerySource<FromClause: QueryFragment<DB>>,
            W: QueryFragment<DB>,
            V: QueryFragment<DB>,
            R: QueryFragment<DB>,
        {
            fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
                self.parts.update(&mut out)?;
                self.parts.condition.walk_ast(out.reborrow())?;
                out.push_sql(" RETURNING ");
                self.parts.returning.walk_ast(out)
            }
        }
    )* };
}

returning! { Arc Box }

impl<T, W, V, R, DB> QueryFragment<DB> for Query<Select, Arc<Parts<T, W, V, R>>>
where
    DB: Backend,
    T: QuerySource<FromClause: QueryFragment<DB>>,
    W: QueryFragment<DB>,
    R: QueryFragment<DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        select(&self.parts.from, &self.parts.returning, &mut out)?;
        self.parts.condition.walk_ast(out)
    }
}

impl<T, W, V, R, DB> QueryFragment<DB> for Query<Lock, Arc<Parts<T, W, V, R>>>
where
    DB: Backend,
    T: QuerySource<FromClause: QueryFragment<DB>>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.push_sql("UPDATE ");
        self.parts.from.walk_ast(out.reborrow())?;
        let name = self.form.0.key.first().and_then(|column| column.name.as_deref()).unwrap_or("rowid");
        out.push_sql(" SET ");
        out.push_identifier(name)?;
        out.push_sql(" = ");
        out.push_identifier(name)?;
        out.push_sql(" WHERE 0");
        Ok(())
    }
}

impl<T, W, V, R, DB> QueryFragment<DB> for Query<PlainDelete, Box<Parts<T, W, V, R>>>
where
    DB: Backend,
    T: QuerySource<FromClause: QueryFragment<DB>>,
    W: QueryFragment<DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        delete_from(&self.parts.from, &mut out)?;
        self.parts.condition.walk_ast(out)
    }
}

impl<T, W, V, R> diesel::query_builder::Query for Query<DeleteReturning, Box<Parts<T, W, V, R>>>
where
    T: QuerySource,
    R: Expression,
{
    type SqlType = R::SqlType;
}

impl<T, W, V, R, DB> QueryFragment<DB> for Query<DeleteReturning, Box<Parts<T, W, V, R>>>
where
    DB: Backend,
    T: QuerySource<FromClause: QueryFragment<DB>>,
    W: QueryFragment<DB>,
    R: QueryFragment<DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        delete_from(&self.parts.from, &mut out)?;
        self.parts.condition.walk_ast(out.reborrow())?;
        out.push_sql(" RETURNING ");
        self.parts.returning.walk_ast(out)
    }
}

/// `DELETE FROM …`
fn delete_from<'b, DB: Backend>(
    from: &'b impl QueryFragment<DB>,
    out: &mut AstPass<'_, 'b, DB>,
) -> QueryResult<()> {
    out.push_sql("DELETE FROM ");
    from.walk_ast(out.reborrow())
}

/// `SELECT … FROM …`
fn select<'b, DB: Backend>(
    from: &'b impl QueryFragment<DB>,
    what: &'b impl QueryFragment<DB>,
    out: &mut AstPass<'_, 'b, DB>,
) -> QueryResult<()> {
    out.push_sql("SELECT ");
    what.walk_ast(out.reborrow())?;
    out.push_sql(" FROM ");
    from.walk_ast(out.reborrow())
}
