//! The settings of ops/mosquitto.conf and the access control of docs/mosquitto.acl, at a mosquitto that knows its users by their
//! passwords.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::dead_letter::Reason;
use emitter_core::transport::mqtt::MqttConfig;
use emitter_core::{Batches, Emits, Emitter, Event, HealthStatus};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::Mosquitto;
use serde::{Deserialize, Serialize};

const LIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/mosquitto.acl");

const SETTINGS: &str = include_str!("../../ops/mosquitto.conf");

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "user", create)]
struct User {
    id: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "order", create)]
struct Order {
    id: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(model = "invoice", create)]
struct Invoice {
    id: i64,
}

fn password(file: &Path, user: &str) {
    let made = Command::new("mosquitto_passwd").arg("-b").arg(file).args([user, "secret"]).status();
    assert!(made.expect("mosquitto_passwd, of the package mosquitto").success());
}

async fn start(broker: &Mosquitto, service: &str) -> Emitter {
    start_with(broker, service, |config| config).await
}

async fn start_with(
    broker: &Mosquitto,
    service: &str,
    set: impl FnOnce(MqttConfig) -> MqttConfig,
) -> Emitter {
    let config = MqttConfig::new(&broker.url())
        .and_then(|config| config.credentials(service, "secret"))
        .and_then(|config| config.canary(Some(Duration::from_millis(200))))
        .map(set)
        .expect("valid");
    let builder = Emitter::builder().service(service).node("a").select_listeners(|_| false);
    builder.mqtt(config).start().await.expect("it starts")
}

fn hear_users(emitter: &Emitter, heard: &Arc<Mutex<Vec<String>>>) {
    let heard = Arc::clone(heard);
    let _ = emitter.on::<UserCreated>().remote_only().run(move |event: Event<UserCreated>| {
        heard.lock().expect("nobody panics").push(format!("user {}", event.row.id));
        std::future::ready(())
    });
}

async fn healthy(emitter: &Emitter, subscriptions: usize) {
    eventually(|| emitter.health().round_trip.is_some()).await;
    eventually(|| emitter.transport_status().is_some_and(|status| status.subscriptions == subscriptions))
        .await;
    let health = emitter.health();
    assert_eq!(health.status, HealthStatus::Healthy, "{:?}", health.reasons);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_service_may_do_what_is_its_own() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let passwords = folder.path().join("passwords");
    std::fs::write(&passwords, "").expect("the file");
    for user in ["shop", "audit", "operator"] {
        password(&passwords, user);
    }
    let mut settings = Mosquitto::builder().persistence(true);
    for line in SETTINGS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, _) = line.split_once(' ').expect("a name and a value");
        settings = match name {
            // Of this very test.
            "listener" | "persistence" | "persistence_location" => settings,
            "password_file" => settings.line(format!("password_file {}", passwords.display())),
            "acl_file" => settings.line(format!("acl_file {LIST}")),
            _ => settings.line(line),
        };
    }
    let broker = settings.start();
    let (shop, audit) = (start(&broker, "shop").await, start(&broker, "audit").await);
    let heard = Arc::new(Mutex::new(Vec::new()));
    hear_users(&shop, &heard);
    hear_users(&audit, &heard);
    let orders = Arc::clone(&heard);
    let _ = audit.on::<OrderCreated>().remote_only().run(move |event: Event<OrderCreated>| {
        orders.lock().expect("nobody panics").push(format!("order {}", event.row.id));
        std::future::ready(())
    });
    // Announcements and canaries are allowed, too.
    healthy(&shop, 1).await;
    healthy(&audit, 2).await;
    // Who runs it announces nothing.
    let operator = start_with(&broker, "operator", |config| config.announce(false)).await;
    let seen = Arc::default();
    hear_users(&operator, &seen);
    healthy(&operator, 1).await;

    shop.publish(UserCreated::new(User { id: 1 }));
    shop.publish(OrderCreated::new(Order { id: 2 }));
    eventually(|| heard.lock().expect("nobody panics").len() == 2).await;
    // Between models there is no order.
    heard.lock().expect("nobody panics").sort();
    assert_eq!(*heard.lock().expect("nobody panics"), ["order 2", "user 1"]);

    // What is not its own is refused, and is a dead letter; the others go on.
    shop.publish(InvoiceCreated::new(Invoice { id: 3 }));
    audit.publish(UserCreated::new(User { id: 4 }));
    for emitter in [&shop, &audit] {
        eventually(|| emitter.stats().dead_letters == 1).await;
        let letter = &emitter.dead_letters()[0];
        assert_eq!(letter.reason, Reason::Unpublished);
        assert!(letter.error.contains("NotAuthorized"), "{}", letter.error);
    }
    shop.publish(UserCreated::new(User { id: 5 }));
    eventually(|| heard.lock().expect("nobody panics").len() == 3).await;
    assert_eq!(heard.lock().expect("nobody panics")[2], "user 5");
    eventually(|| seen.lock().expect("nobody panics").len() == 2).await;
    // Each says of itself that it is there, and hears it of others.
    for emitter in [&shop, &audit, &operator] {
        emitter.watch_nodes();
        let names = || emitter.nodes().iter().map(|said| said.service.clone()).collect::<Vec<_>>();
        eventually(|| names() == ["audit", "shop"]).await;
    }
    for emitter in [shop, audit, operator] {
        assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
        assert_eq!(emitter.stats().dead_letters_lost, 0);
    }
}

/// What the broker refuses of a batch goes out again, each event by itself and on its own topic.
#[tokio::test]
async fn where_batches_are_forbidden_events_go_alone() {
    let broker = Mosquitto::builder().forbid("prisma/events/user/batch").start();
    let node = |name: &str| {
        let builder = Emitter::builder().node(name).select_listeners(|_| false);
        builder.mqtt(MqttConfig::new(&broker.url()).expect("valid"))
    };
    let hearer = node("b").start().await.expect("it starts");
    let heard = Arc::default();
    hear_users(&hearer, &heard);
    let batches = Batches { max_delay: Duration::ZERO, ..Batches::default() };
    let writer = node("a").batches(batches).start().await.expect("it starts");
    for emitter in [&hearer, &writer] {
        emitter.connected(Duration::from_secs(10)).await.expect("connected");
    }
    for id in 0..20 {
        writer.publish(UserCreated::new(User { id }));
    }
    eventually(|| heard.lock().expect("nobody panics").len() == 20).await;
    assert!(writer.shutdown(Duration::from_secs(5)).await.is_clean());
    assert_eq!((writer.stats().published, writer.stats().publish_failed), (20, 0));
    let _ = hearer.shutdown(Duration::from_secs(5)).await;
}
