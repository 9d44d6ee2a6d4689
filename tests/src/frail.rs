//! Connections that break where a test says so: before a statement was done, or after it and before its answer.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use diesel::ConnectionResult;
use diesel::result::{DatabaseErrorKind, Error, QueryResult};
use emitter_diesel::tables::{
    Database, Dialect, GivenUpRow, Lane, LedgerRow, LetterRow, Pair, Queued, RequestRow, Seen,
};

/// When a connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The statement was not done.
    Before,
    /// It was, and nobody was told.
    After,
}

/// What becomes of the statements of all connections that it was [given](Self::around).
#[derive(Clone, Default)]
pub struct Breaker(Arc<Mutex<Breaks>>);

#[derive(Default)]
struct Breaks {
    /// The plan begins at the first statement with this text.
    at: String,
    next: VecDeque<Option<Moment>>,
}

impl Breaker {
    /// From the first statement on that has this text in it, connections break so.
    pub fn plan(&self, at: &str, next: impl IntoIterator<Item = Option<Moment>>) {
        *self.breaks() = Breaks { at: at.to_owned(), next: next.into_iter().collect() };
    }

    /// Whether all of the plan came to pass.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.breaks().next.is_empty()
    }

    /// Makes frail connections.
    pub fn around<C: Database>(
        &self,
        connect: impl Fn() -> ConnectionResult<C> + Send + Sync + 'static,
    ) -> impl Fn() -> ConnectionResult<Frail<C>> + Send + Sync + 'static {
        let breaker = self.clone();
        move || {
            let connection = connect()?;
            let (dialect, breaker) = (connection.dialect(), breaker.clone());
            Ok(Frail { dialect, connection: Some(connection), breaker })
        }
    }

    fn breaks(&self) -> std::sync::MutexGuard<'_, Breaks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moment(&self, sql: &str) -> Option<Moment> {
        let mut breaks = self.breaks();
        if !sql.contains(&breaks.at) {
            return None;
        }
        breaks.at.clear();
        breaks.next.pop_front().flatten()
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker").finish_non_exhaustive()
    }
}

/// A connection that breaks.
#[derive(Debug)]
pub struct Frail<C> {
    dialect: Dialect,
    connection: Option<C>,
    breaker: Breaker,
}

impl<C: Database> Frail<C> {
    fn through<T>(&mut self, sql: &str, run: impl FnOnce(&mut C) -> QueryResult<T>) -> QueryResult<T> {
        let moment = self.breaker.moment(sql);
        if moment == Some(Moment::Before) {
            self.connection = None;
        }
        let broken =
            || Error::DatabaseError(DatabaseErrorKind::ClosedConnection, Box::new("it broke".to_owned()));
        let answer = self.connection.as_mut().map_or_else(|| Err(broken()), run);
        if moment == Some(Moment::After) {
            self.connection = None;
            return Err(broken());
        }
        answer
    }
}

impl<C: Database> Database for Frail<C> {
    fn dialect(&self) -> Dialect {
        self.dialect
    }

    fn has_changed(&mut self) -> QueryResult<bool> {
        self.connection.as_mut().map_or(Ok(true), C::has_changed)
    }

    fn run(&mut self, sql: &str) -> QueryResult<()> {
        self.through(sql, |connection| connection.run(sql))
    }

    fn change(&mut self, sql: String) -> QueryResult<usize> {
        self.through(&sql.clone(), |connection| connection.change(sql))
    }

    fn queued(&mut self, sql: String) -> QueryResult<Vec<Queued>> {
        self.through(&sql.clone(), |connection| connection.queued(sql))
    }

    fn lanes(&mut self, sql: String) -> QueryResult<Vec<Lane>> {
        self.through(&sql.clone(), |connection| connection.lanes(sql))
    }

    fn letters(&mut self, sql: String) -> QueryResult<Vec<LetterRow>> {
        self.through(&sql.clone(), |connection| connection.letters(sql))
    }

    fn given_up(&mut self, sql: String) -> QueryResult<Vec<GivenUpRow>> {
        self.through(&sql.clone(), |connection| connection.given_up(sql))
    }

    fn requests(&mut self, sql: String) -> QueryResult<Vec<RequestRow>> {
        self.through(&sql.clone(), |connection| connection.requests(sql))
    }

    fn ledger(&mut self, sql: String) -> QueryResult<Vec<LedgerRow>> {
        self.through(&sql.clone(), |connection| connection.ledger(sql))
    }

    fn pairs(&mut self, sql: String) -> QueryResult<Vec<Pair>> {
        self.through(&sql.clone(), |connection| connection.pairs(sql))
    }

    fn seen(&mut self, sql: String) -> QueryResult<Vec<Seen>> {
        self.through(&sql.clone(), |connection| connection.seen(sql))
    }
}
