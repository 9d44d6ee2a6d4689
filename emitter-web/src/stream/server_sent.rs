//! A visit over server-sent events, as the [HTML standard] has them.
//!
//! [HTML standard]: https://html.spec.whatwg.org/multipage/server-sent-events.html

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;

use super::hub::{Told, Visit};

/// The answer that does not end.
///
/// Its visit is a task of its own, as a WebSocket's is, for a server asks an answer for more only when it can send
/// more: nobody else would notice a visitor that does not read. The task ends with the visit, which
/// [`Stream::close`](super::Stream::close) waits for.
pub(super) fn answer<V: Send + Sync + 'static>(visit: Visit<V>) -> Response {
    let (out, frames) = mpsc::channel(1);
    tokio::spawn(attend(out, visit));
    let frames = stream::unfold(frames, async |mut frames| {
        let frame: Bytes = frames.recv().await?;
        Some((Ok::<_, Infallible>(frame), frames))
    });
    // What is compressed on its way is gathered on its way; and nginx gathers answers otherwise.
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store, no-transform")];
    (headers, [("x-accel-buffering", "no")], Body::from_stream(frames)).into_response()
}

/// Tells a visitor of events until one of both ends it.
async fn attend<V>(out: mpsc::Sender<Bytes>, mut visit: Visit<V>) {
    let (heartbeat, patience) = (visit.hub.config.heartbeat, visit.hub.config.patience);
    let mut text = String::new();
    if let Some(cursor) = visit.whereabouts() {
        let hello = super::note("hello", cursor, heartbeat);
        let _ = write!(text, "event: hello\nid: {cursor}\ndata: {hello}\n\n");
    }
    loop {
        if !text.is_empty() {
            match out.send_timeout(std::mem::take(&mut text).into(), patience).await {
                Ok(()) => {}
                Err(SendTimeoutError::Closed(_)) => return,
                Err(SendTimeoutError::Timeout(_)) => {
                    visit.hub.dropped.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
        let told = tokio::select! {
            told = visit.next() => told,
            () = out.closed() => return,
        };
        match told {
            Told::Events(items) => {
                for item in items {
                    let _ = write!(text, "id: {}\ndata: {}\n\n", item.after, item.text);
                }
            }
            // Without data nothing is dispatched, and the page's cursor goes on all the same.
            Told::Heartbeat(cursor) => {
                let _ = write!(text, ": heartbeat\nid: {cursor}\n\n");
            }
            Told::Reload(cursor) => {
                let note = super::note("reload", cursor, heartbeat);
                let _ = write!(text, "event: reload\nid: {cursor}\ndata: {note}\n\n");
            }
            Told::Over => return,
        }
    }
}
