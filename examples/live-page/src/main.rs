//! One page that shows orders as they change, whichever server changed them.
//!
//! Run it with `cargo run -p live-page`, and open the address that it prints. Nothing has to be installed: the broker
//! runs inside this process, and so does the second server, a packing station that changes an order every second.

use std::error::Error;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use diesel::prelude::*;
use embedded_broker::EmbeddedBroker;
use emitter_diesel::Emitter;
use emitter_web::stream::{Anybody, Stream};
use orders::OrderEvent;
use tokio::net::TcpListener;

mod orders;
mod page;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter("warn").init();
    let port: u16 = std::env::args().nth(1).as_deref().unwrap_or("8080").parse()?;
    let broker = EmbeddedBroker::start().await?;
    let folder = tempfile::tempdir()?;
    let database = folder.path().join("orders.db").to_string_lossy().into_owned();
    let mut conn = SqliteConnection::establish(&database)?;
    orders::create_table(&mut conn)?;

    let web = server("web", &broker).await?;
    let stream = Stream::<Anybody>::builder().events_for_all::<OrderEvent>().start(&web)?;
    let packing = server("packing", &broker).await?;
    let (stop, packed) = pack(packing.clone(), database);

    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("open http://{} and watch; Ctrl-C ends it", listener.local_addr()?);
    let ending = stream.clone();
    let end = async move {
        asked_to_end().await;
        ending.close(Duration::from_secs(5)).await;
    };
    // Longer nobody keeps the server, whatever it takes of its answers.
    let late = async {
        asked_to_end().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    };
    tokio::select! {
        served = axum::serve(listener, page::router(stream, conn)).with_graceful_shutdown(end).into_future() => served?,
        () = late => {}
    }

    drop(stop);
    packed.await?.map_err(|error| error.to_string())?;
    for server in [packing, web] {
        let left = server.shutdown(Duration::from_secs(5)).await;
        assert!(left.is_clean(), "{left:?}");
    }
    println!("the end");
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

/// In a real application each is a process of its own.
async fn server(name: &str, broker: &EmbeddedBroker) -> Result<Emitter, Box<dyn Error>> {
    Ok(Emitter::builder().service("shop").node(name).mqtt(broker.url().as_str()).start().await?)
}

type Packed = tokio::task::JoinHandle<QueryResult<()>>;

/// The packing station, until the sender is dropped.
fn pack(emitter: Emitter, database: String) -> (Sender<()>, Packed) {
    let (stop, stopped) = channel::<()>();
    let packed = tokio::task::spawn_blocking(move || {
        let mut conn = SqliteConnection::establish(&database).expect("it was opened before");
        for moment in 0.. {
            orders::change(&emitter, &mut conn, moment)?;
            if stopped.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                break;
            }
        }
        Ok(())
    });
    (stop, packed)
}
