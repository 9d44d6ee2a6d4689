//! How each back end runs a statement so that its rows are known.

#[cfg(any(feature = "_mysql", feature = "sqlite"))]
use std::collections::HashMap;
use std::fmt;

use diesel::QuerySource;
use diesel::backend::Backend;
use diesel::connection::Connection;
#[cfg(any(feature = "_mysql", feature = "sqlite"))]
use diesel::connection::TransactionManager;
use diesel::query_builder::QueryId;
use diesel::query_dsl::methods::ExecuteDsl;
use diesel::result::{Error, QueryResult};
use emitter_core::HashKey;
#[cfg(any(feature = "_mysql", feature = "sqlite"))]
use emitter_core::Key;
use emitter_core::columns::Columns;
use emitter_core::model::Model;

use crate::queries::{Plain, PlainDelete, Query};
use crate::statements::Refused;
use crate::update::{Delete, Parts, Update};

/// Inserts, of which Diesel has the rows returned, and deletes.
#[cfg(feature = "sqlite")]
macro_rules! returns_its_rows {
    ($backend:ident: $($kind:ident)*) => { $(
        impl<'query, C, S, M> Engine<C, S, M, $kind> for $backend
        where
            C: Connection<Backend = Self>,
            S: LoadQuery<'query, C, M>,
        {
            fn load(conn: &mut C, statement: S, _: Ask) -> QueryResult<Rows<M>>
            where
                M: Model,
            {
                Rows::collect(statement.internal_load(conn)?)
            }
        }
    )*

        impl<'query, C, M, T, W, R> Engine<C, Delete<T, W, R>, M, Deleting> for $backend
        where
            C: Connection<Backend = Self>,
            T: QuerySource,
            Query<DeleteReturning, Box<Parts<T, W, (), R>>>: LoadQuery<'query, C, M>,
        {
            fn load(conn: &mut C, statement: Delete<T, W, R>, _: Ask) -> QueryResult<Rows<M>>
            where
                M: Model,
            {
                Rows::collect(Query::<DeleteReturning, _>::of(statement.parts).internal_load(conn)?)
            }
        }
    };
}

#[cfg(feature = "_async")]
mod asynchronous;
#[cfg(feature = "_async")]
pub(crate) use asynchronous::all;
#[cfg(feature = "_mysql")]
mod mysql;
#[cfg(feature = "_postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

/// A back end that runs a statement `S` on a connection `C` and returns rows of a model `M`.
pub trait Engine<C, S, M, K> {
    /// Runs it.
    ///
    /// # Errors
    /// Diesel's.
    fn load(conn: &mut C, statement: S, ask: Ask) -> QueryResult<Rows<M>>
    where
        M: Model;
}

// What does not compile is never run: one impl for all, so that it is refused in one error.
#[diagnostic::do_not_recommend]
impl<DB: Backend, C, S, M, K> Engine<C, S, M, Refused<K>> for DB {
    fn load(_: &mut C, _: S, _: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        Err(Error::QueryBuilderError(REFUSED.into()))
    }
}

const REFUSED: &str = "this statement cannot emit";

/// A statement that can be run for the number of its rows alone.
pub trait Counts<C>: Sized {
    /// Runs it.
    ///
    /// # Errors
    /// Diesel's.
    fn execute(self, conn: &mut C) -> QueryResult<usize>;
}

#[diagnostic::do_not_recommend]
impl<C: Connection, S: QueryId + ExecuteDsl<C>> Counts<C> for S {
    fn execute(self, conn: &mut C) -> QueryResult<usize> {
        ExecuteDsl::execute(self, conn)
    }
}

impl<C: Connection, T: QuerySource, W, R> Counts<C> for Delete<T, W, R>
where
    Query<PlainDelete, Box<Parts<T, W, (), R>>>: ExecuteDsl<C>,
{
    fn execute(self, conn: &mut C) -> QueryResult<usize> {
        ExecuteDsl::execute(Query::<PlainDelete, _>::of(self.parts), conn)
    }
}

impl<C: Connection, T: QuerySource, W, V, R> Counts<C> for Update<T, W, V, R>
where
    Query<Plain, Box<Parts<T, W, V, R>>>: ExecuteDsl<C>,
{
    fn execute(self, conn: &mut C) -> QueryResult<usize> {
        ExecuteDsl::execute(Query::<Plain, _>::of(self.parts), conn)
    }
}

/// A back end that runs a statement `S` on an asynchronous connection `C` and returns rows of a
/// model `M`.
#[cfg(feature = "_async")]
pub trait AsyncEngine<'query, C, S, M, K> {
    /// Runs it.
    ///
    /// # Errors
    /// Diesel's.
    fn load(conn: &mut C, statement: S, ask: Ask) -> impl Future<Output = QueryResult<Rows<M>>> + Send
    where
        M: Model;
}

/// A statement that can be run for the number of its rows alone, on an asynchronous connection.
#[cfg(feature = "_async")]
pub trait AsyncCounts<C>: Sized {
    /// Runs it.
    ///
    /// # Errors
    /// Diesel's.
    fn execute(self, conn: &mut C) -> impl Future<Output = QueryResult<usize>> + Send;
}

/// What is to be known of a statement besides its rows.
#[derive(Debug, Default)]
pub struct Ask {
    /// Events tell of it: which columns it sets is to be known, and triggers are to know that it is told of.
    pub(crate) emits: bool,
    /// The rows as they were before an update.
    pub(crate) before: bool,
    /// Of the model's hashed columns.
    pub(crate) hash_key: Option<HashKey>,
}

/// What a statement did. One row, the common case, takes no allocation.
pub struct Rows<M: Model> {
    first: Option<M>,
    rest: Vec<M>,
    /// What listeners see of them, where the rows before were asked for too.
    images: Vec<Image<M>>,
    /// Which of an upsert's rows were inserted, where the database tells.
    inserted: Vec<bool>,
    set: Set,
}

/// What listeners see of a row before, if that is known, and after.
pub(crate) type Image<M> = (Option<<M as Model>::Row>, <M as Model>::Row);

/// The columns that an update set.
#[derive(Debug, Clone, Copy, Default)]
pub struct Set {
    /// `None` where that goes without saying, or is not known.
    pub(crate) columns: Option<Columns>,
    /// Whether listeners see every one of them.
    pub(crate) seen: bool,
    /// Whether one of them is of the table's key.
    #[cfg_attr(not(feature = "sqlite"), expect(dead_code, reason = "others know which row is which"))]
    pub(crate) key: bool,
}

impl<M: Model> Rows<M> {
    fn of(mut rows: impl Iterator<Item = M>) -> Self {
        Self {
            first: rows.next(),
            rest: rows.collect(),
            images: Vec::new(),
            inserted: Vec::new(),
            set: Set::default(),
        }
    }

    fn collect(mut rows: impl Iterator<Item = QueryResult<M>>) -> QueryResult<Self> {
        let first = rows.next().transpose()?;
        let rest = rows.collect::<QueryResult<Vec<M>>>()?;
        Ok(Self { first, rest, ..Self::of(std::iter::empty()) })
    }

    fn with_set(self, set: Option<Set>) -> Self {
        Self { set: set.unwrap_or_default(), ..self }
    }

    /// Adds the rows as they were: each finds its own by the key.
    #[cfg(any(feature = "_mysql", feature = "sqlite"))]
    fn with_before(mut self, before: Vec<M>, sets_key: bool, hash_key: Option<&HashKey>) -> Self {
        let mut before = before.into_iter().map(|row| row.into_row(hash_key));
        let after = self.iter().map(|row| row.to_row(hash_key));
        self.images = if sets_key && before.len() == 1 && self.count() == 1 {
            before.map(Some).zip(after).collect()
        } else if sets_key {
            // A key may be that of another row by now.
            after.map(|row| (None, row)).collect()
        } else {
            let mut passed = HashMap::new();
            after.map(|row| (of_key::<M>(&M::key(&row), &mut before, &mut passed), row)).collect()
        };
        self
    }

    /// From rows after and before.
    #[cfg(feature = "_postgres")]
    fn of_pairs(pairs: Vec<(M, M)>, hash_key: Option<&HashKey>) -> Self {
        let mut images = Vec::with_capacity(pairs.len());
        let rows = Self::of(pairs.into_iter().map(|(after, before)| {
            images.push((Some(before.into_row(hash_key)), after.to_row(hash_key)));
            after
        }));
        Self { images, ..rows }
    }

    /// From the rows of an upsert, with whether each was inserted.
    #[cfg(feature = "_postgres")]
    fn of_upserted(rows: Vec<(M, bool)>) -> Self {
        let inserted = rows.iter().map(|(_, inserted)| *inserted).collect();
        Self { inserted, ..Self::of(rows.into_iter().map(|(row, _)| row)) }
    }

    /// Which of an upsert's rows were inserted; nothing where the database does not tell.
    pub(crate) fn inserted(&self) -> impl Iterator<Item = bool> {
        self.inserted.iter().copied()
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &M> {
        self.first.iter().chain(&self.rest)
    }

    /// What listeners see of each row before and after; takes what was made of them already.
    pub(crate) fn take_images(&mut self, hash_key: Option<&HashKey>) -> Vec<Image<M>> {
        if self.images.is_empty() {
            return self.iter().map(|row| (None, row.to_row(hash_key))).collect();
        }
        std::mem::take(&mut self.images)
    }

    pub(crate) fn set(&self) -> Set {
        self.set
    }

    /// The first of them, if there is one.
    pub(crate) fn into_first(self) -> Option<M> {
        self.first
    }
}

/// The row with this key: most often the next one, for they come in the same order twice. Those
/// that are passed over on the way are kept.
#[cfg(any(feature = "_mysql", feature = "sqlite"))]
fn of_key<M: Model>(
    key: &Key,
    rows: &mut impl Iterator<Item = M::Row>,
    passed: &mut HashMap<Key, M::Row>,
) -> Option<M::Row> {
    if let Some(row) = passed.remove(key) {
        return Some(row);
    }
    for row in rows {
        let other = M::key(&row);
        if other == *key {
            return Some(row);
        }
        passed.insert(other, row);
    }
    None
}

impl<M: Model> IntoIterator for Rows<M> {
    type Item = M;
    type IntoIter = std::iter::Chain<std::option::IntoIter<M>, std::vec::IntoIter<M>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.rest)
    }
}

impl<M: Model> fmt::Debug for Rows<M> {
    /// Shows no values: rows hold users' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("count", &self.count()).field("set", &self.set).finish_non_exhaustive()
    }
}

/// Runs `work` in a transaction: the open one, or one of its own.
#[cfg(any(feature = "_mysql", feature = "sqlite"))]
fn atomically<C: Connection, T>(conn: &mut C, work: impl FnOnce(&mut C) -> QueryResult<T>) -> QueryResult<T> {
    let status = C::TransactionManager::transaction_manager_status_mut(conn);
    if status.transaction_depth()?.is_some() { work(conn) } else { conn.transaction(work) }
}
