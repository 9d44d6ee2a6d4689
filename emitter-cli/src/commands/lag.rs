//! How far everything is behind.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use clap::Args;
use emitter_diesel::mirror::{MirrorState, MirrorWriter, Mirrored};
use emitter_diesel::outbox::{Behind, Control};
use serde::Serialize;

use crate::connection::Place;
use crate::report::{self, Failure, Out, Plain, Verdict};

/// What counts as too far.
#[derive(Args)]
pub(crate) struct Lag {
    /// Exit code 1 where the outbox's oldest row waits for longer, such as 30s
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_age: Option<Duration>,

    /// Exit code 1 where a node is further behind in a model
    #[arg(long, value_name = "EVENTS")]
    max_behind: Option<u64>,
}

#[derive(Serialize)]
struct Report {
    outbox: Outbox,
    mirror: Mirror,
    nodes: Vec<Node>,
    findings: Vec<String>,
}

#[derive(Serialize)]
struct Outbox {
    pending: u64,
    oldest_ms: Option<u64>,
}

#[derive(Serialize)]
struct Mirror {
    newest_ms: Option<u64>,
    writers: Vec<Writer>,
}

#[derive(Serialize)]
struct Writer {
    name: String,
    node: Option<String>,
}

/// A node that remembers how far it is, in one model of one outbox.
#[derive(Serialize)]
struct Node {
    node: String,
    outbox: String,
    model: String,
    lanes: u64,
    /// `None` where the outbox is in another database.
    behind: Option<u64>,
}

impl Lag {
    pub(super) fn run(&self, place: &Place, out: Out) -> Result<Verdict, Failure> {
        let tables = place.tables()?;
        let mut control = Control::open(&tables)?;
        let state = control.state()?;
        let outbox =
            Outbox { pending: state.pending + state.waiting, oldest_ms: state.oldest.map(report::millis) };
        let mirror = Mirrored::open(&tables).and_then(|mut mirror| mirror.state());
        let mirror = Mirror::from(mirror.map_err(|error| error.to_string())?);
        let nodes = by_model(control.behind()?);
        let findings = self.findings(&outbox, &mirror, &nodes);
        let report = Report { outbox, mirror, nodes, findings };
        out.print(&report)?;
        Ok(Verdict::of(&report.findings))
    }

    fn findings(&self, outbox: &Outbox, mirror: &Mirror, nodes: &[Node]) -> Vec<String> {
        let mut findings = Vec::new();
        if let (Some(oldest), Some(most)) = (outbox.oldest_ms, self.max_age)
            && oldest > report::millis(most)
        {
            findings.push(format!("the outbox's oldest row has waited for {}", report::age(oldest)));
        }
        for Writer { name, .. } in mirror.writers.iter().filter(|writer| writer.node.is_none()) {
            findings.push(format!("nobody writes the mirror `{name}`: does a node with it run?"));
        }
        for Node { node, model, behind, .. } in nodes {
            if let (Some(behind), Some(most)) = (behind, self.max_behind)
                && *behind > most
            {
                findings.push(format!("{node} is {behind} events of {model} behind: does it run?"));
            }
        }
        findings
    }
}

impl From<MirrorState> for Mirror {
    fn from(state: MirrorState) -> Self {
        let writer = |MirrorWriter { name, node, .. }| Writer { name, node };
        Self {
            newest_ms: state.newest.map(report::millis),
            writers: state.writers.into_iter().map(writer).collect(),
        }
    }
}

/// The lanes of a model together.
fn by_model(lanes: Vec<Behind>) -> Vec<Node> {
    let mut models = BTreeMap::<_, (u64, Option<u64>)>::new();
    for Behind { node, outbox, model, numbers, .. } in lanes {
        let sum = models.entry((node, outbox, model)).or_insert((0, None));
        sum.0 += 1;
        sum.1 = numbers.map(|numbers| sum.1.unwrap_or_default() + numbers);
    }
    let node = |((node, outbox, model), (lanes, behind))| Node { node, outbox, model, lanes, behind };
    models.into_iter().map(node).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outbox { pending, oldest_ms } = &self.outbox;
        writeln!(
            f,
            "outbox  {pending} rows wait, the oldest for {}",
            oldest_ms.map_or("-".to_owned(), report::age)
        )?;
        writeln!(
            f,
            "mirror  last written to {} ago",
            self.mirror.newest_ms.map_or("-".to_owned(), report::age)
        )?;
        for Writer { name, node } in &self.mirror.writers {
            writeln!(f, "  {}  written by {}", Plain(name), report::or_dash(node.as_deref()))?;
        }
        writeln!(f, "nodes   {}", if self.nodes.is_empty() { "none remembers how far it is" } else { "" })?;
        for Node { node, outbox, model, behind, .. } in &self.nodes {
            let behind = behind.map_or("of another database".to_owned(), |behind| format!("{behind} behind"));
            writeln!(f, "  {}  {} of {}  {behind}", Plain(node), Plain(model), Plain(outbox))?;
        }
        report::list(f, &self.findings)
    }
}
