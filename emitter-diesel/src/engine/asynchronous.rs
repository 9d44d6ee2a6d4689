//! The same on the connections of diesel-async.

use diesel::QuerySource;
use diesel::query_builder::{DeleteStatement, QueryId, UpdateStatement};
use diesel::result::QueryResult;
use diesel_async::AsyncConnectionCore;
use diesel_async::methods::{ExecuteDsl, LoadQuery};
use emitter_core::model::Model;
use futures_util::TryStreamExt;

use super::{Ask, AsyncCounts, AsyncEngine, Rows};
use crate::queries::{DeleteReturning, Plain, PlainDelete, Query};
use crate::statements::{Deleting, InsertMany, InsertOne, Updating};
use crate::update::{Delete, Parts, Update};

#[cfg(feature = "_postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

/// Inserts, of which Diesel has the rows returned, and deletes.
macro_rules! returns_its_rows {
    ($backend:path: $($kind:ident)*) => { $(
        impl<'query, C, S, M> AsyncEngine<'query, C, S, M, $kind> for $backend
        where
            C: AsyncConnectionCore<Backend = Self>,
            S: LoadQuery<'query, C, M> + Send,
            M: Send,
        {
            async fn load(conn: &mut C, statement: S, _: Ask) -> QueryResult<Rows<M>>
            where
                M: Model,
            {
                all(statement, conn).await.map(|rows: Vec<M>| Rows::of(rows.into_iter()))
            }
        }
    )*

        impl<'query, C, M, T, W, R> AsyncEngine<'query, C, Delete<T, W, R>, M, Deleting> for $backend
        where
            C: AsyncConnectionCore<Backend = Self>,
            T: QuerySource,
            Parts<T, W, (), R>: Send,
            Query<DeleteReturning, Box<Parts<T, W, (), R>>>: LoadQuery<'query, C, M>,
            M: Send,
        {
            async fn load(conn: &mut C, statement: Delete<T, W, R>, _: Ask) -> QueryResult<Rows<M>>
            where
                M: Model,
            {
                let rows: Vec<M> = all(Query::<DeleteReturning, _>::of(statement.parts), conn).await?;
                Ok(Rows::of(rows.into_iter()))
            }
        }

        // Diesel's own deletes and updates are refused before, and that is enough said.
        impl<'query, C, M, T, W, R> AsyncEngine<'query, C, DeleteStatement<T, W, R>, M, Deleting> for $backend
        where
            C: AsyncConnectionCore<Backend = Self>,
            T: QuerySource,
            DeleteStatement<T, W, R>: LoadQuery<'query, C, M> + Send,
            M: Send,
        {
            async fn load(conn: &mut C, statement: DeleteStatement<T, W, R>, _: Ask) -> QueryResult<Rows<M>>
            where
                M: Model,
            {
                all(statement, conn).await.map(|rows: Vec<M>| Rows::of(rows.into_iter()))
            }
        }

        impl<'query, C, M, T, W, V, R> AsyncEngine<'query, C, UpdateStatement<T, W, V, R>, M, Updating> for $backend
        where
            C: AsyncConnectionCore<Backend = Self>,
            T: QuerySource,
            UpdateStatement<T, W, V, R>: LoadQuery<'query, C, M> + Send,
            M: Send,
        {
            async fn load(conn: &mut C, statement: UpdateStatement<T, W, V, R>, _: Ask) -> QueryResult<Rows<M>>
            where
                M: Model,
            {
                all(statement, conn).await.map(|rows: Vec<M>| Rows::of(rows.into_iter()))
            }
        }
    };
}

#[cfg(feature = "_postgres")]
returns_its_rows! { diesel::pg::Pg: InsertOne InsertMany }
#[cfg(feature = "sqlite")]
returns_its_rows! { diesel::sqlite::Sqlite: InsertOne InsertMany OnConflict }
#[cfg(feature = "sqlite")]
use crate::statements::OnConflict;

/// All rows of a query.
pub(crate) async fn all<'query, C: AsyncConnectionCore, U: Send>(
    query: impl LoadQuery<'query, C, U>,
    conn: &mut C,
) -> QueryResult<Vec<U>> {
    query.internal_load(conn).await?.try_collect().await
}

#[diagnostic::do_not_recommend]
impl<C, S> AsyncCounts<C> for S
where
    C: AsyncConnectionCore,
    S: QueryId + ExecuteDsl<C> + Send,
{
    async fn execute(self, conn: &mut C) -> QueryResult<usize> {
        ExecuteDsl::execute(self, conn).await
    }
}

impl<C, T, W, R> AsyncCounts<C> for Delete<T, W, R>
where
    C: AsyncConnectionCore,
    T: QuerySource,
    Self: Send,
    Query<PlainDelete, Box<Parts<T, W, (), R>>>: ExecuteDsl<C>,
{
    async fn execute(self, conn: &mut C) -> QueryResult<usize> {
        ExecuteDsl::execute(Query::<PlainDelete, _>::of(self.parts), conn).await
    }
}

impl<C, T, W, V, R> AsyncCounts<C> for Update<T, W, V, R>
where
    C: AsyncConnectionCore,
    T: QuerySource,
    Self: Send,
    Query<Plain, Box<Parts<T, W, V, R>>>: ExecuteDsl<C>,
{
    async fn execute(self, conn: &mut C) -> QueryResult<usize> {
        ExecuteDsl::execute(Query::<Plain, _>::of(self.parts), conn).await
    }
}
