//! aedes, a broker for Node.js.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use super::packages::{self, NODE};
use super::port::Port;
use super::process::Process;

/// What is installed, to the byte, and the program that runs it.
const FILES: [(&str, &str); 3] = [
    ("package.json", include_str!("aedes/package.json")),
    ("package-lock.json", include_str!("aedes/package-lock.json")),
    ("broker.js", include_str!("aedes/broker.js")),
];

/// An aedes of this test's own, on 127.0.0.1, for anonymous clients of MQTT 3.1.1. It keeps everything in memory.
///
/// Nobody may publish or subscribe below `prisma/events/forbidden`.
#[derive(Debug)]
pub struct Aedes {
    // Before the folder and the port, which it uses until it is dropped.
    process: Option<Process>,
    folder: TempDir,
    port: Port,
    program: PathBuf,
}

impl Aedes {
    /// Starts a broker, and returns when it accepts connections. The first one on a machine is installed by
    /// npm into a folder below `target`, where later ones find it.
    ///
    /// # Panics
    /// If Node.js or npm are missing, or it cannot be installed or does not start.
    pub fn start(target: &Path) -> Self {
        let program = packages::install(target, "aedes", &FILES, |_| {}).join("broker.js");
        let folder = tempfile::Builder::new().prefix("aedes-").tempdir().expect("a temporary folder");
        let mut broker = Self { process: None, folder, port: Port::reserve(), program };
        broker.restart();
        broker
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Ends it and starts another one on the same port, which knows nothing of what was before.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        if let Some(process) = self.process.take() {
            process.end(Signal::TERM);
        }
        self.process = Some(self.spawn().unwrap_or_else(|failure| panic!("{failure}")));
    }

    fn spawn(&self) -> Result<Process, String> {
        let mut command = Command::new(NODE.name);
        command.arg(&self.program).arg(self.port().to_string()).current_dir(self.folder.path());
        let mut process = Process::spawn(&NODE, command, self.folder.path().join("aedes.log"))?;
        process.wait_for_port(self.port())?;
        Ok(process)
    }
}
