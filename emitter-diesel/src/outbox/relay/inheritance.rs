//! What a node left to its listeners: one that is there no more, and this one while the outbox was paused.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::result::QueryResult;
use emitter_core::record::{Progress, Standing};
use emitter_core::transport::Ack;
use emitter_core::{Emitter, EventId, ReplayError, Source};
use tracing::{error, info};

use super::{A_FEW, Relay, parcel};
use crate::outbox::handing::later;
use crate::outbox::store;
use crate::tables::{Pair, Queued};

/// How a row says that it goes to listeners of its service alone.
const LOCAL_ONLY: i32 = 2;

impl Relay {
    /// Takes over what nodes left to their listeners that are there no more: earlier lives of this one, and
    /// other nodes of its service.
    pub(super) fn inherit(
        &mut self,
        emitter: &Emitter,
        handlers: &[Pair],
        there: &[Pair],
    ) -> QueryResult<()> {
        let own = later(&self.handler);
        // Of others, what there are listeners for here: those others may come back.
        let heard = emitter.listeners().into_iter().filter(|listener| listener.hears.hears(Source::Local));
        let heard: Vec<String> = heard.map(|listener| listener.model.to_owned()).collect();
        for Pair { text: handler, .. } in handlers {
            let mut parts = handler.trim_end_matches('+').rsplitn(2, '/');
            let (Some(life), Some(node)) = (parts.next(), parts.next()) else { continue };
            let of_service = node.split('/').next() == Some(&self.service);
            let is_there = there.iter().any(|relay| relay.text == life) && node != self.node;
            if life == self.id || is_there || !of_service {
                continue;
            }
            let is_own = node == self.node;
            if !is_own && heard.is_empty() {
                continue;
            }
            let models = (!is_own).then_some(&*heard);
            let inherit = self.store.inherit(handler, &own, models, self.config.batch);
            let rows = self.database()?.change(inherit)?;
            if rows > 0 {
                info!(rows, from = %handler, "events that a node left to its listeners are taken over");
                // Some may be older than those that were there before.
                (self.inherits, self.inherited) = (true, 0);
            }
        }
        Ok(())
    }

    /// Finds rows that this very life wrote, and that its listeners never had: the outcome of their COMMIT was
    /// not known, or a queue was full.
    pub(super) fn find_strays(&mut self, handlers: &[Pair]) -> QueryResult<()> {
        let own = self.handler.clone();
        let (all, inherited) = (own.as_str(), later(&own));
        let mut seen = BTreeSet::new();
        if handlers.iter().any(|handler| handler.text == all) {
            // Behind as many as are in hand there may be some that are not.
            let rows = self.store.left(all, self.mailbox.in_hand() + self.config.batch);
            for Pair { text: event, number: id } in self.database()?.pairs(rows)? {
                let is_stray = |event: EventId| !self.mailbox.is_in_hand(event);
                if event.parse().is_ok_and(is_stray) && seen.len() < self.config.batch {
                    seen.insert(id);
                }
            }
        }
        let strays: Vec<i64> = self.stray.intersection(&seen).copied().collect();
        if !strays.is_empty() {
            let adopt = self.store.adopt(all, &inherited, &strays);
            self.database()?.change(adopt)?;
            seen.retain(|id| !strays.contains(id));
        }
        self.stray = seen;
        // What a queue had no room for, or whoever had it dropped.
        if handlers.iter().any(|handler| handler.text == inherited) || !strays.is_empty() {
            (self.inherits, self.inherited) = (true, 0);
        }
        Ok(())
    }

    /// Notes whether the outbox is paused: then listeners are handed nothing more.
    pub(super) fn rest(&mut self, is_paused: bool) {
        if is_paused {
            self.mailbox.door().shut();
        }
        self.is_paused = is_paused;
    }

    /// Has listeners handed at once again what is committed, if nothing is left that they are to be handed before. Where
    /// much is committed that takes until there is a moment in which nothing is.
    pub(super) fn open_door(&mut self) -> QueryResult<()> {
        /// How often it is looked.
        const REST: Duration = Duration::from_millis(50);
        // What was left by now, the tables tell.
        let Some(left) = self.mailbox.door().left().filter(|_| self.next_opening <= Instant::now()) else {
            return Ok(());
        };
        self.next_opening = Instant::now() + REST;
        let rows = self.store.left(&later(&self.handler), self.config.batch);
        let rows = self.database()?.pairs(rows)?;
        let is_in_hand = |event: EventId| self.mailbox.is_in_hand(event);
        if !rows.iter().all(|row| row.text.parse().is_ok_and(is_in_hand)) {
            // It was committed after later ones had been read.
            (self.inherits, self.inherited) = (true, 0);
        } else if rows.len() < self.config.batch && self.mailbox.door().open(left) {
            info!("listeners are handed at once again what is committed");
        }
        Ok(())
    }

    /// Hands rows that others left to the listeners of this node.
    pub(super) fn hand_on(&mut self, emitter: &Emitter) -> QueryResult<()> {
        let own = later(&self.handler);
        let most = self.config.batch.min(self.inherits_most);
        let rows = self.store.inherited(&own, self.inherited, most);
        let rows = self.database()?.queued(rows)?;
        self.inherits = rows.len() == most;
        let mut taken = 0;
        let is_early = self.began.elapsed() < self.config.orphan_after;
        let mut before = self.progress(emitter, &rows)?;
        for row in rows {
            let id = row.id;
            let published = row.handled_here != LOCAL_ONLY;
            let mailbox = Arc::clone(&self.mailbox);
            let handed = parcel(row).ok_or(None).and_then(|parcel| {
                if mailbox.is_in_hand(parcel.id) {
                    return Ok(());
                }
                let in_hand = mailbox.hand_out(parcel.id);
                let earlier = before.remove(&parcel.id).unwrap_or_default();
                let handled = Ack::new(move || in_hand.done());
                emitter.replay_record(&parcel, published, earlier, handled).map_err(Some)
            });
            let (terminal, problem) = match handed {
                Ok(()) => {
                    (self.inherited, taken) = (id, taken + 1);
                    continue;
                }
                // In a while, and then no more is read than there may be room for.
                Err(Some(ReplayError::QueueFull | ReplayError::ShutDown)) => {
                    (self.inherits, self.inherits_most) = (true, (2 * taken).max(A_FEW));
                    return Ok(());
                }
                // Its listener may be added in a moment.
                Err(Some(ReplayError::UnknownModel | ReplayError::Unheard)) if is_early => {
                    self.inherited = id;
                    continue;
                }
                Err(Some(error @ (ReplayError::UnknownModel | ReplayError::Unheard))) => {
                    (store::ORPHANED, error.to_string())
                }
                Err(Some(error)) => (store::UNREADABLE, error.to_string()),
                Err(None) => (store::UNREADABLE, "it is not as an outbox writes it".to_owned()),
            };
            error!(row = id, "a row of the outbox could not be handed to listeners: {problem}");
            let give_up = self.store.give_up(id, terminal, &problem);
            self.database()?.change(give_up)?;
            self.inherited = id;
        }
        self.inherits_most = 2 * most;
        Ok(())
    }

    /// How far the listeners of this node were with these, where something went wrong.
    fn progress(
        &mut self,
        emitter: &Emitter,
        rows: &[Queued],
    ) -> QueryResult<HashMap<EventId, Vec<Progress>>> {
        // What else somebody wrote in place of an id is found out later.
        let is_id = |row: &&Queued| row.event_id.parse::<EventId>().is_ok();
        let events: Vec<String> = rows.iter().filter(is_id).map(|row| row.event_id.clone()).collect();
        let mut all = HashMap::<EventId, Vec<Progress>>::new();
        if events.is_empty() {
            return Ok(all);
        }
        let listeners: BTreeSet<String> =
            emitter.listeners().into_iter().map(|listener| listener.name.into_owned()).collect();
        let listeners: Vec<String> = listeners.into_iter().collect();
        let accounts = self.store.accounts(&self.service, &events, &listeners);
        for row in self.database()?.ledger(accounts)? {
            let standing = match &*row.status {
                store::RETRYING => {
                    let delay = row.next_attempt.saturating_sub(row.now);
                    Standing::Retrying(Duration::from_millis(u64::try_from(delay).unwrap_or_default()))
                }
                store::HANDLED => Standing::Handled,
                store::FAILED => Standing::GivenUp,
                _ => continue,
            };
            let attempts = u32::try_from(row.attempts).unwrap_or_default();
            let progress = Progress { listener: row.listener.into(), attempts, standing, error: None };
            if let Ok(event) = row.event_id.parse() {
                all.entry(event).or_default().push(progress);
            }
        }
        Ok(all)
    }
}
