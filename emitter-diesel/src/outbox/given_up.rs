//! Rows that an outbox has given up, for whoever looks after them.

use std::fmt;
use std::time::Duration;

use diesel::result::QueryResult;
use emitter_core::EventId;
use emitter_core::event::Timestamp;

use super::store::{FAILED, ORPHANED, PENDING, PROCESSING, Store, UNREADABLE};
use crate::tables::{Database, GivenUpRow, Session, Tables, ago, list};

/// The events that an outbox has given up: listed, counted, shown, put back to work and discarded, without a running emitter.
/// It blocks.
///
/// ```no_run
/// # #[cfg(feature = "sqlite")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// # use diesel::{Connection, SqliteConnection};
/// # use emitter_diesel::tables::Tables;
/// use std::time::Duration;
///
/// use emitter_diesel::outbox::{GivenUp, GivenUpSelection, GivenUpStatus};
///
/// # let tables = Tables::new(|| SqliteConnection::establish("shop.db"));
/// let given_up = GivenUp::open(&tables, "shop")?;
/// // The access list of the broker is mended: what it refused in the last 24 hours.
/// let refused = GivenUpSelection {
///     status: Some(GivenUpStatus::Failed),
///     error: Some("NotAuthorized".to_owned()),
///     ..GivenUpSelection::last(Duration::from_secs(24 * 3600))
/// };
/// println!("{} are published again", given_up.redrive(&refused)?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct GivenUp {
    session: Session,
    service: String,
}

/// How an event was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GivenUpStatus {
    /// `FAILED`: the broker did not take it.
    Failed,
    /// `UNREADABLE`: it is not as an outbox writes it.
    Unreadable,
    /// `ORPHANED`: no listener of the node that took it over hears it.
    Orphaned,
}

impl GivenUpStatus {
    const ALL: [Self; 3] = [Self::Failed, Self::Unreadable, Self::Orphaned];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => FAILED,
            Self::Unreadable => UNREADABLE,
            Self::Orphaned => ORPHANED,
        }
    }
}

/// Which of them are meant: those for which everything holds that is said. Nothing said, all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivenUpSelection {
    /// These, by [`GivenUpEvent::id`]. An empty list means none.
    pub ids: Option<Vec<i64>>,
    /// Given up like that.
    pub status: Option<GivenUpStatus>,
    /// Of this model.
    pub model: Option<String>,
    /// Of the row with this key.
    pub key: Option<String>,
    /// A pattern of the topic, in which `*` stands for anything, as in `prisma/events/user/*`.
    pub topic: Option<String>,
    /// A text in the error, such as `NotAuthorized`; in it, too, `*` stands for anything.
    pub error: Option<String>,
    /// Written down at this time or later, by the database's clock.
    pub since: Option<Timestamp>,
    /// Written down before this time.
    pub until: Option<Timestamp>,
}

impl GivenUpSelection {
    /// One row, by [`GivenUpEvent::id`].
    #[must_use]
    pub fn one(id: i64) -> Self {
        Self { ids: Some(vec![id]), ..Self::default() }
    }

    /// What was written down in the last 24 hours, or however long, by this machine's clock.
    #[must_use]
    pub fn last(duration: Duration) -> Self {
        Self { since: Some(ago(duration)), ..Self::default() }
    }
}

/// An event that was given up.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GivenUpEvent {
    /// Its number in the outbox.
    pub id: i64,
    /// How.
    pub status: GivenUpStatus,
    /// The event's id.
    pub event: Option<EventId>,
    /// Its model.
    pub model: String,
    /// The key of its row.
    pub key: Option<String>,
    /// The topic on which it was to go.
    pub topic: String,
    /// How often it was published in vain.
    pub retries: u32,
    /// Why it was given up.
    pub last_error: Option<String>,
    /// When it was written down, by the database's clock; `None` where somebody else wrote the row.
    pub written_at: Option<Timestamp>,
    /// When it was given up, by the database's clock; `None` where it is published, or not to be, and listeners cannot be
    /// handed it: of that the time is not kept.
    pub given_up_at: Option<Timestamp>,
    /// The event, as it is to travel: users' data. `None` in lists.
    pub payload: Option<String>,
}

impl fmt::Debug for GivenUpEvent {
    /// Leaves key and event out, which are the user's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, status, event, model, topic, retries, last_error, written_at, .. } = self;
        f.debug_struct("GivenUpEvent")
            .field("id", id)
            .field("status", status)
            .field("event", event)
            .field("model", model)
            .field("topic", topic)
            .field("retries", retries)
            .field("last_error", last_error)
            .field("written_at", written_at)
            .finish_non_exhaustive()
    }
}

impl GivenUp {
    /// Those in these tables. What listeners missed goes to nodes of this service.
    ///
    /// # Errors
    /// What is wrong with the tables and what to do about it, in words.
    pub fn open(tables: &Tables, service: impl Into<String>) -> Result<Self, String> {
        Ok(Self { session: Session::open(tables)?, service: service.into() })
    }

    /// The first ones after this [number](GivenUpEvent::id), oldest first, at most 1,000, without their events.
    ///
    /// # Errors
    /// The database's.
    pub fn list(
        &self,
        selection: &GivenUpSelection,
        after: Option<i64>,
        limit: usize,
    ) -> QueryResult<Vec<GivenUpEvent>> {
        let rows = self.ask(|database, store| {
            database.given_up(store.given_up(selection, after.unwrap_or(i64::MIN), limit.clamp(1, 1_000)))
        })?;
        Ok(rows.into_iter().filter_map(read).collect())
    }

    /// One of them, with its event; `None` where no row of this number was given up.
    ///
    /// # Errors
    /// The database's.
    pub fn show(&self, id: i64) -> QueryResult<Option<GivenUpEvent>> {
        let rows = self.ask(|database, store| database.given_up(store.one_given_up(id)))?;
        Ok(rows.into_iter().find_map(read))
    }

    /// How many there are, by status. Nothing is touched.
    ///
    /// # Errors
    /// The database's.
    pub fn count(&self, selection: &GivenUpSelection) -> QueryResult<Vec<(GivenUpStatus, u64)>> {
        let pairs = self.ask(|database, store| database.pairs(store.count_given_up(selection)))?;
        let number = |status: GivenUpStatus| {
            let pair = pairs.iter().find(|pair| pair.text == status.as_str());
            (status, pair.map_or(0, |pair| u64::try_from(pair.number).unwrap_or_default()))
        };
        Ok(GivenUpStatus::ALL.into_iter().map(number).collect())
    }

    /// Puts them back to work, and returns how many: what was not published is published, those of a key in their order,
    /// though after later ones of it that were published meanwhile; what listeners missed is handed to those of any node
    /// of the service that has an outbox. What fails again is given up again.
    ///
    /// # Errors
    /// The database's.
    pub fn redrive(&self, selection: &GivenUpSelection) -> QueryResult<u64> {
        let changed = self.ask(|database, store| {
            // A life that nobody has: what it left is taken over.
            let nobody = format!("{}/redrive/{}", self.service, EventId::now());
            let changed = database.change(store.put_back(selection, &nobody))?;
            store.notify().map_or(Ok(()), |notify| database.run(&notify))?;
            Ok(changed)
        })?;
        Ok(changed as u64)
    }

    /// Deletes them, and returns how many there were.
    ///
    /// # Errors
    /// The database's.
    pub fn discard(&self, selection: &GivenUpSelection) -> QueryResult<u64> {
        let deleted = self.ask(|database, store| {
            database.change(store.discard_accounts(selection))?;
            database.change(store.discard(selection))
        });
        deleted.map(|deleted| deleted as u64)
    }

    /// Once: what was done may not be counted a second time.
    fn ask<R>(&self, ask: impl FnOnce(&mut dyn Database, &Store) -> QueryResult<R>) -> QueryResult<R> {
        self.session.once(|database, names| {
            let store = Store { dialect: database.dialect(), names: names.clone() };
            ask(database, &store)
        })
    }
}

fn read(row: GivenUpRow) -> Option<GivenUpEvent> {
    Some(GivenUpEvent {
        id: row.id,
        status: GivenUpStatus::ALL.into_iter().find(|status| status.as_str() == row.status)?,
        event: row.event_id.parse().ok(),
        model: row.model,
        key: row.record_id,
        topic: row.topic,
        retries: u32::try_from(row.retries).unwrap_or_default(),
        last_error: row.last_error,
        written_at: row.created.map(Timestamp::from_millis),
        given_up_at: row.processed.map(Timestamp::from_millis),
        payload: row.payload,
    })
}

/// What is asked about rows that were given up.
impl Store {
    fn given_up(&self, selection: &GivenUpSelection, after: i64, limit: usize) -> String {
        format!(
            "SELECT {} FROM {} WHERE {} AND id > {after} ORDER BY id LIMIT {limit}",
            self.row_columns(true, false),
            self.names.table("outbox"),
            self.chosen(selection)
        )
    }

    fn one_given_up(&self, id: i64) -> String {
        format!(
            "SELECT {} FROM {} WHERE {}",
            self.row_columns(true, true),
            self.names.table("outbox"),
            self.chosen(&GivenUpSelection::one(id))
        )
    }

    fn count_given_up(&self, selection: &GivenUpSelection) -> String {
        format!(
            "SELECT status AS text, COUNT(*) AS number FROM {} WHERE {} GROUP BY status",
            self.names.table("outbox"),
            self.chosen(selection)
        )
    }

    /// What could not be published is to be published: one that failed under the number that it had. (Only when
    /// publishing was given up, it was noted when that was.) All others are published, or not to be.
    fn put_back(&self, selection: &GivenUpSelection, nobody: &str) -> String {
        let nobody = self.dialect.quoted(nobody);
        // MySQL sets columns one after the other, so what is asked of one is set after it.
        format!(
            "UPDATE {} SET handler = CASE WHEN handler LIKE '!%' THEN {nobody} ELSE handler END, \
             sequence = CASE WHEN status = '{UNREADABLE}' AND processed_at IS NOT NULL THEN NULL ELSE sequence END, \
             stream = CASE WHEN status = '{UNREADABLE}' AND processed_at IS NOT NULL THEN NULL ELSE stream END, \
             status = CASE WHEN processed_at IS NOT NULL THEN '{PENDING}' ELSE '{PROCESSING}' END, \
             retries = 0, next_attempt = 0, processed_at = NULL WHERE {}",
            self.names.table("outbox"),
            self.chosen(selection)
        )
    }

    fn discard(&self, selection: &GivenUpSelection) -> String {
        format!("DELETE FROM {} WHERE {}", self.names.table("outbox"), self.chosen(selection))
    }

    /// What the ledger has of them.
    fn discard_accounts(&self, selection: &GivenUpSelection) -> String {
        format!(
            "DELETE FROM {} WHERE event_id IN (SELECT event_id FROM {} WHERE {})",
            self.names.table("ledger"),
            self.names.table("outbox"),
            self.chosen(selection)
        )
    }

    fn chosen(&self, selection: &GivenUpSelection) -> String {
        let GivenUpSelection { ids, status, model, key, topic, error, since, until } = selection;
        let mut sql = match status {
            Some(status) => format!("status = '{}'", status.as_str()),
            None => format!("status IN ('{FAILED}', '{UNREADABLE}', '{ORPHANED}')"),
        };
        let mut and = |condition: String| sql.extend([" AND ", &*condition]);
        if let Some(ids) = ids {
            and(format!("id IN ({})", list(ids.iter().copied())));
        }
        for (column, wanted) in [("model", model), ("record_id", key)] {
            if let Some(wanted) = wanted {
                and(format!("{column} = {}", self.dialect.quoted(wanted)));
            }
        }
        if let Some(topic) = topic {
            and(self.dialect.like("topic", topic));
        }
        if let Some(error) = error {
            and(self.dialect.like("last_error", &format!("*{error}*")));
        }
        let written = self.millis_of("created_at");
        if let Some(since) = since {
            and(format!("{written} >= {}", since.as_millis()));
        }
        if let Some(until) = until {
            and(format!("{written} < {}", until.as_millis()));
        }
        sql
    }
}
