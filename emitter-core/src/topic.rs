//! Topics `{prefix}/{model}/{operation}`, or of another [`Layout`], built from validated segments
//! only. The model is one level, or several where it says `#[emits(topic = "shop/orders")]`. An event
//! that is no row has no operation, and its topic no level that tells one.
//!
//! A client library lets through topics that make brokers drop the connection (empty ones, NUL,
//! 70 kB, `$SYS/…`), so every topic of this framework is made here, from parts that were checked.

use std::fmt;
use std::sync::Arc;

mod layout;

pub(crate) use layout::BATCH;
pub use layout::{Layout, MAX_LAYOUT_BYTES, Said, Topics};

/// The prefix of the specification: `prisma/events`.
pub const DEFAULT_PREFIX: &str = "prisma/events";

/// The longest prefix, in bytes.
pub const MAX_PREFIX_BYTES: usize = 256;

/// The longest topic of a model, in bytes.
pub const MAX_MODEL_BYTES: usize = 128;

/// The longest topic in bytes that is taken from where it was kept; MQTT allows 65,535.
pub const MAX_TOPIC_BYTES: usize = 1024;

/// The first levels of every topic of an application, such as `prisma/events`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TopicPrefix(Arc<str>);

impl TopicPrefix {
    /// Checks and takes a prefix: one or more non-empty levels, without `+`, `#`, control
    /// characters, a leading `$`, or more than [`MAX_PREFIX_BYTES`] bytes.
    ///
    /// # Errors
    /// [`TopicError`] names the part that is wrong and what is allowed.
    pub fn new(prefix: &str) -> Result<Self, TopicError> {
        if prefix.len() > MAX_PREFIX_BYTES {
            return Err(TopicError::TooLong {
                what: "topic prefix",
                bytes: prefix.len(),
                limit: MAX_PREFIX_BYTES,
            });
        }
        if prefix.starts_with('$') {
            return Err(TopicError::Reserved(prefix.to_owned()));
        }
        prefix.split('/').try_for_each(check_level)?;
        Ok(Self(prefix.into()))
    }

    /// The prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TopicPrefix {
    fn default() -> Self {
        Self(DEFAULT_PREFIX.into())
    }
}

/// What stands for a model in topics: its name, or levels of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelTopic {
    levels: Arc<str>,
    /// It is an event that is no row.
    event: bool,
}

impl ModelTopic {
    /// Checks and takes levels such as `user` or `shop/orders`, at most [`MAX_MODEL_BYTES`] bytes.
    ///
    /// # Errors
    /// [`TopicError`] names what is wrong and what is allowed.
    pub fn new(levels: &str) -> Result<Self, TopicError> {
        if levels.len() > MAX_MODEL_BYTES {
            return Err(TopicError::TooLong {
                what: "topic of a model",
                bytes: levels.len(),
                limit: MAX_MODEL_BYTES,
            });
        }
        if levels.starts_with('$') {
            return Err(TopicError::Reserved(levels.to_owned()));
        }
        levels.split('/').try_for_each(check_level)?;
        Ok(Self { levels: levels.into(), event: false })
    }

    /// The same for an event that is no row, such as `auth/login_failed`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_event(levels: &str) -> Result<Self, TopicError> {
        Self::of(levels, true)
    }

    pub(crate) fn of(levels: &str, event: bool) -> Result<Self, TopicError> {
        Ok(Self { event, ..Self::new(levels)? })
    }

    /// The levels as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.levels
    }

    /// Whether it is that of an event that is no row.
    #[must_use]
    pub fn is_event(&self) -> bool {
        self.event
    }

    /// Whether one of two lies within the other, upper and lower case not told apart, so that who
    /// subscribes to the one is sent the other, too.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.levels.to_ascii_lowercase(), other.levels.to_ascii_lowercase());
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        within(&mine, &theirs) || within(&theirs, &mine)
    }
}

/// A topic to publish on; always valid.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// One that was kept as text; at most [`MAX_TOPIC_BYTES`] bytes.
    ///
    /// # Errors
    /// [`TopicError`] names what is wrong and what is allowed.
    pub fn parse(topic: &str) -> Result<Self, TopicError> {
        if topic.len() > MAX_TOPIC_BYTES {
            return Err(TopicError::TooLong { what: "topic", bytes: topic.len(), limit: MAX_TOPIC_BYTES });
        }
        if topic.starts_with('$') {
            return Err(TopicError::Reserved(topic.to_owned()));
        }
        topic.split('/').try_for_each(check_level)?;
        Ok(Self(topic.into()))
    }

    /// The topic as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A filter to subscribe to; always valid. Levels may be `+`, and the last one `#`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TopicFilter(Arc<str>);

impl TopicFilter {
    /// The filter as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The filter for this topic alone.
    #[must_use]
    pub fn of(topic: &Topic) -> Self {
        Self(Arc::clone(&topic.0))
    }

    /// The topic on which mosquitto and others keep their version, `$SYS/broker/version`: the only one of the broker's own.
    #[must_use]
    pub fn broker_version() -> Self {
        Self("$SYS/broker/version".into())
    }

    /// Whether it matches every topic that the other one matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        covers(&self.0, &other.0)
    }

    /// Whether a topic matches, as MQTT has it: `+` stands for one level, `#` for the parent and all
    /// below.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        let mut levels = topic.split('/');
        for wanted in self.0.split('/') {
            match (wanted, levels.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (wanted, Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

/// Whether the one filter matches every topic that the other one matches.
pub(crate) fn covers(one: &str, other: &str) -> bool {
    let mut levels = other.split('/');
    for wanted in one.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            (_, Some("#")) => return false,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text cannot be part of a topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Two slashes in a row, one at either end, or nothing at all. Leave the empty level out.
    #[error("a topic level is empty; write levels as in \"shop/events\", without a slash at either end")]
    EmptyLevel,
    /// A wildcard, a slash where one level is wanted, or a control character.
    #[error("{character:?} is not allowed in the topic level {level:?}; use letters, digits, '_', '-', '.'")]
    BadCharacter {
        /// The level.
        level: String,
        /// What is wrong in it.
        character: char,
    },
    /// Topics that begin with `$` belong to the broker.
    #[error("{0:?} begins with '$', which brokers keep for themselves")]
    Reserved(String),
    /// A layout with a placeholder that means nothing.
    #[error(
        "{0:?} means nothing in a topic layout; known are {{prefix}}, {{model}}, {{model_lower}}, {{operation}}, {{past_tense}}, each a level of its own"
    )]
    Placeholder(String),
    /// A layout by which topics could not be made, or not be read again.
    #[error("the topic layout {layout:?} {problem}; write it as in \"{{prefix}}/{{model}}/{{operation}}\"")]
    Layout {
        /// The layout.
        layout: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Longer than the limit.
    #[error("the {what} has {bytes} bytes; at most {limit} are allowed")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
}

fn check_level(level: &str) -> Result<(), TopicError> {
    if level.is_empty() {
        return Err(TopicError::EmptyLevel);
    }
    match level.chars().find(|c| matches!(c, '+' | '#') || c.is_control() || c.is_whitespace()) {
        Some(character) => Err(TopicError::BadCharacter { level: level.to_owned(), character }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Operation;

    /// Texts of what is interesting in topics.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            8 => prop::sample::select(vec!["a", "user", "User", "ß", "-", "_", ".", "x1"]),
            4 => Just("/"),
            1 => prop::sample::select(vec!["+", "#", "$", " ", "\0", "\n", "\u{2028}", "\u{7f}"]),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    fn prefix() -> impl Strategy<Value = TopicPrefix> {
        text().prop_filter_map("a valid prefix", |text| TopicPrefix::new(&text).ok())
    }

    fn model() -> impl Strategy<Value = ModelTopic> {
        text().prop_filter_map("a valid model", |text| ModelTopic::new(&text).ok())
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop::sample::select(Operation::ALL.to_vec())
    }

    fn layout() -> impl Strategy<Value = Layout> {
        let first = prop::sample::select(vec!["{prefix}/", "a/", "{prefix}/b/", ""]);
        let model = prop::sample::select(vec!["{model}", "{model_lower}"]);
        let last =
            prop::sample::select(vec!["", "/{operation}", "/{past_tense}", "/all", "/c/{operation}/d"]);
        (first, model, last).prop_map(|(first, model, last)| format!("{first}{model}{last}").parse().unwrap())
    }

    fn naive_level(level: &str) -> bool {
        !level.is_empty() && !level.chars().any(|c| "+#/".contains(c) || c.is_control() || c.is_whitespace())
    }

    /// MQTT's rule, level by level.
    fn naive_match(filter: &str, topic: &str) -> bool {
        let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
        loop {
            match (filter.next(), topic.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(_)) => {}
                (Some(one), Some(other)) if one == other => {}
                _ => return false,
            }
        }
    }

    proptest! {
        #[test]
        fn a_prefix_is_levels_that_are_good(text in text()) {
            let good = !text.starts_with('$') && text.split('/').all(naive_level);
            prop_assert_eq!(TopicPrefix::new(&text).is_ok(), good, "{:?}", text);
        }

        #[test]
        fn a_model_is_levels_that_are_good(text in text()) {
            let good = !text.starts_with('$') && text.split('/').all(naive_level);
            prop_assert_eq!(ModelTopic::new(&text).is_ok(), good, "{:?}", text);
        }

        #[test]
        fn anything_is_refused_or_kept_as_it_is(text in any::<String>()) {
            if let Ok(prefix) = TopicPrefix::new(&text) {
                prop_assert_eq!(prefix.as_str(), &text);
            }
            if let Ok(model) = ModelTopic::new(&text) {
                prop_assert_eq!(model.as_str(), &text);
            }
        }

        #[test]
        fn a_topic_is_read_as_what_it_was_made_of(
            prefix in prefix(), layout in layout(), model in model(), operation in operation()
        ) {
            let topics = Topics::new(prefix, layout.clone());
            let topic = topics.topic(&model, operation);
            let (levels, said) = topics.read(topic.as_str()).unwrap();
            let lower = layout.to_string().contains("{model_lower}");
            let expected = if lower { model.as_str().to_ascii_lowercase() } else { model.as_str().to_owned() };
            prop_assert_eq!(levels, expected);
            let tells = layout.to_string().contains("{operation}") || layout.to_string().contains("{past_tense}");
            prop_assert_eq!(said, if tells { Said::This(operation) } else { Said::Nothing });
            prop_assert!(topics.model_filter(&model).matches(topic.as_str()));
        }

        /// Of another topic no more is read than the layout has, level by level.
        #[test]
        fn reading_takes_the_first_and_the_last_levels(prefix in prefix(), topic in text(), under in any::<bool>()) {
            let topic = if under { format!("{}/{topic}", prefix.as_str()) } else { topic };
            let levels: Vec<&str> = topic.split('/').collect();
            let first: Vec<&str> = prefix.as_str().split('/').collect();
            let expected = match levels.strip_prefix(&*first) {
                Some([model @ .., operation]) => Some((model.join("/"), *operation))
                    .filter(|(model, operation)| !model.is_empty() && !operation.is_empty()),
                _ => None,
            };
            let topics = Topics::new(prefix.clone(), Layout::default());
            let read = topics.read(&topic).map(|(model, said)| match said {
                Said::Other(operation) => (model.to_owned(), operation),
                _ => panic!("these texts name no operation"),
            });
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn a_filter_matches_as_mqtt_says(
            prefix in prefix(), layout in layout(), model in model(), rest in text(), glued in any::<bool>()
        ) {
            let filter = Topics::new(prefix.clone(), layout).model_filter(&model);
            let slash = if glued { "" } else { "/" };
            let near = format!("{}/{}{slash}{rest}", prefix.as_str(), model.as_str());
            for topic in [&near, &rest] {
                prop_assert_eq!(filter.matches(topic), naive_match(filter.as_str(), topic), "{} {}", filter, topic);
            }
        }

        /// Events are found by their whole levels, models are not taken for events, nor events for models.
        #[test]
        fn the_topic_of_an_event_lacks_the_operation(
            prefix in prefix(), layout in layout(), model in model(), operation in operation(), other in model()
        ) {
            let topics = Topics::new(prefix, layout.clone());
            let event = ModelTopic::of_event(model.as_str()).unwrap();
            let topic = topics.topic(&event, operation);
            let lower = layout.to_string().contains("{model_lower}");
            let levels = if lower { model.as_str().to_ascii_lowercase() } else { model.as_str().to_owned() };
            prop_assert_eq!(topics.read_event(topic.as_str()), Some(&*levels));
            prop_assert_eq!(topics.model_filter(&event), TopicFilter::of(&topic));
            prop_assert!(!layout.to_string().ends_with("all") || topic.as_str().ends_with("/all"));
            for other in [&model, &other] {
                let taken = Operation::ALL.iter().any(|operation| topics.topic(other, *operation) == topic);
                prop_assert!(!taken || topics.clash(other, &event), "{} {:?}", topic, other);
                prop_assert_eq!(topics.clash(other, &event), topics.clash(&event, other));
            }
        }

        #[test]
        fn a_filter_that_covers_matches_all_that_the_other_matches(
            one in "[ab+]?(/[ab+]){0,3}(/#)?", other in "[ab+]?(/[ab+]){0,3}(/#)?", topic in "[ab](/[ab]){0,4}"
        ) {
            if covers(&one, &other) && naive_match(&other, &topic) {
                prop_assert!(naive_match(&one, &topic), "{} {} {}", one, other, topic);
            }
            // A topic is a filter that it alone matches.
            prop_assert_eq!(covers(&one, &topic), naive_match(&one, &topic));
            prop_assert!(covers(&one, &one));
            prop_assert!(one == other || !covers(&one, &other) || !covers(&other, &one));
        }

        #[test]
        fn any_text_is_a_layout_or_refused(text in any::<String>()) {
            if let Ok(layout) = text.parse::<Layout>() {
                prop_assert_eq!(layout.to_string(), text);
            }
        }

        /// Whatever topic it came on, and it stands below the prefix in one level.
        #[test]
        fn a_dead_letter_has_a_valid_topic(prefix in prefix(), original in any::<String>()) {
            let topic = Topics::new(prefix.clone(), Layout::default()).dead_letters(&original);
            let level = topic.as_str().strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_prefix("/dlq/"));
            prop_assert!(level.is_some_and(|level| original.is_empty() || naive_level(level)), "{}", topic);
        }
    }

    #[test]
    fn layouts() {
        let check = |layout: &str, topic: &str, filter: &str| {
            let topics = Topics::new(TopicPrefix::new("p/q").unwrap(), layout.parse().unwrap());
            let model = ModelTopic::new("shop/Order").unwrap();
            assert_eq!(topics.topic(&model, Operation::UpdateMany).as_str(), topic);
            assert_eq!(topics.model_filter(&model).as_str(), filter);
        };
        check("{prefix}/{model}/{operation}", "p/q/shop/Order/updateMany", "p/q/shop/Order/#");
        check(
            "tracker/events/{model}/{past_tense}",
            "tracker/events/shop/Order/updated_many",
            "tracker/events/shop/Order/#",
        );
        check("{model}", "shop/Order", "shop/Order");
        check("{prefix}/{model}/{operation}/v1", "p/q/shop/Order/updateMany/v1", "p/q/shop/Order/+/v1");
        check(&Layout::npm().to_string(), "p/q/shop/order/all", "p/q/shop/order/all");

        let refused = |layout: &str, expected: &str| {
            let error = layout.parse::<Layout>().unwrap_err().to_string();
            assert!(error.contains(expected), "{layout}: {error}");
        };
        refused("{prefix}/{operation}", "`{model}` once");
        refused("{model}/{model_lower}", "`{model}` once");
        refused("{operation}/{model}", "behind `{model}`");
        refused("{model}/{operation}/{past_tense}", "once, behind");
        refused("a/{prefix}/{model}", "beginning only");
        refused("a/x{model}", "level of its own");
        refused("a/{table}/{model}", "\"{table}\" means nothing");
        refused("a//{model}", "empty");
        refused("a/#/{model}", "'#'");
        refused("$SYS/{model}", "'$'");
    }

    #[test]
    fn the_frameworks_own_topics_are_no_models() {
        let topics = |layout: &str| Topics::new(TopicPrefix::default(), layout.parse().unwrap());
        let own = |layout: &str, model: &str| topics(layout).is_own(&ModelTopic::new(model).unwrap());
        assert!(own("{prefix}/{model}/{operation}", "dlq") && own("{prefix}/{model}", "_nodes/a"));
        assert!(!own("{prefix}/{model}/{operation}", "dlqs") && !own("{prefix}/rows/{model}", "dlq"));
        assert!(!own("events/{model}", "dlq"));
        assert!(own("{model}/{operation}", "prisma") && !own("{model}/{operation}", "user"));
        assert!(own("prisma/{model}/{operation}/all", "events") && !own("prisma/{model}/all", "events"));
    }

    #[test]
    fn lengths_have_limits() {
        let long = |bytes| "x".repeat(bytes);
        assert!(TopicPrefix::new(&long(MAX_PREFIX_BYTES)).is_ok());
        assert!(matches!(TopicPrefix::new(&long(MAX_PREFIX_BYTES + 1)), Err(TopicError::TooLong { .. })));
        assert!(ModelTopic::new(&long(MAX_MODEL_BYTES)).is_ok());
        assert!(matches!(ModelTopic::new(&long(MAX_MODEL_BYTES + 1)), Err(TopicError::TooLong { .. })));
    }

    #[test]
    fn an_event_may_lie_below_a_model() {
        let check = |layout: &str, event: &str, clashes: bool| {
            let topics = Topics::new(TopicPrefix::default(), layout.parse().unwrap());
            let (event, model) = (ModelTopic::of_event(event).unwrap(), ModelTopic::new("projects").unwrap());
            assert_eq!(topics.clash(&event, &model), clashes, "{layout} {event:?}");
        };
        for layout in ["{prefix}/{model}/{operation}", "tracker/{model_lower}/{past_tense}"] {
            check(layout, "projects/status_changed", false);
            check(layout, "projects", false);
            check(layout, "projects/items/create", false);
            for taken in ["create", "created", "updateMany", "updated_many", "updatemany", "batch", "all"] {
                check(layout, &format!("projects/{taken}"), true);
                check(layout, &format!("Projects/{taken}"), true);
            }
        }
        check("{prefix}/{model_lower}/all", "projects", true);
        check("{prefix}/{model_lower}/all", "projects/create", false);
        check("{prefix}/{model}/{operation}/v1", "projects/create", true);
        check("{model}", "projects", true);
        let events = ["Auth/login", "auth/Login", "auth/login/failed"]
            .map(|levels| ModelTopic::of_event(levels).unwrap());
        assert!(Topics::default().clash(&events[0], &events[1]));
        assert!(!Topics::default().clash(&events[0], &events[2]));
    }

    #[test]
    fn topics_overlap_where_one_subscription_gets_both() {
        let check = |one: &str, other: &str, expected| {
            let [one, other] = [one, other].map(|levels| ModelTopic::new(levels).unwrap());
            assert_eq!(
                (one.overlaps(&other), other.overlaps(&one)),
                (expected, expected),
                "{one:?} {other:?}"
            );
        };
        check("order", "ORDER", true);
        check("order", "Order/item", true);
        check("order", "orderItem", false);
        check("shop/order", "shop/user", false);
    }
}
