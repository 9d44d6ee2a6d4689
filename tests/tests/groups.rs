//! Listeners of which one node of a service hears an event.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use emitter_core::testing::TestEmitter;
use emitter_core::transport::memory::MemoryBroker;
use emitter_core::{Emits, Event, Scope, Source, State, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, delete)]
struct Invoice {
    id: i64,
}

mod bills {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
    #[emits(create)]
    pub(super) struct Bill {
        id: i64,
    }
}

/// How often each event was heard by each listener of one node.
type Log = Arc<Mutex<Vec<(&'static str, Source, i64)>>>;

#[listener(model = "invoice", group = "billing")]
async fn bill(event: Event<InvoiceCreated>, log: State<Log>) {
    log.lock().unwrap().push(("bill", event.source(), event.row.id));
}

#[listener(model = "invoice", group = "post", where(id = |id| id % 2 == 0))]
async fn post(event: Event<InvoiceCreated>, log: State<Log>) {
    log.lock().unwrap().push(("post", event.source(), event.row.id));
}

#[listener(model = "invoice", allow_remote, every_instance)]
async fn note(event: Event<InvoiceCreated>, log: State<Log>) {
    log.lock().unwrap().push(("note", event.source(), event.row.id));
}

struct Nodes(Vec<(TestEmitter, Log)>);

impl Nodes {
    async fn start(broker: &MemoryBroker, names: &[(&'static str, &'static str)]) -> Self {
        let mut nodes = Vec::new();
        for (service, name) in names {
            let log = Log::default();
            let configure = |builder: emitter_core::Builder| {
                builder.service(*service).node(*name).state(Arc::clone(&log))
            };
            let node = TestEmitter::start_on(broker, configure).await;
            node.connected(std::time::Duration::from_secs(10)).await.unwrap();
            nodes.push((node, log));
        }
        Self(nodes)
    }

    fn publish(&self, node: usize, ids: impl Iterator<Item = i64>) {
        for id in ids {
            self.0[node].0.publish(InvoiceCreated::new(Invoice { id }));
        }
    }

    /// By listener and id: on which nodes it was heard, and as what.
    async fn heard(&self) -> BTreeMap<(&'static str, i64), Vec<(usize, Source)>> {
        for (node, _) in &self.0 {
            node.drain().await;
        }
        let mut heard: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (index, (node, log)) in self.0.iter().enumerate() {
            node.assert_listeners_succeeded();
            for (listener, source, id) in log.lock().unwrap().drain(..) {
                heard.entry((listener, id)).or_default().push((index, source));
            }
        }
        heard
    }
}

#[tokio::test]
async fn each_event_is_heard_by_one_node_of_the_group_whoever_wrote() {
    let broker = MemoryBroker::new();
    let nodes = Nodes::start(&broker, &[("shop", "a"), ("shop", "b"), ("shop", "c")]).await;
    nodes.publish(0, 0..100);
    nodes.publish(1, 100..200);
    let heard = nodes.heard().await;
    for id in 0..200 {
        let writer = usize::from(id >= 100);
        let source = |node: usize| if node == writer { Source::Local } else { Source::Remote };
        let [(billed, as_what)] = heard[&("bill", id)][..] else {
            panic!("{id}: {:?}", heard[&("bill", id)])
        };
        assert_eq!(as_what, source(billed));
        assert_eq!(heard.get(&("post", id)).map(Vec::len), (id % 2 == 0).then_some(1), "{id}");
        assert_eq!(heard[&("note", id)], [0, 1, 2].map(|node| (node, source(node))));
    }
    let shares = [0, 1, 2].map(|node| (0..200).filter(|id| heard[&("bill", *id)][0].0 == node).count());
    assert!(shares.iter().all(|share| *share > 20), "{shares:?}");
    assert_eq!(broker.subscriptions("shop.a:billing"), ["prisma/events/invoice/#"]);
}

#[tokio::test]
async fn a_group_belongs_to_its_service() {
    let broker = MemoryBroker::new();
    let nodes = Nodes::start(&broker, &[("shop", "a"), ("audit", "a")]).await;
    nodes.publish(0, 0..10);
    let heard = nodes.heard().await;
    assert!((0..10).all(|id| heard[&("bill", id)] == [(0, Source::Local), (1, Source::Remote)]), "{heard:?}");
}

#[tokio::test]
async fn what_stays_on_the_node_is_heard_by_its_own_member() {
    let broker = MemoryBroker::new();
    let nodes = Nodes::start(&broker, &[("shop", "a"), ("shop", "b")]).await;
    let created = InvoiceEvent::Created(InvoiceCreated::new(Invoice { id: 2 }));
    let emitter = nodes.0[1].0.emitter();
    emitter.emit(emitter.event::<Invoice>(created, Scope::LOCAL));
    let heard = nodes.heard().await;
    let own = vec![(1, Source::Local)];
    assert_eq!(heard, ["bill", "note", "post"].map(|listener| ((listener, 2), own.clone())).into());
}

#[tokio::test]
async fn without_a_transport_the_node_is_the_whole_group() {
    let log = Log::default();
    let emitter = emitter_core::Emitter::builder().state(Arc::clone(&log)).start().await.unwrap();
    emitter.publish(InvoiceCreated::new(Invoice { id: 2 }));
    assert!(emitter.shutdown(std::time::Duration::from_secs(10)).await.is_clean());
    let mut heard: Vec<_> = log.lock().unwrap().iter().map(|(listener, ..)| *listener).collect();
    heard.sort_unstable();
    assert_eq!(heard, ["bill", "note", "post"]);
}

#[tokio::test]
async fn a_group_may_come_and_go_at_run_time() {
    let broker = MemoryBroker::new();
    let nodes = Nodes::start(&broker, &[("shop", "a"), ("shop", "b")]).await;
    let log = Arc::new(Mutex::new(Vec::new()));
    let subscriptions = [0, 1].map(|node: usize| {
        let log = Arc::clone(&log);
        let run = move |event: Event<InvoiceDeleted>| {
            log.lock().unwrap().push((event.row.id, node));
            std::future::ready(())
        };
        nodes.0[node].0.on::<InvoiceDeleted>().group("archive").run(run)
    });
    for (node, _) in &nodes.0 {
        node.connected(std::time::Duration::from_secs(10)).await.unwrap();
    }
    for id in 0..50 {
        nodes.0[0].0.publish(InvoiceDeleted::new(Invoice { id }));
    }
    nodes.heard().await;
    let mut ids: Vec<i64> = log.lock().unwrap().iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..50));
    assert!([0, 1].iter().all(|node| log.lock().unwrap().iter().any(|(_, by)| by == node)));
    for subscription in subscriptions {
        subscription.unsubscribe();
    }
    for (node, _) in &nodes.0 {
        node.connected(std::time::Duration::from_secs(10)).await.unwrap();
    }
    emitter_tests::eventually::eventually(|| broker.subscriptions("shop.b:archive").is_empty()).await;
    let refused = nodes.0[0].0.on::<InvoiceDeleted>().group("a/b").run(async |_| ());
    assert!(!refused.is_active(), "a group's name cannot be a level of a topic");
}

/// A group's share of what the own node wrote is no different from that of others: it waits.
#[tokio::test]
async fn a_slow_member_drops_nothing_of_its_share() {
    let log = Log::default();
    let configure = |builder: emitter_core::Builder| {
        builder.listener_queue(8).listener_concurrency(1).state(Arc::clone(&log)).select_listeners(|_| false)
    };
    let node = TestEmitter::start(configure).await;
    let slow = Arc::clone(&log);
    let run = move |event: Event<InvoiceCreated>| {
        let log = Arc::clone(&slow);
        async move {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            log.lock().unwrap().push(("slow", event.source(), event.row.id));
        }
    };
    let subscription = node.on::<InvoiceCreated>().group("slow").remote_only().run(run);
    assert!(subscription.is_active());
    node.connected(std::time::Duration::from_secs(10)).await.unwrap();
    for id in 0..100 {
        node.publish(InvoiceCreated::new(Invoice { id }));
    }
    node.drain().await;
    assert_eq!((log.lock().unwrap().len(), node.stats().overflowed), (100, 0));
}

#[tokio::test]
async fn a_listener_that_a_later_life_lacks_takes_hardly_anything() {
    let broker = MemoryBroker::new();
    let nodes = Nodes::start(&broker, &[("shop", "a"), ("shop", "b")]).await;
    let _ = nodes.0[1].0.shutdown(std::time::Duration::from_secs(5)).await;
    // The same node, without the group's listener for invoices, but with one of its group.
    let configure = |builder: emitter_core::Builder| {
        builder.service("shop").node("b").select_listeners(|_| false).state(Log::default())
    };
    let later = TestEmitter::start_on(&broker, configure).await;
    let other = later.on::<bills::BillCreated>().group("billing").run(async |_| ());
    assert!(other.is_active());
    nodes.publish(0, 0..100);
    let bills = ["prisma/events/bill/#"];
    emitter_tests::eventually::eventually(|| broker.subscriptions("shop.b:billing") == bills).await;
    nodes.0[0].0.drain().await;
    nodes.0[0].1.lock().unwrap().clear();
    nodes.publish(0, 100..200);
    nodes.0[0].0.drain().await;
    let billed = nodes.0[0].1.lock().unwrap().iter().filter(|(listener, ..)| *listener == "bill").count();
    assert_eq!(billed, 100, "the other member has all of them now");
}

#[tokio::test]
async fn a_member_may_leave() {
    let broker = MemoryBroker::new();
    let nodes = Nodes::start(&broker, &[("shop", "a"), ("shop", "b")]).await;
    nodes.0[1].0.leave_groups(std::time::Duration::from_secs(10)).await;
    assert!(broker.subscriptions("shop.b:billing").is_empty());
    let _ = nodes.0[1].0.shutdown(std::time::Duration::from_secs(5)).await;
    nodes.publish(0, 0..50);
    nodes.0[0].0.drain().await;
    let billed = nodes.0[0].1.lock().unwrap().iter().filter(|(listener, ..)| *listener == "bill").count();
    assert_eq!(billed, 50);
}

#[test]
fn a_thread_without_a_runtime_may_add_a_member() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let node = runtime.block_on(TestEmitter::start(|builder| builder.state(Log::default())));
    let subscription = node.on::<InvoiceDeleted>().group("late").run(async |_| ());
    assert!(subscription.is_active());
}
