//! Which events came, which are missing, and what waits for those.
//!
//! Each event of an outbox has a [`Number`] in its stream, which is a model in a lane. Where one is missing,
//! those that follow wait, and the outbox is asked for it: a broker may forget what it has confirmed. An
//! answer tells everything from the last one that came up to the last that is settled, so that what was held
//! meanwhile, if there was too much of it, may be dropped: it comes again.
//!
//! Buffered events are numbered by the life of the node that wrote them, and asked for there: it keeps the last
//! ones in a ring. It may be dead, and nobody else has them. So what follows a missing one waits for some seconds
//! only, and what does not come is given up, and counted.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::record::Number;

pub(crate) mod ring;
mod track;
pub mod wire;

#[cfg(test)]
mod tests;

pub use ring::RingLimits;
use track::{Held, Track};

/// What is counted: a model in a lane of an outbox, or of what one life of a node publishes by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    /// The outbox's name; or that of a life, which no outbox can have: `~` and the incarnation.
    pub outbox: Arc<str>,
    /// The lane; of a life 0.
    pub lane: u32,
    /// The model, in lower case.
    pub model: Arc<str>,
}

impl Stream {
    /// Whether a life of a node counts it, and not an outbox.
    #[must_use]
    pub fn is_of_life(&self) -> bool {
        is_life(&self.outbox)
    }
}

/// What stands before the incarnation in a life's name.
pub(crate) const LIFE: &str = "~";

/// What a life of a node is called.
pub(crate) fn life(incarnation: Uuid) -> Arc<str> {
    format!("{LIFE}{}", incarnation.simple()).into()
}

fn is_life(name: &str) -> bool {
    let incarnation = name.strip_prefix(LIFE).unwrap_or_default();
    incarnation.len() == 32
        && incarnation.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
}

/// How far a node is in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The stream.
    pub stream: Stream,
    /// Which owner of the lane counted.
    pub epoch: u64,
    /// The last number up to which everything is done.
    pub sequence: u64,
}

/// How far an outbox is in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The stream.
    pub stream: Stream,
    /// Which owner of the lane counts.
    pub epoch: u64,
    /// Where that owner began.
    pub base: u64,
    /// The last number that was given.
    pub last: u64,
}

/// Where a node begins in streams of which it never heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Since {
    /// With what comes from now on.
    #[default]
    Now,
    /// With the first event that the outbox still has.
    Beginning,
    /// With what was written since so many milliseconds after 1970.
    Time(i64),
}

/// After which number of a stream something is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// After this one.
    Sequence(u64),
    /// After those that were written before so many milliseconds after 1970.
    Time(i64),
}

/// Where the receiver is in each stream. `H` is what waits.
#[derive(Debug)]
pub(crate) struct Gaps<H> {
    /// By outbox, lane and model, as one text.
    tracks: HashMap<Box<str>, Track<H>>,
    /// Those that are behind.
    behind: HashSet<Box<str>>,
    since: Since,
    /// How far listeners are is asked for.
    keeps: bool,
    /// How often a stream fell behind, since that was asked.
    found: u64,
    /// How many events were given up, since that was asked.
    lost: u64,
    /// Counts what comes, so that it is known which stream was heard of last.
    clock: u64,
    /// A stream of an outbox was forgotten: what seems new may be that one.
    forgot: bool,
    /// How many bytes wait.
    bytes: usize,
    /// How many messages are not acknowledged, for what is in them waits.
    messages: usize,
    /// Outboxes and models that an earlier life followed: what is new of them came since.
    followed: HashSet<(Arc<str>, Arc<str>)>,
    key: String,
}

/// What is to be done with an event that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It goes on.
    Goes,
    /// It goes on, and others wait that may [go on](Gaps::next_held) after it.
    GoesFirst,
    /// One before it is missing: it is to be [held](Gaps::hold).
    Waits,
}

/// What an outbox tells of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) epoch: u64,
    /// Where this owner began.
    pub(crate) base: u64,
    /// After this number.
    pub(crate) after: u64,
    /// Up to this one, everything that is left.
    pub(crate) covered: u64,
    /// So many were given.
    pub(crate) last: u64,
}

/// How many events of a stream may wait. Beyond that the oldest is dropped, and asked for.
const MOST_HELD: usize = 1_000;

/// How many messages may wait for lives, of all streams. They are not acknowledged, and there is an end to how many of those
/// a broker has on their way: behind them it may hold back the very answer that they wait for.
const MOST_MESSAGES: usize = 64;

/// How many bytes of events may wait, of all streams.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// How many streams a node knows at most. Beyond that it forgets those that it did not hear of for longest.
pub const MOST_STREAMS: usize = 65_536;

/// So many are forgotten at once where there is no room for another one.
const FORGOTTEN: usize = MOST_STREAMS / 16;

impl<H> Default for Gaps<H> {
    fn default() -> Self {
        Self {
            tracks: HashMap::new(),
            behind: HashSet::new(),
            since: Since::Now,
            keeps: false,
            found: 0,
            lost: 0,
            clock: 0,
            forgot: false,
            bytes: 0,
            messages: 0,
            followed: HashSet::new(),
            key: String::new(),
        }
    }
}

fn write_key(key: &mut String, outbox: &str, lane: u32, model: &str) {
    key.clear();
    // Writing to a `String` cannot fail.
    let _ = write!(key, "{outbox}/{lane}/");
    key.extend(model.chars().map(|letter| letter.to_ascii_lowercase()));
}

impl<H> Gaps<H> {
    /// Begins where an earlier life ended, and elsewhere as `since` says. From now on it is known how far
    /// listeners are.
    pub(crate) fn resume(&mut self, positions: impl IntoIterator<Item = Position>, since: Since) {
        (self.since, self.keeps) = (since, true);
        for Position { stream, epoch, sequence } in positions.into_iter().take(MOST_STREAMS) {
            write_key(&mut self.key, &stream.outbox, stream.lane, &stream.model);
            self.followed.insert((Arc::clone(&stream.outbox), Arc::clone(&stream.model)));
            self.tracks.insert(self.key.as_str().into(), Track::new(stream, epoch, sequence));
        }
    }

    /// Another owner counts in the stream at the key. A life has none, whatever anybody says: what waits for one is not
    /// acknowledged, and nobody else has it.
    fn begin(&mut self, epoch: u64, base: u64) {
        let Some(track) = self.tracks.get_mut(&*self.key).filter(|track| !track.of_life) else { return };
        for gone in track.begin(epoch, base).into_values() {
            self.bytes = self.bytes.saturating_sub(gone.bytes);
        }
    }

    /// How many streams are behind.
    pub(crate) fn behind(&self) -> usize {
        self.behind.len()
    }

    /// How far listeners are in the streams of outboxes. (Lives end, and nobody answers for them then.)
    pub(crate) fn positions(&self) -> Vec<Position> {
        let known = self.tracks.values().filter(|track| track.since.is_none() && !track.of_life);
        known
            .map(|track| Position {
                stream: track.stream.clone(),
                epoch: track.epoch,
                sequence: track.done(),
            })
            .collect()
    }

    /// An event came, or its echo.
    pub(crate) fn arrived(&mut self, number: &Number, model: &str) -> Arrival {
        let Number { ref outbox, lane, epoch, base, sequence, .. } = *number;
        write_key(&mut self.key, outbox, lane, model);
        self.clock += 1;
        match self.tracks.get_mut(&*self.key) {
            // Nearly always.
            Some(track) if track.is_next(epoch, sequence) => {
                track.used = self.clock;
                (track.seen, track.known, track.moved) = (sequence, sequence, true);
                if self.keeps && !track.of_life {
                    track.open.insert((sequence, epoch));
                }
                return Arrival::Goes;
            }
            Some(_) => {}
            None => {
                let model = model.to_ascii_lowercase().into();
                let stream = Stream { outbox: Arc::clone(outbox), lane, model };
                self.meet(stream, (epoch, base), sequence.saturating_sub(1));
            }
        }
        if self.tracks.get(&*self.key).is_some_and(|track| epoch > track.epoch) {
            self.begin(epoch, base);
        }
        let Some(track) = self.tracks.get_mut(&*self.key) else { return Arrival::Goes };
        track.used = self.clock;
        let counts = track.counts(epoch, sequence);
        if counts {
            track.known = track.known.max(sequence);
        } else {
            track.heard_of_former(base);
        }
        // One that does not count waits, too: behind what is missing there may be earlier ones of its key.
        let waits = track.since.is_some() || sequence > track.seen.saturating_add(1);
        if waits && track.is_mute && !track.impatient {
            track.lose_patience();
        }
        // What waited goes on before it, whenever that is.
        let follows = track.held.first_key_value().is_some_and(|(first, _)| *first < sequence);
        if waits && (follows || !track.impatient) {
            if track.held.is_empty() {
                // It is known now that something is missing, and not only late.
                track.calm();
            }
            self.fall_behind();
            return Arrival::Waits;
        }
        // Before anybody asks how far it is: listeners begin with it.
        if self.keeps && !track.of_life {
            track.open.insert((sequence, epoch));
        }
        track.goes(sequence);
        let arrival = if track.held.is_empty() { Arrival::Goes } else { Arrival::GoesFirst };
        if waits {
            if !counts && track.is_silent() {
                track.doubt();
            }
            self.fall_behind();
            return arrival;
        }
        if counts && sequence > track.seen {
            track.seen = sequence;
            track.moved = true;
        }
        if !track.is_behind() {
            track.calm();
            self.behind.remove(&*self.key);
        }
        arrival
    }

    /// A stream of which nothing was known, at the key, where what comes now is what follows `now`.
    fn meet(&mut self, stream: Stream, (epoch, base): (u64, u64), now: u64) {
        if self.tracks.len() >= MOST_STREAMS {
            self.forget_some();
            if self.tracks.len() >= MOST_STREAMS {
                return;
            }
        }
        let followed = self.followed.contains(&(Arc::clone(&stream.outbox), Arc::clone(&stream.model)));
        let mut track = Track::new(stream, epoch, now);
        (track.base, track.used) = (base, self.clock);
        match self.since {
            // Nobody has what a life published long ago; and what was forgotten is not told from its beginning again.
            _ if track.of_life || self.forgot => {}
            // It was begun since the last life.
            _ if followed => track.seen = 0,
            Since::Now => {}
            Since::Beginning => track.seen = 0,
            Since::Time(millis) => track.since = Some(millis),
        }
        let is_behind = track.is_behind();
        self.tracks.insert(self.key.as_str().into(), track);
        if is_behind {
            self.fall_behind();
        }
    }

    /// Makes room: forgets streams in which nothing is going on, those of lives first, and of these the ones that
    /// were not heard of for longest. What comes next of such a one is no gap, whatever came before; that it
    /// came twice is not known by its number anyway.
    fn forget_some(&mut self) {
        let age = |track: &Track<H>| track.is_idle().then_some((!track.of_life, track.used));
        let mut ages: Vec<(bool, u64)> = self.tracks.values().filter_map(age).collect();
        let Some(last) = FORGOTTEN.min(ages.len()).checked_sub(1) else { return };
        let limit = *ages.select_nth_unstable(last).1;
        self.tracks.retain(|_, track| age(track).is_none_or(|age| age > limit));
        self.behind.retain(|key| self.tracks.contains_key(key));
        self.forgot |= limit.0;
    }

    /// Forgets what lives published of a model: nobody here has heard it for a while, and what was published
    /// meanwhile is not missing.
    pub(crate) fn forget_lives(&mut self, model: &str) {
        let goes = |track: &Track<H>| {
            track.of_life && track.is_idle() && track.stream.model.eq_ignore_ascii_case(model)
        };
        self.tracks.retain(|_, track| !goes(track));
        self.behind.retain(|key| self.tracks.contains_key(key));
    }

    /// Something is missing in the stream at the key.
    fn fall_behind(&mut self) {
        if !self.behind.contains(&*self.key) {
            self.behind.insert(self.key.as_str().into());
            self.found += 1;
        }
    }

    /// How often a stream fell behind since this was asked last.
    pub(crate) fn found(&mut self) -> u64 {
        std::mem::take(&mut self.found)
    }

    /// Takes how many events were given up, since this was asked last.
    pub(crate) fn lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Keeps what waits, and returns the same if that waited already; so many `messages` are not acknowledged for it. If
    /// too much does: of an outbox the oldest is dropped, and asked for, as what is missing is; of a life nothing
    /// waits any longer. To be followed by what [may go on](Self::impatient).
    pub(crate) fn hold(
        &mut self,
        number: &Number,
        model: &str,
        bytes: usize,
        messages: usize,
        item: H,
    ) -> Option<H> {
        write_key(&mut self.key, &number.outbox, number.lane, model);
        let Some(track) = self.tracks.get_mut(&*self.key) else { return Some(item) };
        let held = Held { item, bytes, epoch: number.epoch, messages };
        // That of a later owner counts.
        if track.held.get(&number.sequence).is_some_and(|twin| twin.epoch > held.epoch) {
            return Some(held.item);
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.messages += messages;
        let twin = track.held.insert(number.sequence, held);
        if let Some(twin) = &twin {
            self.bytes = self.bytes.saturating_sub(twin.bytes);
            self.messages = self.messages.saturating_sub(twin.messages);
        }
        let is_too_much = |held: usize, bytes: usize| held > MOST_HELD || bytes > MOST_BYTES;
        if track.of_life {
            let waits = self.messages <= MOST_MESSAGES && !is_too_much(track.held.len(), self.bytes);
            if !waits && !track.impatient {
                track.lose_patience();
            }
        } else {
            while !track.impatient && is_too_much(track.held.len(), self.bytes) {
                let Some((_, first)) = track.held.pop_first() else { break };
                self.bytes = self.bytes.saturating_sub(first.bytes);
            }
        }
        twin.map(|twin| twin.item)
    }

    /// The next of those that waited in a stream, if it has to wait no longer.
    pub(crate) fn next_held(&mut self, outbox: &str, lane: u32, model: &str) -> Option<H> {
        write_key(&mut self.key, outbox, lane, model);
        let track = self.tracks.get_mut(&*self.key)?;
        let first = *track.held.first_key_value()?.0;
        let is_next = track.since.is_none() && first <= track.seen.saturating_add(1);
        if !is_next && !track.impatient {
            return None;
        }
        let (sequence, Held { item, bytes, epoch, messages }) = track.held.pop_first()?;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.messages = self.messages.saturating_sub(messages);
        if self.keeps && !track.of_life {
            track.open.insert((sequence, epoch));
        }
        track.goes(sequence);
        let counts = track.counts(epoch, sequence);
        if is_next && counts {
            track.seen = track.seen.max(sequence);
            track.moved = true;
        } else if !is_next && !counts && track.is_silent() {
            // It would be the last to ask for anything.
            track.doubt();
        }
        if !track.is_behind() {
            track.calm();
            self.behind.remove(&*self.key);
        }
        Some(item)
    }

    /// The first of what waits with a number before one that an answer tells, and after what it begins with: it goes on before
    /// that. Who answers does not have it any more.
    pub(crate) fn held_before(&mut self, stream: &Stream, after: u64, sequence: u64) -> Option<H> {
        let first = self.held_within(stream, after, sequence.saturating_sub(1)).next()?;
        self.take_held(stream, first)
    }

    /// The numbers of what waits, of those that an answer tells of: after one, up to another.
    pub(crate) fn held_within(
        &mut self,
        stream: &Stream,
        after: u64,
        up_to: u64,
    ) -> impl Iterator<Item = u64> {
        write_key(&mut self.key, &stream.outbox, stream.lane, &stream.model);
        let track = self.tracks.get(&*self.key).filter(|_| after < up_to);
        let held = track.into_iter().flat_map(move |track| {
            let held = track.held.range(after.saturating_add(1)..=up_to);
            held.filter(|(sequence, held)| track.counts(held.epoch, **sequence))
        });
        held.map(|(sequence, _)| *sequence)
    }

    /// What waits with a number that an answer tells: it goes on in place of what was told.
    pub(crate) fn take_held(&mut self, stream: &Stream, sequence: u64) -> Option<H> {
        write_key(&mut self.key, &stream.outbox, stream.lane, &stream.model);
        let track = self.tracks.get_mut(&*self.key)?;
        // One that does not count is another event.
        let epoch = track.held.get(&sequence)?.epoch;
        if !track.counts(epoch, sequence) {
            return None;
        }
        let Held { item, bytes, epoch, messages } = track.held.remove(&sequence)?;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.messages = self.messages.saturating_sub(messages);
        if self.keeps && !track.of_life {
            track.open.insert((sequence, epoch));
        }
        Some(item)
    }

    /// Whether it has to be told when listeners are done with an event that [goes](Arrival::Goes).
    pub(crate) fn keeps(&self) -> bool {
        self.keeps
    }

    /// Listeners begin with an event that an outbox told.
    pub(crate) fn opened(&mut self, number: &Number, model: &str) {
        write_key(&mut self.key, &number.outbox, number.lane, model);
        if let Some(track) = self.tracks.get_mut(&*self.key).filter(|_| self.keeps) {
            track.open.insert((number.sequence, number.epoch));
        }
    }

    /// They are done with it.
    pub(crate) fn closed(&mut self, number: &Number, model: &str) {
        write_key(&mut self.key, &number.outbox, number.lane, model);
        if let Some(track) = self.tracks.get_mut(&*self.key) {
            track.open.remove(&(number.sequence, number.epoch));
        }
    }

    /// An outbox tells how far it is.
    pub(crate) fn head(&mut self, head: &Head) {
        let Head { stream, epoch, base, last } = head;
        self.clock += 1;
        write_key(&mut self.key, &stream.outbox, stream.lane, &stream.model);
        if !self.tracks.contains_key(&*self.key) {
            self.meet(stream.clone(), (*epoch, *base), *last);
        }
        if self.tracks.get(&*self.key).is_some_and(|track| *epoch > track.epoch) {
            self.begin(*epoch, *base);
        }
        let Some(track) = self.tracks.get_mut(&*self.key) else { return };
        (track.used, track.is_mute) = (self.clock, false);
        if *epoch == track.epoch {
            track.known = track.known.max(*last);
            track.heard_of_owner();
        } else {
            track.heard_of_former(*base);
            track.doubt();
        }
        if track.is_behind() {
            self.fall_behind();
        } else {
            track.calm();
            self.behind.remove(&*self.key);
        }
    }

    /// What is to be asked for now, at this time since some moment. What was asked for in vain for too long is
    /// given up, where only a life had it.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<(Stream, After)> {
        let (mut due, tracks, lost) = (Vec::new(), &mut self.tracks, &mut self.lost);
        self.behind.retain(|key| {
            let Some(track) = tracks.get_mut(&**key) else { return false };
            if track.is_due(now) {
                let after = track.since.map_or(After::Sequence(track.seen), After::Time);
                due.push((track.stream.clone(), after));
            }
            let given_up = track.give_up();
            *lost = lost.saturating_add(given_up.unwrap_or_default());
            given_up.is_none()
        });
        due
    }

    /// Streams in which something waits though nobody answered for too long, so that it goes on.
    pub(crate) fn impatient(&self) -> Vec<Stream> {
        let tracks = self.behind.iter().filter_map(|key| self.tracks.get(&**key));
        let goes_on = tracks.filter(|track| track.impatient && !track.held.is_empty());
        goes_on.map(|track| track.stream.clone()).collect()
    }

    /// Of how many streams of outboxes nobody answered for too long.
    pub(crate) fn silent(&self) -> usize {
        let tracks = self.behind.iter().filter_map(|key| self.tracks.get(&**key));
        tracks.filter(|track| track.impatient && !track.of_life).count()
    }

    /// Whether an answer is one to what is missing: it begins where that does. A later owner is followed; one who counts from
    /// before, as of a database that went back, when the present one has said nothing for half a minute.
    pub(crate) fn wants(&mut self, stream: &Stream, told: &Told) -> bool {
        write_key(&mut self.key, &stream.outbox, stream.lane, &stream.model);
        let follows = |track: &Track<H>| {
            let is_asked = track.asked.is_some();
            is_asked && (told.epoch > track.epoch || told.epoch < track.epoch && track.is_silent())
        };
        if self.tracks.get(&*self.key).is_some_and(follows) {
            self.begin(told.epoch, told.base);
            // It may begin behind what its owner counted anew; then it is asked for once more.
            self.fall_behind();
        }
        let Some(track) = self.tracks.get(&*self.key) else { return false };
        let begins = track.since.is_some() || told.after <= track.seen;
        self.behind.contains(&*self.key) && told.epoch == track.epoch && begins
    }

    /// What an answer told was taken. It tells of all that there is, as whoever answers also publishes: what
    /// came before the answer, it knows.
    pub(crate) fn answered(&mut self, stream: &Stream, told: &Told) {
        write_key(&mut self.key, &stream.outbox, stream.lane, &stream.model);
        let Some(track) = self.tracks.get_mut(&*self.key) else { return };
        track.is_mute = false;
        track.heard_of_owner();
        if track.since.take().is_some() {
            track.seen = told.after;
        }
        let progress = told.covered > track.seen;
        track.seen = track.seen.max(told.covered);
        track.known = told.last.max(track.seen);
        if progress {
            track.calm();
            track.moved = false;
        }
        if !track.is_behind() {
            track.calm();
            self.behind.remove(&*self.key);
        } else if progress && track.held.is_empty() {
            // It is known that there is more: it is asked for at once.
            track.asked = Some(Duration::ZERO);
        }
    }
}
