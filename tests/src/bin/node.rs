//! The node that `emitter_tests::node` starts: it takes orders from its standard input.
#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_diesel::retry::Backoff;
use emitter_diesel::transport::mqtt::{ClientId, MqttConfig, MqttVersion, Overflow};
use emitter_diesel::{Bind, Emit, Emits, Emitter, Event, EventId, Key, Source, State, listener};
use emitter_tests::node::{Account, Counted, Order, Report, Setup, Writing};
use serde::{Deserialize, Serialize};

diesel::table! {
    users {
        id -> Integer,
        name -> Text,
        n -> Integer,
    }
}

#[derive(Debug, Clone, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(model = "user", create, update)]
struct User {
    id: i32,
    name: String,
    /// How often it was updated.
    n: i32,
}

/// What the listener was handed.
#[derive(Default)]
struct Log {
    entries: Mutex<Entries>,
    takes: Duration,
}

#[derive(Default)]
struct Entries {
    /// By source and by life of a node.
    accounts: BTreeMap<(bool, String), Account>,
    /// The last `n` of each user, likewise.
    last: HashMap<(bool, String, Key), i32>,
    ids: HashSet<EventId>,
}

impl Log {
    async fn enter(&self, event: &Event<UserEvent>) {
        // A timer takes a millisecond even for nothing.
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        let origin = event.origin().expect("only these nodes write here");
        let remote = event.source() == Source::Remote;
        let life = (remote, origin.incarnation.to_string());
        let mut entries = self.entries.lock().expect("the log holds no panic");
        let again = !entries.ids.insert(event.id());
        let user = (life.0, life.1.clone(), event.key().clone());
        let before = entries.last.insert(user, row(event).n);
        let account = entries.accounts.entry(life).or_insert_with(|| Account {
            node: origin.node.to_string(),
            incarnation: origin.incarnation.to_string(),
            remote,
            creates: 0,
            updates: 0,
            out_of_order: 0,
            again: 0,
        });
        match &**event {
            UserEvent::Created(_) => account.creates += 1,
            UserEvent::Updated(_) => account.updates += 1,
        }
        account.again += u64::from(again);
        account.out_of_order += u64::from(row(event).n != before.map_or(0, |n| n + 1));
    }
}

fn row(event: &UserEvent) -> &User {
    match event {
        UserEvent::Created(created) => &created.row,
        UserEvent::Updated(updated) => &updated.after,
    }
}

#[listener(model = "user", allow_remote)]
async fn everything(event: Event<UserEvent>, log: State<Arc<Log>>) {
    log.enter(&event).await;
}

#[listener(model = "user", remote_only)]
async fn of_others(event: Event<UserEvent>, log: State<Arc<Log>>) {
    log.enter(&event).await;
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let setup: Setup = serde_json::from_str(&std::env::args().nth(1).unwrap_or_default())?;
    let mut running = Running::start(&setup).await?;
    println!("ready");
    loop {
        let mut line = String::new();
        // The end of its input is the end of the test.
        if tokio::task::block_in_place(|| io::stdin().read_line(&mut line))? == 0 {
            return Ok(());
        }
        let order = serde_json::from_str(&line)?;
        println!("{}", serde_json::to_string(&running.obey(order).await)?);
        if matches!(order, Order::Shutdown) {
            return Ok(());
        }
    }
}

/// The emitter and what works for it.
struct Running {
    emitter: Emitter,
    log: Arc<Log>,
    written: Arc<AtomicU64>,
    writers: Vec<JoinHandle<()>>,
}

impl Running {
    async fn start(setup: &Setup) -> Result<Self, Box<dyn Error>> {
        let log = Arc::new(Log { takes: Duration::from_millis(setup.listener_takes_ms), ..Log::default() });
        let listener = if setup.remote_only { "of_others" } else { "everything" };
        let emitter = Emitter::builder()
            .service("node")
            .node(&setup.name)
            .mqtt(mqtt(setup)?)
            .state(Arc::clone(&log))
            .select_listeners(move |info| info.name == listener)
            .require(listener)
            .start()
            .await?;
        Ok(Self { emitter, log, written: Arc::default(), writers: Vec::new() })
    }

    async fn obey(&mut self, order: Order) -> Report {
        let mut left_undone = 0;
        match order {
            Order::Report => {}
            Order::Write(writing) => {
                let (emitter, written) = (self.emitter.clone(), Arc::clone(&self.written));
                self.writers.push(thread::spawn(move || write(&emitter, writing, &written)));
            }
            Order::Shutdown => {
                let writers = std::mem::take(&mut self.writers);
                tokio::task::block_in_place(|| {
                    writers.into_iter().for_each(|writer| writer.join().expect("it writes"));
                });
                let report = self.emitter.shutdown(Duration::from_secs(20)).await;
                left_undone = report.unfinished + report.unpublished;
            }
        }
        self.report(left_undone)
    }

    fn report(&self, left_undone: usize) -> Report {
        let status = self.emitter.transport_status().expect("it has a transport");
        let entries = self.log.entries.lock().expect("the log holds no panic");
        Report {
            incarnation: self.emitter.origin().incarnation.to_string(),
            connected: status.publisher.connected && status.subscriber.connected && status.subscriptions >= 1,
            unconfirmed: status.unconfirmed,
            written: self.written.load(Ordering::SeqCst),
            heard: entries.accounts.values().cloned().collect(),
            counted: counted(&self.emitter),
            left_undone,
        }
    }
}

fn mqtt(setup: &Setup) -> Result<MqttConfig, Box<dyn Error>> {
    let [base, cap, jitter] = [50, 500, 50].map(Duration::from_millis);
    let mut config = MqttConfig::new(&setup.broker)?.reconnect(Backoff { base, cap, jitter })?;
    if let Some(id) = &setup.client_id {
        config = config.client_id(ClientId::new(id)?);
    }
    if setup.mqtt_3 {
        config = config.protocol(MqttVersion::V311);
    }
    if let Some(messages) = setup.queue_messages {
        config = config.queue_messages(messages)?;
    }
    if setup.drop_oldest {
        config = config.overflow(Overflow::DropOldest);
    }
    Ok(config)
}

fn counted(emitter: &Emitter) -> Counted {
    let stats = emitter.stats();
    Counted {
        emitted_local: stats.emitted_local,
        emitted_remote: stats.emitted_remote,
        published: stats.published,
        published_to_nobody: stats.published_to_nobody,
        publish_failed: stats.publish_failed,
        publish_refused: stats.publish_refused,
        received: stats.received,
        echoes: stats.echoes,
        duplicates: stats.duplicates,
        namesakes: stats.namesakes,
        bad_messages: stats.bad_messages,
        unheard: stats.unheard,
        handled: stats.handled,
        overflowed: stats.overflowed,
        unwell: stats.failed + stats.panicked + stats.timed_out,
    }
}

/// Writes in a database of its own.
fn write(emitter: &Emitter, writing: Writing, written: &AtomicU64) {
    let mut db = SqliteConnection::establish(":memory:").expect("a database in memory");
    let table = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, n INTEGER NOT NULL)";
    db.batch_execute(table).expect("a new table");
    let conn = &mut emitter.bind(&mut db).expect("a connection outside of transactions");
    let mut pace = Pace::new(writing.per_second);
    // A second writing goes on where the first one ended.
    let first = i32::try_from(written.load(Ordering::SeqCst)).expect("few events") + 1;
    for id in first..first + i32::try_from(writing.users).expect("few users") {
        pace.wait();
        let values = (users::id.eq(id), users::name.eq(format!("user {id}")), users::n.eq(0));
        let create = diesel::insert_into(users::table).values(values).emit();
        let user: User = create.get_result(conn).expect("it is new");
        written.fetch_add(1, Ordering::SeqCst);
        for _ in 0..writing.updates {
            pace.wait();
            let update = emitter_diesel::update(&user).set(users::n.eq(users::n + 1)).emit();
            update.get_result::<User, _>(conn).expect("it is there");
            written.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// So many events a second, without drift.
struct Pace {
    next: Instant,
    step: Duration,
}

impl Pace {
    fn new(per_second: Option<u32>) -> Self {
        let step = per_second.map_or(Duration::ZERO, |events| Duration::from_secs(1) / events);
        Self { next: Instant::now(), step }
    }

    fn wait(&mut self) {
        thread::sleep(self.next.saturating_duration_since(Instant::now()));
        self.next += self.step;
    }
}
