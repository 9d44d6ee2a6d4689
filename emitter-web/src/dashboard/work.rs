//! Redrives that go on after the page that began them was answered.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use emitter_core::Emitter;
use emitter_diesel::dead_letters::{DeadLetterBook, Redrive, Redriven, Selection};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use super::journal::Journal;

/// So many are under way at a time.
const AT_ONCE: u32 = 4;

/// What is under way.
pub(super) struct Work {
    emitter: Emitter,
    journal: Arc<Journal>,
    places: Arc<Semaphore>,
    under_way: Arc<Mutex<BTreeMap<u64, Arc<Notify>>>>,
}

/// As many are under way as may be, or the dashboard is closed.
#[derive(Debug)]
pub(super) struct Busy;

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{AT_ONCE} redrives are under way here already: wait for one, or stop it")
    }
}

impl Work {
    pub(super) fn new(emitter: &Emitter, journal: &Arc<Journal>) -> Self {
        let places = Arc::new(Semaphore::new(AT_ONCE as usize));
        let (emitter, journal) = (emitter.clone(), Arc::clone(journal));
        Self { emitter, journal, places, under_way: Arc::default() }
    }

    /// Begins a redrive, of which the journal tells the end.
    pub(super) fn begin(
        &self,
        book: DeadLetterBook,
        selection: Selection,
        redrive: Redrive,
        note: impl FnOnce(&Journal) -> u64,
    ) -> Result<(), Busy> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Busy)?;
        let (emitter, journal, under_way) =
            (self.emitter.clone(), Arc::clone(&self.journal), Arc::clone(&self.under_way));
        let (number, stop) = (note(&journal), Arc::new(Notify::new()));
        held(&under_way).insert(number, Arc::clone(&stop));
        tokio::spawn(async move {
            let _place = place;
            let outcome = tokio::select! {
                redriven = book.redrive(&emitter, &selection, redrive) => {
                    redriven.map(told).map_err(|error| error.to_string())
                }
                () = stop.notified() => Err("stopped; what was in progress is free again when its lease is over".to_owned()),
            };
            held(&under_way).remove(&number);
            journal.end(number, outcome);
        });
        Ok(())
    }

    /// Stops the redrive of this number in the journal; `false` where it is over.
    pub(super) fn stop(&self, number: u64) -> bool {
        let stop = held(&self.under_way).get(&number).cloned();
        stop.is_some_and(|stop| {
            stop.notify_one();
            true
        })
    }

    /// Whether it can be stopped.
    pub(super) fn is_under_way(&self, number: u64) -> bool {
        held(&self.under_way).contains_key(&number)
    }

    /// Begins no more, and waits for those that are under way; `false` where they took longer.
    pub(super) async fn close(&self, within: Duration) -> bool {
        let all = timeout(within, self.places.acquire_many(AT_ONCE)).await;
        self.places.close();
        matches!(all, Ok(Ok(_)))
    }
}

type UnderWay = BTreeMap<u64, Arc<Notify>>;

fn held(under_way: &Mutex<UnderWay>) -> MutexGuard<'_, UnderWay> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

fn told(redriven: Redriven) -> String {
    let Redriven { handled, failed, skipped, unheard, is_interrupted, .. } = redriven;
    let interrupted = if is_interrupted { "; the node ended in between" } else { "" };
    format!(
        "{handled} handled, {failed} failed again, {skipped} held back, {unheard} without a listener here{interrupted}"
    )
}
