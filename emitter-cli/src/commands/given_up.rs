//! Rows that the outbox has given up.

use std::fmt;

use clap::{Args, Subcommand, ValueEnum};
use emitter_diesel::outbox::{self, GivenUpEvent, GivenUpSelection, GivenUpStatus};
use serde::Serialize;

use super::discard::{self, Discarded};
use crate::connection::Place;
use crate::report::{self, Failure, Out, Plain, Verdict};

/// What is done with them.
#[derive(Subcommand)]
pub(crate) enum GivenUp {
    /// Lists them, oldest first
    List(List),
    /// Puts them back to work: what was not published is published, what listeners missed is handed to them
    Retry(Retry),
    /// Deletes them, after asking
    Discard(Discard),
}

/// Which of them.
#[derive(Args)]
pub(crate) struct Which {
    /// These, by their numbers
    #[arg(value_name = "ID")]
    ids: Vec<i64>,

    /// Given up like that
    #[arg(long)]
    status: Option<Status>,

    /// Of this model
    #[arg(long)]
    model: Option<String>,
}

#[derive(Args)]
pub(crate) struct List {
    #[command(flatten)]
    which: Which,

    /// Those behind this number
    #[arg(long, value_name = "ID")]
    after: Option<i64>,

    /// How many at most, 1 to 1000
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

#[derive(Args)]
pub(crate) struct Retry {
    #[command(flatten)]
    which: Which,

    /// All of them
    #[arg(long)]
    all: bool,

    /// The service whose listeners are handed what they missed
    #[arg(long)]
    service: String,
}

#[derive(Args)]
pub(crate) struct Discard {
    #[command(flatten)]
    which: Which,

    /// All of them
    #[arg(long)]
    all: bool,

    /// Does not ask
    #[arg(long)]
    yes: bool,
}

/// How an event was given up.
#[derive(Clone, Copy, ValueEnum)]
enum Status {
    /// The broker did not take it
    Failed,
    /// It is not as an outbox writes it
    Unreadable,
    /// No listener hears it
    Orphaned,
}

impl Which {
    fn selection(&self) -> GivenUpSelection {
        let status = self.status.map(|status| match status {
            Status::Failed => GivenUpStatus::Failed,
            Status::Unreadable => GivenUpStatus::Unreadable,
            Status::Orphaned => GivenUpStatus::Orphaned,
        });
        let ids = (!self.ids.is_empty()).then(|| self.ids.clone());
        GivenUpSelection { ids, status, model: self.model.clone() }
    }

    /// The same where something is said, or that all are meant.
    fn meant(&self, all: bool) -> Result<GivenUpSelection, Failure> {
        let selection = self.selection();
        if selection == GivenUpSelection::default() && !all {
            return Err(Failure::said("which? Give numbers, `--status`, `--model`, or `--all`"));
        }
        Ok(selection)
    }
}

impl GivenUp {
    pub(super) fn run(self, place: &Place, out: Out) -> Result<Verdict, Failure> {
        let open = |service: &str| Ok::<_, Failure>(outbox::GivenUp::open(&place.tables()?, service)?);
        match self {
            Self::List(List { which, after, limit }) => {
                let rows = open("")?.list(&which.selection(), after, limit.into())?;
                let report = Report { rows: rows.into_iter().map(Row::from).collect() };
                out.print(&report)?;
                Ok(if report.rows.is_empty() { Verdict::Well } else { Verdict::Look })
            }
            Self::Retry(Retry { which, all, service }) => {
                let retried = open(&service)?.redrive(&which.meant(all)?)?;
                out.print(&Retried { retried })?;
                Ok(Verdict::Well)
            }
            Self::Discard(Discard { which, all, yes }) => discard(&open("")?, &which.meant(all)?, yes, out),
        }
    }
}

fn discard(
    given_up: &outbox::GivenUp,
    selection: &GivenUpSelection,
    yes: bool,
    out: Out,
) -> Result<Verdict, Failure> {
    let discarded = if yes {
        given_up.discard(selection)?
    } else {
        let list = |after| {
            let rows = given_up.list(selection, after, discard::PAGE)?;
            Ok(rows.iter().map(|row| row.id).collect())
        };
        let of = |ids| GivenUpSelection { ids: Some(ids), ..selection.clone() };
        discard::agreed("rows that were given up", list, |ids| Ok(given_up.discard(&of(ids))?))?
    };
    out.print(&Discarded { discarded })?;
    Ok(Verdict::Well)
}

/// The list.
#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    id: i64,
    status: &'static str,
    event: Option<String>,
    model: String,
    key: Option<String>,
    topic: String,
    retries: u32,
    last_error: Option<String>,
}

impl From<GivenUpEvent> for Row {
    fn from(row: GivenUpEvent) -> Self {
        let GivenUpEvent { id, status, event, model, key, topic, retries, last_error, .. } = row;
        let status = match status {
            GivenUpStatus::Failed => "failed",
            GivenUpStatus::Unreadable => "unreadable",
            GivenUpStatus::Orphaned => "orphaned",
        };
        let event = event.map(|event| event.to_string());
        Self { id, status, event, model, key, topic, retries, last_error }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return writeln!(f, "Nothing was given up.");
        }
        for Row { id, status, event, model, key, retries, last_error, .. } in &self.rows {
            let (event, key) = (report::or_dash(event.as_deref()), report::or_dash(key.as_deref()));
            let why = report::or_dash(last_error.as_deref());
            writeln!(
                f,
                "{id}  {status}  {}  key {key}  event {event}  {retries} retries  {why}",
                Plain(model)
            )?;
        }
        Ok(())
    }
}

/// How many were put back to work.
#[derive(Serialize)]
struct Retried {
    retried: u64,
}

impl fmt::Display for Retried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} rows are put back to work.", self.retried)
    }
}
