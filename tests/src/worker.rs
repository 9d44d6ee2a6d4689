//! A process that writes durable events into PostgreSQL, relays them, or has effects of them, and may be killed at any
//! moment.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// What a worker does. By default nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Task {
    /// Its node's name.
    pub node: String,
    /// The database's URL.
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
}

/// A running worker. Dropping it kills the process.
#[derive(Debug)]
pub struct Worker {
    child: Child,
}

impl Worker {
    /// Starts the program, and returns when its emitter has started.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(program: &str, task: &Task) -> Self {
        let mut child = Command::new(program)
            .arg(serde_json::to_string(task).expect("a task is JSON"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} could not be started: {error}"));
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        let read = output.read_line(&mut line);
        assert!(matches!(read, Ok(1..)), "{} did not start", task.node);
        Self { child }
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
