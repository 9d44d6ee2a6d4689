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

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use diesel::result::QueryResult;
pub use emitter_core::gaps::Since;
use emitter_core::gaps::{Position, Stream};
use emitter_core::{Builder, Extension, WeakEmitter};
use tracing::warn;

use crate::companion::{self, Activity};
use crate::tables::{Database, Dialect, Names, Pair, Tables};

/// How a node remembers how far it heard.
///
/// Given to the builder of an emitter by [`with`](Builder::with). The node needs a name of its own
/// ([`Builder::node`]), for under that it remembers.
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

/// Begins where the last life of this node ended, and has sent again what it missed since.
///
/// [`start`](Builder::start) then fails with [`StartError::Companion`](emitter_core::StartError::Companion)
/// where the node has no name of its own, the database cannot be reached, or its tables are not those of this
/// version.
impl Extension for CatchUp {
    fn extend(self, builder: Builder) -> Builder {
        let CatchUp { tables, since } = self;
        let (end, has_ended) = mpsc::channel();
        let opened = tables.clone();
        let open = move |emitter: &WeakEmitter| open(&opened, since, emitter);
        let run = move |memory: Memory, emitter, activity: &Arc<Activity>| {
            memory.keep(&tables, &emitter, &has_ended, activity);
        };
        // Dropped, it ends the thread.
        let begin = companion::thread("emitter-catch-up", open, run, move || drop::<mpsc::Sender<()>>(end));
        builder.companion("catch_up", begin)
    }
}

/// How often it is noted how far the node is. What came since is sent again, if the node dies.
const EVERY: Duration = Duration::from_secs(1);

/// How many positions one statement notes.
const BATCH: usize = 500;

/// What is noted, and where.
struct Memory {
    database: Option<Box<dyn Database>>,
    dialect: Dialect,
    names: Names,
    node: String,
    noted: HashMap<Stream, (u64, u64)>,
    failures: u32,
}

fn open(tables: &Tables, since: Since, emitter: &WeakEmitter) -> Result<Memory, String> {
    let emitter = emitter.upgrade().ok_or("its emitter is there no more")?;
    if !emitter.is_named() {
        return Err("the node has no name of its own, under which it could remember: give it one with \
                    `.node(…)`, another one for each node"
            .to_owned());
    }
    let (mut database, _) = tables.open()?;
    let (dialect, names) = (database.dialect(), tables.all_names().clone());
    let node = emitter.origin().to_string();
    let positions = database
        .pairs(read(dialect, &names, &node))
        .map_err(|error| format!("its database does not tell how far the node was: {error}"))?;
    let positions: Vec<Position> = positions.iter().filter_map(position).collect();
    let noted = positions.iter().map(|at| (at.stream.clone(), (at.epoch, at.sequence)));
    let noted = noted.collect();
    emitter.resume(positions, since);
    Ok(Memory { database: Some(database), dialect, names, node, noted, failures: 0 })
}

/// `outbox/lane/epoch/model`, and the number.
fn read(dialect: Dialect, names: &Names, node: &str) -> String {
    let text = match dialect {
        Dialect::Postgres | Dialect::Sqlite => "outbox || '/' || lane || '/' || epoch || '/' || model",
        Dialect::MySql => "CONCAT(outbox, '/', lane, '/', epoch, '/', model)",
    };
    let (positions, node) = (names.table("positions"), dialect.quoted(node));
    format!("SELECT {text} AS text, sequence AS number FROM {positions} WHERE node = {node}")
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
        format!("({node}, {outbox}, {lane}, {model}, {epoch}, {sequence})")
    });
    let rows: Vec<String> = rows.collect();
    let conflict = match dialect {
        Dialect::Postgres | Dialect::Sqlite => {
            "ON CONFLICT (node, outbox, lane, model) DO UPDATE SET epoch = excluded.epoch, sequence = excluded.sequence"
        }
        Dialect::MySql => "ON DUPLICATE KEY UPDATE epoch = VALUES(epoch), sequence = VALUES(sequence)",
    };
    format!(
        "INSERT INTO {} (node, outbox, lane, model, epoch, sequence) VALUES {} {conflict}",
        names.table("positions"),
        rows.join(", ")
    )
}

impl Memory {
    /// Notes how far the node is until it ends, and then once more.
    fn keep(mut self, tables: &Tables, emitter: &WeakEmitter, has_ended: &Receiver<()>, activity: &Activity) {
        loop {
            let ended = !matches!(has_ended.recv_timeout(EVERY), Err(RecvTimeoutError::Timeout));
            let Some(emitter) = emitter.upgrade() else { return };
            if let Err(error) = activity.works(|| self.note(tables, &emitter.positions())) {
                self.failures += 1;
                if self.failures.is_power_of_two() {
                    warn!(failures = self.failures, "how far this node heard could not be noted: {error}");
                }
                self.database = None;
            } else {
                self.failures = 0;
            }
            if ended {
                return;
            }
        }
    }

    fn note(&mut self, tables: &Tables, positions: &[Position]) -> QueryResult<()> {
        let new = |at: &&Position| self.noted.get(&at.stream) != Some(&(at.epoch, at.sequence));
        let new: Vec<Position> = positions.iter().filter(new).cloned().collect();
        for batch in new.chunks(BATCH) {
            let database = match &mut self.database {
                Some(database) => database,
                absent => absent.insert(tables.connected()?),
            };
            database.run(&write(self.dialect, &self.names, &self.node, batch))?;
            self.noted.extend(batch.iter().map(|at| (at.stream.clone(), (at.epoch, at.sequence))));
        }
        Ok(())
    }
}
