//! What travels beside a payload.

use std::borrow::Cow;

/// What travels beside a payload, as MQTT 5 has it: the content type and user properties.
///
/// MQTT 3.1.1 carries none of it, so nothing that an event needs stands here alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// The payload's media type, such as `application/json`.
    pub content_type: Option<Cow<'static, str>>,
    /// Names and values, in order; a name may stand there twice. On what is received there are at
    /// most [`MOST`](Self::MOST) of them.
    pub user: Vec<(Cow<'static, str>, String)>,
}

impl Properties {
    /// How many user properties of a received message are kept.
    pub const MOST: usize = 64;

    /// How many [bytes](Self::bytes) of a received message's are taken; an event with more is none.
    pub const MOST_BYTES: usize = 16 * 1024;

    /// The content type and nothing else.
    #[must_use]
    pub fn of_type(content_type: &'static str) -> Self {
        Self { content_type: Some(content_type.into()), user: Vec::new() }
    }

    /// The same with one more user property.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.user.push((name.into(), value.into()));
        self
    }

    /// The first value of this user property.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.user.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.content_type.is_none() && self.user.is_empty()
    }

    /// How many bytes it has in a packet of MQTT 5: its texts, and what stands before each.
    #[must_use]
    pub fn bytes(&self) -> usize {
        // One for what it is, two for the length of each text.
        let user: usize = self.user.iter().map(|(name, value)| 5 + name.len() + value.len()).sum();
        self.content_type.as_ref().map_or(0, |text| 3 + text.len()) + user
    }
}
