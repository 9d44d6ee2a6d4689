//! From the transactions of sixteen writers to what a mirror has, tells and replays: the whole way, through an outbox and over
//! a broker.
//!
//! Not on SQLite, where whoever writes is alone: nobody has an early id there that others pass.

use diesel::prelude::*;
use emitter_tests::servers::Mosquitto;

use super::*;

diesel::table! {
    sales {
        id -> BigInt,
        text -> Text,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create, durable)]
struct Sale {
    id: i64,
    text: String,
}

/// That of which the transaction is under way before all others, and ends after them.
const EARLY: i64 = 0;

const WRITERS: i64 = 16;

/// What a listener was handed: the key, and whether by a replay.
type Handed = Arc<Mutex<Vec<(i64, bool)>>>;

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    number: i64,
}

/// In order, for each is there once.
fn sorted(keys: impl IntoIterator<Item = i64>) -> Vec<i64> {
    let mut keys: Vec<i64> = keys.into_iter().collect();
    keys.sort_unstable();
    keys
}

fn keys<'a>(events: impl IntoIterator<Item = &'a MirroredEvent>) -> Vec<i64> {
    sorted(events.into_iter().map(|event| event.key.as_ref().unwrap().parse().unwrap()))
}

/// A suite of a database where whoever has written the early row into the outbox waits for a lock.
macro_rules! transactions {
    ($name:ident: $server:ty, $waits:expr, $lock:literal, $waiting:literal, $unlock:literal) => {
        mod $name {
            use std::sync::atomic::{AtomicBool, Ordering};

            use diesel::connection::SimpleConnection;
            use diesel::result::Error;
            use emitter_core::Event;
            use emitter_diesel::mirror::{Mirror, ReplayOptions};
            use emitter_diesel::{Bind, Emit};

            use super::super::databases::Database;
            use super::*;

            type Conn = <$server as Database>::Conn;

            /// Waits until so many are committed.
            fn until(conn: &mut Conn, what: &str, enough: fn(i64) -> bool) {
                let (begun, count) =
                    (std::time::Instant::now(), format!("SELECT COUNT(*) AS number FROM {what}"));
                while !enough(diesel::sql_query(&count).get_result::<Number>(conn).unwrap().number) {
                    assert!(begun.elapsed() < 30 * SECOND, "{what}");
                    std::thread::sleep(Duration::from_millis(5));
                }
            }

            struct Ends<'o>(&'o AtomicBool);

            impl Drop for Ends<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::SeqCst);
                }
            }

            /// A transaction of one sale, which is taken back, or not.
            fn sell(emitter: &Emitter, conn: &mut Conn, id: i64, stays: bool) {
                let sale = Sale { id, text: format!("sale {id}") };
                let sold = emitter.bind(conn).unwrap().transaction(|conn| {
                    let _: Sale = diesel::insert_into(sales::table).values(&sale).emit().get_result(conn)?;
                    if stays { Ok(()) } else { Err(Error::RollbackTransaction) }
                });
                let rolled_back = matches!(sold, Err(Error::RollbackTransaction));
                assert!(sold.is_ok() && stays || rolled_back && !stays, "{id}: {sold:?}");
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn sixteen_writers_and_one_that_holds_an_early_id_are_heard_as_they_committed() {
                let (each, hold) = if is_full() { (625, 60 * SECOND) } else { (60, Duration::ZERO) };
                let server = <$server>::with_tables();
                let broker = Mosquitto::builder().max_queued_messages(100_000).start();
                let node =
                    |service| Emitter::builder().service(service).node("a").mqtt(broker.url().as_str());
                let audit = node("audit").with(Mirror::new(server.tables())).start().await.unwrap();
                writes(&audit).await;
                let desk = node("desk").start().await.unwrap();
                let handed = Handed::default();
                let hand = Arc::clone(&handed);
                desk.on::<SaleCreated>().allow_remote().run(move |event: Event<SaleCreated>| {
                    hand.lock().unwrap().push((event.row.id, event.meta().again().is_some()));
                    std::future::ready(())
                });
                desk.connected(10 * SECOND).await.unwrap();
                let shop = node("shop").with(server.outbox()).start().await.unwrap();
                // Its outbox keeps what listeners of its own are not done with.
                shop.on::<SaleCreated>().run(|_| std::future::ready(()));
                shop.connected(10 * SECOND).await.unwrap();
                let mut db = server.connect();
                db.batch_execute("CREATE TABLE sales (id BIGINT PRIMARY KEY, text VARCHAR(99) NOT NULL)")
                    .unwrap();
                $waits.iter().for_each(|sql: &&str| db.batch_execute(sql).unwrap());

                let over = AtomicBool::new(false);
                let recorded = |wanted| tokio::runtime::Handle::current().block_on(recorded(&audit, wanted));
                let tailed = tokio::task::block_in_place(|| {
                    std::thread::scope(|scope| {
                        let tail = scope.spawn(|| {
                            let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                            let mut tail = mirrored.tail(Selection::default());
                            let mut events = Vec::new();
                            loop {
                                let last = over.load(Ordering::SeqCst);
                                let came = tail.next(Duration::from_millis(20)).unwrap();
                                if last && came.is_empty() {
                                    return events;
                                }
                                events.extend(came);
                            }
                        });
                        // Again and again from where the last one ended.
                        let replays = scope.spawn(|| {
                            let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                            let mut after = None;
                            loop {
                                let last = over.load(Ordering::SeqCst);
                                let selection = Selection { after, ..Selection::default() };
                                let replay =
                                    mirrored.replay(&desk, selection, ReplayOptions::default()).unwrap();
                                let done = replay.finish().unwrap();
                                assert_eq!((done.failed, done.unheard), (0, 0), "{done:?}");
                                after = Some(done.cursor);
                                if last {
                                    return;
                                }
                                std::thread::sleep(Duration::from_millis(20));
                            }
                        });
                        // Dropped where an assertion fails, too, or the others would never end.
                        let (ends, mut held) = (Ends(&over), server.connect());
                        held.batch_execute($lock).unwrap();
                        let early = scope.spawn(|| sell(&shop, &mut server.connect(), EARLY, true));
                        // It has its number in the outbox.
                        let begun = std::time::Instant::now();
                        until(&mut held, $waiting, |waiting| waiting > 0);
                        let writers: Vec<_> = (1..=WRITERS)
                            .map(|writer| {
                                let (shop, server) = (&shop, &server);
                                scope.spawn(move || {
                                    let mut db = server.connect();
                                    (0..each)
                                        .for_each(|n| sell(shop, &mut db, writer * 10_000 + n, n % 2 == 0));
                                })
                            })
                            .collect();
                        writers.into_iter().for_each(|writer| writer.join().unwrap());
                        // Every other one of each, and the first.
                        let passed = (WRITERS * ((each + 1) / 2)).unsigned_abs();
                        recorded(passed);
                        until(&mut held, "emitter_outbox", |rows| rows == 0);
                        std::thread::sleep(hold.saturating_sub(begun.elapsed()));
                        assert!(!early.is_finished());
                        held.batch_execute($unlock).unwrap();
                        early.join().unwrap();
                        recorded(passed + 1);
                        drop(ends);
                        replays.join().unwrap();
                        tail.join().unwrap()
                    })
                });

                let committed: Vec<i64> =
                    sales::table.select(sales::id).order(sales::id).load(&mut db).unwrap();
                assert_eq!(committed.first(), Some(&EARLY));
                let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                assert_eq!(keys(&all(&mut mirrored)), committed, "the mirror");
                assert_eq!(keys(&tailed), committed, "the tail");
                let by = |replay| {
                    let handed = handed.lock().unwrap();
                    sorted(handed.iter().filter(|(_, replayed)| *replayed == replay).map(|(key, _)| *key))
                };
                emitter_tests::eventually::eventually(|| by(false).len() >= committed.len()).await;
                assert_eq!(by(false), committed, "the listener");
                assert_eq!(by(true), committed, "the replays");
                assert_eq!(
                    tailed.last().and_then(|event| event.key.as_deref()),
                    Some("0"),
                    "others passed it"
                );
                for emitter in [shop, desk, audit] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }
        }
    };
}

transactions!(
    postgres: emitter_tests::servers::Postgres,
    [
        "CREATE FUNCTION waits() RETURNS trigger AS \
         'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END' LANGUAGE plpgsql",
        "CREATE TRIGGER waits AFTER INSERT ON emitter_outbox FOR EACH ROW WHEN (NEW.record_id = '0') \
         EXECUTE FUNCTION waits()",
    ],
    "SELECT pg_advisory_lock(7)",
    "pg_locks WHERE locktype = 'advisory' AND NOT granted",
    "SELECT pg_advisory_unlock(7)"
);
transactions!(
    mariadb: emitter_tests::servers::MariaDb,
    [
        "CREATE TRIGGER waits AFTER INSERT ON emitter_outbox FOR EACH ROW \
         IF NEW.record_id = '0' THEN DO GET_LOCK('seven', 600); END IF",
    ],
    "DO GET_LOCK('seven', 600)",
    "information_schema.processlist WHERE state = 'User lock'",
    "DO RELEASE_LOCK('seven')"
);
