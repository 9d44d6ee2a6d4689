//! The suite, as a macro: of a database's type.

macro_rules! suite {
    ($name:ident: $server:ty) => {
        mod $name {
            use diesel::prelude::*;
            use diesel::result::Error;
            use emitter_core::StartError;
            use emitter_core::receipt::Way;
            use emitter_diesel::outbox::{Control, Outbox, RelayConfig};
            use emitter_diesel::tables::Tables;
            use emitter_diesel::{Bind, Bound, Emit, Receipt, delete, update};
            use emitter_tests::eventually::eventually;

            use super::databases::Database;
            use super::*;

            type Conn = <$server as Database>::Conn;

            #[derive(QueryableByName)]
            struct Count {
                #[diesel(sql_type = diesel::sql_types::BigInt)]
                count: i64,
            }

            fn count(conn: &mut Conn, what: &str) -> i64 {
                let rows: Vec<Count> =
                    diesel::sql_query(format!("SELECT COUNT(*) AS count FROM {what}")).load(conn).unwrap();
                rows[0].count
            }

            /// Waits until there are so many.
            #[track_caller]
            fn until(conn: &mut Conn, what: &str, wanted: i64) {
                let begun = std::time::Instant::now();
                tokio::task::block_in_place(|| {
                    while count(conn, what) != wanted {
                        assert!(begun.elapsed() < 20 * SECOND, "{what}: {} and not {wanted}", count(conn, what));
                        std::thread::sleep(Duration::from_millis(5));
                    }
                });
            }

            fn create(conn: &mut Bound<'_, Conn>, id: i64) -> QueryResult<Order> {
                diesel::insert_into(orders::table)
                    .values(&Order { id, step: 0 })
                    .emit()
                    .durable()
                    .get_result(conn)
            }

            fn step(conn: &mut Bound<'_, Conn>, order: &Order) -> QueryResult<Order> {
                update(order).set(orders::step.eq(orders::step + 1)).emit().durable().get_result(conn)
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_is_committed_is_relayed_and_moves_to_the_history() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let (ear, heard) = Ear::start(&broker).await;
                let emitter = builder(&broker, "a").with(server.outbox()).start().await.unwrap();
                let mut db = server.connect();
                {
                    let conn = &mut emitter.bind(&mut db).unwrap();
                    // By itself, in a transaction, and in one that is taken back in part.
                    let one = create(conn, 1).unwrap();
                    conn.transaction(|conn| {
                        let one = step(conn, &one)?;
                        create(conn, 2)?;
                        step(conn, &one)
                    })
                    .unwrap();
                    conn.transaction(|conn| {
                        create(conn, 3)?;
                        let inner: QueryResult<()> = conn.transaction(|conn| {
                            create(conn, 4)?;
                            Err(Error::RollbackTransaction)
                        });
                        assert!(inner.is_err());
                        create(conn, 5)
                    })
                    .unwrap();
                    let undone: QueryResult<()> = conn.transaction(|conn| {
                        create(conn, 6)?;
                        Err(Error::RollbackTransaction)
                    });
                    assert!(undone.is_err());
                    // What fails has no event, and leaves no transaction behind.
                    assert!(create(conn, 1).is_err());
                    create(conn, 7).unwrap();
                }
                eventually(|| heard.len() >= 7).await;
                let expected = [(1, vec![0, 1, 2]), (2, vec![0]), (3, vec![0]), (5, vec![0]), (7, vec![0])];
                assert_eq!(heard.steps(), BTreeMap::from(expected));
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                assert_eq!(count(&mut db, "emitter_outbox"), 0);
                assert_eq!(count(&mut db, "emitter_history WHERE status = 'COMPLETED'"), 7);
                assert_eq!(count(&mut db, "emitter_lanes WHERE owner IS NOT NULL"), 0);
                assert_eq!(count(&mut db, "emitter_relays"), 0);
                assert_eq!(heard.len(), 7);
                assert!(ear.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_update_may_tell_what_differs_alone() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let ear = builder(&broker, "ear").start().await.unwrap();
                let heard = Arc::new(Mutex::new(Vec::new()));
                let log = Arc::clone(&heard);
                ear.on::<PageUpdated>().allow_remote().run(move |event: Event<PageUpdated>| {
                    let old = event.changed().text().and_then(|text| text.old.cloned());
                    log.lock().unwrap().push((event.before.clone(), event.after.clone(), old));
                    std::future::ready(())
                });
                ear.connected(10 * SECOND).await.unwrap();
                let emitter = builder(&broker, "a").with(server.outbox()).start().await.unwrap();
                let mut db = server.connect();
                let page = |text: &str| Page { id: 1, text: text.to_owned() };
                {
                    let conn = &mut emitter.bind(&mut db).unwrap();
                    diesel::insert_into(notes::table).values(page("old")).execute(conn).unwrap();
                    let old = page("old");
                    let _: Page = update(&old).set(notes::text.eq("new")).emit().get_result(conn).unwrap();
                }
                eventually(|| heard.lock().unwrap().len() == 1).await;
                let whole = (Some(page("old")), page("new"), Some("old".to_owned()));
                assert_eq!(*heard.lock().unwrap(), [whole]);
                let published = broker.published();
                let sent = published.iter().find(|message| message.topic.ends_with("/page/update")).unwrap();
                let sent: serde_json::Value = serde_json::from_slice(&sent.payload).unwrap();
                assert_eq!((&sent["was"], sent.get("before")), (&serde_json::json!({ "text": "old" }), None));
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                assert!(ear.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_a_skipped_model_nothing_is_written_down() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let (ear, heard) = Ear::start(&broker).await;
                let skipping = builder(&broker, "a").skip_models(["Order"]).with(server.outbox());
                let emitter = skipping.start().await.unwrap();
                let (mut writer, mut db) = (server.connect(), server.connect());
                let conn = &mut emitter.bind(&mut writer).unwrap();
                let one = create(conn, 1).unwrap();
                conn.transaction(|conn| {
                    step(conn, &one)?;
                    let note = Note { id: 1, text: "it goes on".to_owned() };
                    let _: Note = diesel::insert_into(notes::table).values(&note).emit().get_result(conn)?;
                    delete(&one).emit::<Order>().queued().get_result(conn)
                })
                .unwrap();
                create(conn, 2).unwrap();
                until(&mut db, "emitter_history", 1);
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                let rest = ["orders", "notes", "emitter_outbox", "emitter_history WHERE model = 'note'"];
                assert_eq!(rest.map(|table| count(&mut db, table)), [1, 1, 0, 1]);
                assert_eq!(heard.len(), 0);
                assert!(ear.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn local_listeners_have_it_at_once_and_it_stays_until_they_are_done() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let emitter = builder(&broker, "a").with(server.outbox()).start().await.unwrap();
                let (go, wait) = tokio::sync::watch::channel(false);
                emitter.on::<OrderCreated>().run(move |_| {
                    let mut wait = wait.clone();
                    async move { drop(wait.wait_for(|go| *go).await) }
                });
                let mut db = server.connect();
                let receipt = Receipt::new();
                {
                    let conn = &mut emitter.bind(&mut db).unwrap();
                    let insert = diesel::insert_into(orders::table).values(&Order { id: 1, step: 0 });
                    let _: Order = insert.emit().durable().receipt(&receipt).get_result(conn).unwrap();
                }
                let [fate] = &receipt.fates()[..] else { panic!("{receipt:?}") };
                assert_eq!((&fate.local, &fate.remote), (&Way::Recorded, &Way::Recorded));
                let mut other = server.connect();
                // Published, and not handled.
                until(&mut other, "emitter_outbox WHERE status = 'PROCESSING'", 1);
                assert_eq!(count(&mut other, "emitter_history"), 0);
                go.send_replace(true);
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                assert_eq!(count(&mut db, "emitter_outbox"), 0);
                assert_eq!(count(&mut db, "emitter_history WHERE sequence = 1"), 1);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_a_life_left_to_its_listeners_the_next_one_hands_them() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                // The same node again, and another one of its service when the lease has run out.
                for (left_by, found_by) in [("a", "a"), ("b", "c")] {
                    let config = RelayConfig { lease: SECOND, ..RelayConfig::default() };
                    let start = |node| builder(&broker, node).with(server.outbox().relay(config)).start();
                    let first = start(left_by).await.unwrap();
                    first.on::<OrderCreated>().run(|_| std::future::pending::<()>());
                    let mut db = server.connect();
                    diesel::delete(orders::table).execute(&mut db).unwrap();
                    {
                        let conn = &mut first.bind(&mut db).unwrap();
                        (1..=50).try_for_each(|id| create(conn, id).map(|_| ())).unwrap();
                    }
                    // Its listeners never come to an end, and it leaves no word: as good as killed.
                    crate::kill(first);
                    let second = start(found_by).await.unwrap();
                    let heard = Ear::default();
                    let ear = heard.clone();
                    second.on::<OrderCreated>().run(move |event: Event<OrderCreated>| {
                        assert_eq!(event.source(), emitter_core::Source::Local);
                        ear.hear(&event, &event.row);
                        std::future::ready(())
                    });
                    eventually(|| heard.len() >= 50).await;
                    until(&mut db, "emitter_outbox", 0);
                    assert!(second.shutdown(10 * SECOND).await.is_clean());
                    assert_eq!(heard.steps().into_keys().collect::<Vec<_>>(), (1..=50).collect::<Vec<_>>());
                    assert_eq!(heard.len(), 50);
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_listeners_had_no_room_for_they_are_handed_later() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let config = RelayConfig { lease: SECOND, ..RelayConfig::default() };
                let builder = builder(&broker, "a").listener_queue(20).listener_concurrency(1).with(server.outbox().relay(config));
                let emitter = builder.start().await.unwrap();
                let heard = Ear::default();
                let ear = heard.clone();
                emitter.on::<OrderCreated>().run(move |event: Event<OrderCreated>| {
                    let ear = ear.clone();
                    async move {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        ear.hear(&event, &event.row);
                    }
                });
                let mut db = server.connect();
                tokio::task::block_in_place(|| {
                    let conn = &mut emitter.bind(&mut db).unwrap();
                    let all: QueryResult<()> =
                        conn.transaction(|conn| (1..=200).try_for_each(|id| create(conn, id).map(|_| ())));
                    all.unwrap();
                });
                assert!(emitter.stats().overflowed == 0, "nothing is lost, so that nothing is counted as such");
                until(&mut db, "emitter_outbox", 0);
                assert_eq!(heard.steps().len(), 200);
                assert_eq!(heard.len(), 200);
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_node_without_a_way_to_others_writes_what_others_relay() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let (ear, heard) = Ear::start(&broker).await;
                let writer = Emitter::builder().service("shop").node("cron").with(server.outbox().without_relay());
                let writer = writer.start().await.unwrap();
                let mut db = server.connect();
                {
                    let conn = &mut writer.bind(&mut db).unwrap();
                    let _: Order = create(conn, 1).unwrap();
                    // What is not durable stays there.
                    let insert = diesel::insert_into(orders::table).values(&Order { id: 2, step: 0 });
                    let _: Order = insert.emit().get_result(conn).unwrap();
                }
                // One that relays and has no way to others, either, takes nothing from the one that has.
                let idle = Emitter::builder().service("shop").node("idle").with(server.outbox());
                let idle = idle.start().await.unwrap();
                let relay = builder(&broker, "relay").with(server.outbox()).start().await.unwrap();
                eventually(|| heard.len() == 1).await;
                until(&mut db, "emitter_outbox", 0);
                assert_eq!(heard.steps(), BTreeMap::from([(1, vec![0])]));
                for emitter in [writer, idle, relay, ear] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn the_history_is_cleared_of_what_is_old() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                // Also by a node that has local listeners alone.
                let alone = || Emitter::builder().service("shop").node("c").select_listeners(|_| false);
                for (builder, keep, ids, left) in [
                    (builder(&broker, "a"), 3600 * SECOND, 0..5, 5),
                    (builder(&broker, "b"), Duration::ZERO, 0..0, 0),
                    (builder(&broker, "d"), 3600 * SECOND, 5..10, 5),
                    (alone(), 3600 * SECOND, 0..0, 5),
                    (alone(), Duration::ZERO, 0..0, 0),
                ] {
                    let outbox = server.outbox().relay(RelayConfig { keep, ..RelayConfig::default() });
                    let emitter = builder.with(outbox).start().await.unwrap();
                    let mut db = server.connect();
                    {
                        let conn = &mut emitter.bind(&mut db).unwrap();
                        ids.into_iter().try_for_each(|id| create(conn, id).map(|_| ())).unwrap();
                    }
                    until(&mut db, "emitter_outbox", 0);
                    until(&mut db, "emitter_history", left);
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_transaction_whose_event_cannot_be_written_down_fails() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let without = builder(&broker, "a").start().await.unwrap();
                let mut db = server.connect();
                {
                    let conn = &mut without.bind(&mut db).unwrap();
                    let error = create(conn, 1).unwrap_err().to_string();
                    assert!(error.contains(".with("), "{error}");
                    // The model says it, too.
                    let note = Note { id: 1, text: String::new() };
                    let insert = diesel::insert_into(notes::table).values(&note).emit::<Note>();
                    assert!(insert.execute(conn).is_err());
                    assert!(create(conn, 1).is_err(), "the connection is as it was");
                    let plain: QueryResult<usize> =
                        diesel::insert_into(orders::table).values(&Order { id: 9, step: 0 }).execute(conn);
                    assert_eq!(plain, Ok(1));
                }
                assert_eq!(count(&mut db, "orders"), 1);
                assert_eq!(count(&mut db, "notes"), 0);

                let outbox = server.outbox();
                let emitter = builder(&broker, "b").max_payload(600).with(outbox).start().await.unwrap();
                let conn = &mut emitter.bind(&mut db).unwrap();
                let large = Note { id: 2, text: "a".repeat(1000) };
                let insert = diesel::insert_into(notes::table).values(&large).emit::<Note>();
                let error = insert.execute(conn).unwrap_err().to_string();
                assert!(error.contains("cannot be written into the outbox"), "{error}");
                let small = Note { id: 3, text: "'; $e0$ \\' \u{e4} \0".replace('\0', "") };
                diesel::insert_into(notes::table).values(&small).emit::<Note>().execute(conn).unwrap();
                let found: Vec<Note> = notes::table.load(conn).unwrap();
                assert_eq!(found, [small]);
                for emitter in [without, emitter] {
                    let _ = emitter.shutdown(10 * SECOND).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_operator_pauses_it_and_sees_what_waits() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let (ear, heard) = Ear::start(&broker).await;
                let emitter = builder(&broker, "a").with(server.outbox()).start().await.unwrap();
                let mut db = server.connect();
                create(&mut emitter.bind(&mut db).unwrap(), 1).unwrap();
                eventually(|| heard.len() == 1).await;
                let mut control = Control::open(&server.tables()).unwrap();
                assert!(control.drain(10 * SECOND).unwrap());
                let state = control.state().unwrap();
                assert_eq!((state.pending, state.oldest, state.paused), (0, None, false));
                assert_eq!((state.lanes, state.owned), (16, 16));
                control.pause().unwrap();
                // Another handle sees it, too.
                assert!(Control::open(&server.tables()).unwrap().state().unwrap().paused);
                for id in 2..5 {
                    create(&mut emitter.bind(&mut db).unwrap(), id).unwrap();
                }
                assert!(!control.drain(SECOND / 2).unwrap());
                let state = control.state().unwrap();
                assert_eq!((state.pending, state.paused, heard.len()), (3, true, 1));
                let oldest = state.oldest.unwrap();
                assert!(oldest >= SECOND / 2 && oldest < 10 * SECOND, "{oldest:?}");
                control.resume().unwrap();
                eventually(|| heard.len() == 4).await;
                assert!(control.drain(10 * SECOND).unwrap());
                for emitter in [ear, emitter] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_start_without_tables_says_what_to_do() {
                let server = <$server>::start();
                let broker = MemoryBroker::new();
                let start = || builder(&broker, "a").with(Outbox::new(Tables::new(server.connector()))).start();
                let error = start().await.unwrap_err();
                assert!(matches!(error, StartError::Companion { name: "outbox", .. }), "{error:?}");
                assert!(error.to_string().contains(".migrate()"), "{error}");
                // Several at once, and once more.
                let starts = (0..4).map(|node| {
                    let builder = builder(&broker, &format!("node-{node}"));
                    builder.with(server.outbox()).start()
                });
                for emitter in futures_util::future::join_all(starts).await {
                    assert!(emitter.unwrap().shutdown(10 * SECOND).await.is_clean());
                }
                assert!(start().await.unwrap().shutdown(10 * SECOND).await.is_clean());
                // Those of a program that is newer.
                let newer = "INSERT INTO emitter_schema (version, outbox_id, lanes, applied_at) \
                             VALUES (99, 'x', 16, CURRENT_TIMESTAMP)";
                tokio::task::block_in_place(|| diesel::sql_query(newer).execute(&mut server.connect())).unwrap();
                let error = start().await.unwrap_err().to_string();
                assert!(error.contains("of version 99") && error.contains("update the program"), "{error}");
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn no_more_is_on_its_way_than_there_may_be() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let (ear, heard) = Ear::start(&broker).await;
                let config = RelayConfig { window: 5, ..RelayConfig::default() };
                let relay = builder(&broker, "a").with(server.outbox().relay(config)).start().await.unwrap();
                relay.connected(10 * SECOND).await.unwrap();
                broker.pause();
                let unconfirmed = || relay.transport_status().unwrap().unconfirmed;
                let mut db = server.connect();
                tokio::task::block_in_place(|| {
                    let conn = &mut relay.bind(&mut db).unwrap();
                    conn.transaction(|conn| (0..100).try_for_each(|id| create(conn, id).map(drop))).unwrap();
                });
                eventually(|| unconfirmed() >= 5).await;
                tokio::time::sleep(SECOND).await;
                // Besides these, what nodes say to each other.
                assert!(unconfirmed() < 10, "{}", unconfirmed());
                broker.resume();
                eventually(|| heard.len() == 100).await;
                for emitter in [relay, ear] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_large_events_no_more_are_on_their_way_than_a_transport_takes() {
                const EVENTS: usize = 9_000;
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let config = RelayConfig { window: 20_000, batch: 20_000, ..RelayConfig::default() };
                let relay = builder(&broker, "a").with(server.outbox().relay(config)).start().await.unwrap();
                relay.connected(10 * SECOND).await.unwrap();
                broker.pause();
                let mut db = server.connect();
                tokio::task::block_in_place(|| {
                    // So that many are there at once.
                    let control = &mut Control::open(&server.tables()).unwrap();
                    control.pause().unwrap();
                    let conn = &mut relay.bind(&mut db).unwrap();
                    let insert = |conn: &mut Bound<'_, Conn>, id: i64| {
                        let note = Note { id, text: "x".repeat(2_000) };
                        diesel::insert_into(notes::table).values(&note).emit::<Note>().execute(conn)
                    };
                    for ids in 0..9 {
                        let mut ids = 1_000 * ids..1_000 * ids + 1_000;
                        conn.transaction(|conn| ids.try_for_each(|id| insert(conn, id).map(drop))).unwrap();
                    }
                    control.resume().unwrap();
                });
                let published = || relay.transport_status().unwrap().unconfirmed;
                eventually(|| published() > 3_000).await;
                tokio::time::sleep(2 * SECOND).await;
                // 16 MiB of them, each of which has its text twice.
                assert!(published() < 4_200, "{}", published());
                broker.resume();
                eventually(|| broker.published().len() >= EVENTS).await;
                until(&mut db, "emitter_outbox", 0);
                assert!(relay.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn relays_share_the_work_and_keep_the_order() {
                let (rows, keys) = super::size();
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let writer = builder(&broker, "writer").with(server.outbox().without_relay());
                let writer = writer.start().await.unwrap();
                for relays in [1, 2, 4, 8] {
                    let (ear, heard) = Ear::start(&broker).await;
                    let mut db = server.connect();
                    tokio::task::block_in_place(|| {
                        let conn = &mut writer.bind(&mut db).unwrap();
                        diesel::delete(orders::table).execute(conn).unwrap();
                        let mut all: Vec<Order> = Vec::new();
                        conn.transaction(|conn| {
                            for id in 0..keys {
                                all.push(create(conn, id)?);
                            }
                            QueryResult::Ok(())
                        })
                        .unwrap();
                        for _ in 1..rows / keys {
                            conn.transaction(|conn| {
                                for order in &mut all {
                                    *order = step(conn, order)?;
                                }
                                QueryResult::Ok(())
                            })
                            .unwrap();
                        }
                    });
                    let relays = (0..relays).map(|relay| {
                        let config = RelayConfig { lease: 3 * SECOND, batch: 100, ..RelayConfig::default() };
                        let builder = builder(&broker, &format!("relay-{relay}"));
                        builder.with(server.outbox().relay(config)).start()
                    });
                    let relays = futures_util::future::join_all(relays).await;
                    let expected = usize::try_from(rows).unwrap();
                    let begun = std::time::Instant::now();
                    while heard.len() < expected && begun.elapsed() < 600 * SECOND {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    println!("{} relays: {} rows in {:?}", relays.len(), rows, begun.elapsed());
                    for relay in relays {
                        assert!(relay.unwrap().shutdown(10 * SECOND).await.is_clean());
                    }
                    let steps: Vec<i64> = (0..rows / keys).collect();
                    let inverted = heard.steps().into_iter().filter(|(_, heard)| *heard != steps).count();
                    assert_eq!((heard.len(), heard.steps().len(), inverted), (expected, usize::try_from(keys).unwrap(), 0));
                    assert_eq!(count(&mut db, "emitter_outbox"), 0);
                    assert!(ear.shutdown(10 * SECOND).await.is_clean());
                    // Listeners hear nothing of what came twice.
                    assert_eq!(ear.stats().duplicates, 0, "each row is sent once");
                }
                let _ = writer.shutdown(10 * SECOND).await;
                // Each stream of the history counts without a gap.
                let gaps = "(SELECT lane, model, COUNT(*) AS n, MAX(sequence) AS last, COUNT(DISTINCT sequence) AS d \
                            FROM emitter_history GROUP BY lane, model) AS s WHERE n <> last OR d <> n";
                assert_eq!(count(&mut server.connect(), gaps), 0);
            }

        }
    };
}
