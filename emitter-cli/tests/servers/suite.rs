//! What the commands do, as a macro: of a database's type.

macro_rules! suite {
    ($name:ident: $server:ty) => {
        mod $name {
            use std::sync::Arc;
            use std::sync::atomic::{AtomicBool, Ordering};

            use diesel::connection::SimpleConnection;
            use emitter_diesel::catch_up::CatchUp;
            use emitter_diesel::dead_letters::DeadLetters;
            use emitter_diesel::mirror::Mirror;
            use emitter_diesel::outbox::Outbox;
            use emitter_diesel::requests::Attendant;
            use emitter_diesel::{Bind, Emit, Event};
            use emitter_tests::eventually::eventually;
            use serde_json::json;

            use super::command::Cli;
            use super::databases::Database;
            use super::*;

            fn write(emitter: &Emitter, db: &mut <$server as Database>::Conn, ids: std::ops::Range<i64>) {
                let conn = &mut emitter.bind(db).unwrap();
                for id in ids {
                    let order = Order { id, step: 0 };
                    let insert = diesel::insert_into(orders::table).values(&order);
                    let _: Order = insert.emit().durable().get_result(conn).unwrap();
                }
            }

            #[test]
            fn tables_are_made_and_the_sql_for_it_is_told() {
                let server = <$server>::with_tables();
                let cli = Cli::at(&server);
                let early = cli.run(&["outbox", "status"]);
                assert_eq!((early.code, &*early.out), (2, ""));
                let (report, code) = cli.report("migrate", &["migrate", "--dry-run"]);
                assert_eq!((code, &report["found"], &report["applied"]), (1, &json!(0), &json!(false)));
                let (report, code) = cli.report("migrate", &["migrate"]);
                assert_eq!((code, &report["found"], &report["applied"]), (0, &json!(0), &json!(true)));
                for arguments in [&["migrate"][..], &["migrate", "--dry-run"]] {
                    let (report, code) = cli.report("migrate", arguments);
                    assert_eq!((code, &report["found"], &report["applied"]), (0, &json!(1), &json!(false)));
                }
                let by_hand = ["migrate", "--table-prefix", "hand_", "--lanes", "3"];
                let printed = cli.run(&[&by_hand[..], &["--print"]].concat());
                assert_eq!(printed.code, 0, "{printed:?}");
                server.connect().batch_execute(&printed.out).unwrap();
                assert_eq!(cli.report("migrate", &by_hand).0["found"], 1);
                let (status, code) = cli.report("outbox", &["outbox", "status", "--table-prefix", "hand_"]);
                assert_eq!((code, status["lanes"].as_array().unwrap().len()), (0, 3));
                cli.report("migrate_print", &["migrate", "--print"]);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_outbox_is_shown_paused_resumed_and_drained() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let (broker, cli) = (Mosquitto::start(), Cli::at(&server));
                assert_eq!(cli.run(&["migrate"]).code, 0);
                let mut db = server.connect();
                let writer = Outbox::new(server.tables()).without_relay();
                let first = node(&broker, "writer").with(writer).start().await.unwrap();
                write(&first, &mut db, 0..4);
                let (status, code) = cli.report("outbox", &["outbox", "status", "--max-age", "0s"]);
                assert_eq!((code, &status["pending"]), (1, &json!(4)));
                let findings = status["findings"].to_string();
                assert!(findings.contains("no relay is there"), "{status}");
                assert!(findings.contains("has waited for"), "{status}");

                assert_eq!(cli.report("paused", &["outbox", "pause"]), (json!({"paused": true, "pending": 4}), 0));
                let relay = node(&broker, "relay").with(Outbox::new(server.tables())).start().await.unwrap();
                let owned = || {
                    let (status, code) = cli.report("outbox", &["outbox", "status"]);
                    let lanes = status["lanes"].as_array().unwrap().clone();
                    assert_eq!((code, status["paused"].as_bool()), (1, Some(true)));
                    let is_owned = |lane: &serde_json::Value| {
                        lane["node"].as_str().is_some_and(|node| node.contains("relay"))
                            && lane["lease_ms"].as_u64() > Some(0)
                            && lane["epoch"].as_u64() > Some(0)
                            && lane["paused"] == true
                    };
                    status["relays"].as_array().unwrap().iter().filter(|relay| relay["takes_lanes"] == true).count() == 1
                        && lanes.len() == 16 && lanes.iter().all(is_owned)
                };
                eventually(owned).await;
                let (drained, code) = cli.report("drained", &["outbox", "drain", "--within", "300ms"]);
                assert_eq!((code, &drained["drained"], &drained["pending"]), (1, &json!(false), &json!(4)));
                assert_eq!(drained["processing"], 0, "nobody listens here");
                assert!(drained["findings"].to_string().contains("emitter outbox resume"), "{drained}");

                assert_eq!(cli.report("paused", &["outbox", "resume"]).0["paused"], false);
                let (drained, code) = cli.report("drained", &["outbox", "drain"]);
                assert_eq!((code, &drained["drained"], &drained["pending"]), (0, &json!(true), &json!(0)));
                let (status, code) = cli.report("outbox", &["outbox", "status", "--max-age", "0s"]);
                assert_eq!((code, &status["findings"]), (0, &json!([])));
                let text = cli.run(&["outbox", "status"]);
                assert!(text.code == 0 && text.out.contains("lanes       16 of 16 owned"), "{text:?}");
                for emitter in [first, relay] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_was_given_up_is_listed_tried_again_and_discarded() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let (broker, cli) = (Mosquitto::start(), Cli::at(&server));
                let mut db = server.connect();
                let outbox = Outbox::new(server.tables()).without_relay();
                let first = node(&broker, "writer").with(outbox).start().await.unwrap();
                write(&first, &mut db, 0..3);
                db.batch_execute("UPDATE emitter_outbox SET topic = ''").unwrap();
                let relay = node(&broker, "relay").with(Outbox::new(server.tables())).start().await.unwrap();
                let list = || cli.report("given_up", &["outbox", "given-up", "list"]);
                eventually(|| list().0["rows"].as_array().unwrap().len() == 3).await;
                let (rows, code) = list();
                assert_eq!((code, &rows["rows"][0]["status"], &rows["rows"][0]["key"]), (1, &json!("unreadable"), &json!("0")));
                // Whoever looks for dead letters is told.
                let (counted, code) = cli.report("dlq_count", &["dlq", "count"]);
                assert_eq!((&counted["total"], &counted["given_up"], code), (&json!(0), &json!(3), 0));
                assert_eq!(cli.report("dlq_list", &["dlq", "list"]).0["given_up"], 3);
                let beside = "3  in the whole outbox, given up: `emitter outbox given-up list`";
                for say in ["count", "list"] {
                    assert!(cli.run(&["dlq", say]).out.contains(beside), "{say}");
                }
                let retry = ["outbox", "given-up", "retry", "--service", "shop"];
                for (filter, number) in [
                    (["--key", "1"], 1),
                    (["--model", "order"], 3),
                    (["--topic", "*order*"], 0),
                    (["--error", "not as an outbox*it"], 3),
                    (["--error", "NotAuthorized"], 0),
                    (["--since", "1h"], 3),
                    (["--until", "1h"], 0),
                    (["--status", "orphaned"], 0),
                ] {
                    let dry = cli.report("meant", &[&retry[..], &filter, &["--dry-run"]].concat());
                    assert_eq!(dry, (json!({"meant": number}), 0), "{filter:?}");
                }
                let id = rows["rows"][0]["id"].to_string();
                let (shown, _) = cli.report("given_up_show", &["outbox", "given-up", "show", &id]);
                let payload = cli.run(&["outbox", "given-up", "show", &id, "--payload"]).out;
                assert_eq!((&shown["payload"], &shown["key"]), (&json!(payload), &json!("0")));
                assert!(payload.contains("\"step\":0"), "{payload}");
                let text = cli.run(&["outbox", "given-up", "show", &id]);
                assert!(text.code == 0 && text.out.contains("given up 20"), "{text:?}");
                assert_eq!(cli.run(&["outbox", "given-up", "show", "4711"]).code, 2);
                let (status, code) = cli.report("outbox", &["outbox", "status"]);
                assert_eq!((code, &status["unreadable"]), (1, &json!(3)));

                db.batch_execute("UPDATE emitter_outbox SET topic = 'prisma/events/order/create'").unwrap();
                let id = rows["rows"][1]["id"].to_string();
                let (retried, code) =
                    cli.report("retried", &["outbox", "given-up", "retry", &id, "--service", "shop"]);
                assert_eq!((code, retried), (0, json!({"retried": 1})));
                eventually(|| list().0["rows"].as_array().unwrap().len() == 2).await;
                assert_eq!(cli.run(&["outbox", "drain"]).code, 0);

                let refused = cli.run(&["outbox", "given-up", "discard"]);
                assert!(refused.code == 2 && refused.err.contains("--all"), "{refused:?}");
                let declined = cli.answered(&["outbox", "given-up", "discard", "--all"], "n\n");
                assert!(declined.code == 2 && declined.err.contains("Delete 2 rows"), "{declined:?}");
                let discard = ["outbox", "given-up", "discard", "--model", "order", "--yes"];
                assert_eq!(cli.report("discarded", &discard), (json!({"discarded": 2}), 0));
                assert_eq!(list().1, 0);
                for emitter in [first, relay] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn dead_letters_are_listed_counted_shown_edited_and_discarded() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let (broker, cli) = (Mosquitto::start(), Cli::at(&server));
                let letters = DeadLetters::new(server.tables());
                let shop = node(&broker, "a").with(letters).start().await.unwrap();
                for name in ["first", "second"] {
                    shop.on::<OrderCreated>()
                        .name(name)
                        .run(|_: Event<OrderCreated>| std::future::ready(Err::<(), _>("no\u{1b}[2Jcourier")));
                }
                for id in 0..3 {
                    shop.publish(OrderCreated::new(Order { id, step: 7 }));
                }
                let count = || cli.report("dlq_count", &["dlq", "count", "--by", "listener"]);
                eventually(|| count().0["total"] == 6).await;
                let by = json!([{"name": "first", "letters": 3}, {"name": "second", "letters": 3}]);
                assert_eq!((count().1, &count().0["by"]), (1, &by));
                assert_eq!(cli.report("dlq_count", &["dlq", "count", "--most", "6"]).1, 0);
                for (filter, number) in [
                    (["--reason", "unhandled"], 6),
                    (["--reason", "undecodable"], 0),
                    (["--listener", "first"], 3),
                    (["--model", "user"], 0),
                    (["--topic", "*order*"], 6),
                    (["--service", "shop"], 6),
                    (["--node", "b"], 0),
                    (["--since", "1h"], 6),
                    (["--since", "2100-01-01T00:00:00.000Z"], 0),
                    (["--until", "1h"], 0),
                ] {
                    let (counted, _) = cli.report("dlq_count", &[&["dlq", "count"][..], &filter].concat());
                    assert_eq!(counted["total"], number, "{filter:?}");
                }
                let (listed, _) = cli.report("dlq_list", &["dlq", "list", "--listener", "second", "--limit", "2"]);
                let [one, other] = &listed["letters"].as_array().unwrap()[..] else { panic!("{listed}") };
                assert_eq!((&one["listener"], &one["attempts"]), (&json!("second"), &json!(2)));
                let text = cli.run(&["dlq", "list"]);
                assert!(!text.out.contains('\u{1b}') && text.out.contains("no\\u{1b}[2Jcourier"), "{text:?}");

                let (id, other) = (one["id"].to_string(), other["id"].to_string());
                let (shown, _) = cli.report("dlq_show", &["dlq", "show", &id]);
                let payload = cli.run(&["dlq", "show", &id, "--payload"]).out;
                assert_eq!(shown["payload"], payload);
                assert!(payload.contains("\"step\":7"), "{payload}");
                let mended = payload.replace("\"step\":7", "\"step\":8");
                let edit = cli.answered(&["dlq", "edit", &id, "--payload", "-"], &mended);
                assert_eq!(edit.code, 0, "{edit:?}");
                assert_eq!(cli.report("dlq_show", &["dlq", "show", &id]).0["payload"], mended);
                let file = cli.home().join("event.json");
                std::fs::write(&file, "{}").unwrap();
                let edited = cli.report("dlq_edited", &["dlq", "edit", &other, "--payload", file.to_str().unwrap()]);
                assert_eq!(edited.1, 0);
                std::fs::write(&file, vec![b' '; (1 << 20) + 1]).unwrap();
                let large = cli.run(&["dlq", "edit", &other, "--payload", file.to_str().unwrap()]);
                assert!(large.code == 2 && large.err.contains("the limit is"), "{large:?}");
                assert_eq!(cli.run(&["dlq", "show", &other, "--payload"]).out, "{}");
                let (failure, code) = cli.report("failure", &["dlq", "show", "4711"]);
                assert!(code == 2 && failure["error"].as_str().unwrap().contains("4711"), "{failure}");

                assert_eq!(cli.run(&["dlq", "discard"]).code, 2);
                assert_eq!(cli.answered(&["dlq", "discard", &id], "").code, 2);
                assert_eq!(count().0["total"], 6);
                let agreed = cli.answered(&["dlq", "discard", &id], "y\n");
                assert_eq!((agreed.code, &*agreed.out), (0, "1 were deleted.\n"));
                let discard = ["dlq", "discard", "--listener", "second", "--yes"];
                assert_eq!(cli.report("discarded", &discard), (json!({"discarded": 2}), 0));
                assert_eq!(count().0["total"], 3);
                assert_eq!(cli.report("discarded", &["dlq", "discard", "--all", "--yes"]).0["discarded"], 3);
                assert_eq!((count().1, cli.run(&["dlq", "list"]).code), (0, 0));
                assert!(shop.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_running_node_redrives_and_replays_for_who_has_no_listeners() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let (broker, cli) = (Mosquitto::start(), Cli::at(&server));
                let shop = node(&broker, "a").with(DeadLetters::new(server.tables()));
                let shop = shop.with(Attendant::new(server.tables())).start().await.unwrap();
                let is_open = Arc::new(AtomicBool::new(false));
                let door = Arc::clone(&is_open);
                shop.on::<OrderCreated>().allow_remote().name("courier").run(move |_: Event<OrderCreated>| {
                    let is_open = door.load(Ordering::SeqCst);
                    std::future::ready(if is_open { Ok(()) } else { Err("no courier") })
                });
                for id in 0..4 {
                    shop.publish(OrderCreated::new(Order { id, step: 7 }));
                }
                let count = || cli.report("dlq_count", &["dlq", "count"]).0["total"].as_u64();
                eventually(|| count() == Some(4)).await;
                for (unsaid, word) in [
                    (&["dlq", "redrive", "--all"][..], "--service"),
                    (&["dlq", "redrive", "--service", "shop"], "--all"),
                    (&["replay", "--service", "shop"], "--all"),
                ] {
                    let refused = cli.run(unsaid);
                    assert!(refused.code == 2 && refused.err.contains(word), "{refused:?}");
                }
                let all = ["dlq", "redrive", "--service", "shop", "--all"];
                let meant = cli.report("meant", &[&all[..], &["--dry-run"]].concat());
                assert_eq!((meant, count()), ((json!({"meant": 4}), 0), Some(4)));
                // The courier refuses them still.
                let (request, code) = cli.report("request", &all);
                assert_eq!((code, &request["status"], &request["failed"]), (1, &json!("done"), &json!(4)), "{request}");
                assert!(request["findings"].to_string().contains("4 letters failed again"), "{request}");
                is_open.store(true, Ordering::SeqCst);
                let (letters, _) = cli.report("dlq_list", &["dlq", "list", "--limit", "1"]);
                let one = letters["letters"][0]["id"].to_string();
                let (request, code) = cli.report("request", &["dlq", "redrive", &one, "--service", "shop"]);
                assert_eq!((code, &request["handled"], &request["node"]), (0, &json!(1), &json!("shop/a")), "{request}");
                let text = cli.run(&["dlq", "redrive", "--service", "shop", "--listener", "courier", "--rate", "100"]);
                assert!(text.code == 0 && text.out.contains("3 of 3 handled"), "{text:?}");
                assert_eq!(count(), Some(0));

                // Events of another program, as the mirror has them.
                let mut db = server.connect();
                let event = |id| format!("('prisma/events/order/create', '{{\"model\":\"Order\",\"operation\":\"create\",\"args\":{{}},\"result\":{{\"id\":{id},\"step\":0}}}}', 'order', '{id}')");
                let events: Vec<String> = (0..30).map(event).collect();
                let insert = "INSERT INTO emitter_events_mirror (topic, payload, model, record_id) VALUES";
                db.batch_execute(&format!("{insert} {}", events.join(", "))).unwrap();
                let replay = ["replay", "--service", "shop", "--model", "Order", "--listener", "courier"];
                assert_eq!(cli.report("meant", &[&replay[..], &["--dry-run"]].concat()).0, json!({"meant": 30}));
                let (request, code) = cli.report("request", &replay);
                assert_eq!((code, &request["handled"], &request["work"]), (0, &json!(30), &json!("replay")), "{request}");
                let cursor = request["cursor"].as_str().unwrap();
                let (request, code) = cli.report("request", &[&replay[..], &["--after", cursor]].concat());
                assert_eq!((code, &request["total"]), (0, &json!(0)), "{request}");
                let (request, code) = cli.report("request", &["replay", "--service", "shop", "--key", "7", "--listener", "nobody"]);
                assert_eq!((code, &request["status"]), (2, &json!("failed")), "{request}");
                assert!(request["findings"].to_string().contains("`nobody`"), "{request}");
                // Nobody is there to do it.
                let nobody = cli.run(&["replay", "--service", "billing", "--all", "--patience", "1s"]);
                assert!(nobody.code == 2 && nobody.err.contains("Attendant"), "{nobody:?}");
                let (list, code) = cli.report("requests", &["requests", "list", "--limit", "3"]);
                let statuses: Vec<_> = list["requests"].as_array().unwrap().iter().map(|request| &request["status"]).collect();
                assert_eq!((code, statuses), (0, vec![&json!("cancelled"), &json!("failed"), &json!("done")]));

                let slow = [&replay[..], &["--rate", "2", "--no-wait"]].concat();
                let (request, code) = cli.report("request", &slow);
                let id = request["id"].to_string();
                assert_eq!((code, &request["status"]), (0, &json!("asked")), "{request}");
                let (request, code) = cli.report("request", &["requests", "wait", &id, "--within", "2s"]);
                assert_eq!((code, &request["status"]), (1, &json!("under_way")), "{request}");
                let (request, code) = cli.report("request", &["requests", "cancel", &id]);
                assert_eq!((code, &request["status"]), (0, &json!("cancelled")), "{request}");
                assert_eq!(cli.run(&["requests", "cancel", &id]).code, 2);
                assert_eq!(cli.report("request", &["requests", "show", &id]).1, 2);
                assert_eq!(cli.run(&["requests", "show", "4711"]).code, 2);
                let text = cli.run(&["requests", "list"]);
                assert!(text.code == 0 && text.out.contains("replay  shop  cancelled"), "{text:?}");
                assert!(shop.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn it_is_told_what_became_of_an_event_and_who_is_behind() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let (broker, cli) = (Mosquitto::start(), Cli::at(&server));
                let mut db = server.connect();
                let shop = node(&broker, "a").with(Outbox::new(server.tables()));
                let shop = shop.with(DeadLetters::new(server.tables())).with(Mirror::new(server.tables()));
                let shop = shop.start().await.unwrap();
                shop.on::<OrderCreated>().name("books").run(|_: Event<OrderCreated>| std::future::ready(()));
                shop.on::<OrderCreated>()
                    .name("courier")
                    .run(|_: Event<OrderCreated>| std::future::ready(Err::<(), _>("no courier")));
                let billing = || node(&broker, "b").service("billing").with(CatchUp::new(server.tables()));
                let hears = |emitter: &Emitter| {
                    emitter
                        .on::<OrderCreated>()
                        .allow_remote()
                        .name("bill")
                        .run(|_: Event<OrderCreated>| std::future::ready(()))
                };
                let first = billing().start().await.unwrap();
                hears(&first);
                let lag = |arguments: &[&str]| cli.report("lag", &[&["lag"][..], arguments].concat());
                eventually(|| !lag(&[]).0["mirror"]["writers"][0]["node"].is_null()).await;
                let ready = || shop.health().reasons.is_empty() && first.health().reasons.is_empty();
                eventually(ready).await;
                write(&shop, &mut db, 0..1);
                let lag_of_billing = |arguments: &[&str]| {
                    let (report, code) = lag(arguments);
                    let node = report["nodes"].as_array().unwrap().iter().find(|node| node["node"] == "billing/b");
                    (node.map(|node| node["behind"].as_u64()), code, report)
                };
                eventually(|| lag_of_billing(&["--max-behind", "0"]).0 == Some(Some(0))).await;
                assert!(first.shutdown(10 * SECOND).await.is_clean());
                write(&shop, &mut db, 1..4);
                // In a lane that billing never heard of it has no position.
                let back = "UPDATE emitter_positions SET sequence = sequence - 3 WHERE node = 'billing/b'";
                db.batch_execute(back).unwrap();
                let far = "INSERT INTO emitter_positions (node, outbox, lane, model, epoch, sequence, noted_at) \
                           VALUES ('far/a', 'another', 0, 'order', 1, 5, '2026-01-01 00:00:00')";
                db.batch_execute(far).unwrap();
                // One that was set back by hand, in a stream of which nothing is settled.
                let odd = "INSERT INTO emitter_positions (node, outbox, lane, model, epoch, sequence, noted_at) \
                           SELECT 'odd/a', outbox_id, 0, 'tag', 1, -2, '2026-01-01 00:00:00' FROM emitter_schema WHERE version = 1";
                db.batch_execute(odd).unwrap();
                let odd = lag(&[]).0["nodes"].as_array().unwrap().iter().find(|node| node["node"] == "odd/a").cloned();
                assert_eq!(odd.map(|node| node["behind"].clone()), Some(json!(2)));
                eventually(|| lag(&[]).0["outbox"]["pending"] == 0).await;
                let (behind, code, report) = lag_of_billing(&["--max-behind", "2", "--max-age", "1h"]);
                assert!(behind.flatten() >= Some(3) && code == 1, "{report}");
                assert!(report["findings"].to_string().contains("billing/b is"), "{report}");
                assert_eq!(lag(&["--max-behind", "1000000"]).1, 0);
                let far = report["nodes"].as_array().unwrap().iter().find(|node| node["node"] == "far/a");
                assert_eq!(far.map(|node| &node["behind"]), Some(&serde_json::Value::Null), "{report}");
                assert!(report["mirror"]["newest_ms"].is_u64(), "{report}");

                let (letters, _) = cli.report("dlq_list", &["dlq", "list", "--limit", "1"]);
                let event = letters["letters"][0]["event"].as_str().unwrap().to_owned();
                let event = &*event;
                assert_eq!(cli.report("dlq_count", &["dlq", "count", "--event", event]).0["total"], 1);
                eventually(|| {
                    let (why, _) = cli.report("why", &["why", event]);
                    why["outbox"][0]["status"] == "COMPLETED" && why["mirror"].as_array().unwrap().len() == 1
                })
                .await;
                db.batch_execute(&format!(
                    "INSERT INTO emitter_inbox (event_id, listener, service, claimed_at) \
                     VALUES ('{event}', 'bill', 'billing', CURRENT_TIMESTAMP)"
                ))
                .unwrap();
                let (why, code) = cli.report("why", &["why", event]);
                assert_eq!((code, &why["outbox"][0]["key"], &why["mirror"][0]["origin"]), (1, &json!("0"), &json!("shop/a")));
                let [bill, books, courier] = &why["listeners"].as_array().unwrap()[..] else { panic!("{why}") };
                assert!(bill["listener"] == "bill" && bill["effect_at"].is_string(), "{why}");
                assert_eq!((&books["listener"], &books["status"]), (&json!("books"), &json!("handled")));
                assert_eq!((&courier["listener"], &courier["status"]), (&json!("courier"), &json!("failed")));
                assert_eq!(courier["letters"][0]["failure_reason"], "unhandled: no courier");
                assert!(why["findings"][0].as_str().unwrap().contains("courier of shop did not handle it"), "{why}");
                let text = cli.run(&["why", event]);
                assert!(text.code == 1 && text.out.contains("listener  books of shop: handled"), "{text:?}");
                assert!(text.out.contains("is not known: a broker tells, `--mqtt URL`."), "{text:?}");
                assert!(why["untold"].is_null());
                let nobody = Cli::new([
                    ("EMITTER_DATABASE", crate::command::Address::address(&server)),
                    ("EMITTER_MQTT_URL", "mqtt://me:hunter2@127.0.0.1:9".to_owned()),
                ]);
                let text = nobody.run(&["why", event]);
                assert!(text.out.contains("is not known: the broker: "), "{text:?}");
                assert!(!text.out.contains("hunter2"), "{text:?}");

                // A broker tells who is there; of `bill`, `books` and `courier` something is written down.
                let mail = node(&broker, "c").service("mail").start().await.unwrap();
                let nothing = |_: Event<OrderCreated>| std::future::ready(());
                mail.on::<OrderCreated>().name("own").run(nothing);
                mail.on::<OrderCreated>().allow_remote().name("stamp").run(nothing);
                mail.on::<OrderCreated>().group("post").name("sort").run(nothing);
                shop.on::<OrderCreated>().remote_only().name("others").run(nothing);
                shop.on::<OrderCreated>().name("at-once").run(nothing);
                shop.on::<OrderDeleted>().name("deaths").run(|_: Event<OrderDeleted>| std::future::ready(()));
                let connected = Cli::new([
                    ("EMITTER_DATABASE", crate::command::Address::address(&server)),
                    ("EMITTER_MQTT_URL", broker.url()),
                ]);
                let untold = || {
                    let untold = connected.report("why", &["why", event]).0["untold"].clone();
                    let line = |one: &serde_json::Value| {
                        let word = |name: &str| one[name].as_str().unwrap_or("-").to_owned();
                        format!("{} of {}, {}: {}", word("listener"), word("node"), word("group"), word("meaning"))
                    };
                    untold.as_array().unwrap().iter().map(line).collect::<Vec<_>>()
                };
                eventually(|| untold().len() == 6).await;
                let expected = [
                    "own of mail/c, -: it hears its own node alone",
                    "sort of mail/c, post: its node began later, or again",
                    "stamp of mail/c, -: its node began later, or again",
                    "at-once of shop/a, -: it handled it at once, was added later, or its filter held it back",
                    "deaths of shop/a, -: it hears another operation",
                    "others of shop/a, -: it hears the other nodes alone",
                ];
                assert_eq!(untold(), expected);
                let text = connected.run(&["why", event]);
                assert!(text.out.contains("untold    at-once of shop/a: it handled it at once"), "{text:?}");
                // Without a mirror the row itself tells what it is.
                db.batch_execute(&format!("DELETE FROM emitter_events_mirror WHERE event_id = '{event}'")).unwrap();
                assert_eq!((connected.report("why", &["why", event]).0["mirror"].clone(), untold()), (json!([]), expected.map(str::to_owned).to_vec()));
                assert!(mail.shutdown(10 * SECOND).await.is_clean());

                let unknown = "01890000-0000-7000-8000-000000000000";
                let (why, code) = cli.report("why", &["why", unknown]);
                assert!(code == 1 && why["findings"][0].as_str().unwrap().contains("knows nothing"), "{why}");
                assert_eq!(cli.run(&["why", "no-id"]).code, 2);

                assert!(shop.shutdown(10 * SECOND).await.is_clean());
                let (report, code) = lag(&[]);
                assert!(code == 1 && report["findings"].to_string().contains("nobody writes the mirror"), "{report}");
            }
        }
    };
}
