//! A server whose pages are played by the test.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::FromRequestParts;
use emitter_core::Emitter;
use emitter_web::stream::{Stream, StreamBuilder};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// A node whose events a server tells of.
pub(crate) struct Stage<V> {
    pub(crate) emitter: Emitter,
    pub(crate) stream: Stream<V>,
    pub(crate) address: SocketAddr,
}

impl<V: FromRequestParts<()> + Send + Sync + 'static> Stage<V> {
    pub(crate) async fn set(build: impl FnOnce(StreamBuilder<V>) -> StreamBuilder<V>) -> Self {
        let emitter = Emitter::builder().start().await.unwrap();
        let stream = build(Stream::builder()).start(&emitter).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = stream.router::<()>();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { emitter, stream, address }
    }

    pub(crate) async fn ask(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<Page, u16> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match connect_async(request).await {
            Ok((socket, _)) => Ok(Page { socket, cursor: String::new() }),
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn visit(&self, path: &str) -> Page {
        let mut page = self.ask(path, &[]).await.unwrap();
        assert_eq!(page.note().await["stream"], "hello");
        page
    }
}

/// A page with a WebSocket.
pub(crate) struct Page {
    pub(crate) socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) cursor: String,
}

impl Page {
    /// The next text, or the code with which the socket was closed.
    pub(crate) async fn next(&mut self) -> Result<Value, u16> {
        loop {
            let message = tokio::time::timeout(Duration::from_secs(20), self.socket.next()).await;
            match message.expect("something is said within 20 s") {
                Some(Ok(Message::Text(text))) => {
                    let told: Value = serde_json::from_str(&text).unwrap();
                    told["cursor"].as_str().unwrap().clone_into(&mut self.cursor);
                    return Ok(told);
                }
                Some(Ok(Message::Close(frame))) => return Err(frame.map_or(0, |frame| frame.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(0),
            }
        }
    }

    pub(crate) async fn note(&mut self) -> Value {
        let note = self.next().await.unwrap();
        assert!(note.get("stream").is_some(), "{note}");
        note
    }

    /// The next event; heartbeats are passed over.
    pub(crate) async fn event(&mut self) -> Value {
        let event = async {
            loop {
                let told = self.next().await.unwrap();
                if told.get("stream").is_none() {
                    return told;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), event).await.expect("an event is told within 20 s")
    }

    pub(crate) async fn ids(&mut self, count: usize) -> Vec<i64> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.push(self.event().await["payload"]["id"].as_i64().unwrap());
        }
        ids
    }
}

/// Asks by HTTP, and reads the answer until it has `end`.
pub(crate) async fn get(address: SocketAddr, path: &str, headers: &str, end: &str) -> (String, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut read = String::new();
    let mut buffer = [0; 4096];
    loop {
        let length = socket.read(&mut buffer).await.unwrap();
        read.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        if let Some((head, body)) = read.split_once("\r\n\r\n")
            && (length == 0 || body.contains(end))
        {
            return (format!("{head}\r\n"), body.to_owned());
        }
        assert!(length > 0, "{read}");
    }
}
