//! Workers that are killed, frozen, and lose their database: what was committed is heard, in order, and what
//! was not is not.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_core::dedup::DedupConfig;
use emitter_diesel::outbox::Control;
use emitter_diesel::{Bind, Emit};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::{MariaDb, Mosquitto, Postgres};
use emitter_tests::worker::{Cue, Deed, Moment, Task, Worker};

use super::databases::{Database as _, Sqlite};
use super::workplaces::Workplace;
use super::*;

const KEYS: i64 = 40;

fn is_full() -> bool {
    std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full")
}

/// How often something is killed.
fn rounds() -> u32 {
    if is_full() { 50 } else { 6 }
}

/// A database with an outbox, mosquitto, and a node that hears what becomes of orders.
pub(super) struct Stage<D> {
    pub(super) database: D,
    pub(super) broker: Mosquitto,
    emitter: Emitter,
    pub(super) heard: Ear,
}

impl<D: Workplace> Stage<D> {
    async fn set() -> Self {
        Self::set_in(tokio::task::block_in_place(D::with_tables)).await
    }

    /// In a database with the tables of the models.
    pub(super) async fn set_in(database: D) -> Self {
        let broker = Mosquitto::start();
        // Makes the tables.
        let maker = Emitter::builder().with(database.outbox()).start().await.unwrap();
        assert!(maker.shutdown(10 * SECOND).await.is_clean());
        let orders = (0..KEYS).map(|id| format!("({id}, 0)")).collect::<Vec<_>>().join(", ");
        database.connect().batch_execute(&format!("INSERT INTO orders (id, step) VALUES {orders}")).unwrap();
        // An owner that always dies before its mark leaves a lane to the next one as it was: what came of that lane may come again
        // after more events of others than are remembered by default.
        let dedup = DedupConfig { max_ids: 1_000_000, ..DedupConfig::default() };
        let emitter = Emitter::builder().service("desk").node("ear").mqtt(broker.url().as_str()).dedup(dedup);
        let emitter = emitter.start().await.unwrap();
        let heard = Ear::default();
        let ear = heard.clone();
        emitter.on::<OrderUpdated>().allow_remote().run(move |event: Event<OrderUpdated>| {
            ear.hear(&event, &event.after);
            std::future::ready(())
        });
        emitter.connected(10 * SECOND).await.unwrap();
        Self { database, broker, emitter, heard }
    }

    fn task(&self, node: &str) -> Task {
        Task {
            node: node.to_owned(),
            database: self.database.url(),
            broker: self.broker.url(),
            lease: Some(1_000),
            batch: 50,
            ..Task::default()
        }
    }

    pub(super) fn writer(&self, node: &str) -> Task {
        Task { keys: KEYS, pause: Some(500), ..self.task(node) }
    }

    /// One that writes what others relay.
    fn scribe(&self) -> Task {
        Task { lease: None, ..self.writer("writer") }
    }

    /// The steps of all orders that are committed, as rows.
    fn committed(&self) -> Vec<Order> {
        let steps = D::numbers(&mut self.database.connect(), "SELECT step AS number FROM orders ORDER BY id");
        (0..).zip(steps).map(|(id, step)| Order { id, step }).collect()
    }

    /// Ids of the events that nobody has noted as published.
    fn unsettled(&self) -> BTreeSet<EventId> {
        let ids = "SELECT CAST(event_id AS CHAR(36)) AS text FROM emitter_outbox";
        let ids = D::texts(&mut self.database.connect(), ids);
        ids.into_iter().map(|id| id.parse().unwrap()).collect()
    }

    /// The same once there are so many, and what was on its way to the ear has come.
    async fn quiet(&self, most: usize) -> BTreeSet<EventId> {
        let (begun, mut came) = (std::time::Instant::now(), self.came());
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let due = self.unsettled();
            if due.len() >= most && self.came() == came {
                return due;
            }
            assert!(begun.elapsed() < 60 * SECOND, "{} rows are due, of {most}", due.len());
            came = self.came();
        }
    }

    /// How many events came to the ear, with those that came again.
    fn came(&self) -> u64 {
        self.heard.len() as u64 + self.emitter.stats().duplicates
    }

    /// How many of these were heard.
    fn heard_of(&self, events: &BTreeSet<EventId>) -> usize {
        self.heard.heard().into_iter().filter(|heard| events.contains(&heard.event)).count()
    }

    /// Waits until everything is relayed, and compares what was heard with the database. Returns how many events
    /// there were, and how many came twice.
    pub(super) async fn settle(self) -> (usize, u64) {
        let _relay = start(&self.task("last"));
        let mut db = self.database.connect();
        let committed = self.committed();
        let events: i64 = committed.iter().map(|order| order.step).sum();
        let events = usize::try_from(events).unwrap();
        let begun = std::time::Instant::now();
        while (self.heard.len() < events || outbox::<D>(&mut db) > 0) && begun.elapsed() < 60 * SECOND {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        agrees(&committed, &self.heard);
        assert_eq!(outbox::<D>(&mut db), 0);
        let history = D::numbers(
            &mut db,
            "SELECT COUNT(*) AS number FROM emitter_history WHERE status = 'COMPLETED' \
             UNION ALL SELECT COUNT(DISTINCT event_id) FROM emitter_history",
        );
        assert_eq!(history, [i64::try_from(events).unwrap(); 2]);
        let twice = self.emitter.stats().duplicates;
        assert!(self.emitter.shutdown(10 * SECOND).await.is_clean());
        (events, twice)
    }
}

pub(super) fn start(task: &Task) -> Worker {
    tokio::task::block_in_place(|| Worker::start(env!("CARGO_BIN_EXE_worker"), task))
}

/// That what was committed was heard, once and in order, and nothing else.
#[track_caller]
pub(super) fn agrees(committed: &[Order], heard: &Ear) {
    let steps = heard.steps();
    let written = committed.iter().filter(|order| order.step > 0);
    for order in written.clone() {
        let expected: Vec<i64> = (1..=order.step).collect();
        assert_eq!(steps.get(&order.id), Some(&expected), "order {}", order.id);
    }
    let events: i64 = committed.iter().map(|order| order.step).sum();
    let twice = heard.twice();
    assert_eq!(
        (steps.len(), heard.len()),
        (written.count(), usize::try_from(events).unwrap()),
        "nothing else was heard, or twice: {twice:?}"
    );
}

fn outbox<D: Workplace>(conn: &mut D::Conn) -> i64 {
    D::number(conn, "SELECT COUNT(*) AS number FROM emitter_outbox")
}

fn some_time(most: u64) -> Duration {
    Duration::from_millis(fastrand::u64(10..most))
}

async fn a_node_that_writes_and_relays_is_killed_at_any_moment<D: Workplace>() {
    let stage = Stage::<D>::set().await;
    for _ in 0..rounds() {
        let worker = start(&stage.writer("a"));
        tokio::time::sleep(some_time(400)).await;
        worker.kill();
    }
    let (events, twice) = stage.settle().await;
    println!("{events} events, {twice} came twice");
    assert!(events > 0);
}

fn dies_at(moment: Moment) -> Option<Cue> {
    Some(Cue { moment, skip: fastrand::u32(..8), deed: Deed::Die })
}

/// What the database has: events of committed steps, and rows.
fn written<D: Workplace>(db: &mut D::Conn) -> [i64; 2] {
    let numbers = format!(
        "SELECT CAST(SUM(step) AS {}) AS number, 1 AS place FROM orders \
         UNION ALL SELECT (SELECT COUNT(*) FROM emitter_outbox) + (SELECT COUNT(*) FROM emitter_history), 2 ORDER BY place",
        D::BIGINT
    );
    D::numbers(db, &numbers).try_into().unwrap()
}

async fn one_that_dies_before_its_commit_has_written_nothing_and_told_nobody<D: Workplace>() {
    let stage = Stage::<D>::set().await;
    let mut db = stage.database.connect();
    for _ in 0..rounds() {
        // Nothing else is committed in this life.
        let task = Task {
            cue: dies_at(Moment::BeforeCommit).map(|cue| Cue { skip: 0, ..cue }),
            ..stage.writer("a")
        };
        let before = written::<D>(&mut db);
        tokio::task::block_in_place(|| Worker::start(env!("CARGO_BIN_EXE_worker"), &task).died());
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(written::<D>(&mut db), before);
        assert_eq!((before[0], stage.heard.len()), (before[1], 0));
    }
    let (events, twice) = stage.settle().await;
    assert_eq!((events, twice), (0, 0));
}

async fn one_that_dies_at_its_commit_has_not_told_what_another_one_then_does<D: Workplace>() {
    let stage = Stage::<D>::set().await;
    let mut db = stage.database.connect();
    let mut hits = 0;
    for _ in 0..rounds() {
        let task = Task { cue: dies_at(Moment::Committed), ..stage.writer("a") };
        tokio::task::block_in_place(|| Worker::start(env!("CARGO_BIN_EXE_worker"), &task).died());
        let [events, rows] = written::<D>(&mut db);
        assert_eq!(events, rows);
        // The relay may have had it already, for it looks by itself.
        let left = stage.unsettled();
        hits += u32::from(stage.heard_of(&left) < left.len());
    }
    assert!(hits > rounds() / 2, "{hits}");
    let (events, twice) = stage.settle().await;
    println!("{events} events, {twice} came twice; {hits} of {} died with what nobody had heard", rounds());
    assert!(events >= 2 * rounds() as usize);
}

/// Relays that die at a moment while another node writes: each at the first such moment of its life, or at a later one, in turns.
/// Of the first ones it is looked whether it was that moment, by the rows that were due before the relay began, and these are
/// counted; it may have come to pass when there was nothing to read.
async fn a_relay_dies<D: Workplace>(moment: Moment) {
    let stage = Stage::<D>::set().await;
    let writer = start(&stage.scribe());
    let (mut hits, mut looked_at, mut deaths) = (0, 0, 0);
    while hits < rounds() {
        assert!(looked_at < 2 * rounds(), "{hits} of {looked_at} died at that moment");
        deaths += 1;
        let is_first = deaths % 2 == 0;
        let due = stage.quiet(20).await;
        let came = stage.came();
        // Each is the next life of the same node, which has its lanes at once.
        let cue = dies_at(moment).map(|cue| if is_first { Cue { skip: 0, ..cue } } else { cue });
        let task = Task { cue, ..stage.task("relay") };
        tokio::task::block_in_place(|| Worker::start(env!("CARGO_BIN_EXE_worker"), &task).died());
        if !is_first {
            continue;
        }
        looked_at += 1;
        let left = stage.unsettled();
        let settled = due.difference(&left).count();
        let is_hit = match moment {
            // Nothing was published, for the second time either.
            Moment::Read => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                settled == 0 && stage.came() == came
            }
            // What the broker had confirmed it delivers, and nobody has noted it.
            Moment::BeforeMark => {
                eventually(|| stage.came() > came).await;
                settled == 0
            }
            Moment::Marked => settled > 0,
            _ => panic!("{moment:?} is of no relay"),
        };
        hits += u32::from(is_hit);
    }
    writer.kill();
    let (events, twice) = stage.settle().await;
    println!(
        "{moment:?}: {events} events, {twice} came twice; {hits} of {looked_at} died at that moment, {deaths} in all"
    );
    assert!(events > 0 && (twice > 0 || moment != Moment::BeforeMark), "{twice} came twice");
}

async fn a_relay_dies_between_reading_and_publishing<D: Workplace>() {
    a_relay_dies::<D>(Moment::Read).await;
}

async fn a_relay_dies_between_the_confirmation_and_its_mark<D: Workplace>() {
    a_relay_dies::<D>(Moment::BeforeMark).await;
}

async fn a_relay_dies_when_it_has_marked_and_does_not_know<D: Workplace>() {
    a_relay_dies::<D>(Moment::Marked).await;
}

async fn a_relay_dies_between_publishing_and_the_confirmation<D: Workplace>() {
    let stage = Stage::<D>::set().await;
    let writer = start(&stage.scribe());
    let mut hits = 0;
    for _ in 0..rounds() {
        let relay = start(&stage.task("relay"));
        let before = stage.heard.len();
        eventually(|| stage.heard.len() > before).await;
        tokio::time::sleep(some_time(50)).await;
        // It takes what is sent to it when it wakes up, and has confirmed nothing of that.
        stage.broker.freeze();
        tokio::time::sleep(Duration::from_millis(400)).await;
        relay.kill();
        stage.broker.thaw();
        let left = stage.unsettled();
        let begun = std::time::Instant::now();
        while stage.heard_of(&left) == 0 && begun.elapsed() < SECOND {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        hits += u32::from(stage.heard_of(&left) > 0);
    }
    assert!(hits > rounds() / 2, "{hits}");
    writer.kill();
    let (events, twice) = stage.settle().await;
    println!("{events} events, {twice} came twice, {hits} of {} died with what was on the wire", rounds());
    // Mosquitto lets 20 be on the wire.
    assert!(0 < twice && twice <= u64::from(20 * rounds()), "{twice}");
}

/// A lane changed hands, by the database's clock, in milliseconds.
#[derive(Debug)]
struct Takeover {
    lane: i64,
    epoch: i64,
    /// For how long before the lease of the last owner had run out; negative where it had not. None where that had
    /// given the lane back.
    since_lease: Option<i64>,
    /// For how long before the new owner was there.
    since_begun: i64,
}

impl Takeover {
    fn all<D: Witnessed>(db: &mut D::Conn) -> Vec<Self> {
        let takeovers = format!(
            "SELECT {} AS text FROM takeovers t JOIN begun b ON b.relay = t.owner ORDER BY t.lane, t.epoch",
            D::words(&["t.lane", "t.epoch", "COALESCE(t.at - t.lease, -1000000)", "(t.at - b.at)"])
        );
        let takeovers = D::texts(db, &takeovers).into_iter().map(|takeover| {
            let numbers: Vec<i64> = takeover.split(' ').map(|number| number.parse().unwrap()).collect();
            let [lane, epoch, since_lease, since_begun] = numbers.try_into().unwrap();
            Self {
                lane,
                epoch,
                since_lease: Some(since_lease).filter(|since| *since != -1_000_000),
                since_begun,
            }
        });
        takeovers.collect()
    }
}

/// A database that notes when lanes change hands, and when relays begin.
trait Witnessed: Workplace {
    const WITNESS: &'static str;

    /// These as one text, with spaces in between.
    fn words(columns: &[&str]) -> String {
        columns.join(" || ' ' || ")
    }
}

impl Witnessed for Postgres {
    const WITNESS: &'static str = "
        CREATE TABLE begun (relay TEXT, at BIGINT);
        CREATE TABLE takeovers (lane INTEGER, epoch BIGINT, owner TEXT, lease BIGINT, at BIGINT);
        CREATE FUNCTION clock() RETURNS BIGINT AS 'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint' LANGUAGE sql;
        CREATE FUNCTION relay_begins() RETURNS trigger AS
            'BEGIN INSERT INTO begun VALUES (NEW.relay, clock()); RETURN NULL; END' LANGUAGE plpgsql;
        CREATE FUNCTION lane_is_taken() RETURNS trigger AS 'BEGIN
            INSERT INTO takeovers VALUES (
                NEW.lane, NEW.epoch, NEW.owner, CASE WHEN OLD.owner IS NULL THEN NULL ELSE OLD.until END, clock()
            );
            RETURN NULL;
        END' LANGUAGE plpgsql;
        CREATE TRIGGER relay_begins AFTER INSERT ON emitter_relays FOR EACH ROW EXECUTE FUNCTION relay_begins();
        CREATE TRIGGER lane_is_taken AFTER UPDATE ON emitter_lanes FOR EACH ROW WHEN (NEW.epoch <> OLD.epoch)
            EXECUTE FUNCTION lane_is_taken()";
}

impl Witnessed for MariaDb {
    const WITNESS: &'static str = "
        CREATE TABLE begun (relay VARCHAR(200), at BIGINT);
        CREATE TABLE takeovers (lane INTEGER, epoch BIGINT, owner VARCHAR(200), lease BIGINT, at BIGINT);
        CREATE TRIGGER relay_begins AFTER INSERT ON emitter_relays FOR EACH ROW
            INSERT INTO begun VALUES (NEW.relay, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED));
        CREATE TRIGGER lane_is_taken AFTER UPDATE ON emitter_lanes FOR EACH ROW
            INSERT INTO takeovers
            SELECT NEW.lane, NEW.epoch, NEW.owner, CASE WHEN OLD.owner IS NULL THEN NULL ELSE OLD.until END,
                CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED) FROM dual WHERE NEW.epoch <> OLD.epoch";

    fn words(columns: &[&str]) -> String {
        format!("CONCAT_WS(' ', {})", columns.join(", "))
    }
}

impl Witnessed for Sqlite {
    const WITNESS: &'static str = "
        CREATE TABLE begun (relay TEXT, at BIGINT);
        CREATE TABLE takeovers (lane INTEGER, epoch BIGINT, owner TEXT, lease BIGINT, at BIGINT);
        CREATE TRIGGER relay_begins AFTER INSERT ON emitter_relays BEGIN
            INSERT INTO begun VALUES (NEW.relay, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER));
        END;
        CREATE TRIGGER lane_is_taken AFTER UPDATE ON emitter_lanes WHEN NEW.epoch <> OLD.epoch BEGIN
            INSERT INTO takeovers VALUES (
                NEW.lane, NEW.epoch, NEW.owner, CASE WHEN OLD.owner IS NULL THEN NULL ELSE OLD.until END,
                CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
            );
        END";
}

async fn the_owner_of_lanes_dies_and_its_lease_is_taken_over_by_another<D: Witnessed>() {
    const LEASE: i64 = 1_000;
    let stage = Stage::<D>::set().await;
    let mut db = stage.database.connect();
    tokio::task::block_in_place(|| db.batch_execute(D::WITNESS)).unwrap();
    let writer = start(&stage.scribe());
    let mut longest = Duration::ZERO;
    let mut relay = start(&stage.task("relay-0"));
    for round in 1..=rounds() {
        // It waits for lanes, and dies as soon as it has some of them.
        let heir = Task { cue: dies_at(Moment::LaneTaken), ..stage.task(&format!("heir-{round}")) };
        let heir = start(&heir);
        relay.kill();
        tokio::task::block_in_place(|| heir.died());
        let died = std::time::Instant::now();
        relay = start(&stage.task(&format!("relay-{round}")));
        let all = format!("emitter_lanes WHERE node = 'shop/relay-{round}'");
        let all = format!("SELECT COUNT(*) AS number FROM {all}");
        tokio::task::block_in_place(|| {
            while D::number(&mut db, &all) < 16 {
                assert!(died.elapsed() < 60 * SECOND, "nobody took the lanes over");
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        longest = longest.max(died.elapsed());
    }
    writer.kill();
    relay.kill();
    let takeovers = Takeover::all::<D>(&mut db);
    // Each owner begins an epoch of its own, and each round has one for each lane at least.
    let mut epochs = BTreeMap::<i64, Vec<i64>>::new();
    takeovers.iter().for_each(|of| epochs.entry(of.lane).or_default().push(of.epoch));
    assert_eq!(epochs.len(), 16);
    for (lane, epochs) in epochs {
        let expected: Vec<i64> = (epochs[0]..).take(epochs.len()).collect();
        assert!(epochs.len() >= rounds() as usize && epochs == expected, "lane {lane}: {epochs:?}");
    }
    let mut inherited = 0;
    for takeover in takeovers.iter().filter(|of| of.since_lease.is_some()) {
        let since = takeover.since_lease.unwrap_or_default();
        assert!(since >= 0, "{takeover:?} before the lease of its owner ran out");
        // A dead one counts as there, and has a share, until its own lease has run out; lanes are looked for 15 times in a
        // lease. The rest is for a machine that does other things.
        assert!(since.min(takeover.since_begun) <= 3 * LEASE, "{takeover:?}: late");
        inherited += 1;
    }
    // Some it may have given back, before it was killed, for the heir to take.
    assert!(inherited > 8 * rounds(), "{inherited} were taken over from the dead");
    let (events, twice) = stage.settle().await;
    println!(
        "{events} events, {twice} came twice; {inherited} lanes taken over, none before the lease had run out; all of a \
         round within {longest:?} after the death of the heir, with a lease of 1 s: the rest of it, and the start of a process"
    );
}

async fn a_relay_that_wakes_at_its_mark_after_its_lease_marks_nothing<D: Workplace>() {
    let stage = Stage::<D>::set().await;
    let mut db = stage.database.connect();
    let mut control = Control::open(&stage.database.tables()).unwrap();
    for round in 0..rounds() {
        // Rows of this round, which nobody else adds to.
        let writer = start(&stage.scribe());
        tokio::task::block_in_place(|| {
            while outbox::<D>(&mut db) < 20 {
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        writer.kill();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let stops = Some(Cue { moment: Moment::BeforeMark, skip: 0, deed: Deed::Stop });
        let stale = start(&Task { cue: stops, ..stage.task(&format!("stale-{round}")) });
        tokio::task::block_in_place(|| assert_eq!(stale.line(), "stopped"));
        let before = outbox::<D>(&mut db);
        assert!(before >= 20);
        // Another one gets its lanes, and leaves the rows where they are.
        control.pause().unwrap();
        let fresh = start(&stage.task(&format!("fresh-{round}")));
        let taken = format!("SELECT COUNT(*) AS number FROM emitter_lanes WHERE node = 'shop/fresh-{round}'");
        tokio::task::block_in_place(|| {
            while D::number(&mut db, &taken) < 16 {
                std::thread::sleep(Duration::from_millis(2));
            }
            stale.thaw();
            assert_eq!(stale.line(), "over");
        });
        assert_eq!(outbox::<D>(&mut db), before, "it marked what is not its any more");
        stale.kill();
        control.resume().unwrap();
        tokio::task::block_in_place(|| {
            while outbox::<D>(&mut db) > 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        fresh.kill();
    }
    let (events, twice) = stage.settle().await;
    println!("{events} events, {twice} came twice, 0 stale marks in {} rounds", rounds());
    assert!(twice > 0);
}

/// What it owned is its next life's at once: all of it, though the lease of the dead one still runs.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_life_of_a_relay_waits_for_no_lease() {
    let stage = Stage::<Postgres>::set().await;
    let long = Task { lease: Some(600_000), ..stage.task("a") };
    start(&long).kill();
    let writer =
        Emitter::builder().service("shop").node("writer").with(stage.database.outbox().without_relay());
    let writer = writer.start().await.unwrap();
    let mut db = stage.database.connect();
    for id in 0..KEYS {
        let step = emitter_diesel::update(orders::table.find(id)).set(orders::step.eq(1));
        step.emit::<Order>().durable().get_result(&mut writer.bind(&mut db).unwrap()).unwrap();
    }
    assert!(writer.shutdown(10 * SECOND).await.is_clean());
    let _next = start(&long);
    // Keys of every lane.
    let begun = std::time::Instant::now();
    while outbox::<Postgres>(&mut db) > 0 {
        assert!(
            begun.elapsed() < 30 * SECOND,
            "{} wait for the lease of the dead",
            outbox::<Postgres>(&mut db)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (events, _) = stage.settle().await;
    assert_eq!(events, usize::try_from(KEYS).unwrap());
}

async fn of_what_is_queued_a_kill_takes_the_last_alone<D: Workplace>() {
    let stage = Stage::<D>::set().await;
    let steps = || -> BTreeMap<i64, i64> {
        stage.committed().into_iter().map(|order| (order.id, order.step)).collect()
    };
    let mut db = stage.database.connect();
    let mut lives = vec![steps()];
    for _ in 0..rounds() {
        let worker = start(&Task { queued: true, ..stage.writer("a") });
        tokio::time::sleep(some_time(400)).await;
        worker.kill();
        // The database may be about to commit what the worker asked last.
        tokio::time::sleep(Duration::from_millis(200)).await;
        lives.push(steps());
    }
    let _relay = start(&stage.task("last"));
    let begun = std::time::Instant::now();
    while outbox::<D>(&mut db) > 0 && begun.elapsed() < 60 * SECOND {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let written = D::number(&mut db, "SELECT COUNT(*) AS number FROM emitter_history");
    let written = usize::try_from(written).unwrap();
    emitter_tests::eventually::eventually(|| stage.heard.len() >= written).await;
    let heard = stage.heard.steps();
    let (mut committed, mut lost) = (0, 0);
    for life in lives.windows(2) {
        for (id, after) in &life[1] {
            let before = life[0][id];
            let of_life = |step: &&i64| **step > before && **step <= *after;
            let heard: Vec<i64> = heard.get(id).into_iter().flatten().filter(of_life).copied().collect();
            let expected: Vec<i64> = (before + 1..).take(heard.len()).collect();
            assert_eq!(heard, expected, "order {id}: something is missing in the middle of a life");
            committed += after - before;
            lost += after - before - i64::try_from(heard.len()).unwrap();
        }
    }
    println!("{lost} of {committed} events were not written yet");
    let all: usize = heard.values().map(Vec::len).sum();
    assert_eq!((all, stage.heard.len()), (written, written), "nothing else was heard, or twice");
    assert!(written > 0 && lost < committed / 4);
    assert!(stage.emitter.shutdown(10 * SECOND).await.is_clean());
}

async fn the_owner_of_lanes_is_killed_and_others_take_them<D: Workplace>() {
    let stage = Stage::<D>::set().await;
    let _writer = start(&Task { lease: None, ..stage.writer("writer") });
    let mut relays: Vec<Worker> = (0..3).map(|n| start(&stage.task(&format!("relay-{n}")))).collect();
    for round in 0..rounds() {
        tokio::time::sleep(some_time(600)).await;
        relays.remove(0).kill();
        // Another one, for an earlier life's lanes would be taken at once.
        relays.push(start(&stage.task(&format!("relay-{}", round + 3))));
    }
    drop(_writer);
    drop(relays);
    let (events, twice) = stage.settle().await;
    println!("{events} events, {twice} came twice");
}

async fn a_relay_that_is_frozen_for_longer_than_its_lease_marks_nothing<D: Workplace>() {
    let stage = Stage::<D>::set().await;
    let writer = start(&Task { lease: None, ..stage.writer("writer") });
    let relays: Vec<Worker> = (0..2).map(|n| start(&stage.task(&format!("relay-{n}")))).collect();
    for round in 0..rounds().div_ceil(5) {
        let relay = &relays[round as usize % 2];
        tokio::time::sleep(some_time(600)).await;
        relay.freeze();
        tokio::time::sleep(2 * SECOND).await;
        relay.thaw();
    }
    writer.kill();
    drop(relays);
    let (events, twice) = stage.settle().await;
    println!("{events} events, {twice} came twice");
}

/// A database of which the server can be killed.
trait Server: Workplace {
    /// Kills it, and starts it again.
    fn dies(&mut self);

    /// Ends all sessions but one's own, and returns how many.
    fn ends_sessions(&self) -> i64;
}

impl Server for Postgres {
    fn dies(&mut self) {
        self.kill();
        self.restart();
    }

    fn ends_sessions(&self) -> i64 {
        let all = "SELECT CASE WHEN pg_terminate_backend(pid) THEN 1 ELSE 0 END::bigint AS number \
                   FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
        Self::numbers(&mut self.connect(), all).iter().sum()
    }
}

impl Server for MariaDb {
    fn dies(&mut self) {
        self.restart();
    }

    fn ends_sessions(&self) -> i64 {
        let conn = &mut self.connect();
        let others = "SELECT CAST(id AS SIGNED) AS number FROM information_schema.processlist \
                      WHERE id <> connection_id() AND user = 'root'";
        let mut ended = 0;
        for id in Self::numbers(conn, others) {
            match conn.batch_execute(&format!("KILL {id}")) {
                Ok(()) => ended += 1,
                // By itself.
                Err(error) => assert!(error.to_string().starts_with("Unknown thread id"), "{error}"),
            }
        }
        ended
    }
}

async fn the_server_is_killed_and_its_sessions_are_terminated<D: Server>() {
    let mut stage = Stage::<D>::set().await;
    let workers = ["a", "b"].map(|node| start(&stage.writer(node)));
    // How many sessions were ended, each time.
    let mut ended = Vec::new();
    for _ in 0..if is_full() { 20 } else { 2 } {
        tokio::time::sleep(some_time(600)).await;
        tokio::task::block_in_place(|| stage.database.dies());
        for _ in 0..3 {
            tokio::time::sleep(some_time(300)).await;
            ended.push(tokio::task::block_in_place(|| stage.database.ends_sessions()));
        }
    }
    // For a minute, every two seconds.
    for _ in 0..if is_full() { 30 } else { 1 } {
        tokio::time::sleep(2 * SECOND).await;
        ended.push(tokio::task::block_in_place(|| stage.database.ends_sessions()));
    }
    tokio::time::sleep(SECOND).await;
    workers.into_iter().for_each(Worker::kill);
    let (events, twice) = stage.settle().await;
    let hits = ended.iter().filter(|ended| **ended > 0).count();
    let (sessions, times) = (ended.iter().sum::<i64>(), ended.len());
    println!(
        "{events} events, {twice} came twice; {sessions} sessions were ended, {hits} of {times} times some"
    );
    assert!(events > 0 && hits > times / 2, "{ended:?}");
}

macro_rules! kills {
    ($name:ident: $database:ty, $($test:ident)*) => {
        mod $name {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    super::$test::<$database>().await;
                }
            )*
        }
    };
}

/// Those of a database that is a server.
macro_rules! server_kills {
    ($name:ident: $database:ty) => {
        kills! { $name: $database,
            a_node_that_writes_and_relays_is_killed_at_any_moment
            one_that_dies_before_its_commit_has_written_nothing_and_told_nobody
            one_that_dies_at_its_commit_has_not_told_what_another_one_then_does
            a_relay_dies_between_reading_and_publishing
            a_relay_dies_between_publishing_and_the_confirmation
            a_relay_dies_between_the_confirmation_and_its_mark
            a_relay_dies_when_it_has_marked_and_does_not_know
            the_owner_of_lanes_dies_and_its_lease_is_taken_over_by_another
            the_owner_of_lanes_is_killed_and_others_take_them
            a_relay_that_wakes_at_its_mark_after_its_lease_marks_nothing
            a_relay_that_is_frozen_for_longer_than_its_lease_marks_nothing
            of_what_is_queued_a_kill_takes_the_last_alone
            the_server_is_killed_and_its_sessions_are_terminated
        }
    };
}

server_kills!(postgres: Postgres);
server_kills!(mariadb: MariaDb);
kills! { sqlite: Sqlite,
    a_node_that_writes_and_relays_is_killed_at_any_moment
    one_that_dies_before_its_commit_has_written_nothing_and_told_nobody
    one_that_dies_at_its_commit_has_not_told_what_another_one_then_does
    a_relay_dies_between_reading_and_publishing
    a_relay_dies_between_publishing_and_the_confirmation
    a_relay_dies_between_the_confirmation_and_its_mark
    a_relay_dies_when_it_has_marked_and_does_not_know
    the_owner_of_lanes_dies_and_its_lease_is_taken_over_by_another
    the_owner_of_lanes_is_killed_and_others_take_them
    a_relay_that_wakes_at_its_mark_after_its_lease_marks_nothing
    a_relay_that_is_frozen_for_longer_than_its_lease_marks_nothing
    of_what_is_queued_a_kill_takes_the_last_alone
}
