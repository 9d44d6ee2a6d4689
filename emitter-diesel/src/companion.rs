//! Threads that begin and end with an emitter, for work with a database of the framework's own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use emitter_core::{BeginCompanion, Companion, Pulse, WeakEmitter};
use futures_util::{FutureExt, TryFutureExt};
use tokio::sync::oneshot;
use tracing::error;

/// Begins a thread once an emitter runs: `open` is waited for, and says what is wrong; `run` works until `end`
/// was called, or the emitter is there no more.
pub(crate) fn thread<T: 'static>(
    name: &'static str,
    open: impl FnOnce(&WeakEmitter) -> Result<T, String> + Send + 'static,
    run: impl FnOnce(T, WeakEmitter, &Arc<Activity>) + Send + 'static,
    end: impl FnOnce() + Send + 'static,
) -> BeginCompanion {
    Box::new(move |emitter| {
        async move {
            let (ready, is_ready) = oneshot::channel();
            let (ended, has_ended) = oneshot::channel::<()>();
            let activity = Arc::new(Activity::default());
            let asked = Arc::clone(&activity);
            let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                // Dropped at the end, however that comes.
                let _ended = ended;
                let watch = Watch { name, activity };
                match open(&emitter) {
                    Ok(opened) => {
                        // Nobody waits for it where the start was cancelled.
                        let _ = ready.send(Ok(()));
                        run(opened, emitter, &watch.activity);
                    }
                    Err(problem) => drop(ready.send(Err(problem))),
                }
            });
            let thread = spawned.map_err(|error| format!("no thread could be started: {error}"))?;
            is_ready.await.unwrap_or_else(|_| Err("its thread panicked".to_owned()))?;
            let end = move |deadline| {
                async move {
                    end();
                    // An error is an end, too; what is late is found in the tables by the next life.
                    if tokio::time::timeout_at(deadline, has_ended).await.is_ok() {
                        // That it panicked was said when it did.
                        let _ = thread.join();
                    }
                }
                .boxed()
            };
            Ok(Companion::new(end).pulse(move || asked.pulse()))
        }
        .boxed()
    })
}

/// The same, but that it ends after others.
pub(crate) fn after(others: &'static [&'static str], begin: BeginCompanion) -> BeginCompanion {
    Box::new(move |emitter| begin(emitter).map_ok(move |companion| companion.after(others)).boxed())
}

/// Asks a database once, on a thread of its own: the runtime would wait at its end for one of its
/// own, however long the database hangs. `None` where the thread did not start, or panicked, which is said.
pub(crate) async fn apart<R: Send + 'static>(
    name: &'static str,
    ask: impl FnOnce() -> R + Send + 'static,
) -> Option<R> {
    let (answered, answer) = oneshot::channel();
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _watch = Watch { name, activity: Arc::default() };
        // Nobody waits for it where the redrive was dropped.
        let _ = answered.send(ask());
    });
    if let Err(problem) = spawned {
        error!(%problem, "the thread {name} could not be started");
        return None;
    }
    answer.await.ok()
}

/// For how long a database may be silent before that is told.
const SILENCE: Duration = Duration::from_secs(20);

/// What a thread is at, as far as others are concerned.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Since when it works with its database; `None` while it waits for work.
    since: Mutex<Option<Instant>>,
    has_ended: AtomicBool,
}

impl Activity {
    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works with the database. No statement has a time-out: a database that hangs is found by nothing else.
    pub(crate) fn works<R>(&self, work: impl FnOnce() -> R) -> R {
        *self.since() = Some(Instant::now());
        let done = work();
        *self.since() = None;
        done
    }

    fn pulse(&self) -> Pulse {
        if self.has_ended.load(Ordering::Acquire) {
            return Pulse::Ended;
        }
        match self.since().map(|since| since.elapsed()) {
            Some(silent) if silent > SILENCE => {
                Pulse::Hindered(format!("no answer from its database for {} s", silent.as_secs()))
            }
            _ => Pulse::Works,
        }
    }
}

/// Says that a thread has ended, and when it panics, not only to who waits for its end.
struct Watch {
    name: &'static str,
    activity: Arc<Activity>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.activity.has_ended.store(true, Ordering::Release);
        if std::thread::panicking() {
            error!("the thread {} panicked: what it did for this node is done no more", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use emitter_core::{Emitter, HealthStatus};

    use super::*;

    #[tokio::test]
    async fn a_node_without_one_of_its_threads_runs_no_more() {
        let (go, may_go) = std::sync::mpsc::channel::<()>();
        let run = move |(), _, _: &Arc<Activity>| {
            may_go.recv().expect("it is told");
            panic!("on purpose");
        };
        let begin = thread("emitter-test", |_| Ok(()), run, || {});
        let emitter = Emitter::builder().companion("test", begin).start().await.expect("it starts");
        assert!(emitter.is_running() && emitter.health().reasons.is_empty());
        go.send(()).expect("it waits");
        while emitter.is_running() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let health = emitter.health();
        assert_eq!(health.status, HealthStatus::Unhealthy);
        assert!(health.reasons.iter().any(|reason| reason.starts_with("test: ")), "{:?}", health.reasons);
        assert!(emitter.shutdown(Duration::from_secs(5)).await.is_clean());
    }
}
