//! Mosquitto, the broker that the suites measure against.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use super::Program;
use super::port::Port;
use super::process::Process;

const PROGRAM: Program = Program { name: "mosquitto", debian_package: "mosquitto" };

/// A Mosquitto of this test's own, on 127.0.0.1, for anonymous clients, MQTT 3.1.1 and 5 on one port.
///
/// Its queues are unbounded, so that what a test finds missing was lost by this project and not by the broker.
/// Everything else is Mosquitto's default: 20 unacknowledged deliveries to a client, no limit on packets.
#[derive(Debug)]
pub struct Mosquitto {
    // Before the folder and the port, which it uses until it is dropped.
    process: Option<Process>,
    folder: TempDir,
    port: Port,
}

/// Options of a [`Mosquitto`]; what is not set is as [`Mosquitto::start`] has it.
#[derive(Debug, Clone, Default)]
pub struct MosquittoBuilder {
    persistence: bool,
    /// What the plugin for dynamic security reads.
    security: Option<String>,
    lines: Vec<String>,
}

impl Mosquitto {
    /// Starts a broker that keeps nothing on disk, and returns when it accepts connections.
    ///
    /// # Panics
    /// If Mosquitto is not installed or does not start.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A broker with other options.
    pub fn builder() -> MosquittoBuilder {
        MosquittoBuilder::default()
    }

    /// `mqtt://127.0.0.1:PORT`, the same for the whole life of this value.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port())
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The folder with its configuration, its log and, with persistence, its data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends it in order (SIGTERM) and returns when it is gone. Nothing happens if it does not run.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.end(Signal::TERM);
        }
    }

    /// Ends it at once (SIGKILL): what it had only in memory is lost. Nothing happens if it does not run.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.end(Signal::KILL);
        }
    }

    /// Starts it again on the same port and in the same folder; [stops](Self::stop) it first if it runs.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        self.stop();
        self.process = Some(self.spawn().unwrap_or_else(|failure| panic!("{failure}")));
    }

    /// Stops its work without closing its connections (SIGSTOP), as an overloaded machine would.
    ///
    /// # Panics
    /// If it does not run.
    pub fn freeze(&self) {
        self.running().signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Panics
    /// If it does not run.
    pub fn thaw(&self) {
        self.running().signal(Signal::CONT);
    }

    /// What it wrote to its log since this value was made, restarts included.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("this mosquitto was stopped; restart it first")
    }

    fn spawn(&self) -> Result<Process, String> {
        let mut command = Command::new(PROGRAM.name);
        command.arg("-c").arg(self.folder().join("mosquitto.conf")).current_dir(self.folder());
        let mut process = Process::spawn(&PROGRAM, command, self.log_file())?;
        process.wait_for_port(self.port())?;
        // It listens before its loop runs, and a SIGTERM in between is lost, or ends it without saving. The
        // loop is what greets our own look at the port: as a new connection or, with TLS, as one that failed.
        process.wait_for_log("onnection from ")?;
        Ok(process)
    }

    fn log_file(&self) -> PathBuf {
        self.folder().join("mosquitto.log")
    }
}

impl MosquittoBuilder {
    /// Whether sessions, queues and retained messages are saved to the folder (default: no). By itself this
    /// saves in an orderly end and every 30 minutes, so that [`Mosquitto::kill`] loses what was acknowledged.
    #[must_use]
    pub fn persistence(mut self, on: bool) -> Self {
        self.persistence = on;
        self
    }

    /// Saves everything after this many changes, which with 1 allows some hundred messages a second. It saves
    /// at the end of the round of its loop in which it acknowledges: [`Mosquitto::kill`] within a millisecond
    /// of an acknowledgement can still lose that message. Switches [`persistence`](Self::persistence) on.
    #[must_use]
    pub fn autosave_on_changes(self, changes: u32) -> Self {
        self.persistence(true).line("autosave_on_changes true").line(format!("autosave_interval {changes}"))
    }

    /// The most messages that wait for one client; beyond them it drops, acknowledged or not
    /// (default: unbounded).
    #[must_use]
    pub fn max_queued_messages(self, messages: u32) -> Self {
        self.line(format!("max_queued_messages {messages}"))
    }

    /// Nobody may publish on these topics, nor subscribe to them. It is the plugin for dynamic security that
    /// refuses: the `acl_file` of Mosquitto 2.0 takes every subscription.
    ///
    /// # Panics
    /// If the plugin is not where Debian's package has it.
    #[must_use]
    pub fn forbid(mut self, topics: &str) -> Self {
        let acls = ["publishClientSend", "subscribeLiteral", "subscribePattern"]
            .map(|kind| format!(r#"{{ "acltype": "{kind}", "topic": "{topics}", "allow": false }}"#));
        self.security = Some(format!(
            r#"{{
  "defaultACLAccess": {{
    "publishClientSend": true, "publishClientReceive": true, "subscribe": true, "unsubscribe": true
  }},
  "clients": [],
  "groups": [{{ "groupname": "everybody", "roles": [{{ "rolename": "everybody" }}] }}],
  "anonymousGroup": "everybody",
  "roles": [{{ "rolename": "everybody", "acls": [{}] }}]
}}"#,
            acls.join(", ")
        ));
        self.line(format!("plugin {}", security_plugin().display()))
    }

    /// Any other line of `mosquitto.conf`.
    #[must_use]
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Starts the broker and returns when it accepts connections.
    ///
    /// # Panics
    /// If Mosquitto is not installed, or does not start: the message has the end of its log.
    pub fn start(self) -> Mosquitto {
        let folder = tempfile::Builder::new().prefix("mosquitto-").tempdir().expect("a temporary folder");
        let mut broker = Mosquitto { process: None, folder, port: Port::reserve() };
        let mut configuration = self.configuration(&broker);
        if let Some(security) = &self.security {
            let file = broker.folder().join("security.json");
            fs::write(&file, security).expect("write security.json");
            writeln!(configuration, "plugin_opt_config_file {}", file.display())
                .expect("a string takes everything");
        }
        fs::write(broker.folder().join("mosquitto.conf"), configuration).expect("write mosquitto.conf");
        broker.restart();
        broker
    }

    fn configuration(&self, broker: &Mosquitto) -> String {
        let mut text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence {}\npersistence_location {}/\n",
            broker.port(),
            self.persistence,
            broker.folder().display(),
        );
        // As root it would become the user `mosquitto`, who may not write to our folder.
        text += "user root\nlog_dest stderr\n";
        if !self.lines.iter().any(|line| line.starts_with("max_queued_messages ")) {
            text += "max_queued_messages 0\n";
        }
        for line in &self.lines {
            writeln!(text, "{line}").expect("a string takes everything");
        }
        text
    }
}

/// Where a Debian of whatever machine has it.
fn security_plugin() -> PathBuf {
    let libraries = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let plugin = libraries.map(|library| library.path().join("mosquitto_dynamic_security.so"));
    plugin.into_iter().find(|plugin| plugin.exists()).expect("Mosquitto's plugin for dynamic security")
}
