//! How listeners are called: retries, order, time-outs, names, contexts. Time is simulated.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::model::Created;
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{Context, Emits, Emitter, Event, ListenerOptions, Scope, Source, State, listener};
use emitter_tests::eventually::eventually;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Task {
    id: i64,
    /// How many attempts fail.
    failures: u32,
}

/// What was heard, and how many seconds after the start.
struct Log {
    begun: Instant,
    lines: Mutex<Vec<String>>,
}

impl Log {
    fn new() -> Arc<Self> {
        Arc::new(Self { begun: Instant::now(), lines: Mutex::default() })
    }

    fn write(&self, line: &str) {
        let seconds = self.begun.elapsed().as_secs();
        self.lines.lock().unwrap().push(format!("{seconds} s: {line}"));
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

/// Only the listener of this name.
async fn node(listener: &'static str, log: &Arc<Log>) -> Emitter {
    let builder = Emitter::builder().state(Arc::clone(log)).require(listener);
    builder.select_listeners(move |info| info.name == listener).start().await.unwrap()
}

fn create(emitter: &Emitter, id: i64, failures: u32) {
    emitter.emit(emitter.event::<Task>(TaskEvent::Created(Created::new(Task { id, failures })), Scope::BOTH));
}

async fn end(emitter: &Emitter) {
    assert!(emitter.shutdown(Duration::from_secs(120)).await.is_clean());
}

#[listener(model = Task, retry(jitter = "0s"))]
async fn stubborn(event: Event<TaskCreated>, context: Context, log: State<Arc<Log>>) -> Result<(), String> {
    let attempt = context.attempt();
    log.write(&format!("task {}, attempt {attempt}", event.row.id));
    if attempt <= event.row.failures { Err("not yet".to_owned()) } else { Ok(()) }
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_is_made_again_and_holds_up_its_key_only() {
    let log = Log::new();
    let emitter = node("stubborn", &log).await;
    create(&emitter, 1, 2);
    create(&emitter, 1, 0);
    create(&emitter, 2, 0);
    end(&emitter).await;
    let expected = [
        "0 s: task 1, attempt 1",
        "0 s: task 2, attempt 1",
        "1 s: task 1, attempt 2",
        "3 s: task 1, attempt 3",
        "3 s: task 1, attempt 1",
    ];
    assert_eq!(log.lines(), expected);
    let stats = emitter.stats();
    assert_eq!((stats.handled, stats.failed, stats.retried, stats.given_up), (3, 2, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn an_event_is_given_up_after_the_last_attempt() {
    let log = Log::new();
    let emitter = node("stubborn", &log).await;
    create(&emitter, 1, 9);
    create(&emitter, 1, 0);
    end(&emitter).await;
    assert_eq!(log.lines().last().unwrap(), "3 s: task 1, attempt 1");
    let stats = emitter.stats();
    assert_eq!((stats.handled, stats.failed, stats.retried, stats.given_up), (1, 3, 2, 1));
}

/// A panic and a time-out are failures, too.
#[listener(
    model = "task",
    timeout = "10s",
    retry(attempts = 5, backoff = "2s", jitter = "0ms", budget = "20s")
)]
async fn clumsy(_: Event<TaskCreated>, log: State<Arc<Log>>, context: Context) {
    log.write(&format!("attempt {}", context.attempt()));
    assert!(context.attempt() > 1, "for the test");
    std::future::pending::<()>().await;
}

#[tokio::test(start_paused = true)]
async fn no_attempt_begins_after_the_budget() {
    let log = Log::new();
    let emitter = node("clumsy", &log).await;
    create(&emitter, 1, 0);
    end(&emitter).await;
    // The third ended after 26 s.
    assert_eq!(log.lines(), ["0 s: attempt 1", "2 s: attempt 2", "16 s: attempt 3"]);
    let stats = emitter.stats();
    assert_eq!((stats.handled, stats.panicked, stats.timed_out, stats.given_up), (0, 1, 2, 1));
}

#[listener(model = "task", unordered, concurrency = 2, name = "takes two at a time")]
async fn two_at_a_time(event: Event<TaskCreated>, log: State<Arc<Log>>) {
    log.write(&format!("task {} begins", event.row.id));
    sleep(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn an_unordered_listener_waits_for_no_key_and_has_its_own_concurrency() {
    let log = Log::new();
    let emitter = node("takes two at a time", &log).await;
    (0..3).for_each(|_| create(&emitter, 1, 0));
    end(&emitter).await;
    assert_eq!(log.lines(), ["0 s: task 1 begins", "0 s: task 1 begins", "5 s: task 1 begins"]);
}

/// Writes in turn, with the emitter that calls it.
#[listener(model = "task", allow_remote)]
fn follows_up(event: Event<TaskCreated>, context: Context, log: State<Arc<Log>>) -> Result<(), &'static str> {
    assert_eq!((context.id(), context.source()), (event.id(), event.source()));
    assert_eq!((context.origin(), context.time()), (event.origin(), event.time()));
    log.write(&format!("{} task {}", context.source(), event.row.id));
    let emitter = context.emitter().ok_or("the emitter is gone")?;
    if event.row.id < 3 && context.source() == Source::Local {
        create(&emitter, event.row.id + 1, 0);
    }
    Ok(())
}

#[tokio::test]
async fn a_listener_may_write_in_turn() {
    let log = Log::new();
    let broker = MemoryBroker::new();
    let builder =
        Emitter::builder().state(Arc::clone(&log)).select_listeners(|info| info.name == "follows_up");
    let emitter = builder.transport(broker.connect("a")).start().await.unwrap();
    create(&emitter, 1, 0);
    eventually(|| emitter.stats().handled == 3).await;
    end(&emitter).await;
    assert_eq!(log.lines(), ["0 s: local task 1", "0 s: local task 2", "0 s: local task 3"]);
}

/// The broker keeps an event of another node until it is handled or given up.
#[tokio::test]
async fn a_remote_event_is_acknowledged_after_its_last_attempt() {
    let broker = MemoryBroker::new();
    let emitter =
        Emitter::builder().select_listeners(|_| false).transport(broker.connect("a")).start().await.unwrap();
    let (attempts, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let backoff = Some(Duration::from_millis(50));
    let _ = emitter
        .on::<TaskCreated>()
        .remote_only()
        .options(ListenerOptions {
            attempts: Some(2),
            backoff,
            jitter: backoff,
            ..ListenerOptions::default()
        })
        .run(move |_| {
            attempts.send(()).unwrap();
            std::future::ready(Err::<(), _>("for the test"))
        });
    eventually(|| emitter.transport_status().unwrap().subscriptions == 1).await;
    let message = r#"{"model":"task","operation":"create","args":{},"result":{"id":1,"failures":0}}"#;
    broker.publish("prisma/events/task/create", message);
    begun.recv().await.unwrap();
    assert_eq!(broker.unacknowledged("a"), 1);
    begun.recv().await.unwrap();
    eventually(|| broker.unacknowledged("a") == 0).await;
    end(&emitter).await;
    assert_eq!((emitter.stats().failed, emitter.stats().given_up), (2, 1));
}
