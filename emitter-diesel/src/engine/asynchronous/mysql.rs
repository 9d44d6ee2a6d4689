//! MySQL and MariaDB return no rows through Diesel: they are read by their keys, as on a blocking
//! connection.

use std::sync::Arc;

use diesel::Table;
use diesel::associations::HasTable;
use diesel::mysql::Mysql;
use diesel::query_builder::{InsertStatement, QueryFragment};
use diesel::result::{Error, QueryResult};
use diesel_async::AsyncConnection;
use diesel_async::methods::{ExecuteDsl, LoadQuery};
use emitter_core::model::Model;

use super::{all, begin, end};
use crate::engine::mysql::{Inserted, KEY_IS_SET, KEYS, Keyed};
use crate::engine::{Ask, AsyncEngine, Rows};
use crate::queries::{DeleteKeys, ForUpdate, InsertedKey, OfKeys, Query, WithKeys};
use crate::statements::{Deleting, InsertMany, InsertOne, OnConflict, Updating};
use crate::update::{Delete, Parts, Update};
use crate::written::Describe;

impl<'query, C, M, T, W, V, R> AsyncEngine<'query, C, Update<T, W, V, R>, M, Updating> for Mysql
where
    C: AsyncConnection<Backend = Self>,
    M: Keyed<T> + Send + Sync,
    T: Table<FromClause: Send>,
    Update<T, W, V, R>: Describe<Self>,
    Parts<T, W, V, R>: Send + Sync,
    Query<ForUpdate, Arc<Parts<T, W, V, R>>>: LoadQuery<'query, C, M>,
    for<'m> M::Condition<'m>: Send + Sync,
    for<'m> Query<WithKeys<M::Condition<'m>>, Arc<Parts<T, W, V, R>>>: ExecuteDsl<C>,
    for<'m> OfKeys<T, M::Condition<'m>, R>: LoadQuery<'m, C, M>,
    R: Clone + Send,
{
    async fn load(conn: &mut C, statement: Update<T, W, V, R>, ask: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        if statement.sets_key() {
            return Err(Error::QueryBuilderError(KEY_IS_SET.into()));
        }
        let set = ask.emits.then(|| statement.set::<M>());
        let parts = Arc::new(*statement.parts);
        let alone = begin(conn).await?;
        let rows = update(conn, parts, &ask).await;
        let rows = end(alone, conn, rows).await?;
        Ok(rows.with_set(set))
    }
}

async fn update<'query, C, M, T, W, V, R>(
    conn: &mut C,
    parts: Arc<Parts<T, W, V, R>>,
    ask: &Ask,
) -> QueryResult<Rows<M>>
where
    C: AsyncConnection<Backend = Mysql>,
    M: Keyed<T> + Model + Send + Sync,
    T: Table<FromClause: Send>,
    Parts<T, W, V, R>: Send + Sync,
    Query<ForUpdate, Arc<Parts<T, W, V, R>>>: LoadQuery<'query, C, M>,
    for<'m> M::Condition<'m>: Send + Sync,
    for<'m> Query<WithKeys<M::Condition<'m>>, Arc<Parts<T, W, V, R>>>: ExecuteDsl<C>,
    for<'m> OfKeys<T, M::Condition<'m>, R>: LoadQuery<'m, C, M>,
    R: Clone + Send,
{
    let before: Vec<M> = all(Query::<ForUpdate, _>::of(Arc::clone(&parts)), conn).await?;
    let mut after = Vec::with_capacity(before.len());
    for before in before.chunks(KEYS) {
        let keys: Arc<Vec<_>> = Arc::new(before.iter().map(|row| row.key_is_own(&parts.table)).collect());
        ExecuteDsl::execute(Query::with(Arc::clone(&parts), WithKeys(Arc::clone(&keys))), conn).await?;
        let (from, returning) = (parts.table.from_clause(), parts.returning.clone());
        let rows: Vec<M> = all(OfKeys::<T, _, R> { from, keys, returning }, conn).await?;
        after.extend(rows);
    }
    let rows = Rows::of(after.into_iter());
    // As on a blocking connection: told of only where somebody wants it.
    Ok(if ask.before { rows.with_before(before, false, ask.hash_key.as_ref()) } else { rows })
}

impl<'query, C, M, T, W, R> AsyncEngine<'query, C, Delete<T, W, R>, M, Deleting> for Mysql
where
    C: AsyncConnection<Backend = Self>,
    M: Keyed<T> + Send + Sync,
    T: Table,
    Parts<T, W, (), R>: Send + Sync,
    Query<ForUpdate, Arc<Parts<T, W, (), R>>>: LoadQuery<'query, C, M>,
    for<'m> M::Condition<'m>: Send + Sync,
    for<'m> Query<DeleteKeys<M::Condition<'m>>, Arc<Parts<T, W, (), R>>>: ExecuteDsl<C>,
{
    async fn load(conn: &mut C, statement: Delete<T, W, R>, _: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        let parts = Arc::new(*statement.parts);
        let alone = begin(conn).await?;
        let rows = delete(conn, parts).await;
        end(alone, conn, rows).await
    }
}

async fn delete<'query, C, M, T, W, R>(conn: &mut C, parts: Arc<Parts<T, W, (), R>>) -> QueryResult<Rows<M>>
where
    C: AsyncConnection<Backend = Mysql>,
    M: Keyed<T> + Model + Send + Sync,
    T: Table,
    Parts<T, W, (), R>: Send + Sync,
    Query<ForUpdate, Arc<Parts<T, W, (), R>>>: LoadQuery<'query, C, M>,
    for<'m> M::Condition<'m>: Send + Sync,
    for<'m> Query<DeleteKeys<M::Condition<'m>>, Arc<Parts<T, W, (), R>>>: ExecuteDsl<C>,
{
    let rows: Vec<M> = all(Query::<ForUpdate, _>::of(Arc::clone(&parts)), conn).await?;
    for rows in rows.chunks(KEYS) {
        let keys = Arc::new(rows.iter().map(|row| row.key_is_own(&parts.table)).collect());
        ExecuteDsl::execute(Query::with(Arc::clone(&parts), DeleteKeys(keys)), conn).await?;
    }
    Ok(Rows::of(rows.into_iter()))
}

macro_rules! inserts {
    ($($kind:ident)*) => { $(
        impl<'query, C, M, T, V, Op> AsyncEngine<'query, C, InsertStatement<T, V, Op>, M, $kind> for Mysql
        where
            C: AsyncConnection<Backend = Self>,
            M: Send,
            T: Table<PrimaryKey: QueryFragment<Self>> + HasTable<Table = T>,
            InsertStatement<T, V, Op>: ExecuteDsl<C> + QueryFragment<Self> + Send,
            OfKeys<T, InsertedKey, T::AllColumns>: LoadQuery<'query, C, M> + Send,
        {
            async fn load(conn: &mut C, statement: InsertStatement<T, V, Op>, _: Ask) -> QueryResult<Rows<M>>
            where
                M: Model,
            {
                let inserted = Inserted::by::<T>(&statement)?;
                let alone = begin(conn).await?;
                let rows = insert(conn, statement, inserted).await;
                end(alone, conn, rows).await
            }
        }
    )* };
}

inserts! { InsertOne InsertMany OnConflict }

async fn insert<'query, C, M, T, S>(conn: &mut C, statement: S, inserted: Inserted) -> QueryResult<Rows<M>>
where
    C: AsyncConnection<Backend = Mysql>,
    M: Model + Send,
    T: Table + HasTable<Table = T>,
    S: ExecuteDsl<C>,
    OfKeys<T, InsertedKey, T::AllColumns>: LoadQuery<'query, C, M> + Send,
{
    let count = ExecuteDsl::execute(statement, conn).await?;
    let rows = inserted.rows;
    let Some(query) = inserted.told::<T>(count)? else { return Ok(Rows::of(std::iter::empty())) };
    let found: Vec<M> = all(query, conn).await?;
    Rows::of(found.into_iter()).all_found(rows)
}
