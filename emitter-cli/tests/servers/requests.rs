//! What is said while a running node does what it was asked, and when nobody can see it.

use std::io::{BufRead, BufReader, Read};

use diesel::connection::SimpleConnection;
use emitter_diesel::Event;
use emitter_diesel::requests::{Attendant, Requests};
use emitter_tests::eventually::eventually;

use super::command::Cli;
use super::databases::{Database, Sqlite};
use super::*;

/// A node that replays, and orders for that.
async fn shop(server: &Sqlite) -> Emitter {
    let attendant = Attendant::new(server.tables());
    let shop = Emitter::builder().service("shop").node("a").with(attendant).start().await.unwrap();
    shop.on::<OrderCreated>()
        .allow_remote()
        .name("courier")
        .run(|_: Event<OrderCreated>| std::future::ready(()));
    let order = |id| {
        format!(
            "('prisma/events/order/create', '{{\"model\":\"Order\",\"operation\":\"create\",\"args\":{{}},\
             \"result\":{{\"id\":{id},\"step\":0}}}}', 'order', '{id}')"
        )
    };
    let orders: Vec<String> = (0..10).map(order).collect();
    let insert = "INSERT INTO emitter_events_mirror (topic, payload, model, record_id) VALUES";
    server.connect().batch_execute(&format!("{insert} {}", orders.join(", "))).unwrap();
    shop
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_behind_another_one_for_as_long_as_that_takes() {
    let server = tokio::task::block_in_place(Sqlite::with_tables);
    let (shop, cli) = (shop(&server).await, Cli::at(&server));
    let long = ["replay", "--service", "shop", "--all", "--rate", "2", "--no-wait"];
    let first = cli.report("request", &long).0["id"].to_string();
    let second = ["replay", "--service", "shop", "--key", "7", "--patience", "1s"];
    let ran = cli.run(&second);
    assert!(ran.code == 0 && ran.out.contains("1 of 1 handled"), "{ran:?}");
    let says = format!("the request {first} of the service comes first\n");
    assert_eq!(ran.err.matches(&says).count(), 1, "{ran:?}");
    assert_eq!(cli.report("request", &["requests", "show", &first]).0["handled"], 10);
    assert!(shop.shutdown(10 * SECOND).await.is_clean());
    // Nobody is there to do it, whatever was done before.
    let nobody = cli.run(&second);
    assert!(nobody.code == 2 && nobody.err.contains("Attendant"), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_see_goes_on_and_has_a_number() {
    let server = tokio::task::block_in_place(Sqlite::with_tables);
    let (shop, cli) = (shop(&server).await, Cli::at(&server));
    let mut child = cli.command(&["replay", "--service", "shop", "--all", "--rate", "2"]).spawn().unwrap();
    let (mut asked, mut rest) = (String::new(), String::new());
    let mut said = BufReader::new(child.stderr.take().unwrap());
    said.read_line(&mut asked).unwrap();
    assert!(asked.starts_with("request 1 is asked"), "{asked}");
    let requests = Requests::open(&server.tables()).unwrap();
    eventually(|| requests.state(1).unwrap().is_attended).await;
    server.connect().batch_execute("ALTER TABLE emitter_requests RENAME TO away").unwrap();
    said.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.code() == Some(1) && rest.contains("the request 1 goes on"), "{output:?}: {rest}");
    server.connect().batch_execute("ALTER TABLE away RENAME TO emitter_requests").unwrap();
    assert_eq!(cli.run(&["requests", "wait", "1"]).code, 0);
    assert!(shop.shutdown(10 * SECOND).await.is_clean());
}
