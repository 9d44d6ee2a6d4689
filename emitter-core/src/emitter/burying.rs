//! The task that takes dead letters to the broker and to whoever keeps them.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, warn};

use super::Emitter;
use crate::dead_letter::{Bucket, DeadLetter, DeadLetterLimits, Original, Reason};
use crate::dispatcher::Job;
use crate::event::{EventId, Origin, Timestamp};
use crate::metrics::{Counters, OnceInAWhile};
use crate::topic::Topics;
use crate::transport::{Ack, Message, Transport};

/// Keeps a letter: the application's.
pub(super) type Keeper = Arc<dyn Fn(Arc<DeadLetter>) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// How many letters may wait for the broker and their keeper.
const WAITING: usize = 1_024;

/// Takes letters in, from any thread, without waiting.
pub(super) struct DeadLetters {
    /// Of this node; letters carry it.
    origin: Arc<Origin>,
    limits: DeadLetterLimits,
    bucket: Mutex<Bucket>,
    kept: Mutex<Kept>,
    /// `None` once the node shuts down.
    queue: Mutex<Option<mpsc::Sender<Burial>>>,
    counters: Arc<Counters>,
    log: OnceInAWhile,
}

#[derive(Default)]
struct Kept {
    letters: VecDeque<Arc<DeadLetter>>,
    bytes: usize,
}

/// What waits for a letter to be where it goes.
pub(super) enum Held {
    Nothing,
    /// The acknowledgement of a message that is no event.
    Ack(Ack),
    /// A listener's part in the acknowledgement of an event.
    Job(Job),
}

impl Held {
    fn finish(self) {
        match self {
            Self::Nothing => {}
            Self::Ack(ack) => ack.done(),
            Self::Job(job) => job.finish(),
        }
    }
}

struct Burial {
    letter: Arc<DeadLetter>,
    held: Held,
}

impl DeadLetters {
    pub(super) fn new(
        origin: Arc<Origin>,
        limits: DeadLetterLimits,
        counters: Arc<Counters>,
    ) -> (Self, Undertaker) {
        let (queue, burials) = mpsc::channel(WAITING);
        let letters = Self {
            origin,
            limits,
            bucket: Mutex::new(Bucket::new(limits.per_second, limits.burst, Instant::now())),
            kept: Mutex::default(),
            queue: Mutex::new(Some(queue)),
            counters,
            log: OnceInAWhile::every(Duration::from_secs(10)),
        };
        (letters, Undertaker { burials })
    }

    /// Whether one more may become a dead letter; counted as lost where not.
    pub(super) fn may(&self) -> bool {
        let may = lock(&self.bucket).take(Instant::now());
        if !may {
            self.counters.dead_letters_lost.add_one();
            self.log
                .log(|more| error!(more, "more dead letters than `dead_letters` allows: some are forgotten"));
        }
        may
    }

    /// A letter about something that was never an event here.
    pub(super) fn letter(&self, reason: Reason, error: String, original: Original) -> DeadLetter {
        let Original { topic, payload, properties } = original;
        DeadLetter {
            id: EventId::now(),
            original_topic: topic,
            reason,
            error,
            listener: None,
            attempts: 0,
            event: None,
            time: Timestamp::now(),
            node: Arc::clone(&self.origin),
            payload,
            properties,
        }
    }

    /// Takes a letter in. What is held is let go when the letter is where it goes, or cannot get
    /// there.
    pub(super) fn put(&self, letter: DeadLetter, held: Held) {
        let letter = Arc::new(letter);
        self.counters.dead_letters.add_one();
        lock(&self.kept).keep(&letter, &self.limits);
        let queue = lock(&self.queue);
        let burial = Burial { letter, held };
        let refused = match &*queue {
            Some(queue) => queue.try_send(burial).err().map(mpsc::error::TrySendError::into_inner),
            None => Some(burial),
        };
        drop(queue);
        if let Some(burial) = refused {
            self.counters.dead_letters_lost.add_one();
            burial.held.finish();
        }
    }

    /// Nothing more is taken in.
    pub(super) fn close(&self) {
        lock(&self.queue).take();
    }

    fn kept(&self) -> Vec<Arc<DeadLetter>> {
        lock(&self.kept).letters.iter().cloned().collect()
    }
}

impl Kept {
    fn keep(&mut self, letter: &Arc<DeadLetter>, limits: &DeadLetterLimits) {
        self.bytes += letter.payload.len();
        self.letters.push_back(Arc::clone(letter));
        while self.letters.len() > limits.kept || self.bytes > limits.kept_bytes {
            let Some(oldest) = self.letters.pop_front() else { return };
            self.bytes -= oldest.payload.len();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Emitter {
    /// The last dead letters of this node, oldest first: as many as
    /// [`DeadLetterLimits`](crate::dead_letter::DeadLetterLimits) says.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<Arc<DeadLetter>> {
        self.node.shared.dead_letters.kept()
    }
}

/// The other end of [`DeadLetters`].
pub(super) struct Undertaker {
    burials: mpsc::Receiver<Burial>,
}

/// Where letters go.
pub(super) struct Graveyard {
    pub(super) transport: Option<Arc<dyn Transport>>,
    pub(super) keeper: Option<Keeper>,
    pub(super) topics: Topics,
    pub(super) max_bytes: usize,
    pub(super) counters: Arc<Counters>,
}

impl Undertaker {
    /// Works until no more letters come and the last one is where it goes.
    pub(super) async fn run(mut self, graveyard: Graveyard) {
        let graveyard = Arc::new(graveyard);
        let mut under_way = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = under_way.join_next() => {}
                burial = self.burials.recv(), if under_way.len() < 64 => match burial {
                    Some(burial) => drop(under_way.spawn(Arc::clone(&graveyard).bury(burial))),
                    None => break,
                },
            }
        }
        while under_way.join_next().await.is_some() {}
    }
}

impl Graveyard {
    async fn bury(self: Arc<Self>, burial: Burial) {
        let Burial { letter, held } = burial;
        let (published, kept) = tokio::join!(self.publish(&letter), self.keep(&letter));
        for problem in [published, kept].into_iter().filter_map(Result::err) {
            self.counters.dead_letters_lost.add_one();
            warn!(letter = %letter.id, topic = letter.original_topic, "a dead letter was not kept: {problem}");
        }
        held.finish();
    }

    async fn publish(&self, letter: &DeadLetter) -> Result<(), String> {
        let Some(transport) = &self.transport else { return Ok(()) };
        let topic = self.topics.dead_letters(&letter.original_topic);
        let message = Message::new(topic, letter.to_json(self.max_bytes));
        let confirmation = transport.publish(message).map_err(|error| error.to_string())?;
        confirmation.await.map(drop).map_err(|error| error.to_string())
    }

    async fn keep(&self, letter: &Arc<DeadLetter>) -> Result<(), String> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        let keep = async { keeper(Arc::clone(letter)).await };
        AssertUnwindSafe(keep).catch_unwind().await.unwrap_or_else(|_| Err("its keeper panicked".to_owned()))
    }
}
