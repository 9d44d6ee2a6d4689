//! Which events a visitor wants.

use serde::Deserialize;

/// How many names a visitor may say of each kind, and how long they may be.
const MAX_NAMES: usize = 100;
const MAX_NAME_BYTES: usize = 256;

/// What a visitor wants to be told: events of these models, of these kinds, of rows with these keys. Where none is
/// said, all are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Selection {
    models: Vec<String>,
    kinds: Vec<String>,
    keys: Vec<String>,
}

impl Selection {
    /// As a query says it: `model=user&model=order&kind=user_created&key=42`. Other names are left alone.
    pub(super) fn of_query(query: &[(String, String)]) -> Option<Self> {
        let all = |name| query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.clone());
        let selection =
            Self { models: all("model").collect(), kinds: all("kind").collect(), keys: all("key").collect() };
        selection.checked()
    }

    /// As a message says it: `{"models":["user"],"kinds":[],"keys":["42"]}`.
    pub(super) fn of_message(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Message {
            select: Selection,
        }
        serde_json::from_str::<Message>(text).ok()?.select.checked()
    }

    /// Unless it says too much.
    fn checked(self) -> Option<Self> {
        let fits = |names: &Vec<String>| {
            names.len() <= MAX_NAMES && names.iter().all(|name| name.len() <= MAX_NAME_BYTES)
        };
        let all = fits(&self.models) && fits(&self.kinds) && fits(&self.keys);
        all.then_some(self)
    }

    /// Whether an event is wanted. Its `keys` are in order: of a bulk event they may be many, and visitors too.
    pub(super) fn has(&self, model: &str, kind: &str, keys: &[String]) -> bool {
        let said = |names: &[String], name: &str| names.is_empty() || names.iter().any(|known| known == name);
        said(&self.models, model)
            && said(&self.kinds, kind)
            && (self.keys.is_empty() || self.keys.iter().any(|key| keys.binary_search(key).is_ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Option<Selection> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Selection::of_query(&pairs.collect::<Vec<_>>())
    }

    #[test]
    fn what_is_not_said_is_all() {
        let keys = ["42".to_owned(), "43".to_owned()];
        let all = query(&[("cursor", "x")]).unwrap();
        assert!(all.has("user", "user_created", &keys) && all.has("user", "user_created", &[]));
        let some = query(&[("model", "user"), ("model", "order"), ("key", "43")]).unwrap();
        assert!(some.has("order", "order_created", &keys));
        assert!(!some.has("order", "order_created", &[]) && !some.has("tag", "tag_created", &keys));
        assert!(!query(&[("kind", "user_updated")]).unwrap().has("user", "user_created", &keys));
    }

    #[test]
    fn a_message_says_the_same() {
        let said = Selection::of_message(r#"{"select":{"models":["user"],"keys":["1"]}}"#);
        assert_eq!(said, query(&[("model", "user"), ("key", "1")]));
        for wrong in ["", "{}", "[]", r#"{"select":{"tables":[]}}"#, r#"{"select":{"keys":[1]}}"#] {
            assert_eq!(Selection::of_message(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn it_is_bounded() {
        let many = vec![("key".to_owned(), "1".to_owned()); MAX_NAMES + 1];
        assert_eq!(Selection::of_query(&many), None);
        assert!(Selection::of_query(&many[1..]).is_some());
        assert_eq!(query(&[("kind", &"x".repeat(MAX_NAME_BYTES + 1))]), None);
    }
}
