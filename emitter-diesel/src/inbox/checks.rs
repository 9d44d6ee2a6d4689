//! What is looked at when a node with an inbox starts.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use emitter_core::{BeginCompanion, Emitter, WeakEmitter};

use super::marks::{LONGEST_NAME, Marks};
use super::{Desk, Inbox, InboxConnection, KEEP};
use crate::clearing::{Clearing, PORTION};
use crate::outbox::{Attached, RelayConfig};
use crate::tables::Tables;
use crate::{dead_letters, mirror};

/// How long nobody looks for old marks when there were no more.
const REST: Duration = Duration::from_secs(600);

/// Looks at all of it, and forgets old marks as long as the node runs.
pub(super) fn companion<C: InboxConnection>(
    tables: Tables,
    marks: Marks,
    keep: Option<Duration>,
    desk: Arc<Desk>,
) -> BeginCompanion {
    let open = move |emitter: &WeakEmitter, dialect, _| {
        let emitter = emitter.upgrade().ok_or("its emitter is there no more")?;
        let given = emitter.state::<Inbox<C>>();
        if !given.is_some_and(|inbox| Arc::ptr_eq(&inbox.desk, &desk)) {
            return Err(
                "its emitter was given another one for the same type of connection: give one".to_owned()
            );
        }
        let keep = long_enough(keep, &emitter, "keep marks")?;
        check_names(&desk, &emitter)?;
        if dialect != marks.dialect {
            return Err("its tables are in a database of another kind than its connections'".to_owned());
        }
        // Whoever was called before has waited for it.
        desk.open.send_replace(true);
        Ok(marks.clear(keep, PORTION))
    };
    let clearing = Clearing {
        part: "the inbox",
        thread: "emitter-inbox",
        rows: "marks of the inbox",
        rest: REST,
        cleared: Arc::default(),
    };
    clearing.companion(tables, open)
}

/// How late an event may come again, and why; `None` where none does.
fn may_come_again(emitter: &Emitter) -> Option<(Duration, &'static str)> {
    let own = emitter.state::<Attached>().and_then(|attached| attached.keeps());
    let letters = emitter.state::<dead_letters::Keeps>().map(|keeps| keeps.0);
    let mirror = emitter.state::<mirror::Attached>().map(|mirror| mirror.keeps());
    let reasons = [
        (Some(RelayConfig::default().keep), "other nodes mend gaps from histories that go back so far"),
        (own, "this node's own history goes back so far, and others are mended from it"),
        (emitter.session_expiry(), "the broker keeps events so long for a node that is away"),
        (letters, "dead letters are kept so long, and redriven"),
        (mirror, "this node's mirror has them for up to a day longer than its `keep`, and they are replayed"),
    ];
    reasons.into_iter().filter_map(|(floor, why)| Some((floor?, why))).max()
}

/// How long something is remembered of events: 31 days, or longer where they may come again so late. Refuses to forget what may
/// come again; `cure` says what to do then.
pub(crate) fn long_enough(keep: Option<Duration>, emitter: &Emitter, cure: &str) -> Result<Duration, String> {
    match (keep, may_come_again(emitter)) {
        (Some(keep), Some((floor, why))) if keep < floor => Err(format!(
            "`keep` is {keep:?}, and events may come again after {floor:?}, for {why}: {cure} at least as long"
        )),
        (Some(keep), _) => Ok(keep),
        (None, floor) => Ok(floor.map_or(KEEP, |(floor, _)| floor.max(KEEP))),
    }
}

/// A mark knows a listener by its name.
fn check_names(desk: &Desk, emitter: &Emitter) -> Result<(), String> {
    let all = emitter.listeners();
    for name in desk.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        if name.len() > LONGEST_NAME {
            return Err(format!(
                "the listener's name `{name}` is longer than {LONGEST_NAME} bytes: give it another with `name = \"…\"`"
            ));
        }
        let mut places =
            all.iter().filter(|info| info.name == *name).map(|info| (info.model, &info.defined_at));
        while let Some((model, one)) = places.next() {
            if let Some((_, other)) = places.clone().find(|(another, _)| *another == model) {
                return Err(format!(
                    "two listeners of `{model}` are called `{name}` ({one}, {other}), and marks know them by their names: \
                     give one another with `name = \"…\"`"
                ));
            }
        }
    }
    Ok(())
}
