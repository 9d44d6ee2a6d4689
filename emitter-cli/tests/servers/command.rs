//! The program, called as a user calls it.

use std::io::Write;
use std::process::{Command, Stdio};

use emitter_tests::servers::{MariaDb, Postgres};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::databases::Sqlite;

/// Where a database is, as the program is told it.
pub(crate) trait Address {
    fn address(&self) -> String;
}

impl Address for Sqlite {
    fn address(&self) -> String {
        self.path().to_str().unwrap().to_owned()
    }
}

impl Address for Postgres {
    fn address(&self) -> String {
        self.url()
    }
}

impl Address for MariaDb {
    fn address(&self) -> String {
        self.url()
    }
}

/// The program with a home of its own, and an environment in which the database is.
pub(crate) struct Cli {
    home: TempDir,
    environment: Vec<(&'static str, String)>,
}

/// How it ended.
#[derive(Debug, PartialEq)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Cli {
    pub(crate) fn new(environment: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        Self { home: tempfile::tempdir().unwrap(), environment: environment.into_iter().collect() }
    }

    pub(crate) fn at(database: &impl Address) -> Self {
        Self::new([("EMITTER_DATABASE", database.address())])
    }

    pub(crate) fn home(&self) -> &std::path::Path {
        self.home.path()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_emitter"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("EMITTER_") {
                command.env_remove(name);
            }
        }
        command.env_remove("XDG_CONFIG_HOME");
        command.env("HOME", self.home()).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.answered(arguments, "")
    }

    /// With something piped in.
    pub(crate) fn answered(&self, arguments: &[&str], input: &str) -> Ran {
        let mut child = self.command(arguments).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Its report, held against the schema of that name, and its exit code.
    #[track_caller]
    pub(crate) fn report(&self, schema: &str, arguments: &[&str]) -> (Value, i32) {
        let ran = self.run(&[arguments, &["--json"]].concat());
        let report = serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        check(schema, &report);
        (report, ran.code)
    }
}

/// Holds a report against its schema.
#[track_caller]
pub(crate) fn check(schema: &str, report: &Value) {
    let mut whole: Value = serde_json::from_str(include_str!("../../reports.schema.json")).unwrap();
    whole["$ref"] = json!(format!("#/$defs/{schema}"));
    let validator = jsonschema::validator_for(&whole).unwrap();
    let errors: Vec<String> = validator.iter_errors(report).map(|error| error.to_string()).collect();
    assert_eq!(errors, Vec::<String>::new(), "{schema}: {report}");
}

/// A dead letter as an INSERT of SQLite.
pub(crate) fn letter(payload: &str, why: &str) -> String {
    format!(
        "INSERT INTO emitter_dlq_events (original_topic, failure_reason, payload, bytes, reason, listener, ordered, attempts, \
         letter_id, service, node, incarnation) VALUES ('prisma/events/order/create', '{why}', '{payload}', {}, 'unhandled', \
         'courier', 0, 1, '{}', 'shop', 'a', '01890000-0000-7000-8000-000000000000')",
        payload.len(),
        uuid::Uuid::now_v7()
    )
}
