//! This framework and the npm package prisma-extension-emitter 2.1.14, unmodified, with a mosquitto between them:
//! each hears what the other's database answered.
//!
//! The package subscribes at QoS 0: what it misses is not sent again. It misses nothing here, for it stays connected.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use emitter_core::dead_letter::Reason;
use emitter_core::topic::Layout;
use emitter_diesel::{Bind, Bound, Emit, Emits, Emitter, Event, Source, State, listener, update};
use emitter_tests::eventually::eventually;
use emitter_tests::npm::{Handed, Installation, Server};
use emitter_tests::raw_publisher::RawPublisher;
use emitter_tests::servers::Mosquitto;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const TOPIC: &str = "prisma/events/member/all";

diesel::table! {
    members {
        id -> Integer,
        name -> Text,
        status -> Text,
        visits -> Integer,
        score -> Nullable<Double>,
        seen_at -> Nullable<TimestamptzSqlite>,
    }
}

const TABLE: &str = "CREATE TABLE members (id INTEGER PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL,
    visits INTEGER NOT NULL, score REAL, seen_at TEXT)";

/// The `Member` of `tests/npm/schema.prisma`.
#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[emits(model = "Member", create, update, update_many, upsert)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Member {
    id: i32,
    name: String,
    status: String,
    visits: i32,
    score: Option<f64>,
    seen_at: Option<DateTime<Utc>>,
}

// What is written -----------------------------------------------------------------------------------

/// A write that Prisma and Diesel understand alike.
#[derive(Debug, Clone)]
enum Write {
    Create(Member),
    /// Counts a visit, too.
    Update {
        id: i32,
        status: &'static str,
    },
    UpdateMany {
        ids: [i32; 2],
        visits: i32,
    },
    /// Where it is there, its name and its score are set.
    Upsert(Member),
}

impl Write {
    /// As Prisma has it: what it is called, and its arguments.
    fn order(&self) -> Value {
        let (operation, args) = match self {
            Self::Create(member) => ("create", json!({ "data": member })),
            Self::Update { id, status } => {
                let data = json!({ "status": status, "visits": { "increment": 1 } });
                ("update", json!({ "where": { "id": id }, "data": data }))
            }
            Self::UpdateMany { ids, visits } => {
                let selector = json!({ "id": { "in": ids } });
                ("updateMany", json!({ "where": selector, "data": { "visits": visits } }))
            }
            Self::Upsert(member) => {
                let change = json!({ "name": member.name, "score": member.score });
                let selector = json!({ "id": member.id });
                ("upsert", json!({ "where": selector, "create": member, "update": change }))
            }
        };
        json!({ "operation": operation, "args": args })
    }

    /// By Diesel.
    fn run(&self, conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<()> {
        match self {
            Self::Create(member) => {
                let _: Member = diesel::insert_into(members::table).values(member).emit().get_result(conn)?;
            }
            Self::Update { id, status } => {
                let change = (members::status.eq(status), members::visits.eq(members::visits + 1));
                update(members::table.find(id)).set(change).emit::<Member>().get_result(conn)?;
            }
            Self::UpdateMany { ids, visits } => {
                let some = members::table.filter(members::id.eq_any(ids));
                update(some)
                    .set(members::visits.eq(visits))
                    .emit::<Member>()
                    .emit_unchanged()
                    .execute(conn)?;
            }
            Self::Upsert(member) => {
                let change = (members::name.eq(&member.name), members::score.eq(member.score));
                let insert = diesel::insert_into(members::table).values(member);
                let upsert = insert.on_conflict(members::id).do_update().set(change);
                let _: Member = upsert.emit().get_result(conn)?;
            }
        }
        Ok(())
    }

    /// What it does to the rows, and what both databases answer.
    fn apply(&self, rows: &mut BTreeMap<i32, Member>) -> Value {
        let id = match self {
            Self::Create(member) => {
                rows.insert(member.id, member.clone());
                member.id
            }
            Self::Update { id, status } => {
                let row = rows.get_mut(id).expect("it was created before");
                (*status).clone_into(&mut row.status);
                row.visits += 1;
                *id
            }
            Self::UpdateMany { ids, visits } => {
                let touched = rows.values_mut().filter(|row| ids.contains(&row.id));
                return json!({ "count": touched.map(|row| row.visits = *visits).count() });
            }
            Self::Upsert(member) => {
                let row = rows.entry(member.id).or_insert_with(|| member.clone());
                row.name.clone_from(&member.name);
                row.score = member.score;
                member.id
            }
        };
        json!(rows[&id])
    }

    /// What we tell others of it as arguments: what the package's filters look into.
    fn told(&self, result: &Value) -> Value {
        let id = json!({ "id": result["id"] });
        match self {
            Self::Create(_) => json!({ "data": result }),
            Self::Update { .. } => {
                json!({ "where": id, "data": { "status": result["status"], "visits": result["visits"] } })
            }
            // One row is selected by its key alone.
            Self::UpdateMany { ids: [one, other], visits } if one == other => {
                json!({ "where": { "id": one }, "data": { "visits": visits } })
            }
            Self::UpdateMany { ids, visits } => {
                json!({ "where": { "id": { "in": ids } }, "data": { "visits": visits } })
            }
            Self::Upsert(_) => json!({ "where": id, "create": result, "update": result }),
        }
    }

    fn operation(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Update { .. } => "update",
            Self::UpdateMany { .. } => "updateMany",
            Self::Upsert(_) => "upsert",
        }
    }
}

/// The operation, and what the database answered: the row, or a count.
type Change = (String, Value);

/// Writes, and what they come to.
fn plan(first: i32, rounds: i32) -> Vec<(Write, Change)> {
    let writes = (0..rounds).flat_map(|round| {
        let id = first + round;
        // Every other one is there already.
        let upserted = if round % 2 == 0 { id } else { id + 50_000 };
        [
            Write::Create(member(id, round, "NEW")),
            Write::Update { id, status: ["ACTIVE", "BLOCKED", "IDLE"][round.unsigned_abs() as usize % 3] },
            Write::UpdateMany { ids: [first + round / 2, id], visits: round },
            Write::Upsert(member(upserted, round + 1, "NEW")),
        ]
    });
    let mut rows = BTreeMap::new();
    let done = |write: Write| {
        let change = (write.operation().to_owned(), write.apply(&mut rows));
        (write, change)
    };
    writes.map(done).collect()
}

fn member(id: i32, round: i32, status: &str) -> Member {
    let names = ["Ana", "", "O'Neil \"\\\" {}", "h\u{e9}llo\n\u{2028}", "\u{540d}\u{524d} \u{1f980}"];
    // Prisma keeps 16 digits: of 0.1 + 0.2 it makes 0.3.
    let scores = [None, Some(0.1), Some(-1.5e-7), Some(1e300), Some(1.234_567_890_123_45)];
    let round = round.unsigned_abs() as usize;
    let start: DateTime<Utc> = "2024-01-02T03:04:05.678Z".parse().expect("a time");
    let seen_at = (!round.is_multiple_of(3)).then(|| start + TimeDelta::seconds(i64::from(id) * 3_607));
    Member {
        id,
        name: format!("{}{round}", names[round % names.len()]),
        status: status.to_owned(),
        visits: 0,
        score: scores[round % scores.len()],
        seen_at,
    }
}

// What is heard -------------------------------------------------------------------------------------

/// What each of this node's listeners was called for, in that order.
type Log = Arc<Mutex<BTreeMap<&'static str, Vec<Change>>>>;

/// The first row that Prisma writes.
const THEIRS: i32 = 100_000;

macro_rules! listeners {
    ($($name:ident [$($filter:tt)*])*) => { $(
        #[listener(model = "Member", remote_only $($filter)*)]
        async fn $name(event: Event<MemberEvent>, log: State<Log>) {
            log.lock().unwrap().entry(stringify!($name)).or_default().push(change(&event));
        }
    )* };
}

listeners! {
    everything []
    active [, data(status = ["ACTIVE", "BLOCKED"])]
    seen [, data(seen_at)]
    seventh [, where(id = THEIRS + 7)]
}

fn change(event: &Event<MemberEvent>) -> Change {
    assert_eq!((event.source(), event.origin()), (Source::Remote, None));
    let result = match &**event {
        MemberEvent::Created(body) => json!(body.row),
        MemberEvent::Updated(body) => json!(body.after),
        MemberEvent::Upserted(body) => json!(body.row),
        MemberEvent::UpdatedMany(body) => {
            assert!(body.rows.is_none(), "Prisma tells no rows");
            json!({ "count": body.count })
        }
    };
    (event.operation().to_string(), result)
}

/// The same of what the package hands to a listener, which does not name the operation.
fn change_there(handed: &Handed) -> Change {
    assert_eq!((&*handed.model, &*handed.source), ("Member", "remote"));
    let has = |name: &str| handed.args.get(name).is_some();
    let operation = match (has("where"), has("data"), has("create") && has("update")) {
        (false, true, false) => "create",
        (true, false, true) => "upsert",
        (true, true, false) if handed.result.get("count").is_some() => "updateMany",
        (true, true, false) => "update",
        _ => panic!("no arguments of these operations: {handed:?}"),
    };
    (operation.to_owned(), handed.result.clone())
}

/// Whether Prisma wrote it. The package takes its own events for foreign ones when they take more than 5 s.
fn is_theirs(handed: &Handed) -> bool {
    let args = &handed.args;
    let ids = [&args["data"]["id"], &args["where"]["id"], &args["where"]["id"]["in"][0]];
    ids.into_iter().find_map(Value::as_i64).is_some_and(|id| id >= THEIRS.into())
}

/// Both are the same but for the order of different rows between two changes of many rows.
#[track_caller]
fn assert_same(heard: &[Change], expected: &[Change]) {
    let sorted = |changes: &[Change]| {
        let mut changes = changes.to_vec();
        let stretches = changes.split_mut(|(operation, _)| operation == "updateMany");
        stretches.for_each(|stretch| stretch.sort_by_key(|(_, row)| row["id"].as_i64()));
        changes
    };
    for (place, (heard, expected)) in sorted(heard).iter().zip(&sorted(expected)).enumerate() {
        assert_eq!(heard, expected, "at place {place}");
    }
    assert_eq!(heard.len(), expected.len());
}

/// Those of a plan that a filter lets through.
fn filtered(plan: &[(Write, Change)], filter: impl Fn(&Write, &Value) -> bool) -> Vec<Change> {
    let heard = plan.iter().filter(|(write, (_, result))| filter(write, result));
    heard.map(|(_, change)| change.clone()).collect()
}

// The cases -----------------------------------------------------------------------------------------

async fn start(broker: &Mosquitto) -> (Emitter, Log) {
    let log = Log::default();
    let builder = Emitter::builder().node("ours").mqtt(broker.url()).state(Arc::clone(&log));
    let emitter = builder.topic_layout(Layout::npm()).start().await.expect("it starts");
    emitter.connected(Duration::from_secs(10)).await.expect("the broker is there");
    (emitter, log)
}

fn write(emitter: &Emitter, writes: impl IntoIterator<Item = Write>) {
    let mut db = SqliteConnection::establish(":memory:").expect("SQLite");
    db.batch_execute(TABLE).expect("a table");
    let conn = &mut emitter.bind(&mut db).expect("no transaction is open");
    for write in writes {
        write.run(conn).unwrap_or_else(|error| panic!("{write:?}: {error}"));
    }
}

fn count(log: &Log, listener: &str) -> usize {
    log.lock().unwrap().get(listener).map_or(0, Vec::len)
}

/// How long it takes until all is heard.
fn time_until(start: Instant, all: impl Fn() -> bool) -> Duration {
    while !all() {
        assert!(start.elapsed() < Duration::from_secs(240), "not all was heard");
        thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_hears_all_of_the_other() {
    let rounds = if std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full") { 2_500 } else { 250 };
    let installation = Installation::provide(env!("CARGO_TARGET_TMPDIR"));
    let broker = Mosquitto::start();
    let (emitter, log) = start(&broker).await;
    let mut npm = Server::start(&installation, &broker.url());
    let (ours, theirs) = (plan(1, rounds), plan(THEIRS, rounds));

    // Both at the same time.
    let begin = Instant::now();
    npm.write(&theirs.iter().map(|(write, _)| write.order()).collect::<Vec<_>>());
    let [here, there] = thread::scope(|scope| {
        scope.spawn(|| write(&emitter, ours.iter().map(|(write, _)| write.clone())));
        let here = scope.spawn(|| time_until(begin, || count(&log, "everything") == theirs.len()));
        npm.until("it has heard all", |counts| counts.heard["all"] >= ours.len());
        let there = begin.elapsed();
        [here.join().expect("all is heard"), there]
    });
    let rate = |took: Duration| theirs.len() as f64 / took.as_secs_f64();
    println!("heard here: {:.0} events/s; by the npm package: {:.0} events/s", rate(here), rate(there));
    npm.until("all is written", |counts| counts.written == theirs.len());
    // All of its own came back.
    eventually(|| emitter.stats().echoes == ours.len() as u64).await;
    assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());

    // Here: of what Prisma wrote, everything, once.
    let stats = emitter.stats();
    assert_eq!((stats.bad_messages, stats.duplicates, stats.unheard), (0, 0, 0), "{stats:?}");
    assert_eq!(stats.received, (ours.len() + theirs.len()) as u64);
    let log = log.lock().unwrap();
    let all_of = |plan: &[(Write, Change)]| filtered(plan, |_, _| true);
    assert_same(&log["everything"], &all_of(&theirs));
    let is_active = |status: &str| ["ACTIVE", "BLOCKED"].contains(&status);
    // Of an upsert it is not told what it did: either way it has set its row's status.
    let active = filtered(&theirs, |write, row| match write {
        Write::Update { status, .. } => is_active(status),
        Write::Upsert(_) => row["status"].as_str().is_some_and(is_active),
        _ => false,
    });
    assert_same(&log["active"], &active);
    assert_same(
        &log["seen"],
        &filtered(&theirs, |write, _| matches!(write, Write::Create(_) | Write::Upsert(_))),
    );
    assert_same(&log["seventh"], &filtered(&theirs, |_, row| row["id"] == THEIRS + 7));

    // There: of what Diesel wrote, everything, once.
    let account = npm.account();
    let operations = theirs.iter().map(|(_, (operation, _))| operation.clone());
    let answers: Vec<Change> = operations.zip(account.results).collect();
    assert_same(&answers, &all_of(&theirs));
    let echoes = account.heard["all"].iter().filter(|handed| is_theirs(handed)).count();
    println!("the npm package took {echoes} of its own events for foreign ones");
    let heard = |listener: &str| {
        let of_ours = account.heard[listener].iter().filter(|handed| !is_theirs(handed));
        of_ours.map(change_there).collect::<Vec<_>>()
    };
    assert_same(&heard("all"), &all_of(&ours));
    let told = ours.iter().map(|(write, (_, result))| json!([write.told(result), result]).to_string());
    let of_ours = account.heard["all"].iter().filter(|handed| !is_theirs(handed));
    let handed = of_ours.map(|handed| json!([handed.args, handed.result]).to_string());
    let (handed, told): (BTreeSet<_>, BTreeSet<_>) = (handed.collect(), told.collect());
    assert_eq!(handed.symmetric_difference(&told).next(), None, "arguments");
    let active =
        filtered(&ours, |write, _| matches!(write, Write::Update { status, .. } if is_active(status)));
    assert_same(&heard("active"), &active);
    assert_same(&heard("named"), &filtered(&ours, |write, _| matches!(write, Write::Create(_))));
    assert_same(
        &heard("visited"),
        &filtered(&ours, |write, row| match write {
            Write::Update { .. } => row["visits"].as_i64() > Some(100),
            Write::UpdateMany { visits, .. } => *visits > 100,
            _ => false,
        }),
    );
    let selected = |wanted: &dyn Fn(i32) -> bool| {
        filtered(&ours, |write, _| match write {
            Write::Update { id, .. } => wanted(*id),
            Write::Upsert(member) => wanted(member.id),
            // One row is selected by its key alone.
            Write::UpdateMany { ids: [one, other], .. } => one == other && wanted(*one),
            Write::Create(_) => false,
        })
    };
    assert_same(&heard("seventh"), &selected(&|id| id == 7));
    assert_same(&heard("tenths"), &selected(&|id| id % 10 == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_kills_the_npm_process_leaves_ours_alone() {
    let installation = Installation::provide(env!("CARGO_TARGET_TMPDIR"));
    let broker = Mosquitto::start();
    let (emitter, log) = start(&broker).await;
    let poisons = [
        ("{}".to_owned(), 1),
        // An event for ours, without what the package's filters look into.
        (
            json!({ "model": "Member", "operation": "create", "args": null, "result": member(1, 1, "NEW") })
                .to_string(),
            0,
        ),
    ];
    for (life, (poison, bad)) in (1..).zip(&poisons) {
        let mut npm = Server::start(&installation, &broker.url());
        let theirs = plan(THEIRS, 1);
        npm.write(&theirs.iter().map(|(write, _)| write.order()).collect::<Vec<_>>());
        let before = count(&log, "everything");
        eventually(|| count(&log, "everything") == before + theirs.len()).await;
        let bad_before = emitter.stats().bad_messages;

        RawPublisher::connect(broker.port()).publish(TOPIC, poison);
        let (status, errors) = npm.end();
        // If it lives on, the package was mended: then say so in the documentation.
        assert_eq!(status.code(), Some(1), "{poison}: {errors}");
        assert!(errors.contains("TypeError: Cannot read properties of"), "{errors}");
        eventually(|| emitter.stats().received == life * (theirs.len() as u64 + 1)).await;
        eventually(|| emitter.stats().bad_messages == bad_before + bad).await;
    }

    // Ours has a dead letter of the one, has heard the other, and goes on.
    eventually(|| emitter.stats().dead_letters == 1).await;
    let letters = emitter.dead_letters();
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((&*letter.original_topic, &*letter.payload), (TOPIC, &b"{}"[..]));
    assert_eq!(letter.reason, Reason::Undecodable);
    assert!(log.lock().unwrap()["everything"].contains(&("create".to_owned(), json!(member(1, 1, "NEW")))));
    let before = count(&log, "everything");
    let mut npm = Server::start(&installation, &broker.url());
    npm.write(&[Write::Create(member(THEIRS, 1, "NEW")).order()]);
    eventually(|| count(&log, "everything") == before + 1).await;
    write(&emitter, [Write::Create(member(1, 1, "NEW"))]);
    // The letter lies on a topic of its own, and the package does not hear it.
    let counts = npm.until("it has heard ours", |counts| counts.heard["all"] > 0);
    assert_eq!(counts.heard["all"], 1);
    let status = emitter.transport_status().expect("it has a transport");
    assert_eq!((status.subscriber.connected, status.subscriber.connections), (true, 1), "{status:?}");
    assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
}
