//! Events as they pass, at a real broker.

use std::io::{BufRead, BufReader};
use std::process::Child;

use serde_json::Value;

use super::command::{Cli, check};
use super::*;

/// A tail that has said that it listens.
fn listening(cli: &Cli, arguments: &[&str]) -> Child {
    let mut child = cli.command(arguments).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "listening\n");
    child
}

fn lines(child: Child) -> (Vec<String>, Option<i32>) {
    let output = child.wait_with_output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    (out.lines().map(str::to_owned).collect(), output.status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_shown_as_they_pass() {
    let broker = Mosquitto::start();
    let cli = Cli::new([("EMITTER_MQTT_URL", broker.url())]);
    let shop = node(&broker, "a").start().await.unwrap();
    let key = ["tail", "--model", "Order", "--key", "2", "--count", "1", "--json", "--payload"];
    let (one, all, text, kind, none) = tokio::task::block_in_place(|| {
        (
            listening(&cli, &key),
            listening(&cli, &["tail", "--count", "3", "--json"]),
            listening(&cli, &["tail", "--count", "3"]),
            listening(&cli, &["tail", "--kind", "order_created", "--count", "3", "--json"]),
            listening(&cli, &["tail", "--kind", "order_deleted", "--count", "1", "--for", "3s"]),
        )
    });
    let ids: Vec<String> =
        (1..4).map(|id| shop.publish(OrderCreated::new(Order { id, step: 7 })).id.to_string()).collect();
    let read = |line: &String| {
        let seen: Value = serde_json::from_str(line).unwrap();
        check("tail", &seen);
        seen
    };
    tokio::task::block_in_place(|| {
        let (seen, code) = lines(one);
        let seen: Vec<Value> = seen.iter().map(read).collect();
        assert_eq!((seen.len(), code), (1, Some(0)));
        assert_eq!((&seen[0]["id"], &seen[0]["key"]), (&Value::from(&*ids[1]), &Value::from("2")));
        assert_eq!(seen[0]["origin"], "shop/a");
        assert!(seen[0]["payload"].as_str().unwrap().contains("\"step\":7"));
        for (tail, code) in [all, kind].map(lines) {
            let seen: Vec<Value> = tail.iter().map(read).collect();
            assert_eq!(seen.iter().map(|seen| seen["id"].as_str().unwrap()).collect::<Vec<_>>(), ids);
            assert!(seen.iter().all(|seen| seen["payload"].is_null() && seen["kind"] == "order_created"));
            assert_eq!(code, Some(0));
        }
        let (seen, code) = lines(text);
        assert!(
            seen.len() == 3 && code == Some(0) && seen[0].contains("order_created  key 1  from shop/a"),
            "{seen:?}"
        );
        assert_eq!(lines(none), (Vec::new(), Some(1)));
    });
    assert!(shop.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_ends_well_where_nobody_reads_any_more() {
    let broker = Mosquitto::start();
    let cli = Cli::new([("EMITTER_MQTT_URL", broker.url())]);
    let shop = node(&broker, "a").start().await.unwrap();
    let mut tail = tokio::task::block_in_place(|| listening(&cli, &["tail", "--json"]));
    drop(tail.stdout.take());
    let end = std::time::Instant::now() + 20 * SECOND;
    let ended = loop {
        shop.publish(OrderCreated::new(Order { id: 1, step: 7 }));
        tokio::time::sleep(SECOND / 10).await;
        if let Some(status) = tail.try_wait().unwrap() {
            break status;
        }
        assert!(std::time::Instant::now() < end, "it goes on");
    };
    assert_eq!(ended.code(), Some(0));
    assert!(shop.shutdown(10 * SECOND).await.is_clean());
}

/// The settings of an application's environment are those of the command line; but not its name at the broker.
#[tokio::test(flavor = "multi_thread")]
async fn topics_of_any_layout_are_followed() {
    let broker = Mosquitto::start();
    let layout = "tracker/events/{model}/{past_tense}";
    let cli = Cli::new([("EMITTER_MQTT_URL", broker.url())]);
    let profiles = cli.home().join(".config/emitter");
    std::fs::create_dir_all(&profiles).unwrap();
    std::fs::write(profiles.join("profiles.toml"), format!("[laid-out]\nlayout = \"{layout}\"")).unwrap();
    let shop = node(&broker, "a").topic_layout(layout).start().await.unwrap();
    let (said, profile) = tokio::task::block_in_place(|| {
        (
            listening(&cli, &["tail", "--layout", layout, "--count", "1"]),
            listening(&cli, &["tail", "--profile", "laid-out", "--count", "1"]),
        )
    });
    shop.publish(OrderCreated::new(Order { id: 1, step: 7 }));
    tokio::task::block_in_place(|| {
        for (seen, code) in [said, profile].map(lines) {
            let [seen] = &seen[..] else { panic!("{seen:?}") };
            assert!(code == Some(0) && seen.contains("order_created  key 1"), "{seen}");
        }
    });
    assert!(shop.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_a_password_is_reached_by_the_applications_settings() {
    let folder = tempfile::tempdir().unwrap();
    let passwords = folder.path().join("passwords");
    let password = "ses:a@me/?#";
    let made = std::process::Command::new("mosquitto_passwd")
        .args(["-b", "-c", passwords.to_str().unwrap(), "shop", password])
        .status();
    assert!(made.unwrap().success());
    let broker = Mosquitto::builder()
        .line("allow_anonymous false")
        .line(format!("password_file {}", passwords.display()))
        .start();
    let application = |password: &str, more: &[(&'static str, &str)]| {
        let variables = [("EMITTER_MQTT_USERNAME", "shop"), ("EMITTER_MQTT_PASSWORD", password)];
        let all =
            variables.into_iter().chain(more.iter().copied()).map(|(name, value)| (name, value.to_owned()));
        Cli::new(all.chain([("EMITTER_MQTT_URL", broker.url())]))
    };
    let taken = emitter_diesel::transport::mqtt::MqttConfig::new(&broker.url()).unwrap();
    let taken = taken.client_id(emitter_diesel::transport::mqtt::ClientId::new("shop-1").unwrap());
    let taken = taken.credentials("shop", password).unwrap();
    let shop = Emitter::builder().service("shop").node("a").mqtt(taken).start().await.unwrap();
    shop.connected(10 * SECOND).await.unwrap();
    let bench = ["bench", "--messages", "10"];
    tokio::task::block_in_place(|| {
        for more in [&[][..], &[("EMITTER_MQTT_PROTOCOL", "3.1.1")], &[("EMITTER_MQTT_CLIENT_ID", "shop-1")]]
        {
            let ran = application(password, more).run(&bench);
            assert_eq!(ran.code, 0, "{more:?}: {ran:?}");
        }
        // A profile names the broker, and the environment has the password.
        let cli = Cli::new([("EMITTER_MQTT_PASSWORD", password.to_owned())]);
        let profiles = cli.home().join(".config/emitter");
        std::fs::create_dir_all(&profiles).unwrap();
        let url = broker.url().replace("mqtt://", "mqtt://shop@");
        std::fs::write(profiles.join("profiles.toml"), format!("[default]\nmqtt = \"{url}\"")).unwrap();
        assert_eq!(cli.run(&bench).code, 0);
        for (password, more) in [
            ("no:ses:a@me", &[][..]),
            ("no:ses:a@me", &[("EMITTER_MQTT_PROTOCOL", "no:ses:a@me")]),
            ("no:ses:a@me", &[("EMITTER_MQTT_TLS_AUTHORITY", "no:ses:a@me")]),
        ] {
            for arguments in [&bench[..], &["tail"], &["doctor"]] {
                let ran = application(password, more).run(arguments);
                assert!(ran.code == 2 && !format!("{ran:?}").contains(password), "{ran:?}");
            }
        }
    });
    assert!(!broker.log().contains("already connected"), "{}", broker.log());
    assert!(shop.shutdown(10 * SECOND).await.is_clean());
}

#[test]
fn a_broker_that_is_not_there_is_told_without_its_password() {
    let cli = Cli::new([("EMITTER_MQTT_URL", "mqtt://shop:sesame@127.0.0.1:1".to_owned())]);
    let ran = cli.run(&["tail"]);
    assert!(ran.code == 2 && ran.err.contains("no connection"), "{ran:?}");
    assert!(!ran.err.contains("sesame"), "{ran:?}");
}
