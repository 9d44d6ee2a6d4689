//! PostgreSQL returns the rows that a statement wrote, before and after, in that statement.

use diesel::QuerySource;
use diesel::pg::Pg;
use diesel::query_builder::{AsQuery, QueryFragment};
use diesel::result::QueryResult;
use diesel_async::AsyncConnectionCore;
use diesel_async::methods::LoadQuery;
use emitter_core::model::Model;

use super::all;
use crate::engine::{Ask, AsyncEngine, Rows};
use crate::queries::{AndWhetherInserted, Both, DeleteReturning, Query, Returning};
use crate::statements::{Deleting, InsertMany, InsertOne, OnConflict, Updating};
use crate::update::{Delete, Parts, Update};
use crate::written::Describe;

returns_its_rows! { Pg: InsertOne InsertMany }

impl<'query, C, S, M> AsyncEngine<'query, C, S, M, OnConflict> for Pg
where
    C: AsyncConnectionCore<Backend = Self>,
    S: LoadQuery<'query, C, M> + AsQuery<Query: QueryFragment<Self> + Send> + Send,
    AndWhetherInserted<S::Query>: LoadQuery<'query, C, (M, bool)>,
    M: Send,
{
    async fn load(conn: &mut C, statement: S, ask: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        if !ask.set {
            let rows: Vec<M> = all(statement, conn).await?;
            return Ok(Rows::of(rows.into_iter()));
        }
        let Some(statement) = AndWhetherInserted::of(statement.as_query()) else {
            return Ok(Rows::of(std::iter::empty()));
        };
        all(statement, conn).await.map(Rows::of_upserted)
    }
}

impl<'query, C, M, T, W, V, R> AsyncEngine<'query, C, Update<T, W, V, R>, M, Updating> for Pg
where
    C: AsyncConnectionCore<Backend = Self>,
    T: QuerySource,
    Update<T, W, V, R>: Describe<Self>,
    Parts<T, W, V, R>: Send,
    Query<Returning, Box<Parts<T, W, V, R>>>: LoadQuery<'query, C, M>,
    Query<Both, Box<Parts<T, W, V, R>>>: LoadQuery<'query, C, (M, M)>,
    M: Send,
{
    async fn load(conn: &mut C, statement: Update<T, W, V, R>, ask: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        let set = ask.set.then(|| statement.set::<M>());
        let rows = if ask.before {
            let layout = statement.layout();
            let both = Query::with_rows_before(statement.parts, layout);
            Rows::of_pairs(all(both, conn).await?, ask.hash_key.as_ref())
        } else {
            Rows::of(all(Query::<Returning, _>::of(statement.parts), conn).await?.into_iter())
        };
        Ok(rows.with_set(set))
    }
}
