//! Relayed events in every form in which events travel, signed.

use emitter_core::envelope::Format;
use emitter_core::{Signatures, SigningKey, Trace};
use emitter_diesel::{Bind, Emit};
use emitter_tests::eventually::eventually;

use super::databases::{Database as _, Sqlite};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_relayed_event_has_a_number_and_a_signature_in_every_form() {
    let server = Sqlite::with_tables();
    let broker = MemoryBroker::new();
    let key = || SigningKey::hmac_sha256("k", &[7; 32]).unwrap();
    let listening = builder(&broker, "ear").signatures(Signatures::new(key()));
    let ear = listening.start().await.unwrap();
    let heard = Ear::default();
    let (log, traces) = (heard.clone(), Arc::new(Mutex::new(Vec::new())));
    let traced = Arc::clone(&traces);
    ear.on::<OrderCreated>().allow_remote().run(move |event: Event<OrderCreated>| {
        log.hear(&event, &event.row);
        traced.lock().unwrap().push(event.trace());
        std::future::ready(())
    });
    ear.connected(10 * SECOND).await.unwrap();
    let trace: Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let forms = [Format::Specification, Format::CloudEvents, Format::CloudEventsBinary, Format::Tracker];
    for (id, form) in (0..).zip(forms) {
        // What one node wrote in its form, another one relays, whatever its own is.
        let writer = builder(&broker, "writer").format(form).with(server.outbox().without_relay());
        let writer = writer.start().await.unwrap();
        let mut db = server.connect();
        {
            let conn = &mut writer.bind(&mut db).unwrap();
            let order = Order { id, step: 0 };
            let insert = diesel::insert_into(orders::table).values(&order);
            let _: Order = insert.emit().trace(trace).durable().get_result(conn).unwrap();
        }
        assert!(writer.shutdown(10 * SECOND).await.is_clean());
        let relay = builder(&broker, "relay").signatures(Signatures::new(key())).with(server.outbox());
        let relay = relay.start().await.unwrap();
        let expected = usize::try_from(id).unwrap() + 1;
        eventually(|| heard.len() == expected).await;
        assert!(relay.shutdown(10 * SECOND).await.is_clean());
        let heard = heard.heard();
        assert_eq!((heard[expected - 1].id, heard[expected - 1].sequence.is_some()), (id, true), "{form:?}");
        assert_eq!(traces.lock().unwrap().last(), Some(&Some(trace)), "{form:?}");
    }
    assert_eq!(ear.stats().unauthentic, 0);
    assert!(ear.shutdown(10 * SECOND).await.is_clean());
}
