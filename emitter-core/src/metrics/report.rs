//! What a node counts is told to the facade.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::metrics::{Histogram, Key, Label, Level, Metadata, Recorder};
use futures_util::FutureExt;
use tokio::time::{MissedTickBehavior, interval};

use super::table::{self, Metric, MetricKind};
use crate::emitter::{Builder, Companion, Extension};

/// Has a node tell what it counts through the facade [`metrics`], to whatever exporter the application has: given to the
/// builder of an emitter by [`with`](Builder::with). Without it nothing is told, and nothing is measured by a clock.
///
/// The node counts for itself, and tells what was added every five seconds, and when it is [asked to](crate::Emitter::report);
/// so an event costs the same whether anybody exports. Only what histograms need is told where it happens.
///
/// Install the exporter before the emitter starts: what it misses is not told again.
///
/// ```no_run
/// # async fn started() -> Result<(), Box<dyn std::error::Error>> {
/// use emitter_core::Emitter;
/// use emitter_core::metrics::Metrics;
///
/// // Some exporter was installed here.
/// let emitter = Emitter::builder().service("shop").with(Metrics::default()).start().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use = "it is given to the builder of an emitter: `.with(metrics)`"]
pub struct Metrics {
    /// `None` for the global one.
    recorder: Option<Arc<dyn Recorder + Send + Sync>>,
}

/// How often is told what was added.
const EVERY: Duration = Duration::from_secs(5);

impl Metrics {
    /// To this recorder, and not to the one that is installed for the whole process. Two nodes in one process had better have
    /// one each, for otherwise a gauge is that of the last that told.
    pub fn to(recorder: Arc<dyn Recorder + Send + Sync>) -> Self {
        Self { recorder: Some(recorder) }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("is_global", &self.recorder.is_none()).finish()
    }
}

impl Extension for Metrics {
    fn extend(self, builder: Builder) -> Builder {
        let begin = |emitter: crate::WeakEmitter| {
            async move {
                let telling = tokio::spawn(async move {
                    let mut ticks = interval(EVERY);
                    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                    loop {
                        ticks.tick().await;
                        let Some(emitter) = emitter.upgrade() else { return };
                        emitter.report();
                    }
                });
                Ok(Companion::new(move |_| {
                    async move {
                        telling.abort();
                        // It ends as cancelled, which is what was asked for.
                        let _ = telling.await;
                    }
                    .boxed()
                }))
            }
            .boxed()
        };
        builder.reporting(Reporting::new(self)).companion("metrics", Box::new(begin))
    }
}

/// What a part of a node tells; `false` where it is there no more.
type Tell = Box<dyn Fn(&mut Report) -> bool + Send + Sync>;

struct Part {
    tell: Tell,
    /// When it was there last.
    told: Report,
}

#[derive(Default)]
struct Parts {
    alive: Vec<Part>,
    /// What those told that are there no more: a counter does not go back.
    gone: HashMap<Key, u64>,
}

impl Parts {
    fn tell(&mut self, report: &mut Report) {
        let gone = &mut self.gone;
        self.alive.retain_mut(|Part { tell, told }| {
            let mut now = Report::default();
            let is_there = tell(&mut now);
            if is_there {
                report.add(&now);
                *told = now;
            } else {
                told.counters.drain().for_each(|(key, total)| add(gone, key, total));
                // Of what it had it has nothing now.
                for (key, _) in told.gauges.drain() {
                    report.gauges.entry(key).or_default();
                }
            }
            is_there
        });
        gone.iter().for_each(|(key, total)| add(&mut report.counters, key.clone(), *total));
    }
}

fn add(counters: &mut HashMap<Key, u64>, key: Key, total: u64) {
    let sum = counters.entry(key).or_default();
    *sum = sum.saturating_add(total);
}

/// Of a node: to whom it tells, and what was told.
pub(crate) struct Reporting {
    metrics: Metrics,
    /// What each counter was when it was told last.
    told: Mutex<HashMap<Key, u64>>,
    parts: Mutex<Parts>,
}

impl Reporting {
    fn new(metrics: Metrics) -> Self {
        let reporting = Self { metrics, told: Mutex::default(), parts: Mutex::default() };
        reporting.with(|recorder| {
            for Metric { name, kind, unit, help, .. } in table::ALL.iter().copied() {
                match kind {
                    MetricKind::Counter => recorder.describe_counter(name.into(), Some(unit), help.into()),
                    MetricKind::Gauge => recorder.describe_gauge(name.into(), Some(unit), help.into()),
                    MetricKind::Histogram => {
                        recorder.describe_histogram(name.into(), Some(unit), help.into());
                    }
                }
            }
        });
        reporting
    }

    fn with<T>(&self, tell: impl FnOnce(&dyn Recorder) -> T) -> T {
        match &self.metrics.recorder {
            Some(recorder) => tell(&**recorder),
            None => ::metrics::with_recorder(tell),
        }
    }

    /// A histogram, to be kept.
    pub(crate) fn histogram(&self, metric: &Metric, labels: &[&str]) -> Histogram {
        self.with(|recorder| recorder.register_histogram(&key(metric, labels), &METADATA))
    }

    /// One more part tells, until it says that it is there no more.
    pub(crate) fn add(&self, tell: Tell) {
        let part = Part { tell, told: Report::default() };
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).alive.push(part);
    }

    /// Tells everything.
    pub(crate) fn tell(&self, node: impl FnOnce(&mut Report)) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = Report::default();
        node(&mut report);
        parts.tell(&mut report);
        self.with(|recorder| {
            for (key, total) in report.counters {
                let counter = recorder.register_counter(&key, &METADATA);
                let told = told.entry(key).or_default();
                // A sum of several parts may be less than it was: then something is counted late.
                counter.increment(total.saturating_sub(*told));
                *told = total.max(*told);
            }
            for (key, now) in report.gauges {
                recorder.register_gauge(&key, &METADATA).set(now);
            }
        });
    }
}

const METADATA: Metadata<'static> = Metadata::new("emitter", Level::INFO, None);

fn key(metric: &Metric, labels: &[&str]) -> Key {
    debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
    let labels = metric.labels.iter().zip(labels);
    let labels = labels.map(|(name, value)| Label::new(*name, (*value).to_owned()));
    Key::from_parts(metric.name, labels.collect::<Vec<_>>())
}

/// Takes what a part of a node tells: see [`Emitter::report_also`](crate::Emitter::report_also).
///
/// What several parts tell of the same metric with the same labels is their sum.
#[derive(Default)]
pub struct Report {
    counters: HashMap<Key, u64>,
    gauges: HashMap<Key, f64>,
}

impl Report {
    /// A counter, with the values of its labels in the order of its [`labels`](Metric::labels): how much it is since the start of
    /// the node.
    pub fn counter(&mut self, metric: &Metric, labels: &[&str], total: u64) {
        add(&mut self.counters, key(metric, labels), total);
    }

    /// A gauge, in the same way: how much it is now.
    #[allow(clippy::cast_precision_loss, reason = "a number of events beyond 2^52 may be off by one")]
    pub fn gauge(&mut self, metric: &Metric, labels: &[&str], now: u64) {
        *self.gauges.entry(key(metric, labels)).or_default() += now as f64;
    }

    /// A gauge of a time.
    pub fn seconds(&mut self, metric: &Metric, labels: &[&str], now: Duration) {
        *self.gauges.entry(key(metric, labels)).or_default() += now.as_secs_f64();
    }
}

impl Report {
    fn add(&mut self, other: &Self) {
        other.counters.iter().for_each(|(key, total)| add(&mut self.counters, key.clone(), *total));
        other.gauges.iter().for_each(|(key, now)| *self.gauges.entry(key.clone()).or_default() += now);
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Report")
    }
}
