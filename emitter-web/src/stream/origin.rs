//! From where a page may read.
//!
//! A browser sends the cookies of your application with every request to it, whichever page makes it, and lets each
//! page open a WebSocket to anywhere: so who may is asked by the page's origin ([RFC 6454]), which a browser always
//! says. What says none is no browser, and has no cookies that are not its own.
//!
//! [RFC 6454]: https://www.rfc-editor.org/rfc/rfc6454

use axum::http::header::{HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue};

/// What becomes of a request by its origin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// It is of this application, or of no page.
    Own,
    /// It is of another application that may read.
    Friend(HeaderValue),
    Foreign,
}

/// Asks a request from where it comes. `host` is whom it asks, and `friends` are origins, such as
/// `https://app.example.com`.
pub(crate) fn page(headers: &HeaderMap, host: Option<&str>, friends: &[String]) -> Page {
    let Some(origin) = headers.get(ORIGIN) else {
        // Browsers say no origin for what a page cannot read, such as an image, and it would take up a place all the
        // same; newer ones say so.
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        return if matches!(site, None | Some(b"same-origin" | b"none")) { Page::Own } else { Page::Foreign };
    };
    let Ok(text) = origin.to_str() else { return Page::Foreign };
    if friends.iter().any(|friend| friend.trim_end_matches('/').eq_ignore_ascii_case(text)) {
        return Page::Friend(origin.clone());
    }
    let of = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match (of, host) {
        (Some(of), Some(host)) if of.eq_ignore_ascii_case(host) => Page::Own,
        _ => Page::Foreign,
    }
}

/// Whom a request asks: with HTTP/2 its address says so.
pub(crate) fn host(parts: &Parts) -> Option<String> {
    let said = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    said.or_else(|| parts.uri.authority().map(Authority::as_str)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, Request};

    use super::*;

    fn asked(origin: Option<&'static str>) -> Page {
        let mut headers = HeaderMap::new();
        origin.map(|origin| headers.insert(ORIGIN, HeaderValue::from_static(origin)));
        page(&headers, Some("shop.example:8443"), &["https://app.example/".to_owned()])
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

    #[test]
    fn what_a_foreign_page_loads_without_an_origin_is_its_own_too() {
        for (site, expected) in [
            ("same-origin", Page::Own),
            ("none", Page::Own),
            ("same-site", Page::Foreign),
            ("cross-site", Page::Foreign),
        ] {
            let headers = HeaderMap::from_iter([(
                HeaderName::from_static("sec-fetch-site"),
                HeaderValue::from_static(site),
            )]);
            assert_eq!(page(&headers, Some("shop.example"), &[]), expected, "{site}");
        }
    }

    #[test]
    fn whom_a_request_asks() {
        let asked = |host: Option<&str>, uri: &str| {
            let mut request = Request::builder().uri(uri);
            if let Some(host) = host {
                request = request.header(HOST, host);
            }
            super::host(&request.body(()).unwrap().into_parts().0)
        };
        assert_eq!(asked(Some("a.example"), "/events").as_deref(), Some("a.example"));
        assert_eq!(asked(None, "https://b.example:1/events").as_deref(), Some("b.example:1"));
        assert_eq!(asked(None, "/events"), None);
    }
}
