//! Events that are written into the outbox after their commit.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_async::AsyncConnection;
use emitter_core::EmitOptions;
use emitter_core::receipt::Loss;
use emitter_diesel::outbox::QueueConfig;
use emitter_diesel::{Bind, BoundAsync, Emit, Receipt, update};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::Postgres;

use super::databases::Database;
use super::*;

macro_rules! queued {
    ($name:ident: $server:ty) => {
        mod $name {
            use diesel::connection::SimpleConnection;
            use diesel::prelude::*;
            use diesel::result::Error;
            use emitter_core::dead_letter::Reason;
            use emitter_core::receipt::{Loss, Way};
            use emitter_core::retry::Backoff;
            use emitter_diesel::outbox::{Outbox, QueueConfig, RelayConfig};
            use emitter_diesel::tables::Tables;
            use emitter_diesel::{Bind, Bound, Emit, Receipt, update};
            use emitter_tests::eventually::eventually;
            use emitter_tests::frail::{Breaker, Moment};

            use crate::databases::Database;
            use crate::*;

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
                        assert!(
                            begun.elapsed() < 20 * SECOND,
                            "{what}: {} and not {wanted}",
                            count(conn, what)
                        );
                        std::thread::sleep(Duration::from_millis(5));
                    }
                });
            }

            fn create(conn: &mut Bound<'_, Conn>, id: i64, receipt: &Receipt) -> QueryResult<Order> {
                let order = Order { id, step: 0 };
                let insert = diesel::insert_into(orders::table).values(&order);
                insert.emit().queued().receipt(receipt).get_result(conn)
            }

            fn step(conn: &mut Bound<'_, Conn>, order: &Order) -> QueryResult<Order> {
                update(order).set(orders::step.eq(orders::step + 1)).emit().queued().get_result(conn)
            }

            /// Takes the table away, so that the database refuses what is to be written into it.
            fn hide(conn: &mut Conn) {
                conn.batch_execute("ALTER TABLE emitter_outbox RENAME TO hidden").unwrap();
            }

            fn show(conn: &mut Conn) {
                conn.batch_execute("ALTER TABLE hidden RENAME TO emitter_outbox").unwrap();
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn connections_that_break_at_any_statement_lose_nothing_and_double_nothing() {
                let server = <$server>::with_tables();
                let (broker, breaker) = (MemoryBroker::new(), Breaker::default());
                let (ear, heard) = Ear::start(&broker).await;
                let outbox = Outbox::new(Tables::new(breaker.around(server.connector())).migrate());
                let emitter = builder(&broker, "a").with(outbox).start().await.unwrap();
                let mut db = server.connect();
                let moments = [None, Some(Moment::Before), Some(Moment::After)];
                let mut round = 0;
                for first in [Moment::Before, Moment::After] {
                    for second in moments {
                        for third in moments {
                            let plan = [Some(first), second, third];
                            breaker.plan("INSERT INTO emitter_outbox", plan);
                            let conn = &mut emitter.bind(&mut db).unwrap();
                            conn.transaction(|conn| {
                                (0..3).try_for_each(|id| {
                                    create(conn, 3 * round + id, &Receipt::new()).map(drop)
                                })
                            })
                            .unwrap();
                            round += 1;
                            let all = usize::try_from(3 * round).unwrap();
                            let begun = std::time::Instant::now();
                            while heard.len() < all || !breaker.is_done() {
                                assert!(begun.elapsed() < 20 * SECOND, "{plan:?}: {} of {all}", heard.len());
                                tokio::time::sleep(Duration::from_millis(2)).await;
                            }
                        }
                    }
                }
                let each: BTreeMap<i64, Vec<i64>> = (0..3 * round).map(|id| (id, vec![0])).collect();
                assert_eq!(heard.steps(), each);
                assert_eq!(emitter.stats().queue_failed, 0);
                until(&mut db, "emitter_outbox", 0);
                assert_eq!(count(&mut db, "emitter_history"), 3 * round);
                for emitter in [emitter, ear] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_is_committed_is_written_afterwards_and_relayed() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let (ear, heard) = Ear::start(&broker).await;
                let emitter = builder(&broker, "a").with(server.outbox()).start().await.unwrap();
                let mut db = server.connect();
                let (kept, undone) = (Receipt::new(), Receipt::new());
                {
                    let conn = &mut emitter.bind(&mut db).unwrap();
                    let one = create(conn, 1, &kept).unwrap();
                    conn.transaction(|conn| {
                        let one = step(conn, &one)?;
                        create(conn, 2, &kept)?;
                        // In one transaction with events of other kinds.
                        let insert = diesel::insert_into(orders::table).values(&Order { id: 3, step: 0 });
                        let _: Order = insert.emit().durable().receipt(&kept).get_result(conn)?;
                        let insert = diesel::insert_into(orders::table).values(&Order { id: 4, step: 0 });
                        let _: Order = insert.emit().get_result(conn)?;
                        step(conn, &one)
                    })
                    .unwrap();
                    conn.transaction(|conn| {
                        let inner: QueryResult<()> = conn.transaction(|conn| {
                            create(conn, 5, &undone)?;
                            Err(Error::RollbackTransaction)
                        });
                        assert!(inner.is_err());
                        create(conn, 6, &kept)
                    })
                    .unwrap();
                    let whole: QueryResult<()> = conn.transaction(|conn| {
                        create(conn, 7, &undone)?;
                        Err(Error::RollbackTransaction)
                    });
                    assert!(whole.is_err());
                    assert!(create(conn, 1, &undone).is_err());
                }
                assert_eq!(kept.recorded().await, Ok(()));
                for fate in kept.fates() {
                    let ways = [&fate.local, &fate.remote, &fate.outbox];
                    assert_eq!(ways, [&Way::NotMeant, &Way::Recorded, &Way::Recorded]);
                }
                assert_eq!(undone.recorded().await, Ok(()));
                assert!(undone.fates().iter().all(|fate| fate.outbox == Way::Withdrawn), "{undone:?}");
                eventually(|| heard.len() >= 7).await;
                let expected = [(1, vec![0, 1, 2]), (2, vec![0]), (3, vec![0]), (4, vec![0]), (6, vec![0])];
                assert_eq!(heard.steps(), BTreeMap::from(expected));
                let stats = emitter.stats();
                assert_eq!((stats.queued, stats.queue_written, stats.queue_failed), (5, 5, 0));
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                assert_eq!(count(&mut db, "emitter_outbox"), 0);
                assert_eq!(count(&mut db, "emitter_history WHERE status = 'COMPLETED'"), 6);
                assert_eq!(heard.len(), 7);
                assert!(ear.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn who_awaits_it_finds_the_row() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let outbox = server.outbox().without_relay();
                let emitter = builder(&broker, "a").with(outbox).start().await.unwrap();
                let mut db = server.connect();
                for id in 1..=20 {
                    let receipt = Receipt::new();
                    create(&mut emitter.bind(&mut db).unwrap(), id, &receipt).unwrap();
                    assert_eq!(receipt.recorded().await, Ok(()));
                    assert_eq!(count(&mut db, "emitter_outbox"), id);
                }
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn without_an_outbox_nothing_is_written_at_all() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let emitter = builder(&broker, "a").start().await.unwrap();
                let mut db = server.connect();
                let error = create(&mut emitter.bind(&mut db).unwrap(), 1, &Receipt::new()).unwrap_err();
                assert!(error.to_string().contains(".with("), "{error}");
                assert_eq!(count(&mut db, "orders"), 0);
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn listeners_here_are_called_at_once_and_once() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let config = RelayConfig { lease: SECOND, ..RelayConfig::default() };
                let outbox = server.outbox().relay(config);
                let emitter = builder(&broker, "a").with(outbox).start().await.unwrap();
                let calls = Ear::default();
                let (ear, (go, wait)) = (calls.clone(), tokio::sync::watch::channel(false));
                emitter.on::<OrderCreated>().run(move |event: Event<OrderCreated>| {
                    let mut wait = wait.clone();
                    ear.hear(&event, &event.row);
                    async move {
                        // One is done before it is written, the other one long after.
                        if event.row.id == 2 {
                            drop(wait.wait_for(|go| *go).await);
                        }
                    }
                });
                let (mut db, receipt) = (server.connect(), Receipt::new());
                hide(&mut db);
                {
                    let conn = &mut emitter.bind(&mut db).unwrap();
                    create(conn, 1, &receipt).unwrap();
                    create(conn, 2, &receipt).unwrap();
                    let insert = diesel::insert_into(orders::table).values(&Order { id: 3, step: 0 });
                    let local: QueryResult<Order> =
                        insert.emit().local_only().queued().receipt(&receipt).get_result(conn);
                    local.unwrap();
                }
                eventually(|| calls.len() == 3).await;
                assert!(
                    receipt.fates().iter().all(|fate| fate.local == Way::Taken && fate.outbox == Way::Open)
                );
                show(&mut db);
                assert_eq!(receipt.recorded().await, Ok(()));
                until(&mut db, "emitter_history", 2);
                // Some rounds in which rows are looked for that nobody has in hand.
                tokio::time::sleep(2 * SECOND).await;
                assert_eq!(count(&mut db, "emitter_outbox WHERE status = 'PROCESSING'"), 1);
                go.send_replace(true);
                until(&mut db, "emitter_history", 3);
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                assert_eq!(calls.len(), 3);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_the_database_refuses_three_times_is_a_dead_letter() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let (ear, heard) = Ear::start(&broker).await;
                let emitter = builder(&broker, "a").with(server.outbox()).start().await.unwrap();
                let (mut db, receipt) = (server.connect(), Receipt::new());
                hide(&mut db);
                {
                    let conn = &mut emitter.bind(&mut db).unwrap();
                    (1..=3).try_for_each(|id| create(conn, id, &receipt).map(drop)).unwrap();
                }
                assert_eq!(emitter.queue_status().unwrap().waiting, 3);
                let begun = std::time::Instant::now();
                let lost = receipt.recorded().await.unwrap_err();
                let Loss::Unwritten { attempts: 3, error } = &lost else { panic!("{lost:?}") };
                assert!(error.contains("emitter_outbox"), "{error}");
                assert!(begun.elapsed() > 2 * SECOND, "it was tried again too soon: {:?}", begun.elapsed());
                eventually(|| emitter.stats().queue_failed == 3).await;
                let letters = emitter.dead_letters();
                assert_eq!(letters.len(), 3);
                for (letter, fate) in letters.iter().zip(receipt.fates()) {
                    assert_eq!((letter.reason, letter.event), (Reason::Unpublished, Some(fate.id)));
                    assert_eq!(
                        (&fate.remote, &fate.outbox),
                        (&Way::Lost(lost.clone()), &Way::Lost(lost.clone()))
                    );
                    assert!(letter.original_topic.ends_with("order/create"), "{letter:?}");
                    assert!(std::str::from_utf8(&letter.payload).unwrap().contains("\"step\":0"));
                }
                // It goes on with what comes.
                show(&mut db);
                create(&mut emitter.bind(&mut db).unwrap(), 4, &receipt).unwrap();
                eventually(|| heard.len() == 1).await;
                assert_eq!(heard.steps(), BTreeMap::from([(4, vec![0])]));
                for emitter in [emitter, ear] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn how_often_and_when_it_is_tried_again_can_be_said() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let backoff = Backoff { base: Duration::from_millis(20), cap: SECOND, jitter: Duration::ZERO };
                for (attempts, within) in [(1, 0..2_900), (4, 140..2_900)] {
                    let queue = QueueConfig { attempts, backoff, ..QueueConfig::default() };
                    let emitter = builder(&broker, "a").with(server.outbox().queue(queue)).start().await.unwrap();
                    let (mut db, receipt) = (server.connect(), Receipt::new());
                    hide(&mut db);
                    let begun = std::time::Instant::now();
                    create(&mut emitter.bind(&mut db).unwrap(), attempts.into(), &receipt).unwrap();
                    let lost = receipt.recorded().await.unwrap_err();
                    let took = begun.elapsed().as_millis();
                    assert!(matches!(&lost, Loss::Unwritten { attempts: tried, .. } if *tried == attempts), "{lost:?}");
                    assert!(within.contains(&took), "{attempts} attempts took {took} ms");
                    show(&mut db);
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn no_more_wait_than_may_and_a_shutdown_says_what_it_left() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let queue = QueueConfig { capacity: 10, late: Duration::ZERO, ..QueueConfig::default() };
                let emitter = builder(&broker, "a").with(server.outbox().queue(queue)).start().await.unwrap();
                let calls = Ear::default();
                let ear = calls.clone();
                emitter.on::<OrderCreated>().run(move |event: Event<OrderCreated>| {
                    ear.hear(&event, &event.row);
                    std::future::ready(())
                });
                let (mut db, kept, refused) = (server.connect(), Receipt::new(), Receipt::new());
                hide(&mut db);
                {
                    let conn = &mut emitter.bind(&mut db).unwrap();
                    (1..=10).try_for_each(|id| create(conn, id, &kept).map(drop)).unwrap();
                    (11..=15).try_for_each(|id| create(conn, id, &refused).map(drop)).unwrap();
                }
                assert_eq!(refused.recorded().await, Err(Loss::QueueFull));
                eventually(|| calls.len() == 15).await;
                let stats = emitter.stats();
                assert_eq!((stats.queued, stats.queue_refused), (10, 5));
                let health = emitter.health();
                let queue = health.queue.unwrap();
                assert!(queue.waiting == 10 && queue.oldest > Duration::ZERO, "{queue:?}");
                assert!(health.reasons.iter().any(|reason| reason.contains("10 events wait")), "{health:?}");
                // The database is not there in time.
                let report = emitter.shutdown(Duration::from_millis(300)).await;
                assert_eq!((report.unwritten, report.is_clean()), (10, false));
                assert_eq!(kept.recorded().await, Err(Loss::ShutDown));
                assert_eq!(emitter.stats().queue_failed, 10);
                show(&mut db);
                tokio::time::sleep(2 * SECOND).await;
                assert_eq!(
                    count(&mut db, "emitter_outbox"),
                    0,
                    "what is reported as lost does not come later"
                );
                // What comes afterwards is refused, and told.
                create(&mut emitter.bind(&mut db).unwrap(), 16, &refused).unwrap();
                assert_eq!(refused.fates().last().unwrap().outbox, Way::Lost(Loss::ShutDown));
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_shutdown_writes_what_waits_and_others_relay_it_in_order() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let (ear, heard) = Ear::start(&broker).await;
                let writer =
                    Emitter::builder().service("shop").node("writer").with(server.outbox().without_relay());
                let writer = writer.start().await.unwrap();
                let (rows, keys) = (size().0.min(4_000), 40);
                tokio::task::block_in_place(|| {
                    std::thread::scope(|scope| {
                        for part in 0..4 {
                            let (writer, server) = (&writer, &server);
                            scope.spawn(move || {
                                let mut db = server.connect();
                                let conn = &mut writer.bind(&mut db).unwrap();
                                // Each has keys of its own: across connections the order is that in which commits returned.
                                let mine = || (0..keys).filter(|key| key % 4 == part);
                                let all = conn.transaction(|conn| {
                                    mine()
                                        .map(|id| create(conn, id, &Receipt::new()))
                                        .collect::<QueryResult<Vec<_>>>()
                                });
                                let all = all.unwrap();
                                for _ in 1..rows / keys {
                                    all.iter().try_for_each(|order| step(conn, order).map(drop)).unwrap();
                                }
                            });
                        }
                    });
                });
                let report = writer.shutdown(20 * SECOND).await;
                assert!(report.is_clean(), "{report:?}");
                let mut db = server.connect();
                assert_eq!(count(&mut db, "emitter_outbox"), rows);
                assert_eq!(writer.stats().queue_written, u64::try_from(rows).unwrap());
                let relays = ["b", "c"].map(|node| builder(&broker, node).with(server.outbox()).start());
                let relays = futures_util::future::join_all(relays).await;
                let rows = usize::try_from(rows).unwrap();
                let begun = std::time::Instant::now();
                while heard.len() < rows && begun.elapsed() < 60 * SECOND {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let steps: Vec<i64> = (0..i64::try_from(rows).unwrap() / keys).collect();
                assert_eq!(heard.len(), rows);
                assert!(heard.steps().values().all(|heard| *heard == steps), "{:?}", heard.steps());
                for relay in relays {
                    assert!(relay.unwrap().shutdown(10 * SECOND).await.is_clean());
                }
                assert!(ear.shutdown(10 * SECOND).await.is_clean());
            }
        }
    };
}

queued!(sqlite: crate::databases::Sqlite);
queued!(postgres: emitter_tests::servers::Postgres);
queued!(mariadb: emitter_tests::servers::MariaDb);

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    number: i64,
}

fn number(conn: &mut PgConnection, sql: &str) -> i64 {
    diesel::sql_query(sql).load::<Number>(conn).unwrap()[0].number
}

/// What happened to no row, and is queued though no call says so.
#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event, queued, key(door))]
pub(super) struct DoorOpened {
    pub(super) door: i64,
    pub(super) time: i64,
}

/// A large one.
#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event, queued, key(door))]
struct DoorFilmed {
    door: i64,
    film: String,
}

fn create(
    conn: &mut emitter_diesel::Bound<'_, PgConnection>,
    id: i64,
    receipt: &Receipt,
) -> QueryResult<Order> {
    let order = Order { id, step: 0 };
    diesel::insert_into(orders::table).values(&order).emit().queued().receipt(receipt).get_result(conn)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_written_a_hundred_at_a_time() {
    let server = <Postgres as Database>::with_tables();
    let broker = MemoryBroker::new();
    let emitter = builder(&broker, "a").with(server.outbox().without_relay()).start().await.unwrap();
    let (mut db, receipt) = (server.connect(), Receipt::new());
    db.batch_execute("ALTER TABLE emitter_outbox RENAME TO hidden").unwrap();
    let all = emitter
        .bind(&mut db)
        .unwrap()
        .transaction(|conn| (0..350).try_for_each(|id| create(conn, id, &receipt).map(drop)));
    all.unwrap();
    db.batch_execute("ALTER TABLE hidden RENAME TO emitter_outbox").unwrap();
    assert_eq!(receipt.recorded().await, Ok(()));
    // Each statement is a transaction.
    let batches = "FROM (SELECT COUNT(*) AS size FROM emitter_outbox GROUP BY xmin::text) AS batches";
    assert_eq!(number(&mut db, &format!("SELECT MAX(size) AS number {batches}")), 100);
    let count = number(&mut db, &format!("SELECT COUNT(*) AS number {batches}"));
    assert!((4..=5).contains(&count), "{count} batches");
    let in_order = "SELECT COUNT(*) AS number FROM (SELECT record_id::int AS key, row_number() OVER (ORDER BY id) AS place \
                    FROM emitter_outbox) AS rows WHERE key = place - 1";
    assert_eq!(number(&mut db, in_order), 350);
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_the_database_cannot_take_takes_no_other_along() {
    let server = <Postgres as Database>::with_tables();
    let broker = MemoryBroker::new();
    let emitter = builder(&broker, "a").with(server.outbox().without_relay()).start().await.unwrap();
    let mut db = server.connect();
    db.batch_execute("ALTER TABLE emitter_outbox ADD CHECK (record_id <> '13')").unwrap();
    let receipts: Vec<Receipt> = (0..40).map(|_| Receipt::new()).collect();
    let all = emitter.bind(&mut db).unwrap().transaction(|conn| {
        (0..).zip(&receipts).try_for_each(|(id, receipt)| create(conn, id, receipt).map(drop))
    });
    all.unwrap();
    for (id, receipt) in receipts.iter().enumerate() {
        let recorded = receipt.recorded().await;
        let is_bad = matches!(recorded, Err(Loss::Unwritten { attempts: 3, .. }));
        assert!(if id == 13 { is_bad } else { recorded == Ok(()) }, "{id}: {recorded:?}");
    }
    assert_eq!(number(&mut db, "SELECT COUNT(DISTINCT event_id) AS number FROM emitter_outbox"), 39);
    assert_eq!(number(&mut db, "SELECT COUNT(*) AS number FROM emitter_outbox"), 39);
    assert_eq!((emitter.stats().queue_failed, emitter.dead_letters().len()), (1, 1));
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_delays_and_loses_nothing() {
    let mut server = <Postgres as Database>::with_tables();
    let broker = MemoryBroker::new();
    let ear = builder(&broker, "ear").start().await.unwrap();
    let heard = Ear::default();
    let hearing = heard.clone();
    ear.on::<DoorOpened>().remote_only().run(move |event: Event<DoorOpened>| {
        hearing.hear(&event, &Order { id: event.door, step: event.time });
        std::future::ready(())
    });
    ear.connected(10 * SECOND).await.unwrap();
    let queue = QueueConfig { late: 2 * SECOND, ..QueueConfig::default() };
    let emitter = builder(&broker, "a").with(server.outbox().queue(queue)).start().await.unwrap();
    let mut time = 0;
    let mut open = |doors: i64| {
        for door in 0..doors {
            emitter.publish(DoorOpened { door, time });
        }
        time += 1;
    };
    open(10);
    eventually(|| heard.len() == 10).await;
    // Longer than all attempts together take.
    for _ in 0..2 {
        tokio::task::block_in_place(|| server.kill());
        for _ in 0..12 {
            open(10);
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        let health = emitter.health();
        let queue = health.queue.unwrap();
        assert!(queue.waiting >= 110 && queue.oldest > 4 * SECOND, "{queue:?}");
        assert!(health.reasons.iter().any(|reason| reason.contains("the oldest for ")), "{health:?}");
        tokio::task::block_in_place(|| server.restart());
        eventually(|| emitter.queue_status().unwrap().waiting == 0).await;
        assert_eq!(emitter.queue_status().unwrap().oldest, Duration::ZERO);
    }
    eventually(|| heard.len() >= 250).await;
    let times: Vec<i64> = (0..25).collect();
    assert!(heard.steps().values().all(|heard| *heard == times), "{:?}", heard.steps());
    let stats = emitter.stats();
    assert_eq!((stats.queue_written, stats.queue_failed, stats.dead_letters), (250, 0, 0));
    assert_eq!(heard.len(), 250);
    for emitter in [emitter, ear] {
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }
}

/// Ends the sessions that wait for this, until one at such a statement was among them.
fn end_waiting(conn: &mut PgConnection, event: &str, statement: &str) {
    // In one statement, which sees one moment.
    let end = format!(
        "SELECT COUNT(*) FILTER (WHERE ended AND query LIKE '{statement}') AS number FROM (SELECT query, \
         pg_terminate_backend(pid) AS ended FROM pg_stat_activity WHERE {event} AND pid <> pg_backend_pid() OFFSET 0) AS waiting"
    );
    let begun = std::time::Instant::now();
    while number(conn, &end) == 0 {
        assert!(begun.elapsed() < 20 * SECOND, "nobody waits at {statement}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_bytes_wait_than_may() {
    let server = <Postgres as Database>::with_tables();
    let broker = MemoryBroker::new();
    let queue = QueueConfig { bytes: 4 << 20, ..QueueConfig::default() };
    let outbox = server.outbox().without_relay().queue(queue);
    let emitter = builder(&broker, "a").with(outbox).start().await.unwrap();
    let mut db = server.connect();
    let film = |films: i64| {
        for door in 0..films {
            emitter.publish_with(DoorFilmed { door, film: "x".repeat(100_000) }, EmitOptions::default());
        }
    };
    for _ in 0..2 {
        let before = emitter.stats();
        db.batch_execute("BEGIN; LOCK TABLE emitter_outbox IN ACCESS EXCLUSIVE MODE").unwrap();
        film(200);
        let stats = emitter.stats();
        // Those that are not measured, and 41.
        assert_eq!(stats.queued - before.queued, 64 + 41);
        assert_eq!(stats.queue_refused - before.queue_refused, 200 - 64 - 41);
        db.batch_execute("COMMIT").unwrap();
        // What was written makes room.
        eventually(|| emitter.queue_status().unwrap().waiting == 0).await;
    }
    assert_eq!(emitter.stats().queue_written, 2 * (64 + 41));
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_no_attempt() {
    let server = <Postgres as Database>::with_tables();
    let broker = MemoryBroker::new();
    let emitter = builder(&broker, "a").with(server.outbox().without_relay()).start().await.unwrap();
    let (mut db, mut other, receipt) = (server.connect(), server.connect(), Receipt::new());
    create(&mut emitter.bind(&mut db).unwrap(), 1, &receipt).unwrap();
    assert_eq!(receipt.recorded().await, Ok(()));
    db.batch_execute("BEGIN; LOCK TABLE emitter_outbox IN ACCESS EXCLUSIVE MODE").unwrap();
    let options = EmitOptions::default().receipt(&receipt);
    emitter.publish_with(DoorOpened { door: 1, time: 0 }, options);
    for _ in 0..5 {
        let event = "wait_event_type = 'Lock'";
        tokio::task::block_in_place(|| end_waiting(&mut other, event, "%emitter_outbox%"));
    }
    db.batch_execute("COMMIT").unwrap();
    assert_eq!(receipt.recorded().await, Ok(()));
    assert_eq!(number(&mut db, "SELECT COUNT(*) AS number FROM emitter_outbox"), 2);
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_though_no_answer_came_is_not_written_again() {
    let server = <Postgres as Database>::with_tables();
    let broker = MemoryBroker::new();
    let emitter = builder(&broker, "a").with(server.outbox().without_relay()).start().await.unwrap();
    let (mut db, receipt) = (server.connect(), Receipt::new());
    // What is committed waits for a second server, which never comes: then it stays, and the connection ends.
    db.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").unwrap();
    db.batch_execute("SELECT pg_reload_conf()").unwrap();
    tokio::time::sleep(SECOND).await;
    let options = EmitOptions::default().receipt(&receipt);
    emitter.publish_with(DoorOpened { door: 1, time: 0 }, options);
    let insert = "INSERT INTO emitter_outbox%";
    tokio::task::block_in_place(|| end_waiting(&mut db, "wait_event = 'SyncRep'", insert));
    db.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").unwrap();
    db.batch_execute("SELECT pg_reload_conf()").unwrap();
    assert_eq!(receipt.recorded().await, Ok(()));
    assert_eq!(number(&mut db, "SELECT COUNT(*) AS number FROM emitter_outbox"), 1);
    assert_eq!(emitter.stats().queue_written, 1);
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_connection_queues_as_well() {
    async fn create(
        conn: &mut BoundAsync<'_, diesel_async::AsyncPgConnection>,
        id: i64,
        receipt: &Receipt,
    ) -> QueryResult<Order> {
        let order = Order { id, step: 0 };
        diesel::insert_into(orders::table)
            .values(&order)
            .emit()
            .queued()
            .receipt(receipt)
            .get_result(conn)
            .await
    }

    let server = <Postgres as Database>::with_tables();
    let broker = MemoryBroker::new();
    let (ear, heard) = Ear::start(&broker).await;
    let without = builder(&broker, "b").start().await.unwrap();
    let emitter = builder(&broker, "a").with(server.outbox()).start().await.unwrap();
    let mut db = diesel_async::AsyncPgConnection::establish(&server.url()).await.unwrap();
    let receipt = Receipt::new();
    let refused = create(&mut without.bind(&mut db).unwrap(), 1, &receipt).await;
    assert!(refused.unwrap_err().to_string().contains(".with("));
    {
        let conn = &mut emitter.bind(&mut db).unwrap();
        let one = create(conn, 1, &receipt).await.unwrap();
        let kept: QueryResult<Order> = conn
            .transaction(async |conn| {
                create(conn, 2, &receipt).await?;
                update(&one).set(orders::step.eq(1)).emit().queued().get_result(conn).await
            })
            .await;
        kept.unwrap();
        let undone: QueryResult<()> = conn
            .transaction(async |conn| {
                create(conn, 3, &receipt).await?;
                Err(diesel::result::Error::RollbackTransaction)
            })
            .await;
        assert!(undone.is_err());
        // An error that is ignored: the database would answer the COMMIT with a silent rollback.
        let ignored: QueryResult<()> = conn
            .transaction(async |conn| {
                create(conn, 4, &receipt).await?;
                assert!(create(conn, 1, &receipt).await.is_err());
                Ok(())
            })
            .await;
        assert!(ignored.is_err());
        let count: i64 = diesel_async::RunQueryDsl::get_result(orders::table.count(), conn).await.unwrap();
        assert_eq!(count, 2);
    }
    assert_eq!(receipt.recorded().await, Ok(()));
    eventually(|| heard.len() >= 3).await;
    assert_eq!(heard.steps(), BTreeMap::from([(1, vec![0, 1]), (2, vec![0])]));
    assert_eq!(emitter.stats().queued, 3);
    for emitter in [emitter, without, ear] {
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }
}
