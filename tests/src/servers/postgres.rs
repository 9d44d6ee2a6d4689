//! PostgreSQL.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getuid};
use tempfile::TempDir;

use super::Program;
use super::cluster::{copy, template, user};
use super::disk::Disk;
use super::port::Port;
use super::process::{Frozen, Process, search_path};

const PROGRAM: Program = Program { name: "postgres", debian_package: "postgresql" };
const INITDB: Program = Program { name: "initdb", debian_package: "postgresql" };

/// A PostgreSQL of this test's own, on 127.0.0.1, with one empty database.
///
/// It does not wait for the disk (`fsync = off`): a test kills the server, not the machine. One that is
/// [measured](Self::start_with_fsync) does.
#[derive(Debug)]
pub struct Postgres {
    // Before the folder and the port, which it uses until it is dropped.
    process: Option<Process>,
    folder: TempDir,
    port: Port,
    fsync: bool,
    disk: Option<Arc<Disk>>,
}

impl Postgres {
    /// Starts a server, and returns when it accepts connections.
    ///
    /// # Panics
    /// If PostgreSQL is not installed or does not start.
    pub fn start() -> Self {
        Self::started(false, None)
    }

    /// One that waits for the disk at each COMMIT, as servers do by default.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_with_fsync() -> Self {
        Self::started(true, None)
    }

    /// One that waits for the disk at each COMMIT, and whose disk may fail.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_on(disk: &Arc<Disk>) -> Self {
        Self::started(true, Some(Arc::clone(disk)))
    }

    fn started(fsync: bool, disk: Option<Arc<Disk>>) -> Self {
        let files = template(&PROGRAM, |folder| {
            give(folder);
            let mut initdb = Command::new(INITDB.name);
            initdb.args([
                "--no-sync",
                "--auth=trust",
                "--username=test",
                "--encoding=UTF8",
                "--locale=C",
                "-D",
            ]);
            initdb.arg(folder.join("data")).current_dir(folder);
            Process::spawn(&INITDB, as_its_user(initdb), folder.join("initdb.log"))?.finish()
        });
        let folder = tempfile::Builder::new().prefix("postgres-").tempdir().expect("a temporary folder");
        give(folder.path());
        copy(&files.join("data"), &folder.path().join("data"));
        let mut server = Self { process: None, folder, port: Port::reserve(), fsync, disk };
        server.restart();
        server
    }

    /// `postgres://test@127.0.0.1:PORT/postgres`, the same for the whole life of this value.
    pub fn url(&self) -> String {
        format!("postgres://test@127.0.0.1:{}/postgres", self.port.number())
    }

    /// Ends it at once (SIGKILL), its connections with it.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            // Its children notice that it is gone.
            process.end(Signal::KILL);
        }
    }

    /// Stops its work without closing its connections (SIGSTOP), until the guard is dropped.
    ///
    /// # Panics
    /// If it does not run.
    pub fn freeze(&self) -> Frozen<'_> {
        Frozen::new(self.process.as_ref().expect("it runs"))
    }

    /// Whether it is not there: it was killed, or has given up.
    pub fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_none_or(Process::has_ended)
    }

    /// Ends it in order, but without waiting for its clients, and starts it again.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        if !self.has_ended()
            && let Some(process) = self.process.take()
        {
            process.end(Signal::INT);
        }
        // The children of one that was killed hold its memory until they notice.
        let begun = Instant::now();
        let process = loop {
            match self.spawn() {
                Ok(process) => break process,
                Err(failure) if begun.elapsed() > PATIENCE => panic!("{failure}"),
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        };
        self.process = Some(process);
    }

    fn spawn(&self) -> Result<Process, String> {
        let mut command = Command::new(PROGRAM.name);
        command.arg("-D").arg(self.folder.path().join("data")).args(["-p", &self.port.number().to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            // Said here, it could not be changed by SQL.
            if self.fsync { "fsync=on" } else { "fsync=off" },
            "max_connections=50",
            // What is measured has what servers have by default; tests take little, for there are many at once.
            if self.fsync { "shared_buffers=128MB" } else { "shared_buffers=16MB" },
            "deadlock_timeout=100ms",
        ] {
            command.args(["-c", setting]);
        }
        command.current_dir(self.folder.path());
        if let Some(disk) = &self.disk {
            disk.hold(&mut command, &self.folder.path().join("data"));
        }
        let process = Process::spawn(&PROGRAM, as_its_user(command), self.log_file())?;
        let mut process = process.ended_by(Signal::QUIT);
        process.wait_for_log("database system is ready to accept connections")?;
        Ok(process)
    }

    /// What it has written to its log, in all its runs.
    ///
    /// # Panics
    /// If that cannot be read.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.log_file()).expect("it has a log");
        String::from_utf8_lossy(&log).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("postgres.log")
    }
}

impl Postgres {
    /// The piece of shared memory that it has, or had when it was killed.
    fn memory(&self) -> Option<String> {
        let file = std::fs::read_to_string(self.folder.path().join("data/postmaster.pid")).ok()?;
        // The line has its key and its number.
        file.lines().nth(6)?.split_whitespace().nth(1).map(str::to_owned)
    }
}

impl Drop for Postgres {
    /// Leaves no shared memory behind, of which a machine has a few thousand pieces.
    fn drop(&mut self) {
        self.process = None;
        // One that has ended in order has none any more.
        if let Some(id) = self.memory() {
            // Who cannot, leaves it.
            let _ = Command::new("ipcrm").args(["-m", &id]).env("PATH", search_path()).output();
        }
    }
}

/// How long it may take until it can be started again.
const PATIENCE: Duration = Duration::from_secs(60);

/// PostgreSQL refuses to run as root; Debian has a user for it.
fn as_its_user(mut command: Command) -> Command {
    if getuid().is_root() {
        let (uid, gid) = user("postgres").unwrap_or_else(|| {
            panic!("PostgreSQL does not run as root, and there is no user `postgres`: `apt-get install postgresql`")
        });
        command.uid(uid).gid(gid);
    }
    command.env("PATH", search_path());
    command
}

/// Lets that user write here.
fn give(folder: &Path) {
    if let Some((uid, gid)) = user("postgres").filter(|_| getuid().is_root()) {
        chown(folder, Some(uid), Some(gid)).expect("root gives folders away");
    }
}

#[cfg(test)]
mod tests {
    use super::Postgres;

    #[test]
    fn no_shared_memory_is_left_behind() {
        let is_there = |id: &str| {
            let pieces = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
            pieces.lines().any(|piece| piece.split_whitespace().nth(1) == Some(id))
        };
        for is_killed in [false, true] {
            let mut server = Postgres::start();
            let id = server.memory().unwrap();
            assert!(is_there(&id));
            if is_killed {
                server.kill();
            }
            drop(server);
            assert!(!is_there(&id), "{is_killed}");
        }
    }
}
