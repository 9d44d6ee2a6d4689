//! What is asked of the table of dead letters, as SQL.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use emitter_core::dead_letter::{DeadLetter, Reason};
use emitter_core::event::Timestamp;

use super::{Facet, Page, Selection};
use crate::tables::{Dialect, Names, list};

/// How the statements about one table of letters are written.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) dialect: Dialect,
    pub(crate) names: Names,
}

/// A redrive, as far as it concerns rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'r> {
    /// What it is called: a UUID.
    pub(crate) id: &'r str,
    /// How long a claim holds, in milliseconds.
    pub(crate) lease: i64,
}

/// What became of a claimed row.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// It is done with.
    Handled,
    /// It stays, and is not tried again by this redrive.
    Failed { attempts: u32, failure_reason: String },
    /// It could be read, and listeners did not handle it: their letters are there instead of it.
    Became(Vec<DeadLetter>),
    /// It stays as it was, and is not tried by this redrive.
    Skipped,
    /// It stays as it was.
    GivenBack,
}

/// A larger payload is left out: its letter tells of it, and cannot be redriven.
pub(crate) const MOST_BYTES: usize = 1024 * 1024;

/// The longest statement that is begun; servers take 16 MiB, and MySQL's texts are twice as long as they are.
const MOST_SQL: usize = 2 * 1024 * 1024;

const COLUMNS: &str = "original_topic, failure_reason, payload, created_at, payload_encoding, bytes, properties, reason, \
                       listener, model, record_id, ordered, attempts, letter_id, event_id, service, node, incarnation";

/// A payload as a text, and how it was made one. PostgreSQL takes no NUL in a text.
pub(crate) fn written(payload: &[u8]) -> (Cow<'_, str>, Option<&'static str>) {
    match std::str::from_utf8(payload) {
        Ok(text) if !text.contains('\0') => (Cow::Borrowed(text), None),
        _ => (Cow::Owned(STANDARD.encode(payload)), Some(BASE64)),
    }
}

/// What [`written`] made a text; `None` where it is no such one.
pub(crate) fn read(text: String, encoding: Option<&str>) -> Option<Vec<u8>> {
    match encoding {
        None => Some(text.into_bytes()),
        Some(BASE64) => STANDARD.decode(text).ok(),
        Some(_) => None,
    }
}

const BASE64: &str = "base64";

impl Store {
    fn table(&self) -> impl std::fmt::Display + '_ {
        self.names.table("dlq_events")
    }

    /// The INSERTs of letters, in order. One that is there already is left as it is.
    pub(crate) fn insert<'l>(&self, letters: impl IntoIterator<Item = &'l DeadLetter>) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for letter in letters {
            match all.last_mut().filter(|sql| sql.len() < MOST_SQL) {
                Some(sql) => sql.push_str(", "),
                None => all.push(format!("INSERT INTO {} ({COLUMNS}) VALUES ", self.table())),
            }
            if let Some(sql) = all.last_mut() {
                sql.push('(');
                self.values(sql, letter);
                sql.push(')');
            }
        }
        for sql in &mut all {
            sql.push_str(match self.dialect {
                Dialect::Postgres | Dialect::Sqlite => " ON CONFLICT (letter_id) DO NOTHING",
                Dialect::MySql => " ON DUPLICATE KEY UPDATE letter_id = VALUES(letter_id)",
            });
        }
        all
    }

    fn values(&self, sql: &mut String, letter: &DeadLetter) {
        let Self { dialect, .. } = self;
        let uuid = |id: Option<String>| match (dialect, id) {
            (Dialect::Postgres, Some(id)) => format!("CAST('{id}' AS UUID)"),
            (Dialect::Postgres, None) => "CAST(NULL AS UUID)".to_owned(),
            (_, Some(id)) => format!("'{id}'"),
            (_, None) => "NULL".to_owned(),
        };
        let optional = |text: Option<&str>| {
            let mut sql = String::new();
            dialect.optional(&mut sql, text);
            sql
        };
        let is_kept = letter.payload.len() <= MOST_BYTES;
        let (text, encoding) = written(if is_kept { &letter.payload } else { &[] });
        let properties = (!letter.properties.is_empty()).then(|| letter.properties.to_json());
        let node = &letter.node;
        dialect.text(sql, &letter.original_topic);
        sql.push_str(", ");
        dialect.text(sql, &letter.failure_reason());
        sql.push_str(", ");
        dialect.optional(sql, is_kept.then_some(&*text));
        // Writing to a `String` cannot fail. Ids and words of ours need no escape.
        let _ = write!(
            sql,
            ", {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}",
            dialect.timestamp(),
            optional(encoding),
            letter.payload.len(),
            optional(properties.as_deref()),
            dialect.quoted(letter.reason.as_str()),
            optional(letter.listener.as_deref()),
            optional(letter.model.as_deref()),
            optional(letter.key.as_deref()),
            u8::from(letter.is_ordered),
            letter.attempts.min(i32::MAX.unsigned_abs()),
            uuid(Some(letter.id.to_string())),
            uuid(letter.event.map(|id| id.to_string())),
            dialect.quoted(&node.service),
            dialect.quoted(&node.node),
            uuid(Some(node.incarnation.to_string())),
        );
    }

    /// How many letters there are, and how many bytes of events.
    pub(crate) fn size(&self) -> String {
        let number = self.number("COALESCE(SUM(bytes), 0)");
        format!(
            "SELECT 'rows' AS text, COUNT(*) AS number FROM {table} UNION ALL SELECT 'bytes', {number} FROM {table}",
            table = self.table()
        )
    }

    fn number(&self, expression: &str) -> String {
        match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => format!("CAST({expression} AS BIGINT)"),
            Dialect::MySql => format!("CAST({expression} AS SIGNED)"),
        }
    }

    /// Clears away letters that were kept for so long, and that no redrive has.
    pub(crate) fn clear(&self, keep: Duration, most: usize) -> String {
        // Databases know no later times than some thousand years from now.
        let keep = keep.min(Duration::from_secs(100 * 365 * 24 * 3600)).as_millis();
        // By a clock that stands still within the statement: the index leads to nothing that another one says.
        let old = match self.dialect {
            Dialect::Postgres => format!("now() - {keep} * interval '1 millisecond'"),
            Dialect::Sqlite => self.moment(&format!("({} - {keep})", self.dialect.now())),
            Dialect::MySql => format!("UTC_TIMESTAMP(3) - INTERVAL {} MICROSECOND", keep * 1000),
        };
        self.delete_free(&format!(" AND o.created_at < {old} ORDER BY o.created_at LIMIT {most}"))
    }

    /// Deletes the first rows called `o`, of those that no redrive has. That is looked at once more where they are deleted: one may
    /// have been claimed meanwhile.
    fn delete_free(&self, which: &str) -> String {
        let (table, free) = (self.table(), self.is_free());
        let first = format!("SELECT o.id FROM {table} o WHERE {free}{which}");
        match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => {
                format!("DELETE FROM {table} AS o WHERE o.id IN ({first}) AND {free}")
            }
            // With `IN` it reads the whole table: MySQL before 8.0.21, MariaDB before 11.1.
            Dialect::MySql => {
                format!("DELETE o FROM {table} o JOIN ({first}) AS first ON first.id = o.id WHERE {free}")
            }
        }
    }

    /// Milliseconds since 1970 as the tables' times are.
    fn moment(&self, millis: &str) -> String {
        match self.dialect {
            Dialect::Postgres => format!("to_timestamp({millis} / 1000.0)"),
            Dialect::Sqlite => format!("strftime('%Y-%m-%dT%H:%M:%fZ', {millis} / 1000.0, 'unixepoch')"),
            Dialect::MySql => format!("TIMESTAMPADD(MICROSECOND, 1000 * {millis}, '1970-01-01')"),
        }
    }

    /// What a selection says of a row called `o`, beginning with ` AND`, if it says anything.
    fn chosen(&self, selection: &Selection) -> String {
        let Selection { ids, event, reason, topic, model, listener, service, node, since, until, up_to } =
            selection;
        let mut sql = String::new();
        let mut and = |condition: String| sql.extend([" AND ", &*condition]);
        if let Some(ids) = ids {
            and(format!("o.id IN ({})", list(ids.iter().copied())));
        }
        if let Some(event) = event {
            and(format!("o.event_id = '{event}'"));
        }
        let named = [
            ("reason", reason.map(Reason::as_str)),
            ("model", model.as_deref()),
            ("listener", listener.as_deref()),
            ("service", service.as_deref()),
            ("node", node.as_deref()),
        ];
        for (column, wanted) in named {
            if let Some(wanted) = wanted {
                and(format!("o.{column} = {}", self.dialect.quoted(wanted)));
            }
        }
        if let Some(pattern) = topic {
            and(self.dialect.like("o.original_topic", pattern));
        }
        let moment = |time: &Timestamp| self.moment(&time.as_millis().to_string());
        if let Some(since) = since {
            and(format!("o.created_at >= {}", moment(since)));
        }
        if let Some(until) = until {
            and(format!("o.created_at < {}", moment(until)));
        }
        if let Some(up_to) = up_to {
            and(format!("o.id <= {up_to}"));
        }
        sql
    }

    /// What is read of a row called `o`.
    fn columns(&self, with_payload: bool) -> String {
        let uuid = |column: &str| match self.dialect {
            Dialect::Postgres => format!("CAST(o.{column} AS TEXT) AS {column}"),
            Dialect::Sqlite | Dialect::MySql => format!("o.{column}"),
        };
        let absent = match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => "CAST(NULL AS TEXT)",
            Dialect::MySql => "CAST(NULL AS CHAR)",
        };
        let created = match self.dialect {
            Dialect::Postgres => "extract(epoch FROM o.created_at) * 1000",
            Dialect::Sqlite => "round((julianday(o.created_at) - 2440587.5) * 86400000)",
            Dialect::MySql => "UNIX_TIMESTAMP(o.created_at) * 1000",
        };
        let claimed =
            format!("CASE WHEN o.owner IS NOT NULL AND o.until > {} THEN 1 ELSE 0 END", self.dialect.now());
        format!(
            "o.id, {}, o.original_topic, o.failure_reason, {} AS payload, o.payload_encoding, o.bytes, o.properties, o.reason, \
             o.listener, o.model, o.record_id, o.ordered, o.attempts, o.redrives, {}, o.service, o.node, {}, \
             {} AS created, {} AS claimed",
            uuid("letter_id"),
            if with_payload { "o.payload" } else { absent },
            uuid("event_id"),
            uuid("incarnation"),
            self.number(created),
            self.number(&claimed),
        )
    }

    /// A page of letters, without their payloads.
    pub(crate) fn page(&self, selection: &Selection, page: Page) -> String {
        let Page { after, limit, newest_first } = page;
        let (sign, order) = if newest_first { ("<", "DESC") } else { (">", "ASC") };
        let after = after.map_or_else(String::new, |after| format!(" AND o.id {sign} {after}"));
        format!(
            "SELECT {} FROM {} o WHERE 1 = 1{}{after} ORDER BY o.id {order} LIMIT {limit}",
            self.columns(false),
            self.table(),
            self.chosen(selection),
        )
    }

    /// One letter, with its payload.
    pub(crate) fn one(&self, id: i64) -> String {
        format!("SELECT {} FROM {} o WHERE o.id = {id}", self.columns(true), self.table())
    }

    /// How many letters there are of each kind.
    pub(crate) fn count(&self, selection: &Selection, by: Option<Facet>) -> String {
        let (table, chosen) = (self.table(), self.chosen(selection));
        match by {
            None => format!("SELECT 'all' AS text, COUNT(*) AS number FROM {table} o WHERE 1 = 1{chosen}"),
            Some(facet) => format!(
                "SELECT COALESCE(o.{column}, '') AS text, COUNT(*) AS number FROM {table} o WHERE 1 = 1{chosen} \
                 GROUP BY o.{column} ORDER BY COUNT(*) DESC, o.{column} LIMIT {MOST_GROUPS}",
                column = facet.column()
            ),
        }
    }

    /// That no redrive has claimed a row called `o`, or one whose claim has run out.
    fn is_free(&self) -> String {
        format!("(o.owner IS NULL OR o.until <= {})", self.dialect.now())
    }

    /// Writes another payload, unless a redrive has the letter.
    pub(crate) fn edit(&self, id: i64, payload: &[u8]) -> String {
        let Self { dialect, .. } = self;
        let (text, encoding) = written(payload);
        let mut encoded = String::new();
        dialect.optional(&mut encoded, encoding);
        format!(
            "UPDATE {} {} SET payload = {}, payload_encoding = {encoded}, bytes = {} WHERE o.id = {id} AND {}",
            self.table(),
            self.called_o(),
            dialect.quoted(&text),
            payload.len(),
            self.is_free(),
        )
    }

    /// How a table is called `o` in a statement that changes it.
    fn called_o(&self) -> &'static str {
        match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => "AS o",
            Dialect::MySql => "o",
        }
    }

    /// Deletes letters that no redrive has, no more than so many.
    pub(crate) fn discard(&self, selection: &Selection, most: usize) -> String {
        self.delete_free(&format!("{} ORDER BY o.id LIMIT {most}", self.chosen(selection)))
    }

    /// The last number that there is.
    pub(crate) fn last(&self) -> String {
        format!(
            "SELECT 'last' AS text, {} AS number FROM {}",
            self.number("COALESCE(MAX(id), 0)"),
            self.table()
        )
    }

    /// Whose letters a node may redrive: its service's, and of those that listeners did not handle, its own listeners'.
    fn redrivable(&self, service: &str, listeners: &[String], heard: bool) -> String {
        let names: Vec<String> = listeners.iter().map(|name| self.dialect.quoted(name)).collect();
        let names = if names.is_empty() { "''".to_owned() } else { names.join(", ") };
        let unhandled = Reason::Unhandled.as_str();
        let service = self.dialect.quoted(service);
        match heard {
            true => format!(
                " AND o.service = {service} AND (o.reason <> '{unhandled}' OR COALESCE(o.listener, '') IN ({names}))"
            ),
            false => format!(
                " AND o.service = {service} AND o.reason = '{unhandled}' AND COALESCE(o.listener, '') NOT IN ({names})"
            ),
        }
    }

    /// How many letters are for listeners that a node does not have.
    pub(crate) fn unheard(&self, selection: &Selection, service: &str, listeners: &[String]) -> String {
        format!(
            "SELECT 'all' AS text, COUNT(*) AS number FROM {} o WHERE 1 = 1{}{}",
            self.table(),
            self.redrivable(service, listeners, false),
            self.chosen(selection)
        )
    }

    /// Claims the first letters that nobody has, and keeps what is claimed already.
    ///
    /// Always from the beginning: what another redrive gave back in the meantime comes before what follows it in its key. A
    /// letter is not claimed while somebody has an earlier one of its listener and key.
    pub(crate) fn claim(&self, run: Run<'_>, from: &Claimable<'_>) -> String {
        let Run { id: me, lease } = run;
        let Claimable { selection, service, listeners, last, most } = from;
        let (table, now) = (self.table(), self.dialect.now());
        let mut statements = vec![self.one_after_the_other()];
        statements.push(self.renew(run));
        let first = format!(
            "SELECT o.id FROM {table} o WHERE o.id <= {last} AND {} AND (o.tried IS NULL OR o.tried <> '{me}'){}{} \
             AND NOT EXISTS (SELECT 1 FROM {table} e WHERE e.owner IS NOT NULL AND e.owner <> '{me}' AND e.until > {now} \
             AND e.id < o.id AND e.ordered = 1 AND o.ordered = 1 AND e.listener = o.listener AND e.model = o.model \
             AND (e.record_id = o.record_id OR e.record_id IS NULL OR o.record_id IS NULL)) \
             ORDER BY o.id LIMIT {most}",
            self.is_free(),
            self.redrivable(service, listeners, true),
            self.chosen(selection),
        );
        let (owner, until) = (format!("owner = '{me}'"), format!("until = {now} + {lease}"));
        statements.push(match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => {
                format!("UPDATE {table} SET {owner}, {until} WHERE id IN ({first})")
            }
            Dialect::MySql => {
                format!("UPDATE {table} c JOIN ({first}) AS first ON first.id = c.id SET {owner}, {until}")
            }
        });
        self.dialect.atomic(&statements)
    }

    /// Two that claim at once would each not see what the other one takes. (What follows sees what was committed
    /// before it.)
    fn one_after_the_other(&self) -> String {
        let schema = self.names.table("schema");
        match self.dialect {
            Dialect::Postgres => format!("SELECT 1 FROM {schema} WHERE version = 1 FOR UPDATE"),
            // Its transactions that write come one after the other.
            Dialect::Sqlite => "SELECT 1".to_owned(),
            Dialect::MySql => format!("UPDATE {schema} SET lanes = lanes WHERE version = 1"),
        }
    }

    /// What a redrive has claimed, but for these.
    pub(crate) fn claimed(&self, run: &str, except: impl IntoIterator<Item = i64>) -> String {
        format!(
            "SELECT {} FROM {} o WHERE o.owner = '{run}' AND o.id NOT IN ({}) ORDER BY o.id",
            self.columns(true),
            self.table(),
            list(except)
        )
    }

    /// Which letters a redrive has claimed.
    pub(crate) fn still_claimed(&self, run: &str) -> String {
        format!("SELECT 'id' AS text, id AS number FROM {} WHERE owner = '{run}'", self.table())
    }

    /// Keeps what is claimed.
    pub(crate) fn renew(&self, Run { id, lease }: Run<'_>) -> String {
        format!("UPDATE {} SET until = {} + {lease} WHERE owner = '{id}'", self.table(), self.dialect.now())
    }

    /// Notes what became of rows: of those alone that the redrive still has.
    pub(crate) fn note(&self, run: &str, fates: &[(i64, Fate)]) -> String {
        let table = self.table();
        let of = |which: fn(&Fate) -> bool| {
            let ids: Vec<i64> = fates.iter().filter(|(_, fate)| which(fate)).map(|(id, _)| *id).collect();
            (!ids.is_empty()).then(|| format!("owner = '{run}' AND id IN ({})", list(ids)))
        };
        let mut statements = Vec::new();
        for (id, fate) in fates {
            match fate {
                Fate::Failed { attempts, failure_reason } => statements.push(format!(
                    "UPDATE {table} SET attempts = attempts + {attempts}, redrives = redrives + 1, failure_reason = {}, \
                     tried = '{run}', owner = NULL, until = 0 WHERE owner = '{run}' AND id = {id}",
                    self.dialect.quoted(failure_reason)
                )),
                Fate::Became(letters) => {
                    for letter in letters {
                        let mut insert = format!("INSERT INTO {table} ({COLUMNS}) SELECT ");
                        self.values(&mut insert, letter);
                        let _ = write!(insert, " FROM {table} WHERE owner = '{run}' AND id = {id}");
                        statements.push(insert);
                    }
                }
                Fate::Handled | Fate::Skipped | Fate::GivenBack => {}
            }
        }
        if let Some(rows) = of(|fate| matches!(fate, Fate::Handled | Fate::Became(_))) {
            statements.push(format!("DELETE FROM {table} WHERE {rows}"));
        }
        if let Some(rows) = of(|fate| matches!(fate, Fate::Skipped)) {
            statements
                .push(format!("UPDATE {table} SET tried = '{run}', owner = NULL, until = 0 WHERE {rows}"));
        }
        if let Some(rows) = of(|fate| matches!(fate, Fate::GivenBack)) {
            statements.push(format!("UPDATE {table} SET owner = NULL, until = 0 WHERE {rows}"));
        }
        self.dialect.atomic(&statements)
    }
}

/// No more groups are counted.
const MOST_GROUPS: usize = 1_000;

/// What a redrive may claim.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claimable<'r> {
    pub(crate) selection: &'r Selection,
    pub(crate) service: &'r str,
    /// The listeners that the node has.
    pub(crate) listeners: &'r [String],
    /// Nothing later.
    pub(crate) last: i64,
    pub(crate) most: usize,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_payload_comes_back_as_it_was(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let (text, encoding) = written(&payload);
            prop_assert!(!text.contains('\0'));
            prop_assert_eq!(read(text.into_owned(), encoding), Some(payload));
        }

        #[test]
        fn what_somebody_else_wrote_is_no_payload(text in "\\PC{0,40}", encoding in "[a-z]{1,5}") {
            prop_assert_eq!(read(text, Some(&encoding)), None);
        }
    }
}
