//! Whether a node works, for who runs it: what Kubernetes, load balancers and monitoring ask.
//!
//! ```no_run
//! # async fn started() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::Router;
//! use emitter_core::Emitter;
//!
//! let emitter = Emitter::builder().service("shop").start().await?;
//! let app: Router = Router::new().merge(emitter_web::health::routes(&emitter));
//! # Ok(())
//! # }
//! ```
//!
//! | route | 200 while | 503 when | says |
//! |---|---|---|---|
//! | `/livez` | its tasks run, also while it is shut down | the shutdown is over, or [only a new process helps](Emitter::is_running) | `ok`, or why not |
//! | `/readyz` | it works, [`Degraded`](HealthStatus::Degraded) or not | it is shut down, from the beginning of that on, or only a new process helps | `ok`, or a reason on each line |
//! | `/health` | as `/readyz` | as `/readyz` | the whole [`Health`] as JSON |
//!
//! **A broker or a database that is away makes a node degraded, and not unready.** Local listeners go on, what is to go to other
//! nodes waits in memory or in the outbox, and requests that need the database fail by themselves. The broker is the same for all
//! nodes: if each of them were unready without it, Kubernetes would send requests to none, and a delay would be an outage. So it is
//! for alerts (`ops/alerts.yml`) to say that a node is degraded, and for `/health` to say why. A rollout that is to wait for the
//! broker waits for [`connected`](Emitter::connected) before it serves.
//!
//! **All are answered at once**, from what the node knows: nothing is sent, and no database is asked, however often somebody asks.
//!
//! Reasons name hosts, topics and what databases say, but no credentials: serve `/readyz` and `/health` on a port that the cluster alone
//! reaches, or behind your own authorisation.
//!
//! # The end
//!
//! A program that ends as the example of [this crate](crate) does sends its pages away, ends its server, and shuts the emitter down after
//! that. Whoever asks at the same port is never answered 503 then, but not at all: as soon as the server ends, nobody connects to it,
//! which a load balancer takes for a failed check, while what is under way is still answered. Kubernetes stops sending requests to a pod
//! when it sends SIGTERM, whatever `/readyz` says, but some proxies learn of it seconds later: a `preStop` hook that sleeps for as
//! long, before SIGTERM comes, covers that. The 503 is seen where these routes have a server of their own, on a port that is answered
//! until the process is gone, or where the emitter is shut down while its server still serves.

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use emitter_core::{Emitter, Health, HealthStatus, WeakEmitter};

/// The routes `/livez`, `/readyz` and `/health`, to be merged into your own or nested below a path. They do not keep the node alive.
pub fn routes<S: Clone + Send + Sync + 'static>(emitter: &Emitter) -> Router<S> {
    let [live, ready, health] = [(); 3].map(|()| emitter.downgrade());
    Router::new()
        .route("/livez", get(async move || livez(&live)))
        .route("/readyz", get(async move || readyz(&ready)))
        .route("/health", get(async move || told(&health)))
}

const GONE: &str = "the emitter is gone";

fn livez(emitter: &WeakEmitter) -> Response {
    match emitter.upgrade() {
        Some(emitter) if emitter.is_running() => text(StatusCode::OK, "ok"),
        Some(emitter) => text(StatusCode::SERVICE_UNAVAILABLE, &emitter.health().reasons.join("\n")),
        None => text(StatusCode::SERVICE_UNAVAILABLE, GONE),
    }
}

fn readyz(emitter: &WeakEmitter) -> Response {
    let Some(emitter) = emitter.upgrade() else { return text(StatusCode::SERVICE_UNAVAILABLE, GONE) };
    let health = emitter.health();
    let reasons = if health.reasons.is_empty() { "ok".to_owned() } else { health.reasons.join("\n") };
    text(code(&health), &reasons)
}

fn told(emitter: &WeakEmitter) -> Response {
    let Some(emitter) = emitter.upgrade() else { return text(StatusCode::SERVICE_UNAVAILABLE, GONE) };
    let health = emitter.health();
    match serde_json::to_string(&health) {
        Ok(json) => answer(code(&health), "application/json", json),
        // There is nothing in it that JSON does not have.
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn code(health: &Health) -> StatusCode {
    match health.status {
        HealthStatus::Healthy | HealthStatus::Degraded => StatusCode::OK,
        HealthStatus::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn text(code: StatusCode, text: &str) -> Response {
    answer(code, "text/plain; charset=utf-8", format!("{text}\n"))
}

fn answer(code: StatusCode, media_type: &'static str, body: String) -> Response {
    let headers =
        [(CONTENT_TYPE, media_type), (CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (code, headers, body).into_response()
}
