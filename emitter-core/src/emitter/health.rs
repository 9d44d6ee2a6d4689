//! How a node stands, for whoever asks whether it works.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::queueing::Unwritten;
use super::{Emitter, Pulse, QueueStatus};
use crate::event::Timestamp;
use crate::transport::{LinkStatus, TransportStatus};

/// How a node stands.
///
/// As JSON, by `serde`, it is what `/health` of `emitter-web` answers:
///
/// ```json
/// {
///   "status": "degraded",
///   "error": "no connection for publishing: Connection refused (os error 111); 12 messages wait",
///   "reasons": ["no connection for publishing: Connection refused (os error 111); 12 messages wait"],
///   "response_time_ms": 0.731,
///   "last_response": "2026-11-22T14:03:07.120Z",
///   "last_check": "2026-11-22T14:05:11.042Z",
///   "connections": 1,
///   "backlog": { "in_memory": 12, "in_outbox": 0, "oldest_seconds": 41.5 },
///   "dead_letters": 0
/// }
/// ```
///
/// `error` is `null` where nothing is wrong, else all reasons in one text; `response_time_ms` and `last_response` are `null` before the
/// first message of the node to itself came back. No credentials are in it, and nothing of any event; but it names hosts, topics, groups
/// and what databases say, so it is for who runs the node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The worst of what there is.
    pub status: HealthStatus,
    /// What is not as it should be, each with what to look at; empty when it is healthy.
    pub reasons: Vec<String>,
    /// How long the last message of this node to itself was under way through the broker; `None` without
    /// a transport that sends such, and before the first came back.
    pub round_trip: Option<Duration>,
    /// When that one came back.
    pub last_round_trip: Option<Timestamp>,
    /// When this was looked at: when it was asked for.
    pub last_check: Timestamp,
    /// How many connections to the broker stand: for publishing, for what comes, and one for each group. Zero without a transport.
    pub connections: usize,
    /// What is still to get to other nodes.
    pub backlog: Backlog,
    /// Dead letters of this node since its start.
    pub dead_letters: u64,
    /// How the transport stands; `None` without one.
    pub transport: Option<TransportStatus>,
    /// How the queue of events stands that are to be written into an outbox; `None` without one.
    pub queue: Option<QueueStatus>,
}

/// Whether a node works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// All of it.
    Healthy,
    /// Local events do; some of what goes to other nodes, or comes from them, waits or is missing.
    Degraded,
    /// It is shut down, or [runs](Emitter::is_running) no more.
    Unhealthy,
}

/// What is still to get to other nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backlog {
    /// Events and messages that this node has in memory: those that wait to be encoded, to be confirmed by the broker, or
    /// to be written into the outbox. Lost with the process, but for those that an outbox has, too.
    pub in_memory: usize,
    /// Rows of the outbox that are still to be published, those of all its nodes, when it was looked at last. It is looked
    /// at every few seconds while somebody asks; `None` without an outbox, and before the first look.
    pub in_outbox: Option<u64>,
    /// How long the oldest of all these has waited; zero where none does.
    pub oldest: Duration,
}

/// What a part of a node has still to publish: see [`Builder::backlog`](crate::Builder::backlog).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpublished {
    /// How many events.
    pub events: u64,
    /// How long the oldest of them has waited.
    pub oldest: Duration,
}

impl Serialize for Health {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Told<'a> {
            status: HealthStatus,
            error: Option<String>,
            reasons: &'a [String],
            response_time_ms: Option<f64>,
            last_response: Option<Timestamp>,
            last_check: Timestamp,
            connections: usize,
            backlog: ToldBacklog,
            dead_letters: u64,
        }
        #[derive(Serialize)]
        struct ToldBacklog {
            in_memory: usize,
            in_outbox: Option<u64>,
            oldest_seconds: f64,
        }
        let Self { status, reasons, last_round_trip, last_check, connections, dead_letters, .. } = self;
        let Backlog { in_memory, in_outbox, oldest } = self.backlog;
        let told = Told {
            status: *status,
            error: (!reasons.is_empty()).then(|| reasons.join("; ")),
            reasons,
            response_time_ms: self.round_trip.map(|time| time.as_secs_f64() * 1_000.0),
            last_response: *last_round_trip,
            last_check: *last_check,
            connections: *connections,
            backlog: ToldBacklog { in_memory, in_outbox, oldest_seconds: oldest.as_secs_f64() },
            dead_letters: *dead_letters,
        };
        told.serialize(serializer)
    }
}

/// A canary that is missed may be late; a second one says something.
const MISSED: u32 = 2;

impl Emitter {
    /// How this node stands now. It asks nobody and waits for nobody, so it may be asked at any time: what it tells of the
    /// broker is what the connections and the last canary found, and of databases what those found who use them.
    #[must_use]
    pub fn health(&self) -> Health {
        let transport = self.transport_status();
        let groups = self.group_links();
        let canary = transport.as_ref().and_then(|transport| transport.canary);
        let (status, reasons) = self.judged(transport.as_ref());
        let of_transport = transport.as_ref().map(|transport| [&transport.publisher, &transport.subscriber]);
        let links = of_transport.into_iter().flatten().chain(&groups);
        Health {
            status,
            reasons,
            round_trip: canary.and_then(|canary| canary.round_trip),
            last_round_trip: canary.and_then(|canary| canary.came),
            last_check: Timestamp::now(),
            connections: links.filter(|link| link.connected).count(),
            backlog: self.backlog(transport.as_ref()),
            dead_letters: self.node.shared.dead_letters.counted().values().sum(),
            queue: self.queue_status(),
            transport,
        }
    }

    /// Whether this node is at work: from its start to the end of its [`shutdown`](Self::shutdown). It is not, either, where one of its
    /// tasks ended by itself, which none does, or a connection that has been tried as often as `max_retries` says is made no more.
    /// Then only a new process helps.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let tasks = self.node.tasks();
        match &tasks.ending {
            // An error means that the runtime is gone.
            Some(ending) => ending.borrow().is_none() && ending.has_changed().is_ok(),
            None => tasks.all_run() && !self.has_given_up(),
        }
    }

    fn has_given_up(&self) -> bool {
        let transport = self.transport_status();
        let links = transport.into_iter().flat_map(|transport| [transport.publisher, transport.subscriber]);
        links.chain(self.group_links()).any(|link| link.given_up)
    }

    pub(super) fn group_links(&self) -> Vec<LinkStatus> {
        self.node.shared.groups().values().map(|group| group.status().subscriber).collect()
    }

    fn judged(&self, transport: Option<&TransportStatus>) -> (HealthStatus, Vec<String>) {
        if self.node.tasks().ending.is_some() {
            return (HealthStatus::Unhealthy, vec!["the emitter is shut down".to_owned()]);
        }
        let reasons = self.reasons(transport);
        if !self.is_running() {
            let why = "a part of the emitter has ended, and only a new process helps";
            return (HealthStatus::Unhealthy, [vec![why.to_owned()], reasons].concat());
        }
        let status = if reasons.is_empty() { HealthStatus::Healthy } else { HealthStatus::Degraded };
        (status, reasons)
    }

    fn reasons(&self, transport: Option<&TransportStatus>) -> Vec<String> {
        let mut reasons = transport.map(problems).unwrap_or_default();
        for (group, way) in self.node.shared.groups().iter() {
            reasons.extend(of_receiver(&way.status()).map(|problem| format!("group {group}: {problem}")));
        }
        let silent = self.node.shared.catching_up.gaps().silent();
        if silent > 0 {
            reasons.push(format!(
                "events of {silent} streams are missing, and the nodes that relay them do not answer: are they there, and \
                 may they publish and subscribe below `_replay`?"
            ));
        }
        if self.node.shared.catching_up.has_lost() {
            let lost = self.stats().lost;
            reasons.push(format!(
                "{lost} events of other nodes did not come, the last of them within ten minutes, and nobody has them any \
                 more: their nodes ended, do not answer below `_replay`, or keep too few"
            ));
        }
        reasons.extend(self.node.shared.unwritten.get().and_then(Unwritten::problem));
        reasons.extend(self.node.shared.troubles.iter().flat_map(|ask| ask()));
        reasons.extend(self.node.tasks().pulses().filter_map(|(name, pulse)| match pulse {
            Pulse::Works => None,
            Pulse::Hindered(why) => Some(format!("{name}: {why}")),
            Pulse::Ended => Some(format!("{name}: it has ended by itself; the log says why")),
        }));
        reasons
    }

    fn backlog(&self, transport: Option<&TransportStatus>) -> Backlog {
        let shared = &self.node.shared;
        let queue = self.queue_status().unwrap_or_default();
        let unconfirmed = transport.map_or(0, |transport| transport.unconfirmed);
        let kept: Vec<Unpublished> = shared.backlogs.iter().filter_map(|ask| ask()).collect();
        let ages = kept.iter().map(|kept| kept.oldest);
        let ages = ages.chain([queue.oldest]).chain(transport.and_then(|transport| transport.oldest));
        Backlog {
            in_memory: shared.to_publish.unfinished() + unconfirmed + queue.waiting,
            in_outbox: (!kept.is_empty()).then(|| kept.iter().map(|kept| kept.events).sum()),
            oldest: ages.max().unwrap_or_default(),
        }
    }
}

fn problems(transport: &TransportStatus) -> Vec<String> {
    let mut problems = Vec::new();
    if !transport.publisher.connected {
        let error = transport.publisher.last_error.as_ref();
        let waiting = transport.unconfirmed;
        problems.push(format!("{}; {waiting} messages wait", absence("publishing", error)));
    }
    // Without anything to hear there is no such connection.
    let wanted = transport.subscriptions > 0 || transport.subscriber.connections > 0;
    if (wanted || transport.subscriber.last_error.is_some()) && !transport.subscriber.connected {
        problems.push(absence("subscribing", transport.subscriber.last_error.as_ref()));
    }
    problems.extend(refusals(transport));
    if transport.silenced {
        problems.push(
            "the broker ends the connection when this node announces itself: allow it to publish below `_nodes` and \
             `_canary`, or switch `announce` and `canary` off"
                .to_owned(),
        );
    }
    if let Some(missed) = transport.canary.map(|canary| canary.missed).filter(|missed| *missed >= MISSED) {
        problems.push(format!(
            "{missed} messages of this node to itself did not come back, though it is connected: may it publish and \
             subscribe below `_canary`, and does the broker deliver?"
        ));
    }
    problems
}

/// What is wrong with a connection that only subscribes.
pub(super) fn of_receiver(status: &TransportStatus) -> impl Iterator<Item = String> {
    let absent = !status.subscriber.connected;
    let absence = absent.then(|| absence("subscribing", status.subscriber.last_error.as_ref()));
    absence.into_iter().chain(refusals(status))
}

fn absence(what: &str, error: Option<&String>) -> String {
    match error {
        Some(error) => format!("no connection for {what}: {error}"),
        None => format!("no connection for {what} yet"),
    }
}

fn refusals(transport: &TransportStatus) -> impl Iterator<Item = String> {
    let refused = transport.refused_subscriptions.iter();
    refused.map(|(filter, reason)| format!("the broker refuses the subscription to {filter}: {reason}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_told_as_json() {
        let mut health = Health {
            status: HealthStatus::Healthy,
            reasons: Vec::new(),
            round_trip: None,
            last_round_trip: None,
            last_check: Timestamp::from_millis(0),
            connections: 0,
            backlog: Backlog::default(),
            dead_letters: 0,
            transport: None,
            queue: None,
        };
        let nothing = json!({
            "status": "healthy",
            "error": null,
            "reasons": [],
            "response_time_ms": null,
            "last_response": null,
            "last_check": "1970-01-01T00:00:00.000Z",
            "connections": 0,
            "backlog": { "in_memory": 0, "in_outbox": null, "oldest_seconds": 0.0 },
            "dead_letters": 0,
        });
        assert_eq!(serde_json::to_value(&health).unwrap(), nothing);

        health.status = HealthStatus::Degraded;
        health.reasons = ["one", "two"].map(str::to_owned).to_vec();
        health.round_trip = Some(Duration::from_micros(1_500));
        health.last_round_trip = Some(Timestamp::from_millis(-1));
        health.connections = 2;
        health.backlog = Backlog { in_memory: 3, in_outbox: Some(4), oldest: Duration::from_millis(2_500) };
        health.dead_letters = 5;
        let all = json!({
            "status": "degraded",
            "error": "one; two",
            "reasons": ["one", "two"],
            "response_time_ms": 1.5,
            "last_response": "1969-12-31T23:59:59.999Z",
            "last_check": "1970-01-01T00:00:00.000Z",
            "connections": 2,
            "backlog": { "in_memory": 3, "in_outbox": 4, "oldest_seconds": 2.5 },
            "dead_letters": 5,
        });
        assert_eq!(serde_json::to_value(&health).unwrap(), all);
    }
}
