//! Two nodes that write at the same time: each hears everything once, in order per key.

use std::collections::{HashMap, HashSet};

use emitter_core::transport::memory::{Faults, MemoryBroker};
use emitter_core::{Emitter, Key, Source};
use emitter_tests::eventually::eventually;

use crate::nodes::{Ear, Heard, SECOND, User, UserCreated, by_key, create, node, subscribed};

const KEYS: i64 = 50;

/// A node with a listener that does not wait, one that does, and one that blocks.
struct Side {
    emitter: Emitter,
    ears: [Ear; 3],
}

impl Side {
    async fn start(broker: &MemoryBroker, name: &str) -> Self {
        let emitter = node(broker, name).await;
        let ears = [Ear::default(), Ear::default(), Ear::default()];
        let _ = ears[0].listen(&emitter);
        let ear = ears[1].clone();
        let _ = emitter.on::<UserCreated>().allow_remote().run(move |event| {
            let ear = ear.clone();
            async move {
                for _ in 0..event.row.n % 4 {
                    tokio::task::yield_now().await;
                }
                ear.hear(&event, event.row.n);
            }
        });
        let ear = ears[2].clone();
        let _ = emitter
            .on::<UserCreated>()
            .allow_remote()
            .run_blocking(move |event| ear.hear(&event, event.row.n));
        subscribed(&emitter, 1).await;
        Self { emitter, ears }
    }

    async fn write(&self, rows: i64) {
        for n in 0..rows {
            create(&self.emitter, User::new(n % KEYS, n));
            if n % 16 == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn heard(&self, events: i64) {
        let events = usize::try_from(events).unwrap();
        eventually(|| self.ears.iter().all(|ear| ear.len() >= events)).await;
    }
}

/// Both write `rows` at the same time; returns them when each listener has heard both.
async fn exchange(broker: &MemoryBroker, rows: i64) -> [Side; 2] {
    let (a, b) = (Side::start(broker, "a").await, Side::start(broker, "b").await);
    tokio::join!(a.write(rows), b.write(rows));
    tokio::join!(a.heard(2 * rows), b.heard(2 * rows));
    eventually(|| ["a", "b"].iter().all(|client| broker.unacknowledged(client) == 0)).await;
    [a, b]
}

fn each_once(heard: &[Heard], rows: i64) {
    let ids: HashSet<_> = heard.iter().map(|heard| heard.id).collect();
    assert_eq!(ids.len(), heard.len(), "an event was heard twice");
    let mut numbers: Vec<i64> = heard.iter().map(|heard| heard.n).collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..rows), "heard {} of {rows}", numbers.len());
}

fn in_order(heard: &[Heard]) {
    let expected: HashMap<Key, Vec<i64>> = by_key(heard)
        .into_iter()
        .map(|(key, mut numbers)| {
            numbers.sort_unstable();
            (key, numbers)
        })
        .collect();
    assert_eq!(by_key(heard), expected);
}

async fn close(sides: [Side; 2]) {
    for side in sides {
        assert!(side.emitter.shutdown(10 * SECOND).await.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_hears_all_of_the_other_and_no_echo() {
    let broker = MemoryBroker::new();
    let sides = exchange(&broker, 1_000).await;
    for side in &sides {
        for ear in &side.ears {
            for source in [Source::Local, Source::Remote] {
                each_once(&ear.from(source), 1_000);
                in_order(&ear.from(source));
            }
        }
        let stats = side.emitter.stats();
        assert_eq!((stats.echoes, stats.duplicates, stats.bad_messages), (1_000, 0, 0), "{stats:?}");
        assert_eq!((stats.handled, stats.published, stats.received), (6_000, 1_000, 2_000), "{stats:?}");
    }
    close(sides).await;
}

#[tokio::test]
async fn on_one_thread_too() {
    let sides = exchange(&MemoryBroker::new(), 200).await;
    sides.iter().flat_map(|side| &side.ears).for_each(|ear| in_order(&ear.from(Source::Remote)));
    close(sides).await;
}

fn seeds() -> u64 {
    if std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full") { 100 } else { 5 }
}

/// Prints the seed if the test panics while it lives.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {}", self.0);
        }
    }
}

async fn with_faults(reorder: f64) {
    for seed in 0..seeds() {
        let _seed = Seed(seed);
        let faults = Faults {
            seed,
            drop: 0.01,
            duplicate: 0.05,
            reorder,
            delay: 0.02,
            disconnect: 0.01,
            ..Faults::default()
        };
        let sides = exchange(&MemoryBroker::with_faults(faults), 400).await;
        for side in &sides {
            for (ear, source) in
                side.ears.iter().flat_map(|ear| [(ear, Source::Local), (ear, Source::Remote)])
            {
                each_once(&ear.from(source), 400);
                if reorder == 0.0 {
                    in_order(&ear.from(source));
                }
            }
            let stats = side.emitter.stats();
            assert!(stats.duplicates > 0, "the faults made no duplicate: {stats:?}");
            assert_eq!((stats.published, stats.bad_messages, stats.handled), (400, 0, 2_400), "{stats:?}");
        }
        close(sides).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_faults_each_event_is_heard_once_and_in_order() {
    with_faults(0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_reordering_each_event_is_heard_once() {
    with_faults(0.1).await;
}
