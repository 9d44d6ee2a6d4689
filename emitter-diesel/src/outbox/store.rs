//! What is asked of the tables, as SQL.

use std::fmt::Write;

use emitter_core::Operation;
use emitter_core::emit::QoS;
use emitter_core::record::Record;
use emitter_core::transport::Properties;

use crate::tables::{Dialect, Names, list};

/// How the statements of one outbox are written.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) dialect: Dialect,
    pub(crate) names: Names,
}

/// What is read of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) lane: i32,
    /// Those that are on their way.
    pub(crate) except: Vec<i64>,
    /// No more than so many.
    pub(crate) most: usize,
}

/// How rows that are due are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Due {
    /// This tells them.
    Rows(String),
    /// This tells their ids.
    Ids(String),
}

/// A published row and its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) id: i64,
    pub(crate) lane: i32,
    pub(crate) epoch: i64,
    pub(crate) model: String,
    pub(crate) stream: String,
    pub(crate) sequence: i64,
    /// Listeners of the node that wrote may not be done with it.
    pub(crate) handled_here: bool,
}

/// What is kept of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept<'m> {
    pub(crate) lane: i32,
    pub(crate) model: &'m str,
    /// After this number,
    pub(crate) after: i64,
    /// up to this one.
    pub(crate) up_to: i64,
}

/// A row that was not published, and is to be tried again, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsettled {
    pub(crate) at: Settled,
    /// Why it was not.
    pub(crate) error: String,
    /// What becomes of it.
    pub(crate) next: Next,
}

/// What becomes of a row that was not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is tried again in so many milliseconds.
    Again(i64),
    /// It is given up.
    Failed,
    /// It is not as an outbox writes it.
    Unreadable,
}

impl Store {
    /// The INSERT of all that a transaction emitted; several, where one would be longer than servers take.
    pub(crate) fn insert<'r>(
        &self,
        records: impl IntoIterator<Item = &'r Record>,
        lanes: u32,
        handler: &str,
    ) -> Vec<String> {
        self.inserts("", records.into_iter().map(|record| (String::new(), record)), lanes, handler)
    }

    /// The same of rows whose ids are given, on PostgreSQL.
    #[cfg(feature = "postgres")]
    pub(crate) fn insert_as<'r>(
        &self,
        records: impl IntoIterator<Item = (i64, &'r Record)>,
        lanes: u32,
        handler: &str,
    ) -> Vec<String> {
        let records = records.into_iter().map(|(id, record)| (format!("{id}, "), record));
        self.inserts("id, ", records, lanes, handler)
    }

    fn inserts<'r>(
        &self,
        also: &str,
        records: impl Iterator<Item = (String, &'r Record)>,
        lanes: u32,
        handler: &str,
    ) -> Vec<String> {
        const MOST: usize = 1 << 20;
        let overriding = if also.is_empty() { "" } else { "OVERRIDING SYSTEM VALUE " };
        let insert = format!(
            "INSERT INTO {} ({also}event_id, action, model, record_id, payload, status, created_at, operation, topic, qos, \
             properties, lane, by_model, park, trace_id, idempotency_key, handler) {overriding}VALUES ",
            self.names.table("outbox")
        );
        let mut all: Vec<String> = Vec::new();
        for (given, record) in records {
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

    /// The next rows of these lanes that are due.
    ///
    /// Each lane is read by itself, in the order of an index: to sort a long queue for each batch would take
    /// longer the longer it is. A row is not due while one that comes before it waits for its next attempt, or was
    /// given up and the model parks what comes after it; nor while the lane is paused.
    pub(crate) fn due(&self, relay: &str, lanes: &[Reading]) -> Due {
        let Self { dialect, names } = self;
        let (outbox, lane_table, now) = (names.table("outbox"), names.table("lanes"), dialect.now());
        let columns = match dialect {
            // It keeps a UNION of long texts on disk, and MariaDB 10.11.19 crashes at that now and then.
            Dialect::MySql => "'' AS text, o.id AS number".to_owned(),
            Dialect::Postgres | Dialect::Sqlite => self.columns(),
        };
        let before = "e.id < o.id AND lower(e.model) = lower(o.model) AND (o.by_model = 1 OR e.record_id = o.record_id)";
        let turned = self.turned();
        let lanes = lanes.iter().map(|Reading { lane, except, most }| {
            let part = |status: &str, also: &str| {
                format!(
                    "SELECT * FROM (SELECT {columns} FROM {outbox} o WHERE o.status = '{status}' AND o.lane = {lane} \
                     AND o.id NOT IN ({except}){also} \
                     AND EXISTS (SELECT 1 FROM {lane_table} l WHERE l.lane = {lane} AND l.owner = '{relay}' AND l.paused = 0) \
                     AND NOT EXISTS (SELECT 1 FROM {outbox} e WHERE e.status = '{WAITING}' AND e.lane = {lane} AND {before}) \
                     AND NOT (o.park = 1 AND EXISTS (SELECT 1 FROM {outbox} e \
                     WHERE e.status = '{FAILED}' AND e.lane = {lane} AND {before})){turned} \
                     ORDER BY o.id LIMIT {most}) AS {status}_{lane}",
                    except = list(except.iter().copied()),
                )
            };
            let again = part(WAITING, &format!(" AND o.next_attempt <= {now}"));
            format!("{} UNION ALL {again}", part(PENDING, ""))
        });
        let sql = lanes.collect::<Vec<_>>().join(" UNION ALL ");
        if *dialect == Dialect::MySql { Due::Ids(sql) } else { Due::Rows(sql) }
    }

    /// That nothing was captured before a row, of its model, that somebody is about to turn.
    fn turned(&self) -> String {
        let Self { dialect, names } = self;
        if *dialect != Dialect::Postgres {
            return String::new();
        }
        let (captured, capturing, now) = (names.table("captured"), names.table("capturing"), dialect.now());
        format!(
            " AND NOT EXISTS (SELECT 1 FROM {captured} c JOIN {capturing} t ON t.model = c.model \
             WHERE c.model = o.model AND c.status = 'CAPTURED' AND c.id < o.id AND t.until > {now})"
        )
    }

    /// These rows.
    pub(crate) fn rows(&self, ids: impl IntoIterator<Item = i64>) -> String {
        let (outbox, columns) = (self.names.table("outbox"), self.columns());
        format!("SELECT {columns} FROM {outbox} o WHERE o.id IN ({}) ORDER BY o.id", list(ids))
    }

    /// What is read of a row of the outbox, called `o`.
    fn columns(&self) -> String {
        let handled_here = format!(
            "CASE WHEN o.handler IS NULL THEN 0 WHEN o.status = '{PROCESSING}' AND o.sequence IS NULL THEN 2 ELSE 1 END"
        );
        self.columns_with(&handled_here)
    }

    /// The same of a settled row.
    fn settled_columns(&self) -> String {
        self.columns_with("0")
    }

    fn columns_with(&self, handled_here: &str) -> String {
        let text = |column| match self.dialect {
            Dialect::Postgres => format!("CAST(o.{column} AS TEXT) AS {column}"),
            Dialect::Sqlite | Dialect::MySql => format!("o.{column}"),
        };
        format!(
            "o.id, o.lane, {}, o.model, o.record_id, o.by_model, o.park, o.topic, o.qos, {}, o.properties, o.retries, o.sequence, \
             o.stream, {handled_here} AS handled_here",
            text("event_id"),
            text("payload"),
        )
    }

    /// The lanes that a relay owns.
    pub(crate) fn owned(&self, relay: &str) -> String {
        let lanes = self.names.table("lanes");
        format!("SELECT lane, epoch FROM {lanes} WHERE owner = '{relay}' AND until > {}", self.dialect.now())
    }

    /// That nobody owns a lane, or an earlier life of this very node.
    fn is_free(&self, relay: &str, node: &str) -> String {
        format!(
            "(owner IS NULL OR until <= {} OR (node = '{node}' AND owner <> '{relay}'))",
            self.dialect.now()
        )
    }

    /// The lanes that may be taken.
    pub(crate) fn free(&self, relay: &str, node: &str) -> String {
        let lanes = self.names.table("lanes");
        format!("SELECT lane, epoch FROM {lanes} WHERE {} ORDER BY lane", self.is_free(relay, node))
    }

    /// Takes a lane, if it may be taken.
    pub(crate) fn take(&self, lane: i32, relay: &str, node: &str, lease: i64) -> String {
        let (lanes, now) = (self.names.table("lanes"), self.dialect.now());
        format!(
            "UPDATE {lanes} SET owner = '{relay}', node = '{node}', epoch = epoch + 1, until = {now} + {lease} \
             WHERE lane = {lane} AND {}",
            self.is_free(relay, node)
        )
    }

    /// Says that a relay is there, and keeps its lanes.
    pub(crate) fn beat(&self, relay: &str, node: &str, takes_lanes: bool, lease: i64) -> String {
        let takes = u8::from(takes_lanes);
        let Self { dialect, names } = self;
        let (relays, lanes, now) = (names.table("relays"), names.table("lanes"), dialect.now());
        let here = match dialect {
            Dialect::Postgres | Dialect::Sqlite => format!(
                "INSERT INTO {relays} (relay, node, lanes, until) VALUES ('{relay}', '{node}', {takes}, {now} + {lease}) \
                 ON CONFLICT (relay) DO UPDATE SET until = excluded.until"
            ),
            Dialect::MySql => format!(
                "INSERT INTO {relays} (relay, node, lanes, until) VALUES ('{relay}', '{node}', {takes}, {now} + {lease}) \
                 ON DUPLICATE KEY UPDATE until = VALUES(until)"
            ),
        };
        dialect.atomic(&[
            here,
            format!("DELETE FROM {relays} WHERE until <= {now} - 10 * {lease}"),
            format!("UPDATE {lanes} SET until = {now} + {lease} WHERE owner = '{relay}'"),
        ])
    }

    /// What is said on a new connection, besides what every one is told: it is told of what others commit.
    pub(crate) fn listen(&self) -> Option<String> {
        (self.dialect == Dialect::Postgres).then(|| format!("LISTEN {}", self.names.index("outbox")))
    }

    /// Settings by which the database might forget what it has committed, each with 1 where it might; and its
    /// clock.
    pub(crate) fn settings(&self) -> String {
        let settings = match self.dialect {
            Dialect::Postgres => {
                "SELECT 'synchronous_commit' AS text, \
                 CASE current_setting('synchronous_commit') WHEN 'off' THEN 1::bigint ELSE 0 END AS number \
                 UNION ALL SELECT 'fsync', CASE current_setting('fsync') WHEN 'off' THEN 1 ELSE 0 END UNION ALL "
            }
            Dialect::Sqlite => "",
            Dialect::MySql => {
                "SELECT 'innodb_flush_log_at_trx_commit' AS text, \
                 CAST(@@innodb_flush_log_at_trx_commit <> 1 AS SIGNED) AS number UNION ALL "
            }
        };
        settings.to_owned() + &self.clock()
    }

    /// The database's clock.
    pub(crate) fn clock(&self) -> String {
        format!("SELECT 'clock' AS text, {} AS number", self.dialect.now())
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

    /// Has all lanes rest, or go on.
    pub(crate) fn pause(&self, pause: bool) -> String {
        format!("UPDATE {} SET paused = {}", self.names.table("lanes"), u8::from(pause))
    }

    /// How many rows there are of each status; lanes, owned ones, and paused ones.
    pub(crate) fn statuses(&self) -> String {
        let (outbox, lanes) = (self.names.table("outbox"), self.names.table("lanes"));
        let now = self.dialect.now();
        format!(
            "SELECT status AS text, COUNT(*) AS number FROM {outbox} GROUP BY status \
             UNION ALL SELECT 'lanes', COUNT(*) FROM {lanes} \
             UNION ALL SELECT 'owned', COUNT(*) FROM {lanes} WHERE owner IS NOT NULL AND until > {now} \
             UNION ALL SELECT 'paused', COUNT(*) FROM {lanes} WHERE paused <> 0"
        )
    }

    /// How many milliseconds ago the first row was written of those that are to be published.
    pub(crate) fn oldest_pending(&self) -> String {
        let (outbox, now) = (self.names.table("outbox"), self.dialect.now());
        let written = match self.dialect {
            Dialect::Postgres => "(extract(epoch FROM created_at) * 1000)::bigint",
            Dialect::Sqlite => "CAST((julianday(created_at) - 2440587.5) * 86400000 AS INTEGER)",
            Dialect::MySql => "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', created_at) DIV 1000",
        };
        let parts = [PENDING, WAITING].map(|status| {
            format!(
                "SELECT '{status}' AS text, number FROM (SELECT {now} - {written} AS number FROM {outbox} \
                 WHERE status = '{status}' ORDER BY created_at LIMIT 1) AS o_{status}"
            )
        });
        parts.join(" UNION ALL ")
    }

    /// Tells others that something was committed.
    pub(crate) fn notify(&self) -> Option<String> {
        (self.dialect == Dialect::Postgres).then(|| format!("NOTIFY {}", self.names.index("outbox")))
    }

    /// Who is there, each with whether it takes lanes.
    pub(crate) fn relays(&self) -> String {
        let (relays, now) = (self.names.table("relays"), self.dialect.now());
        let number = match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => "CAST(lanes AS BIGINT)",
            Dialect::MySql => "CAST(lanes AS SIGNED)",
        };
        format!("SELECT relay AS text, {number} AS number FROM {relays} WHERE until > {now}")
    }

    /// Whose listeners are not done, and with how many rows.
    pub(crate) fn handlers(&self) -> String {
        let outbox = self.names.table("outbox");
        format!(
            "SELECT handler AS text, COUNT(*) AS number FROM {outbox} WHERE handler IS NOT NULL GROUP BY handler"
        )
    }

    /// Takes over rows from a node that is there no more.
    pub(crate) fn inherit(&self, from: &str, to: &str, models: Option<&[String]>, most: usize) -> String {
        let outbox = self.names.table("outbox");
        let of_models = models.map_or_else(String::new, |models| {
            let models: Vec<String> = models.iter().map(|model| self.dialect.quoted(model)).collect();
            format!(" AND model IN ({})", models.join(", "))
        });
        let (from, to) = (self.dialect.quoted(from), self.dialect.quoted(to));
        // MySQL reads no table that it writes but through another one.
        format!(
            "UPDATE {outbox} SET handler = {to} WHERE handler = {from} AND id IN (SELECT id FROM \
             (SELECT id FROM {outbox} WHERE handler = {from}{of_models} ORDER BY id LIMIT {most}) AS first)"
        )
    }

    /// Counts these rows of its own among those that were left to a node.
    pub(crate) fn adopt(&self, from: &str, to: &str, ids: &[i64]) -> String {
        let outbox = self.names.table("outbox");
        let (from, to) = (self.dialect.quoted(from), self.dialect.quoted(to));
        format!(
            "UPDATE {outbox} SET handler = {to} WHERE handler = {from} AND id IN ({})",
            list(ids.iter().copied())
        )
    }

    /// Clears rows away that were settled so many milliseconds ago.
    pub(crate) fn clear(&self, keep: i64, most: usize) -> String {
        let history = self.names.table("history");
        let old = match self.dialect {
            Dialect::Postgres => {
                format!("processed_at < clock_timestamp() - {keep} * interval '1 millisecond'")
            }
            Dialect::Sqlite => {
                format!("julianday(processed_at) < julianday('now') - {keep} / 86400000.0")
            }
            Dialect::MySql => {
                format!("processed_at < UTC_TIMESTAMP(3) - INTERVAL {} SECOND", keep / 1000)
            }
        };
        format!(
            "DELETE FROM {history} WHERE id IN (SELECT id FROM \
             (SELECT id FROM {history} WHERE {old} ORDER BY processed_at LIMIT {most}) AS old)"
        )
    }

    /// Rows that are this node's to handle, and with which it has not begun.
    pub(crate) fn inherited(&self, handler: &str, after: i64, most: usize) -> String {
        format!(
            "SELECT {} FROM {} o WHERE o.handler = {} AND o.id > {after} ORDER BY o.id LIMIT {most}",
            self.columns(),
            self.names.table("outbox"),
            self.dialect.quoted(handler),
        )
    }

    /// Gives lanes back.
    pub(crate) fn release(&self, relay: &str, which: impl IntoIterator<Item = i64>) -> String {
        let lanes = self.names.table("lanes");
        format!(
            "UPDATE {lanes} SET owner = NULL, node = NULL, until = 0 WHERE owner = '{relay}' AND lane IN ({})",
            list(which)
        )
    }

    /// A relay is there no more.
    pub(crate) fn leave(&self, relay: &str) -> String {
        let Self { dialect, names } = self;
        let (relays, lanes) = (names.table("relays"), names.table("lanes"));
        dialect.atomic(&[
            format!("UPDATE {lanes} SET owner = NULL, node = NULL, until = 0 WHERE owner = '{relay}'"),
            format!("DELETE FROM {relays} WHERE relay = '{relay}'"),
        ])
    }

    /// The last number of each model in these lanes, as `lane/model`.
    pub(crate) fn numbers(&self, lanes: impl IntoIterator<Item = i64>) -> String {
        let streams = self.names.table("streams");
        let text = match self.dialect {
            Dialect::Postgres | Dialect::Sqlite => "lane || '/' || model",
            Dialect::MySql => "CONCAT(lane, '/', model)",
        };
        format!("SELECT {text} AS text, sequence AS number FROM {streams} WHERE lane IN ({})", list(lanes))
    }

    /// Moves published rows to the history, those alone whose lanes the relay still owns.
    pub(crate) fn settle(&self, relay: &str, rows: &[Settled]) -> String {
        let Self { dialect, names } = self;
        let (outbox, history) = (names.table("outbox"), names.table("history"));
        let mut statements = self.fence(relay, &mut rows.iter());
        let mine = self.mine(relay, rows.iter());
        // First, so that who is done with them meanwhile waits, and finds them published.
        let handled: Vec<&Settled> = rows.iter().filter(|row| row.handled_here).collect();
        if !handled.is_empty() {
            let (sequences, streams) = self.cases(handled.iter().copied());
            statements.push(format!(
                "UPDATE {outbox} SET status = {AFTER}, sequence = {sequences}, stream = {streams} \
                 WHERE id IN ({}) AND status IN ('{PENDING}', '{WAITING}') AND {mine}",
                list(handled.iter().map(|row| row.id))
            ));
        }
        let done = format!(
            "{outbox}.id IN ({}) AND {outbox}.handler IS NULL AND {mine}",
            list(rows.iter().map(|row| row.id))
        );
        let into = format!("INSERT INTO {history} ({COLUMNS}, sequence, stream, status, processed_at)");
        let end = format!("'{COMPLETED}', {}", dialect.timestamp());
        match dialect {
            Dialect::Postgres => statements.push(format!(
                "WITH n (n_id, n_sequence, n_stream) AS (VALUES {numbers}), gone AS \
                 (DELETE FROM {outbox} USING n WHERE {outbox}.id = n_id AND {done} RETURNING {outbox}.*, n_sequence, n_stream) \
                 {into} SELECT {COLUMNS}, n_sequence, n_stream, {end} FROM gone",
                numbers = self.numbered(rows.iter()),
            )),
            Dialect::Sqlite => {
                statements.push(format!(
                    "WITH n (n_id, n_sequence, n_stream) AS (VALUES {numbers}) \
                     {into} SELECT {COLUMNS}, n_sequence, n_stream, {end} FROM {outbox}, n WHERE {outbox}.id = n_id AND {done}",
                    numbers = self.numbered(rows.iter()),
                ));
                statements.push(format!("DELETE FROM {outbox} WHERE {done}"));
            }
            // They have no words in common for a list of rows.
            Dialect::MySql => {
                let (sequences, streams) = self.cases(rows.iter());
                statements.push(format!(
                    "{into} SELECT {COLUMNS}, {sequences}, {streams}, {end} FROM {outbox} WHERE {done}"
                ));
                statements.push(format!("DELETE FROM {outbox} WHERE {done}"));
            }
        }
        statements.extend(self.count(relay, rows.iter()));
        dialect.atomic(&statements)
    }

    /// Notes what was not published, and when it is tried again. It has no number, then.
    pub(crate) fn fail(&self, relay: &str, row: &Unsettled) -> String {
        let Self { dialect, names } = self;
        let outbox = names.table("outbox");
        let Unsettled { at, error, next } = row;
        let one = || std::iter::once(at);
        let mine = self.mine(relay, one());
        let error = dialect.quoted(error);
        let next = match next {
            Next::Again(delay) => {
                format!("status = '{WAITING}', next_attempt = {} + {delay}", dialect.now())
            }
            Next::Failed => format!("status = '{FAILED}', processed_at = {}", dialect.timestamp()),
            Next::Unreadable => format!("status = '{UNREADABLE}', processed_at = {}", dialect.timestamp()),
        };
        let mut statements = self.fence(relay, &mut one());
        statements.push(format!(
            "UPDATE {outbox} SET retries = retries + 1, last_error = {error}, {next} \
             WHERE id = {} AND status IN ('{PENDING}', '{WAITING}') AND {mine}",
            at.id
        ));
        dialect.atomic(&statements)
    }

    /// What is kept of a stream, in order, at most so many of each part: in the history, and where listeners are
    /// not done with it.
    pub(crate) fn kept(&self, kept: &Kept<'_>, most: usize) -> [String; 2] {
        self.where_kept(kept).map(|(table, which)| {
            format!(
                "SELECT {} FROM {table} o WHERE {which} ORDER BY o.sequence LIMIT {most}",
                self.settled_columns()
            )
        })
    }

    /// The lowest number that is kept of a stream.
    pub(crate) fn oldest(&self, kept: &Kept<'_>) -> String {
        self.first(kept, "")
    }

    /// The lowest number of what was written since so many milliseconds after 1970.
    pub(crate) fn first_since(&self, kept: &Kept<'_>, millis: i64) -> String {
        self.first(kept, &format!(" AND {}", self.is_since("o.created_at", millis)))
    }

    /// The first number of the history, and whether it was settled `before` a time. Its index finds it: lane and number
    /// are all that it goes by.
    pub(crate) fn settled_after(&self, kept: &Kept<'_>, millis: i64) -> String {
        // Clocks are set back at times.
        const CLOCKS: i64 = 60_000;
        let [(history, which), _] = self.where_kept(kept);
        let since = self.is_since("o.processed_at", millis.saturating_sub(CLOCKS));
        // Of what nobody knows when it was settled it is not said that it was before.
        format!(
            "SELECT CASE WHEN {since} OR o.processed_at IS NULL THEN 'since' ELSE 'before' END AS text, o.sequence AS number \
             FROM {history} o WHERE {which} ORDER BY o.sequence LIMIT 1"
        )
    }

    fn is_since(&self, column: &str, millis: i64) -> String {
        match self.dialect {
            Dialect::Postgres => format!("{column} >= to_timestamp({millis} / 1000.0)"),
            Dialect::Sqlite => format!("julianday({column}) >= 2440587.5 + {millis} / 86400000.0"),
            Dialect::MySql => {
                format!("{column} >= TIMESTAMPADD(MICROSECOND, {millis} * 1000, '1970-01-01')")
            }
        }
    }

    fn first(&self, kept: &Kept<'_>, also: &str) -> String {
        let parts = self.where_kept(kept).map(|(table, which)| {
            format!(
                "SELECT 'first' AS text, number FROM (SELECT o.sequence AS number FROM {table} o WHERE {which}{also} \
                 ORDER BY o.sequence LIMIT 1) AS f_{}",
                if table.ends_with("history") { "history" } else { "outbox" }
            )
        });
        parts.join(" UNION ALL ")
    }

    /// Tables and conditions, with each table called `o`.
    fn where_kept(&self, kept: &Kept<'_>) -> [(String, String); 2] {
        let Kept { lane, model, after, up_to } = kept;
        let model = self.dialect.quoted(model);
        let which = format!(
            "o.lane = {lane} AND o.sequence > {after} AND o.sequence <= {up_to} AND lower(o.model) = lower({model})"
        );
        let unhandled = format!("{which} AND o.status IN ('{PROCESSING}', '{UNREADABLE}', '{ORPHANED}')");
        [
            (self.names.table("history").to_string(), which),
            (self.names.table("outbox").to_string(), unhandled),
        ]
    }

    /// Holds the lanes of these rows while the transaction lasts, so that nobody takes them meanwhile.
    fn fence<'r>(&self, relay: &str, rows: &mut dyn Iterator<Item = &'r Settled>) -> Vec<String> {
        let lanes = self.names.table("lanes");
        let of = |rows: &mut dyn Iterator<Item = &'r Settled>| {
            list(rows.map(|row| i64::from(row.lane)).collect::<std::collections::BTreeSet<_>>())
        };
        match self.dialect {
            // Its transactions that write come one after the other.
            Dialect::Sqlite => Vec::new(),
            Dialect::Postgres => {
                vec![format!(
                    "SELECT 1 FROM {lanes} WHERE owner = '{relay}' AND lane IN ({}) FOR SHARE",
                    of(rows)
                )]
            }
            Dialect::MySql => {
                vec![format!(
                    "UPDATE {lanes} SET node = node WHERE owner = '{relay}' AND lane IN ({})",
                    of(rows)
                )]
            }
        }
    }

    /// That the relay still owns the lane as it did when it read the row.
    fn mine<'r>(&self, relay: &str, rows: impl Iterator<Item = &'r Settled>) -> String {
        let (outbox, lanes) = (self.names.table("outbox"), self.names.table("lanes"));
        let mut owned: Vec<(i32, i64)> = rows.map(|row| (row.lane, row.epoch)).collect();
        owned.sort_unstable();
        owned.dedup();
        let owned: Vec<String> =
            owned.iter().map(|(lane, epoch)| format!("(l.lane = {lane} AND l.epoch = {epoch})")).collect();
        let owned = if owned.is_empty() { "1 = 0".to_owned() } else { owned.join(" OR ") };
        format!(
            "EXISTS (SELECT 1 FROM {lanes} l WHERE l.lane = {outbox}.lane AND l.owner = '{relay}' AND ({owned}))"
        )
    }

    fn numbered<'r>(&self, rows: impl Iterator<Item = &'r Settled>) -> String {
        let all: Vec<String> = rows
            .map(|row| format!("({}, {}, {})", row.id, row.sequence, self.dialect.quoted(&row.stream)))
            .collect();
        all.join(", ")
    }

    /// The number of each row, and its stream, as expressions of the row's id.
    fn cases<'r>(&self, rows: impl Iterator<Item = &'r Settled>) -> (String, String) {
        let (mut sequences, mut streams) = ("CASE id".to_owned(), "CASE id".to_owned());
        for row in rows {
            // Writing to a `String` cannot fail.
            let _ = write!(sequences, " WHEN {} THEN {}", row.id, row.sequence);
            let _ = write!(streams, " WHEN {} THEN {}", row.id, self.dialect.quoted(&row.stream));
        }
        (sequences + " END", streams + " END")
    }

    /// Notes the last number of each stream.
    fn count<'r>(&self, relay: &str, rows: impl Iterator<Item = &'r Settled>) -> Vec<String> {
        let Self { dialect, names } = self;
        let (streams, lanes) = (names.table("streams"), names.table("lanes"));
        let mut last = std::collections::BTreeMap::<(i32, i64, &str), i64>::new();
        for row in rows {
            let number = last.entry((row.lane, row.epoch, &row.model)).or_default();
            *number = row.sequence.max(*number);
        }
        let counts = last.into_iter().map(|((lane, epoch, model), sequence)| {
            let row = format!(
                "INSERT INTO {streams} (lane, model, sequence) SELECT {lane}, {}, {sequence} FROM {lanes} \
                 WHERE lane = {lane} AND owner = '{relay}' AND epoch = {epoch}",
                dialect.quoted(model)
            );
            match dialect {
                Dialect::Postgres => format!(
                    "{row} ON CONFLICT (lane, model) DO UPDATE SET sequence = greatest({streams}.sequence, excluded.sequence)"
                ),
                Dialect::Sqlite => format!(
                    "{row} ON CONFLICT (lane, model) DO UPDATE SET sequence = max(sequence, excluded.sequence)"
                ),
                Dialect::MySql => format!(
                    "{row} ON DUPLICATE KEY UPDATE sequence = greatest({streams}.sequence, {sequence})"
                ),
            }
        });
        counts.collect()
    }

    /// Listeners of this node cannot be handed a row: it is neither done nor forgotten.
    pub(crate) fn give_up(&self, id: i64, terminal: &str, error: &str) -> String {
        let outbox = self.names.table("outbox");
        let (error, mark) = (self.dialect.quoted(error), terminal.to_ascii_lowercase());
        format!(
            "UPDATE {outbox} SET handler = '!{mark}', last_error = {error}, \
             status = CASE status WHEN '{PROCESSING}' THEN '{terminal}' ELSE status END WHERE id = {id}"
        )
    }

    /// Listeners of the node that wrote are done with these rows.
    pub(crate) fn handled(&self, ids: &[String]) -> String {
        let Self { dialect, names } = self;
        let (outbox, history) = (names.table("outbox"), names.table("history"));
        let ids: Vec<String> = ids.iter().map(|id| format!("'{id}'")).collect();
        let ids = ids.join(", ");
        let done = format!("event_id IN ({ids}) AND handler IS NULL AND status = '{PROCESSING}'");
        dialect.atomic(&[
            format!("UPDATE {outbox} SET handler = NULL WHERE event_id IN ({ids})"),
            format!(
                "INSERT INTO {history} ({COLUMNS}, sequence, stream, status, processed_at) \
                 SELECT {COLUMNS}, sequence, stream, '{COMPLETED}', {} FROM {outbox} WHERE {done}",
                dialect.timestamp()
            ),
            format!("DELETE FROM {outbox} WHERE {done}"),
        ])
    }
}

/// What queue and history have in common, but for the number.
const COLUMNS: &str = "id, event_id, action, model, record_id, payload, retries, last_error, created_at, operation, topic, \
                       qos, properties, lane, by_model, park, trace_id, idempotency_key";

/// To be published.
pub(crate) const PENDING: &str = "PENDING";
/// Was refused, and waits for its next attempt; what comes after it waits with it.
pub(crate) const WAITING: &str = "WAITING";
/// Published, or not to be: listeners of the node that wrote work on it.
pub(crate) const PROCESSING: &str = "PROCESSING";
/// What a published row becomes that listeners are not done with.
const AFTER: &str = "CASE handler WHEN '!unreadable' THEN 'UNREADABLE' WHEN '!orphaned' THEN 'ORPHANED' \
                     ELSE 'PROCESSING' END";
/// No program that is there can read it.
pub(crate) const UNREADABLE: &str = "UNREADABLE";
/// No program that is there has a listener for it.
pub(crate) const ORPHANED: &str = "ORPHANED";
/// Nothing is left to be done.
pub(crate) const COMPLETED: &str = "COMPLETED";
/// Given up.
pub(crate) const FAILED: &str = "FAILED";

/// What a sync queue calls it.
fn action(record: &Record) -> &'static str {
    match record.operation {
        Operation::Create | Operation::CreateMany => "CREATE",
        Operation::Delete | Operation::DeleteMany => "DELETE",
        Operation::Upsert if record.inserted == Some(true) => "CREATE",
        Operation::Update | Operation::UpdateMany | Operation::Upsert => "UPDATE",
    }
}

/// What travels beside an event that has no trace, in the specification's form.
pub(crate) fn usual_properties(event: &str) -> Properties {
    Properties::of_type("application/json").with("eventId", event)
}

/// What is to be said of a database with such [settings](Store::settings), at this time by the program's clock.
pub(crate) fn doubts<'p>(settings: impl IntoIterator<Item = (&'p str, i64)>, now: i64) -> Vec<String> {
    let doubt = |(setting, number): (&str, i64)| {
        if setting == "clock" {
            let seconds = (number - now) / 1000;
            return (seconds.abs() > 60).then(|| {
                format!(
                    "its clock is {} s {} this program's: leases go by the database's clock, the times of events by \
                     the program's; have both set by NTP",
                    seconds.abs(),
                    if seconds > 0 { "ahead of" } else { "behind" }
                )
            });
        }
        let cure = match setting {
            "synchronous_commit" => "set it to `on`, for the roles that write durable events at least",
            "fsync" => "set it to `on`",
            _ => "set it to 1",
        };
        (number != 0).then(|| {
            format!(
                "with its `{setting}`, a crash may take back what was committed, and what was published already tells \
                 of rows that never were: {cure}"
            )
        })
    };
    settings.into_iter().filter_map(doubt).collect()
}

const fn qos_number(qos: QoS) -> u8 {
    match qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce => 1,
        QoS::ExactlyOnce => 2,
    }
}

pub(crate) const fn qos(number: i16) -> Option<QoS> {
    match number {
        0 => Some(QoS::AtMostOnce),
        1 => Some(QoS::AtLeastOnce),
        2 => Some(QoS::ExactlyOnce),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_forgets_or_has_another_time_is_doubted() {
        let good = [("synchronous_commit", 0), ("fsync", 0), ("clock", 1_000_000_000)];
        assert_eq!(doubts(good, 1_000_000_000 + 59_000), Vec::<String>::new());
        let bad = [("synchronous_commit", 1), ("fsync", 1), ("innodb_flush_log_at_trx_commit", 1)];
        let said = doubts(bad, 0);
        assert_eq!(said.len(), 3);
        for (doubt, (setting, _)) in said.iter().zip(bad) {
            assert!(doubt.contains(setting) && doubt.contains(": set it to"), "{doubt}");
        }
        let hour = 3_600_000;
        assert!(doubts([("clock", 0)], hour)[0].contains("3600 s behind"));
        assert!(doubts([("clock", hour)], 0)[0].contains("3600 s ahead of"));
    }
}
