//! What a page waits for its events where many are there, some of which take nothing.
//!
//! `EMITTER_PROOF=full cargo bench -p emitter-web --bench visitors`: 1,000 visitors, every tenth stalled, 200 events/s for 10 s,
//! beside the same with nobody stalled. (`cargo test --benches` runs it, too: then 50 visitors, for a second.)
//! Half of them have a WebSocket, half an `EventSource`; of those that read, half want one key of ten. Visitors and server
//! share this process and its cores. That the others are told everything, and the stalled ones dropped, is
//! asserted; with the variable also that the 99th percentile stays below 250 ms, and how much memory is taken.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emitter_core::{Emits, Emitter};
use emitter_web::stream::{Anybody, Stream, StreamConfig};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tungstenite::tungstenite::Message;

const RATE: u32 = 200;
const KEYS: u32 = 10;

fn is_proof() -> bool {
    std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full")
}

#[derive(Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Tick {
    id: u32,
    /// Microseconds since 1970.
    at: u64,
    filler: String,
}

fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(0)
}

/// The resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
}

/// How long events were under way, counted by tenths of a millisecond; the last stands for all longer ones. Of one size,
/// for memory is measured.
struct Waits(Vec<AtomicU64>);

impl Waits {
    fn new() -> Self {
        Self((0..100_000).map(|_| AtomicU64::new(0)).collect())
    }

    /// Of an event's text. It is not parsed: that would be the page's own time.
    fn note(&self, text: &str) {
        let Some((_, rest)) = text.split_once("\"at\":") else { return };
        let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
        let waited = micros().saturating_sub(digits.parse().unwrap()) / 100;
        let place = usize::try_from(waited).unwrap_or(usize::MAX).min(self.0.len() - 1);
        self.0[place].fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|waits| waits.load(Ordering::Relaxed)).sum()
    }

    /// In milliseconds.
    fn at(&self, hundredths: u64) -> f64 {
        let mut left = self.count() * hundredths / 100;
        let place = self.0.iter().position(|waits| {
            let waits = waits.load(Ordering::Relaxed);
            let is_here = waits > 0 && left <= waits;
            left = left.saturating_sub(waits);
            is_here
        });
        place.unwrap_or(0) as f64 / 10.0
    }
}

/// Who looks, and at what.
#[derive(Clone, Copy)]
struct Visitor {
    number: usize,
    stalls: bool,
}

impl Visitor {
    fn is_event_source(self) -> bool {
        self.number % 2 == 1
    }

    fn wants_one_key(self) -> bool {
        !self.stalls && self.number % 4 >= 2
    }

    /// Of so many events, how many it is told.
    fn told(self, events: u32) -> u64 {
        u64::from(if self.stalls {
            0
        } else if self.wants_one_key() {
            events / KEYS
        } else {
            events
        })
    }

    async fn visit(self, address: SocketAddr, waits: Arc<Waits>) {
        let socket = TcpSocket::new_v4().unwrap();
        if self.stalls {
            // So that it stands soon.
            socket.set_recv_buffer_size(4 * 1024).unwrap();
        }
        let socket = socket.connect(address).await.unwrap();
        let query = if self.wants_one_key() { "?key=3" } else { "" };
        if self.is_event_source() {
            self.event_source(socket, query, &waits).await;
        } else {
            self.web_socket(socket, &format!("ws://{address}/ws/events{query}"), &waits).await;
        }
    }

    async fn web_socket(self, socket: TcpStream, url: &str, waits: &Waits) {
        let (mut socket, _) = tokio_tungstenite::client_async(url, socket).await.unwrap();
        if self.stalls {
            std::future::pending::<()>().await;
        }
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Text(text) = message {
                waits.note(&text);
            }
        }
    }

    async fn event_source(self, mut socket: TcpStream, query: &str, waits: &Waits) {
        let request = format!("GET /events{query} HTTP/1.1\r\nhost: a\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        if self.stalls {
            std::future::pending::<()>().await;
        }
        let mut answer = BufReader::new(socket);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            answer.read_line(&mut line).await.unwrap();
        }
        // In chunks, which end anywhere in a line.
        let mut text = Vec::new();
        loop {
            line.clear();
            answer.read_line(&mut line).await.unwrap();
            let Ok(bytes @ 1..) = usize::from_str_radix(line.trim(), 16) else { return };
            let begin = text.len();
            text.resize(begin + bytes + 2, 0);
            if answer.read_exact(&mut text[begin..]).await.is_err() {
                return;
            }
            text.truncate(begin + bytes);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                waits.note(std::str::from_utf8(&text[..end]).unwrap());
                text.drain(..=end);
            }
        }
    }
}

/// What visitors may take beside what they have when they have come: those that take nothing 128 KiB each, which is what is
/// held for an `EventSource` (100 KiB) and its connection; others 32 KiB here and on their own side; and the ring all that
/// it may have.
fn most_kib(reading: usize, stalled: usize, ring_bytes: usize) -> u64 {
    (stalled * 128 + reading * 32 + ring_bytes / 1024) as u64
}

async fn run(visitors: usize, stalled: usize, seconds: u32) {
    let emitter = Emitter::builder().start().await.unwrap();
    // So little fills few sockets: of the WebSockets those are stalled that answer no heartbeat.
    let config = StreamConfig {
        heartbeat: Duration::from_secs(2),
        patience: Duration::from_secs(2),
        ..StreamConfig::default()
    };
    let most = most_kib(visitors - stalled, stalled, config.keep_bytes);
    let stream = Stream::<Anybody>::builder().config(config).events_for_all::<TickCreated>();
    let stream = stream.start(&emitter).unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(16 * 1024).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1_024).unwrap();
    let address = listener.local_addr().unwrap();
    let router = stream.router::<()>();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let waits = Arc::new(Waits::new());
    let all: Vec<_> = (0..visitors).map(|number| Visitor { number, stalls: number < stalled }).collect();
    let visit = |visitor: &Visitor| tokio::spawn(visitor.visit(address, Arc::clone(&waits)));
    let visits: Vec<_> = all.iter().map(visit).collect();
    while stream.stats().visitors < visitors {
        sleep(Duration::from_millis(10)).await;
    }
    let (begun, before) = (Instant::now(), resident());
    let peak = Arc::new(AtomicU64::new(before));
    let highest = Arc::clone(&peak);
    let watch = tokio::spawn(async move {
        loop {
            highest.fetch_max(resident(), Ordering::Relaxed);
            sleep(Duration::from_millis(50)).await;
        }
    });
    let events = RATE * seconds;
    for tick in 0..events {
        sleep_until(begun + Duration::from_secs(1) * tick / RATE).await;
        let tick = Tick { id: tick % KEYS, at: micros(), filler: "x".repeat(500) };
        emitter.publish(TickCreated::new(tick));
    }
    let expected = all.iter().map(|visitor| visitor.told(events)).sum();
    let end = Instant::now() + Duration::from_secs(30);
    let is_over = || waits.count() >= expected && stream.stats().dropped >= stalled as u64;
    while !is_over() && Instant::now() < end {
        sleep(Duration::from_millis(10)).await;
    }
    let (stats, told) = (stream.stats(), waits.count());
    visits.iter().chain([&watch]).for_each(tokio::task::JoinHandle::abort);
    let (p50, p99, longest) = (waits.at(50), waits.at(99), waits.at(100));
    let grown = peak.load(Ordering::Relaxed).saturating_sub(before);
    println!(
        "{visitors} visitors, {stalled} stalled: {told} of {expected} events told, p50 {p50:.1} ms, p99 {p99:.1} ms, longest \
         {longest:.1} ms; dropped {}; {} KiB more memory, of {most} that may be",
        stats.dropped, grown
    );
    assert_eq!(told, expected, "whoever takes what it is told is told all");
    assert_eq!((stats.dropped, stats.reloads), (stalled as u64, 0), "whoever takes nothing is dropped");
    assert_eq!(stats.visitors, visitors - stalled);
    if is_proof() {
        assert!(p99 < 250.0, "one in a hundred events took {p99} ms or longer");
        assert!(grown <= most, "{grown} KiB more memory were taken, and {most} may be");
    }
}

#[tokio::main]
async fn main() {
    let is_full = is_proof() || std::env::args().any(|word| word == "--bench");
    let (visitors, seconds) = if is_full { (1_000, 10) } else { (50, 1) };
    run(visitors, 0, seconds).await;
    run(visitors, visitors / 10, seconds).await;
}
