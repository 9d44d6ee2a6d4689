//! The dead letters of a database, for whoever looks after them.

use std::sync::Arc;

use diesel::result::QueryResult;
use emitter_core::dead_letter::DeadLetter;

use super::store::{MOST_BYTES, Store};
use super::{Facet, KeptLetter, Page, Selection};
use crate::clearing::PORTION;
use crate::tables::{Database, Session, Tables};

/// The dead letters of a database: listed, counted, shown, edited and discarded by whoever looks after them, and
/// [redriven](Self::redrive) by a running emitter.
///
/// All but the redrive blocks, and needs no emitter. A book has one connection, which it makes when it needs it; its clones
/// share it.
#[derive(Debug, Clone)]
pub struct DeadLetterBook(Arc<Session>);

/// Why a book could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BookError {
    /// The tables are not there, or not of this version; what to do about it.
    #[error("the dead letters cannot be read: {0}")]
    Tables(String),
    /// The database said so, or cannot be reached.
    #[error("the database of the dead letters: {0}")]
    Database(#[from] diesel::result::Error),
    /// There is no letter of this number.
    #[error("there is no dead letter {0}")]
    NoSuchLetter(i64),
    /// A redrive has the letter: it is done with in a moment, or free again.
    #[error("a redrive has the dead letter {0}")]
    Claimed(i64),
    /// The payload is larger than what is kept.
    #[error("the payload has {0} bytes, the limit is {MOST_BYTES}")]
    TooLarge(usize),
    /// The thread that works with the database could not be had.
    #[error("no thread could be had for the database of the dead letters")]
    ShutDown,
}

impl DeadLetterBook {
    /// The dead letters in these tables, which are made where [`Tables::migrate`] says so.
    ///
    /// # Errors
    /// [`BookError::Tables`]
    pub fn open(tables: &Tables) -> Result<Self, BookError> {
        let session = Session::open(tables).map_err(BookError::Tables)?;
        Ok(Self(Arc::new(session)))
    }

    /// The same before it is known whether the tables are there.
    pub(crate) fn unopened(tables: &Tables) -> Self {
        Self(Arc::new(Session::unopened(tables)))
    }

    /// One with a connection of its own.
    pub(super) fn another(&self) -> Self {
        Self::unopened(self.0.tables())
    }

    pub(super) fn ask<R>(&self, ask: impl Fn(&mut dyn Database, &Store) -> QueryResult<R>) -> QueryResult<R> {
        self.0.ask(|database, names| {
            let store = Store { dialect: database.dialect(), names: names.clone() };
            ask(database, &store)
        })
    }

    /// Letters, without their payloads.
    ///
    /// # Errors
    /// [`BookError::Database`]
    pub fn list(&self, selection: &Selection, page: Page) -> Result<Vec<KeptLetter>, BookError> {
        let page = Page { limit: page.limit.clamp(1, 1_000), ..page };
        let rows = self.ask(|database, store| database.letters(store.page(selection, page)))?;
        Ok(rows.into_iter().map(KeptLetter::from).collect())
    }

    /// How many there are.
    ///
    /// # Errors
    /// [`BookError::Database`]
    pub fn count(&self, selection: &Selection) -> Result<u64, BookError> {
        let pairs = self.ask(|database, store| database.pairs(store.count(selection, None)))?;
        Ok(pairs.first().map_or(0, |pair| unsigned(pair.number)))
    }

    /// How many there are of each kind, the most frequent first: the first 1,000 of them.
    ///
    /// # Errors
    /// [`BookError::Database`]
    pub fn count_by(&self, selection: &Selection, facet: Facet) -> Result<Vec<(String, u64)>, BookError> {
        let pairs = self.ask(|database, store| database.pairs(store.count(selection, Some(facet))))?;
        Ok(pairs.into_iter().map(|pair| (pair.text, unsigned(pair.number))).collect())
    }

    /// One letter, with its payload.
    ///
    /// # Errors
    /// [`BookError::NoSuchLetter`], [`BookError::Database`]
    pub fn show(&self, id: i64) -> Result<KeptLetter, BookError> {
        let rows = self.ask(|database, store| database.letters(store.one(id)))?;
        rows.into_iter().next().map(KeptLetter::from).ok_or(BookError::NoSuchLetter(id))
    }

    /// Writes another payload in place of the event's, such as one that can be read. It is not looked into before it is
    /// redriven.
    ///
    /// # Errors
    /// [`BookError`]
    pub fn edit(&self, id: i64, payload: &[u8]) -> Result<(), BookError> {
        if payload.len() > MOST_BYTES {
            return Err(BookError::TooLarge(payload.len()));
        }
        let changed = self.ask(|database, store| database.change(store.edit(id, payload)))?;
        if changed > 0 {
            return Ok(());
        }
        // MySQL counts no row that is as it was.
        match self.show(id)? {
            letter if letter.is_claimed => Err(BookError::Claimed(id)),
            _ => Ok(()),
        }
    }

    /// Deletes letters, but those that a redrive has at this moment. Returns how many.
    ///
    /// # Errors
    /// [`BookError::Database`]; what was deleted before it stays deleted.
    pub fn discard(&self, selection: &Selection) -> Result<u64, BookError> {
        let mut discarded = 0;
        loop {
            let deleted = self.ask(|database, store| database.change(store.discard(selection, PORTION)))?;
            discarded += deleted as u64;
            // A portion may be smaller: some of it may have been claimed by then.
            if deleted == 0 {
                return Ok(discarded);
            }
        }
    }

    /// Keeps letters, in order. One that is there already is left as it is.
    pub(super) fn keep(&self, letters: &[&DeadLetter]) -> QueryResult<()> {
        self.ask(|database, store| {
            let inserts = store.insert(letters.iter().copied());
            inserts.into_iter().try_for_each(|insert| database.change(insert).map(drop))
        })
    }
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
