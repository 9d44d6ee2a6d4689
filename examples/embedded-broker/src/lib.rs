//! An MQTT broker inside the process, so that examples and tests need nothing installed.
//!
//! It speaks MQTT 3.1.1 and 5 on one port of 127.0.0.1, keeps everything in memory and is gone when it is
//! stopped: no file is written, no other machine can reach it. It is no broker for production.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), embedded_broker::BrokerError> {
//! use embedded_broker::EmbeddedBroker;
//!
//! let broker = EmbeddedBroker::start().await?;
//! assert!(broker.url().starts_with("mqtt://127.0.0.1:"));
//! broker.stop().await;
//! # Ok(()) }
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::panic;

use mqtt5::broker::config::{BrokerConfig, StorageBackend, StorageConfig};
use mqtt5::broker::{BrokerShutdownHandle, MqttBroker};
use mqtt5::error::MqttError;
use tokio::task::JoinHandle;

/// A running broker. [`stop`](Self::stop) it to wait for its end; dropping it only asks it to end.
#[derive(Debug)]
pub struct EmbeddedBroker {
    address: SocketAddr,
    running: Running,
}

/// Why [`EmbeddedBroker::start`] failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The port could not be bound. With [`EmbeddedBroker::start`] the system has no free port; with
    /// [`EmbeddedBroker::start_on`] something else listens there: choose another port.
    #[error("the embedded broker could not listen on 127.0.0.1:{port}")]
    Bind {
        /// The port that was asked for; 0 means any free one.
        port: u16,
        /// What the broker said.
        source: MqttError,
    },
    /// The port was bound, but the broker ended before it was ready. Its own error says why.
    #[error("the embedded broker did not become ready")]
    Start(#[source] MqttError),
}

impl EmbeddedBroker {
    /// Starts a broker on a free port and returns when it accepts connections (less than a millisecond).
    ///
    /// Its tasks live on the current tokio runtime.
    pub async fn start() -> Result<Self, BrokerError> {
        Self::start_on(0).await
    }

    /// Starts a broker on this port of 127.0.0.1: for one that goes away and comes back under its address.
    /// It comes back empty, without the sessions and messages of the one before.
    pub async fn start_on(port: u16) -> Result<Self, BrokerError> {
        let bind = |source| BrokerError::Bind { port, source };
        let mut broker = MqttBroker::with_config(config(port)).await.map_err(bind)?;
        let address = broker
            .local_addr()
            .ok_or_else(|| bind(MqttError::InvalidState("no address was bound".to_owned())))?;

        let mut ready = broker.ready_receiver();
        let shutdown = broker.shutdown_handle();
        let task = tokio::spawn(async move { broker.run().await });
        let mut running = Running { shutdown, task: Some(task) };

        // The sender is dropped without having sent when `run` fails.
        if ready.wait_for(|ready| *ready).await.is_err() {
            let ended = MqttError::InvalidState("the broker ended at once".to_owned());
            return Err(BrokerError::Start(running.wait().await.err().unwrap_or(ended)));
        }
        Ok(Self { address, running })
    }

    /// The broker's address as clients of this project take it: `mqtt://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Disconnects every client and returns when the port is free again, after 5 s at the latest.
    ///
    /// # Panics
    /// If the broker itself panicked.
    pub async fn stop(mut self) {
        self.running.shutdown.shutdown();
        // `run` fails only before it is ready, and `start` has waited for that.
        let _ = self.running.wait().await;
    }
}

/// The broker's task and the means to end it.
struct Running {
    shutdown: BrokerShutdownHandle,
    /// `None` once it has been waited for.
    task: Option<JoinHandle<Result<(), MqttError>>>,
}

impl Running {
    async fn wait(&mut self) -> Result<(), MqttError> {
        match self.task.take() {
            None => Ok(()),
            Some(task) => match task.await {
                Ok(result) => result,
                Err(error) if error.is_panic() => panic::resume_unwind(error.into_panic()),
                // The runtime is shutting down and has taken the task with it.
                Err(_) => Ok(()),
            },
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.shutdown();
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("task", &self.task).finish_non_exhaustive()
    }
}

/// Everything in memory, on the loopback only, and no bound that loses messages before a test's own would.
///
/// What the crate's defaults say and what is set here instead: it binds `0.0.0.0:1883`, and stores in
/// `./mqtt_storage`. For a session that is offline or behind it keeps 10,000 messages or 64 MiB and then drops
/// the oldest, although they have been acknowledged: a million messages and 1 GiB here. `$SYS` topics are off,
/// for a subscription to `#` should hear what was published and nothing else.
///
/// Left as they are: packets up to 256 MiB, 64 unacknowledged deliveries to a client, no limit on rates,
/// sessions that last as long as their client asks. QoS 0 beyond 10,000 waiting messages is dropped.
fn config(port: u16) -> BrokerConfig {
    let storage = StorageConfig::new()
        .with_backend(StorageBackend::Memory)
        .with_max_queued_messages_per_client(1_000_000)
        .with_max_queued_bytes_per_client(1 << 30);
    BrokerConfig::new()
        .with_bind_address((Ipv4Addr::LOCALHOST, port))
        .with_storage(storage)
        .with_sys_topics_enabled(false)
}
