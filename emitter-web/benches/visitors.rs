//! What a page waits for its events where many are there, some of which take nothing.
//!
//! `cargo bench -p emitter-web --bench visitors`: 1,000 visitors, every tenth stalled, 200 events/s for 10 s, beside the
//! same with nobody stalled. (`cargo test --benches` runs it too: then 50 visitors, for a second.) Visitors and server
//! share this process and its cores. That the others are told everything, and the stalled ones dropped, is asserted;
//! how long it takes, and what memory, is only told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emitter_core::{Emits, Emitter};
use emitter_web::stream::{Anybody, Stream, StreamConfig};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

const RATE: u32 = 200;

/// How many visitors, and for how many seconds.
fn size() -> (usize, u32) {
    if std::env::args().any(|word| word == "--bench") { (1_000, 10) } else { (50, 1) }
}

#[derive(Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Tick {
    id: u64,
    /// Microseconds since 1970.
    at: u64,
    filler: String,
}

fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(0)
}

/// The resident memory of this process, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) / 1024
}

async fn page(address: SocketAddr, stalls: bool, waits: mpsc::UnboundedSender<u64>, heard: Arc<AtomicU64>) {
    let (mut socket, _) = connect_async(format!("ws://{address}/ws/events")).await.unwrap();
    if stalls {
        std::future::pending::<()>().await;
    }
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        // Not parsed: that would be the page's own time.
        let Some((_, rest)) = text.split_once("\"at\":") else { continue };
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        heard.fetch_add(1, Ordering::Relaxed);
        let _ = waits.send(micros().saturating_sub(digits.parse().unwrap()));
    }
}

async fn run(visitors: usize, stalled: usize, seconds: u32) {
    let emitter = Emitter::builder().start().await.unwrap();
    // So little does not fill a socket: the stalled ones are those that answer no heartbeat.
    let config = StreamConfig { heartbeat: Duration::from_secs(2), ..StreamConfig::default() };
    let stream =
        Stream::<Anybody>::builder().config(config).events_for_all::<TickCreated>().start(&emitter).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = stream.router::<()>();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let (waits, mut waited) = mpsc::unbounded_channel();
    let heard = Arc::new(AtomicU64::new(0));
    let pages: Vec<_> = (0..visitors)
        .map(|visitor| tokio::spawn(page(address, visitor < stalled, waits.clone(), Arc::clone(&heard))))
        .collect();
    while stream.stats().visitors < visitors {
        sleep(Duration::from_millis(10)).await;
    }
    let (begun, before) = (Instant::now(), resident());
    let mut peak = 0;
    for tick in 0..RATE * seconds {
        sleep_until(begun + Duration::from_secs(1) * tick / RATE).await;
        let tick = Tick { id: tick.into(), at: micros(), filler: "x".repeat(500) };
        emitter.publish(TickCreated::new(tick));
        peak = peak.max(if tick_is_round() { resident() } else { 0 });
    }
    let expected = ((visitors - stalled) as u64) * u64::from(RATE * seconds);
    let end = Instant::now() + Duration::from_secs(30);
    while heard.load(Ordering::Relaxed) < expected && Instant::now() < end {
        sleep(Duration::from_millis(10)).await;
    }
    while stream.stats().dropped < stalled as u64 && Instant::now() < end {
        sleep(Duration::from_millis(10)).await;
    }
    let stats = stream.stats();
    pages.iter().for_each(tokio::task::JoinHandle::abort);
    let mut all = Vec::new();
    while let Ok(wait) = waited.try_recv() {
        all.push(wait);
    }
    all.sort_unstable();
    assert_eq!(all.len() as u64, expected, "whoever takes what it is told is told all");
    assert_eq!((stats.dropped, stats.reloads), (stalled as u64, 0), "whoever takes nothing is dropped");
    assert_eq!(stats.visitors, visitors - stalled);
    let at = |hundredths: usize| all[(all.len() - 1) * hundredths / 100] as f64 / 1_000.0;
    println!(
        "{visitors} visitors, {stalled} stalled: {} of {expected} events told, p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms; \
         dropped {}; memory {before} to {peak} MiB",
        all.len(),
        at(50),
        at(99),
        at(100),
        stats.dropped,
    );
}

fn tick_is_round() -> bool {
    fastrand::u32(..20) == 0
}

#[tokio::main]
async fn main() {
    let (visitors, seconds) = size();
    run(visitors, 0, seconds).await;
    run(visitors, visitors / 10, seconds).await;
}
