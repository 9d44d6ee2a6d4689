//! Listeners that misbehave, and when an event is acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use emitter_core::retry::Retry;
use emitter_core::transport::memory::{Faults, MemoryBroker};
use emitter_core::{Emitter, Event, EventId};
use emitter_tests::eventually::eventually;
use tokio::sync::{Semaphore, mpsc};

use crate::nodes::{Ear, SECOND, User, UserCreated, builder, create, creation, node, subscribed};

#[tokio::test]
async fn one_that_panics_or_fails_or_never_ends_harms_no_other() {
    let broker = MemoryBroker::new();
    let a = node(&broker, "a").await;
    let b = builder("b")
        .transport(broker.connect("b"))
        .listener_timeout(Duration::from_millis(50))
        .listener_retry(Retry { attempts: 1, ..Retry::default() })
        .start()
        .await
        .unwrap();
    let _ = b.on::<UserCreated>().remote_only().name("never ends").run(|_| std::future::pending::<()>());
    let _ = b.on::<UserCreated>().remote_only().name("panics at once").run(
        |event: Event<UserCreated>| -> std::future::Ready<()> { panic!("for the test: {}", event.id()) },
    );
    let _ = b.on::<UserCreated>().remote_only().name("panics later").run(|_| panics_later());
    let _ = b
        .on::<UserCreated>()
        .remote_only()
        .name("panics on a thread")
        .run_blocking(|_| -> () { panic!("for the test") });
    let _ = b.on::<UserCreated>().remote_only().name("fails").run(|_| async { Err::<(), _>("for the test") });
    let ear = Ear::default();
    let _ = ear.listen(&b);
    subscribed(&b, 1).await;
    for n in 0..100 {
        create(&a, User::new(n, n));
    }
    eventually(|| ear.len() == 100).await;
    // All are done with, well or not, so all are acknowledged.
    eventually(|| broker.unacknowledged("b") == 0).await;
    let stats = b.stats();
    assert_eq!(
        (stats.handled, stats.failed, stats.panicked, stats.timed_out, stats.given_up, stats.retried),
        (100, 100, 300, 100, 500, 0),
        "{stats:?}"
    );
    assert!(b.shutdown(SECOND).await.is_clean());
    assert!(a.shutdown(SECOND).await.is_clean());
}

async fn panics_later() {
    tokio::task::yield_now().await;
    panic!("for the test");
}

/// A node whose listener reports each event, and then never ends.
async fn stuck(broker: &MemoryBroker) -> (Emitter, mpsc::UnboundedReceiver<EventId>) {
    let emitter = node(broker, "b").await;
    let (begun, begins) = mpsc::unbounded_channel();
    let _ = emitter.on::<UserCreated>().remote_only().run(move |event| {
        begun.send(event.id()).unwrap();
        std::future::pending::<()>()
    });
    subscribed(&emitter, 1).await;
    (emitter, begins)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_did_not_finish_comes_again_to_its_next_life() {
    let broker = MemoryBroker::new();
    let a = node(&broker, "a").await;
    let (b, mut begins) = stuck(&broker).await;
    create(&a, User::new(1, 7));
    let id = begins.recv().await.unwrap();
    drop(b);
    assert_eq!(broker.unacknowledged("b"), 1);

    // Again, and this time it is shut down in good order, which waits in vain.
    let (b, mut begins) = stuck(&broker).await;
    assert_eq!(begins.recv().await, Some(id));
    let report = b.shutdown(Duration::from_millis(20)).await;
    assert_eq!((report.unfinished, report.unpublished), (1, 0));
    assert_eq!(broker.unacknowledged("b"), 1);

    let b = node(&broker, "b").await;
    let ear = Ear::default();
    let _ = ear.listen(&b);
    eventually(|| broker.unacknowledged("b") == 0).await;
    assert_eq!(ear.all().iter().map(|heard| (heard.id, heard.n)).collect::<Vec<_>>(), [(id, 7)]);
    assert!(b.shutdown(SECOND).await.is_clean());
    drop(node(&broker, "b").await);
    assert_eq!(broker.unacknowledged("b"), 0);
}

#[tokio::test]
async fn a_duplicate_is_not_acknowledged_before_the_listener_is_done() {
    let broker = MemoryBroker::with_faults(Faults { duplicate: 1.0, ..Faults::default() });
    let (a, b) = (node(&broker, "a").await, node(&broker, "b").await);
    let (gate, calls) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (waits, counts) = (Arc::clone(&gate), Arc::clone(&calls));
    let _ = b.on::<UserCreated>().remote_only().run(move |_| {
        counts.fetch_add(1, Ordering::SeqCst);
        let waits = Arc::clone(&waits);
        async move { drop(waits.acquire().await) }
    });
    subscribed(&b, 1).await;
    create(&a, User::new(1, 1));
    // Published twice, each delivered twice.
    eventually(|| b.stats().duplicates == 3).await;
    assert_eq!(broker.unacknowledged("b"), 2);
    broker.disconnect("b");
    broker.reconnect("b");
    eventually(|| b.stats().duplicates == 7).await;
    assert_eq!(broker.unacknowledged("b"), 2);
    gate.add_permits(1);
    eventually(|| broker.unacknowledged("b") == 0).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn local_listeners_do_not_care_about_an_absent_broker() {
    let broker = MemoryBroker::new();
    broker.pause();
    let a = node(&broker, "a").await;
    let ear = Ear::default();
    let _ = ear.listen(&a);
    for n in 0..100 {
        create(&a, User::new(n, n));
    }
    eventually(|| ear.len() == 100).await;
    assert_eq!(broker.published().len(), 0);
    broker.resume();
    eventually(|| a.stats().published == 100).await;
    assert!(a.shutdown(SECOND).await.is_clean());
}

#[tokio::test]
async fn a_slow_key_holds_up_no_other() {
    let broker = MemoryBroker::new();
    let b = node(&broker, "b").await;
    let ear = Ear::default();
    let hears = ear.clone();
    let gate = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&gate);
    let _ = b.on::<UserCreated>().remote_only().run(move |event| {
        let (hears, waits) = (hears.clone(), Arc::clone(&waits));
        async move {
            if event.row.id == 0 && event.row.n == 0 {
                drop(waits.acquire().await);
            }
            hears.hear(&event, event.row.n);
        }
    });
    subscribed(&b, 1).await;
    for n in 0..10 {
        for id in 0..3 {
            broker.publish("prisma/events/user/create", creation(&User::new(id, n)));
        }
    }
    eventually(|| ear.len() == 20).await;
    gate.add_permits(1);
    eventually(|| ear.len() == 30).await;
    for numbers in crate::nodes::by_key(&ear.all()).into_values() {
        assert_eq!(numbers, (0..10).collect::<Vec<_>>());
    }
}
