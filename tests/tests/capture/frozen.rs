//! A node that hangs while it turns.

use std::sync::atomic::{AtomicBool, Ordering};

use diesel::deserialize::{FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::sql_types::Text;

use super::*;

diesel::table! {
    parcels {
        id -> BigInt,
        label -> Text,
    }
}

/// Whoever reads the next label hangs at it.
static HANGS: AtomicBool = AtomicBool::new(false);
static GOES_ON: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, FromSqlRow)]
struct Label(String);

impl FromSql<Text, Pg> for Label {
    fn from_sql(value: PgValue<'_>) -> diesel::deserialize::Result<Self> {
        if HANGS.swap(false, Ordering::SeqCst) {
            while !GOES_ON.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        FromSql::<Text, Pg>::from_sql(value).map(Self)
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[emits(create)]
struct Parcel {
    id: i64,
    label: Label,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_in_the_middle_holds_up_no_other_for_long() {
    let (server, broker) = (Postgres::start(), MemoryBroker::new());
    let mut db = connect(&server);
    db.batch_execute("CREATE TABLE parcels (id BIGINT PRIMARY KEY, label TEXT NOT NULL)").unwrap();
    let (other, heard) = ear(&broker, |event: &Event<ParcelCreated>| event.row.id).await;
    let start = |name: &'static str| {
        let outbox = Outbox::new(tables(&server)).capture(Capture::of::<Parcel>().unwrap());
        builder(&broker, name).with(outbox).start()
    };
    let stuck = start("a").await.unwrap();
    HANGS.store(true, Ordering::SeqCst);
    db.batch_execute("INSERT INTO parcels VALUES (1, 'x')").unwrap();
    eventually(|| !HANGS.load(Ordering::SeqCst)).await;
    let node = start("b").await.unwrap();
    db.batch_execute("INSERT INTO parcels VALUES (2, 'y')").unwrap();
    until(&mut db, "emitter_captured", 0);
    eventually(|| heard.len() >= 2).await;
    // What it had begun is undone.
    GOES_ON.store(true, Ordering::SeqCst);
    db.batch_execute("INSERT INTO parcels VALUES (3, 'z')").unwrap();
    eventually(|| heard.len() >= 3).await;
    until(&mut db, "emitter_outbox", 0);
    // Between keys there is no order.
    let mut heard = heard.heard();
    heard.sort_unstable();
    assert_eq!((heard, count(&mut db, "emitter_history")), (vec![1, 2, 3], 3));
    ended([stuck, node, other]).await;
}
