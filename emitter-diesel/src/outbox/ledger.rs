//! How far listeners are with durable events of their own service, for whoever looks after them.

use diesel::result::QueryResult;
use emitter_core::EventId;
use emitter_core::event::Timestamp;

use super::store::{FAILED, HANDLED, RETRYING, Store};
use crate::tables::{Dialect, LedgerRow, Session, Tables};

/// How far listeners are with durable and queued events of their own service: which of them failed, how often, why, and
/// when they are called again. It is read without a running emitter, and blocks.
///
/// An event is there from when one of its listeners failed, with all that are done with it. One that they all handled at
/// once is not; nor are listeners of one model that have the same name, which nobody could tell apart. The
/// next life of a node, or the node that takes over from it, goes on from there. Rows leave with their event's row in
/// the history.
///
/// ```no_run
/// # #[cfg(feature = "sqlite")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// # use diesel::{Connection, SqliteConnection};
/// # use emitter_diesel::tables::Tables;
/// use emitter_diesel::outbox::{Ledger, LedgerSelection, LedgerStatus};
///
/// # let tables = Tables::new(|| SqliteConnection::establish("shop.db"));
/// let ledger = Ledger::open(&tables)?;
/// let failed = LedgerSelection { status: Some(LedgerStatus::Failed), ..LedgerSelection::default() };
/// for entry in ledger.list(&failed, None, 100)? {
///     println!("{} of {}: {} attempts, {:?}", entry.listener, entry.event, entry.attempts, entry.last_error);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Ledger(Session);

/// How a listener stands with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LedgerStatus {
    /// `RETRYING`: its last call failed, and it is called again.
    Retrying,
    /// `HANDLED`: it is done with the event.
    Handled,
    /// `FAILED`: it failed in all its attempts, and the event is a dead letter. What a redrive of that came to later is
    /// not noted here.
    Failed,
}

impl LedgerStatus {
    const ALL: [Self; 3] = [Self::Retrying, Self::Handled, Self::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Retrying => RETRYING,
            Self::Handled => HANDLED,
            Self::Failed => FAILED,
        }
    }
}

/// Which entries are meant: those for which everything holds that is said. Nothing said, all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LedgerSelection {
    /// Those that stand so.
    pub status: Option<LedgerStatus>,
    /// Those of the listener of this name.
    pub listener: Option<String>,
    /// Those of this service.
    pub service: Option<String>,
}

/// How far a listener is with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerEntry {
    /// The event's id.
    pub event: EventId,
    /// The listener's name.
    pub listener: String,
    /// Its service.
    pub service: String,
    /// How it stands.
    pub status: LedgerStatus,
    /// How often it was called for the event, in all lives of its node.
    pub attempts: u32,
    /// What it failed with last, if it did.
    pub last_error: Option<String>,
    /// When it is called again, if it is, by the database's clock. It may be later, where others of its key come first.
    pub next_attempt: Option<Timestamp>,
    /// When this was written, by the database's clock.
    pub updated_at: Timestamp,
}

impl Ledger {
    /// That of the outbox in these tables.
    ///
    /// # Errors
    /// What is wrong with the tables and what to do about it, in words.
    pub fn open(tables: &Tables) -> Result<Self, String> {
        Session::open(tables).map(Self)
    }

    /// How far the listeners of one event are, at most 1,000.
    ///
    /// # Errors
    /// The database's.
    pub fn event(&self, event: EventId) -> QueryResult<Vec<LedgerEntry>> {
        self.read(|store| store.ledger(&format!("l.event_id = {}", store.event(event)), MOST))
    }

    /// The first entries after this one, oldest events first, at most 1,000.
    ///
    /// # Errors
    /// The database's.
    pub fn list(
        &self,
        selection: &LedgerSelection,
        after: Option<&LedgerEntry>,
        limit: usize,
    ) -> QueryResult<Vec<LedgerEntry>> {
        self.read(|store| store.ledger(&store.entries(selection, after), limit.clamp(1, MOST)))
    }

    fn read(&self, sql: impl Fn(&Store) -> String) -> QueryResult<Vec<LedgerEntry>> {
        let rows = self.0.ask(|database, names| {
            let store = Store { dialect: database.dialect(), names: names.clone() };
            database.ledger(sql(&store))
        })?;
        Ok(rows.into_iter().filter_map(entry).collect())
    }
}

/// How many entries are read at a time.
const MOST: usize = 1_000;

fn entry(row: LedgerRow) -> Option<LedgerEntry> {
    let status = LedgerStatus::ALL.into_iter().find(|status| status.as_str() == row.status)?;
    Some(LedgerEntry {
        event: row.event_id.parse().ok()?,
        listener: row.listener,
        service: row.service,
        status,
        attempts: u32::try_from(row.attempts).unwrap_or_default(),
        last_error: row.last_error,
        next_attempt: (status == LedgerStatus::Retrying).then(|| Timestamp::from_millis(row.next_attempt)),
        updated_at: Timestamp::from_millis(row.updated),
    })
}

/// What is asked of entries.
impl Store {
    fn event(&self, event: EventId) -> String {
        match self.dialect {
            Dialect::Postgres => format!("CAST('{event}' AS UUID)"),
            Dialect::Sqlite | Dialect::MySql => format!("'{event}'"),
        }
    }

    fn entries(&self, selection: &LedgerSelection, after: Option<&LedgerEntry>) -> String {
        let LedgerSelection { status, listener, service } = selection;
        let quoted = |text: &String| self.dialect.quoted(text);
        let mut all = vec!["1 = 1".to_owned()];
        all.extend(status.map(|status| format!("l.status = '{}'", status.as_str())));
        all.extend(listener.as_ref().map(|listener| format!("l.listener = {}", quoted(listener))));
        all.extend(service.as_ref().map(|service| format!("l.service = {}", quoted(service))));
        all.extend(after.map(|LedgerEntry { event, listener, service, .. }| {
            let last = format!("{}, {}, {}", self.event(*event), quoted(listener), quoted(service));
            format!("(l.event_id, l.listener, l.service) > ({last})")
        }));
        all.join(" AND ")
    }
}
