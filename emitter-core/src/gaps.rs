//! Which events of an outbox came, which are missing, and what waits for those.
//!
//! Each event of an outbox has a [`Number`] in its stream, which is a model in a lane. Where one is missing,
//! those that follow wait, and the outbox is asked for it: a broker may forget what it has confirmed. An
//! answer tells everything from the last one that came up to the last that is settled, so that what was held
//! meanwhile, if there was too much of it, may be dropped: it comes again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::record::Number;

pub mod wire;

/// What is counted: a model in a lane of an outbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    /// The outbox's name.
    pub outbox: Arc<str>,
    /// The lane.
    pub lane: u32,
    /// The model, in lower case.
    pub model: Arc<str>,
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
    /// How many bytes wait.
    bytes: usize,
    /// Outboxes and models that an earlier life followed: what is new of them came since.
    followed: HashSet<(Arc<str>, Arc<str>)>,
    key: String,
}

#[derive(Debug)]
struct Track<H> {
    stream: Stream,
    epoch: u64,
    /// Where this owner began: so far its predecessors' numbers stand for what they stood for.
    base: u64,
    /// Everything up to it came, or never will.
    seen: u64,
    /// So many were given.
    known: u64,
    /// Nothing is known of what was before this time, and has to be asked for.
    since: Option<i64>,
    /// What came too early.
    held: BTreeMap<u64, Held<H>>,
    /// Something came in its turn since it was looked whether to ask.
    moved: bool,
    /// When it was asked for what is missing.
    asked: Option<Duration>,
    /// How often in a row that was in vain.
    tries: u32,
    /// It has waited for too long: what comes goes on.
    impatient: bool,
    /// What listeners work on, with the owner that counted it.
    open: BTreeSet<(u64, u64)>,
}

/// An event that came too early.
#[derive(Debug)]
struct Held<H> {
    item: H,
    bytes: usize,
    /// Who counted it.
    epoch: u64,
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

/// How many bytes of events may wait, of all streams.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// How many streams are known at most.
const MOST_STREAMS: usize = 65_536;

/// How long after an answer was due it is asked again, doubled each time.
const FIRST: Duration = Duration::from_millis(500);

/// How long nothing may come of a stream that is not up to its head, before it is asked for.
const QUIET: Duration = Duration::from_secs(1);

/// No longer than this.
const LONGEST: Duration = Duration::from_secs(10);

/// After so many questions in vain, which takes half a minute, what waits goes on.
const PATIENCE: u32 = 6;

impl<H> Default for Gaps<H> {
    fn default() -> Self {
        Self {
            tracks: HashMap::new(),
            behind: HashSet::new(),
            since: Since::Now,
            keeps: false,
            found: 0,
            bytes: 0,
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

impl<H> Track<H> {
    fn new(stream: Stream, epoch: u64, seen: u64) -> Self {
        Self {
            stream,
            epoch,
            base: 0,
            seen,
            known: seen,
            since: None,
            held: BTreeMap::new(),
            moved: false,
            asked: None,
            tries: 0,
            impatient: false,
            open: BTreeSet::new(),
        }
    }

    /// A later owner counts: what is settled of its predecessors' is known, the rest it counts and publishes
    /// anew, so that it need not be held.
    fn begin(&mut self, epoch: u64, base: u64) -> BTreeMap<u64, Held<H>> {
        (self.epoch, self.base) = (epoch, base);
        self.seen = self.seen.min(base);
        self.known = base;
        self.calm();
        self.held.split_off(&(base.saturating_add(1)))
    }

    /// What was missing came, or is another: it has not been asked for in vain.
    fn calm(&mut self) {
        (self.asked, self.tries, self.impatient) = (None, 0, false);
    }

    fn is_behind(&self) -> bool {
        // What does not count shows in no number.
        let uncounted = |(sequence, held): (&u64, &Held<H>)| !self.counts(held.epoch, *sequence);
        self.known > self.seen || self.since.is_some() || self.held.first_key_value().is_some_and(uncounted)
    }

    /// Whether a number stands for what it stands for with the present owner. What an earlier one had on its way, and did
    /// not settle, has another by now, and comes again under that.
    fn counts(&self, epoch: u64, sequence: u64) -> bool {
        epoch == self.epoch || epoch.checked_add(1) == Some(self.epoch) && sequence <= self.base
    }

    /// Up to where everything is done.
    fn done(&self) -> u64 {
        let open = self.open.iter().next().map_or(u64::MAX, |(sequence, _)| sequence.saturating_sub(1));
        self.seen.min(open)
    }
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

    /// A later owner counts in the stream at the key.
    fn begin(&mut self, epoch: u64, base: u64) {
        let Some(track) = self.tracks.get_mut(&*self.key) else { return };
        for gone in track.begin(epoch, base).into_values() {
            self.bytes = self.bytes.saturating_sub(gone.bytes);
        }
    }

    /// How many streams are behind.
    pub(crate) fn behind(&self) -> usize {
        self.behind.len()
    }

    /// How far listeners are.
    pub(crate) fn positions(&self) -> Vec<Position> {
        let known = self.tracks.values().filter(|track| track.since.is_none());
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
        if !self.tracks.contains_key(&*self.key) {
            let stream =
                Stream { outbox: Arc::clone(outbox), lane, model: model.to_ascii_lowercase().into() };
            self.meet(stream, (epoch, base), sequence.saturating_sub(1));
        }
        if self.tracks.get(&*self.key).is_some_and(|track| epoch > track.epoch) {
            self.begin(epoch, base);
        }
        let Some(track) = self.tracks.get_mut(&*self.key) else { return Arrival::Goes };
        let counts = track.counts(epoch, sequence);
        if counts {
            track.known = track.known.max(sequence);
        }
        // One that does not count waits, too: behind what is missing there may be earlier ones of its key.
        let waits = track.since.is_some() || sequence > track.seen.saturating_add(1);
        if waits && !track.impatient {
            if track.held.is_empty() {
                // It is known now that something is missing, and not only late.
                track.calm();
            }
            self.fall_behind();
            return Arrival::Waits;
        }
        // Before anybody asks how far it is: listeners begin with it.
        if self.keeps {
            track.open.insert((sequence, epoch));
        }
        if waits {
            self.fall_behind();
            return Arrival::Goes;
        }
        if counts && sequence > track.seen {
            track.seen = sequence;
            track.moved = true;
        }
        let arrival = if track.held.is_empty() { Arrival::Goes } else { Arrival::GoesFirst };
        if !track.is_behind() {
            track.calm();
            self.behind.remove(&*self.key);
        }
        arrival
    }

    /// A stream of which nothing was known, at the key, where what comes now is what follows `now`.
    fn meet(&mut self, stream: Stream, (epoch, base): (u64, u64), now: u64) {
        if self.tracks.len() >= MOST_STREAMS {
            return;
        }
        let followed = self.followed.contains(&(Arc::clone(&stream.outbox), Arc::clone(&stream.model)));
        let mut track = Track { base, ..Track::new(stream, epoch, now) };
        match self.since {
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

    /// Keeps what waits. If too much does, the oldest is dropped: it is asked for, as what is missing is.
    pub(crate) fn hold(&mut self, number: &Number, model: &str, bytes: usize, item: H) {
        write_key(&mut self.key, &number.outbox, number.lane, model);
        let Some(track) = self.tracks.get_mut(&*self.key) else { return };
        let held = Held { item, bytes, epoch: number.epoch };
        // That of a later owner counts.
        if track.held.get(&number.sequence).is_some_and(|twin| twin.epoch > held.epoch) {
            return;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        // The same may have come twice.
        if let Some(twin) = track.held.insert(number.sequence, held) {
            self.bytes = self.bytes.saturating_sub(twin.bytes);
        }
        while track.held.len() > MOST_HELD || self.bytes > MOST_BYTES {
            let Some((_, first)) = track.held.pop_first() else { break };
            self.bytes = self.bytes.saturating_sub(first.bytes);
        }
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
        let (sequence, Held { item, bytes, epoch }) = track.held.pop_first()?;
        self.bytes = self.bytes.saturating_sub(bytes);
        if self.keeps {
            track.open.insert((sequence, epoch));
        }
        if is_next && track.counts(epoch, sequence) {
            track.seen = track.seen.max(sequence);
            track.moved = true;
        }
        if !track.is_behind() {
            track.calm();
            self.behind.remove(&*self.key);
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
        write_key(&mut self.key, &stream.outbox, stream.lane, &stream.model);
        if !self.tracks.contains_key(&*self.key) {
            self.meet(stream.clone(), (*epoch, *base), *last);
        }
        if self.tracks.get(&*self.key).is_some_and(|track| *epoch > track.epoch) {
            self.begin(*epoch, *base);
        }
        let Some(track) = self.tracks.get_mut(&*self.key) else { return };
        if *epoch == track.epoch {
            track.known = track.known.max(*last);
        }
        if track.is_behind() {
            self.fall_behind();
        } else {
            track.calm();
            self.behind.remove(&*self.key);
        }
    }

    /// What is to be asked for now, at this time since some moment.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<(Stream, After)> {
        let mut due = Vec::new();
        for key in &self.behind {
            let Some(track) = self.tracks.get_mut(&**key) else { continue };
            // What a head told of may be on its way here: a slow node has more before it.
            let is_quiet = track.held.is_empty() && track.since.is_none();
            let moved = std::mem::take(&mut track.moved);
            if is_quiet && (moved || track.asked.is_none()) {
                (track.asked, track.tries) = (Some(now), 0);
                continue;
            }
            let first = if is_quiet { QUIET } else { FIRST };
            let pause = first.saturating_mul(1 << track.tries.min(10)).min(LONGEST);
            if track.asked.is_some_and(|asked| now < asked.saturating_add(pause)) {
                continue;
            }
            if track.asked.replace(now).is_some() {
                track.tries = track.tries.saturating_add(1);
            }
            track.impatient |= track.tries >= PATIENCE;
            let after = track.since.map_or(After::Sequence(track.seen), After::Time);
            due.push((track.stream.clone(), after));
        }
        due
    }

    /// Streams of which nobody answered for too long, so that what waits goes on.
    pub(crate) fn impatient(&self) -> Vec<Stream> {
        let tracks = self.behind.iter().filter_map(|key| self.tracks.get(&**key));
        tracks.filter(|track| track.impatient).map(|track| track.stream.clone()).collect()
    }

    /// Whether an answer is one to what is missing: it begins where that does.
    pub(crate) fn wants(&mut self, stream: &Stream, told: &Told) -> bool {
        write_key(&mut self.key, &stream.outbox, stream.lane, &stream.model);
        if self.tracks.get(&*self.key).is_some_and(|track| track.asked.is_some() && told.epoch > track.epoch)
        {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MODEL: &str = "order";

    fn number(epoch: u64, base: u64, sequence: u64) -> Number {
        Number { outbox: "box".into(), lane: 1, epoch, base, sequence, row: None }
    }

    fn stream() -> Stream {
        Stream { outbox: "box".into(), lane: 1, model: MODEL.into() }
    }

    /// A receiver that notes what goes on.
    #[derive(Default)]
    struct Receiver {
        gaps: Gaps<u64>,
        heard: Vec<u64>,
    }

    impl Receiver {
        fn take(&mut self, number: &Number) {
            match self.gaps.arrived(number, "Order") {
                Arrival::Goes | Arrival::GoesFirst => self.heard.push(number.sequence),
                Arrival::Waits => self.gaps.hold(number, MODEL, 1, number.sequence),
            }
            self.release();
        }

        fn release(&mut self) {
            while let Some(sequence) = self.gaps.next_held("box", 1, MODEL) {
                self.heard.push(sequence);
            }
        }

        /// What an outbox that has all of them up to `settled`, and gave `last`, answers.
        fn ask(
            &mut self,
            now: Duration,
            (epoch, base): (u64, u64),
            settled: u64,
            last: u64,
            most: u64,
        ) -> usize {
            let due = self.gaps.due(now);
            for (asked, after) in &due {
                let After::Sequence(after) = *after else { panic!("{after:?}") };
                let covered = settled.min(after + most).max(after);
                let told = Told { epoch, base, after, covered, last };
                if self.gaps.wants(asked, &told) {
                    self.heard.extend(after + 1..=covered);
                    self.gaps.answered(asked, &told);
                    self.release();
                }
            }
            due.len()
        }
    }

    #[test]
    fn what_follows_a_missing_one_waits_for_it() {
        let mut receiver = Receiver::default();
        for sequence in [7, 8, 10, 11, 8] {
            receiver.take(&number(1, 0, sequence));
        }
        assert_eq!((&*receiver.heard, receiver.gaps.behind()), (&[7, 8, 8][..], 1));
        // Nobody answers, and it is not asked again at once.
        assert_eq!(receiver.gaps.due(Duration::ZERO), [(stream(), After::Sequence(8))]);
        assert_eq!(receiver.gaps.due(Duration::from_millis(400)), []);
        assert_eq!(receiver.ask(Duration::from_millis(600), (1, 0), 10, 11, 100), 1);
        assert_eq!((&*receiver.heard, receiver.gaps.behind()), (&[7, 8, 8, 9, 10, 10, 11][..], 0));
        // It was only late.
        for sequence in [13, 12] {
            receiver.take(&number(1, 0, sequence));
        }
        assert_eq!((&receiver.heard[7..], receiver.gaps.behind()), (&[12, 13][..], 0));
    }

    #[test]
    fn a_new_owner_counts_what_was_not_settled_anew() {
        let mut receiver = Receiver::default();
        for sequence in 1..=5 {
            receiver.take(&number(1, 0, sequence));
        }
        // Only three were settled: what comes is no gap.
        receiver.take(&number(2, 3, 4));
        assert_eq!((receiver.heard.len(), receiver.gaps.behind()), (6, 0));
        // What the old one had on its way counts nothing, and goes on when its turn comes.
        receiver.take(&number(1, 0, 6));
        assert_eq!((receiver.heard.len(), receiver.gaps.behind()), (6, 1));
        receiver.take(&number(2, 3, 5));
        assert_eq!((receiver.heard.len(), receiver.gaps.behind()), (8, 0));
        // One that began behind what came here: what is between is missing.
        receiver.take(&number(3, 8, 9));
        assert_eq!(
            (receiver.heard.len(), receiver.gaps.due(Duration::ZERO)),
            (8, vec![(stream(), After::Sequence(5))])
        );
    }

    #[test]
    fn what_a_former_owner_settled_comes_in_its_turn_however_late() {
        let mut receiver = Receiver::default();
        receiver.gaps.resume([], Since::Beginning);
        receiver.gaps.head(&Head { stream: stream(), epoch: 2, base: 3, last: 3 });
        // The second is missing, and only three were settled.
        for sequence in [1, 3, 4] {
            receiver.take(&number(1, 0, sequence));
        }
        assert_eq!(receiver.heard, [1]);
        receiver.ask(Duration::ZERO, (2, 3), 3, 3, 100);
        assert_eq!(receiver.heard, [1, 2, 3, 3, 4]);
        // It was not the fourth of this owner, who may have another one.
        assert_eq!(receiver.gaps.behind(), 0);
        receiver.gaps.head(&Head { stream: stream(), epoch: 2, base: 3, last: 4 });
        assert_eq!(receiver.gaps.behind(), 1);
    }

    /// As of a database that was restored from before the last owners.
    #[test]
    fn owners_that_count_from_before_are_heard_after_a_while() {
        let mut receiver = Receiver::default();
        receiver.take(&number(9, 0, 1));
        receiver.take(&number(4, 0, 3));
        let mut now = Duration::ZERO;
        while receiver.gaps.impatient().is_empty() && now < LONGEST * 10 {
            now += Duration::from_millis(100);
            receiver.gaps.due(now);
        }
        receiver.release();
        assert_eq!(receiver.heard, [1, 3]);
    }

    #[test]
    fn what_an_owner_left_behind_a_gap_is_forgotten() {
        let mut receiver = Receiver::default();
        for sequence in [1, 3, 4] {
            receiver.take(&number(1, 0, sequence));
        }
        receiver.take(&number(2, 2, 3));
        receiver.ask(Duration::ZERO, (2, 2), 2, 3, 100);
        assert_eq!((&*receiver.heard, receiver.gaps.behind()), (&[1, 2, 3][..], 0));
    }

    #[test]
    fn a_head_shows_what_is_missing_at_the_end() {
        let mut receiver = Receiver::default();
        let head = |last| Head { stream: stream(), epoch: 1, base: 0, last };
        receiver.gaps.head(&head(20));
        assert_eq!(receiver.gaps.behind(), 0, "nothing of before its time");
        receiver.gaps.head(&head(23));
        // It may be on its way.
        assert_eq!(receiver.ask(Duration::from_millis(10_000), (1, 0), 23, 23, 2), 0);
        assert_eq!(receiver.ask(Duration::from_millis(10_900), (1, 0), 23, 23, 2), 0);
        assert_eq!(receiver.ask(Duration::from_millis(11_000), (1, 0), 23, 23, 2), 1);
        assert_eq!(receiver.ask(Duration::from_millis(11_001), (1, 0), 23, 23, 2), 1);
        assert_eq!((&*receiver.heard, receiver.gaps.behind()), (&[21, 22, 23][..], 0));
    }

    #[test]
    fn a_number_that_nobody_gave_is_forgotten_with_the_next_answer() {
        let mut receiver = Receiver::default();
        receiver.take(&number(1, 0, 1));
        receiver.take(&number(1, 0, u64::MAX));
        receiver.take(&number(1, 0, 2));
        assert_eq!(receiver.ask(Duration::ZERO, (1, 0), 2, 2, 100), 1);
        assert_eq!(receiver.gaps.behind(), 0);
        receiver.take(&number(1, 0, 3));
        assert_eq!(receiver.heard, [1, 2, 3]);
    }

    #[test]
    fn what_nobody_answers_for_goes_on_after_half_a_minute() {
        let mut receiver = Receiver::default();
        for sequence in [1, 3, 5] {
            receiver.take(&number(1, 0, sequence));
        }
        let mut now = Duration::ZERO;
        while receiver.gaps.impatient().is_empty() {
            now += Duration::from_millis(100);
            receiver.gaps.due(now);
        }
        assert!((Duration::from_secs(20)..Duration::from_secs(40)).contains(&now), "{now:?}");
        receiver.release();
        receiver.take(&number(1, 0, 6));
        assert_eq!(receiver.heard, [1, 3, 5, 6]);
        // It is still asked for.
        now += LONGEST;
        assert_eq!(receiver.ask(now, (1, 0), 6, 6, 100), 1);
        assert_eq!((receiver.gaps.behind(), &receiver.heard[4..]), (0, &[2, 3, 4, 5, 6][..]));
    }

    #[test]
    fn more_than_may_wait_is_asked_for_again() {
        let mut receiver = Receiver::default();
        let last = 3 + MOST_HELD as u64 * 2;
        receiver.take(&number(1, 0, 1));
        (3..=last).for_each(|sequence| receiver.take(&number(1, 0, sequence)));
        let mut now = Duration::ZERO;
        while receiver.gaps.behind() > 0 {
            now += LONGEST;
            receiver.ask(now, (1, 0), last, last, 700);
        }
        receiver.heard.sort_unstable();
        receiver.heard.dedup();
        assert_eq!(receiver.heard, (1..=last).collect::<Vec<_>>());
    }

    #[test]
    fn a_later_life_begins_where_listeners_were() {
        let mut gaps = Gaps::<u64>::default();
        gaps.resume([], Since::Beginning);
        for sequence in 1..=4 {
            assert_eq!(gaps.arrived(&number(1, 0, sequence), MODEL), Arrival::Goes);
        }
        for sequence in [1, 3, 4] {
            gaps.closed(&number(1, 0, sequence), MODEL);
        }
        let positions = gaps.positions();
        assert_eq!(positions, [Position { stream: stream(), epoch: 1, sequence: 1 }]);
        let mut next = Gaps::<u64>::default();
        next.resume(positions, Since::Now);
        assert_eq!(next.arrived(&number(1, 0, 3), MODEL), Arrival::Waits);
        next.hold(&number(1, 0, 3), MODEL, 1, 3);
        assert_eq!(next.due(Duration::ZERO), [(stream(), After::Sequence(1))]);
    }

    #[test]
    fn a_gap_that_closed_by_itself_was_not_asked_for_in_vain() {
        let mut receiver = Receiver::default();
        receiver.take(&number(1, 0, 1));
        let mut now = Duration::ZERO;
        for sequence in (2..100).step_by(2) {
            receiver.take(&number(1, 0, sequence + 1));
            now += Duration::from_secs(1);
            receiver.gaps.due(now);
            receiver.take(&number(1, 0, sequence));
        }
        assert_eq!((receiver.gaps.behind(), receiver.heard.len()), (0, 99));
        // So the next one is waited for as the first one was.
        receiver.take(&number(1, 0, 101));
        assert_eq!(
            (receiver.heard.len(), receiver.gaps.due(now)),
            (99, vec![(stream(), After::Sequence(99))])
        );
    }

    #[test]
    fn an_answer_of_a_new_owner_begins_where_that_did() {
        let mut receiver = Receiver::default();
        // Five are settled, and this owner's seventh comes; its eighth is missing.
        for sequence in [1, 2, 3, 4, 5, 6, 7, 9] {
            receiver.take(&number(1, 0, sequence));
        }
        // The next one counts from five on. What it answers to the old question begins behind what it counted anew.
        assert_eq!(receiver.ask(Duration::ZERO, (2, 5), 8, 8, 100), 1);
        assert_eq!(receiver.heard.len(), 7, "nothing of it is taken");
        assert_eq!(
            receiver.ask(LONGEST, (2, 5), 8, 8, 100) + receiver.ask(LONGEST * 2, (2, 5), 8, 8, 100),
            1
        );
        assert_eq!((&receiver.heard[7..], receiver.gaps.behind()), (&[6, 7, 8][..], 0));
    }

    #[test]
    fn a_lane_that_came_to_be_while_a_node_was_away_is_heard_from_its_beginning() {
        let mut gaps = Gaps::<u64>::default();
        gaps.resume([Position { stream: stream(), epoch: 1, sequence: 5 }], Since::Now);
        let other = Number { lane: 2, ..number(1, 0, 2) };
        assert_eq!(gaps.arrived(&other, MODEL), Arrival::Waits);
        assert_eq!(gaps.arrived(&Number { outbox: "new".into(), ..other }, MODEL), Arrival::Goes);
    }

    #[test]
    fn a_stream_is_begun_at_a_time() {
        let mut gaps = Gaps::<u64>::default();
        gaps.resume([], Since::Time(5));
        assert_eq!(gaps.arrived(&number(1, 3, 10), MODEL), Arrival::Waits);
        gaps.hold(&number(1, 3, 10), MODEL, 1, 10);
        assert_eq!(gaps.due(Duration::ZERO), [(stream(), After::Time(5))]);
        assert_eq!(gaps.positions(), [], "how far it is, is not known");
        let told = Told { epoch: 1, base: 3, after: 6, covered: 9, last: 10 };
        assert!(gaps.wants(&stream(), &told));
        gaps.answered(&stream(), &told);
        assert_eq!((gaps.next_held("box", 1, MODEL), gaps.behind()), (Some(10), 0));
    }

    /// What becomes of an outbox and of what it sends.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// The next event is sent, and may be lost.
        Publish {
            lost: bool,
        },
        /// The oldest that is on its way comes.
        Deliver,
        /// So many are settled at most, and somebody else takes the lane: what is left is sent again. His word is faster than what
        /// is on its way.
        TakeOver {
            unsettled: u64,
            lost: bool,
        },
        Ask,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => any::<bool>().prop_map(|lost| Step::Publish { lost }),
            4 => Just(Step::Deliver),
            1 => (0..5_u64, any::<bool>()).prop_map(|(unsettled, lost)| Step::TakeOver { unsettled, lost }),
            1 => Just(Step::Ask),
        ]
    }

    proptest! {
        /// Whoever takes over, and however late comes what the former owners had on its way.
        #[test]
        fn what_owners_left_on_the_way_overtakes_nothing(steps in prop::collection::vec(any_step(), 1..200)) {
            let mut receiver = Receiver::default();
            receiver.gaps.resume([], Since::Beginning);
            let mut on_the_way = std::collections::VecDeque::new();
            let (mut epoch, mut base, mut last, mut now) = (1, 0, 0_u64, Duration::ZERO);
            for step in steps {
                now += Duration::from_millis(100);
                match step {
                    Step::Publish { lost } => {
                        last += 1;
                        on_the_way.extend((!lost).then(|| number(epoch, base, last)));
                    }
                    Step::Deliver => on_the_way.pop_front().iter().for_each(|number| receiver.take(number)),
                    Step::TakeOver { unsettled, lost } => {
                        (epoch, base) = (epoch + 1, base.max(last.saturating_sub(unsettled)));
                        receiver.gaps.head(&Head { stream: stream(), epoch, base, last: base });
                        let again = (base + 1..=last).filter(|_| !lost);
                        on_the_way.extend(again.map(|sequence| number(epoch, base, sequence)));
                    }
                    Step::Ask => drop(receiver.ask(now, (epoch, base), base, last, 100)),
                }
            }
            on_the_way.iter().for_each(|number| receiver.take(number));
            receiver.gaps.head(&Head { stream: stream(), epoch, base, last });
            for _ in 0..500 {
                if receiver.gaps.behind() == 0 {
                    break;
                }
                now += LONGEST;
                receiver.ask(now, (epoch, base), last, last, 100);
            }
            prop_assert_eq!(receiver.gaps.behind(), 0);
            let mut first = Vec::new();
            for sequence in receiver.heard {
                if !first.contains(&sequence) {
                    first.push(sequence);
                }
            }
            prop_assert_eq!(first, (1..=last).collect::<Vec<_>>());
        }

        /// Whatever a broker loses or sends twice, and whenever owners change: in the end everything was heard, and
        /// each first time in order.
        #[test]
        fn everything_is_heard_in_order(
            fates in prop::collection::vec((0..10_u8, any::<bool>()), 1..200), settled_behind in 0..20_u64, most in 1..50_u64
        ) {
            let mut receiver = Receiver::default();
            // From the beginning, so that the first may be missing, too.
            receiver.gaps.resume([], Since::Beginning);
            let (mut epoch, mut base, mut now) = (1, 0, Duration::ZERO);
            let all = fates.len() as u64;
            for (sequence, (fate, ask)) in (1..).zip(fates) {
                let this = number(epoch, base, sequence);
                match fate {
                    0..3 => {}
                    3 => { receiver.take(&this); receiver.take(&this); }
                    // A new owner, which begins with what is settled: with everything.
                    4 => { receiver.take(&this); (epoch, base) = (epoch + 1, sequence); }
                    _ => receiver.take(&this),
                }
                now += Duration::from_millis(100);
                if ask {
                    receiver.ask(now, (epoch, base), sequence.saturating_sub(settled_behind).max(base), sequence, most);
                }
            }
            receiver.gaps.head(&Head { stream: stream(), epoch, base, last: all });
            for _ in 0..500 {
                if receiver.gaps.behind() == 0 {
                    break;
                }
                now += LONGEST;
                receiver.ask(now, (epoch, base), all, all, most);
            }
            prop_assert_eq!(receiver.gaps.behind(), 0);
            let mut first = Vec::new();
            for sequence in receiver.heard {
                if !first.contains(&sequence) {
                    first.push(sequence);
                }
            }
            prop_assert_eq!(first, (1..=all).collect::<Vec<_>>());
        }
    }
}
