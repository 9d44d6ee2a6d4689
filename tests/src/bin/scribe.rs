//! A node that the tests of the mirror kill: it writes down what passes on the bus, into PostgreSQL, until
//! somebody ends it. What it is to do it is told by one JSON value.

use std::error::Error;
use std::time::Duration;

use diesel::{Connection, PgConnection};
use emitter_diesel::Emitter;
use emitter_diesel::mirror::{Mirror, MirrorConfig};
use emitter_diesel::tables::Tables;
use emitter_tests::worker::Task;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let task: Task = serde_json::from_str(&std::env::args().nth(1).ok_or("a task is missing")?)?;
    let url = task.database.clone();
    let lease = Duration::from_millis(task.lease.unwrap_or(1_000));
    let config = MirrorConfig { lease, batch: task.batch, ..MirrorConfig::default() };
    let mirror = Mirror::new(Tables::new(move || PgConnection::establish(&url))).config(config);
    let builder = Emitter::builder().service("audit").node(task.node).mqtt(task.broker.as_str());
    let _emitter = builder.with(mirror).start().await?;
    println!("started");
    std::future::pending().await
}
