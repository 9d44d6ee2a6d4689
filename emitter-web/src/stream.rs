//! Events for pages: over WebSockets and as server-sent events.
//!
//! What an application writes is shown [one level up](crate).
//!
//! | route | |
//! |---|---|
//! | `/ws/events` | a WebSocket: one text for each event |
//! | `/events` | server-sent events, for an `EventSource` |
//! | `/events/client.js`, `/events/client.d.ts` | a client of no dependencies, and its types |
//!
//! Both streams take `?model=order&kind=order_created&key=42`, each as often as needed, for less than all events; a page
//! with a WebSocket may change that by sending `{"select":{"models":["order"],"keys":["42"]}}`. Events come as
//! [`plain`](emitter_core::plain) JSON, of every node, in order per key, as this node's listeners get them: each
//! once, and only what listeners may see. What somebody replays is not told: it is older than what pages show.
//!
//! **In a page:**
//!
//! ```html
//! <script type="module">
//!   import { EventStream } from "/events/client.js";
//!   const stream = new EventStream("/", { select: { models: ["order"] }, cursor: document.body.dataset.cursor });
//!   stream.subscribe("order_updated", ({ payload, before }) => show(payload));
//! </script>
//! ```
//!
//! **Resuming.** Each event has a member `cursor`; `?cursor=` behind the address, or an `EventSource`'s own `Last-Event-ID`, goes
//! on right after it. Hand the first one to the page: [`Stream::cursor`], asked *before* what the page shows is read from
//! the database; so nothing is missing between the two. Where this node does not have all that came since (it keeps
//! some thousand events, until it is restarted; and another node knows nothing of its cursors), the page is told to load
//! anew what it shows: `{"stream":"reload","cursor":…}`, and a WebSocket is closed with [`MUST_RELOAD`]; what comes next is
//! behind that cursor. So a page never misses what this node heard without being told. Behind a load balancer let a
//! client come back to the same node, or its page reloads more often.
//!
//! **Slow visitors** have no queue here: all read from the same few thousand events. Whoever takes nothing for
//! [`patience`](StreamConfig::patience), or answers no heartbeat, is dropped; who is behind by more than is kept is told to
//! reload. Others do not notice. The connection is ended with the visit. (By HTTP/2 server-sent events have none of their own: what
//! was sent in vain stays with the server until the visitor's connection ends, and the visitor has its place until then. A time-out
//! for sending, of the server or the proxy before it, ends that.)
//!
//! **Who may.** The extractor `V` says who it is, or refuses, before anything is told; so does whatever it takes long for,
//! such as a question to a database. What it returns lives as long as the visit: a permit in it bounds how many visits
//! one user, or one address, has at a time. For each event a function of yours is asked, with that visitor; what changes
//! meanwhile, such as a session that ends, it reads from what your application shares. Pages of other origins are
//! refused, unless [`origins`](StreamConfig::origins) names them.
//!
//! **The end.** When the emitter is shut down, or [`Stream::close`] is called, WebSockets are closed with 1012 and other
//! answers end; pages come again, and go on or are told to reload. An `EventSource` gives up at an answer that is
//! no success, such as a 503 in between; the client of this crate does not.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use builder::Subscriptions;
pub use builder::{StreamBuilder, StreamError};
use cursor::Cursor;
use hub::{Hub, Visit};
use origin::Page;
use request::{Asked, Friend, Refusal};
use selection::Selection;

mod builder;
mod cursor;
mod hub;
pub(crate) mod origin;
mod request;
mod ring;
mod selection;
mod server_sent;
mod web_socket;

/// With this code a WebSocket is closed when its page has to load anew what it shows, for events are missing between
/// its cursor and now. One of those that [RFC 6455] leaves to applications.
///
/// [RFC 6455]: https://www.rfc-editor.org/rfc/rfc6455#section-7.4.2
pub const MUST_RELOAD: u16 = 4000;

const RELOAD_REASON: &str = "events are missing since the cursor: load anew";

const CLIENT: &str = include_str!("../js/client.js");
const CLIENT_TYPES: &str = include_str!("../js/client.d.ts");

/// A script, for whoever asks, and for pages of others, too.
fn script(text: &'static str, media_type: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, media_type),
        (CACHE_CONTROL, "public, max-age=3600"),
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, text).into_response()
}

/// A note of the stream itself.
fn note(name: &str, cursor: Cursor, heartbeat: Duration) -> String {
    let heartbeat = heartbeat.as_millis();
    format!("{{\"stream\":\"{name}\",\"cursor\":\"{cursor}\",\"heartbeat\":{heartbeat}}}")
}

/// Bounds of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// How many visitors may be there at a time; others are answered 503. Beside what the system has for a connection, a
    /// WebSocket has buffers of 20 KiB, and a copy of the event that it is being sent; server-sent events have 100 KiB at most,
    /// and no copy of an event of more than 2 KiB. Default 10,000.
    pub max_visitors: usize,
    /// How many events are kept for who comes back, at least one. Default 10,000.
    pub keep_events: usize,
    /// How many bytes of them, about. An event that is larger alone is told to nobody: everybody reloads. Default 16 MiB.
    pub keep_bytes: usize,
    /// After how long a heartbeat comes, again and again, at least 10 ms. A WebSocket that has answered none of two is
    /// dropped. Default 15 s.
    pub heartbeat: Duration,
    /// How long a visitor may take none of what it is sent. Default 10 s.
    pub patience: Duration,
    /// How long a visit may take; then the page comes again, and is asked anew who it is. Default 1 h.
    pub max_visit: Duration,
    /// Other origins whose pages may read, such as `https://app.example.com`. Default: none, so pages of the host that
    /// is asked alone; where it is asked by TLS, as the request or the proxy's `x-forwarded-proto` says, of its `https` pages. Behind a
    /// proxy that changes the `Host`, name your own here.
    pub origins: Vec<String>,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            max_visitors: 10_000,
            keep_events: 10_000,
            keep_bytes: 16 * 1024 * 1024,
            heartbeat: Duration::from_secs(15),
            patience: Duration::from_secs(10),
            max_visit: Duration::from_secs(60 * 60),
            origins: Vec::new(),
        }
    }
}

/// What a stream has done since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamStats {
    /// Visitors that are there.
    pub visitors: usize,
    /// Events told, each counted once for each visitor.
    pub told: u64,
    /// Visitors that were dropped, because they took nothing, or did not answer.
    pub dropped: u64,
    /// Visitors that were told to reload.
    pub reloads: u64,
}

/// A visitor of a stream that everybody may read.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Anybody;

impl<S: Sync> FromRequestParts<S> for Anybody {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self)
    }
}

/// A stream that hears. Cloning it clones a pointer; it hears until the last clone and the last of its routers are dropped.
///
/// `V` is a visitor: what your extractor makes of a request.
pub struct Stream<V> {
    hub: Arc<Hub<V>>,
    heard: Arc<Subscriptions>,
}

impl<V: Send + Sync + 'static> Stream<V> {
    /// A stream that tells of nothing yet.
    pub fn builder() -> StreamBuilder<V> {
        StreamBuilder::new()
    }

    /// The routes, to be merged into your own or nested below a path.
    pub fn router<S>(&self) -> Router<S>
    where
        V: FromRequestParts<S>,
        S: Clone + Send + Sync + 'static,
    {
        let (socket, sent) = (self.clone(), self.clone());
        Router::new()
            // A WebSocket by HTTP/2 is asked for by another method.
            .route(
                "/ws/events",
                any(async move |asked: Asked, visitor: V, upgrade: WebSocketUpgrade| {
                    let (visit, friend) = match socket.let_in(&asked, visitor) {
                        Ok(let_in) => let_in,
                        Err(refusal) => return refusal.into_response(),
                    };
                    let upgrade = web_socket::bounded(upgrade);
                    friend.of(upgrade.on_upgrade(|socket| web_socket::attend(socket, visit)))
                }),
            )
            .route(
                "/events",
                get(async move |asked: Asked, visitor: V| match sent.let_in(&asked, visitor) {
                    Ok((visit, friend)) => friend.of(server_sent::answer(visit)),
                    Err(refusal) => refusal.into_response(),
                }),
            )
            .route("/events/client.js", get(async || script(CLIENT, "text/javascript; charset=utf-8")))
            .route("/events/client.d.ts", get(async || script(CLIENT_TYPES, "text/plain; charset=utf-8")))
    }

    fn let_in(&self, asked: &Asked, visitor: V) -> Result<(Visit<V>, Friend), Refusal> {
        let friend = match asked.page(&self.hub.config.origins) {
            Page::Own => Friend(None),
            Page::Friend(origin) => Friend(Some(origin)),
            Page::Foreign => return Err(Refusal::Foreign),
        };
        let selection = Selection::of_query(&asked.query).ok_or(Refusal::AsksTooMuch)?;
        let visit = self.hub.enter(visitor, selection, asked.cursor()).ok_or(Refusal::Full)?;
        Ok((visit, friend))
    }

    /// Where it is now. Put it into a page, asked *before* what the page shows is read from the database: what comes
    /// later, the page is told, and what came before, it shows. (An event that comes between the two is told, too, and
    /// shows what is shown already.)
    #[must_use]
    pub fn cursor(&self) -> String {
        self.hub.here().to_string()
    }

    /// So many events before where it is now, or as many as it has.
    #[cfg(feature = "dashboard")]
    pub(crate) fn cursor_before(&self, events: u64) -> String {
        self.hub.before(events).to_string()
    }

    /// Sends all visitors away, who come again elsewhere or later, and lets nobody in. Waits until they have gone, at most
    /// for so long; `true` when nobody is left. For the shutdown of a server, which waits for answers that are under
    /// way. When the emitter is shut down, the stream is closed, too, and nobody waits.
    pub async fn close(&self, within: Duration) -> bool {
        self.hub.close();
        tokio::time::timeout(within, self.hub.emptied()).await.is_ok()
    }

    /// What it has done.
    #[must_use]
    pub fn stats(&self) -> StreamStats {
        self.hub.stats()
    }
}

impl<V> Clone for Stream<V> {
    fn clone(&self) -> Self {
        Self { hub: Arc::clone(&self.hub), heard: Arc::clone(&self.heard) }
    }
}

impl<V> fmt::Debug for Stream<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("models", &self.heard.0.len()).finish_non_exhaustive()
    }
}
