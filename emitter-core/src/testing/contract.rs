//! What a [`Transport`] must do at a broker, as cases that any transport can be tried by.
//!
//! Whoever writes a transport, or wonders about a broker, implements [`Broker`] and runs
//! [`CASES`], each in a test of its own:
//!
//! ```
//! use emitter_core::testing::contract::CASES;
//! use emitter_core::transport::memory::MemoryBroker;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! for case in CASES {
//!     let outcome = case.check(&MemoryBroker::new(), 100).await;
//!     outcome.unwrap_or_else(|seen| panic!("{} ({}): {seen}", case.name(), case.about()));
//! }
//! # }
//! ```
//!
//! What a broker cannot do by its nature is an [`Inability`]: the case must then fail, and in that very
//! way. So the day on which the broker is able after all is noticed, too.
//!
//! Nothing here measures time. A case waits until something happened, for a minute at most; only that
//! something does *not* happen is believed after a second of quiet.

use std::time::Duration;

use std::sync::Arc;

use futures_util::future::BoxFuture;

use self::trial::Trial;
use crate::transport::Transport;

mod cases;
mod memory;
mod trial;

/// The model that a broker with access control refuses to everybody: no publish on its topics
/// `prisma/events/forbidden/…`, and no subscription to them. One without leaves that out, and has an
/// [`Inability`] for the case `refusal`.
pub const FORBIDDEN: &str = "forbidden";

/// A broker that transports are tried at, and the means to harm it.
pub trait Broker: Send + Sync {
    /// Starts a transport. The same name again is the next life of the same client: what its session holds
    /// it is given now. Names are of letters, digits, `_` and `-`. Let it reconnect quickly.
    fn connect<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Arc<dyn Transport>>;

    /// Breaks all connections that this client has now, those of its groups included, in the middle of
    /// whatever passes; it may connect again at once.
    ///
    /// # Errors
    /// Why that cannot be done here.
    fn cut<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Result<(), String>>;

    /// Ends the broker and starts it again with what it has kept. Returns when it takes connections.
    ///
    /// # Errors
    /// Why that cannot be done here.
    fn restart(&self) -> BoxFuture<'_, Result<(), String>>;

    /// How much its transports have open at a time.
    fn bounds(&self) -> Bounds;

    /// What it cannot do by its nature. Default: nothing.
    fn inabilities(&self) -> &[Inability] {
        &[]
    }
}

/// How much the transports of a [`Broker`] have open at a time, which is what may come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Messages of one transport that are on their way to the broker and not confirmed.
    pub publishes: usize,
    /// Messages that were delivered to one transport and are not acknowledged.
    pub deliveries: usize,
    /// The bytes of a payload that is too large for the transport or its broker.
    pub too_large: usize,
}

/// A case that must fail at a broker, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inability {
    /// The case's [name](Case::name).
    pub case: &'static str,
    /// Why the broker cannot do it, in a sentence for a table's footnote.
    pub reason: &'static str,
    /// How it shows: a part of what the case says when it fails.
    pub shows: &'static str,
    /// It shows each time; else it is no surprise where the case holds.
    pub always: bool,
}

/// Something that a transport must do.
#[derive(Debug)]
pub struct Case {
    name: &'static str,
    about: &'static str,
    run: for<'t> fn(&'t Trial<'t>) -> BoxFuture<'t, Result<(), String>>,
}

/// All cases, from what is simple to what is not.
pub const CASES: &[Case] = &[
    Case {
        name: "publish_and_subscribe",
        about: "A message reaches who subscribed, is confirmed, and reaches nobody who took the subscription back",
        run: |trial| Box::pin(cases::publish_and_subscribe(trial)),
    },
    Case {
        name: "every_qos",
        about: "A message of each quality of service is confirmed and arrives",
        run: |trial| Box::pin(cases::every_qos(trial)),
    },
    Case {
        name: "properties",
        about: "A message's content type and user properties arrive with it",
        run: |trial| Box::pin(cases::properties(trial)),
    },
    Case {
        name: "retained",
        about: "The last retained message of a topic is sent to who subscribes later, until an empty one takes its place",
        run: |trial| Box::pin(cases::retained(trial)),
    },
    Case {
        name: "wildcard",
        about: "A model's filter matches all its operations, and no model whose name begins alike",
        run: |trial| Box::pin(cases::wildcard(trial)),
    },
    Case {
        name: "concurrency",
        about: "Many tasks publish over several transports at once: everybody is sent everything, each task's messages in order",
        run: |trial| Box::pin(cases::concurrency(trial)),
    },
    Case {
        name: "order",
        about: "Each key's messages arrive in order, on every topic",
        run: |trial| Box::pin(cases::order(trial)),
    },
    Case {
        name: "order_after_a_cut",
        about: "They still do, at first sight, when connections of both sides break",
        run: |trial| Box::pin(cases::order_after_a_cut(trial)),
    },
    Case {
        name: "no_ack_before_done",
        about: "A delivery is not acknowledged before it is done: those that are not fill the window",
        run: |trial| Box::pin(cases::no_ack_before_done(trial)),
    },
    Case {
        name: "window_of_the_next_life",
        about: "The next life begins with what was not done, and has no more room than the one before",
        run: |trial| Box::pin(cases::window_of_the_next_life(trial)),
    },
    Case {
        name: "resend",
        about: "What was not acknowledged comes again, to the next connection and to the next life, in order; what was does not",
        run: |trial| Box::pin(cases::resend(trial)),
    },
    Case {
        name: "duplicate_bound",
        about: "After a connection broke at most as many messages come twice as its window holds",
        run: |trial| Box::pin(cases::duplicate_bound(trial)),
    },
    Case {
        name: "restart",
        about: "A broker that is restarted after a third and after half of the events loses none",
        run: |trial| Box::pin(cases::restart(trial)),
    },
    Case {
        name: "close_under_load",
        about: "Closing counts exactly what was not confirmed, and what was confirmed arrives",
        run: |trial| Box::pin(cases::close_under_load(trial)),
    },
    Case {
        name: "groups",
        about: "Of a group one member is sent each message, and what a member that dies had not acknowledged is not lost",
        run: |trial| Box::pin(cases::groups(trial)),
    },
    Case {
        name: "receiver",
        about: "A further connection by a name of its own goes on, on another node, where it stopped, and is not sent what was retained before",
        run: |trial| Box::pin(cases::receiver(trial)),
    },
    Case {
        name: "refusal",
        about: "A publish or subscription that the broker refuses is an error of that one alone",
        run: |trial| Box::pin(cases::refusal(trial)),
    },
    Case {
        name: "oversize",
        about: "Of five messages the one that is too large fails, and no other",
        run: |trial| Box::pin(cases::oversize(trial)),
    },
];

impl Case {
    /// What it is called, such as `no_ack_before_done`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What has to hold, in a sentence.
    #[must_use]
    pub fn about(&self) -> &'static str {
        self.about
    }

    /// Tries a broker. `events` is how many messages go through where the number matters: 1,000 take a
    /// few seconds, and it is 10,000 that a transport should have survived. Clients and models are
    /// called after the case, so that any number of cases may share a broker.
    ///
    /// # Errors
    /// What was seen, where the case does not hold; or, where the broker declares an [`Inability`], that
    /// it held all the same or failed in another way.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time enabled.
    pub async fn check(&self, broker: &dyn Broker, events: usize) -> Result<(), String> {
        let inability = broker.inabilities().iter().find(|inability| inability.case == self.name);
        let patience = if inability.is_some() { SHORT } else { LONG };
        let trial = Trial::new(broker, self.name, events, patience);
        let outcome = (self.run)(&trial).await;
        match inability {
            None => outcome,
            Some(inability) => inability.holds(outcome),
        }
    }
}

/// How long a case waits for what must happen, on a machine that is busy with others.
const LONG: Duration = Duration::from_secs(60);

/// The same where it is known that it will not happen.
const SHORT: Duration = Duration::from_secs(6);

impl Inability {
    fn holds(&self, outcome: Result<(), String>) -> Result<(), String> {
        let Self { case, reason, shows, always } = self;
        match outcome {
            Err(seen) if seen.contains(shows) => Ok(()),
            Err(seen) => {
                Err(format!("it cannot ({reason}), but that shows as {shows:?}, and seen was: {seen}"))
            }
            Ok(()) if !always => Ok(()),
            Ok(()) => Err(format!(
                "`{case}` is said to be impossible ({reason}), and it holds: take the inability away"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inability_must_show_as_it_says() {
        let inability = Inability { case: "groups", reason: "it knows none", shows: "refused", always: true };
        assert_eq!(inability.holds(Err("the filter was refused".to_owned())), Ok(()));
        assert!(inability.holds(Err("nothing came".to_owned())).unwrap_err().contains("nothing came"));
        assert!(inability.holds(Ok(())).unwrap_err().contains("take the inability away"));
        assert_eq!(Inability { always: false, ..inability }.holds(Ok(())), Ok(()));
    }

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let names: std::collections::HashSet<_> = CASES.iter().map(Case::name).collect();
        assert_eq!(names.len(), CASES.len());
    }
}
