//! From where a page may read.
//!
//! A browser sends the cookies of your application with every request to it, whichever page makes it, and lets each
//! page open a WebSocket to anywhere: so who may is asked by the page's origin ([RFC 6454]), which a browser always
//! says. What says none is no browser, and has no cookies that are not its own.
//!
//! [RFC 6454]: https://www.rfc-editor.org/rfc/rfc6454

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue};

/// What becomes of a request by its origin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// It is of this application, or of no page.
    Own,
    /// It is of another application that may read.
    Friend(HeaderValue),
    Foreign,
}

/// Asks a request from where it comes. `friends` are origins, such as `https://app.example.com`.
pub(super) fn page(headers: &HeaderMap, friends: &[String]) -> Page {
    let Some(origin) = headers.get(ORIGIN) else { return Page::Own };
    let Ok(text) = origin.to_str() else { return Page::Foreign };
    if friends.iter().any(|friend| friend.eq_ignore_ascii_case(text)) {
        return Page::Friend(origin.clone());
    }
    let own = headers.get(HOST).and_then(|host| host.to_str().ok());
    let of = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match (of, own) {
        (Some(of), Some(own)) if of.eq_ignore_ascii_case(own) => Page::Own,
        _ => Page::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(origin: Option<&'static str>) -> Page {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("shop.example:8443"));
        origin.map(|origin| headers.insert(ORIGIN, HeaderValue::from_static(origin)));
        page(&headers, &["https://app.example".to_owned()])
    }

    #[test]
    fn own_pages_and_friends_may_read() {
        assert_eq!(asked(None), Page::Own);
        assert_eq!(asked(Some("https://shop.example:8443")), Page::Own);
        assert_eq!(
            asked(Some("https://App.example")),
            Page::Friend(HeaderValue::from_static("https://App.example"))
        );
        for foreign in [
            "https://shop.example",
            "https://evil.example",
            "https://app.example.evil",
            "https://shop.example:8443.evil",
            "null",
            "",
            "file://",
            "shop.example:8443",
        ] {
            assert_eq!(asked(Some(foreign)), Page::Foreign, "{foreign}");
        }
    }
}
