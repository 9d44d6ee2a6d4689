//! Listeners of this node, what they hear, and what they failed at; those of other nodes; and the models of the program.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Html;
use emitter_core::announcement::{AnnouncedListener, Announcement};
use emitter_core::emit::Scope;
use emitter_core::listener::{Hears, ListenerInfo};
use emitter_core::registry::RegisteredModel;
use emitter_diesel::dead_letters::{self, Facet};
use maud::{Markup, html};

use crate::dashboard::access::Guest;
use crate::dashboard::chosen::Chosen;
use crate::dashboard::desk::said;
use crate::dashboard::{Shared, frame};

/// So many listeners of other nodes are shown.
const MOST: usize = 1_000;

pub(crate) async fn draw(State(shared): State<Arc<Shared>>, guest: Guest) -> Html<String> {
    let letters = shared.desk.ask(|drawer| {
        let all = dead_letters::Selection::default();
        drawer.letters()?.count_by(&all, Facet::Listener).map_err(said)
    });
    let letters = letters.await;
    let trouble = letters.as_ref().err().filter(|_| shared.desk.is_there()).map(|why| frame::trouble(why));
    let letters: HashMap<String, u64> = letters.unwrap_or_default().into_iter().collect();
    let rows: Vec<_> =
        shared.emitter.listeners().iter().map(|info| listener(&guest, info, &letters)).collect();
    let listeners = if rows.is_empty() {
        frame::nothing("This node has none.")
    } else {
        frame::table(
            &["Listener", "Model", "Operation", "Hears", "Group", "Dead letters", "Defined at"],
            &rows,
        )
    };
    let content = html! {
        @if let Some(trouble) = trouble { (trouble) }
        (frame::section("Listeners of this node", &listeners))
        (frame::section("Listeners of other nodes", &others(&shared)))
        (frame::section("Subscriptions", &subscriptions(&shared)))
        (frame::section("Models", &models()))
    };
    frame::page(&guest, "/listeners", "Listeners", true, &content)
}

fn listener(guest: &Guest, info: &ListenerInfo, letters: &HashMap<String, u64>) -> Markup {
    let hears = match info.hears {
        Hears::Local => "this node",
        Hears::Everything => "every node",
        Hears::Remote => "the other nodes",
    };
    let letters = letters.get(&*info.name).copied().unwrap_or_default();
    html! {
        tr {
            td { strong { (info.name) } }
            td { (info.model) }
            td { (info.operation.map_or("all", |operation| operation.as_str())) }
            td { (hears) }
            td { (info.group.as_deref().unwrap_or("–")) }
            td .number {
                @if letters > 0 { a .bad href={ (guest.base) "/letters" (Chosen::default().with("listener", &info.name)) } { (frame::number(letters)) } }
                @else { "0" }
            }
            td .note { (info.defined_at) }
        }
    }
}

/// As their nodes say.
fn others(shared: &Shared) -> Markup {
    let this = shared.emitter.origin();
    let nodes = shared.emitter.nodes();
    let others = nodes
        .iter()
        .filter(|said| said.is_online() && (&*said.service, &*said.node) != (&*this.service, &*this.node));
    let of_nodes =
        others.flat_map(|said| said.listeners.iter().flatten().map(move |listener| (said, listener)));
    let row = |(said, listener): (&Announcement, &AnnouncedListener)| {
        let hears = match &*listener.hears {
            "local" => "its own node",
            "remote" => "the other nodes",
            "everything" => "every node",
            other => other,
        };
        html! {
            tr {
                td { strong { (listener.name) } }
                td { (said.service) "/" (said.node) }
                td { (listener.model) }
                td { (listener.operation.as_deref().unwrap_or("all")) }
                td { (hears) }
                td { (listener.group.as_deref().unwrap_or("–")) }
            }
        }
    };
    let rows: Vec<_> = of_nodes.take(MOST).map(row).collect();
    if rows.is_empty() {
        return frame::nothing("No other node says that it has any.");
    }
    frame::table(&["Listener", "Node", "Model", "Operation", "Hears", "Group"], &rows)
}

fn subscriptions(shared: &Shared) -> Markup {
    let Some(status) = shared.emitter.transport_status() else {
        return frame::nothing("This node has no transport.");
    };
    html! {
        dl {
            dt { "Confirmed by the broker" } dd { (status.subscriptions) }
            dt { "Refused" } dd .bad[!status.refused_subscriptions.is_empty()] { (status.refused_subscriptions.len()) }
        }
        @for (filter, why) in &status.refused_subscriptions { p .trouble { (filter) ": " (why) } }
    }
}

fn models() -> Markup {
    let mut models: Vec<_> = RegisteredModel::all().collect();
    models.sort_unstable_by_key(|model| model.name);
    let row = |model: &&RegisteredModel| {
        let operations: Vec<_> = model.operations.iter().map(|operation| operation.as_str()).collect();
        let columns: Vec<_> = model.columns.iter().map(|column| column.json).collect();
        html! {
            tr {
                td { strong { (model.name) } }
                td { (model.topic) }
                td .number { (model.version) }
                td { (goes(model.scope)) }
                td .text { (if model.event.is_some() { "an event of its own".to_owned() } else { operations.join(", ") }) }
                td .text { (columns.join(", ")) }
            }
        }
    };
    frame::table(
        &["Model", "Topic", "Version", "Goes", "Operations", "Columns that listeners see"],
        &models.iter().map(row).collect::<Vec<_>>(),
    )
}

fn goes(scope: Scope) -> &'static str {
    match scope {
        Scope { local: true, remote: true } => "everywhere",
        Scope { local: true, remote: false } => "here",
        Scope { local: false, remote: true } => "elsewhere",
        Scope { local: false, remote: false } => "nowhere",
    }
}
