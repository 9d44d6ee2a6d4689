//! aedes, a broker for Node.js.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use super::Program;
use super::port::Port;
use super::process::Process;

const NODE: Program = Program { name: "node", debian_package: "nodejs" };
const NPM: Program = Program { name: "npm", debian_package: "npm" };

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
        let program = install(target).join("broker.js");
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

/// The folder where it is installed, which is done only where no test has before.
fn install(target: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    FILES.hash(&mut hasher);
    let name = format!("aedes-{:016x}", hasher.finish());
    fs::create_dir_all(target).expect("a folder for what npm installs");
    let lock = File::create(target.join("aedes.lock")).expect("a file for the lock");
    lock.lock().expect("the lock is waited for");
    let done = target.join(&name);
    if !done.exists() {
        let begun = target.join(format!("{name}.begun"));
        let _ = fs::remove_dir_all(&begun);
        fs::create_dir(&begun).expect("a folder for aedes");
        for (file, text) in FILES {
            fs::write(begun.join(file), text).unwrap_or_else(|error| panic!("write {file}: {error}"));
        }
        let mut npm = Command::new(NPM.name);
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&begun);
        let installed = Process::spawn(&NPM, npm, begun.join("npm.log")).and_then(Process::finish);
        installed.unwrap_or_else(|failure| panic!("{failure}"));
        fs::rename(&begun, &done).expect("the folder gets its name");
    }
    done
}
