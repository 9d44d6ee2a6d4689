//! Listeners that an event may have been for, and of which nothing is written down: as nodes announce them.
//!
//! What a listener handled at once leaves no trace. Which listeners there are, nodes tell on the bus
//! ([`Emitter::nodes`](crate::Emitter::nodes)); what the event is, its row or a mirror does:
//!
//! ```no_run
//! use emitter_diesel::mirror::{Mirrored, Selection};
//! use emitter_diesel::outbox::{Control, Ledger};
//! use emitter_diesel::untold::EventFacts;
//! # fn f(emitter: &emitter_diesel::Emitter, tables: &emitter_diesel::tables::Tables, id: emitter_diesel::EventId) -> Result<(), Box<dyn std::error::Error>> {
//! let rows = Control::open(tables)?.find(id)?;
//! let seen = Mirrored::open(tables)?.read(&Selection { event_id: Some(id), ..Selection::default() })?.events;
//! let told = Ledger::open(tables)?.event(id)?;
//! if let Some(facts) = EventFacts::of(id, &rows, &seen) {
//!     let is_told = |service: &str, listener: &str| {
//!         told.iter().any(|entry| entry.service == service && entry.listener == listener)
//!     };
//!     for one in facts.untold(&emitter.nodes(), is_told) {
//!         println!("{} of {}/{}: {}", one.listener, one.service, one.node, one.meaning);
//!     }
//! }
//! # Ok(()) }
//! ```

use emitter_core::EventId;
use emitter_core::announcement::{AnnouncedListener, Announcement};
use emitter_core::envelope::{self, WireLimits};
use emitter_core::event::{Operation, Timestamp};
use emitter_core::topic::Said;
use emitter_core::transport::Properties;

use crate::mirror::MirroredEvent;
use crate::outbox::OutboxRow;

/// What an event says of itself that tells which listeners it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventFacts {
    /// Its model.
    pub model: String,
    /// Its operation, where it is known.
    pub operation: Option<Operation>,
    /// The service and the node that wrote it, where they are known.
    pub origin: Option<(String, String)>,
    /// When it was made, by that node's clock.
    pub time: Option<Timestamp>,
}

/// A listener of the event's model of which nothing is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Untold {
    /// Its node's service.
    pub service: String,
    /// Its node.
    pub node: String,
    /// Its name.
    pub listener: String,
    /// Its group, if it shares its events with others.
    pub group: Option<String>,
    /// What that may mean, in words: that it does not hear this event, and why, or what else there is.
    pub meaning: &'static str,
}

impl EventFacts {
    /// As its rows and a mirror have it; `None` where none of them tells its model.
    #[must_use]
    pub fn of(event: EventId, rows: &[OutboxRow], seen: &[MirroredEvent]) -> Option<Self> {
        let payload = rows.iter().find_map(|row| row.payload.as_deref());
        let (properties, limits) = (Properties::default(), WireLimits::default());
        let said = payload.and_then(|payload| {
            envelope::decode(payload.as_bytes(), &properties, Said::Nothing, &limits).ok()
        });
        let of_mirror = |event: &MirroredEvent| event.service.clone().zip(event.node.clone());
        let of_row = said.as_ref().and_then(|said| said.origin.as_ref());
        let model = rows.first().map(|row| &row.model);
        Some(Self {
            model: model.or_else(|| seen.iter().find_map(|event| event.model.as_ref()))?.clone(),
            operation: said
                .as_ref()
                .map(|said| said.operation)
                .or(seen.iter().find_map(|event| event.operation)),
            origin: of_row
                .map(|origin| (origin.service.to_string(), origin.node.to_string()))
                .or_else(|| seen.iter().find_map(of_mirror)),
            time: event.time(),
        })
    }

    /// The listeners of its model, on nodes that are there, of which nothing is told; `is_told` has a service and the name of a
    /// listener. How many listeners nodes do not name is in [`Announcement::more`].
    #[must_use]
    pub fn untold(&self, nodes: &[Announcement], is_told: impl Fn(&str, &str) -> bool) -> Vec<Untold> {
        let mut untold = Vec::new();
        for said in nodes.iter().filter(|said| said.is_online()) {
            let listeners = said.listeners.iter().flatten();
            let of_model = listeners.filter(|one| one.model.eq_ignore_ascii_case(&self.model));
            untold.extend(of_model.filter(|one| !is_told(&said.service, &one.name)).map(|one| Untold {
                service: said.service.clone(),
                node: said.node.clone(),
                listener: one.name.clone(),
                group: one.group.clone(),
                meaning: self.meaning(said, one),
            }));
        }
        untold
    }

    /// What it may mean that nothing is written down of a listener.
    fn meaning(&self, node: &Announcement, one: &AnnouncedListener) -> &'static str {
        let is_origin =
            self.origin.as_ref().map(|origin| (&*origin.0, &*origin.1) == (&*node.service, &*node.node));
        let is_other = one.operation.as_deref().map(|heard| self.operation.map(|own| own.as_str() != heard));
        let began = node.since.as_deref().and_then(Timestamp::parse);
        match (&*one.hears, is_origin) {
            _ if is_other == Some(Some(true)) => "it hears another operation",
            ("local", Some(false)) => "it hears its own node alone",
            ("remote", Some(true)) => "it hears the other nodes alone",
            _ if began.zip(self.time).is_some_and(|(began, made)| began > made) => {
                "its node began later, or again"
            }
            ("local" | "remote", None) => {
                "it does not hear it, handled it at once, was added later, or its filter held it back"
            }
            _ if is_other == Some(None) => {
                "it does not hear it, handled it at once, was added later, or its filter held it back"
            }
            _ if one.group.is_some() => {
                "it handled it at once, was added later, its filter held it back, or another node of the group had it"
            }
            _ => "it handled it at once, was added later, or its filter held it back",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MADE: &str = "2026-01-02T00:00:00.000Z";

    fn facts(origin: Option<&str>, operation: Option<Operation>) -> EventFacts {
        EventFacts {
            model: "order".to_owned(),
            operation,
            origin: origin.map(|node| ("shop".to_owned(), node.to_owned())),
            time: Timestamp::parse(MADE),
        }
    }

    /// A node that is there since then, with this listener to orders.
    fn node(since: &str, listener: &Value) -> Announcement {
        let mut listener = listener.clone();
        listener["name"] = json!("own");
        listener["model"].is_null().then(|| listener["model"] = json!("Order"));
        serde_json::from_value(json!({
            "service": "shop", "node": "a", "incarnation": "1", "status": "online", "since": since, "listeners": [listener],
        }))
        .unwrap()
    }

    #[test]
    fn what_it_may_mean_that_nothing_is_written_down() {
        let (before, behind) = ("2026-01-01T00:00:00.000Z", "2026-01-03T00:00:00.000Z");
        let created = facts(Some("a"), Some(Operation::Create));
        let unknown = facts(None, None);
        for (facts, since, listener, meaning) in [
            (
                &created,
                before,
                json!({ "hears": "everything" }),
                "it handled it at once, was added later, or its filter",
            ),
            (
                &created,
                before,
                json!({ "hears": "everything", "group": "g" }),
                "another node of the group had it",
            ),
            (&created, behind, json!({ "hears": "everything" }), "its node began later, or again"),
            (&created, "no time", json!({ "hears": "everything" }), "it handled it at once"),
            (&created, before, json!({ "hears": "remote" }), "it hears the other nodes alone"),
            (&created, before, json!({ "hears": "local" }), "it handled it at once"),
            (&facts(Some("b"), None), before, json!({ "hears": "local" }), "it hears its own node alone"),
            (&facts(Some("b"), None), before, json!({ "hears": "remote" }), "it handled it at once"),
            (
                &created,
                before,
                json!({ "hears": "everything", "operation": "delete" }),
                "it hears another operation",
            ),
            (
                &created,
                before,
                json!({ "hears": "everything", "operation": "create" }),
                "it handled it at once",
            ),
            (
                &unknown,
                before,
                json!({ "hears": "everything", "operation": "create" }),
                "it does not hear it, handled it",
            ),
            (&unknown, before, json!({ "hears": "local" }), "it does not hear it, handled it at once"),
        ] {
            let untold = facts.untold(&[node(since, &listener)], |_, _| false);
            assert!(
                untold[0].meaning.contains(meaning),
                "{listener}: {} and not {meaning}",
                untold[0].meaning
            );
        }
    }

    #[test]
    fn who_is_told_of_is_gone_or_hears_another_model_is_left_out() {
        let created = facts(None, None);
        let hears = json!({ "hears": "everything" });
        let told = |service: &str, listener: &str| (service, listener) == ("shop", "own");
        assert_eq!(created.untold(&[node(MADE, &hears)], told), []);
        assert_eq!(
            created.untold(&[node(MADE, &hears)], |service, listener| told(listener, service)).len(),
            1
        );
        let other = json!({ "hears": "everything", "model": "tag" });
        assert_eq!(created.untold(&[node(MADE, &other)], |_, _| false), []);
        let mut gone = node(MADE, &hears);
        gone.status = "offline".to_owned();
        assert_eq!(created.untold(&[gone], |_, _| false), []);
    }
}
