//! The real brokers under the contract of transports ([`emitter_core::testing::contract`]): each with what it
//! cannot do, a server of its own, and ways to it that break on request.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use emitter_core::retry::Backoff;
use emitter_core::testing::contract::{Bounds, Broker, FORBIDDEN, Inability};
use emitter_core::transport::Transport;
use emitter_core::transport::mqtt::{ClientId, MqttConfig, MqttTransport, MqttVersion};
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use tokio::task::block_in_place;

use self::way::Way;
use crate::servers::{Aedes, Embedded, Mosquitto, Nats, RabbitMq};

mod way;

/// A broker, the MQTT that is spoken with it, and what it cannot do.
#[derive(Debug)]
pub struct Kind {
    /// Its name with the version that was tried.
    pub title: &'static str,
    /// The MQTT that was spoken with it.
    pub version: MqttVersion,
    /// How it was restarted, and what is worth knowing besides.
    pub remark: &'static str,
    /// What it cannot do by its nature.
    pub inabilities: &'static [Inability],
    program: Program,
}

#[derive(Debug, Clone, Copy)]
enum Program {
    Mosquitto,
    Embedded,
    Nats,
    RabbitMq,
    Aedes,
}

const NO_REASON_CODES: Inability = Inability {
    case: "refusal",
    reason: "MQTT 3.1.1 has no word for a refused publish: it is confirmed, and dropped.",
    shows: "the forbidden message was confirmed",
    always: true,
};

const NO_PROPERTIES: Inability = Inability {
    case: "properties",
    reason: "MQTT 3.1.1 has nothing beside the payload.",
    shows: "the properties did not arrive",
    always: true,
};

const HANGS_UP: Inability = Inability {
    case: "refusal",
    reason: "MQTT 3.1.1 has no word for a refused publish: the connection is closed, ten times; then that message is given up, and what is behind it gets through.",
    shows: "the forbidden message ended as: the connection ended 10 times",
    always: true,
};

const FORGETS: Inability = Inability {
    case: "restart",
    reason: "It keeps everything in memory alone.",
    shows: "were lost",
    always: true,
};

const NO_GROUPS: Inability = Inability {
    case: "groups",
    reason: "It has no shared subscriptions: it takes one, and never delivers on it.",
    shows: "a group was sent 0 of",
    always: true,
};

const OVERTAKES: Inability = Inability {
    case: "order",
    reason: "Of a client with several subscriptions, what is behind by more than `max_ack_pending` (20 here) comes after `ack_wait` in part, behind later messages. With 5,000 it was in order.",
    shows: "came first after",
    always: true,
};

const NO_WINDOW: Inability = Inability {
    case: "no_ack_before_done",
    reason: "It has no bound for unacknowledged deliveries. (What is not done does come again: `resend`.)",
    shows: "deliveries came although none was done",
    always: true,
};

const SECOND_WINDOW: Inability = Inability {
    case: "window_of_the_next_life",
    reason: "Before 2.0.13, while messages wait for a client, each acknowledgement of its oldest delivery lets it send up to a window more, with no regard to what is on its way; all of that comes again to the next life, before the answers to its subscriptions.",
    shows: "deliveries came although none was done",
    always: true,
};

/// Mosquitto over MQTT 5.
pub const MOSQUITTO_5: Kind = Kind {
    title: "mosquitto 2.0.11",
    version: MqttVersion::V5,
    remark: "with persistence, ended by SIGTERM",
    inabilities: &[SECOND_WINDOW],
    program: Program::Mosquitto,
};

/// Mosquitto over MQTT 3.1.1.
pub const MOSQUITTO_3: Kind = Kind {
    version: MqttVersion::V311,
    inabilities: &[NO_PROPERTIES, NO_REASON_CODES, SECOND_WINDOW],
    ..MOSQUITTO_5
};

/// The broker in this process over MQTT 5.
pub const EMBEDDED_5: Kind = Kind {
    title: "mqtt5 0.49 (`embedded-broker`)",
    version: MqttVersion::V5,
    remark: "stopped and started anew",
    inabilities: &[FORGETS, Inability { reason: "It is started without access control.", ..NO_REASON_CODES }],
    program: Program::Embedded,
};

/// NATS.
pub const NATS: Kind = Kind {
    title: "NATS 2.9.10",
    version: MqttVersion::V311,
    remark: "with JetStream's files, ended by SIGKILL",
    inabilities: &[
        NO_PROPERTIES,
        NO_GROUPS,
        NO_REASON_CODES,
        Inability {
            case: "every_qos",
            reason: "It closes the connection at a publish with QoS 2, ten times; then that one is given up, and what is behind it gets through.",
            shows: "the message ExactlyOnce was not confirmed: the connection ended 10 times",
            always: true,
        },
        OVERTAKES,
        Inability {
            case: "order_after_a_cut",
            reason: "What was on its way when the connection broke comes again after `ack_wait`, behind later messages.",
            ..OVERTAKES
        },
    ],
    program: Program::Nats,
};

/// RabbitMQ.
pub const RABBITMQ: Kind = Kind {
    title: "RabbitMQ 3.10.8",
    version: MqttVersion::V311,
    remark: "with its files, ended by SIGTERM",
    inabilities: &[
        NO_PROPERTIES,
        NO_GROUPS,
        HANGS_UP,
        Inability {
            case: "retained",
            reason: "It looks retained messages up by a topic, and not by a filter with a wildcard.",
            shows: "of what was retained nothing came",
            always: true,
        },
    ],
    program: Program::RabbitMq,
};

/// aedes.
pub const AEDES: Kind = Kind {
    title: "aedes 1.2.0",
    version: MqttVersion::V311,
    remark: "ended by SIGTERM",
    inabilities: &[
        NO_PROPERTIES,
        NO_GROUPS,
        HANGS_UP,
        FORGETS,
        NO_WINDOW,
        Inability { case: "window_of_the_next_life", ..NO_WINDOW },
        Inability {
            case: "order_after_a_cut",
            reason: "To a client that comes back it sends what it kept and what is new side by side, if both are there.",
            always: false,
            ..OVERTAKES
        },
        Inability { case: "duplicate_bound", shows: "when the receiver was cut", ..NO_WINDOW },
    ],
    program: Program::Aedes,
};

/// A broker of some kind, running.
pub struct RealBroker {
    kind: &'static Kind,
    port: u16,
    server: Mutex<Server>,
    /// By the client's name.
    ways: Mutex<HashMap<String, Way>>,
}

enum Server {
    Mosquitto(Mosquitto),
    Embedded(Embedded),
    Nats(Nats),
    RabbitMq(RabbitMq),
    Aedes(Aedes),
}

/// Unacknowledged deliveries, and unconfirmed publishes.
const WINDOW: u16 = 20;

/// The largest packet, here or there.
const LARGEST: u32 = 1 << 20;

impl RealBroker {
    /// Starts one. `target` is a folder below `target`, for what has to be installed.
    ///
    /// # Panics
    /// If it is not installed, or does not start.
    pub async fn start(kind: &'static Kind, target: &Path) -> Self {
        let (server, port) = match kind.program {
            Program::Mosquitto => {
                let broker = Mosquitto::builder()
                    .persistence(true)
                    .forbid(&format!("prisma/events/{FORBIDDEN}/#"))
                    .line(format!("max_packet_size {LARGEST}"))
                    // Without a bound, 2.0.11 hangs up after each publish that it refuses.
                    .max_queued_messages(1_000_000)
                    .start();
                let port = broker.port();
                (Server::Mosquitto(broker), port)
            }
            Program::Embedded => {
                let broker = Embedded::start().await;
                let port = broker.port();
                (Server::Embedded(broker), port)
            }
            Program::Nats => {
                let broker = Nats::start();
                let port = broker.port();
                (Server::Nats(broker), port)
            }
            Program::RabbitMq => {
                let broker = RabbitMq::start();
                let port = broker.port();
                (Server::RabbitMq(broker), port)
            }
            Program::Aedes => {
                let broker = Aedes::start(target);
                let port = broker.port();
                (Server::Aedes(broker), port)
            }
        };
        Self { kind, port, server: Mutex::new(server), ways: Mutex::default() }
    }

    async fn config(&self, client: &str) -> MqttConfig {
        let mut ways = self.ways.lock().await;
        if !ways.contains_key(client) {
            ways.insert(client.to_owned(), Way::to(self.port).await);
        }
        let reconnect = Backoff {
            base: Duration::from_millis(50),
            cap: Duration::from_millis(200),
            jitter: Duration::from_millis(50),
        };
        // Over MQTT 5 a broker can say itself how much it takes.
        let says = matches!((self.kind.program, self.kind.version), (Program::Mosquitto, MqttVersion::V5));
        let largest = if says { 4 * LARGEST } else { LARGEST };
        MqttConfig::new(&format!("mqtt://127.0.0.1:{}", ways[client].port()))
            .and_then(|config| config.reconnect(reconnect))
            .and_then(|config| config.window(WINDOW))
            .and_then(|config| config.receive_maximum(WINDOW))
            .and_then(|config| config.max_packet(largest))
            .expect("valid settings")
            .protocol(self.kind.version)
    }
}

impl Broker for RealBroker {
    fn connect<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Arc<dyn Transport>> {
        Box::pin(async move {
            let id = ClientId::new(client).expect("a valid client id");
            Arc::new(MqttTransport::start(self.config(client).await, id)) as Arc<dyn Transport>
        })
    }

    fn cut<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let ways = self.ways.lock().await;
            ways.get(client).ok_or_else(|| format!("{client} never connected"))?.cut();
            Ok(())
        })
    }

    fn restart(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            match &mut *self.server.lock().await {
                Server::Embedded(broker) => broker.restart().await,
                // They block, for up to 20 s.
                Server::Mosquitto(broker) => block_in_place(|| broker.restart()),
                Server::Nats(broker) => block_in_place(|| broker.restart()),
                Server::RabbitMq(broker) => block_in_place(|| broker.restart()),
                Server::Aedes(broker) => block_in_place(|| broker.restart()),
            }
            Ok(())
        })
    }

    fn bounds(&self) -> Bounds {
        Bounds { publishes: WINDOW.into(), deliveries: WINDOW.into(), too_large: 2 << 20 }
    }

    fn inabilities(&self) -> &[Inability] {
        self.kind.inabilities
    }
}
