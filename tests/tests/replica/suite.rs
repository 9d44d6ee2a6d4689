//! The suite, as a macro: of a database's type.

macro_rules! suite {
    ($name:ident: $server:ty) => {
        mod $name {
            use std::sync::Arc;
            use std::sync::atomic::{AtomicBool, Ordering};

            use diesel::prelude::*;
            use emitter_core::model::RowChange;
            use emitter_core::transport::memory::Published;
            use emitter_core::{Event, StartError};
            use emitter_diesel::bypass::{Reaction, Watch};
            use emitter_diesel::outbox::Control;
            use emitter_diesel::replica::Replica;
            use emitter_diesel::{Bind, Bound, Emit, TransactionTimeout, delete, update};
            use emitter_tests::eventually::eventually;

            use super::databases::Database;
            use super::*;

            type Conn = <$server as Database>::Conn;
            type Customers = Replica<Customer, Conn>;

            /// A replica, of which a write that is not meant to be no event is a panic.
            fn replica(server: &$server) -> Customers {
                let connect = boxed(server.connector());
                Replica::new(server.tables(), move || {
                    let mut conn = connect()?;
                    conn.set_instrumentation(Watch::new(Reaction::Deny));
                    Ok::<_, diesel::ConnectionError>(conn)
                })
            }

            fn customers(server: &$server) -> Vec<Customer> {
                customers::table.order(customers::id).load(&mut server.connect()).unwrap()
            }

            fn stats(emitter: &Emitter) -> [u64; 3] {
                let stats = emitter.state::<Customers>().unwrap().stats();
                [stats.applied, stats.stale, stats.duplicates]
            }

            /// Waits until the one has what the other has.
            async fn agree(one: &$server, other: &$server) {
                let begun = std::time::Instant::now();
                loop {
                    let (expected, found) = (customers(one), customers(other));
                    if expected == found {
                        return;
                    }
                    assert!(begun.elapsed() < 40 * SECOND, "{expected:?}\n{found:?}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }

            fn rename(conn: &mut Bound<'_, Conn>, id: i64, name: &str) -> QueryResult<Customer> {
                let changes = (customers::name.eq(name), customers::version.eq(customers::version + 1));
                update(customers::table.find(id)).set(changes).emit().durable().get_result(conn)
            }

            fn create(conn: &mut Bound<'_, Conn>, customer: &Customer) -> QueryResult<Customer> {
                diesel::insert_into(customers::table).values(customer).emit().durable().get_result(conn)
            }

            /// Writes at random, in every way there is.
            fn storm(emitter: &Emitter, server: &$server, seed: u64, writes: usize) {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut db = server.connect();
                let conn = &mut emitter.bind(&mut db).unwrap();
                for number in 0..writes {
                    let (id, name) = (random.i64(0..20), format!("{seed}-{number}"));
                    let range = customers::id.between(id, id + 3);
                    let done: QueryResult<()> = conn.transaction(|conn| {
                        match random.u8(..9) {
                            0 | 1 => drop(create(conn, &Customer::new(id, &name))?),
                            2 | 3 => drop(rename(conn, id, &name)?),
                            4 => {
                                let set =
                                    update(customers::table.filter(range)).set(customers::name.eq(name));
                                set.emit::<Customer>().durable().execute(conn)?;
                            }
                            5 => {
                                let set =
                                    update(customers::table.find(id)).set(customers::email.eq(Some(name)));
                                let _: Customer = set.emit().durable().get_result(conn)?;
                                let set = update(customers::table.find(id))
                                    .set(customers::email.eq(None::<String>));
                                let _: Customer = set.emit().durable().get_result(conn)?;
                            }
                            6 => {
                                let _: Customer =
                                    delete(customers::table.find(id)).emit().durable().get_result(conn)?;
                            }
                            7 => {
                                let gone = delete(customers::table.filter(range));
                                gone.emit::<Customer>().durable().execute(conn)?;
                            }
                            _ => {
                                let gone = delete(customers::table.filter(range));
                                gone.emit::<Customer>().durable().execute(conn)?;
                                for id in id..id + 3 {
                                    create(conn, &Customer::new(id, &name))?;
                                }
                            }
                        }
                        if random.u8(..6) == 0 {
                            Err(diesel::result::Error::RollbackTransaction)
                        } else {
                            Ok(())
                        }
                    });
                    // A row that is there already, or not; a deadlock: nothing is written then.
                    drop(done);
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn copies_agree_after_a_storm_and_nothing_is_told_again() {
                let (crm_db, billing_db) = (<$server>::with_tables(), <$server>::with_tables());
                let broker = MemoryBroker::new();
                let mut billing = Vec::new();
                for node in ["a", "b"] {
                    let builder = builder(&broker, "billing", node).with(billing_db.outbox());
                    billing.push(builder.with(replica(&billing_db).owner("crm")).start().await.unwrap());
                }
                for emitter in &billing {
                    emitter.connected(10 * SECOND).await.unwrap();
                }
                // Twice, for a service has more than one life.
                for life in 0..2 {
                    let crm = builder(&broker, "crm", "a").with(crm_db.outbox()).start().await.unwrap();
                    tokio::task::block_in_place(|| {
                        std::thread::scope(|scope| {
                            for thread in 0..3 {
                                let (crm, crm_db) = (&crm, &crm_db);
                                scope.spawn(move || storm(crm, crm_db, 10 * life + thread, 100));
                            }
                        });
                    });
                    agree(&crm_db, &billing_db).await;
                    assert!(crm.shutdown(20 * SECOND).await.is_clean());
                }
                agree(&crm_db, &billing_db).await;
                let letters: Vec<_> = billing.iter().flat_map(Emitter::dead_letters).collect();
                assert!(letters.is_empty(), "{letters:?}");
                let counted =
                    billing.iter().map(stats).fold([0; 3], |all, one| [0, 1, 2].map(|at| all[at] + one[at]));
                println!("{counted:?}");
                assert!(counted[0] > 0 && counted[2] > 0, "two nodes share a table: {counted:?}");
                for emitter in billing {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
                let told = broker.published().into_iter().filter(|message| !message.topic.contains("/_"));
                let by_billing =
                    |payload: &[u8]| String::from_utf8_lossy(payload).contains("\"service\":\"billing\"");
                assert!(told.into_iter().all(|message| !by_billing(&message.payload)));
            }

            /// Waits until all that was written is published.
            fn drained(server: &$server) {
                let mut control = Control::open(&server.tables()).unwrap();
                assert!(tokio::task::block_in_place(|| control.drain(20 * SECOND).unwrap()));
            }

            /// The events that a service publishes of what it writes.
            async fn events(write: impl FnOnce(&mut Bound<'_, Conn>)) -> Vec<Published> {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let crm = builder(&broker, "crm", "a").with(server.outbox()).start().await.unwrap();
                let mut db = server.connect();
                write(&mut crm.bind(&mut db).unwrap());
                drop(db);
                drained(&server);
                assert!(crm.shutdown(10 * SECOND).await.is_clean());
                broker.published().into_iter().filter(|message| !message.topic.contains("/_")).collect()
            }

            /// A node with a replica, that is handed events one after the other. The time-out of transactions is none of
            /// the replica's.
            async fn listening(server: &$server) -> Emitter {
                let builder = builder(&MemoryBroker::new(), "billing", "a").with(replica(server));
                builder.with(TransactionTimeout::of(Duration::from_nanos(1))).start().await.unwrap()
            }

            async fn hand(emitter: &Emitter, event: &Published) {
                let before: u64 = stats(emitter).iter().sum();
                emitter.replay(&event.payload).unwrap();
                eventually(|| stats(emitter).iter().sum::<u64>() > before).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_is_late_or_double_changes_nothing() {
                let events = events(|conn| {
                    let ada = create(conn, &Customer::new(1, "ada")).unwrap();
                    rename(conn, 1, "ada l.").unwrap();
                    let _: Customer = delete(&ada).emit().durable().get_result(conn).unwrap();
                    create(conn, &Customer::new(1, "grace")).unwrap();
                })
                .await;
                let [created, updated, deleted, again] = &events[..] else { panic!("{}", events.len()) };
                let server = <$server>::with_tables();
                let emitter = listening(&server).await;
                let step = async |event: &Published, names: &[&str], counted: [u64; 3]| {
                    hand(&emitter, event).await;
                    let found: Vec<String> =
                        customers(&server).into_iter().map(|customer| customer.name).collect();
                    assert_eq!(found, names);
                    assert_eq!(stats(&emitter), counted);
                };
                step(updated, &["ada l."], [1, 0, 0]).await;
                step(created, &["ada l."], [1, 1, 0]).await;
                step(updated, &["ada l."], [1, 1, 1]).await;
                step(deleted, &[], [2, 1, 1]).await;
                step(deleted, &[], [2, 1, 2]).await;
                step(updated, &[], [2, 2, 2]).await;
                step(created, &[], [2, 3, 2]).await;
                step(again, &["grace"], [3, 3, 2]).await;
                step(deleted, &["grace"], [3, 4, 2]).await;
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn deleted_rows_are_forgotten_after_their_time_and_others_are_not() {
                let events = events(|conn| {
                    for id in 1..=3 {
                        create(conn, &Customer::new(id, "-")).unwrap();
                    }
                    for id in 1..=2 {
                        let _: Customer =
                            delete(customers::table.find(id)).emit().durable().get_result(conn).unwrap();
                    }
                })
                .await;
                let server = <$server>::with_tables();
                let first = listening(&server).await;
                for event in &events {
                    hand(&first, event).await;
                }
                assert_eq!(first.state::<Customers>().unwrap().stats().tombstones, 2);
                assert!(first.shutdown(10 * SECOND).await.is_clean());
                let mut db = server.connect();
                for (what, of) in [("applied_at", ""), ("deleted_at", " WHERE record_id = '1'")] {
                    let old = format!("UPDATE emitter_replicas SET {what} = '2020-01-01 00:00:00'{of}");
                    diesel::sql_query(old).execute(&mut db).unwrap();
                }
                let second = listening(&server).await;
                let cleared = || second.state::<Customers>().unwrap().stats().cleared;
                eventually(|| cleared() > 0).await;
                tokio::time::sleep(SECOND / 5).await;
                assert_eq!(cleared(), 1);
                // That of 2 is remembered, and 3 is there.
                hand(&second, &events[1]).await;
                hand(&second, &events[2]).await;
                assert_eq!((stats(&second), customers(&server).len()), ([0, 1, 1], 1));
                assert!(second.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn events_wait_for_a_connection_and_are_not_given_up() {
                let events = events(|conn| drop(create(conn, &Customer::new(1, "ada")).unwrap())).await;
                let server = <$server>::with_tables();
                let is_away = Arc::new(AtomicBool::new(true));
                let (away, connect) = (Arc::clone(&is_away), boxed(server.connector()));
                let replica: Customers = Replica::new(server.tables(), move || {
                    if away.load(Ordering::SeqCst) {
                        return Err(diesel::ConnectionError::BadConnection("it is away".to_owned()));
                    }
                    connect()
                });
                let broker = MemoryBroker::new();
                let builder = builder(&broker, "billing", "a").listener_retry(Retry { attempts: 1, ..Retry::default() });
                let emitter = builder.with(replica).start().await.unwrap();
                emitter.connected(10 * SECOND).await.unwrap();
                broker.publish(&events[0].topic, events[0].payload.clone());
                eventually(|| emitter.stats().unready >= 3).await;
                assert_eq!((stats(&emitter), emitter.dead_letters().len()), ([0, 0, 0], 0));
                is_away.store(false, Ordering::SeqCst);
                eventually(|| stats(&emitter) == [1, 0, 0]).await;
                assert_eq!((emitter.stats().failed, emitter.dead_letters().len()), (0, 0));
                assert_eq!(customers(&server), [Customer::new(1, "ada")]);
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_row_that_does_not_fit_is_a_dead_letter_and_may_come_later() {
                let mut ada = Customer::new(1, "ada");
                ada.email = Some("a@b.c".to_owned());
                let events = events(|conn| {
                    create(conn, &ada).unwrap();
                    create(conn, &Customer::new(2, "grace")).unwrap();
                    rename(conn, 1, "ada l.").unwrap();
                })
                .await;
                let server = <$server>::with_tables();
                let own = Customer { id: 7, ..ada.clone() };
                diesel::insert_into(customers::table).values(&own).execute(&mut server.connect()).unwrap();
                let broker = MemoryBroker::new();
                let emitter = builder(&broker, "billing", "a").with(replica(&server)).start().await.unwrap();
                emitter.connected(10 * SECOND).await.unwrap();
                for event in &events[..2] {
                    broker.publish(&event.topic, event.payload.clone());
                }
                eventually(|| emitter.dead_letters().len() == 1).await;
                eventually(|| stats(&emitter) == [1, 0, 0]).await;
                assert_eq!(customers(&server), [Customer::new(2, "grace"), own.clone()]);
                let letter = emitter.dead_letters().remove(0);
                assert!(
                    letter.listener.as_deref().is_some_and(|name| name.contains("replica of customer in")),
                    "{letter:?}"
                );
                // Its cause is mended.
                diesel::delete(customers::table.find(7)).execute(&mut server.connect()).unwrap();
                hand(&emitter, &events[2]).await;
                let renamed = Customer { name: "ada l.".to_owned(), version: 2, ..ada.clone() };
                assert_eq!(customers(&server), [renamed.clone(), Customer::new(2, "grace")]);
                // What is newer stays, when it comes after all.
                emitter.replay_letter(&letter).unwrap();
                eventually(|| stats(&emitter) == [2, 1, 0]).await;
                assert_eq!(customers(&server)[0], renamed);
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_an_event_of_several_rows_all_are_written_or_none() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let billing = builder(&broker, "billing", "a").with(replica(&server)).start().await.unwrap();
                billing.connected(10 * SECOND).await.unwrap();
                let crm = builder(&broker, "crm", "a").start().await.unwrap();
                let with_email = |id| Customer { email: Some("a@b.c".to_owned()), ..Customer::new(id, "ada") };
                let rows = vec![with_email(1), Customer::new(2, "grace"), with_email(3)];
                crm.publish(CustomerCreatedMany::new(3, Some(rows)));
                eventually(|| billing.dead_letters().len() == 1).await;
                assert_eq!((stats(&billing), customers(&server)), ([0; 3], vec![]));
                // Nor is anything noted.
                tokio::time::sleep(Duration::from_millis(5)).await;
                crm.publish(CustomerCreatedMany::new(2, Some(vec![with_email(1), Customer::new(2, "grace")])));
                eventually(|| stats(&billing) == [2, 0, 0]).await;
                for emitter in [crm, billing] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_event_that_only_counts_is_a_dead_letter() {
                let server = <$server>::with_tables();
                let emitter = listening(&server).await;
                let counted =
                    br#"{"model":"customer","operation":"updateMany","args":{"where":{},"data":{"name":"x"}},
                    "result":{"count":3},"timestamp":"2026-11-21T00:42:25.735Z"}"#;
                emitter.replay(counted).unwrap();
                eventually(|| emitter.dead_letters().len() == 1).await;
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_row_that_goes_to_another_key_is_not_at_the_old_one_any_more() {
                let server = <$server>::with_tables();
                let emitter = listening(&server).await;
                let broker = MemoryBroker::new();
                let crm = builder(&broker, "crm", "a").start().await.unwrap();
                crm.publish(CustomerCreated::new(Customer::new(1, "ada")));
                tokio::time::sleep(Duration::from_millis(5)).await;
                crm.publish(CustomerUpdated::new(
                    Some(Customer::new(1, "ada")),
                    Customer::new(2, "ada"),
                    None,
                ));
                assert!(crm.shutdown(10 * SECOND).await.is_clean());
                for event in broker.published().iter().filter(|message| !message.topic.contains("/_")) {
                    hand(&emitter, event).await;
                }
                assert_eq!(customers(&server), [Customer::new(2, "ada")]);
                assert_eq!(stats(&emitter), [3, 0, 0]);
                assert!(emitter.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn rows_that_one_statement_moves_up_are_all_there() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let billing = builder(&broker, "billing", "a").with(replica(&server)).start().await.unwrap();
                billing.connected(10 * SECOND).await.unwrap();
                let crm = builder(&broker, "crm", "a").start().await.unwrap();
                let was = [(6, "ada"), (7, "grace"), (8, "joan")].map(|(id, name)| Customer::new(id, name));
                crm.publish(CustomerCreatedMany::new(3, Some(was.to_vec())));
                eventually(|| stats(&billing) == [3, 0, 0]).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
                let is = was.clone().map(|row| Customer { id: row.id - 1, ..row });
                let rows = was.into_iter().zip(is.clone()).map(|(was, is)| RowChange::new(Some(was), is));
                crm.publish(CustomerUpdatedMany::new(3, Some(rows.collect()), None));
                eventually(|| stats(&billing).iter().sum::<u64>() == 7).await;
                assert_eq!((customers(&server), stats(&billing)), (is.to_vec(), [7, 0, 0]));
                for emitter in [crm, billing] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn events_in_memory_of_a_node_count_from_life_to_life() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let billing = builder(&broker, "billing", "a").with(replica(&server)).start().await.unwrap();
                billing.connected(10 * SECOND).await.unwrap();
                for life in 0..3 {
                    let crm = builder(&broker, "crm", "a").start().await.unwrap();
                    for step in 0..5 {
                        let row = Customer::new(1, &format!("{life}-{step}"));
                        crm.publish(CustomerUpdated::new(None, row, None));
                    }
                    assert!(crm.shutdown(10 * SECOND).await.is_clean());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                eventually(|| stats(&billing) == [15, 0, 0]).await;
                assert_eq!(customers(&server), [Customer::new(1, "2-4")]);
                let events = broker.published().into_iter().filter(|message| !message.topic.contains("/_"));
                for event in events.collect::<Vec<_>>().iter().rev() {
                    hand(&billing, event).await;
                }
                assert_eq!(stats(&billing), [15, 14, 1]);
                assert_eq!(customers(&server), [Customer::new(1, "2-4")]);
                assert!(billing.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_a_node_of_the_same_database_wrote_is_not_written_again() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let start =
                    |node| builder(&broker, "crm", node).with(server.outbox()).with(replica(&server)).start();
                let (one, two) = (start("a").await.unwrap(), start("b").await.unwrap());
                two.connected(10 * SECOND).await.unwrap();
                let heard = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
                let hears = std::sync::Arc::clone(&heard);
                two.on::<CustomerEvent>().remote_only().run(move |_: Event<CustomerEvent>| {
                    hears.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    std::future::ready(())
                });
                let mut db = server.connect();
                {
                    let conn = &mut one.bind(&mut db).unwrap();
                    create(conn, &Customer::new(1, "ada")).unwrap();
                    rename(conn, 1, "ada l.").unwrap();
                    // Nobody tells of it: written again, it would be gone.
                    diesel::update(customers::table.find(1))
                        .set(customers::name.eq("ada k."))
                        .execute(conn)
                        .unwrap();
                }
                eventually(|| heard.load(std::sync::atomic::Ordering::Relaxed) == 2).await;
                for emitter in [one, two] {
                    assert_eq!(stats(&emitter), [0; 3]);
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
                assert_eq!(customers(&server)[0].name, "ada k.");
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn events_of_others_than_the_owner_are_passed_over() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let builder_of = |service| builder(&broker, service, "a");
                let billing =
                    builder_of("billing").with(replica(&server).owner("crm")).start().await.unwrap();
                billing.connected(10 * SECOND).await.unwrap();
                for service in ["shop", "crm"] {
                    let emitter = builder_of(service).start().await.unwrap();
                    emitter.publish(CustomerCreated::new(Customer::new(1, service)));
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
                eventually(|| stats(&billing) == [1, 0, 0]).await;
                assert_eq!(billing.state::<Customers>().unwrap().stats().foreign, 1);
                assert_eq!(customers(&server), [Customer::new(1, "crm")]);
                assert!(billing.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn hidden_fields_and_columns_of_ones_own_stay_what_they_are() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let users = Replica::<User, _, KnownUser>::new(server.tables(), boxed(server.connector()));
                let tags = Replica::<Tag, _>::new(server.tables(), boxed(server.connector()));
                let billing = builder(&broker, "billing", "a").with(users).with(tags).start().await.unwrap();
                billing.connected(10 * SECOND).await.unwrap();
                let crm = builder(&broker, "crm", "a").start().await.unwrap();
                let user = |name: &str| {
                    let user = User { id: 1, name: name.to_owned(), password: "secret".to_owned() };
                    emitter_core::model::Model::to_row(&user, None)
                };
                crm.publish(UserCreated::new(user("ada")));
                let tag = |tag: &str| Tag { customer_id: 1, tag: tag.to_owned() };
                for (at, name) in ["a", "b", "a,b\\", "b"].into_iter().enumerate() {
                    crm.publish(TagUpserted::new(tag(name), None, None));
                    if at == 1 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        crm.publish(TagDeleted::new(tag("a")));
                    }
                }
                let mut db = server.connect();
                let done = || billing.state::<Replica<User, Conn, KnownUser>>().unwrap().stats().applied;
                eventually(|| done() == 1).await;
                type Known = (i64, Option<String>, Option<String>);
                let remark = diesel::update(known_users::table).set(known_users::remark.eq("pays late"));
                assert_eq!(remark.execute(&mut db), Ok(1));
                for name in ["ada l.", "-"] {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    crm.publish(UserUpdated::new(None, user(name), None));
                }
                eventually(|| done() == 3).await;
                let known: Vec<Known> = known_users::table.load(&mut db).unwrap();
                assert_eq!(
                    known,
                    [(1, None, Some("pays late".to_owned()))],
                    "a value that is gone is gone here, too"
                );
                eventually(|| billing.state::<Replica<Tag, Conn>>().unwrap().stats().applied == 5).await;
                let tags: Vec<Tag> = tags::table.order(tags::tag).load(&mut db).unwrap();
                assert_eq!(tags, [tag("a,b\\"), tag("b")]);
                for emitter in [crm, billing] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn regions_that_write_the_same_rows_agree_by_their_versions() {
                let (us_db, eu_db) = (<$server>::with_tables(), <$server>::with_tables());
                let broker = MemoryBroker::new();
                let start = |node, server: &$server| {
                    let copies = replica(server).version(customers::version, |row| row.version);
                    builder(&broker, "shop", node).with(server.outbox()).with(copies).start()
                };
                let (us, eu) = (start("us", &us_db).await.unwrap(), start("eu", &eu_db).await.unwrap());
                for emitter in [&us, &eu] {
                    emitter.connected(10 * SECOND).await.unwrap();
                }
                let mut db = us_db.connect();
                for id in 0..5 {
                    create(&mut us.bind(&mut db).unwrap(), &Customer::new(id, "new")).unwrap();
                }
                agree(&us_db, &eu_db).await;
                tokio::task::block_in_place(|| {
                    std::thread::scope(|scope| {
                        for (emitter, server, region) in [(&us, &us_db, "us"), (&eu, &eu_db, "eu")] {
                            scope.spawn(move || {
                                let mut db = server.connect();
                                let conn = &mut emitter.bind(&mut db).unwrap();
                                for number in 0..60 {
                                    // A deadlock with a replica: not written.
                                    drop(rename(conn, fastrand::i64(..5), &format!("{region}-{number}")));
                                }
                            });
                        }
                    });
                });
                agree(&us_db, &eu_db).await;
                tokio::time::sleep(SECOND / 2).await;
                agree(&us_db, &eu_db).await;
                // What is deleted in one is not brought back by what the other did before.
                let late = broker.published().into_iter().find(|message| {
                    let text = String::from_utf8_lossy(&message.payload);
                    text.contains("\"node\":\"eu\"")
                        && text.contains("\"operation\":\"update\"")
                        && text.contains("\"id\":3")
                });
                let gone = delete(customers::table.find(3)).emit::<Customer>().durable();
                let _: Customer = gone.get_result(&mut us.bind(&mut db).unwrap()).unwrap();
                agree(&us_db, &eu_db).await;
                assert_eq!(customers(&eu_db).len(), 4);
                if let Some(late) = late {
                    us.replay(&late.payload).unwrap();
                    tokio::time::sleep(SECOND / 5).await;
                    assert_eq!(customers(&us_db).len(), 4);
                }
                println!("{:?} {:?}", stats(&us), stats(&eu));
                for emitter in [us, eu] {
                    assert!(emitter.dead_letters().is_empty(), "{:?}", emitter.dead_letters());
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_new_replica_has_what_was_there_before_it() {
                use emitter_core::gaps::Since;
                use emitter_diesel::catch_up::CatchUp;

                let (crm_db, billing_db) = (<$server>::with_tables(), <$server>::with_tables());
                let broker = MemoryBroker::new();
                let crm = builder(&broker, "crm", "a").with(crm_db.outbox()).start().await.unwrap();
                tokio::task::block_in_place(|| storm(&crm, &crm_db, 4, 60));
                drained(&crm_db);
                let catch_up = CatchUp::new(billing_db.tables()).since(Since::Beginning);
                let billing = builder(&broker, "billing", "a").with(catch_up).with(replica(&billing_db));
                let billing = billing.start().await.unwrap();
                assert!(!customers(&crm_db).is_empty());
                agree(&crm_db, &billing_db).await;
                for emitter in [crm, billing] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_dump_is_loaded_beside_it() {
                let (crm_db, billing_db) = (<$server>::with_tables(), <$server>::with_tables());
                let broker = MemoryBroker::new();
                let mut db = crm_db.connect();
                for id in 1..=5 {
                    // From before there were events.
                    diesel::insert_into(customers::table).values(&Customer::new(id, "-")).execute(&mut db).unwrap();
                }
                let crm = builder(&broker, "crm", "a").with(crm_db.outbox()).start().await.unwrap();
                let billing = builder(&broker, "billing", "a").with(replica(&billing_db)).start().await.unwrap();
                billing.connected(10 * SECOND).await.unwrap();
                let conn = &mut crm.bind(&mut db).unwrap();
                rename(conn, 1, "before").unwrap();
                let dump: Vec<Customer> = customers::table.load(conn).unwrap();
                rename(conn, 2, "after").unwrap();
                let _: Customer = delete(customers::table.find(3)).emit().durable().get_result(conn).unwrap();
                eventually(|| stats(&billing)[0] == 3).await;
                let mut loading = billing_db.connect();
                for customer in dump {
                    let load = format!(
                        "INSERT INTO customers SELECT d.* FROM (SELECT {} AS id, '{}' AS name, NULL AS email, {} AS version) d \
                         WHERE NOT EXISTS (SELECT 1 FROM emitter_replicas WHERE model = 'customer' \
                         AND table_name = 'customers' AND record_id = CAST(d.id AS char(40)))",
                        customer.id, customer.name, customer.version
                    );
                    diesel::sql_query(load).execute(&mut loading).unwrap();
                }
                agree(&crm_db, &billing_db).await;
                for emitter in [crm, billing] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_start_says_what_is_wrong() {
                let server = <$server>::with_tables();
                let short = replica(&server).keep(6 * 24 * 3600 * SECOND);
                let error =
                    builder(&MemoryBroker::new(), "billing", "a").with(short).start().await.unwrap_err();
                assert!(matches!(error, StartError::Companion { name: "replica", .. }), "{error:?}");
                assert!(error.to_string().contains("remember deleted rows"), "{error}");
                let alone = Emitter::builder().with(replica(&server)).start().await.unwrap_err();
                assert!(alone.to_string().contains("no transport"), "{alone}");
            }
        }
    };
}
