//! Events that wait for others of their model to travel with. No I/O; the time is given.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::publishing::Ready;
use crate::batch::Batches;

/// What waits, by model.
#[derive(Default)]
pub(super) struct Gathering {
    models: HashMap<&'static str, Gathered>,
    events: usize,
}

/// Never empty.
struct Gathered {
    events: Vec<Ready>,
    bytes: usize,
    since: Instant,
    /// How long the first may wait.
    delay: Duration,
}

/// What an event may spend of the time for which it is worth anything.
const SHARE_OF_EXPIRY: u32 = 10;

impl Gathering {
    /// How many events wait.
    pub(super) fn events(&self) -> usize {
        self.events
    }

    /// Takes an event of so many bytes, and hands on what may not wait for more, in order.
    pub(super) fn add(
        &mut self,
        model: &'static str,
        ready: Ready,
        bytes: usize,
        batches: &Batches,
        now: Instant,
        mut send: impl FnMut(Vec<Ready>),
    ) {
        // With the comma behind it.
        let bytes = bytes + 1;
        // One message has one quality of service. And the order of the model's events is kept.
        let fits = |gathered: &Gathered| {
            let same = gathered.events.iter().all(|first| first.qos == ready.qos);
            same && gathered.bytes + bytes < batches.max_bytes
        };
        if self.models.get(model).is_some_and(|gathered| !fits(gathered)) {
            self.take(model).map(&mut send);
        }
        if bytes >= batches.max_bytes {
            return send(vec![ready]);
        }
        let lasts = ready.expires.map(|expires| expires.saturating_duration_since(now) / SHARE_OF_EXPIRY);
        let delay = lasts.map_or(batches.max_delay, |lasts| lasts.min(batches.max_delay));
        let empty = || Gathered { events: Vec::new(), bytes: 1, since: now, delay };
        let gathered = self.models.entry(model).or_insert_with(empty);
        gathered.bytes += bytes;
        gathered.events.push(ready);
        self.events += 1;
        if gathered.events.len() >= batches.max_events {
            self.take(model).map(&mut send);
        }
    }

    /// Hands on what has waited as long as it may, or as long as this if that is longer.
    pub(super) fn late(&mut self, now: Instant, at_least: Duration, mut send: impl FnMut(Vec<Ready>)) {
        let is_late = |(model, gathered): (&&'static str, &Gathered)| {
            (now >= gathered.since + gathered.delay.max(at_least)).then_some(*model)
        };
        let late: Vec<&'static str> = self.models.iter().filter_map(is_late).collect();
        late.into_iter().filter_map(|model| self.take(model)).for_each(&mut send);
    }

    /// Hands on everything.
    pub(super) fn all(&mut self, send: impl FnMut(Vec<Ready>)) {
        self.events = 0;
        self.models.drain().map(|(_, gathered)| gathered.events).for_each(send);
    }

    /// When the next is late.
    pub(super) fn next(&self) -> Option<Instant> {
        self.models.values().map(|gathered| gathered.since + gathered.delay).min()
    }

    fn take(&mut self, model: &'static str) -> Option<Vec<Ready>> {
        let events = self.models.remove(model)?.events;
        self.events -= events.len();
        Some(events)
    }
}
