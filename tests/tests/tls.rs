//! Connections by TLS: whom a node trusts, who it says that it is, and what it says when that fails.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fs, io};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use emitter_core::transport::mqtt::{ClientId, MqttConfig, MqttTransport, MqttVersion, Tls};
use emitter_core::transport::{LinkStatus, Transport};
use emitter_core::{Emits, Emitter, Event, Signatures};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::Mosquitto;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Order {
    id: i64,
}

/// A certificate authority of a test's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
struct Certified {
    chain: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// For this host name, and for a client.
    fn certify(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> Certified {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.0).unwrap().pem();
        Certified { chain, key: key.serialize_pem() }
    }

    fn tls(&self) -> Tls {
        Tls::authority(self.pem().as_bytes()).unwrap()
    }
}

/// A broker that shows this certificate, and where it wants one of its clients, too.
fn broker(server: &Certified, clients: Option<&Authority>) -> Broker {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let mut builder = Mosquitto::builder()
        .line(format!("certfile {}", file("server.pem", &server.chain)))
        .line(format!("keyfile {}", file("server.key", &server.key)));
    if let Some(clients) = clients {
        builder = builder
            .line(format!("cafile {}", file("clients.pem", &clients.pem())))
            .line("require_certificate true");
    }
    Broker { mosquitto: builder.start(), _files: folder }
}

struct Broker {
    mosquitto: Mosquitto,
    _files: TempDir,
}

fn config(host: &str, broker: &Broker, tls: Tls) -> MqttConfig {
    let port = broker.mosquitto.port();
    MqttConfig::new(&format!("mqtts://{host}:{port}")).unwrap().tls(tls)
}

/// What the publishing connection says after its first attempt.
async fn attempt(config: MqttConfig) -> LinkStatus {
    let transport = MqttTransport::start(config, ClientId::new("tls").unwrap());
    let said = || {
        let status = transport.status().publisher;
        status.connected || status.last_error.is_some()
    };
    eventually(said).await;
    transport.status().publisher
}

#[track_caller]
fn refused(status: &LinkStatus, advice: &str) {
    let error = status.last_error.as_deref().unwrap_or_default();
    assert!(!status.connected && error.contains(advice), "{status:?}");
}

#[tokio::test]
async fn nodes_hear_each_other_by_tls() {
    let authority = Authority::new("ours");
    let broker = broker(&authority.certify("localhost", |_| {}), None);
    for version in [MqttVersion::V5, MqttVersion::V311] {
        let node = |name: &'static str| {
            let config = config("localhost", &broker, authority.tls()).protocol(version);
            Emitter::builder().service("tls").node(name).mqtt(config).start()
        };
        let (a, b) = (node("a").await.unwrap(), node("b").await.unwrap());
        hear(&a, &b).await;
        for node in [&a, &b] {
            assert!(node.shutdown(Duration::from_secs(10)).await.is_clean());
        }
    }
}

#[tokio::test]
async fn nodes_hear_each_other_over_websockets() {
    let authority = Authority::new("ours");
    let Certified { chain, key } = authority.certify("localhost", |_| {});
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let [plain, encrypted] = [free_port(), free_port()];
    let _broker = Mosquitto::builder()
        .line(format!("listener {plain} 127.0.0.1\nprotocol websockets"))
        .line(format!("listener {encrypted} 127.0.0.1\nprotocol websockets"))
        .line(format!("certfile {}\nkeyfile {}", file("server.pem", &chain), file("server.key", &key)))
        .start();
    for version in [MqttVersion::V5, MqttVersion::V311] {
        let config = |url: String| MqttConfig::new(&url).unwrap().tls(authority.tls()).protocol(version);
        let node =
            |name: &'static str, config| Emitter::builder().service("ws").node(name).mqtt(config).start();
        // One of each, on one broker.
        let a = node("a", config(format!("ws://localhost:{plain}/mqtt"))).await.unwrap();
        let b = node("b", config(format!("wss://localhost:{encrypted}/mqtt"))).await.unwrap();
        hear(&a, &b).await;
        hear(&b, &a).await;
        for node in [&a, &b] {
            assert!(node.shutdown(Duration::from_secs(10)).await.is_clean());
        }
    }
    let stranger = MqttConfig::new(&format!("wss://localhost:{encrypted}")).unwrap();
    refused(
        &attempt(stranger.tls(Authority::new("another").tls())).await,
        "no authority that is trusted here",
    );
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What the one emits the other hears.
async fn hear(writer: &Emitter, reader: &Emitter) {
    let (heard, mut orders) = tokio::sync::mpsc::unbounded_channel();
    let listener = reader.on::<OrderCreated>().remote_only().run(move |event: Event<OrderCreated>| {
        heard.send(event.row.id).unwrap();
        std::future::ready(())
    });
    for node in [writer, reader] {
        node.connected(Duration::from_secs(10)).await.unwrap();
    }
    writer.publish(OrderCreated::new(Order { id: 7 }));
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), orders.recv()).await.unwrap(), Some(7));
    listener.unsubscribe();
}

#[tokio::test]
async fn a_broker_that_nobody_vouches_for_is_refused_and_the_error_says_why() {
    let (authority, other) = (Authority::new("ours"), Authority::new("another"));
    let good = broker(&authority.certify("localhost", |_| {}), None);
    refused(&attempt(config("localhost", &good, other.tls())).await, "no authority that is trusted here");
    // One that only has the name of the right one.
    refused(
        &attempt(config("localhost", &good, Authority::new("ours").tls())).await,
        "no authority that is trusted here",
    );
    // What the system trusts has nothing to do with it.
    if let Ok(system) = Tls::system() {
        refused(&attempt(config("localhost", &good, system)).await, "no authority that is trusted here");
    }
    // Its certificate is for `localhost`.
    refused(&attempt(config("127.0.0.1", &good, authority.tls())).await, "is for another host name");
    let expired = authority.certify("localhost", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let late = broker(&expired, None);
    refused(&attempt(config("localhost", &late, authority.tls())).await, "has expired");
    // No TLS on the other side.
    let plain = Mosquitto::start();
    let url = format!("mqtts://localhost:{}", plain.port());
    let status = attempt(MqttConfig::new(&url).unwrap().tls(authority.tls())).await;
    assert!(!status.connected && status.last_error.is_some(), "{status:?}");
}

#[tokio::test]
async fn a_node_shows_its_certificate_where_the_broker_asks_for_one() {
    let (authority, clients, other) =
        (Authority::new("ours"), Authority::new("of clients"), Authority::new("another"));
    let broker = broker(&authority.certify("localhost", |_| {}), Some(&clients));
    let shown = |by: &Authority| {
        let Certified { chain, key } = by.certify("node", |_| {});
        authority.tls().identity(chain.as_bytes(), key.as_bytes()).unwrap()
    };
    let status = attempt(config("localhost", &broker, shown(&clients))).await;
    assert!(status.connected, "{status:?} {}", broker.mosquitto.log());
    refused(
        &attempt(config("localhost", &broker, authority.tls())).await,
        "wants a certificate of this node",
    );
    let stranger = attempt(config("localhost", &broker, shown(&other))).await;
    assert!(!stranger.connected, "{stranger:?}");
}

#[tokio::test]
async fn authority_and_identity_may_be_files_that_a_setting_names() {
    let (authority, clients) = (Authority::new("ours"), Authority::new("of clients"));
    let broker = broker(&authority.certify("localhost", |_| {}), Some(&clients));
    let Certified { chain, key } = clients.certify("node", |_| {});
    let files = tempfile::tempdir().unwrap();
    let [ca, node] = ["ca.pem", "node.pem"].map(|name| files.path().join(name).display().to_string());
    fs::write(&ca, authority.pem()).unwrap();
    fs::write(&node, chain + &key).unwrap();
    let port = broker.mosquitto.port();
    let settings = serde_json::json!({
        "url": format!("mqtts://localhost:{port}"), "tls_authority": ca, "tls_identity": node, "connect_timeout": "5s",
    });
    let status = attempt(serde_json::from_value(settings).unwrap()).await;
    assert!(status.connected, "{status:?}");
    let missing = MqttConfig::new("mqtts://broker?tls_authority=/no/such/file").unwrap_err().to_string();
    assert!(missing.starts_with("mqtt tls_authority: the file that it names cannot be read"), "{missing}");
}

#[test]
fn what_is_no_certificate_and_no_key_of_it_is_refused_before_any_connection() {
    let authority = Authority::new("ours");
    let (one, other) = (authority.certify("a", |_| {}), authority.certify("b", |_| {}));
    let said = |outcome: Result<Tls, _>| match outcome {
        Ok(tls) => panic!("{tls:?}"),
        Err(error) => emitter_core::transport::mqtt::MqttConfigError::to_string(&error),
    };
    let identity = |chain: &str, key: &str| said(authority.tls().identity(chain.as_bytes(), key.as_bytes()));
    assert!(said(Tls::authority(b"")).contains("no certificate in PEM"));
    assert!(
        said(Tls::authority(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"))
            .starts_with("mqtt tls")
    );
    assert!(identity("", &one.key).contains("no certificate in PEM"));
    assert!(identity(&one.chain, "").contains("no private key in PEM"));
    assert!(identity(&one.chain, &other.key).contains("the certificate and its key"));
    // A key is shown nowhere.
    let tls = authority.tls().identity(one.chain.as_bytes(), one.key.as_bytes()).unwrap();
    let line = one.key.lines().nth(1).unwrap();
    let shown = format!("{tls:?} {:?}", MqttConfig::new("mqtts://broker").unwrap().tls(tls.clone()));
    assert!(!shown.contains(line) && !shown.contains("PRIVATE"), "{shown}");
}

/// Everything that was logged, by whichever of the two facades.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Log {
    fn add(&self, text: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
    }

    fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // What rumqttc speaks WebSockets with logs every frame at trace, and the request: MqttConfig says so.
        if !record.target().starts_with("tungstenite") {
            self.add(&format!("{} {}\n", record.target(), record.args()));
        }
    }

    fn flush(&self) {}
}

/// As text, in base64, and as bytes in hexadecimal and decimal.
#[track_caller]
fn shows_none(of: &[String], text: &str, what: &str) {
    for secret in of {
        let hex = secret.bytes().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let lower = text.to_ascii_lowercase();
        // As `Debug` shows bytes.
        let decimal = format!("{:?}", secret.as_bytes());
        // Not its beginning and end, which depend on what stands beside it.
        let base64 = STANDARD.encode(&secret[3..]);
        let ways = [secret.as_str(), decimal.trim_matches(['[', ']']), &base64[..base64.len() - 4]];
        let shown = ways.iter().any(|way| text.contains(way)) || lower.contains(&hex);
        assert!(!shown, "{what} shows {secret}: {text}");
    }
}

/// At the level `trace`, by every scheme, where it works and where it does not.
#[tokio::test(flavor = "current_thread")]
async fn what_is_secret_is_shown_nowhere() {
    let log = Log::default();
    log::set_boxed_logger(Box::new(log.clone())).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_ansi(false);
    // For this thread, which is also where all tasks of this runtime run.
    let _guard = subscriber.with_writer(move || writer.clone()).finish().set_default();

    let authority = Authority::new("ours");
    let Certified { chain, key } = authority.certify("localhost", |_| {});
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let certificate =
        format!("certfile {}\nkeyfile {}", file("server.pem", &chain), file("server.key", &key));
    let [tcp, tls, ws, wss] = [free_port(), free_port(), free_port(), free_port()];
    let _broker = Mosquitto::builder()
        .line(format!("listener {tcp} 127.0.0.1\nlistener {tls} 127.0.0.1\n{certificate}"))
        .line(format!("listener {ws} 127.0.0.1\nprotocol websockets"))
        .line(format!("listener {wss} 127.0.0.1\nprotocol websockets\n{certificate}"))
        .start();
    let own = authority.certify("node", |_| {});
    let signing = "hmac-sha256:k1:Q0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZ";
    let mut secrets = ["canary-user", "canary-password", "canary-token"].map(str::to_owned).to_vec();
    secrets.extend([own.key.lines().nth(1).unwrap(), "CANARYCANARY", &signing[15..]].map(str::to_owned));

    let closed = free_port();
    let target = |scheme: &str, port: u16| {
        let query = if scheme.starts_with("ws") { "/mqtt?token=canary-token" } else { "" };
        format!("{scheme}://canary-user:canary-password@localhost:{port}{query}")
    };
    let trust = || authority.tls().identity(own.chain.as_bytes(), own.key.as_bytes()).unwrap();
    let secured = |scheme: &str| scheme == "mqtts" || scheme == "wss";
    for (scheme, port) in [("mqtt", tcp), ("mqtts", tls), ("ws", ws), ("wss", wss)] {
        for version in [MqttVersion::V5, MqttVersion::V311] {
            let ways = [
                (target(scheme, port), trust(), true),
                (target(scheme, closed), trust(), false),
                (target(scheme, port), Authority::new("another").tls(), !secured(scheme)),
            ];
            for (url, tls, works) in ways {
                println!("{scheme} {version:?}, works: {works}");
                let config = MqttConfig::new(&url).unwrap().protocol(version);
                let config = if secured(scheme) { config.tls(tls) } else { config };
                shows_none(&secrets, &format!("{config:?} {config:#?}"), "Debug of the settings");
                let key: emitter_core::signature::SigningKey = signing.parse().unwrap();
                let signatures = Signatures::new(key);
                shows_none(&secrets, &format!("{signatures:?}"), "Debug of the signatures");
                let builder = Emitter::builder().service("tls").node("secretive").mqtt(config);
                let emitter = builder.signatures(signatures).start().await.unwrap();
                let told = || {
                    let status = emitter.transport_status().unwrap().publisher;
                    if works { status.connected } else { status.last_error.is_some() }
                };
                eventually(told).await;
                emitter.publish(OrderCreated::new(Order { id: 7 }));
                if works {
                    eventually(|| emitter.stats().published == 1).await;
                } else {
                    let error = emitter.connected(Duration::from_millis(10)).await.unwrap_err();
                    shows_none(&secrets, &format!("{error} {error:?}"), "an error");
                }
                let shown = format!(
                    "{emitter:?} {:?} {:?} {:?}",
                    emitter.transport_status(),
                    emitter.stats(),
                    emitter.health()
                );
                shows_none(&secrets, &shown, "what a node tells of itself");
                let _ = emitter.shutdown(Duration::from_millis(500)).await;
            }
        }
    }
    // What cannot be read is not quoted, either.
    for wrong in [
        "mqtt://canary-user:canary-password@",
        "mqtt://canary-user:canary-password@h?canary-token=1",
        "canary-password",
    ] {
        let error = MqttConfig::new(wrong).unwrap_err();
        shows_none(&secrets, &format!("{error} {error:?}"), "an error");
    }
    let log = log.text();
    assert!(log.contains("started") && log.contains("localhost"), "{log}");
    shows_none(&secrets, &log, "the log");
}
