//! What an address or a form says, and addresses that say it.

use std::fmt::Write as _;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};

/// Names and values, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pairs(pub(super) Vec<(String, String)>);

impl Pairs {
    /// The first value of a name that is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(known, value)| known == name && !value.trim().is_empty());
        value.map(|(_, value)| value.trim())
    }

    /// The same as a number.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.parse().ok()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Pairs {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(pairs)| Self(pairs)).map_err(IntoResponse::into_response)
    }
}

/// `?name=value&…`, or nothing.
pub(super) fn written<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut query = String::new();
    for (name, value) in pairs {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        query.push_str(&encoded(&value));
    }
    query
}

/// A text as a part of an address.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_one_value_whatever_it_is() {
        let query = written([("topic", "a/*&reason=\"><script>".to_owned()), ("node", "ä".to_owned())]);
        assert_eq!(query, "?topic=a%2F%2A%26reason%3D%22%3E%3Cscript%3E&node=%C3%A4");
        assert_eq!(written([]), "");
    }

    #[test]
    fn what_is_empty_is_not_said() {
        let pairs = Pairs(vec![("a".to_owned(), " ".to_owned()), ("a".to_owned(), " 7 ".to_owned())]);
        assert_eq!((pairs.get("a"), pairs.number("a"), pairs.get("b")), (Some("7"), Some(7), None));
    }
}
