//! What a node can be asked to do, and how that is written down.

use emitter_core::dead_letter::Reason;
use emitter_core::event::Timestamp;
use emitter_core::{EventId, Operation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::mirror::{Listeners, ReplayOptions};
use crate::{dead_letters, mirror};

/// What a node is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Tries dead letters of the service again: see [`DeadLetterBook::redrive`](dead_letters::DeadLetterBook::redrive).
    Redrive {
        /// Which of them. Of other services' letters none is tried, whatever is said here.
        letters: dead_letters::Selection,
        /// How many are begun in a second; 0 for as many as there are.
        per_second: u32,
    },
    /// Hands events of the mirror to listeners of the node once more: see [`Mirrored::replay`](mirror::Mirrored::replay).
    Replay {
        /// Which of them, and behind which place.
        events: mirror::Selection,
        /// For whom, and how fast. A node that has not all the named listeners fails the request.
        options: ReplayOptions,
    },
}

/// The longest text that is written down or read, in bytes: some thousand numbers of letters.
pub(super) const MOST_BYTES: usize = 64 * 1024;

/// A field that is not known could be a condition: without it, more would be done than was meant.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Redrive {
    ids: Option<Vec<i64>>,
    event: Option<EventId>,
    reason: Option<String>,
    topic: Option<String>,
    model: Option<String>,
    listener: Option<String>,
    service: Option<String>,
    node: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    up_to: Option<i64>,
    per_second: u32,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Replay {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    topic_prefix: Option<String>,
    kind: Option<String>,
    model: Option<String>,
    key: Option<String>,
    operation: Option<Operation>,
    event: Option<EventId>,
    trace: Option<Uuid>,
    after: Option<String>,
    listeners: Option<Vec<String>>,
    per_second: Option<u32>,
}

const REDRIVE: &str = "redrive";
const REPLAY: &str = "replay";

impl Work {
    /// What it is called: `redrive` or `replay`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Redrive { .. } => REDRIVE,
            Self::Replay { .. } => REPLAY,
        }
    }

    /// As JSON.
    ///
    /// # Errors
    /// That it is too long, in words.
    pub(super) fn write(&self) -> Result<String, String> {
        let text = match self {
            Self::Redrive { letters, per_second } => {
                serde_json::to_string(&Redrive::of(letters, *per_second))
            }
            Self::Replay { events, options } => serde_json::to_string(&Replay::of(events, options)),
        };
        let text = text.map_err(|error| error.to_string())?;
        if text.len() > MOST_BYTES {
            return Err(format!(
                "it has {} bytes, the limit is {MOST_BYTES}: ask for some at a time",
                text.len()
            ));
        }
        Ok(text)
    }

    /// What [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// That it is none, in words.
    pub(super) fn read(action: &str, text: &str) -> Result<Self, String> {
        if text.len() > MOST_BYTES {
            return Err(format!("what is to be done has {} bytes, the limit is {MOST_BYTES}", text.len()));
        }
        let unread =
            |error: serde_json::Error| format!("this program does not know what is to be done: {error}");
        match action {
            REDRIVE => serde_json::from_str::<Redrive>(text).map_err(unread)?.work(),
            REPLAY => serde_json::from_str::<Replay>(text).map_err(unread)?.work(),
            other => Err(format!("this program does not know how to {other:?}")),
        }
    }
}

impl Redrive {
    fn of(letters: &dead_letters::Selection, per_second: u32) -> Self {
        let dead_letters::Selection {
            ids,
            event,
            reason,
            topic,
            model,
            listener,
            service,
            node,
            since,
            until,
            up_to,
        } = letters.clone();
        let reason = reason.map(|reason| reason.as_str().to_owned());
        Self { ids, event, reason, topic, model, listener, service, node, since, until, up_to, per_second }
    }

    fn work(self) -> Result<Work, String> {
        let Self {
            ids,
            event,
            reason,
            topic,
            model,
            listener,
            service,
            node,
            since,
            until,
            up_to,
            per_second,
        } = self;
        let known = |name: String| Reason::from_name(&name).ok_or_else(|| format!("{name:?} is no reason"));
        let reason = reason.map(known).transpose()?;
        let letters = dead_letters::Selection {
            ids,
            event,
            reason,
            topic,
            model,
            listener,
            service,
            node,
            since,
            until,
            up_to,
        };
        Ok(Work::Redrive { letters, per_second })
    }
}

impl Replay {
    fn of(events: &mirror::Selection, options: &ReplayOptions) -> Self {
        // How many are read at a time is the node's own affair.
        let mirror::Selection {
            since,
            until,
            topic_prefix,
            kind,
            model,
            key,
            operation,
            event_id,
            trace_id,
            after,
            ..
        } = events.clone();
        let listeners = match &options.listeners {
            Listeners::All => None,
            Listeners::Named(names) => Some(names.clone()),
        };
        Self {
            since,
            until,
            topic_prefix,
            kind,
            model,
            key,
            operation,
            event: event_id,
            trace: trace_id,
            after: after.map(|after| after.to_string()),
            listeners,
            per_second: options.per_second,
        }
    }

    fn work(self) -> Result<Work, String> {
        let after =
            self.after.map(|after| after.parse().map_err(|error: mirror::NoCursor| error.to_string()));
        let events = mirror::Selection {
            since: self.since,
            until: self.until,
            topic_prefix: self.topic_prefix,
            kind: self.kind,
            model: self.model,
            key: self.key,
            operation: self.operation,
            event_id: self.event,
            trace_id: self.trace,
            after: after.transpose()?,
            limit: 0,
        };
        let listeners = self.listeners.map_or(Listeners::All, Listeners::Named);
        Ok(Work::Replay { events, options: ReplayOptions { listeners, per_second: self.per_second } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn comes_back(work: &Work) {
        assert_eq!(Work::read(work.name(), &work.write().unwrap()).as_ref(), Ok(work));
    }

    #[test]
    fn what_is_asked_is_read_as_it_was_written() {
        let event = Some(EventId::now());
        let time = Some(Timestamp::from_millis(1_700_000_000_123));
        let text = |text: &str| Some(text.to_owned());
        comes_back(&Work::Redrive { letters: dead_letters::Selection::default(), per_second: 0 });
        let letters = dead_letters::Selection {
            ids: Some(vec![1, -2, i64::MAX]),
            event,
            reason: Some(Reason::Undecodable),
            topic: text("a/*"),
            model: text("o"),
            listener: text("l\0'"),
            service: text("s"),
            node: text("n"),
            since: time,
            until: time,
            up_to: Some(77),
        };
        comes_back(&Work::Redrive { letters, per_second: 7 });
        comes_back(&Work::Replay { events: mirror::Selection::default(), options: ReplayOptions::default() });
        let events = mirror::Selection {
            since: time,
            until: time,
            topic_prefix: text("a/"),
            kind: text("user_created"),
            model: text("user"),
            key: text("7"),
            operation: Some(Operation::DeleteMany),
            event_id: event,
            trace_id: event.map(|event| *event.as_uuid()),
            after: "73.5".parse().ok(),
            limit: 0,
        };
        let named = Listeners::Named(vec!["a".to_owned(), "b".to_owned()]);
        comes_back(&Work::Replay {
            events,
            options: ReplayOptions { listeners: named, per_second: Some(3) },
        });
    }

    #[test]
    fn a_condition_that_is_not_known_is_not_left_out() {
        for (action, text) in [
            ("redrive", r#"{"colour": "red"}"#),
            ("redrive", r#"{"reason": "boredom"}"#),
            ("replay", r#"{"after": "here"}"#),
            ("replay", "7"),
            ("dance", "{}"),
            ("redrive", &" ".repeat(MOST_BYTES + 1)),
        ] {
            assert!(Work::read(action, text).is_err(), "{action} {text}");
        }
        let ids = Some((0..100_000).collect());
        let letters = dead_letters::Selection { ids, ..dead_letters::Selection::default() };
        assert!(Work::Redrive { letters, per_second: 0 }.write().is_err());
    }
}
