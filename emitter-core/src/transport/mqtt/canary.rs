//! A message to oneself that tells whether what is published really arrives: a connection may stand, and
//! be answered, and yet lead nowhere.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{MissedTickBehavior, interval};

use super::driver::Side;
use super::publisher::Publisher;
use super::subscriber::Subscriber;
use crate::event::Timestamp;
use crate::topic::{Topic, TopicFilter};
use crate::transport::{Canary, Message, QoS};

/// What the last messages came to.
#[derive(Debug)]
pub(super) struct Canaries {
    pub(super) topic: Topic,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the last one, and when it was sent, while it is awaited.
    awaited: Option<(u64, Instant)>,
    sent: u64,
    told: Canary,
}

impl Canaries {
    pub(super) fn new(topic: Topic) -> Arc<Self> {
        Arc::new(Self { topic, state: Mutex::default() })
    }

    pub(super) fn told(&self) -> Canary {
        self.lock().told
    }

    /// One came back.
    pub(super) fn arrived(&self, payload: &[u8]) {
        let mut state = self.lock();
        let number = std::str::from_utf8(payload).ok().and_then(|text| text.parse::<u64>().ok());
        if let Some((_, sent)) = state.awaited.take_if(|(awaited, _)| Some(*awaited) == number) {
            state.told.round_trip = Some(sent.elapsed());
            state.told.came = Some(Timestamp::now());
            state.told.missed = 0;
        }
    }

    /// The payload of the next one. The one before is missed if it is still awaited.
    fn next(&self) -> Bytes {
        let mut state = self.lock();
        if state.awaited.is_some() {
            state.told.missed = state.told.missed.saturating_add(1);
        }
        state.sent += 1;
        state.awaited = Some((state.sent, Instant::now()));
        state.sent.to_string().into()
    }

    /// It could not be sent: nothing is known.
    fn unsent(&self) {
        self.lock().awaited = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends one so often while both connections stand and this node hears others, until they are closed.
pub(super) async fn keep_singing(
    canaries: Arc<Canaries>,
    publisher: Arc<Publisher>,
    subscriber: Arc<Subscriber>,
    every: Duration,
) {
    let filter = TopicFilter::of(&canaries.topic);
    // The first one soon: whoever waits for the health of a node that starts would wait long.
    let mut ticks = interval(every.min(Duration::from_secs(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None::<Instant>;
    loop {
        tokio::select! {
            () = publisher.link().closing() => return,
            _ = ticks.tick() => {}
        }
        let due = last.is_none_or(|last| last.elapsed() >= every);
        if !due || !publisher.link().status().connected || !subscriber.is_confirmed(&filter) {
            continue;
        }
        last = Some(Instant::now());
        let message = Message::new(canaries.topic.clone(), canaries.next());
        if !publisher.send_at_once(&Message { qos: QoS::AtMostOnce, ..message }) {
            canaries.unsent();
        }
    }
}
