//! Which dead letters a page or a form means.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use emitter_core::EventId;
use emitter_core::dead_letter::Reason;
use emitter_core::event::Timestamp;
use emitter_diesel::dead_letters::Selection;

use super::access::{Fields, Guest};
use super::actions;
use super::query::{Pairs, written};

/// Dead letters, as an address says them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) selection: Selection,
}

/// What letters are chosen by as texts, and what it is called.
pub(super) const TEXTS: [(&str, &str); 4] =
    [("listener", "Listener"), ("model", "Model"), ("topic", "Topic"), ("node", "Node")];

/// Of a form where one was sent, else of the address.
impl<S: Send + Sync> FromRequestParts<S> for Chosen {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let pairs = match parts.extensions.get::<Fields>().cloned() {
            Some(Fields(pairs)) => pairs,
            None => Pairs::from_request_parts(parts, state).await?,
        };
        let guest = Guest::from_request_parts(parts, state).await.map_err(IntoResponse::into_response)?;
        Self::of(&pairs).map_err(|why| actions::refused(&guest, &why))
    }
}

impl Chosen {
    /// What an address or a form says. What cannot be read is an error: letters that nobody meant are not to be touched.
    fn of(pairs: &Pairs) -> Result<Self, String> {
        let said = |name: &str| pairs.get(name).map(str::to_owned);
        let time = |name: &str| {
            let read = |text: &str| text.parse().map(Timestamp::from_millis);
            pairs.get(name).map(read).transpose().map_err(|_| format!("`{name}` is no time in milliseconds"))
        };
        let mut since = time("since")?;
        if let Some(hours) = pairs.get("hours") {
            let hours: i64 = hours.parse().map_err(|_| "`hours` is no number".to_owned())?;
            let ago = hours.clamp(0, 24 * 3660).saturating_mul(3_600_000);
            since = Some(Timestamp::from_millis(Timestamp::now().as_millis().saturating_sub(ago)));
        }
        let reason = |name: &str| Reason::from_name(name).ok_or(format!("there is no reason {name:?}"));
        let event = |id: &str| id.parse::<EventId>().map_err(|_| format!("{id:?} is no event's id"));
        let ids = |ids: &str| {
            let numbers: Result<Vec<i64>, _> = ids.split(',').take(1_000).map(str::parse).collect();
            numbers.map_err(|_| format!("{ids:?} are no numbers of letters"))
        };
        let up_to = |id: &str| id.parse().map_err(|_| format!("{id:?} is no number of a letter"));
        Ok(Self {
            selection: Selection {
                ids: pairs.get("ids").map(ids).transpose()?,
                event: pairs.get("event").map(event).transpose()?,
                reason: pairs.get("reason").map(reason).transpose()?,
                topic: said("topic"),
                model: said("model"),
                listener: said("listener"),
                service: said("service"),
                node: said("node"),
                since,
                until: time("until")?,
                up_to: pairs.get("up_to").map(up_to).transpose()?,
            },
        })
    }

    /// One letter.
    pub(super) fn one(id: i64) -> Self {
        Self { selection: Selection::one(id) }
    }

    /// Those of this event.
    pub(super) fn event(id: EventId) -> Self {
        Self { selection: Selection { event: Some(id), ..Selection::default() } }
    }

    /// The same, and none that comes after the one of this number: what a form acts on is what its page showed.
    pub(super) fn up_to(mut self, last: i64) -> Self {
        self.selection.up_to.get_or_insert(last);
        self
    }

    /// As names and values.
    pub(super) fn pairs(&self) -> Vec<(&'static str, String)> {
        let Selection { ids, event, reason, topic, model, listener, service, node, since, until, up_to } =
            &self.selection;
        let ids = ids.as_ref().map(|ids| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
        let millis = |time: &Option<Timestamp>| time.map(|time| time.as_millis().to_string());
        let all = [
            ("ids", ids),
            ("event", event.map(|event| event.to_string())),
            ("reason", reason.map(|reason| reason.to_string())),
            ("topic", topic.clone()),
            ("model", model.clone()),
            ("listener", listener.clone()),
            ("service", service.clone()),
            ("node", node.clone()),
            ("since", millis(since)),
            ("until", millis(until)),
            ("up_to", up_to.map(|id| id.to_string())),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// As the end of an address.
    pub(super) fn query(&self) -> String {
        written(self.pairs())
    }

    /// The same with one thing said differently.
    pub(super) fn with(&self, name: &str, value: &str) -> String {
        let mut pairs = self.pairs();
        pairs.retain(|(known, _)| *known != name);
        let mut query = written(pairs);
        let said = written([(name, value.to_owned())]);
        query.push_str(&if query.is_empty() { said } else { said.replacen('?', "&", 1) });
        query
    }

    /// In words, for the audit.
    pub(super) fn words(&self) -> String {
        let pairs = self.pairs();
        if pairs.is_empty() {
            return "all dead letters".to_owned();
        }
        let time = |value: &str| Timestamp::from_millis(value.parse().unwrap_or_default()).to_string();
        let words = pairs.into_iter().map(|(name, value)| match name {
            "since" | "until" => format!("{name} {}", time(&value)),
            "up_to" => format!("numbers up to {value}"),
            _ => format!("{name} {value}"),
        });
        format!("dead letters of {}", words.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(pairs: &[(&str, &str)]) -> Result<Chosen, String> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Chosen::of(&Pairs(pairs.collect()))
    }

    #[test]
    fn what_is_written_is_read_again() {
        let event = EventId::now().to_string();
        let all = [
            ("ids", "1,2"),
            ("event", &*event),
            ("reason", "unhandled"),
            ("topic", "a/*"),
            ("model", "order"),
            ("listener", "notify & co"),
            ("service", "shop"),
            ("node", "a"),
            ("since", "1000"),
            ("until", "2000"),
            ("up_to", "77"),
        ];
        let first = chosen(&all).unwrap();
        let pairs: Vec<(&str, String)> = first.pairs();
        assert_eq!(pairs.len(), all.len());
        let again: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, &**value)).collect();
        assert_eq!(chosen(&again).unwrap(), first);
        assert!(first.query().starts_with("?ids=1%2C2&event="), "{}", first.query());
        assert!(first.words().contains("until 1970-01-01T00:00:02.000Z"));
    }

    #[test]
    fn what_cannot_be_read_chooses_nothing() {
        for wrong in [
            ("ids", "1,x"),
            ("event", "x"),
            ("reason", "x"),
            ("since", "x"),
            ("hours", "x"),
            ("ids", ","),
            ("up_to", "x"),
        ] {
            assert!(chosen(&[wrong]).is_err(), "{wrong:?}");
        }
        assert_eq!(chosen(&[("listener", " ")]).unwrap(), Chosen::default());
    }

    #[test]
    fn one_thing_is_said_differently() {
        let chosen = chosen(&[("model", "order")]).unwrap();
        assert_eq!(chosen.with("reason", "unhandled"), "?model=order&reason=unhandled");
        assert_eq!(chosen.with("model", "a b"), "?model=a%20b");
    }
}
