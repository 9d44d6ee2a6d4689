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
    /// What the one thread has taken of them and tries to write down.
    taken: Load,
    /// Since when the one thread is busy that writes them down.
    busy_since: Option<Instant>,
    /// Why they cannot be written down, while that is so.
    trouble: Option<String>,
    size: Option<Size>,
    is_ending: bool,
}

/// So many letters, and the bytes of their events.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    letters: usize,
    bytes: usize,
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
                waiting.take()
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
        waiting.taken = Load::default();
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
        Some(format!("dead letters: {} wait for their database: {trouble}", waiting.load().letters))
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
    /// All letters go to the one thread. They are in memory until it is done with them.
    fn take(&mut self) -> Vec<Letter> {
        self.taken = self.load();
        std::mem::take(&mut self.letters)
    }

    /// What is in memory.
    fn load(&self) -> Load {
        let bytes: usize = self.letters.iter().map(|letter| letter.letter.payload.len()).sum();
        Load { letters: self.taken.letters + self.letters.len(), bytes: self.taken.bytes + bytes }
    }

    fn is_full(&self, letter: &DeadLetter) -> bool {
        let Load { letters, bytes } = self.load();
        letters >= MOST_WAITING || bytes + letter.payload.len() > MOST_BYTES_WAITING
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
            let mut waiting = self.0.waiting();
            (waiting.busy_since, waiting.taken) = (None, Load::default());
        }
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use std::sync::mpsc::{self, Receiver, Sender};

    use diesel::{ConnectionError, SqliteConnection};
    use emitter_core::dead_letter::Reason;
    use emitter_core::{EventId, Origin};

    use super::*;
    use crate::tables::Tables;

    /// Letters whose database is away: who connects hangs until the test has him fail.
    struct Away {
        keeping: Arc<Keeping>,
        connects: Receiver<()>,
        fails: Sender<()>,
    }

    impl Away {
        fn new() -> Self {
            let ((connecting, connects), (fails, failing)) = (mpsc::channel(), mpsc::channel());
            let hanging = Mutex::new((connecting, failing));
            let tables = Tables::new(move || {
                let (connecting, failing) = &*hanging.lock().unwrap();
                // At the end of the test nobody waits any more, and everybody fails at once.
                let _ = connecting.send(());
                let _ = failing.recv();
                Err::<SqliteConnection, _>(ConnectionError::BadConnection("away".to_owned()))
            });
            let limits = Limits { letters: u64::MAX, bytes: u64::MAX };
            let keeping = Arc::new(Keeping::new(DeadLetterBook::unopened(&tables), limits));
            Self { keeping, connects, fails }
        }

        /// How many of so many letters there is room for.
        fn takes(&self, letters: usize, bytes: usize) -> usize {
            let taken = (0..letters).filter(|_| {
                let (service, node, id) = ("shop".into(), "a".into(), EventId::now());
                let node = Origin { service, node, incarnation: *id.as_uuid() };
                let letter = DeadLetter::kept(id, Reason::Unhandled, "a", vec![b'x'; bytes], node);
                !matches!(self.keeping.keep(Arc::new(letter)).now_or_never(), Some(Err(error)) if error.starts_with("too many"))
            });
            taken.count()
        }

        /// Waits until the thread that writes hangs, with all that it has taken.
        fn hangs(&self) {
            self.connects.recv_timeout(Duration::from_secs(20)).unwrap();
        }

        /// Has one attempt fail: it is asked twice, the second time whether anybody is there at all.
        fn fails(&self) {
            self.fails.send(()).unwrap();
            self.hangs();
            self.fails.send(()).unwrap();
        }
    }

    #[tokio::test]
    async fn what_the_writer_holds_counts_however_long_the_database_is_away() {
        for (bytes, most) in [(10, MOST_WAITING), (1024 * 1024, MOST_BYTES_WAITING / 1024 / 1024)] {
            let away = Away::new();
            assert_eq!(away.takes(1, bytes), 1);
            away.hangs();
            assert_eq!(away.takes(most + 10, bytes), most - 1, "one is with the writer");
            for _ in 0..3 {
                away.fails();
                away.hangs();
                assert_eq!(away.takes(10, bytes), 0, "the writer has all");
                assert!(away.keeping.trouble().unwrap().contains(&format!(" {most} wait ")));
            }
            away.keeping.ends();
        }
    }
}
