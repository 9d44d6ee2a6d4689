//! Pages in Node with the client that browsers get, a node whose events they are told of, another one that writes, and
//! mosquitto between the two.
//!
//! What a page shows in the end is what was written, whatever was cut and restarted on the way.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::header::CONNECTION;
use axum::{Json, Router, routing};
use emitter_core::{Emits, Emitter};
use emitter_tests::servers::Mosquitto;
use emitter_tests::typescript::TypeScript;
use emitter_web::stream::{Anybody, Stream, StreamConfig};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(60);

/// How often a page is cut off, and how often its node is restarted meanwhile.
fn rounds() -> (u64, usize) {
    if std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full") { (100, 10) } else { (10, 2) }
}

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Order {
    id: i64,
    note: String,
}

/// The last event of all.
#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event)]
struct Done {
    orders: i64,
}

/// What was committed.
type Orders = Arc<Mutex<Vec<i64>>>;

async fn node(name: &str, broker: &Mosquitto) -> Emitter {
    let emitter = Emitter::builder().service("shop").node(name).mqtt(broker.url().as_str());
    let emitter = emitter.start().await.expect("it starts");
    emitter.connected(LONG).await.expect("it connects");
    emitter
}

/// A node that tells pages of events.
struct Shop {
    emitter: Emitter,
    stream: Stream<Anybody>,
    address: SocketAddr,
    serving: JoinSet<()>,
}

impl Shop {
    async fn open(broker: &Mosquitto, orders: &Orders) -> Self {
        let emitter = node("web", broker).await;
        let config = StreamConfig { heartbeat: Duration::from_secs(2), ..StreamConfig::default() };
        let stream = Stream::<Anybody>::builder().config(config);
        let stream = stream.events_for_all::<OrderCreated>().events_for_all::<Done>();
        let stream = stream.start(&emitter).expect("it hears");
        emitter.connected(LONG).await.expect("it is subscribed");
        let orders = Arc::clone(orders);
        // Or Node would make a stream of the same connection, and nobody know that it is one.
        let alone = [(CONNECTION, "close")];
        let all = routing::get(async move || (alone, Json(orders.lock().unwrap().clone())));
        let router = Router::new().nest("/live", stream.router().route("/orders", all));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { emitter, stream, address, serving }
    }

    async fn close(mut self) {
        assert!(self.stream.close(LONG).await, "all pages have gone");
        self.serving.shutdown().await;
        assert!(self.emitter.shutdown(LONG).await.is_clean());
    }
}

/// What stands before the node, at an address that stays. It cuts off streams, in the middle of what they are told.
struct Front {
    url: String,
    behind: Arc<Mutex<SocketAddr>>,
    /// How many streams are still to be cut off.
    to_cut: Arc<AtomicU64>,
    _serving: JoinSet<()>,
}

impl Front {
    async fn open(behind: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/live", listener.local_addr().unwrap());
        let (behind, to_cut) = (Arc::new(Mutex::new(behind)), Arc::new(AtomicU64::new(0)));
        let mut serving = JoinSet::new();
        let (to, cuts) = (Arc::clone(&behind), Arc::clone(&to_cut));
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((page, _)) = listener.accept().await {
                let to = *to.lock().unwrap();
                connections.spawn(forward(page, to, Arc::clone(&cuts)));
            }
        });
        Self { url, behind, to_cut, _serving: serving }
    }

    fn left(&self) -> u64 {
        self.to_cut.load(Ordering::SeqCst)
    }
}

/// Passes on what is said. A stream ends after some of its bytes, while there are some to cut off.
async fn forward(mut page: TcpStream, to: SocketAddr, to_cut: Arc<AtomicU64>) -> Option<()> {
    let mut request = [0; 4096];
    let length = page.read(&mut request).await.ok()?;
    let mut node = TcpStream::connect(to).await.ok()?;
    node.write_all(&request[..length]).await.ok()?;
    let is_stream = request.starts_with(b"GET /live/ws/events");
    let mut left = if is_stream { fastrand::usize(1_000..20_000) } else { usize::MAX };
    let (mut from_page, mut to_page) = page.split();
    let (mut from_node, mut to_node) = node.split();
    let down = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let length = from_node.read(&mut buffer).await.ok().filter(|length| *length > 0)?;
            let one_less = |cuts: u64| cuts.checked_sub(1);
            if length > left && to_cut.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
                return to_page.write_all(&buffer[..left]).await.ok();
            }
            left = left.saturating_sub(length);
            to_page.write_all(&buffer[..length]).await.ok()?;
        }
    };
    tokio::select! {
        end = down => end,
        _ = tokio::io::copy(&mut from_page, &mut to_node) => None,
    }
}

/// A page in Node.
struct Page {
    _process: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Page {
    fn open(folder: &Path, url: &str, cursor: &str) -> Self {
        let mut node = Command::new("node");
        node.args(["--experimental-websocket", "page.js", url, cursor])
            .current_dir(folder)
            .kill_on_drop(true);
        let mut process = node.stdout(Stdio::piped()).spawn().expect("Node is installed");
        let said = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { _process: process, said }
    }

    async fn says(&mut self) -> String {
        let line = timeout(LONG, self.said.next_line()).await.expect("the page says something");
        line.unwrap().expect("the page goes on")
    }
}

/// What a page says in the end.
#[derive(Debug, PartialEq, Deserialize)]
struct Seen {
    shown: usize,
    told: usize,
    missing: usize,
    twice: usize,
    reloads: usize,
}

/// A folder with the page and its client, compiled.
fn compiled() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("page-").tempdir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
    write("package.json", r#"{"type":"module"}"#);
    write("client.js", include_str!("../../../emitter-web/js/client.js"));
    write("client.d.ts", include_str!("../../../emitter-web/js/client.d.ts"));
    write("page.ts", include_str!("page.ts"));
    let typescript = TypeScript::provide(env!("CARGO_TARGET_TMPDIR"));
    typescript.compile(folder.path(), "page.ts").unwrap_or_else(|mistakes| panic!("{mistakes}"));
    // What is wrong, it finds.
    write("wrong.ts", &include_str!("page.ts").replace("payload.orders", "payload.order"));
    let mistakes = typescript.compile(folder.path(), "wrong.ts").unwrap_err();
    assert!(mistakes.contains("Property 'order' does not exist on type"), "{mistakes}");
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_shows_what_was_written_however_often_it_is_cut_off_and_its_node_restarted() {
    let (cuts, restarts) = rounds();
    let folder = compiled();
    let broker = Mosquitto::start();
    let orders = Orders::default();
    let writer = node("writer", &broker).await;
    let mut shop = Shop::open(&broker, &orders).await;
    let front = Front::open(shop.address).await;
    let mut page = Page::open(folder.path(), &front.url, &shop.stream.cursor());
    let writing = {
        let (writer, orders) = (writer.clone(), Arc::clone(&orders));
        tokio::spawn(async move {
            for id in 0.. {
                orders.lock().unwrap().push(id);
                writer.publish(OrderCreated::new(Order { id, note: "<b>\u{2028}\n".to_owned() }));
                sleep(Duration::from_millis(2)).await;
            }
        })
    };
    let written = || orders.lock().unwrap().len();
    // What it is not told, for it was written between the end of a node and the word to reload.
    let mut loaded = 0;
    for restart in 0..=restarts {
        front.to_cut.store(cuts / (restarts as u64 + 1) + 1, Ordering::SeqCst);
        while front.left() > 0 {
            page.says().await;
        }
        // All that was cut off is told in the end.
        let up_to = written();
        while page.says().await.strip_prefix("at ").is_none_or(|id| id.parse::<usize>().unwrap() < up_to) {}
        if restart < restarts {
            let before = written();
            shop.close().await;
            // What is written now waits at the broker.
            sleep(Duration::from_millis(50)).await;
            shop = Shop::open(&broker, &orders).await;
            *front.behind.lock().unwrap() = shop.address;
            while page.says().await != "reload" {}
            loaded += written() - before;
        }
    }
    writing.abort();
    let _ = writing.await;
    let all = written();
    let mut done = tokio::time::interval(Duration::from_secs(1));
    let seen: Seen = loop {
        let said = tokio::select! {
            said = page.says() => said,
            // One before a reload is not told.
            _ = done.tick() => {
                writer.publish(Done { orders: i64::try_from(all).unwrap() });
                continue;
            }
        };
        if said.starts_with('{') {
            break serde_json::from_str(&said).unwrap();
        }
    };
    println!("{all} orders, {cuts} cuts, {restarts} restarts, {loaded} perhaps loaded: {seen:?}");
    assert_eq!((seen.missing, seen.twice, seen.shown), (0, 0, all));
    assert_eq!(seen.reloads, restarts, "told to reload once for each restart, and for no cut");
    assert!(seen.told + loaded >= all, "{loaded} were perhaps loaded");
    shop.close().await;
    assert!(writer.shutdown(LONG).await.is_clean());
}
