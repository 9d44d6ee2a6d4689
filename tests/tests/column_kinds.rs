//! Every type of column, from PostgreSQL on one node to SQLite on another.

#![allow(missing_docs, reason = "diesel's `table!` documents missing")]

use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bigdecimal::BigDecimal;
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use diesel::connection::SimpleConnection;
use diesel::deserialize::{FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::prelude::*;
use diesel::serialize::{IsNull, Output, ToSql};
use diesel::sql_types::Text;
use diesel::{deserialize, serialize};
use emitter_core::transport::memory::MemoryBroker;
use emitter_diesel::{Bind, Emit, Emits, Emitter, Event, update};
use emitter_tests::eventually::eventually;
use emitter_tests::servers::Postgres;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// On PostgreSQL.
mod there {
    diesel::table! {
        samples {
            id -> BigInt,
            small -> SmallInt,
            int -> Integer,
            big -> BigInt,
            real -> Float,
            double -> Double,
            text -> Text,
            missing -> Nullable<Text>,
            yes -> Bool,
            bytes -> Bytea,
            date -> Date,
            time -> Time,
            timestamp -> Timestamp,
            instant -> Timestamptz,
            decimal -> Numeric,
            uuid -> Uuid,
            json -> Jsonb,
            status -> Text,
            tags -> Array<Text>,
            numbers -> Array<Nullable<Integer>>,
        }
    }
}

/// On SQLite, which has no decimals, UUIDs, instants with a zone, and arrays: they are texts there.
mod here {
    diesel::table! {
        samples {
            id -> BigInt,
            small -> SmallInt,
            int -> Integer,
            big -> BigInt,
            real -> Float,
            double -> Double,
            text -> Text,
            missing -> Nullable<Text>,
            yes -> Bool,
            bytes -> Binary,
            date -> Date,
            time -> Time,
            timestamp -> Timestamp,
            instant -> Text,
            decimal -> Text,
            uuid -> Text,
            json -> Text,
            status -> Text,
            tags -> Text,
            numbers -> Text,
        }
    }
}

/// An enum, as applications write them: a text in the database and in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, AsExpression, FromSqlRow)]
#[diesel(sql_type = Text)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Status {
    Draft,
    InReview,
}

impl ToSql<Text, Pg> for Status {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        let text = match self {
            Self::Draft => "DRAFT",
            Self::InReview => "IN_REVIEW",
        };
        std::io::Write::write_all(out, text.as_bytes())?;
        Ok(IsNull::No)
    }
}

impl FromSql<Text, Pg> for Status {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        match <String as FromSql<Text, Pg>>::from_sql(value)?.as_str() {
            "DRAFT" => Ok(Self::Draft),
            "IN_REVIEW" => Ok(Self::InReview),
            other => Err(format!("{other} is no status").into()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, Serialize, Deserialize, Emits)]
#[diesel(table_name = there::samples)]
#[emits(create, update, delete, before)]
struct Sample {
    id: i64,
    small: i16,
    int: i32,
    big: i64,
    real: f32,
    double: f64,
    text: String,
    missing: Option<String>,
    yes: bool,
    bytes: Vec<u8>,
    date: NaiveDate,
    time: NaiveTime,
    timestamp: NaiveDateTime,
    instant: DateTime<Utc>,
    decimal: BigDecimal,
    uuid: Uuid,
    json: Value,
    status: Status,
    tags: Vec<String>,
    numbers: Vec<Option<i32>>,
}

/// A sample as a row of SQLite.
#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Insertable, AsChangeset)]
#[diesel(table_name = here::samples)]
#[diesel(treat_none_as_null = true)]
struct Copied {
    id: i64,
    small: i16,
    int: i32,
    big: i64,
    real: f32,
    double: f64,
    text: String,
    missing: Option<String>,
    yes: bool,
    bytes: Vec<u8>,
    date: NaiveDate,
    time: NaiveTime,
    timestamp: NaiveDateTime,
    instant: String,
    decimal: String,
    uuid: String,
    json: String,
    status: String,
    tags: String,
    numbers: String,
}

fn written(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

fn read<T: for<'de> Deserialize<'de>>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

impl From<&Sample> for Copied {
    fn from(sample: &Sample) -> Self {
        let Sample { id, small, int, big, real, double, yes, date, time, timestamp, .. } = *sample;
        Self {
            text: sample.text.clone(),
            missing: sample.missing.clone(),
            bytes: sample.bytes.clone(),
            instant: written(&sample.instant),
            decimal: sample.decimal.to_string(),
            uuid: sample.uuid.to_string(),
            json: sample.json.to_string(),
            status: written(&sample.status),
            tags: written(&sample.tags),
            numbers: written(&sample.numbers),
            ..Self { id, small, int, big, real, double, yes, date, time, timestamp, ..Self::empty() }
        }
    }
}

impl Copied {
    fn empty() -> Self {
        Self {
            id: 0,
            small: 0,
            int: 0,
            big: 0,
            real: 0.0,
            double: 0.0,
            text: String::new(),
            missing: None,
            yes: false,
            bytes: Vec::new(),
            date: NaiveDate::MIN,
            time: NaiveTime::MIN,
            timestamp: NaiveDateTime::MIN,
            instant: String::new(),
            decimal: String::new(),
            uuid: String::new(),
            json: String::new(),
            status: String::new(),
            tags: String::new(),
            numbers: String::new(),
        }
    }

    fn sample(self) -> Sample {
        let Self {
            id, small, int, big, real, double, text, missing, yes, bytes, date, time, timestamp, ..
        } = self;
        Sample {
            instant: read(&self.instant),
            decimal: BigDecimal::from_str(&self.decimal).unwrap(),
            uuid: self.uuid.parse().unwrap(),
            json: read(&self.json),
            status: read(&self.status),
            tags: read(&self.tags),
            numbers: read(&self.numbers),
            ..Sample {
                id,
                small,
                int,
                big,
                real,
                double,
                text,
                missing,
                yes,
                bytes,
                date,
                time,
                timestamp,
                ..sample(0)
            }
        }
    }
}

/// A sample of ordinary values.
fn sample(id: i64) -> Sample {
    let timestamp = NaiveDateTime::from_str("2026-11-21T14:00:00.123456").unwrap();
    Sample {
        id,
        small: 1,
        int: 2,
        big: 3,
        real: 0.1,
        double: 0.1,
        text: "Ümläute, 日本語, \"quotes\", \\ and \u{1f600}".to_owned(),
        missing: None,
        yes: true,
        bytes: (0..=255).collect(),
        date: timestamp.date(),
        time: timestamp.time(),
        timestamp,
        instant: timestamp.and_utc(),
        decimal: BigDecimal::from_str("1234567890123456789.000000000012345").unwrap(),
        uuid: Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        json: json!({"nested": [1, 2.5, null, true, {"deeper": "text"}]}),
        status: Status::InReview,
        tags: vec!["a".to_owned(), "b,{}\"c".to_owned(), String::new()],
        numbers: vec![Some(1), None, Some(-3)],
    }
}

/// The same at the borders of the types.
fn extremes() -> Vec<Sample> {
    let early = NaiveDateTime::from_str("0001-01-01T00:00:00").unwrap();
    let late = NaiveDateTime::from_str("9999-12-31T23:59:59.999999").unwrap();
    let extreme = |id, [small, int]: [i32; 2], real: f32, double: f64, timestamp: NaiveDateTime| Sample {
        small: if small < 0 { i16::MIN } else { i16::MAX },
        int,
        big: id,
        real,
        double,
        text: String::new(),
        missing: Some(String::new()),
        yes: false,
        bytes: Vec::new(),
        date: timestamp.date(),
        time: timestamp.time(),
        timestamp,
        instant: timestamp.and_utc(),
        uuid: Uuid::nil(),
        json: Value::Null,
        status: Status::Draft,
        tags: Vec::new(),
        numbers: Vec::new(),
        ..sample(id)
    };
    vec![
        extreme(i64::MIN, [-1, i32::MIN], f32::MIN, f64::MIN, early),
        extreme(i64::MAX, [1, i32::MAX], f32::MAX, f64::MAX, late),
        Sample { real: f32::MIN_POSITIVE, double: f64::MIN_POSITIVE, ..sample(9_007_199_254_740_993) },
        Sample { decimal: BigDecimal::from_str("-0.10").unwrap(), ..sample(5) },
    ]
}

const THERE: &str = "CREATE TABLE samples (
    id BIGINT PRIMARY KEY, small SMALLINT NOT NULL, int INTEGER NOT NULL, big BIGINT NOT NULL, real REAL NOT NULL,
    double DOUBLE PRECISION NOT NULL, text TEXT NOT NULL, missing TEXT, yes BOOLEAN NOT NULL, bytes BYTEA NOT NULL,
    date DATE NOT NULL, time TIME NOT NULL, timestamp TIMESTAMP NOT NULL, instant TIMESTAMPTZ NOT NULL,
    decimal NUMERIC NOT NULL, uuid UUID NOT NULL, json JSONB NOT NULL, status TEXT NOT NULL, tags TEXT[] NOT NULL,
    numbers INTEGER[] NOT NULL
)";

const HERE: &str = "CREATE TABLE samples (
    id INTEGER PRIMARY KEY, small INTEGER NOT NULL, int INTEGER NOT NULL, big INTEGER NOT NULL, real REAL NOT NULL,
    double REAL NOT NULL, text TEXT NOT NULL, missing TEXT, yes INTEGER NOT NULL, bytes BLOB NOT NULL,
    date TEXT NOT NULL, time TEXT NOT NULL, timestamp TEXT NOT NULL, instant TEXT NOT NULL, decimal TEXT NOT NULL,
    uuid TEXT NOT NULL, json TEXT NOT NULL, status TEXT NOT NULL, tags TEXT NOT NULL, numbers TEXT NOT NULL
)";

async fn node(name: &str, broker: &MemoryBroker) -> Emitter {
    Emitter::builder().service("samples").node(name).transport(broker.connect(name)).start().await.unwrap()
}

#[tokio::test]
async fn rows_are_equal_on_both_ends() {
    let server = Postgres::start();
    let mut there = PgConnection::establish(&server.url()).unwrap();
    there.batch_execute(THERE).unwrap();
    let here = Arc::new(Mutex::new(SqliteConnection::establish(":memory:").unwrap()));
    here.lock().unwrap().batch_execute(HERE).unwrap();

    let broker = MemoryBroker::new();
    let (writer, reader) = (node("writer", &broker).await, node("reader", &broker).await);
    let copies = Arc::clone(&here);
    // What the rows were before, as the reader was told.
    let before = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&before);
    reader.on::<SampleEvent>().remote_only().run_blocking(move |event: Event<SampleEvent>| {
        let conn = &mut *copies.lock().unwrap();
        match &*event {
            SampleEvent::Created(body) => {
                diesel::insert_into(here::samples::table).values(Copied::from(&body.row)).execute(conn)
            }
            SampleEvent::Updated(body) => {
                told.lock().unwrap().extend(body.before.clone());
                let copy = Copied::from(&body.after);
                diesel::update(&copy).set(&copy).execute(conn)
            }
            SampleEvent::Deleted(body) => {
                diesel::delete(here::samples::table.find(body.row.id)).execute(conn)
            }
        }
        .map(drop)
    });

    let mut samples = extremes();
    samples.push(sample(1));
    {
        let conn = &mut writer.bind(&mut there).unwrap();
        for row in &samples {
            let stored: Sample = diesel::insert_into(there::samples::table)
                .values(row.clone())
                .emit()
                .get_result(conn)
                .unwrap();
            assert_eq!(&stored, row, "PostgreSQL keeps it");
        }
        let change = (there::samples::text.eq("changed"), there::samples::missing.eq(Some("something")));
        update(there::samples::table.find(1)).set(change).emit::<Sample>().get_result(conn).unwrap();
        emitter_diesel::delete(there::samples::table.find(5)).emit::<Sample>().get_result(conn).unwrap();
    }
    let expected: Vec<Sample> = there::samples::table.order(there::samples::id).load(&mut there).unwrap();
    let copied = || {
        let conn = &mut *here.lock().unwrap();
        let rows: Vec<Copied> = here::samples::table.order(here::samples::id).load(conn).unwrap();
        rows.into_iter().map(Copied::sample).collect::<Vec<_>>()
    };
    eventually(|| before.lock().unwrap().len() == 1 && copied().len() == expected.len()).await;
    assert_eq!(copied(), expected);
    assert_eq!(*before.lock().unwrap(), [sample(1)]);
    for node in [writer, reader] {
        assert!(node.shutdown(Duration::from_secs(10)).await.is_clean());
    }
}

/// What other programs read: the npm package's consumers too.
#[test]
fn rows_are_plain_json() {
    let Value::Object(mut row) = serde_json::to_value(sample(9_007_199_254_740_993)).unwrap() else {
        panic!("a row is an object")
    };
    assert_eq!(
        row.remove("bytes").unwrap().as_array().unwrap().len(),
        256,
        "numbers, as in JavaScript's Uint8Array"
    );
    assert_eq!(
        Value::Object(row),
        json!({
            "id": 9_007_199_254_740_993_i64, "small": 1, "int": 2, "big": 3, "real": 0.1_f32, "double": 0.1,
            "text": "Ümläute, 日本語, \"quotes\", \\ and \u{1f600}", "missing": null, "yes": true,
            "date": "2026-11-21", "time": "14:00:00.123456", "timestamp": "2026-11-21T14:00:00.123456",
            "instant": "2026-11-21T14:00:00.123456Z", "decimal": "1234567890123456789.000000000012345",
            "uuid": "01234567-89ab-cdef-0123-456789abcdef",
            "json": {"nested": [1, 2.5, null, true, {"deeper": "text"}]}, "status": "IN_REVIEW",
            "tags": ["a", "b,{}\"c", ""], "numbers": [1, null, -3]
        })
    );
}
