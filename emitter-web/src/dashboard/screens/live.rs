//! Events as they happen.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Html;
use maud::html;

use crate::dashboard::access::Guest;
use crate::dashboard::{Shared, frame};

/// So many that came before are shown at first.
const BEFORE: u64 = 50;

pub(crate) async fn draw(State(shared): State<Arc<Shared>>, guest: Guest) -> Html<String> {
    let mut models = shared.models.clone();
    models.sort_unstable();
    models.dedup();
    let content = html! {
        @if models.is_empty() {
            (frame::nothing("No model is shown live: name some by `Dashboard::builder(&emitter).live::<OrderEvent>()`."))
        } @else {
            form .bar #live-filter role="search" {
                label { "Model" select name="model" { option value="" { "all" } @for model in &models { option { (model) } } } }
                label { "Key" input name="key" autocomplete="off" size="12"; }
                button type="submit" { "Filter" }
                button type="button" #live-pause aria-pressed="false" { "Pause" }
                span #live-status .pill role="status" { "connecting" }
            }
            noscript { p .nothing { "What happens now is shown by a script, which your browser does not run." } }
            div .table tabindex="0" {
                table #live data-cursor=(shared.live.cursor_before(BEFORE)) {
                    thead { tr { th { "Time" } th { "Kind" } th { "Key" } th { "Changed" } th { "Event" } th { "Payload" } } }
                    tbody {}
                }
            }
        }
    };
    frame::page(&guest, "/live", "Live", false, &content)
}
