//! What hinders a mirror is told by its node's health.

use emitter_core::HealthStatus;
use emitter_diesel::mirror::Mirror;
use emitter_tests::eventually::eventually;
use emitter_tests::servers::{Mosquitto, Postgres};

use super::databases::{Database as _, Sqlite};
use super::*;

fn reasons(emitter: &Emitter) -> Vec<String> {
    emitter.health().reasons.into_iter().filter(|reason| reason.starts_with("mirror: ")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_the_broker_refuses() {
    let (server, broker) = (Sqlite::with_tables(), Mosquitto::builder().forbid("prisma/events/#").start());
    let node = Emitter::builder().service("audit").node("a").mqtt(broker.url().as_str());
    let audit = node.with(Mirror::new(server.tables())).start().await.unwrap();
    let refused = "the broker refuses the subscription to prisma/events/#";
    eventually(|| reasons(&audit).iter().any(|reason| reason.contains(refused))).await;
    assert_eq!(audit.health().status, HealthStatus::Degraded);
    assert!(!mirror::stats(&audit).unwrap().hears);
    assert!(audit.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away() {
    let (mut server, broker) = (Postgres::start(), MemoryBroker::new());
    let audit = builder(&broker, "audit", "a").with(Mirror::new(server.tables())).start().await.unwrap();
    writes(&audit).await;
    eventually(|| reasons(&audit).is_empty()).await;
    tokio::task::block_in_place(|| server.kill());
    audit.publish(order(1));
    eventually(|| reasons(&audit).iter().any(|reason| reason.contains("its database"))).await;
    tokio::task::block_in_place(|| server.restart());
    recorded(&audit, 1).await;
    eventually(|| reasons(&audit).is_empty()).await;
    assert!(audit.shutdown(10 * SECOND).await.is_clean());
}
