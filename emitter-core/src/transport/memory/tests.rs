use std::collections::BTreeMap;

use super::*;
use crate::event::Operation;
use crate::topic::{ModelTopic, Topic, Topics};
use crate::transport::Confirmed;

const WAIT: Duration = Duration::from_secs(10);

fn model() -> ModelTopic {
    ModelTopic::new("user").unwrap()
}

fn topic() -> Topic {
    Topics::default().topic(&model(), Operation::Create)
}

fn filter() -> TopicFilter {
    Topics::default().model_filter(&model())
}

fn message(number: usize) -> Message {
    Message::new(topic(), number.to_string())
}

fn number(delivery: &Delivery) -> usize {
    std::str::from_utf8(&delivery.payload).unwrap().parse().unwrap()
}

async fn next(transport: &MemoryTransport) -> Delivery {
    tokio::time::timeout(WAIT, transport.next()).await.expect("a delivery").expect("an open transport")
}

/// The transport subscribed to the one filter of these tests.
async fn subscribed(broker: &MemoryBroker, client: &str) -> MemoryTransport {
    let transport = broker.connect(client);
    transport.subscribe(filter());
    eventually(|| transport.status().subscriptions == 1).await;
    transport
}

async fn eventually(condition: impl Fn() -> bool) {
    tokio::time::timeout(WAIT, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the condition within 10 s");
}

#[tokio::test]
async fn a_message_reaches_who_subscribed_and_is_confirmed() {
    let broker = MemoryBroker::new();
    let (a, b) = (broker.connect("a"), subscribed(&broker, "b").await);
    let confirmed = a.publish(message(1)).unwrap().await;
    assert_eq!(confirmed, Ok(Confirmed { had_subscribers: true }));
    let delivery = next(&b).await;
    assert_eq!((delivery.topic.as_str(), number(&delivery)), (topic().as_str(), 1));
    assert_eq!(broker.unacknowledged("b"), 1);
    delivery.ack.done();
    eventually(|| broker.unacknowledged("b") == 0).await;
    assert_eq!(
        broker.published(),
        [Published { topic: topic().to_string(), payload: "1".into(), properties: Properties::default() }]
    );
}

#[tokio::test]
async fn nobody_subscribed_is_told() {
    let broker = MemoryBroker::new();
    let confirmed = broker.connect("a").publish(message(1)).unwrap();
    // The transport is gone, so nothing confirms it.
    assert_eq!(confirmed.await, Err(PublishError::Closed));
    let a = broker.connect("a");
    assert_eq!(a.publish(message(1)).unwrap().await, Ok(Confirmed { had_subscribers: false }));
}

#[tokio::test]
async fn what_is_not_acknowledged_comes_again_in_order() {
    let broker = MemoryBroker::new();
    let b = subscribed(&broker, "b").await;
    (0..4).for_each(|n| assert_eq!(broker.publish(topic().as_str(), n.to_string()), 1));
    let first: Vec<Delivery> = [next(&b).await, next(&b).await, next(&b).await, next(&b).await].into();
    // Out of order: 1 is done, yet 0 is not, so only a prefix can be acknowledged.
    let mut first = first.into_iter();
    let (zero, one) = (first.next().unwrap(), first.next().unwrap());
    one.ack.done();
    broker.disconnect("b");
    eventually(|| !b.status().subscriber.connected).await;
    // An acknowledgement of a connection that is gone is none.
    zero.ack.done();
    broker.reconnect("b");
    for expected in 0..4 {
        let delivery = next(&b).await;
        assert_eq!(number(&delivery), expected);
        delivery.ack.done();
    }
    eventually(|| broker.unacknowledged("b") == 0).await;
    assert_eq!(b.status().subscriber.connections, 2);
}

#[tokio::test]
async fn the_next_life_of_a_client_resumes_its_session() {
    let broker = MemoryBroker::new();
    let b = subscribed(&broker, "b").await;
    broker.publish(topic().as_str(), "7");
    drop(next(&b).await);
    drop(b);
    broker.publish(topic().as_str(), "8");
    let b = broker.connect("b");
    assert_eq!(broker.subscriptions("b"), [filter().as_str()]);
    // Deliveries begin with the first subscription.
    assert!(tokio::time::timeout(Duration::from_millis(20), b.next()).await.is_err());
    b.subscribe(filter());
    assert_eq!([number(&next(&b).await), number(&next(&b).await)], [7, 8]);
}

#[tokio::test]
async fn an_older_connection_of_the_same_client_ends() {
    let broker = MemoryBroker::new();
    let old = subscribed(&broker, "b").await;
    let idle = broker.connect("c");
    let (_b, _c) = (broker.connect("b"), broker.connect("c"));
    assert!(tokio::time::timeout(WAIT, old.next()).await.unwrap().is_none());
    assert!(tokio::time::timeout(WAIT, idle.next()).await.unwrap().is_none());
    eventually(|| matches!(old.publish(message(1)), Err(PublishError::Closed))).await;
}

#[tokio::test]
async fn an_absent_broker_fills_the_queue_and_takes_it_later() {
    let broker = MemoryBroker::new();
    broker.pause();
    let a = broker.connect("a").with_queue(2);
    let kept = [a.publish(message(0)).unwrap(), a.publish(message(1)).unwrap()];
    let full = a.publish(message(2)).unwrap_err();
    let bytes = 2 * message(0).size();
    assert_eq!(full, PublishError::QueueFull { messages: 2, bytes });
    assert_eq!(a.status().unconfirmed, 2);
    broker.resume();
    for confirmation in kept {
        assert_eq!(confirmation.await, Ok(Confirmed { had_subscribers: false }));
    }
    assert_eq!(a.close(WAIT).await, Unconfirmed { messages: 0 });
}

#[tokio::test]
async fn closing_tells_what_is_left_and_sends_the_last_acknowledgements() {
    let broker = MemoryBroker::new();
    let b = subscribed(&broker, "b").await;
    broker.publish(topic().as_str(), "1");
    next(&b).await.ack.done();
    assert_eq!(b.close(WAIT).await, Unconfirmed { messages: 0 });
    assert_eq!(broker.unacknowledged("b"), 0);
    assert!(b.next().await.is_none());
    assert_eq!(b.publish(message(1)).unwrap_err(), PublishError::Closed);

    let a = broker.connect("a");
    broker.disconnect("a");
    let lost = a.publish(message(1)).unwrap();
    assert_eq!(a.close(Duration::from_millis(10)).await, Unconfirmed { messages: 1 });
    assert_eq!(lost.await, Err(PublishError::Closed));
}

#[tokio::test]
async fn a_broker_that_forgot_a_session_gets_the_wishes_again() {
    let broker = MemoryBroker::new();
    let b = subscribed(&broker, "b").await;
    broker.forget("b");
    eventually(|| broker.subscriptions("b") == [filter().as_str()]).await;
    b.unsubscribe(&filter());
    eventually(|| broker.subscriptions("b").is_empty()).await;
    assert_eq!(broker.publish(topic().as_str(), "1"), 0);
}

#[tokio::test]
async fn a_broker_gone_mad_sends_what_nobody_asked_for() {
    let broker = MemoryBroker::new();
    let b = subscribed(&broker, "b").await;
    assert!(broker.send("b", "no/such/topic", &b"\xff"[..]));
    assert!(!broker.send("c", "no/such/topic", "x"));
    let delivery = next(&b).await;
    assert_eq!((delivery.topic.as_str(), &*delivery.payload), ("no/such/topic", &b"\xff"[..]));
}

/// Publishes numbers over broken links and returns them as they arrived.
async fn through(faults: Faults, messages: usize) -> Vec<usize> {
    let broker = MemoryBroker::with_faults(faults);
    let (a, b) = (broker.connect("a"), subscribed(&broker, "b").await);
    let confirmations: Vec<Confirmation> = (0..messages).map(|n| a.publish(message(n)).unwrap()).collect();
    let publishing = async {
        for confirmation in confirmations {
            confirmation.await.unwrap();
        }
    };
    let mut arrived = Vec::new();
    let mut seen = BTreeMap::new();
    let receiving = async {
        while seen.len() < messages {
            let delivery = next(&b).await;
            *seen.entry(number(&delivery)).or_insert(0) += 1;
            arrived.push(number(&delivery));
            delivery.ack.done();
        }
    };
    tokio::time::timeout(6 * WAIT, async { tokio::join!(publishing, receiving) }).await.expect("all of them");
    arrived
}

fn first_arrivals(arrived: &[usize]) -> Vec<usize> {
    let mut seen = std::collections::HashSet::new();
    arrived.iter().copied().filter(|number| seen.insert(*number)).collect()
}

#[tokio::test(start_paused = true)]
async fn first_arrivals_are_complete_and_in_order_with_every_fault_but_reorder() {
    for seed in 0..20 {
        let faults =
            Faults { seed, drop: 0.05, duplicate: 0.1, delay: 0.1, disconnect: 0.02, ..Faults::default() };
        let arrived = through(faults, 300).await;
        assert_eq!(first_arrivals(&arrived), (0..300).collect::<Vec<_>>(), "seed {seed}");
        assert!(arrived.len() > 310, "seed {seed}: no duplicates among {}", arrived.len());
    }
}

#[tokio::test(start_paused = true)]
async fn reorder_swaps_and_loses_nothing() {
    let arrived = through(Faults { seed: 1, reorder: 0.2, ..Faults::default() }, 300).await;
    let mut sorted = arrived.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..300).collect::<Vec<_>>());
    let swapped = arrived.iter().enumerate().filter(|(place, number)| place != *number).count();
    assert!((20..200).contains(&swapped), "{swapped}");
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_is_the_same_story() {
    let faults = Faults { seed: 3, drop: 0.05, duplicate: 0.1, reorder: 0.1, ..Faults::default() };
    let (one, other) = (through(faults, 200).await, through(faults, 200).await);
    assert_eq!(one, other);
    assert_ne!(one, through(Faults { seed: 4, ..faults }, 200).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_on_several_threads_too() {
    let faults =
        Faults { seed: 5, drop: 0.02, duplicate: 0.02, delay: 0.02, disconnect: 0.02, ..Faults::default() };
    assert_eq!(first_arrivals(&through(faults, 500).await), (0..500).collect::<Vec<_>>());
}
