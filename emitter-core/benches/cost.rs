//! What an event costs on its way from the write to its listeners, without any database.
//!
//! `cargo bench -p emitter-core`
//!
//! Each figure is the median of many short rounds. What a write costs is measured by the benchmark
//! `writes` of the tests.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use emitter_core::envelope::{self, Content, Encoded, Format, Outgoing, RowBefore, WireLimits};
use emitter_core::event::{EventId, Operation, Origin, Timestamp};
use emitter_core::key::Key;
use emitter_core::metrics::Metrics;
use emitter_core::model::{Created, Model};
use emitter_core::topic::Said;
use emitter_core::{Emits, Emitter, Event, Scope};
use serde::{Deserialize, Serialize};

/// A row of a common size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update, update_many)]
struct User {
    id: i32,
    name: String,
    email: String,
    status: String,
    #[emits(skip)]
    password_hash: String,
}

fn row() -> UserRow {
    let [name, email, status] = ["Alice Liddell", "alice@example.com", "ACTIVE"].map(str::to_owned);
    UserRow { id: 7, name, email, status }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` runs this too: then one round is enough to see that it works.
    let rounds = if arguments.iter().any(|argument| argument == "--bench") { 200 } else { 1 };
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str()));
    println!("{:<56} {:>12}", "", "per event");
    if wants("dispatch") {
        dispatch(rounds, 1, false);
        dispatch(rounds, 10, false);
        dispatch(rounds, 1, true);
    }
    if wants("wire") {
        wire(rounds);
    }
}

/// Making an event of a row, and from there to the end of its last listener; with metrics, and no exporter that takes them.
fn dispatch(rounds: usize, listeners: usize, metrics: bool) {
    // Under load the dispatcher gathers events for a millisecond, and so it does at the end of a
    // round: the round has to be long beside that.
    const EVENTS: u32 = 100_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let builder = Emitter::builder();
        let builder = if metrics { builder.with(Metrics::default()) } else { builder };
        let emitter = builder.start().await.unwrap();
        for _ in 0..listeners {
            let _stays = emitter.on::<UserCreated>().run(|event: Event<UserCreated>| async move {
                black_box(event.row.id);
            });
        }
        let mut making = Vec::new();
        let mut dispatching = Vec::new();
        for round in 1..=(rounds as u64).div_ceil(5) {
            let begun = Instant::now();
            (0..EVENTS).for_each(|_| drop(black_box(emission(&emitter))));
            let made = begun.elapsed() / EVENTS;
            let begun = Instant::now();
            for chunk in 1..=EVENTS {
                emitter.emit(emission(&emitter));
                if chunk.is_multiple_of(100) {
                    tokio::task::yield_now().await;
                }
            }
            while emitter.stats().handled < round * u64::from(EVENTS) * listeners as u64 {
                tokio::task::yield_now().await;
            }
            dispatching.push((begun.elapsed() / EVENTS).saturating_sub(made));
            making.push(made);
        }
        if listeners == 1 && !metrics {
            print("making an event of a row (its clone, id, time and key)", median(making));
        }
        let told = if metrics { ", metrics to no exporter" } else { "" };
        print(&format!("dispatch to {listeners} async listener(s){told}"), median(dispatching));
        assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
    });
}

fn emission(emitter: &Emitter) -> Option<emitter_core::Emission> {
    emitter.event::<User>(UserEvent::Created(Created::new(row())), Scope::BOTH)
}

/// Each form, both ways, rows included.
fn wire(rounds: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let emitter = runtime.block_on(Emitter::builder().start()).unwrap();
    for format in [Format::Specification, Format::CloudEvents, Format::CloudEventsBinary, Format::Tracker] {
        form(format, emitter.origin(), rounds);
    }
    wide(emitter.origin(), rounds);
    assert!(runtime.block_on(emitter.shutdown(Duration::from_secs(5))).is_clean());
}

fn form(format: Format, origin: &Origin, rounds: usize) {
    let limits = WireLimits::default();
    let row = row();
    let encode = || {
        let content = Content::Row { row: envelope::encode_row(&row).unwrap(), before: None };
        envelope::encode(&outgoing(&content, Operation::Create, origin), format, &limits).unwrap()
    };
    let timed = |work: &dyn Fn()| timed(rounds, work);
    let Encoded { payload, properties } = encode();
    let bytes = payload.len() + properties.bytes();
    print(&format!("encode as {format:?} ({bytes} bytes)"), timed(&|| drop(black_box(encode()))));
    let decode = || {
        let incoming =
            envelope::decode(black_box(&payload), &properties, Said::This(Operation::Create), &limits)
                .unwrap();
        match incoming.content {
            envelope::IncomingContent::Row { row, .. } => envelope::decode_row::<UserRow>(row).unwrap(),
            envelope::IncomingContent::Rows { .. } => unreachable!("it is a create"),
        }
    };
    print(&format!("decode {format:?}"), timed(&|| drop(black_box(decode()))));
}

fn outgoing<'a>(content: &'a Content, operation: Operation, origin: &'a Origin) -> Outgoing<'a> {
    Outgoing {
        model: "user",
        key_columns: &["id"],
        operation,
        kind: "user_created",
        keys: const { &[Key::Int(7)] },
        content,
        columns: User::COLUMNS,
        set: None,
        inserted: None,
        time: Timestamp::now(),
        id: EventId::now(),
        origin,
        sequence: Some(42),
        version: 1,
        trace: None,
        trace_state: None,
        idempotency_key: None,
        metadata: None,
        cause: None,
        hops: 0,
    }
}

/// An update of one column of twenty, with the row before, and with what differs of it alone.
fn wide(origin: &Origin, rounds: usize) {
    let row = |status: &str| {
        let columns = (0..19).map(|column| (format!("column_{column}"), "some text of it".to_owned()));
        let row: BTreeMap<String, String> =
            columns.chain([("status".to_owned(), status.to_owned())]).collect();
        envelope::encode_row(&row).unwrap()
    };
    let (old, new) = (row("NEW"), row("ACTIVE"));
    for narrow in [false, true] {
        let encode = || {
            let mut content = Content::Row { row: new.clone(), before: Some(RowBefore::Whole(old.clone())) };
            if narrow {
                content.narrow();
            }
            let outgoing = outgoing(&content, Operation::Update, origin);
            envelope::encode(&outgoing, Format::Specification, &WireLimits::default()).unwrap()
        };
        let bytes = encode().payload.len();
        let told = if narrow { "what differs" } else { "the row before" };
        print(
            &format!("20 columns and {told} ({bytes} bytes)"),
            timed(rounds, &|| drop(black_box(encode()))),
        );
    }
}

/// How long one takes.
fn timed(rounds: usize, work: &dyn Fn()) -> Duration {
    const EVENTS: u32 = 2_000;
    let samples = (0..rounds).map(|_| {
        let begun = Instant::now();
        (0..EVENTS).for_each(|_| work());
        begun.elapsed() / EVENTS
    });
    median(samples.collect())
}

fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

fn print(what: &str, time: Duration) {
    println!("{what:<56} {:>9} ns", time.as_nanos());
}
