//! What nodes count, as text for Prometheus.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::Metrics;
use super::table::{self, MetricKind};
use crate::emitter::{Builder, Companion, Extension, WeakEmitter};

/// A ready exporter (feature `prometheus`): given to the builder of an emitter by [`with`](Builder::with), it has the text that
/// Prometheus scrapes. It opens no port: serve the text where your application serves the rest, for who may read it knows the
/// names of your models.
///
/// ```ignore
/// let prometheus = Prometheus::new();
/// let emitter = Emitter::builder().service("shop").with(prometheus.clone()).start().await?;
/// let routes = axum::Router::new()
///     .route("/metrics", axum::routing::get(|| async move { ([("content-type", Prometheus::CONTENT_TYPE)], prometheus.text()) }));
/// ```
///
/// What your application measures by the facade comes into the same text after [`install`](Self::install).
#[derive(Clone)]
#[must_use = "it is given to the builder of an emitter: `.with(prometheus.clone())`"]
pub struct Prometheus {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    nodes: Arc<Mutex<Vec<WeakEmitter>>>,
}

impl Prometheus {
    /// What an answer with the [`text`](Self::text) says of itself.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// An exporter with this framework's [buckets](table::BUCKETS).
    pub fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for histogram in table::ALL.iter().filter(|metric| metric.kind == MetricKind::Histogram) {
            // Refused are no bounds at all, and there are some.
            if let Ok(with_buckets) = std::mem::take(&mut builder)
                .set_buckets_for_metric(Matcher::Full(histogram.name.to_owned()), table::BUCKETS)
            {
                builder = with_buckets;
            }
        }
        let recorder = Arc::new(builder.build_recorder());
        Self { handle: recorder.handle(), recorder, nodes: Arc::default() }
    }

    /// Makes it the exporter of the whole process, for what the application itself measures; `false` where there is one already.
    pub fn install(&self) -> bool {
        ::metrics::set_global_recorder(Arc::clone(&self.recorder)).is_ok()
    }

    /// Everything as it is now, in the text format of Prometheus.
    #[must_use]
    pub fn text(&self) -> String {
        let nodes: Vec<_> = {
            let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
            nodes.retain(|node| node.upgrade().is_some());
            nodes.iter().filter_map(WeakEmitter::upgrade).collect()
        };
        nodes.iter().for_each(crate::Emitter::report);
        self.handle.render()
    }
}

impl Default for Prometheus {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Prometheus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prometheus")
    }
}

impl Extension for Prometheus {
    fn extend(self, builder: Builder) -> Builder {
        let Self { recorder, handle, nodes } = self;
        let begin = move |emitter: WeakEmitter| {
            async move {
                // Times that nobody scrapes are put into their buckets all the same, or they would fill the memory.
                let upkeep = emitter.upgrade();
                if let Some(emitter) = upkeep {
                    emitter.report_also(move |_| handle.run_upkeep());
                }
                nodes.lock().unwrap_or_else(PoisonError::into_inner).push(emitter);
                Ok(Companion::new(|_| std::future::ready(()).boxed()))
            }
            .boxed()
        };
        builder.with(Metrics::to(recorder)).companion("prometheus", Box::new(begin))
    }
}
