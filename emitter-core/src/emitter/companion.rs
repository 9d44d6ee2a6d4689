//! What runs with a node, and how it is.

use std::fmt;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::WeakEmitter;

/// Begins something that runs with a node; it must not keep the emitter alive. An error is why it cannot.
pub type BeginCompanion =
    Box<dyn FnOnce(WeakEmitter) -> BoxFuture<'static, Result<Companion, String>> + Send>;

/// Something that runs with a node, and has begun.
pub struct Companion {
    pub(super) end: Box<dyn FnOnce(Instant) -> BoxFuture<'static, ()> + Send>,
    pub(super) pulse: Option<Box<dyn Fn() -> Pulse + Send + Sync>>,
    pub(super) after: &'static [&'static str],
}

/// How something is that runs with a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pulse {
    /// It works, or waits for work.
    Works,
    /// It does not, for this reason; it may again.
    Hindered(String),
    /// It has ended by itself: only a new process helps.
    Ended,
}

impl Companion {
    /// `end` ends it, until the moment that it is given at the latest. All companions of a node end at the same time.
    pub fn new(end: impl FnOnce(Instant) -> BoxFuture<'static, ()> + Send + 'static) -> Self {
        Self { end: Box::new(end), pulse: None, after: &[] }
    }

    /// Has it end when those of these [names](super::Builder::companion) have ended, for until then they give it work, or when there
    /// is no more time. Those that the node does not have are not waited for.
    #[must_use]
    pub fn after(self, others: &'static [&'static str]) -> Self {
        Self { after: others, ..self }
    }

    /// Has [`Emitter::health`](super::Emitter::health) and [`Emitter::is_running`](super::Emitter::is_running) ask how it is. It is to answer at once.
    #[must_use]
    pub fn pulse(self, ask: impl Fn() -> Pulse + Send + Sync + 'static) -> Self {
        Self { pulse: Some(Box::new(ask)), ..self }
    }
}

impl fmt::Debug for Companion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Companion")
    }
}
