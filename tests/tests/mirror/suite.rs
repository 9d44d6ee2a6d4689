//! The suite, as a macro: of a database's type.

macro_rules! suite {
    ($name:ident: $server:ty) => {
        mod $name {
            use std::collections::BTreeSet;
            use std::ops::ControlFlow;
            use std::sync::atomic::{AtomicBool, Ordering};

            use diesel::connection::SimpleConnection;
            use emitter_core::envelope::Format;
            use emitter_core::event::Timestamp;
            use emitter_core::metrics::Prometheus;
            use emitter_core::metrics::table::{self, Metric};
            use emitter_core::transport::{Message, Transport};
            use emitter_core::topic::Topic;
            use emitter_core::{Again, Batches, Event, Operation, Signatures, SigningKey, Source, StartError, Trace};
            use emitter_core::model::CreatedMany;
            use emitter_diesel::mirror::{
                Cursor, Listeners, Mirror, MirrorConfig, MirrorError, ReplayOptions,
            };
            use emitter_diesel::tables::Tables;
            use emitter_tests::alerts::scrape;
            use emitter_tests::eventually::eventually;
            use emitter_tests::frail::{Breaker, Moment};

            use super::databases::Database;
            use super::*;

            async fn scribe(broker: &MemoryBroker, server: &$server, node: &str, lease: Duration) -> Emitter {
                let config = MirrorConfig { lease, ..MirrorConfig::default() };
                let mirror = Mirror::new(server.tables()).config(config);
                builder(broker, "audit", node).with(mirror).start().await.unwrap()
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn every_event_in_each_form_and_in_batches_lands_once() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let audit = scribe(&broker, &server, "a", 15 * SECOND).await;
                writes(&audit).await;
                let trace: Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
                let forms = [Format::Specification, Format::CloudEvents, Format::CloudEventsBinary, Format::Tracker];
                let mut expected = Vec::new();
                for (place, form) in (0..).zip(forms) {
                    let shop = builder(&broker, "shop", "a").format(form).start().await.unwrap();
                    let options = emitter_core::EmitOptions::default().trace(trace);
                    expected.push(shop.publish_with(order(place * 10), options).id);
                    expected.push(shop.publish(OrderUpdated::new(None, Order { id: place * 10 + 1, text: "x".into() }, None)).id);
                    expected.push(shop.publish(LoginFailed { username: "root".into() }).id);
                    expected.push(shop.publish(CreatedMany::<Order>::new(2, None)).id);
                    assert!(shop.shutdown(10 * SECOND).await.is_clean());
                }
                // The node's own are on the bus, too.
                expected.push(audit.publish(order(77)).id);
                let batching = builder(&broker, "shop", "b").batches(Batches::default()).start().await.unwrap();
                expected.extend((100..400).map(|id| batching.publish(order(id)).id));
                assert!(batching.shutdown(10 * SECOND).await.is_clean());
                assert!(broker.published().iter().any(|message| message.topic.ends_with("/batch")));
                recorded(&audit, expected.len() as u64).await;

                // Once more, as a publisher does that was not told, and a relay that takes over.
                for message in broker.published() {
                    broker.publish_with(&message.topic, message.payload, message.properties);
                }
                let told = || mirror::stats(&audit).unwrap();
                eventually(|| told().duplicates == expected.len() as u64).await;
                // Of another program's events none is known by its id.
                for _ in 0..2 {
                    let foreign = r#"{"model":"User","operation":"create","args":{"data":{}},"result":{"id":5},"eventId":"x"}"#;
                    broker.publish("prisma/events/user/all", foreign);
                }
                recorded(&audit, expected.len() as u64 + 2).await;
                assert!(audit.shutdown(10 * SECOND).await.is_clean());

                let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                let events = all(&mut mirrored);
                let (foreign, own) = events.split_last_chunk::<2>().map(|(own, foreign)| (foreign, own)).unwrap();
                assert_eq!(ids(own), expected);
                assert_eq!(events.len(), expected.len() + 2);
                for event in foreign {
                    assert_eq!((event.model.as_deref(), event.key.as_deref()), (Some("user"), Some("5")));
                    assert_eq!((event.event_id, &event.service), (None, &None));
                }
                for (place, events) in own[..16].chunks(4).enumerate() {
                    let [created, updated, failed, many] = events else { panic!("{events:?}") };
                    assert_eq!(created.model.as_deref(), Some("order"), "{place}");
                    assert_eq!(created.operation, Some(Operation::Create));
                    assert_eq!(created.key, Some((place * 10).to_string()));
                    assert_eq!(created.trace_id.unwrap().as_u128(), trace.trace_id());
                    assert_eq!(created.service.as_deref(), Some("shop"));
                    assert_eq!(created.node.as_deref(), Some("a"));
                    assert_eq!(updated.key, Some((place * 10 + 1).to_string()));
                    assert_eq!(updated.trace_id, updated.event_id.map(|id| *id.as_uuid()));
                    assert_eq!(failed.topic, "prisma/events/auth/login_failed");
                    assert_eq!((many.operation, &many.key), (Some(Operation::CreateMany), &None));
                    assert_eq!(created.kind.as_deref(), Some("order_created"), "{place}");
                    assert_eq!(failed.kind.as_deref(), Some("login_failed"));
                    assert_eq!(created.properties.get("specversion").is_some(), place == 2);
                }
            }

            #[test]
            fn a_page_is_bounded_in_bytes() {
                const EVENTS: usize = 100;
                let server = <$server>::with_tables();
                let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                let mut db = server.connect();
                // The eleventh is larger than a page by itself.
                for event in 0..EVENTS {
                    let bytes = if event == 10 { 9 << 20 } else { 300_000 };
                    let insert = format!(
                        "INSERT INTO emitter_events_mirror (topic, payload) VALUES ('a/b', '{{\"a\":\"{}\"}}')",
                        "x".repeat(bytes)
                    );
                    diesel::connection::SimpleConnection::batch_execute(&mut db, &insert).unwrap();
                }
                let mut selection = Selection { limit: 1_000, ..Selection::default() };
                let (mut ids, mut sizes) = (Vec::new(), Vec::new());
                loop {
                    let page = mirrored.read(&selection).unwrap();
                    sizes.push(page.events.iter().map(|event| event.payload.len()).sum::<usize>());
                    ids.extend(page.events.iter().map(|event| event.id));
                    selection.after = Some(page.cursor);
                    if !page.more {
                        break;
                    }
                }
                assert!(ids.is_sorted() && ids.len() == EVENTS, "{ids:?}");
                assert!(sizes.len() >= 5 && sizes.iter().all(|size| *size < 18 << 20), "{sizes:?}");
                assert!(sizes[1..].iter().all(|size| *size < (8 << 20) + 400_000), "{sizes:?}");

                // And from its end.
                let last = Selection { limit: 1, after: None, ..selection.clone() };
                let mut place = mirrored.before(&last, "9223372036854775807.9223372036854775807".parse().unwrap());
                let mut back = vec![place.as_mut().unwrap().pop().unwrap()];
                selection.after = None;
                while let Some(first) = back.first() {
                    let mut events = mirrored.before(&selection, first.cursor).unwrap();
                    if events.is_empty() {
                        break;
                    }
                    let size: usize = events.iter().map(|event| event.payload.len()).sum();
                    assert!(size < 18 << 20, "{size}");
                    events.append(&mut back);
                    back = events;
                }
                assert_eq!(back.iter().map(|event| event.id).collect::<Vec<_>>(), ids);
            }

            #[test]
            fn the_events_before_one_are_the_last_ones() {
                let server = <$server>::with_tables();
                let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                let mut db = server.connect();
                for event in 0..600 {
                    let insert = format!(
                        "INSERT INTO emitter_events_mirror (topic, payload, model, record_id) VALUES ('a/b', '{{}}', 'order', '{}')",
                        event % 2
                    );
                    diesel::connection::SimpleConnection::batch_execute(&mut db, &insert).unwrap();
                }
                let of_key = Selection { key: Some("1".to_owned()), model: Some("order".to_owned()), ..Selection::default() };
                let all = mirrored.read(&of_key).unwrap().events;
                assert_eq!(all.len(), 300);
                let mut before = |limit, place: usize| {
                    mirrored.before(&Selection { limit, ..of_key.clone() }, all[place].cursor).unwrap()
                };
                assert_eq!(before(20, 299), all[279..299]);
                assert_eq!(before(20, 7), all[..7]);
                assert_eq!(before(20, 0), []);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_is_no_event_ends_nothing_and_what_is_strange_is_kept_exactly() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let audit = scribe(&broker, &server, "a", 15 * SECOND).await;
                writes(&audit).await;
                let topic = "prisma/events/strange/create";
                let deep = format!("{}1{}", "{\"a\":".repeat(40), "}".repeat(40));
                let huge = format!("{{\"a\":\"{}\"}}", "x".repeat(300_000));
                let refused: [&[u8]; 9] = [
                    b"{\"a\":\"\xff\"}", b"", b"7", b"[", b"[]", b"{", b"null", deep.as_bytes(), huge.as_bytes(),
                ];
                for payload in refused {
                    broker.publish(topic, payload.to_vec());
                }
                broker.publish(&"prisma/events/".repeat(100), "{}");
                // What the framework says to itself is no event.
                for own in ["dlq/x", "_nodes/shop.a", "_canary/shop.a", "_replay/x"] {
                    broker.publish(&format!("prisma/events/{own}"), "{}");
                }
                let kept = [
                    "{}".to_owned(),
                    r#"{"a":"\u0000 \\u0000"}"#.to_owned(),
                    r#"{"a":"\ud83d"}"#.to_owned(),
                    r#"{"a":1,"a":2,"b":1e5,"c":-0.0,"d":1e200000}"#.to_owned(),
                    format!(r#"{{"a":{},"b":0.{}}}"#, "9".repeat(1_000), "1".repeat(1_000)),
                    "{\"a\":\"'; $e0$ \\\\' $$ \u{e4} \u{1f600}\"}".to_owned(),
                    format!("{{\"model\":\"{}\"}}", "m".repeat(10_000)),
                    format!(r#"{{"kind":"{0}","trace_id":"none","result":{{"id":"{0}"}}}}"#, "k".repeat(5_000)),
                    format!(r#"{{"model":"m","operation":"create","args":{{}},"result":{{"id":"{}\u0000"}}}}"#, "i".repeat(400)),
                    format!("{{\"a\":\"{}\"}}", "y".repeat(200_000)),
                ];
                for payload in &kept {
                    broker.publish(topic, payload.clone());
                }
                let last = audit.publish(order(1)).id;
                recorded(&audit, kept.len() as u64 + 1).await;
                let told = mirror::stats(&audit).unwrap();
                assert_eq!((told.refused, told.failed), (refused.len() as u64 + 1, 0));
                assert!(audit.shutdown(10 * SECOND).await.is_clean());

                let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                let events = all(&mut mirrored);
                assert_eq!(ids(&events), [last]);
                let is_same = |read: &str, sent: &str| {
                    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
                    read == sent || value(read).is_some() && value(read) == value(sent)
                };
                for (event, sent) in events.iter().zip(&kept) {
                    assert!(is_same(&event.payload, sent), "{} {}", event.payload, sent);
                }
                for exact in [1, 2, 3] {
                    assert_eq!(events[exact].payload, kept[exact]);
                }
                assert_eq!((&events[6].model, &events[7].kind), (&None, &None));
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn with_signatures_only_what_is_signed_is_kept_and_it_is_kept_exactly() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let key = || Signatures::new(SigningKey::hmac_sha256("k", &[7; 32]).unwrap());
                let audit = builder(&broker, "audit", "a").signatures(key()).with(Mirror::new(server.tables()));
                let prometheus = Prometheus::new();
                let audit = audit.with(prometheus.clone()).start().await.unwrap();
                writes(&audit).await;
                let unsigned = builder(&broker, "shop", "a").batches(Batches::default()).start().await.unwrap();
                (0..10).for_each(|id| assert!(!unsigned.publish(order(id)).id.as_uuid().is_nil()));
                assert!(unsigned.shutdown(10 * SECOND).await.is_clean());
                let shop = builder(&broker, "shop", "a").signatures(key()).start().await.unwrap();
                let published = shop.publish(order(11)).id;
                assert!(shop.shutdown(10 * SECOND).await.is_clean());
                recorded(&audit, 1).await;
                eventually(|| mirror::stats(&audit).unwrap().refused == 10).await;
                let scrape = scrape(&prometheus.text());
                let told = |metric: Metric, outcome: Option<&str>| {
                    let labels = outcome.map(|outcome| ("outcome".to_owned(), outcome.to_owned()));
                    scrape[&(metric.name.to_owned(), labels.into_iter().collect())]
                };
                let outcomes = ["recorded", "duplicate", "failed", "refused"];
                assert_eq!(outcomes.map(|outcome| told(table::MIRRORED, Some(outcome))), [1.0, 0.0, 0.0, 10.0]);
                assert_eq!(told(table::MIRROR_WRITES, None), 1.0);
                assert!(audit.shutdown(10 * SECOND).await.is_clean());
                let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                let events = all(&mut mirrored);
                assert_eq!(ids(&events), [published]);
                let sent = broker.published().into_iter().find(|message| message.topic == events[0].topic
                    && String::from_utf8_lossy(&message.payload).contains(&published.to_string()));
                assert_eq!(events[0].payload.as_bytes(), &sent.unwrap().payload[..]);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_was_retained_is_not_recorded_at_each_connection() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let other = broker.connect("other");
                let topic = Topic::parse("prisma/events/order/create").unwrap();
                let retained = |text: &str| Message { retain: true, ..Message::new(topic.clone(), text.to_owned()) };
                other.publish(retained("{\"before\":1}")).unwrap().await.unwrap();
                for life in 0..3 {
                    let audit = scribe(&broker, &server, "a", 15 * SECOND).await;
                    writes(&audit).await;
                    if life == 0 {
                        other.publish(retained("{\"while\":1}")).unwrap().await.unwrap();
                        recorded(&audit, 1).await;
                        eventually(|| broker.unacknowledged("audit-mirror") == 0).await;
                    }
                    broker.disconnect("audit-mirror");
                    broker.reconnect("audit-mirror");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    assert!(audit.shutdown(10 * SECOND).await.is_clean());
                    broker.forget("audit-mirror");
                }
                let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                assert_eq!(mirrored.count(&Selection::default()).unwrap(), 1);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn one_node_writes_and_another_goes_on_where_it_stopped() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let shop = builder(&broker, "shop", "a").start().await.unwrap();
                let mut expected = Vec::new();
                let mut first = scribe(&broker, &server, "node-0", 3 * SECOND).await;
                writes(&first).await;
                for round in 1..4 {
                    let second = scribe(&broker, &server, &format!("node-{round}"), 3 * SECOND).await;
                    expected.extend((0..500).map(|id| shop.publish(order(id)).id));
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..60))).await;
                    assert!(!mirror::stats(&second).unwrap().writes, "two write");
                    if round == 2 {
                        assert!(first.shutdown(10 * SECOND).await.is_clean());
                    } else {
                        // Without a word to anybody.
                        drop(first);
                    }
                    expected.extend((0..500).map(|id| shop.publish(order(id)).id));
                    eventually(|| mirror::stats(&second).unwrap().writes).await;
                    first = second;
                }
                let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                let begun = std::time::Instant::now();
                while mirrored.count(&Selection::default()).unwrap() < 3_000 && begun.elapsed() < 30 * SECOND {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                assert_eq!(ids(&all(&mut mirrored)), expected);
                for emitter in [first, shop] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            /// What is written down of so many rounds, in each of which connections break in another way.
            async fn broken(at: &str, plans: &[Vec<Option<Moment>>]) {
                let server = <$server>::with_tables();
                let (broker, breaker) = (MemoryBroker::new(), Breaker::default());
                let tables = Tables::new(breaker.around(server.connector())).migrate();
                let audit = builder(&broker, "audit", "a").with(Mirror::new(tables)).start().await.unwrap();
                writes(&audit).await;
                let shop = builder(&broker, "shop", "a").start().await.unwrap();
                let mut expected = Vec::new();
                for (round, plan) in (1..).zip(plans) {
                    breaker.plan(at, plan.clone());
                    expected.extend((0..3).map(|id| shop.publish(order(id)).id));
                    broker.publish("prisma/events/foreign/create", "{}");
                    let begun = std::time::Instant::now();
                    while mirror::stats(&audit).unwrap().recorded < 4 * round || !breaker.is_done() {
                        assert!(begun.elapsed() < 20 * SECOND, "{plan:?} {:?}", mirror::stats(&audit));
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                    assert_eq!(ids(&all(&mut mirrored)), expected, "{plan:?}");
                    assert_eq!(mirrored.count(&Selection::default()).unwrap(), 4 * round, "{plan:?}");
                }
                for emitter in [audit, shop] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn connections_that_break_at_any_statement_lose_nothing_and_double_nothing() {
                let moments = [None, Some(Moment::Before), Some(Moment::After)];
                // The batch itself, and what is asked of the next connections.
                let mut plans = Vec::new();
                for first in [Moment::Before, Moment::After] {
                    for second in moments {
                        for third in moments {
                            plans.push(vec![Some(first), second, third, None]);
                        }
                    }
                }
                broken("INSERT INTO emitter_events_mirror", &plans).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_connection_that_breaks_at_the_beginning_costs_no_lease() {
                for plan in [vec![Some(Moment::After)], vec![None, Some(Moment::Before)], vec![None, None, Some(Moment::After)]] {
                    let server = <$server>::with_tables();
                    let (broker, breaker) = (MemoryBroker::new(), Breaker::default());
                    breaker.plan("SET owner = ", plan);
                    let mirror = Mirror::new(Tables::new(breaker.around(server.connector())).migrate());
                    let config = MirrorConfig { lease: 60 * SECOND, ..MirrorConfig::default() };
                    let audit = builder(&broker, "audit", "a").with(mirror.config(config)).start().await.unwrap();
                    writes(&audit).await;
                    assert!(breaker.is_done());
                    assert!(audit.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_row_that_the_database_refuses_takes_no_other_along() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let audit = scribe(&broker, &server, "a", 15 * SECOND).await;
                writes(&audit).await;
                // A rule of the owner's, on every database a different way to say it.
                let mut db = server.connect();
                let refuse = ["x", "y"].map(|topic| format!("prisma/events/{topic}/create"));
                let by = |topic: &str, what: &str| match std::any::type_name::<Conn>() {
                    name if name.contains("Pg") => format!(
                        "CREATE FUNCTION refuse_{what}() RETURNS trigger LANGUAGE plpgsql AS \
                         'BEGIN RAISE EXCEPTION ''no''; END'; \
                         CREATE TRIGGER refuse_{what} BEFORE INSERT ON emitter_events_mirror FOR EACH ROW \
                         WHEN (NEW.topic = '{topic}'{}) EXECUTE FUNCTION refuse_{what}()",
                        if what == "payload" { " AND NEW.payload <> '{}'" } else { "" }
                    ),
                    name if name.contains("Mysql") => format!(
                        "CREATE TRIGGER refuse_{what} BEFORE INSERT ON emitter_events_mirror FOR EACH ROW \
                         IF NEW.topic = '{topic}'{} THEN SIGNAL SQLSTATE '45000'; END IF",
                        if what == "payload" { " AND NEW.payload <> '{}'" } else { "" }
                    ),
                    _ => format!(
                        "CREATE TRIGGER refuse_{what} BEFORE INSERT ON emitter_events_mirror \
                         WHEN NEW.topic = '{topic}'{} BEGIN SELECT RAISE(ABORT, 'no'); END",
                        if what == "payload" { " AND NEW.payload <> '{}'" } else { "" }
                    ),
                };
                db.batch_execute(&by(&refuse[0], "payload")).unwrap();
                db.batch_execute(&by(&refuse[1], "row")).unwrap();
                let mut expected = Vec::new();
                for id in 0..40 {
                    expected.push(audit.publish(order(id)).id);
                    if id == 20 {
                        broker.publish(&refuse[0], "{\"a\":1}");
                        broker.publish(&refuse[1], "{\"a\":1}");
                    }
                }
                recorded(&audit, 41).await;
                eventually(|| mirror::stats(&audit).unwrap().failed == 1).await;
                assert!(audit.shutdown(10 * SECOND).await.is_clean());
                let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                let events = all(&mut mirrored);
                assert_eq!(ids(&events), expected);
                let strange: Vec<&MirroredEvent> = events.iter().filter(|event| event.event_id.is_none()).collect();
                let [strange] = strange[..] else { panic!("{strange:?}") };
                assert_eq!(strange.payload, "{\"a\":1}", "it is kept as text");
            }

            type Conn = <$server as Database>::Conn;

            /// Whoever may write into the mirror's own table: its reads miss nothing behind an id that is not committed. The whole
            /// way of an event, with one writer of the mirror, is in `transactions`.
            #[tokio::test(flavor = "multi_thread")]
            async fn sixteen_writers_and_one_that_holds_an_early_id_hide_nothing() {
                let server = <$server>::with_tables();
                let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                let hold = if is_full() { 60 * SECOND } else { 2 * SECOND };
                let insert = |topic: &str| {
                    format!(
                        "INSERT INTO emitter_events_mirror (topic, payload) VALUES ('{topic}', \
                         '{{\"model\":\"order\",\"operation\":\"create\",\"args\":{{}},\"result\":{{\"id\":1,\"text\":\"{topic}\"}}}}')"
                    )
                };
                // Whoever has to wait for the early one does.
                let patient = || {
                    let mut db = server.connect();
                    let waits = match std::any::type_name::<Conn>() {
                        name if name.contains("Mysql") => "SET innodb_lock_wait_timeout = 600",
                        name if name.contains("Sqlite") => "PRAGMA busy_timeout = 600000",
                        _ => "SELECT 1",
                    };
                    db.batch_execute(waits).unwrap();
                    db
                };
                let desk = builder(&MemoryBroker::new(), "desk", "a").start().await.unwrap();
                let handed: Arc<Mutex<Vec<String>>> = Arc::default();
                let hand = Arc::clone(&handed);
                let on = desk.on::<OrderCreated>().allow_remote();
                on.run(move |event: Event<OrderCreated>| {
                    hand.lock().unwrap().push(event.row.text.clone());
                    std::future::ready(())
                });
                // On SQLite whoever writes is alone, and on MySQL so it is in the way in which mirrors write.
                let alone = match std::any::type_name::<Conn>() {
                    name if name.contains("Mysql") => "UPDATE emitter_mirrors SET batches = batches",
                    _ => "SELECT 1",
                };
                server.connect().batch_execute("INSERT INTO emitter_mirrors (name) VALUES ('x')").unwrap();
                let begin = if std::any::type_name::<Conn>().contains("Sqlite") { "BEGIN IMMEDIATE" } else { "BEGIN" };
                let each = if is_full() { 625 } else { 60 };
                let over = AtomicBool::new(false);
                let (seen, committed) = tokio::task::block_in_place(|| std::thread::scope(|scope| {
                    // Again and again from where the last one ended.
                    let replays = scope.spawn(|| {
                        let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                        let mut after = None;
                        loop {
                            let last = over.load(Ordering::SeqCst);
                            let selection = Selection { after, ..Selection::default() };
                            let replay = mirrored.replay(&desk, selection, ReplayOptions::default()).unwrap();
                            let done = replay.finish().unwrap();
                            assert_eq!((done.failed, done.unheard), (0, 0), "{done:?}");
                            after = Some(done.cursor);
                            if last {
                                return;
                            }
                            std::thread::sleep(Duration::from_millis(20));
                        }
                    });
                    let tail = scope.spawn(|| {
                        let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                        let mut tail = mirrored.tail(Selection { limit: 50, ..Selection::default() });
                        let mut seen = Vec::new();
                        loop {
                            let last = over.load(Ordering::SeqCst);
                            let came = tail.next(Duration::from_millis(20)).unwrap();
                            let nothing = came.is_empty();
                            seen.extend(came.into_iter().map(|event| event.topic));
                            if last && nothing {
                                return seen;
                            }
                        }
                    });
                    let mut holder = server.connect();
                    holder.batch_execute(begin).unwrap();
                    holder.batch_execute(alone).unwrap();
                    holder.batch_execute(&insert("early")).unwrap();
                    let writers: Vec<_> = (0..16)
                        .map(|writer| {
                            let (patient, insert) = (&patient, &insert);
                            scope.spawn(move || {
                                let mut db = patient();
                                let mut committed = Vec::new();
                                for n in 0..each {
                                    let topic = format!("{writer}/{n}");
                                    db.batch_execute(begin).unwrap();
                                    db.batch_execute(alone).unwrap();
                                    db.batch_execute(&insert(&topic)).unwrap();
                                    if n % 2 == 0 {
                                        committed.push(topic);
                                        db.batch_execute("COMMIT").unwrap();
                                    } else {
                                        db.batch_execute("ROLLBACK").unwrap();
                                    }
                                }
                                committed
                            })
                        })
                        .collect();
                    std::thread::sleep(hold);
                    holder.batch_execute("COMMIT").unwrap();
                    let mut committed = vec!["early".to_owned()];
                    committed.extend(writers.into_iter().flat_map(|writer| writer.join().unwrap()));
                    over.store(true, Ordering::SeqCst);
                    replays.join().unwrap();
                    (tail.join().unwrap(), committed)
                }));
                let unique: BTreeSet<&String> = seen.iter().collect();
                assert_eq!(unique.len(), seen.len(), "some were seen twice");
                assert_eq!(unique, committed.iter().collect(), "the tail");
                let read: BTreeSet<String> = all(&mut mirrored).into_iter().map(|event| event.topic).collect();
                assert_eq!(read, committed.iter().cloned().collect(), "the pages");
                assert_eq!(mirrored.count(&Selection::default()).unwrap(), committed.len() as u64);
                let handed = handed.lock().unwrap().clone();
                assert_eq!(handed.len(), committed.len(), "the replay");
                assert_eq!(handed.into_iter().collect::<BTreeSet<_>>(), committed.into_iter().collect());
                assert!(desk.shutdown(10 * SECOND).await.is_clean());
            }

            type Log = Arc<Mutex<Vec<(&'static str, i64, Source, Option<Again>)>>>;

            async fn desk(broker: &MemoryBroker, log: &Log) -> Emitter {
                let desk = builder(broker, "desk", "a").listener_queue(20).start().await.unwrap();
                for name in ["one", "two"] {
                    let log = Arc::clone(log);
                    let on = desk.on::<OrderCreated>().allow_remote().name(name);
                    on.run(move |event: Event<OrderCreated>| {
                        let heard = (name, event.row.id, event.source(), event.meta().again());
                        log.lock().unwrap().push(heard);
                        std::future::ready(())
                    });
                }
                desk.connected(10 * SECOND).await.unwrap();
                desk
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_replay_is_what_its_dry_run_counts_by_each_criterion() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let audit = scribe(&broker, &server, "a", 15 * SECOND).await;
                writes(&audit).await;
                let log = Log::default();
                let desk = desk(&broker, &log).await;
                let shop = builder(&broker, "shop", "a").start().await.unwrap();
                for half in [0..50_i64, 50..100] {
                    let so_far = half.end.unsigned_abs();
                    half.for_each(|id| assert_eq!(shop.publish(order(id)).id.as_uuid().get_version_num(), 7));
                    recorded(&audit, so_far).await;
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                // What this node wrote itself, what it cannot read, and what it has no listener for.
                desk.publish(order(100));
                broker.publish("prisma/events/order/create", r#"{"model":"order","operation":"create","args":{},"result":{"id":"x"}}"#);
                broker.publish("prisma/events/other/create", r#"{"model":"other","operation":"create","args":{},"result":{"id":7}}"#);
                recorded(&audit, 103).await;
                tokio::time::sleep(Duration::from_millis(30)).await;
                shop.publish(order(7));
                recorded(&audit, 104).await;
                eventually(|| log.lock().unwrap().len() == 2 * 102).await;

                let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                let events = all(&mut mirrored);
                let at = |place: usize| events[place].created_at;
                let last = at(103);
                let half = 50;
                let some = Selection::default;
                let criteria = [
                    (some(), 104, 102, 1),
                    (Selection { since: Some(last), ..some() }, 1, 1, 0),
                    (Selection { until: Some(at(49)), ..some() }, half, half, 0),
                    (Selection { since: Some(at(0)), until: Some(last), ..some() }, 104, 102, 1),
                    (Selection { since: Some(Timestamp::from_millis(last.as_millis() + 1)), ..some() }, 0, 0, 0),
                    (Selection { topic_prefix: Some("prisma/events/oth".into()), ..some() }, 1, 0, 0),
                    (Selection { topic_prefix: Some("prisma/events/o%".into()), ..some() }, 0, 0, 0),
                    (Selection { kind: Some("order_created".into()), ..some() }, 103, 102, 1),
                    (Selection { kind: Some("order".into()), ..some() }, 0, 0, 0),
                    (Selection { model: Some("Order".into()), ..some() }, 103, 102, 1),
                    (Selection { model: Some("order".into()), key: Some("7".into()), ..some() }, 2, 2, 0),
                    (Selection { operation: Some(Operation::Create), ..some() }, 104, 102, 1),
                    (Selection { operation: Some(Operation::Update), ..some() }, 0, 0, 0),
                    (Selection { trace_id: events[3].trace_id, ..some() }, 1, 1, 0),
                    (Selection { after: Some(events[99].cursor), ..some() }, 4, 2, 1),
                ];
                for (selection, counted, handed, failed) in criteria {
                    log.lock().unwrap().clear();
                    let count = mirrored.count(&selection).unwrap();
                    assert_eq!(count, counted as u64, "{selection:?}");
                    let selection = Selection { limit: 30, ..selection };
                    let replayed = tokio::task::block_in_place(|| {
                        mirrored.replay(&desk, selection.clone(), ReplayOptions::default()).unwrap().finish().unwrap()
                    });
                    assert_eq!((replayed.handed, replayed.failed), (handed as u64, failed), "{selection:?}");
                    assert_eq!(replayed.handed + replayed.failed + replayed.unheard, count);
                    assert_eq!(replayed.problems.len() as u64, replayed.failed);
                    let heard = log.lock().unwrap().clone();
                    assert_eq!(heard.len(), 2 * handed, "{selection:?}");
                    for (_, id, source, again) in heard {
                        assert_eq!(again, Some(Again::Replayed));
                        assert_eq!(source, if id == 100 { Source::Local } else { Source::Remote });
                    }
                }
                assert_eq!(desk.stats().duplicates, 0);

                // To one listener alone, at a rate.
                log.lock().unwrap().clear();
                let named = |name: &str| Listeners::Named(vec![name.to_owned()]);
                let begun = std::time::Instant::now();
                let options = ReplayOptions { listeners: named("two"), per_second: Some(100) };
                tokio::task::block_in_place(|| {
                    let selection = Selection { until: Some(at(49)), ..some() };
                    mirrored.replay(&desk, selection, options).unwrap().finish().unwrap()
                });
                let least = Duration::from_millis(10 * (half as u64 - 1));
                assert!(begun.elapsed() >= least, "{:?} and not {least:?}", begun.elapsed());
                assert!(log.lock().unwrap().iter().all(|(name, ..)| *name == "two"));
                assert_eq!(log.lock().unwrap().len(), half);
                let options = ReplayOptions { listeners: named("three"), ..ReplayOptions::default() };
                let unknown = mirrored.replay(&desk, some(), options).map(drop);
                assert!(matches!(unknown, Err(MirrorError::UnknownListener(name)) if name == "three"));

                // Interrupted, and resumed by the text of its cursor.
                log.lock().unwrap().clear();
                let mut cursor = Cursor::default().to_string();
                let mut steps = 0;
                loop {
                    let selection = Selection { after: Some(cursor.parse().unwrap()), limit: 9, ..some() };
                    let step = tokio::task::block_in_place(|| {
                        let mut replay = mirrored.replay(&desk, selection, ReplayOptions::default()).unwrap();
                        match replay.step().unwrap() {
                            Some(done) => ControlFlow::Continue(done.cursor),
                            None => ControlFlow::Break(()),
                        }
                    });
                    let ControlFlow::Continue(next) = step else { break };
                    cursor = next.to_string();
                    steps += 1;
                }
                assert_eq!(steps, 104_usize.div_ceil(9));
                let mut heard: Vec<i64> =
                    log.lock().unwrap().iter().filter(|(name, ..)| *name == "one").map(|(_, id, ..)| *id).collect();
                heard.sort_unstable();
                let mut expected: Vec<i64> = (0..=100).chain([7]).collect();
                expected.sort_unstable();
                assert_eq!(heard, expected);

                // A replay whose emitter ends says so.
                let mut replay = mirrored.replay(&desk, some(), ReplayOptions::default()).unwrap();
                let _ = desk.shutdown(10 * SECOND).await;
                let ended = tokio::task::block_in_place(|| replay.step().map(drop));
                assert!(matches!(ended, Err(MirrorError::ShutDown)), "{ended:?}");
                for emitter in [audit, shop] {
                    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_replay_that_was_held_up_keeps_to_its_rate() {
                let server = <$server>::with_tables();
                let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                let rows = (0..60).map(|id| {
                    format!(
                        "('prisma/events/order/create', '{{\"model\":\"Order\",\"operation\":\"create\",\"args\":{{}},\
                         \"result\":{{\"id\":{id},\"text\":\"x\"}}}}', 'order', 'create', '{id}')"
                    )
                });
                let columns = "(topic, payload, model, operation, record_id)";
                let rows = rows.collect::<Vec<_>>().join(", ");
                let insert = format!("INSERT INTO emitter_events_mirror {columns} VALUES {rows}");
                server.connect().batch_execute(&insert).unwrap();
                let desk = Emitter::builder().service("desk").node("a").start().await.unwrap();
                desk.on::<OrderCreated>().allow_remote().run(|_| std::future::ready(()));
                let options = ReplayOptions { per_second: Some(50), ..ReplayOptions::default() };
                tokio::task::block_in_place(|| {
                    let selection = Selection { limit: 30, ..Selection::default() };
                    let mut replay = mirrored.replay(&desk, selection, options).unwrap();
                    assert_eq!(replay.step().unwrap().unwrap().handed, 30);
                    // Whoever notes how far it is takes his time.
                    std::thread::sleep(2 * SECOND);
                    let begun = std::time::Instant::now();
                    assert_eq!(replay.step().unwrap().unwrap().handed, 60);
                    // Of the 600 ms that they need, 100 are made up for.
                    assert!(begun.elapsed() > Duration::from_millis(450), "{:?}", begun.elapsed());
                });
                assert!(desk.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn old_rows_are_cleared_away() {
                let server = <$server>::with_tables();
                let broker = MemoryBroker::new();
                let audit = scribe(&broker, &server, "a", 15 * SECOND).await;
                writes(&audit).await;
                audit.publish(order(1));
                recorded(&audit, 1).await;
                assert!(audit.shutdown(10 * SECOND).await.is_clean());
                let mut db = server.connect();
                let is_postgres = std::any::type_name::<Conn>().contains("Pg");
                if is_postgres {
                    db.batch_execute(
                        "CREATE TABLE emitter_events_mirror_20200101 PARTITION OF emitter_events_mirror \
                         FOR VALUES FROM ('2020-01-01 00:00:00+00') TO ('2020-01-02 00:00:00+00')",
                    )
                    .unwrap();
                }
                let old = |day: &str| format!("INSERT INTO emitter_events_mirror (topic, payload, created_at) VALUES ('x', '{{}}', '{day}')");
                for day in ["2020-01-01 12:00:00", "2020-03-01 12:00:00"] {
                    db.batch_execute(&old(day)).unwrap();
                }
                let mut mirrored = Mirrored::open(&server.tables()).unwrap();
                assert_eq!(mirrored.count(&Selection::default()).unwrap(), 3);
                let audit = scribe(&broker, &server, "a", 15 * SECOND).await;
                writes(&audit).await;
                assert_eq!(mirrored.count(&Selection::default()).unwrap(), 1);
                assert!(audit.shutdown(10 * SECOND).await.is_clean());
                if is_postgres {
                    // Days are made ahead, and nothing of today is in the one for all others.
                    let made = "DO $$ BEGIN \
                                ASSERT (SELECT COUNT(*) FROM pg_inherits WHERE inhparent = 'emitter_events_mirror'::regclass) = 4; \
                                ASSERT (SELECT COUNT(*) FROM emitter_events_mirror_rest) = 0; END $$";
                    db.batch_execute(made).unwrap();
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_mirror_without_a_bus_says_what_to_do() {
                let server = <$server>::with_tables();
                let error = Emitter::builder().with(Mirror::new(server.tables())).start().await.unwrap_err();
                assert!(matches!(error, StartError::Companion { name: "mirror", .. }), "{error:?}");
                assert!(error.to_string().contains(".mqtt("), "{error}");
                // A name that could not be a client's.
                let config = MirrorConfig { name: "a/b".to_owned(), ..MirrorConfig::default() };
                let mirror = Mirror::new(server.tables()).config(config);
                let builder = builder(&MemoryBroker::new(), "audit", "a").with(mirror);
                assert!(builder.start().await.unwrap_err().to_string().contains("letters"));
            }
        }
    };
}
