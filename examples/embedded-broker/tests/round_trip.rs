//! What the examples rely on: messages arrive, in number and size, and nothing is left behind.

use std::path::Path;
use std::time::Duration;

use embedded_broker::EmbeddedBroker;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

fn client(broker: &EmbeddedBroker, id: &str) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(id, "127.0.0.1", broker.port());
    options.set_max_packet_size(Some(2 << 20));
    AsyncClient::new(options, 1000)
}

/// Drives the connection until `wanted` payloads have come, and returns them.
async fn receive(events: &mut EventLoop, wanted: usize) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    while payloads.len() < wanted {
        let event = timeout(PATIENCE, events.poll()).await.expect("the broker answers");
        if let Event::Incoming(Packet::Publish(publish)) = event.expect("the connection holds") {
            payloads.push(publish.payload.to_vec());
        }
    }
    payloads
}

#[tokio::test]
async fn a_message_comes_back() {
    let broker = EmbeddedBroker::start().await.unwrap();
    let (client, mut events) = client(&broker, "one");
    client.subscribe("prisma/events/user/#", QoS::AtLeastOnce).await.unwrap();
    client.publish("prisma/events/user/create", QoS::AtLeastOnce, false, "hello").await.unwrap();

    assert_eq!(receive(&mut events, 1).await, [b"hello"]);
    broker.stop().await;
}

#[tokio::test]
async fn a_mebibyte_comes_back() {
    let broker = EmbeddedBroker::start().await.unwrap();
    let (client, mut events) = client(&broker, "large");
    let large = vec![b'x'; 1 << 20];
    client.subscribe("large", QoS::AtLeastOnce).await.unwrap();
    client.publish("large", QoS::AtLeastOnce, false, large.clone()).await.unwrap();

    assert_eq!(receive(&mut events, 1).await, [large]);
    broker.stop().await;
}

#[tokio::test]
async fn twenty_thousand_messages_wait_for_an_absent_subscriber() {
    const WAITING: usize = 20_000;
    let broker = EmbeddedBroker::start().await.unwrap();

    let absent = || {
        let mut options = MqttOptions::new("absent", "127.0.0.1", broker.port());
        options.set_clean_start(false).set_session_expiry_interval(Some(600));
        AsyncClient::new(options, 10)
    };
    let (client, mut events) = absent();
    client.subscribe("queue", QoS::AtLeastOnce).await.unwrap();
    until(&mut events, |packet| matches!(packet, Packet::SubAck(_)), 1).await;
    drop((client, events));

    let (publisher, mut events) = self::client(&broker, "publisher");
    tokio::spawn(async move {
        for n in 0..WAITING {
            publisher.publish("queue", QoS::AtLeastOnce, false, n.to_string()).await.unwrap();
        }
        // Keeps the client alive until the last acknowledgement: its event loop ends with it.
        tokio::time::sleep(PATIENCE).await;
    });
    until(&mut events, |packet| matches!(packet, Packet::PubAck(_)), WAITING).await;

    let (_client, mut events) = absent();
    let received = receive(&mut events, WAITING).await;
    let sent: Vec<_> = (0..WAITING).map(|n| n.to_string().into_bytes()).collect();
    assert!(received == sent, "{} messages came, in another order", received.len());
    broker.stop().await;
}

/// Drives the connection until `wanted` packets of this kind have come.
async fn until(events: &mut EventLoop, kind: fn(&Packet) -> bool, wanted: usize) {
    let mut seen = 0;
    while seen < wanted {
        let event = timeout(PATIENCE, events.poll()).await.expect("the broker answers");
        if let Event::Incoming(packet) = event.expect("the connection holds") {
            seen += usize::from(kind(&packet));
        }
    }
}

#[tokio::test]
async fn stopping_frees_the_port_and_leaves_no_file() {
    let broker = EmbeddedBroker::start().await.unwrap();
    let port = broker.port();
    let (client, mut events) = client(&broker, "connected");
    client.publish("kept", QoS::AtLeastOnce, true, "retained").await.unwrap();
    until(&mut events, |packet| matches!(packet, Packet::PubAck(_)), 1).await;

    timeout(Duration::from_secs(2), broker.stop())
        .await
        .expect("a connected client does not hold up the end");
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "somebody still listens");
    assert!(!Path::new("mqtt_storage").exists(), "the broker wrote files");

    let again = EmbeddedBroker::start_on(port).await.unwrap();
    assert_eq!(again.url(), format!("mqtt://127.0.0.1:{port}"));
    again.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();

    let error = EmbeddedBroker::start_on(port).await.unwrap_err();
    assert_eq!(error.to_string(), format!("the embedded broker could not listen on 127.0.0.1:{port}"));
}
