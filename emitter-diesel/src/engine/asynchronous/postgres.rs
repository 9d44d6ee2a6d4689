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
use crate::queries::{AndWhetherInserted, Both, DeleteReturning, Marked, Query, Returning};
use crate::statements::{Deleting, InsertMany, InsertOne, OnConflict, Updating};
use crate::update::{Delete, Parts, Update};
use crate::written::Describe;

/// Inserts, of which Diesel has the rows returned.
macro_rules! inserts {
    ($($kind:ident)*) => { $(
        impl<'query, C, S, M> AsyncEngine<'query, C, S, M, $kind> for Pg
        where
            C: AsyncConnectionCore<Backend = Self>,
            S: LoadQuery<'query, C, M> + AsQuery<Query: Send> + Send,
            Marked<S::Query, M>: LoadQuery<'query, C, M>,
            M: Send,
        {
            async fn load(conn: &mut C, statement: S, ask: Ask) -> QueryResult<Rows<M>>
            where
                M: Model,
            {
                let rows: Vec<M> = if ask.emits {
                    all(Marked::<_, M>::new(statement.as_query()), conn).await?
                } else {
                    all(statement, conn).await?
                };
                Ok(Rows::of(rows.into_iter()))
            }
        }
    )* };
}

inserts! { InsertOne InsertMany }

impl<'query, C, M, T, W, R> AsyncEngine<'query, C, Delete<T, W, R>, M, Deleting> for Pg
where
    C: AsyncConnectionCore<Backend = Self>,
    T: QuerySource,
    Parts<T, W, (), R>: Send,
    Query<DeleteReturning, Box<Parts<T, W, (), R>>>: LoadQuery<'query, C, M>,
    Marked<Query<DeleteReturning, Box<Parts<T, W, (), R>>>, M>: LoadQuery<'query, C, M>,
    M: Send,
{
    async fn load(conn: &mut C, statement: Delete<T, W, R>, ask: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        let delete = Query::<DeleteReturning, _>::of(statement.parts);
        let rows: Vec<M> =
            if ask.emits { all(Marked::<_, M>::new(delete), conn).await? } else { all(delete, conn).await? };
        Ok(Rows::of(rows.into_iter()))
    }
}

impl<'query, C, S, M> AsyncEngine<'query, C, S, M, OnConflict> for Pg
where
    C: AsyncConnectionCore<Backend = Self>,
    S: LoadQuery<'query, C, M> + AsQuery<Query: QueryFragment<Self> + Send> + Send,
    Marked<AndWhetherInserted<S::Query>, M>: LoadQuery<'query, C, (M, bool)>,
    M: Send,
{
    async fn load(conn: &mut C, statement: S, ask: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        if !ask.emits {
            let rows: Vec<M> = all(statement, conn).await?;
            return Ok(Rows::of(rows.into_iter()));
        }
        let Some(statement) = AndWhetherInserted::of(statement.as_query()) else {
            return Ok(Rows::of(std::iter::empty()));
        };
        all(Marked::<_, M>::new(statement), conn).await.map(Rows::of_upserted)
    }
}

impl<'query, C, M, T, W, V, R> AsyncEngine<'query, C, Update<T, W, V, R>, M, Updating> for Pg
where
    C: AsyncConnectionCore<Backend = Self>,
    T: QuerySource,
    Update<T, W, V, R>: Describe<Self>,
    Parts<T, W, V, R>: Send,
    Query<Returning, Box<Parts<T, W, V, R>>>: LoadQuery<'query, C, M>,
    Marked<Query<Returning, Box<Parts<T, W, V, R>>>, M>: LoadQuery<'query, C, M>,
    Marked<Query<Both, Box<Parts<T, W, V, R>>>, M>: LoadQuery<'query, C, (M, M)>,
    M: Send,
{
    async fn load(conn: &mut C, statement: Update<T, W, V, R>, ask: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        if !ask.emits {
            let update = Query::<Returning, _>::of(statement.parts);
            return Ok(Rows::of(all(update, conn).await?.into_iter()));
        }
        let set = statement.set::<M>();
        let rows = if ask.before {
            let layout = statement.layout();
            let both = Marked::<_, M>::new(Query::with_rows_before(statement.parts, layout));
            Rows::of_pairs(all(both, conn).await?, ask.hash_key.as_ref())
        } else {
            let update = Query::<Returning, _>::of(statement.parts);
            Rows::of(all(Marked::<_, M>::new(update), conn).await?.into_iter())
        };
        Ok(rows.with_set(Some(set)))
    }
}
