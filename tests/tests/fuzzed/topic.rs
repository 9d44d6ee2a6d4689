//! Topics of any prefix, layout and models: what is made of them is valid, and read again as what it was made of.

use arbitrary::Arbitrary;
use emitter_core::Operation;
use emitter_core::topic::{
    Layout, MAX_LAYOUT_BYTES, MAX_MODEL_BYTES, MAX_PREFIX_BYTES, ModelTopic, Said, TopicFilter, TopicPrefix,
    Topics,
};

#[derive(Debug, Arbitrary)]
pub(crate) struct Input<'a> {
    operation: u8,
    prefix: Text<'a>,
    layout: Text<'a>,
    model: Text<'a>,
    other: Text<'a>,
    /// A topic as it comes.
    topic: Text<'a>,
}

#[derive(Debug, Arbitrary)]
enum Text<'a> {
    /// Made of [`LEVELS`]: of other texts few are layouts, and few of their topics are near each other.
    Levels(Vec<u8>),
    Any(&'a str),
}

/// The corpus names them by their place.
const LEVELS: &str = concat!(
    "{prefix}|{model}|{model_lower}|{operation}|{past_tense}|a|A|b|user|User|users|dlq|_|_nodes|_canary|",
    "x|create|updateMany|deleted_many|all|prisma|events|$||+|#|a b|{a}|é|ß|a_b|shop.a",
);

impl Input<'_> {
    pub(crate) fn check(&self) {
        let Self { operation, prefix, layout, model, other, topic } = self;
        let [prefix, layout, model, other, topic] = [prefix, layout, model, other, topic].map(Text::written);
        let (prefix, model, other) = (self::prefix(&prefix), self::model(&model), self::model(&other));
        let operation = Operation::ALL[usize::from(*operation) % Operation::ALL.len()];
        if let Some(made) = self::layout(&layout) {
            let topics = Topics::new(prefix.unwrap_or_default(), made);
            Check { topics, layout, topic, operation }.check(model, other);
        }
    }
}

impl Text<'_> {
    fn written(&self) -> String {
        match self {
            Self::Levels(places) => {
                let known: Vec<&str> = LEVELS.split('|').collect();
                let levels = places.iter().map(|place| known[usize::from(*place) % known.len()]);
                levels.collect::<Vec<_>>().join("/")
            }
            Self::Any(text) => (*text).to_owned(),
        }
    }
}

/// What is looked at.
struct Check {
    topics: Topics,
    /// As it is written.
    layout: String,
    /// As it comes.
    topic: String,
    operation: Operation,
}

impl Check {
    fn check(&self, model: Option<ModelTopic>, other: Option<ModelTopic>) {
        self.dead_letters();
        self.reading();
        let Some(model) = model else { return };
        self.round_trip(&model);
        self.own(&model);
        if let Some(other) = other {
            self.apart(&model, &other);
        }
    }

    fn round_trip(&self, model: &ModelTopic) {
        let topic = self.topics.topic(model, self.operation);
        let text = topic.as_str();
        assert!(levels_are_good(text) && text.len() < 65_536, "{topic}");
        let tells = self.layout.contains("{operation}") || self.layout.contains("{past_tense}");
        let said = if tells { Said::This(self.operation) } else { Said::Nothing };
        assert_eq!(self.topics.read(text), Some((&*self.as_published(model.as_str()), said)));
        assert!(self.topics.model_filter(model).matches(text));
        assert!(TopicFilter::of(&topic).matches(text));
        assert_eq!(TopicFilter::of(&topic).matches(&self.topic), text == self.topic);
    }

    /// What is read of a topic of somebody else's is what it would be made of.
    fn reading(&self) {
        let Some((levels, said)) = self.topics.read(&self.topic) else { return };
        assert!(!levels.is_empty() && said != Said::Other(""), "half a topic");
        let Ok(model) = ModelTopic::new(levels) else { return };
        // A layout in lower case makes no topic of another, but reads one.
        if levels != self.as_published(levels) {
            return;
        }
        assert!(self.topics.model_filter(&model).matches(&self.topic), "what is read is subscribed to");
        let made = |operation| self.topics.topic(&model, operation);
        match said {
            Said::This(operation) => assert_eq!(made(operation).as_str(), self.topic),
            Said::Nothing => assert_eq!(made(Operation::Create).as_str(), self.topic),
            Said::Other(word) => {
                assert!(
                    Operation::ALL.into_iter().all(|operation| made(operation).as_str() != self.topic),
                    "{word}"
                );
            }
        }
    }

    fn dead_letters(&self) {
        let topic = self.topics.dead_letters(&self.topic);
        let below = topic.as_str().strip_prefix(self.topics.prefix().as_str());
        let level = below.and_then(|rest| rest.strip_prefix("/dlq/")).expect("it is below the prefix");
        assert!(!level.contains('/') && (level.is_empty() || levels_are_good(topic.as_str())), "{topic}");
        assert!(topic.as_str().len() < 2_048, "{topic}");
    }

    /// Who subscribes to a model gets none of what the framework says about itself.
    fn own(&self, model: &ModelTopic) {
        if !self.topics.is_own(model) {
            let letters = self.topics.dead_letters(&self.topic);
            assert!(!self.topics.model_filter(model).matches(letters.as_str()), "{letters}");
        }
    }

    /// Who subscribes to the one is not sent the other, unless they overlap.
    fn apart(&self, model: &ModelTopic, other: &ModelTopic) {
        assert_eq!(model.overlaps(other), other.overlaps(model));
        let topic = self.topics.topic(other, self.operation);
        if !model.overlaps(other) {
            assert!(!self.topics.model_filter(model).matches(topic.as_str()), "{topic}");
        }
    }

    fn as_published(&self, levels: &str) -> String {
        if self.layout.contains("{model_lower}") { levels.to_ascii_lowercase() } else { levels.to_owned() }
    }
}

fn prefix(text: &str) -> Option<TopicPrefix> {
    let prefix = TopicPrefix::new(text);
    assert_eq!(prefix.is_ok(), text.len() <= MAX_PREFIX_BYTES && levels_are_good(text));
    let prefix = prefix.ok()?;
    assert_eq!(prefix.as_str(), text);
    Some(prefix)
}

fn model(text: &str) -> Option<ModelTopic> {
    let model = ModelTopic::new(text);
    assert_eq!(model.is_ok(), text.len() <= MAX_MODEL_BYTES && levels_are_good(text));
    let model = model.ok()?;
    assert_eq!(model.as_str(), text);
    assert!(model.overlaps(&model));
    Some(model)
}

fn layout(text: &str) -> Option<Layout> {
    let layout = text.parse::<Layout>();
    assert_eq!(layout.is_ok(), text.len() <= MAX_LAYOUT_BYTES && layout_is_good(text));
    let layout = layout.ok()?;
    assert_eq!(layout.to_string(), text);
    assert_eq!(text.parse(), Ok(layout.clone()));
    Some(layout)
}

/// As MQTT has it, and a little stricter: what client libraries let through and brokers hang up at is no topic.
fn levels_are_good(text: &str) -> bool {
    let good = |c: char| !"+#".contains(c) && !c.is_control() && !c.is_whitespace();
    !text.starts_with('$') && text.split('/').all(|level| !level.is_empty() && level.chars().all(good))
}

fn layout_is_good(text: &str) -> bool {
    let levels: Vec<&str> = text.split('/').collect();
    let places = |wanted: &[&str]| -> Vec<usize> {
        (0..levels.len()).filter(|place| wanted.contains(&levels[*place])).collect()
    };
    let [models, operations, prefixes] =
        [&["{model}", "{model_lower}"][..], &["{operation}", "{past_tense}"], &["{prefix}"]].map(places);
    let placeholders = models.len() + operations.len() + prefixes.len();
    let texts = levels.iter().filter(|level| !level.contains(['{', '}'])).count();
    levels_are_good(text)
        && placeholders + texts == levels.len()
        && matches!(models[..], [model] if operations.iter().all(|operation| *operation > model))
        && operations.len() < 2
        && prefixes.iter().all(|place| *place == 0)
}
