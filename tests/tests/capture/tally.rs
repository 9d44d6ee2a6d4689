//! What an operator sees of captured rows.

use emitter_diesel::capture::{self, CaptureState};

use super::*;

fn troubles(node: &Emitter) -> Vec<String> {
    node.health().reasons.into_iter().filter(|reason| reason.starts_with("capture: ")).collect()
}

fn state(db: &mut PgConnection, server: &Postgres) -> CaptureState {
    let states = capture::states(db, &tables(server)).unwrap();
    let [state] = &states[..] else { panic!("{states:?}") };
    state.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_how_many_rows_wait_and_for_how_long_and_what_hinders() {
    let (server, broker) = (with_people(), MemoryBroker::new());
    let mut db = connect(&server);
    ended([capturing(&server, &broker, "a").await]).await;
    assert_eq!(capture::states(&mut db, &tables(&server)), Ok(Vec::new()));
    // Nobody turns them.
    db.batch_execute(&inserted(1..=3)).unwrap();
    let spoilt = "UPDATE emitter_captured SET captured_at = captured_at - interval '1 hour' WHERE after->>'id' = '2'; \
                  UPDATE emitter_captured SET after = NULL WHERE after->>'id' = '3'";
    db.batch_execute(spoilt).unwrap();
    let waiting = state(&mut db, &server);
    assert_eq!((&*waiting.model, waiting.waiting, waiting.unreadable), ("person", 3, 0));
    let oldest = waiting.oldest.unwrap();
    assert!(oldest >= 3_600 * SECOND && oldest < 3_700 * SECOND, "{oldest:?}");
    let node = capturing(&server, &broker, "a").await;
    until(&mut db, "emitter_captured WHERE status = 'CAPTURED'", 0);
    eventually(|| capture::stats(&node).is_some_and(|stats| (stats.turned, stats.unreadable) == (2, 1)))
        .await;
    let rest = state(&mut db, &server);
    assert_eq!((rest.waiting, rest.oldest, rest.unreadable), (0, None, 1));
    assert_eq!(troubles(&node), [""; 0]);
    // A table that is not as it should be.
    db.batch_execute(&format!(
        "ALTER TABLE people RENAME TO persons; {}",
        inserted([4]).replace("people", "persons")
    ))
    .unwrap();
    eventually(|| troubles(&node).iter().any(|trouble| trouble.contains("\"people\" cannot be turned")))
        .await;
    db.batch_execute("ALTER TABLE persons RENAME TO people").unwrap();
    eventually(|| troubles(&node).is_empty()).await;
    eventually(|| capture::stats(&node).is_some_and(|stats| stats.turned == 3)).await;
    let other = builder(&broker, "b").start().await.unwrap();
    assert_eq!(capture::stats(&other), None);
    ended([node, other]).await;
}
