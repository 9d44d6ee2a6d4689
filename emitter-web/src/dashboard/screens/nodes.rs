//! Nodes: how this one stands, who else is there, who relays, and how far others are.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Html;
use emitter_core::announcement::Announcement;
use emitter_core::transport::{LinkStatus, TransportStatus};
use emitter_diesel::mirror::MirrorState;
use emitter_diesel::outbox::{Behind, RelayState};
use maud::{Markup, html};

use crate::dashboard::access::Guest;
use crate::dashboard::desk::said;
use crate::dashboard::{Shared, frame};

struct Told {
    relays: Vec<RelayState>,
    behind: Vec<Behind>,
    mirror: MirrorState,
}

pub(crate) async fn draw(State(shared): State<Arc<Shared>>, guest: Guest) -> Html<String> {
    let told = shared.desk.ask(|drawer| {
        let control = drawer.control()?;
        let (relays, behind) = (control.relays().map_err(said)?, control.behind().map_err(said)?);
        Ok(Told { relays, behind, mirror: drawer.mirror()?.state().map_err(said)? })
    });
    let told = told.await;
    let content = html! {
        (this(&shared))
        (frame::section("Nodes on the bus", &all(&shared)))
        @match &told {
            Ok(told) => {
                (frame::section("Relays", &relays(&told.relays)))
                (frame::section("Positions", &behind(&told.behind)))
                (frame::section("Mirrors", &mirrors(&told.mirror)))
            },
            Err(why) if shared.desk.is_there() => (frame::trouble(why)),
            Err(why) => (frame::nothing(why)),
        }
    };
    frame::page(&guest, "/nodes", "Nodes", true, &content)
}

fn this(shared: &Shared) -> Markup {
    let (origin, health) = (shared.emitter.origin(), shared.emitter.health());
    let content = html! {
        dl {
            dt { "Name" } dd { (origin.service) "/" (origin.node) }
            dt { "Incarnation" } dd .id { (origin.incarnation) }
            @if let Some(queue) = &health.queue {
                dt { "To be written into the outbox" } dd { (frame::number(queue.waiting as u64)) " events, the oldest for " (frame::age(queue.oldest)) }
            }
        }
        @match &health.transport { Some(status) => (transport(status)), None => (frame::nothing("It has no transport: its events stay here.")) }
    };
    frame::section("This node", &content)
}

fn transport(status: &TransportStatus) -> Markup {
    let link = |name: &str, link: &LinkStatus| {
        let lost: Vec<String> = link.lost.iter().map(|(cause, times)| format!("{cause} {times}")).collect();
        html! {
            tr {
                td { (name) }
                td { @if link.connected { (frame::pill("good", "connected")) } @else { (frame::pill("bad", "away")) } }
                td .number { (link.connections) }
                td { (if lost.is_empty() { "–".to_owned() } else { lost.join(", ") }) }
                td .text { (link.last_error.as_deref().unwrap_or("–")) }
            }
        }
    };
    let rows = [link("publishes", &status.publisher), link("subscribes", &status.subscriber)];
    let canary = status.canary.map(|canary| (canary.round_trip, canary.missed));
    html! {
        (frame::table(&["Connection", "State", "Times", "Lost by", "Last error"], &rows))
        dl {
            dt { "Canary round trip" } dd { (canary.and_then(|(trip, _)| trip).map_or("–".to_owned(), frame::age)) }
            dt { "Canaries missed" } dd { (canary.map_or("–".to_owned(), |(_, missed)| missed.to_string())) }
            dt { "Messages not confirmed" } dd { (frame::number(status.unconfirmed as u64)) }
            dt { "Subscriptions" } dd { (status.subscriptions) }
        }
        @if !status.refused_subscriptions.is_empty() {
            @let rows: Vec<_> = status.refused_subscriptions.iter().map(|(filter, why)| html! { tr { td { (filter) } td .text { (why) } } }).collect();
            (frame::table(&["Refused subscription", "Why"], &rows))
        }
    }
}

/// As they say themselves.
fn all(shared: &Shared) -> Markup {
    let nodes = shared.emitter.nodes();
    if nodes.is_empty() {
        return frame::nothing(
            "No node says that it is there: none announces itself, or the broker has not answered, or does not let this node read below `_nodes`. RabbitMQ tells of those that come from now on.",
        );
    }
    let row = |said: &Announcement| {
        let listeners =
            said.listeners.as_ref().map(|listeners| (listeners.len() as u64).saturating_add(said.more));
        html! {
            tr {
                td { (said.service) "/" (said.node) }
                td { @if said.is_online() { (frame::pill("good", "there")) } @else { (frame::pill("warn", "gone")) } }
                td { (said.since.as_deref().unwrap_or("–")) }
                td .number { (listeners.map_or("–".to_owned(), frame::number)) }
            }
        }
    };
    frame::table(&["Node", "State", "Since", "Listeners"], &nodes.iter().map(row).collect::<Vec<_>>())
}

fn relays(relays: &[RelayState]) -> Markup {
    if relays.is_empty() {
        return frame::nothing("No node relays this outbox.");
    }
    let row = |relay: &RelayState| {
        let (kind, word) = if relay.takes_lanes { ("good", "takes lanes") } else { ("warn", "ends") };
        html! { tr { td { (relay.node) } td { (frame::pill(kind, word)) } td .number { (frame::age(relay.lease)) } } }
    };
    frame::table(&["Node", "State", "Lease left"], &relays.iter().map(row).collect::<Vec<_>>())
}

/// The lanes of a model together.
fn behind(behind: &[Behind]) -> Markup {
    if behind.is_empty() {
        return frame::nothing("No node remembers here how far it is.");
    }
    let mut models = BTreeMap::<_, (u64, Option<u64>)>::new();
    for Behind { node, outbox, model, numbers, .. } in behind {
        let sum = models.entry((node, model, outbox)).or_default();
        sum.0 += 1;
        sum.1 = numbers.map(|numbers| sum.1.unwrap_or_default() + numbers);
    }
    let row = |((node, model, outbox), (lanes, numbers)): (_, _)| {
        let outbox: &String = outbox;
        let (node, model): (&String, &String) = (node, model);
        let lanes: u64 = lanes;
        let numbers: Option<u64> = numbers;
        html! {
            tr {
                td { (node) }
                td { (model) }
                td .id { (frame::short(outbox)) }
                td .number { (lanes) }
                td .number { @match numbers { Some(numbers) => (frame::number(numbers)), None => span title="the outbox is in another database" { "–" } } }
            }
        }
    };
    frame::table(
        &["Node", "Model", "Outbox", "Lanes", "Events behind"],
        &models.into_iter().map(row).collect::<Vec<_>>(),
    )
}

fn mirrors(mirror: &MirrorState) -> Markup {
    if mirror.writers.is_empty() {
        return frame::nothing("Nobody has ever written a mirror here.");
    }
    let rows: Vec<_> = mirror
        .writers
        .iter()
        .map(|writer| {
            html! {
                tr {
                    td { (writer.name) }
                    td { @match &writer.node { Some(node) => (node), None => (frame::pill("bad", "nobody")) } }
                }
            }
        })
        .collect();
    html! {
        (frame::table(&["Mirror", "Written by"], &rows))
        p .note { "The last event was written down " (mirror.newest.map_or("never".to_owned(), |newest| format!("{} ago", frame::age(newest)))) "." }
    }
}
