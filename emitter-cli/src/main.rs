//! `emitter`: the command line of who runs events.
//!
//! Each command makes a report, which is printed as text or, with `--json`, as JSON of the schema in
//! `reports.schema.json`. It reaches the framework's tables and its broker as any node does, needs no running program, and
//! shows users' data only where that is what was asked for.

use std::process::ExitCode;

use clap::Parser;

mod connection;
mod profiles;
mod report;
mod secrets;

mod commands;

use crate::commands::Command;
use crate::connection::Place;
use crate::report::{Failure, NotDone, Out};

const EXIT_CODES: &str = "\
Exit codes, for monitoring:
  0  done, and nothing to look after
  1  done, and something is to be looked after; the report says what
  2  not done: it could not be, was declined, or makes no sense

A password belongs into EMITTER_DATABASE, EMITTER_MQTT_URL or EMITTER_MQTT_PASSWORD, or into what the database's library reads \
(PGPASSFILE, ~/.pgpass): who is on this machine sees the arguments of a command. Of the application's other settings for MQTT these are \
read from the environment, too: EMITTER_MQTT_USERNAME, _PROTOCOL, _TLS_AUTHORITY, _TLS_IDENTITY.";

/// Looks after events: outbox, dead letters, what is on the way.
#[derive(Parser)]
#[command(name = "emitter", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    place: Place,

    /// Prints the report as JSON, of which there is a schema; or why there is none
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let Cli { mut place, json, command } = Cli::parse();
    let done = command.run(&mut place, Out { json });
    match done {
        Ok(verdict) => verdict.into(),
        Err(failure) => {
            let words = place.hide(&failure.to_string());
            eprintln!("emitter: {words}");
            if json && !matches!(failure, Failure::Output(_)) {
                // That this is not written either changes nothing.
                let _ = Out { json }.print(&NotDone { error: words });
            }
            failure.verdict().into()
        }
    }
}
