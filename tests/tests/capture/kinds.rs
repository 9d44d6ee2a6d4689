//! Every type of column: captured values are what a statement with `.emit()` tells, and what is skipped can be of any
//! type, too.

use std::str::FromStr;

use bigdecimal::BigDecimal;
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use diesel::data_types::PgInterval;
use diesel::deserialize::{FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::sql_types::Interval;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;

diesel::table! {
    kinds {
        id -> BigInt,
        small -> SmallInt,
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
        tags -> Array<Text>,
        numbers -> Array<Nullable<Integer>>,
        pause -> Interval,
        h_small -> SmallInt,
        h_double -> Double,
        h_text -> Text,
        h_yes -> Bool,
        h_bytes -> Bytea,
        h_date -> Date,
        h_time -> Time,
        h_timestamp -> Timestamp,
        h_instant -> Timestamptz,
        h_decimal -> Numeric,
        h_uuid -> Uuid,
        h_json -> Jsonb,
        h_tags -> Array<Text>,
        h_missing -> Nullable<Timestamptz>,
    }
}

/// Months, days and microseconds, for Diesel's own is not for serde.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, FromSqlRow)]
struct Pause(i32, i32, i64);

impl FromSql<Interval, Pg> for Pause {
    fn from_sql(value: PgValue<'_>) -> diesel::deserialize::Result<Self> {
        let PgInterval { microseconds, days, months } = FromSql::<Interval, Pg>::from_sql(value)?;
        Ok(Self(months, days, microseconds))
    }
}

#[derive(Debug, Clone, PartialEq, Queryable, Identifiable, Serialize, Deserialize, Emits)]
#[diesel(table_name = kinds)]
#[emits(model = "kind", update, before)]
struct Kind {
    id: i64,
    small: i16,
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
    tags: Vec<String>,
    numbers: Vec<Option<i32>>,
    pause: Pause,
    #[emits(skip)]
    h_small: i16,
    #[emits(skip)]
    h_double: f64,
    #[emits(skip)]
    h_text: String,
    #[emits(skip)]
    h_yes: bool,
    #[emits(skip)]
    h_bytes: Vec<u8>,
    #[emits(skip)]
    h_date: NaiveDate,
    #[emits(skip)]
    h_time: NaiveTime,
    #[emits(skip)]
    h_timestamp: NaiveDateTime,
    #[emits(skip)]
    h_instant: DateTime<Utc>,
    #[emits(skip)]
    h_decimal: BigDecimal,
    #[emits(skip)]
    h_uuid: Uuid,
    #[emits(skip)]
    h_json: Value,
    #[emits(skip)]
    h_tags: Vec<String>,
    #[emits(skip)]
    h_missing: Option<DateTime<Utc>>,
}

const COLUMNS: &str = "small SMALLINT NOT NULL, real REAL NOT NULL, double DOUBLE PRECISION NOT NULL, text TEXT NOT NULL, \
    missing TEXT, yes BOOLEAN NOT NULL, bytes BYTEA NOT NULL, date DATE NOT NULL, time TIME NOT NULL, \
    timestamp TIMESTAMP NOT NULL, instant TIMESTAMPTZ NOT NULL, decimal NUMERIC NOT NULL, uuid UUID NOT NULL, \
    json JSONB NOT NULL, tags TEXT[] NOT NULL, numbers INTEGER[] NOT NULL, \
    pause INTERVAL NOT NULL";

const HIDDEN: &str = "h_small SMALLINT NOT NULL, h_double DOUBLE PRECISION NOT NULL, h_text VARCHAR(3) NOT NULL, \
    h_yes BOOLEAN NOT NULL, h_bytes BYTEA NOT NULL, h_date DATE NOT NULL, h_time TIME NOT NULL, \
    h_timestamp TIMESTAMP NOT NULL, h_instant TIMESTAMPTZ NOT NULL, h_decimal NUMERIC NOT NULL, h_uuid UUID NOT NULL, \
    h_json JSONB NOT NULL, h_tags TEXT[] NOT NULL, h_missing TIMESTAMPTZ";

const HIDDEN_VALUES: &str = "1, 1, 'x', true, 'x', '2026-01-01', '12:00', '2026-01-01', '2026-01-01', 1, \
    '01234567-89ab-cdef-0123-456789abcdef', '{}', '{x}', NULL";

const ROWS: [&str; 3] = [
    "1, -32768, 0.1, 0.1, E'Ümläute, \"quotes\" \\\\ and \\U0001f600 %s $1 ''', NULL, true, '\\x00ff5c27', '2026-11-21', \
     '14:00:00.123456', '2026-11-21 14:00:00.123456', '2026-11-21 14:00:00.1+02', 1234567890123456789.000000000012345, \
     '01234567-89ab-cdef-0123-456789abcdef', '{\"nested\": [1, 2.5, null, 12345678901]}', \
     '{a,\"b,{}\\\"c\",\"\",\"NULL\"}', '{1,NULL,-3}', '-1 days -02:03:04'",
    "9007199254740993, 32767, 3.4028235e38, 1.7976931348623157e308, '', '', false, '', '0001-01-01', '00:00', '0001-01-01', \
     '9999-12-31 23:59:59.999999Z', -0.10, '00000000-0000-0000-0000-000000000000', 'null', '{}', '{}', '1 year -2 mons 3 days'",
    "-5, 0, 1.1754944e-38, 2.2250738585072014e-308, 'x', NULL, true, '\\x00', '9999-12-31', '23:59:59.999999', '9999-12-31', \
     '0001-01-01Z', 0, '00000000-0000-0000-0000-000000000000', '\"text\"', '{x}', '{NULL}', '-1 year -2 mons'",
];

#[tokio::test(flavor = "multi_thread")]
async fn captured_values_are_what_diesel_loads() {
    let (server, broker) = (Postgres::start(), MemoryBroker::new());
    let mut db = connect(&server);
    db.batch_execute(&format!("CREATE TABLE kinds (id BIGINT PRIMARY KEY, {COLUMNS}, {HIDDEN})")).unwrap();
    let (other, heard) =
        ear(&broker, |event: &Event<KindUpdated>| (event.before.clone().unwrap(), event.after.clone())).await;
    let outbox = Outbox::new(tables(&server)).capture(Capture::of::<Kind>().unwrap());
    let node = builder(&broker, "a").with(outbox).start().await.unwrap();
    // Whatever a session prefers.
    db.batch_execute(
        "SET bytea_output = 'escape'; SET datestyle = 'German'; SET timezone = 'Asia/Kathmandu'; \
                      SET extra_float_digits = -5; SET intervalstyle = 'sql_standard'",
    )
    .unwrap();
    for row in ROWS {
        db.batch_execute(&format!("INSERT INTO kinds VALUES ({row}, {HIDDEN_VALUES})")).unwrap();
    }
    let mut reader = connect(&server);
    let load = |reader: &mut PgConnection| -> Vec<KindRow> {
        let kinds: Vec<Kind> = kinds::table.order(kinds::id).load(reader).unwrap();
        kinds.iter().map(|kind| emitter_core::model::Model::to_row(kind, None)).collect()
    };
    let before = load(&mut reader);
    assert_eq!(before[1].json, json!({"nested": [1, 2.5, null, 12_345_678_901_i64]}));
    assert_eq!(before[1].decimal, BigDecimal::from_str("1234567890123456789.000000000012345").unwrap());
    db.batch_execute("UPDATE kinds SET missing = 'now'").unwrap();
    let after = load(&mut reader);
    eventually(|| heard.len() >= 3).await;
    let mut heard = heard.heard();
    heard.sort_by_key(|(before, _)| before.id);
    assert_eq!(heard, before.into_iter().zip(after).collect::<Vec<_>>());
    ended([node, other]).await;
}
