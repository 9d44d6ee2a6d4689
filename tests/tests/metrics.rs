//! What a node tells to who exports metrics: the table, the files made for it, and exact counts.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use emitter_core::dead_letter::DeadLetterLimits;
use emitter_core::gaps::RingLimits;
use emitter_core::listener::ListenerOptions;
use emitter_core::metrics::table::{self, Metric, MetricKind};
use emitter_core::metrics::{Metrics, Prometheus};
use emitter_core::transport::memory::{MemoryBroker, Published};
use emitter_core::{Builder, Emits, Emitter, Event};
use emitter_tests::alerts::{alerts, each_metric, each_value, firing, parsed, scrape};
use emitter_tests::eventually::eventually;
use emitter_web::stream::{Anybody, Stream, StreamConfig};
use serde::{Deserialize, Serialize};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "reading", create, delete)]
struct Reading {
    id: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(event)]
struct Tick {
    id: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(event)]
struct Note {
    text: String,
}

fn reading(id: i64) -> ReadingCreated {
    ReadingCreated::new(Reading { id })
}

fn builder(broker: &MemoryBroker, node: &str) -> Builder {
    let builder = Emitter::builder().service("lab").node(node).select_listeners(|_| false);
    builder.transport(broker.connect(&format!("lab.{node}")))
}

// The table and the files ---------------------------------------------------------------------------

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(name)
}

const INTRODUCTION: &str = "\
# Metrics

Everything that a node tells, in the order in which `emitter_core::metrics::table` has it, from which this page is rendered by
`cargo xtask bless`. Nothing of it is told without `.with(Metrics::default())` or `.with(prometheus.clone())` on the builder; how
that is done is in the documentation of `emitter_core::metrics`.

Times are in seconds. The values of labels are names of models, operations and listeners, outcomes and reasons: they are compiled in, but for
the names that listeners get at run time; of more than 1,000 listeners those that come later are told as `others`.
Counters begin with the node. Of an outbox each node tells the same, so take the `max` and not the `sum`.

[ops/alerts.yml](../ops/alerts.yml) has the alerts, [ops/dashboard.json](../ops/dashboard.json) a dashboard for Grafana; both are
checked against this table by `tests/tests/metrics.rs`.

| metric | type | labels | what it says | alert |
|---|---|---|---|---|
";

fn rendered() -> String {
    let mut page = INTRODUCTION.to_owned();
    for Metric { name, kind, labels, help, alert, .. } in table::ALL {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let (kind, labels) = (kind.as_str(), labels.join(", "));
        let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {help} | {} |", alert.unwrap_or_default());
    }
    page
}

#[test]
fn the_page_of_metrics_is_what_the_table_has() {
    let page = file("docs/METRICS.md");
    // The word by which rendered pages are accepted.
    if env::var("TRYBUILD").is_ok_and(|value| value == "overwrite") {
        fs::write(&page, rendered()).unwrap();
    }
    assert!(
        fs::read_to_string(&page).unwrap_or_default() == rendered(),
        "docs/METRICS.md is not what the table has: `TRYBUILD=overwrite cargo test -p emitter-tests --test metrics`"
    );
}

#[test]
fn names_are_those_that_prometheus_asks_for() {
    let names: BTreeSet<&str> = table::ALL.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), table::ALL.len(), "a name is used twice");
    for Metric { name, kind, unit, labels, help, .. } in table::ALL.iter().copied() {
        let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        assert!(is_plain(name) && name.starts_with("emitter_"), "{name}");
        assert!(labels.iter().all(|label| is_plain(label)), "{name}");
        assert_eq!(name.ends_with("_total"), kind == MetricKind::Counter, "{name}");
        assert_eq!(name.ends_with("_seconds"), unit == metrics::Unit::Seconds, "{name}");
        assert!(help.ends_with('.') && !help.contains(['\n', '|']), "{name}: {help}");
    }
}

/// The metric of a series, whose labels are these.
fn metric(series: &str, labels: &[String]) -> &'static Metric {
    let of_histogram = |metric: &&Metric| {
        let parts = ["_bucket", "_sum", "_count"];
        metric.kind == MetricKind::Histogram
            && parts.iter().any(|part| series.strip_suffix(part) == Some(metric.name))
    };
    let is_it = |metric: &&Metric| metric.name == series && metric.kind != MetricKind::Histogram;
    let found = table::ALL.iter().find(|metric| is_it(metric) || of_histogram(metric));
    let metric = found.unwrap_or_else(|| panic!("there is no metric {series}"));
    for label in labels {
        // What Prometheus adds itself.
        let is_known = ["job", "instance"].contains(&&**label) || metric.labels.contains(&&**label);
        let is_bound = label == "le" && metric.kind == MetricKind::Histogram;
        assert!(is_known || is_bound, "{series} has no label {label}");
    }
    metric
}

#[test]
fn alerts_ask_for_metrics_that_exist() {
    let alerts = alerts();
    assert_eq!(alerts.len(), 8);
    let runbook = fs::read_to_string(file("docs/RUNBOOK.md")).unwrap();
    let mut used = BTreeMap::new();
    for alert in &alerts {
        assert!(alert.annotations.contains_key("summary") && alert.annotations.contains_key("description"));
        let heading = format!("\n## {}\n", alert.alert);
        assert!(runbook.contains(&heading), "docs/RUNBOOK.md does not say what to do at {}", alert.alert);
        each_metric(&parsed(&alert.expr), &[], &mut |series, labels| {
            used.insert(metric(series, labels).name, alert.alert.clone());
        });
    }
    let said = table::ALL.iter().filter_map(|metric| Some((metric.name, metric.alert?.to_owned())));
    assert_eq!(used, said.collect(), "each metric names the alert that uses it");
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let text = fs::read_to_string(file("ops/dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut shown = BTreeSet::new();
    let panels = dashboard["panels"].as_array().unwrap();
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()) {
        let expr = target["expr"].as_str().unwrap().replace("$__rate_interval", "5m");
        each_metric(&parsed(&expr), &[], &mut |series, labels| {
            shown.insert(metric(series, labels).name);
        });
        let legend = target["legendFormat"].as_str().unwrap();
        let parts = legend.split("{{").skip(1).map(|part| part.split_once("}}").unwrap().0.to_owned());
        let labels: Vec<String> = parts.collect();
        each_metric(&parsed(&expr), &[], &mut |series, _| {
            metric(series, &labels);
        });
    }
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let alerting = table::ALL.iter().filter(|metric| metric.alert.is_some());
    let hidden: Vec<&str> = alerting.map(|metric| metric.name).filter(|name| !shown.contains(name)).collect();
    assert!(hidden.is_empty(), "an alert of these shows nothing on the dashboard: {hidden:?}");
}

// What is told --------------------------------------------------------------------------------------

/// What a scrape says of a series, by its name and the values of its labels in the order of the table; nothing is zero.
#[track_caller]
fn told(text: &str, metric: &Metric, values: &[&str]) -> f64 {
    let labels = metric.labels.iter().zip(values).filter(|(_, value)| !value.is_empty());
    let labels = labels.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let suffix = if metric.kind == MetricKind::Histogram { "_count" } else { "" };
    let key = (format!("{}{suffix}", metric.name), labels);
    *scrape(text).get(&key).unwrap_or_else(|| panic!("{key:?} is not in\n{text}"))
}

/// Listeners of another node, each of which fails in its own way.
async fn bench(broker: &MemoryBroker, prometheus: &Prometheus) -> Emitter {
    let emitter = builder(broker, "bench").with(prometheus.clone()).start().await.unwrap();
    let has_failed = Arc::new(AtomicBool::new(false));
    let _stays = emitter.on::<ReadingEvent>().allow_remote().name("steady").run(|_| async {});
    let options = ListenerOptions { attempts: Some(2), ..ListenerOptions::default() };
    let _stays = emitter
        .on::<ReadingCreated>()
        .remote_only()
        .name("moody")
        .options(options)
        .filter(|event| event.row.id != 3)
        .run(move |event: Event<ReadingCreated>| {
            let fails = event.row.id == 2 && !has_failed.swap(true, Ordering::Relaxed);
            async move {
                // It has to wait, so that it becomes a task.
                tokio::task::yield_now().await;
                match event.row.id {
                    1 => Err("never".to_owned()),
                    _ if fails => Err("once".to_owned()),
                    _ => Ok(()),
                }
            }
        });
    emitter.connected(10 * SECOND).await.unwrap();
    emitter
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_after_a_script_has_exactly_its_counts() {
    let broker = MemoryBroker::new();
    let (writing, hearing) = (Prometheus::new(), Prometheus::new());
    let bench = bench(&broker, &hearing).await;
    let shelf = builder(&broker, "shelf").with(writing.clone()).start().await.unwrap();
    let _stays = shelf.on::<ReadingDeleted>().name("own").run(|_| async {});
    shelf.connected(10 * SECOND).await.unwrap();

    for id in 0..10 {
        shelf.publish(reading(id));
    }
    for id in 0..4 {
        shelf.publish(ReadingDeleted::new(Reading { id }));
    }
    let is_first = |message: &Published| message.topic == "prisma/events/reading/create";
    eventually(|| bench.stats().handled >= 14 + 8 && bench.stats().given_up == 1).await;
    let first = broker.published().into_iter().find(is_first).unwrap();
    broker.publish(&first.topic, first.payload);
    broker.publish(&first.topic, "rubbish");
    eventually(|| bench.stats().bad_messages == 1 && shelf.stats().published == 14).await;
    eventually(|| shelf.stats().handled == 4).await;

    let text = writing.text();
    let check = |metric, values: &[&str], expected: u32| {
        assert_eq!(told(&text, metric, values), f64::from(expected), "{} {values:?}\n{text}", metric.name);
    };
    check(&table::EMITTED, &["reading", "create", "remote"], 10);
    check(&table::EMITTED, &["reading", "delete", "remote"], 4);
    check(&table::EMITTED, &["reading", "delete", "local"], 4);
    check(&table::PUBLISHED, &["confirmed"], 14);
    check(&table::PUBLISHED, &["failed"], 0);
    check(&table::PUBLISH_SECONDS, &[], 14);
    check(&table::HANDLED, &["reading", "own", "ok"], 4);
    check(&table::HANDLE_SECONDS, &["reading", "own"], 4);
    check(&table::CONNECTIONS, &["publisher", "standing"], 1);

    let text = hearing.text();
    let check = |metric, values: &[&str], expected: u32| {
        assert_eq!(told(&text, metric, values), f64::from(expected), "{} {values:?}\n{text}", metric.name);
    };
    check(&table::MESSAGES, &[], 16);
    check(&table::RECEIVED, &["reading", "create"], 10);
    check(&table::RECEIVED, &["reading", "delete"], 4);
    check(&table::REJECTED, &["bad"], 1);
    check(&table::DUPLICATES, &[], 1);
    check(&table::HANDLED, &["reading", "steady", "ok"], 14);
    check(&table::HANDLED, &["reading", "moody", "ok"], 8);
    check(&table::FILTERED, &["reading", "moody"], 1);
    check(&table::GIVEN_UP, &["reading", "moody"], 1);
    check(&table::HANDLED, &["reading", "moody", "failed"], 3);
    check(&table::HANDLE_SECONDS, &["reading", "moody"], 11);
    check(&table::COMMIT_TO_EFFECT_SECONDS, &["reading", "moody"], 8);
    check(&table::RETRIES, &["reading", "moody"], 2);
    check(&table::DEAD_LETTERS, &["reading", "unhandled"], 1);
    check(&table::DEAD_LETTERS, &["", "undecodable"], 1);
    check(&table::DEAD_LETTERS, &["reading", "unpublished"], 0);
    check(&table::CONNECTIONS, &["subscriber", "standing"], 1);

    // Nothing is told twice, and everything that is told is in the table, with its labels.
    assert_eq!(told(&hearing.text(), &table::RECEIVED, &["reading", "create"]), 10.0);
    for ((series, labels), _) in scrape(&hearing.text()) {
        metric(&series, &labels.into_keys().collect::<Vec<_>>());
    }
    assert!(shelf.shutdown(10 * SECOND).await.is_clean() && bench.shutdown(10 * SECOND).await.is_clean());
}

/// A listener of another node that hears everything, and says so.
async fn desk(broker: &MemoryBroker, prometheus: &Prometheus) -> Emitter {
    // Two letters, and no more in all its life.
    let letters = DeadLetterLimits { per_second: 0, burst: 2, ..DeadLetterLimits::default() };
    let builder = builder(broker, "desk").dead_letters(letters).with(prometheus.clone());
    let emitter = builder.start().await.unwrap();
    let _stays = emitter.on::<ReadingEvent>().allow_remote().name("steady").run(|_| async {});
    emitter.connected(10 * SECOND).await.unwrap();
    emitter
}

/// What `told` says at last, for some of it is counted a moment after it happened.
async fn in_the_end(prometheus: &Prometheus, expected: &[(Metric, &[&str], u32)]) {
    let differs = || {
        let text = prometheus.text();
        let wrong = |(metric, values, expected): &&(Metric, &[&str], u32)| {
            (told(&text, metric, values) - f64::from(*expected)).abs() > f64::EPSILON
        };
        let wrong = expected.iter().filter(wrong);
        wrong
            .map(|(metric, values, expected)| format!("{}{values:?} is not {expected}", metric.name))
            .collect()
    };
    let begun = Instant::now();
    loop {
        let wrong: Vec<String> = differs();
        if wrong.is_empty() {
            return;
        }
        assert!(begun.elapsed() < 20 * SECOND, "{wrong:?}\n{}", prometheus.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_seldom_happens_is_told_exactly_too() {
    let (broker, prometheus) = (MemoryBroker::new(), Prometheus::new());
    let desk = desk(&broker, &prometheus).await;
    let last = |topic: &str| {
        let message = broker.published().into_iter().rfind(|message| message.topic == topic);
        message.expect("it was published")
    };

    // Its own comes back, and one of a node that took its name.
    desk.publish(reading(1));
    eventually(|| desk.stats().echoes == 1).await;
    let same = Emitter::builder().service("lab").node("desk").select_listeners(|_| false);
    let twin = same.transport(broker.connect("lab.twin")).start().await.unwrap();
    // An id is as old as its millisecond.
    tokio::time::sleep(Duration::from_millis(2)).await;
    twin.publish(reading(2));
    eventually(|| desk.stats().namesakes == 1).await;
    assert!(twin.shutdown(10 * SECOND).await.is_clean());

    // The broker forgets what it had for a node that is away.
    let shelf = builder(&broker, "shelf").start().await.unwrap();
    let forgetful = RingLimits { events: 1, ..RingLimits::default() };
    let cellar = builder(&broker, "cellar").ring(forgetful).start().await.unwrap();
    for node in [&shelf, &cellar] {
        node.connected(10 * SECOND).await.unwrap();
        node.publish(reading(3));
    }
    eventually(|| desk.stats().handled == 4).await;
    broker.disconnect("lab.desk");
    eventually(|| !desk.transport_status().unwrap().subscriber.connected).await;
    for (node, ids) in [(&shelf, 10..13), (&cellar, 20..25)] {
        for id in ids.clone() {
            node.publish(reading(id));
        }
        // And the one before.
        eventually(|| node.stats().published == 1 + ids.clone().count() as u64).await;
    }
    broker.forget("lab.desk");
    let (well, lost) = (prometheus.text(), BTreeSet::from(["EmitterEventsLost".to_owned()]));
    broker.reconnect("lab.desk");
    desk.connected(10 * SECOND).await.unwrap();
    for node in [&shelf, &cellar] {
        node.publish(reading(4));
    }
    // What the cellar keeps is the one that told of the gap.
    eventually(|| desk.stats().recovered >= 3 && desk.stats().lost >= 5).await;
    let missed = prometheus.text();
    // It says for ten minutes that some were lost.
    let both = ["EmitterDegraded", "EmitterEventsLost"].map(str::to_owned);
    assert_eq!(firing(&well, &missed), both.into());

    // What came is handed out again, and what nobody hears any more is not.
    let kept = last("prisma/events/reading/create");
    for _ in 0..3 {
        desk.replay(&kept.payload).unwrap();
    }
    let ticks = desk.on::<Tick>().allow_remote().name("ticks").run(|_| async {});
    desk.connected(10 * SECOND).await.unwrap();
    shelf.publish(Tick { id: 1 });
    eventually(|| desk.stats().handled == 4 + 3 + 2 + 3 + 1).await;
    ticks.unsubscribe();
    eventually(|| !broker.subscriptions("lab.desk").iter().any(|filter| filter.contains("tick"))).await;
    let published = shelf.stats().published;
    shelf.publish(Tick { id: 2 });
    eventually(|| shelf.stats().published == published + 1).await;
    let tick = last("prisma/events/tick");
    // As a session has it that remembers.
    assert!(broker.send("lab.desk", &tick.topic, tick.payload));

    for _ in 0..5 {
        broker.publish("prisma/events/reading/create", "rubbish");
    }
    let too_many = || desk.stats().dead_letters_lost == 3;
    eventually(too_many).await;
    assert!(firing(&missed, &prometheus.text()).is_superset(&lost), "letters that were not kept");
    in_the_end(
        &prometheus,
        &[
            (table::ECHOES, &[], 1),
            (table::NAMESAKES, &[], 1),
            (table::GAPS, &[], 2),
            (table::MISSED, &["recovered"], 3),
            (table::MISSED, &["lost"], 5),
            (table::REPLAYS, &[], 3),
            (table::UNHEARD, &[], 1),
            (table::REJECTED, &["bad"], 5),
            (table::DEAD_LETTERS, &["", "undecodable"], 2),
            (table::DEAD_LETTERS_LOST, &[], 3),
            (table::LISTENING, &["reading"], 0),
            (table::DEGRADED, &[], 1),
        ],
    )
    .await;

    // Nobody can be reached. A node without a ring has nothing to say but its events.
    let waiting = Prometheus::new();
    let press = builder(&broker, "press").ring(RingLimits { events: 0, ..RingLimits::default() });
    let press = press.with(waiting.clone()).start().await.unwrap();
    press.connected(10 * SECOND).await.unwrap();
    broker.pause();
    eventually(|| !press.transport_status().unwrap().publisher.connected).await;
    for id in 0..7 {
        press.publish(reading(id));
    }
    let away: [(Metric, &[&str], u32); 3] =
        [(table::UNCONFIRMED, &[], 7), (table::PUBLISHING, &[], 0), (table::DEGRADED, &[], 1)];
    in_the_end(&waiting, &away).await;
    let away: [(Metric, &[&str], u32); 3] = [
        (table::CONNECTIONS, &["publisher", "lost"], 1),
        (table::CONNECTIONS, &["subscriber", "lost"], 1),
        (table::DEGRADED, &[], 3),
    ];
    in_the_end(&prometheus, &away).await;
    broker.resume();
    let well: [(Metric, &[&str], u32); 2] = [(table::UNCONFIRMED, &[], 0), (table::DEGRADED, &[], 0)];
    in_the_end(&waiting, &well).await;
    // Readings, and what nodes say to each other of events that are missing: questions, answers and heads.
    let well: [(Metric, &[&str], u32); 4] = [
        (table::CONNECTIONS, &["publisher", "standing"], 1),
        (table::CONNECTIONS, &["subscriber", "standing"], 1),
        (table::SUBSCRIPTIONS, &["confirmed"], 4),
        (table::SUBSCRIPTIONS, &["refused"], 0),
    ];
    in_the_end(&prometheus, &well).await;
    for node in [desk, shelf, cellar, press] {
        let _ = node.shutdown(10 * SECOND).await;
    }
}

#[tokio::test]
async fn full_queues_and_circles_are_told_exactly() {
    let prometheus = Prometheus::new();
    let builder = Emitter::builder().select_listeners(|_| false).listener_queue(2).max_hops(2);
    let emitter = builder.with(prometheus.clone()).start().await.unwrap();
    let open = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&open);
    let _stays = emitter.on::<ReadingDeleted>().name("slow").run(move |_| {
        let gate = Arc::clone(&gate);
        async move { gate.acquire().await.map(drop).map_err(|error| error.to_string()) }
    });
    // One after the other, so that the last have to find those before.
    let lost = BTreeSet::from(["EmitterEventsLost".to_owned()]);
    let well = prometheus.text();
    for waiting in [1, 2, 3, 3, 3, 3] {
        emitter.publish(ReadingDeleted::new(Reading { id: 1 }));
        in_the_end(&prometheus, &[(table::LISTENING, &["reading"], waiting)]).await;
    }
    open.add_permits(10);
    in_the_end(
        &prometheus,
        &[
            (table::LISTENING, &["reading"], 0),
            (table::HANDLED, &["reading", "slow", "ok"], 3),
            (table::OVERFLOWED, &["reading", "slow"], 0),
            (table::OVERFLOWED, &["reading", "*"], 3),
        ],
    )
    .await;
    assert_eq!(firing(&well, &prometheus.text()), lost);

    let again = emitter.downgrade();
    let _stays = emitter.on::<Tick>().name("circle").run(move |event: Event<Tick>| {
        if let Some(emitter) = again.upgrade() {
            emitter.publish(Tick { id: event.id + 1 });
        }
        async {}
    });
    let well = prometheus.text();
    emitter.publish(Tick { id: 0 });
    let ended: [(Metric, &[&str], u32); 3] = [
        (table::LOOPS, &[], 1),
        (table::HANDLED, &["tick", "circle", "ok"], 3),
        (table::EMITTED, &["tick", "create", "local"], 3),
    ];
    in_the_end(&prometheus, &ended).await;
    assert_eq!(firing(&well, &prometheus.text()), lost);
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_make_no_series() {
    let (broker, prometheus) = (MemoryBroker::new(), Prometheus::new());
    // As many letters as there may be by default.
    let desk = builder(&broker, "desk").with(prometheus.clone()).start().await.unwrap();
    let _stays = desk.on::<ReadingEvent>().allow_remote().name("steady").run(|_| async {});
    desk.connected(10 * SECOND).await.unwrap();
    let series = || scrape(&prometheus.text()).into_keys().collect::<BTreeSet<_>>();
    let tell = |name: usize| {
        let event = format!(
            r#"{{"model":"m{name}","operation":"o{name}","args":{{}},"result":{{"id":{name}}},"eventId":"e{name}"}}"#
        );
        for topic in [format!("prisma/events/m{name}/create"), format!("prisma/events/reading/o{name}")] {
            assert!(broker.send("lab.desk", &topic, event.clone()));
        }
    };
    tell(0);
    let refused = || desk.stats().bad_messages + desk.stats().unheard;
    eventually(|| refused() == 2).await;
    let before = series();
    (1..500).for_each(tell);
    eventually(|| refused() == 1_000).await;
    assert_eq!(series(), before);
    assert!(desk.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test]
async fn what_pages_are_told_is_told_exactly() {
    let prometheus = Prometheus::new();
    let emitter =
        Emitter::builder().select_listeners(|_| false).with(prometheus.clone()).start().await.unwrap();
    let config = StreamConfig { patience: Duration::from_millis(200), ..StreamConfig::default() };
    let stream = Stream::<Anybody>::builder().events_for_all::<ReadingEvent>().events_for_all::<Note>();
    let stream = stream.config(config).start(&emitter).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = stream.router::<()>();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let visit = async |path: &str| {
        let mut page = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut page, request.as_bytes()).await.unwrap();
        page
    };
    let (one, other) = (visit("/events").await, visit("/events?model=note").await);
    in_the_end(&prometheus, &[(table::STREAM_VISITORS, &[], 2)]).await;
    for id in 0..5 {
        emitter.publish(reading(id));
    }
    // Of a life that is over.
    let stale = visit("/events?model=note&cursor=0123456789abcdef-1").await;
    let told: [(Metric, &[&str], u32); 4] = [
        (table::STREAM_VISITORS, &[], 3),
        (table::STREAM_TOLD, &[], 5),
        (table::STREAM_DROPPED, &[], 0),
        (table::STREAM_RELOADS, &[], 1),
    ];
    in_the_end(&prometheus, &told).await;
    drop((one, stale));
    in_the_end(&prometheus, &[(table::STREAM_VISITORS, &[], 1)]).await;
    // One that takes nothing any more.
    let begun = Instant::now();
    while stream.stats().dropped == 0 {
        assert!(begun.elapsed() < 20 * SECOND);
        emitter.publish(Note { text: "x".repeat(64_000) });
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    in_the_end(&prometheus, &[(table::STREAM_DROPPED, &[], 1), (table::STREAM_VISITORS, &[], 0)]).await;
    drop(other);
    // What was counted stays, though there is nobody who counts it any more.
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    in_the_end(&prometheus, &[(table::STREAM_DROPPED, &[], 1), (table::STREAM_RELOADS, &[], 1)]).await;
}

#[test]
fn each_metric_is_expected_by_some_test() {
    let tests = [
        "tests/tests/metrics.rs",
        "tests/tests/presence.rs",
        "tests/tests/outbox/metrics.rs",
        "tests/tests/mirror/suite.rs",
    ];
    let tests: String = tests.map(|test| fs::read_to_string(file(test)).unwrap()).concat();
    let table = fs::read_to_string(file("emitter-core/src/metrics/table.rs")).unwrap();
    for Metric { name, .. } in table::ALL {
        let line = table.lines().find(|line| line.contains(&format!("\"{name}\""))).unwrap();
        let constant = line.trim().split(':').next().unwrap();
        assert!(tests.contains(&format!("table::{constant},")), "no test says how much {name} is");
    }
}

#[tokio::test]
async fn two_nodes_of_one_exporter_are_counted_together() {
    let (broker, prometheus) = (MemoryBroker::new(), Prometheus::new());
    let mut nodes = Vec::new();
    for name in ["a", "b"] {
        let emitter = builder(&broker, name).with(prometheus.clone()).start().await.unwrap();
        for id in 0..3 {
            emitter.publish(reading(id));
        }
        nodes.push(emitter);
    }
    assert_eq!(told(&prometheus.text(), &table::EMITTED, &["reading", "create", "remote"]), 6.0);
    assert_eq!(told(&prometheus.text(), &table::EMITTED, &["reading", "create", "remote"]), 6.0);
    for node in nodes {
        let _ = node.shutdown(SECOND).await;
    }
}

/// A part that is there no more is not asked, its counters stay, and its gauges are nothing.
#[tokio::test]
async fn what_a_part_counted_stays_when_it_is_gone() {
    let (broker, prometheus) = (MemoryBroker::new(), Prometheus::new());
    let emitter = builder(&broker, "a").with(prometheus.clone()).start().await.unwrap();
    let told = |metric| told(&prometheus.text(), metric, &[]);
    let asked = Arc::new(AtomicU64::new(0));
    let part = |told: u64| {
        let (whole, asked) = (Arc::new(told), Arc::clone(&asked));
        emitter.report_while(&whole, move |told, report| {
            asked.fetch_add(1, Ordering::SeqCst);
            report.counter(&table::STREAM_TOLD, &[], *told);
            report.gauge(&table::STREAM_VISITORS, &[], *told);
        });
        whole
    };
    let (first, second) = (part(3), part(4));
    assert_eq!((told(&table::STREAM_TOLD), told(&table::STREAM_VISITORS)), (7.0, 7.0));
    drop(first);
    assert_eq!((told(&table::STREAM_TOLD), told(&table::STREAM_VISITORS)), (7.0, 4.0));
    drop(second);
    assert_eq!((told(&table::STREAM_TOLD), told(&table::STREAM_VISITORS)), (7.0, 0.0));
    let before = asked.load(Ordering::SeqCst);
    let third = part(1);
    assert_eq!((told(&table::STREAM_TOLD), told(&table::STREAM_VISITORS)), (8.0, 1.0));
    assert!(asked.load(Ordering::SeqCst) > before);
    drop(third);
    let _ = emitter.shutdown(SECOND).await;
}

#[tokio::test]
async fn nothing_is_told_where_nobody_asked() {
    let emitter = Emitter::builder().start().await.unwrap();
    assert!(!emitter.reports());
    emitter.report_also(|_| panic!("nobody asked"));
    emitter.report();
    let quiet = Emitter::builder().with(Metrics::default()).start().await.unwrap();
    assert!(quiet.reports());
    quiet.report();
    let _ = (emitter.shutdown(SECOND).await, quiet.shutdown(SECOND).await);
}

// Alerts --------------------------------------------------------------------------------------------

/// What nodes tell at the edge of an alert: as it may be, and as it may not. Of what grows, everything was 0 before.
struct Edge {
    alert: &'static str,
    /// For how long.
    lasts: &'static str,
    /// Within which span of time, of what grows.
    span: Option<&'static str>,
    severity: &'static str,
    well: &'static [&'static str],
    /// Each of these by itself.
    ill: &'static [&'static [&'static str]],
}

const EDGES: [Edge; 8] = [
    Edge {
        alert: "EmitterOutboxBehind",
        lasts: "1m",
        span: None,
        severity: "critical",
        well: &["emitter_outbox_oldest_seconds 60", "emitter_queued_oldest_seconds 60"],
        ill: &[&["emitter_outbox_oldest_seconds 60.1"], &["emitter_queued_oldest_seconds 60.1"]],
    },
    Edge {
        alert: "EmitterDegraded",
        lasts: "10m",
        span: None,
        severity: "warning",
        well: &["emitter_degraded_reasons 0"],
        ill: &[&["emitter_degraded_reasons 1"]],
    },
    Edge {
        alert: "EmitterDisconnected",
        lasts: "1m",
        span: None,
        severity: "critical",
        well: &[
            "emitter_connections{link=\"publisher\",state=\"standing\"} 1",
            "emitter_connections{link=\"publisher\",state=\"lost\"} 0",
        ],
        ill: &[
            &["emitter_connections{link=\"publisher\",state=\"lost\"} 1"],
            &["emitter_connections{link=\"subscriber\",state=\"lost\"} 1"],
            &[
                "emitter_connections{link=\"group\",state=\"standing\"} 1",
                "emitter_connections{link=\"group\",state=\"lost\"} 1",
            ],
        ],
    },
    Edge {
        alert: "EmitterOutboxGivenUp",
        lasts: "",
        span: None,
        severity: "critical",
        well: &["emitter_outbox_rows{status=\"pending\"} 1000", "emitter_outbox_rows{status=\"failed\"} 0"],
        ill: &[
            &["emitter_outbox_rows{status=\"failed\"} 1"],
            &["emitter_outbox_rows{status=\"unreadable\"} 1"],
            &["emitter_outbox_rows{status=\"orphaned\"} 1"],
        ],
    },
    Edge {
        alert: "EmitterCanaryMissing",
        lasts: "",
        span: None,
        severity: "warning",
        // One may be late.
        well: &["emitter_canary_missed 1"],
        ill: &[&["emitter_canary_missed 2"]],
    },
    Edge {
        alert: "EmitterListenerFailing",
        lasts: "5m",
        span: Some("5m"),
        severity: "warning",
        well: &["emitter_handled_total{outcome=\"ok\"} 95", "emitter_handled_total{outcome=\"failed\"} 5"],
        ill: &[
            &["emitter_handled_total{outcome=\"ok\"} 94", "emitter_handled_total{outcome=\"failed\"} 6"],
            &["emitter_handled_total{outcome=\"ok\"} 94", "emitter_handled_total{outcome=\"panicked\"} 6"],
            &["emitter_handled_total{outcome=\"ok\"} 94", "emitter_handled_total{outcome=\"timed_out\"} 6"],
        ],
    },
    Edge {
        alert: "EmitterDeadLetters",
        lasts: "",
        span: Some("10m"),
        severity: "warning",
        well: &["emitter_dead_letters_total 0"],
        ill: &[&["emitter_dead_letters_total{reason=\"unhandled\"} 1"]],
    },
    Edge {
        alert: "EmitterEventsLost",
        lasts: "",
        span: Some("10m"),
        severity: "critical",
        well: &[
            "emitter_published_total{outcome=\"confirmed\"} 1000",
            "emitter_queued_total{outcome=\"written\"} 1000",
            "emitter_missed_total{outcome=\"recovered\"} 1000",
            "emitter_mirrored_total{outcome=\"duplicate\"} 1000",
        ],
        ill: &[
            &["emitter_published_total{outcome=\"failed\"} 1"],
            &["emitter_published_total{outcome=\"refused\"} 1"],
            &["emitter_queued_total{outcome=\"failed\"} 1"],
            &["emitter_queued_total{outcome=\"refused\"} 1"],
            &["emitter_overflowed_total 1"],
            &["emitter_missed_total{outcome=\"lost\"} 1"],
            &["emitter_mirrored_total{outcome=\"failed\"} 1"],
            &["emitter_dead_letters_lost_total 1"],
            &["emitter_loops_total 1"],
        ],
    },
];

#[test]
fn alerts_begin_at_their_numbers() {
    let fired = |told: &[&str]| {
        let series = told.iter().map(|line| line.rsplit_once(' ').unwrap().0);
        let before: Vec<String> = series.map(|series| format!("{series} 0")).collect();
        firing(&before.join("\n"), &told.join("\n"))
    };
    let alerts = alerts();
    assert_eq!(alerts.len(), EDGES.len());
    for Edge { alert: name, lasts, span, severity, well, ill } in EDGES {
        let alert = alerts.iter().find(|alert| alert.alert == name).unwrap();
        assert_eq!((&*alert.lasts, &*alert.labels["severity"]), (lasts, severity), "{name}");
        let spans: BTreeSet<&str> =
            alert.expr.split('[').skip(1).map(|part| part.split(']').next().unwrap()).collect();
        assert_eq!(spans, span.into_iter().collect(), "{name}");
        assert_eq!(fired(well), BTreeSet::new(), "{name}: {well:?}");
        for ill in ill {
            assert_eq!(fired(ill), BTreeSet::from([name.to_owned()]), "{name}: {ill:?}");
        }
    }
}

#[tokio::test]
async fn alerts_ask_for_values_that_nodes_tell() {
    let (broker, prometheus) = (MemoryBroker::new(), Prometheus::new());
    let bench = bench(&broker, &prometheus).await;
    let told = scrape(&prometheus.text());
    let mut untold = BTreeSet::new();
    for alert in alerts() {
        each_value(&parsed(&alert.expr), &mut |series, label, value| {
            let is_it =
                |labels: &BTreeMap<String, String>| labels.get(label).is_some_and(|told| told == value);
            if !told.keys().any(|(name, labels)| name == series && is_it(labels)) {
                untold.insert((series.to_owned(), value.to_owned()));
            }
        });
    }
    // Who has a mirror or an outbox tells those: see their suites.
    let theirs = [
        ("emitter_mirrored_total", "failed"),
        ("emitter_outbox_rows", "failed"),
        ("emitter_outbox_rows", "orphaned"),
        ("emitter_outbox_rows", "unreadable"),
    ];
    assert_eq!(untold, theirs.map(|(series, value)| (series.to_owned(), value.to_owned())).into());
    let _ = bench.shutdown(SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_fire_for_their_faults_and_for_no_others() {
    let (broker, prometheus) = (MemoryBroker::new(), Prometheus::new());
    let bench = bench(&broker, &prometheus).await;
    let shelf = builder(&broker, "shelf").start().await.unwrap();
    shelf.connected(10 * SECOND).await.unwrap();
    let fired = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();

    let well = prometheus.text();
    for id in 4..10 {
        shelf.publish(reading(id));
    }
    eventually(|| bench.stats().handled == 12).await;
    let still_well = prometheus.text();
    assert_eq!(firing(&well, &still_well), fired(&[]));

    shelf.publish(reading(1));
    eventually(|| bench.stats().dead_letters == 1).await;
    let given_up = prometheus.text();
    assert_eq!(firing(&still_well, &given_up), fired(&["EmitterDeadLetters", "EmitterListenerFailing"]));

    broker.disconnect("lab.bench");
    eventually(|| !bench.transport_status().unwrap().subscriber.connected).await;
    let away = prometheus.text();
    assert_eq!(firing(&given_up, &away), fired(&["EmitterDegraded", "EmitterDisconnected"]));
    assert_eq!(told(&away, &table::RECONNECTS, &["subscriber", "broken"]), 1.0);
    broker.reconnect("lab.bench");
    bench.connected(10 * SECOND).await.unwrap();
    assert_eq!(firing(&given_up, &prometheus.text()), fired(&[]));

    let _ = (shelf.shutdown(10 * SECOND).await, bench.shutdown(10 * SECOND).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_groups_one_that_lost_its_connection_alarms() {
    let (broker, prometheus) = (MemoryBroker::new(), Prometheus::new());
    let node = builder(&broker, "groups").with(prometheus.clone()).start().await.unwrap();
    let _stay =
        ["one", "two"].map(|group| node.on::<ReadingCreated>().group(group).run(|_| std::future::ready(())));
    node.connected(10 * SECOND).await.unwrap();
    let groups = |state| told(&prometheus.text(), &table::CONNECTIONS, &["group", state]);
    eventually(|| groups("standing") == 2.0).await;
    let well = prometheus.text();
    broker.disconnect("lab.groups:two");
    eventually(|| groups("lost") == 1.0).await;
    let both = ["EmitterDegraded", "EmitterDisconnected"].map(str::to_owned);
    assert_eq!(firing(&well, &prometheus.text()), both.into());
    let _ = node.shutdown(10 * SECOND).await;
}

#[tokio::test]
async fn what_a_full_queue_refuses_is_lost_and_told() {
    let prometheus = Prometheus::new();
    let broker = MemoryBroker::new();
    broker.pause();
    let transport = broker.connect("lab.full").with_queue(4);
    let builder = Emitter::builder().service("lab").node("full").select_listeners(|_| false);
    let emitter = builder.transport(transport).with(prometheus.clone()).start().await.unwrap();
    let well = prometheus.text();
    for id in 0..20 {
        emitter.publish(reading(id));
    }
    eventually(|| emitter.stats().publish_refused > 0).await;
    assert!(firing(&well, &prometheus.text()).contains("EmitterEventsLost"));
    let _ = emitter.shutdown(Duration::ZERO).await;
}
