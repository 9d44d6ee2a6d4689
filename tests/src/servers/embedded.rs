//! The broker in this very process.

use embedded_broker::EmbeddedBroker;

use super::port::Port;

/// An embedded broker on a port that stays its own while it is down. It keeps everything in memory.
#[derive(Debug)]
pub struct Embedded {
    broker: Option<EmbeddedBroker>,
    port: Port,
}

impl Embedded {
    /// Starts a broker, and returns when it accepts connections.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start() -> Self {
        let mut broker = Self { broker: None, port: Port::reserve() };
        broker.restart().await;
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
    pub async fn restart(&mut self) {
        if let Some(broker) = self.broker.take() {
            broker.stop().await;
        }
        let started = EmbeddedBroker::start_on(self.port()).await;
        self.broker = Some(started.unwrap_or_else(|failure| panic!("{failure}")));
    }
}
