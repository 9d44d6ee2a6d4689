//! Where an event goes: to listeners here, to other nodes, to both, to neither.
//!
//! Three have a say, and each can only narrow what the one before it allows: the application
//! ([`EmitConfig`], and [`skip_models`](crate::Builder::skip_models)), the model (`#[emits(local)]`, `#[emits(remote)]`), and the call
//! (`.local_only()`, `.remote_only()`). Off wins.
//!
//! And how hard is tried to get it there, [`QoS`], and what outlives the process meanwhile: [`Persistence`].

use std::sync::Arc;

use crate::context::Context;
use crate::event::{EventId, Operation};
use crate::metadata::Metadata;
use crate::receipt::Receipt;
use crate::trace::{Trace, Traced};

/// Where an event may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Scope {
    /// To the listeners of this node.
    pub local: bool,
    /// To the other nodes.
    pub remote: bool,
}

impl Scope {
    /// Here and elsewhere; the default of models and calls.
    pub const BOTH: Self = Self { local: true, remote: true };
    /// Here only.
    pub const LOCAL: Self = Self { local: true, remote: false };
    /// Elsewhere only.
    pub const REMOTE: Self = Self { local: false, remote: true };
    /// Nowhere.
    pub const NONE: Self = Self { local: false, remote: false };

    /// What both allow.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { local: self.local && other.local, remote: self.remote && other.remote }
    }

    /// Whether it goes nowhere.
    #[must_use]
    pub const fn is_none(self) -> bool {
        !self.local && !self.remote
    }
}

impl From<bool> for Scope {
    /// The specification's `emit: true` and `emit: false`.
    fn from(on: bool) -> Self {
        if on { Self::BOTH } else { Self::NONE }
    }
}

/// Quality of service of one publish, as in MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum QoS {
    /// Sent once and forgotten; "confirmed" means written to the socket.
    AtMostOnce,
    /// Sent until the broker confirms it. The default.
    #[default]
    AtLeastOnce,
    /// Confirmed in two steps. Receivers of this framework still subscribe at
    /// [`AtLeastOnce`](Self::AtLeastOnce) and drop duplicates by event id.
    ExactlyOnce,
}

/// Where an event waits until it is published. Each is more than the one before: a call can only ask for more than
/// its model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Persistence {
    /// In memory. The default.
    #[default]
    Buffered,
    /// In an outbox, where it is written after the commit; in memory until then.
    Queued,
    /// In an outbox, where it is written in the transaction of what it tells of.
    Durable,
}

/// What one call says about its events. Default: nothing, so that they go wherever application and
/// model allow. A [`Scope`] is one, with nothing else said.
#[derive(Debug, Clone)]
pub struct EmitOptions {
    pub(crate) scope: Scope,
    pub(crate) qos: Option<QoS>,
    pub(crate) notes: Option<Arc<Notes>>,
    pub(crate) receipt: Option<Receipt>,
}

/// What an event carries besides its rows, where its writer said so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Notes {
    pub(crate) trace: Option<Trace>,
    /// What vendors of tracing hand on beside it.
    pub(crate) trace_state: Option<Box<str>>,
    /// The span in which the event was made, where that is one of a trace: the event goes on from there.
    pub(crate) made: Option<Box<Traced>>,
    pub(crate) idempotency_key: Option<Box<str>>,
    pub(crate) metadata: Metadata,
    /// The event whose listener wrote.
    pub(crate) cause: Option<EventId>,
    /// How many events were caused by another, up to this one.
    pub(crate) hops: u8,
}

impl Notes {
    /// The place in a trace from which an event goes on.
    pub(crate) fn trace(&self) -> Option<Trace> {
        self.made.as_ref().map(|made| made.trace).or(self.trace)
    }

    pub(crate) fn trace_state(&self) -> Option<&str> {
        self.made.as_ref().map_or(&self.trace_state, |made| &made.state).as_deref()
    }

    /// The same without the span, which each event has of its own.
    pub(crate) fn said(&self) -> Self {
        Self { made: None, ..self.clone() }
    }
}

impl EmitOptions {
    /// The longest idempotency key in bytes; of a longer one no event carries anything.
    pub const MAX_IDEMPOTENCY_KEY: usize = 256;

    /// Narrows where events go.
    #[must_use]
    pub fn narrowed(mut self, scope: Scope) -> Self {
        self.scope = self.scope.and(scope);
        self
    }

    /// How hard is tried to bring events to other nodes, instead of what the model says.
    #[must_use]
    pub fn qos(mut self, qos: QoS) -> Self {
        self.qos = Some(qos);
        self
    }

    /// The trace to which events belong.
    #[must_use]
    pub fn trace(mut self, trace: Trace) -> Self {
        self.notes().trace = Some(trace);
        self
    }

    /// What vendors of tracing hand on beside the trace: the header `tracestate` as it came. A text that
    /// cannot be one ([`Trace::is_state`]) is left out.
    #[must_use]
    pub fn trace_state(mut self, state: impl Into<String>) -> Self {
        let state = state.into();
        self.notes().trace_state = Trace::is_state(&state).then(|| state.into_boxed_str());
        self
    }

    /// The event that this is done for. A listener need not say it of what it does in its own call;
    /// it does of what it hands to another thread or task.
    #[must_use]
    pub fn caused_by(mut self, call: &Context) -> Self {
        call.cause().note(self.notes());
        self
    }

    /// What tells this doing from others of its kind, though it is done twice: the id of a request
    /// that a client may repeat. Events carry it to listeners, which can tell by it what they have
    /// done already; the framework itself drops nothing for it.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        let key = key.into();
        self.notes().idempotency_key = (key.len() <= Self::MAX_IDEMPOTENCY_KEY).then(|| key.into_boxed_str());
        self
    }

    /// Notes something beside the event: `metadata("actor", "u-7")`. Events carry at most
    /// [`Metadata::MAX_ENTRIES`] such texts, with names of at most [`Metadata::MAX_NAME`] bytes and values of
    /// at most [`Metadata::MAX_VALUE`]; what is beyond that is left out.
    #[must_use]
    pub fn metadata(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.notes().metadata.insert(name.as_ref(), value.as_ref());
        self
    }

    /// Tells what becomes of the events.
    #[must_use]
    pub fn receipt(mut self, receipt: &Receipt) -> Self {
        self.receipt = Some(receipt.clone());
        self
    }

    fn notes(&mut self) -> &mut Notes {
        Arc::make_mut(self.notes.get_or_insert_default())
    }
}

impl From<Scope> for EmitOptions {
    fn from(scope: Scope) -> Self {
        Self { scope, qos: None, notes: None, receipt: None }
    }
}

impl Default for EmitOptions {
    fn default() -> Self {
        Scope::BOTH.into()
    }
}

/// What an application emits, by operation. It narrows; a statement still needs `.emit()`. Events that are
/// no rows have no operation, and are none of its business. What is off for a model,
/// [`skip_models`](crate::Builder::skip_models) says.
///
/// ```
/// use emitter_core::emit::{EmitConfig, Scope};
/// use emitter_core::event::Operation;
///
/// let config = EmitConfig::all().with(Operation::UpdateMany, false).with(Operation::Create, Scope::LOCAL);
/// assert_eq!(config.scope(Operation::UpdateMany), Scope::NONE);
/// assert_eq!(config.scope(Operation::Create), Scope::LOCAL);
/// assert_eq!(config.scope(Operation::Delete), Scope::BOTH);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmitConfig([Scope; Operation::ALL.len()]);

impl EmitConfig {
    /// Every operation, here and elsewhere; the default.
    #[must_use]
    pub const fn all() -> Self {
        Self([Scope::BOTH; Operation::ALL.len()])
    }

    /// No operation: a switch for all changes, as for a bulk import.
    #[must_use]
    pub const fn none() -> Self {
        Self([Scope::NONE; Operation::ALL.len()])
    }

    /// The same with another scope for one operation: a [`Scope`], `true` or `false`.
    #[must_use]
    pub fn with(mut self, operation: Operation, scope: impl Into<Scope>) -> Self {
        self.0[operation.index()] = scope.into();
        self
    }

    /// Where events of this operation may go.
    #[must_use]
    pub const fn scope(&self, operation: Operation) -> Scope {
        self.0[operation.index()]
    }
}

impl Default for EmitConfig {
    fn default() -> Self {
        Self::all()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn scope() -> impl Strategy<Value = Scope> {
        (any::<bool>(), any::<bool>()).prop_map(|(local, remote)| Scope { local, remote })
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop::sample::select(Operation::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn and_only_narrows(a in scope(), b in scope(), c in scope()) {
            prop_assert_eq!(a.and(b), b.and(a));
            prop_assert_eq!(a.and(b).and(c), a.and(b.and(c)));
            prop_assert_eq!(a.and(a), a);
            prop_assert_eq!(a.and(Scope::BOTH), a);
            prop_assert_eq!(a.and(Scope::NONE), Scope::NONE);
            prop_assert!(a.and(b).local <= a.local && a.and(b).remote <= a.remote);
            prop_assert_eq!(a.is_none(), a == Scope::NONE);
        }

        #[test]
        fn the_last_word_on_an_operation_counts(
            all in any::<bool>(), words in prop::collection::vec((operation(), scope()), 0..20)
        ) {
            let mut config = if all { EmitConfig::all() } else { EmitConfig::none() };
            let mut naive: HashMap<Operation, Scope> = Operation::ALL.map(|operation| (operation, all.into())).into();
            for (operation, scope) in words {
                config = config.with(operation, scope);
                naive.insert(operation, scope);
            }
            for operation in Operation::ALL {
                prop_assert_eq!(config.scope(operation), naive[&operation]);
            }
        }
    }
}
