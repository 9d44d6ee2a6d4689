//! A statement that says in a comment whose events tell of it.
//!
//! A trigger of a captured table reads that, and passes over what the statement writes. It costs no
//! message and no setting, and says it of this very statement: what the same transaction writes without
//! `.emit()` is captured all the same.

use std::marker::PhantomData;

use diesel::pg::Pg;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::{RunQueryDsl, query_builder};
use emitter_core::Key;
use emitter_core::model::Model;

/// A statement with the comment of a model.
#[derive(Debug)]
pub struct Marked<S, M> {
    statement: S,
    model: PhantomData<fn() -> M>,
}

impl<S, M> Marked<S, M> {
    pub(crate) fn new(statement: S) -> Self {
        Self { statement, model: PhantomData }
    }
}

/// What such a statement begins with. Of the name no more than a number: it may be any text.
pub(crate) fn comment(model: &str) -> String {
    format!("/*emits {:016x}*/", Key::Text(model.to_ascii_lowercase().into()).stable_hash())
}

impl<S: QueryId, M: 'static> QueryId for Marked<S, M> {
    type QueryId = Marked<S::QueryId, M>;

    const HAS_STATIC_QUERY_ID: bool = S::HAS_STATIC_QUERY_ID;
}

impl<S, M, C> RunQueryDsl<C> for Marked<S, M> {}

impl<S: query_builder::Query, M> query_builder::Query for Marked<S, M> {
    type SqlType = S::SqlType;
}

impl<S: QueryFragment<Pg>, M: Model> QueryFragment<Pg> for Marked<S, M> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(&comment(M::NAME));
        self.statement.walk_ast(out)
    }
}
