//! Questions to the database: on threads of their own, few at a time, and waited for no longer than a person waits.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use emitter_diesel::EventId;
use emitter_diesel::dead_letters::DeadLetterBook;
use emitter_diesel::inbox::{self, Mark};
use emitter_diesel::mirror::Mirrored;
use emitter_diesel::outbox::{Control, GivenUp, Ledger};
use emitter_diesel::tables::Tables;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

/// So many questions are asked at a time, each on connections of its own; a database that hangs has no more threads than
/// that waiting for it.
const AT_ONCE: usize = 3;

/// The way to the tables.
pub(super) struct Desk {
    tables: Option<Tables>,
    service: String,
    patience: Duration,
    places: Arc<Semaphore>,
    drawers: Arc<Mutex<Vec<Drawer>>>,
}

/// Connections that were made, to be used again.
pub(super) struct Drawer {
    tables: Tables,
    service: String,
    control: Option<Control>,
    ledger: Option<Ledger>,
    given_up: Option<GivenUp>,
    mirror: Option<Mirrored>,
    letters: Option<DeadLetterBook>,
}

/// Why there is no answer, in words for whoever looks.
pub(super) type Trouble = String;

impl Desk {
    pub(super) fn new(tables: Option<Tables>, service: &str, patience: Duration) -> Self {
        let (places, drawers) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::default());
        Self { tables, service: service.to_owned(), patience, places, drawers }
    }

    /// Whether there is a database at all.
    pub(super) fn is_there(&self) -> bool {
        self.tables.is_some()
    }

    /// Asks. A question that is not answered in time keeps its place until it is.
    pub(super) async fn ask<R: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Drawer) -> Result<R, Trouble> + Send + 'static,
    ) -> Result<R, Trouble> {
        let tables = self.tables.clone().ok_or("no tables were given to this dashboard")?;
        let late = || format!("the database did not answer within {} s", self.patience.as_secs_f32());
        let answer = async {
            let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| "it is closed")?;
            let (drawers, service) = (Arc::clone(&self.drawers), self.service.clone());
            let asked = move || {
                let _place = place;
                let kept = drawers.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let mut drawer = kept.unwrap_or_else(|| Drawer::new(tables, service));
                let answer = ask(&mut drawer);
                // After an error its connections may be broken: the next one makes its own.
                if answer.is_ok() {
                    drawers.lock().unwrap_or_else(PoisonError::into_inner).push(drawer);
                }
                answer
            };
            // None of the runtime's, which waits for its threads at its end: a database that hangs would keep the program.
            let (answered, answer) = oneshot::channel();
            let thread = std::thread::Builder::new().name("emitter-dashboard".to_owned());
            let spawned = thread.spawn(move || drop(answered.send(asked())));
            spawned.map_err(|error| format!("no thread could be started: {error}"))?;
            answer.await.map_err(|_| "the question came to no end")?
        };
        timeout(self.patience, answer).await.unwrap_or_else(|_| Err(late()))
    }

    /// The dead letters, for a redrive, which has connections of its own.
    pub(super) async fn letters(&self) -> Result<DeadLetterBook, Trouble> {
        self.ask(|drawer| drawer.letters().cloned()).await
    }
}

impl Drawer {
    fn new(tables: Tables, service: String) -> Self {
        Self { tables, service, control: None, ledger: None, given_up: None, mirror: None, letters: None }
    }

    pub(super) fn control(&mut self) -> Result<&mut Control, Trouble> {
        open(&mut self.control, || Control::open(&self.tables))
    }

    pub(super) fn ledger(&mut self) -> Result<&mut Ledger, Trouble> {
        open(&mut self.ledger, || Ledger::open(&self.tables))
    }

    pub(super) fn given_up(&mut self) -> Result<&mut GivenUp, Trouble> {
        open(&mut self.given_up, || GivenUp::open(&self.tables, &*self.service))
    }

    pub(super) fn mirror(&mut self) -> Result<&mut Mirrored, Trouble> {
        open(&mut self.mirror, || Mirrored::open(&self.tables))
    }

    pub(super) fn letters(&mut self) -> Result<&DeadLetterBook, Trouble> {
        open(&mut self.letters, || DeadLetterBook::open(&self.tables)).map(|book| &*book)
    }

    pub(super) fn marks(&self, event: EventId) -> Result<Vec<Mark>, Trouble> {
        inbox::marks_of(&self.tables, event)
    }
}

/// What is there, or is made now.
fn open<T, E: ToString>(
    kept: &mut Option<T>,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<&mut T, Trouble> {
    match kept {
        Some(there) => Ok(there),
        None => Ok(kept.insert(make().map_err(|error| error.to_string())?)),
    }
}

/// An error in words.
pub(super) fn said(error: impl Into<Box<dyn Error>>) -> Trouble {
    error.into().to_string()
}
