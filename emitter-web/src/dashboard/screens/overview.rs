//! Whether everything works, on one screen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Html;
use emitter_core::{Health, HealthStatus};
use emitter_diesel::dead_letters::{self, Facet};
use emitter_diesel::outbox::{Behind, OutboxState, RelayState};
use maud::{Markup, html};

use crate::dashboard::access::Guest;
use crate::dashboard::chosen::Chosen;
use crate::dashboard::desk::said;
use crate::dashboard::history::{self, Sample};
use crate::dashboard::{Shared, chart, frame};

/// What the tables say.
struct Told {
    outbox: OutboxState,
    relays: Vec<RelayState>,
    behind: Vec<Behind>,
    reasons: Vec<(String, u64)>,
}

pub(crate) async fn draw(State(shared): State<Arc<Shared>>, guest: Guest) -> Html<String> {
    let told = shared.desk.ask(|drawer| {
        let control = drawer.control()?;
        let (outbox, relays) = (control.state().map_err(said)?, control.relays().map_err(said)?);
        let behind = control.behind().map_err(said)?;
        let all = dead_letters::Selection::default();
        let reasons = drawer.letters()?.count_by(&all, Facet::Reason).map_err(said)?;
        Ok(Told { outbox, relays, behind, reasons })
    });
    let told = told.await;
    let health = shared.emitter.health();
    let samples = shared.history.samples();
    let content = html! {
        (standing(&health))
        (tiles(&samples))
        @match &told {
            Ok(told) => div .columns { (outbox(&guest, &told.outbox)) (letters(&guest, told)) (nodes(&guest, told, &shared)) },
            Err(why) if shared.desk.is_there() => (frame::trouble(why)),
            Err(why) => (frame::nothing(why)),
        }
    };
    frame::page(&guest, "", "Overview", true, &content)
}

/// The one thing that everybody looks for first.
fn standing(health: &Health) -> Markup {
    let (kind, word) = match health.status {
        HealthStatus::Healthy => ("good", "Everything works"),
        HealthStatus::Degraded => ("warn", "Something is wrong"),
        HealthStatus::Unhealthy => ("bad", "The emitter is shut down"),
    };
    html! {
        div .standing .(kind) role="status" {
            strong { (word) }
            @if !health.reasons.is_empty() { ul { @for reason in &health.reasons { li { (reason) } } } }
        }
    }
}

fn tiles(samples: &[Sample]) -> Markup {
    // What has only begun fills a part of it, and not none.
    let slots = samples.len().clamp(30, history::KEPT);
    let per_second = |number: fn(&emitter_core::metrics::Stats) -> u64| history::rates(samples, number);
    let now = |pick: fn(&Sample) -> Option<f64>| samples.iter().map(pick).collect::<Vec<_>>();
    let seconds = |seconds: f64| frame::age(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let rate = |rate: f64| format!("{}/s", frame::amount(rate));
    let whole = |number: f64| frame::amount(number);
    type Write = fn(f64) -> String;
    let tiles: [(&str, Vec<Option<f64>>, Write); 10] = [
        ("Emitted", per_second(|stats| stats.emitted_local.max(stats.emitted_remote)), rate),
        ("Published", per_second(|stats| stats.published), rate),
        ("Received", per_second(|stats| stats.received), rate),
        ("Handled", per_second(|stats| stats.handled), rate),
        ("Failed calls", per_second(|stats| stats.failed + stats.panicked + stats.timed_out), rate),
        ("Duplicates", per_second(|stats| stats.duplicates), rate),
        ("Backlog", now(|sample| sample.tables.map(|held| held.backlog as f64)), whole),
        ("Lag of the outbox", now(|sample| sample.tables.map(|held| held.oldest)), seconds),
        ("Dead letters", now(|sample| sample.tables.map(|held| held.letters as f64)), whole),
        ("Canary round trip", now(|sample| sample.round_trip), seconds),
    ];
    let span = samples.first().zip(samples.last()).map(|(first, last)| last.at - first.at);
    html! {
        div .tiles {
            @for (name, values, write) in &tiles {
                div .tile {
                    h2 { (name) }
                    p .now { (values.last().copied().flatten().map_or("–".to_owned(), write)) }
                    (chart::line(name, values, slots))
                    p .most { "at most " (values.iter().flatten().copied().reduce(f64::max).map_or("–".to_owned(), write)) }
                }
            }
        }
        p .note { "Of this node, " (span.map_or("from now on".to_owned(), |span| format!("the last {}", frame::age(span)))) "." }
    }
}

fn outbox(guest: &Guest, outbox: &OutboxState) -> Markup {
    let waiting = outbox.oldest.map_or("–".to_owned(), frame::age);
    let given_up = outbox.given_up();
    let content = html! {
        dl {
            dt { "To be published" } dd { (frame::number(outbox.pending + outbox.waiting)) }
            dt { "The oldest waits for" } dd { (waiting) }
            dt { "With listeners" } dd { (frame::number(outbox.processing)) }
            dt { "Given up" } dd .bad[given_up > 0] { (frame::number(given_up)) }
            dt { "Lanes with an owner" } dd .bad[outbox.owned < outbox.lanes] { (outbox.owned) " of " (outbox.lanes) }
        }
        @if outbox.paused { p { (frame::pill("warn", "paused")) } }
        p .more { a href={ (guest.base) "/outbox" } { "Lanes" } }
    };
    frame::section("Outbox", &content)
}

fn letters(guest: &Guest, told: &Told) -> Markup {
    let content = html! {
        @if told.reasons.is_empty() { (frame::nothing("None.")) }
        dl {
            @for (reason, letters) in &told.reasons {
                dt { a href={ (guest.base) "/letters" (Chosen::default().with("reason", reason)) } { (reason) } }
                dd .bad { (frame::number(*letters)) }
            }
        }
        p .more { a href={ (guest.base) "/letters" } { "All of them" } }
    };
    frame::section("Dead letters", &content)
}

fn nodes(guest: &Guest, told: &Told, shared: &Shared) -> Markup {
    let origin = shared.emitter.origin();
    // Those that remember here how far they are, and by how much they are behind.
    let mut listening = BTreeMap::<&str, u64>::new();
    for Behind { node, numbers, .. } in &told.behind {
        *listening.entry(node).or_default() += numbers.unwrap_or_default();
    }
    let content = html! {
        dl {
            dt { (origin.service) "/" (origin.node) } dd { (frame::pill("good", "this one")) }
            @for relay in told.relays.iter().filter(|relay| !is(origin, &relay.node)) {
                @let (kind, word) = if relay.takes_lanes { ("good", "relays") } else { ("warn", "ends") };
                dt { (relay.node) } dd { (frame::pill(kind, word)) }
            }
            @for (node, behind) in listening.iter().filter(|(node, _)| !is(origin, node)) {
                dt { (node) } dd { (frame::number(*behind)) " behind" }
            }
        }
        p .more { a href={ (guest.base) "/nodes" } { "Connections and positions" } }
    };
    frame::section("Nodes", &content)
}

/// Whether a relay's name is that of this node.
fn is(origin: &emitter_core::Origin, relay: &str) -> bool {
    relay == &*origin.node || relay == format!("{}/{}", origin.service, origin.node)
}
