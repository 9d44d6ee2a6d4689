//! The suite, as a macro: of a database's type.

macro_rules! suite {
    ($name:ident: $server:ty) => {
        mod $name {
            use diesel::connection::SimpleConnection;
            use emitter_core::listener::ListenerOptions;
            use emitter_core::StartError;
            use emitter_core::dead_letter::Reason;
            use emitter_core::event::Timestamp;
            use emitter_core::transport::memory::MemoryBroker;
            use emitter_diesel::dead_letters::{
                BookError, DeadLetterBook, DeadLetters, Facet, KeptLetter, Page, Redrive, Redriven, Selection,
            };
            use emitter_diesel::tables::Tables;
            use emitter_tests::eventually::eventually;
            use emitter_tests::frail::{Breaker, Moment};

            use super::databases::Database;
            use super::*;

            const ALL: Redrive = Redrive { per_second: 0, at_once: 16, lease: Duration::from_secs(10) };

            struct Stage {
                server: $server,
                shop: Arc<Shop>,
                emitter: Emitter,
                book: DeadLetterBook,
            }

            impl Stage {
                async fn set() -> Self {
                    Self::set_up(|builder| builder, |letters| letters).await
                }

                async fn set_up(
                    node: impl FnOnce(Builder) -> Builder,
                    keep: impl FnOnce(DeadLetters) -> DeadLetters,
                ) -> Self {
                    let server = tokio::task::block_in_place(<$server>::with_tables);
                    let shop = Arc::new(Shop::default());
                    let letters = keep(DeadLetters::new(server.tables()));
                    let builder = node(builder("a", &shop).with(letters));
                    let emitter = builder.start().await.unwrap();
                    let book = DeadLetterBook::open(&server.tables()).unwrap();
                    Self { server, shop, emitter, book }
                }

                fn count(&self) -> u64 {
                    self.book.count(&Selection::default()).unwrap()
                }

                async fn until(&self, letters: u64) {
                    eventually(|| self.count() == letters).await;
                }

                fn all(&self) -> Vec<KeptLetter> {
                    self.book.list(&Selection::default(), Page { limit: 1_000, ..Page::default() }).unwrap()
                }

                async fn redrive(&self, selection: &Selection) -> Redriven {
                    self.book.redrive(&self.emitter, selection, ALL).await.unwrap()
                }

                /// Nothing is left undone, and nothing was lost.
                async fn end(self) {
                    assert_eq!(self.emitter.stats().dead_letters_lost, 0);
                    assert!(self.emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            fn of_keys(of: impl IntoIterator<Item = i64>, steps: Vec<i64>) -> BTreeMap<i64, Vec<i64>> {
                of.into_iter().map(|id| (id, steps.clone())).collect()
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_a_listener_did_not_handle_goes_to_it_alone_until_it_does() {
                let stage = Stage::set().await;
                stage.shop.refuse([7]);
                let id = stage.emitter.publish(order(7, 1)).id;
                stage.until(1).await;
                let [kept] = &stage.all()[..] else { panic!() };
                assert_eq!(kept.original_topic, "prisma/events/order/create");
                assert_eq!(kept.failure_reason, "unhandled: no courier for 7");
                assert_eq!((kept.reason, kept.listener.as_deref()), (Some(Reason::Unhandled), Some("notify")));
                assert_eq!((kept.model.as_deref(), kept.key.as_deref()), (Some("order"), Some("7")));
                assert_eq!((kept.event, kept.attempts, kept.redrives), (Some(id), 2, 0));
                assert_eq!((&*kept.service, &*kept.node), ("shop", "a"));
                assert!((Timestamp::now().as_millis() - kept.created_at.as_millis()).abs() < 60_000, "{kept:?}");
                assert_eq!(kept.payload, None);
                let payload = stage.book.show(kept.id).unwrap().payload.unwrap();
                assert_eq!(payload.len() as u64, kept.bytes);
                assert!(String::from_utf8(payload).unwrap().contains(&id.to_string()));

                // In vain, twice: it stays, and becomes no second one.
                for redrives in 1..=2 {
                    let redriven = stage.redrive(&Selection::default()).await;
                    assert_eq!((redriven.handled, redriven.failed), (0, 1));
                    let [again] = &stage.all()[..] else { panic!() };
                    assert_eq!((again.id, again.attempts, again.redrives), (kept.id, 2 + 2 * redrives, redrives));
                    assert!(!again.is_claimed);
                }
                assert_eq!(stage.emitter.stats().dead_letters, 1);

                stage.shop.open();
                let redriven = stage.redrive(&Selection::default()).await;
                assert_eq!((redriven.handled, redriven.failed), (1, 0));
                assert_eq!(stage.count(), 0);
                let seen = stage.shop.seen().clone();
                let told = |seen: &Seen| (seen.listener, seen.event, seen.is_redriven);
                assert_eq!(seen.iter().map(told).collect::<Vec<_>>(), [("count", id, false), ("notify", id, true)]);
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn letters_of_a_key_come_in_order_and_none_after_one_that_fails() {
                let stage = Stage::set().await;
                stage.shop.refuse(0..20);
                for step in 0..10 {
                    for id in 0..20 {
                        stage.emitter.publish(order(id, step));
                    }
                }
                stage.until(200).await;
                // Within a node, they are in the order in which they died.
                let mut steps = BTreeMap::<String, Vec<i64>>::new();
                for kept in stage.all() {
                    let payload = stage.book.show(kept.id).unwrap().payload.unwrap();
                    let payload: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                    steps.entry(kept.key.unwrap()).or_default().push(payload["result"]["step"].as_i64().unwrap());
                }
                assert!(steps.values().all(|steps| *steps == (0..10).collect::<Vec<_>>()), "{steps:?}");

                stage.shop.refuse([3, 4]);
                let redriven = stage.redrive(&Selection::default()).await;
                assert_eq!((redriven.handled, redriven.failed, redriven.skipped), (180, 2, 18));
                let expected = of_keys((0..20).filter(|id| ![3, 4].contains(id)), (0..10).collect());
                assert_eq!(stage.shop.steps("notify"), expected);
                assert_eq!(stage.count(), 20);
                let redrives: u32 = stage.all().iter().map(|kept| kept.redrives).sum();
                assert_eq!(redrives, 2, "what was skipped was not tried");
                stage.shop.open();
                assert_eq!(stage.redrive(&Selection::default()).await.handled, 20);
                assert_eq!(stage.shop.steps("notify"), of_keys(0..20, (0..10).collect()));
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_event_of_many_rows_comes_after_those_of_each() {
                let stage = Stage::set().await;
                let order_of = Arc::new(Mutex::new(Vec::new()));
                let (heard, shop) = (Arc::clone(&order_of), Arc::clone(&stage.shop));
                let _ = stage.emitter.on::<OrderEvent>().name("all").run(move |event: Event<OrderEvent>| {
                    let is_closed = shop.closed.load(Ordering::SeqCst);
                    let ids: Vec<i64> = match &*event {
                        OrderEvent::Created(created) => vec![created.row.id],
                        OrderEvent::DeletedMany(many) => many.rows.iter().flatten().map(|row| row.id).collect(),
                    };
                    let refused = shop.refused.lock().unwrap().clone();
                    if !is_closed || !ids.iter().any(|id| refused.contains(id)) {
                        heard.lock().unwrap().push(ids);
                        return std::future::ready(Ok(()));
                    }
                    std::future::ready(Err("closed"))
                });
                stage.shop.refuse(100..110);
                let many = |ids: [i64; 2]| {
                    OrderDeletedMany::new(2, Some(ids.into_iter().map(|id| Order { id, step: 0 }).collect()))
                };
                stage.emitter.publish(order(100, 0));
                stage.emitter.publish(order(101, 0));
                stage.emitter.publish(many([100, 102]));
                stage.emitter.publish(order(101, 1));
                let only = Selection { listener: Some("all".to_owned()), ..Selection::default() };
                eventually(|| stage.book.count(&only).unwrap() == 4).await;
                stage.shop.refuse([101]);
                let redriven = stage.redrive(&only).await;
                assert_eq!((redriven.handled, redriven.failed, redriven.skipped), (1, 1, 2));
                assert_eq!(*order_of.lock().unwrap(), [vec![100]]);
                stage.shop.open();
                assert_eq!(stage.redrive(&only).await.handled, 3);
                let heard = order_of.lock().unwrap().clone();
                assert_eq!(heard, [vec![100], vec![101], vec![100, 102], vec![101]]);
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn two_redrives_at_once_handle_each_letter_once_and_in_order() {
                let stage = Stage::set().await;
                let other = builder("b", &stage.shop).start().await.unwrap();
                stage.shop.refuse(0..100);
                for step in 0..10 {
                    for id in 0..100 {
                        stage.emitter.publish(order(id, step));
                    }
                }
                stage.until(1_000).await;
                stage.shop.open();
                let (one, two) = (stage.book.clone(), DeadLetterBook::open(&stage.server.tables()).unwrap());
                let mut handled = [0, 0];
                // Again, for what one of them has the other one leaves.
                while stage.count() > 0 {
                    let selection = Selection::default();
                    let (one, two) = tokio::join!(
                        one.redrive(&stage.emitter, &selection, ALL),
                        two.redrive(&other, &selection, ALL)
                    );
                    for (redriven, handled) in [one.unwrap(), two.unwrap()].iter().zip(&mut handled) {
                        assert_eq!((redriven.failed, redriven.skipped), (0, 0));
                        *handled += redriven.handled;
                    }
                }
                assert_eq!(handled[0] + handled[1], 1_000);
                assert!(handled.iter().all(|handled| *handled > 0), "both worked: {handled:?}");
                assert_eq!(stage.shop.steps("notify"), of_keys(0..100, (0..10).collect()));
                assert!(other.shutdown(10 * SECOND).await.is_clean());
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_could_not_be_read_is_mended_and_goes_to_all() {
                let broker = MemoryBroker::new();
                let transport = broker.connect("shop.a");
                let stage = Stage::set_up(|builder| builder.transport(transport), |letters| letters).await;
                stage.emitter.connected(10 * SECOND).await.unwrap();
                let topic = "prisma/events/order/create";
                let mended = |id: i64| {
                    let row = serde_json::json!({ "id": id, "step": 0 });
                    serde_json::json!({ "model": "order", "operation": "create", "args": {}, "result": row }).to_string()
                };
                let hostile: [&[u8]; 6] = [
                    b"{\"model\"",
                    b"\xff\x00\xfe",
                    b"a\0b",
                    b"'); DROP TABLE emitter_dlq_events; -- $e0$ \\' \"",
                    "\u{1f980} {}".as_bytes(),
                    b"{\"model\":\"order\",\"operation\":\"create\",\"args\":{},\"result\":{\"id\":\"\\u0000\"}}",
                ];
                for payload in hostile {
                    assert!(broker.send("shop.a", topic, payload));
                }
                stage.until(6).await;
                eventually(|| broker.unacknowledged("shop.a") == 0).await;
                for (kept, payload) in stage.all().iter().zip(hostile) {
                    assert_eq!(kept.reason, Some(Reason::Undecodable));
                    let shown = stage.book.show(kept.id).unwrap();
                    assert_eq!(shown.payload.as_deref(), Some(payload));
                    assert!(!format!("{shown:?}").contains("DROP"), "{shown:?}");
                }
                let redriven = stage.redrive(&Selection::default()).await;
                assert_eq!((redriven.handled, redriven.failed), (0, 6));
                assert_eq!(stage.count(), 6);

                // One listener is not done with it: then that is what is left of it.
                let ids: Vec<i64> = stage.all().iter().map(|kept| kept.id).collect();
                stage.book.edit(ids[0], mended(1).as_bytes()).unwrap();
                stage.book.edit(ids[1], mended(2).as_bytes()).unwrap();
                stage.shop.refuse([2]);
                let redriven = stage.redrive(&Selection { ids: Some(ids[..2].to_vec()), ..Selection::default() }).await;
                assert_eq!((redriven.handled, redriven.failed), (1, 1));
                let unhandled = Selection { reason: Some(Reason::Unhandled), ..Selection::default() };
                let [left] = &stage.book.list(&unhandled, Page::default()).unwrap()[..] else { panic!() };
                assert_eq!((left.listener.as_deref(), left.key.as_deref()), (Some("notify"), Some("2")));
                assert_eq!(stage.count(), 5);
                assert_eq!(stage.shop.steps("count"), of_keys([-2, -3], vec![0]));
                stage.shop.open();
                assert_eq!(stage.redrive(&unhandled).await.handled, 1);
                assert_eq!(stage.shop.steps("notify"), of_keys([1, 2], vec![0]));
                assert_eq!(stage.shop.steps("count"), of_keys([-2, -3], vec![0]));

                // Whoever may write on one topic gains nothing by it elsewhere.
                let elsewhere = r#"{"model":"order","operation":"deleteMany","args":{},"result":{"count":2}}"#;
                stage.book.edit(ids[2], elsewhere.as_bytes()).unwrap();
                assert_eq!(stage.redrive(&Selection::one(ids[2])).await.failed, 1);
                assert!(stage.book.show(ids[2]).unwrap().failure_reason.contains("different models or operations"));
                let large = vec![b'x'; 2 * 1024 * 1024];
                assert!(matches!(stage.book.edit(ids[3], &large), Err(BookError::TooLarge(_))));
                assert!(matches!(stage.book.edit(-5, b"x"), Err(BookError::NoSuchLetter(-5))));
                assert_eq!(stage.book.discard(&Selection::default()).unwrap(), 4);
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_could_not_be_published_is_published() {
                let broker = MemoryBroker::new();
                let transport = broker.connect("shop.a");
                let small = |builder: Builder| builder.transport(transport).max_payload(200).select_listeners(|_| false);
                let stage = Stage::set_up(small, |letters| letters).await;
                stage.emitter.publish_with(order(1, 2), emitter_core::Scope::REMOTE);
                stage.until(1).await;
                let [kept] = &stage.all()[..] else { panic!() };
                assert_eq!(kept.reason, Some(Reason::Unpublished));
                assert_eq!(stage.redrive(&Selection::default()).await.failed, 1);
                assert!(stage.all()[0].failure_reason.contains("the limit is 200"), "{kept:?}");

                let transport = broker.connect("shop.b");
                let larger = builder("b", &stage.shop).transport(transport).start().await.unwrap();
                let redriven = stage.book.redrive(&larger, &Selection::default(), ALL).await.unwrap();
                assert_eq!((redriven.handled, stage.count()), (1, 0));
                let published = broker.published().into_iter().filter(|message| !message.topic.contains("/dlq/"));
                let published: Vec<String> = published.map(|message| message.topic).collect();
                assert_eq!(published, ["prisma/events/order/create"]);
                for emitter in [larger, stage.emitter] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn whose_listener_is_no_more_it_stays_and_is_told() {
                let stage = Stage::set().await;
                let once = stage.emitter.on::<OrderCreated>().name("once").run(|_| std::future::ready(Err("no")));
                stage.shop.refuse([1]);
                stage.emitter.publish(order(1, 1));
                stage.until(2).await;
                once.unsubscribe();
                stage.shop.open();
                let redriven = stage.redrive(&Selection::default()).await;
                assert_eq!((redriven.handled, redriven.failed, redriven.unheard), (1, 0, 1));
                assert_eq!(stage.all()[0].listener.as_deref(), Some("once"));
                // Nor is it another service's.
                let _ = stage.emitter.on::<OrderCreated>().name("once").run(|_| std::future::ready(()));
                let other = Emitter::builder().service("desk").select_listeners(|_| false).start().await.unwrap();
                let _ = other.on::<OrderCreated>().name("once").run(|_| std::future::ready(()));
                let redriven = stage.book.redrive(&other, &Selection::default(), ALL).await.unwrap();
                assert_eq!(redriven, Redriven::default());
                assert_eq!(stage.redrive(&Selection::default()).await.handled, 1);
                assert!(other.shutdown(10 * SECOND).await.is_clean());
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn they_are_listed_counted_and_discarded_by_what_is_known_of_them() {
                let stage = Stage::set().await;
                let _ = stage.emitter.on::<OrderCreated>().name("other").run(|event: Event<OrderCreated>| {
                    std::future::ready(if event.row.id == 3 { Err("100 % _wrong!") } else { Ok(()) })
                });
                stage.shop.refuse(0..5);
                for id in 0..5 {
                    stage.emitter.publish(order(id, 0));
                }
                stage.until(6).await;
                let count = |selection: Selection| stage.book.count(&selection).unwrap();
                let named = |listener: &str| Selection { listener: Some(listener.to_owned()), ..Selection::default() };
                assert_eq!((count(named("notify")), count(named("other")), count(named("x' OR '1' = '1"))), (5, 1, 0));
                let topic = |topic: &str| Selection { topic: Some(topic.to_owned()), ..Selection::default() };
                for (pattern, letters) in [
                    ("prisma/events/order/create", 6),
                    ("prisma/*", 6),
                    ("*/order/*", 6),
                    ("*", 6),
                    ("prisma/events/order/creat_", 0),
                    ("prisma/events/order/creat?", 0),
                    ("%", 0),
                    ("[p]risma*", 0),
                    ("PRISMA/*", 0),
                    ("prisma", 0),
                    ("a!*", 0),
                ] {
                    assert_eq!(count(topic(pattern)), letters, "{pattern}");
                }
                let model = |model: &str| Selection { model: Some(model.to_owned()), ..Selection::default() };
                assert_eq!((count(model("order")), count(model("user"))), (6, 0));
                let node = |node: &str| Selection { node: Some(node.to_owned()), ..Selection::default() };
                assert_eq!((count(node("a")), count(node("b"))), (6, 0));
                let service = Selection { service: Some("desk".to_owned()), ..Selection::default() };
                assert_eq!(count(service), 0);
                assert_eq!(count(Selection::last(Duration::from_secs(24 * 3600))), 6);
                assert_eq!(count(Selection::last(Duration::MAX)), 6);
                let tomorrow = Timestamp::from_millis(Timestamp::now().as_millis() + 86_400_000);
                assert_eq!(count(Selection { since: Some(tomorrow), ..Selection::default() }), 0);
                assert_eq!(count(Selection { until: Some(tomorrow), ..Selection::default() }), 6);
                assert_eq!(count(Selection { ids: Some(Vec::new()), ..Selection::default() }), 0);
                let by = |facet| stage.book.count_by(&Selection::default(), facet).unwrap();
                assert_eq!(by(Facet::Listener), [("notify".to_owned(), 5), ("other".to_owned(), 1)]);
                assert_eq!(by(Facet::Reason), [("unhandled".to_owned(), 6)]);
                assert_eq!(by(Facet::Topic), [("prisma/events/order/create".to_owned(), 6)]);
                assert_eq!((by(Facet::Model), by(Facet::Node)), (vec![("order".to_owned(), 6)], vec![("a".to_owned(), 6)]));

                // Page by page, in both directions.
                let ids: Vec<i64> = stage.all().iter().map(|kept| kept.id).collect();
                for (place, id) in (1..).zip(&ids) {
                    assert_eq!(count(Selection { up_to: Some(*id), ..Selection::default() }), place);
                }
                for newest_first in [false, true] {
                    let (mut paged, mut after) = (Vec::new(), None);
                    loop {
                        let page = Page { after, limit: 4, newest_first };
                        let letters = stage.book.list(&Selection::default(), page).unwrap();
                        let Some(last) = letters.last() else { break };
                        after = Some(last.id);
                        paged.extend(letters.iter().map(|kept| kept.id));
                    }
                    if newest_first {
                        paged.reverse();
                    }
                    assert_eq!(paged, ids);
                }

                let one = stage.book.list(&named("notify"), Page::default()).unwrap()[0].id;
                assert_eq!(stage.book.discard(&Selection::one(one)).unwrap(), 1);
                assert_eq!(stage.book.discard(&named("other")).unwrap(), 1);
                assert_eq!(stage.count(), 4);
                assert_eq!(stage.book.discard(&Selection::default()).unwrap(), 4);
                assert!(matches!(stage.book.show(ids[1]), Err(BookError::NoSuchLetter(_))));
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_a_redrive_has_is_nobody_elses_until_its_lease_is_over() {
                let stage = Stage::set().await;
                stage.shop.refuse([1, 2]);
                stage.emitter.publish(order(1, 1));
                stage.emitter.publish(order(1, 2));
                stage.until(2).await;
                stage.shop.open();
                // Another process has the first one, and dies.
                let mut db = stage.server.connect();
                let first = stage.all()[0].id;
                let now = Timestamp::now().as_millis();
                let claim = |until: i64| {
                    format!("UPDATE emitter_dlq_events SET owner = 'another', until = {until} WHERE id = {first}")
                };
                db.batch_execute(&claim(now + 60_000)).unwrap();
                let redriven = stage.redrive(&Selection::default()).await;
                assert_eq!(redriven, Redriven::default(), "nor what comes after it in its key");
                assert!(stage.book.show(first).unwrap().is_claimed);
                assert!(matches!(stage.book.edit(first, b"{}"), Err(BookError::Claimed(_))));
                assert_eq!(stage.book.discard(&Selection::one(first)).unwrap(), 0);
                db.batch_execute(&claim(now - 60_000)).unwrap();
                assert_eq!(stage.redrive(&Selection::default()).await.handled, 2);
                assert_eq!(stage.shop.steps("notify"), of_keys([1], vec![1, 2]));
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_a_redrive_claims_while_it_is_discarded_stays() {
                let stage = Stage::set().await;
                stage.shop.refuse([1, 2]);
                stage.emitter.publish(order(1, 1));
                stage.emitter.publish(order(2, 1));
                stage.until(2).await;
                let mut db = stage.server.connect();
                let first = stage.all()[0].id;
                let until = Timestamp::now().as_millis() + 60_000;
                let claim = format!("UPDATE emitter_dlq_events SET owner = 'another', until = {until} WHERE id = {first}");
                db.batch_execute(&format!("BEGIN; {claim}")).unwrap();
                // Both are free as far as it can see.
                let book = stage.book.clone();
                let discarding = std::thread::spawn(move || book.discard(&Selection::default()).unwrap());
                tokio::time::sleep(SECOND).await;
                assert!(!discarding.is_finished(), "it waits for the claim");
                db.batch_execute("COMMIT").unwrap();
                assert_eq!(tokio::task::block_in_place(|| discarding.join().unwrap()), 1);
                assert_eq!(stage.all().iter().map(|kept| kept.id).collect::<Vec<_>>(), [first]);
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_redrive_keeps_to_its_rate_and_renews_its_claims() {
                let stage = Stage::set().await;
                stage.shop.refuse(0..60);
                for id in 0..60 {
                    stage.emitter.publish(order(id, 0));
                }
                stage.until(60).await;
                stage.shop.open();
                let last: Vec<i64> = stage.all().iter().rev().take(10).map(|kept| kept.id).collect();
                let last = Selection { ids: Some(last), ..Selection::default() };
                let begun = std::time::Instant::now();
                let slow = Redrive { per_second: 20, at_once: 50, lease: 2 * SECOND };
                let selection = Selection::default();
                let (slow, others) = tokio::join!(stage.book.redrive(&stage.emitter, &selection, slow), async {
                    let mut others = 0;
                    // Its first lease is over by then.
                    for _ in 0..5 {
                        tokio::time::sleep(SECOND / 2).await;
                        others += stage.redrive(&last).await.handled;
                    }
                    others
                });
                assert!(begun.elapsed() >= Duration::from_millis(59 * 50 - 500), "{:?}", begun.elapsed());
                assert_eq!((slow.unwrap().handled, others), (60, 0));
                assert_eq!(stage.shop.steps("notify"), of_keys(0..60, vec![0]));
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_shutdown_interrupts_it_and_nothing_is_lost() {
                let stage = Stage::set().await;
                stage.shop.refuse(0..50);
                for id in 0..50 {
                    stage.emitter.publish(order(id, 0));
                }
                stage.until(50).await;
                stage.shop.open();
                let slow = Redrive { per_second: 50, ..ALL };
                let selection = Selection::default();
                let (redriven, report) = tokio::join!(stage.book.redrive(&stage.emitter, &selection, slow), async {
                    tokio::time::sleep(SECOND / 4).await;
                    stage.emitter.shutdown(10 * SECOND).await
                });
                assert!(report.is_clean());
                let redriven = redriven.unwrap();
                assert!(redriven.is_interrupted && (1..50).contains(&redriven.handled), "{redriven:?}");
                assert_eq!(stage.count() + redriven.handled, 50);
                assert!(stage.all().iter().all(|kept| !kept.is_claimed));
                let next = builder("a", &stage.shop).start().await.unwrap();
                let rest = stage.book.redrive(&next, &selection, ALL).await.unwrap();
                assert_eq!(rest.handled + redriven.handled, 50);
                assert_eq!(stage.shop.steps("notify"), of_keys(0..50, vec![0]));
                assert!(next.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn connections_that_break_at_any_statement_lose_no_letter_and_handle_none_twice() {
                const STEPS: i64 = 3;
                let stage = Stage::set().await;
                let breaker = Breaker::default();
                let frail = Tables::new(breaker.around(stage.server.connector()));
                let book = DeadLetterBook::open(&frail).unwrap();
                let moments = [Some(Moment::Before), Some(Moment::After)];
                let (mut keys, mut round) = (Vec::new(), 0);
                for at in ["MAX(id)", "SET owner = ", "payload AS payload", "DELETE FROM emitter_dlq_events"] {
                    for first in moments {
                        // On the next connection, too: the same, and what is said at its beginning.
                        for more in [None, moments[0], moments[1]] {
                            round += 1;
                            keys.push(round);
                            stage.shop.refuse([round]);
                            for step in 0..STEPS {
                                stage.emitter.publish(order(round, step));
                            }
                            stage.until(STEPS.unsigned_abs()).await;
                            stage.shop.open();
                            breaker.plan(at, [first, more, more]);
                            let redriven = book.redrive(&stage.emitter, &Selection::default(), ALL).await.unwrap();
                            let told = (redriven.handled, redriven.failed, redriven.skipped);
                            assert_eq!(told, (STEPS.unsigned_abs(), 0, 0), "{at} {first:?} {more:?}");
                            assert_eq!((stage.count(), breaker.is_done()), (0, true), "{at} {first:?} {more:?}");
                        }
                    }
                }
                assert_eq!(stage.shop.steps("notify"), of_keys(keys, (0..STEPS).collect()));
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_is_noted_together_may_be_more_than_a_server_takes_at_once() {
                const LETTERS: usize = 60;
                let broker = MemoryBroker::new();
                let transport = broker.connect("shop.a");
                let stage = Stage::set_up(|builder| builder.transport(transport), |letters| letters).await;
                #[derive(Debug, Clone, Serialize, Deserialize, Emits)]
                #[emits(model = "scroll", create)]
                struct Scroll {
                    id: i64,
                    text: String,
                }
                // All of them end at once.
                let together = Arc::new(tokio::sync::Barrier::new(LETTERS));
                let options = ListenerOptions { attempts: Some(1), ..ListenerOptions::default() };
                let on = stage.emitter.on::<ScrollCreated>().allow_remote().name("read").options(options);
                let _ = on.run(move |_| {
                    let together = Arc::clone(&together);
                    async move {
                        together.wait().await;
                        Err::<(), _>("too long")
                    }
                });
                stage.emitter.connected(10 * SECOND).await.unwrap();
                for _ in 0..LETTERS {
                    broker.publish("prisma/events/scroll/create", "{");
                }
                stage.until(LETTERS as u64).await;
                for (id, kept) in (0..).zip(stage.all()) {
                    let row = Scroll { id, text: "x".repeat(250_000) };
                    let event = serde_json::json!({ "model": "scroll", "operation": "create", "args": {}, "result": row });
                    stage.book.edit(kept.id, event.to_string().as_bytes()).unwrap();
                }
                let redrive = Redrive { at_once: LETTERS, ..ALL };
                let redriven = stage.book.redrive(&stage.emitter, &Selection::default(), redrive).await.unwrap();
                assert_eq!((redriven.handled, redriven.failed), (0, LETTERS as u64));
                let by = stage.book.count_by(&Selection::default(), Facet::Listener).unwrap();
                assert_eq!(by, [("read".to_owned(), LETTERS as u64)]);
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_flood_fills_no_table_and_old_ones_are_cleared_away() {
                let few = |letters: DeadLetters| letters.most(30).most_bytes(1 << 20);
                let stage = Stage::set_up(|builder| builder, few).await;
                stage.shop.refuse(0..1_000);
                for id in 0..100 {
                    stage.emitter.publish(order(id, 0));
                }
                eventually(|| stage.emitter.stats().dead_letters_lost == 70).await;
                assert_eq!(stage.count(), 30);
                assert!(stage.emitter.shutdown(10 * SECOND).await.is_clean());

                let mut db = stage.server.connect();
                let ids: Vec<i64> = stage.all().iter().take(10).map(|kept| kept.id).collect();
                let old = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                db.batch_execute(&format!("UPDATE emitter_dlq_events SET created_at = '2020-01-01 00:00:00' WHERE id IN ({old})"))
                    .unwrap();
                // A redrive of an hour has the first one still.
                let until = Timestamp::now().as_millis() + 3_600_000;
                let claim = format!("UPDATE emitter_dlq_events SET owner = 'another', until = {until} WHERE id = {}", ids[0]);
                db.batch_execute(&claim).unwrap();
                let letters = DeadLetters::new(stage.server.tables());
                let next = builder("a", &stage.shop).with(letters).start().await.unwrap();
                stage.until(21).await;
                assert!(stage.book.show(ids[0]).unwrap().is_claimed);
                assert!(next.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_large_event_is_told_of_without_its_bytes() {
                let large = |letters: DeadLetters| letters.most_bytes(1 << 30);
                let stage = Stage::set_up(|builder| builder.max_payload(8 << 20), large).await;
                #[derive(Debug, Clone, Serialize, Deserialize, Emits)]
                #[emits(model = "scroll", create)]
                struct Scroll {
                    id: i64,
                    text: String,
                }
                let _ = stage.emitter.on::<ScrollCreated>().name("read").run(|_| std::future::ready(Err("too long")));
                for size in [400_000, 1_200_000] {
                    stage.emitter.publish(ScrollCreated::new(Scroll { id: 1, text: "'x".repeat(size / 2) }));
                }
                stage.until(2).await;
                let all = stage.all();
                let payloads: Vec<bool> =
                    all.iter().map(|kept| stage.book.show(kept.id).unwrap().payload.is_some()).collect();
                assert_eq!(payloads, [true, false]);
                assert!(all[1].bytes > 1_200_000);
                assert_eq!(stage.redrive(&Selection::one(all[1].id)).await.failed, 1);
                assert!(stage.book.show(all[1].id).unwrap().failure_reason.contains("nothing was kept"));
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn rows_that_somebody_else_wrote_stop_nothing() {
                let stage = Stage::set().await;
                stage.shop.refuse(0..7);
                for id in 0..7 {
                    stage.emitter.publish(order(id, 0));
                }
                stage.until(7).await;
                stage.shop.open();
                let mut db = stage.server.connect();
                let ids: Vec<i64> = stage.all().iter().map(|kept| kept.id).collect();
                for (id, spoilt) in ids.iter().zip([
                    "payload_encoding = 'base64'",
                    "payload_encoding = 'rot13'",
                    "properties = '{}'",
                    "original_topic = '#', payload = '{}'",
                    "attempts = -5, redrives = -1, bytes = -7, listener = 'notify'",
                    "payload = '', event_id = NULL",
                ]) {
                    db.batch_execute(&format!("UPDATE emitter_dlq_events SET {spoilt} WHERE id = {id}")).unwrap();
                }
                assert_eq!(stage.all().len(), 7);
                let redriven = stage.redrive(&Selection::default()).await;
                assert_eq!((redriven.handled, redriven.failed), (2, 5));
                assert_eq!(stage.count(), 5);
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn one_percent_of_poison_is_one_letter_each_and_handled_once_after_the_fix() {
                const EVENTS: i64 = 2_000;
                let broker = MemoryBroker::new();
                let transport = broker.connect("shop.a");
                let stage = Stage::set_up(|builder| builder.transport(transport), |letters| letters).await;
                let tries: Arc<Mutex<BTreeMap<i64, u32>>> = Arc::default();
                let (handled, shop): (Arc<Mutex<BTreeMap<i64, u32>>>, _) = (Arc::default(), Arc::clone(&stage.shop));
                let (trying, handling) = (Arc::clone(&tries), Arc::clone(&handled));
                let flaky = move |event: Event<OrderCreated>| {
                    let id = event.row.id;
                    let mut tries = trying.lock().unwrap();
                    let tries = tries.entry(id).or_default();
                    *tries += 1;
                    let is_poison = id % 100 == 7 && shop.closed.load(Ordering::SeqCst);
                    let is_flaky = id % 10 == 3 && *tries == 1;
                    let good = !is_poison && !is_flaky;
                    if good {
                        *handling.lock().unwrap().entry(id).or_default() += 1;
                    }
                    std::future::ready(if good { Ok(()) } else { Err("try again") })
                };
                let _ = stage.emitter.on::<OrderCreated>().allow_remote().name("flaky").run(flaky);
                stage.emitter.connected(10 * SECOND).await.unwrap();
                stage.shop.refuse([]);
                let writer = Emitter::builder().service("desk").node("w").select_listeners(|_| false);
                let writer = writer.transport(broker.connect("desk.w")).start().await.unwrap();
                for id in 0..EVENTS {
                    writer.publish(order(id, 0));
                }
                assert!(writer.shutdown(30 * SECOND).await.is_clean());
                let poison = EVENTS / 100;
                stage.until(poison.unsigned_abs()).await;
                eventually(|| stage.shop.steps("notify").len() == 2_000).await;
                eventually(|| broker.unacknowledged("shop.a") == 0).await;
                let healthy = EVENTS - poison;
                assert_eq!(handled.lock().unwrap().len(), usize::try_from(healthy).unwrap());
                let expected = [("flaky".to_owned(), poison.unsigned_abs())];
                assert_eq!(stage.book.count_by(&Selection::default(), Facet::Listener).unwrap(), expected);

                stage.shop.open();
                let redriven = stage.redrive(&Selection::default()).await;
                assert_eq!((redriven.handled, redriven.failed, stage.count()), (poison.unsigned_abs(), 0, 0));
                let handled = handled.lock().unwrap().clone();
                assert_eq!(handled.len(), usize::try_from(EVENTS).unwrap());
                assert!(handled.values().all(|times| *times == 1), "each once");
                assert_eq!(stage.shop.steps("notify"), of_keys(0..EVENTS, vec![0]), "nobody else is called again");
                stage.end().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn tables_that_are_not_there_are_told_at_the_start() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let tables = || Tables::new(server.connector());
                let builder = Emitter::builder().select_listeners(|_| false);
                let start = builder.with(DeadLetters::new(tables())).start().await;
                let Err(StartError::Companion { name, problem }) = start else { panic!("{start:?}") };
                assert_eq!(name, "dead letters");
                assert!(problem.contains(".migrate()"), "{problem}");
                assert!(matches!(DeadLetterBook::open(&tables()), Err(BookError::Tables(_))));
            }
        }
    };
}
