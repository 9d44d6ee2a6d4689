//! Wrong settings are errors that name the setting and say what is allowed; passwords are shown nowhere.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::dedup::DedupConfig;
use emitter_core::retry::Backoff;
use emitter_core::transport::mqtt::{ClientId, MqttConfig, MqttConfigError};
use emitter_core::{Builder, Emits, Emitter};
use emitter_tests::eventually::eventually;
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::util::SubscriberInitExt;

const PASSWORD: &str = "hunter2";

fn builder() -> Builder {
    Emitter::builder().select_listeners(|_| false)
}

/// It does not start, and each of these texts is in the error: the setting's name, and what is allowed.
async fn refused(builder: Builder, wrong: &str, texts: &[&str]) {
    let Err(error) = builder.start().await else { panic!("{wrong:?} was taken for {texts:?}") };
    told(&error, wrong, texts);
}

#[track_caller]
fn told(error: &(impl std::error::Error + 'static), wrong: &str, texts: &[&str]) {
    let message = error.to_string();
    for text in texts {
        assert!(message.contains(text), "{wrong:?}: {text:?} is not in: {message}");
    }
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        assert!(!format!("{error} {error:?} {error:#?}").contains(PASSWORD), "{wrong:?}: {error:?}");
        cause = error.source();
    }
}

#[tokio::test]
async fn the_environment_says_where_the_broker_is() {
    // This test runs itself again, as processes with other environments: its own cannot be changed safely.
    if std::env::var_os("WITHIN_ANOTHER").is_some() {
        match builder().mqtt_from_env().start().await {
            Ok(emitter) => println!("started: {:?}", emitter.transport_status().map(|_| ())),
            Err(error) => println!("refused: {error}"),
        }
        return;
    }
    let program = std::env::current_exe().unwrap();
    let within = |variables: &[(&str, &str)]| {
        let mut child = std::process::Command::new(&program);
        child.args(["--exact", "the_environment_says_where_the_broker_is", "--nocapture"]);
        child.env("WITHIN_ANOTHER", "yes").envs(variables.iter().copied());
        let output = child.output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let url = ("EMITTER_MQTT_URL", "mqtt://shop:hunter2@127.0.0.1:1");
    assert!(within(&[]).contains("started: None"));
    assert!(within(&[url]).contains("started: Some"));
    assert!(within(&[url, ("EMITTER_MQTT_ENABLED", "false")]).contains("started: None"));
    let refused = within(&[url, ("EMITTER_MQTT_WINDOW", "0")]);
    assert!(refused.contains("refused: mqtt window: messages: 0 is outside of 1 to 60000"), "{refused}");
}

#[tokio::test]
async fn urls() {
    for (url, allowed) in [
        (
            "wss://u:hunter2@broker/mqtt#x",
            if cfg!(feature = "servers") { "fragment" } else { "needs the feature" },
        ),
        (
            "mqtts://u:hunter2@broker/path",
            if cfg!(feature = "servers") { "path" } else { "needs the feature" },
        ),
        ("http://u:hunter2@broker", "must be mqtt, mqtts, ws or wss"),
        ("hunter2://broker", "must be mqtt, mqtts, ws or wss"),
        ("u:hunter2@broker:1883", "must be mqtt, mqtts, ws or wss"),
        ("", "as in mqtt://localhost:1883"),
        ("hunter2", "as in mqtt://localhost:1883"),
        ("//u:hunter2@broker", "as in mqtt://localhost:1883"),
        ("mqtt:", "as in mqtt://localhost:1883"),
        ("mqtt://", "as in mqtt://localhost:1883"),
        ("mqtt://u:hunter2@", "as in mqtt://localhost:1883"),
        ("mqtt://u:hunter2@:1883", "as in mqtt://localhost:1883"),
        ("mqtt://u:hunter2@broker:0", "1 to 65535"),
        ("mqtt://u:hunter2@broker:65536", "as in mqtt://localhost:1883"),
        ("mqtt://u:hunter2@broker:port", "as in mqtt://localhost:1883"),
        ("mqtt://u:hunter2@bro ker", "as in mqtt://localhost:1883"),
        ("mqtt://u:hunter2@broker/path", "not allowed"),
        ("mqtt://u:hunter2@broker?hunter2=5", "unknown setting"),
        ("mqtt://u:hunter2@broker#fragment", "not allowed"),
        ("mqtt://:hunter2@broker", "user name"),
        ("mqtt://u:hunter2%ff@broker", "UTF-8"),
    ] {
        refused(builder().mqtt(url), url, &["url", allowed]).await;
        refused(builder().mqtt(url.to_owned()), url, &["url", allowed]).await;
    }
}

#[tokio::test]
async fn topic_prefixes() {
    let long = "a".repeat(257);
    let wrong =
        ["", "/", "a/", "/a", "a//b", "#", "a/#", "a/+/b", "$SYS", "$SYS/a", "$share/a/b", "a\0b", "a\nb"];
    for prefix in wrong.into_iter().chain([long.as_str()]) {
        refused(builder().topic_prefix(prefix), prefix, &["topic_prefix"]).await;
    }
    refused(builder().topic_prefix(&long), &long, &["256"]).await;
    refused(builder().topic_prefix("a/#"), "a/#", &["'#'"]).await;
}

#[tokio::test]
async fn names() {
    let long = "a".repeat(129);
    for name in ["", "a b", "a/b", "ä", "a+", "#", "a\0", long.as_str()] {
        let allowed = "1 to 128 letters, digits, '-', '_', '.'";
        refused(builder().service(name), name, &["service", allowed]).await;
        refused(builder().node(name), name, &["node", allowed]).await;
    }
    // A service, a dot, and a node.
    let long = "a".repeat(258);
    for name in ["", "a b", "a/b", "ä", "a+", "#", "a\0", long.as_str()] {
        let error = ClientId::new(name).expect_err(name);
        let length = name.is_empty() || name.len() > 257;
        told(&error, name, &["client_id", if length { "1 to 257" } else { "A-Z a-z 0-9" }]);
    }
}

#[tokio::test]
async fn bounds_of_the_emitter() {
    let dedup = DedupConfig::default;
    let small = MqttConfig::new("mqtt://broker").and_then(|config| config.max_packet(10_000)).unwrap();
    for (setting, builder) in [
        ("max_payload", builder().max_payload(0)),
        ("max_payload", builder().max_payload(10_000).mqtt(small)),
        ("max_depth", builder().max_depth(0)),
        ("listener_queue", builder().listener_queue(0)),
        ("listener_concurrency", builder().listener_concurrency(0)),
        ("listener_timeout", builder().listener_timeout(Duration::ZERO)),
        ("publish_queue", builder().publish_queue(0)),
        ("dedup.max_ids", builder().dedup(DedupConfig { max_ids: 0, ..dedup() })),
        ("dedup.max_age", builder().dedup(DedupConfig { max_age: Duration::ZERO, ..dedup() })),
        (
            "dedup.max_age_without_origin",
            builder().dedup(DedupConfig { max_age_without_origin: Duration::ZERO, ..dedup() }),
        ),
    ] {
        refused(builder, setting, &[&format!("{setting}: ")]).await;
    }
}

/// A model of this program, so that there is a name to skip.
#[derive(Clone, Serialize, Deserialize, Emits)]
#[emits(create)]
struct AuditLog {
    id: i64,
}

#[tokio::test]
async fn skipped_models() {
    for (names, wrong) in [("auditlog,audit_log", "audit_log"), ("auditLogs", "auditLogs"), ("*", "*")] {
        let builder = builder().skip_models(names.split(','));
        refused(
            builder,
            names,
            &[&format!("skip_models: the model {wrong:?} was not found among"), "\"auditLog\""],
        )
        .await;
    }
    // As a variable of the environment may have it; one that is not set is no name.
    for names in ["", " ", "AUDITLOG", " auditLog , auditlog,"] {
        let emitter = builder().skip_models(names.split(',')).start().await.expect(names);
        assert!(emitter.shutdown(Duration::from_secs(1)).await.is_clean());
    }
}

#[test]
fn bounds_of_the_mqtt_transport() {
    let config = || MqttConfig::new("mqtt://u:hunter2@broker").unwrap();
    let reconnect = |base, cap, jitter| {
        let [base, cap, jitter] = [base, cap, jitter].map(Duration::from_millis);
        config().reconnect(Backoff { base, cap, jitter })
    };
    let seconds = Duration::from_secs;
    let too_long = "u".repeat(65_536);
    let table: [(&str, Result<MqttConfig, MqttConfigError>, &str); 20] = [
        ("keep_alive", config().keep_alive(seconds(0)), "5 to 65535"),
        ("keep_alive", config().keep_alive(seconds(4)), "5 to 65535"),
        ("keep_alive", config().keep_alive(seconds(65_536)), "5 to 65535"),
        ("connect_timeout", config().connect_timeout(Duration::ZERO), "1 to 3600000"),
        ("connect_timeout", config().connect_timeout(seconds(3_601)), "1 to 3600000"),
        ("window", config().window(0), "1 to 60000"),
        ("window", config().window(60_001), "1 to 60000"),
        ("queue_messages", config().queue_messages(0), "1 to "),
        ("queue_bytes", config().queue_bytes(0), "1 to "),
        ("session_expiry", config().session_expiry(Duration::ZERO), "1 to 4294967294"),
        ("session_expiry", config().session_expiry(seconds(1 << 32)), "1 to 4294967294"),
        ("receive_maximum", config().receive_maximum(0), "1 to 65535"),
        ("max_packet", config().max_packet(0), "1024 to 268435455"),
        ("max_packet", config().max_packet(268_435_456), "1024 to 268435455"),
        ("reconnect", reconnect(0, 1, 0), "1 to "),
        ("reconnect", reconnect(2, 1, 0), "2 to "),
        ("reconnect", reconnect(1, 1, 3_600_001), "0 to 3600000"),
        ("credentials", config().credentials("", PASSWORD), "1 to 65535"),
        ("credentials", config().credentials(&too_long, PASSWORD), "1 to 65535"),
        ("credentials", config().credentials("u", &PASSWORD.repeat(10_000)), "0 to 65535"),
    ];
    for (field, outcome, allowed) in table {
        let error = outcome.expect_err(field);
        told(&error, field, &[&format!("mqtt {field}: "), allowed]);
    }
}

/// What tracing writes.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_password_is_shown_nowhere() {
    let output = Output::default();
    let writer = output.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_ansi(false);
    // For this thread, which is also where all tasks of this runtime run.
    let _guard = subscriber.with_writer(move || writer.clone()).finish().set_default();

    let config = MqttConfig::new("mqtt://shop:hunter2@127.0.0.1:1").unwrap();
    let shown = format!("{config:?} {config:#?}");
    assert!(shown.contains("127.0.0.1") && !shown.contains("shop") && !shown.contains(PASSWORD), "{shown}");
    let given = MqttConfig::new("mqtt://127.0.0.1:1").and_then(|config| config.credentials("shop", PASSWORD));
    assert!(!format!("{:?}", given.unwrap()).contains(PASSWORD));

    let emitter = builder().node("shop").mqtt(config).start().await.unwrap();
    let failed = || emitter.transport_status().is_some_and(|status| status.publisher.last_error.is_some());
    eventually(failed).await;
    let not_connected = emitter.connected(Duration::from_millis(10)).await.unwrap_err();
    told(&not_connected, "connected", &["not connected to the broker within 10ms"]);
    let status = format!("{emitter:?} {:?}", emitter.transport_status());
    assert!(!status.contains(PASSWORD), "{status}");
    assert!(emitter.shutdown(Duration::from_secs(1)).await.is_clean());

    let log = output.text();
    assert!(log.contains("started") && log.contains("127.0.0.1:1"), "{log}");
    assert!(!log.contains(PASSWORD), "{log}");
}
