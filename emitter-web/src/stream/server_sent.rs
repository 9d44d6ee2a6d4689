//! A visit over server-sent events, as the [HTML standard] has them.
//!
//! [HTML standard]: https://html.spec.whatwg.org/multipage/server-sent-events.html

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::hub::{Item, Told, Visit};

/// How much is given to the server at a time.
const PIECE_BYTES: usize = 8 * 1024;

/// How many pieces the server has that are not on their way yet. It asks for more until it has 16 of them, or 400 KiB
/// (hyper, by HTTP/1): as it never has, it hears at once that a visitor was dropped, and ends its connection.
const PIECES: usize = 4;

/// Longer events are not copied.
const COPIED_BYTES: usize = 2 * 1024;

/// The answer that does not end.
///
/// Its visit is a task of its own, as a WebSocket's is, for by HTTP/2 a server asks an answer for more only when it can
/// send more: nobody else would notice a visitor that does not read. The task ends with the visit, which
/// [`Stream::close`](super::Stream::close) waits for. The visitor's place is taken until the server has let go of the answer,
/// so what servers still hold is bounded, too.
pub(super) fn answer<V: Send + Sync + 'static>(visit: Visit<V>) -> Response {
    // With room for the last word.
    let (pieces, given) = mpsc::channel(PIECES + 1);
    let (room, patience) = (Arc::new(Semaphore::new(PIECES)), visit.hub.config.patience);
    let taken = Arc::clone(&visit.permit);
    tokio::spawn(attend(Out { pieces, room, patience }, visit));
    let pieces = stream::unfold((given, taken), async |(mut given, taken)| {
        let piece = given.recv().await?;
        Some((piece, (given, taken)))
    });
    // What is compressed on its way is gathered on its way; and nginx gathers answers otherwise.
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store, no-transform")];
    (headers, [("x-accel-buffering", "no")], Body::from_stream(pieces)).into_response()
}

/// Tells a visitor of events until one of both ends it.
async fn attend<V>(out: Out, mut visit: Visit<V>) {
    if let Err(Lost::Dropped) = tell_all(&out, &mut visit).await {
        visit.hub.dropped.fetch_add(1, Ordering::Relaxed);
        // There is room for it, but where the server has not even taken what there was.
        let _ = out.pieces.try_send(Err(TakesNothing));
    }
}

async fn tell_all<V>(out: &Out, visit: &mut Visit<V>) -> Result<(), Lost> {
    let heartbeat = visit.hub.config.heartbeat;
    if let Some(cursor) = visit.whereabouts() {
        let hello = super::note("hello", cursor, heartbeat);
        out.tell(format!("event: hello\nid: {cursor}\ndata: {hello}\n\n")).await?;
    }
    loop {
        let told = tokio::select! {
            told = visit.next() => told,
            () = out.pieces.closed() => return Err(Lost::Gone),
        };
        match told {
            Told::Events(items) => out.tell_of(&items).await?,
            // Without data nothing is dispatched, and the page's cursor goes on all the same.
            Told::Heartbeat(cursor) => out.tell(format!(": heartbeat\nid: {cursor}\n\n")).await?,
            Told::Reload(cursor) => {
                let note = super::note("reload", cursor, heartbeat);
                out.tell(format!("event: reload\nid: {cursor}\ndata: {note}\n\n")).await?;
            }
            Told::Over => return Ok(()),
        }
    }
}

/// The way to the server.
struct Out {
    pieces: mpsc::Sender<Result<Bytes, TakesNothing>>,
    room: Arc<Semaphore>,
    patience: Duration,
}

impl Out {
    /// Events, the long ones of which all visitors share.
    async fn tell_of<V>(&self, items: &[Arc<Item<V>>]) -> Result<(), Lost> {
        let mut text = String::new();
        for item in items {
            let _ = write!(text, "id: {}\ndata: ", item.after);
            if item.text.len() <= COPIED_BYTES {
                text.push_str(&item.text);
            } else {
                self.give(std::mem::take(&mut text).into()).await?;
                self.give(item.text.clone().into()).await?;
            }
            text.push_str("\n\n");
            if text.len() >= PIECE_BYTES {
                self.give(std::mem::take(&mut text).into()).await?;
            }
        }
        self.tell(text).await
    }

    /// A text, and waits until all is on its way.
    async fn tell(&self, text: String) -> Result<(), Lost> {
        self.give(text.into()).await?;
        self.room(PIECES).await.map(drop)
    }

    /// Gives bytes to the server, as far as it gets rid of them.
    async fn give(&self, mut bytes: Bytes) -> Result<(), Lost> {
        while !bytes.is_empty() {
            let room = self.room(1).await?;
            let bytes = bytes.split_to(bytes.len().min(PIECE_BYTES));
            let piece = Bytes::from_owner(Piece { bytes, _room: room });
            self.pieces.try_send(Ok(piece)).map_err(|_| Lost::Gone)?;
        }
        Ok(())
    }

    /// Waits until the server has got rid of so many pieces that there is room for so many.
    async fn room(&self, pieces: usize) -> Result<OwnedSemaphorePermit, Lost> {
        let room = Arc::clone(&self.room).acquire_many_owned(u32::try_from(pieces).unwrap_or(u32::MAX));
        match timeout(self.patience, room).await {
            Ok(room) => room.map_err(|_| Lost::Gone),
            Err(_) => Err(Lost::Dropped),
        }
    }
}

/// What the server was given. It drops it when it has written it.
struct Piece {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why a visitor is told no more.
enum Lost {
    /// Its connection has ended.
    Gone,
    /// It takes nothing.
    Dropped,
}

/// How an answer ends whose visitor was dropped: the server ends the connection.
#[derive(Debug, thiserror::Error)]
#[error("the visitor takes nothing")]
struct TakesNothing;

#[cfg(test)]
mod tests {
    use axum::body::BodyDataStream;
    use emitter_core::{Emits, Emitter, Subscription};
    use futures_util::StreamExt as _;
    use serde::{Deserialize, Serialize};

    use super::super::StreamConfig;
    use super::super::cursor::Cursor;
    use super::super::hub::Hub;
    use super::super::selection::Selection;
    use super::*;

    #[derive(Clone, Serialize, Deserialize, Emits)]
    #[emits(event)]
    struct Photo {
        bytes: String,
    }

    struct Stage {
        hub: Arc<Hub<()>>,
        begin: Cursor,
        _emitter: Emitter,
        _hears: Subscription,
    }

    impl Stage {
        /// One at which a photo was taken.
        async fn set(config: StreamConfig) -> Self {
            let emitter = Emitter::builder().start().await.unwrap();
            let hub = Arc::new(Hub::<()>::new(config));
            let (begin, hears) = (hub.here(), Arc::clone(&hub));
            let hears = emitter.on::<Photo>().run(move |event| {
                let told = hears.push(&event, None);
                async move { told }
            });
            emitter.publish(Photo { bytes: "x".repeat(20_000) });
            while hub.here() == begin {
                tokio::task::yield_now().await;
            }
            Self { hub, begin, _emitter: emitter, _hears: hears }
        }

        fn visit(&self) -> Option<BodyDataStream> {
            let visit = self.hub.enter((), Selection::default(), Some(Ok(self.begin)))?;
            Some(answer(visit).into_body().into_data_stream())
        }
    }

    #[tokio::test]
    async fn visitors_share_what_is_long() {
        let stage = Stage::set(StreamConfig::default()).await;
        let (mut one, mut two) = (stage.visit().unwrap(), stage.visit().unwrap());
        let (mut shared, mut copied) = (0, 0);
        for _ in 0..6 {
            let (piece, other) = (one.next().await.unwrap().unwrap(), two.next().await.unwrap().unwrap());
            if piece.as_ptr() == other.as_ptr() {
                shared += piece.len();
            } else {
                copied += piece.len();
            }
        }
        assert!(shared > 20_000 && copied < 500, "{copied} bytes were copied, {shared} are shared");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_has_its_place_until_nothing_of_it_is_left() {
        let config = StreamConfig { max_visitors: 1, ..StreamConfig::default() };
        let patience = config.patience;
        let stage = Stage::set(config).await;
        let answer = stage.visit().unwrap();
        tokio::time::sleep(patience * 2).await;
        assert_eq!((stage.hub.stats().dropped, stage.hub.stats().visitors), (1, 0));
        assert!(stage.visit().is_none(), "the server still has what it was given");
        drop(answer);
        assert!(stage.visit().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_server_hears_of_it_though_it_has_not_sent_what_it_has() {
        let stage = Stage::set(StreamConfig::default()).await;
        let mut answer = stage.visit().unwrap();
        let hello = answer.next().await.unwrap().unwrap();
        assert!(hello.starts_with(b"event: hello"));
        drop(hello);
        let mut unsent = Vec::new();
        while let Some(Ok(piece)) = answer.next().await {
            unsent.push(piece);
        }
        assert_eq!((unsent.len(), stage.hub.stats().dropped), (PIECES, 1));
        assert!(unsent.iter().all(|piece| piece.len() <= PIECE_BYTES));
    }
}
