//! Settings that would not work as they were said.

use emitter_core::retry::Backoff;
use emitter_diesel::mirror::{Mirror, MirrorConfig};
use emitter_diesel::outbox::{QueueConfig, RelayConfig};
use emitter_diesel::requests::Attendant;

use super::databases::{Database as _, Sqlite};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_start_says_what_is_used_instead() {
    let turn = Log::turn().await;
    let log = turn.as_ref().unwrap();
    let server = Sqlite::start();
    let node = |relay, queue, mirror, lease| {
        let builder = builder(&MemoryBroker::new(), "shop", "a");
        builder
            .with(server.outbox().relay(relay).queue(queue))
            .with(Mirror::new(server.tables()).config(mirror))
            .with(Attendant::new(server.tables()).lease(lease))
    };
    let (relay, queue, mirror) = (RelayConfig::default(), QueueConfig::default(), MirrorConfig::default());
    let usual = node(relay, queue, mirror.clone(), 30 * SECOND);
    assert_eq!(log.of_start("WARN", usual).await, [""; 0]);

    let quick = Duration::from_millis(10);
    let endless = Backoff { cap: Duration::MAX, ..relay.backoff };
    let relay = RelayConfig { lease: quick, window: 0, max_attempts: 0, backoff: endless, ..relay };
    let queue = QueueConfig { attempts: 0, backoff: endless, ..queue };
    let mirror = MirrorConfig { lease: quick, linger: 2 * SECOND, batch: 20_000, ..mirror };
    let said = log.of_start("WARN", node(relay, queue, mirror, quick)).await;
    let expected = [
        "`lease` of the relay is 10ms: 1s is used instead, the least that works",
        "`window` of the relay is 0: 1 is used instead",
        "`max_attempts` of the relay is 0: 1 is used instead",
        "`backoff.cap` of the relay is 18446744073709551615.999999999s: 86400s is used instead, the most that works",
        "`attempts` of the queue of an outbox is 0: 1 is used instead",
        "`backoff.cap` of the queue of an outbox is 18446744073709551615.999999999s: 86400s is used instead",
        "`lease` of the mirror is 10ms: 1s is used instead",
        "`linger` of the mirror is 2s: 1s is used instead, the most that works",
        "`batch` of the mirror is 20000: 10000 is used instead",
        "`lease` of the attendant is 10ms: 2s is used instead",
    ];
    for expected in expected {
        assert!(said.iter().any(|said| said.contains(expected)), "{expected}: {said:#?}");
    }
    assert_eq!(said.len(), expected.len(), "{said:#?}");
}
