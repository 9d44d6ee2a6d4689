//! Many writers, several nodes that turn: each event once, and those of a key in the order of the commits.

use std::collections::BTreeSet;

use emitter_core::EventId;
use emitter_diesel::{Bind, Emit, update};

use super::*;

diesel::table! {
    orders {
        id -> BigInt,
        step -> BigInt,
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(update, before)]
struct Order {
    id: i64,
    step: i64,
}

const KEYS: i64 = 20;

fn with_orders() -> Postgres {
    let server = Postgres::start();
    let mut db = connect(&server);
    db.batch_execute("CREATE TABLE orders (id BIGINT PRIMARY KEY, step BIGINT NOT NULL)").unwrap();
    db.batch_execute(&format!("INSERT INTO orders SELECT n, 0 FROM generate_series(0, {}) n", KEYS - 1))
        .unwrap();
    server
}

fn outbox(server: &Postgres) -> Outbox {
    Outbox::new(tables(server)).capture(Capture::of::<Order>().unwrap())
}

/// The event, the order, its step before and after.
type Step = (EventId, i64, Option<i64>, i64);

fn step(event: &Event<OrderUpdated>) -> Step {
    (event.id(), event.after.id, event.before.as_ref().map(|row| row.step), event.after.step)
}

/// Each of the steps of each order was heard once, in their order.
fn all_in_order(heard: &[Step], db: &mut PgConnection) {
    let mut steps = BTreeMap::<i64, Vec<i64>>::new();
    let mut seen = BTreeSet::new();
    for (event, id, before, after) in heard {
        assert!(seen.insert(*event), "{event} was heard twice");
        assert_eq!(*before, Some(after - 1));
        steps.entry(*id).or_default().push(*after);
    }
    let rows: Vec<Order> = orders::table.filter(orders::step.gt(0)).order(orders::id).load(db).unwrap();
    let expected: BTreeMap<i64, Vec<i64>> =
        rows.iter().map(|row| (row.id, (1..=row.step).collect())).collect();
    assert_eq!(steps, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_writers_and_three_nodes_that_turn() {
    let (server, broker) = (with_orders(), MemoryBroker::new());
    let (other, heard) = ear(&broker, step).await;
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(builder(&broker, name).with(outbox(&server)).start().await.unwrap());
    }
    const EACH: i64 = 60;
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let (mut db, node) = (connect(&server), nodes[writer % 3].clone());
            std::thread::spawn(move || {
                // Two in three write as other programs do, one durable events: of the same keys.
                for _ in 0..EACH {
                    let (one, two) = (fastrand::i64(0..KEYS), fastrand::i64(0..KEYS));
                    let conn = &mut node.bind(&mut db).unwrap();
                    let done: QueryResult<()> = conn.transaction(|conn| {
                        for id in BTreeSet::from([one, two]) {
                            if writer % 3 == 0 {
                                let order = orders::table.find(id);
                                let next = update(order).set(orders::step.eq(orders::step + 1));
                                next.emit::<Order>().durable().get_result::<Order, _>(conn)?;
                            } else {
                                conn.batch_execute(&format!(
                                    "UPDATE orders SET step = step + 1 WHERE id = {id}"
                                ))?;
                            }
                            std::thread::sleep(Duration::from_millis(fastrand::u64(0..3)));
                        }
                        if fastrand::u8(..5) == 0 {
                            Err(diesel::result::Error::RollbackTransaction)
                        } else {
                            Ok(())
                        }
                    });
                    assert!(
                        matches!(done, Ok(()) | Err(diesel::result::Error::RollbackTransaction)),
                        "{done:?}"
                    );
                }
            })
        })
        .collect();
    tokio::task::block_in_place(|| writers.into_iter().for_each(|writer| writer.join().unwrap()));
    let mut db = connect(&server);
    until(&mut db, "emitter_captured", 0);
    until(&mut db, "emitter_outbox", 0);
    let steps: Vec<Order> = orders::table.load(&mut db).unwrap();
    let steps = usize::try_from(steps.iter().map(|order| order.step).sum::<i64>()).unwrap();
    eventually(|| heard.len() >= steps).await;
    all_in_order(&heard.heard(), &mut db);
    assert_eq!(other.stats().duplicates, 0);
    nodes.push(other);
    ended(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_event_waits_for_what_was_captured_before_it_and_not_for_ever() {
    let (server, broker) = (with_orders(), MemoryBroker::new());
    let (other, heard) = ear(&broker, step).await;
    // It relays, and turns nothing.
    let relay = builder(&broker, "relay").with(Outbox::new(tables(&server))).start().await.unwrap();
    let mut db = connect(&server);
    Capture::of::<Order>().unwrap().apply(&mut db, &tables(&server)).unwrap();
    let durable = |db: &mut PgConnection, id: i64| {
        let conn = &mut relay.bind(db).unwrap();
        let next = update(orders::table.find(id)).set(orders::step.eq(orders::step + 1));
        next.emit::<Order>().durable().get_result::<Order, _>(conn).unwrap();
    };
    durable(&mut db, 2);
    // Somebody is about to turn it, for five seconds.
    db.batch_execute(
        "UPDATE orders SET step = step + 1 WHERE id = 1; INSERT INTO emitter_capturing \
         VALUES ('order', (extract(epoch FROM clock_timestamp()) * 1000)::bigint + 5000)",
    )
    .unwrap();
    durable(&mut db, 1);
    let begun = std::time::Instant::now();
    eventually(|| heard.len() == 1).await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(heard.len(), 1, "what was captured before it comes first");
    // Nobody did: then it goes on.
    eventually(|| heard.len() == 2).await;
    assert!(begun.elapsed() < 15 * SECOND);
    // One that turns it in time.
    db.batch_execute("UPDATE orders SET step = step + 1 WHERE id = 3").unwrap();
    let node = builder(&broker, "a").with(outbox(&server)).start().await.unwrap();
    durable(&mut db, 3);
    eventually(|| heard.len() == 5).await;
    let of_three: Vec<i64> = heard.heard().iter().filter(|heard| heard.1 == 3).map(|heard| heard.3).collect();
    assert_eq!(of_three, [1, 2]);
    ended([node, relay, other]).await;
}
