//! In which form events are sent.

use std::fmt;
use std::str::FromStr;

use crate::event::Operation;

/// The form in which a node sends its events. What it receives it understands in every form.
///
/// | | looks like | on the topic |
/// |---|---|---|
/// | [`Specification`](Self::Specification) | `{"model":"user","operation":"create","args":…,"result":…}` | any |
/// | [`CloudEvents`](Self::CloudEvents) | `{"specversion":"1.0","id":…,"type":"user.create","data":…}` | any |
/// | [`CloudEventsBinary`](Self::CloudEventsBinary) | the data alone, the rest in user properties; MQTT 5 only | any |
/// | [`Tracker`](Self::Tracker) | `{"trace_id":…,"ts":…,"kind":"user_created","idempotency_key":…,"payload":…}` | `tracker/events/{model}/{past_tense}` |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum Format {
    /// The JSON of the npm package prisma-extension-emitter, with further fields. The default.
    #[default]
    Specification,
    /// [CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/mqtt-protocol-binding.md)
    /// in structured mode.
    CloudEvents,
    /// The same in binary mode: MQTT 3.1.1 cannot carry it.
    CloudEventsBinary,
    /// `trace_id`, `ts`, `kind`, `idempotency_key` and `payload`: the row, or the count of rows.
    Tracker,
}

impl Format {
    /// What stands for the kind of an event where nothing else is said.
    #[must_use]
    pub const fn default_kind(self) -> &'static str {
        match self {
            Self::Tracker => "{model}_{past_tense}",
            _ => "{model}.{operation}",
        }
    }
}

/// What kind of event it is, as CloudEvents' `type` and the tracker form's `kind` say: a text in which
/// `{service}`, `{model}`, `{operation}` and `{past_tense}` stand for something, as in
/// `com.example.{model}.{past_tense}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind(Box<[Part]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Service,
    Model,
    Operation,
    PastTense,
}

/// A text is no kind of event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the kind of event {0:?} may hold printable text, and in braces {{service}}, {{model}}, {{operation}}, {{past_tense}}"
)]
pub struct NoKind(String);

impl Kind {
    /// The longest text of one, in bytes.
    pub const MAX_BYTES: usize = 256;

    /// The kind of one operation's events.
    #[must_use]
    pub fn of(&self, service: &str, model: &str, operation: Operation) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.to_string(),
            Part::Service => service.to_owned(),
            Part::Model => model.to_owned(),
            Part::Operation => operation.as_str().to_owned(),
            Part::PastTense => operation.past_tense().to_owned(),
        };
        self.0.iter().map(part).collect()
    }

    /// The kind of an event that is no row, by its own: what tells the operation falls away, with the
    /// separators before it.
    #[must_use]
    pub fn of_event(&self, service: &str, event: &str) -> String {
        let mut kind = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) if kind.is_empty() => kind.push_str(text.trim_start_matches(SEPARATORS)),
                Part::Text(text) => kind.push_str(text),
                Part::Service => kind.push_str(service),
                Part::Model => kind.push_str(event),
                Part::Operation | Part::PastTense => {
                    kind.truncate(kind.trim_end_matches(SEPARATORS).len());
                }
            }
        }
        // An event has some kind.
        if kind.is_empty() { event.to_owned() } else { kind }
    }
}

/// What stands between the words of a kind.
const SEPARATORS: [char; 4] = ['.', '_', '/', '-'];

impl FromStr for Kind {
    type Err = NoKind;

    fn from_str(text: &str) -> Result<Self, NoKind> {
        let wrong = || NoKind(text.to_owned());
        if text.is_empty() || text.len() > Self::MAX_BYTES || text.chars().any(char::is_control) {
            return Err(wrong());
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, behind) = after.split_once('}').ok_or_else(wrong)?;
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            parts.push(match name {
                "service" => Part::Service,
                "model" => Part::Model,
                "operation" => Part::Operation,
                "past_tense" => Part::PastTense,
                _ => return Err(wrong()),
            });
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        let stray = |part: &Part| matches!(part, Part::Text(text) if text.contains('}'));
        if parts.iter().any(stray) { Err(wrong()) } else { Ok(Self(parts.into())) }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| {
            f.write_str(match part {
                Part::Text(text) => text,
                Part::Service => "{service}",
                Part::Model => "{model}",
                Part::Operation => "{operation}",
                Part::PastTense => "{past_tense}",
            })
        })
    }
}

/// The operation that the end of a kind names: `user.create`, `com.example.user.created`, `user_created`.
pub(super) fn operation_of(kind: &str) -> Option<Operation> {
    let ends = |name: &str| {
        kind.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with(SEPARATORS))
    };
    // The longest first: `updated_many` ends with no shorter one, but `x.many_created` might.
    Operation::ALL.into_iter().find(|operation| ends(operation.as_str()) || ends(operation.past_tense()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kinds_name_what_happened() {
        let kind = |text: &str| text.parse::<Kind>().unwrap().of("shop", "user", Operation::UpdateMany);
        assert_eq!(kind(Format::Tracker.default_kind()), "user_updated_many");
        assert_eq!(kind(Format::CloudEvents.default_kind()), "user.updateMany");
        assert_eq!(kind("com.example.{service}.{model}"), "com.example.shop.user");
        let event = |text: &str| text.parse::<Kind>().unwrap().of_event("shop", "login_failed");
        for text in [
            Format::Tracker.default_kind(),
            Format::CloudEvents.default_kind(),
            "{model}",
            "{past_tense}_{model}",
            "{operation}",
        ] {
            assert_eq!(event(text), "login_failed", "{text}");
        }
        assert_eq!(event("com.example.{service}.{model}.{past_tense}"), "com.example.shop.login_failed");
        assert_eq!(event("com.example._{operation}.v1/{model}"), "com.example.v1/login_failed");
        for wrong in ["", "{table}", "{model", "model}", "a\nb", &"x".repeat(257)] {
            assert!(wrong.parse::<Kind>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_end_of_a_kind_names_the_operation() {
        for operation in Operation::ALL {
            for kind in [
                "{model}.{operation}",
                "com.example.{model}.{past_tense}",
                "{model}_{past_tense}",
                "{past_tense}",
            ] {
                let kind = kind.parse::<Kind>().unwrap().of("shop", "user", operation);
                assert_eq!(operation_of(&kind), Some(operation), "{kind}");
            }
        }
        for other in ["", "user", "recreate", "user.status_changed", "procreated"] {
            assert_eq!(operation_of(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_kind_or_refused(text in any::<String>()) {
            if let Ok(kind) = text.parse::<Kind>() {
                prop_assert_eq!(kind.to_string(), text);
            }
        }
    }
}
