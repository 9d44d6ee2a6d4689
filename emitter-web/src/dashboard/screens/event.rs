//! One event: what travelled, what it changed, and what became of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use emitter_core::EventId;
use emitter_core::announcement::Announcement;
use emitter_core::event::Timestamp;
use emitter_diesel::dead_letters::{KeptLetter, Page};
use emitter_diesel::inbox::Mark;
use emitter_diesel::mirror::{MirroredEvent, Selection};
use emitter_diesel::outbox::{LedgerEntry, LedgerStatus, OutboxRow};
use emitter_diesel::untold::{EventFacts, Untold};
use maud::{Markup, html};
use serde_json::Value;

use crate::dashboard::access::Guest;
use crate::dashboard::chosen::Chosen;
use crate::dashboard::desk::{Drawer, said};
use crate::dashboard::envelope::{self, Change, Shown};
use crate::dashboard::query::Pairs;
use crate::dashboard::{Shared, actions, frame};

/// So many others of its key are shown before it and after it, and so many of its trace.
const MOST: usize = 20;

/// So many listeners are named of which nothing is written down.
const MOST_UNTOLD: usize = 100;

/// All that the tables know of an event.
#[derive(Default)]
struct Told {
    seen: Option<MirroredEvent>,
    rows: Vec<OutboxRow>,
    ledger: Vec<LedgerEntry>,
    marks: Vec<Mark>,
    letters: Vec<KeptLetter>,
    /// Its text, from wherever it is kept.
    text: Option<String>,
    of_key: Vec<MirroredEvent>,
    of_trace: Vec<MirroredEvent>,
}

pub(crate) async fn find(guest: Guest, pairs: Pairs) -> Response {
    if let Some(id) = pairs.get("id") {
        return match id.parse::<EventId>() {
            Ok(id) => Redirect::to(&format!("{}/event/{id}", guest.base)).into_response(),
            Err(_) => actions::refused(
                &guest,
                "An event's id is a UUID, such as 0193ac5e-….  It is in logs, and in lists here.",
            ),
        };
    }
    let content = html! {
        (search(&guest))
        (frame::nothing("What travelled, what it changed, and what each listener did with it. Ids are in logs, live, and in lists here."))
    };
    frame::page(&guest, "/event", "Event", false, &content).into_response()
}

fn search(guest: &Guest) -> Markup {
    html! {
        form .bar method="get" action={ (guest.base) "/event" } role="search" {
            label { "Event id" input .id name="id" size="38" required autocomplete="off" data-search; }
            button type="submit" { "Find" }
        }
    }
}

pub(crate) async fn draw(
    State(shared): State<Arc<Shared>>,
    guest: Guest,
    Path(id): Path<String>,
) -> Response {
    let Ok(id) = id.parse::<EventId>() else { return actions::refused(&guest, "An event's id is a UUID.") };
    let told = shared.desk.ask(move |drawer| Told::of(drawer, id)).await;
    let content = html! {
        (search(&guest))
        @match &told {
            Ok(told) => (all(&guest, id, told, &shared.emitter.nodes())),
            Err(why) if shared.desk.is_there() => (frame::trouble(why)),
            Err(why) => (frame::nothing(why)),
        }
    };
    let refreshes = told.is_ok_and(|told| told.is_under_way());
    frame::page(&guest, "/event", &format!("Event {id}"), refreshes, &content).into_response()
}

impl Told {
    fn of(drawer: &mut Drawer, id: EventId) -> Result<Self, String> {
        let mut told = Self {
            rows: drawer.control()?.find(id).map_err(said)?,
            ledger: drawer.ledger()?.event(id).map_err(said)?,
            marks: drawer.marks(id)?,
            ..Self::default()
        };
        let book = drawer.letters()?;
        told.letters = book.list(&Chosen::event(id).selection, Page::default()).map_err(said)?;
        let kept = told.letters.first().map(|letter| book.show(letter.id)).transpose().map_err(said)?;
        let mirror = drawer.mirror()?;
        let one = Selection { event_id: Some(id), limit: 1, ..Selection::default() };
        told.seen = mirror.read(&one).map_err(said)?.events.pop();
        if let Some(seen) = &told.seen {
            told.of_key = neighbours(drawer, seen)?;
            let trace = Selection { trace_id: seen.trace_id, limit: MOST, ..Selection::default() };
            if seen.trace_id.is_some() {
                told.of_trace = drawer.mirror()?.read(&trace).map_err(said)?.events;
            }
        }
        let of_letter = kept.and_then(|letter| String::from_utf8(letter.payload?).ok());
        let of_row = || told.rows.iter().find_map(|row| row.payload.clone());
        told.text = told.seen.as_ref().map(|seen| seen.payload.clone()).or(of_letter).or_else(of_row);
        Ok(told)
    }

    /// Whether there is soon more to tell.
    fn is_under_way(&self) -> bool {
        let is_done =
            |row: &OutboxRow| matches!(&*row.status, "COMPLETED" | "FAILED" | "UNREADABLE" | "ORPHANED");
        let is_called_again = |entry: &LedgerEntry| entry.status == LedgerStatus::Retrying;
        // A mirror writes it down a moment after it was published.
        self.seen.is_none() || !self.rows.iter().all(is_done) || self.ledger.iter().any(is_called_again)
    }

    fn is_empty(&self) -> bool {
        self.seen.is_none()
            && self.rows.is_empty()
            && self.ledger.is_empty()
            && self.marks.is_empty()
            && self.letters.is_empty()
    }
}

/// The events of the same key around this one: the last before it, and the next behind it.
fn neighbours(drawer: &mut Drawer, seen: &MirroredEvent) -> Result<Vec<MirroredEvent>, String> {
    let (Some(model), Some(key)) = (&seen.model, &seen.key) else { return Ok(Vec::new()) };
    let of_key =
        Selection { model: Some(model.clone()), key: Some(key.clone()), limit: MOST, ..Selection::default() };
    let mirror = drawer.mirror()?;
    let mut all = mirror.before(&of_key, seen.cursor).map_err(said)?;
    all.push(seen.clone());
    let behind = Selection { after: Some(seen.cursor), ..of_key };
    all.extend(mirror.read(&behind).map_err(said)?.events);
    Ok(all)
}

fn all(guest: &Guest, id: EventId, told: &Told, nodes: &[Announcement]) -> Markup {
    if told.is_empty() {
        return frame::nothing(
            "This database knows nothing of it: it was buffered and went well, was cleared away, or belongs to another database.",
        );
    }
    let changes = told.text.as_deref().map(envelope::changes).unwrap_or_default();
    html! {
        (facts(told))
        @if !changes.is_empty() { (frame::section("What it changed", &html! { @for change in &changes { (diff(change)) } })) }
        (frame::section("Listeners", &html! { (listeners(told)) (untold(id, told, nodes)) }))
        @if !told.rows.is_empty() { (frame::section("Outbox", &rows(&told.rows))) }
        @if !told.letters.is_empty() {
            (frame::section("Dead letters", &super::letters::list(guest, &told.letters)))
        }
        (frame::section("Trace", &trace(guest, id, told)))
        (frame::section("The same key", &same_key(guest, id, told)))
        @if let Some(text) = &told.text { (frame::section("Envelope", &html! { pre .envelope { (envelope::indented(text)) } (properties(told)) })) }
    }
}

fn facts(told: &Told) -> Markup {
    let (seen, row) = (told.seen.as_ref(), told.rows.first());
    let topic = seen.map(|seen| &seen.topic).or(row.map(|row| &row.topic));
    let model = seen.and_then(|seen| seen.model.as_ref()).or(row.map(|row| &row.model));
    let key = seen.and_then(|seen| seen.key.as_ref()).or(row.and_then(|row| row.key.as_ref()));
    html! {
        dl .facts {
            @if let Some(kind) = seen.and_then(|seen| seen.kind.as_ref()) { dt { "Kind" } dd { (kind) } }
            @if let Some(model) = model { dt { "Model" } dd { (model) } }
            @if let Some(key) = key { dt { "Key" } dd { (key) } }
            @if let Some(topic) = topic { dt { "Topic" } dd { (topic) } }
            @if let Some((service, node)) = seen.and_then(|seen| seen.service.as_ref().zip(seen.node.as_ref())) { dt { "Written by" } dd { (service) "/" (node) } }
            @if let Some(seen) = seen { dt { "Seen on the bus" } dd { (frame::moment(seen.created_at)) } }
            @else { dt { "Seen on the bus" } dd { "not in a mirror of this database" } }
        }
    }
}

fn diff(change: &Change) -> Markup {
    let value = |shown: &Option<Shown>| {
        html! {
            @match shown {
                Some(Shown::Value(text)) => span .value { (text) },
                Some(Shown::Redacted) => (frame::pill("", "redacted")),
                Some(Shown::Hashed(hash)) => { (frame::pill("", "hashed")) " " span .id { (hash) "…" } },
                None => span .note { "–" },
            }
        }
    };
    let rows: Vec<_> = change
        .columns
        .iter()
        .map(|column| {
            html! {
                tr .changed[column.changed] {
                    th scope="row" { (column.name) @if column.changed { span .note { " changed" } } }
                    td .before { (value(&column.before)) }
                    td .after { (value(&column.after)) }
                }
            }
        })
        .collect();
    frame::table(&["Column", "Before", "After"], &rows)
}

/// What is known of a listener and the event.
#[derive(Default)]
struct Listener<'a> {
    entry: Option<&'a LedgerEntry>,
    mark: Option<&'a Mark>,
    letters: Vec<&'a KeptLetter>,
}

fn listeners(told: &Told) -> Markup {
    let mut all = BTreeMap::<(&str, &str), Listener<'_>>::new();
    for entry in &told.ledger {
        all.entry((&entry.service, &entry.listener)).or_default().entry = Some(entry);
    }
    for mark in &told.marks {
        all.entry((&mark.service, &mark.listener)).or_default().mark = Some(mark);
    }
    for letter in &told.letters {
        if let Some(listener) = &letter.listener {
            all.entry((&letter.service, listener)).or_default().letters.push(letter);
        }
    }
    let row = |((service, name), found): (&(&str, &str), &Listener<'_>)| {
        let (kind, word) = match found.entry.map(|entry| entry.status) {
            _ if !found.letters.is_empty() => ("bad", "dead letter"),
            Some(LedgerStatus::Retrying) => ("warn", "is called again"),
            Some(LedgerStatus::Failed) => ("bad", "failed"),
            Some(LedgerStatus::Handled) => ("good", "handled"),
            None => ("good", "had its effect"),
        };
        let attempts =
            found.entry.map(|entry| entry.attempts).or(found.letters.first().map(|letter| letter.attempts));
        let error = found.entry.and_then(|entry| entry.last_error.as_deref());
        let error = error.or(found.letters.first().map(|letter| &*letter.failure_reason));
        html! {
            tr {
                td { strong { (name) } span .note { " of " (service) } }
                td { (frame::pill(kind, word)) }
                td .number { (attempts.map_or("–".to_owned(), |attempts| attempts.to_string())) }
                td { @match found.entry.and_then(|entry| entry.next_attempt) { Some(next) => (frame::moment(next)), None => "–" } }
                td { @match found.mark { Some(mark) => (frame::moment(mark.claimed_at)), None => "–" } }
                td .text { (error.unwrap_or("–")) }
            }
        }
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    html! {
        @if !rows.is_empty() { (frame::table(&["Listener", "State", "Attempts", "Called again", "Effect committed", "Error"], &rows)) }
        p .note { "A listener that handled it at once leaves no trace but an inbox's mark; other databases know what theirs did." }
    }
}

/// The listeners of which nothing is written down, as their nodes announce them.
fn untold(id: EventId, told: &Told, nodes: &[Announcement]) -> Markup {
    let Some(facts) = EventFacts::of(id, &told.rows, told.seen.as_slice()) else { return html! {} };
    let is_told = |service: &str, listener: &str| {
        let of_letter =
            |letter: &KeptLetter| letter.listener.as_deref() == Some(listener) && letter.service == service;
        told.ledger.iter().any(|entry| entry.service == service && entry.listener == listener)
            || told.marks.iter().any(|mark| mark.service == service && mark.listener == listener)
            || told.letters.iter().any(of_letter)
    };
    let untold = facts.untold(nodes, is_told);
    let unnamed =
        nodes.iter().filter(|node| node.is_online()).fold(0, |sum: u64, node| sum.saturating_add(node.more));
    let row = |one: &Untold| {
        html! {
            tr {
                td { strong { (one.listener) } span .note { " of " (one.service) "/" (one.node) } }
                td { (one.group.as_deref().unwrap_or("–")) }
                td .text { (one.meaning) }
            }
        }
    };
    let rows: Vec<_> = untold.iter().take(MOST_UNTOLD).map(row).collect();
    let hidden = unnamed.saturating_add((untold.len() - rows.len()) as u64);
    html! {
        @if !rows.is_empty() {
            p { "Of these listeners to " (facts.model) " nothing is written down here:" }
            (frame::table(&["Listener", "Group", "What that may mean"], &rows))
        }
        @if hidden > 0 { p .note { (frame::number(hidden)) " listeners more are not named." } }
    }
}

fn rows(rows: &[OutboxRow]) -> Markup {
    let time =
        |time: Option<Timestamp>| html! { @match time { Some(time) => (frame::moment(time)), None => "–" } };
    let row = |row: &OutboxRow| {
        let kind = match &*row.status {
            "COMPLETED" => "good",
            "FAILED" | "UNREADABLE" | "ORPHANED" => "bad",
            "WAITING" => "warn",
            _ => "",
        };
        html! {
            tr {
                td .number { (row.id) }
                td { (frame::pill(kind, &row.status)) }
                td { (time(row.written_at)) }
                td { (time(row.done_at)) }
                td .number { (row.retries) }
                td .text { (row.last_error.as_deref().unwrap_or("–")) }
            }
        }
    };
    frame::table(
        &["Row", "Status", "Written", "Done", "Retries", "Error"],
        &rows.iter().map(row).collect::<Vec<_>>(),
    )
}

fn trace(guest: &Guest, id: EventId, told: &Told) -> Markup {
    let value: Value =
        told.text.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let said = |names: [&str; 2]| {
        names
            .into_iter()
            .find_map(|name| value.get(name))
            .map(|value| value.as_str().map_or(value.to_string(), str::to_owned))
    };
    let cause = said(["causedBy", "causedby"]);
    html! {
        dl {
            @if let Some(trace) = told.seen.as_ref().and_then(|seen| seen.trace_id) { dt { "Trace" } dd .id { (trace) } }
            @if let Some(parent) = said(["traceparent", "traceParent"]) { dt { "traceparent" } dd .id { (parent) } }
            @if let Some(cause) = cause { dt { "Caused by" } dd { @match cause.parse().ok() { Some(cause) => (frame::event(guest, Some(cause))), None => (cause) } } }
            @if let Some(hops) = said(["hops", "hops"]) { dt { "Hops" } dd { (hops) } }
        }
        @if told.of_trace.len() > 1 { (events(guest, id, &told.of_trace)) }
        @else { (frame::nothing("No other event of its trace is in the mirror.")) }
    }
}

fn same_key(guest: &Guest, id: EventId, told: &Told) -> Markup {
    if told.of_key.len() > 1 {
        events(guest, id, &told.of_key)
    } else {
        frame::nothing("No other event of its key is in the mirror.")
    }
}

fn events(guest: &Guest, id: EventId, events: &[MirroredEvent]) -> Markup {
    let row = |event: &MirroredEvent| {
        let is_this = event.event_id == Some(id);
        html! {
            tr .this[is_this] {
                td { (frame::moment(event.created_at)) }
                td { (event.kind.as_deref().unwrap_or("–")) }
                td { (event.key.as_deref().unwrap_or("–")) }
                td { @if is_this { "this one" } @else { (frame::event(guest, event.event_id)) } }
                td { (event.service.as_deref().unwrap_or("–")) "/" (event.node.as_deref().unwrap_or("–")) }
            }
        }
    };
    frame::table(&["Seen", "Kind", "Key", "Event", "Written by"], &events.iter().map(row).collect::<Vec<_>>())
}

fn properties(told: &Told) -> Markup {
    let properties = told.seen.as_ref().map(|seen| &seen.properties.user).filter(|user| !user.is_empty());
    html! { @if let Some(properties) = properties { dl { @for (name, value) in properties { dt { (name) } dd { (value) } } } } }
}
