//! A database that hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use diesel::prelude::*;
use diesel::result::ConnectionResult;
use emitter_diesel::tables::Tables;
use emitter_diesel::{Emitter, HashKey};
use emitter_web::dashboard::{Dashboard, DashboardConfig, Visitor};
use tokio::task::JoinSet;

use crate::refusals::get;

const HANGS: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn pages_say_that_it_does_not_answer_and_few_threads_wait_for_it() {
    let (waiting, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = (Arc::clone(&waiting), Arc::clone(&most));
    let tables = Tables::new(move || -> ConnectionResult<SqliteConnection> {
        let (waiting, most) = &counted;
        most.fetch_max(waiting.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(HANGS);
        waiting.fetch_sub(1, Ordering::SeqCst);
        SqliteConnection::establish(":memory:")
    });
    let builder = Emitter::builder().service("shop").node("web-1").select_listeners(|_| false);
    let emitter = builder.hash_key(HashKey::new(&[7; 32]).unwrap()).start().await.unwrap();
    let config = DashboardConfig { patience: Duration::from_millis(300), ..DashboardConfig::default() };
    let who = async |_| Some(Visitor::reader("ada"));
    let dashboard = Dashboard::builder(&emitter).tables(&tables).config(config).start(who).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().nest("/ops", dashboard.router());
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, app).await.unwrap() });

    let begun = Instant::now();
    let mut pages = JoinSet::new();
    for _ in 0..4 {
        for path in
            ["", "/outbox", "/letters", "/nodes", "/listeners", "/event/0193ac5e-0000-7000-8000-000000000000"]
        {
            pages.spawn(async move { (path, get(address, path, "ada").await) });
        }
    }
    while let Some(page) = pages.join_next().await {
        let (path, page) = page.unwrap();
        assert!(page.contains("the database did not answer within 0.3 s"), "{path}: {page}");
        // What the node knows without it is shown.
        assert!(!path.is_empty() || page.contains("Everything works"), "{page}");
    }
    assert!(begun.elapsed() < HANGS, "pages waited for it: {:?}", begun.elapsed());
    assert!(most.load(Ordering::SeqCst) <= 3, "{most:?} threads waited for it");
    assert!(get(address, "/live", "ada").await.contains("No model is shown live"));
    serving.shutdown().await;
    assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
}
