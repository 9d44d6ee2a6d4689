//! What monitoring is answered: a node whose broker or database is away, and one that ends.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_core::listener::ListenerOptions;
use emitter_core::retry::Backoff;
use emitter_core::topic::TopicFilter;
use emitter_core::transport::memory::{MemoryBroker, MemoryTransport};
use emitter_core::transport::mqtt::MqttConfig;
use emitter_core::transport::{
    Confirmation, Delivery, Message, PublishError, Transport, TransportStatus, Unconfirmed,
};
use emitter_diesel::outbox::{Control, Outbox};
use emitter_diesel::tables::Tables;
use emitter_diesel::{Bind, Emit, Emits, Emitter, Event};
use emitter_tests::servers::{Mosquitto, Postgres};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

const SECOND: Duration = Duration::from_secs(1);

/// In every URL, and to be in no answer.
const PASSWORD: &str = "correct-horse";

diesel::table! {
    orders { id -> BigInt, }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Order {
    id: i64,
}

fn order(id: i64) -> OrderCreated {
    OrderCreated::new(Order { id })
}

fn config(broker: &Mosquitto) -> MqttConfig {
    let quick = Duration::from_millis(50);
    let url = broker.url().replace("mqtt://", &format!("mqtt://shop:{PASSWORD}@"));
    let config = MqttConfig::new(&url).unwrap();
    let config = config.reconnect(Backoff { base: quick, cap: quick, jitter: Duration::ZERO }).unwrap();
    config.canary(Some(Duration::from_millis(200))).unwrap()
}

fn builder(config: MqttConfig) -> emitter_core::Builder {
    Emitter::builder().service("shop").node("a").select_listeners(|_| false).mqtt(config)
}

/// A server that answers for a node.
struct Server(SocketAddr);

impl Server {
    async fn start(emitter: &Emitter) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes: axum::Router = emitter_web::health::routes(emitter);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self(address)
    }

    /// The code of an answer, its head, and its body.
    async fn ask(&self, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.0).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(!answer.contains(PASSWORD), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("cache-control: no-store") && head.contains("nosniff"), "{head}");
        (head[9..12].parse().unwrap(), head.to_owned(), body.to_owned())
    }

    #[track_caller]
    fn says(&self, path: &str, code: u16, body: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let (found, _, text) = self.ask(path).await;
            assert!(found == code && text.contains(body), "{caller}: {path}: {found} {text}");
        }
    }

    /// Waits until it is for a new process.
    async fn ends(&self) {
        let begun = Instant::now();
        while self.ask("/livez").await.0 == 200 {
            assert!(begun.elapsed() < 20 * SECOND);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.says("/livez", 503, "only a new process helps").await;
        self.says("/readyz", 503, "only a new process helps").await;
        assert_eq!(self.health(503).await["status"], "unhealthy");
    }

    async fn health(&self, code: u16) -> Value {
        let (found, head, body) = self.ask("/health").await;
        assert_eq!(found, code, "{body}");
        assert!(head.contains("content-type: application/json"), "{head}");
        serde_json::from_str(&body).unwrap()
    }

    /// Waits until it says so.
    #[track_caller]
    fn until(&self, is_so: impl Fn(&Value) -> bool) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        async move {
            let begun = Instant::now();
            loop {
                let health = self.health(200).await;
                if is_so(&health) {
                    return health;
                }
                assert!(begun.elapsed() < 30 * SECOND, "what {caller} waits for is not so: {health}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

fn is_well(health: &Value) -> bool {
    health["status"] == "healthy" && health["error"].is_null() && health["reasons"] == json!([])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_goes_away_and_comes_back() {
    let mut broker = Mosquitto::start();
    let node = builder(config(&broker)).start().await.unwrap();
    let options = ListenerOptions { attempts: Some(1), ..ListenerOptions::default() };
    let _stays = node.on::<OrderCreated>().allow_remote().name("refuse").options(options).run(
        |event: Event<OrderCreated>| async move {
            if event.row.id == 13 { Err("never thirteen") } else { Ok(()) }
        },
    );
    let server = Server::start(&node).await;
    let well = server.until(|health| is_well(health) && !health["response_time_ms"].is_null()).await;
    let time = well["response_time_ms"].as_f64().unwrap();
    assert!((0.001..10_000.0).contains(&time), "{well}");
    assert!(well["last_response"].as_str().unwrap() <= well["last_check"].as_str().unwrap(), "{well}");
    assert_eq!((&well["connections"], &well["dead_letters"]), (&json!(2), &json!(0)));
    let nothing = json!({ "in_memory": 0, "in_outbox": null, "oldest_seconds": 0.0 });
    assert_eq!(well["backlog"], nothing);
    server.says("/livez", 200, "ok\n").await;
    server.says("/readyz", 200, "ok\n").await;

    broker.stop();
    for id in 0..3 {
        node.publish(order(id));
    }
    let away = server.until(|health| health["backlog"]["in_memory"] == 3 && health["connections"] == 0).await;
    assert_eq!(away["status"], "degraded");
    assert!(away["error"].as_str().unwrap().starts_with("no connection for publishing: "), "{away}");
    assert_eq!(away["reasons"].as_array().unwrap().len(), 2, "{away}");
    let is_older = |health: &Value| health["backlog"]["oldest_seconds"].as_f64().unwrap() > 0.5;
    let older = server.until(is_older).await;
    assert_eq!(older["last_response"], away["last_response"]);
    assert!(older["last_check"].as_str() > away["last_check"].as_str());
    // It works all the same, and says what does not.
    server.says("/livez", 200, "ok\n").await;
    server.says("/readyz", 200, "no connection for publishing: ").await;
    server.says("/readyz", 200, "no connection for subscribing: ").await;

    broker.restart();
    let again = server.until(|health| is_well(health) && health["backlog"] == nothing).await;
    assert_eq!(again["connections"], 2);
    let came = server.until(|health| health["last_response"] != well["last_response"]).await;
    assert!(came["last_response"].as_str() > well["last_response"].as_str(), "{came}");

    // A letter is no reason: it would be one for ever.
    node.publish(order(13));
    let buried = server.until(|health| health["dead_letters"] == 1).await;
    assert_eq!(buried["status"], "healthy");
    assert!(node.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ends_is_alive_until_it_has_and_ready_no_more() {
    let broker = Mosquitto::start();
    let node = builder(config(&broker)).start().await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let open = Arc::clone(&gate);
    let _stays = node.on::<OrderCreated>().run(move |_: Event<OrderCreated>| {
        let gate = Arc::clone(&gate);
        async move { gate.acquire_owned().await.map(drop).map_err(|error| error.to_string()) }
    });
    let server = Server::start(&node).await;
    server.until(is_well).await;
    node.publish(order(1));
    let ending = node.clone();
    let ending = tokio::spawn(async move { ending.shutdown(20 * SECOND).await });
    let begun = Instant::now();
    while server.ask("/readyz").await.0 == 200 {
        assert!(begun.elapsed() < 10 * SECOND);
    }
    server.says("/readyz", 503, "the emitter is shut down\n").await;
    server.says("/livez", 200, "ok\n").await;
    let health = server.health(503).await;
    assert_eq!(
        (&health["status"], &health["error"]),
        (&json!("unhealthy"), &json!("the emitter is shut down"))
    );
    open.add_permits(1);
    assert!(ending.await.unwrap().is_clean());
    server.says("/livez", 503, "the emitter is shut down\n").await;
    // The routes keep nothing alive.
    drop((node, _stays));
    for path in ["/livez", "/readyz", "/health"] {
        server.says(path, 503, "the emitter is gone\n").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_tries_no_more_wants_to_be_restarted() {
    let mut broker = Mosquitto::start();
    broker.stop();
    let node = builder(config(&broker).max_retries(2).unwrap()).start().await.unwrap();
    let server = Server::start(&node).await;
    server.ends().await;
    server.says("/readyz", 503, "no connection for publishing: ").await;
    let _ = node.shutdown(SECOND).await;
}

/// An application's own way to others, which cannot bear one of their messages.
struct Brittle(MemoryTransport);

const UNBEARABLE: &[u8] = b"unbearable";

impl Transport for Brittle {
    fn publish(&self, message: Message) -> Result<Confirmation, PublishError> {
        self.0.publish(message)
    }

    fn subscribe(&self, filter: TopicFilter) {
        self.0.subscribe(filter);
    }

    fn unsubscribe(&self, filter: &TopicFilter) {
        self.0.unsubscribe(filter);
    }

    fn next(&self) -> BoxFuture<'_, Option<Delivery>> {
        Box::pin(async {
            let delivery = self.0.next().await;
            assert!(
                delivery.as_ref().is_none_or(|delivery| delivery.payload != UNBEARABLE),
                "it is unbearable"
            );
            delivery
        })
    }

    fn status(&self) -> TransportStatus {
        self.0.status()
    }

    fn close(&self, deadline: Duration) -> BoxFuture<'_, Unconfirmed> {
        self.0.close(deadline)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_which_one_task_died_wants_to_be_restarted() {
    let broker = MemoryBroker::new();
    let builder = Emitter::builder().service("shop").node("a").select_listeners(|_| false);
    let node = builder.transport(Brittle(broker.connect("shop.a"))).start().await.unwrap();
    let _stays =
        node.on::<OrderCreated>().allow_remote().run(|_: Event<OrderCreated>| std::future::ready(()));
    node.connected(10 * SECOND).await.unwrap();
    let server = Server::start(&node).await;
    server.until(is_well).await;
    broker.publish("prisma/events/order/create", UNBEARABLE);
    server.ends().await;
    // What it can still do, it does, until the new process is there.
    node.publish(order(1));
    assert!(node.shutdown(10 * SECOND).await.is_clean());
}

#[test]
fn a_node_whose_runtime_has_ended_wants_to_be_restarted() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (nodes, servers) = (runtime(), runtime());
    let node = Emitter::builder().service("shop").node("a").select_listeners(|_| false);
    let node = nodes.block_on(node.start()).unwrap();
    let _stays = node.on::<OrderCreated>().run(|_: Event<OrderCreated>| std::future::ready(()));
    servers.block_on(async {
        let server = Server::start(&node).await;
        server.until(is_well).await;
        server.says("/livez", 200, "ok\n").await;
        nodes.shutdown_background();
        server.ends().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_goes_away_and_comes_back() {
    let broker = Mosquitto::start();
    let mut database = tokio::task::block_in_place(Postgres::start);
    let url = database.url().replace("test@", &format!("test:{PASSWORD}@"));
    assert!(url.contains(PASSWORD), "{url}");
    let connect = move || PgConnection::establish(&url);
    let tables = Tables::new(connect.clone()).migrate();
    let outbox = Outbox::new(tables.clone());
    let node = builder(config(&broker)).with(outbox).start().await.unwrap();
    let server = Server::start(&node).await;
    server.until(|health| is_well(health) && health["backlog"]["in_outbox"] == 0).await;
    tokio::task::block_in_place(|| {
        Control::open(&tables).unwrap().pause().unwrap();
        let mut db = connect().unwrap();
        db.batch_execute("CREATE TABLE orders (id BIGINT PRIMARY KEY)").unwrap();
        let conn = &mut node.bind(&mut db).unwrap();
        for id in 0..5 {
            let insert = diesel::insert_into(orders::table).values(Order { id });
            let _: Order = insert.emit().durable().get_result(conn).unwrap();
        }
    });
    let resting = server.until(|health| health["backlog"]["in_outbox"] == 5).await;
    assert_eq!((&resting["status"], &resting["backlog"]["in_memory"]), (&json!("healthy"), &json!(0)));

    tokio::task::block_in_place(|| database.kill());
    let away = server.until(|health| health["status"] == "degraded").await;
    assert!(away["error"].as_str().unwrap().starts_with("outbox: it waits for its database: "), "{away}");
    server.says("/readyz", 200, "outbox: it waits for its database: ").await;
    server.says("/livez", 200, "ok\n").await;
    assert_eq!(away["backlog"]["in_outbox"], 5);
    assert!(away["backlog"]["oldest_seconds"].as_f64().unwrap() > 0.0, "{away}");

    tokio::task::block_in_place(|| {
        database.restart();
        Control::open(&tables).unwrap().resume().unwrap();
    });
    let again = server.until(|health| is_well(health) && health["backlog"]["in_outbox"] == 0).await;
    assert_eq!(again["backlog"]["oldest_seconds"], 0.0);
    assert!(node.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_is_told() {
    let broker = Mosquitto::start();
    let database = tokio::task::block_in_place(Postgres::start);
    let url = database.url();
    let tables = Tables::new(move || PgConnection::establish(&url)).migrate();
    let node = builder(config(&broker)).with(Outbox::new(tables)).start().await.unwrap();
    let server = Server::start(&node).await;
    server.until(|health| is_well(health) && health["backlog"]["in_outbox"] == 0).await;
    let frozen = tokio::task::block_in_place(|| database.freeze());
    // It takes 20 s: no statement has a time-out, and so none fails.
    let silent = server.until(|health| health["status"] == "degraded").await;
    let error = silent["error"].as_str().unwrap();
    assert!(error.contains("outbox: no answer from its database for "), "{silent}");
    // What may have been written since then has waited for so long.
    server.until(|health| health["backlog"]["oldest_seconds"].as_f64().unwrap() > 20.0).await;
    drop(frozen);
    server.until(is_well).await;
    assert!(node.shutdown(10 * SECOND).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_panics_when_asked_for_a_connection_is_asked_again() {
    let broker = Mosquitto::start();
    let database = tokio::task::block_in_place(Postgres::start);
    let (panics, url) = (Arc::new(AtomicBool::new(false)), database.url());
    let asked = Arc::clone(&panics);
    let tables = Tables::new(move || {
        assert!(!asked.load(Ordering::SeqCst), "no connection");
        PgConnection::establish(&url)
    });
    let node = builder(config(&broker)).with(Outbox::new(tables.migrate())).start().await.unwrap();
    let server = Server::start(&node).await;
    server.until(is_well).await;
    panics.store(true, Ordering::SeqCst);
    tokio::task::block_in_place(|| {
        let mut db = PgConnection::establish(&database.url()).unwrap();
        let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
        db.batch_execute(others).unwrap();
    });
    let away = server.until(|health| health["status"] == "degraded").await;
    assert!(away["error"].as_str().unwrap().contains("it waits for its database"), "{away}");
    panics.store(false, Ordering::SeqCst);
    server.until(is_well).await;
    assert!(node.shutdown(10 * SECOND).await.is_clean());
}
