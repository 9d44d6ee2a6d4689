//! An update with its rows before and after, in one statement of PostgreSQL.
//!
//! The rows are locked where they are read, so that nobody changes them in between; and no more
//! than an update locks them, so that rows which refer to them can be inserted meanwhile.

use std::sync::Arc;

use diesel::pg::Pg;
use diesel::query_builder::{AstPass, QueryFragment};
use diesel::result::QueryResult;
use diesel::{Expression, QuerySource};

use super::Query;
use crate::update::Parts;
use crate::written::Layout;

/// `UPDATE … SET … FROM (SELECT … FOR NO KEY UPDATE) … RETURNING …`: the row after, the row before.
#[derive(Debug)]
pub struct Both(Arc<Layout>);

impl<T: QuerySource, W, V, R> Query<Both, Box<Parts<T, W, V, R>>> {
    /// The statement, of parts that are laid out so.
    pub(crate) fn with_rows_before(parts: Box<Parts<T, W, V, R>>, layout: Arc<Layout>) -> Self {
        Self { parts, form: Both(layout) }
    }
}

impl<T, W, V, R> diesel::query_builder::Query for Query<Both, Box<Parts<T, W, V, R>>>
where
    T: QuerySource,
    R: Expression,
{
    type SqlType = (R::SqlType, R::SqlType);
}

impl<T, W, V, R> QueryFragment<Pg> for Query<Both, Box<Parts<T, W, V, R>>>
where
    T: QuerySource<FromClause: QueryFragment<Pg>>,
    W: QueryFragment<Pg>,
    V: QueryFragment<Pg>,
    R: QueryFragment<Pg>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let Parts { from, condition, returning, .. } = &*self.parts;
        let Layout { columns, key } = &*self.form.0;
        self.parts.update(&mut out)?;
        out.push_sql(" FROM (SELECT ");
        returning.walk_ast(out.reborrow())?;
        for column in key {
            out.push_sql(", ");
            out.push_sql(&column.sql);
        }
        out.push_sql(" FROM ");
        from.walk_ast(out.reborrow())?;
        condition.walk_ast(out.reborrow())?;
        // Names of their own: a column that SET names without its table has to be the table's.
        out.push_sql(" FOR NO KEY UPDATE) AS emitter_before(");
        for place in 0..columns.len() + key.len() {
            let comma = if place == 0 { "" } else { ", " };
            out.push_sql(&format!("{comma}emitter_{place}"));
        }
        out.push_sql(")");
        for (index, column) in key.iter().enumerate() {
            let (and, place) = (if index == 0 { " WHERE " } else { " AND " }, columns.len() + index);
            out.push_sql(&format!("{and}{} = emitter_before.emitter_{place}", column.sql));
        }
        out.push_sql(" RETURNING ");
        returning.walk_ast(out.reborrow())?;
        for place in 0..columns.len() {
            out.push_sql(&format!(", emitter_before.emitter_{place}"));
        }
        Ok(())
    }
}
