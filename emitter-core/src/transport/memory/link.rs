//! One direction of a client's connection, and the task that keeps it up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::broker::{Admission, Broker, Gone, Ticket};
use super::faults::Dice;
use crate::transport::LinkStatus;

/// What a side and its task share.
pub(super) struct Link {
    pub(super) broker: Arc<Broker>,
    client: Arc<str>,
    life: u64,
    wake: Arc<Notify>,
    status: Mutex<LinkStatus>,
}

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum Lost {
    /// From outside.
    Gone,
    /// By one of the faults.
    Fault(&'static str),
}

impl From<Gone> for Lost {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// What a task does while its link is up.
pub(super) trait Side: Send + Sync + 'static {
    fn link(&self) -> &Link;

    /// Whether there is a reason to connect.
    fn is_wanted(&self) -> bool;

    /// Works until the connection is lost.
    fn serve(&self, ticket: &Ticket, dice: &mut Dice) -> impl Future<Output = Lost> + Send;

    /// The connection was lost.
    fn lost(&self);

    /// Another transport has this client now: nothing will ever pass again.
    fn taken_over(&self);
}

/// Keeps one side connected, until it is taken over.
pub(super) async fn keep_up<S: Side>(side: Arc<S>, mut dice: Dice) {
    while let Some(ticket) = side.link().connect(|| side.is_wanted()).await {
        let lost = side.serve(&ticket, &mut dice).await;
        side.link().disconnected(match lost {
            Lost::Gone => "the connection was cut",
            Lost::Fault(fault) => fault,
        });
        side.lost();
        tokio::time::sleep(dice.outage()).await;
    }
    side.link().disconnected("another connection of this client took over");
    side.taken_over();
}

impl Link {
    pub(super) fn new(broker: Arc<Broker>, client: &str, life: u64, wake: Arc<Notify>) -> Self {
        Self { broker, client: client.into(), life, wake, status: Mutex::default() }
    }

    /// There is something to do.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits for something to do.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(super) fn status(&self) -> LinkStatus {
        self.lock().clone()
    }

    /// The transport goes away.
    pub(super) fn end(&self) {
        self.lock().connected = false;
    }

    /// Waits for a connection; `None` when another transport has this client now.
    async fn connect(&self, is_wanted: impl Fn() -> bool) -> Option<Ticket> {
        loop {
            match self.broker.admit(&self.client, self.life) {
                Admission::TakenOver => return None,
                Admission::Open(ticket) if is_wanted() => {
                    let mut status = self.lock();
                    status.connected = true;
                    status.connections += 1;
                    return Some(ticket);
                }
                Admission::Open(_) | Admission::Away => self.woken().await,
            }
        }
    }

    fn disconnected(&self, reason: &str) {
        let mut status = self.lock();
        status.connected = false;
        status.last_error = Some(reason.to_owned());
        *status.lost.entry("broken").or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, LinkStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
