//! An upsert that tells inserts from updates.

use diesel::pg::Pg;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sql_types::Bool;
use diesel::{RunQueryDsl, query_builder};

use crate::written::sql;

/// An `INSERT … ON CONFLICT … RETURNING …` which also returns for each row whether it was inserted.
///
/// The version of a row that an update has locked carries the locking transaction in `xmax`; one
/// that was inserted carries none.
#[derive(Debug)]
pub struct AndWhetherInserted<S>(S);

impl<S: QueryFragment<Pg>> AndWhetherInserted<S> {
    /// `None` for an empty list, which inserts nothing: Diesel writes a `SELECT` in its place.
    pub(crate) fn of(statement: S) -> Option<Self> {
        let is_insert = sql::<Pg>(&statement).is_none_or(|sql| sql.starts_with("INSERT"));
        is_insert.then_some(Self(statement))
    }
}

impl<S: QueryId> QueryId for AndWhetherInserted<S> {
    type QueryId = AndWhetherInserted<S::QueryId>;

    const HAS_STATIC_QUERY_ID: bool = S::HAS_STATIC_QUERY_ID;
}

impl<S, C> RunQueryDsl<C> for AndWhetherInserted<S> {}

impl<S: query_builder::Query> query_builder::Query for AndWhetherInserted<S> {
    type SqlType = (S::SqlType, Bool);
}

impl<S: QueryFragment<Pg>> QueryFragment<Pg> for AndWhetherInserted<S> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.0.walk_ast(out.reborrow())?;
        out.push_sql(", (xmax = 0)");
        Ok(())
    }
}
