//! SQLite returns the rows that a statement wrote, and reads them before in a statement of its own.

use diesel::QuerySource;
use diesel::connection::Connection;
use diesel::query_builder::UpdateStatement;
use diesel::query_dsl::methods::{ExecuteDsl, LoadQuery};
use diesel::result::QueryResult;
use diesel::sqlite::Sqlite;
use emitter_core::model::Model;

use super::{Ask, Engine, Rows, atomically};
use crate::queries::{Lock, Query, Returning, Select};
use crate::statements::{Deleting, InsertMany, InsertOne, OnConflict, Updating};
use crate::update::Update;
use crate::written::Describe;

returns_its_rows! { Sqlite: InsertOne InsertMany OnConflict Deleting }

impl<'query, C, M, T, W, V, R> Engine<C, Update<T, W, V, R>, M, Updating> for Sqlite
where
    C: Connection<Backend = Self>,
    T: QuerySource,
    Update<T, W, V, R>: Describe<Self>,
    Query<Returning, T, W, V, R>: LoadQuery<'query, C, M>,
    Query<Select, T, W, V, R>: LoadQuery<'query, C, M>,
    Query<Lock, T, W, V, R>: ExecuteDsl<C>,
{
    fn load(conn: &mut C, statement: Update<T, W, V, R>, ask: Ask) -> QueryResult<Rows<M>>
    where
        M: Model,
    {
        let update = |conn: &mut C| Rows::collect(statement.query::<Returning>().internal_load(conn)?);
        let rows = if ask.before {
            atomically(conn, |conn| {
                // One that reads first and writes later could not get the lock for writing any more
                // if somebody else wrote in between, and would not wait for it either.
                ExecuteDsl::execute(statement.query::<Lock>(), conn)?;
                let before =
                    statement.query::<Select>().internal_load(conn)?.collect::<QueryResult<Vec<M>>>()?;
                Ok(update(conn)?.with_before(before, ask.hash_key.as_ref()))
            })?
        } else {
            update(conn)?
        };
        Ok(if ask.set { rows.with_set(statement.set::<M>()) } else { rows })
    }
}
