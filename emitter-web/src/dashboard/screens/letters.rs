//! Dead letters: grouped, filtered, and what a redrive or a discard would touch.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use emitter_core::dead_letter::Reason;
use emitter_diesel::dead_letters::{Facet, KeptLetter, Page, Selection};
use emitter_diesel::outbox::GivenUpSelection;
use maud::{Markup, html};

use crate::dashboard::access::Guest;
use crate::dashboard::chosen::{Chosen, TEXTS};
use crate::dashboard::desk::said;
use crate::dashboard::query::Pairs;
use crate::dashboard::{Shared, frame};

/// So many are on a page.
const PAGE: usize = 50;

/// So many groups are shown of each kind.
const GROUPS: usize = 8;

/// How long ago one may look back, in hours.
const HOURS: [(&str, &str); 4] =
    [("1", "the last hour"), ("24", "the last day"), ("168", "the last week"), ("", "any time")];

struct Told {
    letters: Vec<KeptLetter>,
    count: u64,
    groups: Vec<Group>,
    /// What the outbox gave up.
    given_up: u64,
}

/// How many there are of each.
struct Group {
    name: &'static str,
    title: &'static str,
    counts: Vec<(String, u64)>,
}

const FACETS: [(Facet, &str, &str); 5] = [
    (Facet::Reason, "reason", "Reason"),
    (Facet::Listener, "listener", "Listener"),
    (Facet::Model, "model", "Model"),
    (Facet::Topic, "topic", "Topic"),
    (Facet::Node, "node", "Node"),
];

async fn ask(shared: &Shared, chosen: &Chosen, after: Option<i64>) -> Result<Told, String> {
    let selection = chosen.selection.clone();
    let told = shared.desk.ask(move |drawer| {
        let given_up = drawer.given_up()?.count(&GivenUpSelection::default()).map_err(said)?;
        let book = drawer.letters()?;
        let page = Page { after, limit: PAGE, newest_first: true };
        let group = |(facet, name, title)| {
            let counts = book.count_by(&selection, facet).map_err(said)?;
            Ok(Group { name, title, counts })
        };
        Ok(Told {
            letters: book.list(&selection, page).map_err(said)?,
            count: book.count(&selection).map_err(said)?,
            groups: FACETS.into_iter().map(group).collect::<Result<_, String>>()?,
            given_up: given_up.iter().map(|(_, events)| events).sum(),
        })
    });
    told.await
}

pub(crate) async fn draw(
    State(shared): State<Arc<Shared>>,
    guest: Guest,
    pairs: Pairs,
    chosen: Chosen,
) -> Response {
    let after = pairs.number("after");
    let content = match ask(&shared, &chosen, after).await {
        Ok(told) => html! {
            (filter(&guest, &chosen, &pairs))
            p .count { strong { (frame::number(told.count)) } " dead letters" @if !chosen.pairs().is_empty() { " of these" } "." }
            @if told.given_up > 0 {
                p { "In the whole outbox, " a href={ (guest.base) "/outbox" } { "given up" } ": " (frame::number(told.given_up)) "." }
            }
            (groups(&guest, &chosen, &told))
            @if told.count > 0 {
                div .bar { a .button href={ (guest.base) "/letters/plan" (chosen.query()) } { "What would a redrive or a discard touch?" } }
            }
            (list(&guest, &told.letters))
            @if let (true, Some(last)) = (told.letters.len() == PAGE, told.letters.last()) {
                p .more { a href={ (guest.base) "/letters" (chosen.with("after", &last.id.to_string())) } { "Older ones" } }
            }
            (frame::section("What visitors did", &journal(&guest, &shared)))
        },
        Err(why) if shared.desk.is_there() => frame::trouble(&why),
        Err(why) => frame::nothing(&why),
    };
    let refreshes = after.is_none();
    frame::page(&guest, "/letters", "Dead letters", refreshes, &content).into_response()
}

/// A dry run: which letters it would be, and the forms that act on these and no others.
pub(crate) async fn plan(State(shared): State<Arc<Shared>>, guest: Guest, chosen: Chosen) -> Response {
    let content: Markup = match pinned(&shared, chosen).await {
        Ok((chosen, told)) => html! {
            p .count { "Of " (chosen.words()) ": " strong #planned { (frame::number(told.count)) } " as of now. What comes later is not touched." }
            (groups(&guest, &chosen, &told))
            @if guest.visitor.may_act && told.count > 0 { (forms(&guest, &chosen, told.count)) }
            @else if told.count > 0 { (frame::nothing("You may look, and not act.")) }
            (list(&guest, &told.letters))
        },
        Err(why) => frame::trouble(&why),
    };
    frame::page(&guest, "/letters", "A dry run", false, &content).into_response()
}

/// Those that are there now, and what is told of them.
async fn pinned(shared: &Shared, chosen: Chosen) -> Result<(Chosen, Told), String> {
    let last = shared.desk.ask(|drawer| {
        let last = Page { limit: 1, newest_first: true, ..Page::default() };
        let last = drawer.letters()?.list(&Selection::default(), last).map_err(said)?;
        Ok(last.first().map_or(0, |letter| letter.id))
    });
    let chosen = chosen.up_to(last.await?);
    let told = ask(shared, &chosen, None).await?;
    Ok((chosen, told))
}

fn forms(guest: &Guest, chosen: &Chosen, count: u64) -> Markup {
    let pairs = chosen.pairs();
    html! {
        div .columns {
            section {
                h2 { "Redrive" }
                p { "Tried again on this node, oldest first; those of a listener and key one after the other. What is handled is deleted, what fails again stays." }
                form method="post" action={ (guest.base) "/letters/redrive" } {
                    (frame::token(guest)) (frame::hidden(&pairs))
                    label { "A second" input type="number" name="rate" value="50" min="1" max="10000" required; }
                    button .primary type="submit" { "Redrive " (frame::number(count)) }
                }
            }
            section {
                h2 { "Discard" }
                p { "Deleted for good; nobody tries them again." }
                form method="post" action={ (guest.base) "/letters/discard" } {
                    (frame::token(guest)) (frame::hidden(&pairs))
                    label { "Type " code { "discard " (count) } input name="confirm" autocomplete="off" required; }
                    button .danger type="submit" { "Discard" }
                }
            }
        }
    }
}

fn filter(guest: &Guest, chosen: &Chosen, pairs: &Pairs) -> Markup {
    let said = chosen.pairs();
    let value = |name: &str| said.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value);
    let hours = pairs.get("hours").unwrap_or_default();
    html! {
        form .bar method="get" action={ (guest.base) "/letters" } role="search" {
            label { "Reason"
                select name="reason" {
                    option value="" { "any" }
                    @for reason in Reason::ALL { option value=(reason) selected[value("reason") == Some(reason.as_str())] { (reason) } }
                }
            }
            @for (name, title) in TEXTS { label { (title) input name=(name) value=[value(name)] size="14" autocomplete="off"; } }
            label { "Since"
                select name="hours" { @for (number, name) in HOURS { option value=(number) selected[number == hours] { (name) } } }
            }
            @if let Some(event) = value("event") { input type="hidden" name="event" value=(event); }
            button type="submit" { "Filter" }
            @if !said.is_empty() { a href={ (guest.base) "/letters" } { "All" } }
        }
    }
}

fn groups(guest: &Guest, chosen: &Chosen, told: &Told) -> Markup {
    html! {
        @if told.count > 0 {
            div .groups {
                @for Group { name, title, counts } in &told.groups {
                    div {
                        h3 { (title) }
                        ul {
                            @for (value, letters) in counts.iter().take(GROUPS) {
                                li {
                                    @if value.is_empty() { span { "none" } }
                                    @else { a href={ (guest.base) "/letters" (chosen.with(name, value)) } title=(value) { (value) } }
                                    meter min="0" max=(told.count) value=(letters) aria-hidden="true" {}
                                    span .number { (frame::number(*letters)) }
                                }
                            }
                            @if counts.len() > GROUPS { li .note { "and " (counts.len() - GROUPS) " more" } }
                        }
                    }
                }
            }
        }
    }
}

pub(crate) fn list(guest: &Guest, letters: &[KeptLetter]) -> Markup {
    if letters.is_empty() {
        return frame::nothing("No dead letters.");
    }
    let row = |letter: &KeptLetter| {
        html! {
            tr {
                td .number { a href={ (guest.base) "/letter/" (letter.id) } { (letter.id) } }
                td { (frame::moment(letter.created_at)) }
                td { (frame::pill("bad", letter.reason.map_or("unknown", Reason::as_str))) @if letter.is_claimed { " " (frame::pill("", "in a redrive")) } }
                td { (letter.listener.as_deref().unwrap_or("–")) }
                td { (letter.model.as_deref().unwrap_or("–")) }
                td { (letter.key.as_deref().unwrap_or("–")) }
                td { (frame::event(guest, letter.event)) }
                td .number { (letter.attempts) }
                td .text { (letter.failure_reason) }
            }
        }
    };
    let heads = ["Letter", "Kept", "Reason", "Listener", "Model", "Key", "Event", "Attempts", "Why"];
    frame::table(&heads, &letters.iter().map(row).collect::<Vec<_>>())
}

fn journal(guest: &Guest, shared: &Shared) -> Markup {
    let entries = shared.journal.last(10);
    if entries.is_empty() {
        return frame::nothing("Nothing, on this node and since its start.");
    }
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| {
            html! {
                tr {
                    td { (frame::moment(entry.at)) }
                    td { (entry.who) }
                    td .text { (entry.what) }
                    td .text {
                        @match &entry.outcome {
                            Some(Ok(done)) => (done),
                            Some(Err(why)) => { (frame::pill("bad", "failed")) " " (why) },
                            None => {
                                (frame::pill("", "under way"))
                                @if guest.visitor.may_act && shared.work.is_under_way(entry.number) {
                                    form .inline method="post" action={ (guest.base) "/letters/stop" } {
                                        (frame::token(guest))
                                        input type="hidden" name="number" value=(entry.number);
                                        button type="submit" { "Stop" }
                                    }
                                }
                            },
                        }
                    }
                }
            }
        })
        .collect();
    frame::table(&["Time", "Who", "What", "Outcome"], &rows)
}
