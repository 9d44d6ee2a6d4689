//! How many events a second a mirror writes: told, and not judged, but for that it gets there.

use emitter_core::Batches;
use emitter_diesel::mirror::Mirror;
use emitter_tests::servers::{Mosquitto, Postgres};

use super::databases::{Database, Sqlite};
use super::*;

async fn rate<D: Database>(name: &str, database: D, batches: Option<Batches>) {
    let events = if is_full() { 100_000 } else { 10_000 };
    let broker = Mosquitto::builder().line("max_inflight_messages 1000").start();
    let audit = Emitter::builder().service("audit").node("a").mqtt(broker.url().as_str());
    let audit = audit.with(Mirror::new(database.tables())).start().await.unwrap();
    writes(&audit).await;
    let shop = Emitter::builder().service("shop").node("a").mqtt(broker.url().as_str());
    let shop = match batches {
        Some(batches) => shop.batches(batches),
        None => shop,
    };
    let shop = shop.publish_queue(events).start().await.unwrap();
    shop.connected(10 * SECOND).await.unwrap();
    let begun = std::time::Instant::now();
    for id in 0..events {
        shop.publish(order(i64::try_from(id).unwrap()));
        if id % 20_000 == 19_999 {
            let behind = |id: usize| (id as u64).saturating_sub(30_000);
            recorded(&audit, behind(id)).await;
        }
    }
    recorded(&audit, events as u64).await;
    let took = begun.elapsed();
    let batches = if batches.is_some() { "in batches" } else { "each alone" };
    println!("{name}, {batches}: {:.0} events a second", events as f64 / took.as_secs_f64());
    for emitter in [shop, audit] {
        assert!(emitter.shutdown(30 * SECOND).await.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_keeps_up_on_postgresql() {
    for batches in [None, Some(Batches::default())] {
        rate("PostgreSQL", Postgres::with_tables(), batches).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_keeps_up_on_sqlite() {
    for batches in [None, Some(Batches::default())] {
        rate("SQLite", Sqlite::with_tables(), batches).await;
    }
}
