//! Makes the framework's tables.

use std::fmt;

use clap::Args;
use emitter_diesel::outbox::Control;
use emitter_diesel::tables::{LANES, Migration, VERSION};
use serde::Serialize;

use crate::connection::Place;
use crate::report::{Failure, Out, Verdict};

/// What is made.
#[derive(Args)]
pub(crate) struct Migrate {
    /// Prints the SQL for a tool of your own, and connects to nothing: of the URL only the kind of database counts
    #[arg(long, conflicts_with = "dry_run")]
    print: bool,

    /// Changes nothing; exit code 1 says that something is to be done
    #[arg(long)]
    dry_run: bool,

    /// The lanes of a new outbox: as many relays can share the work, 1 to 200
    #[arg(long, default_value_t = LANES, value_parser = clap::value_parser!(u32).range(1..=200))]
    lanes: u32,
}

/// What was, or would be, done.
#[derive(Serialize)]
struct Report {
    /// The version that was found; 0 where there were no tables.
    found: u32,
    /// The version that this program works with.
    wanted: u32,
    /// How many statements lead there.
    statements: usize,
    /// They were made.
    applied: bool,
}

impl Migrate {
    pub(super) fn run(&self, place: &Place, out: Out) -> Result<Verdict, Failure> {
        let (dialect, tables) = (place.dialect()?, place.tables()?.lanes(self.lanes));
        let steps = tables.migrations(dialect);
        if self.print {
            out.print(&Sql { migrations: steps.iter().map(Step::of).collect() })?;
            return Ok(Verdict::Well);
        }
        let found = tables.version().map_err(|error| format!("the database cannot be asked: {error}"))?;
        if found > VERSION {
            return Err(Failure::said(format!(
                "the tables are of version {found}, this program works with {VERSION}: use a newer one"
            )));
        }
        let to_do = steps.iter().filter(|step| step.version > found);
        let statements = to_do.map(|step| step.statements.len()).sum();
        let applied = !self.dry_run && found < VERSION;
        if applied {
            // What opens it makes them.
            Control::open(&tables.migrate())?;
        }
        out.print(&Report { found, wanted: VERSION, statements, applied })?;
        Ok(if self.dry_run && found < VERSION { Verdict::Look } else { Verdict::Well })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { found, wanted, statements, applied } = self;
        match (applied, found == wanted) {
            (_, true) => writeln!(f, "The tables are of version {found}, as they should be."),
            (true, _) => writeln!(f, "The tables were of version {found}, and are of version {wanted} now."),
            (false, _) => writeln!(
                f,
                "The tables are of version {found}; {statements} statements would lead to version {wanted}."
            ),
        }
    }
}

/// The statements themselves.
#[derive(Serialize)]
struct Sql {
    migrations: Vec<Step>,
}

#[derive(Serialize)]
struct Step {
    version: u32,
    sql: String,
}

impl Step {
    fn of(migration: &Migration) -> Self {
        Self { version: migration.version, sql: migration.sql() }
    }
}

impl fmt::Display for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.migrations.iter().try_for_each(|Step { version, sql }| write!(f, "-- version {version}\n{sql}"))
    }
}
