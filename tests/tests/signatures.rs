//! Events that are signed, and nodes that take no others.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::envelope::Format;
use emitter_core::signature::{Signatures, SigningKey};
use emitter_core::testing::TestEmitter;
use emitter_core::transport::Properties;
use emitter_core::transport::memory::{MemoryBroker, Published};
use emitter_core::{Batches, Builder, Emits, Emitter, Event, StartError};
use emitter_tests::eventually::eventually;
use serde::{Deserialize, Serialize};

const SECOND: Duration = Duration::from_secs(1);
const PLAIN: Properties = Properties { content_type: None, user: Vec::new() };
const FORMATS: [Format; 4] =
    [Format::Specification, Format::CloudEvents, Format::CloudEventsBinary, Format::Tracker];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "payment", create)]
struct Payment {
    id: i64,
    amount: i64,
}

fn payment(id: i64) -> PaymentCreated {
    PaymentCreated::new(Payment { id, amount: 100 })
}

fn hmac(name: &str) -> SigningKey {
    SigningKey::hmac_sha256(name, &[name.as_bytes()[0]; 32]).unwrap()
}

fn builder(node: &str) -> Builder {
    Emitter::builder().node(node).select_listeners(|_| false)
}

type Heard = Arc<Mutex<Vec<i64>>>;

async fn hearing(builder: Builder) -> (Emitter, Heard) {
    let emitter = builder.start().await.unwrap();
    let heard = Heard::default();
    let noted = Arc::clone(&heard);
    let _ = emitter.on::<PaymentCreated>().remote_only().run(move |event: Event<PaymentCreated>| {
        noted.lock().unwrap().push(event.row.id);
        std::future::ready(())
    });
    eventually(|| emitter.transport_status().unwrap().subscriptions == 1).await;
    (emitter, heard)
}

#[tokio::test]
async fn nodes_that_trust_each_other_hear_each_other_and_nobody_else() {
    let pair = SigningKey::ed25519("pair", &[5; 32]).unwrap();
    let public = pair.verifying_key().public_text().unwrap();
    let keys = [
        (Signatures::new(hmac("a")), Signatures::new(hmac("a"))),
        // Who only listens cannot sign.
        (Signatures::new(pair), Signatures::listening_only().trusting(public.parse().unwrap())),
    ];
    for format in FORMATS {
        for (writing, listening) in &keys {
            for batches in [None, Some(Batches::default())] {
                if batches.is_some() && format == Format::CloudEventsBinary {
                    continue;
                }
                let broker = MemoryBroker::new();
                let node = |name: &str| builder(name).format(format).transport(broker.connect(name));
                let (hearer, heard) = hearing(node("b").signatures(listening.clone())).await;
                // A node that checks nothing understands what is signed.
                let (careless, overheard) = hearing(node("d")).await;
                let writer = node("a").signatures(writing.clone());
                let writer = match batches {
                    Some(batches) => writer.batches(batches),
                    None => writer,
                };
                let writer = writer.start().await.unwrap();
                let stranger = node("c").signatures(Signatures::new(hmac("c"))).start().await.unwrap();
                let unsigned = node("e").start().await.unwrap();
                for id in 0..5 {
                    writer.publish(payment(id));
                    stranger.publish(payment(10));
                    unsigned.publish(payment(20));
                }
                eventually(|| overheard.lock().unwrap().len() == 15).await;
                eventually(|| hearer.stats().unauthentic == 10 && heard.lock().unwrap().len() == 5).await;
                assert_eq!(*heard.lock().unwrap(), [0, 1, 2, 3, 4], "{format:?} {batches:?}");
                eventually(|| broker.unacknowledged("b") == 0).await;
                assert_eq!((hearer.stats().bad_messages, hearer.stats().dead_letters), (10, 0));
                for node in [hearer, careless, writer, stranger, unsigned] {
                    let _ = node.shutdown(SECOND).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn what_is_altered_on_its_way_is_refused() {
    for format in FORMATS {
        let broker = MemoryBroker::new();
        let node = |name: &str| {
            let builder = builder(name).format(format).signatures(Signatures::new(hmac("a")));
            builder.transport(broker.connect(name))
        };
        let writer = node("a").start().await.unwrap();
        writer.publish(payment(1));
        eventually(|| broker.published().len() == 1).await;
        let Published { topic, payload, properties } = broker.published().remove(0);
        let (hearer, heard) = hearing(node("b")).await;
        let dearer = String::from_utf8(payload.to_vec()).unwrap().replace("100", "999");
        broker.publish_with(&topic, dearer, properties.clone());
        broker.publish_with(&topic.replace("/create", "/delete"), payload.clone(), properties.clone());
        let mut later = properties.clone();
        later.user.retain(|(name, _)| name != "time");
        let later =
            later.with("specversion", "1.0").with("id", "other").with("source", "/a/b").with("type", "x");
        broker.publish_with(&topic, payload.clone(), later);
        eventually(|| hearer.stats().unauthentic == 3).await;
        broker.publish_with(&topic, payload, properties);
        eventually(|| *heard.lock().unwrap() == [1]).await;
        let _ = (writer.shutdown(SECOND).await, hearer.shutdown(SECOND).await);
    }
}

fn a_batch() -> Batches {
    Batches { max_delay: Duration::ZERO, ..Batches::default() }
}

#[tokio::test]
async fn what_is_altered_within_a_batch_is_refused_alone() {
    let broker = MemoryBroker::new();
    let node = |name: &str| {
        let builder = builder(name).signatures(Signatures::new(hmac("a"))).batches(a_batch());
        builder.transport(broker.connect(name))
    };
    let writer = node("a").start().await.unwrap();
    for id in 1..4 {
        writer.publish(payment(id));
    }
    eventually(|| broker.published().len() == 1).await;
    let Published { topic, payload, .. } = broker.published().remove(0);
    let text = String::from_utf8(payload.to_vec()).unwrap();
    assert!(topic.ends_with("/batch") && text.starts_with('['), "{topic}");
    let (hearer, heard) = hearing(node("b")).await;
    broker.publish(&topic, text.replacen("100", "999", 2));
    eventually(|| heard.lock().unwrap().len() == 2 && hearer.stats().unauthentic == 1).await;
    // One of them is of the batch's topic alone, and with anything behind it not what was signed.
    let events: Vec<&serde_json::value::RawValue> = serde_json::from_str(&text).unwrap();
    let one = events[0].get();
    let twice = one.replace("}", r#","signature":"a:AAAA"}"#);
    let tricks = [
        (topic.replace("batch", "create"), one.to_owned()),
        (topic.clone(), format!("{one} ")),
        (topic, twice),
    ];
    for (count, (topic, payload)) in (2..).zip(tricks) {
        broker.publish(&topic, payload);
        eventually(|| hearer.stats().unauthentic == count).await;
    }
    assert_eq!((heard.lock().unwrap().len(), hearer.stats().dead_letters), (2, 0));
    let _ = (writer.shutdown(SECOND).await, hearer.shutdown(SECOND).await);
}

#[tokio::test]
async fn strangers_make_no_dead_letters() {
    let broker = MemoryBroker::new();
    let node = |name: &str| {
        builder(name)
            .signatures(Signatures::new(hmac("a")))
            .max_payload(2_000)
            .transport(broker.connect(name))
    };
    let (hearer, heard) = hearing(node("b")).await;
    let topic = "prisma/events/payment/create";
    let many = Properties::default().with("n", "x".repeat(20_000));
    let strange = [("[ no batch", PLAIN), ("no event", PLAIN), ("[[[", PLAIN), ("{}", many)];
    for (payload, properties) in strange {
        broker.publish_with(topic, payload, properties);
    }
    broker.publish(topic, "x".repeat(3_000));
    eventually(|| hearer.stats().unauthentic == 5).await;
    // What was signed is read as it was signed, whatever stands beside it.
    let writer = node("a").start().await.unwrap();
    writer.publish(payment(1));
    eventually(|| heard.lock().unwrap().len() == 1).await;
    let sent = broker.published().into_iter().rfind(|message| message.topic == topic).unwrap();
    for content_type in ["application/cloudevents+json", "application/vnd.model-events.batch+json"] {
        broker.publish_with(&sent.topic, sent.payload.clone(), Properties::of_type(content_type));
    }
    eventually(|| hearer.stats().duplicates == 2).await;
    assert_eq!((hearer.stats().dead_letters, hearer.stats().bad_messages), (0, 5));
    let _ = (writer.shutdown(SECOND).await, hearer.shutdown(SECOND).await);
}

/// Every node trusts both before anybody signs with the new one, and trusts the old one until nobody does.
#[tokio::test]
async fn keys_are_changed_without_losing_an_event() {
    let broker = MemoryBroker::new();
    let (old, new) = (hmac("old"), hmac("new"));
    let steps = [
        [Signatures::new(old.clone()), Signatures::new(old.clone()).trusting(new.verifying_key())],
        [
            Signatures::new(new.clone()).trusting(old.verifying_key()),
            Signatures::new(old).trusting(new.verifying_key()),
        ],
        [Signatures::new(new.clone()), Signatures::new(new)],
    ];
    for (step, [writing, listening]) in steps.into_iter().enumerate() {
        for [writing, listening] in [[&writing, &listening], [&listening, &writing]] {
            // In the first step the new key signs nothing yet, in the last one both have it alone.
            let (hearer, heard) =
                hearing(builder("b").signatures(listening.clone()).transport(broker.connect("b"))).await;
            let writer = builder("a").signatures(writing.clone()).transport(broker.connect("a"));
            let writer = writer.start().await.unwrap();
            writer.publish(payment(1));
            eventually(|| heard.lock().unwrap().len() == 1).await;
            assert_eq!(hearer.stats().unauthentic, 0, "step {step}");
            let _ = (writer.shutdown(SECOND).await, hearer.shutdown(SECOND).await);
        }
    }
}

#[tokio::test]
async fn a_signature_counts_for_the_largest_event() {
    let published = async |most: usize, signed: bool| {
        let broker = MemoryBroker::new();
        let builder = builder("a").max_payload(most).transport(broker.connect("a"));
        let builder = if signed { builder.signatures(Signatures::new(hmac("a"))) } else { builder };
        let writer = builder.start().await.unwrap();
        writer.publish(payment(1));
        eventually(|| writer.stats().published + writer.stats().publish_failed == 1).await;
        let _ = writer.shutdown(SECOND).await;
        broker
            .published()
            .iter()
            .find(|message| message.topic.ends_with("/create"))
            .map(|one| one.payload.len())
    };
    let bare = published(10_000, false).await.unwrap();
    let signed = published(10_000, true).await.unwrap();
    assert_eq!(signed, bare + r#","signature":"a:""#.len() + 43);
    assert_eq!(published(signed, true).await, Some(signed));
    assert_eq!(published(signed - 1, true).await, None);
}

#[tokio::test]
async fn what_a_test_receives_is_signed_as_its_node_expects() {
    let signatures = Signatures::new(hmac("a"));
    let node = TestEmitter::start(|builder| builder.select_listeners(|_| false).signatures(signatures)).await;
    let heard = Heard::default();
    let noted = Arc::clone(&heard);
    let _ = node.on::<PaymentCreated>().remote_only().run(move |event: Event<PaymentCreated>| {
        noted.lock().unwrap().push(event.row.id);
        std::future::ready(())
    });
    node.receive(payment(7)).await;
    node.drain().await;
    assert_eq!(*heard.lock().unwrap(), [7]);
    let _ = node.shutdown(SECOND).await;
}

#[tokio::test]
#[should_panic(expected = "Signatures::new(key)")]
async fn a_test_is_told_that_nothing_can_be_signed() {
    let only = Signatures::listening_only().trusting(hmac("a").verifying_key());
    let node = TestEmitter::start(|builder| builder.select_listeners(|_| false).signatures(only)).await;
    node.receive(payment(7)).await;
}

#[tokio::test]
async fn a_node_that_would_take_nothing_does_not_start() {
    let error = builder("a").signatures(Signatures::listening_only()).start().await.unwrap_err();
    assert!(matches!(error, StartError::Setting { setting: "signatures", .. }), "{error}");
    assert!(error.to_string().contains("trusting"), "{error}");
}
