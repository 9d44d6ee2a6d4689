//! Buffered events that other nodes miss are told from the ring of this one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Shared;
use crate::envelope::{self, Format};
use crate::event::Origin;
use crate::gaps::ring::Ring;
use crate::gaps::wire::{Answer, Ask, MOST_BYTES, MOST_EVENTS, ToldEvent};
use crate::gaps::{self, After, Head, RingLimits, Stream};
use crate::properties::Properties;
use crate::signature;
use crate::topic::Topic;

/// What this node published, and what it tells of it.
pub(super) struct Telling {
    /// What its events are counted by.
    pub(super) life: Arc<str>,
    /// Filled by the transport's own task, which tells what was confirmed.
    pub(super) ring: Arc<Mutex<Ring<Kept>>>,
    is_on: bool,
    words: Mutex<Words>,
}

/// An event that the broker confirmed.
pub(super) struct Kept {
    pub(super) topic: Topic,
    pub(super) payload: Bytes,
    /// Of a form in which they are a part of the event.
    pub(super) properties: Option<Properties>,
    pub(super) expires: Option<tokio::time::Instant>,
}

/// What was said to others.
struct Words {
    /// How far each model was when it was last looked, and since when.
    heads: Vec<(u64, Instant)>,
    /// When that was told.
    told: Instant,
    /// Somebody wants to know it of all.
    wanted: bool,
    /// How many answers each node got in this second.
    answers: HashMap<String, u32>,
    second: Instant,
}

/// How often it is told how far this node is, while something goes.
const HEADS: Duration = Duration::from_secs(10);

/// How often when others ask for it: many may at once, and all hear it.
const HEADS_ASKED: Duration = Duration::from_secs(2);

/// Of models of which nothing went for so long, nothing is told unasked.
const QUIET: Duration = Duration::from_secs(60);

/// How many answers go out in a second. More questions are not heard: who asks in vain asks again.
const MOST_ANSWERS: u32 = 100;

/// How many of them to one node.
const MOST_TO_ONE: u32 = 50;

/// How many streams of one question are answered.
const MOST_STREAMS: usize = 16;

impl Telling {
    pub(super) fn new(origin: &Origin, limits: RingLimits) -> Self {
        let now = Instant::now();
        Self {
            life: gaps::life(origin.incarnation),
            ring: Arc::new(Mutex::new(Ring::new(limits))),
            is_on: limits.is_on(),
            words: Mutex::new(Words {
                heads: Vec::new(),
                told: now,
                wanted: false,
                answers: HashMap::new(),
                second: now,
            }),
        }
    }

    /// Whether anything is kept to be told.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody wants to know how far this node is.
    pub(super) fn want_heads(&self) {
        self.words().wanted = true;
    }

    /// How far this node is, where it is time to tell it.
    fn heads(&self, now: Instant) -> Vec<Head> {
        let mut words = self.words();
        let pause = if words.wanted { HEADS_ASKED } else { HEADS };
        if now < words.told + pause {
            return Vec::new();
        }
        words.told = now;
        let all = std::mem::take(&mut words.wanted);
        let ring = locked(&self.ring);
        let mut heads = Vec::new();
        for (place, (model, last)) in ring.heads().enumerate() {
            if words.heads.len() <= place {
                words.heads.push((0, now));
            }
            let Some((before, since)) = words.heads.get_mut(place) else { break };
            if *before != last {
                (*before, *since) = (last, now);
            }
            if last > 0 && (all || now.duration_since(*since) < QUIET) {
                let stream = Stream { outbox: Arc::clone(&self.life), lane: 0, model: model.into() };
                heads.push(Head { stream, epoch: 0, base: 0, last });
            }
        }
        heads
    }

    /// What follows this number of a model's events, as much as an answer may tell.
    fn answer(&self, stream: &Stream, after: u64, format: Format) -> Option<Answer> {
        let ring = locked(&self.ring);
        let (known, kept) = ring.after(&stream.model, after)?;
        let (mut events, mut bytes) = (Vec::new(), 0);
        let (mut looked_at, mut covered) = (after, known.settled.max(after));
        let now = tokio::time::Instant::now();
        for (sequence, kept) in kept {
            bytes += kept.payload.len() + kept.topic.as_str().len();
            bytes += kept.properties.as_ref().map_or(0, Properties::bytes);
            if !events.is_empty() && (bytes > MOST_BYTES || events.len() >= MOST_EVENTS) {
                covered = looked_at;
                break;
            }
            looked_at = sequence;
            // It is worth nothing any more.
            if kept.expires.is_none_or(|expires| now < expires) {
                events.push(kept.told(sequence, format));
            }
        }
        let lost = known.lost(covered);
        let last = known.settled.max(covered);
        Some(Answer { stream: stream.clone(), epoch: 0, base: 0, after, covered, last, lost, events })
    }
}

impl Words {
    /// Whether this node may be answered once more.
    fn may_answer(&mut self, to: &str, now: Instant) -> bool {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.answers.clear();
        }
        if self.answers.values().sum::<u32>() >= MOST_ANSWERS {
            return false;
        }
        let answers = self.answers.entry(to.to_owned()).or_default();
        // What is refused takes nothing of what others may have.
        let may = *answers < MOST_TO_ONE;
        *answers += u32::from(may);
        may
    }
}

impl Kept {
    fn told(&self, sequence: u64, format: Format) -> ToldEvent {
        // What it is told in is signed as a whole.
        let payload = match signature::is_signed(&self.payload) {
            true => signature::unsigned(&self.payload).into(),
            false => self.payload.clone(),
        };
        let usual = || Properties::of_type(envelope::content_type(format));
        let properties = self.properties.clone().unwrap_or_else(usual);
        ToldEvent { sequence, topic: self.topic.to_string(), payload, properties }
    }
}

pub(super) fn locked<E>(ring: &Mutex<Ring<E>>) -> MutexGuard<'_, Ring<E>> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Answers a question about what this node published itself.
    pub(super) fn tell(&self, ask: &Ask) {
        let telling = &self.catching_up.telling;
        if !telling.is_on() {
            return;
        }
        if ask.heads {
            telling.want_heads();
        }
        let own = ask.streams.iter().filter(|(stream, _)| stream.outbox == telling.life);
        for (stream, after) in own.take(MOST_STREAMS) {
            let After::Sequence(after) = *after else { continue };
            let now = Instant::now();
            if !self.may_answer() || !telling.words().may_answer(&ask.from, now) {
                return;
            }
            if let Some(answer) = telling.answer(stream, after, self.format) {
                self.answer(&ask.from, &answer);
            }
        }
    }

    /// Tells how far this node is, where it is time.
    pub(super) fn tell_own_heads(&self) {
        let telling = &self.catching_up.telling;
        if telling.is_on() {
            self.tell_heads(&telling.heads(Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_in_a_flood_takes_no_answers_of_others() {
        let now = Instant::now();
        let mut words =
            Words { heads: Vec::new(), told: now, wanted: false, answers: HashMap::new(), second: now };
        let mut flood = |to: &str| (0..1_000).filter(|_| words.may_answer(to, now)).count();
        assert_eq!([flood("one"), flood("two"), flood("three")], [50, 50, 0]);
        // Names that are made up fill nothing.
        assert!(words.answers.len() <= 3);
        assert!(words.may_answer("one", now + Duration::from_secs(1)), "a second later");
    }
}
