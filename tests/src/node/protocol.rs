//! What a test and its node tell each other.

use serde::{Deserialize, Serialize};

/// What a node is started with: its only argument.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setup {
    /// The node's name.
    pub name: String,
    /// The broker's URL.
    pub broker: String,
    /// Its MQTT client id; `None` is the name.
    pub client_id: Option<String>,
    /// MQTT 3.1.1 instead of 5.
    pub mqtt_3: bool,
    /// A listener for other nodes' events alone.
    pub remote_only: bool,
    /// How long the listener takes for each event.
    pub listener_takes_ms: u64,
    /// How many messages may wait for the broker; `None` is the default.
    pub queue_messages: Option<usize>,
    /// When that queue is full, the oldest make room, where else the newest are refused.
    pub drop_oldest: bool,
}

impl Setup {
    /// A node that hears everything at once, with the defaults of the MQTT transport.
    #[must_use]
    pub fn new(name: &str, broker: &str) -> Self {
        Self {
            name: name.to_owned(),
            broker: broker.to_owned(),
            client_id: None,
            mqtt_3: false,
            remote_only: false,
            listener_takes_ms: 0,
            queue_messages: None,
            drop_oldest: false,
        }
    }
}

/// What a node is told to do. It answers each with a [`Report`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Begin to write.
    Write(Writing),
    /// Nothing.
    Report,
    /// Finish everything and end.
    Shutdown,
}

/// Users to create, each followed by updates of it: `users * (1 + updates)` events.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Writing {
    /// How many users.
    pub users: u32,
    /// How many updates of each.
    pub updates: u32,
    /// How many events a second; `None` is as fast as it goes.
    pub per_second: Option<u32>,
}

impl Writing {
    /// How many events that makes.
    #[must_use]
    pub fn events(&self) -> u64 {
        u64::from(self.users) * u64::from(1 + self.updates)
    }
}

/// How a node stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// This life of the node.
    pub incarnation: String,
    /// Whether both connections stand and the broker has confirmed the subscription.
    pub connected: bool,
    /// Messages that wait for the broker's confirmation.
    pub unconfirmed: usize,
    /// Events that it has written.
    pub written: u64,
    /// What its listener was handed, for each source and each life of a node.
    pub heard: Vec<Account>,
    /// What its emitter counted.
    pub counted: Counted,
    /// Events that the shutdown left unfinished or unpublished.
    pub left_undone: usize,
}

impl Report {
    /// How many events the listener was handed as this node's own.
    #[must_use]
    pub fn heard_locally(&self) -> u64 {
        self.heard.iter().filter(|account| !account.remote).map(Account::events).sum()
    }

    /// How many it was handed as other nodes'.
    #[must_use]
    pub fn heard_remotely(&self) -> u64 {
        self.heard.iter().filter(|account| account.remote).map(Account::events).sum()
    }
}

/// What a listener was handed of one life of a node, from one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The node that wrote.
    pub node: String,
    /// The life of that node.
    pub incarnation: String,
    /// Whether the source was `Remote`.
    pub remote: bool,
    /// How many creates.
    pub creates: u64,
    /// How many updates.
    pub updates: u64,
    /// How many did not follow the one before of the same user.
    pub out_of_order: u64,
    /// How many had been handed over before.
    pub again: u64,
}

impl Account {
    /// Creates and updates.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.creates + self.updates
    }
}

/// The emitter's `Stats`, as far as tests over servers look at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is the field of the same name, but for `unwell`")]
pub struct Counted {
    pub emitted_local: u64,
    pub emitted_remote: u64,
    pub published: u64,
    pub published_to_nobody: u64,
    pub publish_failed: u64,
    pub publish_refused: u64,
    pub received: u64,
    pub echoes: u64,
    pub duplicates: u64,
    pub namesakes: u64,
    pub bad_messages: u64,
    pub unheard: u64,
    pub handled: u64,
    pub overflowed: u64,
    /// Calls of the listener that failed, panicked or timed out.
    pub unwell: u64,
}
