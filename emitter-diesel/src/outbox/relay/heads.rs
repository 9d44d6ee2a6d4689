//! When it is told how far an outbox is. Pure.

use std::time::{Duration, Instant};

/// How often it is told unasked.
const UNASKED: Duration = Duration::from_secs(10);

/// How long whoever asks waits at most, and how often those who ask are told at most.
const ASKED: Duration = Duration::from_secs(2);

/// Of which streams it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heads {
    /// Of all: somebody asked.
    All,
    /// Of those in which something came lately.
    Recent,
}

/// When it is told, and of what.
#[derive(Debug)]
pub(super) struct HeadTimes {
    is_asked: bool,
    next_asked: Instant,
    next_unasked: Instant,
}

impl HeadTimes {
    pub(super) fn new(now: Instant) -> Self {
        Self { is_asked: false, next_asked: now, next_unasked: now }
    }

    /// Somebody wants to know.
    pub(super) fn asked(&mut self) {
        self.is_asked = true;
    }

    /// What is to be told now, which is taken as told.
    pub(super) fn due(&mut self, now: Instant) -> Option<Heads> {
        let heads = if self.is_asked && now >= self.next_asked {
            (self.is_asked, self.next_asked) = (false, now + ASKED);
            Heads::All
        } else if now >= self.next_unasked {
            Heads::Recent
        } else {
            return None;
        };
        self.next_unasked = now + UNASKED;
        Some(heads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_questions_is_answered_once_in_a_while_and_the_last_of_them_too() {
        let begun = Instant::now();
        let mut times = HeadTimes::new(begun);
        let mut told = Vec::new();
        for millis in 0..20_000 {
            if (1..=3_000).contains(&millis) {
                times.asked();
            }
            told.extend(times.due(begun + Duration::from_millis(millis)).map(|heads| (millis, heads)));
        }
        let (all, recent) = (Heads::All, Heads::Recent);
        assert_eq!(told, [(0, recent), (1, all), (2_001, all), (4_001, all), (14_001, recent)]);
    }
}
