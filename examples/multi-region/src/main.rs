//! Three regions with a database each, and one broker between them: each writes its users, and has a copy of all others'.
//!
//! Run it with `cargo run -p multi-region`; nothing has to be installed. This file is the stage; what a region does is in
//! `users.rs`. In a real application each region is a process of its own, on servers of its own.

mod users;

use std::error::Error;
use std::time::{Duration, Instant};

use diesel::prelude::*;
use embedded_broker::EmbeddedBroker;
use emitter_diesel::outbox::Control;
use emitter_diesel::{Bind, Bound, Emitter};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};

use crate::users::{Region, User, create, remove, rename};

/// How long is waited for what should take a moment.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let region = |name: &'static str| {
        let database = folder.path().join(name).with_extension("db").to_string_lossy().into_owned();
        Region { name, database }
    };
    let broker = EmbeddedBroker::start().await?;
    let (said, mut heard) = unbounded_channel();
    let mut us = Site::start(region("us"), &broker, &said).await?;
    let mut eu = Site::start(region("eu"), &broker, &said).await?;
    let mut asia = Site::start(region("asia"), &broker, &said).await?;

    println!("us creates two users:");
    us.write(|conn| create(conn, "us-1", "Ada"))?;
    us.write(|conn| create(conn, "us-2", "Bob"))?;
    tell(4, &mut heard).await?;
    agree([&mut us, &mut eu, &mut asia]).await?;

    println!("asia is down; eu renames the one, us deletes the other:");
    asia.stop().await?;
    eu.write(|conn| rename(conn, "us-1", "Ada Lovelace"))?;
    us.write(|conn| remove(conn, "us-2"))?;
    tell(2, &mut heard).await?;

    println!("The broker is restarted, and has forgotten what it kept for asia; asia is back:");
    for site in [&us, &eu] {
        site.outbox()?.drain(PATIENCE)?;
    }
    let port = broker.port();
    broker.stop().await;
    let broker = EmbeddedBroker::start_on(port).await?;
    asia = asia.restart(&broker, &said).await?;
    tell(2, &mut heard).await?;
    agree([&mut us, &mut eu, &mut asia]).await?;

    println!("us and asia rename the same user, before they hear of each other:");
    for site in [&us, &asia] {
        site.outbox()?.pause()?;
    }
    us.write(|conn| rename(conn, "us-1", "Ada of us"))?;
    asia.write(|conn| rename(conn, "us-1", "Ada of asia"))?;
    for site in [&us, &asia] {
        site.outbox()?.resume()?;
    }
    tell(4, &mut heard).await?;
    agree([&mut us, &mut eu, &mut asia]).await?;
    println!("They agree on {}.\n", us.users()?.iter().map(show).collect::<String>());

    println!("us renames it again, and asia creates another one:");
    us.write(|conn| rename(conn, "us-1", "Ada King"))?;
    asia.write(|conn| create(conn, "asia-1", "Mei"))?;
    tell(4, &mut heard).await?;
    agree([&mut us, &mut eu, &mut asia]).await?;

    println!("In the end all have the same users:");
    for site in [&mut us, &mut eu, &mut asia] {
        let users: Vec<String> = site.users()?.iter().map(show).collect();
        println!("    {:<5} {}", site.region.name, users.join(", "));
    }
    println!("\nWhat came from elsewhere is told to nobody again:");
    for mut site in [us, eu, asia] {
        site.outbox()?.drain(PATIENCE)?;
        site.stop().await?;
        let Site { region: Region { name, .. }, wrote, published, .. } = site;
        println!("    {name:<5} changes written: {wrote}, events published: {published}");
        if wrote != published {
            return Err(format!("{name} published what it did not write, or not all that it wrote").into());
        }
    }
    broker.stop().await;
    match heard.try_recv() {
        Err(_) => Ok(()),
        Ok(line) => Err(format!("somebody heard more than there was: {line}").into()),
    }
}

fn show(user: &User) -> String {
    format!("{} \"{}\" (version {})", user.id, user.name, user.version)
}

/// A region that runs, and what it did.
struct Site {
    region: Region,
    emitter: Emitter,
    database: SqliteConnection,
    wrote: u64,
    published: u64,
}

impl Site {
    async fn start(
        region: Region,
        broker: &EmbeddedBroker,
        said: &UnboundedSender<String>,
    ) -> Result<Self, Box<dyn Error>> {
        let emitter = region.start(&broker.url(), said.clone()).await?;
        // A region need not wait; this story should not begin before all are listening.
        emitter.connected(PATIENCE).await?;
        let database = region.connect()?;
        Ok(Self { region, emitter, database, wrote: 0, published: 0 })
    }

    async fn stop(&mut self) -> Result<(), Box<dyn Error>> {
        let report = self.emitter.shutdown(PATIENCE).await;
        self.published += self.emitter.stats().published;
        let is_clean = report.is_clean();
        if is_clean { Ok(()) } else { Err(format!("{} left undone: {report:?}", self.region.name).into()) }
    }

    /// The next life of one that was stopped.
    async fn restart(
        self,
        broker: &EmbeddedBroker,
        said: &UnboundedSender<String>,
    ) -> Result<Self, Box<dyn Error>> {
        let next = Self::start(self.region, broker, said).await?;
        Ok(Self { wrote: self.wrote, published: self.published, ..next })
    }

    fn write(
        &mut self,
        write: impl FnOnce(&mut Bound<'_, SqliteConnection>) -> QueryResult<User>,
    ) -> Result<(), Box<dyn Error>> {
        write(&mut self.emitter.bind(&mut self.database)?)?;
        self.wrote += 1;
        Ok(())
    }

    fn users(&mut self) -> QueryResult<Vec<User>> {
        users::users::table.order(users::users::id).load(&mut self.database)
    }

    fn outbox(&self) -> Result<Control, Box<dyn Error>> {
        Ok(Control::open(&self.region.tables())?)
    }
}

/// Waits until all have the same users.
async fn agree(mut sites: [&mut Site; 3]) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    loop {
        let tables: Vec<Vec<User>> = sites.iter_mut().map(|site| site.users()).collect::<Result<_, _>>()?;
        if tables.iter().all(|users| *users == tables[0]) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("the regions do not agree: {tables:?}").into());
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Prints what listeners say next, so many lines, in the same order each time.
async fn tell(lines: usize, heard: &mut UnboundedReceiver<String>) -> Result<(), Box<dyn Error>> {
    let mut all = Vec::new();
    while all.len() < lines {
        all.extend(timeout(PATIENCE, heard.recv()).await?);
    }
    all.sort();
    println!("    {}\n", all.join("\n    "));
    Ok(())
}
