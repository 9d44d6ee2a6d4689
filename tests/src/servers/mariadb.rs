//! MariaDB.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use super::Program;
use super::cluster::{copy, template};
use super::port::Port;
use super::process::{Frozen, Process, search_path};

const PROGRAM: Program = Program { name: "mariadbd", debian_package: "mariadb-server" };
const INSTALL: Program = Program { name: "mariadb-install-db", debian_package: "mariadb-server" };

/// A MariaDB of this test's own, on 127.0.0.1, with an empty database `test`.
#[derive(Debug)]
pub struct MariaDb {
    // Before the folder and the port, which it uses until it is dropped.
    process: Option<Process>,
    folder: TempDir,
    port: Port,
}

impl MariaDb {
    /// Starts a server, and returns when it accepts connections.
    ///
    /// # Panics
    /// If MariaDB is not installed or does not start.
    pub fn start() -> Self {
        let files = template(&PROGRAM, |folder| {
            let mut install = Command::new(INSTALL.name);
            install.args([
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-name-resolve",
            ]);
            install.arg(format!("--datadir={}", folder.join("data").display()));
            install.args(["--innodb-log-file-size=8M", "--innodb-data-file-path=ibdata1:4M:autoextend"]);
            install.arg("--user=root").current_dir(folder).env("PATH", search_path());
            Process::spawn(&INSTALL, install, folder.join("install.log"))?.finish()
        });
        let folder = tempfile::Builder::new().prefix("mariadb-").tempdir().expect("a temporary folder");
        copy(&files.join("data"), &folder.path().join("data"));
        let mut server = Self { process: None, folder, port: Port::reserve() };
        server.restart();
        server
    }

    /// `mysql://root@127.0.0.1:PORT/test`, the same for the whole life of this value.
    pub fn url(&self) -> String {
        format!("mysql://root@127.0.0.1:{}/test", self.port.number())
    }

    /// Ends it at once (SIGKILL), its connections with it.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
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

    /// Kills it and starts it again.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        self.kill();
        self.process = Some(self.spawn().unwrap_or_else(|failure| panic!("{failure}")));
    }

    fn spawn(&self) -> Result<Process, String> {
        let folder = self.folder.path();
        let mut command = Command::new(PROGRAM.name);
        command.arg("--no-defaults");
        command.arg(format!("--datadir={}", folder.join("data").display()));
        command.arg(format!("--socket={}", folder.join("socket").display()));
        // Else all servers have their temporary tables in one folder.
        command.arg(format!("--tmpdir={}", folder.display()));
        command.arg(format!("--port={}", self.port.number()));
        command.args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--user=root"]);
        command.args(["--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=16M"]);
        command.args(["--innodb-log-file-size=8M", "--innodb-data-file-path=ibdata1:4M:autoextend"]);
        command.current_dir(folder).env("PATH", search_path());
        let mut process = Process::spawn(&PROGRAM, command, self.log_file())?;
        process.wait_for_log("ready for connections")?;
        Ok(process)
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("mariadb.log")
    }
}
