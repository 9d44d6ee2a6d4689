//! A visit over a WebSocket.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::{Instant, timeout_at};

use super::hub::{Told, Visit};
use super::selection::Selection;

/// The longest message of a visitor: a [`Selection`].
pub(super) const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// How many heartbeats a browser may leave unanswered.
const UNANSWERED: u32 = 2;

/// Why a visit ends, as its page is told.
struct Farewell {
    code: u16,
    reason: &'static str,
}

const RELOAD: Farewell = Farewell { code: super::MUST_RELOAD, reason: super::RELOAD_REASON };
const OVER: Farewell = Farewell { code: close_code::RESTART, reason: "come again" };
const NOT_UNDERSTOOD: Farewell = Farewell {
    code: close_code::POLICY,
    reason: "send `{\"select\":{\"models\":[…],\"kinds\":[…],\"keys\":[…]}}`",
};

/// Tells a visitor of events until one of both ends it.
pub(super) async fn attend<V>(socket: WebSocket, mut visit: Visit<V>) {
    let patience = visit.hub.config.patience;
    let (mut out, mut back) = socket.split();
    let hello = visit.whereabouts().map(|cursor| super::note("hello", cursor, visit.hub.config.heartbeat));
    if let Some(hello) = hello
        && !tell(&mut out, [Message::Text(hello.into())], patience).await
    {
        return;
    }
    let mut unanswered = 0;
    let farewell = loop {
        tokio::select! {
            told = visit.next() => {
                let messages: Vec<Message> = match told {
                    Told::Events(items) => {
                        items.iter().map(|item| Message::Text(item.text.clone())).collect()
                    }
                    Told::Heartbeat(_) if unanswered >= UNANSWERED => return,
                    Told::Heartbeat(cursor) => {
                        unanswered += 1;
                        let note = super::note("heartbeat", cursor, visit.hub.config.heartbeat);
                        vec![Message::Text(note.into()), Message::Ping(axum::body::Bytes::new())]
                    }
                    Told::Reload(cursor) => {
                        let note = super::note("reload", cursor, visit.hub.config.heartbeat);
                        if !tell(&mut out, [Message::Text(note.into())], patience).await {
                            return;
                        }
                        break RELOAD;
                    }
                    Told::Over => break OVER,
                };
                if !tell(&mut out, messages, patience).await {
                    visit.hub.dropped.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
            said = listen(&mut back) => match said {
                Some(Said::Select(selection)) => (visit.selection, unanswered) = (selection, 0),
                Some(Said::Alive) => unanswered = 0,
                Some(Said::Nonsense) => break NOT_UNDERSTOOD,
                None => return,
            },
        }
    };
    let frame = CloseFrame { code: farewell.code, reason: farewell.reason.into() };
    tell(&mut out, [Message::Close(Some(frame))], patience).await;
}

/// Sends messages, all of them soon, or the visitor is too slow.
async fn tell(
    out: &mut SplitSink<WebSocket, Message>,
    messages: impl IntoIterator<Item = Message>,
    patience: Duration,
) -> bool {
    let end = Instant::now() + patience;
    let all = async {
        for message in messages {
            out.feed(message).await?;
        }
        out.flush().await
    };
    matches!(timeout_at(end, all).await, Ok(Ok(())))
}

/// What a visitor says.
enum Said {
    Select(Selection),
    Alive,
    Nonsense,
}

/// Waits for it. `None` when the visitor is gone.
async fn listen(back: &mut SplitStream<WebSocket>) -> Option<Said> {
    Some(match back.next().await?.ok()? {
        Message::Text(text) => Selection::of_message(text.as_str()).map_or(Said::Nonsense, Said::Select),
        Message::Binary(_) => Said::Nonsense,
        Message::Ping(_) | Message::Pong(_) => Said::Alive,
        Message::Close(_) => return None,
    })
}
