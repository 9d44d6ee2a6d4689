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
        serde_json::from_slice(payload).ok().filter(|_| payload.len() <= Self::MAX_BYTES)
    }

    /// Whether the node is there, as far as its broker knows.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.status == "online"
    }
}

/// The announcements that a node keeps, and their bytes.
pub(crate) const MOST_NODES: usize = 1_000;
pub(crate) const MOST_BYTES: usize = 4 * 1024 * 1024;

/// The last announcement of each node, by its topic's last level.
#[derive(Debug, Default)]
pub(crate) struct Announcements {
    nodes: BTreeMap<String, Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    announcement: Announcement,
    bytes: usize,
}

impl Announcements {
    /// Takes what was said on the topic with this last level, and returns whether that is an announcement. One that is gone
    /// makes room for one that is there; what has no room is not kept.
    pub(crate) fn hear(&mut self, name: &str, payload: &[u8]) -> bool {
        let said = Announcement::read(payload);
        // A broker lets a service say what its access list says: by the topic, and not by the text.
        let said = said.filter(|said| {
            name.strip_prefix(&*said.service).and_then(|rest| rest.strip_prefix('.')) == Some(&*said.node)
        });
        // A message without a text takes back what was kept.
        if said.is_some() || payload.is_empty() {
            self.forget(name);
        }
        let Some(announcement) = said else { return payload.is_empty() };
        let bytes = payload.len();
        while self.nodes.len() >= MOST_NODES || self.bytes + bytes > MOST_BYTES {
            let gone = self.nodes.iter().find(|(_, kept)| !kept.announcement.is_online());
            let Some(gone) = gone.map(|(name, _)| name.clone()) else { return true };
            self.forget(&gone);
        }
        self.bytes += bytes;
        self.nodes.insert(name.to_owned(), Kept { announcement, bytes });
        true
    }

    fn forget(&mut self, name: &str) {
        if let Some(kept) = self.nodes.remove(name) {
            self.bytes -= kept.bytes;
        }
    }

    /// All of them, by service and node.
    pub(crate) fn all(&self) -> Vec<Announcement> {
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
        for number in 0..MOST_NODES + 10 {
            let node = format!("{number:05}");
            heard.hear(&format!("shop.{node}"), said("shop", &node, "online", 0).as_bytes());
        }
        assert_eq!(heard.all().len(), MOST_NODES);
        // Who is there already may change, and who is gone makes room.
        heard.hear("shop.00007", said("shop", "00007", "offline", 0).as_bytes());
        heard.hear("shop.new", said("shop", "new", "online", 0).as_bytes());
        let names = names(&heard);
        assert!(names.len() == MOST_NODES && names.contains(&"shop/new online".to_owned()));
        assert!(!names.iter().any(|name| name.contains("00007")));
        // So it is with their bytes.
        let mut heard = Announcements::default();
        for number in 0..200 {
            let node = format!("{number:05}");
            heard.hear(&format!("shop.{node}"), said("shop", &node, "online", 400).as_bytes());
        }
        let bytes: usize = heard.nodes.values().map(|kept| kept.bytes).sum();
        assert_eq!(heard.bytes, bytes);
        assert!(bytes <= MOST_BYTES && heard.nodes.len() > 50 && heard.nodes.len() < 200);
    }
}
