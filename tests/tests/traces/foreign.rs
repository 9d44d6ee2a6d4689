//! What foreign clients see of a trace, and what they may say of one: over a broker, by MQTT 5 and by 3.1.1.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::transport::mqtt::MqttVersion;
use emitter_core::{EmitOptions, Emits, Emitter, Event, Trace};
use emitter_diesel::transport::mqtt::MqttConfig;
use emitter_tests::eventually::eventually;
use emitter_tests::servers::Mosquitto;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event as ClientEvent, EventLoop, Incoming, MqttOptions};
use serde::{Deserialize, Serialize};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TOPIC: &str = "prisma/events/parcel/create";
const PAYLOAD: &str = r#"{"model":"parcel","operation":"create","args":{},"result":{"id":7}}"#;
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Parcel {
    id: i64,
}

/// A client of MQTT 5 that knows nothing of us.
fn client(broker: &Mosquitto) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new("foreign", "127.0.0.1", broker.port());
    options.set_keep_alive(Duration::from_secs(30));
    AsyncClient::new(options, 10)
}

async fn node(broker: &Mosquitto, name: &str, version: MqttVersion) -> Emitter {
    let mqtt = MqttConfig::new(&broker.url()).unwrap().protocol(version);
    let builder = Emitter::builder().service("depot").node(name).mqtt(mqtt).select_listeners(|_| false);
    builder.start().await.unwrap()
}

/// What a node hears of traces.
async fn hearing(emitter: &Emitter) -> Arc<Mutex<Vec<Option<Trace>>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&heard);
    let _ = emitter.on::<ParcelCreated>().remote_only().run(move |event: Event<ParcelCreated>| {
        noted.lock().unwrap().push(event.trace());
        std::future::ready(())
    });
    emitter.connected(LIMIT).await.unwrap();
    heard
}

/// Polls until a message comes.
async fn next(events: &mut EventLoop) -> (Vec<(String, String)>, Vec<u8>) {
    loop {
        if let ClientEvent::Incoming(Packet::Publish(publish)) = events.poll().await.unwrap() {
            return (publish.properties.unwrap_or_default().user_properties, publish.payload.to_vec());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_client_sees_the_trace_beside_the_event_and_in_it() {
    let broker = Mosquitto::start();
    let (foreign, mut events) = client(&broker);
    foreign.subscribe(TOPIC, QoS::AtLeastOnce).await.unwrap();
    while !matches!(events.poll().await.unwrap(), ClientEvent::Incoming(Incoming::SubAck(_))) {}
    let trace: Trace = PARENT.parse().unwrap();
    for (name, version) in [("five", MqttVersion::V5), ("three", MqttVersion::V311)] {
        let emitter = node(&broker, name, version).await;
        let options = EmitOptions::default().trace(trace).trace_state("vendor=1");
        emitter.publish_with(ParcelCreated::new(Parcel { id: 7 }), options);
        let (beside, payload) = tokio::time::timeout(LIMIT, next(&mut events)).await.unwrap();
        let event: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!((&event["traceparent"], &event["tracestate"]), (&PARENT.into(), &"vendor=1".into()));
        let told = |name: &str| beside.iter().find(|(found, _)| found == name).map(|(_, value)| &**value);
        match version {
            MqttVersion::V5 => {
                assert_eq!((told("traceparent"), told("tracestate")), (Some(PARENT), Some("vendor=1")));
            }
            _ => assert!(beside.is_empty()),
        }
        assert!(emitter.shutdown(LIMIT).await.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_foreign_client_reaches_a_listener_and_a_hostile_one_does_not() {
    let broker = Mosquitto::start();
    let five = node(&broker, "five", MqttVersion::V5).await;
    let three = node(&broker, "three", MqttVersion::V311).await;
    let (by_five, by_three) = (hearing(&five).await, hearing(&three).await);
    let (foreign, mut events) = client(&broker);
    tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let long = "0".repeat(4_000);
    let sent = [PARENT, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", &long];
    for text in sent {
        let user_properties = vec![("traceparent".to_owned(), text.to_owned())];
        let properties = PublishProperties { user_properties, ..PublishProperties::default() };
        foreign.publish_with_properties(TOPIC, QoS::AtLeastOnce, false, PAYLOAD, properties).await.unwrap();
    }
    let within = PAYLOAD.replace("\"args\"", &format!("\"traceparent\":\"{PARENT}\",\"args\""));
    foreign.publish(TOPIC, QoS::AtLeastOnce, false, within).await.unwrap();
    let trace: Option<Trace> = Some(PARENT.parse().unwrap());
    eventually(|| by_five.lock().unwrap().len() == 4 && by_three.lock().unwrap().len() == 4).await;
    assert_eq!(*by_five.lock().unwrap(), [trace, None, None, trace]);
    // Over MQTT 3.1.1 nothing travels beside an event, and what is in it does.
    assert_eq!(*by_three.lock().unwrap(), [None, None, None, trace]);
    for emitter in [five, three] {
        assert!(emitter.shutdown(LIMIT).await.is_clean());
    }
}
