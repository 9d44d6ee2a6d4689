//! A node as a process of its own: a database in memory, an emitter over MQTT, and a listener that keeps
//! account of what it is handed. A test drives it with one JSON value a line, which it answers with one line.
//!
//! ```no_run
//! use emitter_tests::node::{Node, Setup, Writing};
//!
//! # let (program, url) = ("target/debug/node", "mqtt://127.0.0.1:1883");
//! // In a test, `program` is `env!("CARGO_BIN_EXE_node")`.
//! let mut shop = Node::start(program, &Setup::new("shop", url));
//! shop.until("it is connected", |report| report.connected);
//! shop.write(Writing { users: 10, updates: 2, per_second: None });
//! shop.until("it heard itself", |report| report.heard_locally() == 30);
//! assert_eq!(shop.shutdown().left_undone, 0);
//! ```
//!
//! Whatever goes wrong panics, and so fails the test. The methods block.

mod protocol;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

pub use protocol::{Account, Counted, Order, Report, Setup, Writing};

/// How long a node may take to answer, and how long what is waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// How often a node is asked for what is waited for.
const LOOK: Duration = Duration::from_millis(20);

/// A running node. Dropping it kills the process.
#[derive(Debug)]
pub struct Node {
    name: String,
    child: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
}

impl Node {
    /// Starts the program, and returns when its emitter has started, connected or not.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(program: &str, setup: &Setup) -> Self {
        let mut child = Command::new(program)
            .arg(serde_json::to_string(setup).expect("a setup is JSON"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} could not be started: {error}"));
        let orders = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, answers) = mpsc::channel();
        // It ends with the process, whose end closes the pipe.
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let node = Self { name: setup.name.clone(), child, orders, answers };
        assert_eq!(node.answer(), "ready");
        node
    }

    /// Begins to write, and returns at once.
    pub fn write(&mut self, writing: Writing) {
        self.order(&Order::Write(writing));
    }

    /// How it stands now.
    pub fn report(&mut self) -> Report {
        self.order(&Order::Report)
    }

    /// Waits until it reports what holds; that report.
    ///
    /// # Panics
    /// If that does not happen within a minute.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Report) -> bool) -> Report {
        let deadline = Instant::now() + LIMIT;
        loop {
            let report = self.report();
            if holds(&report) {
                return report;
            }
            assert!(Instant::now() < deadline, "{}: not within {LIMIT:?}: {what}\n{report:#?}", self.name);
            thread::sleep(LOOK);
        }
    }

    /// Lets it finish its writing, its listeners and its publishing, and ends it; its last report.
    ///
    /// # Panics
    /// If the process does not end well.
    pub fn shutdown(mut self) -> Report {
        let report = self.order(&Order::Shutdown);
        let status = self.child.wait().expect("a child can be waited for");
        assert!(status.success(), "{} ended with {status}", self.name);
        report
    }

    fn order(&mut self, order: &Order) -> Report {
        let line = serde_json::to_string(order).expect("an order is JSON");
        let sent = writeln!(self.orders, "{line}");
        sent.unwrap_or_else(|error| panic!("{} takes no orders: {error}", self.name));
        let answer = self.answer();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{}: {error}: {answer}", self.name))
    }

    fn answer(&self) -> String {
        let answer = self.answers.recv_timeout(LIMIT);
        answer.unwrap_or_else(|error| panic!("{} does not answer: {error}", self.name))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Fails only for one that has ended, and both then do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
