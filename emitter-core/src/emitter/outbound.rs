//! Events on their way out: who wants to know what becomes of them, and why nothing may.

use std::sync::Arc;

use crate::emit::QoS;
use crate::envelope::EncodeError;
use crate::model_info::AnyEvent;
use crate::receipt::{Loss, Ticket};
use crate::record::{Number, Parcel};
use crate::topic::TopicError;
use crate::transport::PublishError;

/// An event for other nodes.
pub(super) enum Outbound {
    /// As it was emitted, and how hard to try if the call said so.
    Event { event: Arc<dyn AnyEvent>, qos: Option<QoS>, ticket: Option<Box<Ticket>> },
    /// As it was written down.
    Record { parcel: Box<Parcel>, number: Number, told: Told },
}

/// Who wants to know what became of an event.
pub(super) enum Told {
    Nobody,
    Ticket(Box<Ticket>),
    /// Who has it written down, and does what is to be done.
    Relay(Relay),
}

/// Calls a function once, also when nothing became of the event.
pub(super) struct Relay(Option<Tell>);

/// Is told what became of an event.
type Tell = Box<dyn FnOnce(Result<(), PublishError>) + Send>;

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(told) = self.0.take() {
            told(Err(PublishError::Closed));
        }
    }
}

impl From<Option<Box<Ticket>>> for Told {
    fn from(ticket: Option<Box<Ticket>>) -> Self {
        ticket.map_or(Self::Nobody, Self::Ticket)
    }
}

impl Told {
    pub(super) fn is_relay(&self) -> bool {
        matches!(self, Self::Relay(_))
    }

    pub(super) fn relay(told: impl FnOnce(Result<(), PublishError>) + Send + 'static) -> Self {
        Self::Relay(Relay(Some(Box::new(told))))
    }

    pub(super) fn settled(self, outcome: Result<(), &Failure>) {
        match self {
            Self::Nobody => {}
            Self::Ticket(ticket) => ticket.settled(outcome.map_err(|failure| match failure {
                Failure::Publish(PublishError::QueueFull { .. }) => Loss::QueueFull,
                Failure::Publish(PublishError::Closed) => Loss::ShutDown,
                Failure::Publish(error) => Loss::Publish(error.clone()),
                other => Loss::Encode(other.to_string()),
            })),
            Self::Relay(mut relay) => {
                if let Some(told) = relay.0.take() {
                    told(outcome.map_err(|failure| match failure {
                        Failure::Publish(error) => error.clone(),
                        // Of its form nothing is left to be wrong.
                        _ => PublishError::Closed,
                    }));
                }
            }
        }
    }
}

impl Failure {
    /// Whether a dead letter is to be made of it. What a full queue, a shutdown or a model's `expires` did was
    /// meant so by somebody.
    pub(super) fn matters(&self) -> bool {
        matches!(
            self,
            Self::Encode(_)
                | Self::Panicked
                | Self::Topic(_)
                | Self::Publish(
                    PublishError::TooLarge { .. }
                        | PublishError::Refused { .. }
                        | PublishError::EndsConnections { .. }
                )
        )
    }
}

/// Why an event did not reach the broker.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error("the row's `Serialize` panicked")]
    Panicked,
}
