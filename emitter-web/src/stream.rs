//! Events for pages: over WebSockets and as server-sent events.
//!
//! ```
//! use axum::Router;
//! use axum::extract::FromRequestParts;
//! use axum::http::StatusCode;
//! use axum::http::request::Parts;
//! use emitter_core::{Emits, Emitter};
//! use emitter_web::stream::{Stream, StreamError};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Clone, Serialize, Deserialize, Emits)]
//! #[emits(create, update)]
//! struct Order {
//!     id: i64,
//!     customer: i64,
//! }
//!
//! /// Who is asking: the extractor of your application. Whom it rejects is told of nothing.
//! struct Customer(i64);
//!
//! impl<S: Sync> FromRequestParts<S> for Customer {
//!     type Rejection = StatusCode;
//!
//!     async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
//!         let session = parts.headers.get("cookie"); // …
//!         session.map(|_| Self(7)).ok_or(StatusCode::UNAUTHORIZED)
//!     }
//! }
//!
//! fn app(emitter: &Emitter) -> Result<Router, StreamError> {
//!     let stream = Stream::<Customer>::builder()
//!         // Each sees the events of its own orders.
//!         .events(|customer: &Customer, event: &emitter_core::Event<OrderCreated>| event.row.customer == customer.0)
//!         .start(emitter)?;
//!     Ok(Router::new().merge(stream.router()))
//! }
//! ```
//!
//! | route | |
//! |---|---|
//! | `/ws/events` | a WebSocket: one text for each event |
//! | `/events` | server-sent events, for an `EventSource` |
//! | `/events/client.js`, `/events/client.d.ts` | a client of no dependencies, and its types |
//!
//! Both take `?model=order&kind=order_created&key=42`, each as often as needed, for less than all events; a page with a
//! WebSocket may change that by sending `{"select":{"models":["order"],"keys":["42"]}}`. Events come as
//! [`plain`](emitter_core::plain) JSON, of every node, in order per key, as this node's listeners get them: each
//! once, and only what listeners may see.
//!
//! **Resuming.** Each event has a member `cursor`; `?cursor=` behind the address, or an `EventSource`'s own `Last-Event-ID`, goes
//! on right after it. Where this node does not have all that came since (it keeps some thousand events, until it
//! is restarted; and another node knows nothing of its cursors), the page is told to load anew what it shows:
//! `{"stream":"reload","cursor":…}`, and a WebSocket is closed with [`MUST_RELOAD`]; what comes next is behind that cursor. So a page never misses anything without
//! being told. Behind a load balancer let a client come back to the same node, or its page reloads more often.
//!
//! **Slow visitors** have no queue here. Whoever takes nothing for [`patience`](StreamConfig::patience) is dropped;
//! who is behind by more than is kept is told to reload. Others do not notice.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Query};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE, RETRY_AFTER, VARY,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use emitter_core::model::{EventBody, Model};
use emitter_core::{Emitter, Event, ListenerOptions, Subscription};

use cursor::Cursor;
use hub::{Hub, Visit};
use origin::Page;
use selection::Selection;

mod cursor;
mod hub;
mod origin;
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

/// A note of the stream itself.
fn note(name: &str, cursor: Cursor, heartbeat: Duration) -> String {
    let heartbeat = heartbeat.as_millis();
    format!("{{\"stream\":\"{name}\",\"cursor\":\"{cursor}\",\"heartbeat\":{heartbeat}}}")
}

/// Bounds of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// How many visitors may be there at a time; others are answered 503. Default 10,000.
    pub max_visitors: usize,
    /// How many events are kept for who comes back. Default 10,000.
    pub keep_events: usize,
    /// How many bytes of them. Default 16 MiB.
    pub keep_bytes: usize,
    /// How long nothing is said, before a heartbeat is. Default 15 s.
    pub heartbeat: Duration,
    /// How long a visitor may take none of what it is sent. Default 10 s.
    pub patience: Duration,
    /// How long a visit may take; then the page comes again, and is asked anew who it is. Default 1 h.
    pub max_visit: Duration,
    /// Other origins whose pages may read, such as `https://app.example.com`. Default: none, so pages of the host that
    /// is asked alone. Behind a proxy that changes the `Host`, name your own here.
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
    /// Visitors that were dropped, because they took nothing.
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

/// Why a stream did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The emitter is shut down, or the model's name or topic is another's. The log says which.
    #[error("the stream cannot hear the model `{model}`: see the log")]
    Unheard {
        /// The model.
        model: &'static str,
    },
}

type Begin<V> = Box<dyn FnOnce(&Emitter, &Arc<Hub<V>>) -> Result<Subscription, StreamError> + Send>;

/// A stream that is about to start. See [`Stream::builder`].
#[must_use = "nothing is heard until `.start(&emitter)`"]
pub struct StreamBuilder<V> {
    config: StreamConfig,
    begin: Vec<Begin<V>>,
}

impl<V: Send + Sync + 'static> StreamBuilder<V> {
    /// Bounds. Default: see [`StreamConfig`].
    pub fn config(mut self, config: StreamConfig) -> Self {
        self.config = config;
        self
    }

    /// Tells of these events, which are `T`, such as `OrderEvent` or `OrderCreated`, the visitors of whom `may` says
    /// so. It is asked for each visitor and event, on the visitor's task, and must not block; one that
    /// panics has said no.
    pub fn events<T: EventBody>(self, may: impl Fn(&V, &Event<T>) -> bool + Send + Sync + 'static) -> Self {
        let may = Arc::new(may);
        self.told_of::<T>(move |event| {
            let (may, event) = (Arc::clone(&may), event.clone());
            Some(Box::new(move |visitor| may(visitor, &event)))
        })
    }

    /// Tells all visitors of these events.
    pub fn events_for_all<T: EventBody>(self) -> Self {
        self.told_of::<T>(|_| None)
    }

    fn told_of<T: EventBody>(
        mut self,
        may: impl Fn(&Event<T>) -> Option<hub::May<V>> + Send + Sync + 'static,
    ) -> Self {
        self.begin.push(Box::new(move |emitter, hub| {
            let hub = Arc::clone(hub);
            // It fails where the row's `Serialize` does, and would again.
            let options =
                ListenerOptions { attempts: Some(1), no_dead_letter: true, ..ListenerOptions::default() };
            let listener = emitter.on::<T>().allow_remote().name("stream").options(options);
            let subscription = listener.run(move |event| {
                let told = hub.push(&event, may(&event));
                async move { told }
            });
            if subscription.is_active() {
                Ok(subscription)
            } else {
                Err(StreamError::Unheard { model: T::Model::NAME })
            }
        }));
        self
    }

    /// Begins to hear.
    ///
    /// # Errors
    /// [`StreamError`], which names a model that cannot be heard.
    pub fn start(self, emitter: &Emitter) -> Result<Stream<V>, StreamError> {
        let hub = Arc::new(Hub::new(self.config));
        let mut heard = Subscriptions(Vec::new());
        for begin in self.begin {
            heard.0.push(begin(emitter, &hub)?);
        }
        Ok(Stream { hub, heard: Arc::new(heard) })
    }
}

impl<V> fmt::Debug for StreamBuilder<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A stream that hears. Cloning it clones a pointer; it hears until the last clone and the last of its routers are dropped.
///
/// `V` is a visitor: what your extractor makes of a request.
pub struct Stream<V> {
    hub: Arc<Hub<V>>,
    heard: Arc<Subscriptions>,
}

/// They end with the last who has them.
struct Subscriptions(Vec<Subscription>);

impl Drop for Subscriptions {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Subscription::unsubscribe);
    }
}

impl<V: Send + Sync + 'static> Stream<V> {
    /// A stream that tells of nothing yet.
    pub fn builder() -> StreamBuilder<V> {
        StreamBuilder { config: StreamConfig::default(), begin: Vec::new() }
    }

    /// The routes, to be merged into your own or nested below a path.
    pub fn router<S>(&self) -> Router<S>
    where
        V: FromRequestParts<S>,
        S: Clone + Send + Sync + 'static,
    {
        let (socket, sent) = (self.clone(), self.clone());
        let script = |text: &'static str, media_type: &'static str| {
            get(move || async move { ([(CONTENT_TYPE, media_type)], text) })
        };
        Router::new()
            .route(
                "/ws/events",
                get(async move |asked: Asked, visitor: V, upgrade: WebSocketUpgrade| {
                    let (visit, friend) = match socket.let_in(asked, visitor) {
                        Ok(let_in) => let_in,
                        Err(refusal) => return refusal,
                    };
                    let upgrade = upgrade.max_message_size(web_socket::MAX_MESSAGE_BYTES);
                    friend.of(upgrade.on_upgrade(|socket| web_socket::attend(socket, visit)))
                }),
            )
            .route(
                "/events",
                get(async move |asked: Asked, visitor: V| match sent.let_in(asked, visitor) {
                    Ok((visit, friend)) => friend.of(server_sent::answer(visit)),
                    Err(refusal) => refusal,
                }),
            )
            .route(
                "/events/client.js",
                script(include_str!("../js/client.js"), "text/javascript; charset=utf-8"),
            )
            .route(
                "/events/client.d.ts",
                script(include_str!("../js/client.d.ts"), "text/plain; charset=utf-8"),
            )
    }

    fn let_in(&self, asked: Asked, visitor: V) -> Result<(Visit<V>, Friend), Response> {
        let refused = |status: StatusCode, why: &'static str| (status, why).into_response();
        let friend = match origin::page(&asked.headers, &self.hub.config.origins) {
            Page::Own => Friend(None),
            Page::Friend(origin) => Friend(Some(origin)),
            Page::Foreign => {
                return Err(refused(
                    StatusCode::FORBIDDEN,
                    "pages of this origin may not read: see StreamConfig::origins",
                ));
            }
        };
        let Some(selection) = Selection::of_query(&asked.query) else {
            return Err(refused(StatusCode::BAD_REQUEST, "at most 100 models, kinds and keys of 256 bytes"));
        };
        let said = asked.query.iter().find(|(name, _)| name == "cursor").map(|(_, value)| value.as_str());
        // A browser that comes again by itself sends the address of the first time.
        let last = asked.headers.get("last-event-id").and_then(|id| id.to_str().ok());
        let cursor = last.or(said).map(str::parse);
        match self.hub.enter(visitor, selection, cursor) {
            Some(visit) => Ok((visit, friend)),
            None => {
                let full = refused(StatusCode::SERVICE_UNAVAILABLE, "as many are there as may be");
                Err(([(RETRY_AFTER, "10")], full).into_response())
            }
        }
    }

    /// Sends all visitors away, who come again elsewhere or later. For the shutdown of a server, which waits for
    /// answers that are under way.
    pub fn close(&self) {
        self.hub.close();
    }

    /// What it has done.
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

/// What is asked of a request, whoever makes it.
struct Asked {
    headers: HeaderMap,
    query: Vec<(String, String)>,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let query = Query::from_request_parts(parts, state).await;
        let Query(query) = query.map_err(IntoResponse::into_response)?;
        Ok(Self { headers: parts.headers.clone(), query })
    }
}

/// A page of another origin that may read the answer, if it is one.
struct Friend(Option<HeaderValue>);

impl Friend {
    fn of(self, mut answer: Response) -> Response {
        if let Some(origin) = self.0 {
            let headers = answer.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        answer.headers_mut().append(VARY, HeaderValue::from_static("origin"));
        answer
    }
}
