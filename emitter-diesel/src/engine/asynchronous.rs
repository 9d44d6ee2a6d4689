//! The same on the connections of diesel-async.

use diesel::QuerySource;
use diesel::backend::Backend;
use diesel::query_builder::QueryId;
use diesel::result::{Error, QueryResult};
use diesel_async::AsyncConnectionCore;
use diesel_async::methods::{ExecuteDsl, LoadQuery};
#[cfg(any(feature = "_mysql", feature = "sqlite"))]
use diesel_async::{AsyncConnection, TransactionManager};
use emitter_core::model::Model;
use futures_util::TryStreamExt;

use super::{Ask, AsyncCounts, AsyncEngine, REFUSED, Rows};
use crate::queries::{Plain, PlainDelete, Query};
use crate::statements::Refused;
use crate::update::{Delete, Parts, Update};

/// Inserts, of which Diesel has the rows returned, and deletes.
#[cfg(feature = "sqlite")]
macro_rules! returns_its_rows {
    ($backend:ident: $($kind:ident)*) => { $(
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
    };
}

#[cfg(feature = "_mysql")]
mod mysql;
#[cfg(feature = "_postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

#[diagnostic::do_not_recommend]
impl<DB, C, S, M, K> AsyncEngine<'_, C, S, M, Refused<K>> for DB
where
    DB: Backend,
    C: Send,
    S: Send,
{
    async fn load(_: &mut C, _: S, _: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        Err(Error::QueryBuilderError(REFUSED.into()))
    }
}

/// All rows of a query.
pub(crate) async fn all<'query, C: AsyncConnectionCore, U: Send>(
    query: impl LoadQuery<'query, C, U>,
    conn: &mut C,
) -> QueryResult<Vec<U>> {
    query.internal_load(conn).await?.try_collect().await
}

/// Begins a transaction if none is open; says whether it did, for [`end`].
#[cfg(any(feature = "_mysql", feature = "sqlite"))]
async fn begin<C: AsyncConnection>(conn: &mut C) -> QueryResult<bool> {
    let status = C::TransactionManager::transaction_manager_status_mut(conn);
    let alone = status.transaction_depth()?.is_none();
    if alone {
        C::TransactionManager::begin_transaction(conn).await?;
    }
    Ok(alone)
}

/// Ends what was begun: well or not, as the work in it did.
#[cfg(any(feature = "_mysql", feature = "sqlite"))]
async fn end<C: AsyncConnection, T>(alone: bool, conn: &mut C, worked: QueryResult<T>) -> QueryResult<T> {
    match (alone, &worked) {
        (false, _) => {}
        (true, Ok(_)) => C::TransactionManager::commit_transaction(conn).await?,
        // The first error says more than that of the clean-up after it.
        (true, Err(_)) => drop(C::TransactionManager::rollback_transaction(conn).await),
    }
    worked
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
