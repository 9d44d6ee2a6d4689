//! What the benchmarks of durable delivery share: the databases, each as its documentation says for data that may
//! not be lost, and what is read off them.
#![allow(dead_code, reason = "each benchmark needs a part of it")]

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::ConnectionResult;
use emitter_diesel::tables::{
    Database, Dialect, GivenUpRow, Lane, LedgerRow, LetterRow, Pair, Queued, RequestRow, Seen, Tables,
};
use emitter_tests::servers::Postgres;
use tempfile::TempDir;

/// A database that waits for the disk at every COMMIT.
pub(crate) trait Server: Sized + Send + Sync + 'static {
    const NAME: &'static str;
    /// What a key is that the database makes.
    const KEY: &'static str;
    /// It has one writer at a time: then clients share one connection, as by a pool of that size, for the sleeps of
    /// its busy handler would be all that is measured else.
    const ONE_WRITER: bool;
    type Conn: Database + Connection<Backend: 'static> + SimpleConnection + 'static;

    fn start() -> Self;

    fn connector(&self) -> impl Fn() -> ConnectionResult<Self::Conn> + Clone + Send + Sync + 'static;

    fn connect(&self) -> Self::Conn {
        self.connector()().unwrap()
    }

    /// The framework's, which are made where they are not there.
    fn tables(&self) -> Tables {
        Tables::new(self.connector()).migrate()
    }
}

/// In a file, in WAL mode, with `synchronous = FULL`.
pub(crate) struct Sqlite(TempDir);

impl Server for Sqlite {
    const NAME: &'static str = "SQLite";
    const KEY: &'static str = "INTEGER PRIMARY KEY";
    const ONE_WRITER: bool = true;
    type Conn = SqliteConnection;

    fn start() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn connector(&self) -> impl Fn() -> ConnectionResult<SqliteConnection> + Clone + Send + Sync + 'static {
        let file = self.0.path().join("database");
        move || {
            let mut conn = SqliteConnection::establish(file.to_str().unwrap_or_default())?;
            let settings =
                "PRAGMA busy_timeout = 60000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL";
            conn.batch_execute(settings).map_err(ConnectionError::CouldntSetupConfiguration)?;
            Ok(conn)
        }
    }
}

/// With `fsync = on` and `synchronous_commit = on`.
impl Server for Postgres {
    const NAME: &'static str = "PostgreSQL";
    const KEY: &'static str = "SERIAL PRIMARY KEY";
    const ONE_WRITER: bool = false;
    type Conn = PgConnection;

    fn start() -> Self {
        Self::start_with_fsync()
    }

    fn connector(&self) -> impl Fn() -> ConnectionResult<PgConnection> + Clone + Send + Sync + 'static {
        let url = self.url();
        move || PgConnection::establish(&url)
    }
}

/// What a program was asked to do on its command line.
pub(crate) struct Asked {
    words: Vec<String>,
    /// `cargo test --benches` runs benchmarks too: then little is enough to see that they work.
    pub(crate) size: Size,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Glance,
    Short,
    /// With `EMITTER_PROOF=full`.
    Full,
}

impl Size {
    pub(crate) fn pick<T>(self, [glance, short, full]: [T; 3]) -> T {
        match self {
            Self::Glance => glance,
            Self::Short => short,
            Self::Full => full,
        }
    }
}

impl Asked {
    pub(crate) fn new() -> Self {
        let mut words: Vec<String> = std::env::args().skip(1).collect();
        let is_bench = words.iter().any(|word| word == "--bench");
        let is_full = std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full");
        words.retain(|word| !word.starts_with("--"));
        let size = match (is_bench, is_full) {
            (false, _) => Size::Glance,
            (true, false) => Size::Short,
            (true, true) => Size::Full,
        };
        Self { words, size }
    }

    /// Whether this one of some that exclude each other is to be measured: where none is named, all are.
    pub(crate) fn wants(&self, one: &str, of: &[&str]) -> bool {
        let named = |name: &str| self.words.iter().any(|word| word == name);
        named(one) || !of.iter().any(|other| named(other))
    }
}

/// A connection of which is noted what is asked of it, and for how long.
pub(crate) struct Timed<C> {
    conn: C,
    log: Log,
}

/// Each statement: when it began, how long it took, how many rows it read, and what reads them.
pub(crate) type Log = Arc<Mutex<Vec<(Instant, Duration, usize, &'static str)>>>;

impl<C> Timed<C> {
    pub(crate) fn new(conn: C, log: &Log) -> Self {
        Self { conn, log: Arc::clone(log) }
    }

    fn timed<T>(
        &mut self,
        what: &'static str,
        rows: impl FnOnce(&T) -> usize,
        run: impl FnOnce(&mut C) -> QueryResult<T>,
    ) -> QueryResult<T> {
        let begun = Instant::now();
        let result = run(&mut self.conn);
        let count = result.as_ref().map_or(0, rows);
        self.log.lock().unwrap().push((begun, begun.elapsed(), count, what));
        result
    }
}

impl<C: Database> Database for Timed<C> {
    fn dialect(&self) -> Dialect {
        self.conn.dialect()
    }

    fn has_changed(&mut self) -> QueryResult<bool> {
        self.conn.has_changed()
    }

    fn run(&mut self, sql: &str) -> QueryResult<()> {
        self.timed("run", |()| 0, |conn| conn.run(sql))
    }

    fn change(&mut self, sql: String) -> QueryResult<usize> {
        self.timed("change", |rows| *rows, |conn| conn.change(sql))
    }

    fn queued(&mut self, sql: String) -> QueryResult<Vec<Queued>> {
        self.timed("queued", Vec::len, |conn| conn.queued(sql))
    }

    fn lanes(&mut self, sql: String) -> QueryResult<Vec<Lane>> {
        self.timed("lanes", Vec::len, |conn| conn.lanes(sql))
    }

    fn letters(&mut self, sql: String) -> QueryResult<Vec<LetterRow>> {
        self.timed("letters", Vec::len, |conn| conn.letters(sql))
    }

    fn given_up(&mut self, sql: String) -> QueryResult<Vec<GivenUpRow>> {
        self.timed("given_up", Vec::len, |conn| conn.given_up(sql))
    }

    fn requests(&mut self, sql: String) -> QueryResult<Vec<RequestRow>> {
        self.timed("requests", Vec::len, |conn| conn.requests(sql))
    }

    fn ledger(&mut self, sql: String) -> QueryResult<Vec<LedgerRow>> {
        self.timed("ledger", Vec::len, |conn| conn.ledger(sql))
    }

    fn pairs(&mut self, sql: String) -> QueryResult<Vec<Pair>> {
        self.timed("pairs", Vec::len, |conn| conn.pairs(sql))
    }

    fn seen(&mut self, sql: String) -> QueryResult<Vec<Seen>> {
        self.timed("seen", Vec::len, |conn| conn.seen(sql))
    }
}

/// Processor time, of this process and of the PostgreSQL and the broker that it has started. It depends less than
/// time by the clock on what else the machine does.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) here: Duration,
    pub(crate) database: Duration,
    pub(crate) broker: Duration,
}

impl Spent {
    /// So far, as Linux tells it, in steps of 10 ms.
    pub(crate) fn now() -> Self {
        let processes: Vec<Process> = fs::read_dir("/proc").unwrap().filter_map(Process::read).collect();
        let own = std::process::id();
        let mut spent = Self::default();
        for process in &processes {
            let mut ancestor = Some(process);
            while let Some(other) = ancestor.filter(|other| other.id != own) {
                ancestor = processes.iter().find(|parent| parent.id == other.parent);
            }
            if ancestor.is_none() {
                continue;
            }
            match &*process.name {
                "postgres" => spent.database += process.spent,
                "mosquitto" => spent.broker += process.spent,
                _ if process.id == own => spent.here += process.spent,
                _ => {}
            }
        }
        spent
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            here: self.here.saturating_sub(before.here),
            database: self.database.saturating_sub(before.database),
            broker: self.broker.saturating_sub(before.broker),
        }
    }

    /// In µs for each of so many.
    pub(crate) fn each(self, count: usize) -> String {
        let each = |spent: Duration| spent.as_secs_f64() * 1e6 / count as f64;
        format!(
            "{:.1} µs here, {:.1} database, {:.1} broker",
            each(self.here),
            each(self.database),
            each(self.broker)
        )
    }
}

struct Process {
    id: u32,
    parent: u32,
    name: String,
    spent: Duration,
}

impl Process {
    fn read(entry: std::io::Result<fs::DirEntry>) -> Option<Self> {
        let entry = entry.ok()?;
        let id = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name stands in parentheses, and may have any characters.
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // utime and stime; of a server also its children's that are gone, for each connection is one.
        let times = if name == "postgres" { 11..15 } else { 11..13 };
        let ticks: u64 = fields.get(times)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
        Some(Self {
            id,
            parent: fields.get(1)?.parse().ok()?,
            name: name.to_owned(),
            spent: Duration::from_millis(ticks * 10),
        })
    }
}

pub(crate) fn median(mut samples: Vec<f64>) -> f64 {
    at(&mut samples, 0.5)
}

/// The sample below which this part of all of them is.
#[expect(clippy::cast_possible_truncation, reason = "a place among them")]
pub(crate) fn at(samples: &mut [f64], part: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let place = (samples.len() as f64 * part) as usize;
    samples.get(place.min(samples.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
