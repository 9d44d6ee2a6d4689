//! A paused outbox hands its own node's listeners nothing, and all of it in order afterwards; as a macro: of a database's
//! type.

macro_rules! paused {
    ($name:ident: $server:ty) => {
        mod $name {
            use std::sync::atomic::{AtomicBool, Ordering};

            use diesel::prelude::*;
            use emitter_diesel::outbox::{Control, RelayConfig};
            use emitter_diesel::{Bind, Emit, update};
            use emitter_tests::eventually::eventually;

            use super::databases::Database;
            use super::*;

            type Conn = <$server as Database>::Conn;

            const KEYS: i64 = 10;

            /// Of such an order the listener comes to no end.
            const ENDLESS: i64 = 1_000;

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

            /// Waits until so many rows are left to be read.
            #[track_caller]
            fn until_left(conn: &mut Conn, wanted: i64) {
                let begun = std::time::Instant::now();
                tokio::task::block_in_place(|| {
                    while count(conn, "emitter_outbox WHERE handler LIKE '%+'") != wanted {
                        assert!(begun.elapsed() < 20 * SECOND);
                        std::thread::sleep(Duration::from_millis(5));
                    }
                });
            }

            /// A node whose listener hears what it writes itself.
            async fn start(server: &$server, broker: &MemoryBroker) -> (Emitter, Ear) {
                // Few at a time, so that it is under way when somebody writes more.
                let config = RelayConfig { lease: SECOND, batch: 50, ..RelayConfig::default() };
                let emitter = builder(broker, "a").with(server.outbox().relay(config)).start().await.unwrap();
                let heard = Ear::default();
                let ear = heard.clone();
                emitter.on::<OrderEvent>().run(move |event: Event<OrderEvent>| {
                    let row = match &*event {
                        OrderEvent::Created(body) => body.row.clone(),
                        OrderEvent::Updated(body) => body.after.clone(),
                        OrderEvent::Deleted(body) => body.row.clone(),
                    };
                    assert_eq!(event.source(), emitter_core::Source::Local);
                    let is_endless = row.id >= ENDLESS;
                    ear.hear(&event, &row);
                    async move {
                        if is_endless {
                            std::future::pending::<()>().await;
                        }
                    }
                });
                (emitter, heard)
            }

            fn create(emitter: &Emitter, db: &mut Conn, id: i64) {
                let order = Order { id, step: 0 };
                let insert = diesel::insert_into(orders::table).values(&order);
                let _: Order = insert.emit().durable().get_result(&mut emitter.bind(db).unwrap()).unwrap();
            }

            /// The next step of each order: of the even ones written down with its row, of the others after it; all by
            /// themselves, or all in one transaction; for other nodes, too, or not.
            fn step(emitter: &Emitter, db: &mut Conn, round: i64) {
                let conn = &mut emitter.bind(db).unwrap();
                let all = |conn: &mut emitter_diesel::Bound<'_, Conn>| -> QueryResult<()> {
                    for id in 0..KEYS {
                        let step = update(orders::table.find(id)).set(orders::step.eq(orders::step + 1));
                        let step = step.emit::<Order>();
                        let step = if id % 3 == 0 { step.local_only() } else { step };
                        let _: Order = match id % 2 {
                            0 => step.durable().get_result(conn)?,
                            _ => step.queued().get_result(conn)?,
                        };
                    }
                    Ok(())
                };
                if round % 2 == 0 { all(conn) } else { conn.transaction(all) }.unwrap();
            }

            /// How many were heard.
            fn number(heard: &Ear) -> i64 {
                i64::try_from(heard.len()).unwrap()
            }

            /// Writes orders until one is left in its row.
            fn until_shut(emitter: &Emitter, db: &mut Conn) -> i64 {
                let begun = std::time::Instant::now();
                for id in KEYS..ENDLESS {
                    create(emitter, db, id);
                    if count(db, "emitter_outbox WHERE handler LIKE '%+'") > 0 {
                        return id + 1;
                    }
                    assert!(begun.elapsed() < 20 * SECOND, "it goes on");
                    std::thread::sleep(Duration::from_millis(20));
                }
                panic!("it goes on");
            }

            #[track_caller]
            fn in_order(heard: &Ear, created: i64, steps: i64) {
                let expected = (0..created).map(|id| (id, (0..=if id < KEYS { steps } else { 0 }).collect()));
                let all: BTreeMap<i64, Vec<i64>> = expected.collect();
                assert_eq!(heard.steps(), all);
                assert_eq!(heard.len(), all.values().map(Vec::len).sum::<usize>(), "none twice");
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn it_hands_listeners_nothing_and_then_all_of_it_in_order() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let (emitter, heard) = start(&server, &broker).await;
                let (mut db, mut other) = (server.connect(), server.connect());
                (0..KEYS).for_each(|id| create(&emitter, &mut db, id));
                let mut control = Control::open(&server.tables()).unwrap();
                assert!(control.drain(10 * SECOND).unwrap(), "{:?}", control.state());
                assert_eq!(number(&heard), KEYS, "drained is what listeners are done with, too");
                control.pause().unwrap();
                let created = tokio::task::block_in_place(|| until_shut(&emitter, &mut db));
                eventually(|| number(&heard) + 1 == created).await;
                let before = heard.len();
                tokio::task::block_in_place(|| (0..10).for_each(|round| step(&emitter, &mut db, round)));
                until_left(&mut other, 10 * KEYS + 1);
                // Several heartbeats.
                tokio::time::sleep(2 * SECOND).await;
                assert_eq!(heard.len(), before);
                assert!(!control.drain(SECOND / 10).unwrap());

                // Somebody writes meanwhile.
                let goes_on = AtomicBool::new(true);
                let rounds = std::thread::scope(|scope| {
                    let writer = scope.spawn(|| {
                        let mut round = 10;
                        while goes_on.load(Ordering::Relaxed) {
                            step(&emitter, &mut db, round);
                            round += 1;
                        }
                        round
                    });
                    tokio::task::block_in_place(|| {
                        std::thread::sleep(SECOND / 4);
                        control.resume().unwrap();
                        std::thread::sleep(2 * SECOND);
                    });
                    goes_on.store(false, Ordering::Relaxed);
                    writer.join().unwrap()
                });
                let all = created + rounds * KEYS;
                let begun = std::time::Instant::now();
                while number(&heard) < all && begun.elapsed() < 60 * SECOND {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                in_order(&heard, created, rounds);
                assert!(control.drain(20 * SECOND).unwrap(), "{:?}", control.state());

                // From some moment on at once again.
                let begun = std::time::Instant::now();
                tokio::task::block_in_place(|| {
                    for id in ENDLESS.. {
                        create(&emitter, &mut db, id);
                        if count(&mut other, "emitter_outbox WHERE handler NOT LIKE '%+'") > 0 {
                            break;
                        }
                        assert!(begun.elapsed() < 20 * SECOND, "it reads its own rows for ever");
                        std::thread::sleep(Duration::from_millis(20));
                    }
                });
                assert!(!control.drain(SECOND / 10).unwrap(), "listeners are not done");
                kill(emitter);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_is_left_outlives_the_node_and_the_next_one_leaves_it_from_its_start() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let (first, heard) = start(&server, &broker).await;
                let mut db = server.connect();
                let mut control = Control::open(&server.tables()).unwrap();
                (0..KEYS).for_each(|id| create(&first, &mut db, id));
                control.pause().unwrap();
                let created = tokio::task::block_in_place(|| {
                    let created = until_shut(&first, &mut db);
                    (0..5).for_each(|round| step(&first, &mut db, round));
                    created
                });
                eventually(|| first.queue_status().is_some_and(|queue| queue.waiting == 0)).await;
                eventually(|| number(&heard) + 1 == created).await;
                tokio::time::sleep(SECOND / 2).await;
                kill(first);
                let (second, after) = start(&server, &broker).await;
                tokio::task::block_in_place(|| (5..8).for_each(|round| step(&second, &mut db, round)));
                // From its first event on.
                until_left(&mut db, 8 * KEYS + 1);
                tokio::time::sleep(2 * SECOND).await;
                assert_eq!(after.len(), 0);
                control.resume().unwrap();
                let all = 8 * KEYS + 1;
                eventually(|| number(&after) >= all).await;
                assert!(control.drain(20 * SECOND).unwrap(), "{:?}", control.state());
                heard.0.lock().unwrap().extend(after.heard());
                in_order(&heard, created, 8);
                assert!(second.shutdown(10 * SECOND).await.is_clean());
            }
        }
    };
}
