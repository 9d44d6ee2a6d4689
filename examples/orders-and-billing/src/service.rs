//! What both services have: a database with the framework's tables in it, and a node with an outbox, an inbox and a
//! memory of how far it heard.

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::ConnectionResult;
use emitter_diesel::Emitter;
use emitter_diesel::catch_up::{CatchUp, Since};
use emitter_diesel::inbox::Inbox;
use emitter_diesel::outbox::Outbox;
use emitter_diesel::tables::Tables;
use tracing_subscriber::EnvFilter;

/// What the two differ in.
pub(crate) struct Setup {
    pub(crate) name: &'static str,
    pub(crate) listener: &'static str,
    /// The service's own tables, which it makes where they are not.
    pub(crate) tables: &'static str,
}

/// A service that runs.
pub(crate) struct Service {
    pub(crate) emitter: Emitter,
    pub(crate) database: SqliteConnection,
    pub(crate) rolled_back: u64,
    is_over: Arc<AtomicBool>,
}

/// A connection of the service, of its inbox, or of one of the framework's threads: all write into one file, so each
/// waits for the others.
fn connect(path: &str) -> ConnectionResult<SqliteConnection> {
    let mut connection = SqliteConnection::establish(path)?;
    let set_up = connection.batch_execute("PRAGMA busy_timeout = 20000; PRAGMA journal_mode = WAL");
    set_up.map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}

impl Service {
    pub(crate) async fn start(setup: &Setup, path: &str, broker: &str) -> Result<Self, Box<dyn Error>> {
        // Errors alone, unless RUST_LOG says otherwise: to be killed makes many warnings.
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .init();
        let mut database = connect(path)?;
        database.batch_execute(setup.tables)?;

        let connect = {
            let path = path.to_owned();
            move || connect(&path)
        };
        let tables = Tables::new(connect.clone()).migrate();
        let listener = setup.listener;
        let emitter = Emitter::builder()
            .service(setup.name)
            .node("a") // the same in each of its lives
            .mqtt(broker)
            .with(Outbox::new(tables.clone()))
            .with(Inbox::new(tables.clone(), move || connect().map(Box::new)))
            .with(CatchUp::new(tables).since(Since::Beginning))
            // SQLite lets one write at a time: more calls would only wait for each other.
            .listener_concurrency(4)
            // Of two services in two programs, neither has the other's listener.
            .select_listeners(move |info| info.name == listener)
            .require(listener)
            .start()
            .await?;
        Ok(Self { emitter, database, rolled_back: 0, is_over: told_to_end() })
    }

    /// Whether it was told to come to its end.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Tells the stage what it has counted so far, for it may be killed at any moment.
    pub(crate) fn tell(&self) {
        let stats = self.emitter.stats();
        let inbox =
            self.emitter.state::<Inbox<SqliteConnection>>().map(|inbox| inbox.stats()).unwrap_or_default();
        // Where the stage is there no more, nobody wants to know.
        let _ = writeln!(
            std::io::stdout(),
            "rolled_back={} dropped={} already_done={} recovered={} dead_letters={}",
            self.rolled_back,
            stats.duplicates,
            inbox.already_done,
            stats.recovered,
            stats.dead_letters,
        );
    }

    pub(crate) async fn end(self) -> Result<(), Box<dyn Error>> {
        let report = self.emitter.shutdown(Duration::from_secs(10)).await;
        self.tell();
        if report.is_clean() { Ok(()) } else { Err(format!("left undone: {report:?}").into()) }
    }
}

/// True when nobody holds the other end of the standard input any more.
fn told_to_end() -> Arc<AtomicBool> {
    let told = Arc::new(AtomicBool::new(false));
    let is_told = Arc::clone(&told);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        told.store(true, Ordering::Relaxed);
    });
    is_told
}
