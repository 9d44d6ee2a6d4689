//! A database that hangs: its connections stand, and nothing is answered.

use std::sync::mpsc;
use std::time::Instant;

use emitter_core::{EmitOptions, ShutdownReport};
use emitter_diesel::catch_up::CatchUp;
use emitter_diesel::dead_letters::DeadLetters;
use emitter_diesel::mirror::Mirror;
use emitter_tests::eventually::eventually;
use emitter_tests::servers::{Frozen, MariaDb, Postgres};

use super::databases::Database;
use super::queued::DoorOpened;
use super::*;

/// What a program does whose database hangs in the middle, and how long its end takes: that of the node, and
/// that of the runtime.
fn ends_while_it_hangs<D: Database>(
    freeze: impl FnOnce(&D) -> Frozen<'_>,
) -> (ShutdownReport, [Duration; 2]) {
    let server = D::with_tables();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let broker = MemoryBroker::new();
    let node = runtime.block_on(async {
        let node = builder(&broker, "a").with(server.outbox()).with(CatchUp::new(server.tables()));
        let node = node.with(DeadLetters::new(server.tables())).with(Mirror::new(server.tables()));
        let node = node.start().await.unwrap();
        node.on::<OrderEvent>().allow_remote().run(|_| std::future::ready(()));
        node.connected(10 * SECOND).await.unwrap();
        node.publish_with(DoorOpened { door: 1, time: 0 }, EmitOptions::default());
        eventually(|| node.stats().queue_written == 1 && node.health().reasons.is_empty()).await;
        node
    });
    let frozen = freeze(&server);
    let (ended, has_ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let report = runtime.block_on(async {
            node.publish_with(DoorOpened { door: 2, time: 0 }, EmitOptions::default());
            assert!(broker.send("shop.a", "prisma/events/order/create", "no event"));
            tokio::time::sleep(SECOND).await;
            let begun = Instant::now();
            let report = node.shutdown(2 * SECOND).await;
            (report, begun.elapsed())
        });
        drop((node, broker));
        let begun = Instant::now();
        drop(runtime);
        ended.send((report.0, [report.1, begun.elapsed()])).unwrap();
    });
    let outcome = has_ended.recv_timeout(30 * SECOND);
    drop(frozen);
    thread.join().unwrap();
    outcome.expect("it ends while its database hangs")
}

fn check((report, times): (ShutdownReport, [Duration; 2])) {
    assert!(times[0] < 4 * SECOND && times[1] < SECOND, "{times:?}");
    assert_eq!((report.unwritten, report.is_clean()), (1, false), "{report:?}");
}

#[test]
fn a_node_ends_in_time_while_postgresql_hangs() {
    check(ends_while_it_hangs(Postgres::freeze));
}

#[test]
fn a_node_ends_in_time_while_mariadb_hangs() {
    check(ends_while_it_hangs(MariaDb::freeze));
}
