//! What visitors do: each is refused by the guard, or is told to the audit.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use emitter_diesel::dead_letters::Redrive;
use emitter_diesel::outbox::GivenUpSelection;

use super::access::{Fields, Guest};
use super::chosen::Chosen;
use super::desk::{Drawer, said};
use super::{Shared, envelope, frame};

/// Asks the database to change something, and has it noted who did.
async fn act(
    shared: &Shared,
    guest: &Guest,
    what: String,
    back: &str,
    change: impl FnOnce(&mut Drawer) -> Result<String, String> + Send + 'static,
) -> Response {
    let number = shared.journal.begin(&guest.visitor.name, what);
    // What takes longer than anybody waits goes on, and comes to an end nobody sees: it is noted as that.
    let outcome = shared.desk.ask(change).await;
    shared.journal.end(number, outcome.clone());
    match outcome {
        Ok(_) => to(guest, back),
        Err(why) => {
            let why =
                format!("{why}. If it was only late, it may be done in a moment: look before you repeat it.");
            failed(guest, StatusCode::SERVICE_UNAVAILABLE, &why)
        }
    }
}

fn to(guest: &Guest, place: &str) -> Response {
    Redirect::to(&format!("{}{place}", guest.base)).into_response()
}

fn failed(guest: &Guest, status: StatusCode, why: &str) -> Response {
    (status, Html(frame::problem(guest, "It was not done", why).into_string())).into_response()
}

/// What was asked cannot be meant.
pub(super) fn refused(guest: &Guest, why: &str) -> Response {
    (StatusCode::BAD_REQUEST, Html(frame::problem(guest, "That cannot be read", why).into_string()))
        .into_response()
}

/// Pauses it, has it go on, or puts back to work what it has given up.
pub(super) async fn outbox(
    State(shared): State<Arc<Shared>>,
    guest: Guest,
    _: Fields,
    Path(action): Path<String>,
) -> Response {
    let place = "/outbox";
    match &*action {
        "pause" => {
            let pause =
                |drawer: &mut Drawer| drawer.control()?.pause().map(|()| "paused".to_owned()).map_err(said);
            act(&shared, &guest, "pause the outbox".to_owned(), place, pause).await
        }
        "resume" => {
            let resume =
                |drawer: &mut Drawer| drawer.control()?.resume().map(|()| "resumed".to_owned()).map_err(said);
            act(&shared, &guest, "resume the outbox".to_owned(), place, resume).await
        }
        "retry" => {
            let retry = |drawer: &mut Drawer| {
                let rows = drawer.given_up()?.redrive(&GivenUpSelection::default()).map_err(said)?;
                Ok(format!("{rows} rows"))
            };
            act(&shared, &guest, "put back what the outbox has given up".to_owned(), place, retry).await
        }
        _ => failed(&guest, StatusCode::NOT_FOUND, "There is no such action."),
    }
}

/// Begins a redrive, which goes on behind the answer.
pub(super) async fn redrive(
    State(shared): State<Arc<Shared>>,
    guest: Guest,
    Fields(fields): Fields,
    chosen: Chosen,
) -> Response {
    let Some(rate) = fields.number::<u32>("rate").filter(|rate| (1..=10_000).contains(rate)) else {
        return refused(&guest, "The rate is a number of letters a second, 1 to 10000.");
    };
    let book = match shared.desk.letters().await {
        Ok(book) => book,
        Err(why) => return failed(&guest, StatusCode::SERVICE_UNAVAILABLE, &why),
    };
    let what = format!("redrive {}, {rate} a second", chosen.words());
    let redrive = Redrive { per_second: rate, ..Redrive::default() };
    let begun = shared
        .work
        .begin(book, chosen.selection, redrive, |journal| journal.begin(&guest.visitor.name, what));
    match begun {
        Ok(()) => to(&guest, "/letters"),
        Err(busy) => failed(&guest, StatusCode::TOO_MANY_REQUESTS, &busy.to_string()),
    }
}

/// Stops a redrive that was begun here.
pub(super) async fn stop(
    State(shared): State<Arc<Shared>>,
    guest: Guest,
    Fields(fields): Fields,
) -> Response {
    let Some(number) = fields.number::<u64>("number") else { return refused(&guest, "Which one?") };
    let entry = shared.journal.begin(&guest.visitor.name, format!("stop the redrive {number}"));
    let stopped = if shared.work.stop(number) { "told to stop" } else { "it was over" };
    shared.journal.end(entry, Ok(stopped.to_owned()));
    to(&guest, "/letters")
}

/// Deletes letters, if it was typed how many.
pub(super) async fn discard(
    State(shared): State<Arc<Shared>>,
    guest: Guest,
    Fields(fields): Fields,
    chosen: Chosen,
) -> Response {
    let selection = chosen.selection.clone();
    let count = match shared.desk.ask(move |drawer| drawer.letters()?.count(&selection).map_err(said)).await {
        Ok(count) => count,
        Err(why) => return failed(&guest, StatusCode::SERVICE_UNAVAILABLE, &why),
    };
    if fields.get("confirm") != Some(&*format!("discard {count}")) {
        let why = format!("Type `discard {count}`: so many it would be now. Go back to look at them again.");
        return failed(&guest, StatusCode::CONFLICT, &why);
    }
    let what = format!("discard {}", chosen.words());
    let discard = move |drawer: &mut Drawer| {
        let discarded = drawer.letters()?.discard(&chosen.selection).map_err(said)?;
        Ok(format!("{discarded} discarded"))
    };
    act(&shared, &guest, what, "/letters", discard).await
}

/// Writes another event in a letter's place.
pub(super) async fn edit(
    State(shared): State<Arc<Shared>>,
    guest: Guest,
    Path(id): Path<String>,
    Fields(fields): Fields,
) -> Response {
    let Ok(id) = id.parse::<i64>() else { return refused(&guest, "A letter has a number.") };
    let Some(text) = fields.get("payload").filter(|text| envelope::is_object(text)) else {
        return refused(&guest, "An event is a JSON object.");
    };
    let text = text.to_owned();
    let edit = move |drawer: &mut Drawer| {
        drawer.letters()?.edit(id, text.as_bytes()).map_err(said)?;
        Ok(format!("{} bytes", text.len()))
    };
    act(&shared, &guest, format!("edit the dead letter {id}"), &format!("/letter/{id}"), edit).await
}
