//! The dashboard on a shop that sells, whose mail server is away now and then.
//!
//! Run it with `cargo run -p dashboard`, and open the address that it prints. Nothing has to be installed: the broker and
//! the database run inside this process, and so does the courier, which is a service of its own.

use std::error::Error;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use axum::Router;
use axum::http::header::HOST;
use axum::http::request::Parts;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::ConnectionResult;
use embedded_broker::EmbeddedBroker;
use emitter_diesel::catch_up::CatchUp;
use emitter_diesel::dead_letters::DeadLetters;
use emitter_diesel::mirror::Mirror;
use emitter_diesel::outbox::Outbox;
use emitter_diesel::tables::Tables;
use emitter_diesel::{Emitter, HashKey};
use emitter_web::dashboard::{Dashboard, DashboardConfig, Visitor};
use orders::{LoginFailed, MailServer, OrderEvent};
use tokio::net::TcpListener;

mod orders;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter("error,emitter_web::audit=info").init();
    let port: u16 = std::env::args().nth(1).as_deref().unwrap_or("8080").parse()?;
    let broker = EmbeddedBroker::start().await?;
    let folder = tempfile::tempdir()?;
    let database = folder.path().join("shop.db").to_string_lossy().into_owned();
    orders::create_table(&mut connect(&database)?)?;
    let path = database.clone();
    let tables = Tables::new(move || connect(&path)).lanes(8).migrate();

    let key = HashKey::new(&[7; 32])?; // of your configuration, and kept like a password
    // In a real application each is a process of its own.
    let shop = Emitter::builder()
        .service("shop")
        .node("web-1")
        .mqtt(broker.url().as_str())
        .hash_key(key.clone())
        .state(MailServer::default())
        .with(Outbox::new(tables.clone()))
        .with(DeadLetters::new(tables.clone()))
        .with(Mirror::new(tables.clone()))
        .select_listeners(|info| info.name != "dispatch")
        .start()
        .await?;
    let courier = Emitter::builder()
        .service("delivery")
        .node("courier-1")
        .mqtt(broker.url().as_str())
        .hash_key(key)
        .with(CatchUp::new(tables.clone()))
        .select_listeners(|info| info.name == "dispatch")
        .start()
        .await?;

    let config = DashboardConfig { sample_every: Duration::from_secs(2), ..DashboardConfig::default() };
    let dashboard = Dashboard::builder(&shop).tables(&tables).config(config);
    let dashboard = dashboard.live::<OrderEvent>().live::<LoginFailed>().start(who).await?;
    let (stop, sold) = sell(shop.clone(), database);

    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("open http://{}/ops and look around; Ctrl-C ends it", listener.local_addr()?);
    let ending = dashboard.clone();
    let end = async move {
        asked_to_end().await;
        ending.close(Duration::from_secs(5)).await;
    };
    // Longer nobody keeps the server, whatever it takes of its answers.
    let late = async {
        asked_to_end().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    };
    let app = Router::new().nest("/ops", dashboard.router());
    tokio::select! {
        served = axum::serve(listener, app).with_graceful_shutdown(end).into_future() => served?,
        () = late => {}
    }

    drop(stop);
    sold.await?.map_err(|error| error.to_string())?;
    for server in [shop, courier] {
        let left = server.shutdown(Duration::from_secs(5)).await;
        println!("left undone: {left:?}");
    }
    Ok(())
}

/// When this process is asked to end: by Ctrl-C, or by SIGTERM, as Kubernetes, Docker and systemd do it.
async fn asked_to_end() {
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signals) => drop(signals.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        // Where that cannot be waited for, it ends at once.
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

/// Whoever reaches this machine by these names. A page of another site, whose name somebody has turned to this machine, says
/// its own.
async fn who(request: Parts) -> Option<Visitor> {
    let host = request.headers.get(HOST)?.to_str().ok()?;
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "127.0.0.1" | "localhost").then(|| Visitor::operator("you"))
}

fn connect(path: &str) -> ConnectionResult<SqliteConnection> {
    let mut connection = SqliteConnection::establish(path)?;
    let set_up = connection.batch_execute("PRAGMA busy_timeout = 20000; PRAGMA journal_mode = WAL");
    set_up.map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}

type Sold = tokio::task::JoinHandle<QueryResult<()>>;

/// Sells until the sender is dropped.
fn sell(shop: Emitter, database: String) -> (Sender<()>, Sold) {
    let (stop, stopped) = channel::<()>();
    let sold = tokio::task::spawn_blocking(move || {
        let mut conn = connect(&database).expect("it was opened before");
        for moment in 0.. {
            orders::change(&shop, &mut conn, moment)?;
            if stopped.recv_timeout(Duration::from_millis(200)) != Err(RecvTimeoutError::Timeout) {
                break;
            }
        }
        Ok(())
    });
    (stop, sold)
}
