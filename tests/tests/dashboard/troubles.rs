//! A database that hangs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use axum::Router;
use diesel::prelude::*;
use diesel::result::ConnectionResult;
use emitter_diesel::dead_letters::{DeadLetterBook, Redrive, Selection};
use emitter_diesel::tables::Tables;
use emitter_diesel::{Emitter, HashKey};
use emitter_tests::servers::Postgres;
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

/// A page asks, and a redrive is under way: neither keeps the program.
#[test]
fn a_program_ends_while_its_database_hangs() {
    let server = Postgres::start();
    let url = server.url();
    let tables = Tables::new(move || PgConnection::establish(&url)).migrate();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (emitter, address) = runtime.block_on(async {
        let builder = Emitter::builder().service("shop").node("web-1").select_listeners(|_| false);
        let emitter = builder.hash_key(HashKey::new(&[7; 32]).unwrap()).start().await.unwrap();
        let config = DashboardConfig { patience: Duration::from_millis(300), ..DashboardConfig::default() };
        let who = async |_| Some(Visitor::reader("ada"));
        let dashboard = Dashboard::builder(&emitter).tables(&tables).config(config);
        let dashboard = dashboard.start(who).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().nest("/ops", dashboard.router());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (emitter, address)
    });
    let book = DeadLetterBook::open(&tables).unwrap();
    let frozen = server.freeze();
    let (ended, has_ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        runtime.block_on(async {
            let page = get(address, "/letters", "ada").await;
            assert!(page.contains("the database did not answer within 0.3 s"), "{page}");
            let redriving = emitter.clone();
            tokio::spawn(async move {
                let _ = book.redrive(&redriving, &Selection::default(), Redrive::default()).await;
            });
            tokio::time::sleep(Duration::from_millis(300)).await;
            let _ = emitter.shutdown(Duration::from_secs(1)).await;
        });
        let begun = Instant::now();
        drop(runtime);
        ended.send(begun.elapsed()).unwrap();
    });
    let took = has_ended.recv_timeout(Duration::from_secs(20));
    drop(frozen);
    thread.join().unwrap();
    assert!(took.expect("it ends while its database hangs") < Duration::from_secs(1), "{took:?}");
}
