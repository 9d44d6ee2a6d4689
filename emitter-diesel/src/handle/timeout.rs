//! How long a transaction may take.

use std::fmt;
use std::time::{Duration, Instant};

use diesel::result::Error;
use emitter_core::{BeginCompanion, Builder, Emitter, Extension};
use futures_util::FutureExt;

/// How long a transaction of a bound handle may take, from when it has begun to its COMMIT. Default, where the builder is given
/// none: as long as it likes.
///
/// One that is late is rolled back, and none of its events is emitted, buffered, queued or durable: its statements are refused
/// from then on, savepoints too, and so is its COMMIT, each with a [`TimedOut`]. The connection works as after any other
/// rollback. [`transaction_timeout`](crate::Bound::transaction_timeout) of a handle says otherwise for one transaction.
///
/// ```
/// use std::time::Duration;
///
/// use emitter_diesel::{Emitter, TransactionTimeout};
///
/// let builder = Emitter::builder().with(TransactionTimeout::of(Duration::from_secs(10)));
/// # drop(builder);
/// ```
///
/// It is looked at between statements. What hangs in the middle of one, or waits for something else, is not interrupted: to bound
/// statements is the database's, which frees their locks (`statement_timeout`, `lock_timeout` and
/// `idle_in_transaction_session_timeout` of PostgreSQL, `max_statement_time` and `innodb_lock_wait_timeout` of MariaDB,
/// `busy_timeout` of SQLite); to bound other things is the transaction's own, as with `tokio::time::timeout(…).await?` in it,
/// around the call to another server. A time-out *around* an asynchronous transaction ends its connection.
///
/// It goes for the transaction of a single statement with `.durable()`, too; neither for a single statement that needs none,
/// nor for listeners with an `InboxTx` and replicas, whose time-out is that of the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "it is given to the builder of an emitter: `.with(TransactionTimeout::of(…))`"]
pub struct TransactionTimeout(Duration);

impl TransactionTimeout {
    /// So long; 0 is an error at start.
    pub const fn of(timeout: Duration) -> Self {
        Self(timeout)
    }
}

/// [`start`](Builder::start) then fails with [`StartError::Companion`](emitter_core::StartError::Companion) where it is 0.
impl Extension for TransactionTimeout {
    fn extend(self, builder: Builder) -> Builder {
        if self.0.is_zero() {
            let refused: BeginCompanion = Box::new(|_| async { Err(NO_TIME.to_owned()) }.boxed());
            return builder.companion("transaction_timeout", refused);
        }
        builder.state(self)
    }
}

const NO_TIME: &str =
    "0 s is not allowed, a transaction needs some time; give none where there is to be no time-out";

/// A transaction has taken too long. It is rolled back when its closure returns this error; what is returned as `Ok` all
/// the same is rolled back instead of committed.
///
/// It comes as Diesel's error: `Error::QueryBuilderError(error)`, where `error.downcast_ref::<TimedOut>()` finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimedOut {
    /// How long it may take.
    pub timeout: Duration,
    /// How long it has taken.
    pub taken: Duration,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [timeout, taken] = [self.timeout, self.taken].map(|time| time.as_secs_f64());
        write!(
            f,
            "the transaction has taken {taken:.3} s, and may take {timeout:.3} s (`TransactionTimeout`): nothing of it is \
             committed or emitted. Do what takes long before or after it, or give it more time in its first line: \
             `conn.transaction_timeout(Some(…))`"
        )
    }
}

impl std::error::Error for TimedOut {}

/// The time of a handle's outermost transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time {
    /// How long each may take.
    usual: Option<Duration>,
    /// How long the one may take that is open, or else the next.
    timeout: Option<Duration>,
    /// When it began.
    since: Option<Instant>,
}

impl Time {
    /// As the application says.
    pub(crate) fn of(emitter: &Emitter) -> Self {
        let usual = emitter.state::<TransactionTimeout>().map(|timeout| timeout.0);
        Self { usual, timeout: usual, since: None }
    }

    pub(crate) fn set(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    pub(crate) fn begun(&mut self) {
        self.since = Some(Instant::now());
    }

    pub(crate) fn ended(&mut self) {
        *self = Self { usual: self.usual, timeout: self.usual, since: None };
    }

    /// Whether it is over, and by how much.
    pub(crate) fn over(&self) -> Option<Error> {
        let (timeout, since) = (self.timeout?, self.since?);
        let taken = since.elapsed();
        (taken > timeout).then(|| Error::QueryBuilderError(Box::new(TimedOut { timeout, taken })))
    }
}
