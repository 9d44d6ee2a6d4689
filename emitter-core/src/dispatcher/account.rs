//! How the calls for one event end, listener by listener, for whoever keeps account of it.

use std::borrow::Cow;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Job, Listener};
use crate::dead_letter::MAX_ERROR_BYTES;
use crate::record::{Progress, Standing};

/// What is told of one listener of an event.
pub(crate) struct Entry {
    pub(crate) listener: Arc<Listener>,
    /// How often it was called.
    pub(crate) attempts: u32,
    pub(crate) standing: Standing,
    /// What its last call failed with.
    pub(crate) error: Option<String>,
}

impl Entry {
    /// It is done with the event.
    pub(super) fn ended(listener: &Arc<Listener>, attempts: u32, standing: Standing) -> Self {
        Self { listener: Arc::clone(listener), attempts, standing, error: None }
    }

    /// Its last call failed.
    pub(super) fn failed(
        listener: &Arc<Listener>,
        attempts: u32,
        standing: Standing,
        mut error: String,
    ) -> Self {
        error.truncate(error.floor_char_boundary(MAX_ERROR_BYTES));
        Self { error: Some(error), ..Self::ended(listener, attempts, standing) }
    }

    pub(crate) fn progress(self) -> Progress {
        let Self { listener, attempts, standing, error } = self;
        Progress { listener: listener.info.name.clone(), attempts, standing, error }
    }
}

/// Is told of an event's listeners, in the order in which that happened to each of them.
pub(crate) type Keeper = Arc<dyn Fn(&Job, Vec<Entry>) + Send + Sync>;

/// How the calls for one event end. Nothing of it is locked while its listeners are done with it at once.
pub(crate) struct Account {
    keeper: Keeper,
    told: Told,
    /// What was before the first trouble; `None` from there on.
    before: Mutex<Option<Vec<Entry>>>,
}

/// What whoever keeps an account is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Nothing, until a call fails; then what was before it, and what follows.
    Trouble,
    /// Everything.
    All,
    /// Everything, and nothing of it becomes a dead letter: whoever is told has it.
    Letters,
}

impl Account {
    /// Of an event that is written down until listeners are done with it. It `goes_on` where something was told
    /// of the event before.
    pub(crate) fn of_record(keeper: Keeper, goes_on: bool) -> Self {
        Self::new(keeper, if goes_on { Told::All } else { Told::Trouble })
    }

    /// Of a dead letter that is tried again.
    pub(crate) fn of_letter(keeper: Keeper) -> Self {
        Self::new(keeper, Told::Letters)
    }

    fn new(keeper: Keeper, told: Told) -> Self {
        let before = (told == Told::Trouble).then(Vec::new);
        Self { keeper, told, before: Mutex::new(before) }
    }

    /// Whether what is not handled becomes no dead letter.
    pub(super) fn has_letters(&self) -> bool {
        self.told == Told::Letters
    }

    /// Whether it is told of an event, too, with which all listeners are done at once.
    pub(super) fn has_all(&self) -> bool {
        self.told != Told::Trouble
    }

    /// Tells of these.
    pub(super) fn note(&self, job: &Job, entries: impl IntoIterator<Item = Entry>) {
        // By its name nobody could tell one of those from another one.
        let is_known = |entry: &Entry| self.has_letters() || !entry.listener.has_namesake();
        let mut entries: Vec<Entry> = entries.into_iter().filter(is_known).collect();
        {
            let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(kept) = &mut *before {
                kept.append(&mut entries);
                if kept.iter().all(|entry| entry.error.is_none()) {
                    return;
                }
                entries = mem::take(kept);
                *before = None;
            }
        }
        if !entries.is_empty() {
            (self.keeper)(job, entries);
        }
    }
}

/// For which of the listeners that hear an event it is.
#[derive(Default)]
pub(crate) struct Selection {
    /// Those of these names; all, where nothing is said.
    names: Option<Arc<[String]>>,
    /// Those of these names hear it, from wherever it came.
    is_address: bool,
    /// Those that are done with it or have been called for it, when it was handed out before.
    earlier: Vec<Earlier>,
}

/// How far a listener is with an event that was handed out before.
pub(super) struct Earlier {
    listener: Cow<'static, str>,
    /// How often it was called.
    pub(super) attempts: u32,
    /// When it may be called again; `None` where it is done with it.
    pub(super) due: Option<Instant>,
}

impl Selection {
    /// Listeners of these names, or all.
    pub(crate) fn of_names(names: Option<Arc<[String]>>) -> Self {
        Self { names, ..Self::default() }
    }

    /// The listener of this name, whichever side it hears: what one did not handle is for that one. All, where none
    /// is named.
    pub(crate) fn addressed(name: Option<String>) -> Self {
        Self { is_address: name.is_some(), names: name.map(|name| [name].into()), earlier: Vec::new() }
    }

    /// Those that are not done with it.
    pub(crate) fn after(progress: Vec<Progress>) -> Self {
        let earlier = progress.into_iter().map(|Progress { listener, attempts, standing, .. }| {
            let due = match standing {
                Standing::Retrying(delay) => Some(Instant::now() + delay.min(LONGEST_DELAY)),
                Standing::Handled | Standing::HeldBack | Standing::GivenUp => None,
            };
            Earlier { listener, attempts, due }
        });
        Self { earlier: earlier.collect(), ..Self::default() }
    }

    pub(super) fn is_address(&self) -> bool {
        self.is_address
    }

    pub(super) fn is_for(&self, listener: &Listener) -> bool {
        let is_named =
            self.names.as_ref().is_none_or(|names| names.iter().any(|name| *name == *listener.info.name));
        is_named && self.earlier(listener).is_none_or(|earlier| earlier.due.is_some())
    }

    /// How far a listener was when the event was handed out before.
    pub(super) fn earlier(&self, listener: &Listener) -> Option<&Earlier> {
        let earlier = self.earlier.iter().find(|earlier| earlier.listener == listener.info.name);
        earlier.filter(|_| !listener.has_namesake())
    }
}

/// No moment is further away, whatever was written down.
const LONGEST_DELAY: Duration = Duration::from_secs(24 * 3600);
