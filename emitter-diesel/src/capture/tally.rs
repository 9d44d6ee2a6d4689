//! How capturing goes, for whoever looks after it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diesel::prelude::QueryableByName;
use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Nullable, Text};
use diesel::{PgConnection, RunQueryDsl};
use emitter_core::Emitter;

use crate::tables::Tables;

/// What a node has turned since its start, in rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaptureStats {
    /// Turned: into an event, or into none where nobody would hear it.
    pub turned: u64,
    /// Found unreadable, and set aside.
    pub unreadable: u64,
}

/// What an emitter has turned since its start; `None` where it has no [`Capture`](super::Capture).
#[must_use]
pub fn stats(emitter: &Emitter) -> Option<CaptureStats> {
    emitter.state::<Attached>().map(|attached| attached.0.told())
}

/// What of a model's captured rows is there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaptureState {
    /// The model's name.
    pub model: String,
    /// How many rows wait to be turned. Where they do so for long, nobody turns them: start a node that was given the
    /// model's [`Capture`](super::Capture), and look into the health of those that were.
    pub waiting: u64,
    /// How long the oldest of these has waited, by the database's clock.
    pub oldest: Option<Duration>,
    /// How many nobody could read; `last_error` in their table says why.
    pub unreadable: u64,
}

/// What of captured rows is there, of each model with any.
///
/// # Errors
/// The database's.
pub fn states(conn: &mut PgConnection, tables: &Tables) -> QueryResult<Vec<CaptureState>> {
    let rows: Vec<Row> = diesel::sql_query(format!(
        "SELECT model, count(*) FILTER (WHERE status = 'CAPTURED') AS waiting, \
         count(*) FILTER (WHERE status = 'UNREADABLE') AS unreadable, \
         (extract(epoch FROM clock_timestamp() - min(captured_at) FILTER (WHERE status = 'CAPTURED')) * 1000)::bigint \
         AS oldest FROM {} GROUP BY model ORDER BY model",
        tables.all_names().table("captured")
    ))
    .load(conn)?;
    let number = |number: i64| u64::try_from(number).unwrap_or_default();
    let state = |row: Row| CaptureState {
        model: row.model,
        waiting: number(row.waiting),
        oldest: row.oldest.map(|millis| Duration::from_millis(number(millis))),
        unreadable: number(row.unreadable),
    };
    Ok(rows.into_iter().map(state).collect())
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    model: String,
    #[diesel(sql_type = BigInt)]
    waiting: i64,
    #[diesel(sql_type = BigInt)]
    unreadable: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    oldest: Option<i64>,
}

/// What an emitter with captures has.
#[derive(Debug)]
pub(super) struct Attached(pub(super) Arc<Tally>);

/// What the thread that turns tells of its work.
#[derive(Debug, Default)]
pub(super) struct Tally {
    turned: AtomicU64,
    unreadable: AtomicU64,
    /// By the table that it is about; of all of them, by none.
    troubles: Mutex<BTreeMap<String, String>>,
}

impl Tally {
    pub(super) fn count(&self, turned: usize, unreadable: usize) {
        self.turned.fetch_add(turned as u64, Ordering::Relaxed);
        self.unreadable.fetch_add(unreadable as u64, Ordering::Relaxed);
    }

    fn told(&self) -> CaptureStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CaptureStats { turned: count(&self.turned), unreadable: count(&self.unreadable) }
    }

    fn by_table(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_hindered(&self, table: &str, trouble: String) {
        self.by_table().insert(table.to_owned(), trouble);
    }

    pub(super) fn works(&self, table: &str) {
        self.by_table().remove(table);
    }

    /// As a node's health has it.
    pub(super) fn troubles(&self) -> Vec<String> {
        self.by_table().values().map(|trouble| format!("capture: {trouble}")).collect()
    }
}
