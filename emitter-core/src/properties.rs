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

    /// The user properties as a JSON list of pairs, and the content type, where there is one, as the first of
    /// them with an empty name: for a table that keeps them.
    #[must_use]
    pub fn to_json(&self) -> String {
        let content_type = self.content_type.as_ref().map(|content_type| ("", &**content_type));
        let user = self.user.iter().map(|(name, value)| (&**name, &**value));
        let all: Vec<(&str, &str)> = content_type.into_iter().chain(user).collect();
        // Texts can always be written.
        serde_json::to_string(&all).unwrap_or_default()
    }

    /// Reads what [`to_json`](Self::to_json) wrote; `None` of anything else.
    #[must_use]
    pub fn from_json(text: &str) -> Option<Self> {
        let mut all: Vec<(String, String)> = serde_json::from_str(text).ok()?;
        let has_type = all.first().is_some_and(|(name, _)| name.is_empty());
        let content_type = has_type.then(|| all.remove(0).1.into());
        let user = all.into_iter().map(|(name, value)| (name.into(), value)).collect();
        Some(Self { content_type, user })
    }

    /// How many bytes it has in a packet of MQTT 5: its texts, and what stands before each.
    #[must_use]
    pub fn bytes(&self) -> usize {
        // One for what it is, two for the length of each text.
        let user: usize = self.user.iter().map(|(name, value)| 5 + name.len() + value.len()).sum();
        self.content_type.as_ref().map_or(0, |text| 3 + text.len()) + user
    }
}
