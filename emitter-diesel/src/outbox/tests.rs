//! What a relay may mark is what it owns at that moment, whatever it believes.

use diesel::{Connection, QueryableByName, RunQueryDsl, SqliteConnection};

use super::store::{Due, Kept, Next, Reading, Settled, Store, Unsettled};
use crate::tables::{Database, Dialect, Names, Tables};

const LEASE: i64 = 60_000;

/// Of how a query is run.
#[derive(QueryableByName)]
struct Step {
    #[diesel(sql_type = diesel::sql_types::Text)]
    detail: String,
}

struct Table {
    database: SqliteConnection,
    store: Store,
}

impl Table {
    /// With three rows in lane 0.
    fn new() -> Self {
        let mut database = SqliteConnection::establish(":memory:").unwrap();
        let tables = Tables::new(|| SqliteConnection::establish(":memory:")).lanes(2);
        for step in tables.migrations(Dialect::Sqlite) {
            database.run(&step.sql()).unwrap();
        }
        for id in 1..=3 {
            let row = format!(
                "INSERT INTO emitter_outbox (event_id, action, model, record_id, payload, created_at, operation, topic, qos, \
                 lane, by_model, park, trace_id) VALUES ('{id}', 'CREATE', 'order', '1', '{{}}', '', 'create', 'a/b', 1, 0, 0, 0, '')"
            );
            database.run(&row).unwrap();
        }
        Self { database, store: Store { dialect: Dialect::Sqlite, names: Names::default() } }
    }

    fn take(&mut self, relay: &str) -> i64 {
        let take = self.store.take(0, relay, relay, LEASE);
        assert_eq!(self.database.change(take).unwrap(), 1);
        let owned = self.database.lanes(self.store.owned(relay)).unwrap();
        owned[0].epoch
    }

    /// Its lease runs out.
    fn expire(&mut self) {
        self.database.run("UPDATE emitter_lanes SET until = 0").unwrap();
    }

    fn due(&mut self, relay: &str) -> Vec<i64> {
        let Due::Rows(due) = self.store.due(relay, &[Reading { lane: 0, except: Vec::new(), most: 9 }])
        else {
            panic!("SQLite reads rows at once")
        };
        self.database.queued(due).unwrap().iter().map(|row| row.id).collect()
    }

    fn plan(&mut self, sql: &str) -> String {
        let steps: Vec<Step> =
            diesel::sql_query(format!("EXPLAIN QUERY PLAN {sql}")).load(&mut self.database).unwrap();
        steps.into_iter().map(|step| step.detail).collect::<Vec<_>>().join("; ")
    }

    fn statuses(&mut self) -> Vec<(String, i64)> {
        let sql = "SELECT status AS text, id AS number FROM emitter_outbox \
                   UNION ALL SELECT status, id FROM emitter_history ORDER BY id";
        let pairs = self.database.pairs(sql.to_owned()).unwrap();
        pairs.into_iter().map(|pair| (pair.text, pair.number)).collect()
    }

    fn settle(&mut self, relay: &str, epoch: i64, id: i64) {
        let sql = self.store.settle(relay, &[settled(epoch, id)]);
        self.database.run(&sql).unwrap();
    }

    fn fail(&mut self, relay: &str, epoch: i64, id: i64) {
        let row = Unsettled { at: settled(epoch, id), error: "no".to_owned(), next: Next::Failed };
        self.database.run(&self.store.fail(relay, &row)).unwrap();
    }

    fn counted(&mut self) -> i64 {
        let counted = self.database.pairs(self.store.numbers([0])).unwrap();
        counted.first().map_or(0, |pair| pair.number)
    }
}

fn settled(epoch: i64, id: i64) -> Settled {
    Settled {
        id,
        lane: 0,
        epoch,
        model: "order".to_owned(),
        stream: format!("a/0.{epoch}:0"),
        sequence: id,
        handled_here: false,
    }
}

fn all(status: [&str; 3]) -> Vec<(String, i64)> {
    status.iter().zip(1..).map(|(status, id)| ((*status).to_owned(), id)).collect()
}

#[test]
fn a_relay_that_lost_its_lane_marks_nothing() {
    let mut table = Table::new();
    let first = table.take("a");
    assert_eq!((table.due("a"), table.due("b")), (vec![1, 2, 3], vec![]));
    table.settle("a", first, 1);
    table.expire();
    let second = table.take("b");
    assert!(second > first);
    // It slept, and believes that all is as it was.
    table.settle("a", first, 2);
    table.fail("a", first, 3);
    assert_eq!(table.statuses(), all(["COMPLETED", "PENDING", "PENDING"]));
    assert_eq!((table.counted(), table.due("a")), (1, vec![]));
    table.fail("b", second, 3);
    table.settle("b", second, 2);
    assert_eq!(table.statuses(), all(["COMPLETED", "COMPLETED", "FAILED"]));
    assert_eq!(table.counted(), 2);
}

#[test]
fn a_relay_that_has_its_lane_again_marks_nothing_of_before() {
    let mut table = Table::new();
    let first = table.take("a");
    table.expire();
    table.take("b");
    table.expire();
    let third = table.take("a");
    table.settle("a", first, 1);
    table.fail("a", first, 2);
    assert_eq!(table.statuses(), all(["PENDING"; 3]));
    table.settle("a", third, 1);
    assert_eq!(table.statuses(), all(["COMPLETED", "PENDING", "PENDING"]));
}

#[test]
fn a_lane_is_taken_from_nobody_who_holds_it_but_an_earlier_life() {
    let mut table = Table::new();
    table.take("a");
    let stolen = table.store.take(0, "b", "b", LEASE);
    assert_eq!(table.database.change(stolen).unwrap(), 0);
    // The same node, started again.
    let again = table.store.take(0, "a2", "a", LEASE);
    assert_eq!(table.database.change(again).unwrap(), 1);
}

#[test]
fn a_time_is_looked_for_in_the_history_by_its_index_alone() {
    let mut table = Table::new();
    let look = table.store.settled_after(&Kept { lane: 0, model: "order", after: 5, up_to: 9 }, 0);
    let plan = table.plan(&look);
    assert!(plan.contains("history_sequence (lane=? AND sequence>? AND sequence<?)"), "{plan}");
    assert!(!plan.contains("TEMP B-TREE"), "{plan}");
}
