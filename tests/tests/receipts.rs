//! What became of the events of a write, for whoever asks; the write itself never fails for it.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::Error;
use emitter_core::transport::memory::MemoryBroker;
use emitter_diesel::receipt::{Loss, Receipt, Way};
use emitter_diesel::transport::PublishError;
use emitter_diesel::transport::mqtt::MqttConfig;
use emitter_diesel::{Bind, Bound, Emit, EmitOptions, Emits, Emitter, Event, Operation, update};
use serde::{Deserialize, Serialize};

diesel::table! { users { id -> Integer, name -> Text, } }

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct User {
    id: i32,
    name: String,
}

fn database() -> SqliteConnection {
    let mut db = SqliteConnection::establish(":memory:").unwrap();
    db.batch_execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").unwrap();
    db
}

fn insert(conn: &mut Bound<'_, SqliteConnection>, id: i32, receipt: &Receipt) -> QueryResult<User> {
    let user = User { id, name: "alice".to_owned() };
    diesel::insert_into(users::table).values(user).emit().receipt(receipt).get_result(conn)
}

fn listen(emitter: &Emitter) {
    emitter.on::<UserEvent>().run(|_: Event<UserEvent>| std::future::ready(()));
}

/// Local and remote, of each event.
fn ways(receipt: &Receipt) -> Vec<(Way, Way)> {
    receipt.fates().into_iter().map(|fate| (fate.local, fate.remote)).collect()
}

async fn settled(receipt: &Receipt) -> Vec<(Way, Way)> {
    let waiting = tokio::time::timeout(Duration::from_secs(10), receipt.settled());
    waiting
        .await
        .expect("nothing is open for long")
        .into_iter()
        .map(|fate| (fate.local, fate.remote))
        .collect()
}

#[tokio::test]
async fn it_is_open_until_the_commit_and_then_with_listeners_and_broker() {
    let broker = MemoryBroker::new();
    let emitter = Emitter::builder().transport(broker.connect("a")).start().await.unwrap();
    listen(&emitter);
    let (db, receipt) = (&mut database(), Receipt::new());
    let conn = &mut emitter.bind(db).unwrap();
    conn.transaction(|conn| {
        insert(conn, 1, &receipt)?;
        let taken_back: QueryResult<()> = conn.transaction(|conn| {
            insert(conn, 2, &receipt)?;
            Err(Error::RollbackTransaction)
        });
        taken_back.unwrap_err();
        assert_eq!(ways(&receipt), [(Way::Open, Way::Open), (Way::Withdrawn, Way::Withdrawn)]);
        QueryResult::Ok(())
    })
    .unwrap();
    assert_eq!(settled(&receipt).await, [(Way::Taken, Way::Taken), (Way::Withdrawn, Way::Withdrawn)]);
    let failed: QueryResult<()> = conn.transaction(|conn| {
        insert(conn, 3, &receipt)?;
        Err(Error::RollbackTransaction)
    });
    failed.unwrap_err();
    assert_eq!(settled(&receipt).await[2], (Way::Withdrawn, Way::Withdrawn));
    let fates = receipt.fates();
    assert!(fates.iter().all(|fate| fate.operation == Operation::Create && fate.id.time().is_some()));
}

#[tokio::test]
async fn a_way_that_nobody_asked_for_is_not_meant() {
    let broker = MemoryBroker::new();
    let emitter = Emitter::builder().transport(broker.connect("a")).start().await.unwrap();
    let (db, receipt) = (&mut database(), Receipt::new());
    let conn = &mut emitter.bind(db).unwrap();
    // Nobody listens here.
    insert(conn, 1, &receipt).unwrap();
    listen(&emitter);
    let rename = || update(users::table.find(1)).set(users::name.eq("al")).emit::<User>().receipt(&receipt);
    rename().local_only().get_result(conn).unwrap();
    rename().remote_only().get_result(conn).unwrap();
    // It goes nowhere, so it is none.
    rename().emit_if(false).get_result(conn).unwrap();
    let expected = [(Way::NotMeant, Way::Taken), (Way::Taken, Way::NotMeant), (Way::NotMeant, Way::Taken)];
    assert_eq!(settled(&receipt).await, expected);
}

#[tokio::test]
async fn a_write_succeeds_though_its_event_is_lost_and_the_receipt_says_why() {
    // After the shutdown.
    let broker = MemoryBroker::new();
    let emitter = Emitter::builder().transport(broker.connect("a")).start().await.unwrap();
    listen(&emitter);
    assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
    let (db, receipt) = (&mut database(), Receipt::new());
    assert_eq!(insert(&mut emitter.bind(db).unwrap(), 1, &receipt).unwrap().id, 1);
    assert_eq!(settled(&receipt).await, [(Way::Lost(Loss::ShutDown), Way::Lost(Loss::ShutDown))]);

    // No broker, and a queue of one.
    let config = MqttConfig::new("mqtt://127.0.0.1:1").unwrap().queue_messages(1).unwrap();
    let emitter = Emitter::builder().mqtt(config).start().await.unwrap();
    let receipt = Receipt::new();
    {
        let conn = &mut emitter.bind(db).unwrap();
        insert(conn, 2, &receipt).unwrap();
        insert(conn, 3, &receipt).unwrap();
    }
    let second_is_settled = || ways(&receipt)[1].1 != Way::Open;
    emitter_tests::eventually::eventually(second_is_settled).await;
    assert_eq!(ways(&receipt), [(Way::NotMeant, Way::Open), (Way::NotMeant, Way::Lost(Loss::QueueFull))]);
    // It waits until the end.
    let _ = emitter.shutdown(Duration::from_millis(10)).await;
    assert_eq!(settled(&receipt).await[0], (Way::NotMeant, Way::Lost(Loss::ShutDown)));
}

/// It takes long to serialise.
#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Slow {
    id: i32,
    #[serde(serialize_with = "slowly")]
    text: String,
}

fn slowly<S: serde::Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    std::thread::sleep(Duration::from_millis(2));
    serializer.serialize_str(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_when_the_shutdown_has_no_more_time_is_told_so() {
    let broker = MemoryBroker::new();
    let emitter = Emitter::builder().transport(broker.connect("a")).start().await.unwrap();
    let receipt = Receipt::new();
    for id in 0..300 {
        let slow = SlowCreated::new(Slow { id, text: String::new() });
        emitter.publish_with(slow, EmitOptions::default().receipt(&receipt));
    }
    let report = emitter.shutdown(Duration::from_millis(10)).await;
    assert!(report.unpublished > 100, "{report:?}");
    let fates = settled(&receipt).await;
    let lost = fates.iter().filter(|(_, remote)| *remote == Way::Lost(Loss::ShutDown)).count();
    let taken = fates.iter().filter(|(_, remote)| *remote == Way::Taken).count();
    assert!(lost >= report.unpublished && lost + taken == 300, "{lost} and {taken}, {report:?}");
}

#[tokio::test]
async fn an_event_that_cannot_travel_says_so() {
    let broker = MemoryBroker::new();
    let emitter = Emitter::builder().transport(broker.connect("a")).start().await.unwrap();
    let (db, receipt) = (&mut database(), Receipt::new());
    let conn = &mut emitter.bind(db).unwrap();
    let user = User { id: 1, name: "x".repeat(300 * 1024) };
    diesel::insert_into(users::table).values(user).emit::<User>().receipt(&receipt).execute(conn).unwrap();
    match &settled(&receipt).await[..] {
        [
            (
                Way::NotMeant,
                Way::Lost(loss @ (Loss::Encode(_) | Loss::Publish(PublishError::TooLarge { .. }))),
            ),
        ] => {
            assert!(loss.to_string().contains("bytes"), "{loss}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_became_part_of_a_net_change_is_withdrawn() {
    let emitter = Emitter::builder().start().await.unwrap();
    listen(&emitter);
    let (db, receipt) = (&mut database(), Receipt::new());
    let conn = &mut emitter.bind(db).unwrap();
    conn.net_changes();
    conn.transaction(|conn| {
        insert(conn, 1, &receipt)?;
        insert(conn, 2, &receipt)?;
        update(users::table.find(1))
            .set(users::name.eq("al"))
            .emit::<User>()
            .receipt(&receipt)
            .get_result(conn)
    })
    .unwrap();
    let (told, withdrawn) = ((Way::Taken, Way::NotMeant), (Way::Withdrawn, Way::Withdrawn));
    let expected = [withdrawn.clone(), told.clone(), withdrawn, told];
    assert_eq!(settled(&receipt).await, expected);
}
