//! SQLite returns the rows that a statement wrote, and reads them before in a statement of its own.

use std::sync::Arc;

use diesel::QuerySource;
use diesel::result::QueryResult;
use diesel::sqlite::Sqlite;
use diesel_async::methods::{ExecuteDsl, LoadQuery};
use diesel_async::{AsyncConnection, AsyncConnectionCore};
use emitter_core::model::Model;

use super::{all, begin, end};
use crate::engine::{Ask, AsyncEngine, Rows};
use crate::queries::{DeleteReturning, Lock, Query, Returning, Select};
use crate::statements::{Deleting, InsertMany, InsertOne, OnConflict, Updating};
use crate::update::{Delete, Parts, Update};
use crate::written::Describe;

returns_its_rows! { Sqlite: InsertOne InsertMany OnConflict }

impl<'query, C, M, T, W, V, R> AsyncEngine<'query, C, Update<T, W, V, R>, M, Updating> for Sqlite
where
    C: AsyncConnection<Backend = Self>,
    T: QuerySource,
    Update<T, W, V, R>: Describe<Self>,
    Parts<T, W, V, R>: Send + Sync,
    Query<Returning, Arc<Parts<T, W, V, R>>>: LoadQuery<'query, C, M>,
    Query<Select, Arc<Parts<T, W, V, R>>>: LoadQuery<'query, C, M>,
    Query<Lock, Arc<Parts<T, W, V, R>>>: ExecuteDsl<C>,
    M: Send,
{
    async fn load(conn: &mut C, statement: Update<T, W, V, R>, ask: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        let set = ask.emits.then(|| statement.set::<M>());
        let (sets_key, lock) = (set.is_some_and(|set| set.key), Lock(statement.layout()));
        let parts = Arc::new(*statement.parts);
        if !ask.before {
            let rows = all(Query::<Returning, _>::of(parts), conn).await?;
            return Ok(Rows::of(rows.into_iter()).with_set(set));
        }
        let alone = begin(conn).await?;
        let rows = before_and_after(conn, lock, parts, sets_key, &ask).await;
        let rows = end(alone, conn, rows).await?;
        Ok(rows.with_set(set))
    }
}

async fn before_and_after<'query, C, M, P>(
    conn: &mut C,
    lock: Lock,
    parts: Arc<P>,
    sets_key: bool,
    ask: &Ask,
) -> QueryResult<Rows<M>>
where
    C: AsyncConnection<Backend = Sqlite>,
    M: Model,
    P: Send + Sync,
    Query<Returning, Arc<P>>: LoadQuery<'query, C, M>,
    Query<Select, Arc<P>>: LoadQuery<'query, C, M>,
    Query<Lock, Arc<P>>: ExecuteDsl<C>,
{
    // As on a blocking connection: the lock for writing comes first.
    ExecuteDsl::execute(Query::with(Arc::clone(&parts), lock), conn).await?;
    let before = all(Query::<Select, _>::of(Arc::clone(&parts)), conn).await?;
    let after: Vec<M> = all(Query::<Returning, _>::of(parts), conn).await?;
    Ok(Rows::of(after.into_iter()).with_before(before, sets_key, ask.hash_key.as_ref()))
}
