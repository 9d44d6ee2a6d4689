//! What becomes of an accepted message, between the transport and whoever published it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{Confirmed, PublishError};

type Outcome = Result<Confirmed, PublishError>;

/// The coming fate of an accepted message: `Ok` when the broker has confirmed this very message.
///
/// It is a future. Whoever publishes a great many hands it a function instead ([`then`](Self::then)),
/// which costs less than a task that waits for them all. Dropping it changes nothing about the message.
#[must_use = "it tells what became of the message"]
pub struct Confirmation(Arc<Mutex<Stage>>);

/// Settles one [`Confirmation`]. One that is dropped unused settles it as [`PublishError::Closed`].
pub struct Settler(Option<Arc<Mutex<Stage>>>);

enum Stage {
    Open(Option<Waker>),
    Then(Box<dyn FnOnce(Outcome) + Send>),
    Settled(Outcome),
    /// Told to whoever waited.
    Told,
}

fn lock(stage: &Mutex<Stage>) -> MutexGuard<'_, Stage> {
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Confirmation {
    /// A confirmation and the end that settles it.
    pub fn new() -> (Settler, Self) {
        let stage = Arc::new(Mutex::new(Stage::Open(None)));
        (Settler(Some(Arc::clone(&stage))), Self(stage))
    }

    /// Has a function told, once: now if it is settled already, else by the transport when it is, which
    /// waits for the function's end. So it has to be quick, and must not publish.
    pub fn then(self, told: impl FnOnce(Result<Confirmed, PublishError>) + Send + 'static) {
        let mut stage = lock(&self.0);
        match std::mem::replace(&mut *stage, Stage::Told) {
            Stage::Settled(outcome) => {
                drop(stage);
                told(outcome);
            }
            Stage::Told => {}
            Stage::Open(_) | Stage::Then(_) => *stage = Stage::Then(Box::new(told)),
        }
    }
}

impl Future for Confirmation {
    type Output = Result<Confirmed, PublishError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = lock(&self.0);
        match std::mem::replace(&mut *stage, Stage::Told) {
            Stage::Settled(outcome) => Poll::Ready(outcome),
            Stage::Told => Poll::Ready(Err(PublishError::Closed)),
            Stage::Open(_) | Stage::Then(_) => {
                *stage = Stage::Open(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Settler {
    /// Tells the waiting [`Confirmation`], if it is still waiting.
    pub fn settle(mut self, outcome: Result<Confirmed, PublishError>) {
        self.tell(outcome);
    }

    fn tell(&mut self, outcome: Outcome) {
        let Some(stage) = self.0.take() else { return };
        let mut stage = lock(&stage);
        match std::mem::replace(&mut *stage, Stage::Told) {
            Stage::Open(waker) => {
                *stage = Stage::Settled(outcome);
                drop(stage);
                waker.into_iter().for_each(Waker::wake);
            }
            Stage::Then(told) => {
                drop(stage);
                told(outcome);
            }
            // One end is consumed by settling, so this is not reached.
            Stage::Settled(_) | Stage::Told => {}
        }
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        self.tell(Err(PublishError::Closed));
    }
}

impl fmt::Debug for Confirmation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Confirmation")
    }
}

impl fmt::Debug for Settler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Settler")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const CONFIRMED: Outcome = Ok(Confirmed { had_subscribers: true });

    #[tokio::test]
    async fn whoever_awaits_it_is_told() {
        let (settler, confirmation) = Confirmation::new();
        settler.settle(CONFIRMED);
        assert_eq!(confirmation.await, CONFIRMED);

        let (settler, confirmation) = Confirmation::new();
        let waiting = tokio::spawn(confirmation);
        tokio::task::yield_now().await;
        settler.settle(CONFIRMED);
        assert_eq!(waiting.await.unwrap(), CONFIRMED);

        let (settler, confirmation) = Confirmation::new();
        drop(settler);
        assert_eq!(confirmation.await, Err(PublishError::Closed));
    }

    #[test]
    fn a_function_is_told_once() {
        for settled_first in [false, true] {
            let (sender, told) = mpsc::channel();
            let (settler, confirmation) = Confirmation::new();
            let tell = move |outcome| sender.send(outcome).unwrap();
            if settled_first {
                settler.settle(CONFIRMED);
                confirmation.then(tell);
            } else {
                confirmation.then(tell);
                settler.settle(CONFIRMED);
            }
            assert_eq!(told.iter().collect::<Vec<_>>(), [CONFIRMED]);
        }
        let (settler, confirmation) = Confirmation::new();
        drop(confirmation);
        settler.settle(CONFIRMED);
    }
}
