//! Which rows are due, and what becomes of those that were published.

use std::collections::HashMap;
use std::fmt::Write;

use super::{COLUMNS, COMPLETED, FAILED, PENDING, Store, UNREADABLE, WAITING};
use crate::tables::{Dialect, array, list};

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

/// What PostgreSQL is told of published rows.
struct Arrays {
    ids: String,
    sequence: String,
    stream: String,
}

impl Store {
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
        let due = |status: &str, lane: &str, except: &str, also: &str| {
            format!(
                "o.status = '{status}' AND o.lane = {lane} AND o.id NOT IN ({except}){also} \
                 AND NOT EXISTS (SELECT 1 FROM {outbox} e WHERE e.status = '{WAITING}' AND e.lane = {lane} AND {before}) \
                 AND NOT (o.park = 1 AND EXISTS (SELECT 1 FROM {outbox} e \
                 WHERE e.status = '{FAILED}' AND e.lane = {lane} AND {before})){turned}"
            )
        };
        let again = format!(" AND o.next_attempt <= {now}");
        let parts = [(PENDING, ""), (WAITING, &*again)];
        if *dialect == Dialect::Postgres {
            // One part for all lanes, and the rows on their way as one array: to plan a part for each lane, and to
            // guess how many rows a list leaves, took ten times as long as to read the rows.
            let except = array(lanes.iter().flat_map(|reading| &reading.except).copied());
            let except = format!("SELECT unnest({except}::bigint[])");
            let all = lanes.iter().map(|Reading { lane, most, .. }| format!("({lane}, {most})"));
            let all = all.collect::<Vec<_>>().join(", ");
            let parts = parts.map(|(status, also)| {
                format!(
                    "SELECT o.* FROM (VALUES {all}) AS v (lane, most) \
                     JOIN {lane_table} l ON l.lane = v.lane AND l.owner = '{relay}' AND l.paused = 0 \
                     CROSS JOIN LATERAL (SELECT {columns} FROM {outbox} o WHERE {} ORDER BY o.id LIMIT v.most) AS o",
                    due(status, "v.lane", &except, also)
                )
            });
            return Due::Rows(parts.join(" UNION ALL "));
        }
        let lanes = lanes.iter().flat_map(|Reading { lane, except, most }| {
            let except = list(except.iter().copied());
            let (lane, columns, due) = (lane.to_string(), &columns, &due);
            parts.map(|(status, also)| {
                format!(
                    "SELECT * FROM (SELECT {columns} FROM {outbox} o WHERE {} \
                     AND EXISTS (SELECT 1 FROM {lane_table} l WHERE l.lane = {lane} AND l.owner = '{relay}' AND l.paused = 0) \
                     ORDER BY o.id LIMIT {most}) AS {status}_{lane}",
                    due(status, &lane, &except, also)
                )
            })
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

    /// Moves published rows to the history, those alone whose lanes the relay still owns.
    pub(crate) fn settle(&self, relay: &str, rows: &[Settled]) -> String {
        let Self { dialect, names } = self;
        let (outbox, history) = (names.table("outbox"), names.table("history"));
        let mut statements = self.fence(relay, &mut rows.iter());
        let mine = self.mine(relay, rows.iter());
        // First, so that who is done with them meanwhile waits, and finds them published.
        let handled: Vec<&Settled> = rows.iter().filter(|row| row.handled_here).collect();
        // As an expression PostgreSQL finds no index for it: see `mine`.
        let status = if *dialect == Dialect::Postgres { "status || ''" } else { "status" };
        let unsettled = format!("{status} IN ('{PENDING}', '{WAITING}') AND {mine}");
        if !handled.is_empty() {
            statements.push(match dialect {
                Dialect::Postgres => {
                    let Arrays { ids, sequence, stream } = self.arrays(&handled);
                    format!(
                        "UPDATE {outbox} SET status = {AFTER}, sequence = {sequence}, stream = {stream} \
                         WHERE id = ANY ({ids}) AND {unsettled}"
                    )
                }
                Dialect::Sqlite => format!(
                    "WITH {} UPDATE {outbox} SET status = {AFTER}, sequence = n_sequence, stream = n_stream \
                     FROM n WHERE {outbox}.id = n_id AND {unsettled}",
                    self.numbered(&handled)
                ),
                Dialect::MySql => {
                    let (sequences, streams) = self.cases(handled.iter().copied());
                    format!(
                        "UPDATE {outbox} SET status = {AFTER}, sequence = {sequences}, stream = {streams} \
                         WHERE id IN ({}) AND {unsettled}",
                        list(handled.iter().map(|row| row.id))
                    )
                }
            });
        }
        let done = format!("{outbox}.handler IS NULL AND {mine}");
        let these = format!("{outbox}.id IN ({}) AND {done}", list(rows.iter().map(|row| row.id)));
        let into = format!("INSERT INTO {history} ({COLUMNS}, sequence, stream, status, processed_at)");
        let end = format!("'{COMPLETED}', {}", dialect.timestamp());
        let all: Vec<&Settled> = rows.iter().collect();
        match dialect {
            Dialect::Postgres => {
                let Arrays { ids, sequence, stream } = self.arrays(&all);
                statements.push(format!(
                    "WITH gone AS (DELETE FROM {outbox} WHERE id = ANY ({ids}) AND {done} RETURNING *) \
                     {into} SELECT {COLUMNS}, {sequence}, {stream}, {end} FROM gone"
                ));
            }
            Dialect::Sqlite => {
                statements.push(format!(
                    "WITH {} \
                     {into} SELECT {COLUMNS}, n_sequence, n_stream, {end} FROM {outbox}, n WHERE {outbox}.id = n_id AND {done}",
                    self.numbered(&all),
                ));
                statements.push(format!("DELETE FROM {outbox} WHERE {these}"));
            }
            // They have no words in common for a list of rows.
            Dialect::MySql => {
                let (sequences, streams) = self.cases(rows.iter());
                statements.push(format!(
                    "{into} SELECT {COLUMNS}, {sequences}, {streams}, {end} FROM {outbox} WHERE {these}"
                ));
                statements.push(self.delete("PRIMARY", &these));
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
        if self.dialect == Dialect::Postgres {
            // The rows are to be found by their ids, also where it takes the table for nearly empty, as it was when it was
            // last looked at: then it would as soon join it to the lanes, and read the whole index of those for it.
            return format!(
                "{outbox}.lane + 0 = ANY (ARRAY(SELECT l.lane FROM {lanes} l WHERE l.owner = '{relay}' AND ({owned})))"
            );
        }
        format!(
            "EXISTS (SELECT 1 FROM {lanes} l WHERE l.lane = {outbox}.lane AND l.owner = '{relay}' AND ({owned}))"
        )
    }

    /// The number of each row, and its stream, as a table `n`, on SQLite.
    fn numbered(&self, rows: &[&Settled]) -> String {
        let all = rows
            .iter()
            .map(|row| format!("({}, {}, {})", row.id, row.sequence, self.dialect.quoted(&row.stream)));
        format!("n (n_id, n_sequence, n_stream) AS (VALUES {})", all.collect::<Vec<_>>().join(", "))
    }

    /// The same on PostgreSQL, as arrays and as expressions of the row's `id`.
    ///
    /// Not as a table: joined in a plan that takes the outbox for nearly empty, as it was when it was last looked at,
    /// each row is compared with each number. And to read and plan a list of values takes longer than to delete rows.
    fn arrays(&self, rows: &[&Settled]) -> Arrays {
        let mut rows = rows.to_vec();
        rows.sort_unstable_by_key(|row| row.id);
        // Rows of one stream share its text.
        let (mut streams, mut places) = (Vec::<&str>::new(), HashMap::<&str, usize>::new());
        let which = rows.iter().map(|row| {
            *places.entry(&row.stream).or_insert_with(|| {
                streams.push(&row.stream);
                streams.len()
            })
        });
        let which = array(which.collect::<Vec<_>>());
        let streams = streams.into_iter().map(|stream| self.dialect.quoted(stream)).collect::<Vec<_>>();
        let of =
            |number: fn(&Settled) -> i64| format!("{}::bigint[]", array(rows.iter().map(|row| number(row))));
        let ids = of(|row| row.id);
        // Searches the sorted ids: the last one that is no greater.
        let place = format!("width_bucket(id, {ids})");
        Arrays {
            sequence: format!("({})[{place}]", of(|row| row.sequence)),
            stream: format!("(ARRAY[{}])[({which}::integer[])[{place}]]", streams.join(", ")),
            ids,
        }
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
        if *dialect == Dialect::MySql {
            let counts = last.into_iter().map(|((lane, epoch, model), sequence)| {
                format!(
                    "INSERT INTO {streams} (lane, model, sequence) SELECT {lane}, {}, {sequence} FROM {lanes} \
                     WHERE lane = {lane} AND owner = '{relay}' AND epoch = {epoch} \
                     ON DUPLICATE KEY UPDATE sequence = greatest({streams}.sequence, {sequence})",
                    dialect.quoted(model)
                )
            });
            return counts.collect();
        }
        if last.is_empty() {
            return Vec::new();
        }
        let counts = last.into_iter().map(|((lane, epoch, model), sequence)| {
            format!("({lane}, {epoch}, {}, {sequence})", dialect.quoted(model))
        });
        let counts = counts.collect::<Vec<_>>().join(", ");
        let greatest = if *dialect == Dialect::Postgres { "greatest" } else { "max" };
        // No lane has two epochs: none of these is there twice.
        vec![format!(
            "WITH n (n_lane, n_epoch, n_model, n_sequence) AS (VALUES {counts}) \
             INSERT INTO {streams} (lane, model, sequence) SELECT n_lane, n_model, n_sequence FROM n, {lanes} l \
             WHERE l.lane = n_lane AND l.owner = '{relay}' AND l.epoch = n_epoch \
             ON CONFLICT (lane, model) DO UPDATE SET sequence = {greatest}({streams}.sequence, excluded.sequence)"
        )]
    }
}

/// What a published row becomes that listeners are not done with.
const AFTER: &str = "CASE handler WHEN '!unreadable' THEN 'UNREADABLE' WHEN '!orphaned' THEN 'ORPHANED' \
                     ELSE 'PROCESSING' END";
