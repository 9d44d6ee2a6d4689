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

/// Whom a request asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Host {
    name: Option<String>,
    /// That it came by TLS, as the request or the proxy before it says; else nobody knows.
    pub(crate) is_https: bool,
}

impl Host {
    pub(crate) fn of(parts: &Parts) -> Self {
        let said = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        // With HTTP/2 its address says so.
        let name = said.or_else(|| parts.uri.authority().map(Authority::as_str)).map(str::to_owned);
        let forwarded = parts.headers.get("x-forwarded-proto").and_then(|schemes| schemes.to_str().ok());
        // Of several proxies the first was asked by the browser.
        let forwarded = forwarded.and_then(|schemes| schemes.split(',').next());
        let scheme = forwarded.map(str::trim).or(parts.uri.scheme_str());
        Self { name, is_https: scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) }
    }
}

/// Asks a request from where it comes. `host` is whom it asks, and `friends` are origins, such as
/// `https://app.example.com`.
pub(crate) fn page(headers: &HeaderMap, host: &Host, friends: &[String]) -> Page {
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
    // What is asked by TLS is no page's own that came without: that one may be anybody's on the way.
    let without = || text.strip_prefix("http://").filter(|_| !host.is_https);
    match (text.strip_prefix("https://").or_else(without), &host.name) {
        (Some(of), Some(host)) if of.eq_ignore_ascii_case(host) => Page::Own,
        _ => Page::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, Request};

    use super::*;

    fn host(name: &str, is_https: bool) -> Host {
        Host { name: Some(name.to_owned()), is_https }
    }

    fn asked(origin: Option<&'static str>) -> Page {
        let mut headers = HeaderMap::new();
        origin.map(|origin| headers.insert(ORIGIN, HeaderValue::from_static(origin)));
        page(&headers, &host("shop.example:8443", false), &["https://app.example/".to_owned()])
    }

    #[test]
    fn who_asks_by_tls_comes_from_a_page_that_did() {
        let asked = |origin, is_https| {
            let headers = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(origin))]);
            page(&headers, &host("shop.example", is_https), &[])
        };
        assert_eq!(asked("https://shop.example", true), Page::Own);
        assert_eq!(asked("http://shop.example", true), Page::Foreign);
        // A proxy may have taken TLS off, and not said so.
        assert_eq!(asked("https://shop.example", false), Page::Own);
        assert_eq!(asked("http://shop.example", false), Page::Own);
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
            assert_eq!(page(&headers, &host("shop.example", false), &[]), expected, "{site}");
        }
    }

    #[test]
    fn whom_a_request_asks() {
        let asked = |headers: &[(&str, &str)], uri: &str| {
            let request = headers
                .iter()
                .fold(Request::builder().uri(uri), |request, (name, value)| request.header(*name, *value));
            Host::of(&request.body(()).unwrap().into_parts().0)
        };
        assert_eq!(asked(&[("host", "a.example")], "/events"), host("a.example", false));
        assert_eq!(asked(&[], "https://b.example:1/events"), host("b.example:1", true));
        assert_eq!(asked(&[], "http://b.example:1/events"), host("b.example:1", false));
        assert_eq!(asked(&[], "/events"), Host::default());
        for (schemes, is_https) in
            [("https", true), ("HTTPS, http", true), ("http, https", false), ("", false)]
        {
            let headers = [("host", "a.example"), ("x-forwarded-proto", schemes)];
            assert_eq!(asked(&headers, "/events"), host("a.example", is_https), "{schemes}");
        }
    }
}
