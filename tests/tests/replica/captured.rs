//! Triggers capture what other programs write into a table of copies, and not what its replica writes.

use diesel::connection::SimpleConnection;
use emitter_diesel::capture::Capture;
use emitter_diesel::replica::Replica;
use emitter_tests::eventually::eventually;
use emitter_tests::servers::Postgres;

use super::databases::Database as _;
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_writes_is_not_captured() {
    let server = Postgres::with_tables();
    let broker = MemoryBroker::new();
    let outbox = server.outbox().capture(Capture::of::<Customer>().unwrap());
    let copies = Replica::<Customer, _>::new(server.tables(), boxed(server.connector()));
    let billing = builder(&broker, "billing", "a").with(outbox).with(copies).start().await.unwrap();
    billing.connected(10 * SECOND).await.unwrap();
    let crm = builder(&broker, "crm", "a").start().await.unwrap();
    for id in 1..=3 {
        crm.publish(CustomerCreated::new(Customer::new(id, "ada")));
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    crm.publish(CustomerUpdated::new(None, Customer::new(1, "ada l."), None));
    crm.publish(CustomerDeleted::new(Customer::new(2, "ada")));
    type Copies = Replica<Customer, diesel::PgConnection>;
    eventually(|| billing.state::<Copies>().unwrap().stats().applied == 5).await;
    // Somebody else does it.
    server.connect().batch_execute("UPDATE customers SET name = 'by hand' WHERE id = 3").unwrap();
    let told = || {
        let all = broker.published().into_iter().filter(|message| !message.topic.contains("/_"));
        let texts = all.map(|message| String::from_utf8_lossy(&message.payload).into_owned());
        texts.filter(|text| text.contains("\"service\":\"billing\"")).collect::<Vec<_>>()
    };
    eventually(|| !told().is_empty()).await;
    assert!(matches!(&told()[..], [one] if one.contains("by hand")), "{:?}", told());
    for emitter in [crm, billing] {
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }
}
