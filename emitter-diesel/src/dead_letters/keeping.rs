//! The way of a node's dead letters into their table.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diesel::result::QueryResult;
use emitter_core::dead_letter::DeadLetter;
use emitter_core::retry::Backoff;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tracing::warn;

use super::Limits;
use super::book::DeadLetterBook;

/// Takes letters in, in order, and writes down together what has come.
pub(super) struct Keeping {
    book: DeadLetterBook,
    limits: Limits,
    waiting: Mutex<Waiting>,
    /// The node ends.
    ending: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// Those whose message was acknowledged without them, too: they may be kept all the same.
    letters: Vec<Letter>,
    /// Since when the one thread is busy that writes them down.
    busy_since: Option<Instant>,
    /// Why they cannot be written down, while that is so.
    trouble: Option<String>,
    size: Option<Size>,
    is_ending: bool,
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

/// How many letters wait in memory at most, and with how many bytes: one more is lost.
const MOST_WAITING: usize = 1_024;
const MOST_BYTES_WAITING: usize = 16 * 1024 * 1024;

/// When it is looked again whether the database is there.
const RECONNECT: Backoff = Backoff {
    base: Duration::from_millis(50),
    cap: Duration::from_secs(5),
    jitter: Duration::from_millis(50),
};

/// How often it is looked whether anybody has letters to be kept.
const LOOK: Duration = Duration::from_millis(200);

/// How long is believed what was counted.
const BELIEF: Duration = Duration::from_secs(1);

impl Keeping {
    pub(super) fn new(book: DeadLetterBook, limits: Limits) -> Self {
        Self { book, limits, waiting: Mutex::default(), ending: Condvar::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a letter. It has its place among the others when this returns.
    pub(super) fn keep(self: &Arc<Self>, letter: Arc<DeadLetter>) -> BoxFuture<'static, Result<(), String>> {
        let (told, outcome) = oneshot::channel();
        let mut waiting = self.waiting();
        if waiting.is_full(&letter) {
            return std::future::ready(Err("too many wait for their database already".to_owned())).boxed();
        }
        waiting.letters.push(Letter { letter, told });
        if waiting.busy_since.is_some_and(|since| since.elapsed() > PATIENCE) {
            return std::future::ready(Err(NO_ANSWER.to_owned())).boxed();
        }
        let begins = waiting.busy_since.is_none();
        if begins {
            waiting.busy_since = Some(Instant::now());
        }
        drop(waiting);
        if begins {
            // Not one of the runtime's: that would wait at its end for a database that hangs.
            let (keeping, thread) = (Arc::clone(self), std::thread::Builder::new());
            if let Err(error) = thread.name("emitter-keeping".to_owned()).spawn(move || keeping.write()) {
                self.waiting().trouble = Some(format!("no thread could be started: {error}"));
                self.gives_up();
            }
        }
        async move {
            match tokio::time::timeout(PATIENCE, outcome).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err("the runtime is shutting down".to_owned()),
                Err(_) => Err(NO_ANSWER.to_owned()),
            }
        }
        .boxed()
    }

    /// Writes letters down until none waits. One thread does that at a time.
    fn write(self: &Arc<Self>) {
        // Also after a panic the next letter begins another one.
        let _free = Free(self);
        let mut failures = 0;
        loop {
            let letters = {
                let mut waiting = self.waiting();
                if waiting.letters.is_empty() {
                    // Before the lock is given back: who comes after it begins another thread.
                    waiting.busy_since = None;
                    return;
                }
                if failures == 0 {
                    waiting.busy_since = Some(Instant::now());
                }
                std::mem::take(&mut waiting.letters)
            };
            let left = self.write_all(letters);
            failures = if left.is_empty() { 0 } else { failures + 1 };
            self.puts_back(left, failures);
            if failures > 0 && !self.pauses(RECONNECT.delay(failures, fastrand::f64())) {
                return self.gives_up();
            }
        }
    }

    /// Those wait on, before all that came meanwhile.
    fn puts_back(&self, left: Vec<Letter>, failures: u32) {
        let mut waiting = self.waiting();
        if left.is_empty() {
            waiting.trouble = None;
        } else if failures.is_power_of_two() {
            let trouble = waiting.trouble.as_deref().unwrap_or_default();
            warn!(letters = left.len(), failures, "dead letters wait for their database: {trouble}");
        }
        waiting.letters.splice(0..0, left);
    }

    /// Waits so long; `false` where the node has come to its end.
    fn pauses(self: &Arc<Self>, delay: Duration) -> bool {
        let until = Instant::now() + delay;
        let mut waiting = self.waiting();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // Besides this thread there is nobody any more.
            if waiting.is_ending || Arc::strong_count(self) == 1 {
                return false;
            }
            if left.is_zero() {
                return true;
            }
            let waited = self.ending.wait_timeout(waiting, left.min(LOOK));
            (waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn gives_up(&self) {
        let mut waiting = self.waiting();
        waiting.busy_since = None;
        let trouble = waiting.trouble.take().unwrap_or_default();
        for letter in std::mem::take(&mut waiting.letters) {
            letter.tell(Err(trouble.clone()));
        }
    }

    /// From now on each letter is tried once.
    pub(super) fn ends(&self) {
        self.waiting().is_ending = true;
        self.ending.notify_all();
    }

    /// As a node's health has it.
    pub(super) fn trouble(&self) -> Option<String> {
        let waiting = self.waiting();
        let trouble = waiting.trouble.as_ref()?;
        Some(format!("dead letters: {} wait for their database: {trouble}", waiting.letters.len()))
    }

    /// What the database says; `None` where it is away, for then it answers nothing at all.
    fn unless_away<R>(&self, ask: impl Fn() -> QueryResult<R>) -> Option<QueryResult<R>> {
        let mut is_second = false;
        loop {
            let answer = ask();
            let Err(error) = &answer else { return Some(answer) };
            if self.book.ask(|database, _| database.run("SELECT 1")).is_err() {
                self.waiting().trouble = Some(error.to_string());
                return None;
            }
            // It may have come back in between: what it refuses is asked twice.
            if std::mem::replace(&mut is_second, true) {
                return Some(answer);
            }
        }
    }

    /// Returns those for which the database was away.
    fn write_all(&self, letters: Vec<Letter>) -> Vec<Letter> {
        let Limits { letters: most, bytes: most_bytes } = self.limits;
        let mut size = match self.unless_away(|| self.recent_size()) {
            Some(Ok(size)) => size,
            Some(Err(error)) => {
                letters.into_iter().for_each(|letter| letter.tell(Err(error.to_string())));
                return Vec::new();
            }
            None => return letters,
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
        let mut left = Vec::new();
        for letter in kept {
            if !left.is_empty() {
                left.push(letter);
                continue;
            }
            // One of them may be at fault: each for itself.
            let alone = || self.book.keep(&[&letter.letter]);
            match if together.is_ok() { Some(Ok(())) } else { self.unless_away(alone) } {
                Some(outcome) => letter.tell(outcome.map_err(|error| error.to_string())),
                None => left.push(letter),
            }
        }
        left
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

impl Waiting {
    fn is_full(&self, letter: &DeadLetter) -> bool {
        let bytes: usize = self.letters.iter().map(|letter| letter.letter.payload.len()).sum();
        self.letters.len() >= MOST_WAITING || bytes + letter.payload.len() > MOST_BYTES_WAITING
    }
}

const NO_ANSWER: &str = "their database does not answer";

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
