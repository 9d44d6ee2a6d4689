//! A broker that forgets, and nodes that notice it and have what they miss sent again.

use diesel::prelude::*;
use emitter_core::gaps::Since;
use emitter_core::transport::memory::MemoryBroker;
use emitter_diesel::catch_up::CatchUp;
use emitter_diesel::{Bind, Emit};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::{Mosquitto, Postgres};

use super::databases::{Database as _, Sqlite};
use super::*;

/// A shop that writes orders into its database, and a broker.
struct Shop {
    database: Sqlite,
    broker: Mosquitto,
    emitter: Emitter,
    next: i64,
}

impl Shop {
    async fn open(broker: Mosquitto) -> Self {
        let database = Sqlite::with_tables();
        let emitter = Emitter::builder().service("shop").node("a").mqtt(broker.url().as_str());
        let emitter = emitter.with(database.outbox()).start().await.unwrap();
        emitter.connected(10 * SECOND).await.unwrap();
        Self { database, broker, emitter, next: 0 }
    }

    /// Writes so many orders, and waits until the broker has confirmed all.
    async fn sell(&mut self, orders: i64) {
        let mut db = self.database.connect();
        {
            let conn = &mut self.emitter.bind(&mut db).unwrap();
            for chunk in (self.next..self.next + orders).collect::<Vec<_>>().chunks(100) {
                conn.transaction(|conn| {
                    for id in chunk {
                        let order = Order { id: *id, step: 0 };
                        let _: Order = diesel::insert_into(orders::table)
                            .values(&order)
                            .emit()
                            .durable()
                            .get_result(conn)?;
                    }
                    QueryResult::Ok(())
                })
                .unwrap();
            }
        }
        self.next += orders;
        let begun = std::time::Instant::now();
        while sqlite_outbox(&mut db) > 0 {
            assert!(begun.elapsed() < 60 * SECOND, "{} are not relayed", sqlite_outbox(&mut db));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    number: i64,
}

fn sqlite_outbox(conn: &mut SqliteConnection) -> i64 {
    let rows: Vec<Number> =
        diesel::sql_query("SELECT COUNT(*) AS number FROM emitter_outbox").load(conn).unwrap();
    rows[0].number
}

/// A node of another service that hears orders.
struct Desk {
    memory: Sqlite,
    heard: Ear,
}

impl Desk {
    fn new() -> Self {
        Self { memory: Sqlite::start(), heard: Ear::default() }
    }

    async fn open(&self, shop: &Shop, since: Since) -> Emitter {
        let builder = Emitter::builder().service("desk").node("a").mqtt(shop.broker.url().as_str());
        let emitter = builder.with(CatchUp::new(self.memory.tables()).since(since)).start().await.unwrap();
        let heard = self.heard.clone();
        emitter.on::<OrderCreated>().allow_remote().run(move |event: Event<OrderCreated>| {
            heard.hear(&event, &event.row);
            std::future::ready(())
        });
        emitter.connected(10 * SECOND).await.unwrap();
        emitter
    }

    /// Waits until every order of the shop was heard; nothing else was.
    async fn has_heard_all(&self, emitter: &Emitter, shop: &Shop) {
        let begun = std::time::Instant::now();
        let all = usize::try_from(shop.next).unwrap();
        while self.heard.steps().len() < all {
            if begun.elapsed() > 60 * SECOND {
                let heard = self.heard.steps();
                let missing: Vec<i64> = (0..shop.next).filter(|id| !heard.contains_key(id)).collect();
                panic!(
                    "{} of {all} are missing: {:?}… {:?}",
                    missing.len(),
                    &missing[..missing.len().min(20)],
                    emitter.stats()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ids: Vec<i64> = self.heard.steps().into_keys().collect();
        assert_eq!(ids, (0..shop.next).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_killed_while_a_node_was_away_loses_nothing() {
    let mut shop = Shop::open(Mosquitto::builder().persistence(true).start()).await;
    let desk = Desk::new();
    let emitter = desk.open(&shop, Since::Now).await;
    shop.sell(300).await;
    desk.has_heard_all(&emitter, &shop).await;
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    // What waits at the broker for the desk dies with it.
    shop.sell(2_000).await;
    tokio::task::block_in_place(|| {
        shop.broker.kill();
        std::fs::remove_file(shop.broker.folder().join("mosquitto.db")).ok();
        shop.broker.restart();
    });
    let emitter = desk.open(&shop, Since::Now).await;
    desk.has_heard_all(&emitter, &shop).await;
    let stats = emitter.stats();
    assert!(stats.recovered >= 2_000, "{stats:?}");
    assert_eq!(stats.lost, 0);
    // And what comes now comes as always.
    shop.sell(100).await;
    desk.has_heard_all(&emitter, &shop).await;
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    assert!(shop.emitter.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_too_short_loses_nothing() {
    let mut shop = Shop::open(Mosquitto::builder().max_queued_messages(1_000).start()).await;
    let desk = Desk::new();
    let emitter = desk.open(&shop, Since::Now).await;
    shop.sell(10).await;
    desk.has_heard_all(&emitter, &shop).await;
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    shop.sell(5_000).await;
    let emitter = desk.open(&shop, Since::Now).await;
    desk.has_heard_all(&emitter, &shop).await;
    assert!(emitter.stats().gaps > 0);
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    assert!(shop.emitter.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_begins_where_it_says() {
    let mut shop = Shop::open(Mosquitto::start()).await;
    shop.sell(700).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let now = emitter_core::event::Timestamp::now().as_millis();
    tokio::time::sleep(Duration::from_millis(5)).await;
    shop.sell(50).await;
    for (since, first) in [(Since::Beginning, 0), (Since::Time(now), 700), (Since::Now, 750)] {
        let desk = Desk::new();
        let emitter = desk.open(&shop, since).await;
        // Each begins as soon as it knows where the shop is.
        let begun = std::time::Instant::now();
        while desk.heard.len() < usize::try_from(750 - first).unwrap() {
            assert!(begun.elapsed() < 20 * SECOND, "{since:?}: {}", desk.heard.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let ids: Vec<i64> = desk.heard.steps().into_keys().collect();
        assert_eq!(ids, (first..750).collect::<Vec<_>>(), "{since:?}");
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }
    assert!(shop.emitter.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test]
async fn a_node_without_a_name_cannot_remember() {
    let memory = Sqlite::start();
    let builder = Emitter::builder().service("desk").with(CatchUp::new(memory.tables()));
    let error = builder.start().await.unwrap_err().to_string();
    assert!(error.contains(".node("), "{error}");
    // And one whose tables are not there is told what to do.
    let tables = emitter_diesel::tables::Tables::new(memory.connector());
    let builder = Emitter::builder().service("desk").node("a").with(CatchUp::new(tables));
    let error = builder.start().await.unwrap_err().to_string();
    assert!(error.contains(".migrate()"), "{error}");
}

/// A lane that no database can keep, told by whoever may publish: what the node heard of others is noted all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_lane_keeps_no_other_from_being_noted() {
    let memory = tokio::task::block_in_place(<Postgres as databases::Database>::with_tables);
    let broker = MemoryBroker::new();
    let desk = builder(&broker, "a").with(CatchUp::new(memory.tables())).start().await.unwrap();
    desk.on::<OrderCreated>().allow_remote().run(|_| std::future::ready(()));
    desk.connected(10 * SECOND).await.unwrap();
    for lane in [4_000_000_000_u32, 3] {
        let head = format!(
            r#"{{"heads":[{{"stream":{{"outbox":"b","lane":{lane},"model":"order"}},"epoch":1,"base":0,"last":5}}]}}"#
        );
        assert!(broker.send("shop.a", "prisma/events/_replay/heads", head));
    }
    let noted = || {
        let lanes = "SELECT CAST(lane AS BIGINT) AS number FROM emitter_positions WHERE sequence = 5";
        let lanes: Vec<Number> = diesel::sql_query(lanes).load(&mut memory.connect()).unwrap();
        lanes.iter().map(|lane| lane.number).collect::<Vec<_>>()
    };
    eventually(|| noted() == [3]).await;
    assert!(desk.shutdown(10 * SECOND).await.is_clean());
}

/// Each life is over before it is a second old, and ends without a last note.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_again_and_again_notes_how_far_it_heard() {
    let mut shop = Shop::open(Mosquitto::start()).await;
    let desk = Desk::new();
    let begun = std::time::Instant::now();
    loop {
        let emitter = desk.open(&shop, Since::Now).await;
        shop.sell(1).await;
        tokio::time::sleep(3 * SECOND / 10).await;
        kill(emitter);
        let noted = "SELECT COUNT(*) AS number FROM emitter_positions";
        let noted: Vec<Number> = diesel::sql_query(noted).load(&mut desk.memory.connect()).unwrap();
        if noted[0].number > 0 {
            break;
        }
        assert!(begun.elapsed() < 30 * SECOND, "nothing was noted in {} lives", shop.next);
    }
    assert!(shop.emitter.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_questions_for_heads_is_answered_once_in_a_while() {
    let (database, broker) = (Sqlite::with_tables(), MemoryBroker::new());
    let emitter = Emitter::builder().service("shop").node("a").transport(broker.connect("shop.a"));
    let emitter = emitter.with(database.outbox()).start().await.unwrap();
    emitter.connected(10 * SECOND).await.unwrap();
    let mut db = database.connect();
    let order = Order { id: 1, step: 0 };
    let conn = &mut emitter.bind(&mut db).unwrap();
    let _: Order =
        diesel::insert_into(orders::table).values(&order).emit().durable().get_result(conn).unwrap();
    let heads = || broker.published().iter().filter(|told| told.topic.ends_with("_replay/heads")).count();
    let (begun, mut questions) = (std::time::Instant::now(), 0);
    // Nobody asks in vain: unasked it is told every ten seconds.
    while heads() < 5 {
        assert!(begun.elapsed() < 30 * SECOND, "{}", heads());
        let ask = format!(r#"{{"from":"desk.{questions}","heads":true}}"#);
        broker.publish("prisma/events/_replay/ask", ask);
        questions += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Asked, every two.
    let most = 3 + usize::try_from(begun.elapsed().as_secs()).unwrap() / 2;
    assert!(heads() <= most, "{} in {:?}, asked {questions} times", heads(), begun.elapsed());
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
}
