//! One dead letter, and what can be done with it.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use emitter_core::dead_letter::Reason;
use emitter_diesel::dead_letters::KeptLetter;
use maud::{Markup, html};

use crate::dashboard::access::Guest;
use crate::dashboard::chosen::Chosen;
use crate::dashboard::desk::said;
use crate::dashboard::{Shared, actions, envelope, frame};

pub(crate) async fn draw(
    State(shared): State<Arc<Shared>>,
    guest: Guest,
    Path(id): Path<String>,
) -> Response {
    let Ok(id) = id.parse::<i64>() else { return actions::refused(&guest, "A letter has a number.") };
    let letter = shared.desk.ask(move |drawer| drawer.letters()?.show(id).map_err(said));
    let content = match letter.await {
        Ok(letter) => html! {
            (facts(&guest, &letter))
            (frame::section("Why", &html! { pre .why { (letter.failure_reason) } }))
            (frame::section("Event", &payload(&guest, &letter)))
            @if guest.visitor.may_act {
                p .bar { a .button href={ (guest.base) "/letters/plan" (Chosen::one(id).query()) } { "Redrive or discard it" } }
            }
        },
        Err(why) => frame::trouble(&why),
    };
    frame::page(&guest, "/letters", &format!("Dead letter {id}"), false, &content).into_response()
}

fn facts(guest: &Guest, letter: &KeptLetter) -> Markup {
    html! {
        dl .facts {
            dt { "Reason" } dd { (frame::pill("bad", letter.reason.map_or("unknown", Reason::as_str))) @if letter.is_claimed { " " (frame::pill("", "in a redrive")) } }
            dt { "Event" } dd { (frame::event(guest, letter.event)) }
            dt { "Listener" } dd { (letter.listener.as_deref().unwrap_or("–")) }
            dt { "Model" } dd { (letter.model.as_deref().unwrap_or("–")) }
            dt { "Key" } dd { (letter.key.as_deref().unwrap_or("–")) }
            dt { "Topic" } dd { (letter.original_topic) }
            dt { "Died on" } dd { (letter.service) "/" (letter.node) }
            dt { "Kept" } dd { (frame::moment(letter.created_at)) }
            dt { "Attempts" } dd { (letter.attempts) ", " (letter.redrives) " redrives in vain" }
        }
    }
}

fn payload(guest: &Guest, letter: &KeptLetter) -> Markup {
    let Some(payload) = &letter.payload else {
        return frame::nothing("Its bytes were too many to be kept.");
    };
    let Ok(text) = std::str::from_utf8(payload) else {
        return frame::nothing(&format!("{} bytes that are no text.", payload.len()));
    };
    let properties = &letter.properties.user;
    html! {
        @if guest.visitor.may_act {
            form .edit method="post" action={ (guest.base) "/letter/" (letter.id) "/edit" } {
                (frame::token(guest))
                // The first line's end of a text area is not a part of it.
                textarea name="payload" aria-label="The event" spellcheck="false" rows="16" { "\n" (envelope::indented(text)) }
                div .bar { button type="submit" { "Write this in its place" } span .note { "It is read when it is redriven. A signature does not outlive it." } }
            }
        } @else { pre { (envelope::indented(text)) } }
        @if !properties.is_empty() {
            dl { @for (name, value) in properties { dt { (name) } dd { (value) } } }
        }
    }
}
