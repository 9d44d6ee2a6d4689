//! What is set up wrongly is found, and its cure is told: each wrong set-up is made for the test.

use diesel::connection::SimpleConnection;
use emitter_diesel::outbox::{Control, Outbox};
use emitter_diesel::{Bind, Emit};
use emitter_tests::servers::{MariaDb, Mosquitto, Postgres};

use super::command::{Address, Cli};
use super::databases::{Database, Sqlite};
use super::*;

/// The doctor's exit code is this one, and of the checks that are not well one says each of these.
#[track_caller]
fn finds(cli: &Cli, arguments: &[&str], code: i32, said: &[&str]) {
    let (report, ended) = cli.report("doctor", &[&["doctor"][..], arguments].concat());
    let checks = report["checks"].as_array().unwrap();
    let wrong = checks.iter().filter(|check| check["state"] == "warning" || check["state"] == "error");
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
fn a_broker_that_is_not_there_or_lets_nothing_through_is_found() {
    let at = |url: String| Cli::new([("EMITTER_MQTT", url)]);
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
