//! A visit over server-sent events, as the [HTML standard] has them.
//!
//! [HTML standard]: https://html.spec.whatwg.org/multipage/server-sent-events.html

use std::convert::Infallible;
use std::fmt::Write as _;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;

use super::hub::{Told, Visit};

/// The answer that does not end.
///
/// A visitor that does not read holds up nothing but itself: what is not sent is not made. It is dropped by the server's
/// own time-outs, or when its visit is over.
pub(super) fn answer<V: Send + Sync + 'static>(visit: Visit<V>) -> Response {
    let mut first = String::new();
    if let Some(cursor) = visit.whereabouts() {
        let hello = super::note("hello", cursor, visit.hub.config.heartbeat);
        let _ = write!(first, "event: hello\nid: {cursor}\ndata: {hello}\n\n");
    }
    let frames = stream::unfold((Some(visit), first), |(visit, first)| async move {
        if !first.is_empty() {
            return Some((frame(first), (visit, String::new())));
        }
        let mut visit = visit?;
        let mut text = String::new();
        let visit = match visit.next().await {
            Told::Events(items) => {
                for item in items {
                    let _ = write!(text, "id: {}\ndata: {}\n\n", item.after, item.text);
                }
                Some(visit)
            }
            // Without data nothing is dispatched, and the page's cursor goes on all the same.
            Told::Heartbeat(cursor) => {
                let _ = write!(text, ": heartbeat\nid: {cursor}\n\n");
                Some(visit)
            }
            Told::Reload(cursor) => {
                let note = super::note("reload", cursor, visit.hub.config.heartbeat);
                let _ = write!(text, "event: reload\nid: {cursor}\ndata: {note}\n\n");
                Some(visit)
            }
            Told::Over => return None,
        };
        Some((frame(text), (visit, String::new())))
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    // nginx gathers answers otherwise.
    (headers, [("x-accel-buffering", "no")], Body::from_stream(frames)).into_response()
}

fn frame(text: String) -> Result<Bytes, Infallible> {
    Ok(text.into())
}
