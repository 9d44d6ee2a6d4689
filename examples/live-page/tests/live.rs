//! What the page is drawn with, and what it is told.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

async fn get(address: &str, path: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

async fn follow() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_live-page"));
    let mut program = program.arg("0").stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut said = BufReader::new(program.stdout.take().unwrap()).lines();
    let line = said.next_line().await.unwrap().unwrap();
    let address = line.strip_prefix("open http://").unwrap().split(' ').next().unwrap();

    let page = get(address, "/").await;
    assert!(page.contains(r#"<tr id="order-1"><td>1</td><td>zoe</td><td>SENT</td></tr>"#), "{page}");
    assert!(page.contains("cache-control: no-store"), "{page}");
    let cursor = page.split_once("data-cursor=\"").unwrap().1.split_once('"').unwrap().0;
    assert!(get(address, "/page.js").await.contains(r#"from "/events/client.js""#));
    assert!(get(address, "/events/client.js").await.contains("export class EventStream"));

    let stream = format!("ws://{address}/ws/events?model=order&cursor={cursor}");
    let (mut socket, _) = tokio_tungstenite::connect_async(stream).await.unwrap();
    let mut told = BTreeSet::new();
    while !["order_created", "order_updated"].iter().all(|kind| told.contains(*kind)) {
        let Message::Text(text) = socket.next().await.unwrap().unwrap() else { continue };
        assert!(!text.contains("4111"), "{text}");
        let event: Value = serde_json::from_str(&text).unwrap();
        if let Some(kind) = event["kind"].as_str() {
            told.insert(kind.to_owned());
        }
    }
    // The third customer's name is text.
    while !get(address, "/").await.contains("<td>&lt;script&gt;alert('carl')&lt;/script&gt;</td>") {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let id = program.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    // The visitor is sent away.
    let code = loop {
        if let Message::Close(frame) = socket.next().await.unwrap().unwrap() {
            break u16::from(frame.unwrap().code);
        }
    };
    assert_eq!((code, program.wait().await.unwrap().success()), (1012, true));
    assert_eq!(said.next_line().await.unwrap().as_deref(), Some("the end"));
}

#[tokio::test]
async fn orders_are_shown_as_they_change() {
    timeout(Duration::from_secs(60), follow()).await.expect("it is told within a minute");
}
