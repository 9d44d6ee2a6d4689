//! The thread of an outbox: takes lanes, publishes their rows, and moves them to the history.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::result::QueryResult;
use emitter_core::event::Timestamp;
use emitter_core::record::{Number, Parcel};
use emitter_core::topic::Topic;
use emitter_core::transport::{Ack, Properties, PublishError};
use emitter_core::{BeginCompanion, Emitter, EventId, ReplayError, Source, WeakEmitter};
use futures_util::FutureExt;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::database::{Database, Lane, Pair, Queued};
use super::mailbox::{Mail, Mailbox, Sending};
use super::store::{self, Due, Next, Reading, Settled, Store, Unsettled};
use super::writing::handler;
use super::{Attached, BACKOFF, Connect, Opened, Outbox, schema};

/// How a node relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayConfig {
    /// How long a lane belongs to a relay that says nothing more, by the database's clock. A relay says three
    /// times as often that it is there. Default 15 s; at least 1 s.
    pub lease: Duration,
    /// How often the tables are looked at though nobody said that something came: for rows that other programs
    /// committed. Default 250 ms.
    pub poll: Duration,
    /// How many rows are published and not confirmed at a time. Default 2,000.
    pub window: usize,
    /// How many rows are read, and settled, at a time. Default 500.
    pub batch: usize,
    /// How often a row is published that the broker refuses. Default 3.
    pub max_attempts: u32,
    /// How long a node waits for a listener for what others left to theirs, before it counts as orphaned: so
    /// long after its start listeners may still be added. Default 60 s.
    pub orphan_after: Duration,
    /// How long the history keeps a row that was settled. Default 7 days.
    pub keep: Duration,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            poll: Duration::from_millis(250),
            window: 2_000,
            batch: 500,
            max_attempts: 3,
            orphan_after: Duration::from_secs(60),
            keep: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

impl RelayConfig {
    /// What nobody meant, as near to it as works.
    fn within_bounds(self) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            lease: self.lease.clamp(Duration::from_secs(1), DAY),
            poll: self.poll.clamp(Duration::from_millis(1), DAY),
            window: self.window.max(1),
            batch: self.batch.max(1),
            ..self
        }
    }

    /// See [`lease`](Self::lease).
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_secs(1));
        self
    }

    /// See [`poll`](Self::poll).
    #[must_use]
    pub fn poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// See [`window`](Self::window).
    #[must_use]
    pub fn window(mut self, rows: usize) -> Self {
        self.window = rows.max(1);
        self
    }

    /// See [`batch`](Self::batch).
    #[must_use]
    pub fn batch(mut self, rows: usize) -> Self {
        self.batch = rows.max(1);
        self
    }

    /// See [`orphan_after`](Self::orphan_after).
    #[must_use]
    pub fn orphan_after(mut self, after: Duration) -> Self {
        self.orphan_after = after;
        self
    }

    /// See [`keep`](Self::keep).
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// See [`max_attempts`](Self::max_attempts).
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts.max(1);
        self
    }
}

/// Begins the thread of an outbox once its emitter runs.
pub(super) fn begin(outbox: Outbox, attached: Arc<Attached>) -> BeginCompanion {
    Box::new(move |emitter| {
        async move {
            let (ready, is_ready) = oneshot::channel();
            let (ended, has_ended) = oneshot::channel::<()>();
            let mailbox = Arc::clone(attached.mailbox());
            let thread = std::thread::Builder::new().name("emitter-outbox".to_owned());
            let spawned = thread.spawn(move || {
                // Dropped at the end, however that comes.
                let _ended = ended;
                match open(&outbox, &attached) {
                    Ok((database, opened)) => {
                        // Nobody waits for it where the start was cancelled.
                        let _ = ready.send(Ok(()));
                        run(outbox, database, &opened, &attached, &emitter);
                    }
                    Err(problem) => drop(ready.send(Err(problem))),
                }
            });
            let thread = spawned.map_err(|error| format!("no thread could be started: {error}"))?;
            is_ready.await.unwrap_or_else(|_| Err("its thread panicked".to_owned()))?;
            let end = move |deadline| {
                async move {
                    mailbox.end();
                    // An error is an end, too; what is late is found in the table by the next life.
                    if tokio::time::timeout_at(deadline, has_ended).await.is_ok() && thread.join().is_err() {
                        error!("the thread of the outbox panicked");
                    }
                }
                .boxed()
            };
            Ok(Box::new(end) as emitter_core::EndCompanion)
        }
        .boxed()
    })
}

/// Connects, and looks whether the tables are those of this version.
fn open(outbox: &Outbox, attached: &Attached) -> Result<(Box<dyn Database>, Opened), String> {
    let mut database =
        (outbox.connect)().map_err(|error| format!("its database cannot be reached: {error}"))?;
    let dialect = database.dialect();
    let store = Store { dialect, names: attached.names.clone() };
    database.run(&store.greeting()).map_err(|error| format!("its database refuses its settings: {error}"))?;
    if outbox.migrate {
        schema::migrate(&mut *database, &store, outbox.lanes)
            .map_err(|error| format!("its tables could not be made: {error}"))?;
    }
    let found = schema::found(&mut *database, &store).map_err(|error| {
        format!("its tables are not there ({error}): run `Outbox::migrations`, or call `.migrate()`")
    })?;
    if found.version != schema::VERSION {
        return Err(format!(
            "its tables are of version {}, this program works with {}: {}",
            found.version,
            schema::VERSION,
            if found.version < schema::VERSION { "call `.migrate()`" } else { "update the program" },
        ));
    }
    let settings = database
        .pairs(store.settings())
        .map_err(|error| format!("its database does not tell its settings: {error}"))?;
    let settings = settings.iter().map(|pair| (&*pair.text, pair.number));
    for doubt in store::doubts(settings, Timestamp::now().as_millis()) {
        error!("the outbox cannot rely on its database: {doubt}");
    }
    let opened = Opened { store, outbox_id: found.outbox_id.into(), lanes: found.lanes };
    // Set once: an outbox begins once.
    let opened = attached.opened.get_or_init(|| opened).clone();
    Ok((database, opened))
}

fn run(
    outbox: Outbox,
    database: Box<dyn Database>,
    opened: &Opened,
    attached: &Attached,
    emitter: &WeakEmitter,
) {
    let Some(origin) = emitter.upgrade().map(|emitter| emitter.origin().clone()) else { return };
    let config = outbox.relay.unwrap_or_default().within_bounds();
    let has_transport = emitter.upgrade().is_some_and(|emitter| emitter.transport_status().is_some());
    if outbox.relay.is_some() && !has_transport {
        info!("the outbox relays nothing, for its emitter has no transport");
    }
    let now = Instant::now();
    let mut relay = Relay {
        relays: outbox.relay.is_some() && has_transport,
        config,
        connect: outbox.connect,
        database: Some(database),
        store: opened.store.clone(),
        outbox_id: Arc::clone(&opened.outbox_id),
        all_lanes: opened.lanes,
        id: origin.incarnation.to_string(),
        node: origin.to_string(),
        service: origin.service.to_string(),
        handler: handler(&origin),
        inherited: 0,
        inherits: false,
        stray: BTreeSet::new(),
        began: now,
        next_clearing: now,
        changes: false,
        greeted: false,
        tells: false,
        mailbox: Arc::clone(attached.mailbox()),
        emitter: emitter.clone(),
        lanes: BTreeMap::new(),
        on_the_way: BTreeMap::new(),
        held: HashMap::new(),
        confirmed: Vec::new(),
        failed: Vec::new(),
        handled: Vec::new(),
        attempts: 0,
        next_beat: now,
        next_poll: now,
        failures: 0,
        next_connection: now,
        is_full: false,
        bytes: 0,
    };
    relay.run();
}

/// A relay, and what it knows.
struct Relay {
    /// It takes lanes.
    relays: bool,
    config: RelayConfig,
    connect: Connect,
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
    /// Rows of this very life that were in nobody's hand at the last look: they are handed on if they still are
    /// at the next.
    stray: BTreeSet<i64>,
    began: Instant,
    /// When the history is cleared up again.
    next_clearing: Instant,
    /// Others write or relay as well: what they commit is looked for more often.
    changes: bool,
    /// The connection is set up.
    greeted: bool,
    /// Others are to be told of what this node committed.
    tells: bool,
    mailbox: Arc<Mailbox>,
    emitter: WeakEmitter,
    lanes: BTreeMap<i32, Owned>,
    /// By the row's id.
    on_the_way: BTreeMap<i64, OnTheWay>,
    /// Keys of which a row was refused, until it is known what became of those that follow it, and rows that
    /// were read meanwhile, with their lanes.
    held: HashMap<Line, BTreeMap<i64, i32>>,
    /// Rows that are to be moved to the history.
    confirmed: Vec<Settled>,
    /// Rows of which is to be noted why they were not published.
    failed: Vec<Unsettled>,
    handled: Vec<EventId>,
    attempts: u64,
    next_beat: Instant,
    next_poll: Instant,
    /// Of the database, in a row.
    failures: u32,
    next_connection: Instant,
    /// No more may be on the way: the next that is answered makes room.
    is_full: bool,
    /// Of the payloads that are on their way.
    bytes: usize,
}

/// A lane that the relay owns.
struct Owned {
    epoch: i64,
    streams: HashMap<String, Stream>,
    /// It is to be given back when nothing of it is on its way.
    leaving: bool,
    /// There was more in it than was asked for.
    is_full: bool,
}

/// The numbers of one model in a lane.
struct Stream {
    name: Arc<str>,
    last: i64,
    /// What is published, in the order of the numbers.
    sent: VecDeque<i64>,
}

/// Events that come in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Line {
    /// All of a model.
    Model(String),
    /// Those of one key of a model.
    Key(String, String),
    /// One that has no order with others.
    Alone(i64),
}

impl Line {
    fn of(row: &Queued) -> Self {
        match &row.record_id {
            _ if row.by_model != 0 => Self::Model(row.model.clone()),
            Some(key) => Self::Key(row.model.clone(), key.clone()),
            None => Self::Alone(row.id),
        }
    }
}

/// A published row.
struct OnTheWay {
    at: Settled,
    line: Line,
    attempt: u64,
    retries: i32,
    bytes: usize,
    outcome: Option<Result<(), PublishError>>,
}

/// How many rows are read of a lane that had no more the last time.
const A_FEW: usize = 32;

/// How a row says that it goes to listeners of its service alone.
const LOCAL_ONLY: i32 = 2;

/// How many bytes may be on their way: less than a transport's queue takes by default.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// How long a relay waits when the way to the broker takes nothing.
const BLOCKED: Duration = Duration::from_millis(500);

/// How often it is asked whether others wrote something.
const LOOK: Duration = Duration::from_millis(10);

/// How long a thread waits where there is nothing to do but to look whether the emitter is still there.
const IDLE: Duration = Duration::from_secs(1);

impl Relay {
    fn run(&mut self) {
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
            wait = match self.work(&emitter, ending) {
                Ok(wait) => wait,
                Err(error) => self.broken(&error),
            };
            if ending && self.on_the_way.is_empty() && self.has_noted_all() {
                return self.leave();
            }
        }
    }

    fn has_noted_all(&self) -> bool {
        self.confirmed.is_empty() && self.failed.is_empty() && self.handled.is_empty()
    }

    /// The database did not do what was asked.
    fn broken(&mut self, error: &diesel::result::Error) -> Duration {
        self.failures += 1;
        let delay = BACKOFF.delay(self.failures, 0.5).min(Duration::from_secs(5));
        if self.failures.is_power_of_two() {
            warn!(failures = self.failures, "the outbox waits for its database: {error}");
        }
        // Whatever it was: a new connection knows nothing of it.
        self.database = None;
        self.next_connection = Instant::now() + delay;
        delay
    }

    fn leave(&mut self) {
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
        let mut touched = BTreeSet::new();
        for (Sending { id, attempt }, outcome) in mail.outcomes {
            // Of a lane that was lost meanwhile nothing is known any more.
            let Some(row) = self.on_the_way.get_mut(&id).filter(|row| row.attempt == attempt) else {
                continue;
            };
            touched.insert((row.at.lane, row.at.model.clone()));
            if outcome.is_err() {
                self.held.entry(row.line.clone()).or_default();
            }
            row.outcome = Some(outcome);
        }
        self.decide();
        for (lane, model) in touched {
            self.collect(lane, &model);
        }
    }

    /// Decides about keys of which a row was refused, when all that was published of them is answered.
    fn decide(&mut self) {
        let lines: Vec<Line> = self.held.keys().cloned().collect();
        for line in lines {
            let rows: Vec<i64> =
                self.on_the_way.iter().filter(|(_, row)| row.line == line).map(|(id, _)| *id).collect();
            if rows.iter().any(|id| self.on_the_way[id].outcome.is_none()) {
                continue;
            }
            let last_good = rows.iter().rposition(|id| matches!(self.on_the_way[id].outcome, Some(Ok(()))));
            self.held.remove(&line);
            self.next_poll = Instant::now();
            for (place, id) in rows.iter().enumerate() {
                if matches!(self.on_the_way[id].outcome, Some(Ok(()))) {
                    continue;
                }
                let Some(row) = self.arrived(*id) else { continue };
                let Some(Err(error)) = row.outcome else { continue };
                let overtaken = last_good.is_some_and(|last| place < last);
                match self.verdict(row.at, row.retries, &error, overtaken) {
                    Some(unsettled) => self.failed.push(unsettled),
                    None => self.next_poll = Instant::now() + BLOCKED,
                }
            }
        }
    }

    /// A row that is not on its way any more.
    fn arrived(&mut self, id: i64) -> Option<OnTheWay> {
        let row = self.on_the_way.remove(&id)?;
        self.bytes = self.bytes.saturating_sub(row.bytes);
        Some(row)
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
            _ => Next::Again(millis(BACKOFF.delay(attempts, fastrand::f64()))),
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
        let Some(stream) = self.lanes.get_mut(&lane).and_then(|owned| owned.streams.get_mut(model)) else {
            return;
        };
        while let Some(id) = stream.sent.front() {
            match self.on_the_way.get(id) {
                // It failed, or its lane was lost.
                None => {}
                Some(row) if matches!(row.outcome, Some(Ok(()))) => {
                    let row = self.on_the_way.remove(id);
                    self.bytes = self.bytes.saturating_sub(row.as_ref().map_or(0, |row| row.bytes));
                    self.confirmed.extend(row.map(|row| row.at));
                }
                Some(_) => return,
            }
            stream.sent.pop_front();
        }
    }

    /// Everything that is due now; returns for how long nothing is.
    fn work(&mut self, emitter: &Emitter, ending: bool) -> QueryResult<Duration> {
        let now = Instant::now();
        if self.database.is_none() {
            if now < self.next_connection {
                return Ok(self.next_connection - now);
            }
            match (self.connect)() {
                Ok(database) => {
                    self.database = Some(database);
                    self.greeted = false;
                }
                Err(error) => {
                    return Err(diesel::result::Error::QueryBuilderError(error.into()));
                }
            }
            self.next_beat = now;
        }
        if !self.greeted {
            let greeting = self.store.greeting();
            self.database()?.run(&greeting)?;
            self.greeted = true;
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
        self.note()?;
        if self.relays && now >= self.next_clearing {
            self.clear()?;
        }
        if self.inherits && !ending {
            self.hand_on(emitter)?;
        }
        if self.relays && self.changes && self.database()?.has_changed()? {
            self.next_poll = now;
        }
        let mut more = false;
        if self.relays && !ending && Instant::now() >= self.next_poll {
            more = self.publish(emitter)?;
            self.next_poll = Instant::now() + if more { Duration::ZERO } else { self.config.poll };
        }
        self.failures = 0;
        if more {
            return Ok(Duration::ZERO);
        }
        let now = Instant::now();
        let next = if self.relays { self.next_beat.min(self.next_poll) } else { self.next_beat };
        let longest = if self.relays && self.changes || self.inherits { LOOK } else { IDLE };
        Ok(next.saturating_duration_since(now).clamp(Duration::from_millis(1), longest))
    }

    /// The connection. (There is one wherever this is called.)
    fn database(&mut self) -> QueryResult<&mut dyn Database> {
        match &mut self.database {
            Some(database) => Ok(&mut **database),
            None => Err(diesel::result::Error::BrokenTransactionManager),
        }
    }

    /// Says that the relay is there, and takes its share of the lanes.
    fn beat(&mut self, emitter: &Emitter, ending: bool) -> QueryResult<()> {
        let lease = millis(self.config.lease);
        let beat = self.store.beat(&self.id, &self.node, self.relays, lease);
        let (relays, free) = (self.store.relays(), self.store.free(&self.id, &self.node));
        let handlers = self.store.handlers();
        let owned = self.store.owned(&self.id);
        let database = self.database()?;
        database.run(&beat)?;
        let there = database.pairs(relays)?;
        let handlers = database.pairs(handlers)?;
        let owned = database.lanes(owned)?;
        let free = database.lanes(free)?;
        self.keep_only(&owned);
        self.next_beat = Instant::now() + self.config.lease / 3;
        self.changes = there.len() > 1;
        if ending {
            return Ok(());
        }
        // Taken, and then something came between: whoever takes them next knows where their numbers are.
        let unknown: Vec<i64> = owned
            .iter()
            .map(|owned| owned.lane)
            .filter(|lane| !self.lanes.contains_key(lane))
            .map(i64::from)
            .collect();
        if !unknown.is_empty() {
            let release = self.store.release(&self.id, unknown);
            self.database()?.change(release)?;
        }
        self.inherit(emitter, &handlers, &there)?;
        self.find_strays(&handlers)?;
        if !self.relays {
            return Ok(());
        }
        let relays = there.iter().filter(|relay| relay.number != 0).count();
        let share = (self.all_lanes as usize).div_ceil(relays.max(1));
        let staying = self.lanes.values().filter(|lane| !lane.leaving).count();
        if staying > share {
            let too_many = staying - share;
            self.lanes
                .values_mut()
                .rev()
                .filter(|lane| !lane.leaving)
                .take(too_many)
                .for_each(|lane| lane.leaving = true);
        }
        let mut taken = Vec::new();
        for Lane { lane, .. } in free.into_iter().take(share.saturating_sub(staying)) {
            let take = self.store.take(lane, &self.id, &self.node, lease);
            if self.database()?.change(take)? == 1 {
                taken.push(lane);
            }
        }
        // Others that are free now may be taken soon.
        if staying + taken.len() < share {
            self.next_beat = Instant::now() + (self.config.lease / 15).min(Duration::from_secs(1));
        }
        if !taken.is_empty() {
            self.enter(&taken)?;
        }
        self.give_back()
    }

    /// Takes over what nodes left to their listeners that are there no more: earlier lives of this one, and
    /// other nodes of its service.
    fn inherit(&mut self, emitter: &Emitter, handlers: &[Pair], there: &[Pair]) -> QueryResult<()> {
        let own = format!("{}+", self.handler);
        // Of others, what there are listeners for here: those others may come back.
        let heard = emitter.listeners().into_iter().filter(|listener| listener.hears.hears(Source::Local));
        let heard: Vec<String> = heard.map(|listener| listener.model.to_owned()).collect();
        for Pair { text: handler, .. } in handlers {
            let mut parts = handler.trim_end_matches('+').rsplitn(2, '/');
            let (Some(life), Some(node)) = (parts.next(), parts.next()) else { continue };
            let of_service = node.split('/').next() == Some(&self.service);
            let is_there = there.iter().any(|relay| relay.text == life) && node != self.node;
            if life == self.id || is_there || !of_service {
                continue;
            }
            let is_own = node == self.node;
            if !is_own && heard.is_empty() {
                continue;
            }
            let models = (!is_own).then_some(&*heard);
            let inherit = self.store.inherit(handler, &own, models, self.config.batch);
            let rows = self.database()?.change(inherit)?;
            if rows > 0 {
                info!(rows, from = %handler, "events that a node left to its listeners are taken over");
                // Some may be older than those that were there before.
                (self.inherits, self.inherited) = (true, 0);
            }
        }
        Ok(())
    }

    /// Finds rows that this very life wrote, and that its listeners never had: the outcome of their COMMIT was
    /// not known, or a queue was full.
    fn find_strays(&mut self, handlers: &[Pair]) -> QueryResult<()> {
        let own = self.handler.clone();
        let (all, inherited) = (own.as_str(), format!("{own}+"));
        let mut seen = BTreeSet::new();
        if handlers.iter().any(|handler| handler.text == all) {
            let rows = self.store.inherited(all, 0, self.config.batch);
            for row in self.database()?.queued(rows)? {
                let is_stray = |event: EventId| !self.mailbox.is_in_hand(event);
                if row.event_id.parse().is_ok_and(is_stray) {
                    seen.insert(row.id);
                }
            }
        }
        let strays: Vec<i64> = self.stray.intersection(&seen).copied().collect();
        if !strays.is_empty() {
            let adopt = self.store.adopt(all, &inherited, &strays);
            self.database()?.change(adopt)?;
            seen.retain(|id| !strays.contains(id));
        }
        self.stray = seen;
        // What a queue had no room for, or whoever had it dropped.
        if handlers.iter().any(|handler| handler.text == inherited) || !strays.is_empty() {
            (self.inherits, self.inherited) = (true, 0);
        }
        Ok(())
    }

    /// Clears away what was settled long ago.
    fn clear(&mut self) -> QueryResult<()> {
        const MOST: usize = 1_000;
        // Databases know no later times than some thousand years from now.
        let keep = self.config.keep.min(Duration::from_secs(100 * 365 * 24 * 3600));
        let clear = self.store.clear(millis(keep), MOST);
        let cleared = self.database()?.change(clear)?;
        let pause = if cleared == MOST { Duration::ZERO } else { Duration::from_secs(60) };
        self.next_clearing = Instant::now() + pause;
        Ok(())
    }

    /// Hands rows that others left to the listeners of this node.
    fn hand_on(&mut self, emitter: &Emitter) -> QueryResult<()> {
        let own = format!("{}+", self.handler);
        let rows = self.store.inherited(&own, self.inherited, self.config.batch);
        let rows = self.database()?.queued(rows)?;
        self.inherits = rows.len() == self.config.batch;
        let is_early = self.began.elapsed() < self.config.orphan_after;
        for row in rows {
            let id = row.id;
            let published = row.handled_here != LOCAL_ONLY;
            let mailbox = Arc::clone(&self.mailbox);
            let handed = parcel(row).ok_or(None).and_then(|parcel| {
                if mailbox.is_in_hand(parcel.id) {
                    return Ok(());
                }
                let in_hand = mailbox.hand_out(parcel.id);
                emitter.replay_record(&parcel, published, Ack::new(move || in_hand.done())).map_err(Some)
            });
            let (terminal, problem) = match handed {
                Ok(()) => {
                    self.inherited = id;
                    continue;
                }
                // In a while.
                Err(Some(ReplayError::QueueFull | ReplayError::ShutDown)) => {
                    self.inherits = true;
                    return Ok(());
                }
                // Its listener may be added in a moment.
                Err(Some(ReplayError::UnknownModel | ReplayError::Unheard)) if is_early => {
                    self.inherited = id;
                    continue;
                }
                Err(Some(error @ (ReplayError::UnknownModel | ReplayError::Unheard))) => {
                    (store::ORPHANED, error.to_string())
                }
                Err(Some(error)) => (store::UNREADABLE, error.to_string()),
                Err(None) => (store::UNREADABLE, "it is not as an outbox writes it".to_owned()),
            };
            error!(row = id, "a row of the outbox could not be handed to listeners: {problem}");
            let give_up = self.store.give_up(id, terminal, &problem);
            self.database()?.change(give_up)?;
            self.inherited = id;
        }
        Ok(())
    }

    /// Forgets lanes that are another's now, and what was on its way from them.
    fn keep_only(&mut self, owned: &[Lane]) {
        let still = |lane: i32, epoch: i64| owned.contains(&Lane { lane, epoch });
        let before = self.lanes.len();
        self.lanes.retain(|lane, owned| still(*lane, owned.epoch));
        if self.lanes.len() < before {
            warn!(
                lanes = before - self.lanes.len(),
                "the lease of lanes ran out: another relay may have them"
            );
            self.on_the_way.retain(|_, row| still(row.at.lane, row.at.epoch));
            let refused: Vec<&Line> =
                self.on_the_way.values().filter(|row| is_refused(row)).map(|row| &row.line).collect();
            self.held.retain(|line, _| refused.contains(&line));
            self.held
                .values_mut()
                .for_each(|rows| rows.retain(|_, lane| owned.iter().any(|owned| owned.lane == *lane)));
            self.bytes = self.on_the_way.values().map(|row| row.bytes).sum();
            self.confirmed.retain(|row| still(row.lane, row.epoch));
            self.failed.retain(|row| still(row.at.lane, row.at.epoch));
        }
    }

    /// Reads where the numbers of lanes are that were just taken: after that, for what their last owner did
    /// is to be seen.
    fn enter(&mut self, taken: &[i32]) -> QueryResult<()> {
        let (owned, numbers) =
            (self.store.owned(&self.id), self.store.numbers(taken.iter().map(|lane| i64::from(*lane))));
        let database = self.database()?;
        let owned = database.lanes(owned)?;
        let numbers = database.pairs(numbers)?;
        for Lane { lane, epoch } in owned.into_iter().filter(|owned| taken.contains(&owned.lane)) {
            let streams = numbers.iter().filter_map(|pair| {
                let (of, model) = pair.text.split_once('/')?;
                (of.parse() == Ok(lane)).then(|| {
                    let stream = Stream::new(&self.outbox_id, lane, epoch, pair.number);
                    (model.to_owned(), stream)
                })
            });
            self.lanes
                .insert(lane, Owned { epoch, streams: streams.collect(), leaving: false, is_full: false });
        }
        self.next_poll = Instant::now();
        Ok(())
    }

    /// Gives back what is another's share, when nothing of it is on its way.
    fn give_back(&mut self) -> QueryResult<()> {
        let busy: BTreeSet<i32> = self
            .on_the_way
            .values()
            .map(|row| row.at.lane)
            .chain(self.confirmed.iter().map(|row| row.lane))
            .chain(self.failed.iter().map(|row| row.at.lane))
            .collect();
        let free: Vec<i32> = self
            .lanes
            .iter()
            .filter(|(lane, owned)| owned.leaving && !busy.contains(lane))
            .map(|(lane, _)| *lane)
            .collect();
        if free.is_empty() {
            return Ok(());
        }
        let release = self.store.release(&self.id, free.iter().map(|lane| i64::from(*lane)));
        self.database()?.change(release)?;
        free.iter().for_each(|lane| drop(self.lanes.remove(lane)));
        Ok(())
    }

    /// Writes down what became of rows.
    fn note(&mut self) -> QueryResult<()> {
        while let Some(row) = self.failed.last() {
            let given_up = !matches!(row.next, Next::Again(_));
            let fail = self.store.fail(&self.id, row);
            self.database()?.run(&fail)?;
            if let Some(row) = self.failed.pop().filter(|_| given_up) {
                error!(row = row.at.id, "a row of the outbox was given up: {}", row.error);
            }
        }
        while !self.confirmed.is_empty() {
            let most = self.confirmed.len().min(self.config.batch);
            let settle = self.store.settle(&self.id, &self.confirmed[..most]);
            self.database()?.run(&settle)?;
            self.confirmed.drain(..most);
        }
        while !self.handled.is_empty() {
            let most = self.handled.len().min(self.config.batch);
            let ids: Vec<String> = self.handled[..most].iter().map(ToString::to_string).collect();
            let handled = self.store.handled(&ids);
            self.database()?.run(&handled)?;
            self.mailbox.noted(&self.handled[..most]);
            self.handled.drain(..most);
        }
        if self.lanes.values().any(|lane| lane.leaving) {
            self.give_back()?;
        }
        Ok(())
    }

    /// Reads rows and publishes them; `true` when there may be more, and room for it.
    fn publish(&mut self, emitter: &Emitter) -> QueryResult<bool> {
        let kept = self.on_the_way.len() + self.held.values().map(BTreeMap::len).sum::<usize>();
        let room = self.config.window.saturating_sub(kept).min(self.config.batch);
        let room = if self.bytes < MOST_BYTES { room } else { 0 };
        self.is_full = room == 0;
        let readings = self.readings(room);
        if readings.is_empty() {
            return Ok(false);
        }
        let rows = match self.store.due(&self.id, &readings) {
            Due::Rows(sql) => self.database()?.queued(sql)?,
            Due::Ids(sql) => {
                let ids = self.database()?.pairs(sql)?;
                let rows = self.store.rows(ids.iter().map(|pair| pair.number));
                if ids.is_empty() { Vec::new() } else { self.database()?.queued(rows)? }
            }
        };
        let mut came = HashMap::<i32, usize>::new();
        for row in rows {
            *came.entry(row.lane).or_default() += 1;
            self.publish_row(emitter, row);
        }
        for Reading { lane, most, .. } in readings {
            if let Some(owned) = self.lanes.get_mut(&lane) {
                owned.is_full = came.get(&lane).is_some_and(|came| *came >= most);
            }
        }
        Ok(self.lanes.values().any(|owned| owned.is_full && !owned.leaving))
    }

    /// What is to be read of each lane, all together about as much as there is room for.
    fn readings(&self, room: usize) -> Vec<Reading> {
        if room == 0 {
            return Vec::new();
        }
        let mut on_the_way = HashMap::<i32, Vec<i64>>::new();
        for (id, row) in &self.on_the_way {
            on_the_way.entry(row.at.lane).or_default().push(*id);
        }
        for (id, lane) in self.held.values().flatten() {
            on_the_way.entry(*lane).or_default().push(*id);
        }
        let lanes = || self.lanes.iter().filter(|(_, owned)| !owned.leaving);
        let full = lanes().filter(|(_, owned)| owned.is_full).count();
        let share = room.checked_div(full).unwrap_or_default().max(A_FEW);
        // Always from the beginning: a row with a lower number may come to be seen later, for its transaction took
        // longer, and what comes after it in its key must not be published before it.
        let readings = lanes().map(|(lane, owned)| Reading {
            lane: *lane,
            except: on_the_way.remove(lane).unwrap_or_default(),
            most: if owned.is_full { share } else { A_FEW },
        });
        readings.collect()
    }

    fn publish_row(&mut self, emitter: &Emitter, row: Queued) {
        let Some(owned) = self.lanes.get_mut(&row.lane) else { return };
        let line = Line::of(&row);
        // One before it was refused: it is decided about both at once.
        if let Some(held) = self.held.get_mut(&line) {
            held.insert(row.id, row.lane);
            return;
        }
        let stream = owned
            .streams
            .entry(row.model.clone())
            .or_insert_with(|| Stream::new(&self.outbox_id, row.lane, owned.epoch, 0));
        // A row that was refused before has its number.
        let (name, sequence) = match (&row.stream, row.sequence) {
            (Some(name), Some(sequence)) => (Arc::from(&**name), sequence),
            _ => {
                stream.last += 1;
                (Arc::clone(&stream.name), stream.last)
            }
        };
        let at = Settled {
            id: row.id,
            lane: row.lane,
            epoch: owned.epoch,
            model: row.model.clone(),
            stream: name.to_string(),
            sequence,
            handled_here: row.handled_here != 0,
        };
        let retries = row.retries;
        let number = u64::try_from(sequence).ok().and_then(|sequence| Number::new(name, sequence));
        let (Some(parcel), Some(number)) = (parcel(row), number) else {
            // Somebody else wrote into the table.
            let error = "it is not as an outbox writes it".to_owned();
            self.failed.push(Unsettled { at, error, next: Next::Unreadable });
            return;
        };
        stream.sent.push_back(at.id);
        self.attempts += 1;
        let sending = Sending { id: at.id, attempt: self.attempts };
        let bytes = parcel.payload.len();
        self.bytes += bytes;
        let row = OnTheWay { at, line, attempt: self.attempts, retries, bytes, outcome: None };
        self.on_the_way.insert(row.at.id, row);
        let mailbox = Arc::clone(&self.mailbox);
        emitter.publish_record(parcel, &number, move |outcome| mailbox.told(sending, outcome));
    }
}

fn is_refused(row: &OnTheWay) -> bool {
    matches!(row.outcome, Some(Err(_)))
}

impl Stream {
    /// Continues after `last`.
    fn new(outbox: &str, lane: i32, epoch: i64, last: i64) -> Self {
        Self { name: format!("{outbox}/{lane}.{epoch}:{last}").into(), last, sent: VecDeque::new() }
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
