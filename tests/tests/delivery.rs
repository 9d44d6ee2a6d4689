//! What a model says about how its events travel: topic, quality of service, time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::testing::TestEmitter;
use emitter_core::topic::TopicFilter;
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::transport::{
    Confirmation, Delivery, Message, PublishError, Transport, TransportStatus, Unconfirmed,
};
use emitter_core::{EmitOptions, Emits, Emitter, Event, HashKey, QoS, Scope, StartError, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update, delete(qos = 2), update_many, qos = 0, topic = "shop/orders", expires = "1h")]
struct Order {
    id: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Plain {
    id: i64,
}

#[listener(model = "order", remote_only)]
async fn hear(_: Event<OrderEvent>) {}

/// Keeps what it is given.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Message>>>);

impl Transport for Kept {
    fn publish(&self, message: Message) -> Result<Confirmation, PublishError> {
        self.0.lock().unwrap().push(message);
        let (settler, confirmation) = Confirmation::new();
        drop(settler);
        Ok(confirmation)
    }

    fn subscribe(&self, _: TopicFilter) {}

    fn unsubscribe(&self, _: &TopicFilter) {}

    fn next(&self) -> std::pin::Pin<Box<dyn Future<Output = Option<Delivery>> + Send + '_>> {
        Box::pin(std::future::pending())
    }

    fn status(&self) -> TransportStatus {
        TransportStatus::default()
    }

    fn close(&self, _: Duration) -> std::pin::Pin<Box<dyn Future<Output = Unconfirmed> + Send + '_>> {
        Box::pin(async { Unconfirmed::default() })
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_sent_as_its_model_and_its_call_say() {
    let kept = Kept::default();
    let emitter = Emitter::builder().transport(kept.clone()).start().await.unwrap();
    let order = || Order { id: 1 };
    emitter.publish(OrderCreated::new(order()));
    emitter.publish(OrderDeleted::new(order()));
    emitter.publish(PlainCreated::new(Plain { id: 1 }));
    emitter.publish_with(OrderCreated::new(order()), EmitOptions::from(Scope::REMOTE).qos(QoS::AtLeastOnce));
    let now = tokio::time::Instant::now();
    let _ = emitter.shutdown(Duration::from_secs(5)).await;
    let sent: Vec<_> = kept
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|message| {
            (message.topic.to_string(), message.qos, message.expires.map(|at| at.duration_since(now)))
        })
        .collect();
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(
        sent,
        [
            ("prisma/events/shop/orders/create".to_owned(), QoS::AtMostOnce, hour),
            ("prisma/events/shop/orders/delete".to_owned(), QoS::ExactlyOnce, hour),
            ("prisma/events/plain/create".to_owned(), QoS::AtLeastOnce, None),
            ("prisma/events/shop/orders/create".to_owned(), QoS::AtLeastOnce, hour),
        ]
    );
}

#[tokio::test]
async fn a_model_with_a_topic_of_its_own_is_heard_there() {
    let node = TestEmitter::start(|builder| builder).await;
    node.receive(OrderCreated::new(Order { id: 1 })).await;
    node.drain().await;
    assert_eq!(node.stats().handled, 1);
    let of_models = |filter: &String| !filter.starts_with("prisma/events/_");
    let subscriptions: Vec<String> =
        node.broker().subscriptions("app.test").into_iter().filter(of_models).collect();
    assert_eq!(subscriptions, ["prisma/events/shop/orders/#"]);
    let under_its_name = node.broker().send("app.test", "prisma/events/order/create", "{}");
    assert!(under_its_name);
    node.drain().await;
    assert_eq!(node.stats().bad_messages, 1);
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_is_not_sent_any_more() {
    let broker = MemoryBroker::new();
    broker.pause();
    let emitter = Emitter::builder().transport(broker.connect("a")).start().await.unwrap();
    emitter.publish(OrderCreated::new(Order { id: 1 }));
    emitter.publish(PlainCreated::new(Plain { id: 1 }));
    tokio::time::sleep(Duration::from_secs(3601)).await;
    emitter.publish(OrderCreated::new(Order { id: 2 }));
    broker.resume();
    assert!(emitter.shutdown(Duration::from_secs(60)).await.is_clean());
    let topics: Vec<String> = broker.published().into_iter().map(|message| message.topic).collect();
    assert_eq!(topics, ["prisma/events/plain/create", "prisma/events/shop/orders/create"]);
    assert_eq!(emitter.stats().publish_failed, 1);
}

mod within {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
    #[emits(create, topic = "Shop")]
    pub(crate) struct Shop {
        id: i64,
    }

    #[tokio::test]
    async fn topics_that_lie_within_each_other_are_refused() {
        let node = TestEmitter::start(|builder| builder).await;
        node.publish(ShopCreated::new(Shop { id: 1 }));
        node.drain().await;
        assert!(node.published().is_empty(), "`shop/#` would be sent `shop/orders/…`, too");
        node.assert_none_emitted::<ShopCreated>();
    }
}

#[test]
fn errors_say_what_to_do() {
    let nested = StartError::SameTopic("shop", "order").to_string();
    assert!(nested.contains("#[emits(topic"), "{nested}");
    let short = HashKey::new(b"abc").unwrap_err().to_string();
    assert!(short.contains("3 bytes; give at least 16"), "{short}");
}
