//! Listeners and nodes that come and go.

use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{Event, State, listener};
use emitter_tests::eventually::eventually;

use crate::nodes::{Ear, SECOND, User, UserCreated, UserEvent, builder, create, creation, node, subscribed};
use crate::wire::LogEvent;

const FILTER: &str = "prisma/events/user/#";
const CREATE: &str = "prisma/events/user/create";

#[tokio::test]
async fn the_subscription_lives_as_long_as_the_last_remote_listener() {
    let broker = MemoryBroker::new();
    let b = node(&broker, "b").await;
    let (first, second, local) = (Ear::default(), Ear::default(), Ear::default());
    let one = first.listen(&b);
    let other = second.listen(&b);
    let hears = local.clone();
    let _ = b.on::<UserEvent>().run(move |event| {
        hears.hear(&event, 0);
        std::future::ready(())
    });
    subscribed(&b, 1).await;
    assert_eq!(broker.subscriptions("b"), [FILTER]);

    one.unsubscribe();
    broker.publish(CREATE, creation(&User::new(1, 1)));
    eventually(|| second.len() == 1).await;
    other.unsubscribe();
    eventually(|| broker.subscriptions("b").is_empty()).await;
    assert_eq!(broker.publish(CREATE, creation(&User::new(1, 2))), 0);

    let again = Ear::default();
    let _ = again.listen(&b);
    eventually(|| broker.subscriptions("b") == [FILTER]).await;
    broker.publish(CREATE, creation(&User::new(1, 3)));
    eventually(|| again.len() == 1).await;
    assert_eq!((first.len(), second.len(), local.len()), (0, 1, 0));
    assert!(b.shutdown(SECOND).await.is_clean());
}

#[tokio::test]
async fn a_listener_that_is_gone_hears_nothing_more() {
    let broker = MemoryBroker::new();
    let b = node(&broker, "b").await;
    let (gone, stays) = (Ear::default(), Ear::default());
    let subscription = gone.listen(&b);
    let _ = stays.listen(&b);
    subscribed(&b, 1).await;
    for n in 0..50 {
        broker.publish(CREATE, creation(&User::new(n, n)));
        create(&b, User::new(n, n));
    }
    eventually(|| stays.len() == 100 && gone.len() == 100).await;
    subscription.unsubscribe();
    broker.publish(CREATE, creation(&User::new(1, 1)));
    eventually(|| broker.unacknowledged("b") == 0 && stays.len() == 101).await;
    assert_eq!(gone.len(), 100);
}

#[tokio::test]
async fn the_subscription_comes_back_with_a_broker_that_forgot_it() {
    let broker = MemoryBroker::new();
    let (a, b) = (node(&broker, "a").await, node(&broker, "b").await);
    let ear = Ear::default();
    let _ = ear.listen(&b);
    subscribed(&b, 1).await;
    broker.forget("b");
    eventually(|| broker.subscriptions("b") == [FILTER]).await;
    create(&a, User::new(1, 1));
    eventually(|| ear.len() == 1).await;
}

#[tokio::test]
async fn events_of_a_time_of_absence_arrive_later() {
    let broker = MemoryBroker::new();
    let (a, b) = (node(&broker, "a").await, node(&broker, "b").await);
    let ear = Ear::default();
    let _ = ear.listen(&b);
    subscribed(&b, 1).await;
    broker.disconnect("b");
    (0..500).for_each(|n| create(&a, User::new(1, n)));
    eventually(|| a.stats().published == 500).await;
    assert_eq!(ear.len(), 0);
    broker.reconnect("b");
    eventually(|| ear.len() == 500).await;
    assert!(ear.all().iter().map(|heard| heard.n).eq(0..500));
}

#[tokio::test]
async fn own_events_of_an_earlier_life_are_echoes() {
    let broker = MemoryBroker::new();
    let a = node(&broker, "a").await;
    let _ = Ear::default().listen(&a);
    subscribed(&a, 1).await;
    // The broker has it, and the node dies before its own echo comes.
    let echo = {
        create(&a, User::new(1, 1));
        eventually(|| a.stats().published == 1).await;
        broker.published().remove(0)
    };
    drop(a);
    // An id is as old as its millisecond.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    let a = node(&broker, "a").await;
    let ear = Ear::default();
    let _ = ear.listen(&a);
    subscribed(&a, 1).await;
    broker.publish(&echo.topic, echo.payload);
    eventually(|| a.stats().echoes >= 1 && broker.unacknowledged("a") == 0).await;
    assert_eq!(ear.len(), 0);
}

/// Two nodes that were given the same name by mistake: their events are told apart by their lives.
#[tokio::test]
async fn events_of_a_namesake_are_heard_and_counted() {
    let broker = MemoryBroker::new();
    let node = |client| builder("same").transport(broker.connect(client)).start();
    let (a, b) = (node("a").await.unwrap(), node("b").await.unwrap());
    let ears = [Ear::default(), Ear::default()];
    for (emitter, ear) in [(&a, &ears[0]), (&b, &ears[1])] {
        let _ = ear.listen(emitter);
        subscribed(emitter, 1).await;
    }
    // An id is as old as its millisecond.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    create(&a, User::new(1, 1));
    create(&b, User::new(2, 2));
    eventually(|| ears.iter().all(|ear| ear.len() == 2)).await;
    assert_eq!((a.stats().namesakes, b.stats().namesakes), (1, 1));
}

/// A session outlives its node, and so do subscriptions that the next life does not want.
#[tokio::test]
async fn a_subscription_of_an_earlier_life_does_not_stall_the_next() {
    let broker = MemoryBroker::new();
    let b = node(&broker, "b").await;
    let _ = Ear::default().listen(&b);
    subscribed(&b, 1).await;
    assert!(b.shutdown(SECOND).await.is_clean());
    broker.publish(CREATE, creation(&User::new(1, 1)));

    let b = node(&broker, "b").await;
    // It knows users, for it writes some, and listens to logs.
    create(&b, User::new(1, 1));
    let _ = b.on::<LogEvent>().remote_only().run(|_| std::future::ready(()));
    eventually(|| broker.unacknowledged("b") == 0).await;
}

#[listener(model = "user", remote_only)]
#[allow(clippy::needless_pass_by_value, reason = "what a listener looks like")]
fn waiting_user(event: Event<UserEvent>, ears: State<[Ear; 2]>) {
    ears[0].hear(&event, 0);
}

#[listener(model = "log", remote_only)]
async fn waiting_log(event: Event<LogEvent>, ears: State<[Ear; 2]>) {
    ears[1].hear(&event, 0);
}

/// The listener of each model is there before what waits for it is delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_for_a_node_waits_for_its_listeners() {
    let broker = MemoryBroker::new();
    for life in 0..50 {
        let ears = [Ear::default(), Ear::default()];
        let b = builder("b").transport(broker.connect("b")).select_listeners(|_| true).state(ears.clone());
        let b = b.require("waiting_user").require("waiting_log").start().await.unwrap();
        subscribed(&b, 2).await;
        eventually(|| broker.unacknowledged("b") == 0).await;
        let heard = if life == 0 { 0 } else { 50 };
        assert_eq!((ears[0].len(), ears[1].len(), b.stats().bad_messages), (heard, heard, 0), "life {life}");
        assert!(b.shutdown(SECOND).await.is_clean());

        for n in 0..50 {
            let log = serde_json::json!({
                "model": "log", "operation": "create", "args": {}, "result": { "id": n, "msg": "" }
            });
            assert_eq!(broker.publish("prisma/events/log/create", log.to_string()), 1);
            assert_eq!(broker.publish(CREATE, creation(&User::new(n, n))), 1);
        }
    }
}

#[tokio::test]
async fn a_full_queue_is_counted_and_fails_nothing() {
    let broker = MemoryBroker::new();
    broker.pause();
    let a = builder("a").transport(broker.connect("a").with_queue(10)).start().await.unwrap();
    let ear = Ear::default();
    let _ = ear.listen(&a);
    for n in 0..25 {
        create(&a, User::new(1, n));
    }
    eventually(|| a.stats().publish_refused == 15 && ear.len() == 25).await;
    broker.resume();
    eventually(|| a.stats().published == 10).await;
    assert!(a.shutdown(SECOND).await.is_clean());
}

#[tokio::test]
async fn a_shutdown_tells_what_no_broker_confirmed() {
    let broker = MemoryBroker::new();
    broker.pause();
    let a = node(&broker, "a").await;
    (0..7).for_each(|n| create(&a, User::new(1, n)));
    let report = a.shutdown(std::time::Duration::from_millis(50)).await;
    assert_eq!((report.unfinished, report.unpublished), (0, 7));
    assert_eq!(a.shutdown(SECOND).await, report, "the same, told again");
}

/// A shutdown that nobody waits for any more goes on, and whoever asks gets its report.
#[tokio::test]
async fn a_shutdown_that_is_given_up_still_tells_the_truth() {
    let broker = MemoryBroker::new();
    broker.pause();
    let a = node(&broker, "a").await;
    (0..7).for_each(|n| create(&a, User::new(1, n)));
    let given_up = tokio::time::timeout(std::time::Duration::from_millis(1), a.shutdown(SECOND / 10)).await;
    assert!(given_up.is_err());
    assert_eq!(a.shutdown(std::time::Duration::MAX).await.unpublished, 7);
}

/// A listener that is gone is given nothing that waited for it.
#[tokio::test]
async fn unsubscribing_is_at_once() {
    let broker = MemoryBroker::new();
    let a = node(&broker, "a").await;
    let calls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&calls);
    let listener = a.on::<UserCreated>().run(move |_| {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        std::future::ready(())
    });
    // On this runtime nothing runs before the next await.
    (0..100).for_each(|n| create(&a, User::new(1, n)));
    listener.unsubscribe();
    assert!(a.shutdown(SECOND).await.is_clean());
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 0);
}
