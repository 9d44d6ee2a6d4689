//! How events come into the table.

use std::fmt::Write;

use emitter_core::Operation;
use emitter_core::record::Record;

use super::{PENDING, PROCESSING, Store, qos_number, usual_properties};
use crate::tables::Dialect;

impl Store {
    /// The INSERT of all that a transaction emitted, each with who hands it to its listeners; several, where one would be longer than servers take.
    pub(crate) fn insert<'r>(
        &self,
        records: impl IntoIterator<Item = (&'r Record, &'r str)>,
        lanes: u32,
    ) -> Vec<String> {
        let records = records.into_iter().map(|(record, handler)| (String::new(), record, handler));
        self.inserts("", records, lanes)
    }

    /// The same of rows whose ids are given, on PostgreSQL.
    #[cfg(feature = "postgres")]
    pub(crate) fn insert_as<'r>(
        &self,
        records: impl IntoIterator<Item = (i64, &'r Record)>,
        lanes: u32,
        handler: &'r str,
    ) -> Vec<String> {
        let records = records.into_iter().map(|(id, record)| (format!("{id}, "), record, handler));
        self.inserts("id, ", records, lanes)
    }

    fn inserts<'r>(
        &self,
        also: &str,
        records: impl Iterator<Item = (String, &'r Record, &'r str)>,
        lanes: u32,
    ) -> Vec<String> {
        const MOST: usize = 1 << 20;
        let overriding = if also.is_empty() { "" } else { "OVERRIDING SYSTEM VALUE " };
        let insert = format!(
            "INSERT INTO {} ({also}event_id, action, model, record_id, payload, status, created_at, operation, topic, qos, \
             properties, lane, by_model, park, trace_id, idempotency_key, handler) {overriding}VALUES ",
            self.names.table("outbox")
        );
        let mut all: Vec<String> = Vec::new();
        for (given, record, handler) in records {
            match all.last_mut().filter(|sql| sql.len() < MOST) {
                Some(sql) => sql.push_str(", "),
                None => all.push(insert.clone()),
            }
            if let Some(sql) = all.last_mut() {
                sql.push('(');
                sql.push_str(&given);
                self.values(sql, record, lanes, handler);
                sql.push(')');
            }
        }
        all
    }

    fn values(&self, sql: &mut String, record: &Record, lanes: u32, handler: &str) {
        let dialect = self.dialect;
        let parcel = &record.parcel;
        let status = if record.scope.remote { PENDING } else { PROCESSING };
        // Writing to a `String` cannot fail. Ids and words of ours need no escape.
        let _ = write!(sql, "'{}', '{}', ", parcel.id, action(record));
        dialect.text(sql, record.model);
        sql.push_str(", ");
        dialect.optional(sql, record.key.as_deref());
        sql.push_str(", ");
        dialect.text(sql, &String::from_utf8_lossy(&parcel.payload));
        let _ = write!(sql, ", '{status}', {}, '{}', ", dialect.timestamp(), record.operation);
        dialect.text(sql, &parcel.topic);
        let _ = write!(sql, ", {}, ", qos_number(parcel.qos));
        // Most have the usual ones, which need not be kept.
        let usual = parcel.properties == usual_properties(&parcel.id.to_string());
        let properties = (!usual).then(|| parcel.properties.to_json());
        dialect.optional(sql, properties.as_deref());
        let lane = record.lane % u64::from(lanes.max(1));
        let (by_model, park) = (u8::from(record.by_model), u8::from(record.park));
        let _ = write!(sql, ", {lane}, {by_model}, {park}, '{}', ", record.trace_id);
        dialect.optional(sql, record.idempotency_key.as_deref());
        sql.push_str(", ");
        dialect.optional(sql, record.scope.local.then_some(handler));
    }

    /// Which of these events are in the table.
    pub(crate) fn there(&self, events: &[String]) -> String {
        let (outbox, events) = (self.names.table("outbox"), events.join("', '"));
        let (text, number) = match self.dialect {
            Dialect::Postgres => ("CAST(event_id AS TEXT)", "CAST(1 AS BIGINT)"),
            Dialect::Sqlite | Dialect::MySql => ("event_id", "1"),
        };
        format!("SELECT {text} AS text, {number} AS number FROM {outbox} WHERE event_id IN ('{events}')")
    }

    /// Tells others that something was committed.
    pub(crate) fn notify(&self) -> Option<String> {
        (self.dialect == Dialect::Postgres).then(|| format!("NOTIFY {}", self.names.index("outbox")))
    }
}

/// What a sync queue calls it.
fn action(record: &Record) -> &'static str {
    match record.operation {
        Operation::Create | Operation::CreateMany => "CREATE",
        Operation::Delete | Operation::DeleteMany => "DELETE",
        Operation::Upsert if record.inserted == Some(true) => "CREATE",
        Operation::Update | Operation::UpdateMany | Operation::Upsert => "UPDATE",
    }
}
