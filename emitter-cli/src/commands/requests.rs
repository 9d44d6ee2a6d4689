//! What running nodes are asked to do, and how far they are.

use std::fmt;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use emitter_diesel::event::Timestamp;
use emitter_diesel::requests::{Progress, Request, RequestError, Requests as Book, Status, Work};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::connection::Place;
use crate::report::{self, Failure, Out, Plain, Verdict};

/// What is done with them.
#[derive(Subcommand)]
pub(crate) enum Requests {
    /// Lists them, the newest first
    List(List),
    /// Shows one
    Show(One),
    /// Waits until one is over
    Wait(Wait),
    /// Takes one back; listeners get done with what they were handed
    Cancel(One),
}

#[derive(Args)]
pub(crate) struct List {
    /// How many at most, 1 to 1000
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

#[derive(Args)]
pub(crate) struct One {
    id: i64,
}

#[derive(Args)]
pub(crate) struct Wait {
    id: i64,

    /// No longer than this; exit code 1 where it is not over then
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    within: Option<Duration>,
}

/// How nodes are asked.
#[derive(Args)]
#[command(next_help_heading = "How")]
pub(super) struct Asking {
    /// How many a second at most [default: as many as listeners take]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rate: Option<u32>,

    /// Counts what is meant, and asks nobody
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Does not wait until it is done: `emitter requests show ID` says how far it is
    #[arg(long, conflicts_with = "dry_run")]
    no_wait: bool,

    /// How long no node may have it, nor an earlier request of the service; then the request is taken back
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "30s")]
    patience: Duration,
}

/// A request as it stands.
#[derive(Serialize)]
struct Report {
    id: i64,
    service: String,
    /// `None` where another version of this program has asked it.
    work: Option<&'static str>,
    status: &'static str,
    asked_by: Option<String>,
    created_at: Timestamp,
    finished_at: Option<Timestamp>,
    node: Option<String>,
    /// Whether that node has said within its lease that it is there.
    attended: bool,
    total: Option<u64>,
    handled: u64,
    failed: u64,
    skipped: u64,
    unheard: u64,
    /// Where a replay would go on.
    cursor: Option<String>,
    problem: Option<String>,
    findings: Vec<String>,
}

impl From<Request> for Report {
    fn from(request: Request) -> Self {
        let findings = findings(&request);
        let Progress { total, handled, failed, skipped, unheard } = request.progress;
        Self {
            id: request.id,
            work: request.work.as_ref().ok().map(Work::name),
            status: request.status.as_str(),
            asked_by: request.asked_by,
            created_at: request.created_at,
            finished_at: request.finished_at,
            node: request.node,
            attended: request.is_attended,
            total,
            handled,
            failed,
            skipped,
            unheard,
            cursor: request.cursor.map(|cursor| cursor.to_string()),
            problem: request.problem,
            service: request.service,
            findings,
        }
    }
}

/// What of it is to be looked after.
fn findings(request: &Request) -> Vec<String> {
    let Progress { total, failed, skipped, unheard, .. } = request.progress;
    let mut findings = Vec::new();
    let id = request.id;
    let why = request.problem.as_deref().unwrap_or("nobody said why");
    match (request.status, &request.work) {
        (Status::Done, Ok(Work::Replay { .. })) if failed > 0 => {
            findings.push(format!("{failed} events could not be read: {why}"));
        }
        (Status::Done, Ok(Work::Redrive { .. })) => {
            if failed + skipped > 0 {
                findings.push(format!(
                    "{failed} letters failed again, and {skipped} come after one that failed: `emitter dlq list` says why"
                ));
            }
            if unheard > 0 {
                findings.push(format!(
                    "for {unheard} letters the node has no listener: is that of another program?"
                ));
            }
            let left = total.unwrap_or_default().saturating_sub(request.progress.done());
            if left > 0 {
                findings.push(format!("{left} letters were claimed by another redrive: ask again"));
            }
        }
        (Status::Failed, _) => findings.push(format!("it was not done: {why}")),
        (Status::Cancelled, _) => findings.push("it was taken back".to_owned()),
        (Status::UnderWay, _) if !request.is_attended => findings.push(format!(
            "its node says nothing any more: another one takes it over, or `emitter requests cancel {id}`"
        )),
        _ => {}
    }
    findings
}

impl Report {
    fn verdict(&self) -> Verdict {
        match self.status {
            "failed" | "cancelled" => Verdict::NotDone,
            _ => Verdict::of(&self.findings),
        }
    }

    fn line(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, service, work, status, created_at, handled, total, .. } = self;
        let of = total.map_or(String::new(), |total| format!(" of {total}"));
        let (node, service) = (report::or_dash(self.node.as_deref()), Plain(service));
        writeln!(f, "{id}  {created_at}  {}  {service}  {status}  {handled}{of}  {node}", work.unwrap_or("-"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, service, status, created_at, handled, failed, skipped, unheard, .. } = self;
        let dash = |text: &Option<String>| report::or_dash(text.as_deref()).to_string();
        writeln!(f, "request   {id}, {} for {}", self.work.unwrap_or("-"), Plain(service))?;
        writeln!(f, "asked     {created_at}, by {}", dash(&self.asked_by))?;
        writeln!(
            f,
            "status    {status}{}",
            self.finished_at.map_or(String::new(), |at| format!(", since {at}"))
        )?;
        writeln!(f, "node      {}", dash(&self.node))?;
        let total = self.total.map_or("-".to_owned(), |total| total.to_string());
        writeln!(
            f,
            "progress  {handled} of {total} handled, {failed} failed, {skipped} skipped, {unheard} unheard"
        )?;
        if self.cursor.is_some() {
            writeln!(f, "cursor    {}", dash(&self.cursor))?;
        }
        report::list(f, &self.findings)
    }
}

#[derive(Serialize)]
struct Reports {
    requests: Vec<Report>,
}

impl fmt::Display for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.requests.is_empty() {
            return writeln!(f, "Nothing was asked.");
        }
        self.requests.iter().try_for_each(|report| report.line(f))
    }
}

/// How much would be asked for.
#[derive(Serialize)]
pub(super) struct Meant {
    pub(super) meant: u64,
}

impl fmt::Display for Meant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} are meant; nobody was asked.", self.meant)
    }
}

impl Requests {
    pub(super) fn run(self, place: &Place, out: Out) -> Result<Verdict, Failure> {
        let requests = Book::open(&place.tables()?)?;
        match self {
            Self::List(List { limit }) => {
                let all = requests.list(limit.into())?;
                out.print(&Reports { requests: all.into_iter().map(Report::from).collect() })?;
                Ok(Verdict::Well)
            }
            Self::Show(One { id }) => print(requests.state(id)?, out),
            Self::Wait(Wait { id, within }) => {
                let request =
                    wait(&requests, id, |_, _, waited| within.is_some_and(|within| waited > within))?;
                let is_over = request.status.is_over();
                let verdict = print(request, out)?;
                Ok(if is_over { verdict } else { verdict.max(Verdict::Look) })
            }
            Self::Cancel(One { id }) => {
                if !requests.cancel(id)? {
                    let status = requests.state(id)?.status.as_str();
                    return Err(Failure::said(format!("the request {id} is {status} already")));
                }
                out.print(&Report::from(requests.state(id)?))?;
                Ok(Verdict::Well)
            }
        }
    }
}

fn print(request: Request, out: Out) -> Result<Verdict, Failure> {
    let report = Report::from(request);
    out.print(&report)?;
    Ok(report.verdict())
}

impl Asking {
    /// Asks, and waits until it is done.
    pub(super) fn ask(
        &self,
        place: &Place,
        service: &str,
        work: &Work,
        meant: impl FnOnce() -> Result<u64, Failure>,
        out: Out,
    ) -> Result<Verdict, Failure> {
        if self.dry_run {
            out.print(&Meant { meant: meant()? })?;
            return Ok(Verdict::Well);
        }
        let requests = Book::open(&place.tables()?)?;
        let user = std::env::var("USER").ok().filter(|user| !user.is_empty());
        let user = user.map(|user| user.chars().take(100).collect::<String>());
        let id = requests.ask(service, work, user.as_deref())?;
        let goes_on = |error: RequestError| {
            Failure::GoesOn(format!(
                "the request {id} goes on, see `emitter requests wait {id}`; but {error}"
            ))
        };
        if self.no_wait {
            return print(requests.state(id).map_err(goes_on)?, out);
        }
        eprintln!(
            "request {id} is asked: whatever becomes of this command, `emitter requests show {id}` says how far it is"
        );
        let (mut begun, mut idle) = (false, Instant::now());
        let request = wait(&requests, id, |request, is_idle, _| {
            begun |= request.is_attended;
            if !is_idle {
                idle = Instant::now();
            }
            idle.elapsed() > self.patience
        });
        let request = request.map_err(goes_on)?;
        // It may have been begun, or have come to its end, at the last moment.
        if !request.status.is_over() && requests.cancel(id).map_err(goes_on)? && !begun {
            return Err(Failure::said(format!(
                "no node of the service {service:?} began within {}: does one run that has an `Attendant` in these tables? The request \
                 {id} was taken back",
                humantime::format_duration(self.patience)
            )));
        }
        print(requests.state(id).map_err(goes_on)?, out)
    }
}

/// How often is looked.
const LOOK: Duration = Duration::from_millis(200);

/// Shows how far it is until it is over, or enough: which is told whether neither a node has it nor another one comes first,
/// and for how long it was waited.
fn wait(
    requests: &Book,
    id: i64,
    mut is_enough: impl FnMut(&Request, bool, Duration) -> bool,
) -> Result<Request, RequestError> {
    let (begun, mut told) = (Instant::now(), None);
    // To stderr, and only where that is a terminal.
    let progress = ProgressBar::new(0).with_style(
        ProgressStyle::with_template("{bar:40} {pos} of {len}, {msg}, {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    loop {
        let request = requests.state(id)?;
        progress.set_length(request.progress.total.unwrap_or_default());
        progress.set_position(request.progress.done());
        let is_waiting = !request.is_attended && !request.status.is_over();
        let first = if is_waiting { requests.ahead(id)? } else { None }.map(|first| first.id);
        progress.set_message(match (&request.node, first) {
            (_, Some(first)) => format!("the request {first} comes first"),
            (Some(node), None) if request.is_attended => Plain(node).to_string(),
            _ => "no node has it".to_owned(),
        });
        if let Some(first) = first.filter(|first| told != Some(*first)) {
            progress.suspend(|| eprintln!("the request {first} of the service comes first"));
            told = Some(first);
        }
        if request.status.is_over() || is_enough(&request, is_waiting && first.is_none(), begun.elapsed()) {
            progress.finish_and_clear();
            return Ok(request);
        }
        std::thread::sleep(LOOK);
    }
}
