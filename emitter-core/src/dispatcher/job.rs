//! An event on its way to listeners.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use super::Listener;
use super::account::{Account, Earlier, Entry, Selection};
use crate::ack::Ack;
use crate::dead_letter::Original;
use crate::event::Source;
use crate::model_info::AnyEvent;
use crate::queue::drop_guarded;

/// An event on its way to listeners.
#[derive(Clone)]
pub(crate) struct Job {
    event: Arc<dyn AnyEvent>,
    /// Present where somebody wants to know when they are done with it.
    done: Option<Arc<Completion>>,
    /// Whose it is.
    share: Share,
    /// Nobody forbade that it goes to other nodes.
    may_leave: bool,
}

/// For which listeners an event is.
#[derive(Clone)]
enum Share {
    /// It came from the broker for those of this group, or for those of none.
    Of(Option<Arc<str>>),
    /// This node wrote it. Where it is on its way to other nodes, too, groups get it from the broker.
    Own { published: bool },
    /// It is handed out once more, whatever their group.
    Again,
}

impl Job {
    pub(crate) fn local(event: Arc<dyn AnyEvent>, published: bool, may_leave: bool) -> Self {
        Self { event, done: None, share: Share::Own { published }, may_leave }
    }

    /// The same of an event that is written down until listeners are done with it.
    pub(crate) fn recorded(
        event: Arc<dyn AnyEvent>,
        published: bool,
        may_leave: bool,
        done: Arc<Completion>,
    ) -> Self {
        Self { event, done: Some(done), share: Share::Own { published }, may_leave }
    }

    /// An event whose acknowledgements wait in `done`.
    pub(crate) fn remote(event: Arc<dyn AnyEvent>, group: Option<Arc<str>>, done: Arc<Completion>) -> Self {
        Self { event, done: Some(done), share: Share::Of(group), may_leave: true }
    }

    /// An event that was there before: from a record, or a dead letter.
    pub(crate) fn again(event: Arc<dyn AnyEvent>, may_leave: bool, done: Arc<Completion>) -> Self {
        Self { event, done: Some(done), share: Share::Again, may_leave }
    }

    /// Whether a listener hears what comes from there.
    pub(super) fn is_heard_by(&self, listener: &Listener, source: Source) -> bool {
        match self.done.as_ref().filter(|done| done.selection.is_address()) {
            Some(done) => done.selection.is_for(listener),
            None => listener.info.hears.hears(source),
        }
    }

    /// Whether it is for this listener, by its group, its name, and what it has done before.
    pub(super) fn is_for(&self, listener: &Listener) -> bool {
        let of_group = match (&self.share, listener.info.group.as_deref()) {
            (Share::Of(own), group) => own.as_deref() == group,
            (Share::Own { published }, Some(_)) => !published,
            (Share::Own { .. }, None) | (Share::Again, _) => true,
        };
        of_group && self.done.as_ref().is_none_or(|done| done.selection.is_for(listener))
    }

    /// How far a listener was when the event was handed out before.
    pub(super) fn earlier(&self, listener: &Listener) -> Option<&Earlier> {
        self.done.as_ref()?.selection.earlier(listener)
    }

    /// Whether it has to be handed to whoever wants it, however many wait.
    pub(super) fn is_owed(&self) -> bool {
        self.done.is_some()
    }

    /// Who keeps account of how its listeners' calls end.
    pub(super) fn account(&self) -> Option<&Account> {
        self.done.as_ref()?.account.as_ref()
    }

    /// Whether it was a dead letter, which whoever keeps account of it has.
    pub(super) fn is_letter(&self) -> bool {
        self.account().is_some_and(Account::has_letters)
    }

    /// Tells whoever keeps account of it, if anybody does.
    pub(crate) fn note(&self, entry: impl FnOnce() -> Entry) {
        if let Some(account) = self.account() {
            account.note(self, [entry()]);
        }
    }

    /// One more listener works on it.
    pub(crate) fn share(&self) -> Self {
        if let Some(done) = &self.done {
            done.unfinished.fetch_add(1, Ordering::Relaxed);
        }
        self.clone()
    }

    pub(crate) fn event(&self) -> &dyn AnyEvent {
        &*self.event
    }

    pub(super) fn shared_event(&self) -> &Arc<dyn AnyEvent> {
        &self.event
    }

    pub(crate) fn may_leave(&self) -> bool {
        self.may_leave
    }

    /// As it came, if it did.
    pub(crate) fn original(&self) -> Option<&Original> {
        self.done.as_ref()?.original.as_ref()
    }

    /// One listener less works on it.
    pub(crate) fn finish(self) {
        drop_guarded([self.event]);
        if let Some(done) = self.done {
            done.finish_one();
        }
    }
}

/// Acknowledges an event when the last of its listeners is done with it.
///
/// Dropped before that, it acknowledges nothing, and the broker sends the event again.
pub(crate) struct Completion {
    unfinished: AtomicUsize,
    /// `None` once it is complete.
    acks: Mutex<Option<VecDeque<Ack>>>,
    /// As it came, if it did, for a dead letter.
    original: Option<Original>,
    /// Its place among the events of other nodes that are in progress.
    _place: Option<OwnedSemaphorePermit>,
    selection: Selection,
    account: Option<Account>,
}

/// How many acknowledgements of one event are kept while listeners work on it: those of its last copies,
/// any of which brings it again if the node ends here.
const ACKS: usize = 64;

impl Completion {
    pub(crate) fn new(
        ack: Ack,
        original: Option<Original>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Arc<Self> {
        Arc::new(Self { original, _place: place, ..Self::by(ack) })
    }

    /// Of an event that is for some of its listeners, or of whose calls somebody keeps account.
    pub(crate) fn of(
        ack: Ack,
        original: Option<Original>,
        selection: Selection,
        account: Option<Account>,
    ) -> Arc<Self> {
        Arc::new(Self { original, selection, account, ..Self::by(ack) })
    }

    fn by(ack: Ack) -> Self {
        let acks = Mutex::new(Some(VecDeque::from([ack])));
        let (unfinished, selection) = (AtomicUsize::new(1), Selection::default());
        Self { unfinished, acks, original: None, _place: None, selection, account: None }
    }

    /// The same event came again: its acknowledgement waits for the same listeners.
    pub(crate) fn attach(&self, ack: Ack) {
        let spare = match &mut *self.acks.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(acks) => {
                acks.push_back(ack);
                // Done, not dropped: what is never acknowledged holds up all behind it.
                if acks.len() > ACKS { acks.pop_front() } else { None }
            }
            None => Some(ack),
        };
        spare.into_iter().for_each(Ack::done);
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn finish_one(&self) {
        if self.unfinished.fetch_sub(1, Ordering::AcqRel) == 1 {
            let acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner).take();
            acks.into_iter().flatten().for_each(Ack::done);
        }
    }
}
