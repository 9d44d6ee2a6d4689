//! What nodes say of themselves on the bus, for whoever looks at them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A node, as it says itself on `{prefix}/_nodes/{service}.{node}`; once it is gone, as it had its broker say.
///
/// It is not signed: whoever may publish there may say anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Announcement {
    /// Its service.
    pub service: String,
    /// Its name.
    pub node: String,
    /// Which of its lives it is.
    pub incarnation: String,
    /// `online` or `offline`.
    pub status: String,
    /// Since when it is there, as `2026-11-21T00:42:25.735Z`.
    pub since: Option<String>,
    /// Its listeners; `None` of a node that is gone, or does not say.
    #[serde(default)]
    pub listeners: Option<Vec<AnnouncedListener>>,
    /// How many listeners there are beside those.
    #[serde(default)]
    pub more: u64,
}

/// A listener, as its node announces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AnnouncedListener {
    /// Its name.
    pub name: String,
    /// The model it listens to.
    pub model: String,
    /// The operation; all where it is none.
    #[serde(default)]
    pub operation: Option<String>,
    /// Whose events: `local`, `remote` or `everything`.
    pub hears: String,
    /// Its group, if it shares its events with others.
    #[serde(default)]
    pub group: Option<String>,
}

impl Announcement {
    /// The longest that is read, in bytes. Nodes say 16 KiB of their listeners.
    pub const MAX_BYTES: usize = 64 * 1024;

    /// Reads one; `None` where it is none, or too long.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        if payload.len() > Self::MAX_BYTES {
            return None;
        }
        serde_json::from_slice(payload).ok()
    }

    /// Whether the node is there, as far as its broker knows.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.status == "online"
    }
}

/// The last announcement of each node, by its topic's last level: of [`MOST_NODES`](Self::MOST_NODES), and of
/// [`MOST_BYTES`](Self::MOST_BYTES) of memory.
#[derive(Debug, Default)]
pub struct Announcements {
    nodes: BTreeMap<String, Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    announcement: Announcement,
    bytes: usize,
}

impl Announcements {
    /// How many nodes are kept.
    pub const MOST_NODES: usize = 1_000;

    /// How many bytes of memory they take together, about.
    pub const MOST_BYTES: usize = 8 * 1024 * 1024;

    /// Takes what was said on the topic with this last level, and returns whether that is an announcement: of the node whose topic
    /// it is. One that is gone makes room for one that is there; what has no room is not kept, and the node's last
    /// one stays.
    pub fn hear(&mut self, name: &str, payload: &[u8]) -> bool {
        let said = Announcement::read(payload);
        // A broker lets a service say what its access list says: by the topic, and not by the text.
        let said = said.filter(|said| {
            name.strip_prefix(&*said.service).and_then(|rest| rest.strip_prefix('.')) == Some(&*said.node)
        });
        let Some(announcement) = said else {
            // A message without a text takes back what was kept.
            if payload.is_empty() {
                self.forget(name);
            }
            return payload.is_empty();
        };
        // As it is in memory, where a listener is more than its JSON may be.
        let listeners = announcement.listeners.as_ref().map_or(0, Vec::capacity);
        let bytes = payload.len() + size_of::<Kept>() + listeners * size_of::<AnnouncedListener>();
        loop {
            let before = self.nodes.get(name).map(|kept| kept.bytes);
            let others =
                (self.nodes.len() - usize::from(before.is_some()), self.bytes - before.unwrap_or_default());
            if others.0 < Self::MOST_NODES && others.1 + bytes <= Self::MOST_BYTES {
                break;
            }
            let is_gone = |(other, kept): &(&String, &Kept)| *other != name && !kept.announcement.is_online();
            let Some(gone) = self.nodes.iter().find(is_gone).map(|(name, _)| name.clone()) else {
                return true;
            };
            self.forget(&gone);
        }
        self.forget(name);
        self.bytes += bytes;
        self.nodes.insert(name.to_owned(), Kept { announcement, bytes });
        true
    }

    fn forget(&mut self, name: &str) {
        if let Some(kept) = self.nodes.remove(name) {
            self.bytes -= kept.bytes;
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All of them, by service and node.
    #[must_use]
    pub fn all(&self) -> Vec<Announcement> {
        let mut all: Vec<_> = self.nodes.values().map(|kept| kept.announcement.clone()).collect();
        all.sort_unstable_by(|a, b| (&a.service, &a.node).cmp(&(&b.service, &b.node)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(service: &str, node: &str, status: &str, listeners: usize) -> String {
        let listener = serde_json::json!({"name": "x".repeat(100), "model": "user", "hears": "remote"});
        serde_json::json!({
            "service": service, "node": node, "incarnation": "i", "status": status, "since": null,
            "listeners": vec![listener; listeners],
        })
        .to_string()
    }

    fn names(heard: &Announcements) -> Vec<String> {
        heard
            .all()
            .into_iter()
            .map(|said| format!("{}/{} {}", said.service, said.node, said.status))
            .collect()
    }

    #[test]
    fn the_last_word_of_each_counts() {
        let mut heard = Announcements::default();
        heard.hear("shop.b", said("shop", "b", "online", 2).as_bytes());
        heard.hear("shop.a", said("shop", "a", "online", 0).as_bytes());
        heard.hear("a.b.c", said("a.b", "c", "online", 0).as_bytes());
        heard.hear("shop.b", said("shop", "b", "offline", 0).as_bytes());
        assert_eq!(names(&heard), ["a.b/c online", "shop/a online", "shop/b offline"]);
        heard.hear("shop.b", b"");
        assert_eq!(names(&heard), ["a.b/c online", "shop/a online"]);
        heard.hear("shop.a", b"");
        heard.hear("a.b.c", b"");
        assert_eq!((names(&heard).len(), heard.bytes), (0, 0));
    }

    #[test]
    fn what_is_none_changes_nothing() {
        let mut heard = Announcements::default();
        heard.hear("shop.a", said("shop", "a", "online", 0).as_bytes());
        let of_another = said("bank", "a", "offline", 0);
        let large = said("shop", "a", "offline", Announcement::MAX_BYTES / 100);
        for none in [&b"{}"[..], b"[1]", b"\xff", of_another.as_bytes(), large.as_bytes()] {
            assert!(!heard.hear("shop.a", none));
        }
        assert!(!heard.hear("shop", said("shop", "", "online", 0).as_bytes()));
        assert_eq!(names(&heard), ["shop/a online"]);
    }

    #[test]
    fn as_many_are_kept_as_there_is_room_for() {
        let mut heard = Announcements::default();
        for number in 0..Announcements::MOST_NODES + 10 {
            let node = format!("{number:05}");
            heard.hear(&format!("shop.{node}"), said("shop", &node, "online", 0).as_bytes());
        }
        assert_eq!(heard.all().len(), Announcements::MOST_NODES);
        // Who is there already may change, and who is gone makes room.
        heard.hear("shop.00007", said("shop", "00007", "offline", 0).as_bytes());
        heard.hear("shop.new", said("shop", "new", "online", 0).as_bytes());
        let names = names(&heard);
        assert!(names.len() == Announcements::MOST_NODES && names.contains(&"shop/new online".to_owned()));
        assert!(!names.iter().any(|name| name.contains("00007")));
        // So it is with their bytes.
        let mut heard = Announcements::default();
        heard.hear("shop.small", said("shop", "small", "online", 1).as_bytes());
        for number in 0..200 {
            let node = format!("{number:05}");
            heard.hear(&format!("shop.{node}"), said("shop", &node, "online", 400).as_bytes());
        }
        let bytes: usize = heard.nodes.values().map(|kept| kept.bytes).sum();
        assert_eq!(heard.bytes, bytes);
        assert!(bytes <= Announcements::MOST_BYTES && heard.nodes.len() > 50 && heard.nodes.len() < 200);
        // What has no room is not known, but that a node goes is.
        let small = |heard: &Announcements| {
            let small = heard.all().into_iter().find(|said| said.node == "small").unwrap();
            (small.status.clone(), small.listeners.map(|all| all.len()))
        };
        assert!(heard.hear("shop.small", said("shop", "small", "online", 400).as_bytes()));
        assert_eq!(small(&heard), ("online".to_owned(), Some(1)));
        heard.hear("shop.small", said("shop", "small", "offline", 0).as_bytes());
        assert_eq!(small(&heard), ("offline".to_owned(), Some(0)));
    }
}
