//! Services without a database: two login servers tell of each login that fails, a guard counts them and locks the account at
//! the third, and both login servers know of that. They depend on `emitter-core` alone.
//!
//! Run it with `cargo run -p failed-logins`; nothing has to be installed.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use embedded_broker::EmbeddedBroker;
use emitter_core::{Context, Emits, Emitter, Event, StartError, State, listener};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

/// At the third failure an account is locked.
const MOST: u32 = 3;

/// What happens to no row. Those of one user come in order.
#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event, topic = "auth/login_failed", key(username), qos = 1)]
struct LoginFailed {
    username: String,
    address: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event, topic = "auth/account_locked", key(username), qos = 2)]
struct AccountLocked {
    username: String,
    failures: u32,
}

/// At the guard: counts, and has the account locked everywhere. That event carries this one as its cause.
#[listener(model = "login_failed", allow_remote)]
async fn count(event: Event<LoginFailed>, server: State<Server>, context: Context) {
    let failures = server.one_more(&event.username);
    server.say(&format!("failure {failures} of {}, from {}", event.username, event.address));
    if let (MOST, Some(emitter)) = (failures, context.emitter()) {
        emitter.publish(AccountLocked { username: event.username.clone(), failures });
    }
}

/// At each login server.
#[listener(model = "account_locked", allow_remote)]
async fn lock(event: Event<AccountLocked>, server: State<Server>) {
    server.locked().insert(event.username.clone());
    server.say(&format!("{} is locked after {} failures", event.username, event.failures));
}

/// All that makes a program one of the servers: the guard counts, the others lock.
async fn start(
    node: &'static str,
    broker: &str,
    said: &UnboundedSender<String>,
) -> Result<Emitter, StartError> {
    let own = if node == "guard" { "count" } else { "lock" };
    Emitter::builder()
        .service("auth")
        .node(node)
        .mqtt(broker)
        .state(Server::new(node, said.clone()))
        .select_listeners(move |listener| listener.name == own)
        .start()
        .await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let broker = EmbeddedBroker::start().await?;
    let (said, mut outcome) = unbounded_channel();
    let mut servers = Vec::new();
    for node in ["login-1", "login-2", "guard"] {
        let server = start(node, &broker.url(), &said).await?;
        // Nobody logs in before all are listening.
        server.connected(Duration::from_secs(10)).await?;
        servers.push(server);
    }
    let (login_1, login_2) = (&servers[0], &servers[1]);

    println!("ada mistypes her password once, and somebody tries bob's at both servers:");
    for (server, username, address) in [
        (login_1, "ada", "192.0.2.7"),
        (login_1, "bob", "198.51.100.1"),
        (login_2, "bob", "198.51.100.2"),
        (login_1, "bob", "198.51.100.3"),
    ] {
        server.publish(LoginFailed { username: username.to_owned(), address: address.to_owned() });
        tell(1, &mut outcome).await?;
    }
    println!("both servers are told by the guard:");
    tell(2, &mut outcome).await?;

    for server in [login_1, login_2] {
        let locked = server.state::<Server>().map(|server| server.locked().clone());
        if locked != Some(HashSet::from(["bob".to_owned()])) {
            return Err(format!("{} locked {locked:?}", server.origin().node).into());
        }
    }
    println!("at each of them bob is locked, and ada is not");
    for server in servers {
        let report = server.shutdown(Duration::from_secs(5)).await;
        if !report.is_clean() {
            return Err(format!("{} left work undone: {report:?}", server.origin().node).into());
        }
    }
    broker.stop().await;
    Ok(())
}

/// What a server knows, in memory.
struct Server {
    node: &'static str,
    failures: Mutex<HashMap<String, u32>>,
    locked: Mutex<HashSet<String>>,
    said: UnboundedSender<String>,
}

impl Server {
    fn new(node: &'static str, said: UnboundedSender<String>) -> Self {
        Self { node, failures: Mutex::default(), locked: Mutex::default(), said }
    }

    fn one_more(&self, username: &str) -> u32 {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = failures.entry(username.to_owned()).or_default();
        *of_user += 1;
        *of_user
    }

    fn locked(&self) -> MutexGuard<'_, HashSet<String>> {
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, text: &str) {
        // Nobody listens any more when the program ends.
        let _ = self.said.send(format!("    {}: {text}", self.node));
    }
}

/// Prints the next `count` lines, in the same order each time, and fails if they do not come.
async fn tell(count: usize, outcome: &mut UnboundedReceiver<String>) -> Result<(), Box<dyn Error>> {
    let mut lines = Vec::new();
    while lines.len() < count {
        lines.extend(timeout(Duration::from_secs(10), outcome.recv()).await?);
    }
    lines.sort();
    println!("{}", lines.join("\n"));
    Ok(())
}
