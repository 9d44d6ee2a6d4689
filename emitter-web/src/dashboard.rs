//! A dashboard for who runs it: how a node stands, what happens now, what became of an event, and the dead letters.
//!
//! ```no_run
//! use axum::Router;
//! use axum::http::request::Parts;
//! use emitter_core::{Emits, Emitter};
//! use emitter_diesel::tables::Tables;
//! use emitter_web::dashboard::{Dashboard, Visitor};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Clone, Serialize, Deserialize, Emits)]
//! #[emits(create, update)]
//! struct Order {
//!     id: i64,
//!     status: String,
//! }
//!
//! /// Whoever is logged in may look, and who is on duty may act.
//! async fn who(request: Parts) -> Option<Visitor> {
//!     let session = request.headers.get("cookie")?; // … asks the database whose it is
//!     Some(if session == "on-duty" { Visitor::operator("ada") } else { Visitor::reader("bob") })
//! }
//!
//! async fn mounted(emitter: &Emitter, tables: &Tables) -> Result<Router, Box<dyn std::error::Error>> {
//!     let dashboard = Dashboard::builder(emitter).tables(tables).live::<OrderEvent>().start(who).await?;
//!     Ok(Router::new().nest("/ops", dashboard.router()))
//! }
//! ```
//!
//! Without `start(who)` there is nothing to mount:
//!
//! ```compile_fail,E0599
//! # use emitter_core::Emitter;
//! # use emitter_web::dashboard::Dashboard;
//! # fn mounted(emitter: &Emitter) -> axum::Router {
//! Dashboard::builder(emitter).router()
//! # }
//! ```
//!
//! **Who may.** The function given to [`start`](DashboardBuilder::start), without which there is no dashboard, is asked at every
//! request, also for the style sheet and the stream, and answers who it is: a [`Visitor`], who looks, and may act if it
//! says so. Put it behind the login of your application, and behind TLS: it shows the data of your users, as listeners see
//! it; skipped columns are not in it, redacted ones are not either, and of hashed ones the hash is.
//!
//! **Forms** are taken from pages of the same host alone ([`origins`](DashboardConfig::origins) names others), of
//! visitors who may act, and with the token of their browser's cookie. No page runs a script or uses a style that does not
//! come from this router, may be shown in a frame, or loads anything from elsewhere.
//!
//! **What is done** is told to the log: a `tracing` event of the target `emitter_web::audit` when it begins, with the
//! visitor's name and what was chosen, and one when it ends, with what it came to. The last hundred are shown. What was refused is told
//! there, too: each try of a visitor, and now and then one of those whom nobody knows, or of pages of others.
//!
//! **What it costs.** A sample every five seconds: what the node counts, and three questions to the tables. Pages ask when
//! they are looked at: three at a time, waited for five seconds each. A page that is open asks again every five seconds.
//! Each model that [`live`](DashboardBuilder::live) names is subscribed to.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::middleware;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use emitter_core::metrics::OnceInAWhile;
use emitter_core::model::{EventBody, Model as _};
use emitter_core::{Emitter, HealthStatus};
use emitter_diesel::dead_letters;
use emitter_diesel::tables::Tables;
use futures_util::FutureExt as _;
use tokio::time::MissedTickBehavior;

pub use self::access::Visitor;
use self::access::{Authorize, Guest};
use self::desk::{Desk, said};
use self::history::{Held, History, Sample};
use self::journal::Journal;
use self::work::Work;
use crate::stream::{Stream, StreamBuilder, StreamConfig, StreamError};

mod access;
mod actions;
mod chart;
mod chosen;
mod desk;
mod envelope;
mod frame;
mod history;
mod journal;
mod query;
mod screens;
mod work;

/// How a dashboard looks at its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DashboardConfig {
    /// How often a sample is taken for the charts, which show the last 180. Default 5 s; at least 100 ms.
    pub sample_every: Duration,
    /// How long the database is waited for; then the page says so. Default 5 s.
    pub patience: Duration,
    /// Under which origins it is reached, where a proxy changes the `Host`: such as `https://ops.example.com`. Default: none,
    /// so only pages of the host that is asked may send forms.
    pub origins: Vec<String>,
}

impl Default for DashboardConfig {
    fn default() -> Self {
        Self { sample_every: Duration::from_secs(5), patience: Duration::from_secs(5), origins: Vec::new() }
    }
}

/// A dashboard that is about to start. See [`Dashboard::builder`].
#[must_use = "there is no dashboard until `.start(who).await`"]
pub struct DashboardBuilder {
    emitter: Emitter,
    tables: Option<Tables>,
    config: DashboardConfig,
    live: StreamBuilder<Visitor>,
    models: Vec<&'static str>,
}

impl DashboardBuilder {
    /// The tables of outbox, dead letters and mirror. Default: none, and the screens that need them say so.
    pub fn tables(mut self, tables: &Tables) -> Self {
        self.tables = Some(tables.clone());
        self
    }

    /// Shows these events live, such as `OrderEvent`, with what listeners see of them, to every visitor. Default: none.
    pub fn live<T: EventBody>(mut self) -> Self {
        self.models.push(T::Model::NAME);
        self.live = self.live.events_for_all::<T>();
        self
    }

    /// How it looks. Default: see [`DashboardConfig`].
    pub fn config(mut self, config: DashboardConfig) -> Self {
        self.config = config;
        self
    }

    /// Begins to look at the node. `who` is asked at every request who it is, and `None` is refused: by a cookie of
    /// your session, a header of your proxy, or what a layer of yours put into the extensions. It must not block.
    ///
    /// # Errors
    /// [`StreamError`], which names a model that cannot be heard.
    pub async fn start<F, R>(self, who: F) -> Result<Dashboard, StreamError>
    where
        F: Fn(Parts) -> R + Send + Sync + 'static,
        R: Future<Output = Option<Visitor>> + Send + 'static,
    {
        let Self { emitter, tables, config, live, models } = self;
        // Pages of the same origins may read it; some hundred people look at the most.
        let live = live.config(StreamConfig {
            max_visitors: 500,
            keep_events: 1_000,
            keep_bytes: 4 * 1024 * 1024,
            origins: config.origins.clone(),
            ..StreamConfig::default()
        });
        let live = live.start(&emitter)?;
        emitter.watch_nodes();
        let desk = Desk::new(tables, &emitter.origin().service, config.patience);
        let every = config.sample_every.max(Duration::from_millis(100));
        let authorize: Authorize = Box::new(move |parts| who(parts).boxed());
        let (history, journal) = (History::default(), Arc::new(Journal::default()));
        let work = Work::new(&emitter, &journal);
        let refused = OnceInAWhile::every(Duration::from_secs(10));
        let shared =
            Shared { emitter, desk, config, live, models, authorize, history, journal, work, refused };
        let shared = Arc::new(shared);
        tokio::spawn(look(Arc::downgrade(&shared), every));
        Ok(Dashboard { shared })
    }
}

impl fmt::Debug for DashboardBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DashboardBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A dashboard of a node, to be mounted in your application. Cloning it clones a pointer.
#[derive(Clone)]
pub struct Dashboard {
    shared: Arc<Shared>,
}

struct Shared {
    emitter: Emitter,
    desk: Desk,
    config: DashboardConfig,
    live: Stream<Visitor>,
    /// What the stream tells of.
    models: Vec<&'static str>,
    authorize: Authorize,
    history: History,
    journal: Arc<Journal>,
    work: Work,
    /// That strangers were refused: of those there may be many.
    refused: OnceInAWhile,
}

impl Dashboard {
    /// The dashboard of this node.
    pub fn builder(emitter: &Emitter) -> DashboardBuilder {
        DashboardBuilder {
            emitter: emitter.clone(),
            tables: None,
            config: DashboardConfig::default(),
            live: Stream::builder(),
            models: Vec::new(),
        }
    }

    /// The routes, to be nested below a path: `Router::new().nest("/ops", dashboard.router())`.
    pub fn router<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        let shared = Arc::clone(&self.shared);
        let guard = middleware::from_fn_with_state(Arc::clone(&shared), access::guard);
        Router::new()
            .route("/", get(screens::overview::draw))
            .route("/live", get(screens::live::draw))
            .route("/event", get(screens::event::find))
            .route("/event/{id}", get(screens::event::draw))
            .route("/outbox", get(screens::outbox::draw))
            .route("/outbox/{action}", post(actions::outbox))
            .route("/letters", get(screens::letters::draw))
            .route("/letters/plan", get(screens::letters::plan))
            .route("/letters/redrive", post(actions::redrive))
            .route("/letters/stop", post(actions::stop))
            .route("/letters/discard", post(actions::discard))
            .route("/letter/{id}", get(screens::letter::draw))
            .route("/letter/{id}/edit", post(actions::edit))
            .route("/nodes", get(screens::nodes::draw))
            .route("/listeners", get(screens::listeners::draw))
            .route("/file/{name}", get(file))
            .nest("/stream", self.shared.live.router())
            .fallback(nowhere)
            .layer(guard)
            .layer(DefaultBodyLimit::max(MOST_BYTES))
            .with_state(shared)
    }

    /// Sends the visitors of the live stream away, and waits until the redrives that were begun here are over, at most for so
    /// long; `true` when they are. For the shutdown of a server, before the emitter's.
    pub async fn close(&self, within: Duration) -> bool {
        let begun = Instant::now();
        let gone = self.shared.live.close(within).await;
        self.shared.work.close(within.saturating_sub(begun.elapsed())).await && gone
    }
}

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dashboard").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

/// Takes samples until the dashboard or the node is there no more.
async fn look(shared: Weak<Shared>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        let health = shared.emitter.health();
        if health.status == HealthStatus::Unhealthy {
            return;
        }
        let sample = Sample {
            at: Instant::now(),
            stats: shared.emitter.stats(),
            round_trip: health.round_trip.map(|time| time.as_secs_f64()),
            tables: shared.held().await,
        };
        shared.history.push(sample);
    }
}

impl Shared {
    /// What the tables hold; `None` where they do not say.
    async fn held(&self) -> Option<Held> {
        if !self.desk.is_there() {
            return None;
        }
        let held = self.desk.ask(|drawer| {
            let outbox = drawer.control()?.state().map_err(said)?;
            let letters = drawer.letters()?.count(&dead_letters::Selection::default()).map_err(said)?;
            let oldest = outbox.oldest.map_or(0.0, |oldest| oldest.as_secs_f64());
            Ok(Held { backlog: outbox.pending + outbox.waiting, oldest, letters })
        });
        held.await.ok()
    }
}

/// An event of 1 MiB, each byte of it written as three.
const MOST_BYTES: usize = 4 * 1024 * 1024;

const STYLE: &str = include_str!("../dashboard/dashboard.css");
const SCRIPT: &str = include_str!("../dashboard/dashboard.js");
const ICON: &str = include_str!("../dashboard/icon.svg");

/// What pages load.
async fn file(Path(name): Path<String>) -> Response {
    let (media_type, text) = match &*name {
        "dashboard.css" => ("text/css; charset=utf-8", STYLE),
        "dashboard.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "icon.svg" => ("image/svg+xml", ICON),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    ([(CONTENT_TYPE, media_type)], text).into_response()
}

async fn nowhere(State(_): State<Arc<Shared>>, guest: Guest) -> Response {
    let page = frame::problem(&guest, "There is no such page", "The address is wrong, or too old.");
    (StatusCode::NOT_FOUND, Html(page.into_string())).into_response()
}
