//! One run of a server: a child process with a log file.

use std::env;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Program;

/// How long a server may take to accept connections, on a machine that runs many tests at once.
const START: Duration = Duration::from_secs(120);

/// How long a server may take to end in order, before it is killed.
const END: Duration = Duration::from_secs(30);

/// How often we look whether it has started or ended.
const LOOK: Duration = Duration::from_millis(2);

/// How long one may take that is dropped and is not simply killed.
const LAST: Duration = Duration::from_secs(5);

/// A running server. Dropping it ends it; in a test that fails, the end of its log is printed then.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
    /// The signal by which it is ended when it is dropped.
    last: Signal,
    log: PathBuf,
    /// Where this run's part of the log begins.
    log_start: usize,
}

impl Process {
    /// Starts the program with both of its output streams appended to `log`.
    pub(super) fn spawn(program: &Program, mut command: Command, log: PathBuf) -> Result<Self, String> {
        let name = program.name;
        let file = OpenOptions::new().create(true).append(true).open(&log);
        let file = file.map_err(|error| format!("cannot write {}: {error}", log.display()))?;
        let log_start = fs::read(&log).map_or(0, |written| written.len());
        let errors = file.try_clone().map_err(|error| format!("cannot share {}: {error}", log.display()))?;
        command.env("PATH", search_path()).stdin(Stdio::null()).stdout(file).stderr(errors);
        match command.spawn() {
            Ok(child) => Ok(Self { name, child, last: Signal::KILL, log, log_start }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(program.advice()),
            Err(error) => Err(format!("{name} could not be started: {error}")),
        }
    }

    /// Returns when it has ended by itself, as a program does that only prepares something.
    pub(super) fn finish(mut self) -> Result<(), String> {
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if status.success() {
            return Ok(());
        }
        Err(format!("{} failed ({status})\n{}", self.name, self.log_end()))
    }

    /// Returns when the server accepts connections on this port of 127.0.0.1.
    pub(super) fn wait_for_port(&mut self, port: u16) -> Result<(), String> {
        self.wait(&format!("listen on port {port}"), |_| {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        })
    }

    /// Returns when the server has written this to its log, in this run.
    pub(super) fn wait_for_log(&mut self, text: &str) -> Result<(), String> {
        self.wait(&format!("write {text:?} to its log"), |process| process.log().contains(text))
    }

    fn wait(&mut self, what: &str, ready: impl Fn(&Self) -> bool) -> Result<(), String> {
        let name = self.name;
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                return Err(format!("{name} ended at its start ({status})\n{}", self.log_end()));
            }
            if ready(self) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{name} did not {what} within {START:?}\n{}", self.log_end()));
            }
            thread::sleep(LOOK);
        }
    }

    /// Has it ended by this signal when it is dropped. By default it is killed.
    pub(super) fn ended_by(mut self, last: Signal) -> Self {
        self.last = last;
        self
    }

    /// Whether it has ended, by itself or not.
    pub(super) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) {
        let sent = kill_process(Pid::from_child(&self.child), signal);
        sent.unwrap_or_else(|error| panic!("{} could not be sent {signal:?}: {error}", self.name));
    }

    /// Sends it a signal, and its children, as PostgreSQL has one for each connection.
    pub(super) fn signal_all(&self, signal: Signal) {
        self.signal(signal);
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)) {
            // It may have ended.
            let _ = kill_process(child, signal);
        }
    }

    /// Ends it with this signal and returns when it is gone. A frozen one wakes up to end.
    pub(super) fn end(mut self, signal: Signal) {
        self.signal(signal);
        self.signal(Signal::CONT);
        let deadline = Instant::now() + END;
        while let Ok(None) = self.child.try_wait() {
            assert!(
                Instant::now() < deadline,
                "{} did not end within {END:?} of {signal:?}\n{}",
                self.name,
                self.log_end()
            );
            thread::sleep(LOOK);
        }
    }

    /// What this run has written.
    fn log(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.log_start..).unwrap_or_default()).into_owned()
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let end = &lines[lines.len().saturating_sub(20)..];
        format!("── the end of {}\n{}\n──", self.log.display(), end.join("\n"))
    }
}

/// A server that is stopped in the middle of its work, until this is dropped.
#[derive(Debug)]
pub struct Frozen<'s>(&'s Process);

impl<'s> Frozen<'s> {
    pub(super) fn new(process: &'s Process) -> Self {
        process.signal_all(Signal::STOP);
        Self(process)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.signal_all(Signal::CONT);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.has_ended();
        if thread::panicking() && !ended {
            eprintln!("{}", self.log_end());
        }
        if !ended && self.last != Signal::KILL {
            let id = Pid::from_child(&self.child);
            let _ = kill_process(id, self.last);
            let _ = kill_process(id, Signal::CONT);
            let deadline = Instant::now() + LAST;
            while !self.has_ended() && Instant::now() < deadline {
                thread::sleep(LOOK);
            }
        }
        // Fails only for one that has ended, and both then do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The PATH with the folders where Debian keeps servers, which are not in everybody's.
pub(super) fn search_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian has no PostgreSQL in the PATH: there may be several.
    let postgres = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let postgres = postgres.map(|version| version.path().join("bin"));
    let folders = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(|folder| Path::new(folder).to_owned());
    let folders = folders.into_iter().chain(postgres);
    env::join_paths(env::split_paths(&path).chain(folders)).expect("folders without a colon")
}
