//! Keeps one connection to the broker alive: connects, polls, gives up, waits, connects again.
//!
//! What a connection is for is decided by its [`Side`]: the publisher or the subscriber.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::config::MqttConfig;
use super::in_flight::Confused;
use super::protocol::{Client, Connection, Events, Role, Signal, Welcome};
use crate::transport::LinkStatus;

/// What a connection is for.
pub(super) trait Side: Send + Sync + 'static {
    fn link(&self) -> &Link;

    fn role(&self) -> Role;

    /// Waits until there is a reason to connect.
    fn needed(&self) -> impl Future<Output = ()> + Send;

    /// The broker accepted the connection. `client` is good until
    /// [`disconnected`](Self::disconnected).
    fn connected(&self, client: Client, welcome: &Welcome);

    /// These things happened. An error ends the connection.
    fn handle(&self, batch: Vec<Signal>) -> impl Future<Output = Result<(), Lost>> + Send;

    /// The connection is gone; `leftovers` had arrived before and were not handled. `hung_up` when the
    /// other side, or something on the way, ended it.
    fn disconnected(&self, leftovers: Vec<Signal>, hung_up: bool);

    /// No connection follows any more.
    fn gave_up(&self);

    /// When [`on_due`](Self::on_due) is to be called, if nothing happens before.
    fn due(&self) -> Option<std::time::Instant>;

    fn on_due(&self);
}

/// One of the two connections: its settings, how it stands, and whether it is to end.
#[derive(Debug)]
pub(super) struct Link {
    name: &'static str,
    pub(super) config: Arc<MqttConfig>,
    pub(super) client_id: String,
    phase: watch::Sender<Phase>,
    status: Mutex<LinkStatus>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    /// Nothing new is taken, what was begun goes on.
    Closing,
    /// The task ends.
    Finished,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("{0}")]
    Broken(String),
    #[error("connecting took longer than {0:?}")]
    Unreachable(Duration),
    #[error("no sign of life for {0:?}")]
    Silent(Duration),
    #[error("the broker did not answer for {0:?}")]
    Unanswered(Duration),
    #[error("nobody took a delivery for {0:?}")]
    Untaken(Duration),
    #[error("the client library's notices do not fit what it was handed")]
    Confused,
    #[error("the client library panicked")]
    Panicked,
    /// Ended by us, to get rid of what a flaw of the client library has left in it.
    #[error("renewed")]
    Renewed,
    #[error("closed")]
    Finished,
}

impl Lost {
    /// In a word, for who counts them.
    fn cause(&self) -> &'static str {
        match self {
            Self::Broken(_) => "broken",
            Self::Unreachable(_) => "unreachable",
            Self::Silent(_) => "silent",
            Self::Unanswered(_) => "unanswered",
            Self::Untaken(_) => "untaken",
            Self::Confused | Self::Panicked | Self::Renewed | Self::Finished => "other",
        }
    }
}

impl From<Confused> for Lost {
    fn from(Confused: Confused) -> Self {
        Self::Confused
    }
}

/// At most one warning in so long while the broker is away.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

/// How long a broker gets to close the connection after our DISCONNECT.
const FAREWELL: Duration = Duration::from_secs(1);

impl Link {
    pub(super) fn new(name: &'static str, config: Arc<MqttConfig>, client_id: String) -> Self {
        let phase = watch::Sender::new(Phase::Open);
        Self { name, config, client_id, phase, status: Mutex::default() }
    }

    pub(super) fn status(&self) -> LinkStatus {
        self.lock_status().clone()
    }

    /// Nothing new is taken from now on.
    pub(super) fn close(&self) {
        self.phase.send_if_modified(|phase| {
            let open = *phase == Phase::Open;
            *phase = (*phase).max(Phase::Closing);
            open
        });
    }

    /// The task is to end. A connected one still needs its DISCONNECT.
    pub(super) fn finish(&self) {
        self.phase.send_replace(Phase::Finished);
    }

    pub(super) async fn closing(&self) {
        self.reached(Phase::Closing).await;
    }

    fn is_finished(&self) -> bool {
        *self.phase.borrow() == Phase::Finished
    }

    async fn finished(&self) {
        self.reached(Phase::Finished).await;
    }

    async fn reached(&self, wanted: Phase) {
        // An error would mean that the sender is gone, and it lives as long as `self`.
        let _ = self.phase.subscribe().wait_for(|phase| *phase >= wanted).await;
    }

    fn note_connected(&self) {
        let mut status = self.lock_status();
        status.connected = true;
        status.connections += 1;
        tracing::info!(link = self.name, broker = %self.config.address(), "connected to the broker");
    }

    fn note_lost(&self, lost: &Lost) {
        let mut status = self.lock_status();
        status.connected = false;
        if !matches!(lost, Lost::Finished | Lost::Renewed) {
            status.last_error = Some(lost.to_string());
            *status.lost.entry(lost.cause()).or_default() += 1;
        }
    }

    fn lock_status(&self) -> MutexGuard<'_, LinkStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects and connects again, until the link is finished.
pub(super) async fn keep_connected<S: Side>(side: Arc<S>) {
    let link = side.link();
    let mut outage = Outage::default();
    loop {
        tokio::select! {
            () = link.finished() => return,
            () = side.needed() => {}
        }
        let end = one_connection(&*side).await;
        link.note_lost(&end.lost);
        if link.is_finished() {
            return;
        }
        if matches!(end.lost, Lost::Renewed) {
            continue;
        }
        let delay = outage.delay(end.lived, link);
        if link.config.max_retries.is_some_and(|most| outage.failures > most) {
            let (broker, failures) = (link.config.address(), outage.failures);
            tracing::error!(link = link.name, %broker, error = %end.lost, failures, "no more attempts to connect");
            link.lock_status().given_up = true;
            link.close();
            link.finish();
            return side.gave_up();
        }
        outage.warn(&end, delay, link);
        tokio::select! {
            () = link.finished() => return,
            () = pause(&*side, delay) => {}
        }
    }
}

/// Waits; what is due meanwhile is done all the same.
async fn pause<S: Side>(side: &S, delay: Duration) {
    let end = Instant::now() + delay;
    loop {
        let moment = side.due();
        let due = moment.map_or(end, Instant::from_std).min(end);
        sleep_until(due).await;
        if due >= end {
            return;
        }
        side.on_due();
        if side.due() == moment {
            // Nothing moved: what is due has to wait for the connection.
            return sleep_until(end).await;
        }
    }
}

/// Failures in a row, and what was said about them.
#[derive(Debug, Default)]
struct Outage {
    failures: u32,
    last_delay: Duration,
    last_warning: Option<Instant>,
    /// Accepted connections in a row of which none lasted.
    hang_ups: u32,
    last_hint: Option<Instant>,
}

/// After so many accepted connections that did not last, the reason is hardly the network.
const SUSPICIOUS: u32 = 3;

impl Outage {
    /// How long to wait after a connection that lived so long. One that lived longer than it was
    /// waited for ends the row; one that did not, such as when two processes with the same client
    /// id push each other off, goes on with it.
    fn delay(&mut self, lived: Duration, link: &Link) -> Duration {
        if lived > self.last_delay {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.last_delay = link.config.reconnect.delay(self.failures, fastrand::f64());
        self.last_delay
    }

    fn warn(&mut self, end: &End, delay: Duration, link: &Link) {
        let End { lost, lived } = end;
        self.hang_ups = match *lived {
            Duration::ZERO => self.hang_ups,
            lived if lived > BETWEEN_WARNINGS => 1,
            _ => self.hang_ups.saturating_add(1),
        };
        let silent = |last: Option<Instant>| last.is_none_or(|last| last.elapsed() >= BETWEEN_WARNINGS);
        if self.hang_ups >= SUSPICIOUS {
            let client_id = &*link.client_id;
            link.lock_status().last_error = Some(format!(
                "{lost}; another process may be using the client id {client_id}, or the broker hangs up on what it refuses"
            ));
            if silent(self.last_hint) {
                self.last_hint = Some(Instant::now());
                let broker = link.config.address();
                tracing::error!(link = link.name, %broker, client_id, error = %lost, THROWN_OFF);
            }
            return;
        }
        if !silent(self.last_warning) {
            tracing::debug!(link = link.name, error = %lost, ?delay, "no connection to the broker");
            return;
        }
        self.last_warning = Some(Instant::now());
        tracing::warn!(
            link = link.name,
            broker = %link.config.address(),
            error = %lost,
            failures = self.failures,
            ?delay,
            "no connection to the broker; it is tried again"
        );
    }
}

const THROWN_OFF: &str = "the broker accepts the connection and ends it, again and again: another process may be \
                          using the client id (give each node a name of its own), or the broker hangs up on what \
                          it refuses and is sent again: over MQTT 3.1.1 a topic that its access control forbids, \
                          at some QoS 2. See the broker's log";

struct End {
    lost: Lost,
    /// Since the broker accepted it; zero if it never did.
    lived: Duration,
}

async fn one_connection<S: Side>(side: &S) -> End {
    let mut connection = Connection::new(&side.link().config, &side.role());
    let mut accepted = None;
    // rumqttc's parser is the one thing here that meets bytes from the wire: if it panics, that
    // costs a connection and not the task.
    let driven = AssertUnwindSafe(drive(side, &mut connection, &mut accepted)).catch_unwind().await;
    let lost = driven.unwrap_or(Err(Lost::Panicked)).err().unwrap_or(Lost::Finished);
    side.disconnected(connection.events.leftovers(), matches!(lost, Lost::Broken(_)));
    End { lost, lived: accepted.map_or(Duration::ZERO, |since: Instant| since.elapsed()) }
}

async fn drive<S: Side>(
    side: &S,
    connection: &mut Connection,
    accepted: &mut Option<Instant>,
) -> Result<(), Lost> {
    let Connection { client, events } = connection;
    let (welcome, rest) = establish(side.link(), events).await?;
    *accepted = Some(Instant::now());
    let patience = patience(side.link(), &welcome, events);
    side.connected(client.clone(), &welcome);
    side.link().note_connected();
    if side.link().is_finished() {
        // It was finished before the side could be told to disconnect.
        return Ok(());
    }
    let mut batch = rest;
    loop {
        if let Err(lost) = side.handle(batch).await {
            if matches!(lost, Lost::Finished) {
                until_hung_up(events).await;
            }
            return Err(lost);
        }
        batch = next_batch(side, events, patience).await?;
    }
}

/// Waits until the broker has read our DISCONNECT and closed the connection, as it must. Else what
/// was written before might still be unread when this client id connects again, and would be lost:
/// mosquitto then throws it away, acknowledgements included.
async fn until_hung_up(events: &mut Events) {
    let _ = timeout(FAREWELL, async { while events.poll().await.is_ok() {} }).await;
}

/// Connects. Returns the broker's welcome and what came with it.
async fn establish(link: &Link, events: &mut Events) -> Result<(Welcome, Vec<Signal>), Lost> {
    let longest = link.config.connect_timeout;
    let polled = tokio::select! {
        () = link.finished() => return Err(Lost::Finished),
        polled = timeout(longest, events.poll()) => polled,
    };
    let batch = polled.map_err(|_| Lost::Unreachable(longest))?.map_err(Lost::Broken)?;
    let mut batch = batch.into_iter();
    match batch.next() {
        Some(Signal::Connected(welcome)) => Ok((welcome, batch.collect())),
        _ => Err(Lost::Confused),
    }
}

/// After how long without any event, pings included, the connection is dead: rumqttc notices an
/// idle one after two keep-alives, but one whose socket's buffer is full never.
fn patience(link: &Link, welcome: &Welcome, events: &mut Events) -> Duration {
    let keep_alive = match welcome.keep_alive {
        Some(Duration::ZERO) => {
            events.keep_pinging(link.config.keep_alive);
            link.config.keep_alive
        }
        Some(brokers) => brokers,
        None => link.config.keep_alive,
    };
    2 * keep_alive + Duration::from_secs(1)
}

/// Waits for the next events, and wakes the side when it is due. `poll` must not be cancelled and
/// called again: here it is polled to its end, or the connection is given up.
async fn next_batch<S: Side>(side: &S, events: &mut Events, patience: Duration) -> Result<Vec<Signal>, Lost> {
    let mut polled = pin!(timeout(patience, events.poll()));
    let outcome = loop {
        let due = side.due();
        let wait = async {
            match due {
                Some(due) => sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            outcome = &mut polled => break outcome,
            () = wait => side.on_due(),
        }
        if side.due() == due {
            // Nothing moved: what is due has to wait for the connection.
            break polled.await;
        }
    };
    outcome.map_err(|_| Lost::Silent(patience))?.map_err(Lost::Broken)
}
