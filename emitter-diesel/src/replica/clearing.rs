//! The thread of a replica: looks after its tables at the start, and forgets rows that were deleted long ago.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use diesel::result::QueryResult;
use tracing::warn;

use super::Tally;
use crate::tables::Tables;

/// How many are forgotten at a time.
const MOST: usize = 1_000;

/// What lies between two of those times, for whoever works beside it.
const PAUSE: Duration = Duration::from_millis(50);

/// How long nobody looks when there were no more.
const REST: Duration = Duration::from_secs(600);

/// What is cleared away, and where.
pub(super) struct Clearing {
    pub(super) tables: Tables,
    /// Makes the statement that forgets so many.
    pub(super) sql: Box<dyn Fn(usize) -> String + Send>,
    pub(super) tally: std::sync::Arc<Tally>,
}

impl Clearing {
    /// Works until somebody ends it.
    pub(super) fn run(&self, ended: &Receiver<()>) {
        let mut wait = Duration::ZERO;
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(wait) {
            if let Err(error) = self.all(ended) {
                warn!("what is noted of deleted rows could not be cleared away: {error}");
            }
            wait = REST;
        }
    }

    /// Some at a time, until there are no more.
    fn all(&self, ended: &Receiver<()>) -> QueryResult<()> {
        let mut database = self.tables.connected()?;
        loop {
            let cleared = database.change((self.sql)(MOST))?;
            self.tally.cleared.fetch_add(cleared as u64, Ordering::Relaxed);
            if cleared < MOST || ended.recv_timeout(PAUSE) != Err(RecvTimeoutError::Timeout) {
                return Ok(());
            }
        }
    }
}
