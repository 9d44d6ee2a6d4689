//! The suite, as a macro: of a database, a connection to it, and the words that make a listener asynchronous.

macro_rules! suite {
    ($name:ident: $server:ty, $bill:literal, $pack:literal, $connection:ty, [$($dsl:tt)*], $manager:path, $sleep:path $(, $async:ident $await:ident)?;
     |$of:ident| $inbox:expr) => {
        mod $name {
            use diesel::prelude::ExpressionMethods;
            use diesel::result::QueryResult;
            use emitter_core::{Context, Event, State};
            use emitter_diesel::inbox::{Inbox, InboxTx};
            use emitter_diesel::{Bind, Emit, EmittingTransactionManager, TransactionTimeout, listener};
            use emitter_tests::eventually::eventually;
            use $($dsl)* as _;
            use $manager as Manager;

            use super::away::Away;
            use super::databases::Database;
            use super::*;

            type Connection = $connection;

            #[listener(model = "order", name = $bill, allow_remote)]
            $($async)? fn bill(
                event: Event<OrderCreated>,
                script: State<Script>,
                mut tx: InboxTx<'_, Connection>,
                context: Context,
            ) -> Result<(), String> {
                let Order { id: order_id, cents } = event.row;
                assert_eq!(context.id(), event.id());
                let bill = Bill { id: fastrand::i64(..), order_id, cents };
                let insert = diesel::insert_into(bills::table).values(&bill);
                let written: QueryResult<Bill> = insert.emit().durable().get_result(&mut *tx)$(.$await)?;
                written.map_err(|error| error.to_string())?;
                match script.next() {
                    Act::Bill => {}
                    Act::Fail => return Err("no money".to_owned()),
                    Act::Panic => panic!("no paper"),
                    Act::Take(millis) => $sleep(Duration::from_millis(millis))$(.$await)?,
                    Act::Ignore => {
                        let ignored = diesel::sql_query("SELECT * FROM nowhere").execute(&mut *tx)$(.$await)?;
                        assert!(ignored.is_err());
                    }
                    Act::Promise => {
                        let promise = diesel::insert_into(promises::table).values(promises::customer.eq(order_id));
                        promise.execute(&mut *tx)$(.$await)?.map_err(|error| error.to_string())?;
                    }
                    Act::Keep => std::mem::forget(tx),
                    Act::Open => {
                        let open = <EmittingTransactionManager as Manager<_>>::begin_transaction(&mut *tx)$(.$await)?;
                        open.map_err(|error| error.to_string())?;
                    }
                }
                Ok(())
            }

            /// What the first one wrote is heard, and has an effect of its own.
            #[listener(model = "bill", name = $pack, allow_remote)]
            $($async)? fn pack(event: Event<BillCreated>, mut tx: InboxTx<'_, Connection>, script: State<Script>) -> QueryResult<()> {
                let parcel = diesel::insert_into(parcels::table).values(parcels::order_id.eq(event.row.order_id));
                parcel.execute(&mut *tx)$(.$await)??;
                if script.0.careless.swap(false, Ordering::Relaxed) {
                    assert!(diesel::sql_query("SELECT * FROM nowhere").execute(&mut *tx)$(.$await)?.is_err());
                }
                Ok(())
            }

            fn inbox($of: &$server) -> Inbox<Connection> {
                $inbox
            }

            /// A node of a service, with everything in one database.
            async fn start(server: &$server, broker: &MemoryBroker, service: &str, node: &str, script: &Script) -> Emitter {
                start_with(builder(broker, service, node), server, script).await
            }

            async fn start_with(builder: Builder, server: &$server, script: &Script) -> Emitter {
                let builder = builder.select_listeners(|info| [$bill, $pack].contains(&&*info.name));
                builder.state(script.clone()).with(server.outbox()).with(inbox(server)).start().await.unwrap()
            }

            fn replay(emitter: &Emitter, events: &[Vec<u8>]) {
                for event in events {
                    emitter.replay(event).unwrap();
                }
            }

            #[derive(diesel::QueryableByName)]
            struct Count {
                #[diesel(sql_type = diesel::sql_types::BigInt)]
                count: i64,
            }

            fn counts(server: &$server, tables: [&str; 3]) -> [i64; 3] {
                let mut conn = server.connect();
                tables.map(|table| {
                    let query = diesel::sql_query(format!("SELECT COUNT(*) AS count FROM {table}"));
                    let rows: Vec<Count> = diesel::RunQueryDsl::load(query, &mut conn).unwrap();
                    rows[0].count
                })
            }

            /// Waits until there are so many marks, bills and parcels, and looks whether it stays so.
            #[track_caller]
            fn settles(server: &$server, wanted: [i64; 3]) -> impl Future<Output = ()> {
                let caller = std::panic::Location::caller();
                async move {
                    let begun = std::time::Instant::now();
                    let found = || counts(server, ["emitter_inbox", "bills", "parcels"]);
                    while found() != wanted && begun.elapsed() < 20 * SECOND {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    assert_eq!(found(), wanted, "marks, bills, parcels: {caller}");
                }
            }

            fn stats(emitter: &Emitter) -> (u64, u64) {
                let stats = emitter.state::<Inbox<Connection>>().unwrap().stats();
                (stats.claimed, stats.already_done)
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_event_has_its_effect_once_however_often_it_comes() {
                let (server, events) = (<$server>::with_tables(), published(1..=20).await);
                let broker = MemoryBroker::new();
                // In one life, in the next one, and on another node of the service.
                for (node, lives) in [("a", 2), ("b", 1)] {
                    for life in 0..lives {
                        let emitter = start(&server, &broker, "shop", node, &Script::default()).await;
                        replay(&emitter, &events);
                        replay(&emitter, &events);
                        eventually(|| stats(&emitter).0 + stats(&emitter).1 >= 40).await;
                        settles(&server, [40, 20, 20]).await;
                        if (node, life) != ("a", 0) {
                            assert_eq!(stats(&emitter), (0, 40), "{node}, life {life}");
                        }
                        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                    }
                }
                // Another service has effects of its own.
                let other = start(&server, &MemoryBroker::new(), "audit", "a", &Script::default()).await;
                replay(&other, &events);
                settles(&server, [80, 40, 40]).await;
                assert!(other.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_two_nodes_at_once_one_has_it() {
                let (server, events) = (<$server>::with_tables(), published(1..=30).await);
                let broker = MemoryBroker::new();
                let slow = || Script::of([Act::Take(20); 30]);
                let nodes = [("a", slow()), ("b", slow())];
                let [a, b] = &nodes;
                let a = start(&server, &broker, "shop", a.0, &a.1).await;
                let b = start(&server, &broker, "shop", b.0, &b.1).await;
                for event in &events {
                    a.replay(event).unwrap();
                    b.replay(event).unwrap();
                }
                settles(&server, [60, 30, 30]).await;
                assert_eq!(nodes.iter().map(|(_, script)| script.calls()).sum::<usize>(), 30);
                let claimed = stats(&a).0 + stats(&b).0;
                assert_eq!(claimed, 60, "bills and parcels");
                for emitter in [a, b] {
                    assert_eq!(emitter.stats().given_up, 0);
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn the_time_out_of_transactions_is_none_of_a_listeners() {
                let (server, events) = (<$server>::with_tables(), published(1..=2).await);
                let builder = builder(&MemoryBroker::new(), "shop", "a");
                let builder = builder.with(TransactionTimeout::of(Duration::from_nanos(1)));
                let emitter = start_with(builder, &server, &Script::of([Act::Take(2); 2])).await;
                replay(&emitter, &events);
                settles(&server, [4, 2, 2]).await;
                assert_eq!(emitter.stats().given_up, 0);
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_error_and_a_panic_leave_neither_effect_nor_mark() {
                let (server, events) = (<$server>::with_tables(), published([1]).await);
                // Two calls in vain, and one that is not; then an event that is given up.
                let script = Script::of([Act::Fail, Act::Panic, Act::Bill, Act::Fail, Act::Panic, Act::Fail]);
                let emitter = start(&server, &MemoryBroker::new(), "shop", "a", &script).await;
                replay(&emitter, &events);
                settles(&server, [2, 1, 1]).await;
                let more = published([2]).await;
                replay(&emitter, &more);
                eventually(|| emitter.stats().given_up == 1).await;
                settles(&server, [2, 1, 1]).await;
                // Its letter is of the same event.
                let letters = emitter.dead_letters();
                emitter.replay_letter(&letters[0]).unwrap();
                settles(&server, [4, 2, 2]).await;
                emitter.replay_letter(&letters[0]).unwrap();
                eventually(|| stats(&emitter).1 == 1).await;
                assert_eq!((script.calls(), letters.len()), (7, 1));
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                settles(&server, [4, 2, 2]).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_call_that_takes_too_long_commits_nothing() {
                let (server, events) = (<$server>::with_tables(), published([1]).await);
                let script = Script::of([Act::Take(2_600)]);
                let builder = builder(&MemoryBroker::new(), "shop", "a").listener_timeout(2 * SECOND);
                let emitter = start_with(builder, &server, &script).await;
                replay(&emitter, &events);
                settles(&server, [2, 1, 1]).await;
                // The second call has waited for the end of the first, and done it.
                assert_eq!((script.calls(), emitter.stats().timed_out), (2, 1));
                tokio::time::sleep(SECOND).await;
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                settles(&server, [2, 1, 1]).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_is_not_really_committed_is_not_done() {
                let (server, events) = (<$server>::with_tables(), published([1]).await);
                // PostgreSQL answers the COMMIT after an ignored error with a silent rollback.
                let script = Script::of([Act::Ignore, Act::Keep]).careless();
                let emitter = start(&server, &MemoryBroker::new(), "shop", "a", &script).await;
                replay(&emitter, &events);
                settles(&server, [2, 1, 1]).await;
                let failed = if stringify!($name).contains("postgres") { 3 } else { 0 };
                assert_eq!(emitter.stats().failed, failed);
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_transaction_that_a_listener_leaves_open_is_not_done() {
                let (server, events) = (<$server>::with_tables(), published([1]).await);
                let script = Script::of([Act::Open]);
                let emitter = start(&server, &MemoryBroker::new(), "shop", "a", &script).await;
                replay(&emitter, &events);
                settles(&server, [2, 1, 1]).await;
                assert_eq!((script.calls(), emitter.stats().failed), (2, 1));
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_commit_that_fails_is_a_call_that_failed() {
                let (server, events) = (<$server>::with_tables(), published([1]).await);
                let late = diesel::connection::SimpleConnection::batch_execute(&mut server.connect(), LATE_CHECK);
                if stringify!($name).contains("mariadb") {
                    // It checks at once.
                    return assert!(late.is_err());
                }
                late.unwrap();
                let script = Script::of([Act::Promise, Act::Promise]);
                let emitter = start(&server, &MemoryBroker::new(), "shop", "a", &script).await;
                replay(&emitter, &events);
                settles(&server, [2, 1, 1]).await;
                assert_eq!((script.calls(), emitter.stats().failed), (3, 2));
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn events_wait_for_a_database_that_is_away() {
                let (mut server, events) = (<$server>::with_tables(), published(1..=6).await);
                // One call after the waiting fails, and its budget is not used up by that.
                let script = Script::of([Act::Bill, Act::Fail]);
                let retry = Retry { budget: SECOND, ..retry() };
                let builder = builder(&MemoryBroker::new(), "shop", "a").listener_retry(retry);
                let emitter = start_with(builder, &server, &script).await;
                let heard = Arc::new(AtomicUsize::new(0));
                let counts = Arc::clone(&heard);
                let _without = emitter.on::<OrderCreated>().allow_remote().run_blocking(move |_| {
                    counts.fetch_add(1, Ordering::Relaxed);
                });
                replay(&emitter, &events[..1]);
                settles(&server, [2, 1, 1]).await;
                tokio::task::block_in_place(|| server.away());
                replay(&emitter, &events[1..]);
                let waiting = || emitter.state::<Inbox<Connection>>().unwrap().stats().waiting;
                eventually(|| AtomicUsize::load(&heard, Ordering::Relaxed) == 6 && emitter.stats().unready >= 10).await;
                assert_eq!(waiting(), 5);
                let reasons = emitter.health().reasons;
                assert!(reasons.iter().any(|reason| reason.starts_with("inbox: 5 events wait")), "{reasons:?}");
                tokio::time::sleep(2 * SECOND).await;
                assert_eq!((emitter.stats().failed, emitter.stats().given_up, script.calls()), (0, 0, 1));
                tokio::task::block_in_place(|| server.back());
                settles(&server, [12, 6, 6]).await;
                assert_eq!((emitter.stats().failed, emitter.stats().given_up, waiting()), (1, 0, 0));
                let reasons = emitter.health().reasons;
                assert!(!reasons.iter().any(|reason| reason.starts_with("inbox")), "{reasons:?}");
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_connection_that_ends_in_the_middle_of_a_call_is_no_attempt() {
                let (server, events) = (<$server>::with_tables(), published([1]).await);
                let script = Script::of([Act::Take(1_000)]);
                let retry = Retry { attempts: 1, ..retry() };
                let builder = builder(&MemoryBroker::new(), "shop", "a").listener_retry(retry);
                let emitter = start_with(builder, &server, &script).await;
                replay(&emitter, &events);
                eventually(|| script.calls() == 1).await;
                if !tokio::task::block_in_place(|| server.end_sessions()) {
                    return;
                }
                settles(&server, [2, 1, 1]).await;
                let stats = emitter.stats();
                assert_eq!((script.calls(), stats.unready >= 1, stats.failed, stats.given_up), (2, true, 0, 0));
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_node_whose_events_wait_ends_in_time() {
                let (mut server, events) = (<$server>::with_tables(), published(1..=3).await);
                let emitter = start(&server, &MemoryBroker::new(), "shop", "a", &Script::default()).await;
                tokio::task::block_in_place(|| server.away());
                replay(&emitter, &events);
                eventually(|| emitter.stats().unready >= 3).await;
                let begun = std::time::Instant::now();
                let report = emitter.shutdown(SECOND).await;
                assert!(begun.elapsed() < 3 * SECOND, "{:?}", begun.elapsed());
                assert_eq!(report.unfinished, 3);
                // For what the folder is removed with.
                tokio::task::block_in_place(|| server.back());
            }

            fn order(emitter: &Emitter, db: &mut <$server as Database>::Conn, id: i64) {
                let (conn, order) = (&mut emitter.bind(db).unwrap(), Order { id, cents: 100 * id });
                let insert = diesel::insert_into(orders::table).values(&order);
                let written: QueryResult<Order> = insert.emit().durable().get_result(conn);
                assert_eq!(written, Ok(order));
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_chain_of_durable_events_loses_none_and_doubles_none() {
                let server = <$server>::with_tables();
                let (broker, script) = (MemoryBroker::new(), Script::of([Act::Fail, Act::Bill, Act::Panic]));
                // What the one node writes, both hear; and one of them dies in between, with what it had begun.
                let a = start(&server, &broker, "shop", "a", &script).await;
                let b = start(&server, &broker, "shop", "b", &script).await;
                let mut db = server.connect();
                (1..=40).for_each(|id| order(&a, &mut db, id));
                drop(b);
                (41..=60).for_each(|id| order(&a, &mut db, id));
                drop(a);
                let a = start(&server, &broker, "shop", "a", &Script::default()).await;
                let b = start(&server, &broker, "shop", "b", &Script::default()).await;
                settles(&server, [120, 60, 60]).await;
                for emitter in [a, b] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
                settles(&server, [120, 60, 60]).await;
            }
        }
    };
}
