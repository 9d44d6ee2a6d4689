//! The thread of a node that does what its service is asked to do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use diesel::result::QueryResult;
use emitter_core::event::Timestamp;
use emitter_core::retry::Backoff;
use emitter_core::{Emitter, EventId, WeakEmitter};
use tokio::runtime::Handle;
use tracing::{info, warn};

use super::store::{Claim, End, MOST_CLAIMS, Store};
use super::{Progress, Work};
use crate::companion::Activity;
use crate::dead_letters::{BookError, Course, DeadLetterBook, Redrive};
use crate::mirror::{Cursor, MirrorError, Mirrored, ReplayOptions};
use crate::tables::{Database, RequestRow, Session, Tables};
use crate::{dead_letters, mirror};

/// What hinders an attendant now, as a node's health has it.
pub(super) type Trouble = Mutex<Option<String>>;

/// How often is looked for something to do.
const LOOK: Duration = Duration::from_secs(1);

/// How often it is noted how far a request is.
const NOTE: Duration = Duration::from_millis(500);

/// How often old requests are cleared away.
const CLEARING: Duration = Duration::from_secs(3600);

const RECONNECT: Backoff = Backoff {
    base: Duration::from_millis(50),
    cap: Duration::from_secs(5),
    jitter: Duration::from_millis(50),
};

/// A node's attendant at work.
pub(super) struct Attending {
    session: Session,
    activity: Arc<Activity>,
    runtime: Handle,
    lease: Duration,
    trouble: Arc<Trouble>,
    cleared: Option<Instant>,
}

/// How far the work at a request is, and whether it is to end.
#[derive(Debug)]
struct Standing {
    is_stopped: AtomicBool,
    /// Until when nobody else has it. A process that slept sees by it that somebody may.
    safe_until: Mutex<Instant>,
    progress: Mutex<(Progress, Option<Cursor>)>,
    redrive: Arc<Course>,
}

impl Standing {
    fn of(progress: Progress, safe_until: Instant) -> Self {
        Self {
            is_stopped: AtomicBool::new(false),
            safe_until: Mutex::new(safe_until),
            progress: Mutex::new((progress, None)),
            redrive: Arc::default(),
        }
    }

    fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        self.redrive.stop();
    }

    fn is_stopped(&self) -> bool {
        let safe_until = *self.safe_until.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_stopped.load(Ordering::SeqCst) || Instant::now() > safe_until
    }

    fn is_safe_until(&self, moment: Instant) {
        *self.safe_until.lock().unwrap_or_else(PoisonError::into_inner) = moment;
    }

    fn tell(&self, progress: Progress, cursor: Option<Cursor>) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = (progress, cursor);
    }

    /// How far it is now.
    fn told(&self) -> (Progress, Option<Cursor>) {
        let (mut progress, cursor) = *self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let redriven = self.redrive.redriven();
        progress.handled += redriven.handled;
        progress.failed += redriven.failed;
        progress.skipped += redriven.skipped;
        progress.unheard += redriven.unheard;
        (progress, cursor)
    }
}

impl Attending {
    pub(super) fn new(session: Session, runtime: Handle, lease: Duration, trouble: Arc<Trouble>) -> Self {
        Self { session, activity: Arc::default(), runtime, lease, trouble, cleared: None }
    }

    /// Does what is asked until its emitter ends.
    pub(super) fn run(&mut self, emitter: &WeakEmitter, ended: &Receiver<()>, activity: &Arc<Activity>) {
        self.activity = Arc::clone(activity);
        let (mut wait, mut failures) = (Duration::ZERO, 0);
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(wait) {
            let Some(emitter) = emitter.upgrade() else { return };
            match self.look(&emitter, ended) {
                Ok(is_more) => {
                    failures = 0;
                    self.says(None);
                    wait = if is_more { Duration::ZERO } else { LOOK };
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        warn!("requests cannot be looked for: {error}");
                    }
                    self.says(Some(format!("requests: {error}")));
                    wait = RECONNECT.delay(failures, fastrand::f64());
                }
            }
        }
    }

    fn says(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Once: a claim that was made although no answer came is nobody's for a while.
    fn ask<R>(&self, ask: impl FnOnce(&mut dyn Database, &Store) -> QueryResult<R>) -> QueryResult<R> {
        self.activity.works(|| {
            self.session.once(|database, names| {
                let store = Store { dialect: database.dialect(), names: names.clone() };
                ask(database, &store)
            })
        })
    }

    /// Takes a request up and works at it, if there is one. Whether there may be another one: not after one that is given back, for
    /// whatever hindered this node in it hinders it still, and others may take it up.
    fn look(&mut self, emitter: &Emitter, ended: &Receiver<()>) -> QueryResult<bool> {
        if self.cleared.is_none_or(|cleared| cleared.elapsed() > CLEARING) {
            self.ask(|database, store| database.change(store.clear()))?;
            self.cleared = Some(Instant::now());
        }
        let origin = emitter.origin();
        let found = self.ask(|database, store| database.requests(store.free(&origin.service)))?;
        let Some(row) = found.into_iter().next() else { return Ok(false) };
        let claims = u32::try_from(row.claims).unwrap_or(u32::MAX);
        if claims >= MOST_CLAIMS {
            let last = row.last_error.as_deref().unwrap_or("they ended without a word");
            let why = format!("{MOST_CLAIMS} times a node began and came to no end: {last}");
            self.ask(|database, store| database.change(store.give_up(row.id, &why)))?;
            return Ok(true);
        }
        let claim = Claim { id: row.id, run: EventId::now().to_string(), times: claims + 1 };
        let (node, lease, begun) =
            (format!("{}/{}", origin.service, origin.node), self.lease, Instant::now());
        let claimed = self.ask(|database, store| database.change(store.claim(&claim, &node, lease)))?;
        if claimed == 0 {
            return Ok(true);
        }
        info!(request = claim.id, action = row.action, "it is begun");
        let end = self.attend(emitter, row, &claim, begun, ended)?;
        Ok(!matches!(end, End::GivenBack))
    }

    /// Works at a request in a thread beside this one, which keeps it, and notes how far it is and how it ends.
    fn attend(
        &mut self,
        emitter: &Emitter,
        row: RequestRow,
        claim: &Claim,
        begun: Instant,
        ended: &Receiver<()>,
    ) -> QueryResult<End> {
        let job = Job::of(self, emitter, row);
        let standing = Standing::of(job.before, begun + self.lease * 3 / 4);
        let (end, renewed) = std::thread::scope(|scope| {
            let (done, is_done) = mpsc::channel::<()>();
            let standing = &standing;
            let worker = scope.spawn(move || {
                let _done = done;
                job.run(standing)
            });
            let renewed = self.keep(claim, standing, begun, &is_done, ended);
            let end =
                worker.join().unwrap_or_else(|_| End::Failed("the node's work at it panicked".to_owned()));
            (end, renewed)
        });
        let (progress, cursor) = standing.told();
        info!(
            request = claim.id,
            handled = progress.handled,
            failed = progress.failed,
            "it is over: {end:?}"
        );
        let mut failures = 0;
        loop {
            let noted =
                self.ask(|database, store| database.change(store.end(claim, &progress, cursor, &end)));
            match noted {
                // When the lease is over, somebody else has it.
                Err(_) if renewed.elapsed() < self.lease && !has_ended(ended) => {
                    failures += 1;
                    std::thread::sleep(RECONNECT.delay(failures, fastrand::f64()));
                }
                noted => return noted.map(|_| end),
            }
        }
    }

    /// Notes how far it is until it is done, and ends it where it is this node's no more. Returns when it was renewed last.
    fn keep(
        &mut self,
        claim: &Claim,
        standing: &Standing,
        begun: Instant,
        is_done: &Receiver<()>,
        ended: &Receiver<()>,
    ) -> Instant {
        let mut renewed = begun;
        while let Err(RecvTimeoutError::Timeout) = is_done.recv_timeout(NOTE) {
            if has_ended(ended) {
                standing.stop();
                continue;
            }
            let (now, lease) = (Instant::now(), self.lease);
            // Also where nothing is new: whether it was taken back is seen by nothing else.
            let (progress, cursor) = standing.told();
            let renewal =
                self.ask(|database, store| database.change(store.renew(claim, &progress, cursor, lease)));
            match renewal {
                Ok(1..) => {
                    renewed = now;
                    standing.is_safe_until(now + lease * 3 / 4);
                    self.says(None);
                }
                Ok(_) => {
                    standing.stop();
                    self.says(None);
                }
                Err(error) => {
                    if renewed.elapsed() > lease * 3 / 4 {
                        standing.stop();
                    }
                    self.says(Some(format!("requests: {error}")));
                }
            }
        }
        renewed
    }
}

/// Whether the node ends.
fn has_ended(ended: &Receiver<()>) -> bool {
    ended.try_recv() == Err(TryRecvError::Disconnected)
}

/// What is done for a request, in a thread of its own.
struct Job {
    tables: Tables,
    runtime: Handle,
    emitter: Emitter,
    work: Result<Work, String>,
    /// What is there when it is asked; not what comes later, were it taken over ever so late.
    asked: i64,
    /// What those who had it before have done.
    before: Progress,
    cursor: Option<Cursor>,
    letters_lease: Duration,
}

impl Job {
    fn of(attending: &Attending, emitter: &Emitter, row: RequestRow) -> Self {
        let asked = row.created;
        let request = super::Request::from(row);
        let (work, cursor, all) = (request.work, request.cursor, request.progress);
        let before = match work {
            // Letters that are left are all tried again, those that failed as well.
            Ok(Work::Redrive { .. }) => {
                Progress { handled: all.handled, total: all.total, ..Progress::default() }
            }
            _ => all,
        };
        Self {
            tables: attending.session.tables().clone(),
            runtime: attending.runtime.clone(),
            emitter: emitter.clone(),
            work,
            asked,
            before,
            cursor,
            // A node that died has let go of its letters before another one has the request.
            letters_lease: attending.lease / 2,
        }
    }

    fn run(self, standing: &Standing) -> End {
        match self.work.clone() {
            Ok(Work::Redrive { letters, per_second }) => self.redrive(letters, per_second, standing),
            Ok(Work::Replay { events, options }) => self.replay(events, options, standing),
            Err(problem) => End::Failed(problem),
        }
    }

    fn redrive(&self, letters: dead_letters::Selection, per_second: u32, standing: &Standing) -> End {
        // It is before this moment, and not at it.
        let until = letters.until.map_or(i64::MAX, Timestamp::as_millis).min(self.asked.saturating_add(1));
        let service = letters.service.clone().unwrap_or_else(|| self.emitter.origin().service.to_string());
        let letters = dead_letters::Selection {
            until: Some(Timestamp::from_millis(until)),
            service: Some(service),
            ..letters
        };
        let book = DeadLetterBook::unopened(&self.tables);
        match book.count(&letters) {
            Ok(total) => standing.tell(Progress { total: Some(total), ..self.before }, None),
            Err(error) => return End::Hindered(error.to_string()),
        }
        let redrive = Redrive { per_second, lease: self.letters_lease, ..Redrive::default() };
        let (told, outcome) = mpsc::channel();
        let (emitter, course) = (self.emitter.clone(), Arc::clone(&standing.redrive));
        self.runtime.spawn(async move {
            let redriven = book.redrive_along(&emitter, &letters, redrive, &course).await;
            // It is waited for where the thread is there still.
            let _ = told.send(redriven);
        });
        match outcome.recv() {
            Ok(Ok(redriven)) if redriven.is_interrupted => End::GivenBack,
            Ok(Ok(_)) => End::Done(None),
            Ok(Err(BookError::ShutDown)) | Err(_) => End::GivenBack,
            Ok(Err(error)) => End::Hindered(error.to_string()),
        }
    }

    fn replay(&self, events: mirror::Selection, options: ReplayOptions, standing: &Standing) -> End {
        let ended = |error: MirrorError| match error {
            MirrorError::UnknownListener(_) => {
                let origin = self.emitter.origin();
                End::Failed(format!("{}/{}: {error}", origin.service, origin.node))
            }
            MirrorError::ShutDown => End::GivenBack,
            error => End::Hindered(error.to_string()),
        };
        let replayed = || -> Result<End, MirrorError> {
            let mut mirrored = Mirrored::open(&self.tables)?;
            let until = events.until.map_or(i64::MAX, Timestamp::as_millis).min(self.asked);
            let all = mirror::Selection { until: Some(Timestamp::from_millis(until)), ..events };
            let before = match self.before.total {
                Some(_) => self.before,
                None => Progress { total: Some(mirrored.count(&all)?), ..self.before },
            };
            standing.tell(before, self.cursor);
            let rest = mirror::Selection { after: self.cursor.or(all.after), ..all };
            let mut replay = mirrored.replay(&self.emitter, rest, options)?;
            let mut problem = None;
            loop {
                if standing.is_stopped() {
                    return Ok(End::GivenBack);
                }
                let Some(done) = replay.step()? else { return Ok(End::Done(problem)) };
                let progress = Progress {
                    handled: before.handled + done.handed,
                    failed: before.failed + done.failed,
                    unheard: before.unheard + done.unheard,
                    ..before
                };
                let first = done.problems.first();
                problem =
                    first.map(|(row, problem)| format!("the event in row {row} of the mirror: {problem}"));
                standing.tell(progress, Some(done.cursor));
            }
        };
        replayed().unwrap_or_else(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before it asks anybody: the database may be away, and another node there.
    #[test]
    fn who_slept_through_its_lease_stops_by_its_own_clock() {
        let standing = Standing::of(Progress::default(), Instant::now());
        std::thread::sleep(Duration::from_millis(1));
        assert!(standing.is_stopped());
        standing.is_safe_until(Instant::now() + Duration::from_secs(3600));
        assert!(!standing.is_stopped());
        standing.stop();
        assert!(standing.is_stopped());
    }
}
