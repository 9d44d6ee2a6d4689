//! Rows that the broker refuses, and rows that nobody can read: they hold up nobody else's.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_core::retry::Backoff;
use emitter_core::transport::mqtt::MqttConfig;
use emitter_diesel::outbox::{GivenUp, GivenUpSelection, RelayConfig};
use emitter_diesel::{Bind, Emit, update};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::Mosquitto;

use super::databases::{Database as _, Sqlite};
use super::*;

#[derive(Debug, PartialEq, QueryableByName)]
struct Row {
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
    record_id: Option<String>,
    #[diesel(sql_type = diesel::sql_types::Text)]
    status: String,
    #[diesel(sql_type = diesel::sql_types::Integer)]
    retries: i32,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
    last_error: Option<String>,
}

fn rows(conn: &mut SqliteConnection) -> Vec<Row> {
    let sql = "SELECT record_id, status, retries, last_error FROM emitter_outbox ORDER BY id";
    diesel::sql_query(sql).load(conn).unwrap()
}

fn until(conn: &mut SqliteConnection, what: impl Fn(&[Row]) -> bool) {
    let begun = std::time::Instant::now();
    tokio::task::block_in_place(|| {
        while !what(&rows(conn)) {
            assert!(begun.elapsed() < 30 * SECOND, "{:#?}", rows(conn));
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_refuses_is_tried_again_given_up_and_holds_up_its_own_key_alone() {
    let server = Sqlite::with_tables();
    let broker = Mosquitto::builder().max_queued_messages(1_000).forbid("prisma/events/order/update").start();
    let ear =
        Emitter::builder().service("desk").node("ear").mqtt(broker.url().as_str()).start().await.unwrap();
    let heard = Ear::default();
    let (created, noted) = (heard.clone(), Ear::default());
    ear.on::<OrderCreated>().allow_remote().run(move |event: Event<OrderCreated>| {
        created.hear(&event, &event.row);
        std::future::ready(())
    });
    let gone = Ear::default();
    let ears = gone.clone();
    ear.on::<OrderDeleted>().allow_remote().run(move |event: Event<OrderDeleted>| {
        ears.hear(&event, &event.row);
        std::future::ready(())
    });
    let notes = noted.clone();
    ear.on::<NoteCreated>().allow_remote().run(move |event: Event<NoteCreated>| {
        notes.hear(&event, &Order { id: event.row.id, step: 0 });
        std::future::ready(())
    });
    ear.connected(10 * SECOND).await.unwrap();
    let config = RelayConfig { max_attempts: 2, ..RelayConfig::default() };
    let emitter = Emitter::builder().service("shop").node("a").mqtt(broker.url().as_str());
    let emitter = emitter.with(server.outbox().relay(config)).start().await.unwrap();
    let (mut db, mut other) = (server.connect(), server.connect());
    let conn = &mut emitter.bind(&mut db).unwrap();
    let one: Order = diesel::insert_into(orders::table)
        .values(&Order { id: 1, step: 0 })
        .emit()
        .durable()
        .get_result(conn)
        .unwrap();
    let _: Order = update(&one).set(orders::step.eq(1)).emit().durable().get_result(conn).unwrap();
    // While the first one waits for its next attempt, what comes after it waits, too; others pass.
    until(&mut other, |rows| rows.iter().any(|row| row.status == "WAITING"));
    let one: Order = update(&one).set(orders::step.eq(2)).emit().durable().get_result(conn).unwrap();
    let _: Order = emitter_diesel::delete(&one).emit().durable().get_result(conn).unwrap();
    diesel::insert_into(notes::table)
        .values(&Note { id: 9, text: String::new() })
        .emit::<Note>()
        .execute(conn)
        .unwrap();
    let _: Order = diesel::insert_into(orders::table)
        .values(&Order { id: 2, step: 0 })
        .emit()
        .durable()
        .get_result(conn)
        .unwrap();
    eventually(|| noted.len() == 1 && heard.steps().contains_key(&2)).await;
    let waits = rows(&mut other).iter().any(|row| row.status == "WAITING");
    assert!(!waits || gone.len() == 0, "the broker would have taken this one, but it comes after those");
    until(&mut other, |rows| rows.len() == 2);
    // In the end each is given up, the first one first; the second one at once, if the deletion was on the wire
    // with it.
    until(&mut other, |rows| rows.iter().all(|row| row.status == "FAILED"));
    let given_up = rows(&mut other);
    assert_eq!(given_up[0].retries, 2);
    assert!(
        given_up
            .iter()
            .all(|row| row.last_error.as_ref().is_some_and(|error| error.contains("NotAuthorized")))
    );
    let in_order: Vec<Row> = diesel::sql_query(
        "SELECT record_id, status, retries, last_error FROM emitter_outbox ORDER BY processed_at, id",
    )
    .load(&mut other)
    .unwrap();
    assert_eq!(in_order, given_up);
    eventually(|| gone.len() == 1).await;
    assert_eq!(heard.steps(), BTreeMap::from([(1, vec![0]), (2, vec![0])]));
    for emitter in [emitter, ear] {
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }

    // A broker that takes them: they are put back to work, and come in their order.
    let memory = MemoryBroker::new();
    let (ear, heard) = Ear::start(&memory).await;
    let emitter = builder(&memory, "a").with(server.outbox()).start().await.unwrap();
    let given_up = GivenUp::open(&server.tables(), "shop").unwrap();
    assert_eq!(given_up.redrive(&GivenUpSelection::default()).unwrap(), 2);
    eventually(|| heard.len() == 2).await;
    assert_eq!(heard.steps(), BTreeMap::from([(1, vec![1, 2])]));
    until(&mut other, <[Row]>::is_empty);
    for emitter in [emitter, ear] {
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_a_refused_row_waits_can_be_said() {
    let server = Sqlite::with_tables();
    let broker = Mosquitto::builder().forbid("prisma/events/order/create").start();
    let mut db = server.connect();
    let quick =
        Backoff { base: Duration::from_millis(50), cap: Duration::from_millis(100), jitter: Duration::ZERO };
    let slow = Backoff { base: 3_600 * SECOND, cap: 3_600 * SECOND, jitter: Duration::ZERO };
    for (id, backoff, status) in [(1, quick, "FAILED"), (2, slow, "WAITING")] {
        let config = RelayConfig { max_attempts: 5, backoff, ..RelayConfig::default() };
        // A refusal may end the connection.
        let mqtt = MqttConfig::new(&broker.url()).unwrap().reconnect(quick).unwrap();
        let emitter = Emitter::builder().service("shop").node("a").mqtt(mqtt);
        let emitter = emitter.with(server.outbox().relay(config)).start().await.unwrap();
        emitter.connected(10 * SECOND).await.unwrap();
        let insert = diesel::insert_into(orders::table).values((orders::id.eq(id), orders::step.eq(0)));
        let begun = std::time::Instant::now();
        let _: Order = insert.emit().durable().get_result(&mut emitter.bind(&mut db).unwrap()).unwrap();
        until(&mut db, |rows| {
            rows.iter().any(|row| row.record_id == Some(id.to_string()) && row.status == status)
        });
        // By default the five attempts would take 15 s and more.
        let took = begun.elapsed();
        let attempts = if id == 1 { 5 } else { 1 };
        assert_eq!(rows(&mut db).last().unwrap().retries, attempts);
        assert!(took < 8 * SECOND && (id == 2 || took > Duration::from_millis(350)), "{took:?}");
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }
    let wait = "SELECT (next_attempt - (julianday('now') - 2440587.5) * 86400000) / 1000 > 3500 AS number FROM emitter_outbox \
                WHERE status = 'WAITING'";
    assert_eq!(diesel::sql_query(wait).get_result::<Number>(&mut db).unwrap().number, 1);
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    number: i64,
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_nobody_can_read_are_given_up_and_hold_up_nobody() {
    let server = Sqlite::with_tables();
    let broker = MemoryBroker::new();
    let (ear, heard) = Ear::start(&broker).await;
    let first = builder(&broker, "first").with(server.outbox().without_relay()).start().await.unwrap();
    let mut db = server.connect();
    {
        let conn = &mut first.bind(&mut db).unwrap();
        for id in 0..8 {
            let _: Order = diesel::insert_into(orders::table)
                .values(&Order { id, step: 0 })
                .emit()
                .durable()
                .get_result(conn)
                .unwrap();
        }
    }
    assert!(first.shutdown(10 * SECOND).await.is_clean());
    let spoilt = [
        "topic = 'a/#' WHERE record_id = '0'",
        "qos = 7 WHERE record_id = '1'",
        "event_id = 'none' WHERE record_id = '2'",
        "properties = '{}' WHERE record_id = '3'",
        // What somebody wrote there counts for nothing.
        "stream = '\"', sequence = -1 WHERE record_id = '4'",
        "topic = '' WHERE record_id = '5'",
    ];
    for spoilt in spoilt {
        db.batch_execute(&format!("UPDATE emitter_outbox SET {spoilt}")).unwrap();
    }
    let emitter = builder(&broker, "a").with(server.outbox()).start().await.unwrap();
    eventually(|| heard.steps().len() == 3).await;
    until(&mut db, |rows| rows.len() == 5 && rows.iter().all(|row| row.status == "UNREADABLE"));
    assert_eq!(heard.steps(), BTreeMap::from([(4, vec![0]), (6, vec![0]), (7, vec![0])]));
    for emitter in [emitter, ear] {
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_for_listeners_that_are_no_more_are_kept_and_told_apart() {
    let server = Sqlite::with_tables();
    let broker = MemoryBroker::new();
    let first = builder(&broker, "a").with(server.outbox().without_relay()).start().await.unwrap();
    first.on::<OrderCreated>().run(|_| std::future::pending::<()>());
    let mut db = server.connect();
    {
        let conn = &mut first.bind(&mut db).unwrap();
        for id in 0..3 {
            let order = Order { id, step: 0 };
            let insert = diesel::insert_into(orders::table).values(&order);
            let _: Order = insert.emit().local_only().durable().get_result(conn).unwrap();
        }
    }
    kill(first);
    db.batch_execute("UPDATE emitter_outbox SET payload = '{' WHERE record_id = '0'").unwrap();
    db.batch_execute("UPDATE emitter_outbox SET topic = 'prisma/events/nobody/create', payload = replace(payload, 'order', 'nobody') WHERE record_id = '1'").unwrap();
    let config = RelayConfig { lease: SECOND, orphan_after: SECOND, ..RelayConfig::default() };
    let second = builder(&broker, "a").with(server.outbox().relay(config)).start().await.unwrap();
    let heard = Ear::default();
    let ear = heard.clone();
    second.on::<OrderCreated>().run(move |event: Event<OrderCreated>| {
        ear.hear(&event, &event.row);
        std::future::ready(())
    });
    until(&mut db, |rows| rows.iter().all(|row| row.status != "PROCESSING"));
    let left: Vec<(Option<String>, String)> =
        rows(&mut db).into_iter().map(|row| (row.record_id, row.status)).collect();
    let text = |text: &str| text.to_owned();
    assert_eq!(left, [(Some(text("0")), text("UNREADABLE")), (Some(text("1")), text("ORPHANED"))]);
    assert_eq!(heard.steps(), BTreeMap::from([(2, vec![0])]));
    assert!(second.shutdown(10 * SECOND).await.is_clean());
}

/// An order of which nothing is told that follows what could not be.
#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[diesel(table_name = orders)]
#[emits(model = "parked", create, update, delete, durable, park)]
struct Parked {
    id: i64,
    step: i64,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_one_that_was_given_up_is_parked_where_the_model_says_so() {
    let server = Sqlite::with_tables();
    let broker =
        Mosquitto::builder().max_queued_messages(1_000).forbid("prisma/events/parked/update").start();
    let ear =
        Emitter::builder().service("desk").node("ear").mqtt(broker.url().as_str()).start().await.unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ears = Arc::clone(&heard);
    ear.on::<ParkedEvent>().allow_remote().run(move |event: Event<ParkedEvent>| {
        ears.lock().unwrap().push((event.key().to_string(), event.operation()));
        std::future::ready(())
    });
    ear.connected(10 * SECOND).await.unwrap();
    let config = RelayConfig { max_attempts: 1, ..RelayConfig::default() };
    let emitter = Emitter::builder().service("shop").node("a").mqtt(broker.url().as_str());
    let emitter = emitter.with(server.outbox().relay(config)).start().await.unwrap();
    let (mut db, mut other) = (server.connect(), server.connect());
    let conn = &mut emitter.bind(&mut db).unwrap();
    // All at once, so that they would be on the wire together.
    let write = |conn: &mut emitter_diesel::Bound<'_, SqliteConnection>| {
        for id in [1, 2] {
            let row: Parked =
                diesel::insert_into(orders::table).values(&Parked { id, step: 0 }).emit().get_result(conn)?;
            if id == 1 {
                let _: Parked = update(&row).set(orders::step.eq(1)).emit().get_result(conn)?;
            }
            let _: Parked = emitter_diesel::delete(&row).emit().get_result(conn)?;
        }
        QueryResult::Ok(())
    };
    conn.transaction(write).unwrap();
    use emitter_core::Operation::{Create, Delete};
    until(&mut other, |rows| rows.len() == 2 && rows.iter().any(|row| row.status == "FAILED"));
    eventually(|| heard.lock().unwrap().len() == 3).await;
    tokio::time::sleep(SECOND).await;
    let statuses: Vec<String> = rows(&mut other).into_iter().map(|row| row.status).collect();
    assert_eq!(statuses, ["FAILED", "PENDING"]);
    let mut found = heard.lock().unwrap().clone();
    found.sort_by_key(|(key, _)| key.clone());
    let expected =
        [("1", Create), ("2", Create), ("2", Delete)].map(|(key, operation)| (key.to_owned(), operation));
    assert_eq!(found, expected);
    // Somebody discards it: what waited goes on.
    other.batch_execute("DELETE FROM emitter_outbox WHERE status = 'FAILED'").unwrap();
    eventually(|| heard.lock().unwrap().len() == 4).await;
    assert_eq!(heard.lock().unwrap()[3], ("1".to_owned(), Delete));
    for emitter in [emitter, ear] {
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }
}
