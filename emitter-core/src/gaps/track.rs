//! Where a receiver is in one stream.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Stream;

#[derive(Debug)]
pub(super) struct Track<H> {
    pub(super) stream: Stream,
    /// A life counts, and not an outbox.
    pub(super) of_life: bool,
    /// When it was heard of last, by the receiver's count of what comes.
    pub(super) used: u64,
    pub(super) epoch: u64,
    /// Where this owner began: so far its predecessors' numbers stand for what they stood for.
    pub(super) base: u64,
    /// Everything up to it came, or never will.
    pub(super) seen: u64,
    /// So many were given.
    pub(super) known: u64,
    /// Nothing is known of what was before this time, and has to be asked for.
    pub(super) since: Option<i64>,
    /// What came too early.
    pub(super) held: BTreeMap<u64, Held<H>>,
    /// Something came in its turn since it was looked whether to ask.
    pub(super) moved: bool,
    /// When it was asked for what is missing.
    pub(super) asked: Option<Duration>,
    /// How often in a row that was in vain.
    tries: u32,
    /// How often in a row since its owner was heard of.
    unheard: u32,
    /// It has waited for too long: what comes goes on.
    pub(super) impatient: bool,
    /// The greatest number that went on so, and how many before it did not.
    gone: (u64, u64),
    /// The life was given up once, and said nothing since: nothing waits for it any more.
    pub(super) is_mute: bool,
    /// Where the first of those began who count from before the owner, of whom something came since he was heard of: he came
    /// after them, or their database went back.
    former: Option<u64>,
    /// It may be so that it went back: somebody has to tell.
    is_doubted: bool,
    /// What listeners work on, with the owner that counted it.
    pub(super) open: BTreeSet<(u64, u64)>,
}

/// An event that came too early.
#[derive(Debug)]
pub(super) struct Held<H> {
    pub(super) item: H,
    pub(super) bytes: usize,
    /// Who counted it.
    pub(super) epoch: u64,
    /// How many messages are not acknowledged for it.
    pub(super) messages: usize,
}

/// How long after an answer was due it is asked again, doubled each time.
const FIRST: Duration = Duration::from_millis(500);

/// How long nothing may come of a stream that is not up to its head, before it is asked for.
const QUIET: Duration = Duration::from_secs(1);

/// No longer than this.
pub(super) const LONGEST: Duration = Duration::from_secs(10);

/// After so many questions in vain, which takes half a minute, what waits goes on, or is given up.
const PATIENCE: u32 = 6;

/// The same for what waits for a life, which takes three seconds: it is not acknowledged meanwhile, and holds up
/// what else the broker has for this node.
const PATIENCE_WITH_LIVES: u32 = 3;

impl<H> Track<H> {
    pub(super) fn new(stream: Stream, epoch: u64, seen: u64) -> Self {
        Self {
            of_life: stream.is_of_life(),
            stream,
            used: 0,
            epoch,
            base: 0,
            seen,
            known: seen,
            since: None,
            held: BTreeMap::new(),
            moved: false,
            asked: None,
            tries: 0,
            unheard: 0,
            impatient: false,
            gone: (0, 0),
            is_mute: false,
            former: None,
            is_doubted: false,
            open: BTreeSet::new(),
        }
    }

    /// Another owner counts: what is settled of its predecessors' is known, the rest it counts and publishes
    /// anew, so that it need not be held. Of one that counts from before the last one that is not so: its database went back,
    /// what waits nobody may have any more, and it was not looked at what came of the owners since then.
    pub(super) fn begin(&mut self, epoch: u64, base: u64) -> BTreeMap<u64, Held<H>> {
        let goes_back = epoch < self.epoch;
        let former = self.former.filter(|_| goes_back).unwrap_or(base);
        (self.epoch, self.base) = (epoch, base);
        self.seen = self.seen.min(base).min(former);
        self.known = base;
        self.heard_of_owner();
        self.calm();
        if goes_back { BTreeMap::new() } else { self.held.split_off(&(base.saturating_add(1))) }
    }

    /// The owner has said something: it is he who counts.
    pub(super) fn heard_of_owner(&mut self) {
        (self.unheard, self.former, self.is_doubted) = (0, None, false);
    }

    /// Something came of one who counts from before the owner, and began there.
    pub(super) fn heard_of_former(&mut self, base: u64) {
        self.former = Some(self.former.map_or(base, |former| former.min(base)));
    }

    /// Somebody has to tell who counts.
    pub(super) fn doubt(&mut self) {
        self.is_doubted = !self.of_life;
    }

    /// Whether nobody answered for half a minute who counts as the owner does: whoever answers then is followed.
    pub(super) fn is_silent(&self) -> bool {
        !self.of_life && self.unheard >= PATIENCE
    }

    /// What was missing came, or is another: it has not been asked for in vain.
    pub(super) fn calm(&mut self) {
        (self.asked, self.tries, self.unheard, self.impatient) = (None, 0, 0, false);
    }

    /// What comes from now on waits for nothing.
    pub(super) fn lose_patience(&mut self) {
        (self.impatient, self.gone) = (true, (self.seen, 0));
    }

    /// An event goes on.
    pub(super) fn goes(&mut self, sequence: u64) {
        if !self.impatient {
            return;
        }
        let (last, missing) = &mut self.gone;
        match sequence.checked_sub(last.saturating_add(1)) {
            Some(more) => (*last, *missing) = (sequence, missing.saturating_add(more)),
            None => *missing = missing.saturating_sub(1),
        }
    }

    /// Whether it is time to ask for what is missing; that counts as a question.
    pub(super) fn is_due(&mut self, now: Duration) -> bool {
        // What a head told of may be on its way here: a slow node has more before it.
        let is_quiet = self.held.is_empty() && self.since.is_none();
        let moved = std::mem::take(&mut self.moved);
        if is_quiet && (moved || self.asked.is_none()) {
            (self.asked, self.tries, self.unheard) = (Some(now), 0, 0);
            return false;
        }
        let first = if is_quiet { QUIET } else { FIRST };
        let pause = first.saturating_mul(1 << self.tries.min(10)).min(LONGEST);
        if self.asked.is_some_and(|asked| now < asked.saturating_add(pause)) {
            return false;
        }
        if self.asked.replace(now).is_some() {
            (self.tries, self.unheard) = (self.tries.saturating_add(1), self.unheard.saturating_add(1));
        }
        let patience = if self.of_life { PATIENCE_WITH_LIVES } else { PATIENCE };
        if self.tries >= patience && !self.impatient {
            self.lose_patience();
        }
        true
    }

    /// Gives up what only a dead life has, and returns how many that are; `None` while there is hope.
    pub(super) fn give_up(&mut self) -> Option<u64> {
        if !self.of_life || self.tries < PATIENCE || !self.held.is_empty() {
            return None;
        }
        let (last, missing) = self.gone;
        let last = last.max(self.seen);
        let missing = missing.min(last - self.seen).saturating_add(self.known.saturating_sub(last));
        self.seen = self.known.max(last);
        self.known = self.seen;
        self.calm();
        self.is_mute = true;
        Some(missing)
    }

    /// Whether an event is just what was to come, and nothing else is to be thought of.
    pub(super) fn is_next(&self, epoch: u64, sequence: u64) -> bool {
        epoch == self.epoch
            && self.seen == self.known
            && sequence.checked_sub(1) == Some(self.seen)
            && self.held.is_empty()
            && self.since.is_none()
    }

    pub(super) fn is_behind(&self) -> bool {
        // What a life has on its way it does not tell, and what does not count shows in no number.
        let untold = |(sequence, held): (&u64, &Held<H>)| self.of_life || !self.counts(held.epoch, *sequence);
        let waits = self.since.is_some() || self.held.first_key_value().is_some_and(untold);
        self.known > self.seen || self.is_doubted || waits
    }

    /// Whether a number stands for what it stands for with the present owner. What an earlier one had on its way, and did
    /// not settle, has another by now, and comes again under that.
    pub(super) fn counts(&self, epoch: u64, sequence: u64) -> bool {
        epoch == self.epoch || epoch.checked_add(1) == Some(self.epoch) && sequence <= self.base
    }

    /// Nothing is going on in it.
    pub(super) fn is_idle(&self) -> bool {
        self.held.is_empty() && self.open.is_empty() && (self.of_life || !self.is_behind())
    }

    /// Up to where everything is done.
    pub(super) fn done(&self) -> u64 {
        let open = self.open.iter().next().map_or(u64::MAX, |(sequence, _)| sequence.saturating_sub(1));
        self.seen.min(open)
    }
}
