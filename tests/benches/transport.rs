//! What the framework takes of the rate, and adds to the latency, of bare rumqttc: a live mosquitto between
//! two processes.
//!
//! `cargo bench -p emitter-tests --features servers --bench transport`
//!
//! In turns, in one run: a rumqttc client that publishes to one that subscribes, and an emitter that
//! publishes to a listener. Both send payloads of the same length over MQTT 5, with a window of 100. A turn's time
//! begins with the first publish and ends when the other process has had the last one. Latency is that of
//! single events, 500 a second. The last columns are of an emitter that sends events together (`Batches`, its
//! defaults), and of one that signs each of them (HMAC-SHA256, checked by the other process).
//!
//! And what memory a process takes while the broker is away for as many events as there are in an hour at 1,000
//! a second, with each policy of the full queue.
#![allow(missing_docs, reason = "it is a program")]

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use emitter_core::metrics::Stats;
use emitter_core::signature::{Signatures, SigningKey};
use emitter_core::transport::mqtt::{MqttConfig, Overflow};
use emitter_core::{Batches, EmitOptions, Emits, Emitter, Event, QoS};
use emitter_tests::servers::Mosquitto;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event as Notice, EventLoop, MqttOptions};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(model = "sample", create)]
struct Sample {
    id: u64,
    /// Nanoseconds since 1970, by the clock that both processes share.
    sent: u64,
    padding: String,
}

const TOPIC: &str = "bare/sample/create";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, port, qos, events] = &arguments[..]
        && let (Ok(port), Ok(qos), Ok(events)) = (port.parse(), qos.parse(), events.parse())
    {
        if let Some(policy) = role.strip_prefix("outage-") {
            return outage(policy, port, events);
        }
        let latencies = match role.as_str() {
            "hear-bare" => hear_bare(port, qos, events),
            "hear-signed" => hear_emitter(port, events, true),
            _ => hear_emitter(port, events, false),
        };
        println!("done {}", median(latencies));
        return;
    }
    // `cargo test --benches` runs this too: then little is enough to see that it works.
    let full = arguments.iter().any(|argument| argument == "--bench");
    let (turns, events, singles) = if full { (5, 50_000, 500) } else { (1, 200, 20) };
    let broker = Mosquitto::start();
    println!(
        "{:<22} {:>9} {:>10} {:>6}   {:>8} {:>11} {:>6}   {:>10} {:>6}   {:>9} {:>6}",
        "",
        "bare/s",
        "emitter/s",
        "ratio",
        "bare µs",
        "emitter µs",
        "ratio",
        "batched/s",
        "ratio",
        "signed/s",
        "ratio"
    );
    // `-- 256 1` measures that one alone, for a profiler.
    let only: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    let measured = |row, qos: u8| only.is_empty() || only == [row, usize::from(qos)];
    if only.is_empty() {
        let events = if full { 3_600_000 } else { 2_000 };
        for policy in ["refuse", "drop_oldest", "wait"] {
            // Nobody listens on the port of discarding.
            Hearer::start(&format!("outage-{policy}"), 9, 1, events).until("done");
        }
    }
    for row in [256, 1_024] {
        for qos in [0, 1].into_iter().filter(|qos| measured(row, *qos)) {
            compare(&broker, row, qos, turns, events, singles);
        }
    }
}

fn compare(broker: &Mosquitto, row: usize, qos: u8, turns: usize, events: usize, singles: usize) {
    let payload = encoded(row);
    let mut rates: [Vec<f64>; 4] = Default::default();
    let mut latencies = (Vec::new(), Vec::new());
    for _ in 0..turns {
        let bare = |events, pace| {
            turn("hear-bare", broker.port(), qos, events, || {
                publish_bare(broker.port(), qos, events, payload, pace);
            })
        };
        let emitter = |how: How, events, pace| {
            turn(how.hearer(), broker.port(), qos, events, || {
                publish_emitter(broker.port(), how, qos, events, row, pace);
            })
        };
        let rate = |events: usize, taken: Duration| events as f64 / taken.as_secs_f64();
        rates[0].push(rate(events, bare(events, None).0));
        rates[1].push(rate(events, emitter(How::Alone, events, None).0));
        // As many messages as above would be over before they are measured.
        rates[2].push(rate(4 * events, emitter(How::Together, 4 * events, None).0));
        rates[3].push(rate(events, emitter(How::Signed, events, None).0));
        let pace = Some(Duration::from_millis(2));
        latencies.0.push(bare(singles, pace).1);
        latencies.1.push(emitter(How::Alone, singles, pace).1);
    }
    let of = |values: Vec<f64>| {
        let mut values = values;
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let [bare, emitter, batched, signed] = rates.map(of);
    let (quick, late) = (of(latencies.0), of(latencies.1));
    println!(
        "{:<22} {bare:>9.0} {emitter:>10.0} {:>6.2}   {quick:>8.0} {late:>11.0} {:>6.2}   {batched:>10.0} {:>6.2}   {signed:>9.0} {:>6.2}",
        format!("QoS {qos}, {payload} bytes"),
        emitter / bare,
        late / quick,
        batched / bare,
        signed / bare
    );
}

/// How an emitter sends its events.
#[derive(Clone, Copy, PartialEq)]
enum How {
    Alone,
    Together,
    Signed,
}

impl How {
    fn hearer(self) -> &'static str {
        if self == Self::Signed { "hear-signed" } else { "hear-emitter" }
    }
}

fn signatures() -> Signatures {
    Signatures::new(SigningKey::hmac_sha256("bench", &[7; 32]).unwrap())
}

/// From the first publish until the other process has heard the last one; and its median latency in µs.
fn turn(role: &str, port: u16, qos: u8, events: usize, publish: impl FnOnce()) -> (Duration, f64) {
    let mut hearer = Hearer::start(role, port, qos, events);
    let begun = Instant::now();
    publish();
    let latency = hearer.until("done");
    (begun.elapsed(), latency)
}

/// The other process.
struct Hearer {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Hearer {
    fn start(role: &str, port: u16, qos: u8, events: usize) -> Self {
        let this = std::env::current_exe().unwrap();
        let mut process = Command::new(this)
            .args([role, &port.to_string(), &qos.to_string(), &events.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut hearer = Self { process, output };
        hearer.until("ready");
        hearer
    }

    fn until(&mut self, word: &str) -> f64 {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let told = line.strip_prefix(word).unwrap_or_else(|| panic!("the other process told {line:?}"));
        told.trim().parse().unwrap_or_default()
    }
}

impl Drop for Hearer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Publishes while there is no broker, and tells what memory that took at most.
fn outage(policy: &str, port: u16, events: usize) {
    println!("ready");
    let policy_of = |config: MqttConfig| match policy {
        "refuse" => config.overflow(Overflow::Refuse),
        "drop_oldest" => config.overflow(Overflow::DropOldest),
        _ => config.overflow(Overflow::Wait),
    };
    runtime().block_on(async {
        let config = policy_of(MqttConfig::new(&format!("mqtt://127.0.0.1:{port}")).unwrap());
        let emitter = Emitter::builder().node("lonely").mqtt(config).start().await.unwrap();
        let before = peak_memory();
        for id in 0..events {
            emitter.publish(SampleCreated::new(sample(id as u64, 256)));
            if id % 1_000 == 999 {
                // A second's worth, in what it takes to encode it.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        let settled = |stats: &Stats| stats.publish_refused + stats.publish_failed + stats.overflowed;
        let (grown, stats) = (peak_memory() - before, emitter.stats());
        eprintln!(
            "{events} events without a broker, `{policy}`: {:.0} MiB more at most, {} events given up",
            grown as f64 / 1_024.0,
            settled(&stats)
        );
        let _ = emitter.shutdown(Duration::from_millis(100)).await;
    });
    println!("done 0");
}

/// Of this process, in KiB, as Linux tells it.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}

fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn median(mut latencies: Vec<u64>) -> f64 {
    latencies.sort_unstable();
    latencies[latencies.len() / 2] as f64 / 1_000.0
}

fn sample(id: u64, row: usize) -> Sample {
    // What JSON adds to the padding.
    let padding = "x".repeat(row.saturating_sub(60));
    Sample { id, sent: now(), padding }
}

/// How long the payload of an event with such a row is.
fn encoded(row: usize) -> usize {
    runtime().block_on(async {
        let broker = emitter_core::transport::memory::MemoryBroker::new();
        let emitter =
            Emitter::builder().node("publisher").transport(broker.connect("a")).start().await.unwrap();
        emitter.publish(SampleCreated::new(sample(1, row)));
        let _ = emitter.shutdown(Duration::from_secs(1)).await;
        broker.published()[0].payload.len()
    })
}

fn bare(name: &str, port: u16) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(name, "127.0.0.1", port);
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(5);
    options
        .set_network_options(network)
        .set_outgoing_inflight_upper_limit(100)
        .set_max_packet_size(Some(1 << 20));
    AsyncClient::new(options, 200)
}

fn level(qos: u8) -> rumqttc::v5::mqttbytes::QoS {
    if qos == 0 { rumqttc::v5::mqttbytes::QoS::AtMostOnce } else { rumqttc::v5::mqttbytes::QoS::AtLeastOnce }
}

fn publish_bare(port: u16, qos: u8, events: usize, payload: usize, pace: Option<Duration>) {
    runtime().block_on(async {
        let (client, mut notices) = bare("bare-publisher", port);
        let publishing = tokio::spawn(async move {
            let mut payload = vec![b'x'; payload];
            for _ in 0..events {
                if let Some(pace) = pace {
                    tokio::time::sleep(pace).await;
                }
                payload[..8].copy_from_slice(&now().to_le_bytes());
                client.publish(TOPIC, level(qos), false, payload.clone()).await.unwrap();
            }
            client
        });
        let mut done = 0;
        while done < events {
            match notices.poll().await.unwrap() {
                Notice::Incoming(Packet::PubAck(_)) | Notice::Outgoing(rumqttc::Outgoing::Publish(0)) => {
                    done += 1;
                }
                _ => {}
            }
        }
        drop(publishing.await);
    });
}

fn hear_bare(port: u16, qos: u8, events: usize) -> Vec<u64> {
    runtime().block_on(async {
        let (client, mut notices) = bare("bare-subscriber", port);
        client.subscribe("bare/sample/#", level(qos.max(1))).await.unwrap();
        let mut latencies = Vec::with_capacity(events);
        while latencies.len() < events {
            match notices.poll().await.unwrap() {
                Notice::Incoming(Packet::SubAck(_)) => println!("ready"),
                Notice::Incoming(Packet::Publish(publish)) => {
                    let sent = u64::from_le_bytes(publish.payload[..8].try_into().unwrap());
                    latencies.push(now().saturating_sub(sent));
                }
                _ => {}
            }
        }
        latencies
    })
}

fn config(port: u16) -> MqttConfig {
    // 50,000 events may be more bytes than the queue takes.
    MqttConfig::new(&format!("mqtt://127.0.0.1:{port}")).unwrap().overflow(Overflow::Wait)
}

fn publish_emitter(port: u16, how: How, qos: u8, events: usize, row: usize, pace: Option<Duration>) {
    let level = if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
    runtime().block_on(async {
        let builder = Emitter::builder().node("publisher").mqtt(config(port));
        let builder = match how {
            How::Alone => builder,
            How::Together => builder.batches(Batches::default()),
            How::Signed => builder.signatures(signatures()),
        };
        let emitter = builder.start().await.unwrap();
        emitter.connected(Duration::from_secs(10)).await.unwrap();
        for id in 0..events {
            if let Some(pace) = pace {
                tokio::time::sleep(pace).await;
            }
            // No more at once than the emitter's queue takes.
            while id % 1_000 == 0 && id as u64 > emitter.stats().published + 40_000 {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            let sample = sample(id as u64, row);
            emitter.publish_with(SampleCreated::new(sample), EmitOptions::default().qos(level));
        }
        assert!(emitter.shutdown(Duration::from_secs(60)).await.is_clean());
    });
}

fn hear_emitter(port: u16, events: usize, signed: bool) -> Vec<u64> {
    static HEARD: AtomicUsize = AtomicUsize::new(0);
    static LATENCIES: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    runtime().block_on(async {
        let builder = Emitter::builder().node("hearer").mqtt(config(port));
        let builder = if signed { builder.signatures(signatures()) } else { builder };
        let emitter = builder.start().await.unwrap();
        let _ = emitter.on::<SampleCreated>().remote_only().run(|event: Event<SampleCreated>| {
            LATENCIES.lock().unwrap().push(now().saturating_sub(event.row.sent));
            HEARD.fetch_add(1, Ordering::Release);
            std::future::ready(())
        });
        emitter.connected(Duration::from_secs(10)).await.unwrap();
        println!("ready");
        while HEARD.load(Ordering::Acquire) < events {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        let latencies = std::mem::take(&mut *LATENCIES.lock().unwrap());
        assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
        latencies
    })
}
