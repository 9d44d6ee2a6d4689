//! The session of who asks a database now and then.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use diesel::result::QueryResult;

use super::{Database, Names, Tables};

/// A session with the database of some tables: begun when something is asked, and kept as long as it answers.
pub(crate) struct Session {
    tables: Tables,
    database: Mutex<Option<Box<dyn Database>>>,
}

impl Session {
    /// Begun, in tables that are there.
    ///
    /// # Errors
    /// What is wrong with them and what to do, in words.
    pub(crate) fn open(tables: &Tables) -> Result<Self, String> {
        let (database, _) = tables.open()?;
        Ok(Self { tables: tables.clone(), database: Mutex::new(Some(database)) })
    }

    /// Not begun yet.
    pub(crate) fn unopened(tables: &Tables) -> Self {
        Self { tables: tables.clone(), database: Mutex::default() }
    }

    /// The tables.
    pub(crate) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Asks once, for it may have been done although no answer came. After an error the next question begins a session anew.
    ///
    /// # Errors
    /// The database's.
    pub(crate) fn once<R>(
        &self,
        ask: impl FnOnce(&mut dyn Database, &Names) -> QueryResult<R>,
    ) -> QueryResult<R> {
        let mut kept = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let mut database = kept.take().map_or_else(|| self.tables.connected(), Ok)?;
        let answer = ask(&mut *database, self.tables.all_names())?;
        *kept = Some(database);
        Ok(answer)
    }

    /// Asks what may be asked twice: where a session that was kept does not answer, once more in a new one.
    ///
    /// # Errors
    /// The database's.
    pub(crate) fn ask<R>(&self, ask: impl Fn(&mut dyn Database, &Names) -> QueryResult<R>) -> QueryResult<R> {
        let mut kept = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut database) = kept.take()
            && let Ok(answer) = ask(&mut *database, self.tables.all_names())
        {
            *kept = Some(database);
            return Ok(answer);
        }
        let mut database = self.tables.connected()?;
        let answer = ask(&mut *database, self.tables.all_names())?;
        *kept = Some(database);
        Ok(answer)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("tables", &self.tables).finish_non_exhaustive()
    }
}
