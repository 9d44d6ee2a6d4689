//! The outbox: its lanes, whose they are, and what it has given up.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Html;
use emitter_diesel::outbox::{GivenUpEvent, GivenUpSelection, GivenUpStatus, LaneState, OutboxState};
use maud::{Markup, html};

use crate::dashboard::access::Guest;
use crate::dashboard::desk::said;
use crate::dashboard::{Shared, frame};

/// So many that were given up are shown.
const MOST: usize = 100;

struct Told {
    state: OutboxState,
    lanes: Vec<LaneState>,
    given_up: Vec<GivenUpEvent>,
    doubts: Vec<String>,
}

pub(crate) async fn draw(State(shared): State<Arc<Shared>>, guest: Guest) -> Html<String> {
    let told = shared.desk.ask(|drawer| {
        let control = drawer.control()?;
        let (state, lanes) = (control.state().map_err(said)?, control.lanes().map_err(said)?);
        let doubts = control.doubts().map_err(said)?;
        let given_up = drawer.given_up()?.list(&GivenUpSelection::default(), None, MOST).map_err(said)?;
        Ok(Told { state, lanes, given_up, doubts })
    });
    let content = match told.await {
        Ok(told) => html! {
            (state(&guest, &told.state))
            @if !told.doubts.is_empty() {
                div .standing .warn { strong { "To be looked at" } ul { @for doubt in &told.doubts { li { (doubt) } } } }
            }
            (frame::section("Lanes", &lanes(&told.lanes)))
            (frame::section("Given up", &given_up(&guest, &told.given_up)))
        },
        Err(why) if shared.desk.is_there() => frame::trouble(&why),
        Err(why) => frame::nothing(&why),
    };
    frame::page(&guest, "/outbox", "Outbox", true, &content)
}

fn state(guest: &Guest, state: &OutboxState) -> Markup {
    let numbers = [
        ("Pending", state.pending, false),
        ("Waiting for another attempt", state.waiting, state.waiting > 0),
        ("With listeners", state.processing, false),
        ("Failed", state.failed, state.failed > 0),
        ("Unreadable", state.unreadable, state.unreadable > 0),
        ("Orphaned", state.orphaned, state.orphaned > 0),
    ];
    html! {
        div .numbers {
            @for (name, number, is_bad) in numbers { div { span .now .bad[is_bad] { (frame::number(number)) } span { (name) } } }
            div { span .now { (state.oldest.map_or("–".to_owned(), frame::age)) } span { "The oldest waits" } }
        }
        div .bar {
            @if state.paused { (frame::pill("warn", "paused: nothing is published")) } @else { (frame::pill("good", "publishing")) }
            @if guest.visitor.may_act {
                @let action = if state.paused { "resume" } else { "pause" };
                form method="post" action={ (guest.base) "/outbox/" (action) } {
                    (frame::token(guest))
                    button type="submit" { (if state.paused { "Resume" } else { "Pause" }) }
                }
            }
        }
    }
}

fn lanes(lanes: &[LaneState]) -> Markup {
    let row = |lane: &LaneState| {
        html! {
            tr {
                td .number { (lane.lane) }
                td { @match &lane.node { Some(node) => (node), None => (frame::pill("warn", "nobody")) } }
                td .number { (lane.epoch) }
                td .number { (lane.lease.map_or("–".to_owned(), frame::age)) }
                td { @if lane.paused { (frame::pill("warn", "paused")) } @else { "–" } }
            }
        }
    };
    frame::table(
        &["Lane", "Owner", "Epoch", "Lease left", "State"],
        &lanes.iter().map(row).collect::<Vec<_>>(),
    )
}

fn given_up(guest: &Guest, rows: &[GivenUpEvent]) -> Markup {
    if rows.is_empty() {
        return frame::nothing("Nothing was given up.");
    }
    let row = |row: &GivenUpEvent| {
        let (status, meaning) = match row.status {
            GivenUpStatus::Failed => ("failed", "the broker did not take it"),
            GivenUpStatus::Unreadable => ("unreadable", "it is not as an outbox writes it"),
            GivenUpStatus::Orphaned => ("orphaned", "no listener of the node that took it over hears it"),
        };
        html! {
            tr {
                td .number { (row.id) }
                td { span title=(meaning) { (frame::pill("bad", status)) } }
                td { (row.model) }
                td { (row.key.as_deref().unwrap_or("–")) }
                td { (frame::event(guest, row.event)) }
                td .number { (row.retries) }
                td .text { (row.last_error.as_deref().unwrap_or("–")) }
            }
        }
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    html! {
        @if rows.len() == MOST { p .note { "The first " (MOST) "." } }
        (frame::table(&["Row", "Status", "Model", "Key", "Event", "Retries", "Why"], &rows))
        @if guest.visitor.may_act {
            form .bar method="post" action={ (guest.base) "/outbox/retry" } {
                (frame::token(guest))
                button type="submit" { "Put all back to work" }
            }
        }
    }
}
