//! The thread of a mirror: agrees with others who writes, and writes what passes on the bus.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use diesel::result::QueryResult;
use emitter_core::retry::Backoff;
use emitter_core::transport::Ack;
use emitter_core::{Bus, Emitter, Passing, WeakEmitter};
use tracing::{error, info, warn};

use super::bell::Bell;
use super::known::{Answer, Identity, Known};
use super::store::{Row, SKIPPED, Store};
use super::{MirrorConfig, Tally};
use crate::companion::Activity;
use crate::tables::{Database, Pair, Tables};

/// What a node's mirror works with.
pub(super) struct Writer {
    config: MirrorConfig,
    tables: Tables,
    /// `None` while there is no connection.
    database: Option<Box<dyn Database>>,
    store: Store,
    /// The client at the broker, and what the lease is called.
    name: String,
    /// This life.
    owner: String,
    node: String,
    tally: Arc<Tally>,
    bell: Arc<Bell>,
    /// While it is this node that writes.
    writing: Option<Writing>,
    next_beat: Instant,
    next_clearing: Instant,
    next_connection: Instant,
    /// Of the database, in a row.
    failures: u32,
}

/// What there is while the lease is this node's.
struct Writing {
    /// `None` where somebody else has thrown it off, until it is opened again.
    bus: Option<Bus>,
    /// What the buses before this one refused.
    refused: u64,
    known: Known,
    gathered: Gathered,
    /// The number of the last batch that was written.
    batches: i64,
    /// The number of a batch of which is not known whether it was written.
    doubtful: Option<i64>,
}

/// What was taken from the bus, and is not written down.
#[derive(Default)]
struct Gathered {
    /// Each is written by itself.
    parts: VecDeque<Vec<Row>>,
    /// Of all of them: it is told to the broker when the last part is written.
    acks: Vec<Ack>,
    /// Of the last part.
    bytes: usize,
    /// How often the first part was refused.
    refusals: u32,
    /// It was looked for in the table whether some of it is there.
    is_sifted: bool,
}

/// How many rows are written in one statement at most.
const MOST_ROWS: usize = 1_000;

/// How many bytes are written at a time, about.
const MOST_BYTES: usize = 1 << 20;

/// How long a writer waits before it connects again.
const RECONNECT: Backoff = Backoff {
    base: Duration::from_millis(50),
    cap: Duration::from_secs(5),
    jitter: Duration::from_millis(50),
};

/// How long the last acknowledgements may take at an end.
const GOODBYE: Duration = Duration::from_secs(2);

/// How often it is looked whether the broker has confirmed the subscription.
const SUBSCRIBING: Duration = Duration::from_millis(20);

/// How often it is looked whether the emitter is still there.
const LOOK: Duration = Duration::from_secs(1);

/// How many rows are cleared away at a time.
const CLEARED: usize = 1_000;

impl Writer {
    pub(super) fn new(
        config: MirrorConfig,
        tables: Tables,
        database: Box<dyn Database>,
        emitter: &Emitter,
        tally: Arc<Tally>,
        bell: Arc<Bell>,
    ) -> Self {
        let (origin, now) = (emitter.origin(), Instant::now());
        Self {
            name: format!("{}-{}", origin.service, config.name),
            owner: origin.incarnation.to_string(),
            node: origin.to_string(),
            store: Store { dialect: database.dialect(), names: tables.all_names().clone() },
            config,
            tables,
            database: Some(database),
            tally,
            bell,
            writing: None,
            next_beat: now,
            next_clearing: now,
            next_connection: now,
            failures: 0,
        }
    }

    pub(super) fn run(&mut self, emitter: &WeakEmitter, activity: &Activity) {
        loop {
            // Held nowhere for long: the thread does not keep the node alive.
            if emitter.upgrade().is_none() {
                return self.leave();
            }
            let ending = self.bell.is_ending();
            let wait = match self.work(emitter, ending, activity) {
                Ok(wait) => wait,
                Err(error) => self.broken(&error),
            };
            if ending {
                return self.leave();
            }
            if let Some(wait) = wait {
                self.bell.wait(Instant::now() + wait.min(LOOK), std::future::pending::<()>());
            }
        }
    }

    /// The database did not do what was asked.
    fn broken(&mut self, error: &diesel::result::Error) -> Option<Duration> {
        self.failures += 1;
        self.tally.database(Some(format!("it waits for its database: {error}")));
        let delay = RECONNECT.delay(self.failures, fastrand::f64());
        if self.failures.is_power_of_two() {
            warn!(failures = self.failures, "the mirror waits for its database: {error}");
        }
        // Whatever it was: a new connection knows nothing of it, and what was begun on this one is undone.
        self.database = None;
        self.next_connection = Instant::now() + delay;
        self.next_beat = self.next_connection;
        Some(delay)
    }

    fn leave(&mut self) {
        self.stand_by(GOODBYE);
        if let Some(database) = &mut self.database
            && let Err(error) = database.run(&self.store.leave(&self.name, &self.owner))
        {
            // Then the lease runs out by itself.
            info!("the writing of the mirror could not be given back: {error}");
        }
    }

    /// Writes no more. What is not written down was not acknowledged, either: whoever writes next gets it.
    fn stand_by(&mut self, goodbye: Duration) {
        let Some(writing) = self.writing.take() else { return };
        drop(writing.gathered);
        self.tally.writes.store(false, Ordering::Relaxed);
        self.tally.hears.store(false, Ordering::Relaxed);
        self.tally.bus(Vec::new());
        self.tally.days(None);
        // Where another one has the lease, nothing more may be acknowledged in its name.
        if let Some(bus) = writing.bus.filter(|_| !goodbye.is_zero()) {
            bus.close(goodbye);
        }
    }

    /// Everything that is due now; returns for how long nothing is.
    fn work(
        &mut self,
        emitter: &WeakEmitter,
        ending: bool,
        activity: &Activity,
    ) -> QueryResult<Option<Duration>> {
        let now = Instant::now();
        if self.database.is_none() {
            if now < self.next_connection {
                return Ok(Some(self.next_connection - now));
            }
            activity.works(|| self.connect())?;
        }
        if now >= self.next_beat {
            activity.works(|| self.beat(emitter, ending))?;
        }
        if self.writing.is_none() {
            self.works();
            return Ok(Some(self.next_beat.saturating_duration_since(Instant::now())));
        }
        if !ending {
            if now >= self.next_clearing {
                activity.works(|| self.clear())?;
            }
            self.gather(emitter);
        }
        activity.works(|| self.write())?;
        self.works();
        Ok(None)
    }

    /// The database did what was asked.
    fn works(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            self.tally.database(None);
        }
    }

    /// Says that the writer is there, or takes the writing over.
    fn beat(&mut self, emitter: &WeakEmitter, ending: bool) -> QueryResult<()> {
        let lease = millis(self.config.lease);
        if self.writing.is_some() {
            let keep = self.store.keep(&self.name, &self.owner, lease);
            self.database()?.run(&keep)?;
            if self.batches()?.is_none() {
                self.is_not_mine();
            }
        } else if !ending {
            self.take_over(emitter, lease)?;
        }
        // A node that stands by looks more often.
        let pause = if self.writing.is_some() { lease / 3 } else { (lease / 15).min(1_000) };
        self.next_beat = Instant::now() + Duration::from_millis(pause.max(1).unsigned_abs());
        Ok(())
    }

    fn is_not_mine(&mut self) {
        warn!(mirror = self.name, "the lease ran out: another node writes the mirror now");
        self.stand_by(Duration::ZERO);
    }

    /// Makes a new connection. What an earlier one may still be at is written by then, or never.
    fn connect(&mut self) -> QueryResult<()> {
        let mut database = self.tables.connected()?;
        if self.writing.is_some() {
            database.run(&self.store.skip(&self.name, &self.owner))?;
        }
        self.database = Some(database);
        if self.writing.is_none() {
            return Ok(());
        }
        let Some(batches) = self.batches()? else {
            self.is_not_mine();
            return Ok(());
        };
        let doubtful = self.writing.as_mut().and_then(|writing| writing.doubtful.take());
        // However often was skipped: connections may break at that, too.
        if doubtful.is_some_and(|doubtful| (batches - doubtful) % SKIPPED == 0) {
            self.is_written();
        }
        if let Some(writing) = &mut self.writing {
            writing.batches = batches;
        }
        Ok(())
    }

    /// The number of the last batch, while the lease is this node's.
    fn batches(&mut self) -> QueryResult<Option<i64>> {
        let batches = self.store.batches(&self.name, &self.owner);
        Ok(self.database()?.pairs(batches)?.first().map(|pair| pair.number))
    }

    fn take_over(&mut self, emitter: &WeakEmitter, lease: i64) -> QueryResult<()> {
        let enter = self.store.enter(&self.name);
        let take = self.store.take(&self.name, &self.owner, &self.node, lease);
        let database = self.database()?;
        database.run(&enter)?;
        if database.change(take)? != 1 {
            return Ok(());
        }
        // After that, for what the last owner wrote is to be seen.
        let Some(batches) = self.batches()? else { return Ok(()) };
        let known = self.store.known(Known::MOST);
        let settle_in = self.store.settle_in();
        let database = self.database()?;
        if let Some(settle_in) = settle_in {
            database.run(&settle_in)?;
        }
        let known = Known::of(database.pairs(known)?.iter().filter_map(identity));
        self.clear()?;
        let bus = emitter.upgrade().and_then(|emitter| emitter.bus(&self.name));
        if bus.is_none() {
            error!("the transport knows no further connections: the mirror writes nothing");
        }
        info!(mirror = self.name, "this node writes the mirror");
        self.tally.writes.store(true, Ordering::Relaxed);
        let gathered = Gathered::default();
        self.writing =
            Some(Writing { bus, refused: self.refused(), known, gathered, batches, doubtful: None });
        Ok(())
    }

    fn refused(&self) -> u64 {
        self.tally.refused.load(Ordering::Relaxed)
    }

    /// Makes room for the next days, and clears old ones away.
    fn clear(&mut self) -> QueryResult<()> {
        let keep = millis(self.config.keep);
        let (partitions, clear) = (self.store.partitions(keep), self.store.clear(keep, CLEARED));
        let database = self.database()?;
        // They may be in use; what has no day of its own has a place all the same.
        let made = partitions.iter().try_for_each(|statement| database.run(statement));
        let cleared = database.change(clear)?;
        self.tally.days(made.err().map(|error| {
            format!(
                "its days cannot be made or dropped, so that rows go to `{rest}` and are deleted one by one: {error}; where that is a \
                 missing right, let its role own `{mirror}` and its partitions, and have CREATE on their schema (docs/PRODUCTION.md)",
                mirror = self.tables.all_names().table("events_mirror"),
                rest = self.tables.all_names().table("events_mirror_rest"),
            )
        }));
        let pause = if cleared == CLEARED { Duration::ZERO } else { Duration::from_secs(60) };
        self.next_clearing = Instant::now() + pause;
        Ok(())
    }

    /// Takes from the bus what is there, or what comes next.
    fn gather(&mut self, emitter: &WeakEmitter) {
        let Some(writing) = &mut self.writing else { return };
        if !writing.gathered.is_empty() {
            return;
        }
        let idle = Instant::now() + LOOK;
        let mut until = self.next_beat.min(self.next_clearing).min(idle);
        let hears = writing.bus.as_ref().is_some_and(|bus| bus.status().subscriptions > 0);
        self.tally.hears.store(hears, Ordering::Relaxed);
        self.tally.bus(writing.bus.as_ref().map(Bus::troubles).unwrap_or_default());
        if !hears {
            until = until.min(Instant::now() + SUBSCRIBING);
        }
        let (mut rows, mut bytes, mut ids) = (0, 0, HashSet::new());
        while rows < self.config.batch && bytes < MOST_BYTES {
            let Some(bus) = &mut writing.bus else {
                // Somebody else took the client's name: an earlier life that is not gone yet, or a mistake.
                self.bell.wait(Instant::now() + LOOK, std::future::pending::<()>());
                writing.bus = emitter.upgrade().and_then(|emitter| emitter.bus(&self.name));
                return;
            };
            let came = self.bell.wait(until, bus.next());
            self.tally.refused.store(writing.refused + bus.refused(), Ordering::Relaxed);
            let Some(came) = came else { break };
            let Some(passing) = came else {
                warn!(
                    mirror = self.name,
                    "the connection of the mirror was taken over: is its name used twice?"
                );
                writing.refused += bus.refused();
                writing.bus = None;
                break;
            };
            if rows == 0 {
                until = Instant::now() + self.config.linger;
            }
            let (new, size) = writing.gathered.take(passing, &writing.known, &mut ids, &self.tally);
            rows += new;
            bytes += size;
        }
    }

    /// Writes down what was gathered, and acknowledges it.
    fn write(&mut self) -> QueryResult<()> {
        if self.writing.as_ref().is_none_or(|writing| writing.gathered.is_empty()) {
            return Ok(());
        }
        self.sift()?;
        while let Some(sql) = self.next_part() {
            if let Err(error) = self.database()?.run(&sql) {
                return self.refused_by_database(error);
            }
            let Some(writing) = &mut self.writing else { return Ok(()) };
            writing.batches = writing.doubtful.take().unwrap_or(writing.batches);
            self.is_written();
        }
        if let Some(writing) = &mut self.writing {
            std::mem::take(&mut writing.gathered).acks.into_iter().for_each(Ack::done);
        }
        Ok(())
    }

    /// Writes the next part.
    fn next_part(&mut self) -> Option<String> {
        let writing = self.writing.as_mut()?;
        let parts = &mut writing.gathered.parts;
        while parts.front().is_some_and(Vec::is_empty) {
            parts.pop_front();
        }
        let number = writing.batches + 1;
        writing.doubtful = parts.front().map(|_| number);
        parts.front().map(|rows| self.store.write(&self.name, &self.owner, number, rows))
    }

    /// Leaves out what is in the table: of old ids that is not known without it.
    fn sift(&mut self) -> QueryResult<()> {
        let Some(writing) = self.writing.as_ref().filter(|writing| !writing.gathered.is_sifted) else {
            return Ok(());
        };
        let asked: Vec<Identity> = writing
            .gathered
            .parts
            .iter()
            .flatten()
            .filter_map(Row::identity)
            .filter(|identity| writing.known.has(identity) == Answer::Perhaps)
            .collect();
        let mut found = HashSet::new();
        if !asked.is_empty() {
            let sql = self.store.found(asked.iter());
            found.extend(self.database()?.pairs(sql)?.iter().filter_map(identity));
        }
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let is_new = |row: &Row| row.identity().is_none_or(|identity| !found.contains(&identity));
        for part in &mut writing.gathered.parts {
            let before = part.len();
            part.retain(is_new);
            self.tally.duplicates.fetch_add((before - part.len()) as u64, Ordering::Relaxed);
        }
        writing.gathered.is_sifted = true;
        Ok(())
    }

    /// The first part is in the table.
    fn is_written(&mut self) {
        let Some(writing) = &mut self.writing else { return };
        writing.gathered.refusals = 0;
        let Some(rows) = writing.gathered.parts.pop_front() else { return };
        rows.iter().filter_map(Row::identity).for_each(|identity| writing.known.add(identity));
        self.tally.recorded.fetch_add(rows.len() as u64, Ordering::Relaxed);
        self.tally.batches.fetch_add(1, Ordering::Relaxed);
    }

    /// A part was not written, or nobody knows. Where the database works and this part alone fails, it is parted
    /// further, until the row is found that it does not take.
    fn refused_by_database(&mut self, error: diesel::result::Error) -> QueryResult<()> {
        // What was begun on the old connection is undone with it.
        self.database = None;
        let left = |writer: &Self| writer.writing.as_ref().map(|writing| writing.gathered.parts.len());
        let before = left(self);
        // Where that fails, the database is away, and the part waits for it.
        self.connect()?;
        if left(self) != before {
            // It was written after all, or is another node's.
            return Ok(());
        }
        let probe = self.store.probe();
        if self.database()?.run(&probe).is_err() {
            // It takes nothing: a full disk, a missing right. That is nothing of the part's.
            return Err(error);
        }
        let Some(writing) = &mut self.writing else { return Ok(()) };
        writing.gathered.refusals += 1;
        if writing.gathered.refusals < 2 {
            // Connections break.
            return Ok(());
        }
        writing.gathered.refusals = 0;
        let Some(mut part) = writing.gathered.parts.pop_front() else { return Ok(()) };
        match &mut part[..] {
            [row] if row.as_text => {
                self.tally.failed.fetch_add(1, Ordering::Relaxed);
                error!(
                    topic = row.topic,
                    "the mirror lost an event, which its database does not take: {error}"
                );
            }
            [row] => {
                row.as_text = true;
                writing.gathered.parts.push_front(part);
            }
            _ => {
                let half = part.split_off(part.len() / 2);
                writing.gathered.parts.push_front(half);
                writing.gathered.parts.push_front(part);
            }
        }
        Ok(())
    }

    /// The connection. (There is one wherever this is called.)
    fn database(&mut self) -> QueryResult<&mut dyn Database> {
        match &mut self.database {
            Some(database) => Ok(&mut **database),
            None => Err(diesel::result::Error::BrokenTransactionManager),
        }
    }
}

impl Gathered {
    fn is_empty(&self) -> bool {
        self.acks.is_empty()
    }

    /// Takes a message, but for what was written down already. Returns how many rows it has, and their bytes.
    fn take(
        &mut self,
        passing: Passing,
        known: &Known,
        ids: &mut HashSet<Identity>,
        tally: &Tally,
    ) -> (usize, usize) {
        let Passing { topic, events, ack } = passing;
        let (mut new, mut bytes) = (0, 0);
        for event in events {
            let row = Row { topic: topic.clone(), event, as_text: false };
            let is_new = row
                .identity()
                .is_none_or(|identity| known.has(&identity) != Answer::Yes && ids.insert(identity));
            if !is_new {
                tally.duplicates.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            new += 1;
            bytes += row.size();
            self.push(row);
        }
        self.acks.push(ack);
        (new, bytes)
    }

    fn push(&mut self, row: Row) {
        let size = row.size();
        // A message may have many events.
        match self.parts.back_mut().filter(|part| part.len() < MOST_ROWS && self.bytes < MOST_BYTES) {
            Some(part) => part.push(row),
            None => {
                self.bytes = 0;
                self.parts.push_back(vec![row]);
            }
        }
        self.bytes += size;
    }
}

fn identity(pair: &Pair) -> Option<Identity> {
    let (id, incarnation) = pair.text.split_once('/')?;
    Some((id.parse().ok()?, incarnation.parse().ok()?))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
