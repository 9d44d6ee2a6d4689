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
    let cli = Cli::new([("EMITTER_MQTT", broker.url())]);
    let shop = node(&broker, "a").start().await.unwrap();
    let key = ["tail", "--model", "Order", "--key", "2", "--count", "1", "--json", "--payload"];
    let (one, all, text, kind, none) = tokio::task::block_in_place(|| {
        (
            listening(&cli, &key),
            listening(&cli, &["tail", "--count", "3", "--json"]),
            listening(&cli, &["tail", "--count", "3"]),
            listening(&cli, &["tail", "--kind", "order.create", "--count", "3", "--json"]),
            listening(&cli, &["tail", "--kind", "order.delete", "--count", "1", "--for", "3s"]),
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
            assert!(seen.iter().all(|seen| seen["payload"].is_null() && seen["kind"] == "order.create"));
            assert_eq!(code, Some(0));
        }
        let (seen, code) = lines(text);
        assert!(
            seen.len() == 3 && code == Some(0) && seen[0].contains("order.create  key 1  from shop/a"),
            "{seen:?}"
        );
        assert_eq!(lines(none), (Vec::new(), Some(1)));
    });
    assert!(shop.shutdown(10 * SECOND).await.is_clean());
}

#[test]
fn a_broker_that_is_not_there_is_told_without_its_password() {
    let cli = Cli::new([("EMITTER_MQTT", "mqtt://shop:sesame@127.0.0.1:1".to_owned())]);
    let ran = cli.run(&["tail"]);
    assert!(ran.code == 2 && ran.err.contains("no connection"), "{ran:?}");
    assert!(!ran.err.contains("sesame"), "{ran:?}");
}
