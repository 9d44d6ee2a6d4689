//! What a node with an outbox tells to who exports metrics.

macro_rules! metrics {
    ($name:ident: $server:ty, two minutes ago is $earlier:literal) => {
        mod $name {
            use diesel::connection::SimpleConnection;
            use emitter_core::metrics::Prometheus;
            use emitter_core::metrics::table::{self, Metric, MetricKind};
            use emitter_diesel::outbox::{Control, GivenUp, GivenUpSelection, QueueConfig};
            use emitter_diesel::tables::LANES;
            use emitter_diesel::{Bind, Emit};
            use emitter_tests::alerts::{firing, scrape};
            use emitter_tests::eventually::eventually;

            use super::databases::Database;
            use super::*;

            /// The value of a series, as a scrape has it.
            fn told(text: &str, metric: Metric, values: &[&str]) -> Option<f64> {
                let labels = metric.labels.iter().zip(values);
                let labels = labels.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
                let suffix = if metric.kind == MetricKind::Histogram { "_count" } else { "" };
                scrape(text).get(&(format!("{}{suffix}", metric.name), labels.collect())).copied()
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_waits_to_be_written_down_is_told() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let (broker, prometheus) = (MemoryBroker::new(), Prometheus::new());
                let queue = QueueConfig { capacity: 10, ..QueueConfig::default() };
                let builder =
                    builder(&broker, "a").with(server.outbox().queue(queue)).with(prometheus.clone());
                let writer = builder.start().await.unwrap();
                let (well, mut db) = (prometheus.text(), server.connect());
                tokio::task::block_in_place(|| {
                    db.batch_execute("ALTER TABLE emitter_outbox RENAME TO hidden").unwrap();
                    let conn = &mut writer.bind(&mut db).unwrap();
                    for id in 0..15 {
                        let order = Order { id, step: 0 };
                        let insert = diesel::insert_into(orders::table).values(&order);
                        let _: Order = insert.emit().queued().get_result(conn).unwrap();
                    }
                });
                let text = prometheus.text();
                assert_eq!(told(&text, table::QUEUED_EVENTS, &[]), Some(10.0));
                let oldest = told(&text, table::QUEUED_OLDEST_SECONDS, &[]).unwrap();
                assert!((0.000_001..60.0).contains(&oldest), "{oldest}");
                let queued = |text: &str| {
                    ["taken", "written", "refused", "failed"]
                        .map(|outcome| told(text, table::QUEUED, &[outcome]).unwrap())
                };
                assert_eq!(queued(&text), [10.0, 0.0, 5.0, 0.0]);
                assert!(firing(&well, &text).contains("EmitterEventsLost"));
                tokio::task::block_in_place(|| {
                    db.batch_execute("ALTER TABLE hidden RENAME TO emitter_outbox")
                })
                .unwrap();
                eventually(|| queued(&prometheus.text()) == [10.0, 10.0, 5.0, 0.0]).await;
                let text = prometheus.text();
                assert_eq!(told(&text, table::QUEUED_EVENTS, &[]), Some(0.0));
                assert_eq!(told(&text, table::QUEUED_OLDEST_SECONDS, &[]), Some(0.0));
                assert!(writer.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_an_outbox_gives_up_is_told_and_alarms_until_it_is_put_back() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let (broker, prometheus) = (MemoryBroker::new(), Prometheus::new());
                let builder = builder(&broker, "a").with(server.outbox()).with(prometheus.clone());
                let writer = builder.start().await.unwrap();
                let well = prometheus.text();
                let alarms = || firing(&well, &prometheus.text()).contains("EmitterOutboxGivenUp");
                let mut db = server.connect();
                tokio::task::block_in_place(|| {
                    let control = &mut Control::open(&server.tables()).unwrap();
                    control.pause().unwrap();
                    let order = Order { id: 1, step: 0 };
                    let insert = diesel::insert_into(orders::table).values(&order);
                    let _: Order =
                        insert.emit().durable().get_result(&mut writer.bind(&mut db).unwrap()).unwrap();
                    db.batch_execute("UPDATE emitter_outbox SET topic = ''").unwrap();
                    control.resume().unwrap();
                });
                eventually(alarms).await;
                assert_eq!(told(&prometheus.text(), table::OUTBOX_ROWS, &["unreadable"]), Some(1.0));

                tokio::task::block_in_place(|| {
                    db.batch_execute("UPDATE emitter_outbox SET topic = 'prisma/events/order/create'")
                        .unwrap();
                    let given_up = GivenUp::open(&server.tables(), "shop").unwrap();
                    assert_eq!(given_up.redrive(&GivenUpSelection::default()).unwrap(), 1);
                });
                eventually(|| !alarms()).await;
                assert!(writer.shutdown(10 * SECOND).await.is_clean());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_outbox_that_rests_is_told_and_alarms() {
                let server = tokio::task::block_in_place(<$server>::with_tables);
                let broker = MemoryBroker::new();
                let (ear, heard) = Ear::start(&broker).await;
                let prometheus = Prometheus::new();
                let builder = builder(&broker, "a").with(server.outbox()).with(prometheus.clone());
                let writer = builder.start().await.unwrap();
                let well = prometheus.text();
                tokio::task::block_in_place(|| {
                    Control::open(&server.tables()).unwrap().pause().unwrap();
                    let db = &mut server.connect();
                    for id in 0..5 {
                        let conn = &mut writer.bind(db).unwrap();
                        let order = Order { id, step: 0 };
                        let insert = diesel::insert_into(orders::table).values(&order);
                        let _: Order = insert.emit().durable().get_result(conn).unwrap();
                    }
                });
                let is = |metric, values: &[&str], wanted: f64| {
                    let told = told(&prometheus.text(), metric, values);
                    told.is_some_and(|told| (told - wanted).abs() < 0.5)
                };
                eventually(|| is(table::OUTBOX_ROWS, &["pending"], 5.0)).await;
                assert!(is(table::OUTBOX_PAUSED, &[], 1.0));
                assert!(firing(&well, &prometheus.text()).is_empty());

                let earlier = format!("UPDATE emitter_outbox SET created_at = {}", $earlier);
                tokio::task::block_in_place(|| server.connect().batch_execute(&earlier)).unwrap();
                eventually(|| !firing(&well, &prometheus.text()).is_empty()).await;
                assert_eq!(firing(&well, &prometheus.text()), ["EmitterOutboxBehind".to_owned()].into());
                let oldest = told(&prometheus.text(), table::OUTBOX_OLDEST_SECONDS, &[]).unwrap();
                assert!((119.0..200.0).contains(&oldest), "{oldest}");

                tokio::task::block_in_place(|| Control::open(&server.tables()).unwrap().resume().unwrap());
                eventually(|| heard.len() == 5).await;
                eventually(|| is(table::OUTBOX_ROWS, &["pending"], 0.0)).await;
                let text = prometheus.text();
                assert!(firing(&well, &text).is_empty());
                assert_eq!(told(&text, table::OUTBOX_OLDEST_SECONDS, &[]), Some(0.0));
                assert_eq!(told(&text, table::PUBLISHED, &["confirmed"]), Some(5.0));
                assert_eq!(told(&text, table::PUBLISH_SECONDS, &[]), Some(5.0));
                assert_eq!(told(&text, table::EMITTED, &["order", "create", "remote"]), Some(5.0));
                let lanes = |state| told(&text, table::OUTBOX_LANES, &[state]);
                assert_eq!(lanes("owned"), told(&text, table::OUTBOX_LANES_HERE, &[]));
                assert_eq!(lanes("owned"), Some(f64::from(LANES)));
                assert_eq!(lanes("free"), Some(0.0));
                assert!(
                    writer.shutdown(10 * SECOND).await.is_clean()
                        && ear.shutdown(10 * SECOND).await.is_clean()
                );
            }
        }
    };
}
