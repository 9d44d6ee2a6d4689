//! PostgreSQL returns the rows that a statement wrote, before and after, in that statement.

use diesel::QuerySource;
use diesel::connection::Connection;
use diesel::pg::Pg;
use diesel::query_builder::{AsQuery, QueryFragment};
use diesel::query_dsl::methods::LoadQuery;
use diesel::result::QueryResult;
use emitter_core::model::Model;

use super::{Ask, Engine, Rows};
use crate::queries::{AndWhetherInserted, Both, DeleteReturning, Marked, Query, Returning};
use crate::statements::{Deleting, InsertMany, InsertOne, OnConflict, Updating};
use crate::update::{Delete, Parts, Update};
use crate::written::Describe;

/// Inserts, of which Diesel has the rows returned.
macro_rules! inserts {
    ($($kind:ident)*) => { $(
        impl<'query, C, S, M> Engine<C, S, M, $kind> for Pg
        where
            C: Connection<Backend = Self>,
            S: LoadQuery<'query, C, M> + AsQuery,
            Marked<S::Query, M>: LoadQuery<'query, C, M>,
        {
            fn load(conn: &mut C, statement: S, ask: Ask) -> QueryResult<Rows<M>>
            where
                M: Model,
            {
                if ask.emits {
                    Rows::collect(Marked::new(statement.as_query()).internal_load(conn)?)
                } else {
                    Rows::collect(statement.internal_load(conn)?)
                }
            }
        }
    )* };
}

inserts! { InsertOne InsertMany }

impl<'query, C, M, T, W, R> Engine<C, Delete<T, W, R>, M, Deleting> for Pg
where
    C: Connection<Backend = Self>,
    T: QuerySource,
    Query<DeleteReturning, Box<Parts<T, W, (), R>>>: LoadQuery<'query, C, M>,
    Marked<Query<DeleteReturning, Box<Parts<T, W, (), R>>>, M>: LoadQuery<'query, C, M>,
{
    fn load(conn: &mut C, statement: Delete<T, W, R>, ask: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        let delete = Query::<DeleteReturning, _>::of(statement.parts);
        if ask.emits {
            Rows::collect(Marked::new(delete).internal_load(conn)?)
        } else {
            Rows::collect(delete.internal_load(conn)?)
        }
    }
}

impl<'query, C, S, M> Engine<C, S, M, OnConflict> for Pg
where
    C: Connection<Backend = Self>,
    S: LoadQuery<'query, C, M> + AsQuery<Query: QueryFragment<Self>>,
    Marked<AndWhetherInserted<S::Query>, M>: LoadQuery<'query, C, (M, bool)>,
{
    fn load(conn: &mut C, statement: S, ask: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        if !ask.emits {
            return Rows::collect(statement.internal_load(conn)?);
        }
        let Some(statement) = AndWhetherInserted::of(statement.as_query()) else {
            return Ok(Rows::of(std::iter::empty()));
        };
        let rows = Marked::<_, M>::new(statement).internal_load(conn)?;
        Ok(Rows::of_upserted(rows.collect::<QueryResult<_>>()?))
    }
}

impl<'query, C, M, T, W, V, R> Engine<C, Update<T, W, V, R>, M, Updating> for Pg
where
    C: Connection<Backend = Self>,
    T: QuerySource,
    Update<T, W, V, R>: Describe<Self>,
    Query<Returning, Box<Parts<T, W, V, R>>>: LoadQuery<'query, C, M>,
    Marked<Query<Returning, Box<Parts<T, W, V, R>>>, M>: LoadQuery<'query, C, M>,
    Marked<Query<Both, Box<Parts<T, W, V, R>>>, M>: LoadQuery<'query, C, (M, M)>,
{
    fn load(conn: &mut C, statement: Update<T, W, V, R>, ask: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        if !ask.emits {
            return Rows::collect(Query::<Returning, _>::of(statement.parts).internal_load(conn)?);
        }
        let set = statement.set::<M>();
        let rows = if ask.before {
            let layout = statement.layout();
            let both = Marked::<_, M>::new(Query::with_rows_before(statement.parts, layout));
            Rows::of_pairs(both.internal_load(conn)?.collect::<QueryResult<_>>()?, ask.hash_key.as_ref())
        } else {
            let update = Query::<Returning, _>::of(statement.parts);
            Rows::collect(Marked::<_, M>::new(update).internal_load(conn)?)?
        };
        Ok(rows.with_set(Some(set)))
    }
}
