//! Where events come in, and visitors read them.

use std::hash::{BuildHasher as _, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use emitter_core::envelope::EncodeError;
use emitter_core::metrics::OnceInAWhile;
use emitter_core::model::{EventBody, Model};
use emitter_core::{Again, Event};
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
    /// In order.
    keys: Vec<String>,
    /// Whether a visitor may be told of it; all may where nobody asks.
    may: Option<May<V>>,
}

/// Asks whether a visitor may be told of an event.
pub(super) type May<V> = Box<dyn Fn(&V) -> bool + Send + Sync>;

impl<V> Item<V> {
    fn is_for(&self, visitor: &V, selection: &Selection, panicked: &OnceInAWhile) -> bool {
        if !selection.has(self.model, &self.kind, &self.keys) {
            return false;
        }
        let Some(may) = &self.may else { return true };
        // It is the application's code.
        catch_unwind(AssertUnwindSafe(|| may(visitor))).unwrap_or_else(|_| {
            panicked.log(|more| {
                error!(
                    kind = self.kind,
                    more, "what decides whether a visitor may be told of an event panicked: it may not"
                );
            });
            false
        })
    }
}

#[derive(Debug, Clone, Copy)]
struct Now {
    end: Place,
    is_closed: bool,
}

/// Heartbeats come no oftener.
const OFTEN: Duration = Duration::from_millis(10);

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
    panicked: OnceInAWhile,
}

impl<V> Hub<V> {
    pub(super) fn new(mut config: StreamConfig) -> Self {
        config.heartbeat = config.heartbeat.max(OFTEN);
        Self {
            // By the system's random numbers: no two lives on any machine have the same.
            life: RandomState::new().hash_one("life"),
            ring: Mutex::new(Ring::new(config.keep_events.max(1), config.keep_bytes)),
            now: watch::Sender::new(Now { end: 0, is_closed: false }),
            places: Arc::new(Semaphore::new(config.max_visitors.min(Semaphore::MAX_PERMITS))),
            told: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            panicked: OnceInAWhile::every(Duration::from_secs(10)),
            config,
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring<Item<V>>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells visitors of an event, but for one that was told, such as that of a dead node, which its heir hands to
    /// listeners once more; and for one that somebody replays, which is older than what pages show.
    pub(super) fn push<T: EventBody>(
        &self,
        event: &Event<T>,
        may: Option<May<V>>,
    ) -> Result<(), EncodeError> {
        if event.meta().again() == Some(Again::Replayed) {
            return Ok(());
        }
        let json = one_line(event.to_json()?);
        let kind = event.kind();
        let mut keys: Vec<String> = event.keys().iter().map(ToString::to_string).collect();
        keys.sort_unstable();
        let mut ring = self.ring();
        if ring.knows(event.id()) {
            return Ok(());
        }
        let after = self.cursor(ring.end().saturating_add(1));
        // It is an object that is not empty.
        let text = format!("{{\"cursor\":\"{after}\",{}", json.get(1..).unwrap_or("}"));
        // Who is asked is shown the event itself, which is about as long as its text.
        let texts = if may.is_some() { 2 * text.len() } else { text.len() };
        let keys_bytes: usize = keys.iter().map(|key| size_of::<String>() + key.len()).sum();
        let bytes = size_of::<Item<V>>() + texts + kind.len() + keys_bytes;
        let item = Item { text: text.into(), after, model: T::Model::NAME, kind, keys, may };
        let end = ring.push(event.id(), bytes, item);
        drop(ring);
        self.now.send_modify(|now| now.end = now.end.max(end));
        Ok(())
    }

    /// Sends all visitors away, and lets nobody in.
    pub(super) fn close(&self) {
        self.now.send_modify(|now| now.is_closed = true);
    }

    /// Waits until everybody has gone.
    pub(super) async fn emptied(&self) {
        // Each visit has a receiver.
        self.now.closed().await;
    }

    /// Where one is who has been told everything.
    pub(super) fn here(&self) -> Cursor {
        self.cursor(self.ring().end())
    }

    /// So many events before that, or as many as there are.
    #[cfg(feature = "dashboard")]
    pub(super) fn before(&self, events: u64) -> Cursor {
        self.cursor(self.ring().before(events))
    }

    fn cursor(&self, place: Place) -> Cursor {
        Cursor { life: self.life, place }
    }

    pub(super) fn stats(&self) -> StreamStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StreamStats {
            visitors: self.now.receiver_count(),
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
            heartbeat: after(begun, self.config.heartbeat),
            end: after(begun, self.config.max_visit),
            permit: Arc::new(permit),
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
    /// Its place, until it and what servers hold for it are gone.
    pub(super) permit: Arc<OwnedSemaphorePermit>,
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

/// How long events are gathered for a visitor that has just looked at some: to wake each of many visitors, and to write to
/// it, costs more than what is written.
const PACE: Duration = Duration::from_millis(25);

impl<V> Visit<V> {
    /// Waits until there is something to tell. Dropped while it waits, it has lost nothing.
    pub(super) async fn next(&mut self) -> Told<V> {
        let Some(mut place) = self.place else {
            return self.reload();
        };
        loop {
            let now = *self.now.borrow_and_update();
            let moment = Instant::now();
            if now.is_closed || moment >= self.end {
                return Told::Over;
            }
            // Also where there are events all the time: who answers none is gone.
            if moment >= self.heartbeat {
                self.heartbeat = after(moment, self.hub.config.heartbeat);
                return Told::Heartbeat(self.hub.cursor(place));
            }
            if now.end > place {
                sleep_until(self.not_before).await;
                let Some(items) = self.hub.ring().from(place, BATCH, BATCH_BYTES) else {
                    return self.reload();
                };
                // Also where it wants none of them: to look costs about as much.
                self.not_before = after(Instant::now(), PACE);
                place = place.saturating_add(items.len() as u64);
                self.place = Some(place);
                let (visitor, panicked) = (&self.visitor, &self.hub.panicked);
                let wanted = |item: &Arc<Item<V>>| item.is_for(visitor, &self.selection, panicked);
                let wanted: Vec<_> = items.into_iter().filter(wanted).collect();
                if !wanted.is_empty() {
                    self.hub.told.fetch_add(wanted.len() as u64, Ordering::Relaxed);
                    return Told::Events(wanted);
                }
                continue;
            }
            tokio::select! {
                changed = self.now.changed() => if changed.is_err() { return Told::Over },
                () = sleep_until(self.end.min(self.heartbeat)) => {}
            }
        }
    }

    fn reload(&mut self) -> Told<V> {
        self.hub.reloads.fetch_add(1, Ordering::Relaxed);
        let here = self.hub.here();
        self.place = Some(here.place);
        Told::Reload(here)
    }

    /// Where it is, if it is anywhere.
    pub(super) fn whereabouts(&self) -> Option<Cursor> {
        self.place.map(|place| self.hub.cursor(place))
    }
}

/// A moment so far from another; what no clock reaches is as good as never.
fn after(moment: Instant, duration: Duration) -> Instant {
    const THIRTY_YEARS: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    moment + duration.min(THIRTY_YEARS)
}

/// JSON on one line, as an `EventSource` needs it. A line ends within it only between tokens, where a row has JSON
/// of its own (`RawValue`): within texts it is written `\n`.
fn one_line(json: String) -> String {
    if json.contains(['\n', '\r']) { json.replace(['\n', '\r'], " ") } else { json }
}

#[cfg(test)]
mod tests {
    use emitter_core::{Emits, Emitter, Subscription};
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Clone, Serialize, Deserialize, Emits)]
    #[emits(event)]
    struct Alarm {
        level: u8,
    }

    #[test]
    fn json_is_on_one_line() {
        assert_eq!(one_line(r#"{"a":"\n"}"#.to_owned()), r#"{"a":"\n"}"#);
        assert_eq!(one_line("{\r\n\"a\":\n1}".to_owned()), "{  \"a\": 1}");
    }

    #[tokio::test]
    async fn an_event_that_comes_again_is_told_once() {
        let emitter = Emitter::builder().start().await.unwrap();
        let hub = Arc::new(Hub::<()>::new(StreamConfig::default()));
        let hears = Arc::clone(&hub);
        let subscription = emitter.on::<Alarm>().run(move |event| {
            let told = hears.push(&event, None).and_then(|()| hears.push(&event, None));
            async move { told }
        });
        assert!(subscription.is_active());
        let mut visit = hub.enter((), Selection::default(), None).unwrap();
        emitter.publish(Alarm { level: 1 });
        emitter.publish(Alarm { level: 2 });
        let mut told = Vec::new();
        while told.len() < 2 {
            if let Told::Events(items) = visit.next().await {
                told.extend(items.iter().map(|item| item.after.place));
            }
        }
        assert_eq!((told, hub.here().place), (vec![1, 2], 2));
    }

    /// A hub that asks `may` of each alarm, and what it hears by.
    async fn hearing(
        may: impl Fn() -> bool + Send + Sync + 'static,
    ) -> (Emitter, Arc<Hub<()>>, Subscription) {
        let emitter = Emitter::builder().start().await.unwrap();
        let hub = Arc::new(Hub::<()>::new(StreamConfig::default()));
        let (hears, may) = (Arc::clone(&hub), Arc::new(may));
        let subscription = emitter.on::<Alarm>().run(move |event| {
            let may = Arc::clone(&may);
            let told = hears.push(&event, Some(Box::new(move |()| may())));
            async move { told }
        });
        (emitter, hub, subscription)
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_see_nothing_looks_no_oftener_than_others() {
        let looked = Arc::new(Mutex::new(Vec::new()));
        let looks = Arc::clone(&looked);
        let (emitter, hub, _hears) = hearing(move || {
            looks.lock().unwrap().push(Instant::now());
            false
        })
        .await;
        let mut visit = hub.enter((), Selection::default(), None).unwrap();
        let publishing = async {
            for _ in 0..100 {
                emitter.publish(Alarm { level: 1 });
                tokio::time::sleep(PACE / 5).await;
            }
            tokio::time::sleep(PACE * 2).await;
        };
        tokio::select! { () = publishing => {}, _ = visit.next() => panic!("it was told something") }
        let mut looked = looked.lock().unwrap();
        assert_eq!(looked.len(), 100);
        looked.dedup();
        assert!((10..=22).contains(&looked.len()), "it looked {} times", looked.len());
    }

    struct Errors(Arc<AtomicU64>);

    impl tracing::Subscriber for Errors {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::ERROR
        }

        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[tokio::test]
    async fn what_panics_for_each_visitor_and_event_is_logged_now_and_then() {
        let errors = Arc::new(AtomicU64::new(0));
        let _guard = tracing::subscriber::set_default(Errors(Arc::clone(&errors)));
        let (emitter, hub, _hears) = hearing(|| panic!("it cannot decide")).await;
        let begin = hub.here();
        for level in 0..20 {
            emitter.publish(Alarm { level });
        }
        while hub.here().place < 20 {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            let mut visit = hub.enter((), Selection::default(), Some(Ok(begin))).unwrap();
            let told = tokio::time::timeout(PACE, visit.next()).await;
            assert!(told.is_err(), "who may is not known");
            assert_eq!(visit.whereabouts().unwrap().place, 20);
        }
        assert_eq!(errors.load(Ordering::SeqCst), 1);
    }
}
