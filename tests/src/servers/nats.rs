//! NATS, a message server that speaks MQTT 3.1.1 beside its own protocol.

use std::fs;
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use super::Program;
use super::port::Port;
use super::process::Process;

const PROGRAM: Program = Program { name: "nats-server", debian_package: "nats-server" };

/// A NATS server of this test's own, on 127.0.0.1, for anonymous clients of MQTT 3.1.1.
///
/// At most [`WINDOW`](Self::WINDOW) deliveries to a subscription wait for their acknowledgement; what was not
/// acknowledged comes again after 4 s. Nobody may publish or subscribe below `prisma/events/forbidden`.
#[derive(Debug)]
pub struct Nats {
    // Before the folder and the ports, which it uses until it is dropped.
    process: Option<Process>,
    folder: TempDir,
    port: Port,
    /// For its own protocol, without which it does not start.
    native: Port,
}

impl Nats {
    /// The unacknowledged deliveries to one subscription.
    pub const WINDOW: u16 = 20;

    /// Starts a server, and returns when it accepts connections.
    ///
    /// # Panics
    /// If NATS is not installed or does not start.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("nats-").tempdir().expect("a temporary folder");
        let mut server = Self { process: None, folder, port: Port::reserve(), native: Port::reserve() };
        fs::write(server.folder.path().join("nats.conf"), server.configuration()).expect("write nats.conf");
        server.restart();
        server
    }

    /// The port of MQTT on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Kills it (SIGKILL) and starts it again on the same ports and with what is in its folder. Ended in order
    /// (SIGTERM), version 2.9 loses messages that it has acknowledged.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        if let Some(process) = self.process.take() {
            process.end(Signal::KILL);
        }
        self.process = Some(self.spawn().unwrap_or_else(|failure| panic!("{failure}")));
    }

    fn spawn(&self) -> Result<Process, String> {
        let folder = self.folder.path();
        let mut command = Command::new(PROGRAM.name);
        command.arg("-c").arg(folder.join("nats.conf")).current_dir(folder);
        let mut process = Process::spawn(&PROGRAM, command, folder.join("nats.log"))?;
        process.wait_for_log("Server is ready")?;
        Ok(process)
    }

    fn configuration(&self) -> String {
        let (port, native, window) = (self.port.number(), self.native.number(), Self::WINDOW);
        let forbidden = r#"{ deny: ["prisma.events.forbidden.>"] }"#;
        format!(
            "server_name: emitter\n\
             listen: \"127.0.0.1:{native}\"\n\
             jetstream {{ store_dir: {:?} }}\n\
             mqtt {{ listen: \"127.0.0.1:{port}\", max_ack_pending: {window}, ack_wait: \"4s\" }}\n\
             accounts {{ tests: {{ jetstream: enabled, users: [{{ user: guest, password: guest, \
             permissions: {{ publish: {forbidden}, subscribe: {forbidden} }} }}] }} }}\n\
             no_auth_user: guest\n",
            self.folder.path().join("data"),
        )
    }
}
