//! The thread of an outbox: takes lanes, publishes their rows, and moves them to the history.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::result::QueryResult;
use emitter_core::record::{Number, Parcel};
use emitter_core::retry::Backoff;
use emitter_core::topic::Topic;
use emitter_core::transport::{Properties, PublishError};
use emitter_core::{Emitter, EventId, WeakEmitter};
use tracing::{error, info, warn};

use super::handing::handler;
use super::mailbox::{self, Mail, Mailbox, Sending, Standing};
use super::store::{self, Due, Next, Reading, Settled, Store, Unsettled};
use super::{Attached, Opened, OutboxState, Queueing};
use crate::companion::Activity;
use crate::tables::{Database, Queued, Tables};

mod answers;
mod bookkeeping;
mod config;
mod heads;
mod inheritance;
mod leases;
mod on_the_way;
mod questions;

use self::bookkeeping::Bookkeeping;
pub use self::config::RelayConfig;
use self::heads::HeadTimes;
use self::on_the_way::{Line, OnTheWay, Sent};
use self::questions::Questions;

/// A relay, and what it knows.
pub(super) struct Relay {
    /// It takes lanes.
    relays: bool,
    /// It clears the history: as a relay does, and a node with local listeners alone.
    clears: bool,
    config: RelayConfig,
    /// What this node commits and writes down afterwards.
    queueing: Queueing,
    /// How far its listeners are, where something went wrong.
    ledger: Bookkeeping,
    tables: Tables,
    /// `None` while there is no connection.
    database: Option<Box<dyn Database>>,
    store: Store,
    outbox_id: Arc<str>,
    all_lanes: u32,
    id: String,
    /// `service/node`.
    node: String,
    service: String,
    /// Whose rows this node's listeners are handed.
    handler: String,
    /// Up to which of the rows that others left this node's listeners were handed them.
    inherited: i64,
    /// There may be more of those.
    inherits: bool,
    /// No more of them are read at a time: as many as listeners had room for.
    inherits_most: usize,
    /// Nothing is handed on, either.
    is_paused: bool,
    /// When it is looked whether listeners may be handed at once what is committed.
    next_opening: Instant,
    /// Rows of this very life that were in nobody's hand at the last look: they are handed on if they still are
    /// at the next.
    stray: BTreeSet<i64>,
    began: Instant,
    /// When the history is cleared up again.
    next_clearing: Instant,
    /// Others write or relay as well: what they commit is looked for more often.
    changes: bool,
    /// Others are to be told of what this node committed.
    tells: bool,
    mailbox: Arc<Mailbox>,
    emitter: WeakEmitter,
    lanes: BTreeMap<i32, Owned>,
    on_the_way: OnTheWay,
    /// Keys of which a row was refused, until it is known what became of those that follow it, and those that
    /// park what follows one that is on its way; with rows that were read meanwhile, and their lanes.
    held: HashMap<Line, BTreeMap<i64, i32>>,
    /// Rows that are to be moved to the history, and when that is done at the latest.
    confirmed: Vec<Settled>,
    settled_by: Instant,
    /// Rows of which is to be noted why they were not published.
    failed: Vec<Unsettled>,
    handled: Vec<EventId>,
    attempts: u64,
    next_beat: Instant,
    next_poll: Instant,
    /// Not before that anything is published: the way to the broker takes nothing.
    blocked_until: Instant,
    /// Of the database, in a row.
    failures: u32,
    next_connection: Instant,
    /// No more may be on the way: the next that is answered makes room.
    is_full: bool,
    /// How large the rows are, as far as those tell that were read last.
    row_bytes: usize,
    questions: Questions,
    /// When it is told how far the outbox is.
    head_times: HeadTimes,
    /// When it is looked how the outbox stands.
    next_look: Instant,
}

/// A lane that the relay owns.
struct Owned {
    epoch: i64,
    /// By model, in lower case: upper and lower case are not told apart.
    counts: HashMap<String, Count>,
    /// It is to be given back when nothing of it is on its way.
    leaving: bool,
    /// There was more in it than was asked for.
    is_full: bool,
}

/// The numbers of one model in a lane.
struct Count {
    /// Where this owner began.
    base: i64,
    /// The last that was given.
    last: i64,
    /// What is published and not settled, in the order of the numbers: number, row, and publishing. A number
    /// belongs to one publishing of a row, and stands for nothing if that fails.
    sent: VecDeque<(i64, i64, u64)>,
    /// When the last was given.
    changed: Instant,
}

/// How many rows are read of a lane that had no more the last time.
const A_FEW: usize = 32;

/// How many bytes may be on their way, but for a last row: less than a transport's queue takes by default.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// How long confirmed rows wait for others, for to settle them is a COMMIT. Nobody waits for that.
const GATHER: Duration = Duration::from_millis(20);

/// How long a relay waits when the way to the broker takes nothing.
const BLOCKED: Duration = Duration::from_millis(500);

/// How long a relay waits before it connects again.
const RECONNECT: Backoff = Backoff {
    base: Duration::from_millis(50),
    cap: Duration::from_secs(5),
    jitter: Duration::from_millis(50),
};

/// How often it is asked whether others wrote something.
const LOOK: Duration = Duration::from_millis(10);

/// How long a thread waits where there is nothing to do but to look whether the emitter is still there.
const IDLE: Duration = Duration::from_secs(1);

impl Relay {
    /// A relay of an emitter that is there.
    pub(super) fn new(
        tables: Tables,
        config: Option<RelayConfig>,
        database: Box<dyn Database>,
        opened: Opened,
        queueing: Queueing,
        emitter: WeakEmitter,
    ) -> Option<Self> {
        let alive = emitter.upgrade()?;
        let mailbox = Arc::clone(alive.state::<Attached>()?.mailbox());
        let origin = alive.origin().clone();
        let has_transport = alive.transport_status().is_some();
        if config.is_some() && !has_transport {
            info!("the outbox relays nothing, for its emitter has no transport");
        }
        let now = Instant::now();
        let relays = config.is_some() && has_transport;
        if relays {
            let mailbox = Arc::clone(&mailbox);
            alive.answer_asks(move |ask| mailbox.asked(ask));
        }
        Some(Self {
            relays,
            clears: config.is_some(),
            queueing,
            ledger: Bookkeeping::new(opened.store.clone(), origin.service.to_string()),
            config: config.unwrap_or_default().within_bounds(),
            tables,
            database: Some(database),
            store: opened.store,
            outbox_id: opened.outbox_id,
            all_lanes: opened.lanes,
            id: origin.incarnation.to_string(),
            node: origin.to_string(),
            service: origin.service.to_string(),
            handler: handler(&origin),
            inherited: 0,
            inherits: false,
            inherits_most: usize::MAX,
            is_paused: false,
            next_opening: now,
            stray: BTreeSet::new(),
            began: now,
            next_clearing: now,
            changes: false,
            tells: false,
            mailbox,
            emitter,
            lanes: BTreeMap::new(),
            on_the_way: OnTheWay::default(),
            held: HashMap::new(),
            confirmed: Vec::new(),
            settled_by: now,
            failed: Vec::new(),
            handled: Vec::new(),
            attempts: 0,
            next_beat: now,
            next_poll: now,
            blocked_until: now,
            failures: 0,
            next_connection: now,
            is_full: false,
            row_bytes: 0,
            questions: Questions::default(),
            head_times: HeadTimes::new(now),
            next_look: now,
        })
    }

    pub(super) fn run(&mut self, activity: &Activity) {
        let mut wait = Duration::ZERO;
        loop {
            let mail = self.mailbox.take(wait);
            // Held for one round only: the thread does not keep the node alive.
            let Some(emitter) = self.emitter.upgrade() else { return self.leave() };
            let ending = mail.ending;
            self.tells |= mail.woken;
            if mail.woken || self.is_full && !mail.outcomes.is_empty() {
                self.next_poll = Instant::now();
            }
            self.take(mail);
            wait = match activity.works(|| self.work(&emitter, ending)) {
                Ok(wait) if self.database.is_some() => wait.min(self.queueing.wait()).min(self.ledger.wait()),
                Ok(wait) => wait,
                Err(error) => self.broken(&error),
            };
            let queued = emitter.queue_status().map_or(0, |queue| queue.waiting);
            if ending && queued == 0 && self.on_the_way.is_empty() && self.has_noted_all() {
                return self.leave();
            }
        }
    }

    fn has_noted_all(&self) -> bool {
        self.confirmed.is_empty()
            && self.failed.is_empty()
            && self.handled.is_empty()
            && self.ledger.is_empty()
    }

    /// The database did not do what was asked.
    fn broken(&mut self, error: &diesel::result::Error) -> Duration {
        self.failures += 1;
        let delay = RECONNECT.delay(self.failures, fastrand::f64());
        if self.failures.is_power_of_two() {
            warn!(failures = self.failures, "the outbox waits for its database: {error}");
        }
        self.mailbox.troubled(Some(error.to_string()));
        // Whatever it was: a new connection knows nothing of it.
        self.database = None;
        self.next_connection = Instant::now() + delay;
        delay
    }

    /// Looks how the outbox stands. Rows are counted for that: the more there are, the more seldom, up to once a minute.
    fn look(&mut self) -> QueryResult<()> {
        let begun = Instant::now();
        let store = self.store.clone();
        let state = OutboxState::read(self.database()?, &store)?;
        let rest = (50 * begun.elapsed()).clamp(mailbox::LOOK, Duration::from_secs(60));
        self.next_look = Instant::now() + rest;
        let lanes = self.lanes.len();
        self.mailbox.stands(Standing { at: begun, next: self.next_look, state, lanes });
        Ok(())
    }

    fn leave(&mut self) {
        // What cannot be noted now is published again by whoever takes the lanes.
        if self.database.is_some() && self.note(true).is_err() {
            self.database = None;
        }
        if let Some(database) = &mut self.database
            && let Err(error) = database.run(&self.store.leave(&self.id))
        {
            // Then the lease runs out by itself.
            info!("the lanes of the outbox could not be given back: {error}");
        }
    }

    /// Notes what was told.
    fn take(&mut self, mail: Mail) {
        self.handled.extend(mail.handled);
        for (event, progress) in mail.progress {
            self.ledger.add(event, progress);
        }
        self.asked(mail.asks);
        let (mut touched, mut lines) = (BTreeSet::new(), HashSet::new());
        for (Sending { id, attempt }, outcome) in mail.outcomes {
            // Of a lane that was lost meanwhile nothing is known any more.
            let Some(row) = self.on_the_way.get_mut(id).filter(|row| row.attempt == attempt) else {
                continue;
            };
            touched.insert((row.at.lane, row.at.model.clone()));
            if outcome.is_err() {
                self.held.entry(row.line.clone()).or_default();
            }
            row.outcome = Some(outcome);
            if self.held.contains_key(&row.line) {
                lines.insert(row.line.clone());
            }
        }
        for line in lines {
            self.decide(&line);
        }
        if self.confirmed.is_empty() {
            self.settled_by = Instant::now() + GATHER;
        }
        for (lane, model) in touched {
            self.collect(lane, &model);
        }
    }

    /// Decides about a key of which rows wait for what becomes of those before them, when all that was published
    /// of it is answered.
    fn decide(&mut self, line: &Line) {
        let rows = || self.on_the_way.of_line(line);
        if rows().any(|row| row.outcome.is_none()) {
            return;
        }
        let last_good = rows().filter(|row| row.is_confirmed()).map(|row| row.at.id).next_back();
        let refused: Vec<i64> = rows().filter(|row| row.is_refused()).map(|row| row.at.id).collect();
        self.held.remove(line);
        self.next_poll = Instant::now();
        for id in refused {
            let Some(Sent { at, retries, outcome: Some(Err(error)), .. }) = self.on_the_way.remove(id) else {
                continue;
            };
            let overtaken = last_good.is_some_and(|last| id < last);
            match self.verdict(at, retries, &error, overtaken) {
                Some(unsettled) => self.failed.push(unsettled),
                None => self.blocked_until = Instant::now() + BLOCKED,
            }
        }
    }

    /// What is to become of a row that was not published; `None` where nobody asked the broker.
    fn verdict(&self, at: Settled, retries: i32, error: &PublishError, overtaken: bool) -> Option<Unsettled> {
        let attempts = u32::try_from(retries).unwrap_or_default() + 1;
        let next = match error {
            // The broker was not asked: it stays as it is, and nobody counts this as an attempt.
            PublishError::Closed | PublishError::QueueFull { .. } | PublishError::Displaced => return None,
            // A later event of the key is at the broker: this one would undo it.
            _ if overtaken => Next::Failed,
            PublishError::TooLarge { .. } | PublishError::EndsConnections { .. } => Next::Failed,
            _ if attempts >= self.config.max_attempts => Next::Failed,
            _ => Next::Again(millis(self.config.backoff.delay(attempts, fastrand::f64()))),
        };
        let error = if overtaken {
            format!("{error}; a later event of its key was published")
        } else {
            error.to_string()
        };
        Some(Unsettled { at, error, next })
    }

    /// Takes what may be settled: in the order of the numbers, so that all up to the last one noted are known.
    fn collect(&mut self, lane: i32, model: &str) {
        let Some(count) = self.lanes.get_mut(&lane).and_then(|owned| owned.counts.get_mut(model)) else {
            return;
        };
        while let Some((_, id, attempt)) = count.sent.front() {
            match self.on_the_way.get(*id).filter(|row| row.attempt == *attempt) {
                // It failed, or its lane was lost.
                None => {}
                Some(row) if row.is_confirmed() => {
                    self.confirmed.extend(self.on_the_way.remove(*id).map(|row| row.at));
                }
                Some(_) => return,
            }
            count.sent.pop_front();
        }
    }

    /// Everything that is due now; returns for how long nothing is.
    fn work(&mut self, emitter: &Emitter, ending: bool) -> QueryResult<Duration> {
        let now = Instant::now();
        if self.database.is_none() {
            if now < self.next_connection {
                return Ok(self.next_connection - now);
            }
            self.database = Some(self.connected()?);
            self.next_beat = now;
        }
        // First of all: it is in memory alone.
        if let Some(database) = &mut self.database
            && self.queueing.write(&mut **database, emitter)?
        {
            (self.next_poll, self.tells) = (now, true);
        }
        // Before what listeners are done with leaves the outbox.
        if let Some(database) = &mut self.database {
            self.ledger.write(&mut **database, emitter)?;
        }
        if now >= self.next_beat {
            self.beat(emitter, ending)?;
        }
        // After the commits, and once for all of them.
        if std::mem::take(&mut self.tells)
            && self.changes
            && self.lanes.len() < self.all_lanes as usize
            && let Some(notify) = self.store.notify()
        {
            self.database()?.run(&notify)?;
        }
        self.note(ending)?;
        if self.clears && now >= self.next_clearing {
            self.clear()?;
        }
        if now >= self.next_look && (emitter.reports() || self.mailbox.is_wanted()) {
            self.look()?;
        }
        let is_shut = self.mailbox.door().is_shut();
        if (self.inherits || is_shut) && !self.is_paused && !ending {
            self.hand_on(emitter)?;
            if is_shut && !self.inherits {
                self.open_door()?;
            }
        }
        if self.relays && self.changes && self.database()?.has_changed()? {
            self.next_poll = now;
        }
        let mut more = false;
        if self.relays && !ending && Instant::now() >= self.next_poll.max(self.blocked_until) {
            more = self.publish(emitter)?;
            self.next_poll = Instant::now() + if more { Duration::ZERO } else { self.config.poll };
        }
        // Behind what is published, so that who hears it has been sent all that it tells of.
        self.answer(emitter);
        if self.relays && !ending {
            self.tell_heads(emitter);
        }
        if std::mem::take(&mut self.failures) > 0 {
            self.mailbox.troubled(None);
        }
        if more {
            return Ok(Duration::ZERO);
        }
        if !self.questions.is_empty() {
            return Ok(LOOK);
        }
        let now = Instant::now();
        let next_poll = self.next_poll.max(self.blocked_until);
        let next = if self.relays { self.next_beat.min(next_poll) } else { self.next_beat };
        let next = if self.confirmed.is_empty() { next } else { next.min(self.settled_by) };
        let hands_on = (self.inherits || is_shut) && !self.is_paused;
        let longest = if self.relays && self.changes || hands_on { LOOK } else { IDLE };
        Ok(next.saturating_duration_since(now).clamp(Duration::from_millis(1), longest))
    }

    /// A connection that is told of what others commit.
    fn connected(&self) -> QueryResult<Box<dyn Database>> {
        let mut database = self.tables.connected()?;
        if let Some(listen) = self.store.listen() {
            database.run(&listen)?;
        }
        Ok(database)
    }

    /// The connection. (There is one wherever this is called.)
    fn database(&mut self) -> QueryResult<&mut dyn Database> {
        match &mut self.database {
            Some(database) => Ok(&mut **database),
            None => Err(diesel::result::Error::BrokenTransactionManager),
        }
    }

    /// Clears away what was settled long ago.
    fn clear(&mut self) -> QueryResult<()> {
        const MOST: usize = 1_000;
        // Also where this fails: it keeps nothing else waiting.
        self.next_clearing = Instant::now() + Duration::from_secs(60);
        let clock = self.store.clock();
        let now = self.database()?.pairs(clock)?.first().map_or(0, |clock| clock.number);
        let old = self.store.old(now.saturating_sub(millis(self.config.keep)), MOST);
        let old = self.database()?.pairs(old)?;
        if !old.is_empty() {
            let clear = self.store.clear(&old);
            self.database()?.run(&clear)?;
        }
        if old.len() == MOST {
            self.next_clearing = Instant::now();
        }
        Ok(())
    }

    /// Whether what was confirmed is to be settled now.
    fn is_to_settle(&self) -> bool {
        // What is told of a stream is told from the history.
        let asked = !self.questions.is_empty();
        let leaves = self.lanes.values().any(|lane| lane.leaving);
        let enough = self.config.batch.min(self.config.window).div_ceil(2);
        asked || leaves || self.confirmed.len() >= enough || Instant::now() >= self.settled_by
    }

    /// Writes down what became of rows.
    fn note(&mut self, ending: bool) -> QueryResult<()> {
        while let Some(row) = self.failed.last() {
            let given_up = !matches!(row.next, Next::Again(_));
            let fail = self.store.fail(&self.id, row);
            self.database()?.run(&fail)?;
            if let Some(row) = self.failed.pop().filter(|_| given_up) {
                error!(row = row.at.id, "a row of the outbox was given up: {}", row.error);
            }
        }
        let settles = ending || self.is_to_settle();
        while settles && !self.confirmed.is_empty() {
            let most = self.confirmed.len().min(self.config.batch);
            let settle = self.store.settle(&self.id, &self.confirmed[..most]);
            self.database()?.run(&settle)?;
            self.confirmed.drain(..most);
            if self.is_full {
                self.next_poll = Instant::now();
            }
        }
        // Events stay until it is written how far their listeners were.
        let is_written = |event: &mut EventId| !self.ledger.has(*event);
        let mut handled: Vec<EventId> = self.handled.extract_if(.., is_written).collect();
        let noted = self.note_handled(&mut handled);
        // What the database did not take waits for the next one: nobody else knows of it.
        self.handled.append(&mut handled);
        noted?;
        if self.lanes.values().any(|lane| lane.leaving) {
            self.give_back()?;
        }
        Ok(())
    }

    /// Writes down that listeners are done with events; what is left in `handled` was not written.
    fn note_handled(&mut self, handled: &mut Vec<EventId>) -> QueryResult<()> {
        while !handled.is_empty() {
            let most = handled.len().min(self.config.batch);
            let ids: Vec<String> = handled[..most].iter().map(ToString::to_string).collect();
            let done = self.store.handled(&ids);
            self.database()?.run(&done)?;
            self.mailbox.noted(&handled[..most]);
            handled.drain(..most);
        }
        Ok(())
    }

    /// Reads rows and publishes them; `true` when there may be more, and room for it.
    fn publish(&mut self, emitter: &Emitter) -> QueryResult<bool> {
        let mut free = self.free();
        self.is_full = free == 0;
        // As many as may be on the way, if they are as large as those before.
        let bytes = MOST_BYTES.saturating_sub(self.on_the_way.bytes()) / self.row_bytes.max(1);
        let readings = self.readings(free.min(self.config.batch).min(bytes.max(1)));
        if readings.is_empty() {
            return Ok(false);
        }
        let mut rows = match self.store.due(&self.id, &readings) {
            Due::Rows(sql) => self.database()?.queued(sql)?,
            Due::Ids(sql) => {
                let ids = self.database()?.pairs(sql)?;
                let rows = self.store.rows(ids.iter().map(|pair| pair.number));
                if ids.is_empty() { Vec::new() } else { self.database()?.queued(rows)? }
            }
        };
        // However the database went about it.
        rows.sort_unstable_by_key(|row| row.id);
        if !rows.is_empty() {
            self.row_bytes = rows.iter().map(|row| row.payload.len()).sum::<usize>() / rows.len();
        }
        let mut came = HashMap::<i32, usize>::new();
        for row in rows {
            *came.entry(row.lane).or_default() += 1;
            // What is left is read again, and first of all: it is before everything that comes after it.
            self.is_full |= free == 0 || self.on_the_way.bytes() >= MOST_BYTES;
            if !self.is_full {
                self.publish_row(emitter, row);
                free -= 1;
            }
        }
        for Reading { lane, most, .. } in readings {
            if let Some(owned) = self.lanes.get_mut(&lane) {
                owned.is_full = came.get(&lane).is_some_and(|came| *came >= most);
            }
        }
        Ok(self.lanes.values().any(|owned| owned.is_full && !owned.leaving))
    }

    /// How many rows more may be on their way.
    fn free(&self) -> usize {
        let held = self.held.values().map(BTreeMap::len).sum::<usize>();
        let kept = self.on_the_way.len() + self.confirmed.len() + held;
        let free = self.config.window.saturating_sub(kept);
        if self.on_the_way.bytes() < MOST_BYTES { free } else { 0 }
    }

    /// What is to be read of each lane, all together about as much as there is room for.
    fn readings(&self, room: usize) -> Vec<Reading> {
        if room == 0 {
            return Vec::new();
        }
        let mut on_the_way = HashMap::<i32, Vec<i64>>::new();
        for row in self.on_the_way.rows() {
            on_the_way.entry(row.at.lane).or_default().push(row.at.id);
        }
        for row in &self.confirmed {
            on_the_way.entry(row.lane).or_default().push(row.id);
        }
        for (id, lane) in self.held.values().flatten() {
            on_the_way.entry(*lane).or_default().push(*id);
        }
        let lanes = || self.lanes.iter().filter(|(_, owned)| !owned.leaving);
        let full = lanes().filter(|(_, owned)| owned.is_full).count();
        let few = room.div_ceil(lanes().count().max(1)).min(A_FEW);
        let share = room.checked_div(full).unwrap_or_default().max(few);
        // Always from the beginning: a row with a lower number may come to be seen later, for its transaction took
        // longer, and what comes after it in its key must not be published before it.
        let readings = lanes().map(|(lane, owned)| Reading {
            lane: *lane,
            except: on_the_way.remove(lane).unwrap_or_default(),
            most: if owned.is_full { share } else { few },
        });
        readings.collect()
    }

    fn publish_row(&mut self, emitter: &Emitter, row: Queued) {
        let Some(owned) = self.lanes.get_mut(&row.lane) else { return };
        let line = Line::of(&row);
        // It waits for what becomes of one before it.
        if let Some(held) = self.held.get_mut(&line) {
            held.insert(row.id, row.lane);
            return;
        }
        let model = row.model.to_ascii_lowercase();
        let count = owned.counts.entry(model.clone()).or_insert_with(|| Count::new(0));
        let sequence = count.last + 1;
        let mut number = Number {
            outbox: Arc::clone(&self.outbox_id),
            lane: u32::try_from(row.lane).unwrap_or_default(),
            epoch: u64::try_from(owned.epoch).unwrap_or_default(),
            base: u64::try_from(count.base).unwrap_or_default(),
            sequence: u64::try_from(sequence).unwrap_or_default(),
            row: None,
        };
        let at = Settled {
            id: row.id,
            lane: row.lane,
            epoch: owned.epoch,
            model,
            // Rows of one stream share it, so that it does not tell which row it is; that stands beside it.
            stream: number.stream(),
            sequence,
            handled_here: row.handled_here != 0,
        };
        number.row = u64::try_from(row.id).ok();
        let (retries, parks) = (row.retries, row.park != 0);
        let Some(parcel) = parcel(row) else {
            // Somebody else wrote into the table.
            let error = "it is not as an outbox writes it".to_owned();
            self.failed.push(Unsettled { at, error, next: Next::Unreadable });
            return;
        };
        self.attempts += 1;
        (count.last, count.changed) = (sequence, Instant::now());
        count.sent.push_back((sequence, at.id, self.attempts));
        let sending = Sending { id: at.id, attempt: self.attempts };
        // What is parked behind one that fails must not be on its way with it.
        if parks {
            self.held.entry(line.clone()).or_default();
        }
        let bytes = parcel.payload.len();
        self.on_the_way.insert(Sent { at, line, attempt: self.attempts, retries, bytes, outcome: None });
        let mailbox = Arc::clone(&self.mailbox);
        emitter.publish_record(parcel, &number, move |outcome| mailbox.told(sending, outcome));
    }
}

impl Count {
    /// Continues after `base`.
    fn new(base: i64) -> Self {
        Self { base, last: base, sent: VecDeque::new(), changed: Instant::now() }
    }

    /// Up to here everything is settled, or stands for nothing.
    fn settled(&self) -> i64 {
        self.sent.front().map_or(self.last, |(sequence, ..)| sequence - 1)
    }
}

/// What is published of a row; `None` where it is not as an outbox writes it.
fn parcel(row: Queued) -> Option<Parcel> {
    let id: EventId = row.event_id.parse().ok()?;
    let properties = match row.properties {
        Some(properties) => Properties::from_json(&properties)?,
        None => store::usual_properties(&row.event_id),
    };
    let qos = store::qos(row.qos)?;
    Topic::parse(&row.topic).ok()?;
    Some(Parcel { id, topic: row.topic, qos, payload: row.payload.into_bytes(), properties })
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
