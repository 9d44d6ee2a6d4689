//! Events of a mirror, handed to listeners once more.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use emitter_core::transport::Ack;
use emitter_core::{Emitter, ReplayError};

use super::reading::{MirrorError, Mirrored, MirroredEvent};
use super::selection::{Cursor, Selection};

/// How events are replayed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplayOptions {
    /// For whom. Default: all listeners.
    pub listeners: Listeners,
    /// How many events a second at most. Default: as fast as listeners take them.
    pub per_second: Option<u32>,
}

/// The listeners for whom a replay is. Each hears what it would hear of the bus: a listener that hears only its
/// own node hears what this node wrote, one that hears only others what others wrote.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Listeners {
    /// All that this node has, those of groups included.
    #[default]
    All,
    /// Those of these names.
    Named(Vec<String>),
}

/// What a replay has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Replayed {
    /// Handed to the listeners, who are done with them: or have given them up, which makes dead letters of them.
    pub handed: u64,
    /// Of models for which this node has no listener.
    pub unheard: u64,
    /// That could not be read: no events, or not of the model's shape.
    pub failed: u64,
    /// Why, of the first ten: the row's number, and what is wrong with it.
    pub problems: Vec<(i64, String)>,
    /// Where to resume: all up to here is done with.
    pub cursor: Cursor,
}

/// A replay in progress. It goes on with each [`step`](Self::step), so that a program may write its cursor down
/// between two of them, show how far it is, and stop.
#[derive(Debug)]
#[must_use = "nothing is handed on before `.step()` or `.finish()`"]
pub struct Replay<'m> {
    mirrored: &'m mut Mirrored,
    emitter: Emitter,
    selection: Selection,
    listeners: Option<Arc<[String]>>,
    /// Between two events.
    pace: Duration,
    /// When the next event may be handed on.
    next: Instant,
    /// Where it ends.
    horizon: Cursor,
    done: Replayed,
    is_over: bool,
}

/// How many events are with listeners at a time at most.
const MOST: usize = 200;

/// So much of the time that listeners took too long, or the database, is made up for, and no more: a rate holds after that, too.
const LATE: Duration = Duration::from_millis(100);

/// How long is waited when a queue is full.
const FULL: Duration = Duration::from_millis(5);

impl<'m> Replay<'m> {
    pub(super) fn new(
        mirrored: &'m mut Mirrored,
        emitter: Emitter,
        selection: Selection,
        options: ReplayOptions,
    ) -> Result<Self, MirrorError> {
        let ReplayOptions { listeners, per_second } = options;
        let listeners: Option<Arc<[String]>> = match listeners {
            Listeners::All => None,
            Listeners::Named(names) => Some(names.into()),
        };
        let known = emitter.listeners();
        let mut named = listeners.iter().flat_map(|names| names.iter());
        if let Some(name) = named.find(|name| !known.iter().any(|listener| *listener.name == **name)) {
            return Err(MirrorError::UnknownListener(name.clone()));
        }
        let horizon = mirrored.horizon()?;
        let done = Replayed { cursor: selection.after.unwrap_or_default(), ..Replayed::default() };
        // A second's worth at most, so that a step is no longer than that.
        let most = per_second.map_or(MOST, |rate| usize::try_from(rate).unwrap_or(MOST).max(1));
        let limit = selection.page().min(MOST).min(most);
        let selection = Selection { limit, ..selection };
        let pace = per_second.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.max(1));
        let replay = Self {
            mirrored,
            emitter,
            selection,
            listeners,
            pace,
            next: Instant::now(),
            horizon,
            done,
            is_over: false,
        };
        Ok(replay)
    }

    /// Hands the next events on, and returns when their listeners are done: with all that was done so far, or
    /// `None` at the end.
    ///
    /// # Errors
    /// [`MirrorError::ShutDown`] and [`MirrorError::Database`]: then what this step did is done again by whoever
    /// resumes behind the last cursor.
    pub fn step(&mut self) -> Result<Option<&Replayed>, MirrorError> {
        if self.is_over {
            return Ok(None);
        }
        let page = self.mirrored.read_until(&self.selection, self.horizon)?;
        let mut done = self.done.clone();
        let (handled, are_handled) = mpsc::channel();
        let mut handed = 0;
        for event in &page.events {
            self.pace();
            match self.hand(event, &handled)? {
                Ok(()) => handed += 1,
                Err(ReplayError::Unheard | ReplayError::UnknownModel) => done.unheard += 1,
                Err(problem) => {
                    done.failed += 1;
                    if done.problems.len() < 10 {
                        done.problems.push((event.id, problem.to_string()));
                    }
                }
            }
        }
        drop(handled);
        // Ends when the last listener is done with the last event, or is stopped.
        if are_handled.iter().count() < handed {
            return Err(MirrorError::ShutDown);
        }
        done.handed += handed as u64;
        done.cursor = page.cursor;
        self.done = done;
        self.selection.after = Some(page.cursor);
        self.is_over = !page.more;
        Ok(if page.events.is_empty() { None } else { Some(&self.done) })
    }

    /// Goes on to the end.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn finish(mut self) -> Result<Replayed, MirrorError> {
        while self.step()?.is_some() {}
        Ok(self.done)
    }

    /// Waits until the next event may be handed on.
    fn pace(&mut self) {
        std::thread::sleep(self.next.saturating_duration_since(Instant::now()));
        let now = Instant::now();
        let late = now.saturating_duration_since(self.next).min(LATE);
        self.next = (now + self.pace).checked_sub(late).unwrap_or(now);
    }

    /// Hands one event on, when there is room for it.
    fn hand(
        &self,
        event: &MirroredEvent,
        handled: &mpsc::Sender<()>,
    ) -> Result<Result<(), ReplayError>, MirrorError> {
        let payload = event.payload.clone().into_bytes().into();
        loop {
            let handled = handled.clone();
            // It is sent nowhere where nobody waits any more.
            let handled = Ack::new(move || {
                let _ = handled.send(());
            });
            let listeners = self.listeners.clone();
            let properties = &event.properties;
            match self.emitter.replay_kept(&event.topic, &payload, properties, listeners, handled) {
                Err(ReplayError::QueueFull) => std::thread::sleep(FULL),
                Err(ReplayError::ShutDown) => return Err(MirrorError::ShutDown),
                outcome => return Ok(outcome.map(drop)),
            }
        }
    }
}
