//! Trying letters again: claimed in batches, each line in order, at a rate.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diesel::result::{Error, QueryResult};
use emitter_core::dead_letter::Reason;
use emitter_core::retry::Backoff;
use emitter_core::{Emitter, EventId, RedriveError, ReplayError};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, sleep_until};

use super::store::{Claimable, Fate, Run, Store};
use super::{BookError, DeadLetterBook, Selection, letter};
use crate::companion;
use crate::tables::{Database, LetterRow};

/// How letters are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redrive {
    /// How many are begun in a second; 0 for as many as there are. Default 100.
    pub per_second: u32,
    /// How many are in progress at a time, 1 to 256. Up to three times as many wait in memory, each of 1 MiB at most. Default 32.
    pub at_once: usize,
    /// How long the claim of a redrive that died holds its letters, 1 s to 1 h. One that lives renews it. Default 30 s.
    pub lease: Duration,
}

impl Default for Redrive {
    fn default() -> Self {
        Self { per_second: 100, at_once: 32, lease: Duration::from_secs(30) }
    }
}

/// What a redrive came to, in letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Redriven {
    /// Done with, and deleted.
    pub handled: u64,
    /// Tried in vain: they are there still, with the last error; or of one that could be read this time, the letters of
    /// the listeners that did not handle it are.
    pub failed: u64,
    /// Not tried, because an earlier one of their listener and key failed, or there was no room for them.
    pub skipped: u64,
    /// Not tried, because this program has no such listener (any more).
    pub unheard: u64,
    /// The emitter was shut down before all were tried: call it again elsewhere.
    pub is_interrupted: bool,
}

/// How a redrive goes, for whoever did not call it.
#[derive(Debug, Default)]
pub(crate) struct Course {
    redriven: Mutex<Redriven>,
    is_stopped: AtomicBool,
}

impl Course {
    /// What it came to until now.
    pub(crate) fn redriven(&self) -> Redriven {
        *self.redriven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more is begun: it ends as at a shutdown.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
    }
}

impl DeadLetterBook {
    /// Tries letters of the emitter's service again that are there now, on this node, and deletes those that are done with.
    /// See the [module](super) for what is tried how, and in what order.
    ///
    /// It may be called again at any time, and by several at once. Dropping the future ends it; letters that were in
    /// progress are claimed until the lease is over, and are then tried again, also those that were handled meanwhile.
    ///
    /// # Errors
    /// [`BookError::Database`] where that was away for longer than half a minute. Letters that were handled in that time are
    /// still there, and are tried again by the next redrive.
    pub async fn redrive(
        &self,
        emitter: &Emitter,
        selection: &Selection,
        redrive: Redrive,
    ) -> Result<Redriven, BookError> {
        self.redrive_along(emitter, selection, redrive, &Arc::default()).await
    }

    /// The same, and how it goes can be seen.
    pub(crate) async fn redrive_along(
        &self,
        emitter: &Emitter,
        selection: &Selection,
        redrive: Redrive,
        course: &Arc<Course>,
    ) -> Result<Redriven, BookError> {
        let Redrive { per_second, at_once, lease } = redrive;
        let lease = lease.clamp(Duration::from_secs(1), Duration::from_secs(3600));
        let mut names: Vec<String> =
            emitter.listeners().into_iter().map(|listener| listener.name.into_owned()).collect();
        names.sort_unstable();
        names.dedup();
        let mut work = Work {
            desk: Desk {
                book: self.another(),
                run: EventId::now().to_string(),
                lease,
                selection: selection.clone(),
                service: emitter.origin().service.to_string(),
                listeners: names,
                last: 0,
            },
            at_once: at_once.clamp(1, 256),
            pace: Duration::from_secs(1).checked_div(per_second).unwrap_or_default(),
            emitter,
            hand: BTreeMap::new(),
            under_way: FuturesUnordered::new(),
            lines: BTreeMap::new(),
            blocked: Blocked::default(),
            fates: Vec::new(),
            next: Instant::now(),
            renewed: Instant::now(),
            redriven: Redriven::default(),
            course: Arc::clone(course),
        };
        let done = work.run().await;
        if done.is_err() {
            work.let_go().await;
        }
        done.map(|()| work.redriven)
    }
}

/// The way of a redrive to its rows.
#[derive(Clone)]
struct Desk {
    book: DeadLetterBook,
    run: String,
    lease: Duration,
    selection: Selection,
    service: String,
    listeners: Vec<String>,
    last: i64,
}

/// A redrive at work.
struct Work<'e> {
    desk: Desk,
    at_once: usize,
    /// Between two letters.
    pace: Duration,
    emitter: &'e Emitter,
    /// Claimed, and not begun.
    hand: BTreeMap<i64, LetterRow>,
    under_way: FuturesUnordered<BoxFuture<'static, (i64, Result<(), RedriveError>)>>,
    /// Of those that are in progress.
    lines: BTreeMap<i64, Tried>,
    blocked: Blocked,
    /// What is to be noted.
    fates: Vec<(i64, Fate)>,
    /// When the next letter may begin.
    next: Instant,
    /// When the claims were renewed: nobody else claims what this redrive has until the lease is over.
    renewed: Instant,
    redriven: Redriven,
    course: Arc<Course>,
}

/// A letter in progress.
struct Tried {
    line: Option<Line>,
    reason: Reason,
}

/// Letters that come in order: those of a listener and a key, or with a letter of many keys, of a listener and its model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Line {
    listener: String,
    model: String,
    key: Option<String>,
}

impl Line {
    fn of(row: &LetterRow) -> Option<Self> {
        let (Some(listener), Some(model), true) = (&row.listener, &row.model, row.ordered != 0) else {
            return None;
        };
        Some(Self { listener: listener.clone(), model: model.clone(), key: row.record_id.clone() })
    }

    fn meets(&self, other: &Self) -> bool {
        (&self.listener, &self.model) == (&other.listener, &other.model)
            && (self.key.is_none() || other.key.is_none() || self.key == other.key)
    }
}

/// Lines of which a letter failed.
#[derive(Default)]
struct Blocked {
    lines: HashSet<Line>,
    /// The same without keys: an event of many keys comes after each of them.
    models: HashSet<(String, String)>,
}

impl Blocked {
    fn add(&mut self, line: Line) {
        self.models.insert((line.listener.clone(), line.model.clone()));
        self.lines.insert(line);
    }

    fn holds(&self, line: &Line) -> bool {
        let whole = || Line { key: None, ..line.clone() };
        match line.key {
            None => self.models.contains(&(line.listener.clone(), line.model.clone())),
            Some(_) => self.lines.contains(line) || self.lines.contains(&whole()),
        }
    }
}

/// The longest text of an error that is kept, in bytes.
const MOST_WORDS: usize = 2_048;

/// How long is tried to reach a database that went away.
const PERSISTENCE: Duration = Duration::from_secs(30);

/// How often is looked whether it is to end.
const LOOK: Duration = Duration::from_millis(500);

const AGAIN: Backoff = Backoff {
    base: Duration::from_millis(50),
    cap: Duration::from_secs(2),
    jitter: Duration::from_millis(50),
};

impl Work<'_> {
    async fn run(&mut self) -> Result<(), BookError> {
        let desk = self.desk.clone();
        let (last, unheard) = desk
            .ask(|desk, database, store| {
                let number = |pairs: Vec<crate::tables::Pair>| pairs.first().map_or(0, |pair| pair.number);
                let last = number(database.pairs(store.last())?);
                let unheard = store.unheard(&desk.selection, &desk.service, &desk.listeners);
                Ok((last, number(database.pairs(unheard)?)))
            })
            .await?;
        self.desk.last = last;
        self.redriven.unheard = u64::try_from(unheard).unwrap_or_default();
        let mut more = true;
        loop {
            // Before anything is claimed: what is done with would be claimed once more.
            if !self.fates.is_empty() {
                self.note().await?;
            }
            *self.course.redriven.lock().unwrap_or_else(PoisonError::into_inner) = self.redriven;
            self.redriven.is_interrupted |= self.course.is_stopped.load(Ordering::SeqCst);
            if self.redriven.is_interrupted {
                more = false;
                self.give_back();
            } else if more && self.hand.len() < self.at_once {
                more = self.claim().await?;
            }
            let is_paced = self.begin();
            if !self.fates.is_empty() {
                continue;
            }
            if !self.under_way.is_empty() || !self.hand.is_empty() {
                self.wait(is_paced).await?;
            } else if !more {
                return Ok(());
            }
        }
    }

    /// Claims more letters; `false` when there are none.
    async fn claim(&mut self) -> Result<bool, BookError> {
        let before = Instant::now();
        let desk = self.desk.clone();
        let have: Vec<i64> = self.hand.keys().chain(self.lines.keys()).copied().collect();
        let most = self.at_once * 2;
        let rows = desk
            .ask(move |desk, database, store| {
                let Desk { run, selection, service, listeners, last, .. } = desk;
                let claimable = Claimable { selection, service, listeners, last: *last, most };
                database.run(&store.claim(desk.run_of(), &claimable))?;
                database.letters(store.claimed(run, have.iter().copied()))
            })
            .await?;
        self.renewed = before;
        let more = !rows.is_empty();
        self.hand.extend(rows.into_iter().map(|row| (row.id, row)));
        Ok(more)
    }

    /// Begins what may begin now; `true` where something waits for nothing but its time.
    fn begin(&mut self) -> bool {
        let mut is_paced = false;
        // A letter waits for all of its line before it, begun or not.
        let mut waiting: Vec<Line> = Vec::new();
        let ids: Vec<i64> = self.hand.keys().copied().collect();
        for id in ids {
            let Some(row) = self.hand.get(&id) else { continue };
            let line = Line::of(row);
            if line.as_ref().is_some_and(|line| self.blocked.holds(line)) {
                self.hand.remove(&id);
                self.redriven.skipped += 1;
                self.fates.push((id, Fate::Skipped));
                continue;
            }
            let now = Instant::now();
            let is_safe = now.saturating_duration_since(self.renewed) < self.desk.lease * 3 / 4;
            let may = self.under_way.len() < self.at_once && is_safe && now >= self.next;
            let busy = |line: &Line| {
                waiting.iter().any(|before| before.meets(line))
                    || self
                        .lines
                        .values()
                        .filter_map(|tried| tried.line.as_ref())
                        .any(|tried| tried.meets(line))
            };
            let is_busy = line.as_ref().is_some_and(busy);
            if !may || is_busy {
                is_paced |= !is_busy && now < self.next;
                waiting.extend(line);
                continue;
            }
            if let Some(row) = self.hand.remove(&id) {
                // What was late is made up for, but not all of it at once.
                let late = now.saturating_duration_since(self.next).min(self.pace * 10);
                self.next = (now + self.pace).checked_sub(late).unwrap_or(now);
                self.try_again(id, row, line);
            }
        }
        is_paced
    }

    fn try_again(&mut self, id: i64, row: LetterRow, line: Option<Line>) {
        let Some(letter) = letter(row) else {
            self.redriven.failed += 1;
            let failure_reason = "it is not as it was kept".to_owned();
            return self.fates.push((id, Fate::Failed { attempts: 0, failure_reason }));
        };
        self.lines.insert(id, Tried { line, reason: letter.reason });
        let outcome = self.emitter.redrive(&letter);
        self.under_way.push(Box::pin(async move { (id, outcome.await) }));
    }

    /// Waits for something to do.
    async fn wait(&mut self, is_paced: bool) -> Result<(), BookError> {
        let renewal = self.renewed + self.desk.lease / 3;
        let until = if is_paced { self.next.min(renewal) } else { renewal };
        let until = until.min(Instant::now() + LOOK);
        tokio::select! {
            biased;
            Some((id, outcome)) = self.under_way.next() => {
                self.ended(id, outcome);
                // Those that ended with it are noted with it.
                while let Some(Some((id, outcome))) = futures_util::FutureExt::now_or_never(self.under_way.next()) {
                    self.ended(id, outcome);
                }
            }
            () = sleep_until(until) => {}
        }
        if Instant::now() >= renewal { self.renew().await } else { Ok(()) }
    }

    /// What became of a letter.
    fn ended(&mut self, id: i64, outcome: Result<(), RedriveError>) {
        let Some(Tried { line, reason }) = self.lines.remove(&id) else { return };
        let fate = match outcome {
            Ok(()) => {
                self.redriven.handled += 1;
                return self.fates.push((id, Fate::Handled));
            }
            Err(RedriveError::Interrupted | RedriveError::Replay(ReplayError::ShutDown)) => {
                self.redriven.is_interrupted = true;
                Fate::GivenBack
            }
            Err(RedriveError::Replay(ReplayError::QueueFull)) => {
                self.redriven.skipped += 1;
                Fate::Skipped
            }
            Err(RedriveError::NoListener) if reason == Reason::Unhandled => {
                self.redriven.unheard += 1;
                Fate::Skipped
            }
            Err(RedriveError::Unhandled(letters)) if reason == Reason::Undecodable => {
                self.redriven.failed += 1;
                Fate::Became(letters)
            }
            Err(RedriveError::Unhandled(letters)) => {
                self.redriven.failed += 1;
                let attempts = letters.iter().map(|letter| letter.attempts).max().unwrap_or_default();
                let why = letters.first().map(emitter_core::dead_letter::DeadLetter::failure_reason);
                Fate::Failed { attempts, failure_reason: why.unwrap_or_default() }
            }
            Err(error) => {
                self.redriven.failed += 1;
                let mut failure_reason = format!("{reason}: {error}");
                failure_reason.truncate(failure_reason.floor_char_boundary(MOST_WORDS));
                Fate::Failed { attempts: 1, failure_reason }
            }
        };
        if let Some(line) = line {
            self.blocked.add(line);
        }
        self.fates.push((id, fate));
    }

    async fn note(&mut self) -> Result<(), BookError> {
        let fates = std::mem::take(&mut self.fates);
        let (large, small): (Vec<_>, Vec<_>) =
            fates.into_iter().partition(|(_, fate)| matches!(fate, Fate::Became(_)));
        // Letters have payloads: all of them at once may be more than a server takes.
        let each = large.into_iter().map(|fate| vec![fate]);
        for fates in std::iter::once(small).chain(each).filter(|fates| !fates.is_empty()) {
            let desk = self.desk.clone();
            desk.ask(move |desk, database, store| database.run(&store.note(&desk.run, &fates))).await?;
        }
        Ok(())
    }

    /// Keeps what is claimed, and forgets what another one has claimed meanwhile: this process had slept.
    async fn renew(&mut self) -> Result<(), BookError> {
        let before = Instant::now();
        let desk = self.desk.clone();
        let mine = desk
            .ask(|desk, database, store| {
                database.change(store.renew(desk.run_of()))?;
                database.pairs(store.still_claimed(&desk.run))
            })
            .await?;
        let mine: HashSet<i64> = mine.into_iter().map(|pair| pair.number).collect();
        self.hand.retain(|id, _| mine.contains(id));
        self.renewed = before;
        Ok(())
    }

    /// Gives back what was not begun.
    fn give_back(&mut self) {
        let hand = std::mem::take(&mut self.hand);
        self.fates.extend(hand.into_keys().map(|id| (id, Fate::GivenBack)));
    }

    /// The same after an error, if that is possible: else the lease runs out.
    async fn let_go(&mut self) {
        self.fates.clear();
        self.give_back();
        let fates = std::mem::take(&mut self.fates);
        let _ = self
            .desk
            .clone()
            .once(move |desk, database, store| database.run(&store.note(&desk.run, &fates)))
            .await;
    }
}

impl Desk {
    fn run_of(&self) -> Run<'_> {
        Run { id: &self.run, lease: i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX) }
    }

    /// Asks the database, again and again where it is away.
    async fn ask<R: Send + 'static>(
        &self,
        ask: impl Fn(&Self, &mut dyn Database, &Store) -> QueryResult<R> + Clone + Send + 'static,
    ) -> Result<R, BookError> {
        let begun = Instant::now();
        let mut failures = 0;
        loop {
            match self.clone().once(ask.clone()).await {
                Err(BookError::Database(error)) if begun.elapsed() < PERSISTENCE && may_pass(&error) => {
                    failures += 1;
                    sleep(AGAIN.delay(failures, fastrand::f64())).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn once<R: Send + 'static>(
        self,
        ask: impl Fn(&Self, &mut dyn Database, &Store) -> QueryResult<R> + Send + 'static,
    ) -> Result<R, BookError> {
        let book = self.book.clone();
        let asked = move || book.ask(|database, store| ask(&self, database, store));
        Ok(companion::apart("emitter-redrive", asked).await.ok_or(BookError::ShutDown)??)
    }
}

/// Whether it may be another time what it was not this time: all but what is wrong with the statement.
fn may_pass(error: &Error) -> bool {
    !matches!(error, Error::DeserializationError(_) | Error::SerializationError(_) | Error::NotFound)
}
