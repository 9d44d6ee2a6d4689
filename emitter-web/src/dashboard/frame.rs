//! What all pages have: the head, the ways to the others, and how numbers and times are written.

use std::time::Duration;

use axum::response::Html;
use emitter_core::event::Timestamp;
use maud::{DOCTYPE, Markup, html};

use super::access::{Guest, TOKEN_FIELD};

/// The screens, in their order: the key that leads there, its place, its name.
const SCREENS: [(&str, &str, &str); 7] = [
    ("1", "", "Overview"),
    ("2", "/live", "Live"),
    ("3", "/event", "Event"),
    ("4", "/outbox", "Outbox"),
    ("5", "/letters", "Dead letters"),
    ("6", "/nodes", "Nodes"),
    ("7", "/listeners", "Listeners"),
];

/// A page of a screen. One that `refreshes` asks for itself again while it is open.
pub(super) fn page(
    guest: &Guest,
    place: &str,
    title: &str,
    refreshes: bool,
    content: &Markup,
) -> Html<String> {
    Html(document(guest, place, title, refreshes, content).into_string())
}

/// A page that says what is wrong.
pub(super) fn problem(guest: &Guest, title: &str, why: &str) -> Markup {
    let content = html! {
        p { (why) }
        p { a href=(home(guest)) { "To the overview" } }
    };
    document(guest, "-", title, false, &content)
}

fn document(guest: &Guest, place: &str, title: &str, refreshes: bool, content: &Markup) -> Markup {
    let base = &guest.base;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · emitter" }
                link rel="icon" href={ (base) "/file/icon.svg" };
                link rel="stylesheet" href={ (base) "/file/dashboard.css" };
                script type="module" src={ (base) "/file/dashboard.js" } {}
            }
            body data-base=(base) {
                a .skip href="#content" { "To the content" }
                header .top {
                    a .brand href=(home(guest)) { "emitter" }
                    nav aria-label="Screens" {
                        @for (key, at, name) in SCREENS {
                            a href={ (if at.is_empty() { home(guest) } else { base }) (at) } data-key=(key)
                                aria-current=[(at == place).then_some("page")] { (name) kbd { (key) } }
                        }
                    }
                    p .who {
                        (guest.visitor.name)
                        span .role { (if guest.visitor.may_act { "may act" } else { "may look" }) }
                    }
                }
                main #content tabindex="-1" data-refresh[refreshes] {
                    h1 { (title) }
                    (content)
                }
            }
        }
    }
}

/// The first page: a router that is nested has it without a slash at the end.
fn home(guest: &Guest) -> &str {
    if guest.base.is_empty() { "/" } else { &guest.base }
}

/// What a form of ours sends beside what it asks.
pub(super) fn token(guest: &Guest) -> Markup {
    html! { input type="hidden" name=(TOKEN_FIELD) value=(guest.token); }
}

/// Fields that say the same as an address.
pub(super) fn hidden(pairs: &[(&'static str, String)]) -> Markup {
    html! { @for (name, value) in pairs { input type="hidden" name=(name) value=(value); } }
}

/// The database did not answer.
pub(super) fn trouble(why: &str) -> Markup {
    html! { p .trouble role="status" { strong { "No answer from the tables. " } (why) } }
}

/// There is nothing to show.
pub(super) fn nothing(why: &str) -> Markup {
    html! { p .nothing { (why) } }
}

/// A part of a page.
pub(super) fn section(title: &str, content: &Markup) -> Markup {
    html! { section { h2 { (title) } (content) } }
}

/// A table that scrolls within itself where it is too wide.
pub(super) fn table(heads: &[&str], rows: &[Markup]) -> Markup {
    html! {
        div .table tabindex="0" {
            table {
                thead { tr { @for head in heads { th scope="col" { (head) } } } }
                tbody { @for row in rows { (row) } }
            }
        }
    }
}

/// A word with a colour: `good`, `warn`, `bad`, or none.
pub(super) fn pill(kind: &str, word: &str) -> Markup {
    html! { span .pill .(kind) { (word) } }
}

/// A moment: the time of day, and the whole of it for who points at it.
pub(super) fn moment(time: Timestamp) -> Markup {
    let whole = time.to_string();
    let day_and_time = whole.get(5..19).unwrap_or(&whole).replace('T', " ");
    html! { time datetime=(whole) title=(whole) { (day_and_time) } }
}

/// An event's id as a way to it.
pub(super) fn event(guest: &Guest, id: Option<emitter_core::EventId>) -> Markup {
    html! {
        @match id {
            Some(id) => a .id href={ (guest.base) "/event/" (id) } title=(id) { (short(&id.to_string())) },
            None => "–",
        }
    }
}

/// The end of an id, by which people tell ids apart.
pub(super) fn short(id: &str) -> String {
    let tail = id.char_indices().rev().nth(11).map_or(0, |(place, _)| place);
    format!("…{}", &id[tail..])
}

/// A number with its thousands apart.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// A rate or the like, with as many digits as one can read.
pub(super) fn amount(amount: f64) -> String {
    if amount >= 100.0 || amount.fract() == 0.0 { format!("{amount:.0}") } else { format!("{amount:.1}") }
}

/// How long.
pub(super) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0 if age.is_zero() => "0 s".to_owned(),
        0 if age.as_millis() < 10 => format!("{:.1} ms", age.as_secs_f64() * 1000.0),
        0 => format!("{} ms", age.as_millis()),
        1..60 => format!("{:.1} s", age.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_written_for_people() {
        assert_eq!([number(0), number(999), number(1_234_567)], ["0", "999", "1\u{202f}234\u{202f}567"]);
        assert_eq!([amount(0.0), amount(1.25), amount(1234.5)], ["0", "1.2", "1234"]);
        let ages =
            [3, 420, 2_500, 61_000, 7_260_000, 180_000_000].map(|millis| age(Duration::from_millis(millis)));
        assert_eq!(ages, ["3.0 ms", "420 ms", "2.5 s", "1 min 1 s", "2 h 1 min", "2 d 2 h"]);
        assert_eq!(
            [short("0193abcdef012345"), short("ä"), short("")],
            ["…cdef012345".replace("…", "…ab"), "…ä".to_owned(), "…".to_owned()]
        );
    }
}
