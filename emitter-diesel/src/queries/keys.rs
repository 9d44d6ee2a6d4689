//! Statements for MySQL and MariaDB, of which Diesel gets no rows that a statement wrote.

use std::io::Write;
use std::sync::Arc;

use diesel::mysql::{Mysql, MysqlType};
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::{Error, QueryResult};
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{
    BigInt, Binary, Date, Datetime, Integer, Numeric, SmallInt, Text, Time, Timestamp, TinyInt, Unsigned,
};
use diesel::{Expression, QuerySource, RunQueryDsl};

use super::{Query, delete_from, select};
use crate::update::Parts;

/// `SELECT … FROM … WHERE … FOR UPDATE`: the rows before.
#[derive(Debug, Default)]
pub struct ForUpdate;

/// `UPDATE … SET … WHERE (key) OR (key) …`
#[derive(Debug)]
pub struct WithKeys<K>(pub(crate) Arc<Vec<K>>);

/// `DELETE FROM … WHERE (key) OR (key) …`
#[derive(Debug)]
pub struct DeleteKeys<K>(pub(crate) Arc<Vec<K>>);

/// `SELECT … FROM … WHERE (key) OR (key) …`: the rows after.
///
/// It knows no condition of the update's, for what that borrows need not live as long as the keys.
pub struct OfKeys<T: QuerySource, K, R> {
    pub(crate) from: T::FromClause,
    pub(crate) keys: Arc<Vec<K>>,
    pub(crate) returning: R,
}

impl<T: QuerySource, K, R> std::fmt::Debug for OfKeys<T, K, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OfKeys").finish_non_exhaustive()
    }
}

impl<T: QuerySource, K, R> QueryId for OfKeys<T, K, R> {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<T: QuerySource, K, R, C> RunQueryDsl<C> for OfKeys<T, K, R> {}

impl<T: QuerySource, K, R: Expression> diesel::query_builder::Query for OfKeys<T, K, R> {
    type SqlType = R::SqlType;
}

impl<T: QuerySource, W, V, R: Expression> diesel::query_builder::Query
    for Query<ForUpdate, Arc<Parts<T, W, V, R>>>
{
    type SqlType = R::SqlType;
}

impl<T, W, V, R> QueryFragment<Mysql> for Query<ForUpdate, Arc<Parts<T, W, V, R>>>
where
    T: QuerySource<FromClause: QueryFragment<Mysql>>,
    W: QueryFragment<Mysql>,
    R: QueryFragment<Mysql>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Mysql>) -> QueryResult<()> {
        select(&self.parts.from, &self.parts.returning, &mut out)?;
        self.parts.condition.walk_ast(out.reborrow())?;
        out.push_sql(" FOR UPDATE");
        // MariaDB's Connector/C 3.3 waits for ever where a deadlock ends such a statement that it has kept prepared.
        out.unsafe_to_cache_prepared();
        Ok(())
    }
}

impl<K, T, W, V, R> QueryFragment<Mysql> for Query<WithKeys<K>, Arc<Parts<T, W, V, R>>>
where
    K: QueryFragment<Mysql>,
    T: QuerySource<FromClause: QueryFragment<Mysql>>,
    V: QueryFragment<Mysql>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Mysql>) -> QueryResult<()> {
        self.parts.update(&mut out)?;
        any_of(&self.form.0, out)
    }
}

impl<K, T, W, V, R> QueryFragment<Mysql> for Query<DeleteKeys<K>, Arc<Parts<T, W, V, R>>>
where
    K: QueryFragment<Mysql>,
    T: QuerySource<FromClause: QueryFragment<Mysql>>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Mysql>) -> QueryResult<()> {
        delete_from(&self.parts.from, &mut out)?;
        any_of(&self.form.0, out)
    }
}

impl<T, K, R> QueryFragment<Mysql> for OfKeys<T, K, R>
where
    T: QuerySource<FromClause: QueryFragment<Mysql>>,
    K: QueryFragment<Mysql>,
    R: QueryFragment<Mysql>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Mysql>) -> QueryResult<()> {
        select(&self.from, &self.returning, &mut out)?;
        any_of(&self.keys, out)
    }
}

fn any_of<'b>(keys: &'b [impl QueryFragment<Mysql>], mut out: AstPass<'_, 'b, Mysql>) -> QueryResult<()> {
    if keys.len() > 1 {
        // There would be a statement for each number of rows.
        out.unsafe_to_cache_prepared();
    }
    for (index, key) in keys.iter().enumerate() {
        out.push_sql(if index == 0 { " WHERE (" } else { ") OR (" });
        key.walk_ast(out.reborrow())?;
    }
    out.push_sql(")");
    Ok(())
}

/// The keys of rows that were just inserted.
#[derive(Debug)]
pub enum InsertedKey {
    /// That of one row, as the statement said it.
    Given(Vec<GivenColumn>),
    /// Those that the database has just given, of a table with one column of the key.
    New {
        /// As SQL.
        column: String,
        /// Of how many rows.
        count: usize,
    },
}

/// A column of a key that is given.
#[derive(Debug)]
pub struct GivenColumn {
    /// As SQL.
    pub(crate) column: String,
    pub(crate) kind: MysqlType,
    pub(crate) value: Bytes,
}

/// A value as it goes over the wire.
#[derive(Debug)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl<ST> ToSql<ST, Mysql> for Bytes {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Mysql>) -> serialize::Result {
        out.write_all(&self.0)?;
        Ok(IsNull::No)
    }
}

impl QueryFragment<Mysql> for InsertedKey {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, Mysql>) -> QueryResult<()> {
        match self {
            Self::Given(columns) => given(columns, out),
            Self::New { column, count } => {
                new(column, *count, out);
                Ok(())
            }
        }
    }
}

fn given<'b>(columns: &'b [GivenColumn], mut out: AstPass<'_, 'b, Mysql>) -> QueryResult<()> {
    for (index, GivenColumn { column, kind, value }) in columns.iter().enumerate() {
        out.push_sql(if index == 0 { "" } else { " AND " });
        out.push_sql(column);
        out.push_sql(" = ");
        match kind {
            MysqlType::Tiny => out.push_bind_param::<TinyInt, _>(value)?,
            MysqlType::UnsignedTiny => out.push_bind_param::<Unsigned<TinyInt>, _>(value)?,
            MysqlType::Short => out.push_bind_param::<SmallInt, _>(value)?,
            MysqlType::UnsignedShort => out.push_bind_param::<Unsigned<SmallInt>, _>(value)?,
            MysqlType::Long => out.push_bind_param::<Integer, _>(value)?,
            MysqlType::UnsignedLong => out.push_bind_param::<Unsigned<Integer>, _>(value)?,
            MysqlType::LongLong => out.push_bind_param::<BigInt, _>(value)?,
            MysqlType::UnsignedLongLong => out.push_bind_param::<Unsigned<BigInt>, _>(value)?,
            MysqlType::Numeric => out.push_bind_param::<Numeric, _>(value)?,
            MysqlType::Time => out.push_bind_param::<Time, _>(value)?,
            MysqlType::Date => out.push_bind_param::<Date, _>(value)?,
            MysqlType::DateTime => out.push_bind_param::<Datetime, _>(value)?,
            MysqlType::Timestamp => out.push_bind_param::<Timestamp, _>(value)?,
            MysqlType::Blob => out.push_bind_param::<Binary, _>(value)?,
            MysqlType::String | MysqlType::Enum | MysqlType::Set => {
                out.push_bind_param::<Text, _>(value)?;
            }
            _ => return Err(Error::QueryBuilderError(format!("{kind:?} cannot be a key here").into())),
        }
    }
    Ok(())
}

fn new(column: &str, count: usize, mut out: AstPass<'_, '_, Mysql>) {
    if count == 1 {
        out.push_sql(&format!("{column} = LAST_INSERT_ID()"));
        return;
    }
    out.unsafe_to_cache_prepared();
    out.push_sql(&format!(
        "{column} >= LAST_INSERT_ID() AND {column} <= LAST_INSERT_ID() + {} * @@auto_increment_increment",
        count - 1
    ));
}
