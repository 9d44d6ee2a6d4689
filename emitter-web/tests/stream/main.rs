//! Streams as pages see them: a server on a port, WebSockets, and what an `EventSource` reads.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use emitter_core::columns::Columns;
use emitter_core::{Emits, Emitter, Event};
use emitter_web::stream::{Anybody, MUST_RELOAD, Stream, StreamBuilder, StreamConfig};
use futures_util::SinkExt as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stage::{Stage, get};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

mod hostile;
mod stage;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update, delete_many)]
struct Order {
    id: i64,
    customer: i64,
    #[emits(skip)]
    card: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event, kind = "alarm_raised")]
struct Alarm {
    level: u8,
}

/// Says who it is in a header.
struct Customer(i64);

impl<S: Sync> FromRequestParts<S> for Customer {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let said = parts.headers.get("x-customer").and_then(|id| id.to_str().ok()?.parse().ok());
        said.map(Self).ok_or(StatusCode::UNAUTHORIZED)
    }
}

fn order(id: i64, customer: i64) -> OrderCreated {
    OrderCreated::new(OrderRow { id, customer })
}

fn all(stream: StreamBuilder<Anybody>) -> StreamBuilder<Anybody> {
    stream.events_for_all::<OrderEvent>().events_for_all::<Alarm>()
}

#[tokio::test]
async fn a_page_is_told_what_listeners_see() {
    let stage = Stage::set(all).await;
    let mut page = stage.visit("/ws/events").await;
    let published = stage.emitter.publish(order(7, 1));
    let mut told = page.event().await;
    let ts = told["ts"].take();
    assert!(ts.as_str().unwrap().ends_with('Z'), "{ts}");
    let id = published.id.to_string();
    let cursor = page.cursor.clone();
    assert_eq!(
        told,
        json!({
            "cursor": cursor, "kind": "order_created", "model": "order", "operation": "create", "ts": null,
            "event_id": id, "trace_id": published.trace_id, "keys": ["7"], "payload": { "id": 7, "customer": 1 },
        })
    );
    let row = |id, customer| OrderRow { id, customer };
    let set = Columns::from_flags([false, true, false]);
    stage.emitter.publish(OrderUpdated::new(Some(row(7, 1)), row(7, 2), Some(set)));
    let told = page.event().await;
    let parts = ["kind", "payload", "before", "changed"].map(|part| told[part].clone());
    let (after, before) = (json!({ "id": 7, "customer": 2 }), json!({ "id": 7, "customer": 1 }));
    assert_eq!(parts, [json!("order_updated"), after, before.clone(), json!(["customer"])]);
    stage.emitter.publish(OrderDeletedMany::new(2, Some(vec![row(7, 1), row(8, 1)])));
    let told = page.event().await;
    let parts = ["kind", "operation", "keys", "payload"].map(|part| told[part].clone());
    assert_eq!(
        parts,
        [json!("order_deleted_many"), json!("deleteMany"), json!(["7", "8"]), json!({ "count": 2 })]
    );
    assert_eq!((told["rows"].as_array().unwrap().len(), &told["rows"][0]["before"]), (2, &before));
    stage.emitter.publish(Alarm { level: 3 });
    let told = page.event().await;
    assert_eq!((&told["kind"], &told["payload"]), (&json!("alarm_raised"), &json!({ "level": 3 })));
}

#[tokio::test]
async fn each_visitor_is_told_what_it_may_see_and_wants() {
    let stage = Stage::<Customer>::set(|stream| {
        stream
            .events(|customer: &Customer, event: &Event<OrderCreated>| event.row.customer == customer.0)
            .events(
                |_: &Customer, event: &Event<Alarm>| {
                    if event.level > 9 { panic!("asked of {}", event.level) } else { true }
                },
            )
    })
    .await;
    assert_eq!(stage.ask("/ws/events", &[]).await.err(), Some(401));
    let mut one = stage.ask("/ws/events", &[("x-customer", "1")]).await.unwrap();
    let mut two = stage.ask("/ws/events?key=4&key=5", &[("x-customer", "2")]).await.unwrap();
    let mut three = stage.ask("/ws/events?kind=alarm_raised", &[("x-customer", "1")]).await.unwrap();
    for page in [&mut one, &mut two, &mut three] {
        assert_eq!(page.note().await["stream"], "hello");
    }
    for id in 1..=4 {
        stage.emitter.publish(order(id, 1 + id % 2));
    }
    stage.emitter.publish(Alarm { level: 10 });
    stage.emitter.publish(Alarm { level: 1 });
    assert_eq!(one.ids(2).await, [2, 4]);
    assert_eq!(one.event().await["payload"], json!({ "level": 1 }));
    assert_eq!(three.event().await["payload"], json!({ "level": 1 }));
    two.socket.send(Message::Text(r#"{"select":{"keys":["6","7"]}}"#.into())).await.unwrap();
    // What it says counts from when it is read.
    let told = async {
        for id in (5..).step_by(2) {
            stage.emitter.publish(order(id, 2));
            tokio::time::sleep(Duration::from_millis(5)).await;
            stage.emitter.publish(order(7, 2));
        }
    };
    let heard = async {
        let mut first = two.ids(1).await;
        while first == [5] {
            first = two.ids(1).await;
        }
        first
    };
    let first = tokio::select! { () = told => unreachable!(), first = heard => first };
    assert_eq!(first, [7]);
    for nonsense in ["{}", "hello"] {
        let mut page = stage.ask("/ws/events", &[("x-customer", "1")]).await.unwrap();
        page.note().await;
        page.socket.send(Message::Text(nonsense.into())).await.unwrap();
        let code = loop {
            if let Err(code) = page.next().await {
                break code;
            }
        };
        assert_eq!(code, 1008);
    }
}

#[tokio::test]
async fn a_page_that_comes_again_misses_nothing_and_sees_nothing_twice() {
    let stage = Stage::set(all).await;
    let publishing = async {
        for id in 0..2_000 {
            stage.emitter.publish(order(id, 1));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let reading = async {
        let mut page = stage.visit("/ws/events").await;
        let mut seen = Vec::new();
        for visit in 0..100 {
            seen.extend(page.ids(1 + visit % 20).await);
            // Whatever is on its way is lost with the connection.
            page = stage.visit(&format!("/ws/events?cursor={}", page.cursor)).await;
        }
        seen.extend(page.ids(2_000 - usize::try_from(seen[0]).unwrap() - seen.len()).await);
        seen
    };
    let ((), seen) = tokio::join!(publishing, reading);
    assert_eq!(seen, (seen[0]..2_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_page_that_missed_events_is_told_to_reload() {
    let config = StreamConfig { keep_events: 10, ..StreamConfig::default() };
    let stage = Stage::set(|stream| all(stream).config(config)).await;
    let mut page = stage.visit("/ws/events").await;
    stage.emitter.publish(order(0, 1));
    page.event().await;
    let cursor = std::mem::take(&mut page.cursor);
    for id in 1..=11 {
        stage.emitter.publish(order(id, 1));
        assert_eq!(page.ids(1).await, [id]);
    }
    // It has that place, too, and something else there.
    let other = Stage::set(all).await;
    let mut elsewhere = other.visit("/ws/events").await;
    for id in [21, 22] {
        other.emitter.publish(order(id, 1));
        assert_eq!(elsewhere.ids(1).await, [id]);
    }
    let beyond = format!("{}-99", cursor.split_once('-').unwrap().0);
    for (stage, cursor) in [(&stage, &*cursor), (&stage, "nonsense"), (&stage, &beyond), (&other, &cursor)] {
        let mut page = stage.ask(&format!("/ws/events?cursor={cursor}"), &[]).await.unwrap();
        assert_eq!(page.note().await["stream"], "reload");
        assert_eq!(page.next().await, Err(MUST_RELOAD));
        // What it loads now is of then, and what comes is behind that.
        stage.emitter.publish(order(12, 1));
        let mut page = stage.visit(&format!("/ws/events?cursor={}", page.cursor)).await;
        assert_eq!(page.ids(1).await, [12]);
    }
    assert_eq!((stage.stream.stats().reloads, other.stream.stats().reloads), (3, 1));
}

#[tokio::test]
async fn foreign_pages_read_nothing() {
    let config = StreamConfig { origins: vec!["https://app.example".to_owned()], ..StreamConfig::default() };
    let stage = Stage::set(|stream| all(stream).config(config)).await;
    let own = format!("http://{}", stage.address);
    for origin in [&*own, "https://app.example"] {
        assert!(stage.ask("/ws/events", &[("origin", origin)]).await.is_ok(), "{origin}");
    }
    for origin in ["https://evil.example", "null"] {
        assert_eq!(stage.ask("/ws/events", &[("origin", origin)]).await.err(), Some(403), "{origin}");
        let (head, _) = get(stage.address, "/events", &format!("origin: {origin}\r\n"), "").await;
        assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    }
    let (head, _) = get(stage.address, "/events", "origin: https://app.example\r\n", "hello").await;
    assert!(head.contains("access-control-allow-origin: https://app.example\r\n"), "{head}");
    assert!(head.contains("vary: origin\r\n"), "{head}");
}

#[tokio::test]
async fn more_visitors_than_may_be_are_sent_away() {
    let config = StreamConfig { max_visitors: 2, ..StreamConfig::default() };
    let stage = Stage::set(|stream| all(stream).config(config)).await;
    let first = stage.visit("/ws/events").await;
    let _second = stage.visit("/ws/events").await;
    assert_eq!(stage.ask("/ws/events", &[]).await.err(), Some(503));
    drop(first);
    while stage.stream.stats().visitors > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stage.visit("/ws/events").await;
    let many = format!("/ws/events?{}", "key=1&".repeat(101));
    assert_eq!(stage.ask(&many, &[]).await.err(), Some(400));
}

#[tokio::test]
async fn a_visit_ends_when_it_is_over_or_the_stream_is_closed() {
    let config = StreamConfig { max_visit: Duration::from_millis(100), ..StreamConfig::default() };
    let stage = Stage::set(|stream| all(stream).config(config)).await;
    let mut page = stage.visit("/ws/events").await;
    assert_eq!(page.next().await, Err(1012));
    let stage = Stage::set(all).await;
    let mut page = stage.visit("/ws/events").await;
    assert!(stage.stream.close(Duration::from_secs(20)).await);
    assert_eq!(page.next().await, Err(1012));
    assert_eq!(stage.ask("/ws/events", &[]).await.err(), Some(503));
}

#[tokio::test]
async fn heartbeats_tell_how_far_a_page_is_that_is_told_nothing() {
    let config = StreamConfig { heartbeat: Duration::from_millis(20), ..StreamConfig::default() };
    let stage = Stage::set(|stream| all(stream).config(config)).await;
    let mut page = stage.visit("/ws/events?kind=alarm_raised").await;
    let before = page.cursor.clone();
    stage.emitter.publish(order(1, 1));
    while page.cursor == before {
        assert_eq!(page.note().await["stream"], "heartbeat");
    }
}

#[tokio::test]
async fn a_visitor_that_takes_nothing_is_dropped_and_holds_up_nobody() {
    let config = StreamConfig {
        patience: Duration::from_millis(300),
        keep_events: 100,
        heartbeat: Duration::from_millis(100),
        ..StreamConfig::default()
    };
    let stage = Stage::<Anybody>::set(|stream| stream.config(config).events_for_all::<BlobCreated>()).await;
    let _stalled = stage.visit("/ws/events").await;
    let mut page = stage.visit("/ws/events").await;
    let reading = async {
        for _ in 0..1_000 {
            page.event().await;
        }
    };
    let publishing = async {
        for id in 0..1_000 {
            stage.emitter.publish(BlobCreated::new(Blob { id, text: "x".repeat(16_000) }));
            // At the pace of one who reads.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::join!(reading, publishing);
    while stage.stream.stats().dropped == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(stage.stream.stats().visitors, 1);
}

/// Its connection is ended, too: nothing of it is left, and a server that waits for its connections ends.
#[tokio::test]
async fn an_event_source_that_takes_nothing_is_cut_off() {
    let config = StreamConfig { patience: Duration::from_millis(300), ..StreamConfig::default() };
    let emitter = Emitter::builder().start().await.unwrap();
    let stream = Stream::<Anybody>::builder().config(config).events_for_all::<BlobCreated>();
    let stream = stream.start(&emitter).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = axum::serve(listener, stream.router::<()>());
    let serving = serving.with_graceful_shutdown(async { drop(stopped.await) });
    let serving = tokio::spawn(async move { serving.await });
    let mut stalled = TcpStream::connect(address).await.unwrap();
    stalled.write_all(b"GET /events HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    for id in 0.. {
        if stream.stats().dropped == 1 {
            break;
        }
        emitter.publish(BlobCreated::new(Blob { id, text: "x".repeat(100_000) }));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(stream.stats().visitors, 0);
    drop(stop);
    let ended = tokio::time::timeout(Duration::from_secs(10), serving).await;
    ended.expect("the server waits for nobody").unwrap().unwrap();
    drop(stalled);
}

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Blob {
    id: i64,
    text: String,
}

#[tokio::test]
async fn an_event_source_goes_on_where_it_was() {
    let stage = Stage::set(all).await;
    let (head, body) = get(stage.address, "/events", "", "hello").await;
    assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
    let cursor = body.split_once("id: ").unwrap().1.split_once('\n').unwrap().0.to_owned();
    stage.emitter.publish(order(1, 1));
    stage.emitter.publish(order(2, 1));
    let last = format!("last-event-id: {cursor}\r\n");
    // Its own cursor counts, and not that of the address with which it once began.
    let (_, body) = get(stage.address, "/events?cursor=nonsense", &last, "\"keys\":[\"2\"]").await;
    let first = body.find("\ndata: {\"cursor\":").unwrap();
    assert!(body[first..].contains("\"keys\":[\"1\"]"), "{body}");
    let (_, body) = get(stage.address, "/events?cursor=nonsense", "", "reload").await;
    assert!(body.contains("event: reload\nid: "), "{body}");
}

#[tokio::test]
async fn the_client_comes_again_and_goes_on() {
    let emitter = Emitter::builder().start().await.unwrap();
    let stream = all(Stream::<Anybody>::builder()).start(&emitter).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Connections that end whenever the test wants.
    let (cut, _) = tokio::sync::broadcast::channel::<()>(1);
    let front = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/live", front.local_addr().unwrap());
    let router = axum::Router::new().nest("/live", stream.router::<()>());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let cutting = cut.clone();
    tokio::spawn(async move {
        while let Ok((mut page, _)) = front.accept().await {
            let mut cut = cutting.subscribe();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(address).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut page, &mut server) => {}
                    _ = cut.recv() => {}
                }
            });
        }
    });
    let mut page = Client::start(&url, &[]);
    let mut line = async || page.line().await;
    assert_eq!(line().await, "status open");
    emitter.publish(order(1, 1));
    assert_eq!((line().await, line().await), ("order 1".into(), "any order_created".into()));
    cut.send(()).unwrap();
    emitter.publish(order(2, 1));
    assert_eq!((line().await, line().await), ("status connecting".into(), "status open".into()));
    assert_eq!((line().await, line().await), ("order 2".into(), "any order_created".into()));
    emitter.publish(Alarm { level: 1 });
    assert_eq!(line().await, "any alarm_raised");
    emitter.publish(order(3, 1));
    assert_eq!(line().await, "any order_created", "the handler of orders has ended");
    emitter.publish(Alarm { level: 2 });
    assert_eq!(line().await, "any alarm_raised");
    // What it selected goes with it when it comes again.
    cut.send(()).unwrap();
    assert_eq!((line().await, line().await), ("status connecting".into(), "status open".into()));
    emitter.publish(order(4, 1));
    emitter.publish(Alarm { level: 3 });
    assert_eq!((line().await, line().await), ("status closed".into(), "any alarm_raised".into()));
    assert_eq!(line().await, "");
    assert!(page.node.wait().await.unwrap().success());
}

#[tokio::test]
async fn what_is_selected_before_a_page_is_connected_counts() {
    let stage = Stage::set(all).await;
    let url = format!("http://{}/", stage.address);
    let mut page = Client::start(&url, &[r#"{"keys":["2"]}"#]);
    assert_eq!(page.line().await, "status open");
    // It counts from when the server reads it.
    let begun = std::time::Instant::now();
    let mut told = [1; 2];
    while told != [2, 2] {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is told of all orders");
        for id in [1, 2, 1, 2] {
            stage.emitter.publish(order(id, 1));
        }
        for told in &mut told {
            let line = page.line().await;
            *told = line.strip_prefix("order ").expect("it is told of all orders").parse().unwrap();
            assert_eq!(page.line().await, "any order_created");
        }
    }
}

/// The client for pages, in Node.
struct Client {
    node: tokio::process::Child,
    said: tokio::io::Lines<tokio::io::BufReader<tokio::process::ChildStdout>>,
}

impl Client {
    fn start(url: &str, more: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stream/page.mjs");
        let mut node = tokio::process::Command::new("node");
        node.args(["--experimental-websocket", script, url]).args(more).kill_on_drop(true);
        node.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        let mut node = node.spawn().expect("Node 20 or later is installed");
        let said = tokio::io::BufReader::new(node.stdout.take().unwrap()).lines();
        Self { node, said }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(Duration::from_secs(20), self.said.next_line()).await;
        line.expect("Node says something within 20 s").unwrap().unwrap_or_default()
    }
}
