//! A bounded queue from many threads to one task.
//!
//! The writer's side is a lock, a push and, when the task is asleep, a wake-up; the task takes
//! everything at once. It costs the writer about half of what a channel does, and its bound is
//! checked where the caller can still be told.
//!
//! Waking a sleeping thread costs the writer more than all the rest of an event (about 2 µs on
//! Linux). So a task that finds itself woken for every few events [lingers](Queue::poll_take)
//! instead of going to sleep: for a millisecond it is not woken, then it takes what has gathered.
//! An urgent item, one that a broker waits to be acknowledged, wakes it at any time.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// From this many events a millisecond on, the task gathers them instead of being woken for each.
const BUSY: u128 = 4;

/// How long it gathers. Timers of tokio tick once a millisecond.
const GATHER: Duration = Duration::from_millis(1);

/// How many spent items are left for the next writer to drop.
const HANDED_BACK: usize = 256;

pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    bound: usize,
    /// What the task has taken and not finished, as it reported last.
    taken: AtomicUsize,
}

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
    task: Task,
    /// An urgent item waits: the task does not gather any longer.
    urgent: bool,
    /// Items that the task is done with, for the next writer to drop. See [`Queue::poll_take`].
    spent: Vec<T>,
}

impl<T> State<T> {
    /// Leaves the last few of `spent` to the next writer.
    fn hand_back(&mut self, spent: &mut Vec<T>) {
        let room = HANDED_BACK.saturating_sub(self.spent.len());
        let from = spent.len().saturating_sub(room);
        self.spent.extend(spent.drain(from..));
    }
}

/// Drops items one by one. They hold users' rows, whose `Drop` may panic, and neither a writer nor
/// the task shall end for that.
pub(crate) fn drop_guarded<T>(items: impl IntoIterator<Item = T>) {
    for item in items {
        // The panic has been reported by the panic hook.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(item)));
    }
}

/// What the task does that takes.
enum Task {
    Works,
    /// Any item wakes it.
    Sleeps(Waker),
    /// Only an urgent item wakes it.
    Gathers(Waker),
}

/// Why an item was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Closed,
}

impl<T> Queue<T> {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                closed: false,
                task: Task::Works,
                urgent: false,
                spent: Vec::new(),
            }),
            bound,
            taken: AtomicUsize::new(0),
        }
    }

    /// Adds an item, unless the queue is at its bound.
    pub(crate) fn push(&self, item: T) -> Result<(), Refused> {
        self.offer(item).map_err(|(reason, _)| reason)
    }

    /// The same, and what is refused comes back.
    pub(crate) fn offer(&self, item: T) -> Result<(), (Refused, T)> {
        self.add(item, self.bound, false)
    }

    /// Adds an item whose number is bounded elsewhere, and that somebody waits for.
    pub(crate) fn push_urgent(&self, item: T) -> Result<(), Refused> {
        self.add(item, usize::MAX, true).map_err(|(reason, _)| reason)
    }

    fn add(&self, item: T, bound: usize, urgent: bool) -> Result<(), (Refused, T)> {
        let mut state = self.lock();
        if state.closed {
            return Err((Refused::Closed, item));
        }
        if state.items.len() >= bound {
            return Err((Refused::Full, item));
        }
        state.items.push_back(item);
        state.urgent |= urgent;
        // One for one: the allocator hands out again what it has just been given. All at once are
        // more than its cache per thread holds, and cost an insert into SQLite another 2 %.
        let spent = state.spent.pop();
        self.wake(state);
        drop_guarded(spent);
        Ok(())
    }

    /// Takes no more items, and wakes the task so that it sees that.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.urgent = true;
        self.wake(state);
    }

    /// Drops what nobody will take any more.
    pub(crate) fn clear(&self) {
        let items = std::mem::take(&mut self.lock().items);
        drop_guarded(items);
    }

    /// Wakes the task if it waits for what has just been added, without holding the lock.
    fn wake(&self, mut state: MutexGuard<'_, State<T>>) {
        let wakes = match &state.task {
            Task::Works => false,
            Task::Sleeps(_) => true,
            Task::Gathers(_) => state.urgent || state.items.len() >= self.bound / 2,
        };
        if !wakes {
            return;
        }
        let task = std::mem::replace(&mut state.task, Task::Works);
        drop(state);
        if let Task::Sleeps(waker) | Task::Gathers(waker) = task {
            waker.wake();
        }
    }

    /// Swaps what waits with `empty`, which is empty. Ready with `true` when the queue is closed
    /// and nothing more will come; pending, and the task is woken later, when nothing is there.
    ///
    /// `linger` belongs to the one task that takes.
    ///
    /// `spent` are items that the task is done with. A few of them are left to the next writer to
    /// drop, for memory is given back fastest where it was taken. (Across threads, glibc's
    /// allocator makes writers wait.) The rest it drops itself.
    pub(crate) fn poll_take(
        &self,
        linger: &mut Linger,
        empty: &mut VecDeque<T>,
        spent: &mut Vec<T>,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        let mut state = self.lock();
        let hurry = state.urgent || state.items.len() >= self.bound / 2;
        if !hurry && linger.poll(cx).is_pending() {
            state.task = Task::Gathers(cx.waker().clone());
            return Poll::Pending;
        }
        linger.timer = None;
        let polled = if state.items.is_empty() && !state.closed {
            if linger.is_busy() {
                linger.begin(cx);
                state.task = Task::Gathers(cx.waker().clone());
                state.hand_back(spent);
            } else {
                state.task = Task::Sleeps(cx.waker().clone());
                // Nobody may come for a long time.
                spent.append(&mut state.spent);
            }
            Poll::Pending
        } else {
            state.task = Task::Works;
            state.urgent = false;
            state.hand_back(spent);
            std::mem::swap(&mut state.items, empty);
            // Before the lock is given back, so that no item is missing from `unfinished` meanwhile.
            self.taken.fetch_add(empty.len(), Ordering::Relaxed);
            linger.took(empty.len());
            Poll::Ready(state.closed && empty.is_empty())
        };
        drop(state);
        drop_guarded(spent.drain(..));
        polled
    }

    /// The task says how many of the taken items it has not finished.
    pub(crate) fn report(&self, unfinished: usize) {
        self.taken.store(unfinished, Ordering::Relaxed);
    }

    /// Items that wait, and those that the task has not finished.
    pub(crate) fn unfinished(&self) -> usize {
        let state = self.lock();
        state.items.len() + self.taken.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the task that takes from a [`Queue`] sleeps until it is woken, or gathers for a while.
pub(crate) struct Linger {
    /// When the items in `taken` began to count.
    since: Instant,
    taken: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Linger {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), taken: 0, timer: None }
    }

    fn took(&mut self, items: usize) {
        self.taken += items;
    }

    /// Whether so many items came lately that waking for each would cost their writers too much.
    fn is_busy(&mut self) -> bool {
        let elapsed = self.since.elapsed();
        let period = elapsed.max(GATHER).as_nanos();
        let busy = self.taken as u128 * GATHER.as_nanos() >= BUSY * period;
        if busy || elapsed >= GATHER {
            (self.since, self.taken) = (Instant::now(), 0);
        }
        busy
    }

    /// Not to be woken by writers; the timer does that.
    fn begin(&mut self, cx: &mut Context<'_>) {
        let mut timer = Box::pin(sleep(GATHER));
        if timer.as_mut().poll(cx).is_pending() {
            self.timer = Some(timer);
        } else {
            cx.waker().wake_by_ref();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use proptest::prelude::*;
    use tokio::runtime::Builder;
    use tokio::time::timeout;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Push(usize),
        PushUnbounded,
        Take,
        Close,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (1..30_usize).prop_map(Step::Push),
            2 => Just(Step::PushUnbounded),
            8 => Just(Step::Take),
            1 => Just(Step::Close),
        ]
    }

    /// What the task gets within a second of quiet; `None` when it sleeps.
    async fn take<T>(queue: &Queue<T>, linger: &mut Linger) -> Option<(VecDeque<T>, bool)> {
        let mut batch = VecDeque::new();
        let taken = poll_fn(|cx| queue.poll_take(linger, &mut batch, &mut Vec::new(), cx));
        let ended = timeout(Duration::from_secs(1), taken).await.ok()?;
        Some((batch, ended))
    }

    /// Counts how often a task is woken.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl std::task::Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_gathering_task_is_woken_when_the_queue_is_half_full() {
        let (queue, mut linger, mut spent) = (Queue::new(64), Linger::new(), Vec::new());
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut poll = |batch: &mut VecDeque<usize>| {
            let polled = queue.poll_take(&mut linger, batch, &mut spent, &mut Context::from_waker(&waker));
            batch.clear();
            polled
        };
        (0..10).for_each(|item| queue.push(item).unwrap());
        assert!(poll(&mut VecDeque::new()).is_ready());
        assert!(poll(&mut VecDeque::new()).is_pending(), "so many came at once that it gathers");
        (0..31).for_each(|item| queue.push(item).unwrap());
        assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
        queue.push(31).unwrap();
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        assert!(poll(&mut VecDeque::new()).is_ready());
    }

    #[test]
    fn spent_items_do_not_pile_up() {
        let (queue, mut linger) = (Queue::new(10_000), Linger::new());
        let item = Arc::new(());
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..100 {
            let mut batch = VecDeque::new();
            (0..1_000).for_each(|_| queue.push(Arc::clone(&item)).unwrap());
            assert!(queue.poll_take(&mut linger, &mut batch, &mut Vec::new(), &mut cx).is_ready());
            let mut spent: Vec<_> = batch.into();
            queue.push(Arc::clone(&item)).unwrap();
            assert!(queue.poll_take(&mut linger, &mut VecDeque::new(), &mut spent, &mut cx).is_ready());
            assert!(spent.is_empty() && Arc::strong_count(&item) <= 2 + HANDED_BACK);
        }
    }

    proptest! {
        /// Against a list: everything in order, nothing beyond the bound, nothing after the close.
        #[test]
        fn agrees_with_a_plain_list(steps in prop::collection::vec(step(), 0..60), bound in 1..40_usize) {
            let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let (queue, mut linger) = (Queue::new(bound), Linger::new());
                let (mut naive, mut next, mut closed) = (VecDeque::new(), 0, false);
                for step in steps {
                    match step {
                        Step::Push(items) => for _ in 0..items {
                            let expected = match naive.len() {
                                _ if closed => Err(Refused::Closed),
                                len if len >= bound => Err(Refused::Full),
                                _ => Ok(()),
                            };
                            naive.extend(expected.is_ok().then_some(next));
                            prop_assert_eq!(queue.push(next), expected);
                            next += 1;
                        },
                        Step::PushUnbounded => {
                            let expected = if closed { Err(Refused::Closed) } else { Ok(()) };
                            naive.extend(expected.is_ok().then_some(next));
                            prop_assert_eq!(queue.push_urgent(next), expected);
                            next += 1;
                        }
                        Step::Take => {
                            let expected = (closed || !naive.is_empty()).then(|| {
                                let batch = std::mem::take(&mut naive);
                                let ended = closed && batch.is_empty();
                                (batch, ended)
                            });
                            prop_assert_eq!(take(&queue, &mut linger).await, expected);
                        }
                        Step::Close => {
                            queue.close();
                            closed = true;
                        }
                    }
                    queue.report(3);
                    prop_assert_eq!(queue.unfinished(), naive.len() + 3);
                }
                Ok(())
            })?;
        }
    }

    /// Writers on threads, some fast and some slow, so that the task both sleeps and lingers: a
    /// wake-up that is lost would leave it asleep before a full queue.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_up_is_lost() {
        const ITEMS: usize = 20_000;
        let queue = Arc::new(Queue::new(64));
        let writers: Vec<_> = (0..3_usize)
            .map(|writer| {
                let queue = Arc::clone(&queue);
                tokio::task::spawn_blocking(move || {
                    for item in 0..ITEMS {
                        while queue.push((writer, item)) == Err(Refused::Full) {
                            std::thread::yield_now();
                        }
                        if item % (500 * (writer + 1)) == 0 {
                            std::thread::sleep(Duration::from_micros(300));
                        }
                    }
                })
            })
            .collect();
        let taking = async {
            let (mut linger, mut batch, mut counts) = (Linger::new(), VecDeque::new(), [0; 3]);
            while !poll_fn(|cx| queue.poll_take(&mut linger, &mut batch, &mut Vec::new(), cx)).await {
                for (writer, item) in batch.drain(..) {
                    assert_eq!(item, counts[writer], "of writer {writer}");
                    counts[writer] += 1;
                }
            }
            counts
        };
        let writing = async {
            for writer in writers {
                writer.await.unwrap();
            }
            queue.close();
        };
        let both = async { tokio::join!(taking, writing) };
        let (counts, ()) = timeout(Duration::from_secs(60), both).await.expect("an end");
        assert_eq!(counts, [ITEMS; 3]);
    }

    #[tokio::test]
    async fn a_sleeping_task_is_woken_by_an_item_and_by_the_close() {
        let queue = Arc::new(Queue::new(1));
        let other = Arc::clone(&queue);
        let task = tokio::spawn(async move {
            let mut linger = Linger::new();
            [take(&other, &mut linger).await, take(&other, &mut linger).await]
        });
        tokio::task::yield_now().await;
        queue.push(1).unwrap();
        tokio::task::yield_now().await;
        queue.close();
        assert_eq!(task.await.unwrap(), [Some(([1].into(), false)), Some(([].into(), true))]);
    }
}
