//! An order server completes orders, and two notification servers tell the customers: each gets one e-mail, and a
//! message to the page that he or she has open, at whichever server that is.
//!
//! Run it with `cargo run -p notifications`; nothing has to be installed.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::error::Error;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use embedded_broker::EmbeddedBroker;
use emitter_diesel::{Bind, Emit, Emits, Emitter, Event, StartError, State, listener, update};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

diesel::table! { orders { id -> Integer, user_id -> Integer, user_email -> Text, status -> Text, note -> Text, } }

#[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct Order {
    id: i32,
    user_id: i32,
    user_email: String,
    status: String,
    note: String,
}

/// On one of the notification servers, which form a group: the customer gets one e-mail, however many they are.
#[listener(model = "order", group = "mail", data(status = "COMPLETED"), retry(attempts = 5, backoff = "1s"))]
async fn send_email(event: Event<OrderUpdated>, customers: State<Customers>) -> Result<(), Unsent> {
    customers.email(&event.after.user_email, &format!("order {} is completed", event.key()))
}

/// On every server but the one that wrote, which shows the order itself: nobody knows at which of them the customer has
/// a page open.
#[listener(model = "order", allow_remote, remote_only, data(status = "COMPLETED"))]
async fn send_push(event: Event<OrderUpdated>, customers: State<Customers>) -> Result<(), Unsent> {
    let text = format!("order {} is completed, source {}", event.key(), event.source());
    customers.push(event.after.user_id, &text)
}

/// What a server is there for.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Orders,
    Notifications,
}

/// All that makes a program one of the servers.
async fn start(node: &str, role: Role, broker: &str, customers: Customers) -> Result<Emitter, StartError> {
    Emitter::builder()
        .service("shop")
        .node(node)
        .mqtt(broker)
        .topic_prefix("app/events")
        .state(customers)
        // An order server sends no e-mails: without the listener it is no member of the group.
        .select_listeners(move |listener| role == Role::Notifications || listener.name != "send_email")
        .start()
        .await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = EmbeddedBroker::start().await?;
    let (sent, mut outcome) = unbounded_channel();
    let mut servers = Vec::new();
    for (name, role, open) in [
        ("orders-1", Role::Orders, vec![]),
        ("notifications-1", Role::Notifications, vec![7]),
        ("notifications-2", Role::Notifications, vec![8]),
    ] {
        let customers = Customers { server: name, open, sent: sent.clone() };
        let server = start(name, role, &broker.url(), customers).await?;
        // No order is completed before all are listening.
        server.connected(Duration::from_secs(10)).await?;
        servers.push(server);
    }
    let mut db = SqliteConnection::establish(":memory:")?;
    db.batch_execute(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL, user_email TEXT NOT NULL,
             status TEXT NOT NULL, note TEXT NOT NULL)",
    )?;
    let conn = &mut servers[0].bind(&mut db)?;

    println!("orders-1 takes an order of ada's and one of bob's, and packs them. Nobody is told.\n");
    let mut taken = Vec::new();
    for (user_id, user_email) in [(7, "ada@example.com"), (8, "bob@example.com")] {
        let user = (orders::user_id.eq(user_id), orders::user_email.eq(user_email));
        let values = (user, orders::status.eq("NEW"), orders::note.eq(""));
        let order: Order = diesel::insert_into(orders::table).values(values).emit().get_result(conn)?;
        update(&order).set(orders::status.eq("PACKED")).emit::<Order>().get_result(conn)?;
        taken.push(order);
    }
    for (order, customer) in taken.iter().zip(["ada", "bob"]) {
        println!("orders-1 completes the order of {customer}, with .emit():");
        update(order).set(orders::status.eq("COMPLETED")).emit::<Order>().get_result(conn)?;
        tell(3, &mut outcome).await?;
    }
    println!("orders-1 writes a note on an order that is completed. Nobody is told.\n");
    update(&taken[0]).set(orders::note.eq("left at the door")).emit::<Order>().get_result(conn)?;

    println!("In the end:");
    let mut calls = 0;
    for server in &servers {
        let (name, report) = (&server.origin().node, server.shutdown(Duration::from_secs(5)).await);
        if !report.is_clean() {
            return Err(format!("{name} left work undone: {report:?}").into());
        }
        calls += server.stats().handled;
    }
    println!("    {calls} calls for two completed orders: for each of them an e-mail and two pushes");
    broker.stop().await;
    match (calls, outcome.try_recv()) {
        (6, Err(_)) => Ok(()),
        (calls, told) => Err(format!("{calls} calls, and somebody was told too much: {told:?}").into()),
    }
}

/// How customers are reached from a server.
struct Customers {
    server: &'static str,
    /// Whose page is open here.
    open: Vec<i32>,
    sent: UnboundedSender<String>,
}

type Unsent = &'static str;

impl Customers {
    fn email(&self, to: &str, text: &str) -> Result<(), Unsent> {
        // Which of them it is, the broker decides; so it is not said here.
        let line = format!("    one notification server sends an e-mail to {to}: {text}");
        self.sent.send(line).map_err(|_| "the mail server is away")
    }

    fn push(&self, user: i32, text: &str) -> Result<(), Unsent> {
        let shown = if self.open.contains(&user) { "shows user" } else { "has no page of user" };
        self.sent.send(format!("    {} {shown} {user}: {text}", self.server)).map_err(|_| "nobody looks")
    }
}

/// Prints the next `count` lines, in the same order each time, and fails if they do not come.
async fn tell(count: usize, outcome: &mut UnboundedReceiver<String>) -> Result<(), Box<dyn Error>> {
    let mut lines = Vec::new();
    while lines.len() < count {
        lines.extend(timeout(Duration::from_secs(10), outcome.recv()).await?);
    }
    lines.sort();
    println!("{}\n", lines.join("\n"));
    Ok(())
}
