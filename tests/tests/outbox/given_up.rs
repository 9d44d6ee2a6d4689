//! Rows that were given up are listed, put back to work, and discarded; as a macro: of a database's type.

macro_rules! given_up {
    ($name:ident: $server:ty) => {
        mod $name {
            use diesel::connection::SimpleConnection;
            use emitter_diesel::outbox::{GivenUp, GivenUpSelection, GivenUpStatus, RelayConfig};
            use emitter_diesel::{Bind, Emit};
            use emitter_tests::eventually::eventually;

            use super::databases::Database;
            use super::*;

            fn write(
                emitter: &Emitter,
                db: &mut <$server as Database>::Conn,
                ids: std::ops::Range<i64>,
                local: bool,
            ) {
                let conn = &mut emitter.bind(db).unwrap();
                for id in ids {
                    let order = Order { id, step: 0 };
                    let insert = diesel::insert_into(orders::table).values(&order).emit().durable();
                    let insert = if local { insert.local_only() } else { insert };
                    let _: Order = insert.get_result(conn).unwrap();
                }
            }

            fn listen(emitter: &Emitter) -> Ear {
                let heard = Ear::default();
                let ear = heard.clone();
                emitter.on::<OrderCreated>().run(move |event: Event<OrderCreated>| {
                    ear.hear(&event, &event.row);
                    std::future::ready(())
                });
                heard
            }

            fn of(status: GivenUpStatus) -> GivenUpSelection {
                GivenUpSelection { status: Some(status), ..GivenUpSelection::default() }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_nobody_could_read_is_published_when_it_was_mended() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let (ear, heard) = Ear::start(&broker).await;
                let first =
                    builder(&broker, "first").with(server.outbox().without_relay()).start().await.unwrap();
                let mut db = server.connect();
                write(&first, &mut db, 0..4, false);
                assert!(first.shutdown(10 * SECOND).await.is_clean());
                let topic = "prisma/events/order/create";
                db.batch_execute("UPDATE emitter_outbox SET topic = '' WHERE record_id <> '0'").unwrap();
                let emitter = builder(&broker, "a").with(server.outbox()).start().await.unwrap();
                let given_up = GivenUp::open(&server.tables(), "shop").unwrap();
                let count = || given_up.count(&GivenUpSelection::default()).unwrap();
                let (failed, unreadable, orphaned) =
                    (GivenUpStatus::Failed, GivenUpStatus::Unreadable, GivenUpStatus::Orphaned);
                eventually(|| count() == [(failed, 0), (unreadable, 3), (orphaned, 0)]).await;
                let listed = given_up.list(&GivenUpSelection::default(), None, 2).unwrap();
                assert_eq!(listed.len(), 2);
                assert_eq!((&*listed[0].model, listed[0].key.as_deref()), ("order", Some("1")));
                assert!(listed[0].last_error.is_some() && listed[0].event.is_some());
                let next = given_up.list(&of(unreadable), Some(listed[1].id), 2).unwrap();
                assert_eq!(next.len(), 1);
                assert_eq!(given_up.list(&of(failed), None, 10).unwrap(), []);

                let one = GivenUpSelection { ids: Some(vec![next[0].id]), ..GivenUpSelection::default() };
                let none = GivenUpSelection { model: Some("user".to_owned()), ..GivenUpSelection::default() };
                db.batch_execute(
                    "INSERT INTO emitter_ledger (event_id, listener, service, status, attempts, updated_at) \
                     SELECT event_id, 'one', 'shop', 'FAILED', 3, created_at FROM emitter_outbox WHERE record_id <> '0'",
                )
                .unwrap();
                assert_eq!((given_up.discard(&none).unwrap(), given_up.discard(&one).unwrap()), (0, 1));
                let ledger = emitter_diesel::outbox::Ledger::open(&server.tables()).unwrap();
                assert_eq!(
                    ledger.list(&Default::default(), None, 10).unwrap().len(),
                    2,
                    "its entry is gone, too"
                );
                db.batch_execute(&format!("UPDATE emitter_outbox SET topic = '{topic}' WHERE topic = ''"))
                    .unwrap();
                assert_eq!(given_up.redrive(&of(unreadable)).unwrap(), 2);
                eventually(|| heard.len() == 3).await;
                assert_eq!(heard.steps(), BTreeMap::from([(0, vec![0]), (1, vec![0]), (2, vec![0])]));
                for emitter in [emitter, ear] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn they_are_chosen_by_what_is_wrong_and_when_and_shown_with_their_event() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let writer = builder(&broker, "a").with(server.outbox().without_relay()).start().await.unwrap();
                let mut db = server.connect();
                for id in 0..4 {
                    write(&writer, &mut db, id..id + 1, false);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                for (key, status, error) in [
                    ("0", "FAILED", "'NotAuthorized: 100% of _x'"),
                    ("1", "UNREADABLE", "'it is [odd]!'"),
                    ("2", "ORPHANED", "NULL"),
                ] {
                    let given_up = if status == "ORPHANED" { "NULL" } else { "created_at" };
                    db.batch_execute(&format!(
                        "UPDATE emitter_outbox SET status = '{status}', last_error = {error}, processed_at = {given_up} \
                         WHERE record_id = '{key}'"
                    ))
                    .unwrap();
                }
                let given_up = GivenUp::open(&server.tables(), "shop").unwrap();
                let all = GivenUpSelection::default();
                let rows = given_up.list(&all, None, 10).unwrap();
                assert_eq!(rows.iter().map(|row| row.given_up_at).collect::<Vec<_>>(), [
                    rows[0].written_at,
                    rows[1].written_at,
                    None
                ]);
                let [_, second, third] = [0, 1, 2].map(|place| rows[place].written_at.unwrap());
                assert!(rows[0].written_at < Some(second) && second < third, "{rows:?}");
                let text = |text: &str| Some(text.to_owned());
                for (chosen, keys) in [
                    (GivenUpSelection { topic: text("*/order/*"), ..all.clone() }, &["0", "1", "2"][..]),
                    (GivenUpSelection { topic: text("order"), ..all.clone() }, &[]),
                    (GivenUpSelection { error: text("Authorized: 100% of _"), ..all.clone() }, &["0"]),
                    (GivenUpSelection { error: text("100_"), ..all.clone() }, &[]),
                    (GivenUpSelection { error: text("[odd]!"), ..all.clone() }, &["1"]),
                    (GivenUpSelection { error: text("not*of"), ..all.clone() }, &[]),
                    (GivenUpSelection { error: text("Not*of"), ..all.clone() }, &["0"]),
                    (GivenUpSelection { key: text("2"), ..all.clone() }, &["2"]),
                    (GivenUpSelection { key: text("3"), ..all.clone() }, &[]),
                    (GivenUpSelection { since: Some(second), ..all.clone() }, &["1", "2"]),
                    (GivenUpSelection { until: Some(second), ..all.clone() }, &["0"]),
                    (GivenUpSelection { since: Some(second), until: Some(third), ..all.clone() }, &["1"]),
                    (GivenUpSelection::last(3600 * SECOND), &["0", "1", "2"]),
                    (GivenUpSelection::last(Duration::ZERO), &[]),
                    (GivenUpSelection::one(rows[1].id), &["1"]),
                ] {
                    let listed = given_up.list(&chosen, None, 10).unwrap();
                    let found: Vec<&str> = listed.iter().filter_map(|row| row.key.as_deref()).collect();
                    assert_eq!(found, keys, "{chosen:?}");
                    let counted: u64 = given_up.count(&chosen).unwrap().iter().map(|(_, rows)| rows).sum();
                    assert_eq!(counted, keys.len() as u64, "{chosen:?}");
                    assert!(listed.iter().all(|row| row.payload.is_none()));
                }
                let shown = given_up.show(rows[2].id).unwrap().unwrap();
                let event: serde_json::Value = serde_json::from_str(shown.payload.as_deref().unwrap()).unwrap();
                assert_eq!(event["result"], serde_json::json!({"id": 2, "step": 0}));
                assert!(!format!("{shown:?}").contains("result"), "users' data is in no log");
                assert_eq!((shown.id, shown.status), (rows[2].id, GivenUpStatus::Orphaned));
                assert_eq!(given_up.show(rows[2].id + 1).unwrap(), None, "it is to be published");
                let old = GivenUpSelection { until: Some(third), ..all.clone() };
                assert_eq!((given_up.redrive(&GivenUpSelection::one(rows[0].id)).unwrap(), given_up.discard(&old).unwrap()), (1, 1));
                assert_eq!(given_up.list(&all, None, 10).unwrap(), [rows[2].clone()]);
                let _ = writer.shutdown(10 * SECOND).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn orphans_go_to_the_listener_that_is_there_now() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let (ear, elsewhere) = Ear::start(&broker).await;
                let first =
                    builder(&broker, "a").with(server.outbox().without_relay()).start().await.unwrap();
                first.on::<OrderCreated>().run(|_| std::future::pending::<()>());
                let mut db = server.connect();
                write(&first, &mut db, 0..3, true);
                write(&first, &mut db, 3..6, false);
                kill(first);
                let config =
                    RelayConfig { lease: SECOND, orphan_after: Duration::ZERO, ..RelayConfig::default() };
                let second = builder(&broker, "a").with(server.outbox().relay(config)).start().await.unwrap();
                let given_up = GivenUp::open(&server.tables(), "shop").unwrap();
                let orphaned = of(GivenUpStatus::Orphaned);
                eventually(|| given_up.list(&orphaned, None, 100).unwrap().len() == 6).await;
                assert!(second.shutdown(10 * SECOND).await.is_clean());
                let third = builder(&broker, "b").with(server.outbox()).start().await.unwrap();
                let heard = listen(&third);
                assert_eq!(given_up.redrive(&orphaned).unwrap(), 6);
                eventually(|| heard.len() == 6).await;
                assert_eq!(heard.steps(), (0..6).map(|id| (id, vec![0])).collect());
                let left = || {
                    given_up.count(&GivenUpSelection::default()).unwrap().iter().map(|(_, n)| n).sum::<u64>()
                };
                assert_eq!(left(), 0);
                assert_eq!(elsewhere.len(), 3, "they are not published once more");
                for emitter in [third, ear] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }
        }
    };
}
