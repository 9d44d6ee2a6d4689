//! The thread of an inbox: looks after its tables at the start, and forgets old marks.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use diesel::result::QueryResult;
use emitter_core::{BeginCompanion, Emitter, WeakEmitter};
use tracing::warn;

use super::Desk;
use super::marks::{LONGEST_NAME, Marks};
use crate::companion;
use crate::outbox::{Attached, RelayConfig};
use crate::tables::Tables;

/// How many marks are forgotten at a time.
const MOST: usize = 1_000;

/// What lies between two of those times, for whoever works beside it.
const PAUSE: Duration = Duration::from_millis(50);

/// How long nobody looks for old marks when there were no more.
const REST: Duration = Duration::from_secs(600);

pub(super) fn thread(tables: Tables, marks: Marks, keep: Duration, desk: Arc<Desk>) -> BeginCompanion {
    let (end, ended) = mpsc::channel();
    let open = {
        let (tables, marks) = (tables.clone(), marks.clone());
        move |emitter: &WeakEmitter| {
            let emitter = emitter.upgrade().ok_or("its emitter is there no more")?;
            check_keep(keep, &emitter)?;
            check_names(&desk, &emitter)?;
            let (database, _) = tables.open()?;
            if database.dialect() != marks.dialect {
                return Err("its tables are in a database of another kind than its connections'".to_owned());
            }
            // Whoever was called before has waited for it.
            desk.open.send_replace(true);
            Ok(())
        }
    };
    let run = move |(), _| clear(&tables, &marks.clear(keep, MOST), &ended);
    // Dropped with its emitter, it ends the thread as well.
    companion::thread("emitter-inbox", open, run, move || drop::<mpsc::Sender<()>>(end))
}

/// How late an event may come again, and why; `None` where none does.
pub(crate) fn may_come_again(emitter: &Emitter) -> Option<(Duration, &'static str)> {
    let own = emitter.state::<Attached>().and_then(|attached| attached.keeps());
    let reasons = [
        (Some(RelayConfig::default().keep), "other nodes mend gaps from histories that go back so far"),
        (own, "this node's own history goes back so far, and others are mended from it"),
        (emitter.session_expiry(), "the broker keeps events so long for a node that is away"),
    ];
    reasons.into_iter().filter_map(|(floor, why)| Some((floor?, why))).max()
}

/// Refuses to forget what may come again.
fn check_keep(keep: Duration, emitter: &Emitter) -> Result<(), String> {
    match may_come_again(emitter) {
        Some((floor, why)) if keep < floor => Err(format!(
            "`keep` is {keep:?}, and events may come again after {floor:?}, for {why}: keep marks at least as long"
        )),
        _ => Ok(()),
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

/// Forgets old marks until somebody ends it.
fn clear(tables: &Tables, sql: &str, ended: &Receiver<()>) {
    let mut wait = Duration::ZERO;
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(wait) {
        if let Err(error) = clear_all(tables, sql, ended) {
            warn!("old marks of the inbox could not be cleared away: {error}");
        }
        wait = REST;
    }
}

/// Some at a time, until there are no more.
fn clear_all(tables: &Tables, sql: &str, ended: &Receiver<()>) -> QueryResult<()> {
    let mut database = tables.connected()?;
    while database.change(sql.to_owned())? == MOST {
        if ended.recv_timeout(PAUSE) != Err(RecvTimeoutError::Timeout) {
            break;
        }
    }
    Ok(())
}
