//! What is queued, and who hands it to the listeners of its node.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emitter_core::receipt::Loss;
use emitter_core::testing::TestEmitter;
use emitter_core::transport::Ack;
use emitter_core::{Emits, Event, HandOut, QueueKeeper};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(create, queued)]
struct Order {
    id: i64,
}

/// Knows that somebody let go of it.
struct Thread(Arc<AtomicUsize>);

impl Drop for Thread {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn what_is_to_be_handed_on_from_its_row_is_handed_on_where_it_comes_into_none() {
    let node = TestEmitter::start(|builder| builder).await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let _ = node.on::<OrderCreated>().run(move |event: Event<OrderCreated>| {
        hears.lock().unwrap().push(event.row.id);
        std::future::ready(())
    });
    let dropped = Arc::new(AtomicUsize::new(0));
    let drops = Arc::clone(&dropped);
    let emitter = node.emitter();
    emitter.keep_queued(QueueKeeper {
        capacity: 10,
        bytes: 1 << 20,
        late: Duration::from_secs(10),
        hand_out: Box::new(move |_| {
            let thread = Thread(Arc::clone(&drops));
            HandOut::Later(Ack::new(move || drop(thread)))
        }),
        came: Box::new(|| {}),
    });
    for id in 1..=3 {
        emitter.publish(OrderCreated::new(Order { id }));
    }
    let waiting = emitter.queued(9);
    let [one, two, _] = &waiting[..] else { panic!("three wait") };
    assert!(one.is_handed_later());
    let outcomes = [Ok(()), Err(Loss::Unwritten { attempts: 3, error: "no".to_owned() })];
    emitter.settle_queued([one, two].map(Arc::clone).into_iter().zip(outcomes).collect());
    node.drain().await;
    assert_eq!(*heard.lock().unwrap(), [2], "nobody else hands them what is lost");
    assert_eq!(dropped.load(Ordering::SeqCst), 1, "of what is written");
}
