//! A node remembers how far it heard the outboxes of others, and has what it missed sent again.
//!
//! A broker may forget what it has confirmed: when it is killed, or when more waits for a slow or absent node
//! than it keeps. Every node notices while it runs that durable events are missing, for they are numbered, and
//! asks the nodes that relay them. With a [`CatchUp`] it knows that of what it missed between two lives, too.
//!
//! ```no_run
//! # #[cfg(feature = "sqlite")]
//! # async fn started() -> Result<(), Box<dyn std::error::Error>> {
//! use diesel::{Connection, SqliteConnection};
//! use emitter_diesel::Emitter;
//! use emitter_diesel::catch_up::CatchUp;
//! use emitter_diesel::tables::Tables;
//!
//! let tables = Tables::new(|| SqliteConnection::establish("billing.db")).migrate();
//! let builder = Emitter::builder().service("billing").node("a").mqtt("mqtt://localhost");
//! let emitter = builder.with(CatchUp::new(tables)).start().await?;
//! # Ok(())
//! # }
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use diesel::result::{Error, QueryResult};
pub use emitter_core::gaps::Since;
use emitter_core::gaps::{MOST_STREAMS, Position, Stream};
use emitter_core::{Builder, Extension, WeakEmitter};
use tracing::warn;

use crate::companion::{self, Activity};
use crate::tables::{Database, Dialect, Doubted, Names, PROBE, Pair, Tables};

/// How a node remembers how far it heard.
///
/// Given to the builder of an emitter by [`with`](Builder::with). The node needs a name of its own
/// ([`Builder::node`]), for under that it remembers. It remembers the streams that the node knows, of which there are at most
/// [`MOST_STREAMS`]: those of which it did not hear for longest are forgotten first, and their rows deleted.
#[derive(Debug)]
#[must_use = "it is given to the builder of an emitter: `.with(catch_up)`"]
pub struct CatchUp {
    tables: Tables,
    since: Since,
}

impl CatchUp {
    /// Remembers it in these tables: of any database, best of the one that listeners write to.
    pub fn new(tables: Tables) -> Self {
        Self { tables, since: Since::Now }
    }

    /// Where the node begins in what it never heard of: of each model, and each lane of an outbox, by itself.
    /// What an outbox has cleared away ([`RelayConfig::keep`](crate::outbox::RelayConfig::keep)) is not told.
    /// Default [`Since::Now`].
    pub fn since(mut self, since: Since) -> Self {
        self.since = since;
        self
    }
}

/// Begins where the last life of this node ended, and has sent again what it missed since. While the database does not take how
/// far the node is, its [`health`](emitter_core::Emitter::health) says so.
///
/// [`start`](Builder::start) then fails with [`StartError::Companion`](emitter_core::StartError::Companion)
/// where the node has no name of its own, the database cannot be reached, or its tables are not those of this
/// version.
impl Extension for CatchUp {
    fn extend(self, builder: Builder) -> Builder {
        let CatchUp { tables, since } = self;
        let (end, has_ended) = mpsc::channel();
        let opened = tables.clone();
        let trouble = Arc::new(Trouble::default());
        let asked = Arc::clone(&trouble);
        let open = move |emitter: &WeakEmitter| open(&opened, since, emitter, trouble);
        let run = move |memory: Memory, emitter, activity: &Arc<Activity>| {
            memory.keep(&tables, &emitter, &has_ended, activity);
        };
        // Dropped, it ends the thread.
        let begin = companion::thread("emitter-catch-up", open, run, move || drop::<mpsc::Sender<()>>(end));
        let told = move || asked.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        builder.state(Doubted::default()).troubles(told).companion("catch_up", begin)
    }
}

/// How often it is noted how far the node is, at most and at least. What came since is sent again, if the node dies.
const OFTEN: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_secs(1);

/// How long nothing is noted at an age of this life: a tenth of it. A node that is killed again and again is sent a part of what
/// its last life heard, and not all of it each time.
fn pause(age: Duration) -> Duration {
    (age / 10).clamp(OFTEN, SELDOM)
}

/// How many positions one statement notes.
const BATCH: usize = 500;

/// What hinders it now, as a node's health has it.
type Trouble = Mutex<Option<String>>;

/// What is noted, and where.
struct Memory {
    database: Option<Box<dyn Database>>,
    dialect: Dialect,
    names: Names,
    node: String,
    noted: HashMap<Stream, (u64, u64)>,
    failures: u32,
    trouble: Arc<Trouble>,
}

fn open(tables: &Tables, since: Since, weak: &WeakEmitter, trouble: Arc<Trouble>) -> Result<Memory, String> {
    let emitter = weak.upgrade().ok_or("its emitter is there no more")?;
    if !emitter.is_named() {
        return Err("the node has no name of its own, under which it could remember: give it one with \
                    `.node(…)`, another one for each node"
            .to_owned());
    }
    let (mut database, _) = tables.open_for(weak, "catching up")?;
    let (dialect, names) = (database.dialect(), tables.all_names().clone());
    let node = emitter.origin().to_string();
    let cleared = database.run(&clear(dialect, &names, &node));
    cleared.map_err(|error| format!("its database does not forget where the node was: {error}"))?;
    let positions = database
        .pairs(read(dialect, &names, &node))
        .map_err(|error| format!("its database does not tell how far the node was: {error}"))?;
    let positions: Vec<Position> = positions.iter().filter_map(position).collect();
    let noted = positions.iter().map(|at| (at.stream.clone(), (at.epoch, at.sequence)));
    let noted = noted.collect();
    emitter.resume(positions, since);
    Ok(Memory { database: Some(database), dialect, names, node, noted, failures: 0, trouble })
}

/// `outbox/lane/epoch/model`, and the number.
fn read(dialect: Dialect, names: &Names, node: &str) -> String {
    let text = match dialect {
        Dialect::Postgres | Dialect::Sqlite => "outbox || '/' || lane || '/' || epoch || '/' || model",
        Dialect::MySql => "CONCAT(outbox, '/', lane, '/', epoch, '/', model)",
    };
    let (positions, node) = (names.table("positions"), dialect.quoted(node));
    format!(
        "SELECT {text} AS text, sequence AS number FROM {positions} WHERE node = {node} \
         ORDER BY noted_at DESC LIMIT {MOST_STREAMS}"
    )
}

/// Forgets what is beyond the newest that a node can know: a life that was killed may have left more.
fn clear(dialect: Dialect, names: &Names, node: &str) -> String {
    let (positions, node) = (names.table("positions"), dialect.quoted(node));
    // MySQL reads no table that it writes but through another one.
    format!(
        "DELETE FROM {positions} WHERE node = {node} AND noted_at < (SELECT MIN(noted_at) FROM \
         (SELECT noted_at FROM {positions} WHERE node = {node} ORDER BY noted_at DESC LIMIT {MOST_STREAMS}) AS newest)"
    )
}

fn position(pair: &Pair) -> Option<Position> {
    let mut parts = pair.text.splitn(4, '/');
    let outbox = parts.next()?.into();
    let lane = parts.next()?.parse().ok()?;
    let epoch = parts.next()?.parse().ok()?;
    let model = parts.next()?.into();
    let sequence = u64::try_from(pair.number).ok()?;
    Some(Position { stream: Stream { outbox, lane, model }, epoch, sequence })
}

fn write(dialect: Dialect, names: &Names, node: &str, positions: &[Position]) -> String {
    let node = dialect.quoted(node);
    let rows = positions.iter().map(|Position { stream, epoch, sequence }| {
        let Stream { outbox, lane, model } = stream;
        let (outbox, model) = (dialect.quoted(outbox), dialect.quoted(model));
        format!("({node}, {outbox}, {lane}, {model}, {epoch}, {sequence}, {})", dialect.timestamp())
    });
    let rows: Vec<String> = rows.collect();
    let conflict = match dialect {
        Dialect::Postgres | Dialect::Sqlite => {
            "ON CONFLICT (node, outbox, lane, model) DO UPDATE SET epoch = excluded.epoch, \
             sequence = excluded.sequence, noted_at = excluded.noted_at"
        }
        Dialect::MySql => {
            "ON DUPLICATE KEY UPDATE epoch = VALUES(epoch), sequence = VALUES(sequence), noted_at = VALUES(noted_at)"
        }
    };
    format!(
        "INSERT INTO {} (node, outbox, lane, model, epoch, sequence, noted_at) VALUES {} {conflict}",
        names.table("positions"),
        rows.join(", ")
    )
}

/// Forgets these.
fn erase(dialect: Dialect, names: &Names, node: &str, streams: &[Stream]) -> String {
    let (positions, node) = (names.table("positions"), dialect.quoted(node));
    let each = streams.iter().map(|Stream { outbox, lane, model }| {
        let (outbox, model) = (dialect.quoted(outbox), dialect.quoted(model));
        format!(
            "DELETE FROM {positions} WHERE node = {node} AND outbox = {outbox} AND lane = {lane} AND model = {model}"
        )
    });
    dialect.atomic(&each.collect::<Vec<_>>())
}

impl Memory {
    /// Notes how far the node is until it ends, and then once more.
    fn keep(mut self, tables: &Tables, emitter: &WeakEmitter, has_ended: &Receiver<()>, activity: &Activity) {
        let began = Instant::now();
        loop {
            let pause = pause(began.elapsed());
            let ended = !matches!(has_ended.recv_timeout(pause), Err(RecvTimeoutError::Timeout));
            let Some(emitter) = emitter.upgrade() else { return };
            if let Err(error) = activity.works(|| self.note(tables, &emitter.positions())) {
                self.failures += 1;
                if self.failures.is_power_of_two() {
                    warn!(failures = self.failures, "how far this node heard could not be noted: {error}");
                }
                self.says(Some(format!("catch_up: how far this node heard could not be noted: {error}")));
                self.database = None;
            } else if std::mem::take(&mut self.failures) > 0 {
                self.says(None);
            }
            if ended {
                return;
            }
        }
    }

    fn says(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Notes what is new, and forgets what the node has forgotten.
    fn note(&mut self, tables: &Tables, positions: &[Position]) -> QueryResult<()> {
        let new = |at: &&Position| self.noted.get(&at.stream) != Some(&(at.epoch, at.sequence));
        let new: Vec<Position> = positions.iter().filter(new).cloned().collect();
        if new.is_empty() && self.noted.len() <= positions.len() {
            return Ok(());
        }
        let mut database = self.database.take().map_or_else(|| tables.connected(), Ok)?;
        let mut refused = None;
        for batch in new.chunks(BATCH) {
            self.write(&mut *database, batch, &mut refused)?;
        }
        self.forget(&mut *database, positions)?;
        self.database = Some(database);
        refused.map_or(Ok(()), Err)
    }

    /// Notes these together; where that is refused, each half by itself, so that one that cannot be noted hinders no
    /// other.
    fn write(
        &mut self,
        database: &mut dyn Database,
        batch: &[Position],
        refused: &mut Option<Error>,
    ) -> QueryResult<()> {
        match database.run(&write(self.dialect, &self.names, &self.node, batch)) {
            Ok(()) => {
                self.noted.extend(batch.iter().map(|at| (at.stream.clone(), (at.epoch, at.sequence))));
                Ok(())
            }
            // It is away, and refuses nothing.
            Err(error) if database.run(PROBE).is_err() => Err(error),
            Err(error) if batch.len() < 2 => {
                *refused = Some(error);
                Ok(())
            }
            Err(_) => {
                let (first, rest) = batch.split_at(batch.len() / 2);
                self.write(database, first, refused)?;
                self.write(database, rest, refused)
            }
        }
    }

    /// Whoever makes up names of streams fills neither memory nor table: what the node knows no more is noted no longer.
    fn forget(&mut self, database: &mut dyn Database, positions: &[Position]) -> QueryResult<()> {
        let known: HashSet<&Stream> = positions.iter().map(|at| &at.stream).collect();
        let forgotten: Vec<Stream> =
            self.noted.keys().filter(|stream| !known.contains(stream)).cloned().collect();
        for batch in forgotten.chunks(BATCH) {
            database.run(&erase(self.dialect, &self.names, &self.node, batch))?;
            for stream in batch {
                self.noted.remove(stream);
            }
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use diesel::{Connection, SqliteConnection};
    use emitter_core::EventId;

    use super::*;

    struct Stage {
        memory: Memory,
        tables: Tables,
    }

    impl Stage {
        fn new() -> Self {
            // In memory, as long as somebody is connected.
            let url = format!("file:{}?mode=memory&cache=shared", EventId::now());
            let tables = Tables::new(move || SqliteConnection::establish(&url)).migrate();
            let (database, _) = tables.open().unwrap();
            let (dialect, names) = (database.dialect(), tables.all_names().clone());
            let (node, noted) = ("desk/a".to_owned(), HashMap::new());
            let trouble = Arc::default();
            let memory =
                Memory { database: Some(database), dialect, names, node, noted, failures: 0, trouble };
            Self { memory, tables }
        }

        fn note(&mut self, lanes: impl IntoIterator<Item = u32>) -> QueryResult<()> {
            let at = |lane| Position { stream: stream(lane), epoch: 1, sequence: 9 };
            let positions: Vec<Position> = lanes.into_iter().map(at).collect();
            self.memory.note(&self.tables, &positions)
        }

        fn run(&self, sql: &str) {
            self.tables.connected().unwrap().run(sql).unwrap();
        }

        /// The lanes that the next life reads.
        fn lanes(&self) -> Vec<u32> {
            let Memory { dialect, names, node, .. } = &self.memory;
            let pairs = self.tables.connected().unwrap().pairs(read(*dialect, names, node)).unwrap();
            let mut lanes: Vec<u32> = pairs.iter().filter_map(position).map(|at| at.stream.lane).collect();
            lanes.sort_unstable();
            lanes
        }

        fn rows(&self) -> i64 {
            let rows = "SELECT 'rows' AS text, COUNT(*) AS number FROM emitter_positions";
            self.tables.connected().unwrap().pairs(rows.to_owned()).unwrap()[0].number
        }
    }

    fn stream(lane: u32) -> Stream {
        Stream { outbox: "box".into(), lane, model: "order".into() }
    }

    #[test]
    fn a_life_that_ends_repeats_a_part_of_itself_and_a_long_one_notes_every_second() {
        let mut noted = vec![Duration::ZERO];
        while let Some(last) = noted.last().filter(|last| **last < 60 * SELDOM) {
            noted.push(*last + pause(*last));
        }
        for pair in noted.windows(2) {
            let (from, until) = (pair[0], pair[1]);
            assert!(until - from <= OFTEN.max(until / 10), "{from:?} to {until:?}");
        }
        let within =
            |end: Duration| noted.iter().filter(|at| (1..=end.as_millis()).contains(&at.as_millis())).count();
        assert_eq!((within(SELDOM / 2), within(10 * SELDOM), within(60 * SELDOM)), (10, 41, 91));
    }

    #[test]
    fn a_position_that_is_refused_hinders_no_other() {
        let mut stage = Stage::new();
        stage.run(
            "CREATE TRIGGER refuses BEFORE INSERT ON emitter_positions WHEN NEW.lane IN (7, 901) \
             BEGIN SELECT RAISE(ABORT, 'no such lane'); END",
        );
        let error = stage.note(0..1_000).unwrap_err().to_string();
        assert!(error.contains("no such lane"), "{error}");
        assert_eq!(stage.lanes(), (0..1_000).filter(|lane| ![7, 901].contains(lane)).collect::<Vec<_>>());
        stage.run("DROP TRIGGER refuses");
        stage.note(0..1_000).unwrap();
        assert_eq!(stage.rows(), 1_000);
    }

    #[test]
    fn what_the_node_has_forgotten_is_noted_no_longer() {
        let mut stage = Stage::new();
        stage.note(0..1_200).unwrap();
        assert_eq!(stage.rows(), 1_200);
        stage.note(1_000..1_300).unwrap();
        assert_eq!(stage.lanes(), (1_000..1_300).collect::<Vec<_>>());
        assert_eq!((stage.rows(), stage.memory.noted.len()), (300, 300));
        // Another node's are its own.
        stage.memory.node = "desk/b".to_owned();
        stage.memory.noted.clear();
        stage.note([1]).unwrap();
        stage.note([]).unwrap();
        assert_eq!(stage.rows(), 300);
    }

    #[test]
    fn of_more_than_a_node_can_know_the_newest_are_read_and_the_others_cleared_away() {
        let stage = Stage::new();
        let most = i64::try_from(MOST_STREAMS).unwrap();
        stage.run(&format!(
            "INSERT INTO emitter_positions (node, outbox, lane, model, epoch, sequence, noted_at) \
             WITH RECURSIVE lanes (lane) AS (SELECT 0 UNION ALL SELECT lane + 1 FROM lanes WHERE lane < {most} + 99) \
             SELECT 'desk/a', 'box', lane, 'order', 1, 9, printf('2026-01-01T00:00:00.%06dZ', lane) FROM lanes"
        ));
        let Memory { dialect, names, node, .. } = &stage.memory;
        let newest = (100..u32::try_from(most).unwrap() + 100).collect::<Vec<_>>();
        assert_eq!(stage.lanes(), newest);
        stage.run(&clear(*dialect, names, "desk/b"));
        assert_eq!(stage.rows(), most + 100);
        stage.run(&clear(*dialect, names, node));
        assert_eq!((stage.rows(), stage.lanes()), (most, newest));
    }
}
