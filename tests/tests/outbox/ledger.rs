//! How far listeners are with an event outlives the node that called them; as a macro: of a database's type.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use emitter_core::event::Timestamp;
use emitter_diesel::{Context, listener};

use super::*;

/// What listeners of jobs did on a node, and what they are to do.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    calls: Mutex<Vec<Called>>,
    /// Up to which attempt `flaky` fails.
    pub(crate) fails: AtomicU32,
    /// `patient` comes to an end.
    pub(crate) ends: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Called {
    pub(crate) listener: &'static str,
    pub(crate) id: i64,
    pub(crate) attempt: u32,
    pub(crate) at: Timestamp,
}

impl Desk {
    pub(crate) fn failing(fails: u32) -> Arc<Self> {
        Arc::new(Self { fails: AtomicU32::new(fails), ..Self::default() })
    }

    fn of(context: &Context) -> Arc<Self> {
        let desk = context.emitter().and_then(|emitter| emitter.state::<Arc<Self>>());
        Arc::clone(&desk.expect("the node has a desk"))
    }

    fn note(&self, listener: &'static str, job: &Job, context: &Context) {
        let called = Called { listener, id: job.id, attempt: context.attempt(), at: Timestamp::now() };
        self.calls.lock().unwrap().push(called);
    }

    /// The attempts of one listener, in order.
    pub(crate) fn attempts(&self, listener: &str) -> Vec<u32> {
        self.calls().iter().filter(|call| call.listener == listener).map(|call| call.attempt).collect()
    }

    pub(crate) fn calls(&self) -> Vec<Called> {
        self.calls.lock().unwrap().clone()
    }
}

#[listener(model = "job")]
async fn steady(event: Event<JobCreated>, context: Context) {
    Desk::of(&context).note("steady", &event.row, &context);
}

#[listener(model = "job", retry(attempts = 6, backoff = "500ms", jitter = "0ms"))]
async fn flaky(event: Event<JobCreated>, context: Context) -> Result<(), String> {
    let desk = Desk::of(&context);
    desk.note("flaky", &event.row, &context);
    let attempt = context.attempt();
    if attempt <= desk.fails.load(Ordering::Relaxed) { Err(format!("no {attempt}: 'e$0$\\")) } else { Ok(()) }
}

#[listener(model = "job", retry(attempts = 2, backoff = "1s", jitter = "0ms"))]
async fn hopeless(event: Event<JobCreated>, context: Context) -> Result<(), String> {
    Desk::of(&context).note("hopeless", &event.row, &context);
    Err("it is hopeless".to_owned())
}

#[listener(model = "job")]
async fn patient(event: Event<JobCreated>, context: Context) {
    let desk = Desk::of(&context);
    desk.note("patient", &event.row, &context);
    while !desk.ends.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

macro_rules! ledger {
    ($name:ident: $server:ty) => {
        mod $name {
            use diesel::connection::SimpleConnection;
            use diesel::prelude::*;
            use emitter_diesel::outbox::{Control, Ledger, LedgerEntry, LedgerSelection, LedgerStatus, RelayConfig};
            use emitter_diesel::{Bind, Emit};
            use emitter_tests::eventually::eventually;

            use super::databases::Database;
            use super::ledger::Desk;
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
                        assert!(
                            begun.elapsed() < 20 * SECOND,
                            "{what}: {} and not {wanted}",
                            count(conn, what)
                        );
                        std::thread::sleep(Duration::from_millis(5));
                    }
                });
            }

            /// A node with these listeners of jobs.
            async fn start(
                server: &$server,
                broker: &MemoryBroker,
                node: &str,
                listeners: &'static [&'static str],
                desk: &Arc<Desk>,
            ) -> Emitter {
                let config = RelayConfig { lease: SECOND, ..RelayConfig::default() };
                let builder = builder(broker, node).select_listeners(|info| listeners.contains(&&*info.name));
                let builder = builder.state(Arc::clone(desk)).with(server.outbox().relay(config));
                builder.start().await.unwrap()
            }

            fn create(emitter: &Emitter, db: &mut Conn, ids: std::ops::Range<i64>) {
                let conn = &mut emitter.bind(db).unwrap();
                for id in ids {
                    let insert = diesel::insert_into(jobs::table).values(jobs::id.eq(id));
                    let _: Job = insert.emit().durable().get_result(conn).unwrap();
                }
            }

            fn all(ledger: &Ledger) -> Vec<LedgerEntry> {
                ledger.list(&LedgerSelection::default(), None, 1_000).unwrap()
            }

            /// Listeners, how they stand, and how often they were called.
            fn standing(ledger: &Ledger) -> Vec<(String, LedgerStatus, u32)> {
                all(ledger)
                    .into_iter()
                    .map(|entry| (entry.listener, entry.status, entry.attempts))
                    .collect()
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn who_failed_goes_on_in_the_next_life_and_who_did_not_is_left_alone() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let mut db = server.connect();
                // The same node again, and another one of its service when the lease has run out.
                for (round, (left_by, found_by)) in (1..).zip([("a", "a"), ("b", "c")]) {
                    let desk = Desk::failing(u32::MAX);
                    let first = start(&server, &broker, left_by, &["steady", "flaky"], &desk).await;
                    create(&first, &mut db, round..round + 1);
                    until(&mut db, "emitter_ledger WHERE status = 'RETRYING' AND attempts = 2", 1);
                    kill(first);
                    assert_eq!(desk.attempts("steady"), [1]);
                    let ledger = Ledger::open(&server.tables()).unwrap();
                    let retrying = LedgerStatus::Retrying;
                    let waiting = LedgerSelection { status: Some(retrying), ..LedgerSelection::default() };
                    let [left] = &ledger.list(&waiting, None, 10).unwrap()[..] else {
                        panic!("{ledger:?}")
                    };
                    assert_eq!((&*left.listener, &*left.service, left.status), ("flaky", "shop", retrying));
                    assert_eq!(left.last_error.as_deref(), Some("no 2: 'e$0$\\"));
                    let next_attempt = left.next_attempt.unwrap();
                    assert!(next_attempt > left.updated_at);
                    let of_event = ledger.event(left.event).unwrap();
                    assert_eq!(of_event.len(), 2);
                    assert_eq!(&of_event[0], left);
                    assert_eq!(
                        (&*of_event[1].listener, of_event[1].status),
                        ("steady", LedgerStatus::Handled)
                    );

                    let desk = Desk::failing(3);
                    let second = start(&server, &broker, found_by, &["steady", "flaky"], &desk).await;
                    until(&mut db, "emitter_history", round);
                    let calls = desk.calls();
                    assert_eq!(desk.attempts("flaky"), [3, 4]);
                    assert_eq!(calls.len(), 2, "{calls:?}");
                    let early = next_attempt.as_millis() - calls[0].at.as_millis();
                    assert!(early <= 2, "called {early} ms too early");
                    assert!(second.shutdown(10 * SECOND).await.is_clean());
                    let [flaky, _] = &ledger.event(left.event).unwrap()[..] else { panic!("{ledger:?}") };
                    assert_eq!((flaky.status, flaky.attempts), (LedgerStatus::Handled, 4));
                    assert_eq!(flaky.next_attempt, None);
                    assert_eq!(flaky.last_error.as_deref(), Some("no 3: 'e$0$\\"), "it tells what was wrong");
                    assert_eq!(ledger.list(&waiting, None, 10).unwrap(), []);
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn who_is_given_up_is_one_dead_letter_with_all_attempts_and_not_called_again() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let mut db = server.connect();
                let listeners = &["steady", "hopeless", "patient"];
                let desk = Desk::failing(0);
                let first = start(&server, &broker, "a", listeners, &desk).await;
                create(&first, &mut db, 1..2);
                until(&mut db, "emitter_ledger WHERE listener = 'hopeless' AND status = 'RETRYING'", 1);
                kill(first);
                let desk = Desk::failing(0);
                let second = start(&server, &broker, "a", listeners, &desk).await;
                until(&mut db, "emitter_ledger WHERE listener = 'hopeless' AND status = 'FAILED'", 1);
                let letters = second.dead_letters();
                assert_eq!(letters.len(), 1);
                assert_eq!((letters[0].listener.as_deref(), letters[0].attempts), (Some("hopeless"), 2));
                assert_eq!((desk.attempts("hopeless"), desk.attempts("steady")), (vec![2], Vec::new()));
                // It had not come to an end.
                assert_eq!(desk.attempts("patient"), [1]);
                kill(second);
                let ledger = Ledger::open(&server.tables()).unwrap();
                assert_eq!(
                    standing(&ledger),
                    [
                        ("hopeless".to_owned(), LedgerStatus::Failed, 2),
                        ("steady".to_owned(), LedgerStatus::Handled, 1)
                    ]
                );
                assert_eq!(all(&ledger)[0].last_error.as_deref(), Some("it is hopeless"));
                let desk = Desk::failing(0);
                desk.ends.store(true, std::sync::atomic::Ordering::Relaxed);
                let third = start(&server, &broker, "a", listeners, &desk).await;
                until(&mut db, "emitter_history", 1);
                assert_eq!(desk.calls().len(), 1, "{desk:?}");
                assert_eq!(third.dead_letters().len(), 0);
                assert!(third.shutdown(10 * SECOND).await.is_clean());
                assert_eq!(standing(&ledger).len(), 3, "it is told who was done at last");
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn nothing_is_written_where_nothing_goes_wrong() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let mut db = server.connect();
                let desk = Desk::failing(0);
                let emitter = start(&server, &broker, "a", &["steady", "flaky", "patient"], &desk).await;
                create(&emitter, &mut db, 0..20);
                eventually(|| desk.attempts("patient").len() == 20).await;
                desk.ends.store(true, std::sync::atomic::Ordering::Relaxed);
                until(&mut db, "emitter_history", 20);
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                assert_eq!((desk.calls().len(), count(&mut db, "emitter_ledger")), (60, 0));
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_was_written_leaves_with_its_history() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let mut db = server.connect();
                let desk = Desk::failing(1);
                let emitter = start(&server, &broker, "a", &["steady", "flaky"], &desk).await;
                create(&emitter, &mut db, 0..3);
                until(&mut db, "emitter_history", 3);
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                let ledger = Ledger::open(&server.tables()).unwrap();
                assert_eq!(all(&ledger).len(), 6);
                // By pages, each entry once.
                let (mut seen, mut last) = (Vec::new(), None::<LedgerEntry>);
                loop {
                    let page = ledger.list(&LedgerSelection::default(), last.as_ref(), 4).unwrap();
                    let Some(end) = page.last().cloned() else { break };
                    (last, seen) = (Some(end), [seen, page].concat());
                }
                assert_eq!(seen, all(&ledger));
                let of_flaky =
                    LedgerSelection { listener: Some("flaky".to_owned()), ..LedgerSelection::default() };
                assert_eq!(ledger.list(&of_flaky, None, 10).unwrap().len(), 3);
                // One that is not done keeps what is written of it.
                let desk = Desk::failing(u32::MAX);
                let config = RelayConfig { keep: Duration::ZERO, ..RelayConfig::default() };
                let builder = builder(&broker, "b").state(Arc::clone(&desk));
                let builder = builder.select_listeners(|info| info.name == "flaky");
                let emitter = builder.with(server.outbox().relay(config)).start().await.unwrap();
                until(&mut db, "emitter_history", 0);
                until(&mut db, "emitter_ledger", 0);
                create(&emitter, &mut db, 3..4);
                until(&mut db, "emitter_ledger WHERE status = 'RETRYING'", 1);
                kill(emitter);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn rows_that_say_nothing_of_a_listener_are_ignored() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let mut db = server.connect();
                let desk = Desk::failing(0);
                let first = start(&server, &broker, "a", &["patient"], &desk).await;
                create(&first, &mut db, 1..2);
                eventually(|| desk.calls().len() == 1).await;
                kill(first);
                // Of one that is no more, of another service, and one that no program writes.
                let rows = [
                    ("gone", "shop", "RETRYING", i64::MAX),
                    ("steady", "desk", "HANDLED", 0),
                    ("flaky", "shop", "SICK", -i64::MAX),
                    ("patient", "shop", "RETRYING", -i64::MAX),
                ];
                for (listener, service, status, next) in rows {
                    db.batch_execute(&format!(
                        "INSERT INTO emitter_ledger (event_id, listener, service, status, attempts, next_attempt, updated_at) \
                         SELECT event_id, '{listener}', '{service}', '{status}', -7, {next}, created_at \
                         FROM emitter_outbox"
                    ))
                    .unwrap();
                }
                let desk = Desk::failing(0);
                desk.ends.store(true, std::sync::atomic::Ordering::Relaxed);
                let second = start(&server, &broker, "a", &["steady", "flaky", "patient"], &desk).await;
                until(&mut db, "emitter_history", 1);
                assert_eq!((desk.attempts("steady"), desk.attempts("flaky")), (vec![1], vec![1]));
                // As one that was never called, and is due.
                assert_eq!(desk.attempts("patient"), [1]);
                assert!(second.shutdown(10 * SECOND).await.is_clean());
                let ledger = Ledger::open(&server.tables()).unwrap();
                let waiting =
                    LedgerSelection { status: Some(LedgerStatus::Retrying), ..LedgerSelection::default() };
                assert_eq!(ledger.list(&waiting, None, 10).unwrap(), [], "nobody waits for who is gone");
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn namesakes_are_both_called_again() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let mut db = server.connect();
                let twins = |emitter: &Emitter, fails: bool| {
                    let calls = [(); 2].map(|()| Arc::new(std::sync::atomic::AtomicU32::new(0)));
                    for (place, calls) in calls.iter().cloned().enumerate() {
                        emitter.on::<JobCreated>().name("twin").run(move |_| {
                            calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                            let failed = fails && place == 1;
                            async move { if failed { Err("no") } else { Ok(()) } }
                        });
                    }
                    move || calls.each_ref().map(|calls| calls.load(std::sync::atomic::Ordering::Relaxed))
                };
                let desk = Desk::failing(u32::MAX);
                let first = start(&server, &broker, "a", &["flaky"], &desk).await;
                let called = twins(&first, true);
                create(&first, &mut db, 1..2);
                until(&mut db, "emitter_ledger WHERE listener = 'flaky'", 1);
                eventually(|| !called().contains(&0)).await;
                // The second node begins when it has all its listeners.
                let mut control = tokio::task::block_in_place(|| Control::open(&server.tables()).unwrap());
                tokio::task::block_in_place(|| control.pause().unwrap());
                kill(first);
                assert_eq!(count(&mut db, "emitter_ledger WHERE listener = 'twin'"), 0);
                let desk = Desk::failing(0);
                let second = start(&server, &broker, "a", &["flaky"], &desk).await;
                let called = twins(&second, false);
                tokio::task::block_in_place(|| control.resume().unwrap());
                until(&mut db, "emitter_history", 1);
                assert_eq!(called(), [1, 1]);
                assert!(second.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_ledger_that_cannot_be_written_holds_up_no_listener_and_no_event() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let mut db = server.connect();
                let desk = Desk::failing(1);
                let emitter = start(&server, &broker, "a", &["steady", "flaky"], &desk).await;
                db.batch_execute("ALTER TABLE emitter_ledger RENAME TO hidden").unwrap();
                create(&emitter, &mut db, 1..2);
                let begun = std::time::Instant::now();
                eventually(|| desk.attempts("flaky") == [1, 2]).await;
                println!("called again after {:?}", begun.elapsed());
                // It is tried three times.
                until(&mut db, "emitter_history", 1);
                assert!(begun.elapsed() > 2 * SECOND, "{:?}", begun.elapsed());
                db.batch_execute("ALTER TABLE hidden RENAME TO emitter_ledger").unwrap();
                create(&emitter, &mut db, 2..3);
                until(&mut db, "emitter_ledger WHERE status = 'HANDLED'", 2);
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }

            /// It is known in memory alone until the database takes it.
            #[tokio::test(flavor = "multi_thread")]
            async fn what_the_database_did_not_take_at_first_leaves_the_outbox_when_it_does() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let (broker, desk) = (MemoryBroker::new(), Desk::failing(0));
                let mut db = server.connect();
                let emitter = start(&server, &broker, "a", &["patient"], &desk).await;
                create(&emitter, &mut db, 1..4);
                until(&mut db, "emitter_outbox WHERE status = 'PROCESSING'", 3);
                db.batch_execute("ALTER TABLE emitter_history RENAME TO hidden").unwrap();
                desk.ends.store(true, std::sync::atomic::Ordering::Relaxed);
                let waits = |reasons: &[String]| reasons.iter().any(|reason| reason.starts_with("outbox: it waits"));
                eventually(|| waits(&emitter.health().reasons)).await;
                db.batch_execute("ALTER TABLE hidden RENAME TO emitter_history").unwrap();
                until(&mut db, "emitter_history", 3);
                assert_eq!(desk.attempts("patient"), [1, 1, 1]);
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                assert_eq!(count(&mut db, "emitter_outbox"), 0);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_a_slow_listener_has_no_room_for_waits_in_its_row() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let (broker, desk) = (MemoryBroker::new(), Desk::failing(0));
                let mut db = server.connect();
                let config = RelayConfig { lease: SECOND, ..RelayConfig::default() };
                let builder = builder(&broker, "a").listener_queue(8).listener_concurrency(2);
                let builder = builder.select_listeners(|info| info.name == "patient");
                let builder = builder.state(Arc::clone(&desk)).with(server.outbox().relay(config));
                let first = builder.start().await.unwrap();
                for ids in 0..20 {
                    create(&first, &mut db, 5 * ids..5 * ids + 5);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let report = first.shutdown(SECOND).await;
                // Besides 8, what came between two looks at how many there are.
                assert!((8..40).contains(&report.unfinished), "{report:?}");
                desk.ends.store(true, std::sync::atomic::Ordering::Relaxed);
                let second = start(&server, &broker, "a", &["patient"], &desk).await;
                until(&mut db, "emitter_history", 100);
                let mut heard: Vec<i64> = desk.calls().iter().map(|call| call.id).collect();
                heard.sort_unstable();
                heard.dedup();
                assert_eq!(heard, (0..100).collect::<Vec<_>>());
                assert!(second.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn whose_filter_panics_is_given_up_and_others_are_done() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let mut db = server.connect();
                let desk = Desk::failing(0);
                let emitter = start(&server, &broker, "a", &["steady"], &desk).await;
                let picky = emitter.on::<JobCreated>().name("picky").filter(|_| panic!("a filter of the user's"));
                picky.run(|_: Event<JobCreated>| std::future::ready(()));
                create(&emitter, &mut db, 1..2);
                until(&mut db, "emitter_history", 1);
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                let [letter] = &emitter.dead_letters()[..] else { panic!("{desk:?}") };
                assert_eq!((letter.listener.as_deref(), letter.attempts), (Some("picky"), 1));
                // So that the next life, were the letter not kept in this one, would call nobody but who panicked.
                let ledger = Ledger::open(&server.tables()).unwrap();
                let (failed, handled) = (LedgerStatus::Failed, LedgerStatus::Handled);
                assert_eq!(
                    standing(&ledger),
                    [("picky".to_owned(), failed, 1), ("steady".to_owned(), handled, 1)]
                );
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_is_queued_is_written_after_its_row() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let mut db = server.connect();
                let desk = Desk::failing(u32::MAX);
                let first = start(&server, &broker, "a", &["steady", "flaky"], &desk).await;
                db.batch_execute("ALTER TABLE emitter_outbox RENAME TO hidden").unwrap();
                {
                    let conn = &mut first.bind(&mut db).unwrap();
                    let insert = diesel::insert_into(jobs::table).values(jobs::id.eq(1));
                    let _: Job = insert.emit().queued().get_result(conn).unwrap();
                }
                eventually(|| desk.attempts("flaky") == [1]).await;
                assert_eq!(count(&mut db, "emitter_ledger"), 0);
                db.batch_execute("ALTER TABLE hidden RENAME TO emitter_outbox").unwrap();
                until(&mut db, "emitter_ledger", 2);
                kill(first);
                let desk = Desk::failing(0);
                let second = start(&server, &broker, "a", &["steady", "flaky"], &desk).await;
                until(&mut db, "emitter_history", 1);
                assert!(desk.attempts("flaky")[0] > 1, "{desk:?}");
                assert_eq!(desk.attempts("steady"), [0; 0]);
                assert!(second.shutdown(10 * SECOND).await.is_clean());
            }
        }
    };
}
