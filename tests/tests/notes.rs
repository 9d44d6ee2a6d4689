//! What a call says besides its rows: the trace, the idempotency key, and metadata.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::sync::{Arc, Mutex};

use diesel::prelude::*;
use emitter_core::testing::TestEmitter;
use emitter_core::transport::memory::MemoryBroker;
use emitter_diesel::{Bind, Context, Emit, Emits, Event, QoS, Source, State, Trace, listener};
use serde::{Deserialize, Serialize};

diesel::table! {
    payments { id -> Integer, cents -> Integer, }
}

#[derive(Debug, Clone, Queryable, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Payment {
    id: i32,
    cents: i32,
}

type Log = Arc<Mutex<Vec<(Source, Option<Trace>, String)>>>;

#[listener(model = "payment", allow_remote)]
async fn hear(event: Event<PaymentCreated>, log: State<Log>, context: Context) {
    assert_eq!((event.trace(), event.meta().trace()), (context.trace(), context.trace()));
    log.lock().unwrap().push((context.source(), context.trace(), context.idempotency_key().into_owned()));
}

#[tokio::test]
async fn trace_and_idempotency_key_come_to_every_listener() {
    let broker = MemoryBroker::new();
    let start = async |name: &'static str| {
        let log = Log::default();
        let configure = |builder: emitter_core::Builder| builder.node(name).state(Arc::clone(&log));
        (TestEmitter::start_on(&broker, configure).await, log)
    };
    let ((one, here), (other, there)) = (start("one").await, start("other").await);
    let mut database = SqliteConnection::establish(":memory:").unwrap();
    diesel::sql_query("CREATE TABLE payments (id INTEGER PRIMARY KEY, cents INTEGER NOT NULL)")
        .execute(&mut database)
        .unwrap();
    let conn = &mut one.bind(&mut database).unwrap();
    let trace: Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let pay = || diesel::insert_into(payments::table).values(payments::cents.eq(100)).emit::<Payment>();
    pay().trace(trace).idempotency_key("request-17").qos(QoS::AtMostOnce).execute(conn).unwrap();
    pay().execute(conn).unwrap();
    pay().idempotency_key("x".repeat(257)).execute(conn).unwrap();

    let ids: Vec<String> =
        one.captured().events::<PaymentCreated>().iter().map(|event| event.id().to_string()).collect();
    for (node, log, source) in [(&one, here, Source::Local), (&other, there, Source::Remote)] {
        node.drain().await;
        let mut heard = log.lock().unwrap();
        // Keys of rows are not in one lane.
        heard.sort_by_key(|(_, _, key)| ids.iter().position(|id| id == key));
        let expected = [
            (source, Some(trace), "request-17".to_owned()),
            (source, None, ids[1].clone()),
            (source, None, ids[2].clone()),
        ];
        assert_eq!(*heard, expected);
    }
    let message = String::from_utf8(one.published()[0].payload.to_vec()).unwrap();
    assert!(
        message.contains(&format!(r#""traceparent":"{trace}","idempotencyKey":"request-17""#)),
        "{message}"
    );
}

#[tokio::test]
async fn what_a_statement_notes_comes_to_other_nodes() {
    let broker = MemoryBroker::new();
    let start = async |name: &'static str| {
        TestEmitter::start_on(&broker, |builder| builder.node(name).select_listeners(|_| false)).await
    };
    let (one, other) = (start("one").await, start("other").await);
    let heard = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&heard);
    let _ = other.on::<PaymentCreated>().remote_only().run(move |event: Event<PaymentCreated>| {
        *noted.lock().unwrap() = event.meta().metadata("actor").map(str::to_owned);
        std::future::ready(())
    });
    other.connected(std::time::Duration::from_secs(10)).await.unwrap();
    let mut database = SqliteConnection::establish(":memory:").unwrap();
    diesel::sql_query("CREATE TABLE payments (id INTEGER PRIMARY KEY, cents INTEGER NOT NULL)")
        .execute(&mut database)
        .unwrap();
    let conn = &mut one.bind(&mut database).unwrap();
    let pay = diesel::insert_into(payments::table).values(payments::cents.eq(100)).emit::<Payment>();
    pay.metadata("actor", "u-7").metadata("source", "desk").execute(conn).unwrap();
    one.drain().await;
    other.drain().await;
    assert_eq!(heard.lock().unwrap().as_deref(), Some("u-7"));
    let emitted = one.assert_emitted::<PaymentCreated>(|_| true);
    let all: Vec<_> = emitted.meta().all_metadata().collect();
    assert_eq!(all, [("actor", "u-7"), ("source", "desk")]);
    let message = String::from_utf8(one.published()[0].payload.to_vec()).unwrap();
    assert!(message.contains(r#""metadata":{"actor":"u-7","source":"desk"}"#), "{message}");
}

#[tokio::test]
async fn what_is_no_trace_is_left_out_and_the_event_heard() {
    let log = Log::default();
    let node = TestEmitter::start(|builder| builder.state(Arc::clone(&log))).await;
    let event = |notes: &str| {
        format!(
            r#"{{"model":"payment","operation":"create","args":{{}},"result":{{"id":1,"cents":2}},{notes}}}"#
        )
    };
    let long = "k".repeat(300);
    for notes in [r#""traceparent":"00-0-0-00""#.to_owned(), format!(r#""idempotencyKey":"{long}""#)] {
        node.receive_message("prisma/events/payment/create", event(&notes)).await;
    }
    node.drain().await;
    assert_eq!(log.lock().unwrap().len(), 2);
    assert!(log.lock().unwrap().iter().all(|(_, trace, key)| trace.is_none() && key.len() == 36));
}
