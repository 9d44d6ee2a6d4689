//! The broker in memory under the contract: how the implementation of a [`Broker`] looks.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Bounds, Broker, Inability};
use crate::transport::Transport;
use crate::transport::memory::MemoryBroker;

/// Its restart is one that keeps all sessions: [`pause`](MemoryBroker::pause) and
/// [`resume`](MemoryBroker::resume).
impl Broker for MemoryBroker {
    fn connect<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Arc<dyn Transport>> {
        let transport: Arc<dyn Transport> = Arc::new(MemoryBroker::connect(self, client));
        Box::pin(async { transport })
    }

    fn cut<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Result<(), String>> {
        self.disconnect(client);
        self.reconnect(client);
        Box::pin(async { Ok(()) })
    }

    fn restart(&self) -> BoxFuture<'_, Result<(), String>> {
        self.pause();
        Box::pin(async {
            // So that the clients notice.
            tokio::task::yield_now().await;
            self.resume();
            Ok(())
        })
    }

    fn bounds(&self) -> Bounds {
        Bounds { publishes: 100, deliveries: 100, too_large: 8 << 20 }
    }

    fn inabilities(&self) -> &[Inability] {
        &[
            Inability {
                case: "refusal",
                reason: "It has no access control.",
                shows: "the forbidden message was confirmed",
                always: true,
            },
            Inability {
                case: "oversize",
                reason: "Messages are passed on as pointers; no size is too large.",
                shows: "the message that is too large was confirmed",
                always: true,
            },
        ]
    }
}
