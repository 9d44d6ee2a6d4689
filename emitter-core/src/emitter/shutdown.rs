//! How a node ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::queueing::Unwritten;
use super::{Companion, Emitter, ModelState, Shared};
use crate::transport::Transport;

/// How long a node without a name of its own takes to leave its groups.
const LEAVING: Duration = Duration::from_secs(1);

/// The outcome of a shutdown, for everybody who waits for it.
pub(super) type Ending = watch::Receiver<Option<ShutdownReport>>;

impl Emitter {
    /// Ends this node: takes no more events from others, lets listeners finish, sends what is
    /// queued, disconnects, and stops every task, all within `deadline`. What was left undone
    /// then is in the report.
    ///
    /// It goes on to its end also when nobody waits for it any more. Called again, meanwhile or
    /// later, it gives the report of the first call.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        let mut ending = self.begin_shutdown(after(deadline));
        let left = match ending.wait_for(Option::is_some).await {
            Ok(report) => report.unwrap_or_default(),
            // The runtime has been dropped under it.
            Err(_) => self.node.shared.left_undone(0),
        };
        // Whoever exports what is counted is told the last of it, too.
        self.report();
        left
    }

    /// Takes this node out of its groups, so that all new events go to the other members: before a
    /// shutdown for good, when the node scales down. (Without it, its session at the broker goes on
    /// to take its share until it comes back, or until the session expires.) Waits until the broker
    /// has confirmed it, at most `within`; what had come by then is still handled.
    ///
    /// A node without a name of its own does this by itself when it is shut down.
    pub async fn leave_groups(&self, within: Duration) {
        self.node.shared.leave_groups(within).await;
    }

    fn begin_shutdown(&self, deadline: Instant) -> Ending {
        let mut tasks = self.node.tasks();
        if let Some(ending) = &tasks.ending {
            return ending.clone();
        }
        let (told, ending) = watch::channel(None);
        tasks.ending = Some(ending.clone());
        let shutdown = Shutdown {
            shared: Arc::clone(&self.node.shared),
            workers: std::mem::take(&mut tasks.workers),
            publishing: tasks.publishing.take(),
            burying: tasks.burying.take(),
            intakes: std::mem::take(&mut tasks.intakes).into_values().collect(),
            deadline,
        };
        let companions = std::mem::take(&mut tasks.companions);
        self.node.shared.runtime.spawn(async move {
            let report = shutdown.run(companions).await;
            told.send_replace(Some(report));
        });
        ending
    }
}

/// A moment so far from now; `Duration::MAX` is as good as never.
pub(super) fn after(duration: Duration) -> Instant {
    const THIRTY_YEARS: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    Instant::now() + duration.min(THIRTY_YEARS)
}

/// What a shutdown left undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct ShutdownReport {
    /// Events that listeners had not finished at the deadline. Those of other nodes were not
    /// acknowledged: the broker sends them again.
    pub unfinished: usize,
    /// Own events that no broker had confirmed at the deadline.
    pub unpublished: usize,
    /// Own events of which no outbox had said at the deadline that it has them. Other nodes may never hear them.
    pub unwritten: usize,
}

impl ShutdownReport {
    /// Whether nothing was left undone.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.unfinished == 0 && self.unpublished == 0 && self.unwritten == 0
    }
}

/// A shutdown in progress; it owns the node's tasks.
struct Shutdown {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
    publishing: Option<JoinHandle<()>>,
    burying: Option<JoinHandle<()>>,
    intakes: Vec<JoinHandle<()>>,
    deadline: Instant,
}

impl Shutdown {
    async fn run(mut self, companions: Vec<(&'static str, Companion)>) -> ShutdownReport {
        if self.shared.transient {
            let left = self.deadline.saturating_duration_since(Instant::now());
            self.shared.leave_groups(left.min(LEAVING)).await;
        }
        self.stop_intake().await;
        let models = self.shared.all_models();
        self.finish_listeners(&models).await;
        end_all(companions, self.most_of_the_time(), self.deadline).await;
        // Nobody writes anything down any more.
        let unwritten = self.shared.unwritten.get().map_or(0, Unwritten::close);
        self.shared.counters.queue_failed.add(unwritten as u64);
        self.stop_publishing().await;
        self.stop_burying().await;
        let unconfirmed = self.close_transport().await;
        self.close_groups().await;
        let report = ShutdownReport { unwritten, ..self.shared.left_undone(unconfirmed) };
        // Who asked what becomes of these is told.
        self.shared.to_publish.clear();
        // Listeners may hold this very emitter; let go of them.
        models.iter().for_each(|model| model.listeners().clear());
        let ShutdownReport { unfinished, unpublished, unwritten } = report;
        if report.is_clean() {
            info!(node = %self.shared.origin, "shut down");
        } else {
            warn!(node = %self.shared.origin, unfinished, unpublished, unwritten, "shut down with work left undone");
        }
        report
    }

    async fn stop_intake(&mut self) {
        for intake in self.intakes.drain(..) {
            intake.abort();
            // It ends as cancelled, which is what was asked for.
            let _ = intake.await;
        }
    }

    async fn finish_listeners(&mut self, models: &[Arc<ModelState>]) {
        models.iter().for_each(|model| model.queue.close());
        let all = async { while self.workers.join_next().await.is_some() {} };
        // What is late is counted in the report.
        let _ = timeout_at(self.deadline, all).await;
        self.workers.shutdown().await;
    }

    /// Dead letters that wait go where they go.
    async fn stop_burying(&mut self) {
        self.shared.dead_letters.close();
        if let Some(mut task) = self.burying.take()
            && timeout_at(self.deadline, &mut task).await.is_err()
        {
            task.abort();
            let _ = task.await;
        }
    }

    /// Nine tenths of the time that is left. What needs as long as it gets, because a broker is away or a database hangs, leaves the
    /// rest to what comes behind it: letters that it made, and acknowledgements.
    fn most_of_the_time(&self) -> Instant {
        let now = Instant::now();
        now + self.deadline.saturating_duration_since(now) * 9 / 10
    }

    /// Sends what is queued, and hears what becomes of it.
    async fn stop_publishing(&mut self) {
        self.shared.to_publish.close();
        let Some(mut task) = self.publishing.take() else { return };
        if timeout_at(self.most_of_the_time(), &mut task).await.is_err() {
            task.abort();
            let _ = task.await;
        }
    }

    /// How many messages the transport had to leave unconfirmed.
    async fn close_transport(&mut self) -> usize {
        let Some(transport) = &self.shared.transport else { return 0 };
        transport.close(self.deadline.saturating_duration_since(Instant::now())).await.messages
    }
}

/// Ends them together until a moment, but for those that wait for others: until a later one, should two wait for each other.
async fn end_all(companions: Vec<(&'static str, Companion)>, until: Instant, patience: Instant) {
    // Of each name, those that are closed when one has ended.
    let mut names = HashMap::<&str, Vec<watch::Receiver<()>>>::new();
    let ends = companions.into_iter().map(|(name, companion)| {
        let (ended, has_ended) = watch::channel(());
        names.entry(name).or_default().push(has_ended);
        (companion, ended)
    });
    let ends: Vec<_> = ends.collect();
    let ends = ends.into_iter().map(|(companion, ended)| {
        let before = companion.after.iter().filter_map(|name| names.get(name)).flatten();
        let before: Vec<watch::Receiver<()>> = before.cloned().collect();
        async move {
            // Nothing is ever sent: it is an error when the other one has ended.
            let before = before.into_iter().map(|mut before| async move { drop(before.changed().await) });
            let _ = timeout_at(patience, join_all(before)).await;
            (companion.end)(until).await;
            drop(ended);
        }
    });
    join_all(ends.collect::<Vec<_>>()).await;
}

impl Shutdown {
    /// Their last acknowledgements go out.
    async fn close_groups(&self) {
        let groups = std::mem::take(&mut *self.shared.groups());
        let left = self.deadline.saturating_duration_since(Instant::now());
        let all = groups.values().map(|group| group.close(left));
        join_all(all).await;
    }
}

impl Shared {
    async fn leave_groups(&self, within: Duration) {
        let groups = self.groups().clone();
        for model in self.all_models() {
            let filter = self.topics.model_filter(&model.topic);
            groups.values().for_each(|group| group.unsubscribe(&filter));
        }
        let deadline = after(within);
        let left = |group: &Arc<dyn Transport>| group.status().unsubscribing == 0;
        while !groups.values().all(left) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn left_undone(&self, unconfirmed: usize) -> ShutdownReport {
        let unfinished = self.all_models().iter().map(|model| model.queue.unfinished()).sum();
        let unwritten = self.unwritten.get().map_or(0, |unwritten| unwritten.status().waiting);
        ShutdownReport { unfinished, unpublished: unconfirmed + self.to_publish.unfinished(), unwritten }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::FutureExt;
    use tokio::time::sleep_until;

    use super::*;
    use crate::emitter::BeginCompanion;

    type Ends = Arc<Mutex<Vec<(&'static str, Duration)>>>;

    /// One that is done, or takes all the time that it gets.
    fn companion(
        name: &'static str,
        takes_all: bool,
        after: &'static [&'static str],
        ends: &Ends,
    ) -> BeginCompanion {
        let (ends, begun) = (Arc::clone(ends), Instant::now());
        let end = move |deadline| {
            async move {
                if takes_all {
                    sleep_until(deadline).await;
                }
                ends.lock().unwrap().push((name, begun.elapsed()));
            }
            .boxed()
        };
        Box::new(move |_| std::future::ready(Ok(Companion::new(end).after(after))).boxed())
    }

    #[tokio::test(start_paused = true)]
    async fn one_companion_that_takes_all_the_time_leaves_others_and_what_is_behind_them_some() {
        let ends = Ends::default();
        let mut builder = Emitter::builder();
        let all: [(_, _, &'static [&'static str]); 4] = [
            ("letters", false, &["outbox"]),
            ("capture", false, &["nobody"]),
            ("outbox", true, &["capture"]),
            ("mirror", false, &[]),
        ];
        for (name, takes_all, after) in all {
            builder = builder.companion(name, companion(name, takes_all, after, &ends));
        }
        let emitter = builder.start().await.unwrap();
        assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
        let second = Duration::from_secs(1);
        let ends: Vec<(&str, Duration)> =
            ends.lock().unwrap().iter().map(|(name, at)| (*name, *at)).collect();
        assert_eq!(
            ends.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["capture", "mirror", "outbox", "letters"]
        );
        assert!(ends[1].1 < second && ends[3].1 > 8 * second && ends[3].1 < 10 * second, "{ends:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn companions_that_wait_for_each_other_end_at_the_deadline() {
        let ends = Ends::default();
        let builder = Emitter::builder().companion("a", companion("a", false, &["b"], &ends));
        let builder = builder.companion("b", companion("b", false, &["a", "b"], &ends));
        let emitter = builder.start().await.unwrap();
        assert!(emitter.shutdown(Duration::from_secs(10)).await.is_clean());
        assert_eq!(ends.lock().unwrap().len(), 2);
    }
}
