//! Requests, for whoever asks.

use diesel::result::QueryResult;
use emitter_core::EventId;

use super::store::Store;
use super::{Request, Work};
use crate::tables::{Database, Session, Tables};

/// What nodes were asked to do, and how far they are. It blocks, and needs no emitter; it has one connection.
#[derive(Debug)]
pub struct Requests(Session);

/// Why a request was not made, or cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The tables are not there, or not of this version; what to do about it.
    #[error("the requests cannot be read: {0}")]
    Tables(String),
    /// The database said so, or cannot be reached.
    #[error("the database of the requests: {0}")]
    Database(#[from] diesel::result::Error),
    /// There is no request of this number.
    #[error("there is no request {0}")]
    NoSuchRequest(i64),
    /// It cannot be written down; why.
    #[error("this cannot be asked: {0}")]
    Unwritable(String),
}

/// The most requests in a list.
const MOST: usize = 1_000;

/// The longest names of services and of those who ask, in letters.
const MOST_LETTERS: usize = 191;

impl Requests {
    /// Those in these tables, which are made where [`Tables::migrate`] says so.
    ///
    /// # Errors
    /// [`RequestError::Tables`]
    pub fn open(tables: &Tables) -> Result<Self, RequestError> {
        Session::open(tables).map(Self).map_err(RequestError::Tables)
    }

    /// Asks the nodes of a service to do something, and returns the request's number. Nothing is done where none of them has
    /// an [`Attendant`](super::Attendant) in these tables: the request waits.
    ///
    /// # Errors
    /// [`RequestError::Unwritable`] where a name is empty or longer than 191 letters, or what is to be done is longer than 64 KiB;
    /// [`RequestError::Database`].
    pub fn ask(&self, service: &str, work: &Work, asked_by: Option<&str>) -> Result<i64, RequestError> {
        for name in [Some(service), asked_by].into_iter().flatten() {
            if !(1..=MOST_LETTERS).contains(&name.chars().count()) {
                let problem = format!("a name has 1 to {MOST_LETTERS} letters, not {}", name.chars().count());
                return Err(RequestError::Unwritable(problem));
            }
        }
        let text = work.write().map_err(RequestError::Unwritable)?;
        // Where the answer is lost with the connection, it is not asked for twice.
        let ticket = EventId::now().to_string();
        let found = self.query(|database, store| {
            database.change(store.insert(&ticket, service, work.name(), &text, asked_by))?;
            database.pairs(store.number(&ticket))
        })?;
        let found = found.first().ok_or(diesel::result::Error::NotFound)?;
        Ok(found.number)
    }

    /// How a request stands.
    ///
    /// # Errors
    /// [`RequestError::NoSuchRequest`], [`RequestError::Database`]
    pub fn state(&self, id: i64) -> Result<Request, RequestError> {
        let rows = self.query(|database, store| database.requests(store.one(id)))?;
        rows.into_iter().next().map(Request::from).ok_or(RequestError::NoSuchRequest(id))
    }

    /// What a request waits for: an earlier one of its service that a node has. `None` where there is none.
    ///
    /// # Errors
    /// [`RequestError::Database`]
    pub fn ahead(&self, id: i64) -> Result<Option<Request>, RequestError> {
        let rows = self.query(|database, store| database.requests(store.ahead(id)))?;
        Ok(rows.into_iter().next().map(Request::from))
    }

    /// The newest requests, the last one first: so many, 1,000 at most. What is over is kept for 90 days.
    ///
    /// # Errors
    /// [`RequestError::Database`]
    pub fn list(&self, most: usize) -> Result<Vec<Request>, RequestError> {
        let rows = self.query(|database, store| database.requests(store.newest(most.clamp(1, MOST))))?;
        Ok(rows.into_iter().map(Request::from).collect())
    }

    /// Takes a request back; `false` where it is over already. The node that has it ends within a second, when
    /// the listeners are done with what they were handed.
    ///
    /// # Errors
    /// [`RequestError::NoSuchRequest`], [`RequestError::Database`]
    pub fn cancel(&self, id: i64) -> Result<bool, RequestError> {
        let changed = self.query(|database, store| database.change(store.cancel(id)))?;
        if changed == 0 {
            self.state(id)?;
        }
        Ok(changed > 0)
    }

    fn query<R>(&self, ask: impl Fn(&mut dyn Database, &Store) -> QueryResult<R>) -> QueryResult<R> {
        self.0.ask(|database, names| {
            let store = Store { dialect: database.dialect(), names: names.clone() };
            ask(database, &store)
        })
    }
}
