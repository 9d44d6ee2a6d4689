//! How a node stands, for whoever asks whether it works.

use std::time::Duration;

use super::queueing::Unwritten;
use super::{Emitter, QueueStatus};
use crate::transport::TransportStatus;

/// How a node stands.
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
    /// How the transport stands; `None` without one.
    pub transport: Option<TransportStatus>,
    /// How the queue of events stands that are to be written into an outbox; `None` without one.
    pub queue: Option<QueueStatus>,
}

/// Whether a node works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthStatus {
    /// All of it.
    Healthy,
    /// Local events do; some of what goes to other nodes, or comes from them, waits or is missing.
    Degraded,
    /// It is shut down.
    Unhealthy,
}

/// A canary that is missed may be late; a second one says something.
const MISSED: u32 = 2;

impl Emitter {
    /// How this node stands now. It asks nobody: what it tells of the broker is what the connections and the
    /// last canary found.
    #[must_use]
    pub fn health(&self) -> Health {
        if self.node.tasks().ending.is_some() {
            let (status, reasons) = (HealthStatus::Unhealthy, vec!["the emitter is shut down".to_owned()]);
            return Health { status, reasons, round_trip: None, transport: None, queue: self.queue_status() };
        }
        let transport = self.transport_status();
        let mut reasons = transport.as_ref().map(problems).unwrap_or_default();
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
        let status = if reasons.is_empty() { HealthStatus::Healthy } else { HealthStatus::Degraded };
        let round_trip = transport.as_ref().and_then(|transport| transport.canary?.round_trip);
        Health { status, reasons, round_trip, transport, queue: self.queue_status() }
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
