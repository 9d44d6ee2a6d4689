//! PostgreSQL returns the rows that a statement wrote, before and after, in that statement.

use diesel::QuerySource;
use diesel::connection::Connection;
use diesel::pg::Pg;
use diesel::query_builder::{AsQuery, QueryFragment};
use diesel::query_dsl::methods::LoadQuery;
use diesel::result::QueryResult;
use emitter_core::model::Model;

use super::{Ask, Engine, Rows};
use crate::queries::{AndWhetherInserted, Both, DeleteReturning, Query, Returning};
use crate::statements::{Deleting, InsertMany, InsertOne, OnConflict, Updating};
use crate::update::{Delete, Parts, Update};
use crate::written::Describe;

returns_its_rows! { Pg: InsertOne InsertMany }

impl<'query, C, S, M> Engine<C, S, M, OnConflict> for Pg
where
    C: Connection<Backend = Self>,
    S: LoadQuery<'query, C, M> + AsQuery<Query: QueryFragment<Self>>,
    AndWhetherInserted<S::Query>: LoadQuery<'query, C, (M, bool)>,
{
    fn load(conn: &mut C, statement: S, ask: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        if !ask.set {
            return Rows::collect(statement.internal_load(conn)?);
        }
        let Some(statement) = AndWhetherInserted::of(statement.as_query()) else {
            return Ok(Rows::of(std::iter::empty()));
        };
        Ok(Rows::of_upserted(statement.internal_load(conn)?.collect::<QueryResult<_>>()?))
    }
}

impl<'query, C, M, T, W, V, R> Engine<C, Update<T, W, V, R>, M, Updating> for Pg
where
    C: Connection<Backend = Self>,
    T: QuerySource,
    Update<T, W, V, R>: Describe<Self>,
    Query<Returning, Box<Parts<T, W, V, R>>>: LoadQuery<'query, C, M>,
    Query<Both, Box<Parts<T, W, V, R>>>: LoadQuery<'query, C, (M, M)>,
{
    fn load(conn: &mut C, statement: Update<T, W, V, R>, ask: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        let set = ask.set.then(|| statement.set::<M>());
        let rows = if ask.before {
            let layout = statement.layout();
            let both = Query::with_rows_before(statement.parts, layout);
            Rows::of_pairs(both.internal_load(conn)?.collect::<QueryResult<_>>()?, ask.hash_key.as_ref())
        } else {
            Rows::collect(Query::<Returning, _>::of(statement.parts).internal_load(conn)?)?
        };
        Ok(rows.with_set(set))
    }
}
