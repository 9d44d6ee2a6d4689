//! Which level of a topic stands where.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{ModelTopic, Topic, TopicError, TopicFilter, TopicPrefix, check_level};
use crate::event::Operation;

/// The longest layout, in bytes.
pub const MAX_LAYOUT_BYTES: usize = 256;

/// Which level of a topic stands where: a text such as `{prefix}/{model}/{operation}`, the default.
///
/// | stands for | is |
/// |---|---|
/// | `{prefix}` | the application's prefix, such as `prisma/events` |
/// | `{model}` | the model's levels: its name, or what `#[emits(topic = "…")]` says |
/// | `{model_lower}` | the same in lower case |
/// | `{operation}` | `create`, `updateMany`, … |
/// | `{past_tense}` | `created`, `updated_many`, … |
///
/// A level is one of these or a text of its own, as in `tracker/events/{model}/{past_tense}`. The
/// model stands there once, what tells the operation at most once, and behind it. Topics of events that
/// are no rows lack the level that tells the operation.
///
/// ```
/// use emitter_core::topic::Layout;
///
/// assert!("tracker/events/{model}/{past_tense}".parse::<Layout>().is_ok());
/// let error = "events/{table}".parse::<Layout>().unwrap_err();
/// assert!(error.to_string().contains("{model}"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout(Arc<[Level]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Text(Box<str>),
    Prefix,
    Model,
    ModelLower,
    Operation,
    PastTense,
}

const PLACEHOLDERS: [(&str, Level); 5] = [
    ("{prefix}", Level::Prefix),
    ("{model}", Level::Model),
    ("{model_lower}", Level::ModelLower),
    ("{operation}", Level::Operation),
    ("{past_tense}", Level::PastTense),
];

impl Layout {
    /// What the npm package prisma-extension-emitter publishes on and subscribes to:
    /// `{prefix}/{model_lower}/all`.
    #[must_use]
    pub fn npm() -> Self {
        Self([Level::Prefix, Level::ModelLower, Level::Text("all".into())].into())
    }

    /// Whether one of its levels tells the operation.
    pub(crate) fn tells_operations(&self) -> bool {
        self.0.iter().any(|level| matches!(level, Level::Operation | Level::PastTense))
    }

    fn is_model(level: &Level) -> bool {
        matches!(level, Level::Model | Level::ModelLower)
    }
}

impl Default for Layout {
    /// `{prefix}/{model}/{operation}`.
    fn default() -> Self {
        Self([Level::Prefix, Level::Model, Level::Operation].into())
    }
}

impl FromStr for Layout {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        if text.len() > MAX_LAYOUT_BYTES {
            let (bytes, limit) = (text.len(), MAX_LAYOUT_BYTES);
            return Err(TopicError::TooLong { what: "topic layout", bytes, limit });
        }
        if text.starts_with('$') {
            return Err(TopicError::Reserved(text.to_owned()));
        }
        let levels = text.split('/').map(level).collect::<Result<Vec<_>, _>>()?;
        let places = |wanted: fn(&Level) -> bool| {
            levels.iter().enumerate().filter(move |(_, level)| wanted(level)).map(|(place, _)| place)
        };
        let wrong = |problem| Err(TopicError::Layout { layout: text.to_owned(), problem });
        let [model] = places(Self::is_model).collect::<Vec<_>>()[..] else {
            return wrong("has to have `{model}` once");
        };
        let mut operations = places(|level| matches!(level, Level::Operation | Level::PastTense));
        if operations.next().is_some_and(|place| place < model) || operations.next().is_some() {
            return wrong("may have `{operation}` or `{past_tense}` once, behind `{model}`");
        }
        if places(|level| matches!(level, Level::Prefix)).any(|place| place > 0) {
            return wrong("may have `{prefix}` at its beginning only");
        }
        Ok(Self(levels.into()))
    }
}

fn level(text: &str) -> Result<Level, TopicError> {
    if let Some((_, level)) = PLACEHOLDERS.iter().find(|(placeholder, _)| *placeholder == text) {
        return Ok(level.clone());
    }
    check_level(text)?;
    if text.contains(['{', '}']) {
        return Err(TopicError::Placeholder(text.to_owned()));
    }
    Ok(Level::Text(text.into()))
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, level) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str("/")?;
            }
            let placeholder = PLACEHOLDERS.iter().find(|(_, other)| other == level);
            match (level, placeholder) {
                (Level::Text(text), _) => f.write_str(text)?,
                (_, Some((text, _))) => f.write_str(text)?,
                (_, None) => unreachable!("every level but a text has a placeholder"),
            }
        }
        Ok(())
    }
}

/// Topics of an application: made of its prefix and its layout, and read by them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    prefix: TopicPrefix,
    layout: Layout,
    /// Everything before the model, its slash included.
    before: Arc<str>,
    /// Where the model stands in the layout.
    model: usize,
}

/// What stands in place of the operation where a message has several events.
pub(crate) const BATCH: &str = "batch";

/// The first levels below the prefix that are the framework's own.
const OWN: [&str; 2] = ["dlq", "_"];

impl Topics {
    /// With this prefix and layout.
    #[must_use]
    pub fn new(prefix: TopicPrefix, layout: Layout) -> Self {
        let model = layout.0.iter().position(Layout::is_model).unwrap_or_default();
        let mut before = String::new();
        for level in &layout.0[..model] {
            match level {
                Level::Text(text) => before.push_str(text),
                _ => before.push_str(prefix.as_str()),
            }
            before.push('/');
        }
        Self { prefix, layout, before: before.into(), model }
    }

    /// The prefix.
    #[must_use]
    pub fn prefix(&self) -> &TopicPrefix {
        &self.prefix
    }

    /// The layout.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The topic of one model's operation, or that of an event, which has none.
    #[must_use]
    pub fn topic(&self, model: &ModelTopic, operation: Operation) -> Topic {
        let mut topic = self.with_model(model);
        for level in self.behind(model) {
            topic.push('/');
            topic.push_str(match level {
                Level::Text(text) => text,
                Level::PastTense => operation.past_tense(),
                _ => operation.as_str(),
            });
        }
        Topic(topic.into())
    }

    /// The topic of several events of one model in one message: what tells the operation is `batch`. That
    /// of an event, which has none, stays as it is.
    #[must_use]
    pub fn batch(&self, model: &ModelTopic) -> Topic {
        let mut topic = self.with_model(model);
        for level in self.behind(model) {
            topic.push('/');
            topic.push_str(match level {
                Level::Text(text) => text,
                _ => BATCH,
            });
        }
        Topic(topic.into())
    }

    /// The filter for everything of one model: what tells the operation is a wildcard. That of an event
    /// is its topic.
    #[must_use]
    pub fn model_filter(&self, model: &ModelTopic) -> TopicFilter {
        let mut filter = self.with_model(model);
        let mut behind = self.behind(model).peekable();
        while let Some(level) = behind.next() {
            filter.push('/');
            filter.push_str(match level {
                Level::Text(text) => text,
                _ if behind.peek().is_none() => "#",
                _ => "+",
            });
        }
        TopicFilter(filter.into())
    }

    /// The levels behind a model, or behind an event.
    fn behind(&self, model: &ModelTopic) -> impl Iterator<Item = &Level> {
        let (levels, event) = (&self.layout.0[self.model + 1..], model.is_event());
        levels.iter().filter(move |level| !event || matches!(level, Level::Text(_)))
    }

    fn with_model(&self, model: &ModelTopic) -> String {
        let mut text = self.before.to_string();
        match self.layout.0[self.model] {
            Level::ModelLower => text.push_str(&model.as_str().to_ascii_lowercase()),
            _ => text.push_str(model.as_str()),
        }
        text
    }

    /// The model's levels of a received topic, and what it tells of the operation, if it has this
    /// layout. Neither part is validated further.
    #[must_use]
    pub fn read<'t>(&self, topic: &'t str) -> Option<(&'t str, Said<'t>)> {
        let mut rest = topic.strip_prefix(&*self.before)?;
        let mut said = Said::Nothing;
        for level in self.layout.0[self.model + 1..].iter().rev() {
            let (left, last) = rest.rsplit_once('/')?;
            rest = left;
            match level {
                Level::Text(text) if **text == *last => {}
                Level::Text(_) => return None,
                Level::PastTense => said = Said::of(last, Operation::from_past_tense),
                _ => said = Said::of(last, Operation::from_name),
            }
        }
        let empty = rest.is_empty() || matches!(said, Said::Other(""));
        (!empty).then_some((rest, said))
    }

    /// The levels of an event that is no row, of a received topic that has this layout but for what tells
    /// the operation. They are not validated further.
    #[must_use]
    pub fn read_event<'t>(&self, topic: &'t str) -> Option<&'t str> {
        let mut levels = topic.strip_prefix(&*self.before)?;
        for level in self.layout.0[self.model + 1..].iter().rev() {
            if let Level::Text(text) = level {
                levels = levels.strip_suffix(&**text)?.strip_suffix('/')?;
            }
        }
        (!levels.is_empty()).then_some(levels)
    }

    /// Whether something of one could be taken for something of the other, upper and lower case not told
    /// apart. An event may lie below a model, as `projects/status_changed` below `projects`, where its last
    /// level means no operation.
    #[must_use]
    pub fn clash(&self, one: &ModelTopic, other: &ModelTopic) -> bool {
        let (event, model) = match (one.is_event(), other.is_event()) {
            (false, false) => return one.overlaps(other),
            (true, true) => return one.as_str().eq_ignore_ascii_case(other.as_str()),
            (true, false) => (one, other),
            (false, true) => (other, one),
        };
        // Of an event, every operation has the same topic.
        let topic = self.topic(event, Operation::Create);
        let of_model = |(levels, said): (&str, Said<'_>)| {
            levels.eq_ignore_ascii_case(model.as_str()) && !said.is_unknown()
        };
        self.read(topic.as_str()).is_some_and(of_model)
    }

    /// Whether a model's topics would lie among the framework's own, or those of the broker.
    #[must_use]
    pub fn is_own(&self, model: &ModelTopic) -> bool {
        let text = self.with_model(model);
        let below = text.strip_prefix(self.prefix.as_str()).and_then(|rest| rest.strip_prefix('/'));
        let first = below.and_then(|rest| rest.split('/').next());
        let within = first.is_some_and(Self::is_own_level);
        // Where the model's own levels are few, all of these may lie below it. Their last level may be what the
        // layout has there.
        let filter = self.model_filter(model);
        let last = filter.as_str().rsplit('/').next().filter(|last| *last != "#").unwrap_or("x");
        within
            || ["dlq", "_nodes", "_canary", "_replay"]
                .iter()
                .any(|own| filter.matches(self.own(&[own, last]).as_str()))
    }

    /// The filter for everything that may be an event: all below the prefix, or below the first levels of a
    /// layout that has others.
    #[must_use]
    pub fn everything(&self) -> TopicFilter {
        match self.layout.0.first() {
            Some(Level::Prefix) => TopicFilter(format!("{}/#", self.prefix.as_str()).into()),
            _ => TopicFilter(format!("{}#", self.before).into()),
        }
    }

    /// Whether a topic is one of the framework's own, such as those of dead letters and of nodes.
    #[must_use]
    pub fn is_own_topic(&self, topic: &str) -> bool {
        let below = topic.strip_prefix(self.prefix.as_str()).and_then(|rest| rest.strip_prefix('/'));
        below.is_some_and(|below| Self::is_own_level(below.split('/').next().unwrap_or_default()))
    }

    /// Whether the first level below the prefix is the framework's own.
    fn is_own_level(first: &str) -> bool {
        first == OWN[0] || first.starts_with(OWN[1])
    }

    /// The topic of this node's own that has these levels below the prefix.
    #[must_use]
    pub(crate) fn own(&self, levels: &[&str]) -> Topic {
        Topic([self.prefix.as_str(), &levels.join("/")].join("/").into())
    }

    /// Where what came on a topic goes as a dead letter: `{prefix}/dlq/{topic with / as _}`. Wildcards and
    /// control characters, of which a broker lets none through, become `_`, too.
    #[must_use]
    pub fn dead_letters(&self, original: &str) -> Topic {
        let unfit = |c: char| matches!(c, '/' | '+' | '#') || c.is_control() || c.is_whitespace();
        let mut flat = original.replace(unfit, "_");
        flat.truncate(flat.floor_char_boundary(MAX_DEAD_LETTER_BYTES));
        self.own(&["dlq", &flat])
    }
}

/// Longer topics are cut off in that of their dead letters, which carry the whole one.
const MAX_DEAD_LETTER_BYTES: usize = 1_024;

/// What a topic tells of the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'t> {
    /// Its layout tells nothing.
    Nothing,
    /// This one.
    This(Operation),
    /// A word that is no operation, such as the `all` of the npm package.
    Other(&'t str),
}

impl<'t> Said<'t> {
    fn of(word: &'t str, operation: impl FnOnce(&str) -> Option<Operation>) -> Self {
        operation(word).map_or(Self::Other(word), Self::This)
    }

    /// Whether it is a word that means nothing: neither an operation, in whichever naming, nor a batch, nor
    /// the `all` of the npm package.
    #[must_use]
    pub fn is_unknown(self) -> bool {
        let Self::Other(word) = self else { return false };
        let word = word.to_ascii_lowercase();
        let names = |operation: Operation| {
            word.eq_ignore_ascii_case(operation.as_str()) || word == operation.past_tense()
        };
        word != "all" && word != BATCH && !Operation::ALL.into_iter().any(names)
    }
}

impl Default for Topics {
    /// With the prefix and the layout that are the defaults.
    fn default() -> Self {
        Self::new(TopicPrefix::default(), Layout::default())
    }
}
