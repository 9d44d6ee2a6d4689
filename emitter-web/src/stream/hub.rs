//! Where events come in, and visitors read them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use emitter_core::Event;
use emitter_core::envelope::EncodeError;
use emitter_core::model::{EventBody, Model};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};
use tracing::error;

use super::cursor::Cursor;
use super::ring::{Place, Ring};
use super::selection::Selection;
use super::{StreamConfig, StreamStats};

/// An event as it is told.
pub(super) struct Item<V> {
    /// Its JSON, with its cursor.
    pub(super) text: Utf8Bytes,
    /// Where a page is that has it.
    pub(super) after: Cursor,
    model: &'static str,
    kind: String,
    keys: Vec<String>,
    /// Whether a visitor may be told of it; all may where nobody asks.
    may: Option<May<V>>,
}

/// Asks whether a visitor may be told of an event.
pub(super) type May<V> = Box<dyn Fn(&V) -> bool + Send + Sync>;

impl<V> Item<V> {
    fn is_for(&self, visitor: &V, selection: &Selection) -> bool {
        if !selection.has(self.model, &self.kind, &self.keys) {
            return false;
        }
        let Some(may) = &self.may else { return true };
        // It is the application's code.
        catch_unwind(AssertUnwindSafe(|| may(visitor))).unwrap_or_else(|_| {
            error!(
                kind = self.kind,
                "what decides whether a visitor may be told of an event panicked: it may not"
            );
            false
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Now {
    end: Place,
    is_closed: bool,
}

/// What visitors share.
pub(super) struct Hub<V> {
    pub(super) config: StreamConfig,
    life: u64,
    ring: Mutex<Ring<Item<V>>>,
    now: watch::Sender<Now>,
    places: Arc<Semaphore>,
    told: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) reloads: AtomicU64,
}

impl<V> Hub<V> {
    pub(super) fn new(config: StreamConfig) -> Self {
        Self {
            life: fastrand::u64(..),
            ring: Mutex::new(Ring::new(config.keep_events, config.keep_bytes)),
            now: watch::Sender::new(Now { end: 0, is_closed: false }),
            places: Arc::new(Semaphore::new(config.max_visitors.min(Semaphore::MAX_PERMITS))),
            told: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            config,
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring<Item<V>>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells visitors of an event.
    pub(super) fn push<T: EventBody>(
        &self,
        event: &Event<T>,
        may: Option<May<V>>,
    ) -> Result<(), EncodeError> {
        let json = event.to_json()?;
        let kind = event.kind();
        let keys: Vec<String> = event.keys().iter().map(ToString::to_string).collect();
        let mut ring = self.ring();
        let after = Cursor { life: self.life, place: ring.end() + 1 };
        // It is an object that is not empty.
        let text = format!("{{\"cursor\":\"{after}\",{}", json.get(1..).unwrap_or("}"));
        let bytes =
            size_of::<Item<V>>() + text.len() + kind.len() + keys.iter().map(String::len).sum::<usize>();
        let item = Item { text: text.into(), after, model: T::Model::NAME, kind, keys, may };
        let end = ring.push(bytes, item);
        drop(ring);
        self.now.send_modify(|now| now.end = now.end.max(end));
        Ok(())
    }

    pub(super) fn close(&self) {
        self.now.send_modify(|now| now.is_closed = true);
    }

    pub(super) fn stats(&self) -> StreamStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StreamStats {
            visitors: self.config.max_visitors.saturating_sub(self.places.available_permits()),
            told: count(&self.told),
            dropped: count(&self.dropped),
            reloads: count(&self.reloads),
        }
    }

    /// Lets a visitor in, behind this cursor, or now. `None` where the house is full or closed.
    pub(super) fn enter(
        self: &Arc<Self>,
        visitor: V,
        selection: Selection,
        cursor: Option<Result<Cursor, super::cursor::NoCursor>>,
    ) -> Option<Visit<V>> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let now = self.now.subscribe();
        if now.borrow().is_closed {
            return None;
        }
        let place = match cursor {
            None => Some(self.ring().end()),
            Some(Ok(Cursor { life, place })) => {
                (life == self.life && self.ring().has(place)).then_some(place)
            }
            Some(Err(_)) => None,
        };
        let begun = Instant::now();
        Some(Visit {
            hub: Arc::clone(self),
            visitor,
            selection,
            place,
            now,
            not_before: begun,
            heartbeat: begun + self.config.heartbeat,
            end: begun + self.config.max_visit,
            _permit: permit,
        })
    }
}

/// A visitor who is being told of events.
pub(super) struct Visit<V> {
    pub(super) hub: Arc<Hub<V>>,
    visitor: V,
    pub(super) selection: Selection,
    /// `None` where its cursor means nothing here.
    place: Option<Place>,
    now: watch::Receiver<Now>,
    /// When it is told the next ones at the earliest.
    not_before: Instant,
    heartbeat: Instant,
    end: Instant,
    _permit: OwnedSemaphorePermit,
}

/// What a visitor is told next.
pub(super) enum Told<V> {
    Events(Vec<Arc<Item<V>>>),
    /// That the stream is alive, and how far the visitor is: events that are not for it count, too.
    Heartbeat(Cursor),
    /// That it has missed events, and had better begin anew, from here on.
    Reload(Cursor),
    /// That it should come again: the visit took as long as one may, or the stream is closed.
    Over,
}

/// How many events, and about how many bytes of them, a visitor is told at once.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 256 * 1024;

/// How long events are gathered for a visitor that has just been told some: a write to each of many visitors costs
/// more than what is written.
const PACE: Duration = Duration::from_millis(25);

impl<V> Visit<V> {
    /// Waits until there is something to tell. Dropped while it waits, it has lost nothing.
    pub(super) async fn next(&mut self) -> Told<V> {
        let Some(mut place) = self.place else {
            return self.reload();
        };
        loop {
            let now = *self.now.borrow_and_update();
            if now.is_closed || Instant::now() >= self.end {
                return Told::Over;
            }
            if now.end > place {
                sleep_until(self.not_before).await;
                let Some(items) = self.hub.ring().from(place, BATCH, BATCH_BYTES) else {
                    return self.reload();
                };
                place = place.saturating_add(items.len() as u64);
                self.place = Some(place);
                let wanted = items.into_iter().filter(|item| item.is_for(&self.visitor, &self.selection));
                let wanted: Vec<_> = wanted.collect();
                if !wanted.is_empty() {
                    let begun = Instant::now();
                    (self.not_before, self.heartbeat) = (begun + PACE, begun + self.hub.config.heartbeat);
                    self.hub.told.fetch_add(wanted.len() as u64, Ordering::Relaxed);
                    return Told::Events(wanted);
                }
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                changed = self.now.changed() => if changed.is_err() { return Told::Over },
                () = sleep_until(self.end) => return Told::Over,
                () = sleep_until(self.heartbeat) => {
                    self.heartbeat = Instant::now() + self.hub.config.heartbeat;
                    return Told::Heartbeat(self.cursor(place));
                }
            }
        }
    }

    fn reload(&mut self) -> Told<V> {
        self.hub.reloads.fetch_add(1, Ordering::Relaxed);
        let end = self.hub.ring().end();
        self.place = Some(end);
        Told::Reload(self.cursor(end))
    }

    /// Where it is, if it is anywhere.
    pub(super) fn whereabouts(&self) -> Option<Cursor> {
        self.place.map(|place| self.cursor(place))
    }

    fn cursor(&self, place: Place) -> Cursor {
        Cursor { life: self.hub.life, place }
    }
}
