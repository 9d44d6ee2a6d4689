//! What a node says of itself to everybody on the bus: who it is, and what it listens to.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use crate::event::{Operation, Timestamp};
use crate::listener::{Hears, ListenerInfo};
use crate::topic::Topics;
use crate::transport::mqtt::{Presence, Said};

/// A node that announces itself.
pub(super) struct Announced {
    service: String,
    node: String,
    incarnation: Uuid,
    since: Timestamp,
    said: Arc<Said>,
    /// One at a time: the last to look tells last.
    telling: Mutex<()>,
}

/// The longest announcement, in bytes: what is beyond is counted. Brokers keep it.
const MOST_BYTES: usize = 16 * 1024;

#[derive(Serialize)]
struct Document<'a> {
    service: &'a str,
    node: &'a str,
    incarnation: Uuid,
    status: &'a str,
    since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listeners: Option<&'a [Listener<'a>]>,
    /// How many there are beside those.
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<usize>,
}

#[derive(Serialize)]
struct Listener<'a> {
    name: &'a str,
    model: &'a str,
    /// All where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<Operation>,
    hears: Hears,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
}

impl Announced {
    pub(super) fn new(service: &str, node: &str, incarnation: Uuid) -> Self {
        let (service, node) = (service.to_owned(), node.to_owned());
        let (since, said, telling) = (Timestamp::now(), Arc::default(), Mutex::default());
        let announced = Self { service, node, incarnation, since, said, telling };
        announced.tell(&[]);
        announced
    }

    pub(super) fn presence(&self, topics: &Topics) -> Presence {
        let client = format!("{}.{}", self.service, self.node);
        Presence {
            topic: topics.own(&["_nodes", &client]),
            said: Arc::clone(&self.said),
            offline: self.document("offline", None, None),
            canary: topics.own(&["_canary", &client]),
        }
    }

    /// What `listeners` finds are its listeners now.
    pub(super) fn tell_now(&self, listeners: impl FnOnce() -> Vec<ListenerInfo>) {
        let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(&listeners());
    }

    fn tell(&self, listeners: &[ListenerInfo]) {
        let listener = |info: &ListenerInfo| info.name.len() + info.model.len() + 80;
        let (mut bytes, mut most) = (0, 0);
        for info in listeners {
            bytes += listener(info);
            most += usize::from(bytes <= MOST_BYTES);
        }
        let told = listeners.iter().take(most).map(|info| Listener {
            name: &info.name,
            model: info.model,
            operation: info.operation,
            hears: info.hears,
            group: info.group.as_deref(),
        });
        let told: Vec<Listener<'_>> = told.collect();
        let more = Some(listeners.len() - told.len()).filter(|more| *more > 0);
        self.said.set(self.document("online", Some(&told), more));
    }

    fn document(&self, status: &str, listeners: Option<&[Listener<'_>]>, more: Option<usize>) -> Bytes {
        let Self { service, node, incarnation, since, .. } = self;
        let since = (status == "online").then_some(*since);
        let document = Document { service, node, incarnation: *incarnation, status, since, listeners, more };
        // Of texts and numbers there is always JSON.
        Bytes::from(serde_json::to_vec(&document).unwrap_or_default())
    }
}
