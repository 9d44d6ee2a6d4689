//! An event goes to the listeners here and to where it is published.

use std::sync::Arc;

use tracing::{error, warn};

use super::outbound::Outbound;
use super::{Emission, ModelState, Shared};
use crate::ack::Ack;
use crate::dispatcher::{Account, Completion, Job, Message, Selection};
use crate::emit::Scope;
use crate::model_info::AnyEvent;
use crate::queue::Refused;
use crate::receipt::{Asked, Loss, Way};

const NO_OUTBOX: &str =
    "events are to be queued, and their emitter has no outbox: they wait in memory for the broker";

const LOOP: &str = "events were not emitted: listeners write what makes listeners write, in a circle. Let the \
                    listener ignore what it wrote itself, or raise `max_hops`";

impl Shared {
    pub(super) fn emit(&self, emission: Emission) {
        if emission.is_queued() {
            match self.unwritten.get() {
                Some(unwritten) => return self.emit_queued(unwritten, emission),
                None => self.overflows.log(|more| error!(more, "{NO_OUTBOX}")),
            }
        }
        let Emission { event, model, mut scope, allowed, qos, mut ticket, .. } = emission;
        // Others relay what is written down, and nothing else.
        scope.remote &= self.transport.is_some();
        let asked = ticket.as_mut().map(|ticket| ticket.emitted(scope.remote, false));
        if !self.admits(&*event) {
            return told_of_loop(scope, asked);
        }
        if let Some(tap) = &self.tap {
            tap(&event, allowed);
        }
        let mut published = scope.remote;
        if scope.remote {
            model.tally.emitted_remote[event.meta().operation.index()].add_one();
            let outbound = Outbound::Event { event: Arc::clone(&event), qos, ticket };
            if let Err((reason, outbound)) = self.to_publish.offer(outbound) {
                published = false;
                if let Some(asked) = &asked {
                    asked.remote(Way::Lost(reason.into()));
                }
                // Not before: its ticket would tell of a shutdown.
                drop(outbound);
                self.counters.publish_refused.add_one();
                self.overflows.log(|more| match reason {
                    Refused::Full => {
                        error!(more, "the queue for publishing is full: events are lost to other nodes");
                    }
                    Refused::Closed => {
                        warn!(more, "an event came after the shutdown: it is lost to other nodes");
                    }
                });
            }
        }
        // What could not be published would never come back to this node's members of groups.
        let refused = scope.remote && !published && allowed.local && model.hears_local(false);
        let mut local = Way::NotMeant;
        if scope.local || refused {
            model.tally.emitted_local[event.meta().operation.index()].add_one();
            local = Way::Taken;
            if let Err(reason) =
                model.queue.push(Message::Event(Job::local(event, published, allowed.remote)))
            {
                local = Way::Lost(reason.into());
                model.tally.overflowed.add_one();
                self.overflows.log(|more| match reason {
                    Refused::Full => error!(
                        model = model.info.name,
                        more, "the queue of a model is full: its listeners miss events"
                    ),
                    Refused::Closed => warn!(
                        model = model.info.name,
                        more, "an event came after the shutdown; listeners miss it"
                    ),
                });
            }
        }
        if let Some(asked) = asked {
            asked.local(local);
        }
    }

    /// Emits no more of what listeners cause each other to write.
    pub(super) fn admits(&self, event: &dyn AnyEvent) -> bool {
        let admitted = event.meta().hops() <= self.max_hops;
        if !admitted {
            self.counters.loops.add_one();
            let (model, hops) = (event.model().name, self.max_hops);
            self.overflows.log(|more| error!(model, hops, more, LOOP));
        }
        admitted
    }

    /// An event that is written down: others get it from there.
    pub(super) fn emit_recorded(&self, emission: Emission, handled: Option<Ack>) {
        let Emission { event, model, scope, allowed, mut ticket, .. } = emission;
        let asked = ticket.as_mut().map(|ticket| ticket.emitted(scope.remote, true));
        if let Some(tap) = &self.tap {
            tap(&event, allowed);
        }
        if scope.remote {
            model.tally.emitted_remote[event.meta().operation.index()].add_one();
        }
        if let Some(asked) = &asked {
            asked.remote(if scope.remote { Way::Recorded } else { Way::NotMeant });
            asked.local(if scope.local { Way::Recorded } else { Way::NotMeant });
            asked.outbox(Way::Recorded);
        }
        if !scope.local {
            return;
        }
        model.tally.emitted_local[event.meta().operation.index()].add_one();
        if let Some(handled) = handled {
            let job = Job::recorded(event, scope.remote, allowed.remote, self.recorded(handled));
            self.push_recorded(&model, job);
        }
    }

    /// Hands an event to this node's listeners that is written down: refused, it is handed on later by whoever reads that.
    pub(super) fn push_recorded(&self, model: &ModelState, job: Job) -> bool {
        // What waits in lanes counts, too, for nothing else bounds it.
        model.queue.unfinished() < self.limits.queue && model.queue.push(Message::Event(job)).is_ok()
    }

    /// What ends an event that is written down until its listeners are done with it.
    pub(super) fn recorded(&self, handled: Ack) -> Arc<Completion> {
        Completion::of(handled, None, Selection::default(), self.account(false))
    }

    /// How far listeners are with such an event, where somebody keeps account of it.
    pub(super) fn account(&self, goes_on: bool) -> Option<Account> {
        self.ledger.get().map(|keeper| Account::of_record(Arc::clone(keeper), goes_on))
    }
}

/// Tells whoever asked that an event goes nowhere.
pub(super) fn told_of_loop(scope: Scope, asked: Option<Asked>) {
    if let Some(asked) = asked {
        let way = |meant| if meant { Way::Lost(Loss::Loop) } else { Way::NotMeant };
        asked.local(way(scope.local));
        asked.remote(way(scope.remote));
    }
}
