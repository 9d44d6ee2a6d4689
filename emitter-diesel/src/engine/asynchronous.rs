//! The same on the connections of diesel-async.

use diesel::QuerySource;
use diesel::query_builder::{DeleteStatement, InsertStatement, UpdateStatement};
use diesel::result::QueryResult;
use diesel_async::AsyncConnectionCore;
use diesel_async::methods::{ExecuteDsl, LoadQuery};
use emitter_core::model::Model;
use futures_util::TryStreamExt;

use super::{Ask, AsyncCounts, AsyncEngine, Rows};
use crate::queries::{Plain, Query};
use crate::statements::{Deleting, InsertMany, InsertOne, Updating};
use crate::update::{Parts, Update};

#[cfg(feature = "_postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

/// Inserts and deletes, of which Diesel has the rows returned.
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

        // Diesel's own updates are refused before, and that is enough said.
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
returns_its_rows! { diesel::pg::Pg: InsertOne InsertMany Deleting }
#[cfg(feature = "sqlite")]
returns_its_rows! { diesel::sqlite::Sqlite: InsertOne InsertMany OnConflict Deleting }
#[cfg(feature = "sqlite")]
use crate::statements::OnConflict;

/// All rows of a query.
async fn all<'query, C: AsyncConnectionCore, U: Send>(
    query: impl LoadQuery<'query, C, U>,
    conn: &mut C,
) -> QueryResult<Vec<U>> {
    query.internal_load(conn).await?.try_collect().await
}

impl<C, T, V, Op, Ret> AsyncCounts<C> for InsertStatement<T, V, Op, Ret>
where
    C: AsyncConnectionCore,
    T: QuerySource,
    Self: ExecuteDsl<C> + Send,
{
    async fn execute(self, conn: &mut C) -> QueryResult<usize> {
        ExecuteDsl::execute(self, conn).await
    }
}

impl<C, T, W, Ret> AsyncCounts<C> for DeleteStatement<T, W, Ret>
where
    C: AsyncConnectionCore,
    T: QuerySource,
    Self: ExecuteDsl<C> + Send,
{
    async fn execute(self, conn: &mut C) -> QueryResult<usize> {
        ExecuteDsl::execute(self, conn).await
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
