//! A visit over a WebSocket.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::timeout;

use super::hub::{Told, Visit};
use super::selection::Selection;

/// The longest message of a visitor: a [`Selection`].
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// What is kept for each visitor of what it says and is told. Tungstenite's own are 128 KiB each, of which a
/// thousand visitors fill all the memory that a small server has.
const READ_BYTES: usize = 4 * 1024;
const WRITE_BYTES: usize = 16 * 1024;

/// How many heartbeats a browser may leave unanswered.
const UNANSWERED: u32 = 2;

/// How long is waited for a visitor's own farewell. Without it what it has said and nobody read would reset the
/// connection, and the code get lost.
const PARTING: Duration = Duration::from_secs(1);

/// What has to be said of a WebSocket before it is one.
pub(super) fn bounded(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    let upgrade = upgrade.max_message_size(MAX_MESSAGE_BYTES).max_frame_size(MAX_MESSAGE_BYTES);
    upgrade.read_buffer_size(READ_BYTES).write_buffer_size(WRITE_BYTES)
}

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
const FAREWELL: Farewell = Farewell { code: close_code::NORMAL, reason: "" };

/// Tells a visitor of events until one of both ends it.
pub(super) async fn attend<V>(socket: WebSocket, mut visit: Visit<V>) {
    let patience = visit.hub.config.patience;
    let (mut out, mut back) = socket.split();
    let Farewell { code, reason } = match tell_all(&mut out, &mut back, &mut visit).await {
        Ok(farewell) => farewell,
        Err(Lost::Gone) => return,
        Err(Lost::Dropped) => {
            visit.hub.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
    };
    let frame = CloseFrame { code, reason: reason.into() };
    // One who said farewell first is answered that, and this fails.
    let _ = tell(&mut out, [Message::Close(Some(frame))], patience).await;
    let gone = async { while let Some(Ok(_)) = back.next().await {} };
    // Either is an end.
    let _ = timeout(patience.min(PARTING), gone).await;
}

/// Until there is a reason to part.
async fn tell_all<V>(
    out: &mut SplitSink<WebSocket, Message>,
    back: &mut SplitStream<WebSocket>,
    visit: &mut Visit<V>,
) -> Result<Farewell, Lost> {
    let hub = Arc::clone(&visit.hub);
    let note = |name, cursor| Message::Text(super::note(name, cursor, hub.config.heartbeat).into());
    let patience = hub.config.patience;
    if let Some(cursor) = visit.whereabouts() {
        tell(out, [note("hello", cursor)], patience).await?;
    }
    let mut unanswered = 0;
    loop {
        tokio::select! {
            told = visit.next() => {
                let messages = match told {
                    Told::Events(items) => {
                        items.iter().map(|item| Message::Text(item.text.clone())).collect()
                    }
                    Told::Heartbeat(_) if unanswered >= UNANSWERED => return Err(Lost::Dropped),
                    Told::Heartbeat(cursor) => {
                        unanswered += 1;
                        vec![note("heartbeat", cursor), Message::Ping(Bytes::new())]
                    }
                    Told::Reload(cursor) => {
                        tell(out, [note("reload", cursor)], patience).await?;
                        return Ok(RELOAD);
                    }
                    Told::Over => return Ok(OVER),
                };
                tell(out, messages, patience).await?;
            }
            said = listen(back) => match said {
                Said::Select(selection) => (visit.selection, unanswered) = (selection, 0),
                Said::Alive => unanswered = 0,
                Said::Nonsense => return Ok(NOT_UNDERSTOOD),
                Said::Farewell => return Ok(FAREWELL),
            },
        }
    }
}

/// Sends messages, all of them soon, or the visitor is too slow.
async fn tell(
    out: &mut SplitSink<WebSocket, Message>,
    messages: impl IntoIterator<Item = Message>,
    patience: Duration,
) -> Result<(), Lost> {
    let all = async {
        for message in messages {
            out.feed(message).await?;
        }
        out.flush().await
    };
    match timeout(patience, all).await {
        Ok(sent) => sent.map_err(|_: axum::Error| Lost::Gone),
        Err(_) => Err(Lost::Dropped),
    }
}

/// Why a visitor is told no more.
enum Lost {
    /// Its connection has ended.
    Gone,
    /// It takes nothing, or answers nothing.
    Dropped,
}

/// What a visitor says.
enum Said {
    Select(Selection),
    Alive,
    Nonsense,
    Farewell,
}

/// Waits for it.
async fn listen(back: &mut SplitStream<WebSocket>) -> Said {
    match back.next().await {
        Some(Ok(Message::Text(text))) => {
            Selection::of_message(text.as_str()).map_or(Said::Nonsense, Said::Select)
        }
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Said::Alive,
        Some(Ok(Message::Close(_))) | None => Said::Farewell,
        // Too long, or against the protocol; or the connection is gone, and nobody hears the answer.
        Some(Ok(Message::Binary(_)) | Err(_)) => Said::Nonsense,
    }
}
