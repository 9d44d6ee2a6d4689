//! Visitors that mean harm or are broken, servers that end, and events that are not as others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use emitter_core::{Emits, Emitter};
use emitter_web::stream::{Anybody, Stream, StreamBuilder, StreamConfig, StreamError};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::stage::{Stage, get};
use super::{Alarm, Blob, BlobCreated, OrderCreated, OrderEvent, OrderUpdated, all, order};

const LONG: Duration = Duration::from_secs(20);

async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("it holds within 20 s");
}

#[tokio::test]
async fn an_event_source_that_takes_nothing_gives_its_place_back() {
    let config =
        StreamConfig { max_visitors: 1, patience: Duration::from_millis(200), ..StreamConfig::default() };
    let stage = Stage::<Anybody>::set(|stream| stream.config(config).events_for_all::<BlobCreated>()).await;
    let mut stalled = TcpStream::connect(stage.address).await.unwrap();
    stalled.write_all(b"GET /events HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    until(|| stage.stream.stats().visitors == 1).await;
    assert_eq!(stage.ask("/ws/events", &[]).await.err(), Some(503));
    let mut id = 0;
    while stage.stream.stats().dropped == 0 {
        stage.emitter.publish(BlobCreated::new(Blob { id, text: "x".repeat(64_000) }));
        tokio::time::sleep(Duration::from_millis(2)).await;
        id += 1;
        assert!(id < 5_000, "it is never dropped");
    }
    until(|| stage.stream.stats().visitors == 0).await;
    stage.visit("/ws/events").await;
}

#[tokio::test]
async fn a_visitor_that_answers_no_heartbeat_is_dropped_though_it_reads() {
    let config = StreamConfig { heartbeat: Duration::from_millis(50), ..StreamConfig::default() };
    let stage = Stage::set(|stream| all(stream).config(config)).await;
    let mut socket = TcpStream::connect(stage.address).await.unwrap();
    let request = "GET /ws/events HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let reading = async {
        let mut buffer = [0; 4096];
        while socket.read(&mut buffer).await.unwrap_or(0) > 0 {}
    };
    let publishing = async {
        for id in 0.. {
            stage.emitter.publish(order(id, 1));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = tokio::time::timeout(LONG, reading) => ended.expect("its connection ends"),
        () = publishing => unreachable!(),
    }
    until(|| stage.stream.stats().visitors == 0).await;
    assert_eq!(stage.stream.stats().dropped, 1);
}

#[tokio::test]
async fn what_a_visitor_says_is_bounded_and_answered() {
    let stage = Stage::set(all).await;
    for (said, expected) in [
        (Message::Text(format!("{}{{\"select\":{{}}}}", " ".repeat(100_000)).into()), 1008),
        (Message::Binary(vec![0].into()), 1008),
        (Message::Text(format!("{}1{}", "[".repeat(30_000), "]".repeat(30_000)).into()), 1008),
        (Message::Close(Some(CloseFrame { code: CloseCode::Away, reason: "".into() })), 1001),
    ] {
        let mut page = stage.visit("/ws/events").await;
        page.socket.send(said).await.unwrap();
        assert_eq!(page.next().await.err(), Some(expected));
    }
    until(|| stage.stream.stats().visitors == 0).await;
    assert_eq!(stage.stream.stats().dropped, 0);
}

#[tokio::test]
async fn streams_end_with_their_emitter() {
    let stage = Stage::set(all).await;
    let mut page = stage.visit("/ws/events").await;
    let (_, body) = get(stage.address, "/events", "", "hello").await;
    assert!(body.contains("event: hello"), "{body}");
    stage.emitter.publish(order(1, 1));
    assert!(stage.emitter.shutdown(LONG).await.is_clean());
    // What was heard before is told before.
    assert_eq!(page.event().await["keys"], json!(["1"]));
    assert_eq!(page.next().await, Err(1012));
    assert_eq!(stage.ask("/ws/events", &[]).await.err(), Some(503));
    let (head, _) = get(stage.address, "/events", "", "").await;
    assert!(head.starts_with("HTTP/1.1 503") && head.contains("retry-after: 10\r\n"), "{head}");
    let again = all(Stream::<Anybody>::builder()).start(&stage.emitter);
    assert_eq!(again.err(), Some(StreamError::Unheard { model: "order" }));
}

#[tokio::test]
async fn visits_end_when_nobody_has_the_stream_any_more() {
    let emitter = Emitter::builder().start().await.unwrap();
    let stream = all(Stream::<Anybody>::builder()).start(&emitter).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = stream.router::<()>();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = axum::serve(listener, router).with_graceful_shutdown(async { stopped.await.unwrap() });
    let serving = tokio::spawn(async move { serving.await });
    let (mut page, _) = tokio_tungstenite::connect_async(format!("ws://{address}/ws/events")).await.unwrap();
    drop(stream);
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    let end = async {
        loop {
            if let Message::Close(frame) = page.next().await.unwrap().unwrap() {
                return u16::from(frame.unwrap().code);
            }
        }
    };
    assert_eq!(tokio::time::timeout(LONG, end).await.unwrap(), 1012);
}

#[tokio::test]
async fn a_page_begins_with_the_cursor_that_it_was_handed() {
    let stage = Stage::set(all).await;
    let nothing = stage.stream.cursor();
    stage.emitter.publish(order(1, 1));
    until(|| stage.stream.cursor() != nothing).await;
    let cursor = stage.stream.cursor();
    stage.emitter.publish(order(2, 1));
    until(|| stage.stream.cursor() != cursor).await;
    let mut page = stage.visit(&format!("/ws/events?cursor={cursor}")).await;
    assert_eq!(page.ids(1).await, [2]);
}

#[tokio::test]
async fn no_event_is_named_twice() {
    let emitter = Emitter::builder().start().await.unwrap();
    let builder = || Stream::<Anybody>::builder().events_for_all::<OrderCreated>();
    let twice = Some(StreamError::Twice { model: "order" });
    assert_eq!(builder().events_for_all::<OrderEvent>().start(&emitter).err(), twice);
    assert_eq!(
        builder().events(|_, _: &emitter_core::Event<OrderCreated>| true).start(&emitter).err(),
        twice
    );
    assert!(builder().events_for_all::<OrderUpdated>().events_for_all::<Alarm>().start(&emitter).is_ok());
}

/// A row that has JSON of its own, with lines of its own.
#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Note {
    id: i64,
    text: String,
    attached: Box<RawValue>,
}

#[tokio::test]
async fn whatever_is_in_an_event_is_text() {
    let stage = Stage::<Anybody>::set(StreamBuilder::events_for_all::<NoteCreated>).await;
    let text = "</script><script>alert(1)</script>\u{2028}\r\n\r\ndata: forged\n\nevent: reload\n\n\0";
    let attached = "{\n\n\"data: forged\"\r\n:\r 1}";
    let note = Note { id: 1, text: text.into(), attached: serde_json::from_str(attached).unwrap() };
    let mut page = stage.visit("/ws/events").await;
    let cursor = page.cursor.clone();
    stage.emitter.publish(NoteCreated::new(note));
    let told = page.event().await;
    assert_eq!(told["payload"], json!({ "id": 1, "text": text, "attached": { "data: forged": 1 } }));
    let (_, body) = get(stage.address, &format!("/events?cursor={cursor}"), "", "keys").await;
    let body: String = body.lines().filter(|line| line.starts_with("data: {\"cursor\"")).collect();
    let sent: Value = serde_json::from_str(body.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(sent, told);
}

#[tokio::test]
async fn what_is_replayed_is_not_told() {
    let stage = Stage::set(all).await;
    let mut page = stage.visit("/ws/events").await;
    let old = json!({
        "model": "order", "operation": "create", "args": {}, "result": { "id": 1, "customer": 1 },
        "timestamp": "2026-01-01T00:00:00.000Z", "eventId": "0193a2b4-0000-7000-8000-000000000001",
    });
    stage.emitter.replay(old.to_string().as_bytes()).unwrap();
    stage.emitter.publish(order(2, 1));
    assert_eq!(page.ids(1).await, [2]);
}

/// Who asks may panic, and one user may be here twice.
struct User {
    _permit: Permit,
}

struct Permit;

static USERS: AtomicUsize = AtomicUsize::new(0);

impl Drop for Permit {
    fn drop(&mut self) {
        USERS.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<S: Sync> FromRequestParts<S> for User {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        assert!(!parts.headers.contains_key("x-panic"), "as asked");
        if USERS.fetch_add(1, Ordering::SeqCst) >= 2 {
            USERS.fetch_sub(1, Ordering::SeqCst);
            return Err(StatusCode::TOO_MANY_REQUESTS);
        }
        Ok(Self { _permit: Permit })
    }
}

#[tokio::test]
async fn who_asks_may_bound_and_panic() {
    let stage = Stage::<User>::set(StreamBuilder::events_for_all::<OrderCreated>).await;
    let first = stage.visit("/ws/events").await;
    let _second = stage.visit("/ws/events").await;
    assert_eq!(stage.ask("/ws/events", &[]).await.err(), Some(429));
    drop(first);
    until(|| USERS.load(Ordering::SeqCst) == 1).await;
    let mut socket = TcpStream::connect(stage.address).await.unwrap();
    socket.write_all(b"GET /events HTTP/1.1\r\nhost: a\r\nx-panic: 1\r\n\r\n").await.unwrap();
    assert_eq!(socket.read(&mut [0; 1]).await.unwrap_or(0), 0, "nothing is said");
    let mut third = stage.visit("/ws/events").await;
    stage.emitter.publish(order(1, 1));
    assert_eq!(third.ids(1).await, [1]);
}

#[tokio::test]
async fn answers_say_what_becomes_of_them() {
    let stage = Stage::set(all).await;
    let (head, _) = get(stage.address, "/events", "", "hello").await;
    for line in ["cache-control: no-store, no-transform", "x-content-type-options: nosniff", "vary: origin"] {
        assert!(head.contains(&format!("{line}\r\n")), "{head}");
    }
    assert!(!head.contains("content-encoding") && !head.contains("access-control"), "{head}");
    let (head, _) = get(stage.address, "/events", "sec-fetch-site: cross-site\r\n", "").await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    let (head, body) = get(stage.address, "/events/client.js", "", "class EventStream").await;
    assert!(head.contains("content-type: text/javascript; charset=utf-8\r\n"), "{head}");
    assert!(head.contains("access-control-allow-origin: *\r\n") && body.len() > 1_000, "{head}");
    // Nobody is kept by a question for the head alone.
    let mut socket = TcpStream::connect(stage.address).await.unwrap();
    socket.write_all(b"HEAD /events HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    until(|| stage.stream.stats().visitors == 0).await;
}

#[tokio::test]
async fn settings_beyond_reason_are_borne() {
    let config = StreamConfig {
        max_visitors: usize::MAX,
        keep_events: 0,
        heartbeat: Duration::ZERO,
        patience: Duration::MAX,
        max_visit: Duration::MAX,
        ..StreamConfig::default()
    };
    let stage = Stage::set(|stream| all(stream).config(config)).await;
    let mut page = stage.visit("/ws/events").await;
    stage.emitter.publish(order(1, 1));
    assert_eq!(page.ids(1).await, [1]);
}
