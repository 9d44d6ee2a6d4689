//! Threads that begin and end with an emitter, for work with a database of the framework's own.

use emitter_core::{BeginCompanion, EndCompanion, WeakEmitter};
use futures_util::FutureExt;
use tokio::sync::oneshot;
use tracing::error;

/// Begins a thread once an emitter runs: `open` is waited for, and says what is wrong; `run` works until `end`
/// was called, or the emitter is there no more.
pub(crate) fn thread<T: 'static>(
    name: &'static str,
    open: impl FnOnce(&WeakEmitter) -> Result<T, String> + Send + 'static,
    run: impl FnOnce(T, WeakEmitter) + Send + 'static,
    end: impl FnOnce() + Send + 'static,
) -> BeginCompanion {
    Box::new(move |emitter| {
        async move {
            let (ready, is_ready) = oneshot::channel();
            let (ended, has_ended) = oneshot::channel::<()>();
            let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                // Dropped at the end, however that comes.
                let (_ended, _watch) = (ended, Watch(name));
                match open(&emitter) {
                    Ok(opened) => {
                        // Nobody waits for it where the start was cancelled.
                        let _ = ready.send(Ok(()));
                        run(opened, emitter);
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
            Ok(Box::new(end) as EndCompanion)
        }
        .boxed()
    })
}

/// Asks a database once, on a thread of its own: the runtime would wait at its end for one of its
/// own, however long the database hangs. `None` where the thread did not start, or panicked, which is said.
pub(crate) async fn apart<R: Send + 'static>(
    name: &'static str,
    ask: impl FnOnce() -> R + Send + 'static,
) -> Option<R> {
    let (answered, answer) = oneshot::channel();
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _watch = Watch(name);
        // Nobody waits for it where the redrive was dropped.
        let _ = answered.send(ask());
    });
    if let Err(problem) = spawned {
        error!(%problem, "the thread {name} could not be started");
        return None;
    }
    answer.await.ok()
}

/// Says when a thread panics, and not only when somebody waits for its end.
struct Watch(&'static str);

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!("the thread {} panicked: what it did for this node is done no more", self.0);
        }
    }
}
