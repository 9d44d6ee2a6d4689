//! What a relay tells nodes that miss events: those of its lanes, from the history.

use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::result::QueryResult;
use emitter_core::Emitter;
use emitter_core::gaps::wire::{Answer, Ask, MOST_BYTES, ToldEvent};
use emitter_core::gaps::{After, Head, Stream};
use emitter_core::record::Number;
use tracing::warn;

use super::heads::Heads;
use super::questions::Question;
use super::{Relay, parcel};
use crate::outbox::store::Kept;
use crate::tables::Queued;

/// How many rows are read for an answer: of usual events about as many as it may tell.
const MOST_ROWS: usize = 200;

/// How long an answer waits for what is on its way to the broker: who asks has often just been sent what
/// comes after.
const PATIENCE: Duration = Duration::from_secs(2);

/// Of streams in which nothing came for so long, nothing is told unasked.
const QUIET: Duration = Duration::from_secs(60);

impl Relay {
    /// Questions of other nodes.
    pub(super) fn asked(&mut self, asks: Vec<Ask>) {
        for ask in asks {
            if ask.heads {
                self.head_times.asked();
            }
            for (stream, after) in ask.streams {
                // Others are asked as well, and answer for theirs.
                let is_own = stream.outbox == self.outbox_id && self.owns(stream.lane);
                if is_own {
                    let from = ask.from.clone();
                    self.questions.put(Question { from, stream, after, came: Instant::now() });
                }
            }
        }
    }

    fn owns(&self, lane: u32) -> bool {
        i32::try_from(lane).is_ok_and(|lane| self.lanes.contains_key(&lane))
    }

    /// Answers one of those that wait, as soon as earlier answers have been sent. To be called when everything that is
    /// known is noted. A question that the database cannot answer is nobody's trouble but that of whoever asked.
    pub(super) fn answer(&mut self, emitter: &Emitter) {
        if !emitter.may_answer() {
            return;
        }
        let Some(question) = self.questions.next() else { return };
        match self.answer_to(&question) {
            Ok(Some(answer)) => emitter.answer(&question.from, &answer),
            Ok(None) if question.came.elapsed() < PATIENCE => self.questions.put(question),
            Ok(None) => {}
            Err(error) => warn!(from = question.from, "missing events could not be looked for: {error}"),
        }
    }

    /// What there is to say; `None` where that is nothing yet, or nothing at all.
    fn answer_to(&mut self, question: &Question) -> QueryResult<Option<Answer>> {
        let Question { stream, after, .. } = question;
        let Some((lane, owned)) =
            i32::try_from(stream.lane).ok().and_then(|lane| Some((lane, self.lanes.get(&lane)?)))
        else {
            return Ok(None);
        };
        let Some(count) = owned.counts.get(&*stream.model) else { return Ok(None) };
        let (epoch, base, settled, last) = (owned.epoch, count.base, count.settled(), count.last);
        let kept = Kept { lane, model: &stream.model, after: 0, up_to: settled };
        let after = match *after {
            After::Sequence(after) => i64::try_from(after).unwrap_or(i64::MAX),
            After::Time(millis) => {
                let kept = Kept { after: self.settled_before(&kept, millis)?, ..kept };
                let first = self.store.first_since(&kept, millis);
                let first = self.database()?.pairs(first)?.iter().map(|pair| pair.number).min();
                first.map_or(settled, |first| first - 1)
            }
        };
        if after >= settled && last > after {
            return Ok(None);
        }
        let kept = Kept { after, ..kept };
        let mut rows = Vec::new();
        for kept in self.store.kept(&kept, MOST_ROWS) {
            rows.extend(self.database()?.queued(kept)?);
        }
        rows.sort_unstable_by_key(|row| row.sequence);
        // Each part was cut off by itself: behind so many there may be holes.
        let is_all = rows.len() < MOST_ROWS;
        rows.truncate(MOST_ROWS);
        let lost = match rows.first().and_then(|row| row.sequence) {
            // Those before it may be ones that stand for nothing, or ones that were cleared away.
            Some(first) if first == after + 1 => 0,
            found => {
                let oldest = self.store.oldest(&Kept { after: 0, ..kept });
                let oldest = self.database()?.pairs(oldest)?.iter().map(|pair| pair.number).min();
                let gone = oldest.map_or(settled, |oldest| oldest - 1);
                let missing = found.map_or(settled, |first| first - 1);
                missing.min(gone).saturating_sub(after).max(0)
            }
        };
        let (events, looked_at) = told(rows);
        let covered = match looked_at {
            Looked::UpTo(sequence) => unsigned(sequence),
            Looked::AtAll(Some(last)) if !is_all => unsigned(last),
            Looked::AtAll(_) => unsigned(settled.max(after)),
        };
        Ok(Some(Answer {
            stream: Stream { outbox: Arc::clone(&self.outbox_id), ..stream.clone() },
            epoch: unsigned(epoch),
            base: unsigned(base),
            after: unsigned(after),
            covered,
            last: unsigned(last.max(after)).max(covered),
            lost: unsigned(lost),
            events,
        }))
    }

    /// A number up to which everything was settled before a time, and so was written before it: the greatest that a few
    /// looks into the history find. Rows are settled in the order of their numbers, which its index has.
    fn settled_before(&mut self, kept: &Kept<'_>, millis: i64) -> QueryResult<i64> {
        let (mut before, mut up_to) = (kept.after, kept.up_to);
        while before < up_to {
            let middle = before + (up_to - before) / 2;
            let look = self.store.settled_after(&Kept { after: middle, up_to, ..*kept }, millis);
            match self.database()?.pairs(look)?.first() {
                Some(pair) if pair.text == "before" && pair.number > middle => before = pair.number,
                _ => up_to = middle,
            }
        }
        Ok(before)
    }

    /// Tells how far the outbox is, where it is time.
    pub(super) fn tell_heads(&mut self, emitter: &Emitter) {
        let now = Instant::now();
        let Some(which) = self.head_times.due(now) else { return };
        let mut heads = Vec::new();
        for (lane, owned) in &self.lanes {
            for (model, count) in &owned.counts {
                if count.last > 0 && (which == Heads::All || now.duration_since(count.changed) < QUIET) {
                    heads.push(Head {
                        stream: Stream {
                            outbox: Arc::clone(&self.outbox_id),
                            lane: u32::try_from(*lane).unwrap_or_default(),
                            model: model.as_str().into(),
                        },
                        epoch: unsigned(owned.epoch),
                        base: unsigned(count.base),
                        last: unsigned(count.last),
                    });
                }
            }
        }
        emitter.tell_heads(&heads);
    }
}

/// How far rows were looked at.
enum Looked {
    /// At all of them, of which this is the last.
    AtAll(Option<i64>),
    /// Up to this one: more would not fit.
    UpTo(i64),
}

/// Rows as they are told, as many as fit.
fn told(rows: Vec<Queued>) -> (Vec<ToldEvent>, Looked) {
    let (mut events, mut bytes, mut last) = (Vec::new(), 0, None);
    for row in rows {
        let (sequence, stream, id) = (row.sequence, row.stream.clone(), row.id);
        let number = stream
            .zip(sequence)
            .and_then(|(stream, sequence)| Number::of_stream(&stream, u64::try_from(sequence).ok()?));
        let (Some(mut number), Some(parcel)) = (number, parcel(row)) else {
            warn!(row = id, "a row of the history is not as an outbox writes it, and cannot be told");
            last = sequence.or(last);
            continue;
        };
        bytes += parcel.payload.len() + parcel.topic.len() + parcel.properties.bytes();
        if let Some(before) = last.filter(|_| bytes > MOST_BYTES && !events.is_empty()) {
            return (events, Looked::UpTo(before));
        }
        last = sequence.or(last);
        number.row = u64::try_from(id).ok();
        events.push(ToldEvent::new(parcel, &number));
    }
    (events, Looked::AtAll(last))
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
