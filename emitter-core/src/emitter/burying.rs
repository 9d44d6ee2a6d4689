//! The task that takes dead letters to the broker and to whoever keeps them.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{error, warn};

use super::{Emitter, Shared, parcel};
use crate::dead_letter::{Bucket, DeadLetter, DeadLetterLimits, MAX_ERROR_BYTES, Original, Reason};
use crate::dispatcher::{Entry, GivenUp, Job};
use crate::event::{EventId, Origin, Timestamp};
use crate::metrics::{Counters, OnceInAWhile};
use crate::topic::Topics;
use crate::transport::{Ack, Message, PublishError, Transport};

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
    /// How many there were, by model, where it is one's, and reason.
    counted: Mutex<Counted>,
    log: OnceInAWhile,
}

/// Dead letters by model and reason. Models are those of listeners, so they are as many as the program has.
pub(super) type Counted = BTreeMap<(Option<String>, &'static str), u64>;

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
    /// A listener's part in the acknowledgement of an event, and what is to be told of it.
    Job(Job, Entry),
}

impl Held {
    fn finish(self) {
        match self {
            Self::Nothing => {}
            Self::Ack(ack) => ack.done(),
            Self::Job(job, entry) => {
                job.note(|| entry);
                job.finish();
            }
        }
    }
}

struct Burial {
    letter: Arc<DeadLetter>,
    held: Held,
    /// Whether other nodes may hear of it.
    may_leave: bool,
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
            counted: Mutex::default(),
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
        let mut error = error;
        error.truncate(error.floor_char_boundary(MAX_ERROR_BYTES));
        DeadLetter {
            id: EventId::now(),
            original_topic: topic,
            reason,
            error,
            listener: None,
            attempts: 0,
            event: None,
            model: None,
            key: None,
            is_ordered: false,
            time: Timestamp::now(),
            node: Arc::clone(&self.origin),
            // Of its own: it may be a small part of a large message, and letters are kept.
            payload: Bytes::copy_from_slice(&payload),
            properties,
        }
    }

    /// Takes a letter in. What is held is let go when the letter is where it goes, or cannot get
    /// there. One that may not leave the node is kept, and not published.
    pub(super) fn put(&self, letter: DeadLetter, held: Held, may_leave: bool) {
        let letter = Arc::new(letter);
        *lock(&self.counted).entry((letter.model.clone(), letter.reason.as_str())).or_default() += 1;
        lock(&self.kept).keep(&letter, &self.limits);
        let queue = lock(&self.queue);
        let burial = Burial { letter, held, may_leave };
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

    /// How many there were.
    pub(super) fn counted(&self) -> MutexGuard<'_, Counted> {
        lock(&self.counted)
    }

    fn kept(&self) -> Vec<Arc<DeadLetter>> {
        lock(&self.kept).letters.iter().cloned().collect()
    }
}

impl Kept {
    fn keep(&mut self, letter: &Arc<DeadLetter>, limits: &DeadLetterLimits) {
        self.bytes += letter.size();
        self.letters.push_back(Arc::clone(letter));
        while self.letters.len() > limits.kept || self.bytes > limits.kept_bytes {
            let Some(oldest) = self.letters.pop_front() else { return };
            self.bytes -= oldest.size();
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
    pub(super) keepers: Vec<Keeper>,
    pub(super) topics: Topics,
    pub(super) max_bytes: usize,
    pub(super) counters: Arc<Counters>,
    pub(super) log: OnceInAWhile,
    /// The broker cannot bear letters.
    pub(super) silent: AtomicBool,
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
                    Some(burial) => {
                        // Keepers are handed letters in order, whichever of them is kept first.
                        let keeping = graveyard.keep(&burial.letter);
                        under_way.spawn(Arc::clone(&graveyard).bury(burial, keeping));
                    }
                    None => break,
                },
            }
        }
        while under_way.join_next().await.is_some() {}
    }
}

/// How long an acknowledgement waits for the broker to take the letter, and a keeper may take for one: else
/// a broker that takes no publishes, or a keeper that hangs, would end the intake of events.
const PATIENCE: Duration = Duration::from_secs(30);

impl Graveyard {
    async fn bury(self: Arc<Self>, burial: Burial, keeping: Vec<BoxFuture<'static, Result<(), String>>>) {
        let Burial { letter, held, may_leave } = burial;
        let publish = async { if may_leave { self.publish(&letter).await } else { Ok(()) } };
        let keeping = join_all(keeping.into_iter().map(|keep| timeout(PATIENCE, keep)));
        let (published, kept) = tokio::join!(timeout(PATIENCE, publish), keeping);
        for outcome in [published].into_iter().chain(kept) {
            let problem = match outcome {
                Ok(Ok(())) => continue,
                Ok(Err(problem)) => problem,
                Err(_) => format!("it took longer than {PATIENCE:?}"),
            };
            self.counters.dead_letters_lost.add_one();
            let topic: String = letter.original_topic.chars().take(200).collect();
            self.log
                .log(|more| warn!(letter = %letter.id, topic, more, "a dead letter was not kept: {problem}"));
        }
        held.finish();
    }

    async fn publish(&self, letter: &DeadLetter) -> Result<(), String> {
        let Some(transport) = self.transport.as_ref().filter(|_| !self.silent.load(Ordering::Relaxed)) else {
            return Ok(());
        };
        let topic = self.topics.dead_letters(&letter.original_topic);
        // What ended connections would do so within a letter, too.
        let unbearable = letter.reason == Reason::Unpublished && letter.attempts > 1;
        let most = if unbearable { 0 } else { self.max_bytes };
        let send = |most| {
            let message = Message::new(topic.clone(), letter.to_json(most));
            let confirmation = transport.publish(message);
            async { confirmation?.await.map(drop) }
        };
        let outcome = match send(most).await {
            Err(PublishError::TooLarge { .. }) => send(0).await,
            outcome => outcome,
        };
        if matches!(outcome, Err(PublishError::EndsConnections { .. }))
            && !self.silent.swap(true, Ordering::Relaxed)
        {
            error!(topic = %topic, "the broker ends the connection at a dead letter: none are published any more");
        }
        outcome.map_err(|error| error.to_string())
    }

    /// Hands a letter to all who keep it.
    fn keep(&self, letter: &Arc<DeadLetter>) -> Vec<BoxFuture<'static, Result<(), String>>> {
        let panicked = || Err("its keeper panicked".to_owned());
        let keep = |keeper: &Keeper| match catch_unwind(AssertUnwindSafe(|| keeper(Arc::clone(letter)))) {
            Ok(keeping) => {
                let kept = AssertUnwindSafe(keeping).catch_unwind();
                kept.map(move |kept| kept.unwrap_or_else(|_| panicked())).boxed()
            }
            Err(_) => std::future::ready(panicked()).boxed(),
        };
        self.keepers.iter().map(keep).collect()
    }
}

impl Shared {
    /// Makes a dead letter of an event that a listener did not handle.
    pub(super) fn bury(&self, given_up: GivenUp<'_>) {
        let GivenUp { job, entry } = given_up;
        if self.dead_letters.may() {
            let letter = self.letter(job, &entry);
            self.dead_letters.put(letter, Held::Job(job.share(), entry), job.may_leave());
        } else {
            job.note(|| entry);
        }
    }

    /// What a listener did not handle.
    pub(super) fn letter(&self, job: &Job, entry: &Entry) -> DeadLetter {
        let Entry { listener, attempts, error, .. } = entry;
        let original = match job.original() {
            // What came is told as it came, all of it shared.
            Some(Original { topic, payload, properties }) => {
                Original { topic: topic.clone(), payload: payload.clone(), properties: properties.clone() }
            }
            // Its `Serialize` may panic; the letter tells of it all the same.
            None => {
                catch_unwind(AssertUnwindSafe(|| parcel::original(self, job.event()))).unwrap_or_default()
            }
        };
        let meta = job.event().meta();
        DeadLetter {
            listener: Some(listener.info.name.to_string()),
            attempts: *attempts,
            event: Some(meta.id),
            model: Some(listener.info.model.to_owned()),
            key: match &*meta.keys {
                [key] => Some(key.to_string()),
                _ => None,
            },
            is_ordered: !listener.handler.is_unordered(),
            ..self.dead_letters.letter(Reason::Unhandled, error.clone().unwrap_or_default(), original)
        }
    }
}
