//! Threads that clear away what was kept for long enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use diesel::result::QueryResult;
use emitter_core::{BeginCompanion, WeakEmitter};
use tracing::warn;

use crate::companion::{self, Activity};
use crate::tables::{Dialect, Found, Tables};

/// How many rows are cleared away at a time.
pub(crate) const PORTION: usize = 1_000;

/// What lies between two of those times, for whoever works beside it.
const PAUSE: Duration = Duration::from_millis(50);

/// What is cleared away.
pub(crate) struct Clearing {
    /// The part that it belongs to, in words: it relies on what it has committed.
    pub(crate) part: &'static str,
    /// The thread's name.
    pub(crate) thread: &'static str,
    /// What they are, in words.
    pub(crate) rows: &'static str,
    /// How long nobody looks for old ones when there were no more.
    pub(crate) rest: Duration,
    /// How many were, for whoever wants to know.
    pub(crate) cleared: Arc<AtomicU64>,
}

impl Clearing {
    /// A companion that looks after the tables at the start, and clears away as long as it runs. `open` says what is wrong, or
    /// the statement that deletes up to [`PORTION`] rows.
    pub(crate) fn companion(
        self,
        tables: Tables,
        open: impl FnOnce(&WeakEmitter, Dialect, Found) -> Result<String, String> + Send + 'static,
    ) -> BeginCompanion {
        let (end, ended) = mpsc::channel();
        let (thread, part, opened) = (self.thread, self.part, tables.clone());
        let open = move |emitter: &WeakEmitter| {
            let (database, found) = opened.open_for(emitter, part)?;
            open(emitter, database.dialect(), found)
        };
        let run = move |sql: String, _, activity: &Arc<Activity>| self.run(&tables, &sql, &ended, activity);
        // Dropped with its emitter, it ends the thread as well.
        companion::thread(thread, open, run, move || drop::<mpsc::Sender<()>>(end))
    }

    fn run(&self, tables: &Tables, sql: &str, ended: &Receiver<()>, activity: &Activity) {
        let mut wait = Duration::ZERO;
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(wait) {
            if let Err(error) = self.clear(tables, sql, ended, activity) {
                warn!("old {} could not be cleared away: {error}", self.rows);
            }
            wait = self.rest;
        }
    }

    /// Some at a time, until there are no more.
    fn clear(
        &self,
        tables: &Tables,
        sql: &str,
        ended: &Receiver<()>,
        activity: &Activity,
    ) -> QueryResult<()> {
        let mut database = activity.works(|| tables.connected())?;
        loop {
            let cleared = activity.works(|| database.change(sql.to_owned()))?;
            self.cleared.fetch_add(cleared as u64, Ordering::Relaxed);
            if cleared < PORTION || ended.recv_timeout(PAUSE) != Err(RecvTimeoutError::Timeout) {
                return Ok(());
            }
        }
    }
}
