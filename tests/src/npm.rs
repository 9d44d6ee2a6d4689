//! A server that runs the npm package prisma-extension-emitter, as its users do: its program is
//! `tests/npm/server.js`.
//!
//! ```no_run
//! use emitter_tests::npm::{Installation, Server};
//!
//! # let (target, url) = ("target/tmp", "mqtt://127.0.0.1:1883");
//! // In a test, `target` is `env!("CARGO_TARGET_TMPDIR")`.
//! let mut server = Server::start(&Installation::provide(target), url);
//! server.until("it has heard one event", |counts| counts.heard["all"] == 1);
//! ```
//!
//! Whatever goes wrong panics, and so fails the test. The methods block.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::servers::packages::{self, NODE};

/// What is installed, to the byte.
const FILES: [(&str, &str); 3] = [
    ("package.json", include_str!("../npm/package.json")),
    ("package-lock.json", include_str!("../npm/package-lock.json")),
    ("schema.prisma", include_str!("../npm/schema.prisma")),
];

/// The program that it runs.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/npm/server.js");

/// How long a server may take to answer, and how long what is waited for, on a machine that runs many tests.
const LIMIT: Duration = Duration::from_secs(60);

/// How often a server is asked for what is waited for.
const LOOK: Duration = Duration::from_millis(5);

/// The packages that a [`Server`] needs, installed.
#[derive(Debug)]
pub struct Installation(PathBuf);

impl Installation {
    /// Installs them into a folder below this one, out of npm's registry, unless that was done before.
    ///
    /// # Panics
    /// If Node.js or npm are missing, or npm cannot have the packages.
    pub fn provide(target: impl AsRef<Path>) -> Self {
        Self(packages::install(target.as_ref(), "npm", &FILES, generate))
    }
}

/// Prisma's client for the schema.
fn generate(folder: &Path) {
    let mut command = Command::new(NODE.name);
    command.args([
        "node_modules/prisma/build/index.js",
        "generate",
        "--no-hints",
        "--schema",
        "schema.prisma",
    ]);
    // It needs no engine, and would fetch one all the same from elsewhere: any file will do.
    command.env("PRISMA_SCHEMA_ENGINE_BINARY", folder.join("schema.prisma")).env("CHECKPOINT_DISABLE", "1");
    packages::run(&NODE, command, folder);
}

/// How a server stands.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Counts {
    /// How much of what it was ordered to write Prisma has answered.
    pub written: usize,
    /// How many events each of its listeners was handed.
    pub heard: BTreeMap<String, usize>,
}

/// All that a server wrote and heard.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Account {
    /// What Prisma answered to each write.
    pub results: Vec<Value>,
    /// What each listener was handed, in its order.
    pub heard: BTreeMap<String, Vec<Handed>>,
}

/// What the package hands to a listener.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Handed {
    /// The model's name.
    pub model: String,
    /// What was asked of the database.
    pub args: Value,
    /// What the database answered.
    pub result: Value,
    /// `local` or `remote`.
    pub source: String,
}

/// A running server, whose database is new. Dropping it kills the process.
#[derive(Debug)]
pub struct Server {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
    errors: File,
    _database: TempDir,
}

impl Server {
    /// Starts it, and returns when both of its connections to the broker are there and its listeners are subscribed.
    ///
    /// # Panics
    /// If Node is not installed, or the server does not start.
    pub fn start(installation: &Installation, broker: &str) -> Self {
        let database = tempfile::Builder::new().prefix("npm-").tempdir().expect("a temporary folder");
        let errors = tempfile::tempfile().expect("a temporary file");
        let client = installation.0.join("generated");
        let setup =
            json!({ "broker": broker, "client": client, "database": database.path().join("prisma.db") });
        let mut child = Command::new(NODE.name)
            .args([PROGRAM, &setup.to_string()])
            .env("NODE_PATH", installation.0.join("node_modules"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone().expect("a file can be shared"))
            .spawn()
            .unwrap_or_else(|error| panic!("{error}: {}", NODE.advice()));
        let orders = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, answers) = mpsc::channel();
        // It ends with the process, whose end closes the pipe.
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut server = Self { child, orders, answers, errors, _database: database };
        let _: Counts = server.answer();
        server
    }

    /// Begins to write by Prisma, one after the other, and returns at once: a list of `{operation, args}`.
    pub fn write(&mut self, writes: &[Value]) {
        let _: Counts = self.order(&json!({ "write": writes }));
    }

    /// Waits until its counts are so; these counts.
    ///
    /// # Panics
    /// If that does not happen within a minute.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Counts) -> bool) -> Counts {
        let deadline = Instant::now() + LIMIT;
        loop {
            let counts: Counts = self.order(&json!({}));
            if holds(&counts) {
                return counts;
            }
            assert!(Instant::now() < deadline, "npm: not within {LIMIT:?}: {what}\n{counts:#?}");
            thread::sleep(LOOK);
        }
    }

    /// All that it wrote and heard up to now.
    pub fn account(&mut self) -> Account {
        self.order(&json!({ "account": true }))
    }

    /// Waits until the process has ended by itself; how, and what it wrote to its standard error.
    ///
    /// # Panics
    /// If it does not end within a minute.
    pub fn end(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return (status, self.errors());
            }
            assert!(Instant::now() < deadline, "the npm process did not end within {LIMIT:?}");
            thread::sleep(LOOK);
        }
    }

    fn order<T: for<'a> Deserialize<'a>>(&mut self, order: &Value) -> T {
        if let Err(error) = writeln!(self.orders, "{order}") {
            panic!("the npm process takes no orders: {error}\n{}", self.errors());
        }
        self.answer()
    }

    fn answer<T: for<'a> Deserialize<'a>>(&mut self) -> T {
        match self.answers.recv_timeout(LIMIT) {
            Ok(line) => serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")),
            Err(error) => panic!("the npm process does not answer: {error}\n{}", self.errors()),
        }
    }

    /// What it has written to its standard error.
    fn errors(&mut self) -> String {
        let mut text = Vec::new();
        // Nothing better is to be had for a message than what can be read.
        let _ = self.errors.rewind().and_then(|()| self.errors.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only for one that has ended, and both then do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
