//! The way of a node's dead letters into their table.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diesel::result::QueryResult;
use emitter_core::dead_letter::DeadLetter;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::Limits;
use super::book::DeadLetterBook;

/// Takes letters in, in order, and writes down together what has come.
pub(super) struct Keeping {
    book: DeadLetterBook,
    limits: Limits,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    letters: Vec<Letter>,
    /// Since when the one thread is busy that writes them down.
    busy_since: Option<Instant>,
    size: Option<Size>,
}

struct Letter {
    letter: Arc<DeadLetter>,
    told: oneshot::Sender<Result<(), String>>,
}

/// How many letters there are.
#[derive(Debug, Clone, Copy)]
struct Size {
    letters: u64,
    bytes: u64,
    asked: Instant,
}

/// How long a letter waits for its database: what it was made of is not acknowledged meanwhile. While that does not
/// answer for so long, further letters do not wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long is believed what was counted.
const BELIEF: Duration = Duration::from_secs(1);

impl Keeping {
    pub(super) fn new(book: DeadLetterBook, limits: Limits) -> Self {
        Self { book, limits, waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a letter. It has its place among the others when this returns.
    pub(super) fn keep(self: &Arc<Self>, letter: Arc<DeadLetter>) -> BoxFuture<'static, Result<(), String>> {
        let (told, outcome) = oneshot::channel();
        let mut waiting = self.waiting();
        if waiting.busy_since.is_some_and(|since| since.elapsed() > PATIENCE) {
            return std::future::ready(Err("their database does not answer".to_owned())).boxed();
        }
        // Nobody waits any more for those that came too late.
        waiting.letters.retain(|letter| !letter.told.is_closed());
        waiting.letters.push(Letter { letter, told });
        let begins = waiting.busy_since.is_none();
        if begins {
            waiting.busy_since = Some(Instant::now());
        }
        drop(waiting);
        if begins {
            let keeping = Arc::clone(self);
            tokio::task::spawn_blocking(move || keeping.write());
        }
        async move {
            match tokio::time::timeout(PATIENCE, outcome).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err("the runtime is shutting down".to_owned()),
                Err(_) => Err("their database does not answer".to_owned()),
            }
        }
        .boxed()
    }

    /// Writes letters down until none waits. One thread does that at a time.
    fn write(&self) {
        // Also after a panic the next letter begins another one.
        let _free = Free(self);
        loop {
            let letters = {
                let mut waiting = self.waiting();
                if waiting.letters.is_empty() {
                    // Before the lock is given back: who comes after it begins another thread.
                    waiting.busy_since = None;
                    return;
                }
                waiting.busy_since = Some(Instant::now());
                std::mem::take(&mut waiting.letters)
            };
            let letters = letters.into_iter().filter(|letter| !letter.told.is_closed()).collect();
            self.write_all(letters);
        }
    }

    fn write_all(&self, letters: Vec<Letter>) {
        let Limits { letters: most, bytes: most_bytes } = self.limits;
        let mut size = match self.recent_size() {
            Ok(size) => size,
            Err(error) => return letters.into_iter().for_each(|letter| letter.tell(Err(error.to_string()))),
        };
        let mut kept = Vec::with_capacity(letters.len());
        for letter in letters {
            let with_it = size.with(&letter.letter);
            if with_it.letters > most || with_it.bytes > most_bytes {
                letter.tell(Err(format!(
                    "there are {} dead letters already, of {} bytes",
                    size.letters, size.bytes
                )));
            } else {
                size = with_it;
                kept.push(letter);
            }
        }
        self.waiting().size = Some(size);
        let all: Vec<&DeadLetter> = kept.iter().map(|letter| &*letter.letter).collect();
        let together = self.book.keep(&all);
        for letter in kept {
            if together.is_ok() {
                letter.tell(Ok(()));
            } else if !letter.told.is_closed() {
                // One of them may be at fault: each for itself.
                let outcome = self.book.keep(&[&letter.letter]);
                letter.tell(outcome.map_err(|error| error.to_string()));
            }
        }
    }

    /// How many letters there are, by and large.
    fn recent_size(&self) -> QueryResult<Size> {
        if let Some(size) = self.waiting().size.filter(|size| size.asked.elapsed() < BELIEF) {
            return Ok(size);
        }
        let asked = Instant::now();
        let pairs = self.book.ask(|database, store| database.pairs(store.size()))?;
        let number = |name: &str| {
            let pair = pairs.iter().find(|pair| pair.text == name);
            pair.map_or(0, |pair| u64::try_from(pair.number).unwrap_or_default())
        };
        Ok(Size { letters: number("rows"), bytes: number("bytes"), asked })
    }
}

impl Letter {
    fn tell(self, outcome: Result<(), String>) {
        // Nobody may wait any more.
        let _ = self.told.send(outcome);
    }
}

impl Size {
    fn with(self, letter: &DeadLetter) -> Self {
        let bytes = self.bytes.saturating_add(letter.payload.len() as u64);
        Self { letters: self.letters.saturating_add(1), bytes, ..self }
    }
}

/// Has another thread begin.
struct Free<'k>(&'k Keeping);

impl Drop for Free<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.waiting().busy_since = None;
        }
    }
}
