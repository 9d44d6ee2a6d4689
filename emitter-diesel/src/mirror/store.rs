//! What is asked of a mirror's tables, as SQL.

use std::borrow::Cow;
use std::fmt::Write;

use emitter_core::Sighting;
use emitter_core::event::Timestamp;
use uuid::Uuid;

use super::known::Identity;
use super::selection::{Cursor, Selection};
use crate::tables::{Dialect, Names};

/// How the statements of one mirror are written.
#[derive(Debug, Clone)]
pub(super) struct Store {
    pub(super) dialect: Dialect,
    pub(super) names: Names,
}

/// An event to be written down.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) topic: String,
    pub(super) event: Sighting,
    /// The database refused its JSON: it is kept as text alone.
    pub(super) as_text: bool,
}

impl Row {
    /// What tells it from all others, where something does.
    pub(super) fn identity(&self) -> Option<Identity> {
        let origin = self.event.origin.as_ref()?;
        Some((*self.event.id?.as_uuid(), origin.incarnation))
    }

    /// Its bytes, about.
    pub(super) fn size(&self) -> usize {
        self.topic.len() + self.event.payload.len() + self.event.properties.bytes() + 200
    }
}

/// How many bytes of events a page has at most, but for its last event.
pub(super) const MOST_BYTES: usize = 8 * 1024 * 1024;

impl Store {
    /// The row by which nodes agree who writes.
    pub(super) fn enter(&self, name: &str) -> String {
        let (writers, name) = (self.names.table("mirrors"), self.dialect.quoted(name));
        match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => {
                format!("INSERT INTO {writers} (name) VALUES ({name}) ON CONFLICT (name) DO NOTHING")
            }
            Dialect::MySql => format!("INSERT IGNORE INTO {writers} (name) VALUES ({name})"),
        }
    }

    /// Takes the writing over, if nobody has it but this node, in this life or an earlier one.
    pub(super) fn take(&self, name: &str, owner: &str, node: &str, lease: i64) -> String {
        let (writers, now) = (self.names.table("mirrors"), self.dialect.now());
        let (name, node) = (self.dialect.quoted(name), self.dialect.quoted(node));
        format!(
            "UPDATE {writers} SET owner = '{owner}', node = {node}, until = {now} + {lease}, batches = batches + 1 \
             WHERE name = {name} AND (owner IS NULL OR until <= {now} OR node = {node})"
        )
    }

    /// Says that the owner is still there.
    pub(super) fn keep(&self, name: &str, owner: &str, lease: i64) -> String {
        let (writers, now) = (self.names.table("mirrors"), self.dialect.now());
        format!("UPDATE {writers} SET until = {now} + {lease} WHERE {}", self.mine(name, owner))
    }

    /// Gives the writing back.
    pub(super) fn leave(&self, name: &str, owner: &str) -> String {
        let writers = self.names.table("mirrors");
        format!("UPDATE {writers} SET owner = NULL, node = NULL, until = 0 WHERE {}", self.mine(name, owner))
    }

    /// Skips a number, so that a batch which an earlier connection may still be at is written no more.
    pub(super) fn skip(&self, name: &str, owner: &str) -> String {
        let writers = self.names.table("mirrors");
        format!("UPDATE {writers} SET batches = batches + {SKIPPED} WHERE {}", self.mine(name, owner))
    }

    /// The number of the last batch, if it is still this owner who writes.
    pub(super) fn batches(&self, name: &str, owner: &str) -> String {
        let writers = self.names.table("mirrors");
        format!("SELECT name AS text, batches AS number FROM {writers} WHERE {}", self.mine(name, owner))
    }

    fn mine(&self, name: &str, owner: &str) -> String {
        format!("name = {} AND owner = '{owner}'", self.dialect.quoted(name))
    }

    /// The greatest identities in the table.
    pub(super) fn known(&self, most: usize) -> String {
        let mirror = self.names.table("events_mirror");
        format!(
            "SELECT {} AS text, {} AS number FROM {mirror} WHERE incarnation IS NOT NULL \
             ORDER BY event_id DESC, incarnation DESC LIMIT {most}",
            self.identity(),
            self.zero()
        )
    }

    /// Those of these events that are in the table.
    pub(super) fn found<'r>(&self, events: impl Iterator<Item = &'r Identity>) -> String {
        let mirror = self.names.table("events_mirror");
        let ids: Vec<String> = events.map(|(id, _)| format!("'{id}'")).collect();
        format!(
            "SELECT {} AS text, {} AS number FROM {mirror} WHERE event_id IN ({}) AND incarnation IS NOT NULL",
            self.identity(),
            self.zero(),
            ids.join(", ")
        )
    }

    fn identity(&self) -> &'static str {
        match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => "event_id || '/' || incarnation",
            Dialect::MySql => "CONCAT(event_id, '/', incarnation)",
        }
    }

    const fn zero(&self) -> &'static str {
        match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => "CAST(0 AS BIGINT)",
            Dialect::MySql => "CAST(0 AS SIGNED)",
        }
    }

    /// Writes rows down, and that this was the batch of that number: all of it, or nothing where another owner
    /// writes, or the last batch had not the number before. (Then a row of that name is to be inserted that is
    /// there: an error on every database.)
    pub(super) fn write(&self, name: &str, owner: &str, batch: i64, rows: &[Row]) -> String {
        let writers = self.names.table("mirrors");
        let quoted = self.dialect.quoted(name);
        let next = format!("{} AND batches = {}", self.mine(name, owner), batch - 1);
        let note = match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => {
                format!("UPDATE {writers} SET batches = {batch} WHERE {next}")
            }
            // All rows, for that locks them: so whoever mirrors into these tables does it one after the other, and
            // the numbers of rows, which are given out now, are in the order of the commits.
            Dialect::MySql => {
                format!("UPDATE {writers} SET batches = CASE WHEN {next} THEN {batch} ELSE batches END")
            }
        };
        let fence = format!(
            "INSERT INTO {writers} (name) SELECT name FROM (SELECT name FROM {writers} \
             WHERE name = {quoted} AND (owner IS NULL OR owner <> '{owner}' OR batches <> {batch})) AS other"
        );
        let mut statements = vec![note, fence];
        if !rows.is_empty() {
            statements.push(self.insert(rows));
        }
        self.dialect.atomic(&statements)
    }

    /// Tries whether rows can be written at all, and leaves none.
    pub(super) fn probe(&self) -> String {
        let mirror = self.names.table("events_mirror");
        let begin = if self.dialect == Dialect::Sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" };
        format!("{begin}; INSERT INTO {mirror} (topic, payload) VALUES ('', '{{}}'); ROLLBACK")
    }

    fn insert(&self, rows: &[Row]) -> String {
        let bytes: usize = rows.iter().map(Row::size).sum();
        let mut sql = String::with_capacity(bytes + bytes / 4 + 512);
        // Writing to a `String` cannot fail.
        let _ = write!(sql, "INSERT INTO {} ({COLUMNS}) VALUES ", self.names.table("events_mirror"));
        for (place, row) in rows.iter().enumerate() {
            sql.push_str(if place == 0 { "(" } else { ", (" });
            self.values(&mut sql, row);
            sql.push(')');
        }
        sql
    }

    fn values(&self, sql: &mut String, row: &Row) {
        let dialect = self.dialect;
        let Row { topic, event, as_text } = row;
        dialect.text(sql, topic);
        sql.push_str(", ");
        let text = event.text();
        // What the others keep as it is, is always exact.
        let by_value = dialect == Dialect::Postgres;
        let exact =
            as_text.then_some(text).or_else(|| (by_value && !event.is_kept_by_value()).then_some(text));
        match (as_text, by_value) {
            (true, _) => sql.push_str("'{}'"),
            (false, true) => dialect.text(sql, &without_nul(text)),
            (false, false) => dialect.text(sql, text),
        }
        let _ = write!(sql, ", {}, ", dialect.timestamp());
        let uuid = |sql: &mut String, uuid: Option<Uuid>| {
            match uuid {
                Some(uuid) => drop(write!(sql, "'{uuid}'")),
                None => sql.push_str("NULL"),
            }
            sql.push_str(", ");
        };
        let optional = |sql: &mut String, text: Option<&str>| {
            dialect.optional(sql, text);
            sql.push_str(", ");
        };
        let origin = event.origin.as_ref();
        uuid(sql, event.trace_id);
        optional(sql, event.kind.as_deref());
        uuid(sql, event.id.map(|id| *id.as_uuid()));
        uuid(sql, origin.map(|origin| origin.incarnation));
        optional(sql, origin.map(|origin| &*origin.service));
        optional(sql, origin.map(|origin| &*origin.node));
        // Models are one model whatever the case of their letters.
        optional(sql, event.model.as_ref().map(|model| model.to_ascii_lowercase()).as_deref());
        optional(sql, event.operation.map(emitter_core::Operation::as_str));
        optional(sql, event.key.as_deref());
        let properties = (!event.properties.is_empty()).then(|| event.properties.to_json());
        optional(sql, properties.as_deref());
        dialect.optional(sql, exact);
    }

    /// Statements that make the partitions of the next days, each by itself, and one that drops those of which all is older
    /// than so many milliseconds.
    pub(super) fn partitions(&self, keep: i64) -> Vec<String> {
        if self.dialect != Dialect::Postgres {
            return Vec::new();
        }
        let (mirror, rest) = (self.names.table("events_mirror"), self.names.table("events_mirror_rest"));
        // Of a day of which rows lie elsewhere already there can be none: they are cleared away one by one. Another mirror may make it
        // at the same time.
        let made = (0..3).map(|ahead| {
            format!(
                "DO $emitter$ DECLARE day date; part text; BEGIN \
                 PERFORM set_config('lock_timeout', '2s', true); \
                 day := (clock_timestamp() AT TIME ZONE 'UTC')::date + {ahead}; \
                 part := '{mirror}_' || to_char(day, 'YYYYMMDD'); \
                 IF to_regclass(part) IS NULL AND NOT EXISTS (SELECT 1 FROM {rest} \
                 WHERE created_at >= day::timestamp AT TIME ZONE 'UTC' AND created_at < (day + 1)::timestamp AT TIME ZONE 'UTC') THEN \
                 EXECUTE format('CREATE TABLE %s PARTITION OF {mirror} FOR VALUES FROM (%L) TO (%L)', part, \
                 day || ' 00:00:00+00', (day + 1) || ' 00:00:00+00'); END IF; EXCEPTION WHEN duplicate_table THEN NULL; END $emitter$"
            )
        });
        let dropped = format!(
            "DO $emitter$ DECLARE part text; BEGIN \
             PERFORM set_config('lock_timeout', '2s', true); \
             FOR part IN SELECT c.oid::regclass::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
             WHERE i.inhparent = '{mirror}'::regclass AND c.relname ~ '_[0-9]{{8}}$' \
             AND to_date(right(c.relname, 8), 'YYYYMMDD') \
             < ((clock_timestamp() - {keep} * interval '1 millisecond') AT TIME ZONE 'UTC')::date LOOP \
             EXECUTE 'DROP TABLE ' || part; END LOOP; END $emitter$"
        );
        made.chain([dropped]).collect()
    }

    /// Clears away what is older than so many milliseconds and is not dropped with its day.
    pub(super) fn clear(&self, keep: i64, most: usize) -> String {
        let (table, old) = match self.dialect {
            Dialect::Postgres => (
                self.names.table("events_mirror_rest"),
                format!("created_at < now() - {keep} * interval '1 millisecond'"),
            ),
            Dialect::Sqlite => (
                self.names.table("events_mirror"),
                format!(
                    "created_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-{}.{:03} seconds')",
                    keep / 1000,
                    keep % 1000
                ),
            ),
            Dialect::MySql => (
                self.names.table("events_mirror"),
                format!("created_at < UTC_TIMESTAMP(3) - INTERVAL {} MICROSECOND", keep.saturating_mul(1000)),
            ),
        };
        let first = format!("WHERE {old} ORDER BY created_at LIMIT {most}");
        match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => {
                format!("DELETE FROM {table} WHERE id IN (SELECT id FROM {table} {first})")
            }
            // With `IN` it reads the whole table: MySQL before 8.0.21, MariaDB before 11.1.
            Dialect::MySql => format!("DELETE FROM {table} {first}"),
        }
    }

    /// Rows that came with a dump from another server tell of transactions that are still to come here.
    pub(super) fn settle_in(&self) -> Option<String> {
        let mirror = self.names.table("events_mirror");
        (self.dialect == Dialect::Postgres).then(|| {
            format!("UPDATE {mirror} SET xid = '0' WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())")
        })
    }

    /// Up to where rows are settled: no transaction that is not over can have one before that.
    pub(super) fn horizon(&self) -> String {
        let mirror = self.names.table("events_mirror");
        match self.dialect {
            Dialect::Postgres => {
                "SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS text, 0::bigint AS number".to_owned()
            }
            // Whoever writes, writes alone.
            Dialect::Sqlite | Dialect::MySql => {
                format!("SELECT '0' AS text, COALESCE(MAX(id), 0) AS number FROM {mirror}")
            }
        }
    }

    /// Who writes, as `name/node`, and for how many milliseconds nobody else does.
    pub(super) fn writers(&self) -> String {
        let (writers, now) = (self.names.table("mirrors"), self.dialect.now());
        let text = match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => "name || '/' || COALESCE(node, '')",
            Dialect::MySql => "CONCAT(name, '/', COALESCE(node, ''))",
        };
        format!(
            "SELECT {text} AS text, CASE WHEN owner IS NULL THEN 0 ELSE until - {now} END AS number FROM {writers} \
             ORDER BY name"
        )
    }

    /// How many milliseconds ago the last row was written.
    pub(super) fn newest(&self) -> String {
        let (mirror, now) = (self.names.table("events_mirror"), self.dialect.now());
        let created = match self.dialect {
            Dialect::Postgres => "(extract(epoch FROM created_at) * 1000)::bigint",
            Dialect::Sqlite => "CAST(round((julianday(created_at) - 2440587.5) * 86400000) AS INTEGER)",
            Dialect::MySql => "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', created_at) DIV 1000",
        };
        format!(
            "SELECT 'newest' AS text, {now} - {created} AS number FROM {mirror} ORDER BY created_at DESC LIMIT 1"
        )
    }

    /// The next rows of a selection, oldest first.
    pub(super) fn read(&self, selection: &Selection, after: Cursor, horizon: Cursor, most: usize) -> String {
        self.page(&self.condition(selection, after, horizon), "ASC", most)
    }

    /// The last rows of a selection in front of a place, oldest first.
    pub(super) fn read_before(&self, selection: &Selection, place: Cursor, horizon: Cursor) -> String {
        let after = selection.after.unwrap_or_default();
        let Cursor { xid, id } = place;
        let before = match self.dialect {
            Dialect::Postgres => format!("(xid, id) < ('{xid}', {id})"),
            Dialect::Sqlite | Dialect::MySql => format!("id < {id}"),
        };
        let condition = format!("{before} AND {}", self.condition(selection, after, horizon));
        self.page(&condition, "DESC", selection.page())
    }

    /// Rows from one end of those that there are.
    fn page(&self, condition: &str, direction: &str, most: usize) -> String {
        // By the column, and not by the text that is made of it.
        let (order, place, bytes) = match self.dialect {
            Dialect::Postgres => (format!("m.xid {direction}, m.id"), "m.xid", "octet_length(payload)"),
            Dialect::Sqlite => ("m.id".to_owned(), "0", "length(CAST(payload AS BLOB))"),
            Dialect::MySql => ("m.id".to_owned(), "0", "OCTET_LENGTH(payload)"),
        };
        // With the first one that reaches so far it ends: one that is larger by itself is read, too.
        format!(
            "SELECT * FROM (SELECT page.*, SUM({bytes}) OVER (ORDER BY place {direction}, id {direction} ROWS UNBOUNDED PRECEDING) \
             - {bytes} AS behind \
             FROM (SELECT {}, {place} AS place FROM {} AS m WHERE {condition} ORDER BY {order} {direction} LIMIT {most}) AS page) AS pages \
             WHERE behind < {MOST_BYTES} ORDER BY place, id",
            self.columns(),
            self.names.table("events_mirror"),
        )
    }

    /// How many there are.
    pub(super) fn count(&self, selection: &Selection, after: Cursor, horizon: Cursor) -> String {
        format!(
            "SELECT 'count' AS text, COUNT(*) AS number FROM {} WHERE {}",
            self.names.table("events_mirror"),
            self.condition(selection, after, horizon)
        )
    }

    fn columns(&self) -> String {
        let text = |column: &str| match self.dialect {
            Dialect::Postgres => format!("CAST({column} AS TEXT)"),
            Dialect::Sqlite | Dialect::MySql => column.to_owned(),
        };
        let (xid, created) = match self.dialect {
            Dialect::Postgres => ("xid::text", "(extract(epoch FROM created_at) * 1000)::bigint"),
            Dialect::Sqlite => {
                ("'0'", "CAST(round((julianday(created_at) - 2440587.5) * 86400000) AS INTEGER)")
            }
            Dialect::MySql => ("'0'", "CAST(UNIX_TIMESTAMP(created_at) * 1000 AS SIGNED)"),
        };
        format!(
            "id, {xid} AS xid, topic, COALESCE(exact, {}) AS payload, properties, {created} AS created, \
             {} AS event_id, {} AS trace_id, service, node, model, operation, record_id, kind",
            text("payload"),
            text("event_id"),
            text("trace_id"),
        )
    }

    fn condition(&self, selection: &Selection, after: Cursor, horizon: Cursor) -> String {
        let dialect = self.dialect;
        let Selection { since, until, topic_prefix, kind, model, key, operation, event_id, trace_id, .. } =
            selection;
        let mut all = match dialect {
            // A cursor of another server's life knows nothing of the transactions of this one.
            Dialect::Postgres if after.xid > horizon.xid => {
                vec![format!("xid < '{}' AND (xid > '0' OR id > {})", horizon.xid, after.id)]
            }
            Dialect::Postgres => {
                vec![format!("xid < '{}' AND (xid, id) > ('{}', {})", horizon.xid, after.xid, after.id)]
            }
            Dialect::Sqlite | Dialect::MySql => {
                vec![format!("id > {} AND id <= {}", after.id, horizon.id)]
            }
        };
        let moment = |moment: &Timestamp| match dialect {
            Dialect::Postgres | Dialect::Sqlite => format!("'{moment}'"),
            Dialect::MySql => format!("'{}'", moment.to_string().replace('T', " ").trim_end_matches('Z')),
        };
        let is = |column: &str, text: &str| format!("{column} = {}", dialect.quoted(text));
        all.extend(since.as_ref().map(|since| format!("created_at >= {}", moment(since))));
        all.extend(until.as_ref().map(|until| format!("created_at <= {}", moment(until))));
        all.extend(topic_prefix.as_ref().map(|prefix| {
            let quoted = dialect.quoted(prefix);
            match dialect {
                Dialect::Postgres => format!("starts_with(topic, {quoted})"),
                Dialect::Sqlite => format!("substr(topic, 1, {}) = {quoted}", prefix.chars().count()),
                Dialect::MySql => format!("LEFT(topic, {}) = {quoted}", prefix.chars().count()),
            }
        }));
        all.extend(kind.as_ref().map(|kind| is("kind", kind)));
        all.extend(model.as_ref().map(|model| is("model", &model.to_ascii_lowercase())));
        all.extend(key.as_ref().map(|key| is("record_id", key)));
        all.extend(operation.map(|operation| is("operation", operation.as_str())));
        all.extend(event_id.map(|event_id| format!("event_id = '{event_id}'")));
        all.extend(trace_id.map(|trace_id| format!("trace_id = '{trace_id}'")));
        all.join(" AND ")
    }
}

/// How many numbers are skipped at once: with one, the next batch would have that of the one before. With two, a batch
/// was written where it is even how far its number is from the last one, however often was skipped since.
pub(super) const SKIPPED: i64 = 2;

const COLUMNS: &str = "topic, payload, created_at, trace_id, kind, event_id, incarnation, service, node, model, \
                       operation, record_id, properties, exact";

/// A JSON text without the escapes of which `jsonb` takes none, NUL and halves of characters: each becomes
/// U+FFFD.
fn without_nul(json: &str) -> Cow<'_, str> {
    let unit = |at: usize| {
        let digits = json.as_bytes().get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mut clean, mut copied, mut place) = (String::new(), 0, 0);
    while let Some(found) = json[place..].find('\\') {
        let at = place + found;
        let Some(first) = unit(at) else {
            // The backslash and what it escapes, which may be several bytes where it is no JSON.
            place = json.ceil_char_boundary((at + 2).min(json.len()));
            continue;
        };
        let is_pair = (0xd800..0xdc00).contains(&first)
            && unit(at + 6).is_some_and(|second| (0xdc00..0xe000).contains(&second));
        place = at + if is_pair { 12 } else { 6 };
        if first == 0 || !is_pair && (0xd800..0xe000).contains(&first) {
            clean.push_str(&json[copied..at]);
            clean.push_str("\\ufffd");
            copied = place;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    clean.push_str(&json[copied..]);
    Cow::Owned(clean)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_jsonb_does_not_take_is_replaced() {
        for (json, expected) in [
            (r#"{"a":"\u0000"}"#, r#"{"a":"\ufffd"}"#),
            (r#"{"a":"\\u0000"}"#, r#"{"a":"\\u0000"}"#),
            (r#"{"a":"\\\u0000b"}"#, r#"{"a":"\\\ufffdb"}"#),
            (r#"{"a":"\uD83D\uDE00"}"#, r#"{"a":"\uD83D\uDE00"}"#),
            (r#"{"a":"\ud83d"}"#, r#"{"a":"\ufffd"}"#),
            (r#"{"a":"\ude00\ud83d\u0041"}"#, r#"{"a":"\ufffd\ufffd\u0041"}"#),
            (r#"{"a":"\n\u00e4"}"#, r#"{"a":"\n\u00e4"}"#),
        ] {
            assert_eq!(without_nul(json), expected, "{json}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "[a\\\\u0d83e\u{e4}\"]{0,30}") {
            let once = without_nul(&text).into_owned();
            prop_assert_eq!(without_nul(&once), &*once);
        }
    }
}
