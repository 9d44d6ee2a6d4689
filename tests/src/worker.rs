//! A process that writes durable events into PostgreSQL, SQLite or MariaDB, relays them, or has effects of them, and may
//! be killed at any moment, or at a certain one.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::servers::Disk;

/// What a worker does. By default nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Task {
    /// Its node's name.
    pub node: String,
    /// The database's URL, which tells what it is; of SQLite its file.
    pub database: String,
    /// The broker's URL.
    pub broker: String,
    /// It relays, with a lease of so many milliseconds.
    pub lease: Option<u64>,
    /// How many rows it relays at a time.
    pub batch: usize,
    /// It steps through so many orders; 0 where it writes nothing.
    pub keys: i64,
    /// It has neither outbox nor relay, but an inbox, and the listener of this name.
    pub listener: Option<String>,
    /// What it writes is queued, and not durable.
    pub queued: bool,
    /// Microseconds between two transactions.
    pub pause: Option<u64>,
    /// It has neither outbox nor relay, but a copy of the orders of others.
    pub replica: bool,
    /// It turns what triggers capture of orders.
    pub captures: bool,
    /// It does what its service is asked to do.
    pub attends: bool,
    /// What it does to itself at a certain moment.
    pub cue: Option<Cue>,
}

/// What a worker does to itself, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cue {
    /// The moment.
    pub moment: Moment,
    /// How often it goes by before.
    pub skip: u32,
    /// What is done.
    pub deed: Deed,
}

/// What a worker does to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// It dies: SIGKILL.
    Die,
    /// It says so, and does nothing until it is [thawed](Worker::thaw): SIGSTOP. Then it says when the statement is over.
    Stop,
}

/// A moment in the work of a node, which its SQL tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// A transaction with events is about to be committed.
    BeforeCommit,
    /// It is committed, and nobody was told.
    Committed,
    /// A relay has taken a lane.
    LaneTaken,
    /// It has read rows, and published none of them.
    Read,
    /// The broker has confirmed rows, and that is about to be noted.
    BeforeMark,
    /// It is noted, and the relay does not know.
    Marked,
    /// A listener with an inbox has done one of two things.
    InEffect,
}

impl Moment {
    /// Whether it is now: before a statement, or when that is over. What inserts events is to be one statement with its COMMIT.
    #[must_use]
    pub fn is_at(self, sql: &str, is_over: bool) -> bool {
        let (after, parts): (bool, &[&str]) = match self {
            Self::BeforeCommit => (false, &["INSERT INTO emitter_outbox", "; COMMIT"]),
            Self::Committed => (true, &["INSERT INTO emitter_outbox", "; COMMIT"]),
            Self::LaneTaken => (true, &["SET owner = ", "epoch = epoch + 1"]),
            // MariaDB is asked for their ids before, and for nothing where there are none.
            Self::Read if sql.contains("emitter_outbox o WHERE o.id IN (") => (true, &["handled_here"]),
            Self::Read => (true, &["handled_here", "emitter_outbox", "o.status = 'PENDING'"]),
            Self::BeforeMark => (false, &["DELETE ", "emitter_outbox", "INTO emitter_history"]),
            Self::Marked => (true, &["DELETE ", "emitter_outbox", "INTO emitter_history"]),
            Self::InEffect => (false, &["UPDATE ", "totals"]),
        };
        after == is_over && parts.iter().all(|part| sql.contains(part))
    }
}

/// What a worker says first.
pub const STARTED: &str = "started";

/// How long a worker may take for what it was told to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running worker. Dropping it kills the process.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    node: String,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Worker {
    /// Starts the program, and returns when its emitter has started.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(program: &str, task: &Task) -> Self {
        Self::begin(Command::new(program), task)
    }

    /// The same of one that keeps what is in a folder on a disk that may fail.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_on(disk: &Disk, folder: &Path, program: &str, task: &Task) -> Self {
        let mut command = Command::new(program);
        disk.hold(&mut command, folder);
        Self::begin(command, task)
    }

    fn begin(mut command: Command, task: &Task) -> Self {
        let mut child = command
            .arg(serde_json::to_string(task).expect("a task is JSON"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("a worker could not be started: {error}"));
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let input = child.stdin.take().expect("it is piped");
        let (said, lines) = channel();
        // It ends with the process.
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        let worker = Self { child, node: task.node.clone(), input, lines };
        // Its cue may come before that.
        if task.cue.is_none() {
            assert_eq!(worker.next(), STARTED);
        }
        worker
    }

    fn next(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.unwrap_or_else(|error| panic!("{} says nothing: {error}", self.node))
    }

    /// What it says next, but for having started.
    ///
    /// # Panics
    /// If it says nothing more.
    pub fn line(&self) -> String {
        let line = self.next();
        if line == STARTED { self.next() } else { line }
    }

    /// What its emitter's health has to tell.
    ///
    /// # Panics
    /// If it says nothing.
    pub fn health(&mut self) -> String {
        self.input.write_all(b"health\n").unwrap_or_else(|error| panic!("{}: {error}", self.node));
        self.line()
    }

    /// Whether the process is there.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Returns when it has killed itself at its cue.
    ///
    /// # Panics
    /// If it does not, or ends in another way.
    pub fn died(mut self) {
        let begun = Instant::now();
        let ended = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                _ => assert!(begun.elapsed() < PATIENCE, "{} did not come to its cue", self.node),
            }
            thread::sleep(Duration::from_millis(1));
        };
        assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()), "{}: {ended}", self.node);
    }

    /// Kills it: SIGKILL, which it cannot notice.
    pub fn kill(mut self) {
        self.end();
    }

    /// Has it do nothing, and notice nothing of it, until [`thaw`](Self::thaw): SIGSTOP.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Has it go on.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process has a number");
        kill_process(pid, signal).expect("the process is there");
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}
