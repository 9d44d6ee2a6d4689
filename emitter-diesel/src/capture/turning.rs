//! The thread that turns captured rows into events of the outbox.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::result::{Error, QueryResult};
use diesel::{Connection, PgConnection, RunQueryDsl};
use emitter_core::record::Record;
use emitter_core::retry::Backoff;
use emitter_core::{Builder, Emission, Emitter, Source, WeakEmitter};
use tracing::{error, warn};

use super::Capture;
use super::captured::{Captured, Rows, unreadable};
use super::tally::{self, Tally};
use crate::companion::{self, Activity};
use crate::outbox::{Attached, Handing, Opened};
use crate::tables::{Database, Pair, Tables};

/// Has a node turn what its captures catch, and look for it so often.
pub(crate) fn begin(
    builder: Builder,
    tables: Tables,
    captures: Vec<Capture>,
    poll: Duration,
    relayed_elsewhere: bool,
) -> Builder {
    if captures.is_empty() {
        return builder;
    }
    let (end, has_ended) = mpsc::channel();
    let tally = Arc::new(Tally::default());
    let (attached, asked) = (tally::Attached(Arc::clone(&tally)), Arc::clone(&tally));
    let open = move |emitter: &WeakEmitter| {
        let (mut database, _) = tables.open()?;
        let conn = postgres(&mut *database).ok_or("triggers capture writes on PostgreSQL alone")?;
        captures.iter().try_for_each(|capture| installed(capture, conn, &tables))?;
        conn.batch_execute(SESSION)
            .map_err(|error| format!("its database does not take settings: {error}"))?;
        let captures = captures.into_iter().map(Watched::new).collect();
        let database = Some(database);
        let mut turner = Turner { tables, tally, database, captures, poll, relayed_elsewhere, failures: 0 };
        // Before anything is written here: relays leave what comes behind captured rows to who turns those.
        let emitter = emitter.upgrade().ok_or("its emitter is there no more")?;
        for place in 0..turner.captures.len() {
            if turner.is_turned_here(place, &emitter) {
                turner.beat(place).map_err(|error| format!("its tables cannot be written: {error}"))?;
            }
        }
        Ok(turner)
    };
    let run = move |mut turner: Turner, emitter: WeakEmitter, activity: &Arc<Activity>| {
        turner.run(&emitter, &has_ended, activity);
    };
    // Dropped, it ends the thread.
    let begin = companion::thread("emitter-capture", open, run, move || drop::<mpsc::Sender<()>>(end));
    builder.state(attached).troubles(move || asked.troubles()).companion("capture", begin)
}

fn postgres(database: &mut dyn Database) -> Option<&mut PgConnection> {
    let database: &mut dyn Any = database;
    database.downcast_mut()
}

/// Sees that the triggers are there.
fn installed(capture: &Capture, conn: &mut PgConnection, tables: &Tables) -> Result<(), String> {
    let table = &capture.traced.table;
    if tables.migrates() {
        return capture
            .apply(conn, tables)
            .map_err(|error| format!("the triggers of {table} could not be made: {error}"));
    }
    let (sql, wanted) = capture.traced.installed(tables.all_names());
    let found = conn.pairs(sql);
    let found = found.map_err(|error| format!("whether {table} has its triggers is not known: {error}"))?;
    let found: i64 = found.iter().map(|pair| pair.number).sum();
    if usize::try_from(found).is_ok_and(|found| found == wanted) {
        Ok(())
    } else {
        Err(format!(
            "the triggers of {table} are not there, or not those of this program: run `Capture::sql`"
        ))
    }
}

/// How often it is said that somebody turns a model's rows, and for how long that holds.
const BEAT: Duration = Duration::from_secs(3);
const LEASE: i64 = 10_000;

/// How many rows, and how many bytes of them, are turned in one transaction.
const BATCH: usize = 200;
const MOST_BYTES: i64 = 8 * 1024 * 1024;

/// A row that is larger is not even loaded: no event is so large.
const MOST_BYTES_OF_ONE: i64 = 16 * 1024 * 1024;

/// How long it waits after an error.
const AGAIN: Backoff = Backoff {
    base: Duration::from_millis(50),
    cap: Duration::from_secs(5),
    jitter: Duration::from_millis(50),
};

/// What a trigger writes is read by the same settings. And a node that hangs in the middle of its transaction, at a row or
/// because it was frozen, keeps the others from turning for no longer than that.
const SESSION: &str = "SET lc_monetary = 'C'; SET idle_in_transaction_session_timeout = '10s'";

struct Turner {
    tables: Tables,
    tally: Arc<Tally>,
    /// `None` while there is no connection.
    database: Option<Box<dyn Database>>,
    captures: Vec<Watched>,
    poll: Duration,
    relayed_elsewhere: bool,
    /// To connect, in a row.
    failures: u32,
}

/// A capture, and how it goes with it.
struct Watched {
    capture: Capture,
    /// The columns that are not read as they are, by their places; `None` where nobody asked yet.
    stand_ins: Option<HashMap<usize, String>>,
    next_beat: Instant,
    /// Not before that its rows are looked at.
    paused_until: Instant,
    /// In a row.
    failures: u32,
}

/// What a batch became.
#[derive(Default)]
struct Turned {
    events: Vec<Emission>,
    turned: usize,
    unreadable: usize,
    /// There may be more.
    more: bool,
}

impl Watched {
    fn new(capture: Capture) -> Self {
        let now = Instant::now();
        Self { capture, stand_ins: None, next_beat: now, paused_until: now, failures: 0 }
    }

    fn works(&mut self, tally: &Tally) {
        if std::mem::take(&mut self.failures) > 0 {
            tally.works(&self.capture.traced.table);
        }
    }
}

impl Turner {
    fn run(&mut self, emitter: &WeakEmitter, has_ended: &Receiver<()>, activity: &Activity) {
        let mut wait = Duration::ZERO;
        loop {
            if !matches!(has_ended.recv_timeout(wait), Err(RecvTimeoutError::Timeout)) {
                return;
            }
            // Held for one round only: the thread does not keep the node alive.
            let Some(emitter) = emitter.upgrade() else { return };
            let Some(attached) = emitter.state::<Attached>() else { return };
            wait = match attached.opened() {
                Some(opened) => activity.works(|| self.round(&emitter, &attached, opened)),
                // The outbox begins after this.
                None => Duration::from_millis(5),
            };
        }
    }

    /// Looks at each of the captures; returns for how long nothing is to be done.
    fn round(&mut self, emitter: &Emitter, attached: &Attached, opened: &Opened) -> Duration {
        let mut more = false;
        for place in 0..self.captures.len() {
            let Some(watched) = self.captures.get_mut(place) else { break };
            if Instant::now() < watched.paused_until || !self.is_turned_here(place, emitter) {
                continue;
            }
            if let Err(error) = self.connect() {
                self.failures += 1;
                self.tally.is_hindered("", format!("it waits for its database: {error}"));
                if self.failures.is_power_of_two() {
                    warn!(failures = self.failures, "captured writes wait for their database: {error}");
                }
                return AGAIN.delay(self.failures, fastrand::f64());
            }
            if std::mem::take(&mut self.failures) > 0 {
                self.tally.works("");
            }
            match self.turn(place, emitter, attached, opened) {
                Ok(has_more) => more |= has_more,
                Err(error) => self.pause(place, &error),
            }
        }
        if more { Duration::ZERO } else { self.poll }
    }

    fn connect(&mut self) -> QueryResult<()> {
        if self.database.is_none() {
            let mut database = self.tables.connected()?;
            database.run(SESSION)?;
            self.database = Some(database);
        }
        Ok(())
    }

    /// Whether somebody hears what this node makes of the rows; else others turn them.
    fn is_turned_here(&self, place: usize, emitter: &Emitter) -> bool {
        let Some(Watched { capture, .. }) = self.captures.get(place) else { return false };
        let is_heard = || {
            let listeners = emitter.listeners();
            listeners
                .iter()
                .any(|listener| listener.model == capture.traced.model && listener.hears.hears(Source::Local))
        };
        capture.traced.events.is_some()
            && (self.relayed_elsewhere || emitter.transport_status().is_some() || is_heard())
    }

    /// The database did not do what was asked. Other captures go on.
    fn pause(&mut self, place: usize, error: &Error) {
        // Whatever it was: a new connection knows nothing of it.
        self.database = None;
        let Some(watched) = self.captures.get_mut(place) else { return };
        watched.failures += 1;
        let table = &watched.capture.traced.table;
        self.tally.is_hindered(table, format!("what was captured of {table} cannot be turned: {error}"));
        watched.stand_ins = None;
        watched.paused_until = Instant::now() + AGAIN.delay(watched.failures, fastrand::f64());
        if watched.failures.is_power_of_two() {
            let (table, failures) = (&watched.capture.traced.table, watched.failures);
            warn!(failures, "what was captured of {table} cannot be turned: {error}");
        }
    }

    /// Says, now and then, that somebody turns the rows of a capture.
    fn beat(&mut self, place: usize) -> QueryResult<()> {
        let gone = || Error::BrokenTransactionManager;
        let conn = self.database.as_mut().and_then(|database| postgres(&mut **database)).ok_or_else(gone)?;
        let watched = self.captures.get_mut(place).ok_or_else(gone)?;
        if watched.next_beat <= Instant::now() {
            let rows = Rows { traced: &watched.capture.traced, names: self.tables.all_names() };
            conn.batch_execute(&rows.beat(LEASE))?;
            watched.next_beat = Instant::now() + BEAT;
        }
        Ok(())
    }

    /// Turns the next rows of a capture, if this node is the one to do it; says whether there may be more.
    fn turn(
        &mut self,
        place: usize,
        emitter: &Emitter,
        attached: &Attached,
        opened: &Opened,
    ) -> QueryResult<bool> {
        self.beat(place)?;
        let gone = || Error::BrokenTransactionManager;
        let conn = self.database.as_mut().and_then(|database| postgres(&mut **database)).ok_or_else(gone)?;
        let watched = self.captures.get_mut(place).ok_or_else(gone)?;
        let rows = Rows { traced: &watched.capture.traced, names: self.tables.all_names() };
        if conn.pairs(rows.any())?.is_empty() {
            watched.works(&self.tally);
            return Ok(false);
        }
        let stand_ins = match &watched.stand_ins {
            Some(stand_ins) => stand_ins,
            None => {
                let found = conn.pairs(rows.stand_ins())?.into_iter();
                let found = found.filter_map(|Pair { text, number }| {
                    usize::try_from(number).ok().map(|place| (place, text))
                });
                watched.stand_ins.insert(found.collect())
            }
        };
        let handing = attached.mailbox().door().handing();
        let batch = Batch { capture: &watched.capture, rows, stand_ins, emitter, opened, handing: &handing };
        let turned = conn.build_transaction().read_committed().run(|conn| batch.turn(conn))?;
        watched.works(&self.tally);
        self.tally.count(turned.turned, turned.unreadable);
        if turned.unreadable > 0 {
            let (table, rows) = (&watched.capture.traced.table, turned.unreadable);
            let captured = self.tables.all_names().table("captured");
            error!(rows, "captured rows of {table} cannot be read: `last_error` in {captured} says why");
        }
        for event in turned.events {
            attached.emit(emitter, event, &handing);
        }
        drop(handing);
        attached.mailbox().wake();
        Ok(turned.more)
    }
}

/// The next rows of a capture, within their transaction.
struct Batch<'b> {
    capture: &'b Capture,
    rows: Rows<'b>,
    stand_ins: &'b HashMap<usize, String>,
    emitter: &'b Emitter,
    opened: &'b Opened,
    handing: &'b Handing,
}

/// What was made of a row: an event, nothing, or an error.
type Made = (i64, Result<Option<Emission>, String>);

impl Batch<'_> {
    fn turn(&self, conn: &mut PgConnection) -> QueryResult<Turned> {
        // In a statement of its own: the next one sees what the last owner has committed.
        if conn.pairs(self.rows.lock())?.iter().all(|pair| pair.number == 0) {
            return Ok(Turned::default());
        }
        let mut due: Vec<Captured> = diesel::sql_query(self.rows.next(BATCH)).load(conn)?;
        let more = due.len() == BATCH;
        let fitting = fitting(&due);
        let more = more || fitting < due.len();
        due.truncate(fitting);
        let mut turned = Turned { more, ..Turned::default() };
        let (mut records, mut done) = (Vec::<(i64, Record)>::new(), Vec::new());
        for (id, made) in self.make(conn, due)? {
            let recorded = made.and_then(|event| {
                let Some(event) = event else { return Ok(None) };
                match self.emitter.record(&event) {
                    Ok(record) => Ok(Some((event, record))),
                    Err(error) => Err(error.to_string()),
                }
            });
            match recorded {
                Ok(recorded) => {
                    done.push(id);
                    if let Some((event, record)) = recorded {
                        records.push((id, record));
                        turned.events.push(event);
                    }
                }
                Err(error) => {
                    conn.batch_execute(&self.rows.unreadable(id, &error))?;
                    turned.unreadable += 1;
                }
            }
        }
        let Opened { store, lanes, .. } = self.opened;
        let handler = self.handing.handler(self.emitter.origin());
        let records = records.iter().map(|(id, record)| (*id, record));
        for insert in store.insert_as(records, *lanes, &handler) {
            conn.batch_execute(&insert)?;
        }
        turned.turned = done.len();
        if conn.change(self.rows.done(&done))? != done.len() {
            // Somebody else deleted them: then the events are not ours, either.
            return Err(Error::RollbackTransaction);
        }
        Ok(turned)
    }

    /// Makes events of all at once, and of one after the other where that does not go.
    fn make(&self, conn: &mut PgConnection, mut due: Vec<Captured>) -> QueryResult<Vec<Made>> {
        let mut made = Vec::with_capacity(due.len());
        due.retain(|row| {
            let fits = row.bytes <= MOST_BYTES_OF_ONE;
            if !fits {
                made.push((row.id, Err(format!("it has {} bytes, and no event is so large", row.bytes))));
            }
            fits
        });
        if let Ok(all) = self.events(conn, &due) {
            made.extend(all.into_iter().map(|(id, event)| (id, Ok(event))));
            return Ok(made);
        }
        for row in due {
            match self.events(conn, std::slice::from_ref(&row)) {
                Ok(events) => made.extend(events.into_iter().map(|(id, event)| (id, Ok(event)))),
                Err(error) => {
                    // It is this row's fault only where none at all can be read.
                    self.events(conn, &[])?;
                    made.push((row.id, Err(error.to_string())));
                }
            }
        }
        Ok(made)
    }

    fn events(&self, conn: &mut PgConnection, due: &[Captured]) -> QueryResult<Vec<(i64, Option<Emission>)>> {
        let ids: Vec<i64> = due.iter().map(|row| row.id).collect();
        let images = self.rows.images(&ids, self.stand_ins);
        conn.transaction(|conn| {
            let events = || (self.capture.events)(conn, self.emitter, due, images);
            // How the model is read is the user's.
            catch_unwind(AssertUnwindSafe(events)).unwrap_or_else(|_| Err(unreadable("reading it panicked")))
        })
    }
}

/// How many rows are small enough to be turned together; one in any case.
fn fitting(due: &[Captured]) -> usize {
    let mut bytes = 0_i64;
    let fits = due.iter().take_while(|row| {
        // One that is too large is not loaded.
        let own = if row.bytes > MOST_BYTES_OF_ONE { 0 } else { row.bytes };
        bytes = bytes.saturating_add(own);
        bytes <= MOST_BYTES
    });
    fits.count().max(1)
}
