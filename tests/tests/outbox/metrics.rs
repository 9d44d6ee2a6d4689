//! What a node with an outbox tells to who exports metrics.

macro_rules! metrics {
    ($name:ident: $server:ty, two minutes ago is $earlier:literal) => {
        mod $name {
            use diesel::connection::SimpleConnection;
            use emitter_core::metrics::Prometheus;
            use emitter_diesel::outbox::Control;
            use emitter_diesel::{Bind, Emit};
            use emitter_tests::alerts::{firing, scrape};
            use emitter_tests::eventually::eventually;

            use super::databases::Database;
            use super::*;

            /// The value of a series with at most one label, as a scrape has it.
            fn told(text: &str, name: &str, label: Option<(&str, &str)>) -> Option<f64> {
                let labels = label.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
                scrape(text).get(&(name.to_owned(), labels.collect())).copied()
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
                let is = |name, label, wanted: f64| {
                    let told = told(&prometheus.text(), name, label);
                    told.is_some_and(|told| (told - wanted).abs() < 0.5)
                };
                let pending = Some(("status", "pending"));
                eventually(|| is("emitter_outbox_rows", pending, 5.0)).await;
                assert!(is("emitter_outbox_paused", None, 1.0));
                assert!(firing(&well, &prometheus.text()).is_empty());

                let earlier = format!("UPDATE emitter_outbox SET created_at = {}", $earlier);
                tokio::task::block_in_place(|| server.connect().batch_execute(&earlier)).unwrap();
                eventually(|| !firing(&well, &prometheus.text()).is_empty()).await;
                assert_eq!(firing(&well, &prometheus.text()), ["EmitterOutboxBehind".to_owned()].into());

                tokio::task::block_in_place(|| Control::open(&server.tables()).unwrap().resume().unwrap());
                eventually(|| heard.len() == 5).await;
                eventually(|| is("emitter_outbox_rows", pending, 0.0)).await;
                let text = prometheus.text();
                assert!(firing(&well, &text).is_empty());
                assert_eq!(told(&text, "emitter_published_total", Some(("outcome", "confirmed"))), Some(5.0));
                assert_eq!(told(&text, "emitter_publish_seconds_count", None), Some(5.0));
                let series = [("model", "order"), ("operation", "create"), ("to", "remote")];
                let labels = series.map(|(name, value)| (name.to_owned(), value.to_owned()));
                assert_eq!(scrape(&text)[&("emitter_emitted_total".to_owned(), labels.into())], 5.0);
                let lanes = |state| told(&text, "emitter_outbox_lanes", Some(("state", state)));
                assert_eq!(lanes("owned"), told(&text, "emitter_outbox_lanes_here", None));
                assert_eq!(lanes("free"), Some(0.0));
                assert!(
                    writer.shutdown(10 * SECOND).await.is_clean()
                        && ear.shutdown(10 * SECOND).await.is_clean()
                );
            }
        }
    };
}
