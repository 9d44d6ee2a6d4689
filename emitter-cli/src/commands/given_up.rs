//! Rows that the outbox has given up.

use std::fmt;
use std::io::IsTerminal;

use clap::{Args, Subcommand, ValueEnum};
use emitter_diesel::event::Timestamp;
use emitter_diesel::outbox::{self, GivenUpEvent, GivenUpSelection, GivenUpStatus};
use serde::Serialize;

use super::discard::{self, Discarded};
use super::dlq;
use super::requests::Meant;
use crate::connection::Place;
use crate::report::{self, Failure, Out, Plain, Verdict};

/// What is done with them.
#[derive(Subcommand)]
pub(crate) enum GivenUp {
    /// Lists them, oldest first, without their events
    List(List),
    /// Shows one, with its event: that is users' data
    Show(Show),
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

    /// Of the row with this key
    #[arg(long)]
    key: Option<String>,

    /// The topic, in which * stands for anything
    #[arg(long)]
    topic: Option<String>,

    /// A text in the error, in which * stands for anything
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,

    /// Written down since then: a time such as 2026-11-21T00:42:25.735Z, or how long ago, such as 24h
    #[arg(long, value_name = "TIME", value_parser = dlq::time)]
    since: Option<Timestamp>,

    /// Written down before then
    #[arg(long, value_name = "TIME", value_parser = dlq::time)]
    until: Option<Timestamp>,
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
pub(crate) struct Show {
    id: i64,

    /// The event alone, as it is to travel; on a terminal only where it is nothing but text
    #[arg(long, conflicts_with = "json")]
    payload: bool,
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

    /// Counts what is meant, and touches nothing
    #[arg(long)]
    dry_run: bool,
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
        let Self { model, key, topic, error, since, until, .. } = self;
        let [model, key, topic, error] = [model, key, topic, error].map(Clone::clone);
        GivenUpSelection { ids, status, model, key, topic, error, since: *since, until: *until }
    }

    /// The same where something is said, or that all are meant.
    fn meant(&self, all: bool) -> Result<GivenUpSelection, Failure> {
        let selection = self.selection();
        if selection == GivenUpSelection::default() && !all {
            return Err(Failure::said("which? Give numbers, what they have in common, or `--all`"));
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
            Self::Show(Show { id, payload }) => show(&open("")?, id, payload, out),
            Self::Retry(Retry { which, all, service, dry_run }) => {
                let (given_up, rows) = (open(&service)?, which.meant(all)?);
                if dry_run {
                    let meant = given_up.count(&rows)?.into_iter().map(|(_, rows)| rows).sum();
                    out.print(&Meant { meant })?;
                } else {
                    out.print(&Retried { retried: given_up.redrive(&rows)? })?;
                }
                Ok(Verdict::Well)
            }
            Self::Discard(Discard { which, all, yes }) => discard(&open("")?, &which.meant(all)?, yes, out),
        }
    }
}

fn show(given_up: &outbox::GivenUp, id: i64, payload: bool, out: Out) -> Result<Verdict, Failure> {
    let row = given_up.show(id)?.ok_or_else(|| format!("no row {id} was given up"))?;
    let event = row.payload.clone().unwrap_or_default();
    if !payload {
        out.print(&Whole { row: Row::from(row), payload: event })?;
    } else if std::io::stdout().is_terminal() && !dlq::is_harmless(event.as_bytes()) {
        return Err(Failure::said(format!(
            "the event holds what a terminal takes for orders: write it into a file (`> FILE`), or see it with \
             `emitter outbox given-up show {id}`"
        )));
    } else {
        out.write(event.as_bytes())?;
    }
    Ok(Verdict::Well)
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
    written_at: Option<Timestamp>,
    given_up_at: Option<Timestamp>,
}

/// A row with its event.
#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    row: Row,
    payload: String,
}

impl From<GivenUpEvent> for Row {
    fn from(row: GivenUpEvent) -> Self {
        let GivenUpEvent { id, status, event, model, key, topic, retries, last_error, .. } = row;
        let GivenUpEvent { written_at, given_up_at, .. } = row;
        let status = match status {
            GivenUpStatus::Failed => "failed",
            GivenUpStatus::Unreadable => "unreadable",
            GivenUpStatus::Orphaned => "orphaned",
        };
        let event = event.map(|event| event.to_string());
        Self { id, status, event, model, key, topic, retries, last_error, written_at, given_up_at }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return writeln!(f, "Nothing was given up.");
        }
        for Row { id, status, event, model, key, retries, last_error, written_at, .. } in &self.rows {
            let written = written_at.map(|time| format!("{time}  ")).unwrap_or_default();
            let (event, key) = (report::or_dash(event.as_deref()), report::or_dash(key.as_deref()));
            let why = report::or_dash(last_error.as_deref());
            writeln!(
                f,
                "{id}  {written}{status}  {}  key {key}  event {event}  {retries} retries  {why}",
                Plain(model)
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { id, status, model, topic, retries, written_at, given_up_at, .. } = &self.row;
        let dash = |text: &Option<String>| report::or_dash(text.as_deref()).to_string();
        let time = |time: &Option<Timestamp>| time.map_or_else(|| "-".to_owned(), |time| time.to_string());
        writeln!(f, "row       {id}, {status}, after {retries} retries")?;
        writeln!(f, "times     written down {}, given up {}", time(written_at), time(given_up_at))?;
        writeln!(f, "error     {}", dash(&self.row.last_error))?;
        writeln!(f, "topic     {}", Plain(topic))?;
        writeln!(f, "model     {}, key {}", Plain(model), dash(&self.row.key))?;
        writeln!(f, "event     {}", dash(&self.row.event))?;
        writeln!(f, "payload   {} bytes\n{}", self.payload.len(), Plain(&self.payload))
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
