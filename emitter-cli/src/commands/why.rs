//! What became of one event: what each listener did, or why it did not.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use clap::Args;
use emitter_diesel::EventId;
use emitter_diesel::announcement::Announcement;
use emitter_diesel::dead_letters::{DeadLetterBook, KeptLetter, Page, Selection};
use emitter_diesel::event::Timestamp;
use emitter_diesel::inbox;
use emitter_diesel::mirror::{self, Mirrored, MirroredEvent};
use emitter_diesel::outbox::{Control, Ledger, LedgerEntry, LedgerStatus, OutboxRow};
use emitter_diesel::untold::{self, EventFacts};
use serde::Serialize;

use super::listeners::announced;
use crate::connection::Place;
use crate::report::{self, Failure, Out, Plain, Verdict};

/// Of which event.
#[derive(Args)]
pub(crate) struct Why {
    /// The event's id, as in logs, `emitter tail` and `emitter dlq list`
    #[arg(value_name = "EVENT_ID")]
    event: EventId,
}

#[derive(Serialize)]
struct Report {
    event: String,
    outbox: Vec<Row>,
    mirror: Vec<Sight>,
    listeners: Vec<Listener>,
    /// Those that hear of the model, as nodes that are there now announce them, and of which nothing is written down here;
    /// `None` where no broker tells it.
    untold: Option<Vec<Untold>>,
    /// How many listeners more these nodes have, which they do not name.
    unnamed: u64,
    /// Why no broker tells it.
    unasked: Option<String>,
    /// Letters of no listener: it could not be read or published.
    letters: Vec<Letter>,
    findings: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    id: i64,
    status: String,
    meaning: &'static str,
    model: String,
    key: Option<String>,
    topic: String,
    retries: u32,
    last_error: Option<String>,
    written_at: Option<Timestamp>,
    done_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct Sight {
    topic: String,
    seen_at: Timestamp,
    kind: Option<String>,
    key: Option<String>,
    origin: Option<String>,
    trace_id: Option<String>,
}

/// All that is known of a listener and the event.
#[derive(Default, Serialize)]
struct Listener {
    service: String,
    listener: String,
    /// `retrying`, `handled`, `failed`; `None` where the ledger has nothing.
    status: Option<&'static str>,
    attempts: Option<u32>,
    last_error: Option<String>,
    next_attempt: Option<Timestamp>,
    /// When its effect was committed, of one with an inbox.
    effect_at: Option<Timestamp>,
    letters: Vec<Letter>,
}

/// A listener of which nothing is written down, and what that may mean.
#[derive(Serialize)]
struct Untold {
    node: String,
    listener: String,
    group: Option<String>,
    meaning: &'static str,
}

#[derive(Serialize)]
struct Letter {
    id: i64,
    reason: Option<&'static str>,
    failure_reason: String,
    attempts: u32,
    node: String,
    created_at: Timestamp,
}

impl Why {
    pub(super) fn run(&self, place: &Place, out: Out) -> Result<Verdict, Failure> {
        let (tables, event) = (place.tables()?, self.event);
        let rows = Control::open(&tables)?.find(event)?;
        let ledger = Ledger::open(&tables)?.event(event)?;
        let marks = inbox::marks_of(&tables, event)?;
        let selection = Selection { event: Some(event), ..Selection::default() };
        let page = Page { limit: 1_000, ..Page::default() };
        let letters = DeadLetterBook::open(&tables)?.list(&selection, page)?;
        let selection = mirror::Selection { event_id: Some(event), ..mirror::Selection::default() };
        let seen = Mirrored::open(&tables).and_then(|mut mirror| mirror.read(&selection));
        let seen = seen.map_err(|error| error.to_string())?.events;

        let mut listeners = Listeners::default();
        ledger.into_iter().for_each(|entry| listeners.account(entry));
        for inbox::Mark { service, listener, claimed_at, .. } in marks {
            listeners.of(&service, &listener).effect_at = Some(claimed_at);
        }
        let (of_listeners, others): (Vec<_>, Vec<_>) =
            letters.iter().partition(|letter| letter.listener.is_some());
        for letter in of_listeners {
            let listener = letter.listener.as_deref().unwrap_or_default();
            listeners.of(&letter.service, listener).letters.push(Letter::of(letter));
        }
        let nodes = match EventFacts::of(event, &rows, &seen) {
            Some(facts) => announced_to(place).map(|nodes| (facts, nodes)),
            None => Err("nothing here tells the event's model".to_owned()),
        };
        let (untold, unnamed, unasked) = match nodes {
            Ok((facts, nodes)) => {
                let untold = facts.untold(&nodes, |service, listener| listeners.knows(service, listener));
                let online = nodes.iter().filter(|node| node.is_online());
                let unnamed = online.fold(0, |sum: u64, node| sum.saturating_add(node.more));
                (Some(untold.into_iter().map(Untold::of).collect()), unnamed, None)
            }
            Err(why) => (None, 0, Some(why)),
        };
        let mut report = Report {
            event: event.to_string(),
            outbox: rows.into_iter().map(Row::of).collect(),
            mirror: seen.into_iter().map(Sight::of).collect(),
            listeners: listeners.0.into_values().collect(),
            untold,
            unnamed,
            unasked,
            letters: others.into_iter().map(Letter::of).collect(),
            findings: Vec::new(),
        };
        report.findings = report.findings();
        out.print(&report)?;
        Ok(Verdict::of(&report.findings))
    }
}

/// How long a broker may take to tell who is there.
const PATIENCE: Duration = Duration::from_secs(5);

/// What nodes announce, or why that is not known.
fn announced_to(place: &Place) -> Result<Vec<Announcement>, String> {
    if !place.said().1 {
        return Err("a broker tells, `--mqtt URL`".to_owned());
    }
    announced(place, PATIENCE).map_err(|failure| place.hide(&failure.to_string()))
}

/// Listeners by service and name.
#[derive(Default)]
struct Listeners(BTreeMap<(String, String), Listener>);

impl Listeners {
    fn knows(&self, service: &str, listener: &str) -> bool {
        self.0.contains_key(&(service.to_owned(), listener.to_owned()))
    }

    fn of(&mut self, service: &str, listener: &str) -> &mut Listener {
        let (service, listener) = (service.to_owned(), listener.to_owned());
        let new = Listener { service: service.clone(), listener: listener.clone(), ..Listener::default() };
        self.0.entry((service, listener)).or_insert(new)
    }

    fn account(&mut self, entry: LedgerEntry) {
        let found = self.of(&entry.service, &entry.listener);
        found.status = Some(match entry.status {
            LedgerStatus::Retrying => "retrying",
            LedgerStatus::Handled => "handled",
            LedgerStatus::Failed => "failed",
        });
        found.attempts = Some(entry.attempts);
        found.last_error = entry.last_error;
        found.next_attempt = entry.next_attempt;
    }
}

impl Untold {
    fn of(one: untold::Untold) -> Self {
        let untold::Untold { service, node, listener, group, meaning, .. } = one;
        Self { node: format!("{service}/{node}"), listener, group, meaning }
    }
}

impl Row {
    fn of(row: OutboxRow) -> Self {
        let OutboxRow { id, status, model, key, topic, retries, last_error, written_at, done_at, .. } = row;
        let meaning = match &*status {
            "PENDING" => "it is to be published",
            "WAITING" => "it was refused, and waits for its next attempt",
            "PROCESSING" => {
                "it is published, or not to be; listeners of the node that wrote are not done with it"
            }
            "COMPLETED" => "it is done: published, or not to be, and handled where it was written",
            "FAILED" => {
                "the broker did not take it, and nobody tries it any more: `emitter outbox given-up retry`"
            }
            "UNREADABLE" => "no program could read it: `emitter outbox given-up list`",
            "ORPHANED" => {
                "no listener of the node that took it over hears it: `emitter outbox given-up list`"
            }
            _ => "nothing that this program knows",
        };
        Self { id, status, meaning, model, key, topic, retries, last_error, written_at, done_at }
    }
}

impl Sight {
    fn of(event: MirroredEvent) -> Self {
        let MirroredEvent { topic, created_at, kind, key, service, node, trace_id, .. } = event;
        let origin = service.zip(node).map(|(service, node)| format!("{service}/{node}"));
        Self { topic, seen_at: created_at, kind, key, origin, trace_id: trace_id.map(|id| id.to_string()) }
    }
}

impl Letter {
    fn of(letter: &KeptLetter) -> Self {
        Self {
            id: letter.id,
            reason: letter.reason.map(emitter_diesel::dead_letter::Reason::as_str),
            failure_reason: letter.failure_reason.clone(),
            attempts: letter.attempts,
            node: format!("{}/{}", letter.service, letter.node),
            created_at: letter.created_at,
        }
    }
}

impl Report {
    fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        if self.outbox.is_empty()
            && self.mirror.is_empty()
            && self.listeners.is_empty()
            && self.letters.is_empty()
        {
            findings.push(
                "this database knows nothing of it: it was buffered and went well, was cleared away, or belongs to another database"
                    .to_owned(),
            );
        }
        for Row { status, meaning, .. } in &self.outbox {
            if matches!(&**status, "FAILED" | "UNREADABLE" | "ORPHANED" | "WAITING") {
                findings.push(format!("the outbox: {meaning}"));
            }
        }
        for Letter { id, failure_reason, .. } in &self.letters {
            findings.push(format!("dead letter {id}: {failure_reason}"));
        }
        for found in &self.listeners {
            let name = format!("{} of {}", found.listener, found.service);
            findings.extend(found.letters.iter().map(|letter| {
                format!("{name} did not handle it, dead letter {}: {}", letter.id, letter.failure_reason)
            }));
            if found.status == Some("retrying") {
                let why = found.last_error.as_deref().unwrap_or("-");
                findings.push(format!("{name} failed, and is called again: {why}"));
            }
            if found.status == Some("failed") && found.letters.is_empty() {
                findings.push(format!(
                    "{name} failed in all its attempts, and its dead letter is gone: redriven or discarded"
                ));
            }
        }
        findings
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: &Option<Timestamp>| time.map_or("-".to_owned(), |time| time.to_string());
        writeln!(f, "event {}", self.event)?;
        for row in &self.outbox {
            let (model, key) = (Plain(&row.model), report::or_dash(row.key.as_deref()));
            writeln!(
                f,
                "outbox    row {}, {model}, key {key}, written {}, done {}",
                row.id,
                time(&row.written_at),
                time(&row.done_at)
            )?;
            writeln!(f, "          {}: {}", Plain(&row.status), row.meaning)?;
            if let Some(error) = &row.last_error {
                writeln!(f, "          {} retries, last: {}", row.retries, Plain(error))?;
            }
        }
        for sight in &self.mirror {
            let origin = report::or_dash(sight.origin.as_deref());
            writeln!(f, "mirror    seen {} on {}, from {origin}", sight.seen_at, Plain(&sight.topic))?;
        }
        for found in &self.listeners {
            write!(f, "listener  {} of {}:", Plain(&found.listener), Plain(&found.service))?;
            if let (Some(status), Some(attempts)) = (found.status, found.attempts) {
                write!(f, " {status} after {attempts} attempts,")?;
            }
            if found.next_attempt.is_some() {
                write!(f, " called again {},", time(&found.next_attempt))?;
            }
            if found.effect_at.is_some() {
                write!(f, " had its effect {},", time(&found.effect_at))?;
            }
            writeln!(f, " {} dead letters", found.letters.len())?;
        }
        for Untold { node, listener, meaning, .. } in self.untold.iter().flatten() {
            writeln!(f, "untold    {} of {}: {meaning}", Plain(listener), Plain(node))?;
        }
        report::list(f, &self.findings)?;
        writeln!(
            f,
            "Listeners that handled it at once leave no trace but an inbox's mark; other databases know what theirs did."
        )?;
        if self.unnamed > 0 {
            writeln!(f, "These nodes have {} listeners more, which they do not name.", self.unnamed)?;
        }
        match &self.unasked {
            None => Ok(()),
            Some(why) => writeln!(f, "Which listeners there are is not known: {}.", Plain(why)),
        }
    }
}
