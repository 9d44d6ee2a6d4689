//! Hears what nodes say of themselves, where somebody wants to know.

use std::sync::{Mutex, PoisonError};

use once_cell::sync::OnceCell;

use super::{Emitter, Shared};
use crate::announcement::{Announcement, Announcements};
use crate::topic::{Topic, TopicFilter, Topics};
use crate::transport::{Transport, TransportStatus};

/// The other nodes, as far as they were heard of.
pub(super) struct Nodes {
    /// Below which each has its topic.
    below: Topic,
    all: TopicFilter,
    watched: OnceCell<()>,
    heard: Mutex<Announcements>,
}

impl Nodes {
    pub(super) fn new(topics: &Topics) -> Self {
        let all = TopicFilter::of(&topics.own(&["_nodes", "+"]));
        Self { below: topics.own(&["_nodes", ""]), all, watched: OnceCell::new(), heard: Mutex::default() }
    }

    /// Takes what came on one of these topics, and returns whether it is an announcement; `None` of another topic.
    pub(super) fn take(&self, topic: &str, payload: &[u8], transport: &dyn Transport) -> Option<bool> {
        let name = topic.strip_prefix(self.below.as_str())?;
        if self.watched.get().is_none() {
            // A session remembers what an earlier life of this node watched.
            transport.unsubscribe(&self.all);
            return Some(Announcements::default().hear(name, payload));
        }
        Some(self.heard.lock().unwrap_or_else(PoisonError::into_inner).hear(name, payload))
    }
}

impl Shared {
    /// How many subscriptions beside those of models the broker is to confirm. One for looking at nodes that it refused does
    /// not count: it keeps nobody from hearing events.
    pub(super) fn own_subscriptions(&self, status: &TransportStatus) -> usize {
        let watching = self.nodes.watched.get().is_some();
        let is_refused =
            || status.refused_subscriptions.iter().any(|(filter, _)| *filter == *self.nodes.all.as_str());
        self.catching_up.subscriptions() + usize::from(watching && !is_refused())
    }
}

impl Emitter {
    /// Hears what nodes say of themselves, from now on: [`nodes`](Self::nodes) tells it. One more subscription, to
    /// `{prefix}/_nodes/+`. Without a transport it does nothing; the second time, too.
    pub fn watch_nodes(&self) {
        let shared = &self.node.shared;
        if let Some(transport) = &shared.transport {
            // Before anything of it comes.
            if shared.nodes.watched.set(()).is_ok() {
                transport.subscribe(shared.nodes.all.clone());
            }
        }
    }

    /// The nodes that announced themselves, this one among them, by service and name; those that are gone, too, where the
    /// broker still tells of them. None before [`watch_nodes`](Self::watch_nodes) was called and the broker has
    /// answered. 1,000 of them are kept, of 8 MiB in all; those that are gone make room.
    ///
    /// There are none, too, where the broker lets this node not read below `_nodes` (mosquitto says nothing then), and RabbitMQ tells
    /// of no node that was there before. A broker that forgets tells of nobody who went meanwhile.
    #[must_use]
    pub fn nodes(&self) -> Vec<Announcement> {
        self.node.shared.nodes.heard.lock().unwrap_or_else(PoisonError::into_inner).all()
    }
}
