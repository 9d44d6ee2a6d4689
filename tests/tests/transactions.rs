//! A thousand random transactions: what was committed is emitted, and nothing else.
//!
//! Two judges: a model that the test keeps beside the database, and the database itself, whose rows must
//! come out when all events are applied to an empty table.

#![allow(missing_docs, reason = "diesel's `table!` documents nothing")]

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::connection::{SimpleConnection, TransactionManager};
use diesel::prelude::*;
use diesel::result::Error;
use emitter_core::transport::memory::MemoryBroker;
use emitter_diesel::{Bind, Bound, Emit, Emits, Emitter, Event, Operation};
use emitter_tests::eventually::eventually;
use serde::{Deserialize, Serialize};

diesel::table! {
    users {
        id -> Integer,
        name -> Text,
        n -> Integer,
    }
}

#[derive(
    Debug,
    Clone,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Queryable,
    Identifiable,
    Insertable,
    Serialize,
    Deserialize,
    Emits,
)]
#[emits(model = "user", all)]
struct User {
    id: i32,
    name: String,
    n: i32,
}

/// No more keys than that, so that transactions meet, and constraints are violated.
const KEYS: i32 = 40;

const TABLES: &str = "
    PRAGMA foreign_keys = ON;
    CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, n INTEGER NOT NULL CHECK (n >= 0));
    CREATE TABLE notes (id INTEGER PRIMARY KEY, reader INTEGER NOT NULL
        REFERENCES readers (id) DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE readers (id INTEGER PRIMARY KEY);
";

/// One event: what was done, and the rows after it, or those that are gone.
type Change = (Operation, Vec<User>);

fn change(event: &Event<UserEvent>) -> Change {
    let rows = match &**event {
        UserEvent::Created(body) => vec![body.row.clone()],
        UserEvent::Updated(body) => vec![body.after.clone()],
        UserEvent::Upserted(body) => vec![body.row.clone()],
        UserEvent::Deleted(body) => vec![body.row.clone()],
        UserEvent::CreatedMany(body) => body.rows.clone().expect("an insert knows its rows"),
        UserEvent::DeletedMany(body) => body.rows.clone().expect("a delete knows its rows"),
        UserEvent::UpdatedMany(body) => {
            let rows = body.rows.iter().flatten();
            rows.map(|row| row.after.clone()).collect()
        }
    };
    (event.operation(), rows)
}

type Heard = Arc<Mutex<Vec<Change>>>;

fn listen(emitter: &Emitter, remote: bool) -> Heard {
    let heard = Heard::default();
    let log = Arc::clone(&heard);
    let listener = emitter.on::<UserEvent>();
    let listener = if remote { listener.remote_only() } else { listener };
    let _ = listener.run(move |event| {
        log.lock().unwrap().push(change(&event));
        std::future::ready(())
    });
    heard
}

/// What the database holds and which events have left, if everything is right.
#[derive(Debug, Clone, Default)]
struct Model {
    rows: BTreeMap<i32, User>,
    changes: Vec<Change>,
}

impl Model {
    /// What was done to these rows is seen by later statements, and will be emitted if it stays.
    fn apply(&mut self, operation: Operation, rows: Vec<User>) {
        if rows.is_empty() {
            return;
        }
        replay(&mut self.rows, &(operation, rows.clone()));
        self.changes.push((operation, rows));
    }
}

/// Does to these rows what the event says.
fn replay(table: &mut BTreeMap<i32, User>, (operation, rows): &Change) {
    for row in rows {
        let before = match operation {
            Operation::Delete | Operation::DeleteMany => table.remove(&row.id),
            _ => table.insert(row.id, row.clone()),
        };
        match operation {
            Operation::Create | Operation::CreateMany => assert_eq!(before, None, "{operation}: {row:?}"),
            Operation::Upsert => {}
            _ => assert!(before.is_some(), "{operation}: {row:?}"),
        }
    }
}

/// What happened so far.
#[derive(Debug, Default)]
struct Tally {
    committed: usize,
    rolled_back: usize,
    of_them_panics: usize,
    of_them_at_commit: usize,
    savepoints: usize,
    savepoints_rolled_back: usize,
    statements_refused: usize,
}

/// Writes at random, with a model beside it.
struct Writer {
    random: fastrand::Rng,
    model: Model,
    tally: Tally,
    /// The events that had left when the transaction began.
    emitted: u64,
    /// Transactions emit what they did in the end.
    net: bool,
}

impl Writer {
    /// One transaction, which is as likely to stay as to go.
    fn transaction(&mut self, emitter: &Emitter, db: &mut SqliteConnection) {
        let before = self.model.clone();
        self.emitted = emitter.stats().emitted_local;
        let end = if self.random.bool() { End::Commit } else { self.failure() };
        let mut bound = emitter.bind(db).expect("no transaction is open");
        if self.net {
            bound.net_changes();
        }
        let work =
            AssertUnwindSafe(|| bound.transaction(|conn| self.work(conn, 0).and_then(|()| end.reach(conn))));
        let outcome = catch_unwind(work);
        drop(bound);
        match (end, outcome) {
            (End::Commit, Ok(Ok(()))) => self.tally.committed += 1,
            (End::Panic, Err(_)) => {
                self.tally.of_them_panics += 1;
                type Manager = <SqliteConnection as Connection>::TransactionManager;
                Manager::rollback_transaction(db).expect("it is still open");
            }
            (End::Error | End::BadCommit, Ok(Err(_))) => {
                self.tally.of_them_at_commit += usize::from(end == End::BadCommit);
            }
            (end, outcome) => panic!("{end:?} ended as {outcome:?}"),
        }
        if end != End::Commit {
            self.tally.rolled_back += 1;
            self.model = before;
        }
        let rows: Vec<User> = users::table.order(users::id).load(db).expect("a table");
        assert!(rows.iter().eq(self.model.rows.values()), "the test's own model is wrong");
        let changes = self.model.changes.len() as u64;
        let emitted = emitter.stats().emitted_local;
        assert!(emitted == changes || self.net && emitted < changes, "{emitted} of {changes}");
    }

    fn failure(&mut self) -> End {
        *self.random.choice(&[End::Error, End::Panic, End::BadCommit]).expect("three")
    }

    /// Some statements and savepoints, of which a third is rolled back.
    fn work(&mut self, conn: &mut Bound<'_, SqliteConnection>, depth: u32) -> QueryResult<()> {
        for _ in 0..self.random.u32(1..=if self.net { 5 } else { 4 }) {
            if depth == 3 || self.random.u8(0..3) > 0 {
                self.statement(conn)?;
                assert_eq!(
                    conn.emitter().stats().emitted_local,
                    self.emitted,
                    "an event left before the commit"
                );
                continue;
            }
            let before = self.model.clone();
            self.tally.savepoints += 1;
            let fails = self.random.u8(0..3) == 0;
            let outcome = conn.transaction(|conn| {
                self.work(conn, depth + 1)?;
                if fails { self.refused(conn).and(Err(Error::RollbackTransaction)) } else { Ok(()) }
            });
            assert_eq!(outcome.is_err(), fails, "{outcome:?}");
            if fails {
                // Swallowed: what is around it goes on.
                self.tally.savepoints_rolled_back += 1;
                self.model = before;
            }
        }
        Ok(())
    }

    /// An error that comes from the database, or none.
    fn refused(&mut self, conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<()> {
        let Some(taken) = self.model.rows.values().next().cloned() else { return Ok(()) };
        if self.random.bool() {
            return Ok(());
        }
        self.tally.statements_refused += 1;
        diesel::insert_into(users::table).values(&taken).emit::<User>().get_result(conn).map(|_| ())
    }

    /// A statement, which may be refused without harm to the rest.
    fn statement(&mut self, conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<()> {
        // Of fewer keys, more rows are written twice in a transaction.
        let id = self.random.i32(1..=if self.net { KEYS / 5 } else { KEYS });
        let n = self.random.i32(0..1000);
        let known = self.model.rows.get(&id).cloned();
        let new = |id: i32| User { id, name: format!("{id} in {n}"), n };
        match self.random.u8(0..8) {
            0 | 1 => self.create(conn, &new(id)),
            2 => self.create_many(conn, (id..id + 3).map(new).collect()),
            3 => {
                let values = new(id);
                let upsert =
                    diesel::insert_into(users::table).values(&values).on_conflict(users::id).do_update();
                let row: User = upsert.set(users::n.eq(n)).emit().get_result(conn)?;
                let expected = User { name: known.map_or(values.name, |known| known.name), ..new(id) };
                assert_eq!(row, expected);
                self.model.apply(Operation::Upsert, vec![row]);
                Ok(())
            }
            4 => {
                let Some(known) = known else { return Ok(()) };
                // Below zero the CHECK refuses it.
                let n = if n % 4 == 0 { -1 } else { n };
                let update = emitter_diesel::update(&known).set(users::n.eq(n)).emit();
                match update.get_result::<User, _>(conn) {
                    Ok(row) => self.model.apply(Operation::Update, vec![row]),
                    Err(refused) => self.refusal(&refused, n < 0),
                }
                Ok(())
            }
            5 => {
                let some = users::table.filter(users::id.between(id, id + 3));
                let update = emitter_diesel::update(some).set(users::n.eq(users::n + 1));
                let count = update.emit::<User>().execute(conn)?;
                let after = self.between(id, id + 3, |user| User { n: user.n + 1, ..user });
                assert_eq!(count, after.len());
                self.model.apply(Operation::UpdateMany, after);
                Ok(())
            }
            6 => {
                let Some(known) = known else { return Ok(()) };
                let gone: User = emitter_diesel::delete(&known).emit().get_result(conn)?;
                self.model.apply(Operation::Delete, vec![gone]);
                Ok(())
            }
            _ => {
                let some = users::table.filter(users::id.between(id, id + 1));
                let count = emitter_diesel::delete(some).emit::<User>().execute(conn)?;
                let gone = self.between(id, id + 1, |user| user);
                assert_eq!(count, gone.len());
                self.model.apply(Operation::DeleteMany, gone);
                Ok(())
            }
        }
    }

    fn create(&mut self, conn: &mut Bound<'_, SqliteConnection>, user: &User) -> QueryResult<()> {
        let insert = diesel::insert_into(users::table).values(user).emit();
        match insert.get_result::<User, _>(conn) {
            Ok(row) => self.model.apply(Operation::Create, vec![row]),
            Err(refused) => self.refusal(&refused, self.model.rows.contains_key(&user.id)),
        }
        Ok(())
    }

    fn create_many(&mut self, conn: &mut Bound<'_, SqliteConnection>, list: Vec<User>) -> QueryResult<()> {
        let insert = diesel::insert_into(users::table).values(&list);
        match insert.emit::<User>().execute(conn) {
            Ok(count) => {
                assert_eq!(count, list.len());
                self.model.apply(Operation::CreateMany, list);
            }
            // One of them is enough to refuse all.
            Err(refused) => {
                let taken = list.iter().any(|user| self.model.rows.contains_key(&user.id));
                self.refusal(&refused, taken);
            }
        }
        Ok(())
    }

    #[track_caller]
    fn refusal(&mut self, refused: &Error, expected: bool) {
        assert!(expected && matches!(refused, Error::DatabaseError(..)), "{refused}");
        self.tally.statements_refused += 1;
    }

    fn between(&self, first: i32, last: i32, change: impl Fn(User) -> User) -> Vec<User> {
        self.model.rows.range(first..=last).map(|(_, user)| change(user.clone())).collect()
    }
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Commit,
    /// The closure returns an error.
    Error,
    Panic,
    /// The closure returns `Ok`, and COMMIT fails.
    BadCommit,
}

impl End {
    fn reach(self, conn: &mut Bound<'_, SqliteConnection>) -> QueryResult<()> {
        match self {
            Self::Commit => Ok(()),
            Self::Error => Err(Error::RollbackTransaction),
            Self::Panic => std::panic::panic_any("on purpose"),
            Self::BadCommit => conn.batch_execute("INSERT INTO notes (reader) VALUES (1)"),
        }
    }
}

/// What happened to each row, in order: the operation and the row after it.
fn by_key(changes: &[Change]) -> HashMap<i32, Vec<(Operation, &User)>> {
    let mut keys: HashMap<i32, Vec<_>> = HashMap::new();
    for (operation, rows) in changes {
        for row in rows {
            keys.entry(row.id).or_default().push((*operation, row));
        }
    }
    keys
}

fn sorted(changes: &[Change]) -> Vec<Change> {
    let mut changes: Vec<Change> = changes.to_vec();
    changes.sort_by(|(a, one), (b, other)| (a.as_str(), one).cmp(&(b.as_str(), other)));
    changes
}

/// These are the committed changes, all of them and no other, in order per key.
#[track_caller]
fn check(heard: &[Change], model: &Model, who: &str) {
    assert_eq!(heard.len(), model.changes.len(), "{who}");
    assert_eq!(sorted(heard), sorted(&model.changes), "{who}");
    assert_eq!(by_key(heard), by_key(&model.changes), "{who}");
    let mut rows = BTreeMap::new();
    heard.iter().for_each(|change| replay(&mut rows, change));
    assert_eq!(rows, model.rows, "{who}");
}

/// Whoever applies these has the rows. `replay` says what does not fit.
#[track_caller]
fn check_net(heard: &[Change], model: &Model, who: &str) {
    assert!(heard.len() * 10 < model.changes.len() * 9, "{} of {}", heard.len(), model.changes.len());
    let mut table = BTreeMap::new();
    for (operation, mut rows) in heard.iter().cloned() {
        if matches!(operation, Operation::Delete | Operation::DeleteMany) {
            // Of one that was upserted first nobody knows whether it was there before.
            rows.retain(|row| table.contains_key(&row.id));
        }
        replay(&mut table, &(operation, rows));
    }
    assert_eq!(table, model.rows, "{who}");
}

async fn exactly_the_committed_changes_are_emitted(seed: u64, net: bool) {
    println!("seed {seed}");
    let broker = MemoryBroker::new();
    let node = |name: &'static str| {
        let builder = Emitter::builder().node(name).select_listeners(|_| false);
        builder.transport(broker.connect(name)).start()
    };
    let (a, b) = (node("a").await.unwrap(), node("b").await.unwrap());
    let (here, there) = (listen(&a, false), listen(&b, true));
    b.connected(Duration::from_secs(10)).await.unwrap();

    let mut db = SqliteConnection::establish(":memory:").unwrap();
    db.batch_execute(TABLES).unwrap();
    let random = fastrand::Rng::with_seed(seed);
    let mut writer = Writer { random, model: Model::default(), tally: Tally::default(), emitted: 0, net };
    for _ in 0..1000 {
        writer.transaction(&a, &mut db);
        // So that listeners run between transactions, and not only after all.
        tokio::task::yield_now().await;
    }
    let Writer { model, tally, .. } = writer;
    println!("{tally:?}\n{} events of {} rows that are left", model.changes.len(), model.rows.len());
    let thirds = tally.savepoints / 4..tally.savepoints / 2;
    assert!((400..600).contains(&tally.rolled_back) && thirds.contains(&tally.savepoints_rolled_back));
    assert!(tally.of_them_panics > 100 && tally.of_them_at_commit > 100 && tally.statements_refused > 100);

    eventually(|| b.stats().handled == a.stats().emitted_local).await;
    assert!(a.shutdown(Duration::from_secs(10)).await.is_clean());
    assert!(b.shutdown(Duration::from_secs(10)).await.is_clean());
    let check = if net { check_net } else { check };
    check(&here.lock().unwrap(), &model, "the node that wrote");
    check(&there.lock().unwrap(), &model, "another node");
}

#[tokio::test]
async fn of_a_thousand_transactions_exactly_the_committed_changes_are_emitted() {
    every_seed(false).await;
}

#[tokio::test]
async fn the_net_changes_of_a_thousand_transactions_lead_to_the_same_rows() {
    every_seed(true).await;
}

async fn every_seed(net: bool) {
    // Panics on purpose are not worth a line each; a failing assertion is.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&"on purpose") {
            report(info);
        }
    }));
    let seeds = if std::env::var("EMITTER_PROOF").is_ok_and(|proof| proof == "full") { 50 } else { 3 };
    for seed in 1..=seeds {
        exactly_the_committed_changes_are_emitted(seed, net).await;
    }
}
