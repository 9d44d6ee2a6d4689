//! How the outbox stands, and an operator's hand on it.

use std::fmt;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use emitter_diesel::outbox::{Control, LaneState, OutboxState, RelayState};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::given_up::GivenUp;
use crate::connection::Place;
use crate::report::{self, Failure, Out, Plain, Verdict};

/// What is done with it.
#[derive(Subcommand)]
pub(crate) enum Outbox {
    /// Rows by status, the oldest one's age, lanes and relays
    Status(Status),
    /// Has nothing more published, nor handed to local listeners; writes go on, and wait
    Pause,
    /// Has them go on
    Resume,
    /// Waits until everything is published, and local listeners are done
    Drain(Drain),
    /// Rows that nobody tries any more
    #[command(subcommand)]
    GivenUp(GivenUp),
}

/// What counts as to be looked after.
#[derive(Args, Default)]
pub(crate) struct Status {
    /// Exit code 1 where the oldest row waits for longer, such as 5m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_age: Option<Duration>,

    /// Exit code 1 where more rows wait
    #[arg(long, value_name = "ROWS")]
    max_pending: Option<u64>,
}

/// How long is waited.
#[derive(Args)]
pub(crate) struct Drain {
    /// The longest time
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    within: Duration,
}

impl Outbox {
    pub(super) fn run(self, place: &Place, out: Out) -> Result<Verdict, Failure> {
        let open = || Ok::<_, Failure>(Control::open(&place.tables()?)?);
        match self {
            Self::Status(status) => {
                let report = Report::of(&mut open()?, &status)?;
                out.print(&report)?;
                Ok(Verdict::of(&report.findings))
            }
            Self::Pause => pause(&mut open()?, true, out),
            Self::Resume => pause(&mut open()?, false, out),
            Self::Drain(Drain { within }) => drain(&mut open()?, within, out),
            Self::GivenUp(given_up) => given_up.run(place, out),
        }
    }
}

/// How an outbox stands.
#[derive(Serialize)]
struct Report {
    pending: u64,
    waiting: u64,
    processing: u64,
    failed: u64,
    unreadable: u64,
    orphaned: u64,
    oldest_ms: Option<u64>,
    paused: bool,
    lanes: Vec<Lane>,
    relays: Vec<Relay>,
    findings: Vec<String>,
}

#[derive(Serialize)]
struct Lane {
    lane: u32,
    node: Option<String>,
    epoch: u64,
    paused: bool,
    lease_ms: Option<u64>,
}

#[derive(Serialize)]
struct Relay {
    node: String,
    takes_lanes: bool,
    lease_ms: u64,
}

impl From<LaneState> for Lane {
    fn from(state: LaneState) -> Self {
        let LaneState { lane, node, epoch, paused, lease, .. } = state;
        Self { lane, node, epoch, paused, lease_ms: lease.map(report::millis) }
    }
}

impl From<RelayState> for Relay {
    fn from(state: RelayState) -> Self {
        let RelayState { node, takes_lanes, lease, .. } = state;
        Self { node, takes_lanes, lease_ms: report::millis(lease) }
    }
}

impl Report {
    fn of(outbox: &mut Control, status: &Status) -> Result<Self, Failure> {
        let state = outbox.state()?;
        let lanes: Vec<Lane> = outbox.lanes()?.into_iter().map(Lane::from).collect();
        let relays: Vec<Relay> = outbox.relays()?.into_iter().map(Relay::from).collect();
        let OutboxState {
            pending, waiting, processing, failed, unreadable, orphaned, oldest, paused, ..
        } = state;
        let oldest_ms = oldest.map(report::millis);
        let findings = findings(&state, &relays, status);
        Ok(Self {
            pending,
            waiting,
            processing,
            failed,
            unreadable,
            orphaned,
            oldest_ms,
            paused,
            lanes,
            relays,
            findings,
        })
    }
}

/// What is to be looked after, whatever waits for however long.
pub(super) fn findings_now(outbox: &mut Control) -> Result<Vec<String>, Failure> {
    let relays: Vec<Relay> = outbox.relays()?.into_iter().map(Relay::from).collect();
    Ok(findings(&outbox.state()?, &relays, &Status::default()))
}

fn findings(state: &OutboxState, relays: &[Relay], status: &Status) -> Vec<String> {
    let to_do = state.pending + state.waiting;
    let given_up = state.given_up();
    let mut findings = Vec::new();
    if state.paused {
        findings.push(
            "it is paused, nothing is published or handed to listeners: `emitter outbox resume`".to_owned(),
        );
    } else if to_do > 0 && !relays.iter().any(|relay| relay.takes_lanes) {
        findings.push(format!("{to_do} rows wait, and no relay is there: does a node with this outbox run?"));
    }
    if given_up > 0 {
        findings.push(format!("{given_up} rows were given up: `emitter outbox given-up list` says why"));
    }
    if let (Some(oldest), Some(most)) = (state.oldest, status.max_age)
        && oldest > most
    {
        let oldest = report::age(report::millis(oldest));
        findings.push(format!("the oldest row has waited for {oldest}: is the broker there?"));
    }
    if status.max_pending.is_some_and(|most| to_do > most) {
        findings.push(format!("{to_do} rows wait: are relays slower than writers?"));
    }
    findings
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pending, waiting, processing, failed, unreadable, orphaned, .. } = self;
        writeln!(f, "pending     {pending}")?;
        writeln!(f, "waiting     {waiting}")?;
        writeln!(f, "processing  {processing}")?;
        writeln!(f, "given up    {failed} failed, {unreadable} unreadable, {orphaned} orphaned")?;
        writeln!(f, "oldest      {}", self.oldest_ms.map_or("-".to_owned(), report::age))?;
        writeln!(f, "paused      {}", if self.paused { "yes" } else { "no" })?;
        writeln!(f, "relays      {}", self.relays.len())?;
        for Relay { node, takes_lanes, lease_ms } in &self.relays {
            let ends = if *takes_lanes { "" } else { ", takes no lanes" };
            writeln!(f, "  {}  for {}{ends}", Plain(node), report::age(*lease_ms))?;
        }
        let owned = self.lanes.iter().filter(|lane| lane.node.is_some()).count();
        writeln!(f, "lanes       {} of {} owned", owned, self.lanes.len())?;
        for Lane { lane, node, epoch, paused, .. } in &self.lanes {
            let paused = if *paused { "  paused" } else { "" };
            writeln!(f, "  {lane:>3}  epoch {epoch}  {}{paused}", report::or_dash(node.as_deref()))?;
        }
        report::list(f, &self.findings)
    }
}

/// Whether nothing is published.
#[derive(Serialize)]
struct Paused {
    paused: bool,
    pending: u64,
}

impl fmt::Display for Paused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { paused, pending } = self;
        writeln!(f, "The outbox {}; {pending} rows wait.", if *paused { "is paused" } else { "goes on" })
    }
}

fn pause(outbox: &mut Control, pause: bool, out: Out) -> Result<Verdict, Failure> {
    if pause { outbox.pause() } else { outbox.resume() }?;
    let OutboxState { paused, pending, waiting, .. } = outbox.state()?;
    out.print(&Paused { paused, pending: pending + waiting })?;
    Ok(Verdict::Well)
}

/// What is left.
#[derive(Serialize)]
struct Drained {
    drained: bool,
    pending: u64,
    processing: u64,
    published: u64,
    ms: u64,
    findings: Vec<String>,
}

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { drained, pending, processing, ms, findings, .. } = self;
        let after = report::age(*ms);
        match drained {
            true => writeln!(f, "Everything was published and handled, after {after}.")?,
            false => writeln!(
                f,
                "{pending} rows still wait to be published, and {processing} for listeners, after {after}."
            )?,
        }
        report::list(f, findings)
    }
}

/// How often it is said how far it is.
const LOOK: Duration = Duration::from_millis(200);

fn drain(outbox: &mut Control, within: Duration, out: Out) -> Result<Verdict, Failure> {
    let begun = Instant::now();
    let to_publish = |state: &OutboxState| state.pending + state.waiting;
    let state = outbox.state()?;
    let (first, all) = (to_publish(&state), to_publish(&state) + state.processing);
    // To stderr, and only where that is a terminal.
    let progress = ProgressBar::new(all).with_style(
        ProgressStyle::with_template("{bar:40} {pos} of {len} done, {msg} wait, {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    loop {
        let drained = outbox.drain(LOOK.min(within.saturating_sub(begun.elapsed())))?;
        let state = outbox.state()?;
        let (pending, processing) = (to_publish(&state), state.processing);
        progress.set_position(all.saturating_sub(pending + processing));
        progress.set_message((pending + processing).to_string());
        if !drained && begun.elapsed() < within {
            continue;
        }
        progress.finish_and_clear();
        let relays: Vec<Relay> = outbox.relays()?.into_iter().map(Relay::from).collect();
        let findings = if drained { Vec::new() } else { findings(&state, &relays, &Status::default()) };
        let published = first.saturating_sub(pending);
        let ms = report::millis(begun.elapsed());
        out.print(&Drained { drained, pending, processing, published, ms, findings })?;
        return Ok(if drained { Verdict::Well } else { Verdict::Look });
    }
}
