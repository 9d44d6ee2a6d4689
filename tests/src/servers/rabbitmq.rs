//! RabbitMQ with its plugin for MQTT.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use super::Program;
use super::port::Port;
use super::process::Process;

const PROGRAM: Program = Program { name: "rabbitmq-server", debian_package: "rabbitmq-server" };
const NAMES: Program = Program { name: "epmd", debian_package: "rabbitmq-server" };

/// What Debian has in the PATH becomes the user `rabbitmq`, who may not write to our folder; this does not.
const SCRIPT: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// What RabbitMQ knows of users: that anonymous ones are guests, and what guests may.
const DEFINITIONS: &str = r#"{
  "users": [{ "name": "guest", "password": "guest", "tags": "" }],
  "vhosts": [{ "name": "/" }],
  "permissions": [{ "user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*" }],
  "topic_permissions": [{
    "user": "guest", "vhost": "/", "exchange": "amq.topic",
    "write": "^(?!prisma\\.events\\.forbidden)", "read": "^(?!prisma\\.events\\.forbidden)"
  }]
}"#;

/// A RabbitMQ of this test's own, on 127.0.0.1, for anonymous clients of MQTT. It takes 7 to 20 s to start.
///
/// At most [`WINDOW`](Self::WINDOW) deliveries to a client wait for their acknowledgement. Nobody may publish
/// or subscribe below `prisma/events/forbidden`.
#[derive(Debug)]
pub struct RabbitMq {
    // Before the folder and the ports, which they use until they are dropped.
    process: Option<Process>,
    /// Where Erlang's nodes look each other up. Started by RabbitMQ, it would outlive the test.
    _names: Process,
    folder: TempDir,
    port: Port,
    names: Port,
    /// Where the node could be called from others.
    node: Port,
}

impl RabbitMq {
    /// The unacknowledged deliveries to a client.
    pub const WINDOW: u16 = 20;

    /// Starts a server, and returns when it accepts connections.
    ///
    /// # Panics
    /// If RabbitMQ is not installed or does not start.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("rabbitmq-").tempdir().expect("a temporary folder");
        let [port, names, node] = [Port::reserve(), Port::reserve(), Port::reserve()];
        let mut command = Command::new(NAMES.name);
        command.args(["-address", "127.0.0.1", "-port", &names.number().to_string()]);
        let registry =
            Process::spawn(&NAMES, command, folder.path().join("epmd.log")).and_then(|mut process| {
                process.wait_for_port(names.number())?;
                Ok(process)
            });
        let registry = registry.unwrap_or_else(|failure| panic!("{failure}"));
        let mut server = Self { process: None, _names: registry, folder, port, names, node };
        server.configure();
        server.restart();
        server
    }

    /// The port of MQTT on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Ends it in order (SIGTERM) and starts it again on the same ports and with what is in its folder.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        if let Some(process) = self.process.take() {
            process.end(Signal::TERM);
        }
        self.process = Some(self.spawn().unwrap_or_else(|failure| panic!("{failure}")));
    }

    fn configure(&self) {
        let folder = self.folder.path();
        let (port, window) = (self.port(), Self::WINDOW);
        let configuration = format!(
            "listeners.tcp = none\nmqtt.listeners.tcp.1 = 127.0.0.1:{port}\nmqtt.prefetch = {window}\n\
             mqtt.allow_anonymous = true\nmqtt.default_user = guest\nmqtt.default_pass = guest\n\
             load_definitions = {}\nlog.console = true\nlog.file = false\n",
            folder.join("definitions.json").display()
        );
        for (file, text) in [
            ("rabbitmq.conf", configuration.as_str()),
            ("definitions.json", DEFINITIONS),
            ("enabled_plugins", "[rabbitmq_mqtt]."),
        ] {
            fs::write(folder.join(file), text).unwrap_or_else(|error| panic!("write {file}: {error}"));
        }
    }

    fn spawn(&self) -> Result<Process, String> {
        let folder = self.folder.path();
        let script = if Path::new(SCRIPT).exists() { SCRIPT } else { PROGRAM.name };
        let mut command = Command::new(script);
        command
            .current_dir(folder)
            // For the cookie by which nodes know each other.
            .env("HOME", folder)
            .env("ERL_EPMD_PORT", self.names.number().to_string())
            .env("RABBITMQ_NODENAME", format!("emitter{}@localhost", self.port()))
            .env("RABBITMQ_DIST_PORT", self.node.number().to_string())
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_LOGS", "-")
            // The script becomes the server, instead of waiting for it: signals reach it, and it ends with us.
            .env("RUNNING_UNDER_SYSTEMD", "1");
        let mut process = Process::spawn(&PROGRAM, command, folder.join("rabbitmq.log"))?;
        process.wait_for_log("Server startup complete")?;
        Ok(process)
    }
}
