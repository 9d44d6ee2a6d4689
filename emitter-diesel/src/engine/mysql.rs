//! MySQL and MariaDB return no rows through Diesel. Those of an insert are read by their keys
//! afterwards, which are in the statement or were given by the database; those of an update or a
//! delete are read and locked before, and found again by their keys.

use std::sync::Arc;

use diesel::Table;
use diesel::associations::{HasTable, Identifiable};
use diesel::connection::Connection;
use diesel::expression_methods::EqAll;
use diesel::mysql::Mysql;
use diesel::query_builder::bind_collector::RawBytesBindCollector;
use diesel::query_builder::{InsertStatement, QueryFragment};
use diesel::query_dsl::methods::{ExecuteDsl, LoadQuery};
use diesel::result::{Error, QueryResult};
use emitter_core::model::Model;

use super::{Ask, Engine, Rows, atomically};
use crate::queries::{Bytes, DeleteKeys, ForUpdate, GivenColumn, InsertedKey, OfKeys, Query, WithKeys};
use crate::statements::{Deleting, InsertMany, InsertOne, OnConflict, Updating};
use crate::update::{Delete, Parts, Update};
use crate::written::{Describe, Listed, listed, sql};

mod values;

use values::{Value, Values};

/// A model whose rows are found again in the table by their keys.
pub trait Keyed<T> {
    /// The condition that a row has the key of this one.
    type Condition<'m>
    where
        Self: 'm;

    /// That condition.
    fn key_is_own<'m>(&'m self, table: &T) -> Self::Condition<'m>;
}

impl<M: 'static, T> Keyed<T> for M
where
    T: Table,
    for<'m> &'m M: Identifiable<Table = T>,
    for<'m> T::PrimaryKey: EqAll<<&'m M as Identifiable>::Id>,
{
    type Condition<'m> = <T::PrimaryKey as EqAll<<&'m M as Identifiable>::Id>>::Output;

    fn key_is_own<'m>(&'m self, table: &T) -> Self::Condition<'m> {
        table.primary_key().eq_all(Identifiable::id(self))
    }
}

/// How many keys a statement may name; the protocol allows 65,535 parameters.
pub(super) const KEYS: usize = 1_000;

impl<'query, C, M, T, W, V, R> Engine<C, Update<T, W, V, R>, M, Updating> for Mysql
where
    C: Connection<Backend = Self>,
    M: Keyed<T>,
    T: Table,
    Update<T, W, V, R>: Describe<Self>,
    Query<ForUpdate, Arc<Parts<T, W, V, R>>>: LoadQuery<'query, C, M>,
    for<'m> Query<WithKeys<M::Condition<'m>>, Arc<Parts<T, W, V, R>>>: ExecuteDsl<C>,
    for<'m> OfKeys<T, M::Condition<'m>, R>: LoadQuery<'m, C, M>,
    R: Clone,
{
    fn load(conn: &mut C, statement: Update<T, W, V, R>, ask: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        if statement.sets_key() {
            return Err(Error::QueryBuilderError(KEY_IS_SET.into()));
        }
        let set = ask.emits.then(|| statement.set::<M>());
        let parts = Arc::new(*statement.parts);
        let rows = atomically(conn, |conn| {
            let before = Query::<ForUpdate, _>::of(Arc::clone(&parts)).internal_load(conn)?;
            let before = before.collect::<QueryResult<Vec<M>>>()?;
            let mut after = Vec::with_capacity(before.len());
            for before in before.chunks(KEYS) {
                let keys: Arc<Vec<_>> =
                    Arc::new(before.iter().map(|row| row.key_is_own(&parts.table)).collect());
                let update = Query::with(Arc::clone(&parts), WithKeys(Arc::clone(&keys)));
                ExecuteDsl::execute(update, conn)?;
                let (from, returning) = (parts.table.from_clause(), parts.returning.clone());
                for row in (OfKeys { from, keys, returning }).internal_load(conn)? {
                    after.push(row?);
                }
            }
            let rows = Rows::of(after.into_iter());
            // Back ends that need not read it tell of it only where somebody wants it.
            Ok(if ask.before { rows.with_before(before, false, ask.hash_key.as_ref()) } else { rows })
        })?;
        Ok(rows.with_set(set))
    }
}

pub(super) const KEY_IS_SET: &str = "an update that emits cannot set the key on this database, which does not return the rows that it \
                          wrote: delete the row and insert it under its new key";

impl<'query, C, M, T, W, R> Engine<C, Delete<T, W, R>, M, Deleting> for Mysql
where
    C: Connection<Backend = Self>,
    M: Keyed<T>,
    T: Table,
    Query<ForUpdate, Arc<Parts<T, W, (), R>>>: LoadQuery<'query, C, M>,
    for<'m> Query<DeleteKeys<M::Condition<'m>>, Arc<Parts<T, W, (), R>>>: ExecuteDsl<C>,
{
    fn load(conn: &mut C, statement: Delete<T, W, R>, _: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        let parts = Arc::new(*statement.parts);
        atomically(conn, |conn| {
            let rows = Query::<ForUpdate, _>::of(Arc::clone(&parts)).internal_load(conn)?;
            let rows = rows.collect::<QueryResult<Vec<M>>>()?;
            for rows in rows.chunks(KEYS) {
                let keys = Arc::new(rows.iter().map(|row| row.key_is_own(&parts.table)).collect());
                ExecuteDsl::execute(Query::with(Arc::clone(&parts), DeleteKeys(keys)), conn)?;
            }
            Ok(Rows::of(rows.into_iter()))
        })
    }
}

macro_rules! inserts {
    ($($kind:ident)*) => { $(
        impl<'query, C, M, T, V, Op> Engine<C, InsertStatement<T, V, Op>, M, $kind> for Mysql
        where
            C: Connection<Backend = Self>,
            T: Table<PrimaryKey: QueryFragment<Self>> + HasTable<Table = T>,
            InsertStatement<T, V, Op>: ExecuteDsl<C> + QueryFragment<Self>,
            OfKeys<T, InsertedKey, T::AllColumns>: LoadQuery<'query, C, M>,
        {
            fn load(conn: &mut C, statement: InsertStatement<T, V, Op>, _: Ask) -> QueryResult<Rows<M>>
            where
                M: Model,
            {
                let inserted = Inserted::by::<T>(&statement)?;
                let rows = inserted.rows;
                atomically(conn, |conn| {
                    let count = ExecuteDsl::execute(statement, conn)?;
                    let Some(query) = inserted.told::<T>(count)? else {
                        return Ok(Rows::of(std::iter::empty()));
                    };
                    Rows::collect(query.internal_load(conn)?)?.all_found(rows)
                })
            }
        }
    )* };
}

inserts! { InsertOne InsertMany OnConflict }

impl<M: Model> Rows<M> {
    /// These rows, if they are all that were inserted.
    pub(super) fn all_found(self, inserted: usize) -> QueryResult<Self> {
        if self.count() == inserted {
            return Ok(self);
        }
        Err(Error::QueryBuilderError(OTHER_KEY.into()))
    }
}

const OTHER_KEY: &str = "a row is not there under the key with which it was inserted: an upsert has updated one with another \
                         key, or a trigger has changed it. No event could tell of it, so return this error from the transaction";

/// How the rows of an insert are found.
pub(super) struct Inserted {
    keys: Vec<InsertedKey>,
    pub(super) rows: usize,
    /// `INSERT IGNORE`: rows that are there already are left out.
    ignores: bool,
}

impl Inserted {
    pub(super) fn by<T>(statement: &impl QueryFragment<Mysql>) -> QueryResult<Self>
    where
        T: Table<PrimaryKey: QueryFragment<Mysql>> + HasTable<Table = T>,
    {
        let text = sql::<Mysql>(statement).unwrap_or_default();
        let key = listed(&sql::<Mysql>(&T::table().primary_key()).unwrap_or_default());
        let mut binds = RawBytesBindCollector::new();
        statement.collect_binds(&mut binds, &mut (), &Mysql)?;
        let refused = |why: &str| Error::QueryBuilderError(why.into());
        let values = Values::of(&text, &key).ok_or_else(|| refused(NOT_UNDERSTOOD))?;
        let rows = values.rows.len();
        let ignores = values.ignores;
        let upserts = values.upserts;
        if let [Listed { sql: column, .. }] = &key[..]
            && values.rows.iter().all(|row| matches!(row[..], [Value::Default]))
        {
            if upserts {
                return Err(refused(UPSERT_WITHOUT_KEY));
            }
            return Ok(Self {
                keys: vec![InsertedKey::New { column: column.clone(), count: rows }],
                rows,
                ignores,
            });
        }
        let mut given = |column: &Listed, value: &Value| {
            let Value::Bind(place) = *value else { return Err(refused(KEY_NOT_GIVEN)) };
            let value =
                binds.binds.get_mut(place).and_then(Option::take).ok_or_else(|| refused(KEY_NOT_GIVEN))?;
            Ok(GivenColumn { column: column.sql.clone(), kind: binds.metadata[place], value: Bytes(value) })
        };
        let keys = values.rows.iter().map(|row| {
            key.iter()
                .zip(row)
                .map(|(column, value)| given(column, value))
                .collect::<QueryResult<_>>()
                .map(InsertedKey::Given)
        });
        Ok(Self { keys: keys.collect::<QueryResult<_>>()?, rows, ignores })
    }

    /// The query of what was inserted, if anything, from the number of rows that the database says.
    pub(super) fn told<T>(self, count: usize) -> QueryResult<Option<OfKeys<T, InsertedKey, T::AllColumns>>>
    where
        T: Table + HasTable<Table = T>,
    {
        if self.ignores && count == 0 {
            return Ok(None);
        }
        if self.ignores && count < self.rows {
            return Err(Error::QueryBuilderError(SOME_IGNORED.into()));
        }
        let (from, returning) = (T::table().from_clause(), T::all_columns());
        Ok(Some(OfKeys { from, keys: Arc::new(self.keys), returning }))
    }
}

const NOT_UNDERSTOOD: &str = "an insert that emits has to name its columns and values on this database, which does not return \
                              the rows that it wrote";
const KEY_NOT_GIVEN: &str = "the key of an inserted row has to be a value, or be left to the database for all rows of the \
                             statement: this database does not return the rows that it wrote";
const UPSERT_WITHOUT_KEY: &str =
    "an upsert that emits has to say the row's key: this database does not tell which row it was";
const SOME_IGNORED: &str =
    "some rows of the list were there already, and this database does not say which: insert them one by one";
