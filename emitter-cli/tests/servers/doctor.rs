//! What is set up wrongly is found, and its cure is told: each wrong set-up is made for the test.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use diesel::connection::SimpleConnection;
use emitter_diesel::outbox::{Control, Outbox};
use emitter_diesel::topic::{ModelTopic, Topic, Topics};
use emitter_diesel::transport::mqtt::{ClientId, MqttConfig, MqttTransport};
use emitter_diesel::transport::{Delivery, Message, Transport};
use emitter_diesel::{Bind, Emit, Event};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::{MariaDb, Mosquitto, Postgres};

use super::command::{Address, Cli};
use super::databases::{Database, Sqlite};
use super::*;

/// The doctor's exit code is this one, and of the checks that are not well one says each of these.
#[track_caller]
fn finds(cli: &Cli, arguments: &[&str], code: i32, said: &[&str]) {
    let (report, ended) = cli.report("doctor", &[&["doctor"][..], arguments].concat());
    let checks = report["checks"].as_array().unwrap();
    let is_wrong = |check: &&serde_json::Value| check["state"] == "warning" || check["state"] == "error";
    // Which one is installed has a test of its own.
    let is_old = |check: &&serde_json::Value| check["check"] == "version" && is_wrong(check);
    let code = if checks.iter().any(|check| is_old(&check)) { code.max(1) } else { code };
    let wrong = checks.iter().filter(is_wrong).filter(|check| !is_old(check));
    let wrong: Vec<String> = wrong.map(|check| format!("{}: {}", check["check"], check["found"])).collect();
    assert_eq!(ended, code, "{report:#}");
    for what in said {
        assert!(wrong.iter().any(|wrong| wrong.contains(what)), "{what}: {report:#}");
    }
    assert_eq!(wrong.is_empty(), said.is_empty(), "{report:#}");
}

#[test]
fn a_database_that_is_not_there_or_has_no_such_tables_is_found() {
    let cli = Cli::new([("EMITTER_DATABASE", "postgres://shop:sesame@127.0.0.1:1/shop".to_owned())]);
    finds(&cli, &[], 2, &["does it run"]);
    assert!(!cli.run(&["doctor"]).out.contains("sesame"));
    let server = Sqlite::start();
    let cli = Cli::at(&server);
    finds(&cli, &[], 2, &["emitter migrate"]);
    Control::open(&server.tables()).unwrap();
    finds(&cli, &[], 0, &[]);
    finds(&cli, &["--table-prefix", "other_"], 2, &["emitter migrate"]);
    let newer = "INSERT INTO emitter_schema (version, outbox_id, lanes, applied_at) VALUES (99, 'x', 16, '')";
    server.connect().batch_execute(newer).unwrap();
    finds(&cli, &[], 2, &["use a newer one"]);
    assert_eq!(Cli::new([]).run(&["doctor"]).code, 2);
}

#[test]
fn settings_by_which_a_database_forgets_or_waits_are_found() {
    let sqlite = Sqlite::start();
    Control::open(&sqlite.tables()).unwrap();
    sqlite.connect().batch_execute("PRAGMA journal_mode = DELETE").unwrap();
    finds(&Cli::at(&sqlite), &[], 1, &["PRAGMA journal_mode = WAL"]);
    let mariadb = MariaDb::start();
    Control::open(&mariadb.tables()).unwrap();
    finds(&Cli::at(&mariadb), &[], 1, &["innodb_flush_log_at_trx_commit"]);
    // The test's server has fsync off.
    let postgres = Postgres::start();
    Control::open(&postgres.tables()).unwrap();
    finds(&Cli::at(&postgres), &[], 1, &["`fsync`"]);
    let asynchronous = format!("{}?options=-c%20synchronous_commit%3Doff", postgres.address());
    finds(&Cli::new([("EMITTER_DATABASE", asynchronous)]), &[], 1, &["`fsync`", "`synchronous_commit`"]);
    // As a server has it whose clock is an hour late.
    let late = "CREATE SCHEMA late; CREATE FUNCTION late.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \
                $$ SELECT pg_catalog.clock_timestamp() - interval '3600.5 seconds' $$";
    postgres.connect().batch_execute(late).unwrap();
    let late = format!("{}?options=-c%20search_path%3Dlate%2Cpg_catalog%2Cpublic", postgres.address());
    let cli = Cli::new([("EMITTER_DATABASE", late)]);
    finds(&cli, &[], 1, &["`fsync`", "its clock is 3600 s behind this program's"]);
    assert!(cli.run(&["doctor"]).out.contains("have both set by NTP"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_that_stands_still_is_found() {
    let server = tokio::task::block_in_place(Sqlite::with_tables);
    let cli = Cli::at(&server);
    let mut outbox = Control::open(&server.tables()).unwrap();
    outbox.pause().unwrap();
    finds(&cli, &[], 1, &["emitter outbox resume"]);
    outbox.resume().unwrap();
    finds(&cli, &[], 0, &[]);
    let broker = Mosquitto::start();
    let writer = Outbox::new(server.tables()).without_relay();
    let emitter = node(&broker, "writer").with(writer).start().await.unwrap();
    let mut db = server.connect();
    let order = Order { id: 1, step: 1 };
    let insert = diesel::insert_into(orders::table).values(&order).emit().durable();
    let _: Order = insert.get_result(&mut emitter.bind(&mut db).unwrap()).unwrap();
    finds(&cli, &[], 1, &["no relay is there"]);
    db.batch_execute("UPDATE emitter_outbox SET status = 'FAILED'").unwrap();
    finds(&cli, &[], 1, &["emitter outbox given-up list"]);
    assert!(emitter.shutdown(10 * SECOND).await.is_clean());
}

#[test]
fn the_brokers_version_is_told() {
    let installed = std::process::Command::new("mosquitto").arg("-h").output().unwrap();
    let installed = String::from_utf8(installed.stdout).unwrap();
    let installed = installed.lines().next().unwrap();
    let version = installed.strip_prefix("mosquitto version ").unwrap();
    let newer =
        version.split('.').map(|part| part.parse::<u32>().unwrap()).collect::<Vec<_>>() >= vec![2, 0, 13];
    let broker = Mosquitto::start();
    for url in [broker.url(), format!("{}?protocol=3.1.1", broker.url())] {
        let (report, code) = Cli::new([("EMITTER_MQTT_URL", url)]).report("doctor", &["doctor"]);
        let checks = report["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["check"] == "version").unwrap();
        assert!(check["found"].as_str().unwrap().contains(installed), "{check}");
        let (state, ended) = if newer { ("ok", 0) } else { ("warning", 1) };
        assert_eq!((check["state"].as_str(), code), (Some(state), ended), "{report:#}");
    }
    let silent = Mosquitto::builder().line("sys_interval 0").start();
    let (report, code) = Cli::new([("EMITTER_MQTT_URL", silent.url())]).report("doctor", &["doctor"]);
    let told = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["check"] == "version")
        .unwrap()
        .clone();
    assert!(code == 0 || told["state"] == "warning", "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_are_told_of_every_node_that_announces_itself() {
    let broker = Mosquitto::start();
    let cli = Cli::new([("EMITTER_MQTT_URL", broker.url())]);
    let (report, code) = cli.report("listeners", &["listeners"]);
    assert_eq!((code, &report["nodes"]), (1, &serde_json::json!([])), "{report}");
    let shop = node(&broker, "a").start().await.unwrap();
    let _ = shop
        .on::<OrderCreated>()
        .allow_remote()
        .name("courier")
        .run(|_: Event<OrderCreated>| std::future::ready(()));
    let billing = node(&broker, "b").service("billing").start().await.unwrap();
    let listeners = |arguments: &[&str]| cli.report("listeners", &[&["listeners"][..], arguments].concat());
    eventually(|| {
        listeners(&[]).0.to_string().contains("courier")
            && listeners(&[]).0["nodes"].as_array().unwrap().len() == 2
    })
    .await;
    let (report, code) = listeners(&["--service", "shop"]);
    let [found] = &report["nodes"].as_array().unwrap()[..] else { panic!("{report}") };
    let courier = serde_json::json!({ "name": "courier", "model": "order", "operation": "create", "hears": "everything", "group": null });
    assert_eq!((code, &found["node"], &found["listeners"]), (0, &"a".into(), &serde_json::json!([courier])));
    assert_eq!(listeners(&["--model", "Order"]).1, 0);
    assert_eq!(listeners(&["--model", "user"]).1, 1);
    let text = cli.run(&["listeners"]);
    assert!(text.out.contains("courier  create of order, hears everything"), "{text:?}");
    // Whoever may publish there may say anything, and as much as he likes.
    let stranger =
        MqttTransport::start(MqttConfig::new(&broker.url()).unwrap(), ClientId::new("stranger").unwrap());
    for (node, name) in [("c", "c".to_owned()), ("d", "d".repeat(70_000))] {
        let listener =
            serde_json::json!({ "name": name, "model": "order", "hears": "others", "group": "\u{1b}desk" });
        let said = serde_json::json!({
            "service": "shop", "node": node, "incarnation": "", "status": "online", "listeners": [listener], "more": 7,
        });
        let topic = Topic::parse(&format!("prisma/events/_nodes/shop.{node}")).unwrap();
        let message = Message { retain: true, ..Message::new(topic, said.to_string()) };
        stranger.publish(message).unwrap().await.unwrap();
    }
    let text = cli.run(&["listeners"]).out;
    assert!(
        text.contains("c  everything of order, hears others, in the group ") && !text.contains('\u{1b}'),
        "{text}"
    );
    assert!(text.contains("and 7 more") && !text.contains("ddd"), "{text}");
    for node in ["c", "d"] {
        let topic = Topic::parse(&format!("prisma/events/_nodes/shop.{node}")).unwrap();
        let message = Message { retain: true, ..Message::new(topic, Vec::<u8>::new()) };
        stranger.publish(message).unwrap().await.unwrap();
    }
    for emitter in [shop, billing] {
        assert!(emitter.shutdown(10 * SECOND).await.is_clean());
    }
    eventually(|| listeners(&[]).1 == 1).await;
    assert_eq!(listeners(&["--gone"]).0["nodes"].as_array().unwrap().len(), 2);
    let forbidding = Mosquitto::builder().forbid("prisma/events/_nodes/#").start();
    let refused = Cli::new([("EMITTER_MQTT_URL", forbidding.url())]).run(&["listeners"]);
    assert!(refused.code == 2 && refused.err.contains("emitter doctor"), "{refused:?}");
}

/// Somebody who publishes each message of `bench` and the like once more.
struct Parrot {
    said: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl Parrot {
    fn start(broker: &Mosquitto) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let said = Arc::new(AtomicUsize::new(0));
        let (config, also) = (MqttConfig::new(&broker.url()).unwrap(), Arc::clone(&said));
        runtime.block_on(async {
            let transport = MqttTransport::start(config, ClientId::new("parrot").unwrap());
            transport.subscribe(Topics::default().model_filter(&ModelTopic::new("_canary").unwrap()));
            eventually(|| transport.status().subscriptions == 1).await;
            tokio::spawn(async move {
                let mut heard = HashSet::new();
                while let Some(Delivery { topic, payload, ack, .. }) = transport.next().await {
                    if heard.insert(payload.clone()) {
                        let _ = transport.publish(Message::new(Topic::parse(&topic).unwrap(), payload));
                        also.fetch_add(1, Ordering::Relaxed);
                    }
                    ack.done();
                }
            });
        });
        Self { said, _runtime: runtime }
    }

    fn said(&self) -> usize {
        self.said.load(Ordering::Relaxed)
    }
}

#[test]
fn a_bench_tells_rates_latencies_and_what_was_lost() {
    let broker = Mosquitto::start();
    let cli = Cli::new([("EMITTER_MQTT_URL", broker.url())]);
    let begun = std::time::Instant::now();
    let (report, code) = cli.report("bench", &["bench", "--messages", "500", "--bytes", "100"]);
    assert_eq!((code, &report["received"], &report["lost"]), (0, &500.into(), &0.into()), "{report}");
    let latency = |name: &str| report["latency_us"][name].as_u64().unwrap();
    assert!(
        0 < latency("p50") && latency("p50") <= latency("p99") && latency("p99") <= latency("max"),
        "{report}"
    );
    assert!(u128::from(latency("max")) < begun.elapsed().as_micros(), "{report}");
    assert!(report["received_per_second"].as_f64() > Some(1.0), "{report}");
    // One that sends everything once more: what came is counted once.
    let parrot = Parrot::start(&broker);
    let begun = std::time::Instant::now();
    let (report, code) = cli.report("bench", &["bench", "--messages", "60", "--rate", "30", "--qos", "0"]);
    assert_eq!((code, &report["received"]), (0, &60.into()), "{report}");
    for rate in ["published_per_second", "received_per_second"] {
        assert!((1.0..40.0).contains(&report[rate].as_f64().unwrap()), "{report}");
    }
    assert!(begun.elapsed() > Duration::from_millis(1_900) && parrot.said() > 30, "{report}");
    let small = Mosquitto::builder().line("max_packet_size 65536").start();
    let small =
        Cli::new([("EMITTER_MQTT_URL", small.url())]).run(&["bench", "--messages", "1", "--bytes", "70000"]);
    assert!(small.code == 2 && small.err.contains("it is not published"), "{small:?}");
    let text = cli.run(&["bench", "--messages", "10"]);
    assert!(text.code == 0 && text.out.contains("received   10"), "{text:?}");

    // Nothing else than the quality of service shows by it.
    let fleeting = Mosquitto::builder().line("max_qos 0").start();
    let fleeting = Cli::new([("EMITTER_MQTT_URL", fleeting.url())]);
    for (qos, code) in [("1", 2), ("0", 0)] {
        let ran = fleeting.run(&["bench", "--messages", "1", "--patience", "1s", "--qos", qos]);
        assert_eq!(ran.code, code, "{qos}: {ran:?}");
    }

    let forbidding = Mosquitto::builder().forbid("prisma/events/_canary/#").start();
    let refused = Cli::new([("EMITTER_MQTT_URL", forbidding.url())]).run(&["bench"]);
    assert!(refused.code == 2 && refused.err.contains("emitter doctor"), "{refused:?}");
    // Over MQTT 3.1.1 it confirms what it drops; the test's one hangs up then.
    let folder = tempfile::tempdir().unwrap();
    let acl = folder.path().join("acl");
    std::fs::write(&acl, "topic read #\n").unwrap();
    let mute = Mosquitto::builder().line(format!("acl_file {}", acl.display())).start();
    let old = Cli::new([("EMITTER_MQTT_URL", format!("{}?protocol=3.1.1", mute.url()))]);
    let (report, code) = old.report("bench", &["bench", "--messages", "1", "--patience", "2s"]);
    assert_eq!(
        (code, &report["lost"], &report["latency_us"]),
        (1, &1.into(), &serde_json::Value::Null),
        "{report}"
    );
    let many = old.run(&["bench", "--messages", "5000", "--patience", "1s"]);
    assert!(many.code == 2 && many.err.contains("confirms nothing any more"), "{many:?}");
    assert_eq!(Cli::new([("EMITTER_MQTT_URL", "mqtt://127.0.0.1:1".to_owned())]).run(&["bench"]).code, 2);
}

#[test]
fn a_broker_that_is_not_there_or_lets_nothing_through_is_found() {
    let at = |url: String| Cli::new([("EMITTER_MQTT_URL", url)]);
    finds(&at("mqtt://shop:sesame@127.0.0.1:1".to_owned()), &[], 2, &["does it run"]);
    let good = Mosquitto::start();
    finds(&at(good.url()), &[], 0, &[]);
    finds(&at(format!("{}?protocol=3.1.1", good.url())), &[], 0, &[]);

    let forbidding = Mosquitto::builder().forbid("prisma/events/_canary/#").start();
    finds(&at(forbidding.url()), &[], 2, &["the broker refuses prisma/events/_canary/"]);
    finds(&at(forbidding.url()), &["--prefix", "shop/events"], 0, &[]);

    let folder = tempfile::tempdir().unwrap();
    let acl = folder.path().join("acl");
    std::fs::write(&acl, "topic read #\n").unwrap();
    let mute = Mosquitto::builder().line(format!("acl_file {}", acl.display())).start();
    finds(&at(mute.url()), &[], 2, &["allow it in the broker's access list"]);
    // Over MQTT 3.1.1 it confirms what it forbids.
    let old = format!("{}?protocol=3.1.1", mute.url());
    finds(&at(old), &["--patience", "1s"], 2, &["was confirmed and did not come back"]);

    let small = Mosquitto::builder().line("max_packet_size 65536").start();
    finds(&at(small.url()), &[], 1, &["the limit is"]);
    finds(&at(small.url()), &["--largest", "1000"], 0, &[]);

    let limited = Mosquitto::builder().line("message_size_limit 1000").start();
    finds(&at(limited.url()), &["--patience", "1s"], 2, &["`message_size_limit`"]);
    finds(&at(limited.url()), &["--largest", "900"], 0, &[]);

    let fleeting = Mosquitto::builder().line("max_qos 0").start();
    finds(&at(fleeting.url()), &["--patience", "1s"], 2, &["take messages of QoS 1"]);
    let forgetful = Mosquitto::builder().line("retain_available false").start();
    finds(&at(forgetful.url()), &["--patience", "1s"], 1, &["`retain_available`"]);
    let full = Mosquitto::builder().line("max_connections 2").start();
    let _parrot = Parrot::start(&full);
    finds(&at(full.url()), &[], 2, &["Does it take more connections"]);

    let narrow = Mosquitto::builder().line("max_inflight_messages 1").start();
    finds(&at(narrow.url()), &[], 1, &["1 message at a time"]);
    finds(&at(format!("{}?window=1", good.url())), &[], 1, &["`window`"]);

    let passwords = folder.path().join("passwords");
    std::fs::write(&passwords, "").unwrap();
    let closed = Mosquitto::builder()
        .line("allow_anonymous false")
        .line(format!("password_file {}", passwords.display()));
    let closed = closed.start();
    let url = closed.url().replace("mqtt://", "mqtt://shop:sesame@");
    finds(&at(url.clone()), &[], 2, &["are address, user and password right?"]);
    assert!(!at(url).run(&["doctor"]).out.contains("sesame"));
}
