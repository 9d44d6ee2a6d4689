//! What a node tells of itself to whoever exports metrics.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::models::Tally;
use super::{Emitter, ModelState, QueueStatus, Shared};
use crate::dead_letter::Reason;
use crate::dispatcher::{Calls, Timing};
use crate::listener::ListenerInfo;
use crate::metrics::{Counter, Report, Stats, table};
use crate::registry::RegisteredModel;
use crate::transport::{LinkStatus, TransportStatus, Window};

/// What is counted of calls, by model and listener.
pub(super) type AllCalls = BTreeMap<(&'static str, Cow<'static, str>), Arc<Calls>>;

/// Of so many listeners the calls are told apart. A program has fewer, unless it makes up names while it runs.
const MOST_LISTENERS: usize = 1_000;

/// What those beyond are called.
const OTHERS: &str = "others";

impl Emitter {
    /// Tells everything that this node counts through the facade `metrics`: see [`Metrics`](crate::metrics::Metrics), without
    /// which this does nothing. It happens every five seconds by itself; who exports on demand calls it right before.
    pub fn report(&self) {
        if let Some(reporting) = &self.node.shared.reporting {
            reporting.tell(|report| self.tell(report));
        }
    }

    /// Has a part of this node tell what it counts with each [`report`](Self::report), while the node lives. It is to answer at
    /// once, and must not keep the emitter alive.
    pub fn report_also(&self, part: impl Fn(&mut Report) + Send + Sync + 'static) {
        if let Some(reporting) = &self.node.shared.reporting {
            reporting.add(Box::new(move |report| {
                part(report);
                true
            }));
        }
    }

    /// The same for as long as anybody has `whole`. What its counters were, when they were told last, stays counted.
    pub fn report_while<T: Send + Sync + 'static>(
        &self,
        whole: &Arc<T>,
        part: impl Fn(&T, &mut Report) + Send + Sync + 'static,
    ) {
        if let Some(reporting) = &self.node.shared.reporting {
            let whole = Arc::downgrade(whole);
            reporting.add(Box::new(move |report| {
                let whole = whole.upgrade();
                whole.as_ref().map(|whole| part(whole, report)).is_some()
            }));
        }
    }

    /// Whether anybody is told what this node counts.
    #[must_use]
    pub fn reports(&self) -> bool {
        self.node.shared.reporting.is_some()
    }

    /// What was counted since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.node.shared;
        let mut stats = shared.counters.snapshot();
        for model in shared.all_models() {
            let Tally { emitted_local, emitted_remote, overflowed, .. } = &model.tally;
            stats.emitted_local += emitted_local.iter().map(Counter::get).sum::<u64>();
            stats.emitted_remote += emitted_remote.iter().map(Counter::get).sum::<u64>();
            stats.overflowed += overflowed.get();
        }
        for calls in shared.calls().values() {
            stats.handled += calls.handled.get();
            stats.failed += calls.failed.get();
            stats.panicked += calls.panicked.get();
            stats.timed_out += calls.timed_out.get();
            stats.retried += calls.retried.get();
            stats.unready += calls.unready.get();
            stats.given_up += calls.given_up.get();
            stats.filtered += calls.filtered.get();
            stats.overflowed += calls.overflowed.get();
        }
        stats.dead_letters = shared.dead_letters.counted().values().sum();
        stats
    }

    fn tell(&self, report: &mut Report) {
        let shared = &self.node.shared;
        tell_counters(&shared.counters.snapshot(), report);
        shared.all_models().iter().for_each(|model| tell_model(model, report));
        for ((model, listener), calls) in shared.calls().iter() {
            tell_calls(model, listener, calls, report);
        }
        self.tell_dead_letters(report);
        let health = self.health();
        report.gauge(&table::DEGRADED, &[], health.reasons.len() as u64);
        if let Some(status) = self.transport_status() {
            tell_transport(&status, report);
            report.gauge(&table::PUBLISHING, &[], shared.to_publish.unfinished() as u64);
        }
        let groups = self.group_links();
        if !groups.is_empty() {
            tell_links("group", &groups, report);
        }
        if let Some(QueueStatus { waiting, oldest }) = health.queue {
            report.gauge(&table::QUEUED_EVENTS, &[], waiting as u64);
            report.seconds(&table::QUEUED_OLDEST_SECONDS, &[], oldest);
        }
    }
}

impl Emitter {
    /// With those of which there is none yet: who looks for an increase does not see where it began otherwise.
    fn tell_dead_letters(&self, report: &mut Report) {
        let shared = &self.node.shared;
        report.counter(&table::DEAD_LETTERS, &["", Reason::Undecodable.as_str()], 0);
        for model in shared.all_models() {
            report.counter(&table::DEAD_LETTERS, &[model.info.name, Reason::Unhandled.as_str()], 0);
        }
        for model in RegisteredModel::all() {
            report.counter(&table::DEAD_LETTERS, &[model.name, Reason::Unpublished.as_str()], 0);
        }
        for ((model, reason), letters) in shared.dead_letters.counted().iter() {
            report.counter(&table::DEAD_LETTERS, &[model.as_deref().unwrap_or_default(), reason], *letters);
        }
    }
}

fn tell_counters(stats: &Stats, report: &mut Report) {
    report.counter(&table::LOOPS, &[], stats.loops);
    for (outcome, events) in [
        ("confirmed", stats.published.saturating_sub(stats.published_to_nobody)),
        ("nobody", stats.published_to_nobody),
        ("failed", stats.publish_failed),
        ("refused", stats.publish_refused),
        ("postponed", stats.postponed),
    ] {
        report.counter(&table::PUBLISHED, &[outcome], events);
    }
    for (outcome, events) in [
        ("taken", stats.queued),
        ("written", stats.queue_written),
        ("failed", stats.queue_failed),
        ("refused", stats.queue_refused),
    ] {
        report.counter(&table::QUEUED, &[outcome], events);
    }
    report.counter(&table::MESSAGES, &[], stats.received);
    report.counter(&table::REJECTED, &["bad"], stats.bad_messages.saturating_sub(stats.unauthentic));
    report.counter(&table::REJECTED, &["unauthentic"], stats.unauthentic);
    report.counter(&table::ECHOES, &[], stats.echoes);
    report.counter(&table::DUPLICATES, &[], stats.duplicates);
    report.counter(&table::NAMESAKES, &[], stats.namesakes);
    report.counter(&table::UNHEARD, &[], stats.unheard);
    report.counter(&table::GAPS, &[], stats.gaps);
    report.counter(&table::MISSED, &["recovered"], stats.recovered);
    report.counter(&table::MISSED, &["lost"], stats.lost);
    report.counter(&table::REPLAYS, &[], stats.replayed);
    report.counter(&table::DEAD_LETTERS_LOST, &[], stats.dead_letters_lost);
}

fn tell_model(model: &ModelState, report: &mut Report) {
    let (name, Tally { emitted_local, emitted_remote, received, overflowed }) =
        (model.info.name, &model.tally);
    for operation in model.info.operations {
        let (place, operation) = (operation.index(), operation.as_str());
        report.counter(&table::EMITTED, &[name, operation, "local"], emitted_local[place].get());
        report.counter(&table::EMITTED, &[name, operation, "remote"], emitted_remote[place].get());
        report.counter(&table::RECEIVED, &[name, operation], received[place].get());
    }
    report.counter(&table::OVERFLOWED, &[name, "*"], overflowed.get());
    report.gauge(&table::LISTENING, &[name], model.queue.unfinished() as u64);
}

fn tell_calls(model: &str, listener: &str, calls: &Calls, report: &mut Report) {
    for (outcome, counter) in [
        ("ok", &calls.handled),
        ("failed", &calls.failed),
        ("panicked", &calls.panicked),
        ("timed_out", &calls.timed_out),
        ("unready", &calls.unready),
    ] {
        report.counter(&table::HANDLED, &[model, listener, outcome], counter.get());
    }
    report.counter(&table::FILTERED, &[model, listener], calls.filtered.get());
    report.counter(&table::RETRIES, &[model, listener], calls.retried.get());
    report.counter(&table::GIVEN_UP, &[model, listener], calls.given_up.get());
    report.counter(&table::OVERFLOWED, &[model, listener], calls.overflowed.get());
}

fn tell_transport(status: &TransportStatus, report: &mut Report) {
    tell_links("publisher", std::slice::from_ref(&status.publisher), report);
    // Without anything to hear there is no such connection.
    if status.subscriptions > 0 || status.subscriber != LinkStatus::default() {
        tell_links("subscriber", std::slice::from_ref(&status.subscriber), report);
    }
    report.gauge(&table::UNCONFIRMED, &[], status.unconfirmed as u64);
    if let Some(Window { size, used }) = status.window {
        report.gauge(&table::WINDOW, &["used"], used as u64);
        report.gauge(&table::WINDOW, &["free"], size.saturating_sub(used) as u64);
    }
    report.gauge(&table::SUBSCRIPTIONS, &["confirmed"], status.subscriptions as u64);
    report.gauge(&table::SUBSCRIPTIONS, &["refused"], status.refused_subscriptions.len() as u64);
    if let Some(canary) = status.canary {
        report.gauge(&table::CANARY_MISSED, &[], canary.missed.into());
        if let Some(round_trip) = canary.round_trip {
            report.seconds(&table::CANARY_SECONDS, &[], round_trip);
        }
    }
}

/// Connections of one kind.
fn tell_links(link: &str, all: &[LinkStatus], report: &mut Report) {
    let standing = all.iter().filter(|status| status.connected).count();
    report.gauge(&table::CONNECTIONS, &[link, "standing"], standing as u64);
    report.gauge(&table::CONNECTIONS, &[link, "lost"], (all.len() - standing) as u64);
    let mut lost = BTreeMap::<&str, u64>::new();
    for (cause, times) in all.iter().flat_map(|status| &status.lost) {
        *lost.entry(cause).or_default() += times;
    }
    for (cause, times) in lost {
        report.counter(&table::RECONNECTS, &[link, cause], times);
    }
}

impl Shared {
    pub(super) fn calls(&self) -> MutexGuard<'_, AllCalls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the calls of a listener are counted.
    pub(super) fn calls_of(&self, info: &ListenerInfo) -> Arc<Calls> {
        let mut all = self.calls();
        let mut name = info.name.clone();
        if all.len() >= MOST_LISTENERS && !all.contains_key(&(info.model, name.clone())) {
            name = Cow::Borrowed(OTHERS);
        }
        let calls = all.entry((info.model, name)).or_insert_with_key(|(model, listener)| {
            let timing = self.reporting.as_ref().map(|reporting| Timing {
                handle: reporting.histogram(&table::HANDLE_SECONDS, &[model, listener]),
                effect: reporting.histogram(&table::COMMIT_TO_EFFECT_SECONDS, &[model, listener]),
            });
            Arc::new(Calls { timing, ..Calls::default() })
        });
        Arc::clone(calls)
    }
}
