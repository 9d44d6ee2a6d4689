//! The page: drawn by the server with the orders of the moment, and kept true by the stream.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;
use diesel::prelude::*;
use emitter_web::stream::{Anybody, Stream};

use crate::orders::{self, Order};

#[derive(Clone)]
struct Shop {
    stream: Stream<Anybody>,
    /// On a server: a pool.
    conn: Arc<Mutex<SqliteConnection>>,
}

pub(crate) fn router(stream: Stream<Anybody>, conn: SqliteConnection) -> Router {
    let script = ([(CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("page.js"));
    Router::new()
        .route("/", get(draw))
        .route("/page.js", get(async move || script))
        .merge(stream.router())
        .with_state(Shop { stream, conn: Arc::new(Mutex::new(conn)) })
}

async fn draw(State(shop): State<Shop>) -> Result<impl IntoResponse, StatusCode> {
    // First where the stream is, and then what is shown: nothing is missing between the two.
    let cursor = shop.stream.cursor();
    let read = move || orders::last(&mut shop.conn.lock().unwrap_or_else(PoisonError::into_inner));
    let orders = tokio::task::spawn_blocking(read).await;
    let orders = orders.ok().and_then(Result::ok).ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        // A page out of a cache would be as old as its cursor.
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, "default-src 'self'"),
    ];
    Ok((headers, html(&cursor, &orders)))
}

fn html(cursor: &str, orders: &[Order]) -> String {
    let row = |order: &Order| {
        let Order { id, customer, status, .. } = order;
        format!(
            "<tr id=\"order-{id}\"><td>{id}</td><td>{}</td><td>{}</td></tr>",
            text(customer),
            text(status)
        )
    };
    let rows: String = orders.iter().map(row).collect();
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Orders</title>
<script type=\"module\" src=\"/page.js\"></script>
<body data-cursor=\"{cursor}\"><h1>Orders</h1><p id=\"status\">connecting</p>
<table><thead><tr><th>order<th>customer<th>status</thead><tbody id=\"orders\">{rows}</tbody></table></body></html>"
    )
}

/// What a customer wrote is text.
fn text(written: &str) -> String {
    written.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
