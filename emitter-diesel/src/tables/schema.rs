//! The tables, version by version.

use std::fmt;

use diesel::result::{Error, QueryResult};

use super::Names;
use super::database::Database;
use super::dialect::Dialect;

/// One step from a version of the tables to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// The version that it leads to, from 1.
    pub version: u32,
    /// Its statements, each without a semicolon at the end.
    pub statements: Vec<String>,
}

impl Migration {
    /// Its statements as one text, for a tool of your own.
    #[must_use]
    pub fn sql(&self) -> String {
        self.statements.iter().map(|statement| format!("{statement};\n")).collect()
    }
}

/// The version that this program works with.
pub const VERSION: u32 = 1;

/// How many lanes an outbox has that was not told otherwise.
pub const LANES: u32 = 16;

/// All steps, in order.
pub(crate) fn migrations(dialect: Dialect, names: &Names, lanes: u32) -> Vec<Migration> {
    vec![Migration { version: 1, statements: first(dialect, names, lanes) }]
}

/// What the tables say of themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) version: u32,
    pub(crate) lanes: u32,
    pub(crate) outbox_id: String,
}

/// Whether there are tables of any version, asked so that a database which cannot tell says so.
pub(crate) fn are_there(database: &mut dyn Database, names: &Names) -> QueryResult<bool> {
    let schema = names.table("schema").to_string();
    let sql = match (database.dialect(), schema.split_once('.')) {
        (Dialect::Postgres, _) => {
            format!("SELECT 'tables' AS text, COUNT(to_regclass('{schema}')) AS number")
        }
        (Dialect::Sqlite, None) => {
            format!("SELECT 'tables' AS text, COUNT(*) AS number FROM sqlite_master WHERE name = '{schema}'")
        }
        (Dialect::Sqlite, Some((within, table))) => format!(
            "SELECT 'tables' AS text, COUNT(*) AS number FROM {within}.sqlite_master WHERE name = '{table}'"
        ),
        (Dialect::MySql, place) => {
            let (within, table) = match place {
                Some((within, table)) => (format!("'{within}'"), table),
                None => ("DATABASE()".to_owned(), &*schema),
            };
            format!(
                "SELECT 'tables' AS text, COUNT(*) AS number FROM information_schema.tables \
                 WHERE table_schema = {within} AND table_name = '{table}'"
            )
        }
    };
    Ok(database.pairs(sql)?.first().is_some_and(|pair| pair.number > 0))
}

/// Looks at the tables.
pub(crate) fn found(database: &mut dyn Database, names: &Names) -> QueryResult<Found> {
    let (dialect, schema) = (database.dialect(), names.table("schema"));
    let number = |pairs: Vec<super::database::Pair>| {
        pairs
            .into_iter()
            .next()
            .map_or((String::new(), 0), |pair| (pair.text, u32::try_from(pair.number).unwrap_or(0)))
    };
    let first = format!(
        "SELECT outbox_id AS text, CAST(lanes AS {}) AS number FROM {schema} WHERE version = 1",
        bigint(dialect)
    );
    let (outbox_id, lanes) = number(database.pairs(first)?);
    let last = format!(
        "SELECT 'version' AS text, CAST(COALESCE(MAX(version), 0) AS {}) AS number FROM {schema}",
        bigint(dialect)
    );
    let (_, version) = number(database.pairs(last)?);
    Ok(Found { version, lanes, outbox_id })
}

const fn bigint(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres | Dialect::Sqlite => "BIGINT",
        Dialect::MySql => "SIGNED",
    }
}

/// Makes the tables, or brings them up to date. Several programs may do it at once.
pub(crate) fn migrate(database: &mut dyn Database, names: &Names, lanes: u32) -> QueryResult<()> {
    let dialect = database.dialect();
    // What is asked in vain would end PostgreSQL's transaction.
    let is_there = |database: &mut dyn Database| found(database, names).map_or(0, |found| found.version);
    if is_there(database) >= VERSION {
        return Ok(());
    }
    let end = match dialect {
        Dialect::Postgres | Dialect::Sqlite => "COMMIT",
        Dialect::MySql => "DO RELEASE_LOCK('emitter_migration')",
    };
    match dialect {
        // A number of our own.
        Dialect::Postgres => database.run("BEGIN; SELECT pg_advisory_xact_lock(7246811902553)")?,
        Dialect::Sqlite => database.run("BEGIN IMMEDIATE")?,
        // It commits each statement by itself: whoever is the first does them all, and what he leaves is done by the next.
        Dialect::MySql => lock(database)?,
    }
    let steps = (|| {
        if dialect == Dialect::Postgres {
            database.run("SAVEPOINT emitter_found")?;
        }
        let version = is_there(database);
        if dialect == Dialect::Postgres {
            database.run("ROLLBACK TO SAVEPOINT emitter_found")?;
        }
        let steps = migrations(dialect, names, lanes);
        for statement in
            steps.into_iter().filter(|step| step.version > version).flat_map(|step| step.statements)
        {
            database.run(&statement)?;
        }
        Ok(())
    })();
    match steps {
        Ok(()) => database.run(end),
        Err(error) => {
            // The first error says more than that of the clean-up.
            let _ = database.run(if dialect == Dialect::MySql { end } else { "ROLLBACK" });
            Err(error)
        }
    }
}

/// # Errors
/// The database's, or that another program has the lock.
fn lock(database: &mut dyn Database) -> QueryResult<()> {
    const WAIT: u32 = 20;
    // NULL where the database could not even try.
    let ask = format!(
        "SELECT CAST(COALESCE(IS_USED_LOCK('emitter_migration'), 0) AS CHAR) AS text, \
         CAST(COALESCE(GET_LOCK('emitter_migration', {WAIT}), 0) AS SIGNED) AS number"
    );
    match database.pairs(ask)?.first() {
        Some(answer) if answer.number == 1 => Ok(()),
        answer => {
            let holder = answer.map_or("", |answer| &answer.text);
            let problem = format!(
                "connection {holder} has had the lock `emitter_migration` for more than {WAIT} s, and makes the tables: wait \
                 until it is done, or end it (`KILL {holder}`), and start again"
            );
            Err(Error::QueryBuilderError(problem.into()))
        }
    }
}

/// What the databases call types.
pub(crate) struct Types {
    pub(crate) serial: &'static str,
    pub(crate) uuid: &'static str,
    /// A short text that can be a key.
    pub(crate) name: &'static str,
    /// A service, a node and a life of it.
    pub(crate) whose: &'static str,
    pub(crate) text: &'static str,
    pub(crate) json: &'static str,
    pub(crate) time: &'static str,
    /// What follows a table's columns.
    pub(crate) options: &'static str,
    /// The part of a long text that is in an index.
    pub(crate) prefix: &'static str,
}

impl Types {
    pub(crate) const fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Postgres => Self {
                serial: "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
                uuid: "UUID",
                name: "TEXT",
                whose: "TEXT",
                text: "TEXT",
                // As text: it is kept as it was written, and may hold an escaped NUL.
                json: "JSON",
                time: "TIMESTAMPTZ",
                options: "",
                prefix: "",
            },
            Dialect::Sqlite => Self {
                serial: "INTEGER PRIMARY KEY AUTOINCREMENT",
                uuid: "TEXT",
                name: "TEXT",
                whose: "TEXT",
                text: "TEXT",
                json: "TEXT",
                time: "TEXT",
                options: "",
                prefix: "",
            },
            Dialect::MySql => Self {
                serial: "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY",
                uuid: "CHAR(36)",
                name: "VARCHAR(191)",
                whose: "VARCHAR(320)",
                text: "LONGTEXT",
                json: "LONGTEXT",
                time: "DATETIME(3)",
                // Names and keys are told apart by their letters' case.
                options: " ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                prefix: "(191)",
            },
        }
    }
}

/// A part of a version.
enum Part {
    Table { name: String, columns: String, options: &'static str },
    Index { name: String, table: String, on: String, unique: bool },
    Other(String),
}

impl Part {
    fn table(name: &impl fmt::Display, columns: String, options: &'static str) -> Self {
        Self::Table { name: name.to_string(), columns, options }
    }

    fn index(names: &Names, name: &str, table: &impl fmt::Display, on: impl Into<String>) -> Self {
        let (name, table) = (names.index(name).to_string(), table.to_string());
        Self::Index { name, table, on: on.into(), unique: false }
    }

    fn unique(names: &Names, name: &str, table: &impl fmt::Display, on: impl Into<String>) -> Self {
        let (name, table) = (names.index(name).to_string(), table.to_string());
        Self::Index { name, table, on: on.into(), unique: true }
    }
}

/// The statements. MySQL commits each by itself: there, each may be run once more, by whoever goes on with a migration that came
/// to no end, and a table comes with its indexes, which could not be asked for twice.
fn statements(dialect: Dialect, parts: &[Part]) -> Vec<String> {
    let within = |whole: &str| -> String {
        let indexes = parts.iter().filter_map(|part| match part {
            Part::Index { name, table, on, unique } if table == whole => {
                Some(format!(", {}INDEX {name} {on}", if *unique { "UNIQUE " } else { "" }))
            }
            _ => None,
        });
        indexes.collect()
    };
    let statement = |part: &Part| match (part, dialect) {
        (Part::Table { name, columns, options }, Dialect::MySql) => {
            let indexes = within(name);
            Some(format!("CREATE TABLE IF NOT EXISTS {name} ({columns}{indexes}){options}"))
        }
        (Part::Index { .. }, Dialect::MySql) => None,
        (Part::Table { name, columns, options }, _) => {
            Some(format!("CREATE TABLE {name} ({columns}){options}"))
        }
        (Part::Index { name, table, on, unique }, _) => {
            let unique = if *unique { "UNIQUE " } else { "" };
            // SQLite wants the schema on the index, and none on its table; PostgreSQL the other way round.
            let attached = table.split_once('.').filter(|_| dialect == Dialect::Sqlite);
            Some(match attached {
                Some((schema, table)) => format!("CREATE {unique}INDEX {schema}.{name} ON {table} {on}"),
                None => format!("CREATE {unique}INDEX {name} ON {table} {on}"),
            })
        }
        (Part::Other(statement), _) => Some(statement.clone()),
    };
    parts.iter().filter_map(statement).collect()
}

fn first(dialect: Dialect, names: &Names, lanes: u32) -> Vec<String> {
    let Types { serial, uuid, name, whose, text, json, time, options, prefix } = Types::of(dialect);
    let present = if dialect == Dialect::MySql { "" } else { " WHERE handler IS NOT NULL" };
    let (outbox, history) = (names.table("outbox"), names.table("history"));
    let (lane_table, streams) = (names.table("lanes"), names.table("streams"));
    let (relays, schema) = (names.table("relays"), names.table("schema"));
    let columns = format!(
        "event_id {uuid} NOT NULL, \
         action {name} NOT NULL, \
         model {name} NOT NULL, \
         record_id {text}, \
         payload {json} NOT NULL, \
         status {name} NOT NULL DEFAULT 'PENDING', \
         retries INTEGER NOT NULL DEFAULT 0, \
         last_error {text}, \
         created_at {time} NOT NULL, \
         processed_at {time}, \
         operation {name} NOT NULL, \
         topic {text} NOT NULL, \
         qos SMALLINT NOT NULL, \
         properties {text}, \
         lane INTEGER NOT NULL, \
         by_model SMALLINT NOT NULL, \
         park SMALLINT NOT NULL, \
         sequence BIGINT, \
         stream {text}, \
         trace_id {uuid} NOT NULL, \
         idempotency_key {text}"
    );
    let mut parts = vec![
        Part::table(
            &outbox,
            format!("id {serial}, {columns}, handler {whose}, next_attempt BIGINT NOT NULL DEFAULT 0"),
            options,
        ),
        // No other index begins with the status, or PostgreSQL takes that one where it was told that the table is nearly empty, and
        // reads all dead rows for each claim: after ten minutes at 2,000 events a second these took five times as long.
        Part::index(names, "outbox_lane", &outbox, "(status, lane, id)"),
        Part::index(names, "outbox_record", &outbox, format!("(model, record_id{prefix})")),
        Part::index(names, "outbox_event", &outbox, "(event_id)"),
        Part::index(names, "outbox_handler", &outbox, format!("(handler){present}")),
        Part::table(&history, format!("id BIGINT NOT NULL PRIMARY KEY, {columns}"), options),
        Part::index(names, "history_sequence", &history, "(lane, sequence)"),
        Part::index(names, "history_processed", &history, "(processed_at)"),
        Part::table(
            &lane_table,
            format!(
                "lane INTEGER NOT NULL PRIMARY KEY, owner {name}, node {whose}, \
             epoch BIGINT NOT NULL DEFAULT 0, until BIGINT NOT NULL DEFAULT 0, paused SMALLINT NOT NULL DEFAULT 0"
            ),
            options,
        ),
        Part::table(
            &streams,
            format!(
                "lane INTEGER NOT NULL, model {name} NOT NULL, sequence BIGINT NOT NULL, \
             PRIMARY KEY (lane, model)"
            ),
            options,
        ),
        Part::table(
            &relays,
            format!(
                "relay {name} NOT NULL PRIMARY KEY, node {whose} NOT NULL, lanes SMALLINT NOT NULL, \
             until BIGINT NOT NULL"
            ),
            options,
        ),
        Part::table(
            &schema,
            format!(
                "version INTEGER NOT NULL PRIMARY KEY, outbox_id {name} NOT NULL, \
             lanes INTEGER NOT NULL, applied_at {time} NOT NULL"
            ),
            options,
        ),
    ];
    parts.push(Part::table(
        &names.table("positions"),
        format!(
            "node {whose} NOT NULL, outbox {name} NOT NULL, lane INTEGER NOT NULL, model {name} NOT NULL, \
             epoch BIGINT NOT NULL, sequence BIGINT NOT NULL, noted_at {time} NOT NULL, \
             PRIMARY KEY (node, outbox, lane, model)"
        ),
        options,
    ));
    parts.extend(capture(dialect, names));
    if dialect == Dialect::Postgres {
        // Rows come and go: what is gone is cleared away early.
        parts.push(Part::Other(format!(
            "ALTER TABLE {outbox} SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000)"
        )));
    }
    parts.extend(inbox(dialect, names));
    parts.extend(ledger(dialect, names));
    parts.extend(dead_letters(dialect, names));
    parts.extend(requests(dialect, names));
    parts.extend(replicas(dialect, names));
    parts.extend(mirror(dialect, names));
    let every: Vec<String> = (0..lanes).map(|lane| format!("({lane})")).collect();
    if dialect == Dialect::MySql {
        // Those of a migration that came to no end: it may have been told of others.
        parts.push(Part::Other(format!("DELETE FROM {lane_table}")));
    }
    parts.push(Part::Other(format!("INSERT INTO {lane_table} (lane) VALUES {}", every.join(", "))));
    // Begins with the time, so that of two outboxes the one that was made later has the greater id.
    let now = dialect.now();
    let random = match dialect {
        Dialect::Postgres => format!(
            "lpad(to_hex({now}), 12, '0') || substr(md5(random()::text || clock_timestamp()::text), 1, 12)"
        ),
        Dialect::Sqlite => format!("printf('%012x', {now}) || lower(hex(randomblob(6)))"),
        Dialect::MySql => {
            format!("concat(lpad(lower(hex({now})), 12, '0'), substr(md5(concat(uuid(), rand())), 1, 12))")
        }
    };
    // The last of all: until it is there, everything is done again.
    parts.push(Part::Other(format!(
        "INSERT INTO {schema} (version, outbox_id, lanes, applied_at) VALUES (1, {random}, {lanes}, {})",
        dialect.timestamp()
    )));
    statements(dialect, &parts)
}

/// What travelled on the bus, and who writes it down.
fn mirror(dialect: Dialect, names: &Names) -> Vec<Part> {
    let Types { serial, uuid, name, whose, text, json, time, options, prefix } = Types::of(dialect);
    let (mirror, writers) = (names.table("events_mirror"), names.table("mirrors"));
    // In days, of which a whole one is dropped at once. A number beside that of the row tells which transaction
    // wrote it: rows are read only when all that began before it are over.
    let (serial, json, time, also, options) = match dialect {
        Dialect::Postgres => (
            "BIGSERIAL NOT NULL",
            "JSONB",
            "TIMESTAMPTZ(3)",
            ", xid xid8 NOT NULL DEFAULT pg_current_xact_id(), PRIMARY KEY (id, created_at)",
            " PARTITION BY RANGE (created_at)",
        ),
        Dialect::Sqlite | Dialect::MySql => (serial, json, time, "", options),
    };
    let index = |index, on: &str| Part::index(names, index, &mirror, on);
    let mut parts = vec![
        Part::table(
            &mirror,
            format!(
                "id {serial}, topic {text} NOT NULL, payload {json} NOT NULL, \
             created_at {time} NOT NULL DEFAULT {now}, trace_id {uuid}, kind {whose}, event_id {uuid}, \
             incarnation {uuid}, service {whose}, node {whose}, model {name}, operation {name}, record_id {text}, \
             properties {text}, exact {text}{also}",
                now = match dialect {
                    Dialect::Postgres => "now()",
                    Dialect::Sqlite => "(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
                    Dialect::MySql => "CURRENT_TIMESTAMP(3)",
                }
            ),
            options,
        ),
        index("events_mirror_topic", &format!("(topic{prefix})")),
        index("events_mirror_trace", "(trace_id)"),
        index("events_mirror_created", "(created_at)"),
        index("events_mirror_kind", "(kind)"),
        index("events_mirror_event", "(event_id, incarnation)"),
        index("events_mirror_record", &format!("(model, record_id{prefix})")),
        Part::table(
            &writers,
            format!(
                "name {whose} NOT NULL PRIMARY KEY, owner {name}, node {whose}, \
                 until BIGINT NOT NULL DEFAULT 0, batches BIGINT NOT NULL DEFAULT 0"
            ),
            Types::of(dialect).options,
        ),
    ];
    if dialect == Dialect::Postgres {
        // For what comes on a day of which there is no partition.
        let rest = names.table("events_mirror_rest");
        parts.push(Part::Other(format!("CREATE TABLE {rest} PARTITION OF {mirror} DEFAULT")));
        parts.push(index("events_mirror_order", "(xid, id)"));
        // Of the forms that have a kind in their JSON.
        let of_payload = "((payload ->> 'kind')) WHERE (payload ->> 'kind') IS NOT NULL";
        parts.push(index("events_mirror_payload_kind", of_payload));
    }
    parts
}

/// Which events a service's listeners have had their effect of.
fn inbox(dialect: Dialect, names: &Names) -> Vec<Part> {
    let Types { uuid, name, time, options, .. } = Types::of(dialect);
    let inbox = names.table("inbox");
    vec![
        // The event first: ids that are made one after the other lie beside each other.
        Part::table(
            &inbox,
            format!(
                "event_id {uuid} NOT NULL, listener {name} NOT NULL, service {name} NOT NULL, \
             claimed_at {time} NOT NULL, PRIMARY KEY (event_id, listener, service)"
            ),
            options,
        ),
        Part::index(names, "inbox_claimed", &inbox, "(claimed_at)"),
    ]
}

/// How far a service's listeners are with its own events, of those with which something went wrong.
fn ledger(dialect: Dialect, names: &Names) -> Vec<Part> {
    let Types { uuid, name, text, time, options, .. } = Types::of(dialect);
    let ledger = names.table("ledger");
    vec![
        Part::table(
            &ledger,
            format!(
                "event_id {uuid} NOT NULL, listener {name} NOT NULL, service {name} NOT NULL, \
             status {name} NOT NULL, attempts INTEGER NOT NULL, last_error {text}, next_attempt BIGINT NOT NULL DEFAULT 0, \
             updated_at {time} NOT NULL, PRIMARY KEY (event_id, listener, service)"
            ),
            options,
        ),
        Part::index(names, "ledger_status", &ledger, "(status, event_id)"),
    ]
}

/// Of each copied row the newest event that counted, and of a deleted one, since when it is that.
fn replicas(dialect: Dialect, names: &Names) -> Vec<Part> {
    let Types { uuid, name, time, options, .. } = Types::of(dialect);
    let replicas = names.table("replicas");
    // Byte by byte, as the other databases compare texts here.
    let stamp = if dialect == Dialect::Postgres { "TEXT COLLATE \"C\"" } else { name };
    vec![
        Part::table(
            &replicas,
            format!(
                "model {name} NOT NULL, table_name {name} NOT NULL, record_id {name} NOT NULL, \
             stamp {stamp} NOT NULL, event_id {uuid} NOT NULL, applied_at {time} NOT NULL, deleted_at {time}, \
             PRIMARY KEY (model, table_name, record_id)"
            ),
            options,
        ),
        Part::index(names, "replicas_deleted", &replicas, "(deleted_at)"),
    ]
}

/// Dead letters. The first five columns are the specification's.
fn dead_letters(dialect: Dialect, names: &Names) -> Vec<Part> {
    let Types { serial, uuid, name, text, time, options, .. } = Types::of(dialect);
    let letters = names.table("dlq_events");
    let now = match dialect {
        Dialect::Postgres => "now()",
        Dialect::Sqlite => "(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
        Dialect::MySql => "CURRENT_TIMESTAMP(3)",
    };
    vec![
        Part::table(
            &letters,
            format!(
                "id {serial}, \
             original_topic {text} NOT NULL, \
             failure_reason {text} NOT NULL, \
             payload {text}, \
             created_at {time} NOT NULL DEFAULT {now}, \
             payload_encoding {name}, \
             bytes BIGINT NOT NULL, \
             properties {text}, \
             reason {name} NOT NULL, \
             listener {text}, \
             model {text}, \
             record_id {text}, \
             ordered SMALLINT NOT NULL, \
             attempts INTEGER NOT NULL, \
             redrives INTEGER NOT NULL DEFAULT 0, \
             letter_id {uuid} NOT NULL, \
             event_id {uuid}, \
             service {name} NOT NULL, \
             node {name} NOT NULL, \
             incarnation {uuid} NOT NULL, \
             owner {name}, \
             until BIGINT NOT NULL DEFAULT 0, \
             tried {name}"
            ),
            options,
        ),
        Part::unique(names, "dlq_letter", &letters, "(letter_id)"),
        Part::index(names, "dlq_created", &letters, "(created_at)"),
        Part::index(names, "dlq_owner", &letters, "(owner)"),
        Part::index(names, "dlq_bytes", &letters, "(bytes)"),
    ]
}

/// What services are asked to do by those who have no listeners, and how far that is.
fn requests(dialect: Dialect, names: &Names) -> Vec<Part> {
    let Types { serial, name, whose, text, time, options, .. } = Types::of(dialect);
    let requests = names.table("requests");
    vec![
        Part::table(
            &requests,
            format!(
                "id {serial}, \
             ticket {name} NOT NULL, \
             service {name} NOT NULL, \
             action {name} NOT NULL, \
             work {text} NOT NULL, \
             asked_by {name}, \
             created_at {time} NOT NULL, \
             status {name} NOT NULL DEFAULT 'ASKED', \
             owner {name}, \
             node {whose}, \
             until BIGINT NOT NULL DEFAULT 0, \
             claims INTEGER NOT NULL DEFAULT 0, \
             total BIGINT, \
             handled BIGINT NOT NULL DEFAULT 0, \
             failed BIGINT NOT NULL DEFAULT 0, \
             skipped BIGINT NOT NULL DEFAULT 0, \
             unheard BIGINT NOT NULL DEFAULT 0, \
             place {name}, \
             last_error {text}, \
             finished_at {time}"
            ),
            options,
        ),
        Part::unique(names, "requests_ticket", &requests, "(ticket)"),
        Part::index(names, "requests_service", &requests, "(service, status)"),
        Part::index(names, "requests_finished", &requests, "(finished_at)"),
    ]
}

/// What triggers write to, which are PostgreSQL's alone.
fn capture(dialect: Dialect, names: &Names) -> Vec<Part> {
    if dialect != Dialect::Postgres {
        return Vec::new();
    }
    let Types { serial, name, text, json, time, .. } = Types::of(dialect);
    let (captured, audit) = (names.table("captured"), names.table("audit_log"));
    vec![
        // Its ids are the outbox's: what is turned keeps its place.
        Part::table(
            &captured,
            format!(
                "id BIGINT NOT NULL PRIMARY KEY, model {name} NOT NULL, table_name {text} NOT NULL, \
             action {name} NOT NULL, before {json}, after {json}, captured_at {time} NOT NULL DEFAULT clock_timestamp(), \
             status {name} NOT NULL DEFAULT 'CAPTURED', last_error {text}"
            ),
            "",
        ),
        Part::index(names, "captured_model", &captured, "(model, id) WHERE status = 'CAPTURED'"),
        Part::Other(format!(
            "ALTER TABLE {captured} SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000)"
        )),
        Part::table(
            &names.table("capturing"),
            format!("model {name} NOT NULL PRIMARY KEY, until BIGINT NOT NULL"),
            "",
        ),
        Part::table(
            &audit,
            format!(
                "id {serial}, table_name {text} NOT NULL, record_id {text}, old_values {json}, \
             new_values {json}, action {name} NOT NULL, changed_at {time} NOT NULL DEFAULT clock_timestamp(), \
             transaction_id BIGINT NOT NULL, db_user {text} NOT NULL, application_name {text} NOT NULL"
            ),
            "",
        ),
        Part::index(names, "audit_record", &audit, "(table_name, record_id)"),
        Part::index(names, "audit_changed", &audit, "(changed_at)"),
    ]
}
