//! SQLite returns the rows that a statement wrote, and reads them before in a statement of its own.

use std::sync::Arc;

use diesel::QuerySource;
use diesel::connection::Connection;
use diesel::query_dsl::methods::{ExecuteDsl, LoadQuery};
use diesel::result::QueryResult;
use diesel::sqlite::Sqlite;
use emitter_core::model::Model;

use super::{Ask, Engine, Rows, atomically};
use crate::queries::{DeleteReturning, Lock, Query, Returning, Select};
use crate::statements::{Deleting, InsertMany, InsertOne, OnConflict, Updating};
use crate::update::{Delete, Parts, Update};
use crate::written::Describe;

returns_its_rows! { Sqlite: InsertOne InsertMany OnConflict }

impl<'query, C, M, T, W, V, R> Engine<C, Update<T, W, V, R>, M, Updating> for Sqlite
where
    C: Connection<Backend = Self>,
    T: QuerySource,
    Update<T, W, V, R>: Describe<Self>,
    Query<Returning, Arc<Parts<T, W, V, R>>>: LoadQuery<'query, C, M>,
    Query<Select, Arc<Parts<T, W, V, R>>>: LoadQuery<'query, C, M>,
    Query<Lock, Arc<Parts<T, W, V, R>>>: ExecuteDsl<C>,
{
    fn load(conn: &mut C, statement: Update<T, W, V, R>, ask: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        let set = ask.emits.then(|| statement.set::<M>());
        if !ask.before {
            let update = Query::<Returning, _>::of(Arc::new(*statement.parts));
            return Ok(Rows::collect(update.internal_load(conn)?)?.with_set(set));
        }
        let (sets_key, lock) = (set.is_some_and(|set| set.key), Lock(statement.layout()));
        let parts = Arc::new(*statement.parts);
        let rows = atomically(conn, |conn| {
            // One that reads first and writes later could not get the lock for writing any more
            // if somebody else wrote in between, and would not wait for it either.
            ExecuteDsl::execute(Query::with(Arc::clone(&parts), lock), conn)?;
            let before = Query::<Select, _>::of(Arc::clone(&parts));
            let before = before.internal_load(conn)?.collect::<QueryResult<Vec<M>>>()?;
            let after = Rows::collect(Query::<Returning, _>::of(parts).internal_load(conn)?)?;
            Ok(after.with_before(before, sets_key, ask.hash_key.as_ref()))
        })?;
        Ok(rows.with_set(set))
    }
}
